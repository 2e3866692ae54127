//! What is here, as the master is told: inventories, what came in of late, and whether the files are as they were.

use std::collections::VecDeque;
use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use dfs_proto::ids::ChunkId;
use dfs_proto::pb;

use crate::store::index::{Entry, Stability};
use crate::store::{BadChunk, ChunkFile, ChunkStore, DATA_AT, chunk_path};

/// Chunks that came in, and when, the oldest first.
pub(super) type Arrivals = Mutex<VecDeque<(Instant, ChunkId)>>;

impl ChunkStore {
    /// Every chunk that is here, and is to stay.
    pub fn inventory(&self) -> Vec<pb::ChunkInfo> {
        let mut list = self.index().list();
        list.retain(|info| !self.doomed.is_doomed(ChunkId(info.chunk)));
        list
    }

    /// Looks at every chunk's file, without reading it: those that are gone, or of another size than they had,
    /// are quarantined and returned. Files that are no chunk of the index are taken in when they verify.
    pub fn look_at_files(&self) -> Vec<BadChunk> {
        let mut bad = Vec::new();
        for (chunk, length) in self.list_after(ChunkId(0)) {
            let size = fs::metadata(chunk_path(self.dir.path(), chunk)).map(|metadata| metadata.len());
            if size.ok() != Some(DATA_AT + u64::from(length)) {
                match self.open_chunk(chunk) {
                    Err(error) if error.means_bad_copy() => bad.push((chunk, error)),
                    _ => {}
                }
            }
        }
        (0..=255).for_each(|shard| self.take_in_strays(shard));
        bad
    }

    /// Somebody put chunk files here, or they could not be read at the start.
    fn take_in_strays(&self, shard: u8) {
        let path = self.dir.path().join(format!("chunks/{shard:02x}"));
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            let Some(chunk) = entry.file_name().to_str().and_then(ChunkId::from_file_name) else { continue };
            let mut index = self.index();
            if index.get(chunk).is_some() || self.doomed.is_waiting(chunk) {
                continue;
            }
            if let Ok(ChunkFile { header, .. }) = self.read_header(chunk, 0..0) {
                let entry = Entry {
                    length: header.length as u32,
                    checksum: header.sums.checksum(),
                    stability: Stability::Volatile,
                };
                self.doomed.spare(chunk);
                self.enter(&mut index, chunk, entry);
                tracing::warn!(%chunk, "a chunk file that was not known is taken in");
            }
        }
    }

    /// Chunks that came in longer ago than this, each said once, and that are here still.
    pub fn take_arrivals(&self, age: Duration) -> Vec<ChunkId> {
        self.doomed.forget_old();
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        let young = arrivals.partition_point(|(when, _)| when.elapsed() >= age);
        let mut old: Vec<ChunkId> = arrivals.drain(..young).map(|(_, chunk)| chunk).collect();
        drop(arrivals);
        let index = self.index();
        old.retain(|chunk| index.get(*chunk).is_some() && !self.doomed.is_doomed(*chunk));
        old
    }

    /// They are to be said again.
    pub fn put_arrivals_back(&self, chunks: &[ChunkId]) {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        // As old as the oldest, so that their order stays that of their times.
        let when = arrivals.front().map_or_else(Instant::now, |(when, _)| *when);
        chunks.iter().for_each(|chunk| arrivals.push_front((when, *chunk)));
    }

    /// A chunk has taken its place.
    pub(super) fn arrived(&self, chunk: ChunkId) {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.push_back((Instant::now(), chunk));
    }
}
