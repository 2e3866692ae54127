//! A keeper's disk is full: writers are told, and nothing that was there is harmed.
//!
//! Covers: a full disk makes the keeper refuse writes and keep serving; the writer gets ENOSPC; `dfs put` names the cause and
//! the remedy; room that was made is used again. The disk is a small one in memory, so that no other test runs out of it.

use std::fs;
use std::io::ErrorKind;

use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Rng, require_root, run_ok, wait_until};

/// 64 MiB are a keeper's reserve and 16 MiB the master's; the rest is for chunks.
const DISK: &str = "size=100m";

#[test]
fn a_full_keeper_refuses_writes_serves_what_it_has_and_takes_more_when_there_is_room() {
    require_root();
    let mut cluster = Cluster::builder().keepers(0).chunk_size("1MiB").copies(1).min_copies(1).start();
    let data = cluster.keeper_data(0);
    fs::create_dir(&data).unwrap();
    let disk = data.to_str().unwrap();
    run_ok(&["mount", "-t", "tmpfs", "-o", DISK, "none", disk]);
    cluster.add_keeper();
    let mount = cluster.mount();
    let bytes = Rng::new(8).bytes(8 << 20);
    fs::write(mount.path("first"), &bytes).unwrap();
    let error = fs::write(mount.path("second"), bytes.repeat(8)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    assert!(fs::read(mount.path("first")).unwrap() == bytes, "what was there before");
    assert_eq!(cluster.live(), 1, "a full keeper is not a dead one");
    let big = cluster.scratch.path("big");
    fs::write(&big, bytes.repeat(8)).unwrap();
    let ran = cluster.dfs(&["put", big.to_str().unwrap(), "/third"]);
    assert_eq!(ran.status.code(), Some(1), "{ran:#?}");
    assert!(ran.stderr.contains("/third") && ran.stderr.contains("add a keeper"), "{ran:#?}");
    assert!(!mount.path("third").exists(), "a put that failed left a file");

    fs::remove_file(mount.path("second")).unwrap();
    wait_until(secs(60), "there is room again", || fs::write(mount.path("fourth"), &bytes).is_ok());
    assert!(fs::read(mount.path("fourth")).unwrap() == bytes);
    mount.unmount();
    let mount = cluster.mount();
    assert!(
        fs::read(mount.path("first")).unwrap() == bytes && fs::read(mount.path("fourth")).unwrap() == bytes
    );
}
