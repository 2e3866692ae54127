//! `dfs fsck`: what differs between the look-up table and the keepers' disks is found, named, and mended.

use std::fs::{self, File};

use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Ran, Rng, wait_until};
use serde_json::Value;

fn fsck(cluster: &Cluster, args: &[&str]) -> (Option<i32>, Value) {
    let ran: Ran = cluster.dfs(&[&["fsck", "--json"], args].concat());
    let report = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("not JSON: {e}: {ran:#?}"));
    (ran.status.code(), report)
}

#[test]
fn what_differs_is_found_named_and_mended() {
    let mut cluster = Cluster::builder().chunk_size("256KiB").start();
    let mount = cluster.mount();
    let content = Rng::seeded(3).bytes(1_000_000);
    for name in ["one", "two", "three"] {
        fs::write(mount.path(name), &content).unwrap();
    }
    wait_until(secs(30), "three copies of everything", || {
        cluster.status("chunks") > 0 && cluster.status("under_replicated") == 0
    });
    let (code, report) = fsck(&cluster, &[]);
    assert_eq!((code, &report["clean"]), (Some(0), &Value::Bool(true)), "{report:#}");
    assert_eq!((&report["keepers_checked"], &report["lost"]), (&3.into(), &0.into()));

    // A chunk that no file needs any more comes back, a file goes, another is cut short.
    let chunk = cluster.lookup("/one")[0]["chunk"].as_str().unwrap().to_owned();
    let orphan = cluster.chunk_files(0).into_iter().find(|p| p.ends_with(format!("{chunk}.chunk"))).unwrap();
    let kept = fs::read(&orphan).unwrap();
    fs::remove_file(mount.path("one")).unwrap();
    wait_until(secs(60), "its chunks are collected", || {
        !orphan.exists() && (0..3).all(|n| cluster.chunk_files(n).len() as u64 == cluster.status("chunks"))
    });
    fs::write(&orphan, &kept).unwrap();
    let files = cluster.chunk_files(1);
    let right = [fs::read(&files[0]).unwrap(), fs::read(&files[1]).unwrap()];
    fs::remove_file(&files[0]).unwrap();
    File::options().write(true).open(&files[1]).unwrap().set_len(5000).unwrap();

    let (code, report) = fsck(&cluster, &[]);
    assert_eq!(code, Some(4), "{report:#}");
    assert_eq!(
        (&report["orphans"], &report["missing"], &report["wrong"]),
        (&1.into(), &1.into(), &1.into()),
        "{report:#}"
    );
    let named = report["findings"].as_array().unwrap();
    assert!(named.iter().any(|f| f["kind"] == "orphan" && f["chunk"] == *chunk), "{report:#}");
    assert!(orphan.exists(), "without --repair nothing is deleted");

    let (code, report) = fsck(&cluster, &["--repair"]);
    assert_eq!((code, &report["orphans"]), (Some(3), &1.into()), "{report:#}");
    assert_eq!(report["under_replicated"], 0);
    wait_until(secs(20), "the orphan is gone", || !orphan.exists());
    wait_until(secs(20), "both copies are right again", || {
        (0..2).all(|n| fs::read(&files[n]).is_ok_and(|now| now == right[n]))
    });
    assert_eq!(fsck(&cluster, &["--repair"]).0, Some(0));
    assert!(fs::read(mount.path("two")).unwrap() == content);

    // Every copy of a chunk: that cannot be mended, and the file is named.
    let chunk = cluster.lookup("/three")[0]["chunk"].as_str().unwrap().to_owned();
    for keeper in 0..3 {
        let files = cluster.chunk_files(keeper);
        fs::remove_file(files.iter().find(|p| p.ends_with(format!("{chunk}.chunk"))).unwrap()).unwrap();
    }
    let (code, report) = fsck(&cluster, &["--repair", "--timeout", "20s"]);
    assert_eq!((code, &report["lost"], &report["lost_files"][0]), (Some(4), &1.into(), &"/three".into()));
    // And a keeper that is not there is said to be unchecked.
    let id = cluster.keeper_id(2);
    cluster.keeper(2).kill();
    cluster.wait_live(2);
    let (code, report) = fsck(&cluster, &[]);
    assert_eq!((code, &report["keepers_unchecked"][0]), (Some(4), &id.into()), "{report:#}");
}
