//! The programs on one mount, as threads of a worker process. Each logs all that it calls.
//!
//! - [`root`]: the directory of the round, found again after the mount has died and is back.
//! - [`whole`]: files written anew as a whole, by rename or by truncation.
//! - [`place`]: blocks written in place. Two mounts share each file; each has its own blocks.
//! - [`append`]: records at the end of files that all mounts append to.
//! - [`names`]: making, renaming, linking and removing names in directories that all mounts share.
//! - [`read`]: readers of all of that, and of everything once more at the end.
//!
//! Every file, block and name is written by one thread, so that the log tells what it must be.

mod append;
mod names;
mod place;
mod read;
mod root;
mod whole;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::faults::log::{Action, Outcome, Writer};
use crate::random::Rng;
use root::Root;

/// Files of each kind, of each mount.
const FILES: u64 = 3;

/// What a worker process is to do.
#[derive(Clone, Debug)]
pub struct Orders {
    /// `setup`, `work`, `final` or `clear`.
    pub task: String,
    /// The directory of the round, on the mount.
    pub dir: PathBuf,
    /// The number of the mount.
    pub mount: u32,
    /// How many mounts there are.
    pub mounts: u32,
    /// Where the log goes.
    pub log: PathBuf,
    /// For all random choices.
    pub seed: u64,
    /// For `final`: a file with the paths to be read and looked at, a JSON array.
    pub paths: Option<PathBuf>,
}

/// What one thread does until the work is over.
type Program = fn(&Shared, Rng);

/// What the threads of a worker have in common.
struct Shared {
    orders: Orders,
    log: Writer,
    stop: AtomicBool,
    /// Counts versions, over all files: no two writings of this process have the same.
    version: AtomicU64,
    /// The append file that is being written, by number.
    append_file: AtomicU64,
}

impl Shared {
    fn going(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn next_version(&self) -> u64 {
        u64::from(self.orders.mount + 1) << 40 | self.version.fetch_add(1, Ordering::Relaxed)
    }
}

/// Does what it is told; `work` until standard input ends.
///
/// # Panics
/// When it is told nonsense, or cannot write its log.
pub fn run(orders: Orders) {
    let log = Writer::create(&orders.log, orders.mount).unwrap();
    let shared = Shared {
        orders,
        log,
        stop: AtomicBool::new(false),
        version: AtomicU64::new(1),
        append_file: AtomicU64::new(0),
    };
    match shared.orders.task.as_str() {
        "setup" => setup(&shared),
        "work" => work(&shared),
        "final" => read::everything(&shared),
        "clear" => clear(&shared),
        other => panic!("no task '{other}'"),
    }
}

fn setup(shared: &Shared) {
    let dir = &shared.orders.dir;
    std::fs::create_dir(dir).unwrap();
    for below in ["whole", "trunc", "place", "logs", "names", "tmp"] {
        std::fs::create_dir(dir.join(below)).unwrap();
    }
    for number in 0..names::DIRECTORIES {
        std::fs::create_dir(dir.join(format!("names/d{number}"))).unwrap();
    }
    let mut root = Root::new(shared);
    for number in 0..FILES {
        place::make(shared, &mut root, number);
    }
}

fn work(shared: &Shared) {
    std::thread::scope(|threads| {
        let programs: [(Program, u64); 7] = [
            (whole::by_rename, 1),
            (whole::by_truncation, 2),
            (place::run, 3),
            (append::run, 4),
            (names::run, 5),
            (read::run, 6),
            (read::run, 7),
        ];
        for (program, number) in programs {
            let rng = Rng::new(shared.orders.seed ^ number << 32 ^ u64::from(shared.orders.mount) << 48);
            threads.spawn(move || program(shared, rng));
        }
        // Until whoever started this closes it.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        shared.stop.store(true, Ordering::Relaxed);
    });
}

fn clear(shared: &Shared) {
    std::fs::remove_dir_all(&shared.orders.dir).unwrap();
}

/// Logs and does one operation of several steps. An error makes the root be looked for again.
fn operate(
    shared: &Shared,
    root: &mut Root,
    action: Action,
    steps: impl FnOnce(&mut Root) -> Result<(), (&'static str, io::Error)>,
) -> bool {
    let outcome = shared.log.run(action, || match steps(root) {
        Ok(()) => Outcome::Done,
        Err((step, error)) => failed(step, &error),
    });
    if outcome != Outcome::Done {
        root.lost();
    }
    outcome == Outcome::Done
}

fn failed(step: &str, error: &io::Error) -> Outcome {
    Outcome::Failed(error.raw_os_error().unwrap_or(0), step.to_owned())
}

/// A pause between operations, so that logs stay readable and the machine usable.
fn rest(rng: &mut Rng, most_ms: u64) {
    std::thread::sleep(Duration::from_millis(rng.below(most_ms)));
}
