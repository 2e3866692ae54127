//! rename(2), with NOREPLACE and EXCHANGE of renameat2(2). One command, so it is atomic.

use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{InodeNo, SessionId};
use dfs_proto::pb::{self, mount_reply::Result as Reply};

use super::State;
use super::inode::Body;
use super::namespace::{check_name, shown};
use super::out::{Out, Res, fail};

/// One end of a rename.
#[derive(Clone, Copy)]
struct Place<'a> {
    parent: InodeNo,
    name: &'a [u8],
}

impl State {
    /// Is `inode` the directory `of`, or somewhere below it?
    fn is_within(&self, mut inode: InodeNo, of: InodeNo) -> Res<bool> {
        while inode != of {
            if inode == InodeNo::ROOT {
                return Ok(false);
            }
            inode = self.dir(inode)?.parent;
        }
        Ok(true)
    }

    /// `Gone.moved` is the inode that was asked to move. `Gone.removed` is the one that it replaced, `Gone.exchanged` the
    /// other one of an exchange. A rename of one name of an inode to another of the same has neither.
    pub(super) fn rename(&mut self, by: SessionId, op: &pb::Rename, out: &mut Out) -> Res<Reply> {
        let from = Place { parent: InodeNo(op.parent), name: &op.name };
        let to = Place { parent: InodeNo(op.new_parent), name: &op.new_name };
        if op.no_replace && op.exchange {
            return fail(ErrorCode::Invalid, "rename: NOREPLACE and EXCHANGE exclude each other");
        }
        let source = self.entry(from.parent, from.name)?;
        check_name(to.name)?;
        let target = self.dir(to.parent)?.entries.get(to.name);
        match target {
            Some(_) if op.no_replace => {
                let message = format!("'{}' is already in directory {}", shown(to.name), to.parent);
                return fail(ErrorCode::Exists, message);
            }
            None if op.exchange => {
                let message = format!("there is no '{}' in directory {}", shown(to.name), to.parent);
                return fail(ErrorCode::NotFound, message);
            }
            _ => {}
        }
        self.check_not_removed(to.parent)?;
        if self.inode(source)?.is_dir() && self.is_within(to.parent, source)? {
            return fail(ErrorCode::Invalid, "a directory cannot be moved into itself");
        }
        if target != Some(source) {
            self.check_quota_for_rename(source, from.parent, to.parent, op.exchange)?;
        }
        let (removed, exchanged) = match target {
            Some(target) if target == source => (None, None),
            Some(target) if op.exchange => {
                self.exchange(by, from, source, to, target, out)?;
                (None, Some(self.attr(target)?))
            }
            _ => (self.replace(by, from, source, to, target, out)?, None),
        };
        if from.parent != to.parent {
            if self.inode(source)?.is_dir() {
                self.directory_moved(from.parent, to.parent, out);
            }
            if let Some(target) = target.filter(|_| op.exchange)
                && self.inode(target)?.is_dir()
            {
                self.directory_moved(to.parent, from.parent, out);
            }
        }
        out.show(source);
        Ok(Reply::Gone(pb::Gone { moved: Some(self.attr(source)?), removed, exchanged }))
    }

    fn replace(
        &mut self,
        by: SessionId,
        from: Place<'_>,
        source: InodeNo,
        to: Place<'_>,
        target: Option<InodeNo>,
        out: &mut Out,
    ) -> Res<Option<pb::Attr>> {
        let moves_dir = self.inode(source)?.is_dir();
        if let Some(target) = target {
            match (moves_dir, self.inode(target)?.is_dir()) {
                (true, false) => {
                    return fail(ErrorCode::NotDirectory, format!("'{}' is not a directory", shown(to.name)));
                }
                (false, true) => {
                    return fail(ErrorCode::IsDirectory, format!("'{}' is a directory", shown(to.name)));
                }
                (true, true) if !self.dir(target)?.entries.is_empty() => {
                    let message = format!("directory '{}' is not empty", shown(to.name));
                    return fail(ErrorCode::NotEmpty, message);
                }
                _ => {}
            }
        } else if moves_dir && from.parent != to.parent {
            self.check_links(to.parent)?;
        }
        self.drop_entry(from.parent, from.name, out)?;
        self.put_entry(to.parent, to.name, source, out)?;
        if moves_dir {
            // The directory that is replaced leaves the new parent as the moved one comes.
            let old = self.inode_mut(from.parent, out)?;
            old.nlink = old.nlink.saturating_sub(1);
            if target.is_none() {
                self.inode_mut(to.parent, out)?.nlink += 1;
            }
        }
        self.settle_in(source, to.parent, out)?;
        self.name_changed(by, from.parent, from.name, out);
        self.name_changed(by, to.parent, to.name, out);
        self.inode_changed(by, source, false, out);
        let Some(target) = target else { return Ok(None) };
        self.inode_changed(by, target, false, out);
        self.drop_link(target, (to.parent, to.name), out).map(Some)
    }

    fn exchange(
        &mut self,
        by: SessionId,
        from: Place<'_>,
        source: InodeNo,
        to: Place<'_>,
        target: InodeNo,
        out: &mut Out,
    ) -> Res<()> {
        let (source_dir, target_dir) = (self.inode(source)?.is_dir(), self.inode(target)?.is_dir());
        if target_dir && self.is_within(from.parent, target)? {
            return fail(ErrorCode::Invalid, "a directory cannot be moved into itself");
        }
        if from.parent != to.parent && source_dir != target_dir {
            let (gains, loses) = if source_dir { (to.parent, from.parent) } else { (from.parent, to.parent) };
            self.check_links(gains)?;
            self.inode_mut(gains, out)?.nlink += 1;
            let loser = self.inode_mut(loses, out)?;
            loser.nlink = loser.nlink.saturating_sub(1);
        }
        self.put_entry(from.parent, from.name, target, out)?;
        self.put_entry(to.parent, to.name, source, out)?;
        self.settle_in(source, to.parent, out)?;
        self.settle_in(target, from.parent, out)?;
        self.name_changed(by, from.parent, from.name, out);
        self.name_changed(by, to.parent, to.name, out);
        self.inode_changed(by, source, false, out);
        self.inode_changed(by, target, false, out);
        out.show(target);
        Ok(())
    }

    /// A moved inode's ctime, and a directory's "..".
    fn settle_in(&mut self, inode: InodeNo, parent: InodeNo, out: &mut Out) -> Res<()> {
        let now = out.now;
        let node = self.inode_mut(inode, out)?;
        node.ctime = now.into();
        if let Body::Dir(dir) = &mut node.body {
            dir.parent = parent;
        }
        Ok(())
    }
}
