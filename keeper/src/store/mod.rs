//! The chunk store: one file per chunk, in the keeper's data directory (identity.rs has its layout).
//!
//! - [`format`]: the chunk file.
//! - [`incoming`]: a chunk that is being received.
//! - [`index`]: what is here, in memory.
//! - [`doomed`]: what the master has had deleted.
//! - [`stock`]: what is here, for the master.
//! - [`sync`]: to stable storage, in groups ([`group_sync`]).
//! - [`journal`]: small chunks that somebody waits for; [`replay`]: what a start makes of it.
//! - [`retired`]: files of deleted chunks, to be written again.
//! - [`quarantine`]: files that did not verify.
//! - [`disk`]: free space, and disks that take no writes.
//! - [`error`]: what can go wrong.
//!
//! What must hold: a file under `chunks/` was received whole and its header verifies, or it is found
//! out when it is opened and moved to `quarantine/`; a chunk file never changes while it is there; the index lists
//! exactly the files under `chunks/`. The index is locked while a name under `chunks/` comes or goes.

pub(crate) mod disk;
mod doomed;
pub(crate) mod error;
pub(crate) mod format;
mod group_sync;
mod incoming;
mod index;
mod journal;
mod quarantine;
mod replay;
mod retired;
mod stock;
mod sync;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dfs_proto::block_sum::BLOCK_SIZE;
use dfs_proto::ids::ChunkId;
use dfs_proto::pb;

use crate::error::KeeperError;
use crate::identity::DataDir;
use crate::store::disk::Disk;
use crate::store::doomed::Doomed;
use crate::store::error::StoreError;
use crate::store::format::{ChunkHeader, FORMAT, HEADER_LEN, HeaderError};
pub(crate) use crate::store::incoming::Incoming;
use crate::store::index::{Entry, Index, Stability};
use crate::store::journal::Journal;
use crate::store::quarantine::Quarantine;
use crate::store::retired::Retired;
use crate::store::stock::Arrivals;
use crate::store::sync::DirSyncs;
pub(crate) use crate::store::sync::SyncReport;

/// Where a chunk's data begins in its file.
pub(crate) const DATA_AT: u64 = HEADER_LEN as u64;

/// Of each half of the journal, in bytes: more small chunks than are synced in a second.
const JOURNAL_SIZE: u64 = 16 * 1024 * 1024;
/// Blocks that are read at once when a chunk is read to be checked.
const CHECK_BLOCKS: usize = 4;

/// A chunk that is not here, or does not verify.
pub(crate) type BadChunk = (ChunkId, StoreError);

/// All chunks of one keeper.
#[derive(Debug)]
pub(crate) struct ChunkStore {
    dir: DataDir,
    index: Mutex<Index>,
    pub(crate) disk: Disk,
    dir_syncs: DirSyncs,
    journal: Journal,
    /// Could not be synced when the disk was read-only.
    unsure: Mutex<BTreeSet<ChunkId>>,
    quarantine: Quarantine,
    retired: Retired,
    doomed: Doomed,
    arrivals: Arrivals,
    temps: AtomicU64,
    /// Of the index, for those who must not wait for its lock.
    chunks: AtomicU64,
    bytes: AtomicU64,
}

/// A chunk file that is open, its header verified.
#[derive(Debug)]
pub(crate) struct ChunkFile {
    /// What the header says.
    pub header: ChunkHeader,
    /// Open for reading; data begins at [`DATA_AT`].
    pub file: File,
    inode: u64,
}

impl ChunkFile {
    /// Has it this length and checksum?
    fn is(&self, length: u32, checksum: u32) -> bool {
        (self.header.length, self.header.sums.checksum()) == (length as usize, checksum)
    }
}

fn shard(chunk: ChunkId) -> u8 {
    (chunk.0 & 0xff) as u8
}

fn chunk_path(root: &Path, chunk: ChunkId) -> PathBuf {
    root.join(chunk.relative_path())
}

