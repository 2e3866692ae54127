//! Users who are bound to a directory. Their sessions see it as the root of everything: it has the number 1 to them, and
//! nothing outside of it is there.
//!
//! - Inward: [`inodes`] is the table of what each request names. Each of these numbers is translated and checked, in the
//!   command that does the request, so that nothing can move in between. What is outside is answered as what is gone.
//! - Outward: [`outward`] makes the directory's number 1. What a reply tells of is inside, since what was asked about is.
//!
//! What must hold of a request of such a session that names an inode: the inode is the directory or has a name below it, or has no name
//! any more and is held open by this session. A file with names inside and outside is inside, for as long as it has a name there.
//!
//! Requests that only give back what the session has are not refused ([`gives_back`]). A session that comes back bound to another
//! directory is another session.

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{InodeNo, SessionId};
use dfs_proto::pb::{self, mount_down, mount_reply::Result as Reply, mount_request::Op};

use super::State;
use super::id_map::IdMap;
use super::inode::Body;
use super::out::{Out, Res, fail};
use super::session::Session;

/// The numbers of inodes in a request. A new request does not compile before it has its line here.
fn inodes(op: &mut Op) -> [Option<&mut u64>; 2] {
    match op {
        Op::Lookup(op) => [Some(&mut op.parent), None],
        Op::Getattr(op) => [Some(&mut op.inode), None],
        Op::Setattr(op) => [Some(&mut op.inode), None],
        Op::Create(op) => [Some(&mut op.parent), None],
        Op::Mknod(op) => [Some(&mut op.parent), None],
        Op::Mkdir(op) => [Some(&mut op.parent), None],
        Op::Symlink(op) => [Some(&mut op.parent), None],
        Op::Link(op) => [Some(&mut op.inode), Some(&mut op.parent)],
        Op::Unlink(op) => [Some(&mut op.parent), None],
        Op::Rmdir(op) => [Some(&mut op.parent), None],
        Op::Rename(op) => [Some(&mut op.parent), Some(&mut op.new_parent)],
        Op::Readlink(op) => [Some(&mut op.inode), None],
        Op::Readdir(op) => [Some(&mut op.inode), None],
        Op::Open(op) => [Some(&mut op.inode), None],
        Op::Release(op) => [Some(&mut op.inode), None],
        Op::Layout(op) => [Some(&mut op.inode), None],
        Op::Alloc(op) => [Some(&mut op.inode), None],
        Op::AbortUpload(op) => [Some(&mut op.inode), None],
        Op::Fsync(op) => [Some(&mut op.inode), None],
        Op::Statfs(op) => [Some(&mut op.inode), None],
        Op::Getxattr(op) => [Some(&mut op.inode), None],
        Op::Setxattr(op) => [Some(&mut op.inode), None],
        Op::Listxattr(op) => [Some(&mut op.inode), None],
        Op::Removexattr(op) => [Some(&mut op.inode), None],
        Op::Fallocate(op) => [Some(&mut op.inode), None],
        Op::CopyRange(op) => [Some(&mut op.source), Some(&mut op.target)],
        Op::GetLock(op) => [op.lock.as_mut().map(|lock| &mut lock.inode), None],
        Op::SetLock(op) => [op.lock.as_mut().map(|lock| &mut lock.inode), None],
        Op::TouchAtime(op) => [Some(&mut op.inode), None],
        Op::Locate(op) => [Some(&mut op.inode), None],
        Op::SetDigest(op) => [Some(&mut op.inode), None],
        // A request of the same session; nothing; a chunk, of which a copy is verified, and nothing answered.
        Op::CancelLock(_) | Op::Barrier(_) | Op::ReportBad(_) => [None, None],
    }
}

/// Does it do no more than to give back what the session itself has? Then it may name what has left the directory since.
fn gives_back(op: &Op) -> bool {
    match op {
        Op::Release(_) | Op::AbortUpload(_) => true,
        Op::SetLock(op) => op.lock.is_some_and(|lock| lock.mode == pb::LockMode::Unlock as i32),
        _ => false,
    }
}

fn inward(number: &mut u64, root: InodeNo) {
    if *number == InodeNo::ROOT.0 {
        *number = root.0;
    }
}

fn outside(inode: InodeNo) -> DfsError {
    // Word for word what is said of one that is gone.
    DfsError::new(ErrorCode::Stale, format!("inode {inode} is gone: its last name was removed"))
}

impl State {
    /// The directory that a session's user is bound to, or the cluster's root.
    fn root_of(&self, session: SessionId) -> InodeNo {
        self.sessions.get(&session).map_or(InodeNo::ROOT, |session| session.root)
    }

