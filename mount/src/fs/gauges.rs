//! How full and how well all of it is, for metrics.

use super::Fs;
use crate::client::Client;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Gauges {
    /// Blocks that were asked for and found, or not.
    pub cache_hits: u64,
    pub cache_misses: u64,
    pub cache_bytes: u64,
    pub write_buffer_used: u64,
    pub write_buffer_size: u64,
    /// Ranges that were asked of one more keeper: because one was late, because one failed.
    pub hedges: u64,
    pub read_retries: u64,
    /// Uploads that began anew at another keeper.
    pub upload_retries: u64,
    pub session_up: bool,
    pub master_down: bool,
    /// Streams to the master that there have been.
    pub streams: u64,
}

impl Fs {
    /// Who asks the master and the keepers, and knows how long that takes.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// At this moment. Cheap, but not for every request.
    pub fn gauges(&self) -> Gauges {
        let (readers, writers) = (self.files.readers(), &self.writers);
        let (cache, (hedges, read_retries)) = (readers.cache_counters(), readers.second_attempts());
        let (write_buffer_used, write_buffer_size) = writers.budget();
        Gauges {
            cache_hits: cache.hits,
            cache_misses: cache.misses,
            cache_bytes: cache.bytes,
            write_buffer_used,
            write_buffer_size,
            hedges,
            read_retries,
            upload_retries: writers.retries(),
            session_up: self.client.is_up(),
            master_down: self.client.is_master_down(),
            streams: self.client.stream(),
        }
    }
}
