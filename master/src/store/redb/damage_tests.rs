//! Damage of every kind: what is opened is exactly what was stored, or it is refused with a message that says what
//! to do.

use std::fs;
use std::path::Path;

use redb::ReadableTableMetadata;

use super::crash_tests::{deletes, extent, identity, puts, scratch};
use super::tests::{open, rows};
use super::*;
use crate::store::codec::tests::samples;

type Rows = Vec<Row>;

/// Rows of every kind in several commits, and room that is free again.
fn fill(store: &mut RedbStore) -> Rows {
    store.identity(identity(1)).unwrap();
    store.commit(&puts(samples())).unwrap();
    store.commit(&puts((0..900).map(extent))).unwrap();
    store.commit(&deletes((0..300).map(extent))).unwrap();
    store.commit(&puts((890..905).map(extent))).unwrap();
    rows(store).unwrap()
}

/// What is in a data directory: the store and its seal.
struct Files(Vec<u8>, Vec<u8>);

impl Files {
    fn of(dir: &Path) -> Files {
        Files(fs::read(dir.join(FILE_NAME)).unwrap(), fs::read(dir.join(SEAL_FILE)).unwrap())
    }

    fn put(&self, dir: &Path) {
        fs::write(dir.join(FILE_NAME), &self.0).unwrap();
        fs::write(dir.join(SEAL_FILE), &self.1).unwrap();
    }
}

/// As a stopped and as a killed master leaves it.
fn stopped_and_killed() -> (Rows, [Files; 2]) {
    let dir = scratch();
    let mut store = open(dir.path()).unwrap();
    let stored = fill(&mut store);
    let killed = Files::of(dir.path());
    drop(store);
    (stored, [Files::of(dir.path()), killed])
}

fn assert_refused(error: &StoreError, why: &str) {
    let message = error.to_string();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{message}");
    assert!(message.contains("it is damaged: ") && message.contains("--restore"), "{message}");
    assert!(message.contains(why), "{message}");
}

/// `Err`: it was refused. What is opened has to be as it was, and to go on.
fn use_it(dir: &Path, stored: &Rows) -> Result<(), StoreError> {
    let mut store = open(dir)?;
    let (found, named) = (rows(&mut store)?, store.identity(identity(2))?);
    assert!(found == *stored && named == identity(1), "it was opened, and is not what it was");
    let more: Vec<_> = (2000..2040).map(extent).collect();
    store.commit(&puts(more.clone())).unwrap();
    drop(store);
    let mut store = open(dir).unwrap();
    assert_eq!(rows(&mut store).unwrap().len(), stored.len() + more.len());
    Ok(())
}

#[test]
fn a_flipped_byte_anywhere_is_refused_or_changes_nothing() {
    const PAGE: usize = 4096;
    let (stored, both) = stopped_and_killed();
    let seed: u64 = std::env::var("DFS_TEST_SEED").ok().map_or(7, |seed| seed.parse().unwrap());
    println!("DFS_TEST_SEED={seed}");
    let mut dice = seed;
    let mut roll = |sides: usize| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) as usize % sides
    };
    let (mut refused, mut tried) = (0, 0);
    for files in both {
        let used = files.0.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        let (head, rest) = ((0..320).step_by(3), (PAGE..used).step_by(PAGE));
        let in_pages: Vec<usize> = rest.flat_map(|page| [page + roll(64), page + roll(PAGE)]).collect();
        for at in head.chain(in_pages) {
            let mut bad = files.0.clone();
            let Some(byte) = bad.get_mut(at) else { continue };
            let flip = 1 << roll(8);
            *byte ^= flip;
            let dir = scratch();
            Files(bad, files.1.clone()).put(dir.path());
            let used = std::panic::catch_unwind(|| use_it(dir.path(), &stored));
            match used.unwrap_or_else(|_| panic!("byte {at}, bits {flip:#x}")) {
                Ok(()) => {}
                Err(error) => {
                    assert_refused(&error, "");
                    refused += 1;
                }
            }
            tried += 1;
        }
    }
    println!("{refused} of {tried} were refused");
    assert!(refused > 100 && tried > 500, "{refused} of {tried}");
}

/// As `change` leaves it, with every page as redb wants it.
fn changed(change: impl Fn(&WriteTransaction)) -> StoreError {
    let dir = scratch();
    fill(&mut open(dir.path()).unwrap());
    let store = open(dir.path()).unwrap();
    let write = store.begin().unwrap();
    change(&write);
    write.commit().unwrap();
    drop(store);
    open(dir.path())
        .and_then(|mut store| {
            store.identity(identity(2))?;
            rows(&mut store)
        })
        .unwrap_err()
}

