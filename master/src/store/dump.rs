//! A dump: all metadata of a cluster in one stream of bytes (docs/DUMP.md describes it for other programs).
//!
//! ```text
//! head      "DFSDUMP\n"  version:4  crc:4                      (crc: CRC-32C of the 12 bytes before it)
//! records   kind:1  length:4  payload  crc:4                   (crc: of kind, length and payload)
//!
//! kind 1    cluster:16  created:12  taken:12                   first, once. A time: seconds:8 nanoseconds:4
//! kind 2    table:1  key_length:2  key  value                  a row (codec.rs), any number
//! kind 3    rows:8  sha256:32                                  last, once; the hash: of all bytes before this record
//! ```
//!
//! Numbers are little-endian. What must hold: a dump is read whole or refused, so nothing that was read may be used
//! before [`Reader::next_row`] has said that it was the last. The cluster's secret is not in it: a restored cluster
//! makes itself a new one. The hashes of users' passwords are.

use std::io::{self, Read, Write};

use dfs_proto::ids::ClusterId;
use dfs_proto::pb;
use sha2::{Digest, Sha256};

use super::codec::{self, Table};
use super::{Snapshot, StoreError};
use crate::core::Row;

/// The version that is written, and the newest that is read.
/// Version 1 had no users.
pub const DUMP_VERSION: u32 = 4;

const MAGIC: [u8; 8] = *b"DFSDUMP\n";
const HEAD_LEN: usize = 16;
const CRC_LEN: usize = 4;
/// No record's payload is longer, in bytes.
const MAX_PAYLOAD: u32 = 16 * 1024 * 1024;
const CLUSTER_LEN: usize = 16;
const TIME_LEN: usize = 12;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Kind {
    Cluster = 1,
    Row = 2,
    End = 3,
}

/// Whose dump it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The cluster.
    pub cluster: ClusterId,
    /// When the cluster was made.
    pub created: pb::Time,
    /// When the dump was taken.
    pub taken: pb::Time,
}

/// What a dump has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    /// Rows.
    pub rows: u64,
    /// Bytes of the dump.
    pub bytes: u64,
}

/// Why a dump cannot be written, or is refused.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum DumpError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is no dump of dfs-master; name a file that 'dfs backup' or 'dfs-master --dump' wrote")]
    NotADump,
    #[error("it has format {0}, and this program knows formats up to {DUMP_VERSION}; use a newer dfs-master")]
    Newer(u32),
    #[error("it is damaged: {0}; use another backup")]
    Damaged(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn damaged<T>(why: impl Into<String>) -> Result<T, DumpError> {
    Err(DumpError::Damaged(why.into()))
}

/// Writes a dump of what `snapshot` holds. The caller flushes, and sees to it that the bytes last.
///
/// # Errors
/// Of the store, or of `out`; what was written is no dump then.
pub fn write(
    snapshot: &mut dyn Snapshot,
    taken: pb::Time,
    out: &mut dyn Write,
) -> Result<Summary, DumpError> {
    let identity = snapshot.identity()?;
    let mut writer = Writer { out, hash: Sha256::new(), bytes: 0 };
    let mut head = [&MAGIC[..], &DUMP_VERSION.to_le_bytes()].concat();
    head.extend_from_slice(&crc32c::crc32c(&head).to_le_bytes());
    writer.put(&head)?;
    writer.record(Kind::Cluster, &[&identity.cluster.0, &time(identity.created), &time(taken)])?;
    let (mut rows, mut failed) = (0u64, None);
    let loaded = snapshot.load(&mut |row| {
        // Who is mounted at this moment says nothing of the cluster.
        if matches!(row, Row::Session(_)) {
            return Ok(());
        }
        rows += 1;
        let (table, key, value) = codec::encode(&row);
        let length = (key.len() as u16).to_le_bytes();
        writer.record(Kind::Row, &[&[table as u8], &length, &key, &value]).map_err(|error| {
            let stop = StoreError::Rows(error.to_string());
            failed = Some(error);
            stop
        })
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    loaded?;
    let hash = writer.hash.clone().finalize();
    writer.record(Kind::End, &[&rows.to_le_bytes(), &hash])?;
    Ok(Summary { rows, bytes: writer.bytes })
}

struct Writer<'a> {
    out: &'a mut dyn Write,
    hash: Sha256,
    bytes: u64,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn record(&mut self, kind: Kind, parts: &[&[u8]]) -> io::Result<()> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut record = Vec::with_capacity(1 + 4 + length + CRC_LEN);
        record.push(kind as u8);
        record.extend_from_slice(&(length as u32).to_le_bytes());
        parts.iter().for_each(|part| record.extend_from_slice(part));
        let crc = crc32c::crc32c(&record);
        record.extend_from_slice(&crc.to_le_bytes());
        self.put(&record)
    }
}

fn time(time: pb::Time) -> [u8; TIME_LEN] {
    let mut bytes = [0; TIME_LEN];
    bytes[..8].copy_from_slice(&time.sec.to_le_bytes());
    bytes[8..].copy_from_slice(&time.nsec.to_le_bytes());
    bytes
}

/// Reads a dump, row after row.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    hash: Sha256,
    rows: u64,
}

