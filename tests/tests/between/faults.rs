//! What others see when a mount or the master does not answer, and many changes at once.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dfs_tests::wait::secs;
use dfs_tests::{Rng, wait_until};

use crate::two;

fn chmod(path: PathBuf, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: PathBuf) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

// SEMANTICS.md: "A mount that does not answer delays a change of what it has cached by about 4 s, once".
#[test]
fn a_stopped_mount_holds_up_others_for_seconds_at_most_and_then_shows_the_truth() {
    let (_cluster, a, b) = two();
    fs::write(a.path("f"), "old").unwrap();
    assert_eq!(fs::read_to_string(b.path("f")).unwrap(), "old");
    assert!(!b.path("g").exists());
    b.process.stop();
    let begun = Instant::now();
    chmod(a.path("f"), 0o600);
    let took = begun.elapsed();
    println!("the first change took {took:?}");
    assert!(took < secs(8), "{took:?}");
    let begun = Instant::now();
    fs::write(a.path("f"), "new, and longer").unwrap();
    fs::write(a.path("g"), "").unwrap();
    assert!(begun.elapsed() < secs(4), "once is enough, but {:?}", begun.elapsed());
    b.process.cont();
    wait_until(secs(10), "the mount knows that it missed something", || mode(b.path("f")) == 0o600);
    wait_until(secs(10), "names, too", || b.path("g").exists());
    assert_eq!(fs::read_to_string(b.path("f")).unwrap(), "new, and longer");
}

// SEMANTICS.md: "A mount whose session broke trusts nothing that it cached".
#[test]
fn after_the_master_was_killed_nothing_is_stale() {
    let (mut cluster, a, b) = two();
    fs::create_dir(a.path("d")).unwrap();
    fs::write(a.path("d/f"), "old").unwrap();
    let open = File::open(b.path("d/f")).unwrap();
    for round in 0..2 {
        let missing = format!("d/new{round}");
        assert_eq!(fs::read_dir(b.path("d")).unwrap().count(), 1 + round);
        assert!(!b.path(&missing).exists());
        cluster.master.kill();
        cluster.restart_master();
        let text = format!("round {round}, {}", "y".repeat(round * 5));
        fs::write(a.path("d/f"), &text).unwrap();
        fs::write(a.path(&missing), "").unwrap();
        chmod(a.path("d/f"), 0o640 + round as u32);
        // The bytes of an open file too, as soon as the session is back: the open of the first line waits for it.
        assert_eq!(fs::read_to_string(b.path("d/f")).unwrap(), text);
        assert!(b.path(&missing).exists());
        assert_eq!(mode(b.path("d/f")), 0o640 + round as u32);
        assert_eq!(fs::read_dir(b.path("d")).unwrap().count(), 2 + round);
        assert_eq!(open.metadata().unwrap().len(), text.len() as u64);
    }
}

/// One thread's changes of names in one directory; returns how many, and the longest.
fn change(directory: &Path, until: Instant, seed: u64) -> (u32, Duration) {
    let mut rng = Rng::new(seed);
    let (mut count, mut longest) = (0, Duration::ZERO);
    while Instant::now() < until {
        let (one, two) =
            (directory.join(format!("n{}", rng.below(8))), directory.join(format!("n{}", rng.below(8))));
        let begun = Instant::now();
        // Whatever comes of it: others change the same names.
        let _ = match rng.below(5) {
            0 | 1 => File::create(&one).map(|_| ()),
            2 => fs::remove_file(&one),
            3 => fs::rename(&one, &two),
            _ => fs::hard_link(&one, &two),
        };
        longest = longest.max(begun.elapsed());
        count += 1;
    }
    (count, longest)
}

// SEMANTICS.md: "Two mounts that change one directory at the same time do not wait for each other".
#[test]
fn two_mounts_that_change_one_directory_at_once_do_not_block_each_other() {
    let (_cluster, a, b) = two();
    fs::create_dir(a.path("d")).unwrap();
    let until = Instant::now() + secs(3);
    let (mut count, mut longest) = (0, Duration::ZERO);
    std::thread::scope(|threads| {
        let dirs = [a.path("d"), b.path("d"), a.path("d"), b.path("d"), a.path("d"), b.path("d")];
        let all: Vec<_> = dirs
            .into_iter()
            .enumerate()
            .map(|(n, dir)| threads.spawn(move || change(&dir, until, n as u64)))
            .collect();
        for one in all {
            let (done, slowest) = one.join().unwrap();
            count += done;
            longest = longest.max(slowest);
        }
    });
    println!("{count} changes in 3 s, the longest took {longest:?}");
    assert!(longest < secs(2), "{longest:?}");
    assert!(count > 60, "{count} changes in 3 s");
    // And then both see the same.
    let names = |dir: PathBuf| {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(a.path("d")), names(b.path("d")));
    for name in names(a.path("d")) {
        let seen =
            |dir: PathBuf| fs::metadata(dir.join(&name)).map(|meta| (meta.ino(), meta.nlink())).unwrap();
        assert_eq!(seen(a.path("d")), seen(b.path("d")), "{name:?}");
    }
}
