//! The upload as it is written down: seven steps in their order, in three processes' logs.
//!
//! Covers: the seven steps of the upload with `--min-copies 1` (literal) and 2, from the debug trace; close returns only after
//! step 6; how many keepers hold a chunk before step 4; a failed or half-done upload is never visible in any file.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use dfs_tests::trace::{Step, steps};
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, film, run_ok, wait_until};

/// Copies a film in and returns the steps of each of its chunks, once all copies are made.
fn uploads(cluster: &mut Cluster, mount: &Mount) -> Vec<(String, Vec<Step>)> {
    run_ok(&[Path::new("cp"), &film::small(), &mount.path("movie.mp4")]);
    cluster.wait_copies("/movie.mp4", 3, secs(20));
    let chunks = cluster.live_copies("/movie.mp4");
    let mut logs = vec![("mount", mount.process.log()), ("master", cluster.master.log())];
    logs.extend((0..3).map(|i| ("keeper", cluster.keeper(i).log())));
    let mut found = steps(&logs);
    let of = |chunk: String| {
        let steps = found.remove(&chunk).unwrap_or_else(|| panic!("no trace of chunk {chunk}"));
        (chunk, steps)
    };
    chunks.into_iter().map(|(chunk, _)| chunk).map(of).collect()
}

fn first<'a>(steps: &'a [Step], number: u32, process: &str) -> Option<&'a Step> {
    steps.iter().find(|step| step.number == number && step.process == process)
}

fn seven_steps_in_order(min_copies: u32) {
    let mut cluster = Cluster::builder().min_copies(min_copies).log("debug").start();
    let mount = cluster.mount();
    let uploads = uploads(&mut cluster, &mount);
    assert!(uploads.len() >= 3, "a film of some chunks");
    for (chunk, steps) in uploads {
        let all: Vec<&String> = steps.iter().map(|step| &step.line).collect();
        let begin = |number: u32| {
            let step = steps.iter().find(|step| step.number == number);
            step.unwrap_or_else(|| panic!("no step {number} of chunk {chunk}: {all:#?}")).time.clone()
        };
        let times: Vec<String> = (1..=7).map(begin).collect();
        // 1 to 6 follow one another; 7 comes after 5, and nobody waits for it.
        assert!(times[..6].is_sorted(), "steps of {chunk} out of order: {all:#?}");
        assert!(times[4] <= times[6], "step 7 of {chunk} before step 5: {all:#?}");
        // Who does what: the client transfers, a keeper takes in and notifies, the master does the rest.
        for (number, process) in [
            (1, "mount"),
            (3, "mount"),
            (3, "keeper"),
            (4, "keeper"),
            (2, "master"),
            (5, "master"),
            (6, "master"),
            (7, "master"),
        ] {
            assert!(
                first(&steps, number, process).is_some(),
                "no step {number} of {chunk} in the log of a {process}: {all:#?}"
            );
        }
        // How many keepers had taken it in whole when the primary notified the master.
        let notice = first(&steps, 4, "keeper").unwrap();
        let holders =
            steps.iter().filter(|s| s.number == 3 && s.process == "keeper" && s.time <= notice.time).count();
        assert!(holders >= min_copies as usize, "{holders} keepers held {chunk} at step 4: {all:#?}");
        assert_eq!(steps.iter().filter(|s| s.number == 4).count(), 1, "one notice per chunk: {all:#?}");
    }
}

#[test]
fn the_seven_steps_come_in_order_with_min_copies_1() {
    seven_steps_in_order(1);
}

#[test]
fn the_seven_steps_come_in_order_with_min_copies_2() {
    seven_steps_in_order(2);
}

#[test]
fn after_close_min_copies_keepers_hold_every_byte() {
    // Counted at step 6, from the trace: a look at the keepers' disks comes after step 7, which would make up for what
    // was missing.
    for min_copies in [1, 2, 3] {
        let mut cluster = Cluster::builder().min_copies(min_copies).log("debug").start();
        let mount = cluster.mount();
        fs::write(mount.path("file"), vec![7; 100_000]).unwrap();
        let mut logs = vec![("master", cluster.master.log())];
        logs.extend((0..3).map(|i| ("keeper", cluster.keeper(i).log())));
        let found = steps(&logs);
        assert_eq!(found.len(), 1, "one chunk: {found:#?}");
        let steps = found.values().next().unwrap();
        let success = first(steps, 6, "master").unwrap();
        let holders =
            steps.iter().filter(|s| s.number == 3 && s.process == "keeper" && s.time <= success.time).count();
        assert!(holders >= min_copies as usize, "{holders} keepers held the chunk at step 6: {steps:#?}");
    }
}

