//! Journal and tables together: crashes of the process, a full journal, disks that fail, clean ends.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use dfs_files::{Files, SystemFiles};

use super::crash_tests::{deletes, extent, identity, large, puts, scratch};
use super::*;
use crate::store::codec::tests::samples;
use crate::store::journal::FILE_NAMES;

/// Larger than a commit of these tests, and soon full.
pub(super) const FILE: u64 = 64 * 1024;
const DEADLINE: Duration = Duration::from_secs(20);

pub(super) fn open(path: &Path) -> Result<JournaledStore, StoreError> {
    JournaledStore::open_small(DataDir::open(path).unwrap(), FILE, None)
}

/// All that is stored, sorted.
pub(super) fn rows(store: &mut JournaledStore) -> Result<Vec<Row>, StoreError> {
    let mut rows = Vec::new();
    store.load(&mut |row| {
        rows.push(row);
        Ok(())
    })?;
    rows.sort_by_key(codec::key_of);
    Ok(rows)
}

fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by_key(codec::key_of);
    rows
}

fn folded(store: &mut JournaledStore) -> u64 {
    store.get().unwrap().folder.folded()
}

/// The directory as a killed process leaves it: copied while the store is open.
fn crashed(live: &Path) -> tempfile::TempDir {
    let dir = scratch();
    for entry in fs::read_dir(live).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

#[test]
fn what_was_committed_survives_a_crash_wherever_it_is() {
    let live = scratch();
    let mut store = open(live.path()).unwrap();
    let mut expected = Vec::new();
    for n in 0..20 {
        store.commit(&puts([extent(n)])).unwrap();
        expected.push(extent(n));
        if n % 7 == 3 {
            store.fold_now().unwrap();
        }
        let dir = crashed(live.path());
        let mut store = open(dir.path()).unwrap();
        assert_eq!(rows(&mut store).unwrap(), sorted(expected.clone()));
        store.commit(&deletes([extent(n)])).unwrap();
        drop(store);
        assert_eq!(rows(&mut open(dir.path()).unwrap()).unwrap(), sorted(expected[..n as usize].to_vec()));
    }
    assert!(folded(&mut store) < store.get().unwrap().last, "some were in the journal alone");
}

#[test]
fn after_a_clean_end_the_tables_alone_are_whole() {
    let dir = scratch();
    let mut store = open(dir.path()).unwrap();
    store.commit(&puts(samples())).unwrap();
    store.commit(&puts([extent(1)])).unwrap();
    drop(store);
    FILE_NAMES.iter().for_each(|name| fs::remove_file(dir.path().join(name)).unwrap());
    let expected = sorted([samples(), vec![extent(1)]].concat());
    assert_eq!(rows(&mut open(dir.path()).unwrap()).unwrap(), expected);
}

#[test]
fn a_full_journal_waits_for_the_tables_and_its_files_never_grow() {
    let dir = scratch();
    let mut store = open(dir.path()).unwrap();
    let batch = |n: u64| puts((n * 100..n * 100 + 100).map(extent));
    let (begun, commits) = (folded(&mut store), 200);
    let mut folds = Vec::new();
    for n in 0..commits {
        store.commit(&batch(n)).unwrap();
        folds.push(folded(&mut store));
        for name in FILE_NAMES {
            let meta = fs::metadata(dir.path().join(name)).unwrap();
            assert_eq!((meta.len(), meta.permissions().mode() & 0o777), (FILE, 0o600));
        }
    }
    folds.dedup();
    assert!(folds[0] == begun && folds.len() > 3, "it was folded when it had to be: {folds:?}");
    let dir = crashed(dir.path());
    assert_eq!(rows(&mut open(dir.path()).unwrap()).unwrap().len(), 100 * commits as usize);
}

#[test]
fn a_commit_larger_than_the_journal_comes_after_what_was_before_it() {
    let dir = scratch();
    let mut store = open(dir.path()).unwrap();
    store.commit(&deletes([extent(5)])).unwrap();
    store.commit(&puts((0..5_000).map(extent))).unwrap();
    store.commit(&deletes([extent(6)])).unwrap();
    let last = store.get().unwrap().last;
    assert_eq!(folded(&mut store), last - 1);
    let dir = crashed(dir.path());
    let expected = (0..5_000).filter(|n| *n != 6).map(extent).collect();
    assert_eq!(rows(&mut open(dir.path()).unwrap()).unwrap(), sorted(expected));
}

#[test]
fn what_was_committed_is_folded_by_itself() {
    let dir = scratch();
    let (soon, data) = (Some(Duration::from_millis(20)), DataDir::open(dir.path()).unwrap());
    let mut store = JournaledStore::open_small(data, FILE, soon).unwrap();
    for n in 0..3 {
        store.commit(&puts([extent(n)])).unwrap();
        let (last, begun) = (store.get().unwrap().last, Instant::now());
        while folded(&mut store) < last {
            assert!(begun.elapsed() < DEADLINE);
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_snapshot_shows_what_was_committed_before_it_and_nothing_later() {
    let dir = scratch();
    let mut store = open(dir.path()).unwrap();
    let mut snapshots = Vec::new();
    for n in 0..10 {
        snapshots.push(store.snapshot().unwrap());
        store.commit(&puts([extent(n)])).unwrap();
    }
    store.fold_now().unwrap();
    for (n, mut snapshot) in snapshots.into_iter().enumerate() {
        let mut count = 0;
        snapshot
            .load(&mut |_| {
                count += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(count, n);
    }
    let mut late = store.snapshot().unwrap();
    drop(store);
    assert!(late.load(&mut |_| Ok(())).is_err(), "of a closed store");
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Changes,
    Syncs,
    /// It gets no longer, as on a full disk.
    Growth,
}

/// A disk on which changes of one file fail, or only their syncs.
#[derive(Debug, Default)]
struct Failing(Mutex<Option<(PathBuf, What)>>);

impl Failing {
    fn set(&self, what: Option<(PathBuf, What)>) {
        *self.0.lock().unwrap() = what;
    }

    fn judge(&self, file: &File, is: What) -> io::Result<()> {
        let Some((path, what)) = self.0.lock().unwrap().clone() else { return Ok(()) };
        let fails = (what == What::Changes || what == is)
            && fs::metadata(path).is_ok_and(|meta| meta.ino() == file.metadata().unwrap().ino());
        if fails { Err(io::Error::from(ErrorKind::StorageFull)) } else { Ok(()) }
    }
}

impl Files for Failing {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        SystemFiles.create_dir(path)
    }

    fn create(&self, path: &Path, mode: u32) -> io::Result<File> {
        SystemFiles.create(path, mode)
    }

    fn write_all_at(&self, file: &File, data: &[u8], at: u64) -> io::Result<()> {
        self.judge(file, What::Changes).and_then(|()| SystemFiles.write_all_at(file, data, at))
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        self.judge(file, What::Growth).and_then(|()| SystemFiles.set_len(file, len))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        SystemFiles.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        SystemFiles.remove(path)
    }

    fn sync_file(&self, file: &File) -> io::Result<()> {
        self.judge(file, What::Syncs).and_then(|()| SystemFiles.sync_file(file))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        SystemFiles.sync_dir(path)
    }

    fn sync_file_system(&self, path: &Path) -> io::Result<()> {
        SystemFiles.sync_file_system(path)
    }
}

#[track_caller]
fn assert_full<T>(result: Result<T, StoreError>) {
    let error = result.err().expect("it went well");
    assert!(matches!(error, StoreError::Io { kind: ErrorKind::StorageFull, .. }), "{error}");
}

#[test]
fn a_fold_that_fails_is_an_error_of_the_next_commit_and_loses_nothing() {
    let (dir, disk) = (scratch(), Arc::new(Failing::default()));
    let data = DataDir::open_through(dir.path(), disk.clone()).unwrap();
    let mut store = JournaledStore::open_small(data, FILE, Some(Duration::from_millis(20))).unwrap();
    store.check().unwrap();
    disk.set(Some((dir.path().join(FILE_NAME), What::Changes)));
    store.commit(&puts([extent(1)])).unwrap();
    let begun = Instant::now();
    while store.check().is_ok() {
        assert!(begun.elapsed() < DEADLINE, "the fold does not fail");
        std::thread::yield_now();
    }
    assert_full(store.check());
    assert_full(store.commit(&puts([extent(2)])));
    assert!(store.snapshot().is_err());
    // It stays so until the disk is well.
    assert!(store.reopen().is_err());
    assert!(matches!(store.commit(&[]), Err(StoreError::Io { .. })));
    assert!(store.check().is_err());
    disk.set(None);
    store.reopen().unwrap();
    store.check().unwrap();
    store.commit(&puts([extent(2)])).unwrap();
    assert_eq!(rows(&mut store).unwrap(), sorted(vec![extent(1), extent(2)]));
}

#[test]
fn an_append_that_fails_may_be_tried_again_on_a_store_that_begins_anew() {
    for what in [What::Changes, What::Syncs] {
        let (dir, disk) = (scratch(), Arc::new(Failing::default()));
        let data = DataDir::open_through(dir.path(), disk.clone()).unwrap();
        let mut store = JournaledStore::open_small(data, FILE, None).unwrap();
        store.commit(&puts([extent(1)])).unwrap();
        disk.set(Some((dir.path().join(FILE_NAMES[0]), what)));
        assert_full(store.commit(&puts([extent(2)])));
        disk.set(None);
        store.reopen().unwrap();
        store.commit(&puts([extent(2)])).unwrap();
        store.commit(&puts([extent(3)])).unwrap();
        let dir = crashed(dir.path());
        assert_eq!(rows(&mut open(dir.path()).unwrap()).unwrap(), sorted((1..4).map(extent).collect()));
    }
}

#[test]
fn a_store_that_begins_on_a_full_disk_is_read_as_it_is_and_takes_more_when_there_is_room() {
    let live = scratch();
    let open = |dir: &Path, disk: &Arc<Failing>| {
        let data = DataDir::open_through(dir, disk.clone()).unwrap();
        JournaledStore::open_small(data, 8 << 20, None).unwrap()
    };
    let mut store = open(live.path(), &Arc::default());
    store.identity(identity(1)).unwrap();
    store.commit(&puts((0..5).map(extent))).unwrap();
    store.fold_now().unwrap();
    // More than the tables have room for.
    store.commit(&puts((0..100).map(large))).unwrap();
    store.commit(&deletes([extent(1), large(1)])).unwrap();
    let dir = crashed(live.path());
    let expected = rows(&mut store).unwrap();
    assert_eq!(expected.len(), 103);
    let disk = Arc::new(Failing::default());
    disk.set(Some((dir.path().join(FILE_NAME), What::Growth)));
    let mut store = open(dir.path(), &disk);
    assert_eq!(store.identity(identity(2)).unwrap(), identity(1));
    assert_eq!(rows(&mut store).unwrap(), expected);
    assert_full(store.check());
    assert_full(store.commit(&[]));
    assert!(store.reopen().is_err());
    disk.set(None);
    store.reopen().unwrap();
    store.commit(&puts([extent(1)])).unwrap();
    assert_eq!(rows(&mut store).unwrap().len(), 104);
}

#[test]
fn a_store_that_cannot_be_opened_gives_errors_until_it_can() {
    let dir = scratch();
    let mut store = open(dir.path()).unwrap();
    store.commit(&puts(samples())).unwrap();
    let (file, away) = (dir.path().join(FILE_NAME), dir.path().join("away"));
    fs::rename(&file, &away).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(matches!(store.reopen(), Err(StoreError::Io { .. })));
    assert!(matches!(store.commit(&[]), Err(StoreError::Io { .. })));
    fs::remove_dir(&file).unwrap();
    assert!(store.reopen().is_err(), "nothing is made anew where there was a store");
    fs::rename(&away, &file).unwrap();
    store.reopen().unwrap();
    assert_eq!(rows(&mut store).unwrap(), sorted(samples()));
}

/// Prints how many small commits a second there are, each in a transaction of the tables and in the journal:
/// `cargo nextest run -p dfs-master --run-ignored only --no-capture commits_per_second`, in `TMPDIR`.
#[test]
#[ignore = "a measurement"]
fn commits_per_second() {
    let rows: Vec<_> = (0..60_000).map(extent).collect();
    let measure = |what: &str, commit: &mut dyn FnMut(&[RowChange])| {
        let (begun, mut count) = (Instant::now(), 0);
        while begun.elapsed() < Duration::from_secs(2) {
            commit(&puts((count..count + 5).map(|n| extent(n * 7919 % 100_000))));
            count += 1;
        }
        println!("{what}: {:.0} commits/s", count as f64 / begun.elapsed().as_secs_f64());
    };
    for _ in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let mut tables = Tables::create(Arc::new(DataDir::open(dir.path()).unwrap())).unwrap();
        tables.commit(&puts(rows.clone())).unwrap();
        measure("tables", &mut |changes| tables.commit(changes).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let mut store = JournaledStore::open(DataDir::open(dir.path()).unwrap()).unwrap();
        store.commit(&puts(rows.clone())).unwrap();
        measure("journal", &mut |changes| store.commit(changes).unwrap());
    }
}
