//! Clocks that are an hour apart make no difference.
//!
//! Covers: keepers and mounts an hour ahead of the master and behind it: uploads, reads, tickets, locks, appends, times of
//! files, repair.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::time::{SystemTime, UNIX_EPOCH};

use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Rng, run_ok, wait_until};
use rustix::fs::{FlockOperation, flock};

use crate::HOUR_S;

/// When a log's last line was written, as its process believed.
fn last_line_s(log: &str) -> i64 {
    let line = log.lines().rfind(|line| line.starts_with("20")).unwrap_or_else(|| panic!("no line: {log}"));
    let time = line.split_whitespace().next().unwrap();
    run_ok(&["date", "-d", time, "+%s"]).stdout.trim().parse().unwrap()
}

fn now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

#[test]
fn clocks_an_hour_apart_make_no_difference() {
    let apart =
        Cluster::builder().keepers(4).chunk_size("1MiB").clock("keeper-0", HOUR_S).clock("keeper-1", -HOUR_S);
    let mut cluster = apart.clock("mount-0", HOUR_S).clock("mount-1", -HOUR_S).start();
    let (ahead, behind) = (cluster.mount(), cluster.mount());
    let bytes = Rng::new(7).bytes(6 << 20);
    fs::write(ahead.path("one"), &bytes).unwrap();
    fs::write(behind.path("two"), &bytes).unwrap();
    assert!(fs::read(behind.path("one")).unwrap() == bytes && fs::read(ahead.path("two")).unwrap() == bytes);
    for file in [ahead.path("one"), behind.path("two")] {
        let there = fs::metadata(&file).unwrap();
        let off = [there.mtime() - now_s(), there.ctime() - now_s(), there.atime() - now_s()];
        assert!(off.iter().all(|off| off.abs() < 60), "times of {}: {off:?}", file.display());
    }
    cluster.wait_copies("/one", 3, secs(15));
    cluster.wait_copies("/two", 3, secs(15));

    // Locks and append leases go from mount to mount.
    let open = |path| File::options().append(true).create(true).open(path).unwrap();
    let (mut a, mut b) = (open(ahead.path("log")), open(behind.path("log")));
    for n in 0..6 {
        flock(&a, FlockOperation::LockExclusive).unwrap();
        assert!(flock(&b, FlockOperation::NonBlockingLockExclusive).is_err(), "two hold the lock");
        writeln!(a, "a {n}").unwrap();
        flock(&a, FlockOperation::Unlock).unwrap();
        flock(&b, FlockOperation::LockExclusive).unwrap();
        writeln!(b, "b {n}").unwrap();
        flock(&b, FlockOperation::Unlock).unwrap();
    }
    let lines: String = (0..6).map(|n| format!("a {n}\nb {n}\n")).collect();
    assert_eq!(fs::read_to_string(ahead.path("log")).unwrap(), lines);

    // A keeper that is right dies: those that are wrong make up for it.
    cluster.keeper(3).kill();
    cluster.wait_live(3);
    cluster.wait_copies("/one", 3, secs(30));
    cluster.keeper(3).restart();
    cluster.wait_live(4);
    // And the master starts again.
    cluster.master.kill();
    cluster.restart_master();
    wait_until(secs(20), "everything goes on", || fs::write(ahead.path("three"), &bytes).is_ok());
    assert!(fs::read(behind.path("three")).unwrap() == bytes);
    cluster.wait_live(4);
    cluster.dfs(&["scrub"]).ok();

    // They were.
    for (process, by) in [(&ahead.process, HOUR_S), (&behind.process, -HOUR_S)] {
        let off = last_line_s(&process.log()) - now_s();
        assert!((off - by).abs() < 60, "its clock is {off} s ahead");
    }
    let off = last_line_s(&cluster.keeper(0).log()) - now_s();
    assert!((off - HOUR_S).abs() < 60, "the keeper's clock is {off} s ahead");
}
