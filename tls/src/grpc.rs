//! gRPC over TLS: the channel of the one who connects, and the connections that a server takes in.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::{client, server};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::{Service, http};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint};

use crate::plain;
use crate::role::Role;
use crate::stream::{Acceptor, Connector, HANDSHAKE_WITHIN, role_of};

/// Handshakes at once; who comes meanwhile waits in the kernel's queue.
const MAX_HANDSHAKES: usize = 256;
/// Connections that are ready and wait to be served.
const MAX_READY: usize = 16;
/// After accept(2) failed, for want of file descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connects to the master at `address`, HOST:PORT, which `endpoint` names too.
///
/// # Errors
/// The innermost cause says what failed, and what to do.
pub async fn connect(
    endpoint: &Endpoint,
    address: &str,
    connector: &Connector,
) -> Result<Channel, tonic::transport::Error> {
    let dial = Dial { address: address.to_owned(), connector: connector.clone() };
    endpoint.connect_with_connector(dial).await
}

/// Makes the connections of a channel.
struct Dial {
    address: String,
    connector: Connector,
}

type Dialled = Pin<Box<dyn Future<Output = io::Result<TokioIo<client::TlsStream<TcpStream>>>> + Send>>;

impl Service<http::Uri> for Dial {
    type Response = TokioIo<client::TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Dialled;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Dialled {
        let (address, connector) = (self.address.clone(), self.connector.clone());
        Box::pin(async move {
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(connector.connect(&address, stream).await?))
        })
    }
}

/// Who is at the other end of a call's connection. Where there is TLS, it is among the call's extensions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Where he comes from, when the kernel said.
    pub address: Option<SocketAddr>,
    /// By the certificate that he showed, if he did.
    pub role: Option<Role>,
}

/// A connection that was taken in.
#[derive(Debug)]
pub struct Encrypted {
    stream: server::TlsStream<TcpStream>,
    peer: Peer,
}

impl Connected for Encrypted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The connections to `listener`, as they are ready. Handshakes run side by side, so that one that hangs holds up no
/// other. Ends, and closes the port, when it is dropped.
pub fn incoming(
    listener: TcpListener,
    acceptor: Acceptor,
) -> impl Stream<Item = Result<Encrypted, Infallible>> {
    let (ready, connections) = mpsc::channel(MAX_READY);
    tokio::spawn(async move {
        tokio::select! {
            () = accept(listener, acceptor, ready.clone()) => {}
            () = ready.closed() => {}
        }
    });
    ReceiverStream::new(connections)
}

async fn accept(
    listener: TcpListener,
    acceptor: Acceptor,
    ready: mpsc::Sender<Result<Encrypted, Infallible>>,
) {
    let slots = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    // Nobody closes it.
    while let Ok(slot) = slots.clone().acquire_owned().await {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tokio::spawn(async move {
            let _slot = slot;
            if let Some(connection) = shake_hands(stream, address, &acceptor).await {
                // The server has ended.
                let _ = ready.send(Ok(connection)).await;
            }
        });
    }
}

async fn shake_hands(mut stream: TcpStream, address: SocketAddr, acceptor: &Acceptor) -> Option<Encrypted> {
    // It costs a little time, not the connection.
    let _ = stream.set_nodelay(true);
    if !plain::speaks_tls(&mut stream, HANDSHAKE_WITHIN).await {
        tracing::info!(%address, "a connection without TLS was refused");
        return None;
    }
    match acceptor.accept(stream).await {
        Ok(stream) => {
            let role = role_of(stream.get_ref().1.peer_certificates());
            Some(Encrypted { stream, peer: Peer { address: Some(address), role } })
        }
        Err(error) => {
            tracing::info!(%address, "a TLS handshake failed: {error}");
            None
        }
    }
}