#[test]
fn a_row_or_a_table_that_is_missing_is_refused() {
    let key = |row: &Row| codec::encode(row).1;
    for row in samples() {
        let error = changed(|write| {
            let mut table = write.open_table(definition(table_of(&RowChange::Put(row.clone())))).unwrap();
            assert!(table.remove(key(&row).as_slice()).unwrap().is_some());
        });
        assert_refused(&error, " rows, and ");
    }
    for table in Table::ALL {
        let error = changed(|write| {
            assert!(write.delete_table(definition(table)).unwrap());
        });
        assert_refused(&error, &format!("table '{}' has 0 rows, and ", table.name()));
    }
    let error = changed(|write| assert!(write.delete_table(IDENTITY).unwrap()));
    assert_refused(&error, "its tables are gone");
    let error = changed(|write| assert!(write.delete_table(TALLY).unwrap()));
    assert_refused(&error, "tally");
    for field in ["cluster", "secret", "created", "spared"] {
        let error = changed(|write| drop(write.open_table(IDENTITY).unwrap().remove(field).unwrap()));
        assert_refused(&error, "its identity is not the one that was stored");
    }
}

#[test]
fn a_row_that_went_back_or_is_too_many_is_refused() {
    let (table, key, value) = codec::encode(&extent(890));
    let Row::Extent(inode, mut before) = extent(890) else { panic!() };
    before.length -= 1;
    let (_, _, before) = codec::encode(&Row::Extent(inode, before));
    let error = changed(|write| {
        let mut table = write.open_table(definition(table)).unwrap();
        let now = table.insert(key.as_slice(), before.as_slice()).unwrap().unwrap();
        assert_eq!(now.value(), value);
    });
    assert_refused(&error, "rows of table 'extent' are not those that were stored");
    let (table, key, value) = codec::encode(&extent(5000));
    let error = changed(|write| {
        let mut table = write.open_table(definition(table)).unwrap();
        assert!(table.insert(key.as_slice(), value.as_slice()).unwrap().is_none());
        assert!(table.len().unwrap() > 0);
    });
    assert_refused(&error, "table 'extent' has 607 rows, and 606 were stored");
}

#[test]
fn an_older_copy_of_the_file_is_refused_and_another_store_is_not() {
    let (stored, [files, _]) = stopped_and_killed();
    let dir = scratch();
    files.put(dir.path());
    let mut store = open(dir.path()).unwrap();
    store.commit(&puts([extent(1)])).unwrap();
    drop(store);
    fs::write(dir.path().join(FILE_NAME), &files.0).unwrap();
    assert_refused(&open(dir.path()).unwrap_err(), "it has 6 commits, and 7 were made");
    // A seal that is gone or torn says nothing; and one of another store neither.
    for seal in [&b""[..], &files.1[..10], &[0; 20]] {
        Files(files.0.clone(), seal.to_vec()).put(dir.path());
        assert_eq!(rows(&mut open(dir.path()).unwrap()).unwrap(), stored);
    }
    fs::remove_file(dir.path().join(FILE_NAME)).unwrap();
    assert_eq!(rows(&mut open(dir.path()).unwrap()).unwrap(), vec![]);
}

/// As format 1 was: no tally, and no seal.
fn of_format_1(dir: &Path, change: impl Fn(&WriteTransaction)) -> Rows {
    let mut store = open(dir).unwrap();
    let stored = fill(&mut store);
    let write = store.begin().unwrap();
    write.open_table(IDENTITY).unwrap().insert("format", &1u32.to_le_bytes()[..]).unwrap();
    assert!(write.delete_table(TALLY).unwrap());
    // A table that only newer programs know.
    assert!(write.delete_table(definition(Table::Trash)).unwrap());
    change(&write);
    write.commit().unwrap();
    drop(store);
    fs::remove_file(dir.join(SEAL_FILE)).unwrap();
    stored.into_iter().filter(|row| !matches!(row, Row::Trash(..))).collect()
}

#[test]
fn a_store_of_format_1_is_read_and_upgraded() {
    let dir = scratch();
    let stored = of_format_1(dir.path(), |_| {});
    for _ in 0..2 {
        let mut store = open(dir.path()).unwrap();
        assert_eq!(rows(&mut store).unwrap(), stored);
        assert_eq!(store.begin_read().unwrap().format().unwrap(), Some(FORMAT_VERSION));
    }
    use_it(dir.path(), &stored).unwrap();

    let dir = scratch();
    of_format_1(dir.path(), |write| {
        let (table, key, mut value) = codec::encode(&extent(400));
        value[1] ^= 1;
        drop(write.open_table(definition(table)).unwrap().insert(key.as_slice(), value.as_slice()).unwrap());
    });
    assert_refused(&open(dir.path()).unwrap_err(), "its checksum is wrong");
}
