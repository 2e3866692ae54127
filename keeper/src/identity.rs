//! The data directory as a whole: whose it is, and that one keeper alone uses it.
//!
//! | in the directory | what |
//! |---|---|
//! | `LOCK` | empty; the running keeper holds an exclusive flock(2) on it |
//! | `IDENTITY` | text, `key = value` a line: `format`, `cluster` (32 hex digits), `keeper` (decimal); written once, when the keeper first joins |
//! | `chunks/00` .. `chunks/ff` | chunk files (store/) |
//! | `tmp/` | chunks that are being received; emptied at start |
//! | `quarantine/` | chunk files that did not verify |
//! | `retired/` | files of deleted chunks, to be written again (store/retired.rs) |
//! | `journal-0`, `journal-1` | small chunks that were to be synced at once (store/journal.rs) |
//! | `SCRUB` | how far the scrub is (scrub.rs) |
//!
//! What must hold: a directory that holds chunks has an identity, for chunk ids mean nothing outside
//! their cluster; and a directory with anything foreign in it is never touched.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dfs_proto::ids::{ClusterId, KeeperId};
use rustix::fs::{FlockOperation, flock};

use crate::error::KeeperError;
use crate::files::{self, Files, SystemFiles};

/// The newest layout of the data directory that this program reads, and the one that it writes.
pub(crate) const FORMAT: u32 = 1;

/// Permissions of a new file, before the umask.
pub(crate) const FILE_MODE: u32 = 0o666;

/// What may be in a directory that has no identity yet.
const OURS: [&str; 10] = [
    "LOCK",
    "IDENTITY",
    "IDENTITY.new",
    "chunks",
    "tmp",
    "quarantine",
    "retired",
    "SCRUB",
    "SCRUB.new",
    "lost+found",
];

/// Whose a data directory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The keeper in it.
    pub keeper: KeeperId,
}

/// A data directory that is locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    files: Arc<dyn Files>,
    _lock: File,
}

impl DataDir {
    /// Makes the directory when it is missing, checks that it is a keeper's or empty, and locks it.
    ///
    /// # Errors
    /// [`KeeperError`]: not usable, foreign, or in use.
    pub fn open(path: &Path) -> Result<DataDir, KeeperError> {
        DataDir::open_through(path, Arc::new(SystemFiles))
    }

    /// [`DataDir::open`], with all changes going through `files`.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_through(path: &Path, files: Arc<dyn Files>) -> Result<DataDir, KeeperError> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| KeeperError::DataDir { dir: path.to_owned(), what, source: error.into() }
        };
        files::create_dir_all(&*files, path).map_err(failed("create it"))?;
        let path = fs::canonicalize(path).map_err(failed("resolve its path"))?;
        refuse_foreign(&path)?;
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("LOCK"))
            .map_err(failed("open its LOCK file"))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(DataDir { path, files, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(KeeperError::Locked { dir: path }),
            Err(errno) => Err(failed("lock it")(errno.into())),
        }
    }

    /// Where it is, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Through which it is changed.
    pub fn files(&self) -> &dyn Files {
        &*self.files
    }

    /// Whose it is; `None` before the first join.
    ///
    /// # Errors
    /// A newer format, or a file that makes no sense.
    pub fn identity(&self) -> Result<Option<Identity>, KeeperError> {
        let text = match fs::read(self.path.join("IDENTITY")) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("read its IDENTITY file", error)),
        };
        parse(&text).map(Some).map_err(|wrong| match wrong {
            Wrong::Newer(found) => KeeperError::NewerFormat { dir: self.path.clone(), found, known: FORMAT },
            Wrong::Damaged(why) => KeeperError::DamagedIdentity { dir: self.path.clone(), why },
        })
    }

    /// Stores whose it is, durably and in one step.
    ///
    /// # Errors
    /// [`KeeperError::DataDir`].
    pub fn set_identity(&self, identity: Identity) -> Result<(), KeeperError> {
        let write = || -> io::Result<()> {
            let fresh = self.path.join("IDENTITY.new");
            if fresh.exists() {
                self.files.remove(&fresh)?;
            }
            let file = self.files.create(&fresh, FILE_MODE)?;
            self.files.write_all_at(&file, render(identity).as_bytes(), 0)?;
            self.files.sync_file(&file)?;
            self.files.rename(&fresh, &self.path.join("IDENTITY"))?;
            self.files.sync_dir(&self.path)
        };
        write().map_err(|error| self.failed("write its IDENTITY file", error))
    }

    /// An error about this directory.
    pub fn failed(&self, what: impl Into<String>, source: io::Error) -> KeeperError {
        KeeperError::DataDir { dir: self.path.clone(), what: what.into(), source: source.into() }
    }
}

