//! May the caller do that? The kernel of each mount checks modes and access lists by itself, with what the mount
//! tells it; for a caller whom it lets pass though he may not (a squashed root), and where it did not know of the
//! file yet, the request says `check`, and this decides. So it does for whoever's ids are mapped (`mapped.rs`).
//!
//! The rules are Linux's: path_resolution(7), acl(5), the ERRORS of each call's page, and for hard links
//! `protected_hardlinks` of proc_sys_fs(5) as Debian has it. Nothing is checked that goes through an open file. This is
//! the one place where the master refuses a request because of who asks.

use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{InodeNo, SessionId};
use dfs_proto::pb::{self, mount_request::Op};

use super::State;
use super::acl::{self, is_acl};
use super::inode::{PERMISSIONS, S_IFBLK, S_IFCHR, S_IFMT, S_ISGID, S_ISUID, S_ISVTX, S_IXGRP};
use super::out::{Out, Res, fail};

/// What is wanted of an inode, as three bits of a mode have it.
pub(super) const READ: u32 = 4;
pub(super) const WRITE: u32 = 2;
pub(super) const EXECUTE: u32 = 1;

/// A session that there is none of, so that every mount is told of a change.
const NOBODY: SessionId = SessionId(0);

/// Who asks.
#[derive(Clone, Copy)]
pub(super) struct Who<'a> {
    uid: u32,
    gid: u32,
    groups: &'a [u32],
}

impl<'a> From<&'a pb::Caller> for Who<'a> {
    fn from(caller: &'a pb::Caller) -> Who<'a> {
        Who { uid: caller.uid, gid: caller.gid, groups: &caller.groups }
    }
}

impl Who<'_> {
    /// Stands for all of capabilities(7): what a process gave up of them is not known here.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    pub fn is_in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

impl State {
    /// Refuses what the caller may not do, and takes from `op` what he cannot have of it: the set-group-id bit of a
    /// group that he is not in.
    ///
    /// # Errors
    /// `Access`, `Permission`; `Stale` and `NotDirectory` where there is nothing to look at. What does not fail
    /// here may fail for other reasons later.
    pub(super) fn check_permission(&self, caller: &pb::Caller, op: &mut Op) -> Res<()> {
        let who = Who::from(caller);
        match op {
            Op::Lookup(op) => self.may_search(who, InodeNo(op.parent)),
            Op::Setattr(op) => self.may_setattr(who, op),
            Op::Create(op) => {
                self.strip_set_gid(who, InodeNo(op.parent), &mut op.mode)?;
                self.may_add(who, InodeNo(op.parent), &op.name)
            }
            Op::Mknod(op) => {
                self.strip_set_gid(who, InodeNo(op.parent), &mut op.mode)?;
                self.may_mknod(who, op)
            }
            Op::Mkdir(op) => self.may_add(who, InodeNo(op.parent), &op.name),
            Op::Symlink(op) => self.may_add(who, InodeNo(op.parent), &op.name),
            Op::Link(op) => self.may_link(who, op),
            Op::Unlink(op) => self.may_remove(who, InodeNo(op.parent), &op.name),
            Op::Rmdir(op) => self.may_remove(who, InodeNo(op.parent), &op.name),
            Op::Rename(op) => self.may_rename(who, op),
            Op::Readdir(op) => self.need(who, InodeNo(op.inode), READ),
            Op::Open(op) => self.need(who, InodeNo(op.inode), op.access & (READ | WRITE | EXECUTE)),
            Op::Getxattr(op) => self.may_getxattr(who, InodeNo(op.inode), &op.name),
            Op::Setxattr(op) => self.may_change_xattr(who, InodeNo(op.inode), &op.name),
            Op::Removexattr(op) => self.may_change_xattr(who, InodeNo(op.inode), &op.name),
            // What stat(2) shows needs no permission on the inode itself; neither do these.
            Op::Getattr(_) | Op::Readlink(_) | Op::Listxattr(_) | Op::Statfs(_) => Ok(()),
            // Of open files, or of the mount itself.
            Op::Release(_)
            | Op::Layout(_)
            | Op::Alloc(_)
            | Op::AbortUpload(_)
            | Op::Fsync(_)
            | Op::ReportBad(_)
            | Op::Fallocate(_)
            | Op::CopyRange(_)
            | Op::TouchAtime(_)
            | Op::Locate(_)
            | Op::SetDigest(_)
            | Op::Barrier(_)
            | Op::GetLock(_)
            | Op::SetLock(_)
            | Op::CancelLock(_) => Ok(()),
        }
    }

