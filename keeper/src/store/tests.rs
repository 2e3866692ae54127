//! The store on a real directory.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use dfs_proto::block_sum::BlockSums;

use super::*;

const CHUNK: ChunkId = ChunkId(0x0123_4567_89ab_cdef);

/// For tests that make thousands of directories.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(crate::files::crash::scratch_parent()).unwrap()
}

fn open(path: &Path) -> Arc<ChunkStore> {
    let (store, bad) = ChunkStore::open(DataDir::open(path).unwrap(), Some(0)).unwrap();
    assert!(bad.is_empty(), "{bad:?}");
    // So that the directory may be opened again with chunks in it.
    let identity = crate::identity::Identity {
        cluster: dfs_proto::ids::ClusterId([1; 16]),
        keeper: dfs_proto::ids::KeeperId(1),
    };
    store.dir().set_identity(identity).unwrap();
    store
}

fn store_chunk(store: &Arc<ChunkStore>, chunk: ChunkId, data: &[u8]) -> Result<pb::ChunkInfo, StoreError> {
    let mut incoming = store.receive(chunk, data.len(), false)?;
    for piece in data.chunks(100_000) {
        incoming.append(piece)?;
    }
    incoming.commit(BlockSums::of(data).encoded().clone())
}

fn data(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 31 + n / 251) as u8).collect()
}

pub(super) fn read(store: &ChunkStore, chunk: ChunkId) -> Result<Vec<u8>, StoreError> {
    let file = store.open_chunk(chunk)?;
    let mut all = Vec::new();
    store.read_verified(&file, |run| {
        all.extend_from_slice(run);
        Ok::<(), StoreError>(())
    })?;
    Ok(all)
}

fn files_in(path: &Path) -> usize {
    fs::read_dir(path).unwrap().count()
}

fn flip_byte(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

#[test]
fn a_chunk_is_read_back_to_the_byte_also_after_a_restart() {
    let temp = tempfile::tempdir().unwrap();
    let bytes = data(700_001);
    let store = open(temp.path());
    let info = store_chunk(&store, CHUNK, &bytes).unwrap();
    assert_eq!(info.checksum, BlockSums::of(&bytes).checksum());
    assert_eq!(read(&store, CHUNK).unwrap(), bytes);
    assert_eq!(store.used(), (1, 700_001));
    drop(store);
    let store = open(temp.path());
    assert_eq!(store.inventory(), [info]);
    assert_eq!(read(&store, CHUNK).unwrap(), bytes);
}

#[test]
fn half_an_upload_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let mut incoming = store.receive(CHUNK, 10, false).unwrap();
    incoming.append(b"12345").unwrap();
    assert_eq!(files_in(&temp.path().join("tmp")), 1);
    assert!(matches!(store.open_chunk(CHUNK), Err(StoreError::NotFound(_))));
    drop(incoming);
    assert_eq!(files_in(&temp.path().join("tmp")), 0);
    let mut incoming = store.receive(CHUNK, 10, false).unwrap();
    incoming.append(b"12345").unwrap();
    assert!(matches!(incoming.commit(Bytes::new()), Err(StoreError::Corrupt { .. })));
    assert_eq!(files_in(&temp.path().join("tmp")), 0);
}

#[test]
fn what_a_crash_left_in_tmp_is_gone_after_a_start() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let mut incoming = store.receive(CHUNK, 10, false).unwrap();
    incoming.append(b"12345").unwrap();
    // As in a crash, nobody cleans up.
    let file = fs::read_dir(temp.path().join("tmp")).unwrap().next().unwrap().unwrap().path();
    let kept = fs::read(&file).unwrap();
    drop(incoming);
    drop(store);
    fs::write(&file, kept).unwrap();
    let store = open(temp.path());
    assert_eq!(files_in(&temp.path().join("tmp")), 0);
    assert!(store.inventory().is_empty());
}

