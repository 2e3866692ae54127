//! Bytes that rot on a keeper's disk are never seen by a reader, and are replaced.
//!
//! Covers: flip one byte of a chunk file on one keeper, `cmp` still says same; a bad copy is reported to the master,
//! which has it repaired; what does not verify is quarantined.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use dfs_tests::cluster::files_below;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, film, run, wait_until};

/// Bytes of a chunk file before its data.
const HEADER: u64 = 4096;
const BLOCK: u64 = 64 * 1024;

fn flip(chunk: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(chunk).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
}

fn film_in_three_copies() -> Cluster {
    let cluster = Cluster::start();
    cluster.dfs(&["put", film::small().to_str().unwrap(), "/movie.mp4"]).ok();
    cluster.wait_copies("/movie.mp4", 3, secs(15));
    cluster
}

fn quarantined(cluster: &Cluster) -> usize {
    (0..3).map(|i| files_below(&cluster.keeper_data(i).join("quarantine"), "").len()).sum()
}

#[test]
fn with_one_byte_flipped_on_one_keeper_cmp_says_same() {
    let mut cluster = film_in_three_copies();
    let name = cluster.chunk_files(0)[0].file_name().unwrap().to_owned();
    let mut came_upon = 0;
    // The same byte on each keeper in turn: one of the three is the one that the byte is first asked from.
    for keeper in 0..3 {
        let chunk = cluster.chunk_files(keeper).into_iter().find(|path| path.ends_with(&name)).unwrap();
        let right = fs::read(&chunk).unwrap();
        flip(&chunk, HEADER + 3 * BLOCK + 77);
        let mount = cluster.mount();
        film::same(&film::small(), &mount.path("movie.mp4"));
        film::play(&mount.path("movie.mp4"), &["--start=50%", "--length=2"]);
        // Not by what is in quarantine, which goes when there are good copies.
        came_upon += usize::from(mount.process.log().contains("bad copy reported"));
        mount.unmount();
        cluster.wait_copies("/movie.mp4", 3, secs(30));
        // A copy that no reader came upon is still as it was flipped; it is put right for the next turn.
        if quarantined(&cluster) == 0 && fs::read(&chunk).unwrap() != right {
            flip(&chunk, HEADER + 3 * BLOCK + 77);
        }
    }
    assert!(came_upon >= 1, "nobody came upon a flipped byte");
}

#[test]
fn a_rotten_copy_is_quarantined_and_replaced_by_a_right_one() {
    let mut cluster = film_in_three_copies();
    let mut chunks = Vec::new();
    for chunk in cluster.chunk_files(0) {
        let right = fs::read(&chunk).unwrap();
        let blocks = (right.len() as u64 - HEADER).div_ceil(BLOCK);
        (0..blocks).for_each(|block| flip(&chunk, HEADER + block * BLOCK));
        assert_ne!(fs::read(&chunk).unwrap(), right);
        chunks.push((chunk, right));
    }
    let mount = cluster.mount();
    film::same(&film::small(), &mount.path("movie.mp4"));
    wait_until(secs(30), "every rotten copy is replaced", || {
        chunks.iter().all(|(chunk, right)| fs::read(chunk).is_ok_and(|now| now == *right))
    });
    assert_eq!(quarantined(&cluster), chunks.len());
    cluster.wait_copies("/movie.mp4", 3, secs(15));
}

#[test]
fn a_chunk_file_with_a_broken_header_or_cut_short_or_gone_is_replaced_too() {
    let mut cluster = film_in_three_copies();
    let chunks = cluster.chunk_files(2);
    let right: Vec<Vec<u8>> = chunks.iter().map(|chunk| fs::read(chunk).unwrap()).collect();
    assert!(chunks.len() >= 3, "the film has three chunks");
    flip(&chunks[0], 1);
    File::options().write(true).open(&chunks[1]).unwrap().set_len(HEADER + BLOCK).unwrap();
    fs::remove_file(&chunks[2]).unwrap();
    let mount = cluster.mount();
    film::same(&film::small(), &mount.path("movie.mp4"));
    wait_until(secs(30), "every bad copy is replaced", || {
        chunks.iter().zip(&right).all(|(chunk, right)| fs::read(chunk).is_ok_and(|now| now == *right))
    });
}

#[test]
fn when_every_copy_is_rotten_the_reader_gets_an_error_and_no_wrong_byte() {
    let mut cluster = film_in_three_copies();
    for keeper in 0..3 {
        flip(&cluster.chunk_files(keeper)[0], HEADER + 12_345);
    }
    let mount = cluster.mount();
    let to = cluster.scratch.path("out.mp4");
    let mut cp = std::process::Command::new("cp");
    let ran = run(cp.arg(mount.path("movie.mp4")).arg(&to), secs(60));
    assert!(!ran.status.success(), "cp of a lost chunk succeeded");
    let (got, right) = (fs::read(&to).unwrap_or_default(), fs::read(film::small()).unwrap());
    assert!(right.starts_with(&got), "wrong bytes were handed out");
    wait_until(secs(20), "status says that a chunk is lost", || cluster.status("lost") == 1);
    let status = cluster.json(&["status"]);
    assert_eq!(status["lost_files"][0], "/movie.mp4", "{status:#}");
}
