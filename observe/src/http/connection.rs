//! One connection: TLS where there is a certificate, and then HTTP/1.1 until its end.
//!
//! What must hold: the deadlines are those of the server, with TLS or without. The peer's patience is watched below TLS, where
//! every byte passes that he has to take.

use std::io;
use std::time::Duration;

use axum::{Extension, Router};
use dfs_tls::{Acceptor, plain};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Deadlines, Peer, stopping};
use crate::patient::Patient;

/// Bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;
/// For the peer to take what he is told.
const LINGER: Duration = Duration::from_secs(1);
/// To whoever speaks plain HTTP to a port with TLS.
const SPEAKS_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n\
Content-Length: 61\r\n\r\nthis port speaks TLS alone; write https:// in place of http:\n";

/// What every connection of a server needs.
#[derive(Clone)]
pub(super) struct Serve {
    pub routes: Router,
    pub tls: Option<Acceptor>,
    pub deadlines: Deadlines,
    pub stopped: watch::Receiver<bool>,
}

impl Serve {
    /// Until its end.
    pub async fn connection(mut self, mut stream: TcpStream) {
        // None is left when the peer is gone.
        let Ok(address) = stream.peer_addr() else { return };
        self.routes = self.routes.layer(Extension(Peer(address)));
        let Some(tls) = self.tls.take() else {
            let patient = Patient::new(stream, self.deadlines.reading);
            return self.http(patient).await;
        };
        let mut stopped = self.stopped.clone();
        let encrypted = async {
            if !speaks_tls(&mut stream, self.deadlines.head).await {
                return None;
            }
            let accepted = tls.accept(Patient::new(stream, self.deadlines.reading)).await;
            accepted.inspect_err(|error| tracing::debug!(%error, "http: a TLS handshake failed")).ok()
        };
        let encrypted = tokio::select! {
            encrypted = encrypted => encrypted,
            () = stopping(&mut stopped) => None,
        };
        if let Some(encrypted) = encrypted {
            self.http(encrypted).await;
        }
    }

    async fn http(mut self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = TowerToHyperService::new(self.routes);
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.deadlines.head)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(served);
        let end = tokio::select! {
            end = served.as_mut() => end,
            () = stopping(&mut self.stopped) => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(error) = end {
            tracing::debug!(%error, "http: connection closed");
        }
    }
}

/// Waits for the peer's first byte. False: it is none of TLS, and the peer was told what this port speaks.
async fn speaks_tls(stream: &mut TcpStream, within: Duration) -> bool {
    let mut first = [0];
    match timeout(within, stream.peek(&mut first)).await {
        Ok(Ok(1..)) if plain::is_tls(&first) => return true,
        Ok(Ok(1..)) => {
            let _ = timeout(LINGER, turn_away(stream)).await;
        }
        _ => {}
    }
    false
}

/// What the peer still sends is read: left alone, it would reset the connection, and could take the answer with it.
async fn turn_away(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(SPEAKS_TLS).await?;
    stream.shutdown().await?;
    let mut sink = [0; 1024];
    while stream.read(&mut sink).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_is_as_long_as_it_says() {
        let text = String::from_utf8(SPEAKS_TLS.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}: {}", body.len());
    }
}