#[test]
fn wrong_checksums_are_refused_and_leave_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    for claimed in [BlockSums::of(b"other").encoded().clone(), Bytes::new(), Bytes::from_static(&[0; 8])] {
        let mut incoming = store.receive(CHUNK, 5, false).unwrap();
        incoming.append(b"12345").unwrap();
        assert!(matches!(incoming.commit(claimed), Err(StoreError::Corrupt { .. })));
    }
    assert!(store.inventory().is_empty());
    assert_eq!(files_in(&temp.path().join("tmp")), 0);
}

#[test]
fn storing_twice_is_as_good_as_once_and_never_changes_bytes() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let first = store_chunk(&store, CHUNK, b"bytes").unwrap();
    assert_eq!(store_chunk(&store, CHUNK, b"bytes").unwrap(), first);
    assert!(matches!(store_chunk(&store, CHUNK, b"other"), Err(StoreError::Exists(CHUNK))));
    assert_eq!(read(&store, CHUNK).unwrap(), b"bytes");
    assert_eq!(files_in(&temp.path().join("tmp")), 0);
    assert_eq!(store.used(), (1, 5));
}

#[test]
fn a_deleted_chunk_is_gone() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    store_chunk(&store, CHUNK, b"bytes").unwrap();
    assert!(!store.delete_doomed(CHUNK).unwrap(), "not doomed");
    store.doom(CHUNK);
    assert!(store.delete_doomed(CHUNK).unwrap());
    assert!(!store.delete_doomed(CHUNK).unwrap());
    assert!(matches!(store.open_chunk(CHUNK), Err(StoreError::NotFound(_))));
    assert!(!chunk_path(temp.path(), CHUNK).exists());
}

#[test]
fn a_deletion_does_not_take_a_copy_that_came_after_it_was_ordered() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    store_chunk(&store, CHUNK, b"bytes").unwrap();
    store.doom(CHUNK);
    copy_chunk(&store, CHUNK, b"bytes").unwrap();
    assert!(!store.delete_doomed(CHUNK).unwrap());
    assert_eq!(read(&store, CHUNK).unwrap(), b"bytes");
    assert_eq!(store.used(), (1, 5));
    // Ordered before anything was here: the same.
    store.doom(ChunkId(99));
    copy_chunk(&store, ChunkId(99), b"later").unwrap();
    assert!(!store.delete_doomed(ChunkId(99)).unwrap());
}

#[test]
fn a_flipped_byte_is_found_and_the_chunk_quarantined() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    store_chunk(&store, CHUNK, &data(200_000)).unwrap();
    store.verify(CHUNK, None).unwrap();
    flip_byte(&chunk_path(temp.path(), CHUNK), DATA_AT + 150_000);
    let error = store.verify(CHUNK, None).unwrap_err();
    assert!(error.to_string().contains("block 2"), "{error}");
    assert!(matches!(store.open_chunk(CHUNK), Err(StoreError::NotFound(_))));
    assert_eq!(files_in(&temp.path().join("quarantine")), 1, "kept, not deleted");
    store_chunk(&store, CHUNK, &data(200_000)).unwrap();
    store.verify(CHUNK, None).unwrap();
}

#[test]
fn a_bad_header_or_size_is_never_served() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let path = chunk_path(temp.path(), CHUNK);
    store_chunk(&store, CHUNK, b"bytes").unwrap();
    flip_byte(&path, 30);
    assert!(matches!(store.open_chunk(CHUNK), Err(StoreError::Corrupt { .. })));
    store_chunk(&store, CHUNK, b"bytes").unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(DATA_AT + 4).unwrap();
    assert!(matches!(store.open_chunk(CHUNK), Err(StoreError::Corrupt { .. })));
    assert_eq!(files_in(&temp.path().join("quarantine")), 2);
}

