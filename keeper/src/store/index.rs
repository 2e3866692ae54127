//! What is in the store, in memory: chunk -> length, checksum, and how stable it is.

use std::collections::HashMap;

use dfs_proto::ids::ChunkId;
use dfs_proto::pb;

/// What a power cut leaves of a chunk, the least first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Stability {
    /// Perhaps nothing.
    Volatile,
    /// A record in the journal, of which the next start makes the file again.
    Journaled,
    /// Its file and the name of that.
    Synced,
}

/// One chunk file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// Bytes of data.
    pub length: u32,
    /// Over its block checksums, as the master records it.
    pub checksum: u32,
    /// Does it last?
    pub stability: Stability,
}

/// All chunk files.
#[derive(Debug, Default)]
pub(crate) struct Index {
    chunks: HashMap<ChunkId, Entry>,
    bytes: u64,
}

impl Index {
    pub fn get(&self, chunk: ChunkId) -> Option<Entry> {
        self.chunks.get(&chunk).copied()
    }

    pub fn insert(&mut self, chunk: ChunkId, entry: Entry) {
        self.remove(chunk);
        self.bytes += u64::from(entry.length);
        self.chunks.insert(chunk, entry);
    }

    pub fn remove(&mut self, chunk: ChunkId) -> Option<Entry> {
        let gone = self.chunks.remove(&chunk);
        self.bytes -= gone.map_or(0, |entry| u64::from(entry.length));
        gone
    }

    /// It is this stable at least.
    pub fn mark(&mut self, chunk: ChunkId, stability: Stability) {
        if let Some(entry) = self.chunks.get_mut(&chunk) {
            entry.stability = entry.stability.max(stability);
        }
    }

    pub fn mark_all_synced(&mut self) {
        self.chunks.values_mut().for_each(|entry| entry.stability = Stability::Synced);
    }

    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Bytes of all chunks.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Chunks with higher ids than this one, by id, with their bytes.
    pub fn list_after(&self, after: ChunkId) -> Vec<(ChunkId, u32)> {
        let behind = self.chunks.iter().filter(|(chunk, _)| **chunk > after);
        let mut list: Vec<_> = behind.map(|(chunk, entry)| (*chunk, entry.length)).collect();
        list.sort_unstable();
        list
    }

    /// Every chunk, in no order.
    pub fn list(&self) -> Vec<pb::ChunkInfo> {
        self.chunks
            .iter()
            .map(|(chunk, entry)| pb::ChunkInfo {
                chunk: chunk.0,
                length: entry.length,
                checksum: entry.checksum,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_follow_what_is_there() {
        let mut index = Index::default();
        let entry = |length| Entry { length, checksum: 1, stability: Stability::Volatile };
        index.insert(ChunkId(1), entry(10));
        index.insert(ChunkId(2), entry(5));
        index.insert(ChunkId(1), entry(7));
        assert_eq!((index.len(), index.bytes()), (2, 12));
        assert_eq!(index.remove(ChunkId(1)), Some(entry(7)));
        assert_eq!(index.remove(ChunkId(1)), None);
        assert_eq!((index.len(), index.bytes()), (1, 5));
    }
}