fn refuse_foreign(path: &Path) -> Result<(), KeeperError> {
    let failed = |error: io::Error| {
        let what = "list it".to_owned();
        KeeperError::DataDir { dir: path.to_owned(), what, source: error.into() }
    };
    let foreign = |why: String| KeeperError::Foreign { dir: path.to_owned(), why };
    if path.join("IDENTITY").exists() {
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if !OURS.iter().any(|ours| name == *ours) {
            return Err(foreign(format!("there is '{}' in it", name.display())));
        }
    }
    let Ok(subs) = fs::read_dir(path.join("chunks")) else { return Ok(()) };
    for sub in subs.flatten() {
        let mut files = fs::read_dir(sub.path()).into_iter().flatten();
        if files.next().is_some() {
            return Err(foreign("it has chunks and no IDENTITY file".to_owned()));
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Wrong {
    Newer(u32),
    Damaged(String),
}

fn render(identity: Identity) -> String {
    format!("format = {FORMAT}\ncluster = {}\nkeeper = {}\n", identity.cluster, identity.keeper)
}

fn parse(text: &str) -> Result<Identity, Wrong> {
    let value = |key: &str| {
        let found = text.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            (name.trim() == key).then(|| value.trim())
        });
        found.ok_or_else(|| Wrong::Damaged(format!("it has no line '{key} = ...'")))
    };
    let no_good = |key: &str| Wrong::Damaged(format!("its value of '{key}' cannot be read"));
    let format: u32 = value("format")?.parse().map_err(|_| no_good("format"))?;
    if format > FORMAT {
        return Err(Wrong::Newer(format));
    }
    let cluster = ClusterId::from_hex(value("cluster")?).ok_or_else(|| no_good("cluster"))?;
    let keeper: u64 = value("keeper")?.parse().map_err(|_| no_good("keeper"))?;
    if format == 0 || keeper == 0 {
        return Err(no_good(if format == 0 { "format" } else { "keeper" }));
    }
    Ok(Identity { cluster, keeper: KeeperId(keeper) })
}

/// For the fuzz target: reads it, whatever it is.
pub(crate) fn read_any(text: &str) {
    if let Ok(identity) = parse(text) {
        assert_eq!(
            parse(&render(identity)),
            Ok(identity),
            "an identity that is read is the one that is written"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity { cluster: ClusterId([0xab; 16]), keeper: KeeperId(7) };

    #[test]
    fn an_identity_is_stored_and_read_back() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&temp.path().join("new/below")).unwrap();
        assert_eq!(dir.identity().unwrap(), None);
        dir.set_identity(IDENTITY).unwrap();
        assert_eq!(dir.identity().unwrap(), Some(IDENTITY));
    }

    #[test]
    fn golden_text() {
        let text = "format = 1\ncluster = abababababababababababababababab\nkeeper = 7\n";
        assert_eq!(render(IDENTITY), text);
        assert_eq!(parse(text), Ok(IDENTITY));
    }

    #[test]
    fn damaged_and_newer_identities_are_refused() {
        assert_eq!(parse("format = 2\nwhatever = 1"), Err(Wrong::Newer(2)));
        for text in ["", "format = 1\n", "format = x", "format = 1\ncluster = 12\nkeeper = 1\n"] {
            assert!(matches!(parse(text), Err(Wrong::Damaged(_))), "{text}");
        }
        let no_keeper = render(IDENTITY).replace("= 7", "= 0");
        assert!(matches!(parse(&no_keeper), Err(Wrong::Damaged(_))));
    }

    #[test]
    fn a_locked_directory_is_refused_until_it_is_free() {
        let temp = tempfile::tempdir().unwrap();
        let first = DataDir::open(temp.path()).unwrap();
        assert!(matches!(DataDir::open(temp.path()), Err(KeeperError::Locked { .. })));
        drop(first);
        assert!(DataDir::open(temp.path()).is_ok());
    }

    #[test]
    fn a_directory_with_anything_foreign_is_not_touched() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("letter.txt"), "dear").unwrap();
        assert!(matches!(DataDir::open(temp.path()), Err(KeeperError::Foreign { .. })));
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn chunks_without_an_identity_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("chunks/01")).unwrap();
        assert!(DataDir::open(temp.path()).is_ok(), "empty directories are fine");
        fs::write(temp.path().join("chunks/01/0000000000000001.chunk"), "x").unwrap();
        assert!(matches!(DataDir::open(temp.path()), Err(KeeperError::Foreign { .. })));
    }
}
