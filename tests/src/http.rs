//! One HTTP request at a time, as plain as can be: what the server really sends is what a test is to see.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use dfs_tls::TlsDir;
use dfs_tls::rustls::StreamOwned;

use crate::process::Process;
use crate::wait::{secs, wait_for};

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    /// 200, ...
    pub status: u16,
    /// Name (in small letters) and value, in order.
    pub headers: Vec<(String, String)>,
    /// As it came.
    pub body: Vec<u8>,
}

impl Answer {
    /// Of one header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The body, which has to be text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body, which has to be JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

/// Where a process serves HTTP: it says so in its log.
pub fn address(process: &Process) -> String {
    wait_for(secs(20), "the process serves HTTP", || {
        let log = process.log_since_start();
        let (_, address) = log.rsplit_once("http: listening on ")?;
        Some(address.split_whitespace().next()?.to_owned())
    })
}

/// GET of `path` at `address`.
#[track_caller]
pub fn get(address: &str, path: &str) -> Answer {
    send(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"))
}

/// Sends these bytes, and reads to the end.
///
/// # Panics
/// When there is no answer.
#[track_caller]
pub fn send(address: &str, request: &str) -> Answer {
    try_send(address, request).unwrap_or_else(|| panic!("no HTTP answer to {request:.200}"))
}

/// The same. None: the connection was cut without an answer, as may happen to who says more than is read.
#[track_caller]
pub fn try_send(address: &str, request: &str) -> Option<Answer> {
    exchange(connect(address), request)
}

/// The same over TLS, to whoever has a certificate of the CA in `dir`.
///
/// # Panics
/// When there is no answer.
#[track_caller]
pub fn send_tls(dir: &Path, address: &str, request: &str) -> Answer {
    let session = TlsDir::load(dir, None).unwrap().to_pages().unwrap().session(address).unwrap();
    let answer = exchange(StreamOwned::new(session, connect(address)), request);
    answer.unwrap_or_else(|| panic!("no HTTPS answer to {request:.200}"))
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(secs(40))).unwrap();
    stream
}

fn exchange(mut stream: impl Read + Write, request: &str) -> Option<Answer> {
    let mut bytes = Vec::new();
    let sent = stream.write_all(request.as_bytes());
    let read = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let Some(end) = end else {
        assert!(sent.is_err() || read.is_err(), "no HTTP: {:?}", String::from_utf8_lossy(&bytes));
        return None;
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_ascii_lowercase(), value.to_owned())
    });
    Some(Answer { status, headers: headers.collect(), body: bytes[end + 4..].to_vec() })
}
