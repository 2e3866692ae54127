//! Names: look-up, and everything that adds or removes one.
//!
//! What must hold: a directory has exactly one name and `nlink` 2 + its subdirectories; any other inode has
//! `nlink` names; one without a name is held open, or kept for its grace period, or gone. Errors and times
//! are those of POSIX.1-2017 and, where that leaves a choice, Linux's. Permissions are the kernel's business, or `permission`'s.

use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{InodeNo, SessionId};
use dfs_proto::pb::{self, mount_reply::Result as Reply};
use dfs_proto::{MAX_NAME_LEN, MAX_SYMLINK_LEN};

use super::State;
use super::inode::{
    Body, Dir, Inode, MAX_LINKS, PERMISSIONS, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG,
    S_IFSOCK, S_ISGID,
};
use super::out::{Out, Res, fail};
use super::row::RowKey;

/// Most entries of one listing's page.
const READDIR_PAGE: usize = 1024;

/// Names as people read them, in messages.
pub(super) fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(MAX_NAME_LEN)]).into_owned()
}

/// # Errors
/// `NameTooLong`, or `Invalid` for what no entry can be called.
pub(super) fn check_name(name: &[u8]) -> Res<()> {
    if name.len() > MAX_NAME_LEN {
        return fail(
            ErrorCode::NameTooLong,
            format!("name '{}...' is over {MAX_NAME_LEN} bytes", shown(name)),
        );
    }
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
        return fail(ErrorCode::Invalid, format!("'{}' cannot be the name of an entry", shown(name)));
    }
    Ok(())
}

/// A new inode's owner and type.
struct New<'a> {
    /// With the file type.
    mode: u32,
    umask: u32,
    uid: u32,
    gid: u32,
    rdev: u32,
    target: Option<&'a [u8]>,
}

impl State {
    /// # Errors
    /// `Stale`.
    pub(super) fn inode(&self, inode: InodeNo) -> Res<&Inode> {
        match self.inodes.get(&inode) {
            Some(found) => Ok(found),
            None => fail(ErrorCode::Stale, format!("inode {inode} is gone: its last name was removed")),
        }
    }

    /// To be changed: its row is touched.
    ///
    /// # Errors
    /// `Stale`.
    pub(super) fn inode_mut(&mut self, inode: InodeNo, out: &mut Out) -> Res<&mut Inode> {
        match self.inodes.get_mut(&inode) {
            Some(found) => {
                out.touch(RowKey::Inode(inode));
                Ok(found)
            }
            None => fail(ErrorCode::Stale, format!("inode {inode} is gone: its last name was removed")),
        }
    }

    /// # Errors
    /// `Stale`.
    pub(super) fn attr(&self, inode: InodeNo) -> Res<pb::Attr> {
        let mut attr = self.inode(inode)?.attr(inode);
        attr.no_xattrs = !self.has_xattrs(inode);
        Ok(attr)
    }

    /// # Errors
    /// `Stale`, `NotDirectory`.
    pub(super) fn dir(&self, inode: InodeNo) -> Res<&Dir> {
        match &self.inode(inode)?.body {
            Body::Dir(dir) => Ok(dir),
            _ => fail(ErrorCode::NotDirectory, format!("inode {inode} is not a directory")),
        }
    }

    /// The inode of an entry that must be there.
    ///
    /// # Errors
    /// `Stale`, `NotDirectory`, `NotFound`, and those of a bad name.
    pub(super) fn entry(&self, parent: InodeNo, name: &[u8]) -> Res<InodeNo> {
        check_name(name)?;
        match self.dir(parent)?.entries.get(name) {
            Some(inode) => Ok(inode),
            None => fail(ErrorCode::NotFound, format!("there is no '{}' in directory {parent}", shown(name))),
        }
    }

    /// May an entry of this name be added?
    ///
    /// # Errors
    /// `Stale`, `NotDirectory`, `Exists`, `NotFound` (the directory was removed), and those of a bad name.
    pub(super) fn check_free(&self, parent: InodeNo, name: &[u8]) -> Res<()> {
        check_name(name)?;
        if self.dir(parent)?.entries.contains(name) {
            return fail(ErrorCode::Exists, format!("'{}' is already in directory {parent}", shown(name)));
        }
        self.check_not_removed(parent)
    }