    /// May this session name the inode?
    fn is_inside(&self, by: SessionId, inode: InodeNo, root: InodeNo) -> bool {
        let held = || self.sessions.get(&by).is_some_and(|session| session.opens.contains_key(&inode));
        self.is_below(inode, root) || self.inodes.get(&inode).is_some_and(|node| node.nlink == 0) && held()
    }

    /// Makes of a request's numbers those of the cluster.
    ///
    /// # Errors
    /// `Stale`: it names something outside of what the session sees.
    pub(super) fn take_in(&self, by: SessionId, op: &mut Op) -> Res<()> {
        let root = self.root_of(by);
        if root == InodeNo::ROOT {
            return Ok(());
        }
        if let Op::Statfs(op) = op
            && op.inode == 0
        {
            op.inode = root.0;
        }
        let free = gives_back(op);
        for number in inodes(op).into_iter().flatten() {
            inward(number, root);
            if !free && !self.is_inside(by, InodeNo(*number), root) {
                return Err(outside(InodeNo(*number)));
            }
        }
        Ok(())
    }

    /// Nothing of what is above the directory leaves with a reply.
    pub(super) fn seal(&self, by: SessionId, op: &Op, reply: &mut Res<Reply>) {
        let root = self.root_of(by);
        if let (Op::Readdir(op), Ok(Reply::Entries(entries))) = (op, reply)
            && root != InodeNo::ROOT
            && op.inode == root.0
        {
            entries.parent = root.0;
        }
    }

    /// The same for a hello. What it names and may not is left out, and its locks are lost.
    pub(super) fn take_in_hello(
        &self,
        id: SessionId,
        root: InodeNo,
        hello: &mut pb::MountHello,
    ) -> Vec<pb::FileLock> {
        if root == InodeNo::ROOT {
            return Vec::new();
        }
        let is_inside = |number: &mut u64| {
            inward(number, root);
            self.is_inside(id, InodeNo(*number), root)
        };
        hello.open_inodes.retain_mut(is_inside);
        let mut lost = hello.held_locks.clone();
        lost.retain_mut(|lock| !is_inside(&mut lock.inode));
        hello.held_locks.retain_mut(|lock| is_inside(&mut lock.inode));
        lost
    }

    /// What a session is told of somebody's change. `None`: nothing. Names are told of directories inside alone.
    pub(super) fn noticed(
        &self,
        root: InodeNo,
        was_told: bool,
        change: &pb::Invalidate,
    ) -> Option<pb::Invalidate> {
        let inode = if change.parent == 0 { change.inode } else { change.parent };
        match self.is_below(InodeNo(inode), root) {
            true => Some(change.clone()),
            // It saw it once, and may have cached what it saw, and how to read it.
            false => was_told.then(|| pb::Invalidate { inode, content: true, ..pb::Invalidate::default() }),
        }
    }

    /// A directory was moved. Those who saw it and what is below it, and see it no more, cannot be told of all that at once: they
    /// lose their streams, and with them whatever they have cached.
    pub(super) fn directory_moved(&mut self, from: InodeNo, to: InodeNo, out: &mut Out) {
        let lost_it = |session: &Session| {
            let root = session.root;
            root != InodeNo::ROOT
                && session.connected
                && self.is_below(from, root)
                && !self.is_below(to, root)
        };
        let who: Vec<SessionId> =
            self.sessions.iter().filter(|(_, session)| lost_it(session)).map(|(id, _)| *id).collect();
        for id in who {
            self.mount_gone(id, false, out);
            out.close_mount(id);
        }
    }

    /// Is it a directory that has a name?
    pub fn is_live_dir(&self, inode: InodeNo) -> bool {
        self.inodes.get(&inode).is_some_and(|node| node.is_dir() && node.nlink > 0)
    }

    /// Where a directory is. `None`: it was removed.
    pub fn dir_path(&self, directory: InodeNo) -> Option<Vec<u8>> {
        let (mut names, mut at): (Vec<&[u8]>, InodeNo) = (Vec::new(), directory);
        while at != InodeNo::ROOT {
            let node = self.inodes.get(&at).filter(|node| node.nlink > 0)?;
            let Body::Dir(dir) = &node.body else { return None };
            names.push(&dir.name);
            at = dir.parent;
        }
        names.push(b"");
        names.reverse();
        Some(if names.len() == 1 { b"/".to_vec() } else { names.join(&b'/') })
    }

