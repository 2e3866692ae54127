//! A store that forgets everything when its last clone is dropped. For tests, which keep a clone to
//! look into it or to start another master from.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::codec::key_of;
use super::{Identity, Snapshot, Store, StoreError};
use crate::core::{Row, RowChange, RowKey};

/// Rows in memory. Clones share them.
#[derive(Clone, Default, Debug)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default, Debug)]
struct Inner {
    identity: Option<Identity>,
    rows: BTreeMap<RowKey, Row>,
    commits: u64,
    fail: bool,
}

impl MemoryStore {
    /// An empty one.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// How many commits there were.
    pub fn commits(&self) -> u64 {
        self.inner().commits
    }

    /// Every row, by key.
    pub fn rows(&self) -> Vec<Row> {
        self.inner().rows.values().cloned().collect()
    }

    /// From now on every commit fails, as on a broken disk.
    pub fn break_commits(&self) {
        self.inner().fail = true;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half-way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn identity(&mut self, fresh: Identity) -> Result<Identity, StoreError> {
        Ok(self.inner().identity.get_or_insert(fresh).clone())
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, StoreError> {
        let identity = self.inner().identity.clone();
        Ok(Box::new(MemorySnapshot { identity, rows: self.rows() }))
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn commit(&mut self, changes: &[RowChange]) -> Result<(), StoreError> {
        let mut inner = self.inner();
        if inner.fail {
            return Err(StoreError::Io {
                path: PathBuf::from("memory"),
                why: "told to fail".to_owned(),
                kind: ErrorKind::Other,
            });
        }
        inner.commits += 1;
        for change in changes {
            match change {
                RowChange::Put(row) => drop(inner.rows.insert(key_of(row), row.clone())),
                RowChange::Delete(key) => drop(inner.rows.remove(key)),
            }
        }
        Ok(())
    }
}

struct MemorySnapshot {
    identity: Option<Identity>,
    rows: Vec<Row>,
}

impl Snapshot for MemorySnapshot {
    fn identity(&mut self) -> Result<Identity, StoreError> {
        self.identity.clone().ok_or_else(|| StoreError::Rows("it has no identity yet".to_owned()))
    }

    fn load(&mut self, each: &mut dyn FnMut(Row) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.rows.iter().cloned().try_for_each(each)
    }
}
