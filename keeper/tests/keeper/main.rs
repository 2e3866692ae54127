//! Keepers over real TCP, with a scripted master and a scripted client.

// The helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod builds;
mod client;
mod hostile;
mod master;
mod orders;
mod scrub;
mod session;
mod uploads;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dfs_keeper::{Config, Keeper, Tuning};
use dfs_proto::ids::ChunkId;
use master::Master;
use tempfile::TempDir;

/// Quick, but with room for a machine that is busy.
fn tuning() -> Tuning {
    Tuning {
        silence_timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(1),
        relay_timeout: Duration::from_secs(1),
        notice_timeout: Duration::from_secs(1),
        sync_after: Duration::from_millis(100),
    }
}

fn config(dir: &Path, master: &Master) -> Config {
    Config { reserve_bytes: Some(0), ..Config::new(dir, master.address.clone()) }
}

async fn keeper(dir: &TempDir, master: &Master) -> Keeper {
    Keeper::start_tuned(config(dir.path(), master), tuning()).await.unwrap()
}

fn data(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 131 + n / 509) as u8).collect()
}

fn chunk_file(dir: &TempDir, chunk: u64) -> PathBuf {
    dir.path().join(ChunkId(chunk).relative_path())
}

fn count_files(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

fn flip_byte(path: &Path, at: usize) {
    let mut raw = std::fs::read(path).unwrap();
    raw[at] ^= 1;
    std::fs::write(path, raw).unwrap();
}

/// Waits for a condition that must come true.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(10), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
