//! What operators order of keepers, and where copies go.
//!
//! Covers: labels, and copies in different racks, then on different hosts; `dfs drain` to the end, over restarts of
//! master and keeper, and cancelled; `dfs forget`, and what it refuses; `dfs maintenance`; a keeper that joins is used
//! at once; a data directory that was moved is the same keeper, and its surplus is trimmed.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use dfs_tests::wait::secs;
use dfs_tests::{Cluster, film, wait_for, wait_until};

/// Three keepers that have a film in chunks of 2 MiB.
fn with_film() -> Cluster {
    let cluster = Cluster::builder().chunk_size("2MiB").start();
    cluster.dfs(&["put", film::small().to_str().unwrap(), "/movie.mp4"]).ok();
    cluster.wait_copies("/movie.mp4", 3, secs(60));
    cluster
}

/// Live holders of each chunk of a file.
fn holders(cluster: &Cluster, path: &str) -> Vec<BTreeSet<u64>> {
    let mut chunks = std::collections::BTreeMap::<String, BTreeSet<u64>>::new();
    for row in cluster.lookup(path) {
        let holders = chunks.entry(row["chunk"].as_str().unwrap().to_owned()).or_default();
        if row["alive"] == true {
            holders.insert(row["keeper"].as_u64().unwrap());
        }
    }
    chunks.into_values().collect()
}

fn is_drained(cluster: &Cluster, index: usize) -> bool {
    cluster.keeper_row(index)["drained"] == true
}

#[test]
fn copies_are_in_different_racks_and_then_on_different_hosts() {
    let mut cluster = Cluster::builder().keepers(0).chunk_size("1MiB").start();
    for (rack, host) in [("1", "a"), ("1", "b"), ("2", "c"), ("2", "c")] {
        let (rack, host) = (format!("rack={rack}"), format!("host={host}"));
        cluster.add_keeper_with(&["--label", &rack, "--label", &host]);
    }
    let row = cluster.keeper_row(1);
    assert_eq!(
        (&row["labels"]["rack"], &row["labels"]["host"], &row["host"]),
        (&"1".into(), &"b".into(), &"b".into())
    );
    assert!(cluster.dfs(&["keepers"]).ok().stdout.contains("host=c,rack=2"));
    cluster.dfs(&["put", film::small().to_str().unwrap(), "/movie.mp4"]).ok();
    cluster.wait_copies("/movie.mp4", 3, secs(60));
    let rack_2 = [cluster.keeper_id(2), cluster.keeper_id(3)];
    for holders in holders(&cluster, "/movie.mp4") {
        let in_rack_2 = holders.iter().filter(|id| rack_2.contains(id)).count();
        // The third copy is on another host, which only rack 1 has.
        assert_eq!((holders.len(), in_rack_2), (3, 1), "{holders:?}, rack 2 is {rack_2:?}");
    }
    let bad = dfs_tests::run(
        cluster.scratch.command("dfs-keeper").args([
            "--data",
            "x",
            "--master",
            "127.0.0.1:1",
            "--label",
            "rack",
        ]),
        secs(20),
    );
    assert!(!bad.status.success() && bad.stderr.contains("NAME=VALUE"), "{bad:#?}");
}

#[test]
fn a_drain_outlives_restarts_ends_with_an_empty_keeper_and_then_it_can_be_forgotten() {
    let mut cluster = with_film();
    let id = cluster.keeper_id(1).to_string();
    cluster.dfs(&["forget", &id]).one_line_error("dfs", &["live", "dfs drain"]);
    cluster.dfs(&["drain", "no-such"]).one_line_error("dfs", &["no-such", "dfs keepers"]);

    // With two other keepers it cannot end, and says so.
    let told = cluster.dfs(&["drain", &id, "--no-wait"]).ok().stdout;
    assert!(told.contains("add a keeper"), "{told}");
    cluster.restart_master();
    cluster.keeper(1).kill();
    cluster.keeper(1).restart();
    cluster.wait_live(3);
    let row = cluster.keeper_row(1);
    assert!(row["draining"] == true && row["stuck"].as_str().unwrap().contains("add a keeper"), "{row}");
    // It gets nothing new, and serves what it has.
    cluster.dfs(&["put", film::small().to_str().unwrap(), "/second.mp4"]).ok();
    let id_number = cluster.keeper_id(1);
    assert!(holders(&cluster, "/second.mp4").iter().all(|holders| !holders.contains(&id_number)));
    cluster.dfs(&["drain", &id, "--cancel"]).ok();
    assert!(cluster.keeper_row(1)["draining"] == false);

    // With a third one it does.
    cluster.add_keeper();
    let told = cluster.json(&["drain", &id]);
    assert!(told["drained"] == true && told["chunks"] == 0, "{told}");
    assert!(is_drained(&cluster, 1));
    wait_until(secs(20), "its chunk files are gone", || cluster.chunk_files(1).is_empty());
    for path in ["/movie.mp4", "/second.mp4"] {
        let holders = holders(&cluster, path);
        assert!(holders.iter().all(|h| h.len() == 3 && !h.contains(&id_number)), "{holders:?}");
    }
    let told = cluster.dfs(&["forget", &id]).ok().stdout;
    assert!(told.contains("keeper-1"), "{told}");
    let status = cluster.keeper(1).wait_exit(secs(20));
    assert!(!status.success());
    assert!(cluster.keeper(1).log().contains("forgotten"));
    assert_eq!(cluster.json(&["keepers"]).as_array().unwrap().len(), 3);
    let mount = cluster.mount();
    film::same(&film::small(), &mount.path("movie.mp4"));
}

