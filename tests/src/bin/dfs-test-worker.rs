//! A worker of the fault tests: the programs on one mount, in a process of their own. `dfs_tests::faults::work` has them.

use std::path::PathBuf;

use dfs_tests::faults::work::{Orders, run};

fn main() {
    let mut args = std::env::args_os().skip(1);
    let mut next = |what: &str| args.next().unwrap_or_else(|| panic!("no {what} is given"));
    let task = next("task").to_string_lossy().into_owned();
    let dir = PathBuf::from(next("directory"));
    let mut number = |what: &str| next(what).to_string_lossy().parse::<u64>().unwrap();
    let (mount, mounts, seed) = (number("mount") as u32, number("number of mounts") as u32, number("seed"));
    let log = PathBuf::from(next("log"));
    let paths = args.next().map(PathBuf::from);
    run(Orders { task, dir, mount, mounts, log, seed, paths });
}
