//! Hostile and broken peers.
//!
//! Covers: garbage, an oversized frame, a truncated frame and a connection that goes silent on the keeper's data port: closed
//! within 10 s, and no memory grows; the same bytes on the master's port do no harm.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use dfs_proto::frame::{HEADER_LEN, Header, Kind};
use dfs_tests::wait::secs;
use dfs_tests::{Cluster, Rng, film};

const EACH: usize = 12;
/// Ten seconds as promised, and room for a busy machine.
const CLOSED_WITHIN: Duration = secs(12);

/// A header with any lengths, also forbidden ones.
fn header(kind: Kind, meta_len: u16, data_len: u32) -> Vec<u8> {
    let mut raw = Header { kind, meta_len: 0, data_len: 0, request: 1 }.encode();
    raw[6..8].copy_from_slice(&meta_len.to_le_bytes());
    raw[8..12].copy_from_slice(&data_len.to_le_bytes());
    raw.to_vec()
}

/// Sends bytes, then is silent; how long until the peer closes.
fn closed_after(address: &str, bytes: &[u8]) -> Duration {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(secs(20))).unwrap();
    let begun = Instant::now();
    // The peer may have closed already.
    let _ = stream.write_all(bytes);
    let mut sink = [0; 4096];
    while let Ok(1..) = stream.read(&mut sink) {}
    begun.elapsed()
}

/// Sends a byte every half second; how long until the peer closes.
fn closed_while_trickling(address: &str, bytes: &[u8]) -> Duration {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let begun = Instant::now();
    let mut left = bytes.iter();
    while begun.elapsed() < secs(20) {
        let Some(byte) = left.next() else { break };
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
        match stream.read(&mut [0; 4096]) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    begun.elapsed()
}

#[test]
fn hostile_connections_to_a_keeper_are_closed_within_10_s_and_no_memory_grows() {
    let mut cluster = Cluster::start();
    cluster.dfs(&["put", film::small().to_str().unwrap(), "/movie.mp4"]).ok();
    cluster.wait_copies("/movie.mp4", 3, secs(15));
    let address = cluster.keeper_row(0)["address"].as_str().unwrap().to_owned();
    let garbage = Rng::new(1).bytes(100_000);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("silent", vec![]),
        ("garbage", garbage.clone()),
        ("http", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("half a header", header(Kind::Read, 10, 0)[..HEADER_LEN / 2].to_vec()),
        ("oversized data", header(Kind::WriteData, 0, u32::MAX)),
        ("oversized meta", header(Kind::WriteOpen, u16::MAX, 0)),
        ("truncated meta", [header(Kind::WriteOpen, 200, 0), vec![8; 100]].concat()),
        ("truncated data", [header(Kind::WriteData, 0, 1 << 20), vec![7; 1000]].concat()),
        ("meta that is no message", [header(Kind::Read, 500, 0), garbage[..500].to_vec()].concat()),
        ("data out of turn", [header(Kind::WriteData, 0, 1000), vec![7; 1000]].concat()),
    ];
    let before = cluster.keeper(0).rss();
    let slowest: Vec<(&str, Duration)> = std::thread::scope(|scope| {
        let mut threads: Vec<_> = cases
            .iter()
            .flat_map(|case| (0..EACH).map(move |_| case))
            .map(|(name, bytes)| scope.spawn(|| (*name, closed_after(&address, bytes))))
            .collect();
        threads.push(scope.spawn(|| {
            ("trickling", closed_while_trickling(&address, &header(Kind::Read, 8000, 0).repeat(10)))
        }));
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (name, took) in slowest {
        assert!(took < CLOSED_WITHIN, "{name}: closed after {took:?}");
    }
    let after = cluster.keeper(0).rss();
    println!("resident before {} KiB, after {} KiB", before >> 10, after >> 10);
    assert!(after < before + (32 << 20), "resident grew from {before} to {after}");
    // It serves as before.
    assert_eq!(cluster.live(), 3);
    cluster.keeper(1).kill();
    cluster.keeper(2).kill();
    let mount = cluster.mount();
    film::same(&film::small(), &mount.path("movie.mp4"));
}

#[test]
fn more_connections_than_a_keeper_takes_do_not_stop_it() {
    let mut cluster = Cluster::start();
    cluster.dfs(&["put", film::small().to_str().unwrap(), "/movie.mp4"]).ok();
    let address = cluster.keeper_row(0)["address"].as_str().unwrap().to_owned();
    let crowd: Vec<TcpStream> = (0..400).filter_map(|_| TcpStream::connect(&address).ok()).collect();
    assert!(crowd.len() > 256);
    let mount = cluster.mount();
    film::same(&film::small(), &mount.path("movie.mp4"));
    assert!(cluster.keeper(0).is_running());
    assert_eq!(cluster.live(), 3);
}

#[test]
fn garbage_on_the_masters_port_does_no_harm() {
    let mut cluster = Cluster::builder().keepers(1).start();
    let before = cluster.master.rss();
    let address = cluster.address().to_owned();
    let garbage = Rng::new(2).bytes(1 << 20);
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), garbage.clone()].concat();
    let streams: Vec<TcpStream> = [&garbage[..], &preface, b"GET / HTTP/1.1\r\n\r\n", b""]
        .iter()
        .cycle()
        .take(80)
        .map(|bytes| {
            let mut stream = TcpStream::connect(&address).unwrap();
            stream.set_write_timeout(Some(secs(2))).unwrap();
            let _ = stream.write_all(bytes);
            stream
        })
        .collect();
    assert_eq!(cluster.live(), 1);
    drop(streams);
    let mount = cluster.mount();
    std::fs::write(mount.path("file"), b"content").unwrap();
    assert!(cluster.master.rss() < before + (64 << 20));
}
