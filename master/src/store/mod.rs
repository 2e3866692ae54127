//! Where rows are kept.
//!
//! - [`Store`]: what an engine must do. [`JournaledStore`] is the embedded one: a journal (journal.rs) before tables
//!   ([`Tables`]). [`MemoryStore`] is for tests. One suite of tests (conformance.rs) runs on all of them.
//! - [`codec`]: how a row looks as a key and a value, for engines that store bytes.
//! - [`dump`]: all rows as one portable stream of bytes.
//! - [`DataDir`]: the data directory, locked for one process.

mod batch;
pub mod codec;
mod data_dir;
pub mod dump;
mod journal;
mod journaled;
mod memory;
mod redb;
mod seal;

#[cfg(test)]
mod conformance;

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use dfs_proto::ids::ClusterId;
use dfs_proto::pb;

use crate::core::{Row, RowChange, Spared};

pub use self::redb::{FILE_NAME as STORE_FILE, Tables, UNFINISHED_FILE};
pub use data_dir::{DataDir, DataDirError};
pub use journaled::JournaledStore;
pub use memory::MemoryStore;
pub use seal::FILE_NAME as SEAL_FILE;

/// The version of what is stored: tables, keys and values. A store of an older one is upgraded when it is opened, one
/// of a newer one refused.
pub const FORMAT_VERSION: u32 = 7;

/// What makes a store the store of one cluster. Made at its first start, or when it is
/// restored, and never changed.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// Signs tickets. Never logged: `Debug` leaves it out.
    pub secret: [u8; 32],
    /// When.
    pub created: pb::Time,
    /// Of a restored cluster.
    pub spared: Option<Spared>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// Keeps rows. One owner at a time; all calls may block.
///
/// An implementation must:
/// - make `commit` all or nothing, whenever the process or the machine dies;
/// - return from `commit` only when everything in it is on stable storage;
/// - apply the changes of a commit in their order, so that the last one to a key wins;
/// - give back in `load` exactly what was put and not deleted, each row once, unaltered or not at all:
///   what was damaged is an error, never another row;
/// - after an error of `commit`, be asked for nothing more but [`Store::reopen`]. A commit of the same changes may
///   follow: changes say what rows are to be, so that to store them twice is as good as once.
pub trait Store: Send {
    /// The identity stored here. A store without one takes `fresh`, durably, and returns it.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was stored then.
    fn identity(&mut self, fresh: Identity) -> Result<Identity, StoreError>;

    /// What is stored now, to be read whatever is committed meanwhile, and on another thread. Takes no time: who reads it
    /// may have to wait.
    ///
    /// # Errors
    /// [`StoreError`].
    fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, StoreError>;

    /// Hands every row to `each`, in any order. Stops at the first error, of either side.
    ///
    /// # Errors
    /// [`StoreError`], or what `each` returned.
    fn load(&mut self, each: &mut dyn FnMut(Row) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.snapshot()?.load(each)
    }

    /// Begins anew after a `commit` that failed: what is on the disk counts, and nothing that is remembered of it.
    ///
    /// # Errors
    /// [`StoreError`]; it may be tried again.
    fn reopen(&mut self) -> Result<(), StoreError>;

    /// Stores the changes, in order, atomically and durably.
    ///
    /// # Errors
    /// [`StoreError`]. It is then not known whether the changes are stored.
    fn commit(&mut self, changes: &[RowChange]) -> Result<(), StoreError>;

    /// Has something failed since the last commit, that the next one would say? To be asked now and then, where there is
    /// nothing to commit. Takes no time.
    ///
    /// # Errors
    /// As `commit`, with what follows from it; what was committed is stored.
    fn check(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// What a store held at one moment. When the store is closed, it gives errors.
pub trait Snapshot: Send {
    /// The identity.
    ///
    /// # Errors
    /// [`StoreError`]; also when there is none.
    fn identity(&mut self) -> Result<Identity, StoreError>;

    /// As [`Store::load`].
    ///
    /// # Errors
    /// As there.
    fn load(&mut self, each: &mut dyn FnMut(Row) -> Result<(), StoreError>) -> Result<(), StoreError>;
}

/// What to do about a data directory that takes no writes.
pub(crate) fn unwritable(why: ErrorKind) -> &'static str {
    match why {
        ErrorKind::ReadOnlyFilesystem => {
            "a master has to store what changes: mount that file system writable, and start again"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room on that file system, and start again",
        ErrorKind::PermissionDenied => {
            "make it writable for this user, or choose another data directory with --data"
        }
        _ => "check that disk, and start again",
    }
}

/// Why a store cannot do what it must.
#[derive(Clone, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StoreError {
    #[error("store {}: {why}; {}", path.display(), unwritable(*kind))]
    Io { path: PathBuf, why: String, kind: ErrorKind },
    #[error("store {}: it is damaged: {why}; move the data directory away, do not delete it, and restore a backup: \
         dfs-master --data DIR --restore FILE (docs/DUMP.md)", path.display())]
    Corrupt { path: PathBuf, why: String },
    #[error(
        "store {}: it has format {found}, and this program knows formats up to {FORMAT_VERSION}; \
         use a newer dfs-master", path.display()
    )]
    NewerFormat { path: PathBuf, found: u32 },
    /// The core refused the rows; its words.
    #[error("store: {0}")]
    Rows(String),
    #[error("store {}: another process has it open; stop that one first", path.display())]
    InUse { path: PathBuf },
}

/// Has what is read of a file come from the disk. A page that a failed sync could not write may be kept in memory as if it were
/// written; what is there of it is not to be taken for stored.
fn read_from_disk(file: &File) {
    // Where there is no such call, there may be no such pages.
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

fn io_failed(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Io { path: path.to_owned(), why: error.to_string(), kind: error.kind() }
}
