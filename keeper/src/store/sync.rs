//! Bringing chunks to stable storage, many at once.
//!
//! A chunk is synced when its file's data and the directory entry that names it are. Directories are
//! shared: a directory sync that begins after several files were renamed into it counts for all of
//! them. A large batch is one syncfs(2): the file system's journal is then written once. A few small chunks that somebody
//! waits for go to our own journal first ([`super::journal`]), and their files are synced with the next batch.
//!
//! A failed fsync(2) may have dropped the pages that it could not write, and a second one would not
//! say so again; so such a chunk counts as bad. Where the disk has become read-only it does not: it can still be read,
//! and may be the only one. It is tried again, and counts as synced when its bytes have been read back from the disk.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::sync::{MutexGuard, PoisonError};

use dfs_proto::ids::ChunkId;

use crate::identity::DataDir;
use crate::store::error::StoreError;
use crate::store::group_sync::GroupSync;
use crate::store::index::Stability;
use crate::store::journal::{self, Record};
use crate::store::{BadChunk, ChunkStore, chunk_path, shard};

/// From this many chunks on, one syncfs is cheaper than an fsync each.
const WHOLE_FILE_SYSTEM_FROM: usize = 32;

/// The 256 chunk directories.
#[derive(Debug)]
pub(super) struct DirSyncs(Vec<GroupSync>);

impl DirSyncs {
    pub fn new() -> DirSyncs {
        DirSyncs((0..256).map(|_| GroupSync::default()).collect())
    }

    /// Returns when what was in directory `shard` before the call is on stable storage.
    fn sync(&self, dir: &DataDir, shard: u8) -> io::Result<()> {
        let sync = || dir.files().sync_dir(&dir.path().join(format!("chunks/{shard:02x}")));
        self.0[usize::from(shard)].sync(sync)
    }
}

/// How a batch ended.
#[derive(Debug, Default)]
pub(crate) struct SyncReport {
    /// On stable storage.
    pub synced: Vec<ChunkId>,
    /// Not here, or bad.
    pub failed: Vec<BadChunk>,
    /// Some are in the journal, and not yet in their files.
    pub journaled: bool,
}

impl ChunkStore {
    /// Brings these chunks to stable storage, for somebody who waits. Chunks that are there already cost nothing. Where some are
    /// in the journal alone, [`ChunkStore::settle`] has to follow.
    pub fn sync(&self, chunks: &[ChunkId]) -> SyncReport {
        let mut report = SyncReport::default();
        let mut to_do = self.less_stable(chunks, Stability::Journaled, &mut report);
        if to_do.len() < WHOLE_FILE_SYSTEM_FROM {
            to_do = self.sync_in_journal(to_do, &mut report);
        }
        self.sync_in_files(to_do, &mut report);
        report
    }

    /// The same, but in their own files, and those that are in the journal with them, so that it can be written again.
    pub fn settle(&self, chunks: &[ChunkId]) -> SyncReport {
        let mut report = SyncReport::default();
        let mut to_do = self.less_stable(chunks, Stability::Synced, &mut report);
        let journaled = self.journal.turn();
        let unsettled = |chunk: &ChunkId| {
            self.index().get(*chunk).is_some_and(|entry| entry.stability < Stability::Synced)
        };
        to_do.extend(journaled.iter().filter(|chunk| unsettled(chunk)));
        to_do.sort_unstable();
        to_do.dedup();
        self.sync_in_files(to_do, &mut report);
        // Those that are in the journal were reported before.
        let wanted: BTreeSet<&ChunkId> = chunks.iter().collect();
        report.synced.retain(|chunk| wanted.contains(chunk));
        if !journaled.iter().any(unsettled) {
            self.journal.settled();
        }
        report
    }

    /// Those of the chunks that are not this stable. The others are reported.
    fn less_stable(&self, chunks: &[ChunkId], than: Stability, report: &mut SyncReport) -> Vec<ChunkId> {
        let index = self.index();
        let mut less = Vec::new();
        for &chunk in chunks {
            match index.get(chunk) {
                None => report.failed.push((chunk, StoreError::NotFound(chunk))),
                Some(entry) if entry.stability >= than => report.synced.push(chunk),
                Some(_) => less.push(chunk),
            }
        }
        less
    }

    /// Returns those that have no place there.
    fn sync_in_journal(&self, chunks: Vec<ChunkId>, report: &mut SyncReport) -> Vec<ChunkId> {
        let (mut left, mut written) = (Vec::new(), Vec::new());
        for chunk in chunks {
            match self.record(chunk) {
                Ok(record) => match record.and_then(|record| self.journal.write(&self.dir, &record)) {
                    Some(place) => written.push((chunk, place)),
                    None => left.push(chunk),
                },
                Err(error) => report.failed.push((chunk, error)),
            }
        }
        for (chunk, place) in written {
            if self.journal.sync(&self.dir, &place) {
                self.index().mark(chunk, Stability::Journaled);
                report.synced.push(chunk);
                report.journaled = true;
            } else {
                left.push(chunk);
            }
        }
        left
    }

    /// `None`: it is not for the journal.
    fn record(&self, chunk: ChunkId) -> Result<Option<Record>, StoreError> {
        if self.index().get(chunk).is_none_or(|entry| entry.length as usize > journal::LONGEST)
            || self.unsure().contains(&chunk)
        {
            return Ok(None);
        }
        let open = self.open_chunk(chunk)?;
        let data = self.read_block(&open, 0)?.into();
        Ok(Some(Record { chunk, data, sums: open.header.sums }))
    }

    fn sync_in_files(&self, mut to_do: Vec<ChunkId>, report: &mut SyncReport) {
        if to_do.len() < WHOLE_FILE_SYSTEM_FROM || self.sync_file_system().is_err() {
            to_do = self.sync_files(to_do, report);
        }
        for chunk in to_do {
            let sure = !self.unsure().contains(&chunk);
            match if sure { Ok(()) } else { self.scrub(chunk, |_| {}) } {
                Ok(()) => {
                    self.unsure().remove(&chunk);
                    self.index().mark(chunk, Stability::Synced);
                    report.synced.push(chunk);
                }
                Err(error) => report.failed.push((chunk, error)),
            }
        }
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
