//! Disks that fail under a process that goes on.
//!
//! Covers: a full, a read-only and a failing disk at the master: changes give an error in bounded time, what is stored can
//! be read, nothing acknowledged is lost, and changes go on by themselves when the disk does, and after a restart; mounts that
//! come meanwhile read what is there; one that
//! starts on such a disk says what is wrong, and harms nothing; a
//! read-only disk at a keeper: it serves what it has, new bytes go elsewhere, and it is used again afterwards; EIO from
//! reads at a keeper: readers get the right bytes, and the bad copies are replaced.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use dfs_tests::cluster::{Builder, files_below};
use dfs_tests::faults::disk;
use dfs_tests::faulty::Disk;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, Ran, Rng, require_root, wait_until};
use rustix::io::Errno;

/// What a mount waits for the master.
const PATIENCE: Duration = secs(2);
/// The longest that a change may take to fail.
const LONGEST: Duration = secs(10);

fn one_keeper() -> Builder {
    require_root();
    Cluster::builder().keepers(1).copies(1).min_copies(1).chunk_size("1MiB")
}

fn mount(cluster: &mut Cluster) -> Mount {
    cluster.mount_with(&["-o", &format!("master_timeout={}s", PATIENCE.as_secs())])
}

/// Makes the master's disk fail with `fail`, and right again with `mend`, while two mounts are there.
fn master_survives(mut cluster: Cluster, errors: &[Errno], fail: impl Fn(&Cluster), mend: impl Fn(&Cluster)) {
    let (writer, reader) = (mount(&mut cluster), mount(&mut cluster));
    let bytes = Rng::new(4).bytes(3 << 20);
    fs::create_dir(writer.path("made")).unwrap();
    fs::create_dir(writer.path("before")).unwrap();
    fs::write(writer.path("before/file"), &bytes).unwrap();

    fail(&cluster);
    let mut acknowledged = Vec::new();
    let error = (0..100_000)
        .find_map(|n| {
            let name = format!("made/{n}");
            let begun = Instant::now();
            let made = fs::create_dir(writer.path(&name));
            assert!(begun.elapsed() < LONGEST, "{name} took {:?}: {made:?}", begun.elapsed());
            made.map(|()| acknowledged.push(name)).err()
        })
        .expect("changes are refused in the end");
    println!("{} changes went well, then {error}", acknowledged.len());
    assert!(
        error.raw_os_error() == Some(Errno::TIMEDOUT.raw_os_error()) || is_one_of(&error, errors),
        "{error}"
    );
    // That one waited, and so does who looks at what it changes; what comes now is refused at once, with the reason.
    wait_until(LONGEST, "the reason is told", || {
        let begun = Instant::now();
        let made = fs::create_dir(writer.path("before/refused"));
        begun.elapsed() < PATIENCE / 2 && made.is_err_and(|error| is_one_of(&error, errors))
    });
    let begun = Instant::now();
    assert!(fs::write(writer.path("before/more"), b"x").is_err_and(|error| is_one_of(&error, errors)));
    assert!(fs::read(reader.path("before/file")).unwrap() == bytes, "reads go on");
    assert_eq!(names(&reader.path("before")), ["file"], "lists go on");
    assert!(
        fs::metadata(reader.path("before/none")).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
    );
    assert!(begun.elapsed() < PATIENCE, "took {:?}", begun.elapsed());
    assert!(cluster.master.is_running());

    mend(&cluster);
    wait_until(secs(20), "changes go on by themselves", || fs::create_dir(writer.path("made/after")).is_ok());
    acknowledged.push("made/after".to_owned());
    fs::write(writer.path("before/more"), b"x").unwrap();
    let all_there = |mount: &Mount| acknowledged.iter().all(|name| mount.path(name).is_dir());
    assert!(all_there(&reader));
    cluster.master.kill();
    cluster.restart_master();
    let fresh = mount(&mut cluster);
    assert!(all_there(&fresh), "what was acknowledged is on the disk");
    assert!(fs::read(fresh.path("before/file")).unwrap() == bytes);
    assert_eq!(names(&fresh.path("before")), ["file", "more"]);
}

