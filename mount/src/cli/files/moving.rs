//! What `put` and `get` have in common: how it is asked for, what is counted, and when a part of a file is worth being kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::cli::CliError;
use crate::cli::output::Output;
use crate::cli::progress::Tally;
use crate::cli::stop::Stop;
use crate::client::Client;
use crate::read::Readers;
use crate::write::Writers;

/// Files under way at once.
pub(super) const AT_ONCE: usize = 8;
/// Of a file that is longer than so many chunks, what was moved is kept when it is broken off.
const WORTH_KEEPING: u64 = 4;
/// Bytes that are written and not yet stored, of all files together.
const WRITE_BUFFER: u64 = 64 * 1024 * 1024;
/// Bytes of blocks that are kept; the prefetcher takes a quarter of it.
const CACHE: u64 = 128 * 1024 * 1024;

/// How it was asked for.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(in crate::cli) struct How {
    /// A directory with all that is in it; what is there already, by size and time, is left out
    #[arg(short, long)]
    pub(super) recursive: bool,
    /// Keep mode and times, and for root the owner; always with -r
    #[arg(short, long)]
    pub(super) preserve: bool,
    /// With -r: leave out what has the same content, whatever its time
    #[arg(short, long, requires = "recursive")]
    pub(super) checksum: bool,
}

impl How {
    pub(super) fn keeps(self) -> bool {
        self.preserve || self.recursive
    }
}

/// What all who move files share.
pub(super) struct Moving {
    pub(super) client: Client,
    pub(super) writers: Arc<Writers>,
    pub(super) readers: Arc<Readers>,
    pub(super) how: How,
    pub(super) tally: Arc<Tally>,
    pub(super) stop: Stop,
}

impl Moving {
    /// Must be called inside a runtime.
    pub(super) fn new(client: &Client, how: How, tally: &Arc<Tally>) -> Moving {
        Moving {
            client: client.clone(),
            writers: Writers::new(client.clone(), WRITE_BUFFER),
            readers: Readers::new(client.clone(), CACHE),
            how,
            tally: tally.clone(),
            stop: Stop::on_signal(),
        }
    }

    /// A part of this length took long enough to get.
    pub(super) fn is_worth_keeping(&self, length: u64) -> bool {
        length >= WORTH_KEEPING * u64::from(self.client.info().chunk_size)
    }
}

/// One more, or so many.
pub(super) fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

#[derive(Serialize)]
struct Moved {
    /// That were moved, whole or from where they were broken off.
    files: u64,
    bytes: u64,
    /// That were there already.
    files_there: u64,
    bytes_there: u64,
    directories: u64,
    /// Symbolic links, FIFOs, sockets and devices.
    others: u64,
}

/// What was done, for scripts.
pub(super) fn print(tally: &Tally) -> Result<(), CliError> {
    let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let mut output = Output::new();
    output.json(&Moved {
        files: get(&tally.files),
        bytes: get(&tally.bytes),
        files_there: get(&tally.files_there),
        bytes_there: get(&tally.bytes_there),
        directories: get(&tally.directories),
        others: get(&tally.others),
    })?;
    output.finish()
}

/// Does a path of this form mean the directory itself, into which things go?
pub(super) fn means_inside(path: &[u8]) -> bool {
    path.ends_with(b"/") || matches!(path, b"." | b"..") || path.ends_with(b"/.") || path.ends_with(b"/..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_inside() {
        for inside in ["/", "a/", ".", "..", "x/.", "x/.."] {
            assert!(means_inside(inside.as_bytes()), "{inside}");
        }
        for new in ["a", "/a/b", "..x", "x.", ""] {
            assert!(!means_inside(new.as_bytes()), "{new}");
        }
    }
}
