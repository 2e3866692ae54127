//! The embedded store: one redb file, `master.redb`, in the data directory.
//!
//! One redb table per [`Table`], named as it, from key bytes to value bytes (codec.rs); and the table
//! `identity`, from a name to bytes:
//!
//! ```text
//! format    u32, little-endian: FORMAT_VERSION
//! cluster   16 bytes
//! secret    32 bytes
//! created   seconds, i64 little-endian; nanoseconds, u32 little-endian
//! spared    of a restored cluster alone: chunk id, u64 little-endian; ms since 1970, i64 little-endian
//! ```
//!
//! A commit is one redb write transaction of durability Immediate: redb syncs the file before it returns,
//! and after a crash it opens at the last whole commit. The file is 0600, for the secret in it.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dfs_proto::ids::{ChunkId, ClusterId};
use dfs_proto::pb;
use redb::{
    Builder, Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase, ReadableTable,
    TableDefinition,
};

use super::codec::{self, Table};
use super::{DataDir, FORMAT_VERSION, Identity, Snapshot, Store, StoreError};
use crate::core::{Row, RowChange, Spared};

/// In the data directory.
pub const FILE_NAME: &str = "master.redb";
const IDENTITY: TableDefinition<&str, &[u8]> = TableDefinition::new("identity");
/// Rows are served from the master's own memory, so redb's cache need hold little more than the inner
/// pages of its trees.
const CACHE_BYTES: usize = 32 * 1024 * 1024;
const PRIVATE_FILE: u32 = 0o600;

fn definition(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

/// Rows in a redb file. Holds the data directory's lock.
#[derive(Debug)]
pub struct RedbStore {
    /// None only while this is dropped: before the lock is, and guarded like every other use.
    database: Option<Database>,
    path: PathBuf,
    _dir: Arc<DataDir>,
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        let database = self.database.take();
        let closed = guarded(&self.path, || {
            drop(database);
            Ok(())
        });
        if let Err(error) = closed {
            tracing::error!("{error}");
        }
    }
}

impl RedbStore {
    /// Opens the file, and makes it when it is missing.
    ///
    /// # Errors
    /// Damaged, of a newer format, or not to be read or written.
    pub fn open(dir: DataDir) -> Result<RedbStore, StoreError> {
        RedbStore::open_named(Arc::new(dir), FILE_NAME)
    }