impl ChunkStore {
    /// Opens the store in a locked data directory: makes what is missing, empties `tmp/`, replays the journal, and lists
    /// the chunks from their headers. Returns the store and the chunks that did not verify.
    ///
    /// # Errors
    /// The directory cannot be used, or a newer program wrote in it.
    pub fn open(dir: DataDir, reserve: Option<u64>) -> Result<(Arc<ChunkStore>, Vec<BadChunk>), KeeperError> {
        ChunkStore::open_with(dir, reserve, retired::REST)
    }

    fn open_with(
        dir: DataDir,
        reserve: Option<u64>,
        rest: Duration,
    ) -> Result<(Arc<ChunkStore>, Vec<BadChunk>), KeeperError> {
        make_directories(&dir)?;
        empty_temp(&dir)?;
        let quarantine = Quarantine::load(&dir)?;
        let retired = Retired::load(&dir, rest).map_err(|e| dir.failed("list retired/", e))?;
        let found = journal::read(dir.path(), JOURNAL_SIZE).map_err(|e| dir.failed("read its journal", e))?;
        let journal = Journal::begin(dir.path(), JOURNAL_SIZE, &found);
        let disk = Disk::new(dir.path(), reserve).map_err(|e| dir.failed("ask for its free space", e))?;
        let store = ChunkStore {
            dir,
            index: Mutex::default(),
            disk,
            dir_syncs: DirSyncs::new(),
            journal,
            unsure: Mutex::default(),
            quarantine,
            retired,
            doomed: Doomed::default(),
            arrivals: Arrivals::default(),
            temps: AtomicU64::new(0),
            chunks: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        };
        let replayed = store.replay(&found.records);
        let mut bad = Vec::new();
        for shard in 0..=255u8 {
            store.load_shard(shard, &mut bad)?;
        }
        // What a crash of the process left in the page cache may not be on the disk yet.
        match store.sync_file_system() {
            Ok(()) => store.index().mark_all_synced(),
            Err(error) => {
                tracing::warn!(%error, "the chunks found at start could not be synced");
                store.journal.leave_alone();
            }
        }
        match replayed {
            Ok(0) => {}
            Ok(chunks) => tracing::info!(chunks, "chunks were made again from the journal"),
            Err(error) => {
                tracing::error!(%error, "chunks cannot be made again from the journal, and are not served; they stay in it for the next start");
                store.journal.leave_alone();
            }
        }
        Ok((Arc::new(store), bad))
    }

    fn load_shard(&self, shard: u8, bad: &mut Vec<BadChunk>) -> Result<(), KeeperError> {
        let path = self.dir.path().join(format!("chunks/{shard:02x}"));
        let failed = |error| self.dir.failed(format!("list chunks/{shard:02x}"), error);
        for entry in fs::read_dir(&path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(chunk) = name.to_str().and_then(ChunkId::from_file_name) else {
                tracing::warn!(file = %path.join(&name).display(), "this is no chunk file; left alone");
                continue;
            };
            match self.read_header(chunk, 0..0) {
                Ok(ChunkFile { header, .. }) => {
                    let length = header.length as u32;
                    let entry =
                        Entry { length, checksum: header.sums.checksum(), stability: Stability::Volatile };
                    self.enter(&mut self.index(), chunk, entry);
                }
                Err(Unreadable::Bad(HeaderError::Format(found), _)) if found > FORMAT => {
                    let dir = self.dir.path().to_owned();
                    return Err(KeeperError::NewerFormat { dir, found, known: FORMAT });
                }
                Err(Unreadable::Bad(why, inode)) => {
                    bad.push((chunk, self.quarantine(chunk, Some(inode), &why.to_string())));
                }
                Err(Unreadable::Size(why, inode)) => {
                    bad.push((chunk, self.quarantine(chunk, Some(inode), &why)));
                }
                Err(Unreadable::Io(error)) => {
                    tracing::warn!(%chunk, %error, "cannot read this chunk's header; it is not served");
                }
            }
        }
        Ok(())
    }

