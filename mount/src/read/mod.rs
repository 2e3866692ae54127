//! The read path: where bytes lie, from whom they are fetched, and what of them is kept.
//!
//! - [`planner`]: extents, offset, length -> holes, and ranges of chunks with the keeper to ask first (pure).
//! - `layout`: what the master said of one file, cached until it is invalidated or its tickets grow old.
//! - `ahead`: the question for it, also before the file is open.
//! - `fetch`: one range, verified, from whichever keeper gives it; the hedging of late ones.
//! - `attempt`: one try at one keeper, and the verification of what it sent.
//! - `flights`: one fetch for all who want the same blocks at the same time.
//! - `latency`: how long a range takes these days, and so when one is late (pure).
//! - `suspects`: keepers that failed a moment ago, to be asked last (pure).
//! - `prefetch`: what a sequential reader will want next.
//! - `cache`: verified blocks and verified lists of block checksums, bounded.
//! - `parts`: the bytes of a read, put together.
//! - `file`: these put together: the reader of one file.
//!
//! Chunks are immutable, so that a verified block may be kept under (chunk, index) for ever; only the layout can
//! grow old. What must hold:
//!
//! - nothing leaves this module, or enters the cache, that was not verified against the master's record;
//! - each attempt owns its buffers, and only the winner's are published;
//! - a read that starts after `invalidate` returned uses a layout that was asked for after it;
//! - the bytes of a read are those of one content of the file, and end where that ends;
//! - every read ends within a deadline.

mod ahead;
mod attempt;
mod cache;
mod fetch;
mod file;
mod flights;
mod latency;
mod layout;
mod parts;
pub mod planner;
mod prefetch;
mod suspects;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use dfs_proto::ids::InodeNo;

pub use ahead::LayoutAhead;
pub use cache::CacheCounters;
use fetch::Fetcher;
pub use file::{Content, FileReader};
use prefetch::Prefetcher;
pub use prefetch::ReadStream;

use crate::client::Client;
use crate::client::data::Buffers;
use crate::lock::lock;

/// All files being read by this process, and what they share: the cache, the fetches under way, and what is
/// known of the keepers.
pub struct Readers {
    fetcher: Arc<Fetcher>,
    prefetcher: Arc<Prefetcher>,
    files: Mutex<HashMap<InodeNo, Weak<FileReader>>>,
}

impl Readers {
    /// `cache_bytes` bounds what the block cache holds. The fetches run on the client's lanes.
    pub fn new(client: Client, cache_bytes: u64) -> Arc<Readers> {
        Arc::new(Readers {
            fetcher: Arc::new(Fetcher::new(client, cache_bytes)),
            prefetcher: Arc::new(Prefetcher::new(cache_bytes)),
            files: Mutex::default(),
        })
    }

    /// The reader of `inode`; all who ask while one is held get the same.
    pub fn file(self: &Arc<Self>, inode: InodeNo) -> Arc<FileReader> {
        let mut files = lock(&self.files);
        if let Some(reader) = files.get(&inode).and_then(Weak::upgrade) {
            return reader;
        }
        if files.len() == files.capacity() {
            // About to grow: first drop what is not used any more.
            files.retain(|_, reader| reader.strong_count() > 0);
        }
        let reader = Arc::new(FileReader::new(inode, self.fetcher.clone(), self.prefetcher.clone()));
        files.insert(inode, Arc::downgrade(&reader));
        reader
    }

    /// Where buffers of large reads go when those are answered.
    pub fn buffers(&self) -> &Arc<Buffers> {
        &self.fetcher.buffers
    }

    /// Ranges that were asked of one more keeper: because one was late, and because one failed.
    pub fn second_attempts(&self) -> (u64, u64) {
        (self.fetcher.hedges.get(), self.fetcher.retries.get())
    }

    /// Hits, misses and bytes of the block cache.
    pub fn cache_counters(&self) -> CacheCounters {
        self.fetcher.cache.counters()
    }
}
