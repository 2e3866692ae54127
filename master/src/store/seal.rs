//! The seal: beside the store, how many commits of it returned. It is written after each commit and not synced, so it
//! may be behind; it is never ahead. So tables and journal that have fewer commits have lost some: an older copy of a file
//! was put back, the journal is gone, a record of it is damaged and looks like one that a power cut broke off, or the
//! tables' head names an older state.
//!
//! ```text
//! store:8 commits:8 crc:4        as in the tally (redb/tally.rs); the crc: CRC-32C of the 16 bytes before it
//! ```
//!
//! A seal that cannot be read, is missing, or is of another store says nothing.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dfs_files::Files;

use super::{StoreError, io_failed};

/// In the data directory.
pub const FILE_NAME: &str = "SEAL";
const LEN: usize = 20;
const PRIVATE_FILE: u32 = 0o600;

#[derive(Debug)]
pub(super) struct Seal {
    files: Arc<dyn Files>,
    file: File,
    path: PathBuf,
}

impl Seal {
    /// Opens it, and makes it when there is none.
    pub fn open(files: Arc<dyn Files>, dir: &Path) -> Result<Seal, StoreError> {
        let path = dir.join(FILE_NAME);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => files.create(&path, PRIVATE_FILE),
            opened => opened,
        };
        let file = file.map_err(|error| io_failed(&path, &error))?;
        Ok(Seal { files, file, path })
    }

    /// How many commits of this store returned, as far as it knows.
    pub fn commits(&self, store: u64) -> u64 {
        let read = std::fs::read(&self.path).ok();
        read.and_then(|bytes| decode(&bytes)).filter(|(of, _)| *of == store).map_or(0, |(_, commits)| commits)
    }

    /// So many commits of this store returned.
    pub fn note(&self, store: u64, commits: u64) {
        let mut bytes = [store.to_le_bytes(), commits.to_le_bytes()].concat();
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        // What is committed is committed; a seal that is behind is only less of a help.
        if let Err(error) = self.files.write_all_at(&self.file, &bytes, 0) {
            tracing::warn!("{} cannot be written: {error}", self.path.display());
        }
    }

    /// To stable storage, when the store is closed.
    pub fn sync(&self) {
        if let Err(error) = self.files.sync_file(&self.file) {
            tracing::warn!("{} cannot be synced: {error}", self.path.display());
        }
    }
}

fn decode(bytes: &[u8]) -> Option<(u64, u64)> {
    let (body, crc) = bytes.first_chunk::<LEN>()?.split_last_chunk::<4>()?;
    let (store, commits) = body.split_first_chunk::<8>()?;
    let commits = commits.first_chunk::<8>()?;
    (crc32c::crc32c(body) == u32::from_le_bytes(*crc))
        .then_some((u64::from_le_bytes(*store), u64::from_le_bytes(*commits)))
}
