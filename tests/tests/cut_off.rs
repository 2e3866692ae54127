//! A mount whose network is cut without a word: no connection is reset, nobody is told.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Instant;

use dfs_tests::wait::secs;
use dfs_tests::{Cluster, wait_until};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

fn chmod(path: PathBuf, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

// SEMANTICS.md: "A mount that does not answer delays a change of what it has cached by about 4 s, once", and "A mount
// whose session broke trusts nothing that it cached".
#[test]
fn a_mount_that_is_cut_off_holds_others_up_once_trusts_nothing_and_goes_on_when_it_is_back() {
    let mut cluster = Cluster::builder().keepers(2).network().start();
    let (a, b) = (cluster.mount(), cluster.mount());
    fs::write(a.path("f"), "old").unwrap();
    assert_eq!(fs::read_to_string(b.path("f")).unwrap(), "old");
    assert_eq!(mode(&b.path("f")), 0o644);
    assert!(!b.path("g").exists());
    let mut open = File::open(b.path("f")).unwrap();

    cluster.network().isolate("mount-1");
    let begun = Instant::now();
    chmod(a.path("f"), 0o600);
    let first = begun.elapsed();
    let begun = Instant::now();
    fs::write(a.path("f"), "new, and longer").unwrap();
    fs::write(a.path("g"), "").unwrap();
    let later = begun.elapsed();
    println!("the first change was held up for {first:?}, those after it took {later:?}");
    assert!(first < secs(6), "held up for {first:?}");
    assert!(later < secs(3), "once is enough, but {later:?}");

    // What the cut-off mount has cached it does not show any more: it waits.
    let (asked, answers) = (b.path("f"), mpsc::channel());
    let asking = std::thread::spawn({
        let to = answers.0.clone();
        move || to.send((mode(&asked), Instant::now())).unwrap()
    });
    assert!(answers.1.recv_timeout(secs(1)).is_err(), "answered although it could not know");
    let healed = Instant::now();
    cluster.network().heal_all();
    let (seen, at) = answers.1.recv_timeout(secs(20)).unwrap();
    asking.join().unwrap();
    assert_eq!(seen, 0o600, "stale");
    println!("back {:?} after the network", at.duration_since(healed));
    assert!(b.path("g").exists());
    assert_eq!(fs::read_to_string(b.path("f")).unwrap(), "new, and longer");
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "new, and longer");
    fs::write(b.path("h"), "written").unwrap();
    wait_until(secs(5), "and the other sees it", || a.path("h").exists());
    assert_eq!(fs::read_to_string(a.path("h")).unwrap(), "written");
    drop(open);
    b.unmount();
    a.unmount();
}

// SEMANTICS.md: "A master that starts takes no change until every mount that may still trust what it has cached is back, or
// trusts nothing any more".
#[test]
fn a_restarted_master_waits_for_a_mount_that_is_cut_off_until_that_trusts_nothing() {
    let mut cluster = Cluster::builder().keepers(2).network().start();
    let (a, b) = (cluster.mount(), cluster.mount());
    fs::write(a.path("f"), "old").unwrap();
    assert_eq!(mode(&b.path("f")), 0o644);

    cluster.network().isolate("mount-1");
    cluster.master.kill();
    cluster.restart_master();
    let begun = Instant::now();
    chmod(a.path("f"), 0o600);
    println!("the change was held up for {:?}", begun.elapsed());
    assert!(begun.elapsed() < secs(8), "held up for {:?}", begun.elapsed());
    let (to, seen) = mpsc::channel();
    let asked = b.path("f");
    let asking = std::thread::spawn(move || to.send(mode(&asked)).unwrap());
    let early = seen.recv_timeout(secs(1));
    assert!(early.is_err(), "answered {early:?} although it could not know");
    cluster.network().heal_all();
    assert_eq!(seen.recv_timeout(secs(20)).unwrap(), 0o600, "stale");
    asking.join().unwrap();

    // Where all come back, nobody is waited for.
    cluster.master.kill();
    cluster.restart_master();
    let begun = Instant::now();
    chmod(a.path("f"), 0o640);
    println!("with both there it took {:?}", begun.elapsed());
    assert!(begun.elapsed() < secs(3), "held up for {:?}", begun.elapsed());
    assert_eq!(mode(&b.path("f")), 0o640);
    b.unmount();
    a.unmount();
}
