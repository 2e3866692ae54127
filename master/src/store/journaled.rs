//! The embedded store: a journal (journal.rs) before tables (redb.rs).
//!
//! A commit is one record of the journal, appended and synced; then it counts. A thread of the store's own folds what
//! gathered into the tables, in one transaction (journaled/fold.rs). So a commit pays for one small sync, and the many
//! pages of a redb commit are paid for once in half a second. Commits are numbered; the tables' tally has the number of the
//! last one that they have.
//!
//! - **At the start** what the tables lack is read from the journal and folded, before anything else. Tables and journal together must have as
//!   many commits as the seal knows of (seal.rs).
//! - **The journal is bounded**, and so is what waits in memory. When both files are full, a commit waits for the fold.
//! - A commit that is too large for a file goes straight into the tables, after all before it; so does the identity.
//! - **An error of a fold** is one of the next commit, or of [`Store::check`]. What was committed is in the journal.
//! - When the store is closed, all is folded: the tables alone are whole after a clean end.

mod fold;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use self::fold::{End, Folder};
use super::journal::{self, Journal, Record};
use super::redb::FILE_NAME;
use super::seal::Seal;
use super::{DataDir, Identity, Snapshot, Store, StoreError, Tables, batch};
use crate::core::RowChange;

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
        let open = Some(Open::new(&dir, shape)?);
        Ok(JournaledStore { open, shape, dir })
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
        self.open.as_mut().ok_or_else(|| closed(self.dir.path()))
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

impl Open {
    fn new(dir: &Arc<DataDir>, shape: Shape) -> Result<Open, StoreError> {
        let mut tables = Tables::open(dir.clone())?;
        let seal = Seal::open(dir.files().clone(), dir.path())?;
        let (store, had) = (tables.store(), tables.commits());
        let records = journal::read(dir.path(), store, had)?;
        let found = had + records.len() as u64;
        // Before anything is changed.
        let returned = seal.commits(store);
        if returned > found {
            let why = format!("it has {found} commits, and {returned} were made");
            return Err(StoreError::Corrupt { path: dir.path().join(FILE_NAME), why });
        }
        if !records.is_empty() {
            tables.fold(records.iter().map(Record::batch), found)?;
        }
        tables.upgrade()?;
        let journal = Journal::begin(dir.files().clone(), dir.path(), shape.file)?;
        let last = tables.commits();
        seal.note(store, last);
        let folder = Folder::start(tables, shape)?;
        Ok(Open { journal, seal, folder, store, last })
    }

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
        self.get()?.directly(|tables| tables.identity(fresh))
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, StoreError> {
        Ok(Box::new(self.get()?.folder.snapshot()?))
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        if let Some(open) = self.open.take() {
            // What waits to be folded is in the journal; and what there is to say was said by the commit that failed.
            let _ = open.close(End::Now);
        }
        self.open = Some(Open::new(&self.dir, self.shape)?);
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
