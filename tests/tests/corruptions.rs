//! Many corruptions of every kind under the keepers' data directories: all found, all repaired, none served.
//!
//! In rounds: copies are spoiled, never more than one of a chunk; everything is read through a fresh mount and compared;
//! `dfs scrub` finds what no read came upon; and every chunk file has its right bytes again. Long form:
//! DFS_TEST_CORRUPTIONS=200.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use dfs_tests::amount::amount;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Rng, wait_until};

const KEEPERS: usize = 3;
const HEADER: u64 = 4096;
const FILES: u64 = 24;
const LARGEST: u64 = 900 << 10;
/// Corruptions in one round.
const ROUND: usize = 8;

/// What is done to a copy.
#[derive(Clone, Copy, Debug)]
enum Kind {
    FlipData,
    FlipHeader,
    Truncate,
    Remove,
    Extend,
    /// Exchanged with another of the same keeper: two corruptions.
    Swap,
    /// Another chunk's file is put in its place.
    Replace,
}

const KINDS: [Kind; 7] =
    [Kind::FlipData, Kind::FlipHeader, Kind::Truncate, Kind::Remove, Kind::Extend, Kind::Swap, Kind::Replace];

fn spoil(kind: Kind, path: &Path, other: &Path, rng: &mut Rng) {
    let file = || File::options().read(true).write(true).open(path).unwrap();
    let size = fs::metadata(path).unwrap().len();
    let flip = |at: u64| {
        let mut byte = [0];
        file().read_exact_at(&mut byte, at).unwrap();
        file().write_all_at(&[byte[0] ^ 0x55], at).unwrap();
    };
    match kind {
        Kind::FlipData => flip(HEADER + rng.below(size - HEADER)),
        Kind::FlipHeader => flip(rng.below(HEADER)),
        Kind::Truncate => file().set_len(rng.below(size)).unwrap(),
        Kind::Remove => fs::remove_file(path).unwrap(),
        Kind::Extend => file().set_len(size + 1 + rng.below(100_000)).unwrap(),
        Kind::Swap => {
            let aside = path.with_extension("aside");
            fs::rename(path, &aside).unwrap();
            fs::rename(other, path).unwrap();
            fs::rename(&aside, other).unwrap();
        }
        Kind::Replace => drop(fs::copy(other, path).unwrap()),
    }
}

/// Spoils up to `count` copies, each of another chunk. Returns which.
fn spoil_some(all: &[BTreeMap<String, PathBuf>], count: usize, rng: &mut Rng) -> Vec<PathBuf> {
    let names: Vec<&String> = all[0].keys().collect();
    let mut left: BTreeSet<usize> = (0..names.len()).collect();
    let mut pick = |rng: &mut Rng| {
        let at = *left.iter().nth(rng.below(left.len() as u64) as usize).unwrap();
        left.remove(&at);
        names[at]
    };
    let mut spoiled = Vec::new();
    while spoiled.len() < count {
        let keeper = &all[rng.below(KEEPERS as u64) as usize];
        let (path, other) = (&keeper[pick(rng)], &keeper[pick(rng)]);
        let kind = KINDS[rng.below(KINDS.len() as u64) as usize];
        if matches!(kind, Kind::Swap) && spoiled.len() + 2 > count {
            continue;
        }
        spoil(kind, path, other, rng);
        spoiled.push(path.clone());
        if matches!(kind, Kind::Swap) {
            spoiled.push(other.clone());
        }
    }
    spoiled
}

/// How often keepers said that a copy was bad or gone.
fn said_bad(cluster: &mut Cluster) -> usize {
    let said = |log: String| {
        log.lines()
            .filter(|l| l.contains("chunk quarantined") || l.contains("removed this chunk's file"))
            .count()
    };
    (0..KEEPERS).map(|keeper| said(cluster.keeper(keeper).log())).sum()
}

#[test]
fn every_corruption_is_found_and_repaired_and_none_is_served() {
    let total = amount("DFS_TEST_CORRUPTIONS", 24) as usize;
    let mut rng = Rng::seeded(41);
    let flags = ["--scrub-every", "off"];
    let mut cluster =
        Cluster::builder().chunk_size("256KiB").compact_after("off").keeper_flags(&flags).start();
    let mount = cluster.mount();
    let mut contents = BTreeMap::new();
    for number in 0..FILES {
        let name = format!("file-{number}");
        let length = 1 + rng.below(LARGEST) as usize;
        let bytes = rng.bytes(length);
        fs::write(mount.path(&name), &bytes).unwrap();
        contents.insert(name, bytes);
    }
    mount.unmount();
    wait_until(secs(60), "three copies of everything", || {
        cluster.status("under_replicated") == 0 && cluster.status("copies") == 3 * cluster.status("chunks")
    });
    let all: Vec<BTreeMap<String, PathBuf>> = (0..KEEPERS)
        .map(|keeper| {
            let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
            cluster.chunk_files(keeper).into_iter().map(|path| (name(&path), path)).collect()
        })
        .collect();
    let right: Vec<(PathBuf, Vec<u8>)> =
        all.iter().flat_map(BTreeMap::values).map(|path| (path.clone(), fs::read(path).unwrap())).collect();

    let (mut injected, mut by_reads, mut served_wrong) = (0, 0, 0);
    while injected < total {
        let spoiled = spoil_some(&all, ROUND.min(total - injected), &mut rng);
        injected += spoiled.len();
        let before = said_bad(&mut cluster);
        let mount = cluster.mount();
        for (name, bytes) in &contents {
            served_wrong += usize::from(fs::read(mount.path(name)).unwrap() != *bytes);
        }
        by_reads += said_bad(&mut cluster) - before;
        mount.unmount();
        let scrub = cluster.dfs(&["scrub"]);
        assert!(matches!(scrub.status.code(), Some(0 | 3)), "{scrub:#?}");
        wait_until(secs(60), "every chunk file has its right bytes again", || {
            right.iter().all(|(path, right)| fs::read(path).is_ok_and(|now| now == *right))
        });
    }
    let found = said_bad(&mut cluster);
    println!(
        "{injected} corruptions injected, {found} found ({by_reads} by reads, {} by scrub), {injected} repaired, {served_wrong} served",
        found - by_reads
    );
    assert_eq!((found, served_wrong), (total, 0));
    assert_eq!((cluster.status("lost"), cluster.status("under_replicated")), (0, 0));
    wait_until(secs(30), "quarantine is empty", || {
        (0..KEEPERS).all(|keeper| cluster.keeper_row(keeper)["quarantine_files"] == 0)
    });
    let reads = cluster.mount();
    for (name, bytes) in &contents {
        assert!(fs::read(reads.path(name)).unwrap() == *bytes, "{name} is not what was written");
    }
}
