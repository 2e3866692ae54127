//! The HTTP server of a process: `/metrics`, `/healthz`, `/readyz`, and what its role adds.
//!
//! What must hold, whatever is at the other end:
//! - So many connections at once and no more; the next one is told so. A request's head has to come in time (also the first
//!   and the next of a connection that is kept open), it is answered in time or with 503, and who does not read is cut off.
//! - With a certificate it speaks TLS and nothing else (`connection`); whoever speaks plain HTTP to it is told so.
//! - Nothing is kept by a browser, shown within another site's page, or takes scripts from elsewhere ([`HEADERS`]).
//! - On a loopback address only names of this machine are served: a page of another site whose name suddenly means
//!   127.0.0.1 must not read what is here.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use dfs_tls::Acceptor;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::metrics::{Kind, Page};
use crate::process;

mod connection;
#[cfg(test)]
mod tests;

/// Connections at once.
const MAX_CONNECTIONS: usize = 64;
/// After accept(2) failed, for want of file descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A clean end takes no longer.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(2);
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// On every answer.
const HEADERS: [(header::HeaderName, &str); 5] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         media-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
];

/// The deadlines. The defaults are what is promised; tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// For the head of a request, from when the connection is ready for it.
    pub head: Duration,
    /// Until its answer begins.
    pub answer: Duration,
    /// Within which a peer has to take something of what it is sent.
    pub reading: Duration,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines {
            head: Duration::from_secs(15),
            answer: Duration::from_secs(30),
            reading: Duration::from_secs(30),
        }
    }
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum HttpError {
    #[error("listen on {address} for HTTP: {why}; free that port, or name another with --http")]
    Listen { address: SocketAddr, why: io::Error },
    #[error(
        "--http {0}: everybody who reaches that address could read names and figures; give --tls-dir (and the master --auth on), name a loopback address, or add --insecure"
    )]
    Exposed(SocketAddr),
}

/// Refuses an address that others reach, unless it is `safe` (there is TLS, and names are for those alone who log in), or
/// somebody said that he wants that.
///
/// # Errors
/// [`HttpError::Exposed`].
pub fn check_exposure(address: SocketAddr, safe: bool, insecure: bool) -> Result<(), HttpError> {
    if safe || insecure || address.ip().is_loopback() { Ok(()) } else { Err(HttpError::Exposed(address)) }
}

/// At the other end of a request's connection; among its extensions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer(pub SocketAddr);

/// What a role shows.
#[derive(Clone)]
pub struct Shown {
    /// Names the role in `dfs_build_info`.
    pub role: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Writes its metrics.
    pub metrics: Arc<dyn Fn(&mut Page) + Send + Sync>,
    /// Whether it can do its work now; if not, why.
    pub ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// What else there is.
    pub routes: Router,
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shown").field("role", &self.role).finish_non_exhaustive()
    }
}

/// An open port that nobody serves yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Acceptor>,
}

impl Bound {
    /// Opens the port; 0 takes a free one. With an acceptor it speaks TLS.
    ///
    /// # Errors
    /// [`HttpError::Listen`].
    pub async fn open(address: SocketAddr, tls: Option<Acceptor>) -> Result<Bound, HttpError> {
        let bound = TcpListener::bind(address).await.and_then(|listener| {
            let address = listener.local_addr()?;
            Ok((listener, address))
        });
        match bound {
            Ok((listener, address)) => Ok(Bound { listener, address, tls }),
            Err(why) => Err(HttpError::Listen { address, why }),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves, in the current tokio runtime, until the server is shut down or dropped.
    pub fn serve(self, shown: Shown) -> Server {
        self.serve_within(shown, Deadlines::default())
    }

    /// [`Bound::serve`] with other deadlines, for tests.
    pub fn serve_within(self, shown: Shown, deadlines: Deadlines) -> Server {
        let (stop, stopped) = watch::channel(false);
        let address = self.address;
        let routes = routes(shown, address, deadlines);
        let with = if self.tls.is_some() { "with TLS: https" } else { "without TLS: http" };
        let serve = connection::Serve { routes, tls: self.tls, deadlines, stopped: stopped.clone() };
        let task = tokio::spawn(accept(self.listener, serve, stopped));
        tracing::info!("http: listening on {address} {with}://{address}/");
        Server { address, stop, task }
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, lets the requests under way end for a moment, and cuts off what is left.
    pub async fn shutdown(mut self) {
        let _ = self.stop.send(true);
        let _ = tokio::time::timeout(SHUTDOWN_WITHIN, &mut self.task).await;
        // The rest is in `drop`.
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn routes(shown: Shown, address: SocketAddr, deadlines: Deadlines) -> Router {
    let Shown { role, version, metrics, ready, routes } = shown;
    let page = move || async move {
        let mut page = Page::default();
        page.family("dfs_build_info", Kind::Gauge, "Always 1; its labels say what runs");
        page.sample(&[("role", role), ("version", version)], 1);
        metrics(&mut page);
        process::write(&mut page);
        ([(header::CONTENT_TYPE, Page::CONTENT_TYPE)], page.into_text())
    };
    let readiness = move || async move {
        match ready() {
            Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        }
    };
    let guarded = move |request: Request<Body>, next: axum::middleware::Next| async move {
        if address.ip().is_loopback() && !names_this_machine(&request) {
            let text = "this address is served under names of this machine alone\n";
            return with_headers((StatusCode::MISDIRECTED_REQUEST, text).into_response());
        }
        let answer = tokio::time::timeout(deadlines.answer, next.run(request)).await;
        with_headers(answer.unwrap_or_else(|_| {
            (StatusCode::SERVICE_UNAVAILABLE, "this took too long; try again\n").into_response()
        }))
    };
    routes
        .route("/metrics", get(page))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness))
        .layer(axum::middleware::from_fn(guarded))
}

fn with_headers(mut answer: Response<Body>) -> Response<Body> {
    for (name, value) in HEADERS {
        answer.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    answer
}

fn names_this_machine(request: &Request<Body>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    if host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost") || name.strip_prefix('[').is_some_and(|ip| ip.ends_with(']'))
}

async fn accept(listener: TcpListener, serve: connection::Serve, mut stopped: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Dropped with this task, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = stopping(&mut stopped) => break,
        };
        match accepted {
            Ok((stream, _)) => match places.clone().try_acquire_owned() {
                Ok(place) => {
                    let serve = serve.clone();
                    connections.spawn(async move {
                        serve.connection(stream).await;
                        drop(place);
                    });
                }
                // A fresh socket has room for it; and nobody waits here for one that has not.
                Err(_) => drop(stream.try_write(BUSY)),
            },
            Err(error) => {
                tracing::warn!(%error, "http: cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Also when whoever could say so is gone.
async fn stopping(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|&stopped| stopped).await;
}
