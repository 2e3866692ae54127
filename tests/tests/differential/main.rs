//! The same random system calls on a mount and on a local directory, under the same kernel.
//!
//! Covers: open with O_CREAT, O_EXCL, O_TRUNC, O_APPEND, O_DIRECT, O_NOFOLLOW, O_DIRECTORY; read, write, pread, pwrite, lseek with
//! holes and data, through duplicates too; truncate, fallocate, copy_file_range, fsync; mkdir, rmdir, link, unlink (of open files),
//! rename in all its forms, symlink, mknod; chmod, chown, utimensat, extended attributes; readdir and stat; mmap, shared and private,
//! for reading and writing. After each call the outcomes are compared, every 25 calls and at the end the whole trees, and
//! once more after a remount.
//!
//! DFS_TEST_DIFFERENTIAL=N is how many sequences there are, DFS_TEST_SEED=N which.

mod call;
mod machine;
mod mapping;

use std::cell::Cell;
use std::fs::create_dir;
use std::path::{Path, PathBuf};

use call::{Call, sequences};
use dfs_tests::amount::amount;
use dfs_tests::{Cluster, Mount, require_root};
use machine::{Machine, Outcome, Value};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use rustix::fs::{Mode, OFlags};

/// Calls of the longest sequence.
const LONGEST: usize = 160;
/// Nothing here moves more than a few hundred KiB.
const LONGEST_CALL: std::time::Duration = std::time::Duration::from_secs(10);
/// Calls from one comparison of the whole trees to the next.
const COMPARED_EVERY: usize = 25;

/// A mount and a local directory, for many sequences.
struct Pair {
    mount: PathBuf,
    local: PathBuf,
    direct: bool,
    sequences: Cell<u32>,
}

fn takes_direct(dir: &Path) -> bool {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::DIRECT;
    rustix::fs::open(dir.join("direct"), flags, Mode::from_raw_mode(0o600)).is_ok()
}

impl Pair {
    fn new(cluster: &Cluster, mount: &Mount) -> Pair {
        require_root();
        let local = cluster.scratch.path("local");
        create_dir(&local).unwrap();
        let direct = takes_direct(mount.dir()) && takes_direct(&local);
        Pair { mount: mount.dir().to_owned(), local, direct, sequences: Cell::new(0) }
    }

    /// Directories of their own for one more sequence.
    fn machines(&self) -> [Machine; 2] {
        self.sequences.set(self.sequences.get() + 1);
        let name = format!("sequence-{}", self.sequences.get());
        [&self.mount, &self.local].map(|dir| {
            create_dir(dir.join(&name)).unwrap();
            Machine::new(dir.join(&name), self.direct)
        })
    }

    fn play(&self, calls: &[Call]) -> Result<(), String> {
        let [mut ours, mut right] = self.machines();
        for (number, call) in calls.iter().enumerate() {
            let begun = std::time::Instant::now();
            let (got, wanted) = (ours.call(call), right.call(call));
            if begun.elapsed() > LONGEST_CALL {
                return Err(format!("call {number}, {call:?}: took {:?}", begun.elapsed()));
            }
            if got != wanted {
                return Err(format!(
                    "call {number}, {call:?}: gave {}, and not {}",
                    shown(&got),
                    shown(&wanted)
                ));
            }
            if number % COMPARED_EVERY == COMPARED_EVERY - 1 {
                same_trees(&ours, &right)
                    .map_err(|error| format!("after call {number}, {call:?}: {error}"))?;
            }
        }
        same_trees(&ours, &right).map_err(|error| format!("at the end: {error}"))
    }

    /// What is there of all sequences is the same, as another mount sees it.
    fn same_after_remount(&self, fresh: &Mount) {
        for number in 1..=self.sequences.get() {
            let name = format!("sequence-{number}");
            let trees = [fresh.dir(), &self.local].map(|dir| Machine::new(dir.join(&name), false));
            same_trees(&trees[0], &trees[1])
                .unwrap_or_else(|error| panic!("{name} after a remount: {error}"));
        }
    }
}

fn shown(outcome: &Option<Outcome>) -> String {
    match outcome {
        Some(Ok(Value::Bytes(bytes))) => {
            format!("{} bytes, {:?}...", bytes.len(), &bytes[..bytes.len().min(20)])
        }
        other => format!("{other:?}"),
    }
}

fn same_trees(ours: &Machine, right: &Machine) -> Result<(), String> {
    let (ours, right) = (ours.tree(), right.tree());
    if ours.keys().ne(right.keys()) {
        return Err(format!("there are {:?}, and not {:?}", ours.keys(), right.keys()));
    }
    for (path, (attributes, content)) in &ours {
        let (right_attributes, right_content) = &right[path];
        if attributes != right_attributes {
            return Err(format!("{}: {attributes}; and not {right_attributes}", path.display()));
        }
        if content != right_content {
            let at = content.iter().zip(right_content).position(|(a, b)| a != b);
            return Err(format!("{}: other bytes, the first at {at:?}", path.display()));
        }
    }
    Ok(())
}

fn mounted() -> (Cluster, Mount) {
    let mut cluster = Cluster::builder().keepers(2).chunk_size("64KiB").start();
    let mount = cluster.mount();
    (cluster, mount)
}

#[test]
fn random_system_calls_do_what_they_do_on_a_local_directory() {
    let seed = amount("DFS_TEST_SEED", 50);
    let cases = amount("DFS_TEST_DIFFERENTIAL", 20) as u32;
    println!("DFS_TEST_SEED={seed} DFS_TEST_DIFFERENTIAL={cases} plays this run again");
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 3_000,
        max_shrink_time: 90_000,
        ..Config::default()
    };
    let (mut cluster, mount) = mounted();
    let pair = Pair::new(&cluster, &mount);
    let played = TestRunner::new(config).run(&sequences(LONGEST), |calls| {
        let played = pair.play(&calls);
        played.inspect_err(|error| println!("{} calls: {error}", calls.len())).map_err(TestCaseError::fail)
    });
    match played {
        Ok(()) => {}
        Err(TestError::Fail(why, calls)) => panic!("{why}\nafter these calls: {calls:#?}"),
        Err(TestError::Abort(why)) => panic!("no sequence could be made: {why}"),
    }
    mount.unmount();
    let fresh = cluster.mount();
    pair.same_after_remount(&fresh);
}