impl<R: Read> Reader<R> {
    /// Reads whose dump it is.
    ///
    /// # Errors
    /// [`DumpError`].
    pub fn begin(input: R) -> Result<(Head, Reader<R>), DumpError> {
        let mut reader = Reader { input, hash: Sha256::new(), rows: 0 };
        let mut head = [0; HEAD_LEN];
        reader.fill(&mut head)?;
        let (Some(magic), Some(version), Some(crc)) =
            (head.first_chunk::<8>(), number(&head, 8), number(&head, 12))
        else {
            return Err(DumpError::NotADump);
        };
        if *magic != MAGIC {
            return Err(DumpError::NotADump);
        }
        if crc != crc32c::crc32c(&head[..12]) || version == 0 {
            return damaged("its head does not verify");
        }
        if version > DUMP_VERSION {
            return Err(DumpError::Newer(version));
        }
        reader.hash.update(head);
        let (kind, payload) = reader.record()?;
        match whose(&payload) {
            Some(head) if kind == Kind::Cluster as u8 => Ok((head, reader)),
            _ => damaged("it does not say which cluster's it is"),
        }
    }

    /// The next row. `None`: there are no more, and all of them were those that were written.
    ///
    /// # Errors
    /// [`DumpError`]; nothing of this dump is to be used then.
    pub fn next_row(&mut self) -> Result<Option<Row>, DumpError> {
        let hash: [u8; 32] = self.hash.clone().finalize().into();
        let (kind, payload) = self.record()?;
        if kind == Kind::Row as u8 {
            self.rows += 1;
            return row(&payload).map(Some);
        }
        let Some((rows, written)) = payload.split_first_chunk::<8>() else {
            return damaged("a record of it is too short");
        };
        if kind != Kind::End as u8 || u64::from_le_bytes(*rows) != self.rows || *written != hash {
            return damaged("its end is not that of what is before it");
        }
        match self.input.read(&mut [0])? {
            0 => Ok(None),
            _ => damaged("it goes on after its end"),
        }
    }

    fn record(&mut self) -> Result<(u8, Vec<u8>), DumpError> {
        let mut begin = [0; 5];
        self.fill(&mut begin)?;
        let [kind, length @ ..] = begin;
        let length = u32::from_le_bytes(length);
        if length > MAX_PAYLOAD {
            return damaged("a record of it is too long");
        }
        // Not reserved at once: the length may be a lie.
        let mut payload = Vec::new();
        let wanted = u64::from(length) + CRC_LEN as u64;
        let read = (&mut self.input).take(wanted).read_to_end(&mut payload)?;
        let Some((_, crc)) = payload.split_last_chunk::<CRC_LEN>().filter(|_| read as u64 == wanted) else {
            return damaged("it ends too soon");
        };
        let crc = u32::from_le_bytes(*crc);
        self.hash.update(begin);
        self.hash.update(&payload);
        payload.truncate(length as usize);
        if crc != crc32c::crc32c_append(crc32c::crc32c(&begin), &payload) {
            return damaged("a record of it does not verify");
        }
        Ok((kind, payload))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), DumpError> {
        self.input.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => DumpError::Damaged("it ends too soon".to_owned()),
            _ => DumpError::Io(error),
        })
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.first_chunk::<4>().map(|number| u32::from_le_bytes(*number))
}

fn whose(payload: &[u8]) -> Option<Head> {
    let (cluster, times) = payload.split_at_checked(CLUSTER_LEN)?;
    let (created, taken) = times.split_at_checked(TIME_LEN)?;
    let time = |bytes: &[u8]| {
        let (sec, nsec) = bytes.split_first_chunk::<8>()?;
        let nsec = u32::from_le_bytes(nsec.try_into().ok()?);
        Some(pb::Time { sec: i64::from_le_bytes(*sec), nsec })
    };
    Some(Head { cluster: ClusterId::from_bytes(cluster)?, created: time(created)?, taken: time(taken)? })
}

fn row(payload: &[u8]) -> Result<Row, DumpError> {
    let parts = || {
        let (&table, rest) = payload.split_first()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (key, value) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        Some((table, key, value))
    };
    let Some((number, key, value)) = parts() else { return damaged("a row of it is too short") };
    let Some(&table) = Table::ALL.iter().find(|table| **table as u8 == number) else {
        return damaged(format!("it has a row of table {number}, which this program does not know"));
    };
    codec::decode(table, key, value).or_else(|error| damaged(error.to_string()))
}

#[cfg(test)]
mod tests;
