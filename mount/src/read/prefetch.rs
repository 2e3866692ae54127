//! What a sequential reader will want next, fetched before it asks.
//!
//! Each open handle has a [`ReadStream`]. A read near the end of the earlier ones (within [`TOLERANCE`], since the
//! kernel sends its requests out of order, and players skip a little) is sequential: a window ahead of the reader is
//! fetched, 1 MiB at first, doubled each time the reader is half way through it, up to 32 MiB or a quarter of
//! the cache. A read elsewhere ends that: the window is forgotten and what was not begun is not begun any more.
//! So a random reader causes no prefetch, and a film that is played a long one.
//!
//! What must hold: at most [`PER_STREAM`] ranges of a stream are on their way, and [`IN_ALL`] of all streams.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;

use super::fetch::Wanted;
use super::file::Shared;
use super::lock;
use super::planner::{Piece, RANGE_SIZE, plan};
use crate::client::lanes::Lane;
use crate::client::operation;

const TOLERANCE: u64 = 1024 * 1024;
const FIRST_WINDOW: u64 = 1024 * 1024;
const LAST_WINDOW: u64 = 32 * 1024 * 1024;
const PER_STREAM: usize = 16;
const IN_ALL: usize = 64;

/// Where a reader is, and how far ahead of it was fetched. Pure.
#[derive(Default)]
struct Window {
    begun: bool,
    /// The end of what was read.
    end: u64,
    /// The end of what was fetched ahead.
    ahead_to: u64,
    /// Bytes; 0: not sequential so far.
    size: u64,
}

/// What to do about a read.
#[derive(PartialEq, Eq, Debug)]
enum Advice {
    /// It was elsewhere: nothing, and nothing more of what was advised before.
    Seek,
    /// It was in sequence: fetch this part of the file.
    Fetch(Range<u64>),
    /// It was in sequence, and enough is fetched.
    Enough,
}

impl Window {
    fn note(&mut self, offset: u64, length: u64, max_window: u64) -> Advice {
        let stop = offset.saturating_add(length);
        let near = self.begun && offset.abs_diff(self.end) <= TOLERANCE.max(length);
        if !near {
            *self = Window { begun: true, end: stop, ahead_to: stop, size: 0 };
            return Advice::Seek;
        }
        self.end = self.end.max(stop);
        if max_window < u64::from(RANGE_SIZE) {
            return Advice::Enough;
        }
        if self.size == 0 {
            self.size = FIRST_WINDOW.min(max_window);
        } else if self.ahead_to.saturating_sub(self.end) > self.size / 2 {
            return Advice::Enough;
        } else {
            self.size = (self.size * 2).min(max_window);
        }
        let from = self.ahead_to.max(self.end);
        let to = self.end.saturating_add(self.size);
        if to <= from {
            return Advice::Enough;
        }
        self.ahead_to = to;
        Advice::Fetch(from..to)
    }
}

struct Stream {
    window: Mutex<Window>,
    /// Grows with each seek, and when the stream ends.
    epoch: AtomicU64,
    places: Arc<Semaphore>,
}

/// The prefetch of one open handle.
pub struct ReadStream {
    stream: Arc<Stream>,
    /// Whoever reads keeps what he got, or reads it once.
    pub(super) reads_once: bool,
}

impl ReadStream {
    /// That has read nothing. What is read through it in sequence is kept by who reads it, or is not read again.
    pub fn new() -> Self {
        Self::reading(true)
    }

    /// That has read nothing. What is read through it may be read again: it is not in the page cache.
    pub fn uncached() -> Self {
        Self::reading(false)
    }

    fn reading(once: bool) -> Self {
        let window = Mutex::default();
        let places = Arc::new(Semaphore::new(PER_STREAM));
        let stream = Arc::new(Stream { window, epoch: AtomicU64::new(0), places });
        Self { stream, reads_once: once }
    }
}

impl Default for ReadStream {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for ReadStream {
    fn drop(&mut self) {
        self.stream.epoch.fetch_add(1, Ordering::Relaxed);
    }
}

/// What all streams share.
pub(super) struct Prefetcher {
    places: Arc<Semaphore>,
    max_window: u64,
}

impl Prefetcher {
    /// For a block cache of `cache_bytes`.
    pub(super) fn new(cache_bytes: u64) -> Self {
        let max_window = LAST_WINDOW.min(cache_bytes / 4);
        Self { places: Arc::new(Semaphore::new(IN_ALL)), max_window }
    }

