//! The benchmark measures every case on any directory, compares, and leaves nothing behind.

use std::fs;
use std::path::Path;
use std::process::Command;

use dfs_tests::bench::report::ORDER;
use dfs_tests::wait::secs;
use dfs_tests::{Scratch, run};
use serde_json::Value;

fn on(name: &str, dir: &Path) -> String {
    format!("{name}={}", dir.display())
}

#[test]
fn every_case_is_measured_on_every_directory_and_compared() {
    let scratch = Scratch::new();
    let (one, other) = (scratch.path("one"), scratch.path("other"));
    let (json, svg, colds) = (scratch.path("out.json"), scratch.path("out.svg"), scratch.path("colds"));
    fs::create_dir(&one).unwrap();
    fs::create_dir(&other).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dfs-bench"));
    command.args([
        "--rounds",
        "2",
        "--scale",
        "0.01",
        "--on",
        &on("one", &one),
        "--on",
        &on("other", &other),
    ]);
    command.args(["--cold", &format!("one=echo cold >>{}", colds.display()), "--pids", "one=echo $PPID"]);
    let ran = run(command.arg("--json").arg(&json).arg("--svg").arg(&svg), secs(120)).ok();

    let figures: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    for case in ORDER {
        for system in ["one", "other"] {
            let figure = &figures[system][case];
            assert!(
                figure["value"].as_f64().is_some_and(|value| value > 0.0),
                "{system} {case}: {figures:#}"
            );
            assert_eq!(figure["rounds"].as_array().map(Vec::len), Some(2), "{system} {case}");
        }
        assert!(figures["one"][case]["server_cpu_s"].is_number(), "{case}");
        assert!(figures["other"][case]["server_cpu_s"].is_null(), "{case}");
        assert!(ran.stdout.contains(&format!("| {case} |")), "{}", ran.stdout);
    }
    assert!(ran.stdout.contains("Geometric mean of the ratios"), "{}", ran.stdout);
    assert!(fs::read_to_string(svg).unwrap().starts_with("<svg"));
    // Each round: two reads and the check of them, five first bytes, seek, random reads, four at once, stat, list, read.
    assert_eq!(fs::read_to_string(colds).unwrap().lines().count(), 2 * 13);
    assert_eq!(fs::read_dir(&one).unwrap().count() + fs::read_dir(&other).unwrap().count(), 0);
}

#[test]
fn a_directory_that_is_not_there_is_a_clear_error() {
    let scratch = Scratch::new();
    let missing = scratch.path("missing");
    let mut command = Command::new(env!("CARGO_BIN_EXE_dfs-bench"));
    let ran = run(command.args(["--on", &on("a", &missing)]), secs(20));
    assert!(!ran.status.success() && ran.stderr.contains("dfs-bench: a: "), "{ran:#?}");
}
