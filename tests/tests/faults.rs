//! Nothing lost, nothing wrong, nothing stuck, whatever fails: random faults while programs work on two mounts, and a
//! checker that reads everything afterwards. `dfs_tests::faults` says how.
//!
//! Covers: SIGKILL of keepers, master and mounts, and their restart; SIGSTOP and SIGCONT; links cut one way, slow, and
//! connections reset; a keeper's disk that is full; chunk files that are damaged, cut short, removed.
//! DFS_TEST_SEED plays a run again. DFS_TEST_FAULTS=30 does 30 rounds with seeds of their own, each of a minute.

#[path = "faults/gaps.rs"]
mod gaps;

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use dfs_tests::cluster::Builder;
use dfs_tests::faults::plan::{Fault, Recipe, Target, plan};
use dfs_tests::faults::round;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, Rng, require_root, run_ok};

const KEEPERS: usize = 4;
const MOUNTS: usize = 2;

fn builder() -> Builder {
    require_root();
    Cluster::builder().keepers(KEEPERS).chunk_size("1MiB").compact_after("2s")
}

/// Rounds with these faults: one short one, or as DFS_TEST_FAULTS says.
fn rounds(mut cluster: Cluster, faults: &[Fault], default_seed: u64) {
    let mut mounts: Vec<Mount> = (0..MOUNTS).map(|_| cluster.mount()).collect();
    let mut rng = Rng::seeded(default_seed);
    let long: Option<u64> = std::env::var("DFS_TEST_FAULTS").ok().and_then(|count| count.parse().ok());
    let (length, longest_stop) = if long.is_some() { (60, 30) } else { (14, 4) };
    let recipe = Recipe { faults: faults.to_vec(), length: secs(length), longest_stop: secs(longest_stop) };
    let begun = Instant::now();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for number in 0..long.unwrap_or(1) {
        let seed = rng.bits();
        let events = plan(&recipe, &mut Rng::new(seed));
        let report = round::run(&mut cluster, &mut mounts, number, seed, &events);
        report.faults.into_iter().for_each(|(what, count)| *counts.entry(what).or_default() += count);
        println!("after {} rounds and {} s: {counts:?}", number + 1, begun.elapsed().as_secs());
    }
}

#[test]
fn processes_are_killed_and_stopped_and_nothing_is_lost_or_wrong() {
    let keepers = (0..KEEPERS).map(Target::Keeper);
    let others = [Target::Master, Target::Mount(0), Target::Mount(1)];
    let faults: Vec<Fault> =
        keepers.chain(others).flat_map(|target| [Fault::Kill(target), Fault::Stop(target)]).collect();
    rounds(builder().start(), &faults, 1);
}

#[test]
fn links_are_cut_slow_and_reset_and_nothing_is_lost_or_wrong() {
    let keepers = (0..KEEPERS).map(Target::Keeper);
    let all: Vec<Target> = keepers.chain([Target::Master, Target::Mount(0), Target::Mount(1)]).collect();
    let mut faults: Vec<Fault> = all.iter().map(|target| Fault::Slow(*target)).collect();
    for a in &all {
        let others = all.iter().filter(|b| *b != a);
        faults.extend(others.flat_map(|b| [Fault::Cut(*a, *b), Fault::Reset(*a, *b)]));
    }
    rounds(builder().network().start(), &faults, 2);
}

#[test]
fn a_disk_fills_up_and_chunk_files_rot_and_nothing_is_lost_or_wrong() {
    let mut cluster = builder().keepers(0).start();
    let disk = cluster.keeper_data(0);
    fs::create_dir(&disk).unwrap();
    // 64 MiB of it are the keeper's reserve.
    run_ok(&["mount", "-t", "tmpfs", "-o", "size=256m", "none", disk.to_str().unwrap()]);
    (0..KEEPERS).for_each(|_| {
        cluster.add_keeper();
    });
    // All that rots is on one keeper, so that there is always a good copy.
    let mut faults = vec![Fault::Rot(3); 8];
    faults.extend([Fault::Fill(0), Fault::Kill(Target::Keeper(1)), Fault::Stop(Target::Keeper(2))]);
    rounds(cluster, &faults, 3);
}