#[test]
fn a_half_done_upload_is_never_visible() {
    let film = fs::read(film::small()).unwrap();
    let mut cluster = Cluster::builder().chunk_size("1MiB").start();
    let mut mount = cluster.mount();
    let path = mount.path("half.mp4");
    // Writes the film over and over until the mount is dead, so that the kill is always in the middle.
    let writer = std::thread::spawn({
        let film = film.clone();
        move || {
            let mut file = File::create(&path).unwrap();
            let end = Instant::now() + secs(60);
            while Instant::now() < end {
                if let Err(e) = file.write_all(&film) {
                    return e.kind();
                }
            }
            panic!("the mount was not killed")
        }
    });
    wait_until(secs(20), "some chunks are uploaded", || cluster.chunk_files(0).len() > 4);
    mount.kill();
    assert_ne!(writer.join().unwrap(), ErrorKind::Interrupted);

    let second = cluster.mount();
    let got = fs::read(second.path("half.mp4")).unwrap();
    println!("{} bytes are visible", got.len());
    assert!(got.iter().eq(film.iter().cycle().take(got.len())), "bytes that nobody wrote are visible");
    // What was on its way has been forgotten, and its chunks are collected.
    let chunks = cluster.live_copies("/half.mp4").len();
    cluster.wait_copies("/half.mp4", 3, secs(30));
    wait_until(secs(90), "chunks of half-done uploads are collected", || {
        (0..3).map(|i| cluster.chunk_files(i).len()).sum::<usize>() == 3 * chunks
    });
}

#[test]
fn a_copy_that_was_killed_can_be_made_again() {
    let mut cluster = Cluster::start();
    let mut mount = cluster.mount();
    let mut cp =
        std::process::Command::new("cp").arg(film::medium()).arg(mount.path("a.mp4")).spawn().unwrap();
    wait_until(secs(20), "a chunk is uploaded", || !cluster.chunk_files(0).is_empty());
    mount.kill();
    let _ = cp.wait();
    let again = cluster.mount();
    run_ok(&[Path::new("cp"), &film::medium(), &again.path("a.mp4")]);
    film::same(&film::medium(), &again.path("a.mp4"));
}

#[test]
fn what_one_mount_closed_an_open_on_another_sees_at_once() {
    let mut cluster = Cluster::start();
    let (one, two) = (cluster.mount(), cluster.mount());
    let mut rounds = [(&one, &two), (&two, &one)].into_iter().cycle();
    for turn in 0..60u32 {
        let (writer, reader) = rounds.next().unwrap();
        let content = turn.to_string().repeat(1 + turn as usize * 37);
        fs::write(writer.path("note"), &content).unwrap();
        assert_eq!(fs::read_to_string(reader.path("note")).unwrap(), content, "turn {turn}");
        let new = format!("new {turn}");
        assert!(!reader.path(&new).exists());
        fs::write(writer.path(&new), &content).unwrap();
        assert_eq!(fs::read_to_string(reader.path(&new)).unwrap(), content, "new, turn {turn}");
    }
}

#[test]
fn what_one_mount_renamed_or_removed_another_mount_sees_within_a_second() {
    let mut cluster = Cluster::start();
    let (one, two) = (cluster.mount(), cluster.mount());
    let gone = |path: std::path::PathBuf| wait_until(secs(1), "the old name is gone", || !path.exists());
    let there = |path: std::path::PathBuf| wait_until(secs(1), "the new name is there", || path.exists());
    fs::write(one.path("note"), b"x").unwrap();
    for _ in 0..20 {
        there(two.path("note"));
        fs::rename(two.path("note"), two.path("moved")).unwrap();
        gone(one.path("note"));
        there(one.path("moved"));
        fs::rename(one.path("moved"), one.path("note")).unwrap();
        gone(two.path("moved"));
    }
    fs::remove_file(one.path("note")).unwrap();
    gone(two.path("note"));
}

#[test]
fn what_one_mount_appends_or_rewrites_a_reader_on_another_that_keeps_it_open_sees() {
    let mut cluster = Cluster::start();
    let (one, two) = (cluster.mount(), cluster.mount());
    fs::write(one.path("log"), b"").unwrap();
    let mut reader = File::open(two.path("log")).unwrap();
    let mut right = Vec::new();
    for turn in 0..10u32 {
        let line = format!("line {turn}\n");
        File::options().append(true).open(one.path("log")).unwrap().write_all(line.as_bytes()).unwrap();
        right.extend_from_slice(line.as_bytes());
        // As tail -f reads: on from where it was.
        let mut got = Vec::new();
        wait_until(secs(2), "the new line is seen through the open file", || {
            reader.read_to_end(&mut got).unwrap();
            got.len() >= line.len()
        });
        assert_eq!(String::from_utf8_lossy(&got), line);
    }
    // In place, over the same bytes: after its close none of the old ones are left, in nobody's cache.
    let new = vec![b'#'; right.len()];
    File::options().write(true).open(one.path("log")).unwrap().write_all(&new).unwrap();
    let mut got = vec![0; right.len()];
    wait_until(secs(2), "the new bytes are seen through the open file", || {
        reader.read_exact_at(&mut got, 0).unwrap();
        got == new
    });
}
