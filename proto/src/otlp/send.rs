//! The thread that sends spans: one POST of JSON a second at most, over HTTP/1.1 as plain as can be. It is not worth a client
//! of its own, and must share nothing with the runtimes that do the work.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::span::Span;
use super::{DROPPED, SENT};

/// A batch is sent when it is so old, or so large.
const BATCH_FOR: Duration = Duration::from_secs(1);
const MAX_BATCH: usize = 2048;
/// For each step of a request.
const WITHIN: Duration = Duration::from_secs(5);
/// Of an answer, its head is enough.
const MAX_ANSWER: u64 = 4096;
/// Where nothing else is said.
const PATH: &str = "/v1/traces";
const PORT: u16 = 4318;

/// Where a collector takes OTLP over HTTP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// HOST:PORT.
    address: String,
    path: String,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpoint, String> {
        if text.starts_with("https://") {
            return Err(
                "a collector is spoken to without TLS; run one on this machine that passes traces on"
                    .to_owned(),
            );
        }
        let rest = text.strip_prefix("http://").unwrap_or(text);
        let (host, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
        let is_odd = |c: char| c.is_whitespace() || c.is_control();
        if host.is_empty() || text.contains(is_odd) {
            return Err("say http://HOST:PORT, as http://localhost:4318".to_owned());
        }
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = if has_port { host.to_owned() } else { format!("{host}:{PORT}") };
        let path = if path.is_empty() { PATH.to_owned() } else { format!("/{path}") };
        Ok(Endpoint { address, path })
    }
}

/// Whose spans they are.
pub(super) struct Service {
    name: &'static str,
    process: u32,
}

impl Service {
    pub fn new(name: &'static str) -> Service {
        Service { name, process: std::process::id() }
    }

    fn body(&self, spans: &[Span]) -> Value {
        let attribute = |key: &str, value: String| json!({ "key": key, "value": { "stringValue": value } });
        let of = [
            attribute("service.name", self.name.to_owned()),
            attribute("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            attribute("service.instance.id", self.process.to_string()),
        ];
        let spans: Vec<_> = spans.iter().map(Span::json).collect();
        let scope = json!({ "scope": { "name": "dfs" }, "spans": spans });
        json!({ "resourceSpans": [{ "resource": { "attributes": of }, "scopeSpans": [scope] }] })
    }
}

/// Until nobody makes spans any more.
pub(super) fn send_all(endpoint: &Endpoint, service: &Service, waiting: &Receiver<Span>) {
    let mut failing = false;
    while let Ok(first) = waiting.recv() {
        let batch = fill(first, waiting);
        let count = batch.len() as u64;
        match post(endpoint, &service.body(&batch).to_string()) {
            Ok(()) => {
                SENT.fetch_add(count, Ordering::Relaxed);
                failing = false;
            }
            Err(error) => {
                DROPPED.fetch_add(count, Ordering::Relaxed);
                if !std::mem::replace(&mut failing, true) {
                    let address = &endpoint.address;
                    tracing::warn!(
                        "--otlp: {address} takes no traces: {error}; see that a collector runs there"
                    );
                }
            }
        }
    }
}

fn fill(first: Span, waiting: &Receiver<Span>) -> Vec<Span> {
    let by = Instant::now() + BATCH_FOR;
    let mut batch = vec![first];
    while batch.len() < MAX_BATCH
        && let Ok(span) = waiting.recv_timeout(by.saturating_duration_since(Instant::now()))
    {
        batch.push(span);
    }
    batch
}

fn post(endpoint: &Endpoint, body: &str) -> io::Result<()> {
    let Endpoint { address, path } = endpoint;
    let found = address.to_socket_addrs()?.next();
    let found = found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such host"))?;
    let mut stream = TcpStream::connect_timeout(&found, WITHIN)?;
    stream.set_read_timeout(Some(WITHIN))?;
    stream.set_write_timeout(Some(WITHIN))?;
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let (mut answer, by) = (Vec::new(), Instant::now() + WITHIN);
    let mut piece = [0; 512];
    // Whoever trickles is not waited for.
    while !answer.contains(&b'\n') && answer.len() as u64 <= MAX_ANSWER && Instant::now() < by {
        match stream.read(&mut piece)? {
            0 => break,
            n => answer.extend_from_slice(&piece[..n]),
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some(code) if code.starts_with('2') => Ok(()),
        _ => Err(io::Error::other(format!("it answers '{status:.80}'"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_typed_in_several_ways() {
        for (typed, address, path) in [
            ("http://localhost:4318", "localhost:4318", "/v1/traces"),
            ("http://tempo/", "tempo:4318", "/v1/traces"),
            ("10.0.0.7:9", "10.0.0.7:9", "/v1/traces"),
            ("http://[::1]:9/otlp/v1/traces", "[::1]:9", "/otlp/v1/traces"),
        ] {
            let endpoint: Endpoint = typed.parse().unwrap();
            assert_eq!((&*endpoint.address, &*endpoint.path), (address, path), "{typed}");
        }
        for bad in ["", "https://h:1", "http://", "a b", "h/\r\nX: y"] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad:?}");
        }
    }
}