    /// Begins to receive a chunk. One that the master has had deleted is refused in the end, unless it is a
    /// `copy` that the master ordered since.
    ///
    /// # Errors
    /// When the disk takes no writes.
    pub fn receive(
        self: &Arc<Self>,
        chunk: ChunkId,
        length: usize,
        copy: bool,
    ) -> Result<Incoming, StoreError> {
        Incoming::new(self, chunk, length, copy)
    }

    /// Opens a chunk to read it. One whose header does not verify, or is not the one that was stored, is
    /// quarantined.
    ///
    /// # Errors
    /// `NotFound`, `Vanished`, `Corrupt` or `Io`.
    pub fn open_chunk(&self, chunk: ChunkId) -> Result<ChunkFile, StoreError> {
        self.open_chunk_for(chunk, 0..0)
    }

    /// The same, for whoever reads `wanted` of its bytes next: the disk is asked for them together with the header.
    ///
    /// # Errors
    /// As [`ChunkStore::open_chunk`].
    pub fn open_chunk_for(&self, chunk: ChunkId, wanted: Range<u64>) -> Result<ChunkFile, StoreError> {
        let Some(entry) = self.index().get(chunk) else {
            return Err(StoreError::NotFound(chunk));
        };
        let wanted = wanted.start..wanted.end.min(u64::from(entry.length));
        let open = self.read_header(chunk, wanted).map_err(|error| match error {
            Unreadable::Bad(why, inode) => self.quarantine(chunk, Some(inode), &why.to_string()),
            Unreadable::Size(why, inode) => self.quarantine(chunk, Some(inode), &why),
            Unreadable::Io(error) if error.kind() == io::ErrorKind::NotFound => self.forget_missing(chunk),
            Unreadable::Io(source) => self.read_failed(chunk, None, "open it", source),
        })?;
        if !open.is(entry.length, entry.checksum) {
            return Err(self.quarantine(chunk, Some(open.inode), "it is another than was stored here"));
        }
        Ok(open)
    }

    /// Sorts out a file that could not be read: where the disk itself fails, or the file ends too early, the
    /// copy is as bad as one that does not verify.
    fn read_failed(
        &self,
        chunk: ChunkId,
        inode: Option<u64>,
        what: &'static str,
        source: io::Error,
    ) -> StoreError {
        let of_the_disk = source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
        if of_the_disk || source.kind() == io::ErrorKind::UnexpectedEof {
            return self.quarantine(chunk, inode, &format!("cannot {what}: {source}"));
        }
        StoreError::Io { chunk, what, source }
    }

    /// A read of an open chunk failed on its way to somebody: as [`ChunkStore::read_verified`] would find it.
    pub fn mistrust(&self, open: &ChunkFile, source: io::Error) -> StoreError {
        self.read_failed(open.header.chunk, Some(open.inode), "read it", source)
    }

    fn read_header(&self, chunk: ChunkId, wanted: Range<u64>) -> Result<ChunkFile, Unreadable> {
        let file = File::open(chunk_path(self.dir.path(), chunk))?;
        if !wanted.is_empty() {
            disk::read_ahead(&file, wanted);
        }
        let metadata = file.metadata()?;
        let (size, inode) = (metadata.len(), metadata.ino());
        if size < DATA_AT {
            return Err(Unreadable::Size(format!("its file has {size} bytes"), inode));
        }
        let mut raw = [0; HEADER_LEN];
        file.read_exact_at(&mut raw, 0)?;
        let header = ChunkHeader::decode(&raw, chunk).map_err(|why| Unreadable::Bad(why, inode))?;
        if size != DATA_AT + header.length as u64 {
            return Err(Unreadable::Size(format!("its file has {size} bytes"), inode));
        }
        Ok(ChunkFile { header, file, inode })
    }

