//! Files of chunks that did not verify. They are kept until the master says that good copies are there: a file with a
//! bad block may be all that is left of a chunk.
//!
//! What must hold: nothing here is ever served, and nothing goes but by [`ChunkStore::empty_quarantine`].

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dfs_proto::ids::ChunkId;

use crate::error::KeeperError;
use crate::identity::DataDir;
use crate::store::ChunkStore;
use crate::store::error::StoreError;

/// One file: its name in `quarantine/`, and its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Kept {
    name: String,
    bytes: u64,
}

/// What is in `quarantine/`.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    files: Mutex<BTreeMap<ChunkId, Vec<Kept>>>,
    /// Of `files`, for those who must not wait for its lock.
    count: AtomicU64,
    bytes: AtomicU64,
}

impl Quarantine {
    /// What earlier runs left.
    pub fn load(dir: &DataDir) -> Result<Quarantine, KeeperError> {
        let quarantine = Quarantine::default();
        let failed = |error| dir.failed("list quarantine/", error);
        for entry in fs::read_dir(dir.path().join("quarantine")).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // Others were put here by somebody else, and are left alone.
            let digits = name.split('.').next().unwrap_or_default();
            if let Some(chunk) = ChunkId::from_file_name(&format!("{digits}.chunk")) {
                let bytes = entry.metadata().map(|metadata| metadata.len()).unwrap_or_default();
                quarantine.add(chunk, name, bytes);
            }
        }
        Ok(quarantine)
    }

    /// A file was moved here.
    pub fn add(&self, chunk: ChunkId, name: String, bytes: u64) {
        self.lock().entry(chunk).or_default().push(Kept { name, bytes });
        self.count.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ChunkId, Vec<Kept>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChunkStore {
    /// How many files are kept, and their bytes. Never waits.
    pub fn quarantine_size(&self) -> (u64, u64) {
        let Quarantine { count, bytes, .. } = &self.quarantine;
        (count.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed))
    }

    /// Chunks of which a file is kept.
    pub fn quarantined(&self) -> Vec<ChunkId> {
        self.quarantine.lock().keys().copied().collect()
    }

    /// Is a file of this chunk kept?
    pub fn is_quarantined(&self, chunk: ChunkId) -> bool {
        self.quarantine.lock().contains_key(&chunk)
    }

    /// Removes what is kept of a chunk.
    ///
    /// # Errors
    /// When the disk does not let go of a file; it is still kept then.
    pub fn empty_quarantine(&self, chunk: ChunkId) -> Result<(), StoreError> {
        let mut files = self.quarantine.lock();
        let Some(kept) = files.get_mut(&chunk) else { return Ok(()) };
        while let Some(file) = kept.last() {
            match self.dir.files().remove(&self.dir.path().join("quarantine").join(&file.name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::of_write(chunk, "remove it from quarantine", error));
                }
                _ => {}
            }
            self.quarantine.count.fetch_sub(1, Ordering::Relaxed);
            self.quarantine.bytes.fetch_sub(file.bytes, Ordering::Relaxed);
            kept.pop();
        }
        files.remove(&chunk);
        Ok(())
    }
}
