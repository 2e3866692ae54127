//! `dfs bench`: what a mounted directory does, in a minute and with no other tool. It says nothing of the cluster's limits: for that,
//! measure from several machines at once.
//!
//! What must hold: everything is in one directory of its own, which is gone at the end, also when it is broken off.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dfs_proto::units::Size;
use rustix::fs::Advice;
use serde::Serialize;

use super::CliError;
use super::output::{Cell, Rows, human};
use super::progress::Line;
use super::stop::Stop;

const MIB: usize = 1 << 20;
const SMALL: usize = 16 * 1024;
const BLOCK: usize = 4096;
/// For the case of random reads.
const RANDOM_READS_FOR: Duration = Duration::from_secs(5);
const RANDOM_READS: usize = 5000;
const REMOVE_TRIES: usize = 20;

#[derive(clap::Args, Debug)]
pub(super) struct Bench {
    /// A mounted directory, or any other
    #[arg(default_value = ".", value_hint = clap::ValueHint::DirPath)]
    dir: PathBuf,
    /// How large the large file is
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    size: Size,
    /// How many small files there are
    #[arg(long, value_name = "N", default_value_t = 500)]
    files: usize,
}

/// One figure.
#[derive(Serialize)]
struct Figure {
    case: &'static str,
    value: f64,
    /// `MiB/s` or `/s`: more is better.
    unit: &'static str,
    /// Of single operations, in milliseconds.
    median_ms: f64,
    p99_ms: f64,
}

pub(super) async fn bench(wanted: &Bench, json: bool) -> Result<(), CliError> {
    let dir = &wanted.dir;
    let failed = |error: io::Error| {
        CliError::local("bench in", dir, &error, "see that it is a directory that can be written to")
    };
    let place = dir.join(format!(".dfs-bench-{}", std::process::id()));
    let stop = Stop::on_signal();
    let size = usize::try_from(wanted.size.0).unwrap_or(usize::MAX).div_ceil(MIB).max(1) * MIB;
    let (top, cut, files) = (place.clone(), stop.clone(), wanted.files.max(1));
    let measured = tokio::task::spawn_blocking(move || {
        fs::create_dir(&top)?;
        let mut run =
            Run { top: top.clone(), size, files, stop: cut, line: Line::new(), figures: Vec::new() };
        let done = run.all();
        run.line.end();
        let removed = remove(&top);
        done.and(removed).map(|()| run.figures)
    });
    let measured = measured.await.map_err(|error| CliError::Local(format!("bench: {error}; report this")))?;
    if stop.is_set() {
        return Err(CliError::Interrupted);
    }
    let mut rows = Rows::new(json, ["CASE", "RESULT", "", "MEDIAN", "P99"]);
    for figure in measured.map_err(failed)? {
        let ms = |ms: f64| if ms > 0.0 { format!("{ms:.2} ms") } else { String::new() };
        let cells = || {
            [
                Cell::Text(figure.case.to_owned()),
                Cell::Number(format!("{:.0}", figure.value)),
                Cell::Text(figure.unit.to_owned()),
                Cell::Number(ms(figure.median_ms)),
                Cell::Number(ms(figure.p99_ms)),
            ]
        };
        rows.row(cells, &figure)?;
    }
    rows.finish()
}

struct Run {
    top: PathBuf,
    size: usize,
    files: usize,
    stop: Stop,
    line: Line,
    figures: Vec<Figure>,
}

impl Run {
    fn all(&mut self) -> io::Result<()> {
        let film = self.top.join("film");
        let mut noise = Noise(0x2545_f491_4f6c_dd1d);
        self.line.show(&format!("a file of {}", human(self.size as u64)));
        self.write(&film, &mut noise)?;
        self.read(&film)?;
        self.random_reads(&film, &mut noise)?;
        self.line.show(&format!("{} small files", self.files));
        let (dir, files) = (self.top.join("small"), self.files);
        let path = move |n: usize| dir.join(format!("f{n}"));
        fs::create_dir(self.top.join("small"))?;
        let mut bytes = vec![0; SMALL];
        noise.fill(&mut bytes);
        self.each("create_16k", files, |n| File::create_new(path(n))?.write_all(&bytes))?;
        self.each("stat", files, |n| path(n).metadata().map(drop))?;
        self.each("list", 20, |_| {
            fs::read_dir(path(0).with_file_name(""))?.try_for_each(|entry| entry.map(drop))
        })?;
        self.each("read_16k", files, |n| {
            let file = File::open(path(n))?;
            forget(&file);
            file.read_exact_at(&mut vec![0; SMALL], 0)
        })?;
        self.each("rename", files, |n| fs::rename(path(n), path(n).with_extension("r")))?;
        self.each("unlink", files, |n| fs::remove_file(path(n).with_extension("r")))?;
        self.each("mkdir", files, |n| fs::create_dir(path(n)))?;
        self.each("rmdir", files, |n| fs::remove_dir(path(n)))
    }

