//! Attributes: stat, chmod, chown, utimens, truncate, and what statfs shows.

use std::collections::BTreeMap;

use dfs_proto::MAX_FILE_SIZE;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{InodeNo, SessionId};
use dfs_proto::pb::{self, mount_reply::Result as Reply};

use super::State;
use super::inode::{PERMISSIONS, S_ISGID, S_ISUID, S_IXGRP};
use super::out::{Out, Res, fail};

impl State {
    pub(super) fn getattr(&self, op: pb::Getattr, out: &mut Out) -> Res<Reply> {
        let inode = InodeNo(op.inode);
        out.show(inode);
        Ok(Reply::Attr(self.attr(inode)?))
    }

    pub(super) fn setattr(&mut self, by: SessionId, op: &pb::Setattr, out: &mut Out) -> Res<Reply> {
        let inode = InodeNo(op.inode);
        out.show(inode);
        if let Some(size) = op.size {
            self.check_resize(inode, size)?;
        }
        self.inode(inode)?;
        let sets_mtime = op.mtime.is_some() || op.mtime_now;
        if op.mode.is_none()
            && op.uid.is_none()
            && op.gid.is_none()
            && op.size.is_none()
            && op.atime.is_none()
            && !op.atime_now
            && !sets_mtime
        {
            return Ok(Reply::Attr(self.attr(inode)?));
        }
        let resized = match op.size {
            Some(size) => self.resize(inode, size, out)?,
            None => false,
        };
        if sets_mtime {
            self.keep_mtime_from_uploads(by, inode);
        }
        self.set_plain(inode, op, out)?;
        self.inode_changed(by, inode, resized, out);
        Ok(Reply::Attr(self.attr(inode)?))
    }

    /// Everything but the size.
    fn set_plain(&mut self, inode: InodeNo, op: &pb::Setattr, out: &mut Out) -> Res<()> {
        let now = out.now;
        if let Some(mode) = op.mode {
            self.chmod_acl(inode, mode, out);
        }
        let node = self.inode_mut(inode, out)?;
        if let Some(mode) = op.mode {
            node.mode = node.mode & !PERMISSIONS | mode & PERMISSIONS;
        }
        if op.uid.is_some() || op.gid.is_some() {
            node.uid = op.uid.unwrap_or(node.uid);
            node.gid = op.gid.unwrap_or(node.gid);
            // As Linux: without group execution, S_ISGID means mandatory locking and stays.
            if !node.is_dir() {
                node.mode &= !S_ISUID;
                if node.mode & S_IXGRP != 0 {
                    node.mode &= !S_ISGID;
                }
            }
        }
        let pick = |set: Option<pb::Time>, to_now: bool, old: pb::Time| {
            if to_now { now } else { set.map_or(old, pb::Time::normalized) }
        };
        node.atime = pick(op.atime, op.atime_now, node.atime.into()).into();
        let mtime = if op.size.is_some() { now } else { node.mtime.into() };
        node.mtime = pick(op.mtime, op.mtime_now, mtime).into();
        node.ctime = now.into();
        Ok(())
    }

    /// Somebody read it. Others are told as of any change of attributes.
    pub(super) fn touch_atime(&mut self, by: SessionId, op: pb::TouchAtime, out: &mut Out) -> Res<Reply> {
        let inode = InodeNo(op.inode);
        out.show(inode);
        if dfs_proto::atime::is_due(&self.attr(inode)?, op.always, out.now) {
            let now = out.now;
            self.inode_mut(inode, out)?.atime = now.into();
            self.inode_changed(by, inode, false, out);
        }
        Ok(Reply::Attr(self.attr(inode)?))
    }

    fn check_resize(&self, inode: InodeNo, size: u64) -> Res<()> {
        let node = self.inode(inode)?;
        if node.is_dir() {
            return fail(
                ErrorCode::IsDirectory,
                format!("inode {inode} is a directory: it has no size to set"),
            );
        }
        if !node.is_file() {
            return fail(ErrorCode::Invalid, format!("inode {inode} is not a regular file"));
        }
        if size > MAX_FILE_SIZE {
            return fail(ErrorCode::TooLarge, format!("size {size} is over the largest, {MAX_FILE_SIZE}"));
        }
        Ok(())
    }