#[test]
fn a_late_verdict_on_an_old_file_spares_the_good_one_in_its_place() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    store_chunk(&store, CHUNK, b"bytes").unwrap();
    let old = store.open_chunk(CHUNK).unwrap();
    flip_byte(&chunk_path(temp.path(), CHUNK), DATA_AT);
    store.verify(CHUNK, None).unwrap_err();
    store_chunk(&store, CHUNK, b"bytes").unwrap();
    assert!(store.read_verified(&old, |_| Ok::<(), StoreError>(())).is_err());
    assert_eq!(read(&store, CHUNK).unwrap(), b"bytes");
}

#[test]
fn a_start_quarantines_what_does_not_verify_and_says_so() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    store_chunk(&store, CHUNK, b"bytes").unwrap();
    store_chunk(&store, ChunkId(2), b"more").unwrap();
    drop(store);
    flip_byte(&chunk_path(temp.path(), CHUNK), 9);
    fs::write(temp.path().join("chunks/00/notes.txt"), "left alone").unwrap();
    let (store, bad) = ChunkStore::open(DataDir::open(temp.path()).unwrap(), Some(0)).unwrap();
    assert_eq!(bad.len(), 1);
    assert_eq!(bad[0].0, CHUNK);
    assert_eq!(store.used().0, 1);
    assert!(temp.path().join("chunks/00/notes.txt").exists());
}

#[test]
fn a_chunk_of_a_newer_format_stops_the_start_untouched() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    store_chunk(&store, CHUNK, b"bytes").unwrap();
    drop(store);
    let path = chunk_path(temp.path(), CHUNK);
    let mut raw = fs::read(&path).unwrap();
    raw[8] = 2;
    let checksum = crc32c::crc32c(&raw[..4092]);
    raw[4092..4096].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&path, &raw).unwrap();
    let refused = ChunkStore::open(DataDir::open(temp.path()).unwrap(), Some(0));
    assert!(matches!(refused, Err(KeeperError::NewerFormat { found: 2, .. })));
    assert_eq!(fs::read(&path).unwrap(), raw);
}

#[test]
fn a_full_disk_refuses_writes_and_serves() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    store_chunk(&store, CHUNK, b"bytes").unwrap();
    drop(store);
    let (store, _) = ChunkStore::open(DataDir::open(temp.path()).unwrap(), Some(u64::MAX)).unwrap();
    assert!(matches!(store.receive(ChunkId(2), 5, false), Err(StoreError::NoSpace { .. })));
    assert_eq!(read(&store, CHUNK).unwrap(), b"bytes");
}

#[test]
fn syncing_reports_what_is_synced_and_what_is_not_here() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let chunks: Vec<ChunkId> = (1..=40).map(ChunkId).collect();
    for &chunk in &chunks {
        store_chunk(&store, chunk, b"bytes").unwrap();
    }
    let stability = |chunk| store.index().get(chunk).unwrap().stability;
    assert_eq!(stability(ChunkId(1)), Stability::Volatile);
    let few = store.sync(&[ChunkId(1), ChunkId(2), ChunkId(99)]);
    assert_eq!(few.synced, [ChunkId(1), ChunkId(2)]);
    assert!(matches!(few.failed[..], [(ChunkId(99), StoreError::NotFound(_))]));
    assert_eq!(stability(ChunkId(2)), Stability::Journaled);
    let mut all = store.sync(&chunks);
    all.synced.sort();
    assert_eq!(all.synced, chunks);
    assert!(chunks.iter().all(|&c| stability(c) >= Stability::Journaled));
}

