//! Traces for OpenTelemetry, with a collector of the test's own.
//!
//! Covers: what a program does on a mount, and what master and keepers did for its sake, have one trace, below the mount's span; a failed call is
//! one that failed; without a collector nothing is slower or fails, and what is lost is counted.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use dfs_tests::http::{address, get};
use dfs_tests::wait::{secs, wait_for};
use dfs_tests::{Cluster, film, wait_until};
use serde_json::Value;

/// A span, and whose it is.
#[derive(Clone, Debug)]
struct Span {
    service: String,
    span: Value,
}

impl Span {
    fn of(&self, key: &str) -> &str {
        self.span[key].as_str().unwrap_or_default()
    }
}

/// Takes what is posted.
fn collector() -> (String, Arc<Mutex<Vec<Span>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let spans = Arc::<Mutex<Vec<Span>>>::default();
    let collected = spans.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let posted = posted(stream.unwrap());
            for resource in posted["resourceSpans"].as_array().unwrap() {
                let attributes = resource["resource"]["attributes"].as_array().unwrap();
                let service = attributes.iter().find(|one| one["key"] == "service.name").unwrap();
                let service = service["value"]["stringValue"].as_str().unwrap();
                for span in resource["scopeSpans"][0]["spans"].as_array().unwrap() {
                    let span = Span { service: service.to_owned(), span: span.clone() };
                    collected.lock().unwrap().push(span);
                }
            }
        }
    });
    (url, spans)
}

fn posted(mut stream: TcpStream) -> Value {
    stream.set_read_timeout(Some(secs(20))).unwrap();
    let mut bytes = Vec::new();
    let body_at = loop {
        let mut piece = [0; 4096];
        let n = stream.read(&mut piece).unwrap();
        assert!(n > 0, "a request without an end");
        bytes.extend_from_slice(&piece[..n]);
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let head = String::from_utf8(bytes[..body_at].to_vec()).unwrap();
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("Content-Type: application/json\r\n"), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    let mut body = bytes[body_at..].to_vec();
    let rest = length.parse::<usize>().unwrap() - body.len();
    (&mut stream).take(rest as u64).read_to_end(&mut body).unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[test]
fn a_write_and_a_read_are_followed_through_all_programs() {
    let (url, spans) = collector();
    let flags = ["--otlp", &url];
    let mut cluster =
        Cluster::builder().keepers(2).copies(2).master_flags(&flags).keeper_flags(&flags).start();
    let writer = cluster.mount_with(&flags);
    fs::copy(film::small(), writer.path("movie.mp4")).unwrap();
    // Another mount, which has nothing of it.
    let reader = cluster.mount_with(&flags);
    film::same(&film::small(), &reader.path("movie.mp4"));
    assert!(fs::create_dir(reader.path("movie.mp4")).is_err());

    let of_trace = |trace: &str| -> Vec<Span> {
        let spans = spans.lock().unwrap();
        spans.iter().filter(|span| span.of("traceId") == trace).cloned().collect()
    };
    let whole = |wanted: &[&str], call: Option<&str>| {
        wait_for(secs(20), "a trace through all programs", || {
            let mounts: Vec<_> =
                spans.lock().unwrap().iter().filter(|s| s.service == "dfs-mount").cloned().collect();
            let fits = |mount: &&Span| call.is_none_or(|call| mount.of("name") == call);
            mounts.iter().filter(fits).find_map(|mount| {
                let all = of_trace(mount.of("traceId"));
                let services: BTreeSet<_> = all.iter().map(|span| &*span.service).collect();
                wanted.iter().all(|service| services.contains(service)).then(|| (mount.clone(), all.clone()))
            })
        })
    };
    for (wanted, call) in [
        (&["dfs-mount", "dfs-master", "dfs-keeper"][..], None),
        (&["dfs-mount", "dfs-master"][..], Some("create")),
        (&["dfs-mount", "dfs-master", "dfs-keeper"][..], Some("flush")),
    ] {
        let (mount, all) = whole(wanted, call);
        let when = |span: &Span, key: &str| span.of(key).parse::<u128>().unwrap();
        for span in &all {
            assert_eq!((span.of("traceId").len(), span.of("spanId").len()), (32, 16), "{span:?}");
            assert!(when(span, "startTimeUnixNano") <= when(span, "endTimeUnixNano"), "{span:?}");
            assert!(!span.of("name").is_empty(), "{span:?}");
            let above = if span.service == "dfs-mount" { "" } else { mount.of("spanId") };
            assert_eq!(span.of("parentSpanId"), above, "{span:?}");
        }
        let numbers: BTreeSet<_> = all.iter().map(|span| span.of("spanId")).collect();
        assert_eq!(numbers.len(), all.len(), "each span has a number of its own");
    }
    wait_until(secs(10), "the call that failed is there", || {
        let spans = spans.lock().unwrap();
        spans.iter().any(|span| span.service == "dfs-mount" && span.span["status"]["code"] == 2)
    });
}

#[test]
fn without_a_collector_nothing_waits_and_what_is_lost_is_counted() {
    // It takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut cluster = Cluster::builder().keepers(1).copies(1).min_copies(1).start();
    let mount = cluster.mount_with(&["--otlp", &url, "--http", "127.0.0.1:0"]);
    let begun = Instant::now();
    for n in 0..500 {
        fs::write(mount.path(format!("file-{n}")), "x").unwrap();
    }
    assert!(begun.elapsed() < secs(20), "{:?}", begun.elapsed());
    let at = address(&mount.process);
    wait_until(secs(30), "spans were dropped, and counted", || {
        let page = get(&at, "/metrics").text().to_owned();
        let count = page.lines().find_map(|line| line.strip_prefix("dfs_trace_spans_dropped_total "));
        count.unwrap().parse::<u64>().unwrap() > 0
    });
}