    /// As [`RedbStore::open`], of a file of another name in the directory.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_named(dir: Arc<DataDir>, name: &str) -> Result<RedbStore, StoreError> {
        let path = dir.path().join(name);
        let database = guarded(&path, || open_database(&path))?;
        let mut store = RedbStore { database: Some(database), path, _dir: dir };
        store.prepare()?;
        Ok(store)
    }

    /// Refuses a newer format; makes the tables of a new file.
    fn prepare(&mut self) -> Result<(), StoreError> {
        let path = self.path.clone();
        guarded(&path, || {
            let write = self.begin()?;
            {
                let mut identity = write.open_table(IDENTITY).map_err(|e| self.failed(e))?;
                let found = identity.get("format").map_err(|e| self.failed(e))?.map(|v| v.value().to_vec());
                match found.map(|bytes| <[u8; 4]>::try_from(bytes).map(u32::from_le_bytes)) {
                    None => {
                        let version = FORMAT_VERSION.to_le_bytes();
                        identity.insert("format", version.as_slice()).map_err(|e| self.failed(e))?;
                    }
                    Some(Ok(version)) if version > FORMAT_VERSION => {
                        return Err(StoreError::NewerFormat { path: self.path.clone(), found: version });
                    }
                    Some(Ok(1..)) => {}
                    Some(_) => return Err(self.corrupt("its format version makes no sense")),
                }
            }
            for table in Table::ALL {
                write.open_table(definition(table)).map_err(|e| self.failed(e))?;
            }
            write.commit().map_err(|e| self.failed(e))
        })
    }

    fn database(&self) -> Result<&Database, StoreError> {
        self.database.as_ref().ok_or_else(|| StoreError::Io {
            path: self.path.clone(),
            why: "closed".to_owned(),
            kind: ErrorKind::Other,
        })
    }

    fn begin(&self) -> Result<redb::WriteTransaction, StoreError> {
        let mut write = self.database()?.begin_write().map_err(|e| self.failed(e))?;
        write.set_durability(Durability::Immediate).map_err(|e| self.failed(e))?;
        Ok(write)
    }

    fn begin_read(&self) -> Result<RedbSnapshot, StoreError> {
        let read = self.database()?.begin_read().map_err(|e| self.failed(e))?;
        Ok(RedbSnapshot { read, path: self.path.clone() })
    }

    fn write_identity(&self, identity: &Identity) -> Result<(), StoreError> {
        let write = self.begin()?;
        {
            let mut table = write.open_table(IDENTITY).map_err(|e| self.failed(e))?;
            let created =
                [&identity.created.sec.to_le_bytes()[..], &identity.created.nsec.to_le_bytes()[..]].concat();
            let fields = [
                ("cluster", &identity.cluster.0[..]),
                ("secret", &identity.secret[..]),
                ("created", created.as_slice()),
            ];
            for (name, value) in fields {
                table.insert(name, value).map_err(|e| self.failed(e))?;
            }
            if let Some(spared) = identity.spared {
                table.insert("spared", encode_spared(spared).as_slice()).map_err(|e| self.failed(e))?;
            }
        }
        write.commit().map_err(|e| self.failed(e))
    }

    fn commit_in_order(&self, changes: &[RowChange]) -> Result<(), StoreError> {
        let write = self.begin()?;
        // A table can be open once only in a transaction; the order of changes matters only within one
        // table, because keys of different tables never meet.
        for table in Table::ALL {
            let mut changes = changes.iter().filter(|change| table_of(change) == table).peekable();
            if changes.peek().is_none() {
                continue;
            }
            let mut rows = write.open_table(definition(table)).map_err(|e| self.failed(e))?;
            for change in changes {
                match change {
                    RowChange::Put(row) => {
                        let (_, key, value) = codec::encode(row);
                        rows.insert(key.as_slice(), value.as_slice()).map_err(|e| self.failed(e))?;
                    }
                    RowChange::Delete(key) => {
                        let (_, key) = codec::encode_key(key);
                        rows.remove(key.as_slice()).map_err(|e| self.failed(e))?;
                    }
                }
            }
        }
        write.commit().map_err(|e| self.failed(e))
    }

    fn failed(&self, error: impl Into<redb::Error>) -> StoreError {
        explain(&self.path, error)
    }

    fn corrupt(&self, why: &str) -> StoreError {
        StoreError::Corrupt { path: self.path.clone(), why: why.to_owned() }
    }
}

impl Store for RedbStore {
    fn identity(&mut self, fresh: Identity) -> Result<Identity, StoreError> {
        guarded(&self.path, || {
            if let Some(found) = self.begin_read()?.read_identity()? {
                return Ok(found);
            }
            self.write_identity(&fresh)?;
            Ok(fresh)
        })
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, StoreError> {
        guarded(&self.path, || Ok::<Box<dyn Snapshot>, StoreError>(Box::new(self.begin_read()?)))
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        let closed = self.database.take();
        // What it has to say about its end was said by the commit that failed.
        let _ = guarded(&self.path, || {
            drop(closed);
            Ok(())
        });
        self.database = Some(guarded(&self.path, || open_database(&self.path))?);
        Ok(())
    }

    fn commit(&mut self, changes: &[RowChange]) -> Result<(), StoreError> {
        guarded(&self.path, || self.commit_in_order(changes))
    }
}

/// redb keeps the pages of a snapshot until it is dropped, so a long one makes the file grow.
struct RedbSnapshot {
    read: ReadTransaction,
    path: PathBuf,
}

impl RedbSnapshot {
    fn read_identity(&self) -> Result<Option<Identity>, StoreError> {
        let table = self.read.open_table(IDENTITY).map_err(|e| self.failed(e))?;
        let field = |name: &str| -> Result<Option<Vec<u8>>, StoreError> {
            Ok(table.get(name).map_err(|e| self.failed(e))?.map(|value| value.value().to_vec()))
        };
        let (cluster, secret, created) = (field("cluster")?, field("secret")?, field("created")?);
        let (Some(cluster), Some(secret), Some(created)) = (&cluster, &secret, &created) else {
            return match (cluster, secret, created) {
                (None, None, None) => Ok(None),
                _ => Err(self.corrupt("its identity is not whole")),
            };
        };
        let spared = match field("spared")? {
            None => None,
            Some(bytes) => {
                Some(decode_spared(&bytes).ok_or_else(|| self.corrupt("its identity is damaged"))?)
            }
        };
        let wrong = || self.corrupt("its identity has a wrong length");
        let created: [u8; 12] = created.as_slice().try_into().map_err(|_| wrong())?;
        let [s0, s1, s2, s3, s4, s5, s6, s7, n @ ..] = created;
        Ok(Some(Identity {
            cluster: ClusterId::from_bytes(cluster).ok_or_else(wrong)?,
            secret: secret.as_slice().try_into().map_err(|_| wrong())?,
            created: pb::Time {
                sec: i64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
                nsec: u32::from_le_bytes(n),
            },
            spared,
        }))
    }

