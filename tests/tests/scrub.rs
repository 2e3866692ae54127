//! Scrubs: bytes that rot where nobody reads are found, replaced by good ones, and what was bad is kept until then.
//!
//! Covers: `dfs scrub` with its progress, summary and exit code; the scrub that a keeper does by itself; quarantine that
//! is shown, kept while it is the last resort, and emptied when all copies are there.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use dfs_tests::cluster::{Builder, files_below};
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Ran, film, wait_until};

/// Bytes of a chunk file before its data.
const HEADER: u64 = 4096;

fn flip(chunk: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(chunk).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
}

fn film_in_three_copies(builder: Builder) -> Cluster {
    let cluster = builder.chunk_size("1MiB").start();
    cluster.dfs(&["put", film::small().to_str().unwrap(), "/movie.mp4"]).ok();
    cluster.wait_copies("/movie.mp4", 3, secs(15));
    cluster
}

fn quarantined(cluster: &Cluster, keeper: usize) -> usize {
    files_below(&cluster.keeper_data(keeper).join("quarantine"), "").len()
}

fn scrub(cluster: &Cluster, args: &[&str]) -> Ran {
    cluster.dfs(&[&["scrub", "--json"], args].concat())
}

fn all_right(right: &[(PathBuf, Vec<u8>)]) -> bool {
    right.iter().all(|(path, right)| fs::read(path).is_ok_and(|now| now == *right))
}

#[test]
fn dfs_scrub_finds_what_is_bad_where_nobody_reads_and_it_is_replaced() {
    let mut cluster = film_in_three_copies(Cluster::builder().keeper_flags(&["--scrub-every", "off"]));
    let sum = |stdout: &str, field: &str| -> u64 {
        let rows: serde_json::Value = serde_json::from_str(stdout).unwrap();
        rows.as_array().unwrap().iter().map(|row| row[field].as_u64().unwrap()).sum()
    };
    let clean = scrub(&cluster, &[]).ok();
    let files: Vec<PathBuf> = (0..3).flat_map(|keeper| cluster.chunk_files(keeper)).collect();
    assert_eq!((sum(&clean.stdout, "bad"), sum(&clean.stdout, "chunks")), (0, files.len() as u64));
    assert_eq!(sum(&clean.stdout, "bytes"), 3 * fs::metadata(film::small()).unwrap().len());

    let spoiled = cluster.chunk_files(0);
    let right: Vec<_> = spoiled.iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    flip(&spoiled[0], HEADER + 5);
    flip(&spoiled[1], 20);
    fs::remove_file(&spoiled[2]).unwrap();
    // Others have nothing bad.
    scrub(&cluster, &[&cluster.keeper_id(1).to_string()]).ok();
    let found = scrub(&cluster, &[]);
    assert_eq!(found.status.code(), Some(3), "{found:#?}");
    assert_eq!(sum(&found.stdout, "bad"), 3);
    wait_until(secs(30), "every bad copy is replaced", || all_right(&right));
    wait_until(secs(30), "quarantine is emptied", || quarantined(&cluster, 0) == 0);
    wait_until(secs(5), "dfs keepers shows that", || cluster.keeper_row(0)["quarantine_bytes"] == 0);
    scrub(&cluster, &[]).ok();
    cluster.dfs(&["scrub", "99"]).one_line_error("dfs", &["keeper 99", "dfs keepers"]);
    cluster.keeper(2).kill();
    cluster.wait_live(2);
    cluster.dfs(&["scrub", &cluster.keeper_id(2).to_string()]).one_line_error("dfs", &["not live"]);
    scrub(&cluster, &[]).ok();
}

#[test]
fn a_keeper_scrubs_by_itself_and_the_last_resort_stays_in_quarantine() {
    let mut cluster = film_in_three_copies(Cluster::builder().keeper_flags(&["--scrub-every", "2s"]));
    let spoiled = cluster.chunk_files(1);
    let right: Vec<_> = spoiled.iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    for path in &spoiled {
        flip(path, HEADER + 77);
    }
    wait_until(secs(30), "every bad copy is replaced, though nobody read one", || all_right(&right));
    wait_until(secs(30), "quarantine is emptied", || quarantined(&cluster, 1) == 0);

    // Now every copy of one chunk: nothing is left but what is in quarantine.
    let name = spoiled[0].file_name().unwrap().to_owned();
    for keeper in 0..3 {
        let files = cluster.chunk_files(keeper);
        flip(files.iter().find(|path| path.ends_with(&name)).unwrap(), HEADER + 99);
    }
    wait_until(secs(30), "the chunk is lost", || cluster.status("lost") == 1);
    assert_eq!(cluster.json(&["status"])["lost_files"][0], "/movie.mp4");
    wait_until(secs(10), "dfs keepers shows what is in quarantine", || {
        cluster.keeper_row(0)["quarantine_bytes"].as_u64().unwrap() > HEADER
    });
    cluster.keeper(0).kill();
    cluster.keeper(0).restart();
    cluster.wait_live(3);
    cluster.dfs(&["scrub"]).ok();
    assert_eq!((0..3).map(|keeper| quarantined(&cluster, keeper)).collect::<Vec<_>>(), [1, 1, 1]);
    let mount = cluster.mount();
    let error = fs::read(mount.path("movie.mp4")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
}