    /// Reads a chunk in order, hands on each verified run of blocks, and quarantines it when one
    /// does not verify. `each` ends the reading by an error of its own.
    ///
    /// # Errors
    /// The store's, or what `each` returned.
    pub fn read_verified<E: From<StoreError>>(
        &self,
        open: &ChunkFile,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let ChunkHeader { chunk, length, ref sums } = open.header;
        let mut buffer = vec![0; CHECK_BLOCKS * BLOCK_SIZE];
        let mut at = 0;
        while at < length {
            let run = &mut buffer[..(CHECK_BLOCKS * BLOCK_SIZE).min(length - at)];
            open.file
                .read_exact_at(run, DATA_AT + at as u64)
                .map_err(|source| self.mistrust(open, source))?;
            for (n, block) in run.chunks(BLOCK_SIZE).enumerate() {
                let index = at / BLOCK_SIZE + n;
                if !sums.verify(index, block) {
                    let why = format!("block {index} has another checksum");
                    return Err(self.quarantine(chunk, Some(open.inode), &why).into());
                }
            }
            each(run)?;
            at += run.len();
        }
        Ok(())
    }

    /// Reads the block of this index, and quarantines the chunk when the block does not verify.
    ///
    /// # Errors
    /// `Corrupt` or `Io`.
    pub fn read_block(&self, open: &ChunkFile, index: usize) -> Result<Vec<u8>, StoreError> {
        let ChunkHeader { chunk, length, ref sums } = open.header;
        let at = index * BLOCK_SIZE;
        let mut block = vec![0; BLOCK_SIZE.min(length.saturating_sub(at))];
        let read = open.file.read_exact_at(&mut block, DATA_AT + at as u64);
        read.map_err(|source| self.mistrust(open, source))?;
        if sums.verify(index, &block) {
            return Ok(block);
        }
        Err(self.quarantine(chunk, Some(open.inode), &format!("block {index} has another checksum")))
    }

    /// Reads a chunk and checks every byte. With `expected`, one that is another is bad, too.
    ///
    /// # Errors
    /// `NotFound`, `Vanished`, `Corrupt` (and it is quarantined) or `Io`.
    pub fn verify(&self, chunk: ChunkId, expected: Option<pb::ChunkInfo>) -> Result<(), StoreError> {
        let open = self.open_chunk(chunk)?;
        if expected.is_some_and(|info| !open.is(info.length, info.checksum)) {
            let why = "it verifies, but is another than the master's record says";
            return Err(self.quarantine(chunk, Some(open.inode), why));
        }
        self.read_verified(&open, |_| Ok::<(), StoreError>(()))
    }

    /// Reads a chunk from the disk itself, not from the page cache, and checks every byte. `each` hears of
    /// the bytes that were read, and may take its time.
    ///
    /// # Errors
    /// As [`ChunkStore::verify`].
    pub fn scrub(&self, chunk: ChunkId, mut each: impl FnMut(usize)) -> Result<(), StoreError> {
        let open = self.open_chunk(chunk)?;
        // Advice: where it is not taken, what is in memory is checked.
        let _ = rustix::fs::fadvise(&open.file, 0, None, rustix::fs::Advice::DontNeed);
        self.read_verified(&open, |run| {
            each(run.len());
            Ok::<(), StoreError>(())
        })
    }

    /// From now on the chunk is not in the inventory; [`ChunkStore::delete_doomed`] has to follow. Touches no disk.
    pub fn doom(&self, chunk: ChunkId) {
        self.doomed.doom(chunk);
    }

    /// It cannot be deleted now, and is in the inventory again.
    pub fn spare(&self, chunk: ChunkId) {
        self.doomed.spare(chunk);
    }

