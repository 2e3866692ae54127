//! What master, keepers and mounts tell of themselves over HTTP.
//!
//! Covers: each page is right to the letter of the format; what is done is counted, with its errors, bytes and latency; a
//! keeper that dies and a chunk without copies are seen; a mount that is cut off says so; no process serves HTTP unless it is
//! told to, nor on an address that others reach; every name that docs/grafana uses is exported; the words of -o.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use dfs_tests::http::{address, get, try_send};
use dfs_tests::process::binary;
use dfs_tests::prometheus::Scrape;
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Rng, run, wait_until};
use std::process::Command;

const HTTP: [&str; 2] = ["--http", "127.0.0.1:0"];

fn cluster() -> Cluster {
    Cluster::builder().keepers(2).copies(2).master_flags(&HTTP).keeper_flags(&HTTP).start()
}

#[track_caller]
fn scrape(at: &str) -> Scrape {
    let page = get(at, "/metrics");
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    Scrape::parse(page.text())
}

fn op(name: &str) -> [(&str, &str); 1] {
    [("op", name)]
}

#[test]
fn what_is_done_is_counted_everywhere() {
    let mut cluster = cluster();
    let mount = cluster.mount_with(&HTTP);
    let (master, keeper, mounted) =
        (address(&cluster.master), address(cluster.keeper(0)), address(&mount.process));
    let before = (scrape(&master), scrape(&keeper), scrape(&mounted));
    let bytes = Rng::new(1).bytes(3_000_000);
    fs::write(mount.path("film"), &bytes).unwrap();
    fs::create_dir(mount.path("dir")).unwrap();
    fs::File::create(mount.path("dir/empty")).unwrap();
    assert!(fs::remove_dir(mount.path("dir")).is_err());
    assert!(fs::read_dir(mount.path("nothing")).is_err());
    cluster.wait_copies("/film", 2, secs(20));
    // Another mount has nothing of it yet.
    let other = cluster.mount_with(&HTTP);
    assert!(fs::read(other.path("film")).unwrap() == bytes);
    let reader = scrape(&address(&other.process));
    let after = (scrape(&master), scrape(&keeper), scrape(&mounted));

    let counted = |name, op: &str| {
        after.0.value(name, &[("op", op)]).unwrap() - before.0.value(name, &[("op", op)]).unwrap_or(0.0)
    };
    assert_eq!(counted("dfs_master_requests_total", "create"), 2.0);
    assert_eq!(counted("dfs_master_request_seconds_count", "create"), 2.0);
    assert!(counted("dfs_master_requests_total", "alloc") >= 1.0);
    assert!(counted("dfs_master_requests_total", "lookup") >= 1.0);
    let denied = [("op", "lookup"), ("error", "not_found")];
    assert!(after.0.value("dfs_master_request_errors_total", &denied).unwrap() >= 1.0);
    assert!(after.0.sum("dfs_master_commit_seconds_count") > before.0.sum("dfs_master_commit_seconds_count"));
    assert!(after.0.sum("dfs_master_commit_rows_total") > before.0.sum("dfs_master_commit_rows_total"));
    assert_eq!(after.0.value("dfs_master_keepers", &[("state", "live")]), Some(2.0));
    assert_eq!(after.0.value("dfs_master_sessions", &[("kind", "mount")]), Some(2.0));
    assert!(after.0.value("dfs_master_chunks", &[]).unwrap() >= 1.0);
    assert_eq!(after.0.value("dfs_master_chunks_under_replicated", &[]), Some(0.0));
    assert_eq!(
        after.0.value("dfs_build_info", &[("role", "master"), ("version", env!("CARGO_PKG_VERSION"))]),
        Some(1.0)
    );
    let stored = after.0.value("dfs_master_keeper_messages_total", &[("kind", "stored")]);
    assert!(stored.unwrap() >= 1.0);

    let keepers: Vec<Scrape> = (0..2).map(|n| scrape(&address(cluster.keeper(n)))).collect();
    let all = |name, op_name: &str| -> f64 {
        keepers.iter().filter_map(|keeper| keeper.value(name, &op(op_name))).sum()
    };
    assert!(all("dfs_keeper_bytes_total", "write") >= 3_000_000.0);
    let second = all("dfs_keeper_bytes_total", "relayed") + all("dfs_keeper_bytes_total", "copy");
    assert!(second >= 3_000_000.0, "{second} bytes came to the second keeper");
    assert!(all("dfs_keeper_bytes_total", "read") >= 3_000_000.0);
    assert!(all("dfs_keeper_requests_total", "write") >= 1.0);
    assert!(all("dfs_keeper_requests_total", "read") >= 1.0);
    assert_eq!(after.1.value("dfs_keeper_chunks", &[]), after.0.value("dfs_master_chunks", &[]));
    assert!(after.1.sum("dfs_keeper_used_bytes") > before.1.sum("dfs_keeper_used_bytes"));
    assert_eq!(after.1.value("dfs_keeper_connected", &[]), Some(1.0));

    assert_eq!(after.2.value("dfs_mount_written_bytes_total", &[]), Some(3_000_000.0));
    assert!(after.2.value("dfs_mount_operations_total", &op("write")).unwrap() >= 1.0);
    let not_empty = [("op", "rmdir"), ("error", "exists")];
    assert_eq!(after.2.value("dfs_mount_operation_errors_total", &not_empty), Some(1.0));
    assert_eq!(after.0.value("dfs_master_request_errors_total", &not_empty), Some(1.0));
    assert_eq!(after.2.value("dfs_mount_operations_total", &op("rmdir")), Some(1.0));
    assert_eq!(after.2.value("dfs_mount_write_buffer_used_bytes", &[]), Some(0.0));
    assert_eq!(after.2.value("dfs_mount_session_up", &[]), Some(1.0));
    assert!(reader.value("dfs_mount_read_bytes_total", &[]).unwrap() >= 3_000_000.0);
    assert!(reader.value("dfs_mount_cache_misses_total", &[]).unwrap() >= 1.0);
    assert!(reader.value("dfs_mount_cache_bytes", &[]).unwrap() >= 3_000_000.0);
    assert!(reader.value("dfs_mount_operation_seconds_count", &op("read")).unwrap() >= 1.0);
}