#[test]
fn a_small_chunk_that_somebody_waits_for_is_in_the_journal_and_soon_in_its_file() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let (small, longest, long) = (ChunkId(1), ChunkId(2), ChunkId(3));
    for (chunk, length) in [(small, 5), (longest, BLOCK_SIZE), (long, BLOCK_SIZE + 1)] {
        store_chunk(&store, chunk, &data(length)).unwrap();
    }
    let stability = |chunk| store.index().get(chunk).unwrap().stability;
    assert!(store.sync(&[small, longest, long]).journaled);
    let (journaled, synced) = (Stability::Journaled, Stability::Synced);
    assert_eq!([small, longest, long].map(stability), [journaled, journaled, synced]);
    let report = store.sync(&[small]);
    assert!(report.synced == [small] && !report.journaled, "it is there already: {report:?}");
    let report = store.settle(&[long]);
    assert_eq!((report.synced, report.failed.len()), (vec![long], 0), "the others were reported before");
    assert_eq!([small, longest].map(stability), [synced, synced]);
    assert!(
        journal::read(temp.path(), JOURNAL_SIZE).unwrap().records.len() == 2,
        "what is settled is told by the next record"
    );
    let next = ChunkId(4);
    store_chunk(&store, next, b"next").unwrap();
    assert!(store.sync(&[next]).journaled);
    let records = journal::read(temp.path(), JOURNAL_SIZE).unwrap().records;
    assert_eq!(records.iter().map(|record| record.chunk).collect::<Vec<_>>(), [next]);
}

#[test]
fn a_start_makes_of_the_journal_what_is_missing_and_leaves_what_verifies() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let [gone, torn, rotten, good, dead] = [1, 2, 3, 4, 5].map(ChunkId);
    for chunk in [gone, torn, rotten, good, dead] {
        store_chunk(&store, chunk, &data(5000 + chunk.0 as usize)).unwrap();
    }
    assert!(store.sync(&[gone, torn, rotten, good]).journaled);
    let path = |chunk| chunk_path(temp.path(), chunk);
    drop(store);
    fs::remove_file(path(gone)).unwrap();
    fs::OpenOptions::new().write(true).open(path(torn)).unwrap().set_len(100).unwrap();
    flip_byte(&path(rotten), DATA_AT + 17);
    let inode = |chunk| fs::metadata(path(chunk)).unwrap().ino();
    let before = inode(good);
    let store = open(temp.path());
    for chunk in [gone, torn, rotten, good, dead] {
        assert_eq!(read(&store, chunk).unwrap(), data(5000 + chunk.0 as usize), "{chunk}");
    }
    assert_eq!(inode(good), before, "a file that verifies stays");
    assert_eq!(store.quarantine_size(), (0, 0));
}

#[test]
fn the_file_of_a_deleted_chunk_is_written_again_for_another_of_any_length() {
    let temp = tempfile::tempdir().unwrap();
    drop(open(temp.path()));
    let (store, _) =
        ChunkStore::open_with(DataDir::open(temp.path()).unwrap(), Some(0), Duration::ZERO).unwrap();
    let inode = |chunk| fs::metadata(chunk_path(temp.path(), chunk)).unwrap().ino();
    let mut last = CHUNK;
    store_chunk(&store, last, &data(20_000)).unwrap();
    for length in [20_000, 5, BLOCK_SIZE, 1, 7000] {
        let (before, next) = (inode(last), ChunkId(last.0 + 1));
        let slow_reader = store.open_chunk(last).unwrap();
        store.doom(last);
        assert!(store.delete_doomed(last).unwrap());
        let bytes = vec![length as u8; length];
        store_chunk(&store, next, &bytes).unwrap();
        assert_eq!(inode(next), before);
        // Who reads it too late as what it was finds that out, and does the new chunk no harm.
        assert!(matches!(store.read_block(&slow_reader, 0), Err(StoreError::Corrupt { .. })));
        assert_eq!(read(&store, next).unwrap(), bytes);
        last = next;
    }
    store.doom(last);
    store.delete_doomed(last).unwrap();
    let long = ChunkId(7);
    store_chunk(&store, long, &data(BLOCK_SIZE + 1)).unwrap();
    assert_eq!(files_in(&temp.path().join(retired::DIR)), 1, "a long one gets a new file");
    let mut half = store.receive(last, 10, true).unwrap();
    half.append(b"12345").unwrap();
    drop(half);
    assert_eq!(files_in(&temp.path().join(retired::DIR)), 0);
    drop(store);
    read(&open(temp.path()), long).unwrap();
}

