//! The trash: what was removed comes back to the byte, also after restarts, and goes for good when its time is over.

use std::fs::{self, File};
use std::io::Read;

use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Rng, wait_until};
use serde_json::Value;

fn ls(cluster: &Cluster, path: &str) -> Vec<Value> {
    cluster.json(&["trash", "ls", path]).as_array().unwrap().clone()
}

fn entry(cluster: &Cluster, path: &str) -> String {
    let all = ls(cluster, path);
    let found = all.iter().find(|row| row["path"] == path).unwrap_or_else(|| panic!("no {path} in {all:?}"));
    found["entry"].to_string()
}

#[test]
fn what_was_removed_is_restored_to_the_byte_also_after_restarts() {
    let mut cluster = Cluster::builder().master_flags(&["--trash", "1h"]).start();
    let mount = cluster.mount();
    let mut rng = Rng::seeded(2);
    let (one, two) = (rng.bytes(3_000_000), rng.bytes(100_000));
    fs::create_dir_all(mount.path("tree/deep")).unwrap();
    fs::write(mount.path("tree/deep/one"), &one).unwrap();
    fs::write(mount.path("tree/two"), &two).unwrap();
    fs::write(mount.path("over"), &two).unwrap();
    fs::write(mount.path("newer"), b"newer").unwrap();
    let names = cluster.status("files");

    fs::rename(mount.path("newer"), mount.path("over")).unwrap();
    fs::hard_link(mount.path("tree/two"), mount.path("second-name")).unwrap();
    fs::remove_dir_all(mount.path("tree")).unwrap();
    let gone: Vec<Value> = ls(&cluster, "/").iter().map(|row| row["path"].clone()).collect();
    assert_eq!(gone, ["/over", "/tree/deep/one"], "a name of /tree/two is left");
    assert_eq!((cluster.status("files"), cluster.status("trash_files")), (names - 2, 2));
    assert!(cluster.status("trash_bytes") >= 3_000_000);
    assert_eq!(ls(&cluster, "/tree").len(), 1);

    cluster.master.kill();
    cluster.restart_master();
    cluster.wait_live(3);
    let deep = entry(&cluster, "/tree/deep/one");
    cluster.dfs(&["trash", "restore", &deep]).one_line_error("dfs", &["there is no 'tree'"]);
    cluster.dfs(&["trash", "restore", &deep, "--to", "/over"]).one_line_error("dfs", &["already"]);
    cluster.dfs(&["trash", "restore", &deep, "--to", "/back"]).ok();
    wait_until(secs(10), "the mount sees it", || mount.path("back").exists());
    assert!(fs::read(mount.path("back")).unwrap() == one);
    let over = entry(&cluster, "/over");
    fs::remove_file(mount.path("over")).unwrap();
    cluster.dfs(&["trash", "restore", &over]).ok();
    wait_until(secs(10), "the mount sees it", || mount.path("over").exists());
    assert!(fs::read(mount.path("over")).unwrap() == two);

    // What is left: the newer /over.
    assert_eq!(ls(&cluster, "/").len(), 1);
    cluster.dfs(&["trash", "purge", "--all"]).ok();
    wait_until(secs(10), "the trash is empty", || cluster.status("trash_files") == 0);
    cluster.dfs(&["trash", "purge", "12345"]).one_line_error("dfs", &["trash"]);
}

#[test]
fn the_trash_empties_itself_and_the_disks_with_it() {
    let mut cluster = Cluster::builder().chunk_size("256KiB").master_flags(&["--trash", "4s"]).start();
    let mount = cluster.mount();
    let bytes = Rng::seeded(4).bytes(700_000);
    for name in ["short", "open"] {
        fs::write(mount.path(name), &bytes).unwrap();
    }
    let mut open = File::open(mount.path("open")).unwrap();
    fs::remove_file(mount.path("short")).unwrap();
    fs::remove_file(mount.path("open")).unwrap();
    assert_eq!(cluster.status("trash_files"), 2);
    let chunks = cluster.status("chunks");
    wait_until(secs(30), "the trash is empty", || cluster.status("trash_files") == 0);
    wait_until(secs(30), "one file's chunks are gone", || cluster.status("chunks") == chunks / 2);
    let mut got = Vec::new();
    open.read_to_end(&mut got).unwrap();
    assert!(got == bytes, "what is open outlives the trash");
    drop(open);
    wait_until(secs(60), "the disks are empty", || {
        (0..3).all(|keeper| cluster.chunk_files(keeper).is_empty())
    });
}
