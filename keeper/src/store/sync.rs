//! Bringing chunks to stable storage, many at once.
//!
//! A chunk is synced when its file's data and the directory entry that names it are. Directories are
//! shared: a directory sync that begins after several files were renamed into it counts for all of
//! them. A large batch is one syncfs(2): the file system's journal is then written once.
//!
//! A failed fsync(2) may have dropped the pages that it could not write, and a second one would not
//! say so again; so such a chunk counts as bad. Where the disk has become read-only it does not: it can still be read,
//! and may be the only one. It is tried again, and counts as synced when its bytes have been read back from the disk.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dfs_proto::ids::ChunkId;

use crate::identity::DataDir;
use crate::store::error::StoreError;
use crate::store::{BadChunk, ChunkStore, chunk_path, shard};

/// From this many chunks on, one syncfs is cheaper than an fsync each.
const WHOLE_FILE_SYSTEM_FROM: usize = 32;

/// One directory's syncs.
#[derive(Debug, Default)]
struct Slot {
    asked: AtomicU64,
    done: Mutex<u64>,
}

/// The 256 chunk directories.
#[derive(Debug)]
pub(super) struct DirSyncs(Vec<Slot>);

impl DirSyncs {
    pub fn new() -> DirSyncs {
        DirSyncs((0..256).map(|_| Slot::default()).collect())
    }

    /// Returns when what was in directory `shard` before the call is on stable storage.
    fn sync(&self, dir: &DataDir, shard: u8) -> io::Result<()> {
        let slot = &self.0[usize::from(shard)];
        let mine = slot.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut done = slot.done.lock().unwrap_or_else(PoisonError::into_inner);
        if *done >= mine {
            return Ok(());
        }
        let covers = slot.asked.load(Ordering::SeqCst);
        dir.files().sync_dir(&dir.path().join(format!("chunks/{shard:02x}")))?;
        *done = covers;
        Ok(())
    }
}

/// How a batch ended.
#[derive(Debug, Default)]
pub(crate) struct SyncReport {
    /// On stable storage.
    pub synced: Vec<ChunkId>,
    /// Not here, or bad.
    pub failed: Vec<BadChunk>,
}

impl ChunkStore {
    /// Brings these chunks to stable storage. Chunks that are there already cost nothing.
    pub fn sync(&self, chunks: &[ChunkId]) -> SyncReport {
        let mut report = SyncReport::default();
        let mut to_do = Vec::new();
        {
            let index = self.index();
            for &chunk in chunks {
                match index.get(chunk) {
                    None => report.failed.push((chunk, StoreError::NotFound(chunk))),
                    Some(entry) if entry.synced => report.synced.push(chunk),
                    Some(_) => to_do.push(chunk),
                }
            }
        }
        if to_do.len() < WHOLE_FILE_SYSTEM_FROM || self.sync_file_system().is_err() {
            to_do = self.sync_files(to_do, &mut report);
        }
        for chunk in to_do {
            if !self.unsure().contains(&chunk) {
                report.synced.push(chunk);
                continue;
            }
            match self.scrub(chunk, |_| {}) {
                Ok(()) => {
                    self.unsure().remove(&chunk);
                    report.synced.push(chunk);
                }
                Err(error) => report.failed.push((chunk, error)),
            }
        }
        let mut index = self.index();
        report.synced.iter().for_each(|&chunk| index.mark_synced(chunk));
        report
    }

    /// Chunks that could not be synced when the disk was read-only.
    pub(super) fn unsure(&self) -> MutexGuard<'_, BTreeSet<ChunkId>> {
        self.unsure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything on the file system of the data directory.
    pub(super) fn sync_file_system(&self) -> io::Result<()> {
        self.dir.files().sync_file_system(self.dir.path())
    }

    /// Returns those that went well.
    fn sync_files(&self, chunks: Vec<ChunkId>, report: &mut SyncReport) -> Vec<ChunkId> {
        let mut good = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let file = File::open(chunk_path(self.dir.path(), chunk));
            match file.and_then(|file| self.dir.files().sync_file(&file)) {
                Ok(()) => good.push(chunk),
                // Deleted or quarantined since we looked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    report.failed.push((chunk, self.forget_missing(chunk)));
                }
                Err(error) => report.failed.push((chunk, self.sync_failed(chunk, &error))),
            }
        }
        let shards: BTreeSet<u8> = good.iter().map(|&chunk| shard(chunk)).collect();
        for dir in shards {
            if let Err(error) = self.dir_syncs.sync(&self.dir, dir) {
                for chunk in good.extract_if(.., |chunk| shard(*chunk) == dir) {
                    report.failed.push((chunk, self.sync_failed(chunk, &error)));
                }
            }
        }
        good
    }

    fn sync_failed(&self, chunk: ChunkId, error: &io::Error) -> StoreError {
        if error.kind() == io::ErrorKind::ReadOnlyFilesystem {
            self.unsure().insert(chunk);
            return StoreError::ReadOnly(chunk);
        }
        self.quarantine(chunk, None, &format!("it could not be synced: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_sync_counts_for_all_who_asked_before_it_began() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("chunks/05")).unwrap();
        let dir = DataDir::open(temp.path()).unwrap();
        let syncs = DirSyncs::new();
        syncs.sync(&dir, 5).unwrap();
        assert_eq!(*syncs.0[5].done.lock().unwrap(), 1);
        // Two more ask; the sync of the second one, which comes first to the lock, covers both.
        syncs.0[5].asked.fetch_add(1, Ordering::SeqCst);
        syncs.sync(&dir, 5).unwrap();
        assert_eq!(*syncs.0[5].done.lock().unwrap(), 3);
        assert!(syncs.sync(&dir, 6).is_err(), "no such directory");
    }
}
