//! One writer of a file among several, and what it has been told of the file's failures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dfs_proto::error::DfsError;

use super::file::{FileWriter, Place};
use super::permits_for;

/// One who writes a file: what a handle has of a [`FileWriter`]. Each hears of each failure, whoever of them wrote
/// the bytes and whoever waited for their upload: nobody else knows which bytes were whose.
pub struct WriteHandle {
    file: Arc<FileWriter>,
    /// The failures that it has been told of.
    heard: AtomicU64,
}

impl WriteHandle {
    pub(super) fn new(file: Arc<FileWriter>, heard: u64) -> WriteHandle {
        WriteHandle { file, heard: AtomicU64::new(heard) }
    }

    /// The file's.
    pub fn file(&self) -> &Arc<FileWriter> {
        &self.file
    }

    /// Writes without waiting. `None` when there is no memory for it now: use [`WriteHandle::write`].
    pub fn try_write(&self, offset: u64, data: &[u8]) -> Option<Result<(), DfsError>> {
        let permits = self.file.writers().budget.try_acquire_many(permits_for(data)).ok()?;
        permits.forget();
        Some(self.put(Place::At(offset), data).map(|_| ()))
    }

    /// Writes `data` at `offset`; waits until the budget has room for it.
    ///
    /// # Errors
    /// An earlier upload's error, until a flush has told it; `TimedOut` when no memory came free in time.
    pub async fn write(&self, offset: u64, data: &[u8]) -> Result<(), DfsError> {
        // In pieces that always fit the budget.
        let mut at = offset;
        for piece in data.chunks(self.file.writers().freeze_at) {
            if let Some(done) = self.try_write(at, piece) {
                done?;
            } else {
                self.file.wait_for_memory(piece).await?;
                self.put(Place::At(at), piece)?;
            }
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn put(&self, place: Place<'_>, data: &[u8]) -> Result<u64, DfsError> {
        self.file.put(place, data, self.heard.load(Ordering::Relaxed))
    }

    /// Appends without waiting, and returns the offset that `data` got: behind all that is here, and all that is
    /// committed, which ends at `committed()`. `None` when there is no memory for it now.
    pub fn try_append(
        &self,
        data: &[u8],
        committed: &(dyn Fn() -> u64 + Sync),
    ) -> Option<Result<u64, DfsError>> {
        let permits = self.file.writers().budget.try_acquire_many(permits_for(data)).ok()?;
        permits.forget();
        Some(self.put(Place::End(committed), data))
    }

    /// The same; waits until the budget has room for all of `data`, which must not be longer than
    /// [`super::MIN_BUDGET`].
    ///
    /// # Errors
    /// As [`WriteHandle::write`]; `TooLarge` when the file would become it.
    pub async fn append(&self, data: &[u8], committed: &(dyn Fn() -> u64 + Sync)) -> Result<u64, DfsError> {
        if let Some(done) = self.try_append(data, committed) {
            return done;
        }
        self.file.wait_for_memory(data).await?;
        self.put(Place::End(committed), data)
    }

    /// Uploads everything and returns when the master said success for every byte written before the
    /// call. With `sync`, also when they are on stable storage (fsync).
    ///
    /// # Errors
    /// That of an upload which failed since the handle was made, once; with `sync` also that of the master's
    /// answer. `TimedOut` while the master is away: nothing has failed yet.
    pub async fn flush(&self, sync: bool) -> Result<(), DfsError> {
        let synced = self.file.upload_all(sync, self.file.writers().client.master_is_away()).await?;
        let (failures, error) = self.file.failures();
        if self.heard.swap(failures, Ordering::Relaxed) < failures
            && let Some(error) = error
        {
            return Err(error);
        }
        if sync && !synced {
            self.file.writers().client.fsync(self.file.inode()).await?;
        }
        self.file.wait_for_others().await
    }
}
