//! The store's file as redb uses it: locked, and changed through [`Files`], where a test can stand in the way.
//!
//! What must hold beyond what redb asks for: **a file that was made longer stays longer.** redb relies on the length
//! that its header names, and a power cut may keep the header and lose the length. So a new length is synced before
//! redb hears that it is there; files double, so that this is rare.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use dfs_files::Files;
use redb::{Builder, Database, DatabaseError, StorageBackend};

use super::StoreError;

/// Rows are served from the master's own memory, so redb's cache need hold little more than the inner
/// pages of its trees.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

#[derive(Debug)]
struct StoreFile {
    files: Arc<dyn Files>,
    file: File,
}

impl StorageBackend for StoreFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let longer = len > self.len()?;
        self.files.set_len(&self.file, len)?;
        if longer { self.files.sync_file(&self.file) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.files.sync_file(&self.file)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.files.write_all_at(&self.file, data, offset)
    }
}

/// Opens what is there; redb takes an empty file for a new one.
pub(super) fn open(files: Arc<dyn Files>, path: &Path) -> Result<Database, StoreError> {
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(|e| io_failed(path, &e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => return Err(io_failed(path, &error)),
    }
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
        .set_repair_callback(|_| tracing::debug!("the store was not closed cleanly; it is being repaired"));
    builder.create_with_backend(StoreFile { files, file }).map_err(|error| match error {
        DatabaseError::UpgradeRequired(found) => StoreError::Corrupt {
            path: path.to_owned(),
            why: format!("its redb file format, {found}, is not one that was ever written by this program"),
        },
        other => explain(path, other),
    })
}

pub(super) fn io_failed(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Io { path: path.to_owned(), why: error.to_string() }
}

/// Tells damage from everything else.
pub(super) fn explain(path: &Path, error: impl Into<redb::Error>) -> StoreError {
    let path = path.to_owned();
    match error.into() {
        redb::Error::Corrupted(why) => StoreError::Corrupt { path, why },
        redb::Error::Io(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            StoreError::Corrupt { path, why: "it is no redb file".to_owned() }
        }
        redb::Error::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            StoreError::Corrupt { path, why: "it is cut short".to_owned() }
        }
        e @ (redb::Error::TableTypeMismatch { .. } | redb::Error::TableDoesNotExist(_)) => {
            StoreError::Corrupt { path, why: e.to_string() }
        }
        other => StoreError::Io { path, why: other.to_string() },
    }
}
