//! What every store must do, as tests. Each engine's row in `suite!` runs all of them.

use std::time::Duration;

use bytes::Bytes;
use dfs_proto::ids::{ChunkId, ClusterId, InodeNo, KeeperId};
use dfs_proto::pb;

use super::codec::key_of;
use super::codec::tests::samples;
use super::{DataDir, Identity, JournaledStore, MemoryStore, Store, StoreError};
use crate::core::row::{ChunkRow, ExtentRow};
use crate::core::{Row, RowChange, RowKey, Spared};

fn identity(byte: u8) -> Identity {
    Identity {
        cluster: ClusterId([byte; 16]),
        secret: [byte ^ 0xff; 32],
        created: pb::Time { sec: i64::from(byte), nsec: 5 },
        spared: None,
    }
}

fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by_key(key_of);
    rows
}

fn load(store: &mut dyn Store) -> Vec<Row> {
    let mut rows = Vec::new();
    store
        .load(&mut |row| {
            rows.push(row);
            Ok(())
        })
        .unwrap();
    sorted(rows)
}

fn put(rows: &[Row]) -> Vec<RowChange> {
    rows.iter().cloned().map(RowChange::Put).collect()
}

/// A store that can be closed and opened again on the same rows.
trait Engine {
    fn open(&self) -> Box<dyn Store>;
}

impl Engine for MemoryStore {
    fn open(&self) -> Box<dyn Store> {
        Box::new(self.clone())
    }
}

impl Engine for tempfile::TempDir {
    fn open(&self) -> Box<dyn Store> {
        let (dir, soon) = (DataDir::open(self.path()).unwrap(), Some(Duration::from_millis(2)));
        Box::new(JournaledStore::open_small(dir, 4096, soon).unwrap())
    }
}

fn an_empty_store_has_no_rows(engine: &dyn Engine) {
    assert_eq!(load(&mut *engine.open()), vec![]);
}

fn rows_of_every_kind_come_back(engine: &dyn Engine) {
    let rows = samples();
    engine.open().commit(&put(&rows)).unwrap();
    assert_eq!(load(&mut *engine.open()), sorted(rows));
}

fn a_put_replaces_the_row_of_the_same_key(engine: &dyn Engine) {
    let row = |length| Row::Chunk(ChunkId(9), ChunkRow { length, checksum: 1, keepers: vec![KeeperId(2)] });
    let mut store = engine.open();
    store.commit(&put(&[row(1)])).unwrap();
    store.commit(&put(&[row(2), row(3)])).unwrap();
    assert_eq!(load(&mut *store), vec![row(3)]);
}

fn a_delete_removes_one_row_and_a_missing_key_is_no_error(engine: &dyn Engine) {
    let rows = samples();
    let mut store = engine.open();
    store.commit(&put(&rows)).unwrap();
    for row in &rows {
        store.commit(&[RowChange::Delete(key_of(row)), RowChange::Delete(key_of(row))]).unwrap();
        let key = key_of(row);
        assert!(load(&mut *store).iter().all(|left| key_of(left) != key), "{key:?}");
    }
    assert_eq!(load(&mut *store), vec![]);
}

fn the_last_change_of_a_commit_wins(engine: &dyn Engine) {
    let dentry = |inode| Row::Dentry { parent: InodeNo(1), name: (*b"a").into(), inode: InodeNo(inode) };
    let key = RowKey::Dentry { parent: InodeNo(1), name: (*b"a").into() };
    let mut store = engine.open();
    let changes = [RowChange::Put(dentry(2)), RowChange::Delete(key.clone()), RowChange::Put(dentry(3))];
    store.commit(&changes).unwrap();
    assert_eq!(load(&mut *store), vec![dentry(3)]);
    store.commit(&[RowChange::Put(dentry(4)), RowChange::Delete(key)]).unwrap();
    assert_eq!(load(&mut *store), vec![]);
}

