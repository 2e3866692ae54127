//! What is particular to a file on disk: damage, formats.

use std::fs::{self, OpenOptions};

use dfs_files::crash::scratch_parent;

use super::*;
use crate::core::Row;
use crate::store::Snapshot;
use crate::store::codec::tests::samples;

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(scratch_parent()).unwrap()
}

fn open(path: &Path) -> Result<Tables, StoreError> {
    let dir = Arc::new(DataDir::open(path).unwrap());
    if !path.join(FILE_NAME).exists() {
        Tables::create(dir.clone())?.put_in_place()?;
    }
    Tables::open(dir)
}

/// All that is stored, sorted.
fn rows(tables: &Tables) -> Result<Vec<Row>, StoreError> {
    let mut rows = Vec::new();
    tables.snapshot()?.load(&mut |row| {
        rows.push(row);
        Ok(())
    })?;
    rows.sort_by_key(codec::key_of);
    Ok(rows)
}

fn puts() -> Vec<RowChange> {
    samples().into_iter().map(RowChange::Put).collect()
}

#[test]
fn commits_that_are_folded_at_once_are_as_good_as_one_by_one() {
    let dir = scratch();
    let mut tables = open(dir.path()).unwrap();
    let commits = tables.commits();
    let batches: Vec<Vec<u8>> = samples()
        .iter()
        .flat_map(|row| [puts(), vec![RowChange::Delete(codec::key_of(row))]])
        .map(|changes| {
            let mut bytes = Vec::new();
            batch::encode(&changes, &mut bytes);
            bytes
        })
        .collect();
    tables.fold(batches.iter().map(Vec::as_slice), commits + batches.len() as u64).unwrap();
    let mut expected = samples();
    expected.pop();
    expected.sort_by_key(codec::key_of);
    assert_eq!(rows(&tables).unwrap(), expected);
    assert_eq!(tables.commits(), commits + batches.len() as u64);
    drop(tables);
    assert_eq!(rows(&open(dir.path()).unwrap()).unwrap(), expected);
}

#[test]
fn a_transaction_that_did_not_commit_leaves_nothing() {
    let dir = scratch();
    let tables = open(dir.path()).unwrap();
    {
        let write = tables.begin().unwrap();
        let mut table = write.open_table(definition(Table::Dentry)).unwrap();
        table.insert(&b"\0\0\0\0\0\0\0\x01name"[..], &b"half"[..]).unwrap();
        drop(table);
        drop(write);
    }
    assert_eq!(rows(&tables).unwrap(), vec![]);
}

#[test]
fn the_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = scratch();
    let _tables = open(dir.path()).unwrap();
    let mode = fs::metadata(dir.path().join(FILE_NAME)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let dir = scratch();
    let tables = open(dir.path()).unwrap();
    let write = tables.begin().unwrap();
    write.open_table(IDENTITY).unwrap().insert("format", &8u32.to_le_bytes()[..]).unwrap();
    write.commit().unwrap();
    drop(tables);
    for _ in 0..2 {
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::NewerFormat { found: 8, .. }), "{error}");
        let message = error.to_string();
        assert!(message.ends_with("knows formats up to 7; use a newer dfs-master"), "{message}");
    }
}

#[test]
fn a_file_that_is_no_store_is_refused() {
    for garbage in [&b"hello"[..], &[0u8; 8192], &[0xff; 100_000]] {
        let dir = scratch();
        fs::write(dir.path().join(FILE_NAME), garbage).unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        assert_eq!(fs::read(dir.path().join(FILE_NAME)).unwrap(), garbage, "refused, but changed");
    }
}

#[test]
fn a_file_cut_short_is_refused() {
    let dir = scratch();
    open(dir.path()).unwrap().commit(&puts()).unwrap();
    let path = dir.path().join(FILE_NAME);
    let length = fs::metadata(&path).unwrap().len();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(length / 2).unwrap();
    let error = open(dir.path()).and_then(|tables| rows(&tables)).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
}
