//! The benchmark of the master alone: a real `dfs-master` with many files, over its real gRPC interface and on its real
//! store, with simulated keepers and mounts.
//!
//! - [`tree`]: which files there are, where they lie, and what is each one's number: known without asking.
//! - [`fill`]: a data directory that holds them, made with the master's own tables.
//! - [`keepers`]: sessions that say what keepers say. No byte of a file is ever stored.
//! - [`mounts`]: sessions that ask what mounts ask.
//! - [`cases`]: what is measured. [`report`]: the figures, what they are to reach, a table and JSON. [`plot`]: how they grow.
//!
//! Ten million files would take most of an hour to be made one by one, so the master finds them in its store when it starts,
//! as after a restart. What it knows of keepers comes over their sessions.
//!
//! Every wait has a deadline; whatever does not come in time is a panic, and the scratch directory's watchdog ends
//! the master and removes all that there was.

pub mod cases;
pub mod fill;
pub mod keepers;
pub mod mounts;
pub mod plot;
pub mod report;
pub mod tree;

use std::time::Duration;

/// What is measured, and how much of it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Files of one chunk each.
    pub files: u64,
    /// Simulated keepers; 3 at least.
    pub keepers: u64,
    /// Entries of the one large directory, if there are twice as many files.
    pub entries: u64,
    /// How long each case takes.
    pub each: Duration,
}

/// For whatever takes longer with more files: a start, joining keepers.
pub(crate) fn long_deadline(files: u64) -> Duration {
    Duration::from_secs(60 + files / 10_000)
}

/// For one answer.
pub(crate) const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
