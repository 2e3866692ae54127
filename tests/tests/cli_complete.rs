//! Names that bash completes, through the script that the package installs.
//!
//! Covers: commands, paths of the cluster (directories with a slash, names with spaces, behind `--master HOST:PORT`), keepers' ids, users; local
//! files for what is local; silence within a second or two where no master answers.

use std::fs;
use std::time::Instant;

use dfs_tests::wait::secs;
use dfs_tests::{Cluster, run};

/// What bash would offer for the last of `words`, which it has cut at colons.
fn offered(cluster: &Cluster, words: &[&str]) -> Vec<String> {
    let script = r#"
        cd "$1"; shift; . ./dfs.bash
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_TYPE=9
        _clap_complete_dfs dfs "${COMP_WORDS[COMP_CWORD]}" x
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut bash = cluster.scratch.program("bash");
    bash.env("DFS_MASTER", cluster.address()).args(["-ec", script, "bash"]).arg(cluster.scratch.path("docs"));
    let ran = run(bash.args(words), secs(20)).ok();
    assert_eq!(ran.stderr, "", "{words:?}");
    ran.stdout.lines().map(|line| line.trim_end_matches(' ').to_owned()).collect()
}

#[test]
fn names_are_completed() {
    let mut cluster = Cluster::start();
    let docs = cluster.scratch.path("docs");
    fs::create_dir(&docs).unwrap();
    run(cluster.scratch.command("dfs").arg("--documents").arg(&docs), secs(20)).ok();
    fs::write(docs.join("local.mp4"), b"").unwrap();
    let mount = cluster.mount();
    for name in ["movies", "movies/new", "music"] {
        fs::create_dir(mount.path(name)).unwrap();
    }
    for name in ["movies/a film.mp4", "movies/b.mp4", "movies/b.mp4.txt", "notes"] {
        fs::write(mount.path(name), b"").unwrap();
    }
    let offered = |words: &[&str]| offered(&cluster, words);
    assert_eq!(offered(&["dfs", "ls", "/m"]), ["/movies/", "/music/"]);
    assert_eq!(offered(&["dfs", "cat", "/movies/b.mp4"]), ["/movies/b.mp4", "/movies/b.mp4.txt"]);
    assert_eq!(offered(&["dfs", "info", "/movies/a\\ f"]), ["/movies/a\\ film.mp4"]);
    assert_eq!(offered(&["dfs", "lookup", "no"]), ["notes"]);
    assert_eq!(offered(&["dfs", "put", "./loc"]), ["./local.mp4"]);
    assert_eq!(offered(&["dfs", "put", "./local.mp4", "/mu"]), ["/music/"]);
    assert_eq!(offered(&["dfs", "tre"]), ["tree"]);
    assert!(offered(&["dfs", "find", "--max"]).contains(&"--maxdepth".to_owned()));
    assert_eq!(offered(&["dfs", "drain", ""])[..3], ["1", "2", "3"]);
    // Another master than that of the environment, as bash cuts it.
    let (host, port) = cluster.address().split_once(':').unwrap();
    assert_eq!(offered(&["dfs", "--master", host, ":", port, "ls", "/mov"]), ["/movies/"]);
    let began = Instant::now();
    assert_eq!(offered(&["dfs", "--master", host, ":", "1", "ls", "/mov"]), [""]);
    cluster.master.kill();
    let left = self::offered(&cluster, &["dfs", "drain", ""]);
    assert!(left.iter().all(|word| word.starts_with("--")), "flags alone: {left:?}");
    assert!(began.elapsed() < secs(8), "{:?}", began.elapsed());
}
