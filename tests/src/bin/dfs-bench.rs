//! Measures mounted directories, several in turn: `dfs_tests::bench` has the cases. Without `--on` it starts a cluster of
//! its own of the programs beside this one, and measures that.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use clap::Parser;
use dfs_tests::bench::outputs::Outputs;
use dfs_tests::bench::own::OwnCluster;
use dfs_tests::bench::report::{Summaries, summarize, table};
use dfs_tests::bench::{Bench, Figures, System, plot};

/// Measures file systems as their users feel them, in turn, and compares the first with the best of the others.
#[derive(Parser, Debug)]
struct Flags {
    /// A file system: NAME=DIRECTORY, an empty directory on it. The first is compared with the others
    #[arg(long = "on", value_name = "NAME=DIRECTORY")]
    systems: Vec<String>,
    /// NAME=COMMAND: leaves nothing cached at the client (unmounts and mounts again, say)
    #[arg(long, value_name = "NAME=COMMAND")]
    cold: Vec<String>,
    /// NAME=COMMAND: prints the ids of the processes that serve it
    #[arg(long, value_name = "NAME=COMMAND")]
    pids: Vec<String>,
    /// Measure a cluster that this program starts, too, as the first
    #[arg(long)]
    cluster: bool,
    /// Of that cluster: how many keepers hold a chunk before its write counts as done
    #[arg(long, value_name = "NUMBER", default_value_t = 2)]
    min_copies: u32,
    /// How often each is measured; figures are medians
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    rounds: usize,
    /// Of all sizes: 1 writes 1 GiB and 2000 small files
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    scale: f64,
    /// These cases alone
    #[arg(long, value_name = "CASE,...", value_delimiter = ',')]
    only: Vec<String>,
    #[command(flatten)]
    outputs: Outputs,
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("dfs-bench: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> Result<(), String> {
    let mut systems = named(&flags.systems)?
        .into_iter()
        .map(|(name, dir)| {
            let command = |all: &[String]| {
                let found = named(all)?.into_iter().find(|(of, _)| *of == name);
                Ok::<_, String>(found.map(|(_, command)| command))
            };
            let (cold, pids) = (command(&flags.cold)?, command(&flags.pids)?);
            Ok(System { name, dir: dir.into(), cold, pids })
        })
        .collect::<Result<Vec<_>, String>>()?;
    let own = (flags.cluster || systems.is_empty()).then(|| OwnCluster::start(flags.min_copies));
    if let Some(own) = &own {
        systems.insert(0, own.system.clone());
    }
    let only: BTreeSet<String> = flags.only.iter().cloned().collect();
    let only = (!only.is_empty()).then_some(&only);
    let mut rounds: Vec<Vec<Figures>> = vec![Vec::new(); systems.len()];
    for round in 1..=flags.rounds {
        for (system, done) in systems.iter().zip(&mut rounds) {
            eprintln!("round {round}: {}", system.name);
            let figures = Bench::run(system, flags.scale, only);
            done.push(figures.map_err(|error| format!("{}: {error}", system.name))?);
        }
    }
    let summaries: Vec<(String, Summaries)> = systems
        .iter()
        .zip(&rounds)
        .map(|(system, rounds)| (system.name.clone(), summarize(rounds)))
        .collect();
    println!("{}", table(&summaries));
    let all: BTreeMap<_, _> = summaries.iter().cloned().collect();
    flags.outputs.write(&all, || plot::svg(&summaries))
}

/// NAME=WHAT.
fn named(all: &[String]) -> Result<Vec<(String, String)>, String> {
    let split = |text: &String| {
        let (name, what) = text.split_once('=').ok_or(format!("'{text}' is not NAME=WHAT"))?;
        Ok((name.to_owned(), what.to_owned()))
    };
    all.iter().map(split).collect()
}
