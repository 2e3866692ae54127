//! The store on a real directory.

use std::path::Path;

use bytes::Bytes;
use dfs_proto::block_sum::BlockSums;

use super::*;

const CHUNK: ChunkId = ChunkId(0x0123_4567_89ab_cdef);

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
    let mut incoming = store.receive(chunk, data.len())?;
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
    let mut incoming = store.receive(CHUNK, 10).unwrap();
    incoming.append(b"12345").unwrap();
    assert_eq!(files_in(&temp.path().join("tmp")), 1);
    assert!(matches!(store.open_chunk(CHUNK), Err(StoreError::NotFound(_))));
    drop(incoming);
    assert_eq!(files_in(&temp.path().join("tmp")), 0);
    let mut incoming = store.receive(CHUNK, 10).unwrap();
    incoming.append(b"12345").unwrap();
    assert!(matches!(incoming.commit(Bytes::new()), Err(StoreError::Corrupt { .. })));
    assert_eq!(files_in(&temp.path().join("tmp")), 0);
}

#[test]
fn what_a_crash_left_in_tmp_is_gone_after_a_start() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let mut incoming = store.receive(CHUNK, 10).unwrap();
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
        let mut incoming = store.receive(CHUNK, 5).unwrap();
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
    store_chunk(&store, CHUNK, b"bytes").unwrap();
    assert!(!store.delete_doomed(CHUNK).unwrap());
    assert_eq!(read(&store, CHUNK).unwrap(), b"bytes");
    assert_eq!(store.used(), (1, 5));
    // Ordered before anything was here: the same.
    store.doom(ChunkId(99));
    store_chunk(&store, ChunkId(99), b"later").unwrap();
    assert!(!store.delete_doomed(ChunkId(99)).unwrap());
}

#[test]
fn a_flipped_byte_is_found_and_the_chunk_quarantined() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    store_chunk(&store, CHUNK, &data(200_000)).unwrap();
    store.verify(CHUNK).unwrap();
    flip_byte(&chunk_path(temp.path(), CHUNK), DATA_AT + 150_000);
    let error = store.verify(CHUNK).unwrap_err();
    assert!(error.to_string().contains("block 2"), "{error}");
    assert!(matches!(store.open_chunk(CHUNK), Err(StoreError::NotFound(_))));
    assert_eq!(files_in(&temp.path().join("quarantine")), 1, "kept, not deleted");
    store_chunk(&store, CHUNK, &data(200_000)).unwrap();
    store.verify(CHUNK).unwrap();
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
    store.verify(CHUNK).unwrap_err();
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
    assert!(matches!(store.receive(ChunkId(2), 5), Err(StoreError::NoSpace { .. })));
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
    assert!(!store.index().get(ChunkId(1)).unwrap().synced);
    let few = store.sync(&[ChunkId(1), ChunkId(2), ChunkId(99)]);
    assert_eq!(few.synced, [ChunkId(1), ChunkId(2)]);
    assert!(matches!(few.failed[..], [(ChunkId(99), StoreError::NotFound(_))]));
    assert!(store.index().get(ChunkId(2)).unwrap().synced);
    let mut all = store.sync(&chunks);
    all.synced.sort();
    assert_eq!(all.synced, chunks);
    assert!(chunks.iter().all(|&c| store.index().get(c).unwrap().synced));
}