    /// After a checked open for writing, or a truncation: the kernel clears the set-id bits for others than root,
    /// and takes a squashed root for root.
    pub(super) fn clear_set_ids(&mut self, op: &Op, out: &mut Out) {
        let inode = match op {
            Op::Open(op) if op.access & WRITE != 0 => InodeNo(op.inode),
            Op::Setattr(op) if op.size.is_some() => InodeNo(op.inode),
            _ => return,
        };
        self.clear_set_ids_of(inode, out);
    }

    /// The same, of this inode.
    pub(super) fn clear_set_ids_of(&mut self, inode: InodeNo, out: &mut Out) {
        let Ok(node) = self.inode(inode) else { return };
        let set_gid = if node.mode & S_IXGRP != 0 { S_ISGID } else { 0 };
        let clear = node.mode & (S_ISUID | set_gid);
        if clear == 0 || !node.is_file() {
            return;
        }
        let now = out.now;
        if let Ok(node) = self.inode_mut(inode, out) {
            node.mode &= !clear;
            node.ctime = now.into();
        }
        self.inode_changed(NOBODY, inode, false, out);
    }

    /// Has he all of `want`?
    pub(super) fn may(&self, who: Who<'_>, inode: InodeNo, want: u32) -> Res<bool> {
        let node = self.inode(inode)?;
        if who.is_root() {
            return Ok(want & EXECUTE == 0 || node.is_dir() || node.mode & 0o111 != 0);
        }
        let is_owner = who.uid == node.uid;
        if let Some(list) = self.acl_of(inode, acl::ACCESS) {
            let in_group = |gid: Option<u32>| who.is_in_group(gid.unwrap_or(node.gid));
            return Ok(list.permits(is_owner, |uid| uid == who.uid, in_group, want));
        }
        let bits = match (is_owner, who.is_in_group(node.gid)) {
            (true, _) => node.mode >> 6,
            (false, true) => node.mode >> 3,
            (false, false) => node.mode,
        };
        Ok(bits & want == want)
    }

    fn need(&self, who: Who<'_>, inode: InodeNo, want: u32) -> Res<()> {
        if self.may(who, inode, want)? {
            return Ok(());
        }
        let node = self.inode(inode)?;
        let letters: String = [(READ, 'r'), (WRITE, 'w'), (EXECUTE, 'x')]
            .iter()
            .filter(|(bit, _)| want & bit != 0)
            .map(|(_, c)| *c)
            .collect();
        fail(
            ErrorCode::Access,
            format!(
                "inode {inode}: user {} has no '{letters}' permission (mode {:o}, owner {}:{}); its owner can give it",
                who.uid,
                node.mode & PERMISSIONS,
                node.uid,
                node.gid
            ),
        )
    }

    fn owns(&self, who: Who<'_>, inode: InodeNo) -> Res<bool> {
        Ok(who.is_root() || self.inode(inode)?.uid == who.uid)
    }

    fn need_owner(&self, who: Who<'_>, inode: InodeNo) -> Res<()> {
        if self.owns(who, inode)? {
            return Ok(());
        }
        let owner = self.inode(inode)?.uid;
        denied(who, &format!("inode {inode} belongs to user {owner}, who alone may do that"))
    }

    fn may_search(&self, who: Who<'_>, dir: InodeNo) -> Res<()> {
        self.dir(dir)?;
        self.need(who, dir, EXECUTE)
    }

    /// A name that is there already is another error than a directory that cannot be written.
    fn may_add(&self, who: Who<'_>, parent: InodeNo, name: &[u8]) -> Res<()> {
        self.may_search(who, parent)?;
        match self.dir(parent)?.entries.contains(name) {
            true => Ok(()),
            false => self.need(who, parent, WRITE),
        }
    }

    /// So is a name that is not there.
    fn may_remove(&self, who: Who<'_>, parent: InodeNo, name: &[u8]) -> Res<()> {
        self.may_search(who, parent)?;
        let Some(inode) = self.dir(parent)?.entries.get(name) else { return Ok(()) };
        self.need(who, parent, WRITE)?;
        let sticky = self.inode(parent)?.mode & S_ISVTX != 0;
        if sticky && !self.owns(who, parent)? && !self.owns(who, inode)? {
            return denied(who, &format!("directory {parent} is sticky, and inode {inode} somebody else's"));
        }
        Ok(())
    }