#[test]
fn what_was_deleted_and_comes_back_from_the_journal_can_be_deleted_again() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    store_chunk(&store, CHUNK, b"bytes").unwrap();
    assert!(store.sync(&[CHUNK]).journaled);
    store.doom(CHUNK);
    assert!(store.delete_doomed(CHUNK).unwrap());
    assert!(store.settle(&[]).failed.is_empty(), "it is no business of the journal any more");
    drop(store);
    let store = open(temp.path());
    assert_eq!(store.inventory().len(), 1, "the master hears of it, and has it deleted");
    store.doom(CHUNK);
    assert!(store.delete_doomed(CHUNK).unwrap());
}

#[test]
fn a_file_in_quarantine_stays_over_a_restart_until_it_is_said_that_it_may_go() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let stored = store_chunk(&store, CHUNK, &data(200_000)).unwrap();
    flip_byte(&chunk_path(temp.path(), CHUNK), DATA_AT + 3);
    store.verify(CHUNK, None).unwrap_err();
    assert_eq!(store.quarantine_size(), (1, DATA_AT + 200_000));
    drop(store);
    fs::write(temp.path().join("quarantine/notes.txt"), b"somebody's").unwrap();
    let store = open(temp.path());
    assert_eq!(store.quarantined(), [CHUNK]);
    assert_eq!(store_chunk(&store, CHUNK, &data(200_000)).unwrap(), stored);
    store.empty_quarantine(ChunkId(1)).unwrap();
    assert_eq!(store.quarantine_size(), (1, DATA_AT + 200_000));
    store.empty_quarantine(CHUNK).unwrap();
    assert_eq!((store.quarantine_size(), store.quarantined()), ((0, 0), vec![]));
    assert_eq!(files_in(&temp.path().join("quarantine")), 1, "what is not ours is left alone");
    store.verify(CHUNK, Some(stored)).unwrap();
}

#[test]
fn another_chunk_file_that_verifies_in_itself_is_never_served() {
    let (temp, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, forger) = (open(temp.path()), open(other.path()));
    let stored = store_chunk(&store, CHUNK, b"bytes").unwrap();
    let forged = store_chunk(&forger, CHUNK, b"other").unwrap();
    fs::copy(chunk_path(other.path(), CHUNK), chunk_path(temp.path(), CHUNK)).unwrap();
    assert!(matches!(store.open_chunk(CHUNK), Err(StoreError::Corrupt { .. })));
    assert!(matches!(store.open_chunk(CHUNK), Err(StoreError::NotFound(_))));
    // After a restart only the master can know.
    forger.verify(CHUNK, Some(forged)).unwrap();
    assert!(matches!(forger.verify(CHUNK, Some(stored)), Err(StoreError::Corrupt { .. })));
    assert_eq!(forger.quarantine_size().0, 1);
}

#[test]
fn a_scrub_reads_every_byte_and_tells_what_vanished_from_what_was_deleted() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let (gone, deleted) = (ChunkId(2), ChunkId(3));
    for chunk in [CHUNK, gone, deleted] {
        store_chunk(&store, chunk, &data(300_000)).unwrap();
    }
    let list = store.list_after(ChunkId(0));
    assert_eq!(list, [(gone, 300_000), (deleted, 300_000), (CHUNK, 300_000)]);
    assert_eq!(store.list_after(deleted), [(CHUNK, 300_000)]);
    fs::remove_file(chunk_path(temp.path(), gone)).unwrap();
    store.doom(deleted);
    store.delete_doomed(deleted).unwrap();
    let mut read = 0;
    store.scrub(CHUNK, |bytes| read += bytes).unwrap();
    assert_eq!(read, 300_000);
    assert!(matches!(store.scrub(gone, |_| ()), Err(StoreError::Vanished(_))));
    assert!(matches!(store.scrub(deleted, |_| ()), Err(StoreError::NotFound(_))));
    let file = fs::OpenOptions::new().write(true).open(chunk_path(temp.path(), CHUNK)).unwrap();
    file.set_len(DATA_AT + 300_001).unwrap();
    assert!(matches!(store.scrub(CHUNK, |_| ()), Err(StoreError::Corrupt { .. })));
    assert_eq!(store.used(), (0, 0));
}

