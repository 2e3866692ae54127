//! The embedded store: one redb file, `master.redb`, in the data directory.
//!
//! One redb table per [`Table`], named as it, from key bytes to value bytes (codec.rs); the table `tally`, from `rows`
//! to what tally.rs says; and the table `identity`, from a name to bytes:
//!
//! ```text
//! format    u32, little-endian: FORMAT_VERSION
//! cluster   16 bytes
//! secret    32 bytes
//! created   seconds, i64 little-endian; nanoseconds, u32 little-endian
//! spared    of a restored cluster alone: chunk id, u64 little-endian; ms since 1970, i64 little-endian
//! ```
//!
//! Format 1 had no tally; such a store gets one when it is opened.
//!
//! A commit is one redb write transaction of durability Immediate: redb syncs the file before it returns,
//! and after a crash it opens at the last whole commit. The file is 0600, for the secret in it. A new one is made
//! under another name and renamed when it is whole, so that there is never half a store.
//!
//! **Damage is found at the start**, and refused: every page has a checksum, which is checked before anything is read
//! (file.rs); every row has one of its own; what went missing the tally knows, and what went back, the seal (seal.rs).

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError, WriteTransaction,
};

use self::file::{explain, io_failed};
use self::identity::{IdentityFields, decode_identity, encode_identity};
use self::seal::Seal;
use self::snapshot::RedbSnapshot;
use self::tally::{Tally, field_mark, mark};
use super::codec::{self, Table};
use super::{DataDir, FORMAT_VERSION, Identity, Snapshot, Store, StoreError};
use crate::core::{Row, RowChange};

/// In the data directory.
pub const FILE_NAME: &str = "master.redb";
/// In the data directory, while a store is being made or restored.
pub const UNFINISHED_FILE: &str = "master.redb.new";
pub use self::seal::FILE_NAME as SEAL_FILE;
const IDENTITY: TableDefinition<&str, &[u8]> = TableDefinition::new("identity");
const TALLY: TableDefinition<&str, &[u8]> = TableDefinition::new("tally");
const TALLY_KEY: &str = "rows";
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
    /// Of what is committed.
    tally: Tally,
    /// None while the store is being made.
    seal: Option<Seal>,
    dir: Arc<DataDir>,
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!("{error}");
        }
    }
}

impl RedbStore {
    /// Opens the store of the directory, and makes it when there is none.
    ///
    /// # Errors
    /// Damaged, of a newer format, or not to be read or written.
    pub fn open(dir: DataDir) -> Result<RedbStore, StoreError> {
        let dir = Arc::new(dir);
        let path = dir.path().join(FILE_NAME);
        if !path.exists() {
            RedbStore::create(dir.clone())?.put_in_place()?;
        }
        RedbStore::open_file(dir, path, false)
    }

    /// A new store, under a name at which no master looks: what a power cut leaves of it is nothing.
    ///
    /// # Errors
    /// Not to be written.
    pub fn create(dir: Arc<DataDir>) -> Result<RedbStore, StoreError> {
        let path = dir.path().join(UNFINISHED_FILE);
        let files = dir.files();
        let left = if path.exists() { files.remove(&path) } else { Ok(()) };
        left.and_then(|()| files.create(&path, PRIVATE_FILE)).map_err(|error| io_failed(&path, &error))?;
        RedbStore::open_file(dir, path, true)
    }

    /// What [`RedbStore::create`] made becomes the directory's store, and is closed.
    ///
    /// # Errors
    /// It could not be closed, renamed or synced.
    pub fn put_in_place(mut self) -> Result<(), StoreError> {
        self.close()?;
        let to = self.dir.path().join(FILE_NAME);
        let files = self.dir.files();
        files
            .rename(&self.path, &to)
            .and_then(|()| files.sync_dir(self.dir.path()))
            .map_err(|error| io_failed(&to, &error))
    }

    /// Removes what [`RedbStore::create`] made.
    ///
    /// # Errors
    /// It could not be removed.
    pub fn discard(mut self) -> Result<(), StoreError> {
        // Whatever closing it says: it goes.
        let _ = self.close();
        self.dir.files().remove(&self.path).map_err(|error| io_failed(&self.path, &error))
    }

    fn open_file(dir: Arc<DataDir>, path: PathBuf, fresh: bool) -> Result<RedbStore, StoreError> {
        let database = guarded(&path, || file::open(dir.files().clone(), &path))?;
        let tally = Tally::default();
        let mut store = RedbStore { database: Some(database), path, tally, seal: None, dir };
        let path = store.path.clone();
        guarded(&path, || store.prepare(fresh))?;
        Ok(store)
    }

    fn close(&mut self) -> Result<(), StoreError> {
        let database = self.database.take();
        let closed = guarded(&self.path, || {
            drop(database);
            Ok(())
        });
        if let Some(seal) = self.seal.take() {
            seal.sync();
        }
        closed
    }

    /// Refuses a newer format, upgrades an older one, makes the tables of a new file.
    fn prepare(&mut self, fresh: bool) -> Result<(), StoreError> {
        let read = self.begin_read()?;
        match read.format()? {
            None if fresh => self.make_tables(Tally::of(by_chance(&self.path)?))?,
            None => return Err(self.corrupt("its tables are gone")),
            Some(1) => self.make_tables(self.count(by_chance(&self.path)?)?)?,
            Some(FORMAT_VERSION) => {
                self.tally = read.tally()?;
                // One that a newer program of the same format would know.
                if read.lacks_tables()? {
                    self.make_tables(self.tally.clone())?;
                }
            }
            Some(found) => return Err(StoreError::NewerFormat { path: self.path.clone(), found }),
        }
        if fresh { Ok(()) } else { self.check_seal() }
    }

