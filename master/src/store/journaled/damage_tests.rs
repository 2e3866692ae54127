//! Damage of every kind: what is opened is exactly what was stored, or it is refused with a message that says what
//! to do.

use std::fs;
use std::path::Path;

use redb::{ReadableTableMetadata, WriteTransaction};

use super::crash_tests::{deletes, extent, identity, puts, scratch};
use super::tests::{open, rows};
use super::*;
use crate::store::codec::Table;
use crate::store::codec::tests::samples;
use crate::store::journal::FILE_NAMES;
use crate::store::redb::{IDENTITY, TALLY, definition};
use crate::store::{FORMAT_VERSION, SEAL_FILE};

type Rows = Vec<Row>;

/// Rows of every kind in several commits, and room that is free again. The last two are in the journal alone.
fn fill(store: &mut JournaledStore) -> Rows {
    store.identity(identity(1)).unwrap();
    store.commit(&puts(samples())).unwrap();
    store.commit(&puts((0..900).map(extent))).unwrap();
    store.fold_now().unwrap();
    store.commit(&deletes((0..300).map(extent))).unwrap();
    store.commit(&puts((890..905).map(extent))).unwrap();
    [samples(), (300..905).map(extent).collect()].concat()
}

const FILES: [&str; 4] = [FILE_NAME, SEAL_FILE, FILE_NAMES[0], FILE_NAMES[1]];

/// What is in a data directory: the tables, the seal and the journal.
#[derive(Clone)]
struct Files([Vec<u8>; 4]);

impl Files {
    fn of(dir: &Path) -> Files {
        Files(FILES.map(|name| fs::read(dir.join(name)).unwrap()))
    }

    fn put(&self, dir: &Path) {
        FILES.iter().zip(&self.0).for_each(|(name, bytes)| fs::write(dir.join(name), bytes).unwrap());
    }

    /// With another file instead.
    fn with(&self, name: &str, bytes: &[u8]) -> Files {
        let mut files = self.clone();
        files.0[FILES.iter().position(|file| *file == name).unwrap()] = bytes.to_owned();
        files
    }

    fn get(&self, name: &str) -> &[u8] {
        &self.0[FILES.iter().position(|file| *file == name).unwrap()]
    }
}

/// As a stopped and as a killed master leaves it.
fn stopped_and_killed() -> (Rows, [Files; 2]) {
    let dir = scratch();
    let mut store = open(dir.path()).unwrap();
    fill(&mut store);
    let killed = Files::of(dir.path());
    let stored = rows(&mut store).unwrap();
    drop(store);
    (stored, [Files::of(dir.path()), killed])
}

