//! What access lists do to inodes: setting and removing them, chmod, and what a new inode inherits (acl(5)).

use bytes::Bytes;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use super::State;
use super::acl::{self, Acl};
use super::inode::{Body, S_IFDIR, S_IFLNK, S_IFMT, S_ISGID};
use super::out::{Out, Res, fail};
use super::permission::Who;

/// The nine bits of a mode that an access list also says.
const LISTED: u32 = 0o777;

/// What a new inode gets from its directory.
pub(super) struct Heritage {
    /// With the file type.
    pub mode: u32,
    access: Option<Bytes>,
    default: Option<Bytes>,
}

impl State {
    /// The list under this name, if there is one. What is stored was checked.
    pub(super) fn acl_of(&self, inode: InodeNo, name: &[u8]) -> Option<Acl> {
        if !self.inodes.get(&inode)?.has_security {
            return None;
        }
        Acl::parse(self.xattrs.get(&(inode, name.into()))?).ok().flatten()
    }

    /// Sets the list `op` says. An access list changes the mode with it, and one that says no more than a mode is
    /// not kept. Who sets it without being in the inode's group takes the set-group-id bit away, as chmod(2) does.
    pub(super) fn set_acl(
        &mut self,
        inode: InodeNo,
        caller: Option<&pb::Caller>,
        op: &pb::Setxattr,
        out: &mut Out,
    ) -> Res<()> {
        let node = self.inode(inode)?;
        if matches!(node.body, Body::Symlink(_)) {
            let message = format!("inode {inode} is a symbolic link: it has no access list");
            return fail(ErrorCode::NotSupported, message);
        }
        let list = Acl::parse(&op.value)?;
        if op.name == acl::DEFAULT && list.is_some() && !node.is_dir() {
            let message = format!("inode {inode} is no directory: it has no default access list");
            return fail(ErrorCode::Access, message);
        }
        let keeps_set_gid = caller.is_none_or(|caller| {
            let who = Who::from(caller);
            who.is_root() || who.is_in_group(node.gid)
        });
        let Some(list) = list else {
            self.drop_xattr(inode, &op.name, out);
            return Ok(());
        };
        if op.name == acl::DEFAULT {
            self.put_xattr(inode, acl::DEFAULT, list.encode(), out);
            return Ok(());
        }
        let node = self.inode_mut(inode, out)?;
        node.mode = node.mode & !LISTED | list.mode();
        if !keeps_set_gid {
            node.mode &= !S_ISGID;
        }
        if list.is_minimal() {
            self.drop_xattr(inode, acl::ACCESS, out);
        } else {
            self.put_xattr(inode, acl::ACCESS, list.encode(), out);
        }
        Ok(())
    }

    /// The mode is about to be `mode`: the access list, if there is one, follows.
    pub(super) fn chmod_acl(&mut self, inode: InodeNo, mode: u32, out: &mut Out) {
        if let Some(mut list) = self.acl_of(inode, acl::ACCESS) {
            list.chmod(mode);
            self.put_xattr(inode, acl::ACCESS, list.encode(), out);
        }
    }

    /// What an inode that is made with `mode` in `parent` gets: by the directory's default list, or, where there is
    /// none, `mode` without the bits of `umask`.
    pub(super) fn heritage(&self, parent: InodeNo, mode: u32, umask: u32) -> Heritage {
        let kind = mode & S_IFMT;
        if kind == S_IFLNK {
            return Heritage { mode, access: None, default: None };
        }
        let Some(list) = self.acl_of(parent, acl::DEFAULT) else {
            return Heritage { mode: mode & !(umask & LISTED), access: None, default: None };
        };
        let (access, bits) = list.inherit(mode & LISTED);
        Heritage {
            mode: mode & !LISTED | bits,
            access: (!access.is_minimal()).then(|| access.encode()),
            default: (kind == S_IFDIR).then(|| list.encode()),
        }
    }

    /// Gives a new inode its lists.
    pub(super) fn inherit_acls(&mut self, inode: InodeNo, heritage: Heritage, out: &mut Out) {
        for (name, value) in [(acl::ACCESS, heritage.access), (acl::DEFAULT, heritage.default)] {
            if let Some(value) = value {
                self.put_xattr(inode, name, value, out);
            }
        }
    }
}
