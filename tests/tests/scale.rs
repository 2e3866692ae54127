//! Many of everything, on a mount.
//!
//! Covers: ls of 100,000 entries in one directory takes under 3 s, also in a mount that has just begun; ls -l; 1,000
//! directories one in the other, by hand and by find and rm -r, though no path reaches so far; 10,000 open files, each
//! readable; a listing while entries come and go, on this mount and another, has every entry that stays exactly once; rm -r of
//! it all. The short form has fewer: DFS_TEST_ENTRIES=100000, DFS_TEST_OPEN=10000 and DFS_TEST_ROUNDS=200 are numbers for
//! the long forms. Limits of time grow with the numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dfs_tests::amount::{amount, in_parallel};
use dfs_tests::run::sh;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, Rng, run};
use rustix::fs::{CWD, FileType, Mode, OFlags, RawDir};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Threads that make entries.
const MAKERS: u64 = 16;

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let result = work();
    println!("{what}: {:?}", begun.elapsed());
    (result, begun.elapsed())
}

/// Runs a shell script in a directory; its output.
fn shell(dir: &Path, script: &str, limit: Duration) -> String {
    let mut command = std::process::Command::new("sh");
    command.args(["-euc", script]).current_dir(dir).env("LC_ALL", "C");
    run(&mut command, limit).ok().stdout.trim().to_owned()
}

#[test]
fn a_directory_of_100000_entries_is_listed_in_3_seconds() {
    let entries = amount("DFS_TEST_ENTRIES", 10_000);
    // 3 s for 100,000; and a moment for the machine.
    let limit = Duration::from_micros(30 * entries) + secs(1);
    let patience = secs(60) + Duration::from_millis(5 * entries);
    let mut cluster = Cluster::builder().keepers(1).copies(1).min_copies(1).start();
    // The kernel makes one entry of a directory after the other, and each waits for the master's disk: so several mounts.
    let mounts: Vec<Mount> = (0..MAKERS / 4).map(|_| cluster.mount()).collect();
    let dirs: Vec<PathBuf> = mounts.iter().map(|mount| mount.path("many")).collect();
    fs::create_dir(&dirs[0]).unwrap();
    let path = |i: u64| dirs[i as usize % dirs.len()].join(format!("entry-{i}"));
    timed(&format!("making {entries} entries"), || {
        in_parallel(MAKERS, entries, |i| {
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            drop(rustix::fs::open(path(i), flags, Mode::RUSR).unwrap());
        });
    });
    let fresh = cluster.mount();
    for (whose, mount) in [("a mount that made some of them", &mounts[0]), ("another mount", &fresh)] {
        let dir = mount.path("many");
        let (listed, took) = timed(&format!("ls by {whose}"), || shell(&dir, "ls | wc -l", patience));
        assert_eq!(listed, entries.to_string());
        assert!(took < limit, "ls of {entries} entries took {took:?} by {whose}, over {limit:?}");
    }
    // Not the kernel's own copy of what it was just told.
    let sized = format!("{} 0", entries + 1);
    let count = "ls -l | awk '{ n++; size += $5 } END { print n, size }'";
    let (listed, _) = timed("ls -l", || shell(&fresh.path("many"), count, patience));
    assert_eq!(listed, sized, "the entries and a line of the total");
    timed("removing most", || in_parallel(MAKERS, entries - 1000, |i| fs::remove_file(path(i)).unwrap()));
    timed("rm -r of 1000", || shell(fresh.dir(), "rm -r many", patience));
    assert_eq!(fs::read_dir(mounts[0].dir()).unwrap().count(), 0);
    assert_eq!(cluster.status("files"), 0);
}

#[test]
fn a_thousand_directories_one_in_the_other() {
    const DEPTH: usize = 1000;
    let mut cluster = Cluster::builder().keepers(1).copies(1).min_copies(1).start();
    let mount = cluster.mount();
    let other = cluster.mount();
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let down = |from: &Path, make: bool| {
        let mut at = rustix::fs::openat(CWD, from, flags, Mode::empty()).unwrap();
        for depth in 0..DEPTH {
            let name = format!("directory-{depth}");
            if make {
                rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            }
            at = rustix::fs::openat(&at, &name, flags, Mode::empty()).unwrap();
        }
        at
    };
    timed("down, making", || down(mount.dir(), true));
    // Down and up again on another mount, by "..".
    let (mut at, _) = timed("down", || down(other.dir(), false));
    for _ in 0..DEPTH {
        at = rustix::fs::openat(&at, "..", flags, Mode::empty()).unwrap();
    }
    let root = fs::metadata(other.dir()).unwrap();
    let reached = rustix::fs::fstat(&at).unwrap();
    assert_eq!(
        (reached.st_ino, FileType::from_raw_mode(reached.st_mode)),
        (std::os::unix::fs::MetadataExt::ino(&root), FileType::Directory)
    );
    for mount in [&mount, &other] {
        let (found, _) = timed("find", || shell(mount.dir(), "find . -mindepth 1 -type d | wc -l", secs(60)));
        assert_eq!(found, DEPTH.to_string());
    }
    timed("rm -r", || shell(other.dir(), "rm -r directory-0", secs(60)));
    assert_eq!(fs::read_dir(mount.dir()).unwrap().count(), 0);
    assert_eq!(cluster.status("directories"), 1);
}

