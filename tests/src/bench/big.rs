//! The cases with large files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use rustix::fs::Advice;

use super::report::{LARGE, ORDER};
use super::{Bench, MIB, Source, read_all, side_by_side};
use crate::random::Rng;

const BLOCK: usize = 4096;

pub(super) fn cases(bench: &mut Bench<'_>) -> io::Result<()> {
    if !bench.wants(&ORDER[..LARGE]) && !bench.wants(&["verify"]) {
        return Ok(());
    }
    let bytes = bench.amount(1024) * MIB;
    let (source, path) = (Source::new(bytes)?, bench.path("big.mp4"));
    let began = bench.begin();
    copy(&mut source.open()?, &path, bytes)?;
    bench.rate("seq_write", &began, mib(bytes), "MiB/s");
    reads(bench, &source, &path, bytes)?;
    if bench.wants(&["first_byte"]) {
        first_byte(bench, &path)?;
    }
    if bench.wants(&["seek"]) {
        seek(bench, &path, bytes)?;
    }
    if bench.wants(&["rand_read_4k_x16"]) {
        random_reads(bench, &path, bytes)?;
    }
    if bench.wants(&["seq_write_x4", "seq_read_x4_cold"]) {
        four_at_once(bench, &source, bytes / 4)?;
    }
    if bench.wants(&["rand_write_4k"]) {
        random_writes(bench, &path, bytes)?;
    }
    if bench.wants(&["append_fsync_4k"]) {
        appends(bench)?;
    }
    fs::remove_file(path)
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / MIB as f64
}

/// With fsync, a MiB at a time.
fn copy(from: &mut File, to: &Path, bytes: usize) -> io::Result<()> {
    let (mut to, mut piece, mut left) = (File::create(to)?, vec![0; MIB], bytes);
    while left > 0 {
        let n = from.read(&mut piece[..left.min(MIB)])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all(&piece[..n])?;
        left -= n;
    }
    to.sync_all()
}

fn reads(bench: &mut Bench<'_>, source: &Source, path: &Path, bytes: usize) -> io::Result<()> {
    for (name, is_cold) in [("seq_read_cold", true), ("seq_read_again", false)] {
        if bench.wants(&[name]) {
            if is_cold {
                bench.cold()?;
            }
            let began = bench.begin();
            expect(read_all(path)? == bytes, "the file is shorter than what was written")?;
            bench.rate(name, &began, mib(bytes), "MiB/s");
        }
    }
    if bench.wants(&["verify"]) {
        bench.cold()?;
        let (mut ours, mut theirs) = (source.open()?, File::open(path)?);
        let (mut a, mut b) = (vec![0; MIB], vec![0; MIB]);
        for _ in 0..bytes / MIB {
            ours.read_exact(&mut a)?;
            theirs.read_exact(&mut b)?;
            expect(a == b, "what was read back is not what was written")?;
        }
    }
    Ok(())
}

fn expect(holds: bool, else_what: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(else_what.to_owned())) }
}

/// Open and the first 64 KiB, with nothing cached.
fn first_byte(bench: &mut Bench<'_>, path: &Path) -> io::Result<()> {
    let (began, mut waits, mut piece) = (bench.begin(), Vec::new(), vec![0; 64 * 1024]);
    for _ in 0..5 {
        bench.cold()?;
        let at = Instant::now();
        File::open(path)?.read_exact_at(&mut piece, 0)?;
        waits.push(at.elapsed());
    }
    bench.waits("first_byte", &began, waits);
    Ok(())
}

fn seek(bench: &mut Bench<'_>, path: &Path, bytes: usize) -> io::Result<()> {
    bench.cold()?;
    let (file, mut rng, mut piece) = (File::open(path)?, Rng::new(7), vec![0; 256 * 1024]);
    let began = bench.begin();
    let mut waits = Vec::new();
    for _ in 0..200 {
        let offset = somewhere(&mut rng, bytes - piece.len());
        let at = Instant::now();
        file.read_exact_at(&mut piece, offset)?;
        waits.push(at.elapsed());
    }
    bench.waits("seek", &began, waits);
    Ok(())
}

/// At a block's start.
fn somewhere(rng: &mut Rng, below: usize) -> u64 {
    rng.below((below / BLOCK) as u64) * BLOCK as u64
}

fn random_reads(bench: &mut Bench<'_>, path: &Path, bytes: usize) -> io::Result<()> {
    const READS: usize = 4000;
    const THREADS: usize = 16;
    bench.cold()?;
    let began = bench.begin();
    side_by_side(THREADS, |n| {
        let (file, mut rng, mut piece) = (File::open(path)?, Rng::new(n as u64), [0; BLOCK]);
        rustix::fs::fadvise(&file, 0, None, Advice::Random)?;
        (0..READS / THREADS)
            .try_for_each(|_| file.read_exact_at(&mut piece, somewhere(&mut rng, bytes - BLOCK)))
    })?;
    bench.rate("rand_read_4k_x16", &began, READS as f64, "/s");
    Ok(())
}

fn four_at_once(bench: &mut Bench<'_>, source: &Source, bytes: usize) -> io::Result<()> {
    let name = |n: usize| format!("par{n}");
    let began = bench.begin();
    side_by_side(4, |n| copy(&mut source.open()?, &bench.path(name(n)), bytes))?;
    bench.rate("seq_write_x4", &began, mib(bytes * 4), "MiB/s");
    bench.cold()?;
    let began = bench.begin();
    side_by_side(4, |n| read_all(&bench.path(name(n))).map(|_| ()))?;
    bench.rate("seq_read_x4_cold", &began, mib(bytes * 4), "MiB/s");
    (0..4).try_for_each(|n| fs::remove_file(bench.path(name(n))))
}

fn random_writes(bench: &mut Bench<'_>, path: &Path, bytes: usize) -> io::Result<()> {
    const WRITES: usize = 2000;
    let (file, mut rng) = (OpenOptions::new().write(true).open(path)?, Rng::new(3));
    let block = rng.bytes(BLOCK);
    let began = bench.begin();
    for _ in 0..WRITES {
        file.write_all_at(&block, somewhere(&mut rng, bytes - BLOCK))?;
    }
    file.sync_all()?;
    drop(file);
    bench.rate("rand_write_4k", &began, WRITES as f64, "/s");
    Ok(())
}

fn appends(bench: &mut Bench<'_>) -> io::Result<()> {
    const APPENDS: usize = 200;
    let path = bench.path("log");
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    let block = Rng::new(4).bytes(BLOCK);
    let began = bench.begin();
    for _ in 0..APPENDS {
        file.write_all(&block)?;
        file.sync_all()?;
    }
    bench.rate("append_fsync_4k", &began, APPENDS as f64, "/s");
    drop(file);
    fs::remove_file(path)
}
