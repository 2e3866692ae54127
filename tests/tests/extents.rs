//! Operations on extents: fallocate and copy_file_range, and holes as lseek finds them.
//!
//! Covers: each mode of fallocate against what the local file system does; cp of a big file inside the mount in under a
//! second, and both copies living on by themselves; copy_file_range at any offset against a model in memory; random
//! write, punch, zero, allocate, truncate and copy against a model in memory, with another mount looking on. Seeded:
//! DFS_TEST_SEED.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Instant;

use dfs_tests::{Cluster, Mount, Rng, film, run_ok, wait::secs};
use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, seek};
use rustix::io::Errno;

const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
const ZERO: FallocateFlags = FallocateFlags::ZERO_RANGE;
const ZERO_AND_KEEP: FallocateFlags = ZERO.union(FallocateFlags::KEEP_SIZE);

fn mounted() -> (Cluster, Mount) {
    let mut cluster = Cluster::builder().chunk_size("256KiB").start();
    let mount = cluster.mount();
    (cluster, mount)
}

fn open(path: &Path) -> File {
    File::options().create(true).truncate(false).read(true).write(true).open(path).unwrap()
}

fn with_bytes(path: &Path, bytes: &[u8]) -> File {
    let file = open(path);
    file.write_all_at(bytes, 0).unwrap();
    file
}

/// Copies all of the range, as a program does.
#[track_caller]
fn copy(from: &File, mut offset: u64, to: &File, mut target: u64, length: usize) -> Result<usize, Errno> {
    let mut copied = 0;
    while copied < length {
        match copy_file_range(from, Some(&mut offset), to, Some(&mut target), length - copied)? {
            0 => break,
            more => copied += more,
        }
    }
    Ok(copied)
}

/// Where data begins and ends, as lseek says.
fn data(file: &File) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        match seek(file, SeekFrom::Data(at)) {
            Ok(start) => {
                at = seek(file, SeekFrom::Hole(start)).unwrap();
                found.push((start, at));
            }
            Err(Errno::NXIO) => return found,
            Err(error) => panic!("SEEK_DATA from {at}: {error}"),
        }
    }
}

#[test]
fn every_mode_of_fallocate_does_what_the_local_file_system_does() {
    let (_cluster, mount) = mounted();
    let local = tempfile::tempdir().unwrap();
    let bytes = Rng::new(30).bytes(300_000);
    let none = FallocateFlags::empty();
    let collapse = FallocateFlags::COLLAPSE_RANGE;
    let cases = [
        (none, 0, 100_000),
        (none, 250_000, 150_000),
        (none, 400_000, 1),
        (FallocateFlags::KEEP_SIZE, 350_000, 100_000),
        (PUNCH, 10_000, 1),
        (PUNCH, 4096, 8192),
        (PUNCH, 100_001, 77_777),
        (PUNCH, 299_000, 1_000_000),
        (PUNCH, 800_000, 1),
        (PUNCH, 0, 300_000),
        (ZERO, 5_000, 6_000),
        (ZERO, 290_000, 20_000),
        (ZERO, 500_000, 1_000),
        (ZERO_AND_KEEP, 290_000, 20_000),
        (ZERO_AND_KEEP, 0, 4096),
        (none, 0, 0),
        (PUNCH, 0, 0),
        (FallocateFlags::PUNCH_HOLE, 0, 4096),
        (PUNCH.union(ZERO), 0, 4096),
        (collapse.union(PUNCH), 0, 4096),
        (none, i64::MAX as u64, 1),
        (none, 1 << 63, 1),
    ];
    for (n, &(mode, offset, length)) in cases.iter().enumerate() {
        let told = format!("{mode:?} of {length} bytes at {offset}");
        let ours = with_bytes(&mount.path(format!("{n}")), &bytes);
        let theirs = with_bytes(&local.path().join(format!("{n}")), &bytes);
        let before = ours.metadata().unwrap();
        let right = fallocate(&theirs, mode, offset, length);
        assert_eq!(fallocate(&ours, mode, offset, length), right, "{told}");
        let (our, their) = (ours.metadata().unwrap(), theirs.metadata().unwrap());
        assert_eq!(our.len(), their.len(), "{told}");
        if right.is_ok() {
            assert!(our.modified().unwrap() >= before.modified().unwrap(), "{told}");
            assert!(our.ctime() >= before.ctime(), "{told}");
        }
        for path in [mount.path(format!("{n}")), local.path().join(format!("{n}"))] {
            let got = fs::read(path).unwrap();
            let mut expected = vec![0; their.len() as usize];
            let kept = bytes.len().min(expected.len());
            expected[..kept].copy_from_slice(&bytes[..kept]);
            if right.is_ok() && (mode.contains(PUNCH) || mode.contains(ZERO)) {
                let len = expected.len() as u64;
                expected[offset.min(len) as usize..(offset + length).min(len) as usize].fill(0);
            }
            assert!(got == expected, "{told}");
        }
    }
    // A kernel that knows of them does not even ask a FUSE file system.
    let file = with_bytes(&mount.path("whole"), &bytes);
    assert_eq!(fallocate(&file, collapse, 0, 4096), Err(Errno::OPNOTSUPP));
    assert_eq!(fallocate(&file, FallocateFlags::INSERT_RANGE, 0, 4096), Err(Errno::OPNOTSUPP));
    let reader = File::open(mount.path("whole")).unwrap();
    assert_eq!(fallocate(&reader, none, 0, 4096), Err(Errno::BADF));
}

