//! Chunks that no file needs are gone from the keepers' disks within a minute, and never one that a file needs.
//!
//! Covers: deleted and overwritten data, at a keeper that was away, too; uploads whose client was killed; what a killed
//! keeper was receiving; compaction while keepers are killed; a file that is open has its chunks though it has no name,
//! and one with a name left has them, too.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use dfs_tests::cluster::files_below;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Rng, wait_until};

const KEEPERS: usize = 3;

fn chunks_of(cluster: &Cluster, path: &str) -> BTreeSet<String> {
    let rows = cluster.lookup(path);
    rows.iter().map(|row| row["chunk"].as_str().unwrap().to_owned()).collect()
}

fn on_disk(cluster: &Cluster) -> BTreeSet<String> {
    let name = |path: &Path| path.file_stem().unwrap().to_string_lossy().into_owned();
    (0..KEEPERS).flat_map(|keeper| cluster.chunk_files(keeper)).map(|path| name(&path)).collect()
}

/// Waits until the keepers' disks have the chunks of the table and those that are `held`, and no others.
#[track_caller]
fn wait_only_needed(cluster: &Cluster, held: &BTreeSet<String>) {
    wait_until(secs(60), "the disks have what files need, and nothing else", || {
        let needed: BTreeSet<String> = chunks_of(cluster, "/").union(held).cloned().collect();
        let there = on_disk(cluster);
        assert!(needed.is_subset(&there), "a chunk that is needed is gone: {needed:?}, {there:?}");
        needed == there
    });
}

#[test]
fn chunks_that_nobody_needs_are_gone_within_a_minute_and_no_other() {
    let mut cluster = Cluster::builder().chunk_size("256KiB").compact_after("off").start();
    let mount = cluster.mount();
    let mut rng = Rng::seeded(5);
    let content = rng.bytes(700_000);
    for name in ["deleted", "overwritten", "replaced", "held", "linked", "kept"] {
        fs::write(mount.path(name), &content).unwrap();
    }
    fs::write(mount.path("newer"), &content).unwrap();
    wait_until(secs(30), "three copies of everything", || {
        cluster.status("chunks") > 0 && cluster.status("under_replicated") == 0
    });
    let mut held_file = File::open(mount.path("held")).unwrap();
    let held = chunks_of(&cluster, "/held");
    fs::hard_link(mount.path("linked"), mount.path("other-name")).unwrap();
    let all = on_disk(&cluster);

    cluster.keeper(2).kill();
    cluster.wait_live(2);
    fs::remove_file(mount.path("deleted")).unwrap();
    fs::remove_file(mount.path("held")).unwrap();
    fs::remove_file(mount.path("linked")).unwrap();
    fs::write(mount.path("overwritten"), b"short now").unwrap();
    fs::rename(mount.path("newer"), mount.path("replaced")).unwrap();
    let part = File::options().write(true).open(mount.path("kept")).unwrap();
    part.write_all_at(&vec![7; 300_000], 0).unwrap();
    part.sync_all().unwrap();
    cluster.keeper(2).restart();
    cluster.wait_live(3);
    wait_only_needed(&cluster, &held);
    assert!(on_disk(&cluster).len() < all.len());

    let mut got = Vec::new();
    held_file.rewind().unwrap();
    held_file.read_to_end(&mut got).unwrap();
    assert!(got == content, "the file that is held open has lost bytes");
    assert!(fs::read(mount.path("other-name")).unwrap() == content);
    drop(held_file);
    wait_only_needed(&cluster, &BTreeSet::new());
}

#[test]
fn uploads_that_nobody_finished_and_killed_compactions_leave_nothing() {
    let mut cluster = Cluster::builder().chunk_size("1MiB").compact_after("1s").start();
    let mut doomed = cluster.mount();
    let mount = cluster.mount();
    let mut rng = Rng::seeded(6);
    // A file of many pieces, for compaction.
    let scattered = File::create(mount.path("scattered")).unwrap();
    let mut expected = vec![0; 2 << 20];
    for _ in 0..40 {
        let at = rng.below(expected.len() as u64 - 4096) as usize;
        let piece = rng.bytes(4096);
        expected[at..at + 4096].copy_from_slice(&piece);
        scattered.write_all_at(&piece, at as u64).unwrap();
        scattered.sync_data().unwrap();
    }
    scattered.set_len(expected.len() as u64).unwrap();
    drop(scattered);

    // Bytes are on their way all the time, at a mount and at a keeper that are killed.
    let path = doomed.path("endless");
    let writer = std::thread::spawn(move || {
        let mut file = File::create(path).unwrap();
        let piece = Rng::new(9).bytes(1 << 20);
        for _ in 0..4096 {
            if file.write_all(&piece).is_err() {
                return;
            }
        }
    });
    let endless = mount.path("endless");
    let is_on_its_way = || fs::metadata(&endless).is_ok_and(|file| file.len() > 4 << 20);
    wait_until(secs(20), "the endless file is on its way", is_on_its_way);
    cluster.keeper(1).kill();
    doomed.kill();
    writer.join().unwrap();
    cluster.keeper(1).restart();
    cluster.wait_live(3);
    wait_only_needed(&cluster, &BTreeSet::new());
    for keeper in 0..KEEPERS {
        let temp = cluster.keeper_data(keeper).join("tmp");
        // What is on its way may still be there for a moment.
        wait_until(secs(20), "nothing is left half received", || files_below(&temp, "").is_empty());
    }
    assert!(fs::read(mount.path("scattered")).unwrap() == expected);
}
