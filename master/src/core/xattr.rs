//! Extended attributes. The rules and limits are those of xattr(7).

use bytes::Bytes;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{InodeNo, SessionId};
use dfs_proto::pb::{self, mount_reply::Result as Reply};

use super::State;
use super::acl::{is_acl, is_security};
use super::digest::{MD5_NAME, is_reserved};
use super::namespace::shown;
use super::out::{Out, Res, fail};
use super::row::{Name, RowKey};

/// Longest name, in bytes (XATTR_NAME_MAX).
pub(super) const MAX_XATTR_NAME_LEN: usize = 255;
/// Longest value, in bytes (XATTR_SIZE_MAX).
pub(super) const MAX_XATTR_LEN: usize = 64 * 1024;
/// All names of an inode with a NUL after each, in bytes (XATTR_LIST_MAX).
const MAX_XATTR_LIST_LEN: usize = 64 * 1024;

fn check_xattr_name(name: &[u8]) -> Res<()> {
    if name.len() > MAX_XATTR_NAME_LEN {
        return fail(ErrorCode::Range, format!("attribute name is over {MAX_XATTR_NAME_LEN} bytes"));
    }
    // Of a kind alone Linux says the same for every file system with kinds.
    let kind_alone = matches!(name, b"user." | b"trusted." | b"security.");
    if name.is_empty() || kind_alone || name.contains(&0) {
        return fail(ErrorCode::Invalid, format!("'{}' cannot be the name of an attribute", shown(name)));
    }
    Ok(())
}

fn check_not_reserved(inode: InodeNo, name: &[u8]) -> Res<()> {
    if is_reserved(name) {
        let message = format!("inode {inode}: attribute '{}' is read-only", shown(name));
        return fail(ErrorCode::Permission, message);
    }
    Ok(())
}

pub(super) fn no_data<T>(inode: InodeNo, name: &[u8]) -> Res<T> {
    fail(ErrorCode::NoData, format!("inode {inode} has no attribute '{}'", shown(name)))
}

impl State {
    pub(super) fn has_xattrs(&self, inode: InodeNo) -> bool {
        self.shown_xattrs_of(inode).next().is_some()
    }

    pub(super) fn xattrs_of(&self, inode: InodeNo) -> impl Iterator<Item = (&Name, &Bytes)> {
        let from = (inode, Name::default());
        self.xattrs.range(from..).take_while(move |((owner, _), _)| *owner == inode).map(|((_, n), v)| (n, v))
    }

    fn shown_xattrs_of(&self, inode: InodeNo) -> impl Iterator<Item = (&Name, &Bytes)> {
        self.xattrs_of(inode).filter(|(name, _)| !is_reserved(name))
    }

    pub(super) fn getxattr(&self, op: &pb::Getxattr, out: &mut Out) -> Res<Reply> {
        let inode = InodeNo(op.inode);
        out.show(inode);
        self.inode(inode)?;
        check_xattr_name(&op.name)?;
        if is_reserved(&op.name) {
            let digest = if op.name == MD5_NAME { self.digest(inode) } else { None };
            return digest
                .map_or_else(|| no_data(inode, &op.name), |value| Ok(Reply::Value(pb::Value { value })));
        }
        match self.xattrs.get(&(inode, op.name[..].into())) {
            Some(value) => Ok(Reply::Value(pb::Value { value: value.clone() })),
            None => no_data(inode, &op.name),
        }
    }