fn copy_chunk(store: &Arc<ChunkStore>, chunk: ChunkId, data: &[u8]) -> Result<pb::ChunkInfo, StoreError> {
    let mut incoming = store.receive(chunk, data.len(), true)?;
    incoming.append(data)?;
    incoming.commit(BlockSums::of(data).encoded().clone())
}

#[test]
fn a_doomed_chunk_is_in_no_inventory_and_an_ordered_copy_spares_it() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    store_chunk(&store, CHUNK, b"bytes").unwrap();
    store.doom(CHUNK);
    assert!(store.inventory().is_empty(), "the master would take it for a copy");
    copy_chunk(&store, CHUNK, b"bytes").unwrap();
    assert!(!store.delete_doomed(CHUNK).unwrap(), "the deletion came before the copy");
    assert_eq!((read(&store, CHUNK).unwrap(), store.inventory().len()), (b"bytes".to_vec(), 1));
    store.doom(CHUNK);
    assert!(store.delete_doomed(CHUNK).unwrap());
    copy_chunk(&store, CHUNK, b"bytes").unwrap();
    assert_eq!(read(&store, CHUNK).unwrap(), b"bytes");
}

#[test]
fn an_upload_that_was_taken_back_before_it_was_whole_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let mut late = store.receive(CHUNK, 5, false).unwrap();
    store.doom(CHUNK);
    store.delete_doomed(CHUNK).unwrap();
    late.append(b"bytes").unwrap();
    let error = late.commit(BlockSums::of(b"bytes").encoded().clone()).unwrap_err();
    assert!(matches!(error, StoreError::TakenBack(CHUNK)), "{error}");
    assert!(!chunk_path(temp.path(), CHUNK).exists());
    assert_eq!(files_in(&temp.path().join("tmp")), 0);
}

#[test]
fn arrivals_are_said_once_when_they_are_old_enough_and_still_here() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    for chunk in [CHUNK, ChunkId(2), ChunkId(3)] {
        store_chunk(&store, chunk, b"bytes").unwrap();
    }
    assert_eq!(store.take_arrivals(Duration::from_secs(60)), []);
    store.doom(ChunkId(2));
    let said = store.take_arrivals(Duration::ZERO);
    assert_eq!(said, [CHUNK, ChunkId(3)]);
    assert_eq!(store.take_arrivals(Duration::ZERO), []);
    store.put_arrivals_back(&said);
    assert_eq!(store.take_arrivals(Duration::ZERO).len(), 2);
}

#[test]
fn a_look_at_the_files_finds_what_is_gone_cut_or_put_here() {
    let (temp, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, elsewhere) = (open(temp.path()), open(other.path()));
    for chunk in [CHUNK, ChunkId(2), ChunkId(3)] {
        store_chunk(&store, chunk, &data(100_000)).unwrap();
    }
    store_chunk(&elsewhere, ChunkId(4), b"bytes").unwrap();
    fs::remove_file(chunk_path(temp.path(), ChunkId(2))).unwrap();
    let cut = fs::OpenOptions::new().write(true).open(chunk_path(temp.path(), ChunkId(3))).unwrap();
    cut.set_len(10).unwrap();
    fs::copy(chunk_path(other.path(), ChunkId(4)), chunk_path(temp.path(), ChunkId(4))).unwrap();
    let bad: Vec<ChunkId> = store.look_at_files().into_iter().map(|(chunk, _)| chunk).collect();
    assert_eq!(bad, [ChunkId(2), ChunkId(3)]);
    let mut here: Vec<u64> = store.inventory().iter().map(|info| info.chunk).collect();
    here.sort_unstable();
    assert_eq!(here, [4, CHUNK.0]);
    assert!(store.look_at_files().is_empty());
}
