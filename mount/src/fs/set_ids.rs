//! Clearing a file's set-user-id and set-group-id bits for a write, where the kernel leaves that to us: it does, for
//! writes past its pages.

use std::sync::atomic::Ordering;

use dfs_proto::pb;

use super::{Fs, Result};

impl Fs {
    /// May the file still have set-id bits, for all that this handle knows? It is asked once per handle: bits that
    /// are set while a file is open for such writes stay.
    pub fn may_have_set_ids(&self, handle: u64) -> bool {
        self.handles.get(handle).is_ok_and(|handle| !handle.set_ids_cleared.load(Ordering::Relaxed))
    }

    /// Clears the set-id bits, as Linux does for a write of somebody without privileges. True: there were some.
    ///
    /// # Errors
    /// The master's.
    pub async fn clear_set_ids(&self, handle: u64) -> Result<bool> {
        let handle = self.handles.get(handle)?;
        let inode = handle.file.inode;
        let mode = self.client.getattr(inode).await?.mode;
        // Without group execution the bit means mandatory locking, and stays.
        let set_gid = if mode & libc::S_IXGRP != 0 { libc::S_ISGID } else { 0 };
        let clear = mode & (libc::S_ISUID | set_gid);
        if clear != 0 {
            let mode = Some(mode & 0o7777 & !clear);
            self.setattr(None, pb::Setattr { inode: inode.0, mode, ..Default::default() }).await?;
        }
        handle.set_ids_cleared.store(true, Ordering::Relaxed);
        Ok(clear != 0)
    }
}
