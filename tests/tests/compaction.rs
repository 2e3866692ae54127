//! Files of many small pieces are packed in the background, and nobody but the look-up table shows it.
//!
//! Covers: a file written in small pieces at random, through one mount and through two, ends with no more chunks than
//! its size asks for plus two, has the same bytes on every mount, is read as fast as one that was written in one go,
//! and the keepers give the room of the old chunks back; also when a keeper is killed and the master restarted in the
//! middle; and reading while it happens shows no error and blames no copy.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use dfs_tests::random::Rng;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, wait_until};

const SIZE: u64 = 40 << 20;
const PIECE: usize = 4096;
const CHUNK: u64 = 8 << 20;
/// The issue allows a minute.
const PATIENCE: Duration = secs(90);

fn open(path: &Path) -> File {
    File::options().create(true).truncate(false).read(true).write(true).open(path).unwrap()
}

/// Writes at random places of the file, and keeps the books.
fn write_pieces(file: &File, model: &mut [u8], rng: &mut Rng, count: usize) {
    for _ in 0..count {
        let at = rng.below(SIZE / PIECE as u64) * PIECE as u64;
        let bytes = rng.bytes(PIECE);
        file.write_all_at(&bytes, at).unwrap();
        model[at as usize..at as usize + PIECE].copy_from_slice(&bytes);
    }
}

