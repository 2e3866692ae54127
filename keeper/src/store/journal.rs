//! The journal of small chunks: what makes a chunk of one block stable with one write and one sync of a file that is there
//! already, where its own file takes a sync of the file, and of its directory, and of what the file system notes about both.
//!
//! A chunk that is to be synced at once has its file by then. Its bytes are written here as well, and synced (fdatasync); from then
//! on it counts as stable. Its file is synced with the others within a second ([`super::sync`]), and if a power cut comes first, the
//! next start makes the file again from the record (replay.rs).
//!
//! There are two halves, `journal-0` and `journal-1`, that are written in turn. A half is written from its beginning, and again only
//! when it is settled: the file of each chunk in it is synced, or is to be there no more. What was once written stays
//! allocated, so that a sync has no metadata to write; a half grows with zeroes ahead of its records.
//!
//! ```text
//! head, 512 bytes: magic:8 key:16 crc:4                         key: random, made with the file
//! record, at a multiple of 512 bytes:
//!   key:16 epoch:8 settled:8 chunk:8 length:4 sum:4 crc:4 data:length
//!                                       numbers little-endian; sum: of the block; crc: CRC-32C of the 48 bytes before it and of the data
//! ```
//!
//! `epoch` counts the times that a half was begun; `settled` is the newest epoch of which nothing is wanted any more. What is left of earlier
//! epochs is told by that. The key is in every record because a chunk's bytes are a stranger's: behind a record that was
//! half overwritten they must not pass for one.
//!
//! What must hold: a chunk whose record's sync returned has it in a half that is not settled, until its file is synced. What is taken
//! for granted of the disk: a sector that is written again with the same bytes keeps them, whenever the power goes.
//! Where the disk does not take a record, or there is no room for it, the chunk's file is synced instead: nothing waits for the journal.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dfs_proto::block_sum::{BLOCK_SIZE, BlockSums};
use dfs_proto::ids::ChunkId;

use crate::identity::{DataDir, FILE_MODE};
use crate::store::group_sync::GroupSync;

/// In the data directory.
pub(super) const FILE_NAMES: [&str; 2] = ["journal-0", "journal-1"];
/// Longer chunks have no place in it.
pub(super) const LONGEST: usize = BLOCK_SIZE;

const MAGIC: [u8; 8] = *b"DFSJRNL1";
const KEY_LEN: usize = 16;
const SECTOR: usize = 512;
const HEAD_LEN: usize = 28;
const CRC_AT: usize = 48;
const DATA_AT: usize = 52;
/// How a half grows.
static ZEROES: [u8; 1024 * 1024] = [0; 1024 * 1024];

/// Which file a record is of.
type Key = [u8; KEY_LEN];

/// One chunk, as it is in the journal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub chunk: ChunkId,
    /// At most [`LONGEST`] bytes.
    pub data: Bytes,
    /// Of the data.
    pub sums: BlockSums,
}

/// What a journal has that is not settled.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// In the order of their epochs.
    pub records: Vec<Record>,
    /// The newest epoch there is.
    epoch: u64,
}

/// One of the two files.
#[derive(Debug)]
struct Half {
    path: PathBuf,
    /// Opened when it is first written.
    file: Option<(Arc<File>, Key)>,
    /// Of the file, bytes that are allocated.
    made: u64,
    /// Where the next record goes.
    at: u64,
    epoch: u64,
    /// What is in it, settled or not yet.
    chunks: Vec<ChunkId>,
}

#[derive(Debug)]
struct State {
    halves: [Half; 2],
    /// Which is written.
    current: usize,
    /// The newest epoch that is settled.
    settled: u64,
    /// The disk has failed it: nothing is written any more.
    broken: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Journal {
    /// Of a half, in bytes.
    size: u64,
    state: Mutex<State>,
    syncs: [GroupSync; 2],
}

/// A record that was written, and has yet to be synced.
#[derive(Debug)]
pub(super) struct Written {
    half: usize,
    file: Arc<File>,
}

impl Journal {
    /// To be written from now on, in halves of `size` bytes. What was `found` in it is settled.
    pub fn begin(dir: &Path, size: u64, found: &Found) -> Journal {
        let epoch = found.epoch + 1;
        let half =
            |name| Half { path: dir.join(name), file: None, made: 0, at: 0, epoch, chunks: Vec::new() };
        let state = State { halves: FILE_NAMES.map(half), current: 0, settled: found.epoch, broken: false };
        Journal { size, state: Mutex::new(state), syncs: Default::default() }
    }