#[test]
fn a_dead_keeper_and_a_chunk_without_copies_are_seen() {
    let mut cluster = cluster();
    let mount = cluster.mount();
    fs::write(mount.path("film"), b"bytes").unwrap();
    cluster.wait_copies("/film", 2, secs(20));
    let master = address(&cluster.master);
    let seen = |name: &str, labels: &[(&str, &str)]| scrape(&master).value(name, labels);
    let first = cluster.keeper_row(0);
    let (id, at) =
        (first["keeper"].as_u64().unwrap().to_string(), first["address"].as_str().unwrap().to_owned());
    let labels = [("keeper", id.as_str()), ("address", at.as_str())];
    assert_eq!(seen("dfs_master_keeper_up", &labels), Some(1.0));
    let repaired = |name: &str| seen(name, &[]).unwrap();
    let before = (repaired("dfs_master_repaired_chunks_total"), repaired("dfs_master_repaired_bytes_total"));
    cluster.keeper(0).kill();
    wait_until(secs(15), "the keeper is seen to be dead", || {
        seen("dfs_master_keeper_up", &labels) == Some(0.0)
            && seen("dfs_master_keepers", &[("state", "dead")]) == Some(1.0)
            && seen("dfs_master_chunks_endangered", &[]) == Some(1.0)
            && seen("dfs_master_keeper_silent_seconds", &labels).unwrap() > 2.0
    });
    assert_eq!(seen("dfs_master_chunks_lost", &[]), Some(0.0));
    let added = cluster.add_keeper();
    cluster.wait_copies("/film", 2, secs(20));
    assert_eq!(seen("dfs_master_chunks_endangered", &[]), Some(0.0));
    assert_eq!(repaired("dfs_master_repaired_chunks_total"), before.0 + 1.0);
    assert_eq!(repaired("dfs_master_repaired_bytes_total"), before.1 + 5.0);
    let new = scrape(&address(cluster.keeper(added)));
    assert_eq!(new.value("dfs_keeper_bytes_total", &op("copy")), Some(5.0));
    let old = scrape(&address(cluster.keeper(1)));
    assert!(old.value("dfs_keeper_pushed_bytes_total", &[]).unwrap() >= 5.0);
    for keeper in [1, added] {
        cluster.keeper(keeper).kill();
    }
    wait_until(secs(15), "the loss is seen", || seen("dfs_master_chunks_lost", &[]) == Some(1.0));
}

