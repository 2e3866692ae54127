//! What happens to a keeper's directory: files rot, the disk fills up.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::cluster::Cluster;
use crate::random::Rng;

/// A chunk file is left alone until it is as old: its copies may be on their way.
const SETTLED: Duration = Duration::from_secs(2);

/// Takes up the room that is left.
const BALLOON: &str = "balloon";

/// Damages or removes one chunk file of a keeper, of which two other keepers have a copy; says how. `None`: there is none.
pub(super) fn rot(cluster: &Cluster, keeper: usize, rng: &mut Rng) -> Option<&'static str> {
    let names = |index: usize| -> BTreeSet<OsString> {
        cluster.chunk_files(index).iter().filter_map(|path| path.file_name().map(OsString::from)).collect()
    };
    let others: Vec<_> = (0..cluster.keeper_count()).filter(|other| *other != keeper).map(names).collect();
    let safe = |path: &PathBuf| {
        let copies = others.iter().filter(|names| path.file_name().is_some_and(|name| names.contains(name)));
        let made = fs::metadata(path).and_then(|meta| meta.modified());
        copies.count() >= 2 && made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > SETTLED))
    };
    let candidates: Vec<PathBuf> = cluster.chunk_files(keeper).into_iter().filter(safe).collect();
    if candidates.is_empty() {
        return None;
    }
    let path = &candidates[rng.below(candidates.len() as u64) as usize];
    // The keeper may be removing it just now, which is as well.
    let length = fs::metadata(path).ok()?.len();
    match rng.below(3) {
        0 => fs::remove_file(path).ok().map(|()| "a chunk file removed"),
        1 => {
            let file = File::options().write(true).open(path).ok()?;
            file.set_len(rng.below(length)).ok().map(|()| "a chunk file cut short")
        }
        _ => {
            let file = File::options().read(true).write(true).open(path).ok()?;
            let (at, mut byte) = (rng.below(length), [0]);
            file.read_exact_at(&mut byte, at).ok()?;
            file.write_all_at(&[byte[0] ^ 1 << rng.below(8)], at).ok().map(|()| "a byte flipped")
        }
    }
}

/// Takes up all room of the file system that a data directory is on.
pub fn fill(dir: &Path) {
    let space = statvfs(dir).unwrap();
    let balloon = File::create(dir.join(BALLOON)).unwrap();
    // The keeper may be quicker, and take some of it first.
    let _ = fallocate(&balloon, FallocateFlags::empty(), 0, (space.f_bavail * space.f_frsize).max(1));
}

/// Gives it back.
pub fn empty(dir: &Path) {
    fs::remove_file(dir.join(BALLOON)).unwrap();
}
