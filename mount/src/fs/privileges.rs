//! What a write takes away from a file: its set-user-id and set-group-id bits, if somebody without privileges writes, and
//! its capability, whoever does. The kernel leaves that to us for writes past its pages.

use dfs_proto::error::ErrorCode;
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use super::xattrs::CAPABILITY;
use super::{Fs, Result};

/// How often is looked again whether nothing is left.
const ATTEMPTS: u32 = 3;

/// The bits of a mode that a write clears. Without group execution the set-group-id bit means mandatory locking, and
/// stays.
pub(super) fn set_ids(mode: u32) -> u32 {
    let set_gid = if mode & libc::S_IXGRP != 0 { libc::S_ISGID } else { 0 };
    mode & (libc::S_ISUID | set_gid)
}

impl Fs {
    /// May a write through this handle have to take something away? `keeps_set_ids`: for who writes, the bits stay.
    /// While the session is broken nobody can say, and what is appended under the lease goes on: the first write after
    /// that takes away what there is.
    pub fn may_be_privileged(&self, handle: u64, keeps_set_ids: bool) -> bool {
        let Ok(handle) = self.handles.get(handle) else { return false };
        let file = &handle.file;
        !file.is_cut_off() && !self.lacking.is_unprivileged(file.inode, keeps_set_ids)
    }

    /// Takes away what a write does. True: there was something.
    ///
    /// # Errors
    /// The master's.
    pub async fn clear_privileges(&self, handle: u64, keeps_set_ids: bool) -> Result<bool> {
        let inode = self.handles.get(handle)?.file.inode;
        let mut cleared = false;
        for _ in 0..ATTEMPTS {
            let mark = self.lacking.mark();
            let attr = self.client.getattr(inode).await?;
            let bits = if keeps_set_ids { 0 } else { set_ids(attr.mode) };
            let capable = attr.has_security && self.has_capability(inode).await?;
            if bits == 0 && !capable {
                self.lacking.learn_unprivileged(mark, &attr);
                break;
            }
            if bits != 0 {
                let mode = Some(attr.mode & 0o7777 & !bits);
                self.setattr(None, pb::Setattr { inode: inode.0, mode, ..Default::default() }).await?;
            }
            if capable {
                self.remove_capability(inode).await?;
            }
            cleared = true;
        }
        Ok(cleared)
    }

    async fn has_capability(&self, inode: InodeNo) -> Result<bool> {
        match self.client.getxattr(inode, CAPABILITY).await {
            Ok(_) => Ok(true),
            Err(error) if error.code == ErrorCode::NoData => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn remove_capability(&self, inode: InodeNo) -> Result<()> {
        match self.change_xattrs(inode, self.client.removexattr(inode, CAPABILITY)).await {
            // Somebody else was quicker.
            Err(error) if error.code == ErrorCode::NoData => Ok(()),
            removed => removed,
        }
    }
}
