//! Sessions of users whose ids are mapped (`id_map.rs`). What their mounts' kernels have checked counts for nothing here.
//!
//! - Inward: [`ids`] is the table of the ids in each request, [`needs`] of what the master asks before it does it. Both are in the
//!   command that does the request, so that nothing can change in between. What is made belongs to who makes it, whatever is said.
//! - Outward: attributes where messages leave (`bound.rs`); access lists in [`State::map_list_out`], where it is known what was asked for.
//!
//! What must hold of a request of such a session: it is the caller's, as the map has him, and he may do it by modes and access lists
//! (`permission.rs`); or it goes through a file that this session opened when he might; or it names no caller, and somebody whom the map
//! reaches may do it. That a mount says of the first who its caller is has to be believed: so no more is kept from it than what nobody of the map may do.
//!
//! After a restart of the master nothing is known of what was opened: then the last counts for files that are open, too.

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{InodeNo, SessionId};
use dfs_proto::pb::{self, mount_reply::Result as Reply, mount_request::Op};

use super::State;
use super::acl::{self, Acl, is_acl};
use super::id_map::IdMap;
use super::inode::{PERMISSIONS, S_ISGID, S_ISUID};
use super::out::{Out, Res, fail};
use super::permission::{EXECUTE, READ, WRITE, Who};
use super::session::Session;

/// Of the file, one of reading and writing.
const EITHER: u32 = 0;
/// What a write takes away, whoever writes: the mount does that.
const CAPABILITY: &[u8] = b"security.capability";

/// The ids of users and groups in a request.
enum Ids<'a> {
    /// There are none.
    None,
    /// Of what is made.
    Made(&'a mut u32, &'a mut u32),
    /// Of whom a file is given to.
    Given(&'a mut Option<u32>, &'a mut Option<u32>),
    /// In a value, if the attribute of that name is an access list.
    Value(&'a [u8], &'a mut Bytes),
}

/// A new request does not compile before it has its line here.
fn ids(op: &mut Op) -> Ids<'_> {
    match op {
        Op::Create(op) => Ids::Made(&mut op.uid, &mut op.gid),
        Op::Mknod(op) => Ids::Made(&mut op.uid, &mut op.gid),
        Op::Mkdir(op) => Ids::Made(&mut op.uid, &mut op.gid),
        Op::Symlink(op) => Ids::Made(&mut op.uid, &mut op.gid),
        Op::Setattr(op) => Ids::Given(&mut op.uid, &mut op.gid),
        Op::Setxattr(op) => Ids::Value(&op.name, &mut op.value),
        Op::Lookup(_)
        | Op::Getattr(_)
        | Op::Link(_)
        | Op::Unlink(_)
        | Op::Rmdir(_)
        | Op::Rename(_)
        | Op::Readlink(_)
        | Op::Readdir(_)
        | Op::Open(_)
        | Op::Release(_)
        | Op::Layout(_)
        | Op::Alloc(_)
        | Op::AbortUpload(_)
        | Op::Fsync(_)
        | Op::Statfs(_)
        | Op::Getxattr(_)
        | Op::Listxattr(_)
        | Op::Removexattr(_)
        | Op::ReportBad(_)
        | Op::Fallocate(_)
        | Op::CopyRange(_)
        | Op::GetLock(_)
        | Op::SetLock(_)
        | Op::CancelLock(_)
        | Op::Barrier(_)
        | Op::TouchAtime(_)
        | Op::Locate(_)
        | Op::SetDigest(_) => Ids::None,
    }
}

/// What the master asks before it does a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Needs {
    /// May the caller?
    Caller,
    /// May the session do that with these files?
    Files([Option<(u64, u32)>; 2]),
    /// Nothing: what stat(2) shows, what is the session's own, or no file at all.
    Nothing,
}

fn file(inode: u64, access: u32) -> Needs {
    Needs::Files([Some((inode, access)), None])
}

