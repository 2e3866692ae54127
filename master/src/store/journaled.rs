//! The embedded store: a journal (journal.rs) before tables (redb.rs).
//!
//! A commit is one record of the journal, appended and synced; then it counts. A thread of the store's own folds what
//! gathered into the tables, in one transaction (journaled/fold.rs). So a commit pays for one small sync, and the many
//! pages of a redb commit are paid for once in half a second. Commits are numbered; the tables' tally has the number of the
//! last one that they have.
//!
//! - **At the start** what the tables lack is read from the journal and folded, before anything else. Tables and journal together must have as
//!   many commits as the seal knows of (seal.rs).
//!   A disk that has no room for that does not keep a store from being read: then it is read as it would be, and takes nothing until there is room.
//! - **The journal is bounded**, and so is what waits in memory. When both files are full, a commit waits for the fold.
//! - A commit that is too large for a file goes straight into the tables, after all before it; so does the identity.
//! - **An error of a fold** is one of the next commit, or of [`Store::check`]. What was committed is in the journal.
//! - When the store is closed, all is folded: the tables alone are whole after a clean end.

mod fold;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use self::fold::{End, Folder};
use super::journal::{self, Journal, Record};
use super::redb::FILE_NAME;
use super::seal::Seal;
use super::{DataDir, Identity, Snapshot, Store, StoreError, Tables, batch, codec};
use crate::core::{Row, RowChange};

/// How the journal is kept.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Bytes of each of its files.
    file: u64,
    /// What was committed is folded when its first is so old, or when it fills half a file. `None`: only when it has to be.
    fold_after: Option<Duration>,
}

/// Thousands of commits fit a file; and half a second costs a start after a crash next to nothing.
const SHAPE: Shape = Shape { file: 8 * 1024 * 1024, fold_after: Some(Duration::from_millis(500)) };

/// Rows in tables, with a journal before them. Holds the data directory's lock.
#[derive(Debug)]
pub struct JournaledStore {
    /// None after something failed, until it is opened again.
    open: Option<Open>,
    /// What there is instead when the disk was full at the start.
    full: Option<(Found, StoreError)>,
    shape: Shape,
    dir: Arc<DataDir>,
}

#[derive(Debug)]
struct Open {
    journal: Journal,
    seal: Seal,
    folder: Folder,
    /// Which store.
    store: u64,
    /// The last commit.
    last: u64,
}

impl Drop for JournaledStore {
    fn drop(&mut self) {
        if let Some(open) = self.open.take()
            && let Err(error) = open.close(End::Fold)
        {
            tracing::error!("{error}");
        }
    }
}

impl JournaledStore {
    /// Opens the store of the directory, and makes it when there is none.
    ///
    /// # Errors
    /// Damaged, of a newer format, or not to be read or written.
    pub fn open(dir: DataDir) -> Result<JournaledStore, StoreError> {
        JournaledStore::open_as(dir, SHAPE)
    }

    fn open_as(dir: DataDir, shape: Shape) -> Result<JournaledStore, StoreError> {
        let dir = Arc::new(dir);
        if !dir.path().join(FILE_NAME).exists() {
            Tables::create(dir.clone())?.put_in_place()?;
        }
        let (open, full) = match Found::new(&dir)?.begin(&dir, shape) {
            Ok(open) => (Some(open), None),
            Err(error) if is_full(&error) => (None, Some((Found::new(&dir)?, error))),
            Err(error) => return Err(error),
        };
        Ok(JournaledStore { open, full, shape, dir })
    }

    /// With a small journal. `fold_after` none: it is folded only when it has to be.
    #[cfg(test)]
    pub(super) fn open_small(
        dir: DataDir,
        file: u64,
        fold_after: Option<Duration>,
    ) -> Result<JournaledStore, StoreError> {
        JournaledStore::open_as(dir, Shape { file, fold_after })
    }

    fn get(&mut self) -> Result<&mut Open, StoreError> {
        let why = || self.full.as_ref().map_or_else(|| closed(self.dir.path()), |(_, error)| error.clone());
        self.open.as_mut().ok_or_else(why)
    }

    #[cfg(test)]
    fn fold_now(&mut self) -> Result<(), StoreError> {
        let open = self.get()?;
        open.folder.wait_for(open.last)
    }
}

fn closed(path: &Path) -> StoreError {
    StoreError::Io { path: path.to_owned(), why: "closed".to_owned(), kind: ErrorKind::Other }
}

fn is_full(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { kind: ErrorKind::StorageFull | ErrorKind::QuotaExceeded, .. })
}

