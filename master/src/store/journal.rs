//! The journal: what was committed and may not be in the tables yet, in two files, `journal-0` and `journal-1`.
//!
//! A record is appended and synced (fdatasync), and then it counts. The files are made once, with zeroes, and are written in turn:
//! one that is full is written again from its beginning when the tables have all of it, so that there is no metadata for
//! a sync to write. What is left of before is told from what is new by its number.
//!
//! ```text
//! store:8 commit:8 length:4 crc:4 batch:length    at a multiple of 8; numbers little-endian; the crc: CRC-32C of the
//!                                                 20 bytes before it and of the batch (batch.rs)
//! ```
//!
//! `store` is the number of the store (redb/tally.rs), so that another one's journal is ignored; `commit` counts its
//! commits. **What is read must follow on** from what the tables have without a gap. One record is under way at a time: so
//! what a power cut tears is the last one, which nobody was told of, and a record with a later number proves that those
//! before it were there. Therefore records are looked for everywhere in both files, also behind what does not verify.
//!
//! What is taken for granted of the disk, as redb does: a sector that is written again with the same bytes and more
//! keeps those bytes, whenever the power goes.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dfs_files::Files;

use super::{StoreError, io_failed, read_from_disk};

/// In the data directory.
pub const FILE_NAMES: [&str; 2] = ["journal-0", "journal-1"];
const PRIVATE_FILE: u32 = 0o600;
const HEAD_LEN: usize = 24;
const ALIGN: usize = 8;
/// No program made a longer file.
const MAX_FILE: u64 = 64 * 1024 * 1024;
/// Zeroes are written so many at a time.
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// One commit.
#[derive(Debug)]
pub(super) struct Record {
    pub commit: u64,
    bytes: Vec<u8>,
}

impl Record {
    /// `write` appends the batch.
    pub fn new(store: u64, commit: u64, write: impl FnOnce(&mut Vec<u8>)) -> Record {
        let mut bytes = [store.to_le_bytes(), commit.to_le_bytes()].concat();
        bytes.resize(HEAD_LEN, 0);
        write(&mut bytes);
        // One of 4 GiB fits no file.
        let length = (bytes.len() - HEAD_LEN) as u32;
        bytes[16..20].copy_from_slice(&length.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..20]), &bytes[HEAD_LEN..]);
        bytes[20..HEAD_LEN].copy_from_slice(&crc.to_le_bytes());
        Record { commit, bytes }
    }

    /// See batch.rs.
    pub fn batch(&self) -> &[u8] {
        &self.bytes[HEAD_LEN..]
    }

    /// Bytes in a file.
    pub fn len(&self) -> u64 {
        self.bytes.len().next_multiple_of(ALIGN) as u64
    }

    /// The one at the beginning of `bytes`, if it verifies.
    fn read(bytes: &[u8]) -> Option<Record> {
        let number = |at: usize| bytes.get(at..at + 4)?.first_chunk().map(|n| u32::from_le_bytes(*n));
        let (length, crc) = (number(16)?, number(20)?);
        let end = HEAD_LEN.checked_add(usize::try_from(length).ok()?)?;
        let (head, batch) = (bytes.get(..20)?, bytes.get(HEAD_LEN..end)?);
        let commit = u64::from_le_bytes(*head.get(8..)?.first_chunk()?);
        (crc32c::crc32c_append(crc32c::crc32c(head), batch) == crc)
            .then(|| Record { commit, bytes: bytes[..end].to_owned() })
    }
}

