//! Memory stays bounded, whatever is copied.
//!
//! Covers: copying a file in and out leaves dfs-mount's resident size under `--cache-size` + `--write-buffer` +
//! 100 MiB, and a keeper's and the master's under 200 MiB; an mp4 of over 1 GiB compares equal after a remount and plays
//! with seeks. The file has 1 GiB; DFS_TEST_BIG=10GiB is the long form.

use std::fs;
use std::path::Path;
use std::time::Duration;

use dfs_proto::units::Size;
use dfs_tests::{Cluster, film, run};

const MIB: u64 = 1 << 20;

#[test]
fn a_film_of_over_1_gib_goes_in_and_out_in_bounded_memory() {
    let big: Size = std::env::var("DFS_TEST_BIG").unwrap_or("1GiB".into()).parse().unwrap();
    let source = film::long(big.0);
    let mut cluster = Cluster::start();
    let flags = ["--cache-size", "64MiB", "--write-buffer", "64MiB"];
    let allowed = (64 + 64 + 100) * MIB;
    let limit = Duration::from_secs(60 + big.0 / (10 * MIB));

    let mount = cluster.mount_with(&flags);
    let copy = |from: &Path, to: &Path| run(std::process::Command::new("cp").args([from, to]), limit).ok();
    copy(&source, &mount.path("movie.mp4"));
    let writing = mount.process.peak_rss();
    mount.unmount();

    let mount = cluster.mount_with(&flags);
    let back = cluster.scratch.path("back.mp4");
    copy(&mount.path("movie.mp4"), &back);
    film::same(&source, &back);
    fs::remove_file(&back).unwrap();
    film::play_with_seeks(&mount.path("movie.mp4"));
    let reading = mount.process.peak_rss();
    let mut servers: Vec<u64> = (0..3).map(|i| cluster.keeper(i).peak_rss()).collect();
    servers.push(cluster.master.peak_rss());
    println!(
        "peaks in MiB: mount writing {}, mount reading {}, keepers and master {:?}",
        writing / MIB,
        reading / MIB,
        servers.iter().map(|bytes| bytes / MIB).collect::<Vec<_>>()
    );
    assert!(writing < allowed, "dfs-mount had {} MiB while writing", writing / MIB);
    assert!(reading < allowed, "dfs-mount had {} MiB while reading", reading / MIB);
    assert!(servers.iter().all(|bytes| *bytes < 200 * MIB), "keepers and master had {servers:?} bytes");
}
