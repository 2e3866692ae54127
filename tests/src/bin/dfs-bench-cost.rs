//! Measures processor time: `dfs_tests::bench_cost` says of what. `tests/regress.sh` compares two versions with it.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use dfs_tests::bench::outputs::write_json;
use dfs_tests::bench::own::OwnCluster;
use dfs_tests::bench_cost::{Costs, apply, compare, data, least};

/// Measures what things cost in processor time, and compares that with earlier figures: ends with 1 when something costs
/// over 30 % more.
#[derive(Parser, Debug)]
struct Flags {
    /// How often each is measured; the least counts
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// Files of the state that commands are applied to
    #[arg(long, value_name = "NUMBER", default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    files: u64,
    /// How much is written and read; 0: no cluster is started
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u64).range(0..=1 << 20))]
    mib: u64,
    /// Write the figures there, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Compare with these, made by the same program on this machine; several: the least of each counts
    #[arg(long, value_name = "FILE,...", value_delimiter = ',')]
    against: Vec<PathBuf>,
    /// Compare these in place of new measurements
    #[arg(long, value_name = "FILE,...", value_delimiter = ',', requires = "against")]
    compare: Vec<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(worse) if worse.is_empty() => ExitCode::SUCCESS,
        Ok(worse) => {
            eprintln!("dfs-bench-cost: over 30 % more: {}", worse.join("; "));
            ExitCode::FAILURE
        }
        Err(message) => {
            eprintln!("dfs-bench-cost: {message}");
            ExitCode::from(2)
        }
    }
}

fn run(flags: &Flags) -> Result<Vec<String>, String> {
    let now = if flags.compare.is_empty() { measure(flags)? } else { read(&flags.compare)? };
    let before = if flags.against.is_empty() { None } else { Some(read(&flags.against)?) };
    if let Some(path) = &flags.json {
        write_json(path, &now)?;
    }
    let (table, worse) = compare(&now, before.as_ref());
    println!("{table}");
    Ok(worse)
}

fn measure(flags: &Flags) -> Result<Costs, String> {
    let cluster = (flags.mib > 0).then(|| OwnCluster::start(2));
    let mut rounds = Vec::new();
    for _ in 0..flags.rounds {
        rounds.push(apply::costs(flags.files as usize));
        if let Some(cluster) = &cluster {
            let data = data::costs(&cluster.system, flags.mib as usize);
            rounds.push(data.map_err(|error| error.to_string())?);
        }
    }
    Ok(least(rounds))
}

fn read(paths: &[PathBuf]) -> Result<Costs, String> {
    let one = |path: &PathBuf| {
        let failed = |why: String| format!("{}: {why}", path.display());
        let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        serde_json::from_str::<Costs>(&text).map_err(|error| failed(error.to_string()))
    };
    Ok(least(paths.iter().map(one).collect::<Result<Vec<_>, _>>()?))
}