    /// # Errors
    /// `Stale`, `NotFound`.
    pub(super) fn check_not_removed(&self, directory: InodeNo) -> Res<()> {
        if self.inode(directory)?.nlink == 0 {
            return fail(ErrorCode::NotFound, format!("directory {directory} was removed"));
        }
        Ok(())
    }

    /// # Errors
    /// `TooManyLinks`.
    pub(super) fn check_links(&self, inode: InodeNo) -> Res<()> {
        if self.inode(inode)?.nlink >= MAX_LINKS {
            return fail(ErrorCode::TooManyLinks, format!("inode {inode} already has {MAX_LINKS} links"));
        }
        Ok(())
    }

    /// Puts an entry, new or in the place of another, and gives the directory its new times.
    pub(super) fn put_entry(
        &mut self,
        parent: InodeNo,
        name: &[u8],
        inode: InodeNo,
        out: &mut Out,
    ) -> Res<()> {
        let now = out.now;
        let directory = self.inode_mut(parent, out)?;
        let mut replaced = None;
        if let Body::Dir(dir) = &mut directory.body {
            replaced = dir.entries.insert(name, inode);
            directory.mtime = now.into();
            directory.ctime = now.into();
        }
        if let Some(replaced) = replaced {
            self.lose_home(replaced, parent);
            self.quotas_lose_name(replaced, parent);
        }
        if let Some(Body::Dir(dir)) = self.inodes.get_mut(&inode).map(|node| &mut node.body) {
            dir.name = name.into();
        }
        self.gain_home(inode, parent);
        self.quotas_gain_name(inode, parent);
        out.touch(RowKey::Dentry { parent, name: name.into() });
        Ok(())
    }

    /// Removes an entry, and gives the directory its new times.
    pub(super) fn drop_entry(&mut self, parent: InodeNo, name: &[u8], out: &mut Out) -> Res<()> {
        let now = out.now;
        let directory = self.inode_mut(parent, out)?;
        let mut removed = None;
        if let Body::Dir(dir) = &mut directory.body {
            removed = dir.entries.remove(name);
            directory.mtime = now.into();
            directory.ctime = now.into();
        }
        if let Some(removed) = removed {
            self.lose_home(removed, parent);
            self.quotas_lose_name(removed, parent);
        }
        out.touch(RowKey::Dentry { parent, name: name.into() });
        Ok(())
    }

    /// An inode lost this name (a directory: its only one). Returns its attributes as they are then; one
    /// that nobody holds is gone after this.
    pub(super) fn drop_link(
        &mut self,
        inode: InodeNo,
        (parent, name): (InodeNo, &[u8]),
        out: &mut Out,
    ) -> Res<pb::Attr> {
        let now = out.now;
        let node = self.inode_mut(inode, out)?;
        node.nlink = if node.is_dir() { 0 } else { node.nlink.saturating_sub(1) };
        node.ctime = now.into();
        let attr = node.attr(inode);
        if node.is_dir() {
            self.drop_quota(inode, out);
        }
        self.trash_if_last(inode, parent, name, out);
        self.reap_if_unused(inode, out);
        Ok(attr)
    }

    /// Others may have cached this name and this directory's attributes.
    pub(super) fn name_changed(&mut self, by: SessionId, parent: InodeNo, name: &[u8], out: &mut Out) {
        let name = bytes::Bytes::copy_from_slice(name);
        let change = pb::Invalidate { inode: parent.0, parent: parent.0, name, ..pb::Invalidate::default() };
        self.invalidate(by, change, out);
    }

    /// Others may have cached these attributes, and, if `content`, bytes.
    pub(super) fn inode_changed(&mut self, by: SessionId, inode: InodeNo, content: bool, out: &mut Out) {
        let change = pb::Invalidate { inode: inode.0, content, ..pb::Invalidate::default() };
        self.invalidate(by, change, out);
    }

    pub(super) fn lookup(&self, op: &pb::Lookup, out: &mut Out) -> Res<Reply> {
        let parent = InodeNo(op.parent);
        out.show(parent);
        let inode = self.entry(parent, &op.name)?;
        out.show(inode);
        Ok(Reply::Attr(self.attr(inode)?))
    }

