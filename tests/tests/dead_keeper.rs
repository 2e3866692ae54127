//! A keeper dies in the middle of things, and nobody but the operator notices.
//!
//! Covers: kill one of three while a film is being read and while one is being copied, both finish, right to the byte;
//! no chunk stays endangered; a dead keeper's chunks get new copies where there is another keeper; a keeper that stands
//! still is dead within 5 s and live again when it goes on.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dfs_tests::run::sh;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, film, wait_for, wait_until};

/// More than a read may ever take while a live copy exists, with room for a busy machine.
const STALL: Duration = secs(5);

#[test]
fn a_film_being_read_is_read_on_right_to_the_byte_when_a_keeper_is_killed() {
    let right = fs::read(film::medium()).unwrap();
    let mut cluster = Cluster::start();
    cluster.dfs(&["put", film::medium().to_str().unwrap(), "/movie.mp4"]).ok();
    cluster.wait_copies("/movie.mp4", 3, secs(15));
    let mount = cluster.mount();
    let mut film = File::open(mount.path("movie.mp4")).unwrap();
    let (mut got, mut piece, mut longest) = (Vec::new(), vec![0; 1 << 20], Duration::ZERO);
    let mut killed = false;
    loop {
        if !killed && got.len() > right.len() / 3 {
            cluster.keeper(0).kill();
            killed = true;
        }
        let begun = Instant::now();
        let n = film.read(&mut piece).unwrap();
        longest = longest.max(begun.elapsed());
        if n == 0 {
            break;
        }
        got.extend_from_slice(&piece[..n]);
    }
    assert!(killed);
    assert!(got == right, "other bytes than were copied in");
    println!("longest read: {longest:?}");
    assert!(longest < STALL, "a read took {longest:?} though two live copies existed");
}

/// Has a mount sent bytes to the keeper at `address` that it has not taken yet?
fn is_sending(address: &str) -> bool {
    let sockets = sh("ss -tnpH state established \"( src $1 or dst $1 )\"", &[address]).stdout;
    // Received and not taken, sent and not received, its own end, the other end, the process.
    let ends: Vec<Vec<&str>> = sockets.lines().map(|line| line.split_whitespace().collect()).collect();
    let mounts = ends
        .iter()
        .filter(|end| end[3] == address && end.get(4).is_some_and(|user| user.contains("dfs-mount")));
    mounts.into_iter().any(|mount| {
        let keeper = ends.iter().find(|end| end[2] == address && end[3] == mount[2]);
        mount[1] != "0" || keeper.is_some_and(|keeper| keeper[0] != "0")
    })
}

#[test]
fn a_film_being_copied_in_is_whole_when_a_keeper_is_killed() {
    let source = film::medium();
    let mut cluster = Cluster::builder().chunk_size("2MiB").start();
    let mount = cluster.mount();
    // cp gets the second third when all keepers stand still, and the last one when one is dead to which an upload is under way.
    let script = r#"{ head -c "$1" "$2"; read -r _; head -c "$((2 * $1))" "$2" | tail -c "$1"; read -r _; tail -c +"$((2 * $1 + 1))" "$2"; } | cp /dev/stdin "$3""#;
    let third = fs::metadata(&source).unwrap().len() / 3;
    let mut cp = Command::new("bash");
    cp.args(["-c", script, "bash", &third.to_string()]);
    cp.arg(&source).arg(mount.path("movie.mp4")).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut cp = cp.spawn().unwrap();
    wait_until(secs(20), "keeper 1 holds a chunk", || !cluster.chunk_files(1).is_empty());
    assert!(cp.try_wait().unwrap().is_none(), "cp was done before the keeper could be killed");
    let addresses: Vec<_> =
        (0..3).map(|n| cluster.keeper_row(n)["address"].as_str().unwrap().to_owned()).collect();
    (0..3).for_each(|n| cluster.keeper(n).stop());
    cp.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    let victim = wait_for(secs(10), "the mount has bytes on the way to a keeper", || {
        addresses.iter().position(|address| is_sending(address))
    });
    cluster.keeper(victim).kill();
    (0..3).filter(|n| *n != victim).for_each(|n| cluster.keeper(n).cont());
    drop(cp.stdin.take());
    let status = wait_for(secs(60), "cp ends", || cp.try_wait().unwrap());
    let mut complaint = String::new();
    cp.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
    assert!(status.success(), "cp failed: {complaint}");
    film::same(&source, &mount.path("movie.mp4"));
    mount.unmount();

    // Two keepers are left, and two copies are what makes a chunk safe.
    cluster.wait_copies("/movie.mp4", 2, secs(30));
    assert_eq!((cluster.status("endangered"), cluster.status("lost")), (0, 0));
    let mount = cluster.mount();
    film::same(&source, &mount.path("movie.mp4"));

    // It comes back with what it had, and gets the rest.
    cluster.keeper(victim).restart();
    cluster.wait_live(3);
    cluster.wait_copies("/movie.mp4", 3, secs(30));
}