    /// The directory to bind a user to.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `Invalid`.
    pub(super) fn directory_to_bind(&self, path: &[u8]) -> Res<InodeNo> {
        if !path.starts_with(b"/") {
            return fail(ErrorCode::Invalid, "the directory's path has to begin with '/', as in /films");
        }
        let advice = |error: DfsError| {
            DfsError::new(error.code, format!("{}; name a directory of the cluster", error.message))
        };
        let (inode, clean) = self.resolve(path).map_err(advice)?;
        let clean = String::from_utf8_lossy(&clean).into_owned();
        if inode == InodeNo::ROOT {
            return fail(ErrorCode::Invalid, "'/' is everything; a user is bound to a directory below it");
        }
        match self.is_live_dir(inode) {
            true => Ok(inode),
            false => fail(ErrorCode::NotDirectory, format!("'{clean}' is not a directory; name one")),
        }
    }
}

/// Makes of the cluster's numbers those of a session that sees `root` alone, and of its users and groups those of the session's map.
/// Messages are taken apart field by field, so that a new field does not compile before it has its line here. (Access lists: `mapped.rs`.)
pub fn outward(message: &mut mount_down::Msg, root: InodeNo, ids: &IdMap) {
    if root == InodeNo::ROOT && ids.is_none() {
        return;
    }
    let out = |number: &mut u64| {
        if *number == root.0 {
            *number = InodeNo::ROOT.0;
        }
    };
    let shown = |attr: &mut pb::Attr| outward_attr(attr, &out, ids);
    let attr = |attr: &mut Option<pb::Attr>| attr.iter_mut().for_each(shown);
    let lock = |lock: &mut pb::FileLock| out(&mut lock.inode);
    match message {
        mount_down::Msg::Welcome(welcome) => welcome.lost_locks.iter_mut().for_each(lock),
        mount_down::Msg::Reply(pb::MountReply { id: _, directories, result }) => {
            directories.iter_mut().for_each(shown);
            if let Some(result) = result {
                outward_result(result, (&out, &shown, &attr, &lock));
            }
        }
        mount_down::Msg::UploadDone(pb::UploadDone {
            chunk: _,
            inode,
            error: _,
            attr: shown,
            copies: _,
            acks_pending: _,
            synced: _,
        }) => {
            out(inode);
            attr(shown);
        }
        mount_down::Msg::Invalidate(pb::Invalidate { inode, content: _, parent, name: _, seq: _ }) => {
            out(inode);
            out(parent);
        }
        mount_down::Msg::Recall(pb::Recall { inode }) => out(inode),
        mount_down::Msg::Refused(_) | mount_down::Msg::Pong(_) => {}
    }
}

fn outward_attr(attr: &mut pb::Attr, out: &dyn Fn(&mut u64), ids: &IdMap) {
    let pb::Attr {
        inode,
        size: _,
        allocated: _,
        mode: _,
        nlink: _,
        uid,
        gid,
        rdev: _,
        atime: _,
        mtime: _,
        ctime: _,
        content_version: _,
        no_xattrs: _,
        has_security: _,
    } = attr;
    out(inode);
    (*uid, *gid) = (ids.uid_out(*uid), ids.gid_out(*gid));
}

type Outward<'a> = (
    &'a dyn Fn(&mut u64),
    &'a dyn Fn(&mut pb::Attr),
    &'a dyn Fn(&mut Option<pb::Attr>),
    &'a dyn Fn(&mut pb::FileLock),
);

fn outward_result(result: &mut Reply, (out, one, attr, lock): Outward<'_>) {
    match result {
        Reply::Attr(attr) => one(attr),
        Reply::Entries(pb::DirEntries { entries, end: _, parent }) => {
            out(parent);
            entries.iter_mut().for_each(|entry| attr(&mut entry.attr));
        }
        Reply::Layout(pb::FileLayout { attr: shown, extents: _, chunks: _, covered_to: _ }) => attr(shown),
        Reply::Gone(pb::Gone { moved, removed, exchanged }) => {
            [moved, removed, exchanged].into_iter().for_each(attr);
        }
        Reply::Copied(pb::RangeCopied { length: _, attr: shown }) => attr(shown),
        Reply::Lock(pb::LockInfo { conflict, attr: shown }) => {
            attr(shown);
            conflict.iter_mut().for_each(lock);
        }
        Reply::Located(pb::Located { attr: shown, extents: _, chunks: _, covered_to: _ }) => attr(shown),
        Reply::Error(_)
        | Reply::Empty(_)
        | Reply::Target(_)
        | Reply::Placed(_)
        | Reply::Statfs(_)
        | Reply::Value(_)
        | Reply::Names(_) => {}
    }
}

#[cfg(test)]
#[path = "bound_tests.rs"]
mod tests;