fn keys_that_begin_alike_are_different_rows(engine: &dyn Engine) {
    let xattr = |inode, name: &[u8], value: &'static [u8]| Row::Xattr {
        inode: InodeNo(inode),
        name: name.into(),
        value: Bytes::from_static(value),
    };
    let rows = sorted(vec![
        xattr(1, b"user.a", b""),
        xattr(1, b"user.ab", b"2"),
        xattr(256, b"user.a", b"3"),
        xattr(1, &[0xff; 255], b"4"),
        Row::Dentry { parent: InodeNo(1), name: (*b"user.a").into(), inode: InodeNo(5) },
    ]);
    let mut store = engine.open();
    store.commit(&put(&rows)).unwrap();
    assert_eq!(load(&mut *store), rows);
}

fn thousands_of_rows_in_one_commit(engine: &dyn Engine) {
    let rows: Vec<Row> = (0..5_000)
        .map(|n| {
            let extent =
                ExtentRow { file_offset: n * 10, length: 10, chunk: ChunkId(n + 1), chunk_offset: 0 };
            Row::Extent(InodeNo(n % 7 + 1), extent)
        })
        .collect();
    engine.open().commit(&put(&rows)).unwrap();
    assert_eq!(load(&mut *engine.open()), sorted(rows));
}

fn the_first_identity_stays(engine: &dyn Engine) {
    assert_eq!(engine.open().identity(identity(1)).unwrap(), identity(1));
    let mut store = engine.open();
    assert_eq!(store.identity(identity(2)).unwrap(), identity(1));
    assert_eq!(store.identity(identity(3)).unwrap(), identity(1));
    assert_eq!(load(&mut *store), vec![], "an identity is no row");
}

fn a_restored_identity_comes_back_whole(engine: &dyn Engine) {
    let spared = Some(Spared { below: ChunkId(77), until_ms: -5 });
    let restored = Identity { spared, ..identity(4) };
    assert_eq!(engine.open().identity(restored.clone()).unwrap(), restored);
    assert_eq!(engine.open().snapshot().unwrap().identity().unwrap(), restored);
}

fn a_snapshot_is_of_one_moment(engine: &dyn Engine) {
    let mut store = engine.open();
    assert!(store.snapshot().unwrap().identity().is_err(), "there is none yet");
    store.commit(&put(&samples())).unwrap();
    let mut snapshot = store.snapshot().unwrap();
    let all: Vec<RowChange> = samples().iter().map(|row| RowChange::Delete(key_of(row))).collect();
    store.commit(&all).unwrap();
    let mut rows = Vec::new();
    let each = &mut |row| {
        rows.push(row);
        Ok(())
    };
    snapshot.load(each).unwrap();
    assert_eq!(sorted(rows), sorted(samples()));
    assert_eq!(load(&mut *store), vec![]);
}

fn a_load_stops_when_it_is_told_to(engine: &dyn Engine) {
    let mut store = engine.open();
    store.commit(&put(&samples())).unwrap();
    let mut seen = 0;
    let result = store.load(&mut |_| {
        seen += 1;
        Err(StoreError::Corrupt { path: "here".into(), why: "no sense".to_owned() })
    });
    assert!(matches!(result, Err(StoreError::Corrupt { .. })));
    assert_eq!(seen, 1);
}

macro_rules! suite {
    ($($engine:ident = $make:expr;)*) => { $(suite!(@ $engine, $make,
        an_empty_store_has_no_rows,
        rows_of_every_kind_come_back,
        a_put_replaces_the_row_of_the_same_key,
        a_delete_removes_one_row_and_a_missing_key_is_no_error,
        the_last_change_of_a_commit_wins,
        keys_that_begin_alike_are_different_rows,
        thousands_of_rows_in_one_commit,
        the_first_identity_stays,
        a_load_stops_when_it_is_told_to,
        a_restored_identity_comes_back_whole,
        a_snapshot_is_of_one_moment,
    );)* };
    (@ $engine:ident, $make:expr, $($test:ident,)*) => {
        mod $engine {
            $(#[test]
            fn $test() {
                super::$test(&$make);
            })*
        }
    };
}

suite! {
    memory = crate::store::MemoryStore::new();
    journaled = tempfile::tempdir().unwrap();
}
