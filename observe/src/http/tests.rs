use std::io::ErrorKind;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use tokio::net::TcpStream;

use dfs_tls::{Protocol, Role, TlsDir, authority};

use super::*;

fn deadlines() -> Deadlines {
    let ms = Duration::from_millis;
    Deadlines { head: ms(300), answer: ms(300), reading: ms(300) }
}

async fn server(routes: Router) -> Server {
    server_with(routes, None).await
}

/// A server with TLS, and the directory of its CA.
async fn encrypted(routes: Router) -> (Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    authority::init(&dir.path().join("tls"), &["h".to_owned()], 2).unwrap();
    let own = TlsDir::load(&dir.path().join("tls/master"), Some(Role::Master)).unwrap();
    let acceptor = own.acceptor(Protocol::Http).unwrap();
    (server_with(routes, Some(acceptor)).await, dir)
}

async fn server_with(routes: Router, tls: Option<Acceptor>) -> Server {
    let bound = Bound::open(SocketAddr::from(([127, 0, 0, 1], 0)), tls).await.unwrap();
    let shown = Shown {
        role: "test",
        version: "1",
        metrics: Arc::new(|page| page.value("x", Kind::Gauge, "X", 5)),
        ready: Arc::new(|| Err("not yet".to_owned())),
        routes,
    };
    bound.serve_within(shown, deadlines())
}

async fn ask(server: &Server, request: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer));
    read.await.expect("an answer and an end within 10 s").unwrap();
    String::from_utf8(answer).unwrap()
}

async fn get(server: &Server, path: &str) -> String {
    ask(server, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
}

#[tokio::test]
async fn metrics_health_and_readiness() {
    let server = server(Router::new()).await;
    let metrics = get(&server, "/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200 "), "{metrics}");
    assert!(metrics.contains("\ncontent-type: text/plain; version=0.0.4"), "{metrics}");
    assert!(metrics.contains("\nx 5\n") && metrics.contains("dfs_build_info{role=\"test\",version=\"1\"} 1"));
    assert!(metrics.contains("content-security-policy: default-src 'none'"), "{metrics}");
    assert!(get(&server, "/healthz").await.ends_with("\r\n\r\nok\n"));
    let ready = get(&server, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503 ") && ready.ends_with("not yet\n"), "{ready}");
    assert!(get(&server, "/nothing").await.starts_with("HTTP/1.1 404 "));
    server.shutdown().await;
}

#[tokio::test]
async fn on_loopback_other_names_than_this_machines_are_refused() {
    let server = server(Router::new()).await;
    for (host, good) in [
        ("localhost", true),
        ("LOCALHOST:80", true),
        ("127.0.0.1:80", true),
        ("127.0.0.1", true),
        ("[::1]:80", true),
        ("evil.example", false),
        ("localhost.evil.example:80", false),
        ("", false),
    ] {
        let answer =
            ask(&server, &format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
                .await;
        assert_eq!(answer.starts_with("HTTP/1.1 200 "), good, "{host}: {answer}");
    }
}

#[tokio::test]
async fn only_loopback_is_served_without_consent() {
    let outside = SocketAddr::from(([0, 0, 0, 0], 80));
    let error = check_exposure(outside, false, false).unwrap_err().to_string();
    assert!(error.contains("--insecure") && error.contains("0.0.0.0:80"), "{error}");
    assert!(check_exposure(outside, true, false).is_ok());
    assert!(check_exposure(outside, false, true).is_ok());
    assert!(check_exposure(SocketAddr::from(([127, 0, 0, 5], 80)), false, false).is_ok());
}

#[tokio::test]
async fn who_says_nothing_is_cut_off_also_on_a_connection_that_was_used() {
    let server = server(Router::new()).await;
    for first in ["", "GET /hea", "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"] {
        let begun = Instant::now();
        ask(&server, first).await;
        assert!(begun.elapsed() >= deadlines().head, "{first:?}");
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_given_up() {
    let never = || std::future::pending::<()>();
    let server = server(Router::new().route("/never", axum::routing::get(never))).await;
    assert!(get(&server, "/never").await.starts_with("HTTP/1.1 503 "));
}

#[tokio::test]
async fn who_does_not_read_is_cut_off() {
    let large = || async { vec![b'x'; 64 << 20] };
    let server = server(Router::new().route("/large", axum::routing::get(large))).await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    tokio::time::sleep(4 * deadlines().reading).await;
    let mut all = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut all)).await.unwrap();
    let reset = ended.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
    assert!(reset || all.len() < 64 << 20, "{} bytes, {ended:?}", all.len());
}

#[tokio::test]
async fn a_connection_too_many_is_told_so_and_there_is_room_again_later() {
    let server = server(Router::new()).await;
    let mut held = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(b"GET ").await.unwrap();
        held.push(stream);
    }
    let mut refused = String::new();
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.read_to_string(&mut refused).await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    drop(held);
    let begun = Instant::now();
    loop {
        // Whoever comes too early is refused, or cut off while he writes.
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let _ =
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
        let mut answer = String::new();
        if stream.read_to_string(&mut answer).await.is_ok() && answer.starts_with("HTTP/1.1 200 ") {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "no room again: {answer}");
    }
}

#[tokio::test]
async fn a_shutdown_closes_what_is_idle_at_once() {
    let server = server(Router::new()).await;
    let address = server.address();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    stream.readable().await.unwrap();
    let begun = Instant::now();
    server.shutdown().await;
    assert!(begun.elapsed() < SHUTDOWN_WITHIN, "{:?}", begun.elapsed());
    assert!(TcpStream::connect(address).await.is_err());
}

/// A connection over TLS that said this.
async fn shaken(server: &Server, dir: &tempfile::TempDir, says: &str) -> impl AsyncReadExt + Unpin {
    let connector = TlsDir::load(&dir.path().join("tls/client"), None).unwrap().to_pages().unwrap();
    let address = server.address();
    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream = connector.connect(&address.to_string(), stream).await.unwrap();
    stream.write_all(says.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    stream
}

#[tokio::test]
async fn with_a_certificate_it_speaks_tls_and_plain_http_is_told_so() {
    let (server, dir) = encrypted(Router::new()).await;
    let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    shaken(&server, &dir, request).await.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok\n"), "{answer}");
    let plain = ask(&server, request).await;
    assert!(plain.starts_with("HTTP/1.1 400 ") && plain.contains("https://"), "{plain}");
    assert!(!plain.contains("ok\n"), "{plain}");
}

#[tokio::test]
async fn with_tls_the_deadlines_are_the_same() {
    let large = || async { vec![b'x'; 64 << 20] };
    let (server, dir) = encrypted(Router::new().route("/large", axum::routing::get(large))).await;
    // Who says nothing at all; and nothing after the handshake.
    let begun = Instant::now();
    ask(&server, "").await;
    assert!(begun.elapsed() >= deadlines().head);
    let begun = Instant::now();
    let mut rest = Vec::new();
    let silent = shaken(&server, &dir, "GET /hea").await.read_to_end(&mut rest).await;
    assert!(begun.elapsed() >= deadlines().head && begun.elapsed() < Duration::from_secs(10), "{silent:?}");
    // Who reads nothing.
    let mut stream = shaken(&server, &dir, "GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    tokio::time::sleep(4 * deadlines().reading).await;
    let mut all = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut all)).await.unwrap();
    // However it ended: it was not all sent.
    assert!(all.len() < 64 << 20, "{} bytes, {ended:?}", all.len());
}
