//! Verified blocks, and verified lists of block checksums. Both bounded, both least-recently-used first out.
//!
//! What a program read in sequence is kept by the kernel, in its page cache, and to keep it twice is a waste: of such blocks
//! the last 16 MiB stay, and their memory is used for the next ones. So a film that is played pushes nothing else out,
//! and costs no fresh memory.
//!
//! What must hold: the blocks' bytes, with what it costs to keep them, never exceed the bound; and only verified
//! bytes are put in, so that a hit needs no check.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dfs_proto::block_sum::{BLOCK_SIZE, BlockSums};
use dfs_proto::ids::ChunkId;
use lru::LruCache;

use super::lock;
use crate::client::data::Buffers;

/// What a block costs beside its bytes: the entry, its place in the order, the buffer's own head.
const OVERHEAD: u64 = 192;
/// A shard should hold many blocks, or the split would waste the bound.
const MIN_SHARD_BYTES: u64 = 8 * 1024 * 1024;
const MAX_SHARDS: u64 = 16;
/// Of what was passed on in sequence, in bytes; and never more than this part of the bound.
const PASSED_BYTES: u64 = 16 * 1024 * 1024;
const PASSED_PART: u64 = 8;
/// Lists of checksums that are kept; one of an 8 MiB chunk has 512 bytes.
const SUM_LISTS: NonZeroUsize = match NonZeroUsize::new(8192) {
    Some(lists) => lists,
    None => NonZeroUsize::MIN,
};

/// How the block cache is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CacheCounters {
    /// Blocks asked for and found.
    pub hits: u64,
    /// Blocks asked for and not found.
    pub misses: u64,
    /// Bytes held now, the cost of keeping them included.
    pub bytes: u64,
}

type BlockKey = (ChunkId, u32);

struct Shard {
    blocks: LruCache<BlockKey, Bytes>,
    bytes: u64,
}

