//! Where nothing changed, the kernel's caches are used to the full.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::time::Instant;

use dfs_tests::amount::amount;
use dfs_tests::{Cluster, Mount, run, run::sh, wait::secs, wait_until};

use crate::two;

/// Requests that the master answers while `work` is done. Mounts ask for nothing by themselves.
fn requests(cluster: &Cluster, work: impl FnOnce()) -> u64 {
    let before = cluster.status("requests");
    work();
    cluster.status("requests") - before
}

fn list(mount: &Mount, below: &str) -> usize {
    let mut command = Command::new("ls");
    run(command.arg("-l").arg(mount.path(below)), secs(60)).ok().stdout.lines().count()
}

fn files(mount: &Mount, count: usize) {
    let dir = &mount.path("d");
    fs::create_dir(dir).unwrap();
    std::thread::scope(|threads| {
        for part in 0..8 {
            threads.spawn(move || {
                for n in (part..count).step_by(8) {
                    File::create(dir.join(format!("f{n}"))).unwrap();
                }
            });
        }
    });
}

// SEMANTICS.md: "Where nothing changed, nothing is asked again".
#[test]
fn a_second_listing_and_a_second_stat_of_many_files_ask_nearly_nothing() {
    let count = amount("DFS_TEST_FILES", 2_000) as usize;
    let (cluster, a, b) = two();
    files(&a, count);
    let first = requests(&cluster, || assert_eq!(list(&b, "d"), count + 1));
    let second = requests(&cluster, || assert_eq!(list(&b, "d"), count + 1));
    let stats = requests(&cluster, || {
        (0..count).for_each(|n| assert!(fs::metadata(b.path(format!("d/f{n}"))).unwrap().is_file()));
    });
    println!("{count} files: first ls -l {first} requests, second {second}, stat of each {stats}");
    assert!(second <= 10 && stats <= 10, "second ls -l: {second}, stat of each: {stats}");
    // And yet nothing is missed.
    fs::remove_file(a.path("d/f7")).unwrap();
    File::create(a.path("d/g")).unwrap();
    fs::write(a.path("d/f8"), "eight").unwrap();
    assert_eq!(list(&b, "d"), count + 1);
    assert!(!b.path("d/f7").exists() && b.path("d/g").exists());
    assert_eq!(fs::metadata(b.path("d/f8")).unwrap().len(), 5);
    // Its own changes, too.
    fs::remove_file(b.path("d/f9")).unwrap();
    assert_eq!(list(&b, "d"), count);
}

#[test]
fn a_second_walk_through_many_directories_asks_nearly_nothing() {
    let (cluster, a, b) = two();
    sh("for d in $(seq 100); do mkdir -p $1/$d; touch $1/$d/f $1/$d/g; done", &[&a.path("t")]);
    let walk = || sh("find $1 | wc -l; ls -lR $1 | wc -l", &[&b.path("t")]);
    // The first one changes the atimes of directories, which the second one asks for.
    let first = requests(&cluster, || drop(walk()));
    let second = requests(&cluster, || drop(walk()));
    let third = requests(&cluster, || drop(walk()));
    println!("100 directories: first walk {first} requests, second {second}, third {third}");
    assert!(third <= 10, "third walk: {third} requests");
    // And yet nothing is missed.
    fs::set_permissions(a.path("t/7"), fs::Permissions::from_mode(0o711)).unwrap();
    assert_eq!(fs::metadata(b.path("t/7")).unwrap().mode() & 0o777, 0o711);
    let changed = fs::metadata(b.path("t/8")).unwrap().mtime_nsec();
    fs::remove_file(b.path("t/8/f")).unwrap();
    assert_ne!(fs::metadata(b.path("t/8")).unwrap().mtime_nsec(), changed);
}

