//! The benchmark: what a mounted directory does for its users, on any file system.
//!
//! - [`System`]: a file system under test: a directory, how to empty its caches, and which processes serve it.
//! - `big`: the cases with large files; `small`: those with many small ones.
//! - [`own`]: a cluster of ours. [`outputs`]: where figures are written.
//! - [`report`]: medians, ratios against the best peer, a table and JSON. [`plot`]: an SVG of the ratios.
//!
//! Machines are noisy, so systems are measured in turn, several rounds, and what counts are medians and ratios. Where
//! the processes of a system are known, the processor time that they use is charged to each case: on few processors
//! that is what limits the speed.

mod big;
pub mod outputs;
pub mod own;
pub mod plot;
pub mod report;
mod small;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::random::Rng;

/// Clock ticks a second in /proc/PID/stat: USER_HZ, which Linux promises to be 100.
const TICKS_PER_S: f64 = 100.0;
pub(crate) const MIB: usize = 1 << 20;

/// A file system under test.
#[derive(Clone, Debug)]
pub struct System {
    /// For the table.
    pub name: String,
    /// On it, and empty.
    pub dir: PathBuf,
    /// A shell command that leaves nothing cached at the client: unmount and mount again, say.
    pub cold: Option<String>,
    /// A shell command that prints the ids of the processes that serve it.
    pub pids: Option<String>,
}

/// One figure.
#[derive(Clone, PartialEq, Debug)]
pub struct Figure {
    /// In `unit`.
    pub value: f64,
    /// `MiB/s`, `ms`, `/s`. Less is better of `ms`, more of all others.
    pub unit: &'static str,
    /// Processor seconds of the system's processes.
    pub cpu_s: Option<f64>,
    /// Of waits: the 99th of a hundred, in `unit`.
    pub p99: Option<f64>,
}

/// What one system did in one round.
pub type Figures = BTreeMap<&'static str, Figure>;

/// One round on one system.
pub struct Bench<'a> {
    system: &'a System,
    scale: f64,
    only: Option<&'a BTreeSet<String>>,
    root: PathBuf,
    figures: Figures,
}

/// When a case began.
struct Began {
    at: Instant,
    cpu_s: Option<f64>,
}

impl<'a> Bench<'a> {
    /// Runs all cases, or `only` those. `scale` is of the sizes: 1 writes 1 GiB and 2000 small files.
    ///
    /// # Errors
    /// What the file system under test said.
    pub fn run(system: &'a System, scale: f64, only: Option<&'a BTreeSet<String>>) -> io::Result<Figures> {
        let root = system.dir.join("dfs-bench.dir");
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        fs::create_dir(&root)?;
        let mut bench = Bench { system, scale, only, root, figures: Figures::new() };
        let done = big::cases(&mut bench).and_then(|()| small::cases(&mut bench));
        let cleaned = fs::remove_dir_all(&bench.root);
        done.and(cleaned).map(|()| bench.figures)
    }

    /// Is one of these cases wanted?
    fn wants(&self, names: &[&str]) -> bool {
        self.only.is_none_or(|only| names.iter().any(|name| only.contains(*name)))
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// `full`, scaled.
    fn amount(&self, full: usize) -> usize {
        ((full as f64 * self.scale) as usize).max(16)
    }

    /// Empties all caches that can be emptied.
    fn cold(&self) -> io::Result<()> {
        if let Some(cold) = &self.system.cold {
            shell(cold)?;
        }
        // Without root the kernel's caches stay; the case then says what it says.
        rustix::fs::sync();
        let _ = fs::write("/proc/sys/vm/drop_caches", "3");
        Ok(())
    }

    fn begin(&self) -> Began {
        Began { cpu_s: self.cpu_s(), at: Instant::now() }
    }

    /// Notes `amount` of `unit` a second.
    fn rate(&mut self, name: &'static str, began: &Began, amount: f64, unit: &'static str) {
        let value = amount / began.at.elapsed().as_secs_f64();
        self.note(name, began, value, unit, None);
    }

    /// Notes the median of what was waited.
    fn waits(&mut self, name: &'static str, began: &Began, mut waits: Vec<Duration>) {
        waits.sort_unstable();
        let ms = |at: usize| waits.get(at).map_or(0.0, |wait| wait.as_secs_f64() * 1e3);
        let (median, p99) =
            (ms(waits.len() / 2), ms((waits.len() * 99 / 100).min(waits.len().saturating_sub(1))));
        self.note(name, began, median, "ms", Some(p99));
    }

    fn note(&mut self, name: &'static str, began: &Began, value: f64, unit: &'static str, p99: Option<f64>) {
        let cpu_s = self.cpu_s().zip(began.cpu_s).map(|(now, then)| (now - then).max(0.0));
        if self.wants(&[name]) {
            self.figures.insert(name, Figure { value, unit, cpu_s, p99 });
        }
    }

    /// Processor seconds of the system's processes up to now.
    fn cpu_s(&self) -> Option<f64> {
        let told = Command::new("sh").arg("-c").arg(self.system.pids.as_ref()?).output().ok()?;
        let pids = String::from_utf8_lossy(&told.stdout).into_owned();
        Some(pids.split_whitespace().filter_map(cpu_s_of).sum())
    }
}

/// utime and stime of proc(5).
pub(crate) fn cpu_s_of(pid: &str) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_S)
}

fn shell(command: &str) -> io::Result<()> {
    let status =
        Command::new("sh").arg("-c").arg(command).stdout(Stdio::null()).stdin(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("`{command}` ended with {status}"))) }
}

/// A file of random bytes in memory.
struct Source(tempfile::NamedTempFile);

impl Source {
    fn new(bytes: usize) -> io::Result<Source> {
        let dir = Path::new("/dev/shm");
        let mut file = if dir.is_dir() {
            tempfile::NamedTempFile::new_in(dir)?
        } else {
            tempfile::NamedTempFile::new()?
        };
        let mut rng = Rng::new(1);
        let mut left = bytes;
        while left > 0 {
            let piece = rng.bytes(left.min(4 * MIB));
            file.write_all(&piece)?;
            left -= piece.len();
        }
        Ok(Source(file))
    }

    fn open(&self) -> io::Result<File> {
        File::open(self.0.path())
    }
}

/// Reads to the end, a MiB at a time. How many bytes there were.
fn read_all(path: &Path) -> io::Result<usize> {
    let (mut file, mut piece, mut total) = (File::open(path)?, vec![0; MIB], 0);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(total),
            n => total += n,
        }
    }
}

/// Runs `work` on so many threads, each with its number.
fn side_by_side(threads: usize, work: impl Fn(usize) -> io::Result<()> + Sync) -> io::Result<()> {
    std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = (0..threads).map(|n| scope.spawn(move || work(n))).collect();
        running.into_iter().try_for_each(|thread| match thread.join() {
            Ok(ended) => ended,
            Err(_) => Err(io::Error::other("a thread of the benchmark panicked")),
        })
    })
}