/// Verified blocks by chunk and index.
pub(super) struct BlockCache {
    shards: Vec<Mutex<Shard>>,
    shard_limit: u64,
    /// Those that were passed on in sequence, oldest first.
    passed: Mutex<VecDeque<BlockKey>>,
    passed_limit: usize,
    /// Where the memory of blocks goes that are not kept any more.
    buffers: Arc<Buffers>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl BlockCache {
    /// That never holds more than `limit` bytes. Blocks that it lets go of leave their memory to `buffers`.
    pub(super) fn new(limit: u64, buffers: Arc<Buffers>) -> Self {
        let count = (limit / MIN_SHARD_BYTES).clamp(1, MAX_SHARDS);
        let shard = || Mutex::new(Shard { blocks: LruCache::unbounded(), bytes: 0 });
        Self {
            shards: (0..count).map(|_| shard()).collect(),
            shard_limit: limit / count,
            passed: Mutex::default(),
            passed_limit: (PASSED_BYTES.min(limit / PASSED_PART) / BLOCK_SIZE as u64) as usize,
            buffers,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    fn shard(&self, (chunk, block): BlockKey) -> &Mutex<Shard> {
        let spread = chunk.0.wrapping_mul(31).wrapping_add(u64::from(block));
        &self.shards[(spread % self.shards.len() as u64) as usize]
    }

    /// A block, which counts as used now.
    pub(super) fn get(&self, chunk: ChunkId, block: u32) -> Option<Bytes> {
        let found = lock(self.shard((chunk, block))).blocks.get(&(chunk, block)).cloned();
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Is the block here? Counts as nothing.
    pub(super) fn contains(&self, chunk: ChunkId, block: u32) -> bool {
        lock(self.shard((chunk, block))).blocks.contains(&(chunk, block))
    }

    /// Keeps a verified block, and lets go of the least recently used ones beyond the bound.
    pub(super) fn put(&self, chunk: ChunkId, block: u32, bytes: Bytes) {
        let mut shard = lock(self.shard((chunk, block)));
        if cost(&bytes) > self.shard_limit {
            return;
        }
        shard.bytes += cost(&bytes);
        if let Some((_, old)) = shard.blocks.push((chunk, block), bytes) {
            shard.bytes -= cost(&old);
        }
        while shard.bytes > self.shard_limit {
            let Some((_, old)) = shard.blocks.pop_lru() else { break };
            shard.bytes -= cost(&old);
            self.buffers.give_back(old);
        }
    }

    /// Takes note that these blocks were passed on, in sequence, to somebody who keeps them.
    pub(super) fn pass(&self, chunk: ChunkId, blocks: Range<u32>) {
        for block in blocks {
            let oldest = {
                let mut passed = lock(&self.passed);
                passed.push_back((chunk, block));
                if passed.len() <= self.passed_limit { None } else { passed.pop_front() }
            };
            if let Some(oldest) = oldest {
                self.drop_block(oldest);
            }
        }
    }

    fn drop_block(&self, key: BlockKey) {
        let mut shard = lock(self.shard(key));
        if let Some(bytes) = shard.blocks.pop(&key) {
            shard.bytes -= cost(&bytes);
            drop(shard);
            self.buffers.give_back(bytes);
        }
    }

    pub(super) fn counters(&self) -> CacheCounters {
        CacheCounters {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            bytes: self.shards.iter().map(|shard| lock(shard).bytes).sum(),
        }
    }
}

fn cost(bytes: &Bytes) -> u64 {
    bytes.len() as u64 + OVERHEAD
}

/// Verified lists of block checksums by chunk.
pub(super) struct SumsCache {
    lists: Mutex<LruCache<ChunkId, BlockSums>>,
}

impl SumsCache {
    pub(super) fn new() -> Self {
        Self { lists: Mutex::new(LruCache::new(SUM_LISTS)) }
    }

    pub(super) fn get(&self, chunk: ChunkId) -> Option<BlockSums> {
        lock(&self.lists).get(&chunk).cloned()
    }

    /// Keeps a list that fits the master's record.
    pub(super) fn put(&self, chunk: ChunkId, sums: BlockSums) {
        lock(&self.lists).put(chunk, sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(n: u32) -> Bytes {
        Bytes::from(vec![n as u8; 65_536])
    }

    fn of(limit: u64) -> BlockCache {
        BlockCache::new(limit, Arc::new(Buffers::of_blocks()))
    }

    #[test]
    fn what_was_passed_on_is_let_go_of_and_its_memory_used_again() {
        let cache = of(128 << 20);
        let kept = (PASSED_BYTES / BLOCK_SIZE as u64) as u32;
        let fresh = || {
            let mut buffer = cache.buffers.take(BLOCK_SIZE);
            buffer.resize(BLOCK_SIZE, 1);
            buffer.freeze()
        };
        cache.put(ChunkId(7), 0, fresh());
        for n in 0..kept + 3 {
            cache.put(ChunkId(1), n, fresh());
        }
        let at: Vec<_> = (0..3).map(|n| cache.get(ChunkId(1), n).unwrap().as_ptr()).collect();
        cache.pass(ChunkId(1), 0..kept);
        assert!(cache.contains(ChunkId(1), 0), "not yet too many");
        cache.pass(ChunkId(1), kept..kept + 3);
        assert!((0..3).all(|n| !cache.contains(ChunkId(1), n)));
        assert!((3..kept + 3).all(|n| cache.contains(ChunkId(1), n)));
        assert!(cache.contains(ChunkId(7), 0), "nobody passed it on");
        let again: Vec<_> = (0..3).map(|_| fresh()).collect();
        assert!(again.iter().all(|block| at.contains(&block.as_ptr())));
        assert_eq!(cache.counters().bytes, u64::from(kept + 1) * (BLOCK_SIZE as u64 + OVERHEAD));
    }

    #[test]
    fn the_bound_holds_and_the_oldest_go_first() {
        for limit in [0, 100_000, 1 << 20, 100 << 20] {
            let cache = of(limit);
            for n in 0..3000 {
                cache.put(ChunkId(1), n, block(n));
                assert!(cache.counters().bytes <= limit);
            }
            assert!(!cache.contains(ChunkId(1), 0), "limit {limit}");
            assert_eq!(cache.contains(ChunkId(1), 2999), limit >= 100_000, "limit {limit}");
        }
    }

    #[test]
    fn a_block_that_is_used_stays() {
        let cache = of(10 * 66_000);
        for n in 0..50 {
            cache.put(ChunkId(1), n, block(n));
            assert_eq!(cache.get(ChunkId(1), 0), Some(block(0)));
        }
        assert_eq!(cache.counters().hits, 50);
        assert_eq!(cache.get(ChunkId(2), 0), None);
        assert_eq!(cache.counters().misses, 1);
    }

    #[test]
    fn putting_a_block_again_costs_nothing() {
        let cache = of(1 << 20);
        for _ in 0..100 {
            cache.put(ChunkId(1), 0, block(0));
        }
        assert_eq!(cache.counters().bytes, 65_536 + OVERHEAD);
    }

    #[test]
    fn lists_of_checksums_are_bounded() {
        let cache = SumsCache::new();
        for n in 0..SUM_LISTS.get() as u64 + 5 {
            cache.put(ChunkId(n), BlockSums::of(b"x"));
        }
        assert!(cache.get(ChunkId(0)).is_none());
        assert!(cache.get(ChunkId(SUM_LISTS.get() as u64)).is_some());
    }
}
