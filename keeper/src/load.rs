//! What the keeper counts: bytes, requests under way, and when the last foreground request was.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dfs_proto::pb;

use crate::store::ChunkStore;

/// A foreground request this recent makes background work go slowly. Longer than a reader of a busy machine takes
/// from one request to the next.
const FOREGROUND_LASTS: Duration = Duration::from_millis(200);

/// Counters since the process started.
#[derive(Debug)]
pub(crate) struct Load {
    start: Instant,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    active_reads: AtomicU32,
    active_writes: AtomicU32,
    last_foreground_us: AtomicU64,
}

/// Counts one request for as long as it lives.
#[derive(Debug)]
pub(crate) struct Active<'a>(&'a AtomicU32);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn active(counter: &AtomicU32) -> Active<'_> {
    counter.fetch_add(1, Ordering::Relaxed);
    Active(counter)
}

impl Load {
    pub fn new() -> Load {
        Load {
            start: Instant::now(),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            active_reads: AtomicU32::new(0),
            active_writes: AtomicU32::new(0),
            last_foreground_us: AtomicU64::new(0),
        }
    }

    /// A client's read begins.
    pub fn begin_read(&self) -> Active<'_> {
        self.note_foreground();
        active(&self.active_reads)
    }

    /// A chunk begins to come in.
    pub fn begin_write(&self) -> Active<'_> {
        active(&self.active_writes)
    }

    /// Bytes went to a client.
    pub fn add_read(&self, bytes: usize) {
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
        self.note_foreground();
    }

    /// Bytes came in.
    pub fn add_written(&self, bytes: usize) {
        self.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Somebody waits for what is being done now.
    pub fn note_foreground(&self) {
        // 0 is never.
        self.last_foreground_us.store(self.elapsed_us().max(1), Ordering::Relaxed);
    }

    /// Was there a foreground request a moment ago?
    pub fn foreground_is_busy(&self) -> bool {
        let last = self.last_foreground_us.load(Ordering::Relaxed);
        last != 0 && self.elapsed_us().saturating_sub(last) < FOREGROUND_LASTS.as_micros() as u64
    }

    fn elapsed_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// For a heartbeat. Asks no disk.
    pub fn report(&self, store: &ChunkStore) -> pb::Load {
        let space = store.disk.space();
        let (chunks, used) = store.used();
        let (quarantine_files, quarantine_bytes) = store.quarantine_size();
        pb::Load {
            total: space.total,
            used,
            free: space.free,
            chunks,
            active_reads: self.active_reads.load(Ordering::Relaxed),
            active_writes: self.active_writes.load(Ordering::Relaxed),
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            bytes_written: self.bytes_written.load(Ordering::Relaxed),
            read_only: space.read_only,
            file_system: space.file_system,
            quarantine_bytes,
            quarantine_files,
            scrub: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_while_they_last() {
        let load = Load::new();
        assert!(!load.foreground_is_busy());
        let one = load.begin_read();
        let two = load.begin_read();
        assert_eq!(load.active_reads.load(Ordering::Relaxed), 2);
        assert!(load.foreground_is_busy());
        drop(one);
        drop(two);
        assert_eq!(load.active_reads.load(Ordering::Relaxed), 0);
    }
}
