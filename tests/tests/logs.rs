//! The logs of all three programs: an operation of a program can be followed through them, and what a program could only be told
//! by a number is explained.

use std::fs;
use std::io::ErrorKind;

use dfs_tests::wait::secs;
use dfs_tests::{Cluster, wait_until};

/// The value of `key=` in a line, without quotes.
fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let after = line.split_once(&format!(" {key}="))?.1;
    Some(after.split(' ').next().unwrap_or(after).trim_matches('"'))
}

/// The operations of all lines that have these fields.
fn operations(log: &str, fields: &[(&str, &str)]) -> Vec<String> {
    let fits = |line: &&str| fields.iter().all(|(key, value)| field(line, key) == Some(*value));
    log.lines().filter(fits).filter_map(|line| field(line, "operation")).map(str::to_owned).collect()
}

// OPERATIONS.md: "the same number".
#[test]
fn an_open_can_be_followed_from_the_mount_to_the_master_and_to_a_keeper() {
    let mut cluster = Cluster::builder().keepers(2).copies(2).log("debug").start();
    let (writer, reader) = (cluster.mount(), cluster.mount());
    fs::write(writer.path("film"), vec![7; 1 << 20]).unwrap();
    let inode = {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(reader.path("film")).unwrap().ino().to_string()
    };
    assert_eq!(fs::read(reader.path("film")).unwrap().len(), 1 << 20);
    let of_mount = || operations(&reader.process.log(), &[("call", "open"), ("inode", &inode)]);
    wait_until(secs(5), "the mount says that it opened the file", || of_mount().len() == 1);
    let operation = &of_mount()[0][..];
    assert_ne!(operation, "0000000000000000");
    let of_master = operations(&cluster.master.log(), &[("op", "open"), ("operation", operation)]);
    assert_eq!(of_master.len(), 1);
    let read = (0..2).map(|n| cluster.keeper(n).log()).collect::<String>();
    assert!(
        read.lines()
            .any(|line| line.contains("dfs::requests") && field(line, "operation") == Some(operation))
    );
    // And each of the master's lines says how long it took.
    let log = cluster.master.log();
    let line = log.lines().find(|line| field(line, "operation") == Some(operation)).unwrap();
    assert!(field(line, "took_us").unwrap().parse::<u64>().is_ok(), "{line}");
}

// OPERATIONS.md: "an upload that of the write, fsync or close that sent it off".
#[test]
fn a_close_can_be_followed_to_all_keepers_that_take_the_chunk_in() {
    let mut cluster = Cluster::builder().keepers(2).copies(2).log("debug").start();
    let writer = cluster.mount();
    fs::write(writer.path("film"), vec![7; 1 << 20]).unwrap();
    let closed = || operations(&writer.process.log(), &[("call", "flush")]);
    wait_until(secs(5), "the mount says that it was closed", || closed().len() == 1);
    let operation = &closed()[0][..];
    assert_eq!(operations(&cluster.master.log(), &[("op", "alloc"), ("operation", operation)]).len(), 1);
    for n in 0..2 {
        let keeper = cluster.keeper(n);
        let wanted = [("operation", operation), ("length", "1048576")];
        wait_until(secs(5), "the keeper says that it took it in", || {
            operations(&keeper.log(), &wanted).len() == 1
        });
    }
}

// OPERATIONS.md: "with the path, the call and the reason".
#[test]
fn what_a_program_is_told_by_a_number_is_explained_with_the_path() {
    let mut cluster = Cluster::builder().keepers(2).copies(2).start();
    let mount = cluster.mount();
    fs::create_dir_all(mount.path("home/anna")).unwrap();
    cluster.dfs(&["quota", "set", "/home", "--files", "2"]).ok();
    fs::write(mount.path("home/anna/first"), "one").unwrap();
    let refused = fs::write(mount.path("home/anna/second"), "two").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::QuotaExceeded);
    let explained = || {
        let log = mount.process.log();
        log.lines().find(|line| field(line, "code") == Some("QuotaExceeded")).map(str::to_owned)
    };
    wait_until(secs(5), "the refusal is explained", || explained().is_some());
    let line = explained().unwrap();
    assert!(line.contains("WARN") && line.contains("/home") && line.contains("quota"), "{line}");
    assert_eq!((field(&line, "path"), field(&line, "call")), (Some("/home/anna"), Some("create")));
}

#[test]
fn a_mount_logs_in_json_when_it_is_told_to() {
    let mut cluster = Cluster::builder().keepers(1).copies(1).min_copies(1).start();
    let mount = cluster.mount_with(&["--log-json"]);
    let log = mount.process.log();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    assert!(lines.iter().any(|line| line["level"] == "INFO" && line["message"] == "mounted"), "{log}");
}
