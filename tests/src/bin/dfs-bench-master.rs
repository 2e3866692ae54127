//! Measures the master alone, with many files: `dfs_tests::bench_master` has the cases. Takes `dfs-master` from beside this
//! program, and the system's temporary directory for its data: about 500 bytes for each file.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use dfs_tests::bench::outputs::Outputs;
use dfs_tests::bench_master::report::{Figures, table};
use dfs_tests::bench_master::{Plan, cases, plot};

/// Measures a master with many files of one chunk each: memory, start, heartbeats, look-ups, creates, renames, pauses, lists.
#[derive(Parser, Debug)]
struct Flags {
    /// How many files; several numbers, in turn, show how the figures grow
    #[arg(
        long,
        value_name = "NUMBER,...",
        value_delimiter = ',',
        default_value = "1000000,3000000,10000000"
    )]
    files: Vec<u64>,
    /// Simulated keepers
    #[arg(long, value_name = "NUMBER", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(3..60_000))]
    keepers: u64,
    /// Entries of one large directory; at most half of the files
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000_000)]
    entries: u64,
    /// How long each case takes
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    seconds: f64,
    #[command(flatten)]
    outputs: Outputs,
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("dfs-bench-master: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> Result<(), String> {
    let each = Duration::try_from_secs_f64(flags.seconds).map_err(|error| format!("--seconds: {error}"))?;
    if flags.files.iter().any(|files| !(100..=1 << 31).contains(files)) {
        return Err("--files: from 100 to 2147483648".to_owned());
    }
    let plan = |files: &u64| Plan { files: *files, keepers: flags.keepers, entries: flags.entries, each };
    let all: Vec<Figures> = flags.files.iter().map(|files| cases::measure(&plan(files))).collect();
    println!("{}", table(&all));
    flags.outputs.write(&all, || plot::svg(&all))
}
