//! The store's file as redb uses it: locked, and changed through [`Files`], where a test can stand in the way.
//!
//! What must hold beyond what redb asks for: **a file that was made longer stays longer.** redb relies on the length
//! that its header names, and a power cut may keep the header and lose the length. So a new length is synced before
//! redb hears that it is there; files double, so that this is rare.
//!
//! **Every page that is in use is checked when the file is opened.** redb checks its head and its pages after a crash
//! alone. So it is told that there was one, whether or not, which has it check the head; and asked to check the pages.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dfs_files::Files;
use redb::{Builder, Database, DatabaseError, StorageBackend};

use super::{StoreError, io_failed, read_from_disk};

/// Rows are served from the master's own memory, so redb's cache need hold little more than the inner
/// pages of its trees.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// In redb's head (its format 3), flags; and among them, that it was not closed cleanly.
const FLAGS_AT: usize = 9;
const NOT_CLOSED: u8 = 2;

#[derive(Debug)]
struct StoreFile {
    files: Arc<dyn Files>,
    file: File,
    /// Something was written since it was opened.
    written: AtomicBool,
}

impl StorageBackend for StoreFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)?;
        if offset == 0
            && !self.written.load(Ordering::Relaxed)
            && let Some(flags) = out.get_mut(FLAGS_AT)
        {
            *flags |= NOT_CLOSED;
        }
        Ok(())
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
        self.written.store(true, Ordering::Relaxed);
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
    read_from_disk(&file);
    // A repair looks at every page, and makes the map of free ones anew. After a clean end there is none.
    let checked = Arc::new(AtomicBool::new(false));
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    let repaired = checked.clone();
    builder.set_repair_callback(move |_| repaired.store(true, Ordering::Relaxed));
    let backend = StoreFile { files, file, written: AtomicBool::new(false) };
    let mut database = builder.create_with_backend(backend).map_err(|e| unusable(path, e))?;
    if checked.load(Ordering::Relaxed) {
        tracing::debug!("the store was not closed cleanly; it was repaired");
    } else if !database.check_integrity().map_err(|e| unusable(path, e))? {
        tracing::warn!("store {}: its map of free pages was damaged; it was made anew", path.display());
    }
    Ok(database)
}

fn unusable(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::UpgradeRequired(found) => StoreError::Corrupt {
            path: path.to_owned(),
            why: format!("its redb file format, {found}, is not one that was ever written by this program"),
        },
        other => explain(path, other),
    }
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
        redb::Error::Io(e) => StoreError::Io { path, why: e.to_string(), kind: e.kind() },
        other => StoreError::Io { path, why: other.to_string(), kind: io::ErrorKind::Other },
    }
}