    fn may_rename(&self, who: Who<'_>, op: &pb::Rename) -> Res<()> {
        let (from, to) = (InodeNo(op.parent), InodeNo(op.new_parent));
        self.may_remove(who, from, &op.name)?;
        self.may_search(who, to)?;
        self.need(who, to, WRITE)?;
        self.may_remove(who, to, &op.new_name)?;
        if from == to {
            return Ok(());
        }
        // A directory that changes its parent is written: its ".." becomes another.
        let source = self.dir(from)?.entries.get(&op.name[..]);
        let target = self.dir(to)?.entries.get(&op.new_name[..]).filter(|_| op.exchange);
        for moved in source.into_iter().chain(target) {
            if self.inode(moved)?.is_dir() {
                self.need(who, moved, WRITE)?;
            }
        }
        Ok(())
    }

    fn may_link(&self, who: Who<'_>, op: &pb::Link) -> Res<()> {
        let inode = InodeNo(op.inode);
        self.may_add(who, InodeNo(op.parent), &op.name)?;
        let node = self.inode(inode)?;
        if self.owns(who, inode)? || node.is_dir() {
            return Ok(());
        }
        let runs_as = node.mode & S_ISUID != 0 || node.mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP;
        if !node.is_file() || runs_as || !self.may(who, inode, READ | WRITE)? {
            return denied(who, &format!("inode {inode} is somebody else's, and not his to read and write"));
        }
        Ok(())
    }

    fn may_mknod(&self, who: Who<'_>, op: &pb::Mknod) -> Res<()> {
        self.may_add(who, InodeNo(op.parent), &op.name)?;
        if matches!(op.mode & S_IFMT, S_IFCHR | S_IFBLK) && !who.is_root() {
            return denied(who, "device nodes are made by root alone");
        }
        Ok(())
    }

    fn may_setattr(&self, who: Who<'_>, op: &mut pb::Setattr) -> Res<()> {
        let inode = InodeNo(op.inode);
        let (owner, group) = self.inode(inode).map(|node| (node.uid, node.gid))?;
        if op.size.is_some() && !self.inode(inode)?.is_dir() {
            self.need(who, inode, WRITE)?;
        }
        if op.mode.is_some() || op.uid.is_some() || op.gid.is_some() {
            self.need_owner(who, inode)?;
        }
        if !who.is_root() && op.uid.is_some_and(|uid| uid != owner) {
            return denied(who, &format!("inode {inode} can be given away by root alone"));
        }
        if !who.is_root() && op.gid.is_some_and(|gid| gid != group && !who.is_in_group(gid)) {
            return denied(who, &format!("inode {inode} can be given to a group that he is in, or by root"));
        }
        if let Some(mode) = &mut op.mode
            && !who.is_root()
            && !who.is_in_group(op.gid.unwrap_or(group))
        {
            *mode &= !S_ISGID;
        }
        if op.atime_now && op.mtime_now {
            return if self.owns(who, inode)? { Ok(()) } else { self.need(who, inode, WRITE) };
        }
        let sets_time = op.atime.is_some() || op.mtime.is_some() || op.atime_now || op.mtime_now;
        // A truncation may bring the time with it.
        if sets_time && op.size.is_none() { self.need_owner(who, inode) } else { Ok(()) }
    }

    /// A program that runs as a group is made by who is in that group.
    fn strip_set_gid(&self, who: Who<'_>, parent: InodeNo, mode: &mut u32) -> Res<()> {
        let directory = self.inode(parent)?;
        let runs_as = *mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP;
        if runs_as && directory.mode & S_ISGID != 0 && !who.is_root() && !who.is_in_group(directory.gid) {
            *mode &= !S_ISGID;
        }
        Ok(())
    }

    /// xattr(7).
    fn may_getxattr(&self, who: Who<'_>, inode: InodeNo, name: &[u8]) -> Res<()> {
        if name.starts_with(b"user.") {
            return self.need(who, inode, READ);
        }
        if name.starts_with(b"trusted.") && !who.is_root() {
            return super::xattr::no_data(inode, name);
        }
        Ok(())
    }

    fn may_change_xattr(&self, who: Who<'_>, inode: InodeNo, name: &[u8]) -> Res<()> {
        if is_acl(name) {
            return self.need_owner(who, inode);
        }
        if !name.starts_with(b"user.") {
            return if who.is_root() { Ok(()) } else { denied(who, "that attribute is root's") };
        }
        let node = self.inode(inode)?;
        if node.is_dir() && node.mode & S_ISVTX != 0 {
            self.need_owner(who, inode)?;
        }
        self.need(who, inode, WRITE)
    }
}

fn denied(who: Who<'_>, why: &str) -> Res<()> {
    fail(ErrorCode::Permission, format!("user {}: {why}", who.uid))
}