    fn add(
        &mut self,
        by: SessionId,
        parent: InodeNo,
        name: &[u8],
        new: &New<'_>,
        out: &mut Out,
    ) -> Res<InodeNo> {
        self.check_free(parent, name)?;
        let kind = new.mode & S_IFMT;
        if kind == S_IFDIR {
            self.check_links(parent)?;
        }
        self.check_quota_for_name(None, parent)?;
        let directory = self.inode(parent)?;
        let heritage = self.heritage(parent, new.mode, new.umask);
        let mut mode = heritage.mode;
        let mut gid = new.gid;
        if directory.mode & S_ISGID != 0 {
            gid = directory.gid;
            if kind == S_IFDIR {
                mode |= S_ISGID;
            }
        }
        let body = match (kind, new.target) {
            (S_IFREG, _) => Inode::empty_file(),
            (S_IFDIR, _) => Inode::empty_dir(parent),
            (S_IFLNK, Some(target)) => Inode::symlink(target.into()),
            _ => Inode::special(new.rdev),
        };
        let mut node = Inode::new(mode, new.uid, gid, out.now, body);
        node.nlink = if kind == S_IFDIR { 2 } else { 1 };
        node.size = new.target.map_or(0, |target| target.len() as u64);
        let inode = self.ids.inode(out);
        self.insert_inode(inode, node);
        out.touch(RowKey::Inode(inode));
        self.inherit_acls(inode, heritage, out);
        self.put_entry(parent, name, inode, out)?;
        if kind == S_IFDIR {
            self.inode_mut(parent, out)?.nlink += 1;
        }
        self.name_changed(by, parent, name, out);
        Ok(inode)
    }

    pub(super) fn create(&mut self, by: SessionId, op: &pb::Create, out: &mut Out) -> Res<Reply> {
        let mode = S_IFREG | op.mode & PERMISSIONS;
        let new = New { mode, umask: op.umask, uid: op.uid, gid: op.gid, rdev: 0, target: None };
        let inode = self.add(by, InodeNo(op.parent), &op.name, &new, out)?;
        self.hold_open(by, inode);
        Ok(Reply::Attr(self.attr(inode)?))
    }

    pub(super) fn mknod(&mut self, by: SessionId, op: &pb::Mknod, out: &mut Out) -> Res<Reply> {
        let kind = if op.mode & S_IFMT == 0 { S_IFREG } else { op.mode & S_IFMT };
        let rdev = match kind {
            S_IFREG | S_IFIFO | S_IFSOCK => 0,
            S_IFCHR | S_IFBLK => op.rdev,
            _ => return fail(ErrorCode::Invalid, format!("mknod cannot make file type {kind:o}")),
        };
        let mode = kind | op.mode & PERMISSIONS;
        let new = New { mode, umask: op.umask, uid: op.uid, gid: op.gid, rdev, target: None };
        let inode = self.add(by, InodeNo(op.parent), &op.name, &new, out)?;
        Ok(Reply::Attr(self.attr(inode)?))
    }

    pub(super) fn mkdir(&mut self, by: SessionId, op: &pb::Mkdir, out: &mut Out) -> Res<Reply> {
        let mode = S_IFDIR | op.mode & PERMISSIONS;
        let new = New { mode, umask: op.umask, uid: op.uid, gid: op.gid, rdev: 0, target: None };
        let inode = self.add(by, InodeNo(op.parent), &op.name, &new, out)?;
        Ok(Reply::Attr(self.attr(inode)?))
    }

    pub(super) fn symlink(&mut self, by: SessionId, op: &pb::Symlink, out: &mut Out) -> Res<Reply> {
        if op.target.len() > MAX_SYMLINK_LEN {
            return fail(ErrorCode::NameTooLong, format!("link target is over {MAX_SYMLINK_LEN} bytes"));
        }
        if op.target.is_empty() {
            return fail(ErrorCode::NotFound, "link target is empty");
        }
        if op.target.contains(&0) {
            return fail(ErrorCode::Invalid, "link target contains a NUL");
        }
        let new = New {
            mode: S_IFLNK | 0o777,
            umask: 0,
            uid: op.uid,
            gid: op.gid,
            rdev: 0,
            target: Some(&op.target),
        };
        let inode = self.add(by, InodeNo(op.parent), &op.name, &new, out)?;
        Ok(Reply::Attr(self.attr(inode)?))
    }