#[test]
fn holes_are_found_give_their_room_back_and_are_seen_by_another_mount() {
    let mut cluster = Cluster::builder().chunk_size("256KiB").start();
    let (mount, other) = (cluster.mount(), cluster.mount());
    let bytes = Rng::new(31).bytes(1 << 20);
    let file = with_bytes(&mount.path("file"), &bytes);
    assert_eq!(data(&file), [(0, 1 << 20)]);
    fallocate(&file, PUNCH, 100_000, 200_000).unwrap();
    fallocate(&file, ZERO, 1_000_000, 100_000).unwrap();
    assert_eq!(data(&file), [(0, 100_000), (300_000, 1_000_000)]);
    assert_eq!(seek(&file, SeekFrom::Data(150_000)), Ok(300_000));
    assert_eq!(seek(&file, SeekFrom::Hole(300_000)), Ok(1_000_000));
    assert_eq!(seek(&file, SeekFrom::Data(1_000_000)), Err(Errno::NXIO));
    assert_eq!(seek(&file, SeekFrom::Hole(1_100_000)), Err(Errno::NXIO));
    let meta = file.metadata().unwrap();
    assert_eq!((meta.len(), meta.blocks()), (1_100_000, 800_000u64.div_ceil(512)));
    // A hole that is written to is data again, and what lies over it is not lost.
    file.write_all_at(b"again", 200_000).unwrap();
    assert_eq!(data(&file), [(0, 100_000), (200_000, 200_005), (300_000, 1_000_000)]);
    file.sync_all().unwrap();
    let there = File::open(other.path("file")).unwrap();
    assert_eq!(data(&there), data(&file));
    let mut expected = bytes.clone();
    expected.resize(1_100_000, 0);
    expected[100_000..300_000].fill(0);
    expected[200_000..200_005].copy_from_slice(b"again");
    expected[1_000_000..].fill(0);
    assert!(fs::read(other.path("file")).unwrap() == expected);
}

