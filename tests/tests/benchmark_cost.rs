//! The benchmark of processor time measures every command and the bytes of a real cluster, and sees what costs more.

use std::fs;
use std::path::Path;
use std::process::Command;

use dfs_tests::bench_cost::Costs;
use dfs_tests::wait::secs;
use dfs_tests::{Scratch, run};

fn bench() -> Command {
    Command::new(env!("CARGO_BIN_EXE_dfs-bench-cost"))
}

fn read(path: &Path) -> Costs {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn what_costs_more_than_before_ends_it_with_1_and_is_named() {
    let scratch = Scratch::new();
    let (now, before) = (scratch.path("now.json"), scratch.path("before.json"));
    let mut measure = bench();
    measure.args(["--rounds", "1", "--files", "500", "--mib", "64", "--json"]).arg(&now);
    let table = run(&mut measure, secs(120)).ok().stdout;
    let costs = read(&now);
    assert!(costs.len() >= 11 && costs.values().all(|cost| *cost > 0.0), "{costs:?}");
    assert!(costs.keys().all(|name| table.contains(&format!("| {name} |"))), "{table}");

    let compare = || {
        let mut command = bench();
        command.arg("--compare").arg(&now).arg("--against").arg(&before);
        run(&mut command, secs(20))
    };
    fs::copy(&now, &before).unwrap();
    compare().ok();
    let cheaper: Costs = costs
        .iter()
        .map(|(name, cost)| (name.clone(), if name.contains("rename") { cost / 1.4 } else { *cost }))
        .collect();
    fs::write(&before, serde_json::to_string(&cheaper).unwrap()).unwrap();
    let worse = compare();
    assert_eq!(worse.status.code(), Some(1), "{}", worse.stderr);
    assert!(worse.stderr.contains("apply rename") && !worse.stderr.contains("unlink"), "{}", worse.stderr);

    let missing =
        run(bench().arg("--compare").arg(scratch.path("none")).arg("--against").arg(&now), secs(20));
    assert_eq!(missing.status.code(), Some(2), "{}", missing.stderr);
}