fn chunks(cluster: &Cluster, path: &str) -> usize {
    let rows = cluster.lookup(path);
    rows.iter().map(|row| row["chunk"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>().len()
}

fn wait_packed(cluster: &Cluster, path: &str) {
    let most = SIZE.div_ceil(CHUNK) as usize + 2;
    let before = chunks(cluster, path);
    let begun = Instant::now();
    wait_until(PATIENCE, &format!("{path} is packed"), || {
        chunks(cluster, path) <= most
            && cluster.status("compactions_under_way") == 0
            && cluster.status("compactions_waiting") == 0
    });
    println!("{path}: {before} chunks, {} after {:?}", chunks(cluster, path), begun.elapsed());
}

fn disk_use(cluster: &Cluster) -> u64 {
    let files = (0..cluster.keeper_count()).flat_map(|index| cluster.chunk_files(index));
    files.filter_map(|file| fs::metadata(file).ok()).map(|meta| meta.len()).sum()
}

/// The time of the quickest of three whole reads, each by a mount of its own, so that nothing is cached.
fn read_time(cluster: &mut Cluster, name: &str, right: &[u8]) -> Duration {
    let times = (0..3).map(|_| {
        let mount = cluster.mount();
        let begun = Instant::now();
        let got = fs::read(mount.path(name)).unwrap();
        let took = begun.elapsed();
        assert!(got == right, "{name} has other bytes");
        mount.unmount();
        took
    });
    times.min().unwrap()
}

#[test]
fn ten_thousand_small_random_writes_end_in_full_chunks_that_read_at_full_speed() {
    let mut cluster = Cluster::builder().compact_after("1s").start();
    let (mount, other) = (cluster.mount(), cluster.mount());
    let mut rng = Rng::new(60);
    let mut model = rng.bytes(SIZE as usize);
    fs::write(mount.path("pieces"), &model).unwrap();
    let file = open(&mount.path("pieces"));
    write_pieces(&file, &mut model, &mut rng, 10_000);
    file.sync_all().unwrap();
    let before = (file.metadata().unwrap(), disk_use(&cluster));
    fs::write(mount.path("whole"), &model).unwrap();
    // The layout that this mount has now is about to grow old.
    let reader = File::open(other.path("pieces")).unwrap();
    reader.read_exact_at(&mut [0; PIECE], 0).unwrap();
    wait_packed(&cluster, "/pieces");
    assert!(fs::read(other.path("pieces")).unwrap() == model, "on another mount");
    for log in [mount.process.log(), other.process.log()] {
        assert!(!log.contains("bad copy"), "a copy is blamed: {log}");
    }
    assert!(fs::read(mount.path("pieces")).unwrap() == model, "on the mount that wrote it");
    let after = fs::metadata(other.path("pieces")).unwrap();
    let times = |meta: &fs::Metadata| (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
    assert_eq!((times(&after), after.blocks()), (times(&before.0), before.0.blocks()));
    file.sync_all().unwrap();
    cluster.wait_copies("/pieces", 3, secs(30));
    // Two files now, each three times, and a header for each chunk: the old chunks are gone.
    let room = 2 * 3 * (SIZE + 10 * 4096);
    wait_until(secs(30), "the room of the old chunks is given back", || disk_use(&cluster) <= room);
    let packed = read_time(&mut cluster, "pieces", &model);
    let whole = read_time(&mut cluster, "whole", &model);
    println!("read in {packed:?}; the same written in one go: {whole:?}");
    assert!(packed <= 2 * whole + Duration::from_millis(200), "{packed:?} for {whole:?}");
    assert_eq!(cluster.status("lost"), 0);
}

#[test]
fn pieces_from_two_mounts_are_packed_while_they_are_read_and_keeper_and_master_fail() {
    let mut cluster = Cluster::builder().keepers(4).compact_after("1s").start();
    let (mount, other) = (cluster.mount(), cluster.mount());
    let mut rng = Rng::new(61);
    let mut model = vec![0; SIZE as usize];
    open(&mount.path("pieces")).set_len(SIZE).unwrap();
    for turn in 0..20 {
        let file = open(&[&mount, &other][turn % 2].path("pieces"));
        write_pieces(&file, &mut model, &mut rng, 500);
        file.sync_all().unwrap();
    }
    let blocks = fs::metadata(other.path("pieces")).unwrap().blocks();
    let reader = File::open(mount.path("pieces")).unwrap();
    let read_some = |rng: &mut Rng| {
        let at = rng.below(SIZE - 100_000);
        let mut got = vec![0; 100_000];
        reader.read_exact_at(&mut got, at).unwrap();
        assert!(got[..] == model[at as usize..][..100_000], "at {at}");
    };
    wait_until(PATIENCE, "compaction begins", || {
        read_some(&mut rng);
        cluster.status("compactions_under_way") > 0 || cluster.status("compacted_bytes") > 0
    });
    cluster.keeper(0).kill();
    for _ in 0..100 {
        read_some(&mut rng);
    }
    cluster.master.kill();
    cluster.restart_master();
    cluster.wait_live(3);
    cluster.keeper(0).restart();
    cluster.wait_live(4);
    let most = SIZE.div_ceil(CHUNK) as usize + 2;
    wait_until(PATIENCE, "it is packed", || {
        read_some(&mut rng);
        chunks(&cluster, "/pieces") <= most
    });
    drop(reader);
    // By mounts that have nothing in their caches.
    let fresh = cluster.mount();
    assert!(fs::read(fresh.path("pieces")).unwrap() == model, "through a new mount");
    assert_eq!(fs::metadata(fresh.path("pieces")).unwrap().blocks(), blocks, "a hole is a hole");
    // A chunk has an extent for each piece between two holes, so that its rows cannot be counted.
    wait_until(secs(60), "every chunk has its copies", || cluster.status("under_replicated") == 0);
    assert_eq!((cluster.status("lost"), cluster.status("endangered")), (0, 0));
    // What was built in vain, and what came back with the keeper, is gone.
    wait_until(secs(60), "the keepers have nothing but what the look-up table lists", || {
        let rows = cluster.lookup("/pieces");
        let listed: BTreeSet<String> =
            rows.iter().map(|row| row["path"].as_str().unwrap().to_owned()).collect();
        let files = (0..4).flat_map(|index| cluster.chunk_files(index));
        files.map(|file| file.display().to_string()).collect::<BTreeSet<_>>() == listed
    });
}
