//! The master's directory is lost, and comes back from a backup.
//!
//! Covers: `dfs backup` of a running cluster, `dfs-master --dump` of a stopped master, `--restore`; what was written
//! after the backup is gone and nothing else; keepers keep the chunks of what is gone; damaged backups, used
//! directories and running masters are refused; a backup of many files holds nobody up.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dfs_tests::amount::amount;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, Ran, Rng, run};

fn master(cluster: &Cluster, flag: &str, file: &Path, data: &Path) -> Ran {
    let mut command = cluster.scratch.command("dfs-master");
    run(command.arg("--data").arg(data).arg(flag).arg(file), secs(60))
}

fn backup(cluster: &Cluster, name: &str) -> PathBuf {
    let file = cluster.scratch.path(name);
    cluster.dfs(&["backup", file.to_str().unwrap()]).ok();
    file
}

/// A few files in a few directories, from an empty one to one of several chunks.
fn write_tree(mount: &Mount, seed: u64) -> Vec<(String, Vec<u8>)> {
    let mut rng = Rng::new(seed);
    let files: Vec<(String, Vec<u8>)> = [0, 1, 5000, 100_000, 700_000, 2_500_000]
        .into_iter()
        .enumerate()
        .map(|(n, length)| (format!("tree-{seed}/{}/file {n}", n % 3), rng.bytes(length)))
        .collect();
    for (path, bytes) in &files {
        fs::create_dir_all(mount.path(path).parent().unwrap()).unwrap();
        fs::write(mount.path(path), bytes).unwrap();
    }
    files
}

fn all_read(mount: &Mount, files: &[(String, Vec<u8>)]) {
    for (path, bytes) in files {
        assert!(fs::read(mount.path(path)).unwrap() == *bytes, "{path} has other bytes");
    }
}

#[test]
fn a_lost_master_comes_back_from_a_backup_of_a_running_one() {
    let mut cluster = Cluster::builder().chunk_size("1MiB").compact_after("off").start();
    let mount = cluster.mount();
    let files = write_tree(&mount, 1);
    let file = backup(&cluster, "backup");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let later = write_tree(&mount, 2);
    mount.unmount();
    let ids: Vec<u64> = (0..3).map(|n| cluster.keeper_id(n)).collect();
    let chunk = cluster.lookup(&format!("/{}", later[5].0))[0]["path"].as_str().unwrap().to_owned();
    assert!(Path::new(&chunk).exists(), "{chunk}");

    cluster.master.kill();
    let data = cluster.scratch.path("master");
    fs::remove_dir_all(&data).unwrap();
    let said = master(&cluster, "--restore", &file, &data).ok().stdout;
    assert!(said.contains("start dfs-master on it"), "{said}");
    cluster.restart_master();
    cluster.wait_live(3);

    assert_eq!((0..3).map(|n| cluster.keeper_id(n)).collect::<Vec<_>>(), ids, "keepers keep their ids");
    let mount = cluster.mount();
    all_read(&mount, &files);
    assert!(!mount.path("tree-2").exists(), "what came after the backup is gone");
    cluster.wait_copies(&format!("/{}", files[5].0), 3, secs(30));
    assert_eq!(cluster.status("lost"), 0);
    let new = write_tree(&mount, 3);
    all_read(&mount, &new);
    all_read(&mount, &files);
    assert!(Path::new(&chunk).exists(), "chunks that the backup did not know are kept: {chunk}");
}

#[test]
fn a_stopped_master_is_dumped_and_only_whole_dumps_are_restored() {
    let mut cluster = Cluster::builder().keepers(2).copies(2).compact_after("off").start();
    let mount = cluster.mount();
    let files = write_tree(&mount, 4);
    mount.unmount();
    let (data, file) = (cluster.scratch.path("master"), cluster.scratch.path("dump"));
    master(&cluster, "--dump", &file, &data).one_line_error("dfs-master", &["in use by another process"]);
    cluster.master.kill();
    master(&cluster, "--dump", &file, &data).ok();
    master(&cluster, "--restore", &file, &data).one_line_error("dfs-master", &["is not empty"]);

    let moved = cluster.scratch.path("lost");
    fs::rename(&data, &moved).unwrap();
    let whole = fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 3] ^= 1;
    for wrong in [&whole[..whole.len() - 20], &whole[..whole.len() / 2], &flipped] {
        fs::write(&file, wrong).unwrap();
        master(&cluster, "--restore", &file, &data).one_line_error("dfs-master", &["it is damaged"]);
        assert!(!data.join("master.redb").exists());
    }
    fs::write(&file, b"no dump at all, but long enough").unwrap();
    master(&cluster, "--restore", &file, &data).one_line_error("dfs-master", &["it is no dump"]);
    fs::write(&file, whole).unwrap();
    master(&cluster, "--restore", &file, &data).ok();
    cluster.restart_master();
    cluster.wait_live(2);
    all_read(&cluster.mount(), &files);
}

/// Prints how long the longest change took without and with backups. `DFS_TEST_BACKUP_FILES=50000` for the figure in
/// docs/OPERATIONS.md.
#[test]
fn a_backup_holds_nobody_up() {
    let count = amount("DFS_TEST_BACKUP_FILES", 1000) as usize;
    let mut cluster = Cluster::builder().keepers(1).copies(1).min_copies(1).start();
    let mount = cluster.mount();
    for n in 0..count {
        let dir = mount.path(format!("{}", n / 1000));
        if n % 1000 == 0 {
            fs::create_dir(&dir).unwrap();
        }
        fs::File::create(dir.join(format!("{n}"))).unwrap();
    }
    let (ended, longest_us) = (AtomicBool::new(false), AtomicU64::new(0));
    // A mount cannot be shared between threads; its directory can.
    let dir = mount.dir().to_owned();
    let work = || {
        let mut n = 0;
        while !ended.load(Ordering::Relaxed) {
            let begun = Instant::now();
            fs::File::create(dir.join(format!("new-{n}"))).unwrap();
            fs::remove_file(dir.join(format!("new-{n}"))).unwrap();
            longest_us.fetch_max(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
            n += 1;
        }
    };
    let (without, with, took) = std::thread::scope(|scope| {
        scope.spawn(work);
        std::thread::sleep(secs(2));
        let without = longest_us.swap(0, Ordering::Relaxed);
        let begun = Instant::now();
        let file = backup(&cluster, "backup");
        let took = begun.elapsed();
        let with = longest_us.load(Ordering::Relaxed);
        ended.store(true, Ordering::Relaxed);
        assert!(fs::metadata(file).unwrap().len() > count as u64 * 50);
        (without, with, took)
    });
    println!(
        "{count} files: a backup took {took:?}; longest change {without} us before, {with} us meanwhile"
    );
    assert!(Duration::from_micros(with) < secs(2), "a change took {with} us during the backup");
}
