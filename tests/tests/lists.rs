//! Lists of a directory that many programs read at once, on one mount and on another, while entries come and go.
//!
//! Covers: every entry that stays is in each list exactly once, and no name is in it twice, whether the directory is
//! opened anew, rewound, or gone back to a place that was told; what was made before a list was begun is in it, and what
//! was removed before is not, whichever mount made or removed it. DFS_TEST_ROUNDS: directories (default 12).

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use dfs_tests::amount::{amount, in_parallel};
use dfs_tests::{Cluster, Mount, Rng};
use rustix::fs::{Mode, OFlags, RawDir, SeekFrom, seek};

/// Entries that stay.
const STAYS: u64 = 300;
/// Entries that may come and go, everywhere between those.
const OTHERS: u64 = 6 * STAYS;
/// Bytes that a program asks for at once.
const BUFFERS: [usize; 4] = [128, 512, 4096, 32_768];

/// Programs that list at once.
const PROGRAMS: u64 = 8;
/// Lists that each reads of one directory.
const LISTS: u64 = 4;
/// Threads that make what stays.
const MAKERS: u64 = 8;
const WAYS: [Reads; 3] = [Reads::Opens, Reads::Rewinds, Reads::GoesBack];

fn open(dir: &Path) -> OwnedFd {
    rustix::fs::open(dir, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn go_to(fd: &OwnedFd, place: u64) {
    assert_eq!(seek(fd, SeekFrom::Start(place)).unwrap(), place);
}

/// What one read of so many bytes gives: names, each with the place behind it.
fn some(fd: &OwnedFd, buffer: usize) -> Vec<(String, u64)> {
    let mut space = Vec::with_capacity(buffer);
    let mut entries = RawDir::new(fd, space.spare_capacity_mut());
    let mut out = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry.unwrap();
        out.push((entry.file_name().to_string_lossy().into_owned(), entry.next_entry_cookie()));
        if entries.is_buffer_empty() {
            break;
        }
    }
    out
}

/// Reads on from where `fd` is to the end. Goes back now and then, `back` times at most, to a place that was told, and forgets
/// what was listed behind it.
fn list(fd: &OwnedFd, rng: &mut Rng, mut back: u64) -> Vec<String> {
    let mut listed: Vec<(String, u64)> = Vec::new();
    loop {
        let part = some(fd, BUFFERS[rng.below(BUFFERS.len() as u64) as usize]);
        if part.is_empty() {
            return listed.into_iter().map(|(name, _)| name).collect();
        }
        listed.extend(part);
        if back > 0 && rng.below(20) == 0 {
            back -= 1;
            listed.truncate(1 + rng.below(listed.len() as u64) as usize);
            go_to(fd, listed[listed.len() - 1].1);
        }
    }
}

fn stays(n: u64) -> String {
    format!("{:05}-stays", n * 6)
}

/// The names of a list, none of them twice, with all that stay.
fn checked(list: Vec<String>, what: &str) -> HashMap<String, usize> {
    let mut places = HashMap::new();
    for (place, name) in list.into_iter().enumerate() {
        let before = places.insert(name.clone(), place);
        assert_eq!(before, None, "{what}: '{name}' is listed again as number {place}");
    }
    let missing: Vec<String> = (0..STAYS).map(stays).filter(|name| !places.contains_key(name)).collect();
    assert!(missing.is_empty(), "{what}: not listed: {missing:?}");
    places
}

/// Makes and removes entries until it is told to stop.
fn come_and_go(dir: &Path, seed: u64, stop: &AtomicBool) {
    let mut rng = Rng::new(seed);
    let path = |n: u64, kind: &str| dir.join(format!("{n:05}-{kind}-{seed}"));
    let mut there = vec![false; OTHERS as usize];
    while !stop.load(Ordering::Relaxed) {
        let n = rng.below(OTHERS);
        let there = &mut there[n as usize];
        match (std::mem::replace(there, !*there), n % 3) {
            (false, 0) => fs::create_dir(path(n, "a")).unwrap(),
            (false, _) => drop(File::create(path(n, "a")).unwrap()),
            (true, 0) => fs::remove_dir(path(n, "a")).unwrap(),
            (true, 1) => fs::remove_file(path(n, "a")).unwrap(),
            (true, _) => {
                fs::rename(path(n, "a"), path(n, "b")).unwrap();
                fs::remove_file(path(n, "b")).unwrap();
            }
        }
    }
}

/// How a program reads its lists.
#[derive(Clone, Copy, Debug)]
enum Reads {
    /// Opens the directory for each.
    Opens,
    /// Opens it once, and rewinds.
    Rewinds,
    /// The same, and goes back to where it was.
    GoesBack,
}

/// A program that reads lists. With `maker`, the same directory, it makes a name there before each list, or removes it.
fn program(dir: &Path, maker: Option<&PathBuf>, reads: Reads, number: u64) {
    let mut rng = Rng::new(number);
    let mut fd = open(dir);
    let own = format!("{:05}-own-{number}", rng.below(OTHERS));
    for n in 0..LISTS {
        let there = n.is_multiple_of(2);
        match maker.map(|maker| maker.join(&own)) {
            Some(own) if there => drop(File::create(own).unwrap()),
            Some(own) => fs::remove_file(own).unwrap(),
            None => {}
        }
        match reads {
            Reads::Opens => fd = open(dir),
            Reads::Rewinds | Reads::GoesBack => go_to(&fd, 0),
        }
        let back = if matches!(reads, Reads::GoesBack) { 10 } else { 0 };
        let what = format!("program {number} ({reads:?}), list {n}");
        let places = checked(list(&fd, &mut rng, back), &what);
        assert_eq!(places.contains_key(&own), there && maker.is_some(), "{what}: is '{own}' listed?");
    }
}

/// Programs list one new directory of two mounts, while entries come and go in it.
fn listed_at_once(mounts: [&Mount; 2], round: u64) {
    let dirs = mounts.map(|mount| mount.path(format!("dir-{round}")));
    fs::create_dir(&dirs[0]).unwrap();
    in_parallel(MAKERS, STAYS, |n| drop(File::create(dirs[0].join(stays(n))).unwrap()));
    // What the other mount changes is forgotten by this one's kernel, what this one changes is not: one of the two, and both.
    let changers: &[usize] = [&[0][..], &[1], &[0, 1]][round as usize % 3];
    let stop = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let changers: Vec<_> = changers
            .iter()
            .map(|mount| (&dirs[*mount], 1 + *mount as u64))
            .map(|(dir, seed)| scope.spawn(move || come_and_go(dir, seed, stop)))
            .collect();
        let programs: Vec<_> = (0..PROGRAMS)
            .map(|number| {
                // One of four on the other mount; of those that have names of their own, every second one makes them there.
                let (dir, other) = if number % 4 == 3 { (&dirs[1], &dirs[0]) } else { (&dirs[0], &dirs[1]) };
                let maker = [None, Some(dir), Some(other)][(round + number) as usize % 3];
                scope.spawn(move || {
                    program(dir, maker, WAYS[number as usize % WAYS.len()], round * 100 + number)
                })
            })
            .collect();
        let ended: Vec<_> = programs.into_iter().map(|program| program.join()).collect();
        stop.store(true, Ordering::Relaxed);
        changers.into_iter().for_each(|changer| changer.join().unwrap());
        ended.into_iter().for_each(|ended| ended.unwrap_or_else(|failed| std::panic::resume_unwind(failed)));
    });
    // When all is quiet, both mounts see the same.
    let mut rng = Rng::new(0);
    let [mut first, mut second] = dirs.each_ref().map(|dir| list(&open(dir), &mut rng, 0));
    first.sort();
    second.sort();
    assert_eq!(first, second);
}

// The kernel may treat a directory otherwise once a list of it was disturbed, so each round has a new one.
#[test]
fn programs_that_list_one_directory_at_once_each_see_what_stays_exactly_once() {
    let mut cluster = Cluster::builder().keepers(1).copies(1).min_copies(1).start();
    let (one, two) = (cluster.mount(), cluster.mount());
    for round in 0..amount("DFS_TEST_ROUNDS", 12) {
        listed_at_once([&one, &two], round);
    }
}