    /// Truncates, or extends with a hole. Did anything change?
    fn resize(&mut self, inode: InodeNo, size: u64, out: &mut Out) -> Res<bool> {
        let old = self.inode(inode)?.size;
        if size == old {
            return Ok(false);
        }
        if size < old {
            self.cut(inode, size, u64::MAX, out);
        }
        let node = self.inode_mut(inode, out)?;
        node.size = size;
        node.content_version += 1;
        self.census.resized(old, size);
        Ok(true)
    }

    pub(super) fn statfs(&self, op: pb::Statfs) -> Reply {
        let (raw_total, raw_free, writable) = self.capacity();
        let each = u64::from(self.settings.copies).min(writable).max(1);
        let (total, free) = self.quota_capacity(InodeNo(op.inode), (raw_total / each, raw_free / each));
        Reply::Statfs(pb::StatfsInfo { total, free, inodes: self.inodes.len() as u64 })
    }

    /// Raw bytes that chunks have and may have, bytes that they may still take, and how many live keepers
    /// there are. The free space of a file system that keepers of one host share is counted once.
    pub(super) fn capacity(&self) -> (u64, u64, u64) {
        let mut free: BTreeMap<(&str, u64), u64> = BTreeMap::new();
        let (mut used, mut live) = (0u64, 0);
        for keeper in self.keepers.values().filter(|keeper| keeper.alive) {
            live += 1;
            used = used.saturating_add(keeper.load.used);
            let most = free.entry((&keeper.row.host, keeper.load.file_system)).or_default();
            if !keeper.load.read_only {
                *most = (*most).max(keeper.load.free);
            }
        }
        let free = free.into_values().fold(0u64, u64::saturating_add);
        (used.saturating_add(free), free, live)
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::ids::KeeperId;
    use dfs_proto::pb::{keeper_up, mount_request::Op};

    use super::super::testkit::Kit;
    use super::*;

    #[test]
    fn a_file_system_that_two_keepers_share_is_counted_once() {
        let mut kit = Kit::with_keepers(0);
        let mut keeper = |number: u64, host: &str, file_system: u64| {
            kit.keeper_hello(KeeperId(number), host);
            let load = Some(pb::Load { total: 100, free: 100, used: 5, file_system, ..pb::Load::default() });
            kit.keeper_says(KeeperId(number), keeper_up::Msg::Heartbeat(pb::Heartbeat { seq: 1, load }));
            kit.state.capacity()
        };
        assert_eq!(keeper(1, "one", 7), (105, 100, 1));
        assert_eq!(keeper(2, "one", 7), (110, 100, 2), "the same disk");
        assert_eq!(keeper(3, "one", 8), (215, 200, 3), "another disk of the same size");
        assert_eq!(keeper(4, "two", 7), (320, 300, 4), "another machine may number its disks alike");
    }

    fn touch(kit: &mut Kit, inode: InodeNo, always: bool) -> pb::Attr {
        let reply = kit.ok(Op::TouchAtime(pb::TouchAtime { inode: inode.0, always }));
        Kit::attr_of(&reply)
    }

    #[test]
    fn reading_moves_atime_forward_when_relatime_asks_for_it() {
        let mut kit = Kit::with_keepers(2);
        let file = kit.create(InodeNo::ROOT, "f");
        let created = kit.attr(file);
        kit.pass_ms(5_000);
        let read = touch(&mut kit, file, false);
        assert_eq!(read.atime, Some(kit.now()));
        assert_eq!(
            (read.mtime, read.ctime, read.content_version),
            (created.mtime, created.ctime, created.content_version)
        );
        kit.pass_ms(5_000);
        assert_eq!(touch(&mut kit, file, false).atime, read.atime, "nothing changed since");
        assert_eq!(touch(&mut kit, file, true).atime, Some(kit.now()), "strictatime");
        let future = pb::Time { sec: kit.now().sec + 1_000, nsec: 0 };
        kit.ok(Op::Setattr(pb::Setattr { inode: file.0, atime: Some(future), ..Default::default() }));
        assert_eq!(touch(&mut kit, file, true).atime, Some(future), "never back");
        kit.pass_silently_ms(86_401_000 + 1_000_000);
        assert_eq!(touch(&mut kit, file, false).atime, Some(kit.now()), "a day old");
        kit.compare_with_stored();
    }
}