#[test]
fn cp_of_a_film_takes_no_time_and_both_copies_live_on_by_themselves() {
    let mut cluster = Cluster::builder().start();
    let (mount, other) = (cluster.mount(), cluster.mount());
    let original = film::long(300 << 20);
    let (first, second) = (mount.path("film.mp4"), mount.path("copy.mp4"));
    run_ok(&[Path::new("cp"), &original, &first]);
    let begun = Instant::now();
    run_ok(&[Path::new("cp"), &first, &second]);
    let took = begun.elapsed();
    println!("cp of {} bytes inside the mount took {took:?}", fs::metadata(&second).unwrap().len());
    assert!(took < secs(1), "cp inside the mount took {took:?}");
    film::same(&original, &other.path("copy.mp4"));
    assert_eq!(fs::metadata(&first).unwrap().blocks(), fs::metadata(&second).unwrap().blocks());

    // Each is changed, and the other does not notice.
    File::options().write(true).open(&second).unwrap().write_all_at(b"changed", 10 << 20).unwrap();
    film::same(&original, &first);
    File::options().write(true).open(&first).unwrap().set_len(1000).unwrap();
    let copy = File::open(&second).unwrap();
    let (mut got, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    copy.read_exact_at(&mut got, 10 << 20).unwrap();
    File::open(&original).unwrap().read_exact_at(&mut right, 10 << 20).unwrap();
    right[..7].copy_from_slice(b"changed");
    assert!(got == right);
    // And nothing is left of the source but what the copy needs.
    fs::remove_file(&first).unwrap();
    File::options()
        .write(true)
        .open(&second)
        .unwrap()
        .write_all_at(&right_bytes(&original), 10 << 20)
        .unwrap();
    film::same(&original, &other.path("copy.mp4"));
}

fn right_bytes(original: &Path) -> Vec<u8> {
    let mut bytes = vec![0; 7];
    File::open(original).unwrap().read_exact_at(&mut bytes, 10 << 20).unwrap();
    bytes
}

#[test]
fn ranges_at_any_offset_are_copied_with_what_is_not_uploaded_yet() {
    let (_cluster, mount) = mounted();
    let mut rng = Rng::new(33);
    let (bytes, old) = (rng.bytes(900_001), rng.bytes(500_000));
    let source = with_bytes(&mount.path("source"), &bytes);
    let target = with_bytes(&mount.path("target"), &old);
    // The kernel has the target's pages, old ones.
    assert!(fs::read(mount.path("target")).unwrap() == old);
    let before = target.metadata().unwrap().modified().unwrap();
    let mut expected = old.clone();
    expected.resize(123 + 700_000, 0);
    expected[123..].copy_from_slice(&bytes[4567..704_567]);
    assert_eq!(copy(&source, 4567, &target, 123, 700_000), Ok(700_000));
    let meta = target.metadata().unwrap();
    assert_eq!(meta.len(), expected.len() as u64);
    assert!(meta.modified().unwrap() > before);
    let mut got = vec![0; expected.len()];
    target.read_exact_at(&mut got, 0).unwrap();
    assert!(got == expected, "through the handle that was open");
    // At the end of the source, and beyond it.
    assert_eq!(copy(&source, 900_000, &target, 10, 100), Ok(1));
    assert_eq!(copy(&source, 900_001, &target, 10, 100), Ok(0));
    assert_eq!(copy(&source, 5_000_000, &target, 10, 100), Ok(0));
    expected[10] = bytes[900_000];
    // In one file: apart is fine, overlapping is not.
    assert_eq!(copy(&target, 0, &target, 100_000, 100_000), Ok(100_000));
    expected.copy_within(0..100_000, 100_000);
    assert_eq!(copy(&target, 0, &target, 99_999, 100_000), Err(Errno::INVAL));
    assert!(fs::read(mount.path("target")).unwrap() == expected);
    // What is written right after it wins, as does what was written right before.
    target.write_all_at(b"before", 50).unwrap();
    assert_eq!(copy(&source, 0, &target, 53, 10), Ok(10));
    target.write_all_at(b"after", 60).unwrap();
    expected[50..56].copy_from_slice(b"before");
    expected[53..63].copy_from_slice(&bytes[..10]);
    expected[60..65].copy_from_slice(b"after");
    assert!(fs::read(mount.path("target")).unwrap() == expected);
    let reader = File::open(mount.path("target")).unwrap();
    assert_eq!(copy(&source, 0, &reader, 0, 10), Err(Errno::BADF));
}

#[test]
fn a_copy_of_more_extents_than_one_request_moves_is_whole() {
    let (_cluster, mount) = mounted();
    let source = open(&mount.path("source"));
    // Single bytes that do not touch: an extent each.
    let count = 10_000;
    for n in 0..count {
        source.write_all_at(&[n as u8 | 1], n * 3).unwrap();
    }
    let target = open(&mount.path("target"));
    let length = (count * 3 - 2) as usize;
    assert_eq!(copy(&source, 0, &target, 7, length), Ok(length));
    let (from, to) = (fs::read(mount.path("source")).unwrap(), fs::read(mount.path("target")).unwrap());
    assert!(to[..7] == [0; 7] && to[7..] == from[..]);
    assert_eq!(target.metadata().unwrap().blocks(), count.div_ceil(512));
}

struct Pair {
    name: &'static str,
    file: File,
    model: Vec<u8>,
}

impl Pair {
    fn grow(&mut self, end: usize) {
        self.model.resize(self.model.len().max(end), 0);
    }
}

fn step(pairs: &mut [Pair; 2], rng: &mut Rng) -> String {
    const LONGEST: u64 = 1 << 20;
    let (i, offset) = (rng.below(2) as usize, rng.below(LONGEST));
    let magnitude = rng.below(19);
    let length = rng.below(1 << magnitude) + 1;
    let (start, end) = (offset as usize, (offset + length) as usize);
    let pair = &mut pairs[i];
    match rng.below(20) {
        0..=6 => {
            let bytes = rng.bytes(length as usize);
            pair.file.write_all_at(&bytes, offset).unwrap();
            pair.grow(end);
            pair.model[start..end].copy_from_slice(&bytes);
            format!("{i}: write {length} at {offset}")
        }
        7 => {
            pair.file.set_len(offset).unwrap();
            pair.model.resize(start, 0);
            format!("{i}: truncate {offset}")
        }
        n @ 8..=11 => {
            let mode = [PUNCH, ZERO, ZERO_AND_KEEP, FallocateFlags::empty()][n as usize - 8];
            fallocate(&pair.file, mode, offset, length).unwrap();
            if !mode.contains(FallocateFlags::KEEP_SIZE) {
                pair.grow(end);
            }
            if n != 11 {
                let size = pair.model.len();
                pair.model[start.min(size)..end.min(size)].fill(0);
            }
            format!("{i}: {mode:?} {length} at {offset}")
        }
        12..=15 => {
            let (j, to) = (rng.below(2) as usize, rng.below(LONGEST));
            let clipped = end.min(pairs[i].model.len()).saturating_sub(start);
            // Within one file the copy may make the source longer, so that a loop would go on with that.
            let wanted = if i == j { length.min(clipped.max(1) as u64) } else { length } as usize;
            let copied = copy(&pairs[i].file, offset, &pairs[j].file, to, wanted);
            if i == j && clipped > 0 && offset.abs_diff(to) < clipped as u64 {
                assert_eq!(copied, Err(Errno::INVAL), "{offset} to {to}, {length}");
            } else {
                assert_eq!(copied, Ok(clipped), "{offset} to {to}, {length}");
                let taken = pairs[i].model[start.min(pairs[i].model.len())..][..clipped].to_vec();
                if clipped > 0 {
                    pairs[j].grow(to as usize + clipped);
                    pairs[j].model[to as usize..][..clipped].copy_from_slice(&taken);
                }
            }
            format!("{i} -> {j}: copy {length} from {offset} to {to}")
        }
        16 => {
            pair.file.sync_all().unwrap();
            format!("{i}: fsync")
        }
        _ => {
            let mut got = vec![0xee; length as usize];
            let n = pair.file.read_at(&mut got, offset).unwrap();
            let size = pair.model.len();
            assert!(got[..n] == pair.model[start.min(size)..end.min(size)], "{i}: read {length} at {offset}");
            format!("{i}: read {length} at {offset}")
        }
    }
}

#[test]
fn random_operations_on_extents_give_the_bytes_of_a_model_in_memory() {
    let mut rng = Rng::seeded(34);
    let mut cluster = Cluster::builder().chunk_size("64KiB").start();
    let (mount, other) = (cluster.mount(), cluster.mount());
    let mut pairs = ["one", "two"].map(|name| {
        let file = open(&mount.path(name));
        Pair { name, file, model: Vec::new() }
    });
    let mut history = Vec::new();
    for turn in 1..=1500 {
        history.push(step(&mut pairs, &mut rng));
        for pair in &pairs {
            assert_eq!(pair.file.metadata().unwrap().len(), pair.model.len() as u64, "{:?}", history.last());
        }
        if turn % 50 == 0 {
            for pair in &pairs {
                pair.file.sync_all().unwrap();
                for path in [mount.path(pair.name), other.path(pair.name)] {
                    let got = fs::read(&path).unwrap();
                    let at = got.iter().zip(&pair.model).position(|(a, b)| a != b);
                    let last = &history[history.len().saturating_sub(50)..];
                    let right = at.is_none() && got.len() == pair.model.len();
                    assert!(right, "{}: first difference at {at:?}; {last:#?}", path.display());
                }
            }
        }
    }
}
