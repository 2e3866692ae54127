//! What is read: one transaction of redb, checked against the tally that is in it.

use redb::{ReadTransaction, ReadableTable, TableError};

use super::file::explain;
use super::tally::{Sum, Tally, field_mark, mark};
use super::{IDENTITY, IdentityFields, TALLY, TALLY_KEY, definition, guarded};
use crate::core::Row;
use crate::store::codec::{self, Table};
use crate::store::{Identity, Snapshot, StoreError};
use std::path::PathBuf;

/// redb keeps the pages of a snapshot until it is dropped, so a long one makes the file grow.
pub(in crate::store) struct RedbSnapshot {
    pub(super) read: ReadTransaction,
    pub(super) path: PathBuf,
}

impl RedbSnapshot {
    /// The format of what is stored; `None`: the file has nothing in it yet.
    pub(in crate::store) fn format(&self) -> Result<Option<u32>, StoreError> {
        let table = match self.read.open_table(IDENTITY) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            opened => opened.map_err(|e| self.failed(e))?,
        };
        let Some(found) = table.get("format").map_err(|e| self.failed(e))? else { return Ok(None) };
        match <[u8; 4]>::try_from(found.value()).map(u32::from_le_bytes) {
            Ok(version @ 1..) => Ok(Some(version)),
            _ => Err(self.corrupt("its format version makes no sense")),
        }
    }

    pub(super) fn tally(&self) -> Result<Tally, StoreError> {
        let table = self.read.open_table(TALLY).map_err(|e| self.failed(e))?;
        let found = table.get(TALLY_KEY).map_err(|e| self.failed(e))?;
        found
            .and_then(|bytes| Tally::decode(bytes.value()))
            .ok_or_else(|| self.corrupt("its count of rows cannot be read"))
    }

    /// Which tables are not there.
    pub(super) fn lacks_tables(&self) -> Result<bool, StoreError> {
        let there = self.read.list_tables().map_err(|e| self.failed(e))?;
        let there: Vec<String> = there.map(|table| redb::TableHandle::name(&table).to_owned()).collect();
        Ok(Table::ALL.iter().any(|table| !there.iter().any(|name| name == table.name())))
    }

    pub(super) fn read_identity(&self) -> Result<Option<Identity>, StoreError> {
        let table = self.read.open_table(IDENTITY).map_err(|e| self.failed(e))?;
        let (mut fields, mut seen) = (IdentityFields::default(), Sum::default());
        for entry in table.iter().map_err(|e| self.failed(e))? {
            let (name, value) = entry.map_err(|e| self.failed(e))?;
            if name.value() != "format" {
                seen.add(field_mark(name.value(), value.value()));
                fields.insert(name.value().to_owned(), value.value().to_owned());
            }
        }
        if seen != *self.tally()?.identity() {
            return Err(self.corrupt("its identity is not the one that was stored"));
        }
        if fields.is_empty() {
            return Ok(None);
        }
        super::decode_identity(&fields).map(Some).ok_or_else(|| self.corrupt("its identity is not whole"))
    }

    fn load_table(
        &self,
        table: Table,
        stored: Sum,
        each: &mut dyn FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut seen = Sum::default();
        let rows = match self.read.open_table(definition(table)) {
            // Of an older format, on a disk that is full: it has none.
            Err(TableError::TableDoesNotExist(_)) if stored == seen => return Ok(()),
            opened => opened.map_err(|e| self.failed(e))?,
        };
        for entry in rows.iter().map_err(|e| self.failed(e))? {
            let (key, value) = entry.map_err(|e| self.failed(e))?;
            let value = value.value();
            let row = codec::decode(table, key.value(), value).map_err(|e| self.corrupt(&e.to_string()))?;
            seen.add(mark(value));
            each(row)?;
        }
        if seen == stored {
            return Ok(());
        }
        let (name, rows) = (table.name(), stored.rows);
        Err(self.corrupt(&if seen.rows == rows {
            format!("the {rows} rows of table '{name}' are not those that were stored")
        } else {
            format!("table '{name}' has {} rows, and {rows} were stored", seen.rows)
        }))
    }

    pub(super) fn failed(&self, error: impl Into<redb::Error>) -> StoreError {
        explain(&self.path, error)
    }

    pub(super) fn corrupt(&self, why: &str) -> StoreError {
        StoreError::Corrupt { path: self.path.clone(), why: why.to_owned() }
    }
}

impl Snapshot for RedbSnapshot {
    fn identity(&mut self) -> Result<Identity, StoreError> {
        let found = guarded(&self.path, || self.read_identity())?;
        found.ok_or_else(|| self.corrupt("it has no identity"))
    }

    fn load(&mut self, each: &mut dyn FnMut(Row) -> Result<(), StoreError>) -> Result<(), StoreError> {
        guarded(&self.path, || {
            let mut tally = self.tally()?;
            Table::ALL.into_iter().try_for_each(|table| self.load_table(table, *tally.table(table), each))
        })
    }
}