/// The records of `store` after commit `after`, in their order. Nothing is changed.
///
/// # Errors
/// The files cannot be read, or one that was written is not there.
pub(super) fn read(dir: &Path, store: u64, after: u64) -> Result<Vec<Record>, StoreError> {
    let mut found = BTreeMap::new();
    for name in FILE_NAMES {
        let path = dir.join(name);
        let bytes = read_file(&path)?;
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= HEAD_LEN) {
            let record = rest.starts_with(&store.to_le_bytes()).then(|| Record::read(rest)).flatten();
            at += record.as_ref().map_or(ALIGN, |record| record.bytes.len().next_multiple_of(ALIGN));
            if let Some(record) = record.filter(|record| record.commit > after) {
                found.insert(record.commit, (record, path.clone()));
            }
        }
    }
    let follow_on = (after + 1..).zip(found).map(|(expected, (commit, (record, path)))| {
        let why = || format!("commit {commit} is in it, and {expected} is missing");
        if commit == expected { Ok(record) } else { Err(StoreError::Corrupt { path, why: why() }) }
    });
    follow_on.collect()
}

fn read_file(path: &Path) -> Result<Vec<u8>, StoreError> {
    let read = || {
        let mut file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened?,
        };
        read_from_disk(&file);
        let mut bytes = Vec::new();
        (&mut file).take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| io_failed(path, &error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(StoreError::Corrupt { path: path.to_owned(), why: "it is too long".to_owned() });
    }
    Ok(bytes)
}

#[derive(Debug)]
struct JournalFile {
    path: PathBuf,
    file: File,
    /// The newest commit in it, since this program opened it.
    last: u64,
}

/// To be appended to.
#[derive(Debug)]
pub(super) struct Journal {
    files: Arc<dyn Files>,
    both: [JournalFile; 2],
    /// Of each file.
    size: u64,
    /// Which is written.
    current: usize,
    /// Where its next record goes.
    at: u64,
}

impl Journal {
    /// Begins anew: the tables have all that is in the files, which are made where they are missing or too short.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn begin(files: Arc<dyn Files>, dir: &Path, size: u64) -> Result<Journal, StoreError> {
        let [first, second] = FILE_NAMES.map(|name| {
            let path = dir.join(name);
            match prepare(&*files, &path, size) {
                Ok(file) => Ok(JournalFile { path, file, last: 0 }),
                Err(error) => Err(io_failed(&path, &error)),
            }
        });
        let both = [first?, second?];
        files.sync_dir(dir).map_err(|error| io_failed(dir, &error))?;
        Ok(Journal { files, both, size, current: 0, at: 0 })
    }

    /// Is a record small enough for a file?
    pub fn can_hold(&self, record: &Record) -> bool {
        record.len() <= self.size
    }

    /// Sees to it that the record has a place. `folded`: the newest commit that the tables have for good. `Err`: there
    /// is a place only when they have this one.
    pub fn make_room(&mut self, record: &Record, folded: u64) -> Result<(), u64> {
        if self.at + record.len() <= self.size {
            return Ok(());
        }
        let other = 1 - self.current;
        match self.both[other].last {
            last if last > folded => Err(last),
            _ => {
                (self.current, self.at) = (other, 0);
                Ok(())
            }
        }
    }

    /// Appends and syncs a record that has a place.
    ///
    /// # Errors
    /// It is not known then whether the record is there; nothing more may be appended.
    pub fn append(&mut self, record: &Record) -> Result<(), StoreError> {
        let to = &mut self.both[self.current];
        self.files
            .write_all_at(&to.file, &record.bytes, self.at)
            .and_then(|()| self.files.sync_file(&to.file))
            .map_err(|error| io_failed(&to.path, &error))?;
        to.last = record.commit;
        self.at += record.len();
        Ok(())
    }
}

/// Opens a file, and makes it as long as it has to be. What is in it stays.
fn prepare(files: &dyn Files, path: &Path, size: u64) -> io::Result<File> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => files.create(path, PRIVATE_FILE),
        opened => opened,
    }?;
    let mut at = file.metadata()?.len();
    if at < size {
        while at < size {
            let zeroes = &ZEROES[..ZEROES.len().min((size - at) as usize)];
            files.write_all_at(&file, zeroes, at)?;
            at += zeroes.len() as u64;
        }
        files.sync_file(&file)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests;
