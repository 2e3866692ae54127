//! What is particular to a file on disk: crashes, damage, formats.

use std::fs::{self, OpenOptions};

use super::crash_tests::scratch;
use super::*;
use crate::store::codec::tests::samples;

pub(super) fn open(path: &Path) -> Result<RedbStore, StoreError> {
    RedbStore::open(DataDir::open(path).unwrap())
}

/// All that is stored, sorted.
pub(super) fn rows(store: &mut RedbStore) -> Result<Vec<Row>, StoreError> {
    let mut rows = Vec::new();
    store.load(&mut |row| {
        rows.push(row);
        Ok(())
    })?;
    rows.sort_by_key(codec::key_of);
    Ok(rows)
}

fn sorted_samples() -> Vec<Row> {
    let mut rows = samples();
    rows.sort_by_key(codec::key_of);
    rows
}

fn put_samples(store: &mut RedbStore) {
    let changes: Vec<_> = samples().into_iter().map(RowChange::Put).collect();
    store.commit(&changes).unwrap();
}

#[test]
fn a_store_that_begins_anew_has_what_was_committed_and_takes_more() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = open(temp.path()).unwrap();
    put_samples(&mut store);
    store.reopen().unwrap();
    assert_eq!(rows(&mut store).unwrap(), sorted_samples());
    // The same once more is no other state.
    put_samples(&mut store);
    assert_eq!(rows(&mut store).unwrap(), sorted_samples());
    // Where it cannot be opened it gives errors, until it can.
    let (file, away) = (temp.path().join(FILE_NAME), temp.path().join("away"));
    std::fs::rename(&file, &away).unwrap();
    std::fs::create_dir(&file).unwrap();
    assert!(matches!(store.reopen(), Err(StoreError::Io { .. })));
    assert!(matches!(store.commit(&[]), Err(StoreError::Io { .. })));
    std::fs::remove_dir(&file).unwrap();
    std::fs::rename(&away, &file).unwrap();
    store.reopen().unwrap();
    assert_eq!(rows(&mut store).unwrap(), sorted_samples());
}

/// The file as a killed process leaves it: copied while the store is open.
#[test]
fn what_was_committed_survives_a_crash() {
    let (live, crashed) = (scratch(), scratch());
    let mut store = open(live.path()).unwrap();
    put_samples(&mut store);
    fs::copy(live.path().join(FILE_NAME), crashed.path().join(FILE_NAME)).unwrap();
    let last = samples().remove(3);
    store.commit(&[RowChange::Delete(codec::key_of(&last))]).unwrap();

    let mut store = open(crashed.path()).unwrap();
    assert_eq!(rows(&mut store).unwrap(), sorted_samples());
    store.commit(&[RowChange::Delete(codec::key_of(&last))]).unwrap();
    drop(store);
    assert_eq!(rows(&mut open(crashed.path()).unwrap()).unwrap().len(), samples().len() - 1);
}

#[test]
fn a_transaction_that_did_not_commit_leaves_nothing() {
    let dir = scratch();
    let mut store = open(dir.path()).unwrap();
    {
        let write = store.begin().unwrap();
        let mut table = write.open_table(definition(Table::Dentry)).unwrap();
        table.insert(&b"\0\0\0\0\0\0\0\x01name"[..], &b"half"[..]).unwrap();
        drop(table);
        drop(write);
    }
    assert_eq!(rows(&mut store).unwrap(), vec![]);
}

#[test]
fn the_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = scratch();
    let _store = open(dir.path()).unwrap();
    let mode = fs::metadata(dir.path().join(FILE_NAME)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let dir = scratch();
    let store = open(dir.path()).unwrap();
    let write = store.begin().unwrap();
    write.open_table(IDENTITY).unwrap().insert("format", &3u32.to_le_bytes()[..]).unwrap();
    write.commit().unwrap();
    drop(store);
    for _ in 0..2 {
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::NewerFormat { found: 3, .. }), "{error}");
        let message = error.to_string();
        assert!(message.ends_with("knows formats up to 2; use a newer dfs-master"), "{message}");
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
    put_samples(&mut open(dir.path()).unwrap());
    let path = dir.path().join(FILE_NAME);
    let length = fs::metadata(&path).unwrap().len();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(length / 2).unwrap();
    let error = open(dir.path()).and_then(|mut store| rows(&mut store)).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
}
