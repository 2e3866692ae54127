//! The harness of the end-to-end tests: real processes on free ports, real mounts, real films.
//!
//! - [`scratch`]: a directory for one test, and a watchdog that leaves nothing behind, however the test ends.
//! - [`process`]: one process of the system under test: started, killed, stopped, continued, restarted.
//! - [`cluster`]: a master, keepers and mounts, and what the command line says about them.
//! - [`machine`]: a fresh machine with systemd, to install the package on.
//! - [`mount`]: one mount in a directory of its own.
//! - [`netns`]: a network for one test, and cuts in it.
//! - [`run`]: a command with a deadline, and the form of a one-line error.
//! - [`terminal`]: a program on a terminal of its own.
//! - [`trace`]: the upload's seven steps, read back from the logs of several processes.
//! - [`faults`]: random faults, programs that work meanwhile, and a checker of all that they wrote and saw.
//! - [`faulty`]: a process whose disk fails, or whose clock is another.
//! - [`film`]: real mp4 files, and playing them without a screen.
//! - [`bench`]: the benchmark. [`bench_master`]: that of the master alone, with many files.
//!   [`bench_cost`]: what things cost in processor time, to see a regression.
//! - [`ports`]: where our processes listen. [`wire`]: clients that say what no program of ours would.
//! - [`random`]: seeded random numbers and bytes.
//! - [`http`]: requests. [`prometheus`]: what metrics have to look like.
//! - [`amount`]: how much a test does.
//! - [`wait`]: the one way to wait for something.
//!
//! The binaries are taken from beside the test executable, so they have to be built first: `tests/run.sh` does.
//! Everything here panics when something is not as expected: that is how a test fails.

pub mod amount;
pub mod auth;
pub mod bench;
pub mod bench_cost;
pub mod bench_master;
pub mod browser;
pub mod cluster;
pub mod faults;
pub mod faulty;
pub mod film;
pub mod http;
pub mod machine;
pub mod mount;
pub mod netns;
pub mod ports;
pub mod process;
pub mod prometheus;
pub mod random;
pub mod run;
pub mod scratch;
pub mod terminal;
pub mod trace;
pub mod wait;
pub mod wire;

pub use cluster::Cluster;
pub use machine::Machine;
pub use mount::Mount;
pub use netns::Network;
pub use process::Process;
pub use random::Rng;
pub use run::{Ran, run, run_ok};
pub use scratch::Scratch;
pub use wait::{wait_for, wait_until};

/// Ends the test with a clear message where it needs root and has it not.
pub fn require_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test mounts and changes owners and so needs root: run it as root, or with sudo -E ./tests/run.sh"
    );
}
