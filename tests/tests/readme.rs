//! The README says what is so.
//!
//! Covers: README commands 1 and 2 are there as written, and so is every file that it links; every flag that it lists is in
//! the `--help` of a binary.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use dfs_tests::wait::secs;
use dfs_tests::{Scratch, run};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
}

#[test]
fn both_commands_are_there_as_written() {
    let readme = readme();
    for line in ["cargo run --release --bin dfs-mount -- /mnt/dfs", "./tests/run.sh"] {
        assert!(
            readme.lines().any(|l| l.split('#').next().unwrap().trim() == line),
            "no line '{line}' in README.md"
        );
    }
    for script in ["tests/run.sh", ".ci/run"] {
        let mode = fs::metadata(root().join(script)).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{script} is not executable");
    }
    assert!(fs::read_to_string(root().join(".ci/run")).unwrap().contains("./tests/run.sh"));
}

#[test]
fn every_file_that_it_links_is_there() {
    let readme = readme();
    let links = readme.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    let files: Vec<&str> = links.filter(|link| !link.contains("://")).collect();
    assert!(files.len() >= 5, "README.md links {files:?}");
    for file in files {
        assert!(
            root().join(file.split('#').next().unwrap()).exists(),
            "README.md links {file}, which is not there"
        );
    }
}

#[test]
fn every_flag_that_it_names_exists() {
    let scratch = Scratch::new();
    let help: String = ["dfs-master", "dfs-keeper", "dfs-mount", "dfs"]
        .map(|binary| run(scratch.command(binary).arg("--help"), secs(20)).ok().stdout)
        .concat();
    let readme = readme();
    let flags = readme.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).filter(|word| {
        word.strip_prefix("--").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
    });
    for flag in flags.filter(|flag| !["--release", "--bin", "--workspace", "--bins"].contains(flag)) {
        assert!(help.contains(flag), "README.md names {flag}, which no --help has");
    }
}