    /// Nothing is written to it, and all that is in it stays for the next start.
    pub fn leave_alone(&self) {
        self.state().broken = true;
    }

    /// Writes a chunk of at most [`LONGEST`] bytes. [`Journal::sync`] has to follow. `None`: it has no place here.
    pub fn write(&self, dir: &DataDir, record: &Record) -> Option<Written> {
        let mut state = self.state();
        if state.broken {
            return None;
        }
        let (half, settled) = (state.current, state.settled);
        match state.halves[half].append(dir, self.size, record, settled) {
            Ok(file) => file.map(|file| Written { half, file }),
            Err(error) => {
                tracing::warn!(%error, file = %state.halves[half].path.display(), "the journal cannot be written: chunks are synced one by one");
                None
            }
        }
    }

    /// Returns when the record is on stable storage. False: it may not be, and the chunk's file has to be synced.
    pub fn sync(&self, dir: &DataDir, written: &Written) -> bool {
        match self.syncs[written.half].sync(|| dir.files().sync_file(&written.file)) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "the journal cannot be synced, and is not written any more; check this keeper's disk");
                self.leave_alone();
                false
            }
        }
    }

    /// Goes on in the other half, if that is settled. Returns the chunks of the one that is to be settled now.
    pub fn turn(&self) -> Vec<ChunkId> {
        let mut state = self.state();
        let (current, other) = (state.current, 1 - state.current);
        if state.halves[other].chunks.is_empty() && !state.halves[current].chunks.is_empty() {
            let epoch = state.halves[current].epoch + 1;
            let next = &mut state.halves[other];
            (next.epoch, next.at) = (epoch, 0);
            state.current = other;
        }
        state.halves[1 - state.current].chunks.clone()
    }

    /// The files of those that [`Journal::turn`] returned are synced, or are to be there no more.
    pub fn settled(&self) {
        let mut state = self.state();
        let current = state.current;
        state.halves[1 - current].chunks.clear();
        state.settled = state.halves[current].epoch - 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Half {
    /// `None`: it is full. After an error the next record goes to the same place.
    fn append(
        &mut self,
        dir: &DataDir,
        size: u64,
        record: &Record,
        settled: u64,
    ) -> io::Result<Option<Arc<File>>> {
        let (file, key) = self.open(dir)?;
        let at = self.at.max(SECTOR as u64);
        let bytes = encode(&key, self.epoch, settled, record);
        let end = at + bytes.len() as u64;
        if end > size {
            return Ok(None);
        }
        while self.made < end {
            let zeroes = &ZEROES[..ZEROES.len().min((size - self.made) as usize)];
            dir.files().write_all_at(&file, zeroes, self.made)?;
            self.made += zeroes.len() as u64;
        }
        dir.files().write_all_at(&file, &bytes, at)?;
        self.at = end;
        self.chunks.push(record.chunk);
        Ok(Some(file))
    }

    fn open(&mut self, dir: &DataDir) -> io::Result<(Arc<File>, Key)> {
        if let Some(open) = &self.file {
            return Ok(open.clone());
        }
        let file = match OpenOptions::new().read(true).write(true).open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = dir.files().create(&self.path, FILE_MODE)?;
                dir.files().sync_dir(dir.path())?;
                file
            }
            opened => opened?,
        };
        let key = match read_key(&file) {
            Some(key) => key,
            None => {
                let mut key = Key::default();
                getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
                // Synced with the first record.
                dir.files().write_all_at(&file, &encode_head(&key), 0)?;
                key
            }
        };
        self.made = file.metadata()?.len();
        Ok(self.file.insert((Arc::new(file), key)).clone())
    }
}