    fn check(&self) -> io::Result<()> {
        if self.stop.is_set() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }

    /// A MiB at a time, and to stable storage.
    fn write(&mut self, film: &Path, noise: &mut Noise) -> io::Result<()> {
        let (mut file, mut piece) = (File::create_new(film)?, vec![0; MIB]);
        let mut took = Duration::ZERO;
        for _ in 0..self.size / MIB {
            self.check()?;
            noise.fill(&mut piece);
            let began = Instant::now();
            file.write_all(&piece)?;
            took += began.elapsed();
        }
        let began = Instant::now();
        file.sync_all()?;
        self.rate("write", (self.size / MIB) as f64, "MiB/s", took + began.elapsed());
        Ok(())
    }

    /// From the mount: the kernel's pages are dropped before. What the mount has in its own cache, it has.
    fn read(&mut self, film: &Path) -> io::Result<()> {
        let (mut file, mut piece) = (File::open(film)?, vec![0; MIB]);
        forget(&file);
        let began = Instant::now();
        for _ in 0..self.size / MIB {
            self.check()?;
            file.read_exact(&mut piece)?;
        }
        self.rate("read", (self.size / MIB) as f64, "MiB/s", began.elapsed());
        Ok(())
    }

    fn random_reads(&mut self, film: &Path, noise: &mut Noise) -> io::Result<()> {
        let (file, blocks) = (File::open(film)?, (self.size / BLOCK) as u64);
        forget(&file);
        let mut piece = vec![0; BLOCK];
        let until = Instant::now() + RANDOM_READS_FOR;
        let mut at = || noise.next() % blocks * BLOCK as u64;
        let offsets: Vec<u64> = (0..RANDOM_READS).map(|_| at()).collect();
        self.some("random_read_4k", offsets.len(), |n| {
            file.read_exact_at(&mut piece, offsets[n])?;
            Ok(Instant::now() < until)
        })
    }

    fn each(
        &mut self,
        case: &'static str,
        count: usize,
        mut work: impl FnMut(usize) -> io::Result<()>,
    ) -> io::Result<()> {
        self.some(case, count, |n| work(n).map(|()| true))
    }

    /// `work` as often, or until it says false.
    fn some(
        &mut self,
        case: &'static str,
        count: usize,
        mut work: impl FnMut(usize) -> io::Result<bool>,
    ) -> io::Result<()> {
        let mut waits = Vec::with_capacity(count);
        for n in 0..count {
            self.check()?;
            let began = Instant::now();
            let goes_on = work(n)?;
            waits.push(began.elapsed());
            if !goes_on {
                break;
            }
        }
        let all: Duration = waits.iter().sum();
        self.rate(case, waits.len() as f64, "/s", all);
        waits.sort_unstable();
        let ms =
            |share: usize| waits.get(waits.len() * share / 100).map_or(0.0, |wait| wait.as_secs_f64() * 1e3);
        if let Some(figure) = self.figures.last_mut() {
            (figure.median_ms, figure.p99_ms) = (ms(50), ms(99));
        }
        Ok(())
    }

    fn rate(&mut self, case: &'static str, amount: f64, unit: &'static str, took: Duration) {
        let value = amount / took.as_secs_f64().max(1e-9);
        self.figures.push(Figure { case, value, unit, median_ms: 0.0, p99_ms: 0.0 });
    }
}

/// Also when the signal that ends it all ends one of the calls (EINTR).
fn remove(top: &Path) -> io::Result<()> {
    for _ in 0..REMOVE_TRIES {
        match fs::remove_dir_all(top) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            removed => return removed,
        }
    }
    fs::remove_dir_all(top)
}

/// Has the kernel drop what it has of a file, if it will.
fn forget(file: &File) {
    let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
}

/// Bytes that nothing makes smaller (xorshift64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for eight in bytes.chunks_mut(8) {
            let random = self.next().to_le_bytes();
            eight.copy_from_slice(&random[..eight.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_does_not_come_again() {
        let mut noise = Noise(1);
        let mut bytes = [0; 1000];
        noise.fill(&mut bytes);
        let eights: std::collections::HashSet<&[u8]> = bytes.chunks(8).collect();
        assert_eq!(eights.len(), 125);
    }
}
