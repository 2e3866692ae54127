//! The benchmark of the master alone measures everything, on few files, and leaves nothing behind.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use dfs_tests::bench_master::report::CASES;
use dfs_tests::wait::secs;
use dfs_tests::{Scratch, run};
use serde_json::Value;

#[test]
fn every_figure_is_measured_for_each_number_of_files() {
    let scratch = Scratch::new();
    let (json, svg, data) = (scratch.path("out.json"), scratch.path("out.svg"), scratch.path("data"));
    fs::create_dir(&data).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dfs-bench-master"));
    command.args(["--files", "500,5000", "--keepers", "20", "--entries", "2000", "--seconds", "0.2"]);
    command.env("TMPDIR", &data).arg("--json").arg(&json).arg("--svg").arg(&svg);
    let ran = run(&mut command, secs(120)).ok();

    let all: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 2, "{all:#?}");
    for (figures, (files, entries)) in all.iter().zip([(500, 250), (5000, 2000)]) {
        assert_eq!((&figures["files"], &figures["entries"]), (&files.into(), &entries.into()));
        let named: BTreeSet<&str> =
            figures["figures"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(named, CASES.iter().map(|case| case.name).collect());
        let value = |name: &str| figures["figures"][name].as_f64().unwrap();
        // Of so few files memory is nothing but chance, and heartbeats of 20 keepers may take less than a tick.
        for case in CASES.iter().filter(|case| !["memory", "heartbeats"].contains(&case.name)) {
            assert!(value(case.name) > 0.0, "{}: {figures:#}", case.name);
        }
        assert!(value("lookup_x1") > 100.0 && value("create_x16") > 1.0, "{figures:#}");
        assert!(value("start") < 30.0 && value("join") < 30.0, "{figures:#}");
        assert!(value("heartbeats") < 100.0 && value("memory_peak") < 1e6, "{figures:#}");
    }
    for case in CASES {
        assert!(ran.stdout.contains(&format!("| {} | {} |", case.what, case.unit)), "{}", ran.stdout);
    }
    assert!(fs::read_to_string(svg).unwrap().starts_with("<svg"));
    assert_eq!(fs::read_dir(&data).unwrap().count(), 0, "something of it is left");
}

#[test]
fn when_it_fails_nothing_is_left() {
    let scratch = Scratch::new();
    let data = scratch.path("data");
    fs::create_dir(&data).unwrap();
    // So few open files that the keepers' sessions do not fit.
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_dfs-bench-master")]);
    let ran = run(shell.args(["--files", "500", "--keepers", "100"]).env("TMPDIR", &data), secs(60));
    assert!(!ran.status.success(), "{ran:#?}");
    let left: Vec<_> = fs::read_dir(&data).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
