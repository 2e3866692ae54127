//! Locks of programs, fcntl(2)'s and flock(2)'s, against those of other mounts.
//!
//! What must hold: what was written under a lock is committed before the lock is given up, and whoever gets a lock
//! sees what was committed before.

use std::collections::BTreeSet;

use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use super::{Fs, Result};

fn tell(inode: InodeNo, unlocked: Result<()>) {
    if let Err(error) = unlocked {
        tracing::warn!(%inode, "locks of a closed file are still held at the master: {error}");
    }
}

impl Fs {
    /// Who would be in the way of this lock?
    ///
    /// # Errors
    /// See [`crate::client::Client::get_lock`].
    pub async fn get_lock(&self, lock: pb::FileLock) -> Result<Option<pb::FileLock>> {
        self.client.get_lock(lock).await
    }

    /// Takes, changes or gives up a lock; with `wait`, until it is granted or `interrupted` ends. False: the
    /// kernel's pages of the file are old and must go before the program goes on.
    ///
    /// # Errors
    /// See [`crate::client::Client::set_lock`]; when a lock is given up, also that of the upload before.
    pub async fn set_lock(
        &self,
        handle: u64,
        lock: pb::FileLock,
        wait: bool,
        interrupted: impl Future<Output = ()> + Send,
    ) -> Result<bool> {
        let file = self.files.get(InodeNo(lock.inode));
        let weaker = lock.mode() != pb::LockMode::Exclusive && self.client.holds_exclusively(&lock);
        let mut written = Ok(());
        if let Some(file) = file.as_ref().filter(|file| weaker && file.writer.has_pending()) {
            written = file.writer.settle().await;
            // Not written, and not failed either: the lock has to be kept.
            if let Err(error) = &written
                && file.writer.has_pending()
            {
                return Err(error.clone());
            }
        }
        // Who gets the lock next may have been told of the file's size before it was written, and trust that until it is told.
        if weaker
            && let Some(file) = &file
            && let Err(error) = file.writer.wait_for_others().await
        {
            tracing::warn!(inode = %file.inode, "a lock is given up though others may not know yet what was written: {error}");
        }
        let attr = self.client.set_lock(handle, lock, wait, interrupted).await?;
        written?;
        let Some((attr, file)) = attr.zip(file) else { return Ok(true) };
        let fresh = self.ledger.opened(&attr);
        file.learn(&attr);
        Ok(fresh)
    }

    /// close(2): everything written is safe, or here is the error; then the owner's locks are given up.
    ///
    /// # Errors
    /// That of the upload.
    pub async fn close_and_unlock(&self, handle: u64, inode: InodeNo, owner: u64) -> Result<()> {
        let read_only = self.handles.get(handle).is_ok_and(|handle| handle.read_only);
        let written = if read_only { Ok(()) } else { self.flush(handle).await };
        // Locks of flock(2) stay until the last use of the handle is over.
        let unlock = |kind, of, _: &BTreeSet<u64>| kind == pb::LockKind::Fcntl && of == owner;
        let unlocked = self.client.unlock_all(inode, unlock);
        if self.is_cut_off() {
            // Nobody else can get them before the master hears of it, and the upload has been waited for already.
            tokio::spawn(async move { tell(inode, unlocked.await) });
        } else {
            tell(inode, unlocked.await);
        }
        written
    }

    /// close(2) of a handle that was opened to read, of a file on which nothing is locked: there is nothing to do.
    pub fn closes_at_once(&self, handle: u64, inode: InodeNo) -> bool {
        self.handles.get(handle).is_ok_and(|handle| handle.read_only) && !self.client.has_locks(inode)
    }

    /// The last use of a handle is over: what is still locked through it (locks of flock, and of an open file
    /// description) is given up. With nothing left to commit that is asked for at once, before the future is polled,
    /// so that who tries to lock next finds the file free.
    pub fn unlock_handle(&self, inode: InodeNo, handle: u64) -> impl Future<Output = ()> + Send + 'static {
        let through = move |_, _, handles: &BTreeSet<u64>| handles.contains(&handle);
        let file = self.files.get(inode).filter(|file| file.writer.has_pending());
        let asked = file.is_none().then(|| self.client.unlock_all(inode, through));
        let client = self.client.clone();
        async move {
            if let Some(asked) = asked {
                return tell(inode, asked.await);
            }
            if let Some(file) = file
                && let Err(error) = file.writer.settle_in_the_end().await
            {
                tracing::warn!(%inode, "what was written under a lock could not be uploaded: {error}");
            }
            tell(inode, client.unlock_all(inode, through).await);
        }
    }

    /// Was a lock lost that was taken through this handle?
    pub fn lost_lock(&self, handle: u64) -> bool {
        self.client.lost_lock(handle)
    }
}