/// Opens it, and reads all.
fn read(files: &Files) -> Result<Rows, StoreError> {
    let dir = scratch();
    files.put(dir.path());
    rows(&mut open(dir.path())?)
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

/// Chance, from a seed.
struct Dice(u64);

impl Dice {
    fn new() -> Dice {
        let seed: u64 = std::env::var("DFS_TEST_SEED").ok().map_or(7, |seed| seed.parse().unwrap());
        println!("DFS_TEST_SEED={seed}");
        Dice(seed)
    }

    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

/// Flips a bit of each of these bytes of a file in turn. Returns how many times it was refused.
fn flip(files: &Files, name: &str, places: &[usize], stored: &Rows, dice: &mut Dice) -> usize {
    let mut refused = 0;
    for &at in places {
        let mut bad = files.get(name).to_owned();
        let Some(byte) = bad.get_mut(at) else { continue };
        let flip = 1 << dice.roll(8);
        *byte ^= flip;
        let dir = scratch();
        files.with(name, &bad).put(dir.path());
        let used = std::panic::catch_unwind(|| use_it(dir.path(), stored));
        if let Err(error) = used.unwrap_or_else(|_| panic!("{name}, byte {at}, bits {flip:#x}")) {
            assert_refused(&error, "");
            refused += 1;
        }
    }
    println!("{name}: {refused} of {} were refused", places.len());
    refused
}

fn used(file: &[u8]) -> usize {
    file.iter().rposition(|&byte| byte != 0).unwrap() + 1
}

#[test]
fn a_flipped_byte_anywhere_in_the_tables_is_refused_or_changes_nothing() {
    const PAGE: usize = 4096;
    let (stored, both) = stopped_and_killed();
    let mut dice = Dice::new();
    let (mut refused, mut tried) = (0, 0);
    for files in both {
        let (head, rest) = ((0..320).step_by(3), (PAGE..used(files.get(FILE_NAME))).step_by(PAGE));
        let in_pages: Vec<usize> =
            rest.flat_map(|page| [page + dice.roll(64), page + dice.roll(PAGE)]).collect();
        let places: Vec<usize> = head.chain(in_pages).collect();
        refused += flip(&files, FILE_NAME, &places, &stored, &mut dice);
        tried += places.len();
    }
    assert!(refused > 100 && tried > 500, "{refused} of {tried}");
}

#[test]
fn a_flipped_byte_of_the_journal_is_refused_where_it_is_needed_and_else_changes_nothing() {
    let (stored, [stopped, killed]) = stopped_and_killed();
    let mut dice = Dice::new();
    let used = used(killed.get(FILE_NAMES[0]));
    let places: Vec<usize> = (0..used).step_by(64).map(|at| at + dice.roll(64)).collect();
    assert_eq!(flip(&stopped, FILE_NAMES[0], &places, &stored, &mut dice), 0);
    // A quarter of it is not in the tables yet; the rest is.
    let refused = flip(&killed, FILE_NAMES[0], &places, &stored, &mut dice);
    assert!(refused > places.len() / 10 && refused < places.len() / 2, "{refused} of {}", places.len());
    // Without a seal, only what nobody can tell from a record that was torn goes: the last one, as a whole.
    let unsealed = killed.with(SEAL_FILE, b"");
    let last = read(&unsealed.with(FILE_NAMES[0], &killed.get(FILE_NAMES[0])[..used - 1])).unwrap();
    assert_eq!(last.len(), samples().len() + 600);
    for at in places {
        let mut bad = killed.get(FILE_NAMES[0]).to_owned();
        bad[at] ^= 1 << dice.roll(8);
        match read(&unsealed.with(FILE_NAMES[0], &bad)) {
            Ok(found) => assert!(found == stored || found == last, "byte {at}"),
            Err(error) => assert_refused(&error, "is missing"),
        }
    }
}

#[test]
fn a_journal_that_is_missing_cut_short_or_older_is_refused_where_it_is_needed() {
    let (stored, [stopped, killed]) = stopped_and_killed();
    let journal = FILE_NAMES[0];
    let bytes = killed.get(journal);
    let used = used(bytes);
    let dir = scratch();
    let mut store = open(dir.path()).unwrap();
    store.identity(identity(1)).unwrap();
    store.commit(&puts(samples())).unwrap();
    let another = fs::read(dir.path().join(journal)).unwrap();
    // Records are where they were, and the later ones are not there yet.
    let older: Vec<u8> =
        bytes.iter().enumerate().map(|(at, byte)| if at < used / 2 { *byte } else { 0 }).collect();
    let all: [&[u8]; 5] = [b"", &bytes[..used / 2], &bytes[..used - 1], &older, &another];
    for bad in all {
        assert_eq!(read(&stopped.with(journal, bad)).unwrap(), stored, "the tables have it all");
        assert_refused(&read(&killed.with(journal, bad)).unwrap_err(), " commits, and 6 were made");
    }
    // Which of the two files it is does not matter; and a copy harms nobody.
    let swapped = killed.with(journal, killed.get(FILE_NAMES[1])).with(FILE_NAMES[1], bytes);
    assert_eq!(read(&swapped).unwrap(), stored);
    assert_eq!(read(&killed.with(FILE_NAMES[1], bytes)).unwrap(), stored);
    let endless = vec![0; 65 << 20];
    assert_refused(&read(&killed.with(journal, &endless)).unwrap_err(), "it is too long");
}

fn change_tables(dir: &Path, change: impl Fn(&WriteTransaction)) {
    let tables = Tables::open(Arc::new(DataDir::open(dir).unwrap())).unwrap();
    let write = tables.begin().unwrap();
    change(&write);
    write.commit().unwrap();
}

/// As `change` leaves it, with every page as redb wants it.
fn changed(change: impl Fn(&WriteTransaction)) -> StoreError {
    let dir = scratch();
    fill(&mut open(dir.path()).unwrap());
    change_tables(dir.path(), change);
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
            let mut table = write.open_table(definition(codec::encode(&row).0)).unwrap();
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
    store.commit(&puts([extent(2)])).unwrap();
    drop(store);
    let newer = Files::of(dir.path());
    // The journal still has what it lacks.
    assert_eq!(read(&newer.with(FILE_NAME, files.get(FILE_NAME))).unwrap().len(), stored.len() + 2);
    let gone = newer.with(FILE_NAME, files.get(FILE_NAME)).with(FILE_NAMES[0], b"");
    assert_refused(&read(&gone).unwrap_err(), "it has 6 commits, and 8 were made");
    // Without a seal, it is seen where the journal goes on after commits that are in neither.
    let mut first = newer.get(FILE_NAMES[0]).to_owned();
    first[30] ^= 1;
    let torn = newer.with(FILE_NAME, files.get(FILE_NAME)).with(FILE_NAMES[0], &first).with(SEAL_FILE, b"");
    assert_refused(&read(&torn).unwrap_err(), "commit 8 is in it, and 7 is missing");
    // A seal that is gone or torn says nothing; and one of another store neither.
    for seal in [&b""[..], &files.get(SEAL_FILE)[..10], &[0; 20]] {
        assert_eq!(read(&files.with(SEAL_FILE, seal)).unwrap(), stored);
    }
    fs::remove_file(dir.path().join(FILE_NAME)).unwrap();
    assert_eq!(rows(&mut open(dir.path()).unwrap()).unwrap(), vec![]);
}

/// As older programs left it: formats 1 and 2 had no journal, 1 no tally and no seal.
fn of_format(format: u32, dir: &Path, change: impl Fn(&WriteTransaction)) -> Rows {
    let mut store = open(dir).unwrap();
    fill(&mut store);
    // Tables that only newer programs know.
    let unknown = match format {
        3 => Table::Session,
        4 => Table::User,
        _ => Table::Trash,
    };
    if format > 2 {
        let of_it = |row: &Row| codec::encode(row).0 == unknown;
        store.commit(&deletes(samples().into_iter().filter(of_it))).unwrap();
    }
    let stored = rows(&mut store).unwrap();
    drop(store);
    change_tables(dir, |write| {
        write.open_table(IDENTITY).unwrap().insert("format", &format.to_le_bytes()[..]).unwrap();
        if format == 1 {
            assert!(write.delete_table(TALLY).unwrap());
        }
        if format != 2 {
            assert!(write.delete_table(definition(unknown)).unwrap());
        }
        change(write);
    });
    if format < 3 {
        FILE_NAMES.iter().for_each(|name| fs::remove_file(dir.join(name)).unwrap());
    }
    if format > 1 {
        return stored;
    }
    fs::remove_file(dir.join(SEAL_FILE)).unwrap();
    stored.into_iter().filter(|row| !matches!(row, Row::Trash(..))).collect()
}

fn format_of(dir: &Path) -> u32 {
    let tables = Tables::open(Arc::new(DataDir::open(dir).unwrap())).unwrap();
    tables.snapshot().unwrap().format().unwrap().unwrap()
}

#[test]
fn stores_of_older_formats_are_read_and_upgraded() {
    for format in [1, 2, 3, 4] {
        let dir = scratch();
        let stored = of_format(format, dir.path(), |_| {});
        for _ in 0..2 {
            let mut store = open(dir.path()).unwrap();
            assert_eq!(rows(&mut store).unwrap(), stored);
            drop(store);
            assert_eq!(format_of(dir.path()), FORMAT_VERSION);
        }
        use_it(dir.path(), &stored).unwrap();
    }

    let dir = scratch();
    of_format(1, dir.path(), |write| {
        let (table, key, mut value) = codec::encode(&extent(400));
        value[1] ^= 1;
        drop(write.open_table(definition(table)).unwrap().insert(key.as_slice(), value.as_slice()).unwrap());
    });
    assert_refused(&open(dir.path()).unwrap_err(), "its checksum is wrong");

    // One that has lost a commit is not taken for whole because the upgrade counts as one.
    let dir = scratch();
    of_format(2, dir.path(), |_| {});
    let before = fs::read(dir.path().join(FILE_NAME)).unwrap();
    open(dir.path()).unwrap();
    FILE_NAMES.iter().for_each(|name| fs::remove_file(dir.path().join(name)).unwrap());
    fs::write(dir.path().join(FILE_NAME), before).unwrap();
    assert_refused(&open(dir.path()).unwrap_err(), "it has 6 commits, and 7 were made");
    assert_eq!(format_of(dir.path()), 2, "refused, but changed");
}