    fn make_tables(&mut self, tally: Tally) -> Result<(), StoreError> {
        let write = self.begin()?;
        for table in Table::ALL {
            write.open_table(definition(table)).map_err(|e| self.failed(e))?;
        }
        let version = FORMAT_VERSION.to_le_bytes();
        let mut identity = write.open_table(IDENTITY).map_err(|e| self.failed(e))?;
        identity.insert("format", version.as_slice()).map_err(|e| self.failed(e))?;
        drop(identity);
        self.finish(write, tally)
    }

    /// The tally of a store that has none.
    fn count(&self, store: u64) -> Result<Tally, StoreError> {
        let read = self.database()?.begin_read().map_err(|e| self.failed(e))?;
        let mut tally = Tally::of(store);
        let identity = read.open_table(IDENTITY).map_err(|e| self.failed(e))?;
        for entry in identity.iter().map_err(|e| self.failed(e))? {
            let (name, value) = entry.map_err(|e| self.failed(e))?;
            if name.value() != "format" {
                tally.identity().add(field_mark(name.value(), value.value()));
            }
        }
        for table in Table::ALL {
            let rows = match read.open_table(definition(table)) {
                Err(TableError::TableDoesNotExist(_)) => continue,
                opened => opened.map_err(|e| self.failed(e))?,
            };
            for entry in rows.iter().map_err(|e| self.failed(e))? {
                let (key, value) = entry.map_err(|e| self.failed(e))?;
                codec::decode(table, key.value(), value.value())
                    .map_err(|error| self.corrupt(&error.to_string()))?;
                tally.table(table).add(mark(value.value()));
            }
        }
        Ok(tally)
    }

    fn check_seal(&mut self) -> Result<(), StoreError> {
        let seal = Seal::open(self.dir.files().clone(), self.dir.path())?;
        let (returned, found) = (seal.commits(self.tally.store), self.tally.commits);
        if returned > found {
            return Err(self.corrupt(&format!("it has {found} commits, and {returned} were made")));
        }
        seal.note(&self.tally);
        self.seal = Some(seal);
        Ok(())
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

    fn write_identity(&mut self, identity: &Identity) -> Result<(), StoreError> {
        let (write, mut tally) = (self.begin()?, self.tally.clone());
        let mut table = write.open_table(IDENTITY).map_err(|e| self.failed(e))?;
        for (name, value) in encode_identity(identity) {
            table.insert(name.as_str(), value.as_slice()).map_err(|e| self.failed(e))?;
            tally.identity().add(field_mark(&name, &value));
        }
        drop(table);
        self.finish(write, tally)
    }

    fn commit_in_order(&mut self, changes: &[RowChange]) -> Result<(), StoreError> {
        let (write, mut tally) = (self.begin()?, self.tally.clone());
        // A table can be open once only in a transaction; the order of changes matters only within one
        // table, because keys of different tables never meet.
        for table in Table::ALL {
            let mut changes = changes.iter().filter(|change| table_of(change) == table).peekable();
            if changes.peek().is_none() {
                continue;
            }
            let mut rows = write.open_table(definition(table)).map_err(|e| self.failed(e))?;
            let sum = tally.table(table);
            for change in changes {
                let before = match change {
                    RowChange::Put(row) => {
                        let (_, key, value) = codec::encode(row);
                        sum.add(mark(&value));
                        rows.insert(key.as_slice(), value.as_slice()).map_err(|e| self.failed(e))?
                    }
                    RowChange::Delete(key) => {
                        let (_, key) = codec::encode_key(key);
                        rows.remove(key.as_slice()).map_err(|e| self.failed(e))?
                    }
                };
                if let Some(before) = before {
                    sum.remove(mark(before.value()));
                }
            }
        }
        self.finish(write, tally)
    }

    /// Commits, with the tally of what is stored then.
    fn finish(&mut self, write: WriteTransaction, mut tally: Tally) -> Result<(), StoreError> {
        tally.commits += 1;
        let mut table = write.open_table(TALLY).map_err(|e| self.failed(e))?;
        table.insert(TALLY_KEY, tally.encode().as_slice()).map_err(|e| self.failed(e))?;
        drop(table);
        write.commit().map_err(|e| self.failed(e))?;
        if let Some(seal) = &self.seal {
            seal.note(&tally);
        }
        self.tally = tally;
        Ok(())
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
        let path = self.path.clone();
        guarded(&path, || {
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
        // What it has to say about its end was said by the commit that failed.
        let _ = self.close();
        self.seal = None;
        *self = RedbStore::open_file(self.dir.clone(), self.path.clone(), false)?;
        Ok(())
    }

    fn commit(&mut self, changes: &[RowChange]) -> Result<(), StoreError> {
        let path = self.path.clone();
        guarded(&path, || self.commit_in_order(changes))
    }
}

/// A number that no other store has.
fn by_chance(path: &Path) -> Result<u64, StoreError> {
    getrandom::u64().map_err(|error| StoreError::Io {
        path: path.to_owned(),
        why: error.to_string(),
        kind: ErrorKind::Other,
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

/// redb asserts what it believes of its pages, so that a damaged file can make it panic. That is damage,
/// and is said as such.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(StoreError::Corrupt { path: path.to_owned(), why: "its pages contradict each other".to_owned() })
    })
}

mod file;
mod identity;
mod seal;
mod snapshot;
mod tally;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod tests;
