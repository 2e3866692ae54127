//! The tables: one redb file, `master.redb`, in the data directory.
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
//! Format 1 had no tally, format 2 no journal before it (journaled.rs), format 3 no sessions and format 4 no users, which a journal may have; such a
//! store is upgraded when it is opened.
//!
//! What is stored at once is one redb write transaction of durability Immediate: redb syncs the file before it returns,
//! and after a crash it opens at the last whole transaction. The file is 0600, for the secret in it. A new one is made
//! under another name and renamed when it is whole, so that there is never half a store.
//!
//! **Damage is found at the start**, and refused: every page has a checksum, which is checked before anything is read
//! (file.rs); every row has one of its own; what went missing the tally knows, and what went back, the seal (seal.rs).

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError, WriteTransaction,
};

use self::file::explain;
use self::identity::{IdentityFields, decode_identity, encode_identity};
pub(super) use self::snapshot::RedbSnapshot;
use self::tally::{Tally, field_mark, mark};
use super::batch::{self, TableChanges};
use super::codec::{self, Table};
use super::{DataDir, FORMAT_VERSION, Identity, StoreError, io_failed, read_from_disk};
use crate::core::RowChange;

/// In the data directory.
pub const FILE_NAME: &str = "master.redb";
/// In the data directory, while a store is being made or restored.
pub const UNFINISHED_FILE: &str = "master.redb.new";
pub(super) const IDENTITY: TableDefinition<&str, &[u8]> = TableDefinition::new("identity");
pub(super) const TALLY: TableDefinition<&str, &[u8]> = TableDefinition::new("tally");
const TALLY_KEY: &str = "rows";
const PRIVATE_FILE: u32 = 0o600;

pub(super) fn definition(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

/// Rows in a redb file.
#[derive(Debug)]
pub struct Tables {
    /// None only while this is dropped: before the lock is, and guarded like every other use.
    database: Option<Database>,
    path: PathBuf,
    /// Of what is stored.
    tally: Tally,
    /// It is of an older format, or lacks tables that this program knows.
    is_old: bool,
    dir: Arc<DataDir>,
}

impl Drop for Tables {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!("{error}");
        }
    }
}

impl Tables {
    /// Opens the tables that are in the directory.
    ///
    /// # Errors
    /// Damaged, of a newer format, or not to be read or written.
    pub fn open(dir: Arc<DataDir>) -> Result<Tables, StoreError> {
        let path = dir.path().join(FILE_NAME);
        Tables::open_file(dir, path, false)
    }

    /// New ones, under a name at which no master looks: what a power cut leaves of it is nothing.
    ///
    /// # Errors
    /// Not to be written.
    pub fn create(dir: Arc<DataDir>) -> Result<Tables, StoreError> {
        let path = dir.path().join(UNFINISHED_FILE);
        let files = dir.files();
        let left = if path.exists() { files.remove(&path) } else { Ok(()) };
        left.and_then(|()| files.create(&path, PRIVATE_FILE)).map_err(|error| io_failed(&path, &error))?;
        Tables::open_file(dir, path, true)
    }

    /// What [`Tables::create`] made becomes the directory's store, and is closed.
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

    /// Removes what [`Tables::create`] made.
    ///
    /// # Errors
    /// It could not be removed.
    pub fn discard(mut self) -> Result<(), StoreError> {
        // Whatever closing it says: it goes.
        let _ = self.close();
        self.dir.files().remove(&self.path).map_err(|error| io_failed(&self.path, &error))
    }

    fn open_file(dir: Arc<DataDir>, path: PathBuf, fresh: bool) -> Result<Tables, StoreError> {
        let database = guarded(&path, || file::open(dir.files().clone(), &path))?;
        let tally = Tally::default();
        let mut tables = Tables { database: Some(database), path, tally, is_old: false, dir };
        let path = tables.path.clone();
        guarded(&path, || tables.prepare(fresh))?;
        Ok(tables)
    }

    /// Closes the file. What is asked for then gives errors.
    ///
    /// # Errors
    /// What redb says about its end. The file is closed.
    pub fn close(&mut self) -> Result<(), StoreError> {
        let database = self.database.take();
        guarded(&self.path, || {
            drop(database);
            Ok(())
        })
    }

    /// Their file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number that no other store has.
    pub fn store(&self) -> u64 {
        self.tally.store
    }

    /// How many commits are in them.
    pub fn commits(&self) -> u64 {
        self.tally.commits
    }

    /// Refuses a newer format, makes the tables of a new file. The first format has no commits that anybody counted, so it is upgraded here.
    fn prepare(&mut self, fresh: bool) -> Result<(), StoreError> {
        let read = self.begin_read()?;
        match read.format()? {
            None if fresh => self.make_tables(Tally::of(by_chance(&self.path)?)),
            None => Err(self.corrupt("its tables are gone")),
            Some(1) => self.make_tables(self.count(by_chance(&self.path)?)?),
            Some(found @ 2..=FORMAT_VERSION) => {
                self.tally = read.tally()?;
                self.is_old = found < FORMAT_VERSION || read.lacks_tables()?;
                Ok(())
            }
            Some(found) => Err(StoreError::NewerFormat { path: self.path.clone(), found }),
        }
    }

