//! Bytes through a real cluster: written with fsync, and read with nothing cached in the mount.

use std::collections::BTreeSet;
use std::io;

use super::Costs;
use crate::bench::{Bench, System};

const GIB: f64 = 1024.0;

/// Seconds of processor time of the system's processes for each GiB; `mib` MiB are written and read.
///
/// # Errors
/// What the file system said, or that its processes are not known.
pub fn costs(system: &System, mib: usize) -> io::Result<Costs> {
    let only: BTreeSet<String> = ["seq_write", "seq_read_cold"].map(str::to_owned).into();
    let figures = Bench::run(system, mib as f64 / GIB, Some(&only))?;
    let names = [("seq_write", "write, s/GiB"), ("seq_read_cold", "read, s/GiB")];
    let cost = |(case, name): (&str, &str)| {
        let used = figures.get(case).and_then(|figure| figure.cpu_s);
        let used = used.ok_or_else(|| io::Error::other(format!("{case}: nothing known of the processes")))?;
        Ok((name.to_owned(), used / mib as f64 * GIB))
    };
    names.into_iter().map(cost).collect()
}