// SEMANTICS.md: "What a change came to is not asked for".
#[test]
fn a_program_that_changes_names_and_files_asks_for_nothing_else() {
    const COUNT: u64 = 100;
    const A_FEW: u64 = 5;
    let (cluster, a, b) = two();
    let each = |work: &dyn Fn(u64)| requests(&cluster, || (0..COUNT).for_each(work));
    fs::create_dir(a.path("new")).unwrap();
    let path = |kind: &str, n: u64| a.path(format!("new/{kind}{n}"));
    let made = each(&|n| fs::create_dir(path("d", n)).unwrap());
    let moved = each(&|n| fs::rename(path("d", n), path("e", n)).unwrap());
    (0..COUNT).for_each(|n| fs::write(path("f", n), "bytes").unwrap());
    let stats = each(&|n| assert_eq!(fs::metadata(path("f", n)).unwrap().len(), 5));
    let removed = each(&|n| fs::remove_file(path("f", n)).unwrap());
    println!(
        "{COUNT} directories made: {made} requests, moved: {moved}; files looked at: {stats}, removed: {removed}"
    );
    let most = COUNT + A_FEW;
    assert!(made <= most && moved <= most && stats <= A_FEW && removed <= most);
    // And yet nothing is missed.
    let new = a.path("new");
    let known = fs::metadata(&new).unwrap();
    assert_eq!(known.nlink(), 2 + COUNT);
    assert!(!new.join("x").exists());
    fs::create_dir(b.path("new/x")).unwrap();
    assert!(new.join("x").exists());
    assert_eq!(fs::metadata(&new).unwrap().nlink(), 3 + COUNT);
    fs::write(path("f", 1), "bytes").unwrap();
    fs::write(b.path("new/f1"), "more bytes").unwrap();
    fs::write(b.path("new/y"), "").unwrap();
    assert_eq!(fs::metadata(path("f", 1)).unwrap().len(), 10);
    let there = File::options().create_new(true).write(true).open(new.join("y"));
    assert_eq!(there.unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
}

// SEMANTICS.md: "looked up one after the other".
#[test]
fn looking_at_all_files_of_a_directory_one_by_one_asks_for_one_list() {
    const COUNT: usize = 500;
    const A_FEW: u64 = 40;
    let (cluster, a, b) = two();
    files(&a, COUNT);
    let file = |n: usize| b.path(format!("d/f{n}"));
    let stats =
        requests(&cluster, || (0..COUNT).for_each(|n| assert!(fs::metadata(file(n)).unwrap().is_file())));
    let moved = requests(&cluster, || {
        (0..100).for_each(|n| fs::rename(file(n), b.path(format!("d/g{n}"))).unwrap());
    });
    println!("{COUNT} files looked at: {stats} requests; 100 renamed: {moved}");
    // The first mount has to forget each name first: then the directory's attributes do not come with the answer.
    assert!(stats <= A_FEW && moved <= 2 * 100 + A_FEW);
    // And yet nothing is missed.
    assert!(!file(3).exists() && b.path("d/g3").exists());
    fs::set_permissions(a.path("d/f400"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(a.path("d/f401")).unwrap();
    fs::write(a.path("d/f402"), "written").unwrap();
    fs::rename(a.path("d/f403"), a.path("d/f404")).unwrap();
    File::create(a.path("d/h")).unwrap();
    assert_eq!(fs::metadata(file(400)).unwrap().mode() & 0o777, 0o600);
    assert!(!file(401).exists() && !file(403).exists() && b.path("d/h").exists());
    assert_eq!(fs::metadata(file(402)).unwrap().len(), 7);
    assert_eq!(fs::metadata(file(404)).unwrap().ino(), fs::metadata(a.path("d/f404")).unwrap().ino());
}

#[test]
fn a_file_is_read_from_the_page_cache_after_another_open() {
    const SIZE: usize = 64 << 20;
    const SMALL: usize = 64 << 10;
    const SMALLS: usize = 8;
    let (cluster, a, b) = two();
    fs::write(a.path("big"), vec![7; SIZE]).unwrap();
    (0..SMALLS).for_each(|n| fs::write(a.path(format!("small{n}")), vec![1; SMALL]).unwrap());
    let served = |cluster: &Cluster| -> u64 {
        let rows = cluster.json(&["keepers"]);
        rows.as_array().unwrap().iter().map(|row| row["bytes_read"].as_u64().unwrap()).sum()
    };
    let read = || {
        let begun = Instant::now();
        assert_eq!(fs::read(b.path("big")).unwrap().len(), SIZE);
        begun.elapsed()
    };
    let first = read();
    let mut second = first;
    let asked = requests(&cluster, || second = read());
    println!("first {first:?}, again {second:?}, {asked} requests");
    assert!(asked <= 6, "an open, a release and no layouts, but {asked} requests");
    // Keepers tell what they served once a second: when they have told of what was read after it, it is told too.
    (0..SMALLS).for_each(|n| assert_eq!(fs::read(b.path(format!("small{n}"))).unwrap().len(), SMALL));
    let all = (SIZE + SMALLS * SMALL) as u64;
    wait_until(secs(10), "keepers tell what they served", || served(&cluster) >= all);
    assert!(served(&cluster) < all + SIZE as u64 / 4, "keepers served it again");
    // What somebody else changed is read anew, also through what was opened before.
    let open = File::open(b.path("big")).unwrap();
    let mut writer = File::options().write(true).open(a.path("big")).unwrap();
    writer.write_all(&[8; 4096]).unwrap();
    drop(writer);
    let mut byte = [0];
    std::os::unix::fs::FileExt::read_exact_at(&open, &mut byte, 100).unwrap();
    assert_eq!(byte, [8]);
    assert_eq!(fs::read(b.path("big")).unwrap()[..8192], [[8; 4096], [7; 4096]].concat());
}

// SEMANTICS.md: "also that a name is not there".
#[test]
fn that_a_name_is_not_there_is_cached_too() {
    let (cluster, a, b) = two();
    assert!(!b.path("missing").exists());
    let asked = requests(&cluster, || (0..100).for_each(|_| assert!(!b.path("missing").exists())));
    assert!(asked <= 3, "{asked} requests");
    fs::write(a.path("missing"), "").unwrap();
    assert!(b.path("missing").exists());
    let inode = fs::metadata(a.path("missing")).unwrap().ino();
    assert_eq!(fs::metadata(b.path("missing")).unwrap().ino(), inode);
}

// One mount alone waits for nobody and sends nothing more than before.
#[test]
fn one_mount_sends_no_message_more_for_others() {
    let mut cluster = Cluster::builder().keepers(2).copies(2).start();
    let mount = cluster.mount();
    let asked = requests(&cluster, || fs::write(mount.path("f"), "x").unwrap());
    // Look-up, create, place, release, and what the shell of a write may ask for attributes.
    assert!(asked <= 7, "{asked} requests for one small file");
}
