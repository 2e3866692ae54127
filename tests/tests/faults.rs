//! Nothing lost, nothing wrong, nothing stuck, whatever fails: random faults while programs work on two mounts, and a
//! checker that reads everything afterwards. `dfs_tests::faults` says how.
//!
//! Covers: SIGKILL of keepers, master and mounts, and their restart; SIGSTOP and SIGCONT; links cut one way, slow, and
//! connections reset; a keeper's disk that is full; chunk files that are damaged, cut short, removed.
//! DFS_TEST_SEED plays a run again. DFS_TEST_FAULTS=30 does 30 rounds with seeds of their own, each of a minute.
//! DFS_TEST_KEEPER_KILLS=1000 is for the long run of quick kills alone, which is not among the usual tests.

#[path = "faults/clocks.rs"]
mod clocks;
#[path = "faults/disks.rs"]
mod disks;
#[path = "faults/gaps.rs"]
mod gaps;

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use dfs_tests::amount::{amount, given};
use dfs_tests::cluster::Builder;
use dfs_tests::faults::plan::{Fault, Recipe, Target, kills, plan};
use dfs_tests::faults::round;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Mount, Rng, require_root, run_ok};

const KEEPERS: usize = 4;
const MOUNTS: usize = 2;
const HOUR_S: i64 = 3_600;

fn builder() -> Builder {
    require_root();
    Cluster::builder().keepers(KEEPERS).chunk_size("1MiB").compact_after("2s")
}

/// Rounds with these faults: one short one, or as DFS_TEST_FAULTS says.
fn rounds(mut cluster: Cluster, faults: &[Fault], default_seed: u64) {
    let mut mounts: Vec<Mount> = (0..MOUNTS).map(|_| cluster.mount()).collect();
    let mut rng = Rng::seeded(default_seed);
    let long = given("DFS_TEST_FAULTS");
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
    // Their clocks are an hour apart, which must make no difference.
    let apart = builder().clock("keeper-1", HOUR_S).clock("keeper-2", -HOUR_S).clock("mount-1", HOUR_S);
    rounds(apart.start(), &faults, 1);
}

/// The form that gets to large numbers: no faults but kills, one every second or so, in rounds of two and a half minutes, until
/// DFS_TEST_KEEPER_KILLS (1000) keepers and a tenth as many masters have been killed.
#[test]
#[ignore = "takes half an hour"]
fn a_thousand_keepers_and_a_hundred_masters_are_killed_and_nothing_is_lost_or_wrong() {
    let wanted: u64 = amount("DFS_TEST_KEEPER_KILLS", 1_000);
    let mut cluster = builder().start();
    let mut mounts: Vec<Mount> = (0..MOUNTS).map(|_| cluster.mount()).collect();
    let mut rng = Rng::seeded(4);
    let begun = Instant::now();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut operations: BTreeMap<(String, bool), u64> = BTreeMap::new();
    for number in 0.. {
        let count = |what: &str| counts.get(what).copied().unwrap_or(0);
        let left = wanted
            .saturating_sub(count("kill keeper"))
            .max((wanted / 10).saturating_sub(count("kill master")) * 10);
        if left == 0 {
            break;
        }
        let seed = rng.bits();
        let events = kills(KEEPERS, MOUNTS, secs(150).min(secs(20 + left * 3 / 2)), &mut Rng::new(seed));
        let report = round::run(&mut cluster, &mut mounts, number, seed, &events);
        report.faults.into_iter().for_each(|(what, count)| *counts.entry(what).or_default() += count);
        report.operations.into_iter().for_each(|(what, count)| *operations.entry(what).or_default() += count);
        println!("after {} rounds and {} s: {counts:?}", number + 1, begun.elapsed().as_secs());
    }
    println!("in all: {counts:?}\n{operations:?}");
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
