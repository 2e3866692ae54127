//! Extended attributes.

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use super::{Caller, Fs, Result, virtual_xattr};

/// Of a program: what it may do (capabilities(7)).
pub(super) const CAPABILITY: &[u8] = b"security.capability";

/// The names that the kernel asks for by itself.
pub(super) fn is_security(name: &[u8]) -> bool {
    is_access_list(name) || name == CAPABILITY
}

/// Of these, access lists.
pub fn is_access_list(name: &[u8]) -> bool {
    matches!(name, b"system.posix_acl_access" | b"system.posix_acl_default")
}

/// Attributes that mean something to us or to nobody but their owners.
fn check_namespace(name: &[u8]) -> Result<()> {
    let known = [&b"user."[..], b"trusted.", b"security."].iter().any(|known| name.starts_with(known));
    if known || is_access_list(name) {
        return Ok(());
    }
    let name = String::from_utf8_lossy(name);
    Err(DfsError::new(
        ErrorCode::NotSupported,
        format!("extended attribute '{name}': only user.*, trusted.*, security.* and access lists are kept"),
    ))
}

impl Fs {
    /// Value of an extended attribute.
    ///
    /// # Errors
    /// `NoData`, and others of the master's; `NotSupported` for a name that nobody knows.
    pub async fn getxattr(&self, caller: Caller, inode: InodeNo, name: &[u8]) -> Result<Bytes> {
        check_namespace(name)?;
        if virtual_xattr::is_virtual(name) {
            caller.check_read_attribute(&self.client, inode, name).await?;
            return self.virtual_xattr(inode, name).await;
        }
        if is_security(name) && !self.lacking.has_none(inode, name) {
            // Whoever asks for one of them will ask for the others.
            self.seen(self.client.getattr(inode)).await?;
        }
        if self.lacking.has_none(inode, name) {
            return Err(DfsError::new(ErrorCode::NoData, format!("inode {inode} is known to have none")));
        }
        caller.client(&self.client).await.getxattr(inode, name).await
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// As [`Fs::getxattr`].
    pub async fn setxattr(&self, caller: Caller, setxattr: pb::Setxattr) -> Result<()> {
        check_namespace(&setxattr.name)?;
        virtual_xattr::check_writable(&setxattr.name)?;
        let inode = InodeNo(setxattr.inode);
        // Whether the set-group-id bit stays hangs on the groups of who sets an access list.
        let client = match is_access_list(&setxattr.name) {
            true => caller.known_client(&self.client).await,
            false => caller.client(&self.client).await,
        };
        self.change_xattrs(inode, client.setxattr(setxattr)).await
    }

    /// Names of the extended attributes, each with a NUL behind it (listxattr(2)). Those of `trusted` are for root
    /// alone; the kernel leaves that to us.
    ///
    /// # Errors
    /// The master's.
    pub async fn listxattr(&self, caller: Caller, inode: InodeNo) -> Result<Vec<u8>> {
        if self.lacking.has_no_xattrs(inode) {
            return Ok(Vec::new());
        }
        let names = self.client.listxattr(inode).await?;
        let shown = names.iter().filter(|name| caller.is_root() || !name.starts_with(b"trusted."));
        Ok(shown.flat_map(|name| name.iter().copied().chain([0])).collect())
    }

    /// Takes an extended attribute away.
    ///
    /// # Errors
    /// As [`Fs::getxattr`].
    pub async fn removexattr(&self, caller: Caller, inode: InodeNo, name: &[u8]) -> Result<()> {
        check_namespace(name)?;
        virtual_xattr::check_writable(name)?;
        let client = caller.client(&self.client).await;
        self.change_xattrs(inode, client.removexattr(inode, name)).await
    }

    /// Does a change of extended attributes.
    pub(super) async fn change_xattrs(
        &self,
        inode: InodeNo,
        work: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let _changing = self.board.begin(&[]);
        self.lacking.forget(inode);
        let changed = work.await;
        // Also what was asked while it was being done.
        self.lacking.forget(inode);
        self.trust.attrs_changed(inode);
        changed
    }
}