    /// Removes a doomed chunk; false when it is not here, or is to stay after all.
    ///
    /// # Errors
    /// When the disk does not let go of it; it is in the inventory again.
    pub fn delete_doomed(&self, chunk: ChunkId) -> Result<bool, StoreError> {
        let mut index = self.index();
        if !self.doomed.is_doomed(chunk) {
            return Ok(false);
        }
        let bytes = index.get(chunk).map_or(0, |entry| DATA_AT + u64::from(entry.length));
        let path = chunk_path(self.dir.path(), chunk);
        match self.retired.retire(&self.dir, &path, bytes, self.disk.space().free) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                self.doomed.spare(chunk);
                // So that the master hears of it again, and orders it again.
                self.arrived(chunk);
                Err(StoreError::of_write(chunk, "delete it", source))
            }
            _ => {
                self.doomed.gone(chunk);
                Ok(self.forget(&mut index, chunk))
            }
        }
    }

    /// Moves a bad chunk file out of the way, and returns the error that says why. With `inode`,
    /// only that file: a good copy that came in its place since stays.
    pub fn quarantine(&self, chunk: ChunkId, inode: Option<u64>, why: &str) -> StoreError {
        let error = StoreError::Corrupt { chunk, why: why.to_owned() };
        let path = chunk_path(self.dir.path(), chunk);
        let mut index = self.index();
        if inode.is_some() && fs::metadata(&path).map(|m| m.ino()).ok() != inode {
            return error;
        }
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let aside = format!("{chunk}.{}.{}", since_1970.as_millis(), self.next_temp());
        // Not served from now on, whether or not the file can be moved.
        self.forget(&mut index, chunk);
        let bytes = fs::metadata(&path).map(|m| m.len()).unwrap_or_default();
        match self.dir.files().rename(&path, &self.dir.path().join("quarantine").join(&aside)) {
            Ok(()) => {
                tracing::error!(%chunk, why, file = aside, "chunk quarantined");
                self.quarantine.add(chunk, aside, bytes);
            }
            Err(error) => tracing::error!(%chunk, why, %error, "bad chunk cannot be quarantined"),
        }
        error
    }

    /// The file was not there: deleted since the index was looked at, or by somebody else.
    fn forget_missing(&self, chunk: ChunkId) -> StoreError {
        let mut index = self.index();
        if !chunk_path(self.dir.path(), chunk).exists() && self.forget(&mut index, chunk) {
            tracing::error!(%chunk, "somebody removed this chunk's file");
            return StoreError::Vanished(chunk);
        }
        StoreError::NotFound(chunk)
    }

    /// Every chunk that is here, by id, behind this one, and its bytes.
    pub fn list_after(&self, chunk: ChunkId) -> Vec<(ChunkId, u32)> {
        self.index().list_after(chunk)
    }

    /// How many chunks are here, and their bytes. Never waits.
    pub fn used(&self) -> (u64, u64) {
        (self.chunks.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    fn enter(&self, index: &mut Index, chunk: ChunkId, entry: Entry) {
        index.insert(chunk, entry);
        self.publish(index);
    }

    fn forget(&self, index: &mut Index, chunk: ChunkId) -> bool {
        let was_here = index.remove(chunk).is_some();
        self.unsure().remove(&chunk);
        self.publish(index);
        was_here
    }

    fn publish(&self, index: &Index) {
        self.chunks.store(index.len() as u64, Ordering::Relaxed);
        self.bytes.store(index.bytes(), Ordering::Relaxed);
    }

    /// The data directory.
    pub fn dir(&self) -> &DataDir {
        &self.dir
    }

    fn next_temp(&self) -> u64 {
        self.temps.fetch_add(1, Ordering::Relaxed)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Unreadable {
    Io(io::Error),
    Bad(HeaderError, u64),
    Size(String, u64),
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Unreadable {
        Unreadable::Io(error)
    }
}

fn make_directories(dir: &DataDir) -> Result<(), KeeperError> {
    let mut made = false;
    let mut make = |name: String| match dir.files().create_dir(&dir.path().join(&name)) {
        Ok(()) => {
            made = true;
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(dir.failed(format!("create {name}"), error)),
    };
    for name in ["chunks", "tmp", "quarantine", retired::DIR] {
        make(name.to_owned())?;
    }
    for shard in 0..=255u8 {
        make(format!("chunks/{shard:02x}"))?;
    }
    if made {
        for path in [dir.path().join("chunks"), dir.path().to_owned()] {
            dir.files().sync_dir(&path).map_err(|e| dir.failed("sync it", e))?;
        }
    }
    Ok(())
}

fn empty_temp(dir: &DataDir) -> Result<(), KeeperError> {
    let failed = |error| dir.failed("empty tmp/", error);
    for entry in fs::read_dir(dir.path().join("tmp")).map_err(failed)? {
        dir.files().remove(&entry.map_err(failed)?.path()).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
pub(crate) mod tests;