fn encode_head(key: &Key) -> Vec<u8> {
    let mut head = [&MAGIC[..], key].concat();
    head.extend(crc32c::crc32c(&head).to_le_bytes());
    head.resize(SECTOR, 0);
    head
}

fn decode_head(head: &[u8]) -> Option<Key> {
    let (known, crc) = head.get(..HEAD_LEN)?.split_at(HEAD_LEN - 4);
    (known.starts_with(&MAGIC) && crc32c::crc32c(known).to_le_bytes() == *crc).then_some(())?;
    known.last_chunk::<KEY_LEN>().copied()
}

fn read_key(file: &File) -> Option<Key> {
    let mut head = [0; HEAD_LEN];
    file.read_exact_at(&mut head, 0).ok()?;
    decode_head(&head)
}

fn encode(key: &Key, epoch: u64, settled: u64, record: &Record) -> Vec<u8> {
    assert!(record.data.len() <= LONGEST, "a chunk that is too long for the journal: {}", record.data.len());
    let mut bytes = Vec::with_capacity((DATA_AT + record.data.len()).next_multiple_of(SECTOR));
    bytes.extend_from_slice(key);
    [epoch, settled, record.chunk.0].iter().for_each(|number| bytes.extend(number.to_le_bytes()));
    bytes.extend((record.data.len() as u32).to_le_bytes());
    bytes.extend_from_slice(record.sums.encoded());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), &record.data);
    bytes.extend(crc.to_le_bytes());
    bytes.extend_from_slice(&record.data);
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
    bytes
}

/// A record, its epoch, the newest that was settled, and its bytes in the file.
type Decoded = (Record, u64, u64, usize);

/// The record at the beginning of `bytes`, if there is one that verifies.
fn decode(bytes: &[u8], key: &Key) -> Option<Decoded> {
    let head = bytes.get(..DATA_AT).filter(|head| head.starts_with(key))?;
    let u64_at = |at: usize| head[at..].first_chunk().map(|raw| u64::from_le_bytes(*raw));
    let u32_at = |at: usize| head[at..].first_chunk().map(|raw| u32::from_le_bytes(*raw));
    let length = usize::try_from(u32_at(40)?).ok().filter(|length| (1..=LONGEST).contains(length))?;
    let data = bytes.get(DATA_AT..DATA_AT + length)?;
    if crc32c::crc32c_append(crc32c::crc32c(&head[..CRC_AT]), data) != u32_at(CRC_AT)? {
        return None;
    }
    let sums = BlockSums::decode(Bytes::copy_from_slice(&head[44..48]), length)?;
    let record = Record { chunk: ChunkId(u64_at(32)?), data: Bytes::copy_from_slice(data), sums };
    Some((record, u64_at(16)?, u64_at(24)?, (DATA_AT + length).next_multiple_of(SECTOR)))
}

/// What a journal of halves of at most `size` bytes has. Nothing is changed.
///
/// # Errors
/// A file is there and cannot be read.
pub(super) fn read(dir: &Path, size: u64) -> io::Result<Found> {
    let (mut all, mut settled) = (Vec::new(), 0);
    let mut found = Found::default();
    for name in FILE_NAMES {
        let mut bytes = Vec::new();
        match File::open(dir.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?.take(size).read_to_end(&mut bytes)?,
        };
        let Some(key) = decode_head(&bytes) else { continue };
        let mut at = SECTOR;
        // Everywhere: what does not verify may be in the middle, of an upload that was never acknowledged.
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let Some((record, epoch, settled_then, len)) = decode(rest, &key) else {
                at += SECTOR;
                continue;
            };
            settled = settled.max(settled_then);
            found.epoch = found.epoch.max(epoch);
            all.push((epoch, record));
            at += len;
        }
    }
    all.retain(|(epoch, _)| *epoch > settled);
    all.sort_by_key(|(epoch, _)| *epoch);
    found.records = all.into_iter().map(|(_, record)| record).collect();
    Ok(found)
}

#[cfg(test)]
mod tests;
