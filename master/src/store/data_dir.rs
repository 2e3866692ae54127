//! The master's data directory: made when missing, and locked for one process.
//!
//! ```text
//! LOCK          flock(2) is held on it while a master uses the directory; its text is that process's id
//! master.redb   the rows (redb.rs); master.redb.new while they are being made or restored
//! journal-0,    what was committed and may not be in master.redb yet (journal.rs)
//! journal-1
//! SEAL          how many commits returned (seal.rs)
//! audit.jsonl   who did what (auth/audit.rs)
//! address       HOST:PORT that the running master listens on; removed when it stops cleanly
//! ```
//!
//! What has to outlive a power cut is changed through [`Files`]: the directory itself, and the rows.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dfs_files::{Files, SystemFiles};
use rustix::fs::{FlockOperation, flock};

use super::unwritable;

const LOCK_FILE: &str = "LOCK";
/// Which a keeper makes in its own data directory.
const KEEPERS_FILE: &str = "IDENTITY";
const PRIVATE_FILE: u32 = 0o600;

/// A data directory that is ours alone until this is dropped (or the process ends, however it does).
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    files: Arc<dyn Files>,
    // Held, not read: closing it gives the lock back.
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum DataDirError {
    #[error("data directory {}: cannot be made: {why}; choose another with --data, or make it yourself", path.display())]
    Make { path: PathBuf, why: io::Error },
    #[error("data directory {}: it is not a directory; choose another with --data", path.display())]
    NotDirectory { path: PathBuf },
    #[error("write {}: {why}; {}", path.display(), unwritable(why.kind()))]
    NotWritable { path: PathBuf, why: io::Error },
    #[error("data directory {}: it is a keeper's, and never a master's too; choose another with --data", path.display())]
    Keepers { path: PathBuf },
    #[error("data directory {}: in use by another process{holder}; stop that one, or choose another with --data", path.display())]
    Locked { path: PathBuf, holder: String },
}

impl DataDir {
    /// Makes the directory (mode 0700) when it is missing, and locks it.
    ///
    /// # Errors
    /// See [`DataDirError`].
    pub fn open(path: &Path) -> Result<DataDir, DataDirError> {
        DataDir::open_through(path, Arc::new(SystemFiles))
    }

    /// [`DataDir::open`], with all changes that have to last going through `files`.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_through(path: &Path, files: Arc<dyn Files>) -> Result<DataDir, DataDirError> {
        let path = path.to_owned();
        if path.exists() {
            if !path.is_dir() {
                return Err(DataDirError::NotDirectory { path });
            }
            if path.join(KEEPERS_FILE).exists() {
                return Err(DataDirError::Keepers { path });
            }
        } else if let Err(why) = dfs_files::create_dir_all(&*files, &path) {
            return Err(DataDirError::Make { path, why });
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(PRIVATE_FILE);
        let lock_file = path.join(LOCK_FILE);
        let mut lock = match options.open(&lock_file) {
            Ok(lock) => lock,
            Err(why) => return Err(DataDirError::NotWritable { path: lock_file, why }),
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(DataDirError::Locked { path, holder: holder(&lock) });
        }
        match write_holder(&mut lock) {
            Ok(()) => Ok(DataDir { path, files, _lock: lock }),
            Err(why) => Err(DataDirError::NotWritable { path: lock_file, why }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Through which it is changed.
    pub fn files(&self) -> &Arc<dyn Files> {
        &self.files
    }
}

fn write_holder(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}

/// ` (process N)` where the lock file says so, else nothing.
fn holder(lock: &File) -> String {
    let mut text = String::new();
    let read = lock.take(32).read_to_string(&mut text);
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => format!(" (process {pid})"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_missing_directory_is_made_for_its_owner_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let dir = DataDir::open(&path).unwrap();
        assert_eq!(dir.path(), path);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_keepers_directory_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("IDENTITY"), "").unwrap();
        assert!(matches!(DataDir::open(dir.path()), Err(DataDirError::Keepers { .. })));
        assert!(!dir.path().join("LOCK").exists());
    }

    #[test]
    fn a_second_user_is_refused_and_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        let message = DataDir::open(dir.path()).unwrap_err().to_string();
        let expected = format!(
            "data directory {}: in use by another process (process {}); stop that one, or choose another with --data",
            dir.path().display(),
            std::process::id()
        );
        assert_eq!(message, expected);
        drop(first);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn a_file_or_an_unmakeable_path_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert!(matches!(DataDir::open(&file), Err(DataDirError::NotDirectory { .. })));
        assert!(matches!(DataDir::open(&file.join("below")), Err(DataDirError::Make { .. })));
    }

    #[test]
    fn a_lock_file_that_cannot_be_opened_means_not_writable() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(LOCK_FILE)).unwrap();
        assert!(matches!(DataDir::open(dir.path()), Err(DataDirError::NotWritable { .. })));
    }
}