#[test]
fn thousands_of_open_files_are_all_readable() {
    let count = amount("DFS_TEST_OPEN", 2_000);
    let needed = count + 200;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < needed) {
        let maximum = limit.maximum.map(|maximum| maximum.max(needed));
        setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum }).unwrap();
    }
    let mut cluster = Cluster::builder().keepers(1).copies(1).min_copies(1).start();
    let mount = cluster.mount();
    let dir = mount.dir();
    // One in ten is written; the others are each another part of one file, which takes less time.
    let content = |i: u64| format!("the content of file {i:06}");
    let all: String = (0..count).map(content).collect();
    fs::write(dir.join("all"), &all).unwrap();
    let all = File::open(dir.join("all")).unwrap();
    let length = content(0).len();
    let open = |i: u64| {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
        let mut file =
            File::from(rustix::fs::open(dir.join(format!("file-{i}")), flags, Mode::RWXU).unwrap());
        if i.is_multiple_of(10) {
            file.write_all(content(i).as_bytes()).unwrap();
        } else {
            let mut from = i * length as u64;
            let copied = rustix::fs::copy_file_range(&all, Some(&mut from), &file, None, length).unwrap();
            assert_eq!(copied, length);
        }
        file
    };
    let (files, _) = timed(&format!("opening {count} files"), || {
        let made = Mutex::new(BTreeMap::new());
        in_parallel(MAKERS, count, |i| {
            drop({
                let file = open(i);
                made.lock().unwrap().insert(i, file)
            })
        });
        made.into_inner().unwrap()
    });
    assert_eq!(files.len() as u64, count);
    // Half of them lose their names, and are read all the same.
    timed("removing every second name", || {
        in_parallel(MAKERS, count / 2, |i| fs::remove_file(dir.join(format!("file-{}", 2 * i))).unwrap());
    });
    timed("reading", || {
        in_parallel(MAKERS, count, |i| {
            let mut bytes = [0; 100];
            let length = files[&i].read_at(&mut bytes, 0).unwrap();
            assert_eq!(&bytes[..length], content(i).as_bytes(), "file {i}");
        });
    });
    timed("closing", || drop(files));
    timed("readdir", || assert_eq!(fs::read_dir(dir).unwrap().count() as u64, count - count / 2 + 1));
}

/// The names in a directory by getdents alone, with a buffer of this many bytes: as often as they were given.
fn list(dir: &Path, buffer: usize) -> BTreeMap<String, u32> {
    let fd =
        rustix::fs::open(dir, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mut space = Vec::with_capacity(buffer);
    let mut entries = RawDir::new(fd, space.spare_capacity_mut());
    let mut names = BTreeMap::new();
    while let Some(entry) = entries.next() {
        *names.entry(entry.unwrap().file_name().to_string_lossy().into_owned()).or_default() += 1;
    }
    names
}

/// Makes and removes entries everywhere between those that stay, until it is told to stop.
fn come_and_go(dir: &Path, seed: u64, stop: &AtomicBool) {
    let mut rng = Rng::new(seed);
    let mut mine = BTreeSet::new();
    while !stop.load(Ordering::Relaxed) {
        let n = rng.below(10_000);
        let name = |n: u64, kind: &str| dir.join(format!("{n:04}-{kind}-{seed}"));
        if mine.insert(n) {
            drop(File::create(name(n, "a")).unwrap());
        } else if n.is_multiple_of(2) {
            fs::rename(name(n, "a"), name(n, "b")).unwrap();
            fs::remove_file(name(n, "b")).unwrap();
            mine.remove(&n);
        } else {
            fs::remove_file(name(n, "a")).unwrap();
            mine.remove(&n);
        }
    }
}

#[test]
fn a_listing_has_what_stays_exactly_once_while_others_come_and_go() {
    let rounds = amount("DFS_TEST_ROUNDS", 12);
    let mut cluster = Cluster::builder().keepers(1).copies(1).min_copies(1).start();
    let (one, two) = (cluster.mount(), cluster.mount());
    let (dir, same) = (one.path("dir"), two.path("dir"));
    fs::create_dir(&dir).unwrap();
    let stays: Vec<String> = (0..1500).map(|i| format!("{:04}-stays", i * 6)).collect();
    in_parallel(MAKERS, stays.len() as u64, |i| {
        let dir = if i % 2 == 0 { &dir } else { &same };
        drop(File::create(dir.join(&stays[i as usize])).unwrap());
    });
    let stop = AtomicBool::new(false);
    let seen_others = std::thread::scope(|scope| {
        for (seed, dir) in [(1, &dir), (2, &same), (3, &same)] {
            let stop = &stop;
            scope.spawn(move || come_and_go(dir, seed, stop));
        }
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut others = 0;
            for round in 0..rounds {
                let dir = if round % 2 == 0 { &dir } else { &same };
                let names = list(dir, [512, 4096, 32_768][round as usize % 3]);
                for name in &stays {
                    assert_eq!(names.get(name), Some(&1), "round {round}: how often '{name}' is listed");
                }
                let twice = names.iter().find(|(_, count)| **count > 1);
                assert!(twice.is_none(), "round {round}: listed more than once: {twice:?}");
                others += names.len() - stays.len() - 2;
            }
            others
        }));
        stop.store(true, Ordering::Relaxed);
        checked
    });
    match seen_others {
        Ok(others) => assert!(others > 0, "nothing came and went"),
        Err(failed) => std::panic::resume_unwind(failed),
    }
    // When all is quiet, both mounts see the same.
    assert_eq!(list(&dir, 4096), list(&same, 4096));
    sh("rm -r $1", &[&same]);
    assert_eq!(fs::read_dir(one.dir()).unwrap().count(), 0);
}
