//! Files of small chunks that were deleted, in `retired/`, to be written again for other chunks.
//!
//! A new file costs more than a write, and much more after many were removed: ext4 passes over every inode that was freed within the last
//! minutes, one by one, whenever it looks for a free one (`recently_deleted` in fs/ext4/ialloc.c). Small chunks come and go by the
//! thousand; so their files stay. Longer ones are removed: they are few for their bytes.
//!
//! What must hold: a file rests here before it is written again, until nobody sends it any more as what it was: whoever had it open is
//! done, and what sendfile(2) gave to a socket has left. Who is slower still finds that it does not verify. What is
//! here is nothing to anybody, and goes when the disk has no room.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dfs_proto::block_sum::BLOCK_SIZE;

use crate::identity::DataDir;
use crate::store::DATA_AT;

/// In the data directory.
pub(super) const DIR: &str = "retired";
/// Longer than a reader of so few bytes takes: a connection on which nothing moves is closed by then.
pub(super) const REST: Duration = Duration::from_secs(15);
/// Longer chunks get a new file. As bytes.
pub(super) const FOR_CHUNKS_TO: usize = BLOCK_SIZE;
/// Longer files are removed.
const LONGEST: u64 = DATA_AT + FOR_CHUNKS_TO as u64;
/// No more files, and no more bytes in them.
const MOST: usize = 16 * 1024;
const MOST_BYTES: u64 = 256 * 1024 * 1024;
/// And no more of what is free on the disk.
const SHARE_OF_FREE: u64 = 64;

#[derive(Debug)]
struct RetiredFile {
    path: PathBuf,
    bytes: u64,
    since: Instant,
}

/// The longest here first.
#[derive(Debug, Default)]
struct Line {
    files: VecDeque<RetiredFile>,
    bytes: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Retired {
    line: Mutex<Line>,
    names: AtomicU64,
    rest: Duration,
}

/// A file that is to be written from its beginning to its end, and then renamed or removed.
#[derive(Debug)]
pub(super) struct Reused {
    pub path: PathBuf,
    pub file: File,
    /// As it is now.
    pub bytes: u64,
}

impl Retired {
    /// Those of earlier runs.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn load(dir: &DataDir, rest: Duration) -> io::Result<Retired> {
        let (mut line, mut last) = (Line::default(), 0);
        for entry in fs::read_dir(dir.path().join(DIR))? {
            let entry = entry?;
            // Others were put here by somebody else, and are left alone.
            if let Some(name) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                last = last.max(name);
                line.add(entry.path(), entry.metadata()?.len());
            }
        }
        Ok(Retired { line: Mutex::new(line), names: AtomicU64::new(last), rest })
    }

    /// Takes the file of a chunk away from its name: it is kept here, or removed. `free`: bytes that are free on the disk.
    ///
    /// # Errors
    /// It still has its name.
    pub fn retire(&self, dir: &DataDir, path: &Path, bytes: u64, free: u64) -> io::Result<()> {
        let mut line = self.line();
        let all = line.bytes + bytes;
        if bytes > LONGEST || line.files.len() >= MOST || all > MOST_BYTES.min(free / SHARE_OF_FREE) {
            drop(line);
            return dir.files().remove(path);
        }
        let name = self.names.fetch_add(1, Ordering::Relaxed) + 1;
        let here = dir.path().join(DIR).join(name.to_string());
        dir.files().rename(path, &here)?;
        line.add(here, bytes);
        Ok(())
    }

    /// One that has rested, if there is one.
    pub fn take(&self) -> Option<Reused> {
        let mut line = self.line();
        let next = line.files.pop_front_if(|file| file.since.elapsed() >= self.rest)?;
        line.bytes -= next.bytes;
        drop(line);
        // Somebody took it away: then a new one is made.
        let file = OpenOptions::new().read(true).write(true).open(&next.path).ok()?;
        Some(Reused { path: next.path, file, bytes: next.bytes })
    }

    /// The disk has no room: none is kept. True when there were some.
    pub fn clear(&self, dir: &DataDir) -> bool {
        let line = std::mem::take(&mut *self.line());
        for file in &line.files {
            if let Err(error) = dir.files().remove(&file.path) {
                tracing::warn!(file = %file.path.display(), %error, "a retired file cannot be removed");
            }
        }
        !line.files.is_empty()
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn add(&mut self, path: PathBuf, bytes: u64) {
        self.files.push_back(RetiredFile { path, bytes, since: Instant::now() });
        self.bytes += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        _temp: tempfile::TempDir,
        dir: DataDir,
    }

    impl Fixture {
        fn new() -> Fixture {
            let temp = tempfile::tempdir().unwrap();
            let dir = DataDir::open(&temp.path().join("data")).unwrap();
            fs::create_dir(dir.path().join(DIR)).unwrap();
            Fixture { _temp: temp, dir }
        }

        fn file(&self, name: &str, bytes: usize) -> PathBuf {
            let path = self.dir.path().join(name);
            fs::write(&path, vec![7; bytes]).unwrap();
            path
        }

        fn retire(&self, retired: &Retired, bytes: usize, free: u64) {
            let path = self.file("chunk", bytes);
            retired.retire(&self.dir, &path, bytes as u64, free).unwrap();
            assert!(!path.exists());
        }

        fn kept(&self) -> usize {
            fs::read_dir(self.dir.path().join(DIR)).unwrap().count()
        }
    }

    #[test]
    fn a_file_rests_before_it_is_taken() {
        let fixture = Fixture::new();
        let resting = Retired::load(&fixture.dir, Duration::from_secs(3600)).unwrap();
        fixture.retire(&resting, 5000, u64::MAX);
        assert!(resting.take().is_none());
        let rested = Retired::load(&fixture.dir, Duration::ZERO).unwrap();
        let taken = rested.take().unwrap();
        assert_eq!((taken.bytes, taken.file.metadata().unwrap().len()), (5000, 5000));
        assert!(rested.take().is_none() && taken.path.exists());
        fixture.retire(&rested, 6000, u64::MAX);
        assert_eq!(fixture.kept(), 2, "a name is not given twice");
    }

    #[test]
    fn what_is_long_or_too_much_is_removed() {
        let fixture = Fixture::new();
        let retired = Retired::load(&fixture.dir, Duration::ZERO).unwrap();
        fixture.retire(&retired, LONGEST as usize + 1, u64::MAX);
        assert_eq!(fixture.kept(), 0);
        fixture.retire(&retired, 1000, 64 * 1000 - 1);
        assert_eq!(fixture.kept(), 0, "little is free");
        fixture.retire(&retired, 1000, 64 * 1000);
        assert_eq!(fixture.kept(), 1);
        fixture.retire(&retired, 1000, 64 * 2000 - 1);
        assert_eq!(fixture.kept(), 1);
        retired.take().unwrap();
        fixture.retire(&retired, 1000, 64 * 1000);
        assert!(retired.clear(&fixture.dir) && !retired.clear(&fixture.dir));
        assert_eq!((fixture.kept(), retired.line().bytes), (1, 0), "the one that was taken is its taker's");
    }
}
