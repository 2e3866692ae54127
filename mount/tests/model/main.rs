//! The file system's logic against a naive tree in memory.
//!
//! Random sequences of operations, by two mounts of a real master and real keepers in this process, with restarts of the master
//! and remounts among them. After each step the outcome, to the errno, and the whole trees are compared. A sequence that fails is
//! made shorter by proptest and printed as a list of steps, which can be pasted into `regressions`.
//!
//! - `tree`, `bytes`: the naive file system.
//! - `operation`: what is done, as data, and the generator.
//! - `world`, `case`, `apply`, `compare`: the real one beside the naive one.
//!
//! DFS_TEST_MODEL_CASES=N is how many sequences there are (default 40), DFS_TEST_SEED=N which.

// A test that cannot be set up has failed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod apply;
mod bytes;
mod case;
#[path = "../write/cluster.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod cluster;
mod compare;
mod operation;
mod regressions;
mod tree;
mod world;

use std::sync::Mutex;
use std::time::Duration;

use operation::{Step, sequences};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use world::World;

/// Steps of the longest sequence.
const LONGEST: usize = 50;
/// No sequence takes longer, or something hangs.
const DEADLINE: Duration = Duration::from_secs(60);
/// A world gets old.
const SEQUENCES_OF_A_WORLD: usize = 200;

/// Runs sequences, one after the other, in one world as long as nothing fails.
struct Player {
    runtime: tokio::runtime::Runtime,
    world: Mutex<Option<(World, usize)>>,
}

impl Player {
    fn new() -> Player {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Player { runtime: runtime.unwrap(), world: Mutex::default() }
    }

    fn play(&self, steps: &[Step]) -> Result<(), String> {
        let taken = self.world.lock().unwrap().take();
        self.runtime.block_on(async {
            let (mut world, count) = match taken {
                Some((world, count)) if count < SEQUENCES_OF_A_WORLD => (world, count),
                _ => (World::start().await, 0),
            };
            let ran = tokio::time::timeout(DEADLINE, case::run(&mut world, steps)).await;
            ran.unwrap_or_else(|_| Err(format!("the sequence was not over after {DEADLINE:?}")))?;
            *self.world.lock().unwrap() = Some((world, count + 1));
            Ok(())
        })
    }
}

fn fails(why: &str, steps: &[Step]) -> ! {
    panic!("{why}\nafter these steps: {steps:#?}");
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn random_sequences_on_two_mounts_do_what_a_naive_tree_does() {
    let seed = from_environment("DFS_TEST_SEED", 30);
    let cases = from_environment("DFS_TEST_MODEL_CASES", 40) as u32;
    println!("DFS_TEST_SEED={seed} DFS_TEST_MODEL_CASES={cases} plays this run again");
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 3_000,
        max_shrink_time: 90_000,
        ..Config::default()
    };
    let player = Player::new();
    let played = TestRunner::new(config)
        .run(&sequences(LONGEST), |steps| player.play(&steps).map_err(TestCaseError::fail));
    match played {
        Ok(()) => {}
        Err(TestError::Fail(why, steps)) => fails(&why.to_string(), &steps),
        Err(TestError::Abort(why)) => panic!("no sequence could be made: {why}"),
    }
}