    /// Makes tables of an older format those of this one. It counts as a commit: so, what was committed has to be seen to be there before.
    ///
    /// # Errors
    /// [`StoreError`]; they are as they were then.
    pub fn upgrade(&mut self) -> Result<(), StoreError> {
        if !self.is_old {
            return Ok(());
        }
        let path = self.path.clone();
        guarded(&path, || self.make_tables(self.tally.clone()))?;
        self.is_old = false;
        Ok(())
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
        let commits = tally.commits + 1;
        self.finish(write, tally, commits)
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

    fn database(&self) -> Result<&Database, StoreError> {
        self.database.as_ref().ok_or_else(|| StoreError::Io {
            path: self.path.clone(),
            why: "closed".to_owned(),
            kind: ErrorKind::Other,
        })
    }

    pub(super) fn begin(&self) -> Result<redb::WriteTransaction, StoreError> {
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
        let commits = tally.commits + 1;
        self.finish(write, tally, commits)
    }

    fn store_changes(
        &mut self,
        changes: &BTreeMap<Table, TableChanges<'_>>,
        commits: u64,
    ) -> Result<(), StoreError> {
        let (write, mut tally) = (self.begin()?, self.tally.clone());
        for (&table, changes) in changes {
            let mut rows = write.open_table(definition(table)).map_err(|e| self.failed(e))?;
            let sum = tally.table(table);
            for (&key, value) in changes {
                let before = match value {
                    Some(value) => {
                        sum.add(mark(value));
                        rows.insert(key, *value).map_err(|e| self.failed(e))?
                    }
                    None => rows.remove(key).map_err(|e| self.failed(e))?,
                };
                if let Some(before) = before {
                    sum.remove(mark(before.value()));
                }
            }
        }
        self.finish(write, tally, commits)
    }

    /// Commits, with the tally of what is stored then.
    fn finish(&mut self, write: WriteTransaction, mut tally: Tally, commits: u64) -> Result<(), StoreError> {
        tally.commits = commits;
        let mut table = write.open_table(TALLY).map_err(|e| self.failed(e))?;
        table.insert(TALLY_KEY, tally.encode().as_slice()).map_err(|e| self.failed(e))?;
        drop(table);
        write.commit().map_err(|e| self.failed(e))?;
        self.tally = tally;
        Ok(())
    }

    fn failed(&self, error: impl Into<redb::Error>) -> StoreError {
        explain(&self.path, error)
    }

    fn corrupt(&self, why: &str) -> StoreError {
        StoreError::Corrupt { path: self.path.clone(), why: why.to_owned() }
    }

    /// The identity. Tables without one take `fresh`, as a commit, and return it.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was stored then.
    pub fn identity(&mut self, fresh: Identity) -> Result<Identity, StoreError> {
        let path = self.path.clone();
        guarded(&path, || {
            if let Some(found) = self.begin_read()?.read_identity()? {
                return Ok(found);
            }
            self.write_identity(&fresh)?;
            Ok(fresh)
        })
    }

    /// What is stored now, whatever comes later.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn snapshot(&self) -> Result<RedbSnapshot, StoreError> {
        guarded(&self.path, || self.begin_read())
    }

    /// Stores the changes of one commit, in order.
    ///
    /// # Errors
    /// [`StoreError`]. It is then not known whether they are stored.
    pub fn commit(&mut self, changes: &[RowChange]) -> Result<(), StoreError> {
        let mut bytes = Vec::new();
        batch::encode(changes, &mut bytes);
        self.fold([bytes.as_slice()], self.tally.commits + 1)
    }

    /// Stores what commits changed, in their order; all or nothing, and for good. `commits`: how many there are then,
    /// which says that none was left out.
    ///
    /// # Errors
    /// As [`Tables::commit`].
    pub(super) fn fold<'a>(
        &mut self,
        batches: impl IntoIterator<Item = &'a [u8]>,
        commits: u64,
    ) -> Result<(), StoreError> {
        let (mut changes, mut count) = (BTreeMap::new(), self.tally.commits);
        for batch in batches {
            batch::gather(batch, &mut changes)
                .ok_or_else(|| self.corrupt("a commit has changes that this program does not know"))?;
            count += 1;
        }
        if count != commits {
            let why = format!("commit {commits} was to be stored when there would be {count} (a bug)");
            return Err(StoreError::Io { path: self.path.clone(), why, kind: ErrorKind::Other });
        }
        let path = self.path.clone();
        guarded(&path, || self.store_changes(&changes, commits))
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

/// redb asserts what it believes of its pages, so that a damaged file can make it panic. That is damage,
/// and is said as such.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(StoreError::Corrupt { path: path.to_owned(), why: "its pages contradict each other".to_owned() })
    })
}

mod file;
mod identity;
mod snapshot;
mod tally;

#[cfg(test)]
mod tests;