#[test]
fn with_two_of_three_keepers_dead_a_film_can_be_read_and_one_can_be_written() {
    let source = film::small();
    let mut cluster = Cluster::start();
    cluster.dfs(&["put", source.to_str().unwrap(), "/movie.mp4"]).ok();
    cluster.wait_copies("/movie.mp4", 3, secs(15));
    cluster.keeper(0).kill();
    cluster.keeper(2).kill();
    cluster.wait_live(1);
    let mount = cluster.mount();
    film::same(&source, &mount.path("movie.mp4"));
    // Fewer live keepers than min_copies: not refused, but recorded as endangered, and repaired first.
    fs::copy(&source, mount.path("second.mp4")).unwrap();
    film::same(&source, &mount.path("second.mp4"));
    assert!(cluster.status("endangered") > 0);
    cluster.keeper(0).restart();
    wait_until(secs(30), "nothing is endangered any more", || cluster.status("endangered") == 0);
}

#[test]
fn a_stopped_keeper_is_dead_within_5_s_and_live_again_when_it_goes_on() {
    let mut cluster = Cluster::start();
    cluster.keeper(1).stop();
    wait_until(secs(5), "the stopped keeper is dead", || cluster.keeper_row(1)["alive"] == false);
    assert_eq!(cluster.live(), 2);
    cluster.keeper(1).cont();
    wait_until(secs(10), "the continued keeper is live", || cluster.keeper_row(1)["alive"] == true);
    cluster.wait_live(3);
}

#[test]
fn a_film_can_be_read_and_written_while_a_keeper_stands_still() {
    let source = film::small();
    let mut cluster = Cluster::start();
    cluster.dfs(&["put", source.to_str().unwrap(), "/movie.mp4"]).ok();
    cluster.wait_copies("/movie.mp4", 3, secs(15));
    let mount = cluster.mount();
    cluster.keeper(2).stop();
    film::same(&source, &mount.path("movie.mp4"));
    fs::copy(&source, mount.path("second.mp4")).unwrap();
    film::same(&source, &mount.path("second.mp4"));
    cluster.keeper(2).cont();
    cluster.wait_live(3);
    cluster.wait_copies("/second.mp4", 3, secs(30));
}

#[test]
fn the_chunks_of_a_dead_keeper_are_copied_to_a_fourth() {
    let mut cluster = Cluster::start();
    cluster.dfs(&["put", film::small().to_str().unwrap(), "/movie.mp4"]).ok();
    cluster.wait_copies("/movie.mp4", 3, secs(15));
    let fourth = cluster.add_keeper();
    assert!(cluster.chunk_files(fourth).is_empty(), "nothing is missing yet");
    cluster.keeper(0).kill();
    cluster.wait_live(3);
    cluster.wait_copies("/movie.mp4", 3, secs(20));
    assert!(!cluster.chunk_files(fourth).is_empty());
    let mount = cluster.mount();
    film::same(&film::small(), &mount.path("movie.mp4"));

    // When the dead one comes back there is a copy too many, and it is trimmed.
    cluster.keeper(0).restart();
    cluster.wait_live(4);
    wait_until(secs(30), "surplus copies are gone", || {
        let files: usize = (0..4).map(|i| cluster.chunk_files(i).len()).sum();
        files == 3 * cluster.live_copies("/movie.mp4").len()
    });
    film::same(&film::small(), &mount.path("movie.mp4"));
}

#[test]
fn the_chunks_of_a_removed_file_are_collected() {
    let mut cluster = Cluster::start();
    let mount = cluster.mount();
    fs::copy(film::small(), mount.path("movie.mp4")).unwrap();
    cluster.wait_copies("/movie.mp4", 3, secs(15));
    fs::remove_file(mount.path("movie.mp4")).unwrap();
    wait_until(secs(60), "the chunk files are gone", || (0..3).all(|i| cluster.chunk_files(i).is_empty()));
    assert_eq!((cluster.status("files"), cluster.status("chunks"), cluster.status("bytes")), (0, 0, 0));
}

#[test]
fn dfs_put_says_soon_that_no_keeper_is_live() {
    let mut cluster = Cluster::builder().keepers(1).start();
    cluster.keeper(0).kill();
    cluster.wait_live(0);
    let begun = Instant::now();
    cluster
        .dfs(&["put", film::small().to_str().unwrap(), "/movie.mp4"])
        .one_line_error("dfs", &["no keeper is live"]);
    assert!(begun.elapsed() < secs(15), "{:?}", begun.elapsed());
}
