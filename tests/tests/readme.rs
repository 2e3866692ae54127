//! The README says what is so.
//!
//! Covers: README commands 1 and 2 are there as written, and so is every file that it links; every flag that it lists is in
//! the `--help` of a binary; its real cluster of four commands runs; every flag can come from the environment; the
//! binaries need no library beyond those of a Rust toolchain (so no libfuse).

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use dfs_tests::mount::unmount;
use dfs_tests::process::binary;
use dfs_tests::run::sh;
use dfs_tests::wait::secs;
use dfs_tests::{Scratch, run, wait_until};

const BINARIES: [&str; 4] = ["dfs-master", "dfs-keeper", "dfs-mount", "dfs"];

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
    let help: String =
        BINARIES.map(|binary| run(scratch.command(binary).arg("--help"), secs(20)).ok().stdout).concat();
    let readme = readme();
    let flags = readme.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).filter(|word| {
        word.strip_prefix("--").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
    });
    for flag in flags.filter(|flag| !["--release", "--bin", "--workspace", "--bins"].contains(flag)) {
        assert!(help.contains(flag), "README.md names {flag}, which no --help has");
    }
}

#[test]
fn the_real_cluster_of_four_commands_runs_as_written() {
    let readme = readme();
    let section = readme.split("## A real cluster").nth(1).unwrap().split("\n(").next().unwrap();
    let commands: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    assert_eq!(commands.len(), 4, "{commands:#?}");
    // The same lines, with the paths and the port of this test.
    let scratch = Scratch::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (srv, point) = (scratch.path("srv").display().to_string(), scratch.path("mnt/dfs"));
    let script = commands
        .join("\n")
        .replace("dfs-master --data", &format!("dfs-master --listen {free} --data"))
        .replace("127.0.0.1:3000", &free)
        .replace("/srv/dfs", &srv)
        .replace("/mnt/dfs", point.to_str().unwrap());
    fs::create_dir(&srv).unwrap();
    let ran = run(scratch.program("sh").args(["-euc", &script]), secs(60)).ok();
    assert!(ran.stdout.contains("keepers"), "the last command is dfs status: {ran:#?}");
    let live = || {
        let status = run(scratch.command("dfs").args(["--master", &free, "--json", "status"]), secs(20)).ok();
        status.stdout.contains("\"keepers_live\":3") || status.stdout.contains("\"keepers_live\": 3")
    };
    wait_until(secs(15), "three keepers are live", live);
    fs::write(point.join("file"), b"content").unwrap();
    assert_eq!(fs::read(point.join("file")).unwrap(), b"content");
    unmount(&point);
}

#[test]
fn every_flag_of_every_binary_can_come_from_the_environment() {
    let scratch = Scratch::new();
    for binary in BINARIES {
        let help = run(scratch.command(binary).arg("--help"), secs(20)).ok().stdout;
        let options = help.split("Options:").nth(1).unwrap();
        // From one flag to the next: a flag begins its line.
        let mut flags: Vec<(String, String)> = Vec::new();
        for line in options.lines() {
            let words = line.trim_start();
            if words.starts_with('-') && line.starts_with("  ") {
                let long = words.split_whitespace().find(|word| word.starts_with("--")).unwrap();
                flags.push((long.trim_end_matches(',').to_owned(), String::new()));
            }
            if let Some((_, text)) = flags.last_mut() {
                // Lines are wrapped anywhere.
                text.extend(line.split_whitespace().flat_map(|word| [word, " "]));
            }
        }
        // What is done once must not be done again because a variable is still there.
        let once = ["--help", "--version", "--dump", "--restore", "--keep-unknown"];
        flags.retain(|(flag, _)| !once.contains(&flag.as_str()));
        assert!(flags.len() >= 3, "{binary}: {flags:#?}");
        for (flag, text) in flags {
            let name = format!("[env: DFS_{}", flag[2..].replace('-', "_").to_uppercase());
            assert!(text.contains(&name), "{binary} {flag} has no {name}=]: {text}");
        }
    }
}

#[test]
fn the_binaries_need_no_library_that_a_rust_toolchain_does_not() {
    for name in BINARIES {
        let needed = sh("ldd $1", &[binary(name)]).stdout;
        for line in needed.lines() {
            let known =
                ["linux-vdso", "libgcc_s", "libc", "libm", "libdl", "libpthread", "librt", "ld-linux"];
            let file = line.split_whitespace().next().unwrap().rsplit('/').next().unwrap();
            assert!(known.iter().any(|k| file.starts_with(k)), "{name} needs {line}");
        }
    }
}