/// A new request does not compile before it has its line here.
fn needs(op: &Op) -> Needs {
    match op {
        Op::Lookup(_)
        | Op::Setattr(_)
        | Op::Create(_)
        | Op::Mknod(_)
        | Op::Mkdir(_)
        | Op::Symlink(_)
        | Op::Link(_)
        | Op::Unlink(_)
        | Op::Rmdir(_)
        | Op::Rename(_)
        | Op::Readdir(_)
        | Op::Open(_)
        | Op::Getxattr(_)
        | Op::Setxattr(_)
        | Op::Removexattr(_) => Needs::Caller,
        Op::Layout(op) => file(op.inode, READ),
        Op::Locate(op) => file(op.inode, READ),
        Op::TouchAtime(op) => file(op.inode, READ),
        Op::Alloc(op) => file(op.inode, WRITE),
        Op::Fallocate(op) => file(op.inode, WRITE),
        // Others believe it.
        Op::SetDigest(op) => file(op.inode, WRITE),
        Op::CopyRange(op) => Needs::Files([Some((op.source, READ)), Some((op.target, WRITE))]),
        Op::GetLock(pb::GetLock { lock: Some(lock) }) => file(lock.inode, EITHER),
        Op::SetLock(pb::SetLock { lock: Some(lock), wait: _ }) => match lock.mode() {
            pb::LockMode::Unlock => Needs::Nothing,
            _ if lock.kind() == pb::LockKind::Append => file(lock.inode, WRITE),
            _ => file(lock.inode, EITHER),
        },
        Op::GetLock(_) | Op::SetLock(_) => Needs::Nothing,
        Op::Getattr(_) | Op::Readlink(_) | Op::Listxattr(_) | Op::Statfs(_) | Op::Fsync(_) => Needs::Nothing,
        Op::Release(_) | Op::AbortUpload(_) | Op::CancelLock(_) | Op::Barrier(_) | Op::ReportBad(_) => {
            Needs::Nothing
        }
    }
}

/// What a mount asks for by itself, for programs that have asked it before: lists and names ahead of them, and what goes through an open file.
fn needs_of_mount(state: &State, op: &Op) -> Option<(u64, u32)> {
    match op {
        Op::Lookup(op) => Some((op.parent, EXECUTE)),
        Op::Readdir(op) => Some((op.inode, READ)),
        Op::Setattr(op) if cuts_or_clears(state, op) => Some((op.inode, WRITE)),
        Op::Removexattr(op) if op.name == CAPABILITY => Some((op.inode, WRITE)),
        _ => None,
    }
}

/// Does it cut a file, as ftruncate(2) does, or take the set-id bits that a write takes, and no more?
fn cuts_or_clears(state: &State, op: &pb::Setattr) -> bool {
    let Ok(node) = state.inode(InodeNo(op.inode)) else { return false };
    let takes_bits = |mode: u32| {
        let now = node.mode & PERMISSIONS;
        mode & !now == 0 && now & !mode & !(S_ISUID | S_ISGID) == 0
    };
    let sets_time = op.atime.is_some() || op.mtime.is_some() || op.atime_now || op.mtime_now;
    node.is_file()
        && op.uid.is_none()
        && op.gid.is_none()
        && op.mode.is_none_or(takes_bits)
        && (op.size.is_some() || op.mode.is_some() && !sets_time)
}

impl Session {
    /// Does it have the inode open for that?
    fn was_granted(&self, inode: InodeNo, access: u32) -> bool {
        let granted = self.granted.get(&inode).copied().unwrap_or(0);
        if access == EITHER { granted != 0 } else { granted & access == access }
    }

    /// It has opened the inode for that.
    fn grant(&mut self, inode: InodeNo, access: u32) {
        if self.opens.contains_key(&inode) {
            *self.granted.entry(inode).or_default() |= access;
        }
    }
}

impl State {
    /// Makes of a request's ids those of the cluster, and asks what is to be asked before. What remains to be checked of its caller is said
    /// in the request, and done with it. Sessions that are not mapped pay one comparison.
    ///
    /// # Errors
    /// `Access`, `Permission`, `Invalid`.
    pub(super) fn map_in(&mut self, by: SessionId, request: &mut pb::MountRequest, out: &mut Out) -> Res<()> {
        let Some(session) = self.sessions.get(&by).filter(|session| !session.ids.is_none()) else {
            return Ok(());
        };
        let map = session.ids.clone();
        let Some(op) = &mut request.op else { return Ok(()) };
        let named = request.caller.take();
        match needs(op) {
            Needs::Nothing => {}
            Needs::Files(files) => {
                for (inode, access) in files.into_iter().flatten() {
                    self.need_file(by, &map, InodeNo(inode), access, out)?;
                }
            }
            Needs::Caller => match (named, needs_of_mount(self, op)) {
                (None, Some((inode, access))) => self.need_file(by, &map, InodeNo(inode), access, out)?,
                // Who is not named is the machine's root.
                (named, _) => request.caller = Some(map.caller(&named.unwrap_or_default())),
            },
        }
        map_ids(&map, request.caller.as_ref(), op)
    }

    /// Did the session open the file for that, or could somebody of the map?
    fn need_file(
        &mut self,
        by: SessionId,
        map: &IdMap,
        inode: InodeNo,
        access: u32,
        out: &mut Out,
    ) -> Res<()> {
        if self.sessions.get(&by).is_some_and(|session| session.was_granted(inode, access)) {
            return Ok(());
        }
        if !self.could(map, inode, access)? {
            return fail(
                ErrorCode::Access,
                format!("inode {inode}: of the users that this login is mapped to, none may do that"),
            );
        }
        if access & WRITE != 0 && !map.reaches_uid(0) {
            // As an open for writing would have.
            self.clear_set_ids_of(inode, out);
        }
        Ok(())
    }

