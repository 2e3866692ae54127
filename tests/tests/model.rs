//! Random writes, truncates and reads against a model in memory.
//!
//! Covers: read and write at any offset, truncate and extend, O_APPEND, in any order, with handles opened and closed in
//! between, while uploads are on their way; what another mount sees after close. Seeded: DFS_TEST_SEED.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use dfs_tests::{Cluster, Mount, Rng};

const OPERATIONS: usize = 2000;
const LONGEST: u64 = 3 << 20;

struct Pair {
    path: PathBuf,
    file: File,
    model: Vec<u8>,
}

impl Pair {
    fn new(path: PathBuf) -> Pair {
        let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        Pair { path, file, model: Vec::new() }
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.model.len() < end {
            self.model.resize(end, 0);
        }
        self.model[offset..end].copy_from_slice(bytes);
    }

    /// One operation on both. Says what it was.
    fn step(&mut self, rng: &mut Rng) -> String {
        let offset = rng.below(LONGEST);
        let magnitude = rng.below(18);
        let len = rng.below(1 << magnitude) as usize + 1;
        match rng.below(20) {
            0..=8 => {
                let bytes = rng.bytes(len);
                self.file.write_all_at(&bytes, offset).unwrap();
                self.put(offset as usize, &bytes);
                format!("write {len} at {offset}")
            }
            9..=10 => {
                let bytes = rng.bytes(len);
                OpenOptions::new().append(true).open(&self.path).unwrap().write_all(&bytes).unwrap();
                self.put(self.model.len(), &bytes);
                format!("append {len}")
            }
            11 => {
                self.file.set_len(offset).unwrap();
                self.model.resize(offset as usize, 0);
                format!("truncate {offset}")
            }
            12 => {
                self.file.sync_all().unwrap();
                "fsync".into()
            }
            13 => {
                self.file = OpenOptions::new().read(true).write(true).open(&self.path).unwrap();
                "reopen".into()
            }
            _ => {
                let mut got = vec![0xee; len];
                let n = self.file.read_at(&mut got, offset).unwrap();
                let from = self.model.len().min(offset as usize);
                let right = &self.model[from..self.model.len().min(offset as usize + len)];
                assert!(got[..n] == *right, "read {len} at {offset} gave other bytes ({n} of them)");
                format!("read {len} at {offset}")
            }
        }
    }
}

fn compare(pair: &Pair, other: &Mount, history: &[String]) {
    let name = pair.path.file_name().unwrap();
    // Closed, so that another mount must see it.
    drop(OpenOptions::new().write(true).open(&pair.path).unwrap());
    pair.file.sync_all().unwrap();
    for (who, path) in [("this", pair.path.clone()), ("another", other.path(name))] {
        let got = fs::read(path).unwrap();
        let at = got.iter().zip(&pair.model).position(|(a, b)| a != b);
        let last = &history[history.len().saturating_sub(30)..];
        assert!(
            at.is_none() && got.len() == pair.model.len(),
            "on {who} mount {} bytes, right are {}, first difference at {at:?}; the last operations: {last:#?}",
            got.len(),
            pair.model.len()
        );
    }
}

fn differential(chunk_size: &str, flags: &[&str], seed: u64) {
    let mut rng = Rng::seeded(seed);
    let mut cluster = Cluster::builder().chunk_size(chunk_size).start();
    let (mount, other) = (cluster.mount_with(flags), cluster.mount());
    let mut pairs = [Pair::new(mount.path("one")), Pair::new(mount.path("two"))];
    let mut history = Vec::new();
    for turn in 0..OPERATIONS {
        let which = rng.below(2) as usize;
        let what = pairs[which].step(&mut rng);
        history.push(format!("{which}: {what}"));
        if turn % 100 == 99 {
            pairs.iter().for_each(|pair| compare(pair, &other, &history));
        }
    }
    let models = pairs.map(|pair| (pair.path.file_name().unwrap().to_owned(), pair.model));
    mount.unmount();
    let fresh = cluster.mount();
    for (name, model) in models {
        assert!(fs::read(fresh.path(&name)).unwrap() == model, "{name:?} after a remount");
    }
}

#[test]
fn random_operations_give_the_same_bytes_as_a_model_in_memory() {
    differential("256KiB", &[], 20);
}

#[test]
fn random_operations_give_the_same_bytes_with_the_smallest_chunks_and_memory() {
    differential("64KiB", &["--write-buffer", "1MiB", "--cache-size", "1MiB"], 21);
}