    pub(super) fn link(&mut self, by: SessionId, op: &pb::Link, out: &mut Out) -> Res<Reply> {
        let (inode, parent) = (InodeNo(op.inode), InodeNo(op.parent));
        self.check_free(parent, &op.name)?;
        let node = self.inode(inode)?;
        if node.is_dir() {
            return fail(ErrorCode::Permission, format!("inode {inode} is a directory: it cannot be linked"));
        }
        if node.nlink == 0 {
            return fail(ErrorCode::NotFound, format!("inode {inode} has no name any more"));
        }
        self.check_links(inode)?;
        self.check_quota_for_name(Some(inode), parent)?;
        let now = out.now;
        let node = self.inode_mut(inode, out)?;
        node.nlink += 1;
        node.ctime = now.into();
        self.put_entry(parent, &op.name, inode, out)?;
        self.name_changed(by, parent, &op.name, out);
        self.inode_changed(by, inode, false, out);
        Ok(Reply::Attr(self.attr(inode)?))
    }

    pub(super) fn unlink(&mut self, by: SessionId, op: &pb::Unlink, out: &mut Out) -> Res<Reply> {
        let parent = InodeNo(op.parent);
        let inode = self.entry(parent, &op.name)?;
        if self.inode(inode)?.is_dir() {
            return fail(ErrorCode::IsDirectory, format!("'{}' is a directory", shown(&op.name)));
        }
        self.drop_entry(parent, &op.name, out)?;
        self.name_changed(by, parent, &op.name, out);
        self.inode_changed(by, inode, false, out);
        let removed = Some(self.drop_link(inode, (parent, &op.name), out)?);
        Ok(Reply::Gone(pb::Gone { removed, ..Default::default() }))
    }

    pub(super) fn rmdir(&mut self, by: SessionId, op: &pb::Rmdir, out: &mut Out) -> Res<Reply> {
        let parent = InodeNo(op.parent);
        let inode = self.entry(parent, &op.name)?;
        if !self.dir(inode)?.entries.is_empty() {
            return fail(ErrorCode::NotEmpty, format!("directory '{}' is not empty", shown(&op.name)));
        }
        self.drop_entry(parent, &op.name, out)?;
        let directory = self.inode_mut(parent, out)?;
        directory.nlink = directory.nlink.saturating_sub(1);
        self.name_changed(by, parent, &op.name, out);
        self.inode_changed(by, inode, false, out);
        let removed = Some(self.drop_link(inode, (parent, &op.name), out)?);
        Ok(Reply::Gone(pb::Gone { removed, ..Default::default() }))
    }

    pub(super) fn readlink(&self, op: &pb::Readlink, out: &mut Out) -> Res<Reply> {
        let inode = InodeNo(op.inode);
        out.show(inode);
        match &self.inode(inode)?.body {
            Body::Symlink(link) => {
                Ok(Reply::Target(pb::LinkTarget { target: bytes::Bytes::copy_from_slice(&link.target) }))
            }
            _ => fail(ErrorCode::Invalid, format!("inode {inode} is not a symbolic link")),
        }
    }

    pub(super) fn readdir(&self, op: &pb::Readdir, out: &mut Out) -> Res<Reply> {
        let inode = InodeNo(op.inode);
        out.show(inode);
        let dir = self.dir(inode)?;
        let limit = match op.limit as usize {
            0 => READDIR_PAGE,
            limit => limit.min(READDIR_PAGE),
        };
        let mut rest = dir.entries.after(&op.after);
        let mut entries = Vec::new();
        for (name, child) in rest.by_ref().take(limit) {
            out.show(child);
            let name = bytes::Bytes::copy_from_slice(name);
            entries.push(pb::DirEntry { name, attr: Some(self.attr(child)?) });
        }
        let end = rest.next().is_none();
        Ok(Reply::Entries(pb::DirEntries { entries, end, parent: dir.parent.0 }))
    }
}