/// What is in the directory: nothing is changed yet, and no commit is missing.
#[derive(Debug)]
struct Found {
    tables: Tables,
    seal: Seal,
    /// What the tables lack.
    records: Vec<Record>,
}

impl Found {
    fn new(dir: &Arc<DataDir>) -> Result<Found, StoreError> {
        let tables = Tables::open(dir.clone())?;
        let seal = Seal::open(dir.files().clone(), dir.path())?;
        let records = journal::read(dir.path(), tables.store(), tables.commits())?;
        let found = tables.commits() + records.len() as u64;
        let returned = seal.commits(tables.store());
        if returned > found {
            let why = format!("it has {found} commits, and {returned} were made");
            return Err(StoreError::Corrupt { path: dir.path().join(FILE_NAME), why });
        }
        Ok(Found { tables, seal, records })
    }

    /// Folds what the tables lack, and begins to take more.
    fn begin(self, dir: &Arc<DataDir>, shape: Shape) -> Result<Open, StoreError> {
        let Found { mut tables, seal, records } = self;
        if !records.is_empty() {
            let commits = tables.commits() + records.len() as u64;
            tables.fold(records.iter().map(Record::batch), commits)?;
        }
        tables.upgrade()?;
        let journal = Journal::begin(dir.files().clone(), dir.path(), shape.file)?;
        let (store, last) = (tables.store(), tables.commits());
        seal.note(store, last);
        let folder = Folder::start(tables, shape)?;
        Ok(Open { journal, seal, folder, store, last })
    }

    /// What would be stored if it were folded.
    fn load(&self, each: &mut dyn FnMut(Row) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let corrupt = |why: String| StoreError::Corrupt { path: self.tables.path().to_owned(), why };
        let mut changes = BTreeMap::new();
        for record in &self.records {
            batch::gather(record.batch(), &mut changes).ok_or_else(|| {
                corrupt("its journal has changes that this program does not know".to_owned())
            })?;
        }
        self.tables.snapshot()?.load(&mut |row| {
            let (table, key) = codec::encode_key(&codec::key_of(&row));
            let changed = changes.get(&table).is_some_and(|rows| rows.contains_key(&key[..]));
            if changed { Ok(()) } else { each(row) }
        })?;
        for (table, rows) in &changes {
            for (key, value) in rows {
                if let Some(value) = value {
                    each(codec::decode(*table, key, value).map_err(|error| corrupt(error.to_string()))?)?;
                }
            }
        }
        Ok(())
    }
}

impl Open {
    fn commit(&mut self, changes: &[RowChange]) -> Result<(), StoreError> {
        self.folder.check()?;
        let record = Record::new(self.store, self.last + 1, |out| batch::encode(changes, out));
        if !self.journal.can_hold(&record) {
            return self.directly(|tables| tables.commit(changes));
        }
        while let Err(commit) = self.journal.make_room(&record, self.folder.folded()) {
            self.folder.wait_for(commit)?;
        }
        self.journal.append(&record)?;
        self.last = record.commit;
        self.seal.note(self.store, self.last);
        self.folder.push(record);
        Ok(())
    }

    /// Changes the tables when they have all that was committed.
    fn directly<T>(
        &mut self,
        change: impl FnOnce(&mut Tables) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.folder.wait_for(self.last)?;
        let (done, last) = self.folder.with_tables(change)?;
        self.last = last;
        self.seal.note(self.store, last);
        Ok(done)
    }

    fn close(self, end: End) -> Result<(), StoreError> {
        let closed = self.folder.close(end);
        self.seal.sync();
        closed
    }
}

impl Store for JournaledStore {
    fn identity(&mut self, fresh: Identity) -> Result<Identity, StoreError> {
        if let Some((found, _)) = &self.full {
            return found.tables.snapshot()?.identity();
        }
        self.get()?.directly(|tables| tables.identity(fresh))
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, StoreError> {
        Ok(Box::new(self.get()?.folder.snapshot()?))
    }

    fn load(&mut self, each: &mut dyn FnMut(Row) -> Result<(), StoreError>) -> Result<(), StoreError> {
        match &self.full {
            Some((found, _)) => found.load(each),
            None => self.snapshot()?.load(each),
        }
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        self.full = None;
        if let Some(open) = self.open.take() {
            // What waits to be folded is in the journal; and what there is to say was said by the commit that failed.
            let _ = open.close(End::Now);
        }
        self.open = Some(Found::new(&self.dir)?.begin(&self.dir, self.shape)?);
        Ok(())
    }

    fn commit(&mut self, changes: &[RowChange]) -> Result<(), StoreError> {
        self.get()?.commit(changes)
    }

    fn check(&mut self) -> Result<(), StoreError> {
        self.get()?.folder.check()
    }
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod tests;