    fn load_table(
        &self,
        table: Table,
        each: &mut dyn FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let rows = self.read.open_table(definition(table)).map_err(|e| self.failed(e))?;
        for entry in rows.iter().map_err(|e| self.failed(e))? {
            let (key, value) = entry.map_err(|e| self.failed(e))?;
            let row =
                codec::decode(table, key.value(), value.value()).map_err(|e| self.corrupt(&e.to_string()))?;
            each(row)?;
        }
        Ok(())
    }

    fn failed(&self, error: impl Into<redb::Error>) -> StoreError {
        explain(&self.path, error)
    }

    fn corrupt(&self, why: &str) -> StoreError {
        StoreError::Corrupt { path: self.path.clone(), why: why.to_owned() }
    }
}

impl Snapshot for RedbSnapshot {
    fn identity(&mut self) -> Result<Identity, StoreError> {
        let found = guarded(&self.path, || self.read_identity())?;
        found.ok_or_else(|| self.corrupt("it has no identity"))
    }

    fn load(&mut self, each: &mut dyn FnMut(Row) -> Result<(), StoreError>) -> Result<(), StoreError> {
        guarded(&self.path, || Table::ALL.into_iter().try_for_each(|table| self.load_table(table, each)))
    }
}

fn encode_spared(spared: Spared) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&spared.below.0.to_le_bytes());
    bytes[8..].copy_from_slice(&spared.until_ms.to_le_bytes());
    bytes
}

fn decode_spared(bytes: &[u8]) -> Option<Spared> {
    let (below, until_ms) = bytes.split_first_chunk::<8>()?;
    let until_ms = i64::from_le_bytes(until_ms.try_into().ok()?);
    Some(Spared { below: ChunkId(u64::from_le_bytes(*below)), until_ms })
}

fn open_database(path: &Path) -> Result<Database, StoreError> {
    // Made here and not by redb, for the mode. redb takes an empty file for a new one.
    let made =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(PRIVATE_FILE).open(path);
    let file =
        made.map_err(|e| StoreError::Io { path: path.to_owned(), why: e.to_string(), kind: e.kind() })?;
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
        .set_repair_callback(|_| tracing::debug!("the store was not closed cleanly; it is being repaired"));
    builder.create_file(file).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.to_owned() },
        DatabaseError::UpgradeRequired(found) => StoreError::Corrupt {
            path: path.to_owned(),
            why: format!("its redb file format, {found}, is not one that was ever written by this program"),
        },
        other => explain(path, other),
    })
}

fn table_of(change: &RowChange) -> Table {
    match change {
        RowChange::Put(row) => row_table(row),
        RowChange::Delete(key) => codec::encode_key(key).0,
    }
}

fn row_table(row: &Row) -> Table {
    match row {
        Row::Counters(_) => Table::Counters,
        Row::Inode(..) => Table::Inode,
        Row::Dentry { .. } => Table::Dentry,
        Row::Extent(..) => Table::Extent,
        Row::Chunk(..) => Table::Chunk,
        Row::Xattr { .. } => Table::Xattr,
        Row::Reply { .. } => Table::Reply,
        Row::Keeper(..) => Table::Keeper,
        Row::Quota(..) => Table::Quota,
        Row::Trash(..) => Table::Trash,
    }
}

/// Tells damage from everything else.
fn explain(path: &Path, error: impl Into<redb::Error>) -> StoreError {
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
        other => StoreError::Io { path, why: other.to_string(), kind: ErrorKind::Other },
    }
}

/// redb asserts what it believes of its pages, so that a damaged file can make it panic. That is damage,
/// and is said as such.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(StoreError::Corrupt { path: path.to_owned(), why: "its pages contradict each other".to_owned() })
    })
}

#[cfg(test)]
mod tests;
