//! The cases with many small files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use super::report::{LARGE, ORDER};
use super::{Bench, side_by_side};
use crate::random::Rng;

const SIZE: usize = 16 * 1024;
/// Threads of create_x8.
const THREADS: usize = 8;

pub(super) fn cases(bench: &mut Bench<'_>) -> io::Result<()> {
    if !bench.wants(&ORDER[LARGE..]) {
        return Ok(());
    }
    let (count, bytes, dir) = (bench.amount(2000), Rng::new(5).bytes(SIZE), bench.path("small"));
    fs::create_dir(&dir)?;
    let began = bench.begin();
    (0..count).try_for_each(|n| create(&dir.join(format!("f{n}")), &bytes))?;
    bench.rate("create_16k", &began, count as f64, "/s");
    look(bench, &dir, count)?;
    change(bench, &dir, count)?;
    many_at_once(bench, &dir, count, &bytes)?;
    if bench.wants(&["mkdir"]) {
        let dirs = bench.path("dirs");
        fs::create_dir(&dirs)?;
        let began = bench.begin();
        (0..count).try_for_each(|n| fs::create_dir(dirs.join(n.to_string())))?;
        bench.rate("mkdir", &began, count as f64, "/s");
        fs::remove_dir_all(dirs)?;
    }
    Ok(())
}

fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    Ok(nix::unistd::close(file)?)
}

fn look(bench: &mut Bench<'_>, dir: &Path, count: usize) -> io::Result<()> {
    if bench.wants(&["stat"]) {
        bench.cold()?;
        let began = bench.begin();
        (0..count).try_for_each(|n| fs::metadata(dir.join(format!("f{n}"))).map(|_| ()))?;
        bench.rate("stat", &began, count as f64, "/s");
    }
    if bench.wants(&["ls_l"]) {
        bench.cold()?;
        let (began, mut seen) = (bench.begin(), 0);
        for entry in fs::read_dir(dir)? {
            seen += usize::from(entry?.metadata()?.len() == SIZE as u64);
        }
        if seen != count {
            return Err(io::Error::other(format!("{seen} whole files are listed, not {count}")));
        }
        bench.rate("ls_l", &began, count as f64, "/s");
    }
    if bench.wants(&["read_16k_cold"]) {
        bench.cold()?;
        let (began, mut piece) = (bench.begin(), vec![0; SIZE]);
        (0..count).try_for_each(|n| File::open(dir.join(format!("f{n}")))?.read_exact(&mut piece))?;
        bench.rate("read_16k_cold", &began, count as f64, "/s");
    }
    Ok(())
}

fn change(bench: &mut Bench<'_>, dir: &Path, count: usize) -> io::Result<()> {
    let began = bench.begin();
    (0..count).try_for_each(|n| fs::rename(dir.join(format!("f{n}")), dir.join(format!("g{n}"))))?;
    bench.rate("rename", &began, count as f64, "/s");
    let began = bench.begin();
    for entry in fs::read_dir(dir)? {
        fs::remove_file(entry?.path())?;
    }
    bench.rate("unlink", &began, count as f64, "/s");
    Ok(())
}

fn many_at_once(bench: &mut Bench<'_>, dir: &Path, count: usize, bytes: &[u8]) -> io::Result<()> {
    if !bench.wants(&["create_x8", "rm_rf"]) {
        return Ok(());
    }
    let began = bench.begin();
    side_by_side(THREADS, |thread| {
        let dir = dir.join(format!("t{thread}"));
        fs::create_dir(&dir)?;
        (0..count / THREADS).try_for_each(|n| create(&dir.join(format!("f{n}")), bytes))
    })?;
    bench.rate("create_x8", &began, count as f64, "/s");
    let began = bench.begin();
    fs::remove_dir_all(dir)?;
    bench.rate("rm_rf", &began, count as f64, "/s");
    Ok(())
}
