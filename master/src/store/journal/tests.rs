//! The files of the journal: what is appended is read, and what is of before or of others is not.

use std::fs;
use std::os::unix::fs::FileExt;

use dfs_files::SystemFiles;
use dfs_files::crash::scratch_parent;

use super::*;

const STORE: u64 = 0x1234_5678_9abc;
const SIZE: u64 = 4096;

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(scratch_parent()).unwrap()
}

fn begin(dir: &Path) -> Journal {
    Journal::begin(Arc::new(SystemFiles), dir, SIZE).unwrap()
}

/// One whose length says its number, too.
fn record(commit: u64) -> Record {
    Record::new(STORE, commit, |out| out.resize(out.len() + commit as usize % 300, commit as u8))
}

fn found(dir: &Path, after: u64) -> Vec<u64> {
    let records = read(dir, STORE, after).unwrap();
    for found in &records {
        assert_eq!(found.bytes, record(found.commit).bytes);
    }
    records.into_iter().map(|record| record.commit).collect()
}

#[test]
fn what_was_appended_is_read_and_a_file_is_written_again_only_when_the_tables_have_it() {
    let dir = scratch();
    let mut journal = begin(dir.path());
    let (mut folded, mut waits) = (0, 0);
    for commit in 1..1_000 {
        let record = record(commit);
        while let Err(until) = journal.make_room(&record, folded) {
            assert!(until > folded && until < commit);
            assert_eq!(found(dir.path(), folded), (folded + 1..commit).collect::<Vec<_>>(), "all of it");
            (folded, waits) = (until, waits + 1);
        }
        journal.append(&record).unwrap();
        assert_eq!(found(dir.path(), folded), (folded + 1..=commit).collect::<Vec<_>>());
    }
    assert!(waits > 10, "{waits}");
    assert!(FILE_NAMES.iter().all(|name| fs::metadata(dir.path().join(name)).unwrap().len() == SIZE));
}

#[test]
fn a_file_holds_what_is_as_large_as_it_is() {
    let dir = scratch();
    let mut journal = begin(dir.path());
    let with =
        |commit, batch: u64| Record::new(STORE, commit, |out| out.resize(out.len() + batch as usize, 7));
    let most = SIZE - HEAD_LEN as u64;
    assert!(journal.can_hold(&with(1, most)) && !journal.can_hold(&with(1, most + 1)));
    for commit in 1..=2 {
        let record = with(commit, most);
        journal.make_room(&record, 0).unwrap();
        journal.append(&record).unwrap();
    }
    assert_eq!(read(dir.path(), STORE, 0).unwrap().len(), 2);
    assert_eq!(journal.make_room(&with(3, most), 0), Err(1));
}

#[test]
fn other_stores_and_what_the_tables_have_are_ignored_and_gaps_refused() {
    let dir = scratch();
    assert_eq!(found(dir.path(), 0), [0; 0], "there is none yet");
    let mut journal = begin(dir.path());
    for commit in [3, 4, 5, 7] {
        journal.append(&record(commit)).unwrap();
    }
    assert_eq!(found(dir.path(), 6), [7]);
    assert_eq!(found(dir.path(), 7), [0; 0]);
    assert!(read(dir.path(), STORE + 1, 0).unwrap().is_empty());
    for after in [1, 2, 4] {
        let error = read(dir.path(), STORE, after).unwrap_err();
        assert!(matches!(&error, StoreError::Corrupt { .. }), "{error}");
        let missing = if after == 1 { "commit 3 is in it, and 2" } else { "commit 7 is in it, and 6" };
        assert!(error.to_string().contains(missing), "{error}");
    }
}

#[test]
fn a_record_that_is_torn_or_changed_anywhere_is_none() {
    let dir = scratch();
    let mut journal = begin(dir.path());
    journal.append(&record(100)).unwrap();
    let at = journal.at;
    journal.append(&record(101)).unwrap();
    let file = &journal.both[0].file;
    let length = record(101).bytes.len();
    for n in 0..length as u64 {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at + n).unwrap();
        file.write_all_at(&[byte[0] ^ 1 << (n % 8)], at + n).unwrap();
        assert_eq!(found(dir.path(), 99), [100], "byte {n}");
        file.write_all_at(&byte, at + n).unwrap();
    }
    assert_eq!(found(dir.path(), 99), [100, 101]);
}

#[test]
fn a_file_that_was_being_made_is_made_whole_and_keeps_what_it_has() {
    let dir = scratch();
    begin(dir.path()).append(&record(1)).unwrap();
    let short = dir.path().join(FILE_NAMES[1]);
    OpenOptions::new().write(true).open(&short).unwrap().set_len(100).unwrap();
    begin(dir.path());
    assert_eq!(fs::metadata(&short).unwrap().len(), SIZE);
    assert_eq!(found(dir.path(), 0), [1]);
}