    /// `caller`: of whom an access list's change may take the set-group-id bit.
    pub(super) fn setxattr(
        &mut self,
        by: SessionId,
        caller: Option<&pb::Caller>,
        op: &pb::Setxattr,
        out: &mut Out,
    ) -> Res<Reply> {
        let inode = InodeNo(op.inode);
        out.show(inode);
        self.inode(inode)?;
        check_xattr_name(&op.name)?;
        check_not_reserved(inode, &op.name)?;
        if op.create_only && op.replace_only {
            return fail(ErrorCode::Invalid, "an attribute cannot be both created and replaced");
        }
        if op.value.len() > MAX_XATTR_LEN {
            return fail(ErrorCode::TooBig, format!("attribute value is over {MAX_XATTR_LEN} bytes"));
        }
        let key = (inode, Name::from(&op.name[..]));
        match self.xattrs.contains_key(&key) {
            true if op.create_only => {
                let message = format!("inode {inode} already has attribute '{}'", shown(&op.name));
                return fail(ErrorCode::Exists, message);
            }
            false if op.replace_only => return no_data(inode, &op.name),
            false => {
                let names: usize = self.shown_xattrs_of(inode).map(|(name, _)| name.len() + 1).sum();
                if names + op.name.len() + 1 > MAX_XATTR_LIST_LEN {
                    let message = format!("inode {inode} has too many attributes: remove some");
                    return fail(ErrorCode::NoSpace, message);
                }
            }
            true => {}
        }
        if is_acl(&op.name) {
            self.set_acl(inode, caller, op, out)?;
        } else {
            // A copy: the request's buffer is larger than the value, and would live as long as it.
            self.put_xattr(inode, &op.name, Bytes::copy_from_slice(&op.value), out);
        }
        self.xattr_changed(by, inode, out)
    }

    pub(super) fn listxattr(&self, op: pb::Listxattr, out: &mut Out) -> Res<Reply> {
        let inode = InodeNo(op.inode);
        out.show(inode);
        self.inode(inode)?;
        let names = self.shown_xattrs_of(inode).map(|(name, _)| Bytes::copy_from_slice(name)).collect();
        Ok(Reply::Names(pb::Names { names }))
    }

    pub(super) fn removexattr(&mut self, by: SessionId, op: &pb::Removexattr, out: &mut Out) -> Res<Reply> {
        let inode = InodeNo(op.inode);
        out.show(inode);
        self.inode(inode)?;
        check_xattr_name(&op.name)?;
        check_not_reserved(inode, &op.name)?;
        // A list that is not there is the mode alone already: as ext4, no error.
        if !self.drop_xattr(inode, &op.name, out) && !is_acl(&op.name) {
            return no_data(inode, &op.name);
        }
        self.xattr_changed(by, inode, out)
    }

    /// Sets one, checked.
    pub(super) fn put_xattr(&mut self, inode: InodeNo, name: &[u8], value: Bytes, out: &mut Out) {
        self.xattrs.insert((inode, name.into()), value);
        out.touch(RowKey::Xattr { inode, name: name.into() });
        self.derive_security(inode);
    }

    /// Takes one away. Was it there?
    pub(super) fn drop_xattr(&mut self, inode: InodeNo, name: &[u8], out: &mut Out) -> bool {
        let was = self.xattrs.remove(&(inode, name.into())).is_some();
        out.touch(RowKey::Xattr { inode, name: name.into() });
        self.derive_security(inode);
        was
    }

    /// Brings `Inode::has_security` up to date.
    pub(super) fn derive_security(&mut self, inode: InodeNo) {
        let has = self.xattrs_of(inode).any(|(name, _)| is_security(name));
        if let Some(node) = self.inodes.get_mut(&inode) {
            node.has_security = has;
        }
    }

    fn xattr_changed(&mut self, by: SessionId, inode: InodeNo, out: &mut Out) -> Res<Reply> {
        self.inode_mut(inode, out)?.ctime = out.now.into();
        self.inode_changed(by, inode, false, out);
        Ok(Reply::Empty(pb::Empty {}))
    }

    /// Of an inode that is going.
    pub(super) fn drop_xattrs(&mut self, inode: InodeNo, out: &mut Out) {
        let names: Vec<Name> = self.xattrs_of(inode).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.xattrs.remove(&(inode, name.clone()));
            out.touch(RowKey::Xattr { inode, name });
        }
    }
}