#[test]
fn whoever_has_no_master_is_not_ready() {
    let mut cluster = cluster();
    let mount = cluster.mount_with(&HTTP);
    let (keeper, mounted) = (address(cluster.keeper(0)), address(&mount.process));
    for at in [&address(&cluster.master), &keeper, &mounted] {
        assert_eq!(get(at, "/readyz").status, 200);
        assert_eq!(get(at, "/healthz").text(), "ok\n");
    }
    cluster.master.kill();
    wait_until(secs(15), "keeper and mount are not ready", || {
        get(&keeper, "/readyz").status == 503 && get(&mounted, "/readyz").status == 503
    });
    assert_eq!(scrape(&mounted).value("dfs_mount_session_up", &[]), Some(0.0));
    assert_eq!(scrape(&keeper).value("dfs_keeper_connected", &[]), Some(0.0));
    assert_eq!(get(&mounted, "/healthz").status, 200);
    cluster.restart_master();
    wait_until(secs(15), "keeper and mount are ready again", || {
        get(&keeper, "/readyz").status == 200 && get(&mounted, "/readyz").status == 200
    });
}

#[test]
fn nobody_serves_http_by_himself_or_to_others_without_consent() {
    let mut cluster = Cluster::builder().keepers(1).copies(1).min_copies(1).start();
    let mount = cluster.mount();
    for log in [cluster.master.log(), cluster.keeper(0).log(), mount.process.log()] {
        assert!(!log.contains("http: listening"), "{log}");
    }
    let data = cluster.scratch.path("other").display().to_string();
    for (name, args) in [
        ("dfs-master", vec!["--data", &data]),
        ("dfs-keeper", vec!["--data", &data, "--master", cluster.address()]),
        ("dfs-mount", vec!["--master", cluster.address(), &data]),
    ] {
        let ran = run(Command::new(binary(name)).args(&args).args(["--http", "0.0.0.0:0"]), secs(20));
        ran.one_line_error(name, &["0.0.0.0:0", "--insecure"]);
    }
    assert!(!Path::new(&data).exists(), "something was made before the flags were looked at");
    let consenting = cluster.mount_with(&["-o", "http=0.0.0.0:0,insecure"]);
    let port = address(&consenting.process).rsplit_once(':').unwrap().1.to_owned();
    assert_eq!(get(&format!("127.0.0.1:{port}"), "/healthz").status, 200);
    // A port that is taken is said before anything is mounted.
    let taken = cluster.address().to_owned();
    fs::create_dir(&data).unwrap();
    let ran = run(
        Command::new(binary("dfs-mount")).args(["-f", "--master", &taken, "--http", &taken, &data]),
        secs(20),
    );
    ran.one_line_error("dfs-mount", &["--http", &taken]);
}

#[test]
fn hostile_requests_harm_nobody() {
    let cluster = Cluster::builder().keepers(1).copies(1).min_copies(1).master_flags(&HTTP).start();
    let master = address(&cluster.master);
    for (request, statuses) in [
        ("GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n".to_owned(), vec![421]),
        ("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello".to_owned(), vec![405]),
        (format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(100_000)), vec![414, 431]),
        (format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000)), vec![431]),
        ("\0\u{1}\u{2}garbage\r\n\r\n".to_owned(), vec![400]),
        ("GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(), vec![404]),
    ] {
        // Who says too much may be cut off before he reads why.
        if let Some(answer) = try_send(&master, &request) {
            assert!(statuses.contains(&answer.status), "{request:.60}: {answer:?}");
        } else {
            assert!(request.len() > 50_000, "{request:.60}");
        }
    }
    assert_eq!(get(&master, "/healthz").status, 200);
}

#[test]
fn every_name_that_dashboard_and_alerts_use_is_exported() {
    let mut cluster = cluster();
    let mount = cluster.mount_with(&HTTP);
    fs::write(mount.path("film"), b"bytes").unwrap();
    let pages = [&address(&cluster.master), &address(cluster.keeper(0)), &address(&mount.process)];
    let exported: BTreeSet<String> = pages
        .iter()
        .flat_map(|at| scrape(at).families)
        .flat_map(|(name, kind)| match kind.as_str() {
            "histogram" => ["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")).to_vec(),
            _ => vec![name],
        })
        .collect();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs");
    let dashboard = fs::read_to_string(docs.join("grafana/dfs.json")).unwrap();
    serde_json::from_str::<serde_json::Value>(&dashboard).expect("the dashboard is JSON");
    for file in ["grafana/dfs.json", "grafana/alerts.yml", "OPERATIONS.md"] {
        let text = fs::read_to_string(docs.join(file)).unwrap();
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let used: BTreeSet<&str> = words
            .filter(|word| {
                ["dfs_master_", "dfs_keeper_", "dfs_mount_", "dfs_build_", "process_"]
                    .iter()
                    .any(|role| word.starts_with(role) && word.len() > role.len())
            })
            .collect();
        assert!(used.len() >= 5, "{file} uses {used:?}");
        for name in used {
            assert!(exported.contains(name), "{file} uses {name}, which nobody exports");
        }
    }
}