    /// Takes note of a read, and begins what will be wanted after it. True: the read was in sequence.
    pub(super) fn note(&self, stream: &ReadStream, file: &Arc<Shared>, offset: u64, length: u64) -> bool {
        let stream = &stream.stream;
        let advice = lock(&stream.window).note(offset, length, self.max_window);
        match advice {
            Advice::Seek => {
                stream.epoch.fetch_add(1, Ordering::Relaxed);
                false
            }
            Advice::Enough => true,
            Advice::Fetch(part) => {
                let epoch = stream.epoch.load(Ordering::Relaxed);
                let run =
                    Run { file: file.clone(), stream: stream.clone(), epoch, places: self.places.clone() };
                let fetch = operation::within(operation::current(), run.fetch(part));
                file.fetcher.client.lanes().of(Lane::Bytes).spawn(fetch);
                true
            }
        }
    }
}

/// One advice being followed.
struct Run {
    file: Arc<Shared>,
    stream: Arc<Stream>,
    epoch: u64,
    places: Arc<Semaphore>,
}

impl Run {
    fn is_over(&self) -> bool {
        self.stream.epoch.load(Ordering::Relaxed) != self.epoch
    }

    /// Begins the ranges of `part` in order, as places get free. Errors are left to the reader to meet.
    async fn fetch(self, part: Range<u64>) {
        let mut at = part.start;
        while at < part.end && !self.is_over() {
            let Ok(page) = self.file.page(at).await else { return };
            let stop = part.end.min(page.end);
            for piece in plan(&page.extents, at, stop - at, |chunk| page.copies(chunk)) {
                let Piece::Data(piece) = piece else { continue };
                let Some(source) = page.sources.get(&piece.chunk) else { continue };
                if self.file.fetcher.cache.contains(piece.chunk, piece.blocks().start)
                    && self.file.fetcher.cache.contains(piece.chunk, piece.blocks().end - 1)
                {
                    continue;
                }
                let Ok(own) = self.stream.places.clone().acquire_owned().await else { return };
                let Ok(shared) = self.places.clone().acquire_owned().await else { return };
                if self.is_over() {
                    return;
                }
                if let Wanted::Coming(seat) = self.file.fetcher.get(self.file.inode, source, &piece, true) {
                    tokio::spawn(async move {
                        // How it ended does not matter here; the reader asks again.
                        let _ = seat.arrive().await;
                        drop((own, shared));
                    });
                }
            }
            at = stop;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn a_sequential_reader_gets_a_window_that_doubles_and_never_a_byte_twice() {
        let mut window = Window::default();
        let (mut ahead, mut largest) = (0, 0);
        for n in 0..4000 {
            let offset = n * 128 * 1024;
            if let Advice::Fetch(part) = window.note(offset, 128 * 1024, LAST_WINDOW) {
                assert!(part.start >= ahead, "fetched twice");
                ahead = part.end;
                largest = largest.max(part.end - offset);
            }
            assert!(n < 2 || ahead > offset, "the reader caught up");
        }
        assert!(largest > LAST_WINDOW / 2 && largest <= LAST_WINDOW + MIB, "{largest}");
        assert_eq!(window.size, LAST_WINDOW);
    }

    #[test]
    fn the_first_window_is_small() {
        let mut window = Window::default();
        assert_eq!(window.note(0, 4096, LAST_WINDOW), Advice::Seek);
        assert_eq!(window.note(4096, 4096, LAST_WINDOW), Advice::Fetch(8192..8192 + MIB));
        assert_eq!(window.note(8192, 4096, LAST_WINDOW), Advice::Enough);
    }

    #[test]
    fn a_random_reader_gets_nothing() {
        let mut window = Window::default();
        for n in 0..1000u64 {
            let offset = (n * 7919 % 1009) * 5 * MIB;
            assert_eq!(window.note(offset, 4096, LAST_WINDOW), Advice::Seek, "{n}");
        }
    }

    #[test]
    fn reads_out_of_order_and_small_skips_are_in_sequence() {
        let mut window = Window::default();
        for n in [0u64, 2, 1, 3, 5, 4, 8, 7, 6] {
            let advice = window.note(n * 128 * 1024, 128 * 1024, LAST_WINDOW);
            assert!(n == 0 || advice != Advice::Seek, "{n}");
        }
        assert_ne!(window.note(window.end + MIB - 1, 4096, LAST_WINDOW), Advice::Seek);
    }

    #[test]
    fn a_seek_resets_the_window() {
        let mut window = Window::default();
        for n in 0..200 {
            window.note(n * MIB, MIB, LAST_WINDOW);
        }
        assert_eq!(window.note(1000 * MIB, 4096, LAST_WINDOW), Advice::Seek);
        assert_eq!(
            window.note(1000 * MIB + 4096, 4096, LAST_WINDOW),
            Advice::Fetch(1000 * MIB + 8192..1001 * MIB + 8192)
        );
    }

    #[test]
    fn the_window_respects_the_cache() {
        let mut window = Window::default();
        for n in 0..100 {
            if let Advice::Fetch(part) = window.note(n * 4096, 4096, 2 * MIB) {
                assert!(part.end - n * 4096 <= 2 * MIB + 4096);
            }
        }
        let mut none = Window::default();
        none.note(0, 4096, 1000);
        assert_eq!(none.note(4096, 4096, 1000), Advice::Enough);
    }
}