#[test]
fn a_keeper_in_maintenance_is_not_made_up_for_until_that_is_over() {
    let mut cluster = with_film();
    let fourth = cluster.add_keeper();
    let id = cluster.keeper_id(0).to_string();
    let told = cluster.json(&["maintenance", &id, "on", "--for", "30m"]);
    assert!(told["maintenance_left_ms"].as_u64().unwrap() > 1_700_000, "{told}");
    cluster.restart_master();
    cluster.wait_live(4);
    cluster.keeper(0).kill();
    cluster.wait_live(3);
    assert!(cluster.keeper_row(0)["maintenance_left_ms"].as_u64().unwrap() > 1_700_000);
    // Longer than the master is quiet after its start, and some scans more.
    std::thread::sleep(secs(8));
    assert!(cluster.chunk_files(fourth).is_empty(), "it was made up for");
    assert!(cluster.live_copies("/movie.mp4").iter().all(|(_, live)| *live == 2));
    assert_eq!(cluster.status("endangered"), 0);
    cluster.dfs(&["forget", &id]).one_line_error("dfs", &["copies of"]);

    let told = cluster.dfs(&["maintenance", &id, "off"]).ok().stdout;
    assert!(told.contains("not in maintenance"), "{told}");
    cluster.wait_copies("/movie.mp4", 3, secs(60));
    cluster.dfs(&["forget", &id]).ok();
    assert_eq!(cluster.json(&["keepers"]).as_array().unwrap().len(), 3);
}

#[test]
fn a_keeper_that_joins_is_used_at_once_and_a_moved_directory_is_the_same_keeper() {
    // Four copies are wanted, so there is something to repair as soon as there is a fourth keeper.
    let mut cluster = Cluster::builder().copies(4).chunk_size("2MiB").replicate_every("1h").start();
    cluster.dfs(&["put", film::small().to_str().unwrap(), "/movie.mp4"]).ok();
    cluster.wait_copies("/movie.mp4", 3, secs(60));
    let fourth = cluster.add_keeper();
    cluster.wait_copies("/movie.mp4", 4, secs(60));
    cluster.dfs(&["put", film::small().to_str().unwrap(), "/second.mp4"]).ok();
    cluster.wait_copies("/second.mp4", 4, secs(60));

    // Another path, port and host.
    let before = cluster.keeper_row(fourth);
    let files = cluster.chunk_files(fourth).len();
    cluster.keeper(fourth).kill();
    let moved = cluster.scratch.path("moved");
    fs::rename(cluster.keeper_data(fourth), &moved).unwrap();
    cluster.restart_keeper_as(fourth, &moved, &["--label", "host=elsewhere"]);
    let after = wait_for(secs(20), "the moved keeper is live", || {
        let rows = cluster.json(&["keepers"]);
        rows.as_array()
            .unwrap()
            .iter()
            .find(|row| row["host"] == "elsewhere" && row["alive"] == true)
            .cloned()
    });
    assert_eq!(after["keeper"], before["keeper"]);
    assert_eq!(after["data_dir"].as_str(), moved.to_str());
    assert_ne!(after["address"], before["address"]);
    cluster.wait_copies("/movie.mp4", 4, Duration::from_secs(20));
    assert_eq!(dfs_tests::cluster::files_below(&moved, ".chunk").len(), files);
}
