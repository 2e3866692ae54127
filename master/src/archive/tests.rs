//! What is restored is what was dumped, but for what must differ; and all or nothing.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::core::row::{ChunkRow, KeeperRow};
use dfs_proto::ids::KeeperId;

const CLUSTER: ClusterId = ClusterId([4; 16]);
const NOW: pb::Time = pb::Time { sec: 1_800_000_000, nsec: 0 };
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A fresh cluster with one keeper; returns its directory and its rows.
fn cluster(below: &Path) -> (PathBuf, Vec<Row>) {
    let data = below.join("master");
    let mut store = JournaledStore::open(DataDir::open(&data).unwrap()).unwrap();
    let identity = Identity { cluster: CLUSTER, secret: [9; 32], created: NOW, spared: None };
    store.identity(identity.clone()).unwrap();
    let mut changes = State::new(settings_to_check(&identity)).bootstrap(NOW);
    let text = |text: &str| text.to_owned();
    let keeper = KeeperRow {
        address: text("a:1"),
        data_dir: text("/d"),
        host: text("h"),
        version: text("1"),
        labels: [(text("rack"), text("1"))].into(),
        draining: true,
        maintenance_until_ms: 7,
    };
    changes.push(RowChange::Put(Row::Keeper(KeeperId(1), keeper)));
    store.commit(&changes).unwrap();
    (data, rows(&mut store))
}

fn rows(store: &mut JournaledStore) -> Vec<Row> {
    let mut rows = Vec::new();
    let load = &mut |row| {
        rows.push(row);
        Ok(())
    };
    store.load(load).unwrap();
    rows
}

fn reopen(data: &Path) -> JournaledStore {
    JournaledStore::open(DataDir::open(data).unwrap()).unwrap()
}

#[test]
fn a_cluster_comes_back_with_a_new_secret_and_new_numbers() {
    let temp = tempfile::tempdir().unwrap();
    let (data, before) = cluster(temp.path());
    let (file, fresh) = (temp.path().join("backup"), temp.path().join("fresh"));
    let summary = dump(&data, &file).unwrap();
    assert_eq!(summary.rows, before.len() as u64);
    assert_eq!(summary.bytes, fs::metadata(&file).unwrap().len());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let restored = restore(&file, &fresh, DAY, NOW).unwrap();
    assert_eq!((restored.cluster, restored.rows), (CLUSTER, summary.rows));
    let mut store = reopen(&fresh);
    let other = Identity { cluster: ClusterId([1; 16]), secret: [1; 32], created: NOW, spared: None };
    let identity = store.identity(other).unwrap();
    assert_eq!(identity.cluster, CLUSTER);
    assert!(identity.secret != [9; 32] && identity.secret != [0; 32]);
    let below = ChunkId((NOW.sec as u64) << 20);
    assert_eq!(identity.spared, Some(Spared { below, until_ms: NOW.as_millis() + 86_400_000 }));
    let other_rows =
        |rows: Vec<Row>| rows.into_iter().filter(|row| !matches!(row, Row::Counters(_))).collect::<Vec<_>>();
    let after = rows(&mut store);
    assert_eq!(other_rows(after.clone()), other_rows(before));
    assert!(after.iter().any(|row| matches!(row, Row::Counters(c) if c.next_chunk == below.0)));
}

#[test]
fn who_has_which_chunk_only_the_keepers_know() {
    let row = ChunkRow { length: 5, checksum: 6, keepers: vec![KeeperId(1)] };
    let none = ChunkRow { keepers: vec![], ..row.clone() };
    assert_eq!(as_restored(Row::Chunk(ChunkId(1), row), NOW), Row::Chunk(ChunkId(1), none));
}

#[test]
fn no_number_comes_again_however_often_an_old_dump_is_restored() {
    let old = Counters { next_inode: 5000, next_chunk: 7000, next_keeper: 4 };
    let first = first_free(old, NOW);
    // Handed out at full speed until it was lost a day later.
    let used = 86_400 * 1_000_000;
    let again = first_free(old, pb::Time { sec: NOW.sec + 86_400, nsec: 0 });
    assert!(again.next_chunk > first.next_chunk + used && again.next_inode > first.next_inode + used);
    assert!(again.next_keeper > first.next_keeper + 1000);
    let wrong_clock = first_free(first, pb::Time { sec: 0, nsec: 0 });
    assert!(wrong_clock.next_chunk > first.next_chunk && wrong_clock.next_keeper > first.next_keeper);
}

#[test]
fn only_an_empty_directory_is_restored_into() {
    let temp = tempfile::tempdir().unwrap();
    let (data, _) = cluster(temp.path());
    let file = temp.path().join("backup");
    dump(&data, &file).unwrap();
    let before = fs::read(data.join(STORE_FILE)).unwrap();
    let error = restore(&file, &data, DAY, NOW).unwrap_err();
    assert!(matches!(error, ArchiveError::NotEmpty { .. }), "{error}");
    assert_eq!(fs::read(data.join(STORE_FILE)).unwrap(), before);
    // What an interrupted attempt leaves is in nobody's way.
    let fresh = temp.path().join("fresh");
    fs::create_dir(&fresh).unwrap();
    fs::write(fresh.join(UNFINISHED_FILE), "half").unwrap();
    restore(&file, &fresh, DAY, NOW).unwrap();
    assert!(!fresh.join(UNFINISHED_FILE).exists());
}

#[test]
fn a_damaged_dump_leaves_no_store_and_does_not_start_one() {
    let temp = tempfile::tempdir().unwrap();
    let (data, _) = cluster(temp.path());
    let file = temp.path().join("backup");
    dump(&data, &file).unwrap();
    let whole = fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    for (n, wrong) in [&whole[..whole.len() - 1], &whole[..100], &flipped, b""].into_iter().enumerate() {
        let fresh = temp.path().join(format!("fresh{n}"));
        fs::write(&file, wrong).unwrap();
        let error = restore(&file, &fresh, DAY, NOW).unwrap_err();
        assert!(error.to_string().starts_with(&format!("dump {}: it is damaged", file.display())), "{error}");
        assert!(!fresh.join(STORE_FILE).exists() && !fresh.join(UNFINISHED_FILE).exists());
    }
}

#[test]
fn a_running_master_and_a_directory_without_a_store_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let (data, _) = cluster(temp.path());
    let running = reopen(&data);
    let file = temp.path().join("backup");
    assert!(matches!(dump(&data, &file), Err(ArchiveError::DataDir(DataDirError::Locked { .. }))));
    drop(running);
    assert!(matches!(dump(temp.path(), &file), Err(ArchiveError::NoStore { .. })));
    let nowhere = temp.path().join("no/backup");
    assert!(matches!(dump(&data, &nowhere), Err(ArchiveError::Write { .. })));
    assert!(!file.exists());
}