fn is_one_of(error: &std::io::Error, errors: &[Errno]) -> bool {
    errors.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_master_whose_disk_is_full_refuses_changes_until_there_is_room() {
    let cluster = one_keeper().master_disk("size=32m").start();
    let dir = cluster.scratch.path("master");
    master_survives(cluster, &[Errno::NOSPC], |_| disk::fill(&dir), |_| disk::empty(&dir));
}

fn master_survives_writes_that_fail(errno: Errno, fail: impl Fn(&Disk, &Path)) {
    let cluster = one_keeper().faulty_disk("master").start();
    let dir = cluster.scratch.path("master");
    let disk = cluster.disk("master");
    master_survives(cluster, &[errno], |_| fail(&disk, &dir), |_| disk.works());
}

#[test]
fn a_master_whose_disk_is_read_only_refuses_changes_until_it_is_writable() {
    master_survives_writes_that_fail(Errno::ROFS, Disk::is_read_only);
}

#[test]
fn a_master_whose_disk_fails_refuses_changes_until_it_works() {
    master_survives_writes_that_fail(Errno::IO, Disk::fails_to_write);
}

/// A mount's row cannot be stored then: it comes up all the same, also one that is the first to find the disk so.
fn a_mount_that_comes_reads(
    mut cluster: Cluster,
    errno: Errno,
    fail: impl Fn(&Cluster),
    mend: impl Fn(&Cluster),
) {
    let writer = mount(&mut cluster);
    let bytes = Rng::new(9).bytes(1 << 20);
    fs::create_dir(writer.path("made")).unwrap();
    fs::create_dir(writer.path("dir")).unwrap();
    fs::write(writer.path("dir/file"), &bytes).unwrap();
    let comes_and_reads = |cluster: &mut Cluster| {
        let begun = Instant::now();
        let fresh = mount(cluster);
        assert!(fs::read(fresh.path("dir/file")).unwrap() == bytes);
        println!("up, and read, within {:?}", begun.elapsed());
        assert!(begun.elapsed() < LONGEST, "took {:?}", begun.elapsed());
        fresh
    };
    fail(&cluster);
    let first = comes_and_reads(&mut cluster);
    // The first that finds no room waits, and so does who looks at what it changes.
    (0..100_000)
        .find_map(|n| fs::create_dir(writer.path(format!("made/{n}"))).err())
        .expect("changes are refused in the end");
    wait_until(LONGEST, "the reason is told", || {
        fs::create_dir(first.path("dir/refused")).is_err_and(|error| is_one_of(&error, &[errno]))
    });
    let second = comes_and_reads(&mut cluster);
    mend(&cluster);
    wait_until(secs(20), "changes go on by themselves", || fs::create_dir(second.path("dir/after")).is_ok());
    assert!(first.path("dir/after").is_dir());
}

#[test]
fn on_a_master_whose_disk_is_full_a_mount_that_comes_reads() {
    let cluster = one_keeper().master_disk("size=32m").start();
    let dir = cluster.scratch.path("master");
    a_mount_that_comes_reads(cluster, Errno::NOSPC, |_| disk::fill(&dir), |_| disk::empty(&dir));
}

#[test]
fn on_a_master_whose_disk_fails_a_mount_that_comes_reads() {
    let cluster = one_keeper().faulty_disk("master").start();
    let (dir, disk) = (cluster.scratch.path("master"), cluster.disk("master"));
    a_mount_that_comes_reads(cluster, Errno::IO, |_| disk.fails_to_write(&dir), |_| disk.works());
}

/// Starts the master, which has to say in a line why it does not.
#[track_caller]
fn does_not_start(cluster: &mut Cluster, needles: &[&str]) {
    cluster.master.restart();
    let status = cluster.master.wait_exit(secs(20));
    let (line, stderr) = ("dfs-master".to_owned(), cluster.master.log_since_start());
    let ran = Ran { line, status, stdout: String::new(), stderr };
    println!("{needles:?}: {}", ran.stderr);
    assert_eq!(ran.status.code(), Some(1), "{ran:#?}");
    ran.one_line_error("dfs-master", needles);
}

// OPERATIONS.md, "Disks that fail": "A master does not start on a disk that is read-only or fails".
#[test]
fn a_master_that_starts_on_a_disk_that_cannot_be_written_names_the_file_the_cause_and_the_remedy() {
    let mut cluster = one_keeper().faulty_disk("master").start();
    let bytes = Rng::new(7).bytes(1 << 20);
    fs::write(mount(&mut cluster).path("file"), &bytes).unwrap();
    let (dir, disk) = (cluster.scratch.path("master"), cluster.disk("master"));
    cluster.master.kill();
    let read_only = ["Read-only file system", "mount that file system writable"];
    for file in ["LOCK", "master.redb", "SEAL", "address"] {
        let path = dir.join(file).display().to_string();
        disk.is_read_only(&dir.join(file));
        does_not_start(&mut cluster, &[&[path.as_str()][..], &read_only].concat());
    }
    disk.is_read_only(&dir);
    does_not_start(&mut cluster, &read_only);
    disk.fails_to_write(&dir);
    does_not_start(&mut cluster, &["Input/output error", "check that disk"]);
    disk.works();
    cluster.restart_master();
    // The mount above was killed less than 4 s before the master, which so waits for it: for longer than programs there did.
    let fresh = cluster.mount();
    assert!(fs::read(fresh.path("file")).unwrap() == bytes, "what was there is there");
    fs::write(fresh.path("more"), &bytes).unwrap();
}

#[test]
fn a_master_that_starts_on_a_full_disk_serves_reads_and_takes_changes_when_there_is_room() {
    let mut cluster = one_keeper().master_disk("size=32m").start();
    let bytes = Rng::new(8).bytes(1 << 20);
    let before = mount(&mut cluster);
    fs::write(before.path("file"), &bytes).unwrap();
    fs::create_dir(before.path("made")).unwrap();
    fs::create_dir(before.path("other")).unwrap();
    let dir = cluster.scratch.path("master");
    cluster.master.kill();
    disk::fill(&dir);
    cluster.restart_master();
    let fresh = mount(&mut cluster);
    // The first that finds no room in the store waits, and so does who looks at what it changes.
    (0..10_000)
        .find_map(|n| fs::create_dir(fresh.path(format!("made/{n}"))).err())
        .expect("changes are refused in the end");
    let refused = || fs::create_dir(fresh.path("other/one"));
    wait_until(LONGEST, "changes are refused", || refused().is_err_and(|e| is_one_of(&e, &[Errno::NOSPC])));
    // For longer than it takes until silence counts.
    let until = Instant::now() + secs(7);
    while Instant::now() < until {
        let reader = mount(&mut cluster);
        assert!(fs::read(reader.path("file")).unwrap() == bytes, "what was there is there");
        assert_eq!(names(&reader.path("other")), Vec::<String>::new());
        assert_eq!(cluster.keeper(0).log_since_start().matches("no answer to heartbeats").count(), 0);
    }
    disk::empty(&dir);
    // It may take longer than programs wait here: the mounts that ended above are waited for.
    let after = fresh.path("other/after");
    wait_until(secs(20), "changes go on by themselves", || fs::create_dir(&after).is_ok() || after.is_dir());
}

#[test]
fn a_keeper_whose_disk_is_read_only_serves_what_it_has_and_new_bytes_go_elsewhere() {
    require_root();
    let mut cluster = Cluster::builder().chunk_size("1MiB").faulty_disk("keeper-0").start();
    let mount = cluster.mount();
    let bytes = Rng::new(5).bytes(3 << 20);
    fs::write(mount.path("before"), &bytes).unwrap();
    cluster.wait_copies("/before", 3, secs(15));
    let had = cluster.chunk_files(0);

    cluster.disk("keeper-0").is_read_only(&cluster.keeper_data(0));
    for n in 0..4 {
        fs::write(mount.path(format!("during-{n}")), &bytes).unwrap();
    }
    wait_until(secs(10), "the master knows", || cluster.keeper_row(0)["read_only"] == true);
    assert_eq!(cluster.chunk_files(0), had, "nothing came to it, and nothing went");
    (0..4).for_each(|n| cluster.wait_copies(&format!("/during-{n}"), 2, secs(10)));
    cluster.keeper(1).kill();
    cluster.keeper(2).kill();
    cluster.wait_live(1);
    let fresh = cluster.mount();
    assert!(fs::read(fresh.path("before")).unwrap() == bytes, "it serves what it has");
    cluster.keeper(1).restart();
    cluster.keeper(2).restart();
    cluster.wait_live(3);

    cluster.disk("keeper-0").works();
    (0..4).for_each(|n| cluster.wait_copies(&format!("/during-{n}"), 3, secs(30)));
    assert!((0..4).all(|n| fs::read(fresh.path(format!("during-{n}"))).unwrap() == bytes));
    cluster.dfs(&["scrub"]).ok();
}

#[test]
fn a_keeper_that_cannot_read_chunks_sends_nothing_wrong_and_gets_good_copies() {
    require_root();
    let mut cluster = Cluster::builder().chunk_size("1MiB").faulty_disk("keeper-0").start();
    let bytes = Rng::new(6).bytes(8 << 20);
    fs::write(cluster.mount().path("file"), &bytes).unwrap();
    cluster.wait_copies("/file", 3, secs(15));
    let quarantined = |cluster: &Cluster| files_below(&cluster.keeper_data(0).join("quarantine"), "").len();

    cluster.disk("keeper-0").fails_to_read(".chunk");
    let mut tries = 0;
    wait_until(secs(30), "somebody was to read at that keeper", || {
        tries += 1;
        let fresh = cluster.mount();
        assert!(fs::read(fresh.path("file")).unwrap() == bytes, "try {tries}");
        quarantined(&cluster) > 0
    });
    let log = cluster.keeper(0).log();
    assert!(log.contains("chunk quarantined") && log.contains("Input/output error"), "{log}");
    cluster.disk("keeper-0").works();
    wait_until(secs(30), "good copies have come, and what was bad is gone", || quarantined(&cluster) == 0);
    cluster.wait_copies("/file", 3, secs(30));
    cluster.dfs(&["scrub"]).ok();
    cluster.keeper(1).kill();
    cluster.keeper(2).kill();
    cluster.wait_live(1);
    assert!(fs::read(cluster.mount().path("file")).unwrap() == bytes, "from that keeper alone");
}
