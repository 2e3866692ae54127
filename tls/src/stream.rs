//! Encrypted connections. Here those of tokio; a keeper, which blocks, takes a session and moves its bytes itself.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::explain::explain;
use crate::role::Role;

/// A handshake takes no longer, at either end.
pub const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);

/// Connects to peers of one role.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    dir: Arc<PathBuf>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Connector {
    pub(crate) fn new(config: Arc<ClientConfig>, dir: &Path) -> Connector {
        Connector { config, dir: Arc::new(dir.to_owned()) }
    }

    /// A session with the peer at `address`, HOST:PORT, whose bytes the caller moves.
    ///
    /// # Errors
    /// The address has no host that a certificate could be for.
    pub fn session(&self, address: &str) -> io::Result<ClientConnection> {
        let name = server_name(address)?;
        ClientConnection::new(self.config.clone(), name).map_err(io::Error::other)
    }

    /// Encrypts a connection to `address`, HOST:PORT.
    ///
    /// # Errors
    /// In words that say what to do ([`explain`]).
    pub async fn connect(
        &self,
        address: &str,
        stream: TcpStream,
    ) -> io::Result<client::TlsStream<TcpStream>> {
        let name = server_name(address)?;
        let handshake = TlsConnector::from(self.config.clone()).connect(name, stream);
        match timeout(HANDSHAKE_WITHIN, handshake).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(self.explained(error)),
            Err(_) => Err(late()),
        }
    }

    /// A handshake's error, in words that say what to do.
    pub fn explained(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), explain(&error, &self.dir))
    }
}

/// Takes in connections to a port.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor(..)")
    }
}

impl Acceptor {
    pub(crate) fn new(config: Arc<ServerConfig>) -> Acceptor {
        Acceptor { config }
    }

    /// A session with whoever connected, whose bytes the caller moves.
    ///
    /// # Errors
    /// As rustls says.
    pub fn session(&self) -> io::Result<ServerConnection> {
        ServerConnection::new(self.config.clone()).map_err(io::Error::other)
    }

    /// Encrypts a connection that came in.
    ///
    /// # Errors
    /// The peer speaks no TLS, shows a certificate that is not of the CA, or takes too long.
    pub async fn accept<S>(&self, stream: S) -> io::Result<server::TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let handshake = TlsAcceptor::from(self.config.clone()).accept(stream);
        timeout(HANDSHAKE_WITHIN, handshake).await.unwrap_or_else(|_| Err(late()))
    }
}

/// Of the certificates that the peer showed, the role of the first. They were verified in the handshake.
pub fn role_of(shown: Option<&[CertificateDer<'_>]>) -> Option<Role> {
    shown?.first().and_then(Role::of)
}

fn late() -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!("no TLS handshake within {} s", HANDSHAKE_WITHIN.as_secs()),
    )
}

/// The host of HOST:PORT, without the brackets of an IPv6 address.
fn server_name(address: &str) -> io::Result<ServerName<'static>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(host.to_owned()).map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("'{host}' is no name that a certificate could be for; use a host's name or IP address"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_and_addresses_of_both_kinds() {
        for (address, host) in [("a.b:1", "a.b"), ("10.0.0.1:2", "10.0.0.1"), ("[::1]:3", "::1")] {
            assert_eq!(server_name(address).unwrap().to_str(), host);
        }
        assert!(server_name("a b:1").is_err());
    }
}