    /// May anybody whom the map reaches?
    fn could(&self, map: &IdMap, inode: InodeNo, access: u32) -> Res<bool> {
        if access == EITHER {
            return Ok(self.could(map, inode, READ)? || self.could(map, inode, WRITE)?);
        }
        let node = self.inode(inode)?;
        // Its owner can give himself what he lacks.
        if map.reaches_uid(0) || map.reaches_uid(node.uid) {
            return Ok(true);
        }
        if let Some(one) = map.everybody() {
            return self.may(
                Who::from(&pb::Caller { uid: one.uid, gid: one.gid, ..pb::Caller::default() }),
                inode,
                access,
            );
        }
        let in_group = |gid: Option<u32>| map.reaches_gid(gid.unwrap_or(node.gid));
        if let Some(list) = self.acl_of(inode, acl::ACCESS) {
            return Ok(list.permits_some(|uid| map.reaches_uid(uid), in_group, access));
        }
        let has = |bits: u32| bits & access == access;
        Ok(has(node.mode) || in_group(None) && has(node.mode >> 3))
    }

    /// What a request that was checked has opened stays so.
    pub(super) fn note_grant(&mut self, by: SessionId, op: &Op, reply: &Reply) {
        let Some(session) = self.sessions.get_mut(&by).filter(|session| !session.ids.is_none()) else {
            return;
        };
        let (inode, access) = match (op, reply) {
            (Op::Open(op), _) => (op.inode, op.access),
            (Op::Create(_), Reply::Attr(attr)) => (attr.inode, READ | WRITE),
            _ => return,
        };
        // Who runs a program reads it.
        let reads = if access & EXECUTE != 0 { READ } else { 0 };
        session.grant(InodeNo(inode), access & (READ | WRITE) | reads);
    }

    /// An access list is shown as the session knows its users and groups.
    pub(super) fn map_list_out(&self, by: SessionId, op: &Op, reply: &mut Res<Reply>) {
        let Some(session) = self.sessions.get(&by).filter(|session| !session.ids.is_none()) else { return };
        if let (Op::Getxattr(op), Ok(Reply::Value(value))) = (op, reply)
            && is_acl(&op.name)
            && let Ok(Some(list)) = Acl::parse(&value.value)
        {
            let map = &session.ids;
            let shown = list.with_ids(|uid| Some(map.uid_out(uid)), |gid| Some(map.gid_out(gid)));
            value.value = shown.unwrap_or(list).encode();
        }
    }

    /// Locks that a hello claims, and that nobody of the map could have: they are lost.
    pub(super) fn not_to_be_locked(&self, map: &IdMap, hello: &mut pb::MountHello) -> Vec<pb::FileLock> {
        let could = |lock: &pb::FileLock| {
            map.is_none() || self.could(map, InodeNo(lock.inode), EITHER).unwrap_or(false)
        };
        let (kept, lost) = std::mem::take(&mut hello.held_locks).into_iter().partition(could);
        hello.held_locks = kept;
        lost
    }
}

/// Of a request whose caller is `who` already.
fn map_ids(map: &IdMap, who: Option<&pb::Caller>, op: &mut Op) -> Res<()> {
    match (ids(op), who) {
        (Ids::Made(uid, gid), Some(who)) => (*uid, *gid) = (who.uid, who.gid),
        (Ids::Given(uid, gid), _) => {
            if let Some(uid) = uid {
                *uid = map.uid_in(*uid).ok_or_else(|| unknown("user", *uid))?;
            }
            if let Some(gid) = gid {
                *gid = map.gid_in(*gid).ok_or_else(|| unknown("group", *gid))?;
            }
        }
        (Ids::Value(name, value), _) if is_acl(name) => {
            if let Some(list) = Acl::parse(value)? {
                let mapped = list.with_ids(|uid| map.listed_uid_in(uid), |gid| map.listed_gid_in(gid));
                *value = mapped.map_err(|id| unknown("user or group", id))?.encode();
            }
        }
        (Ids::Made(..) | Ids::Value(..) | Ids::None, _) => {}
    }
    Ok(())
}

fn unknown(what: &str, id: u32) -> DfsError {
    let message =
        format!("{what} {id} is in no range of ids that this login has at the cluster; name another");
    DfsError::new(ErrorCode::Invalid, message)
}

#[cfg(test)]
#[path = "mapped_tests.rs"]
mod tests;
