//! A connection to a keeper, plain or encrypted: the one place of the client that knows which.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use dfs_tls::tokio_rustls::client::TlsStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::low_water;

/// See the module.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Whoever waits to read is woken when so many bytes are there, or at the end of the stream. At first it is one.
    /// Where it is encrypted, it stays that: the kernel counts other bytes than who reads. False: so it does here.
    pub(super) fn wake_at(&self, bytes: usize) -> bool {
        match self {
            Stream::Plain(stream) => low_water::set(stream, bytes).is_ok(),
            Stream::Tls(_) => false,
        }
    }
}

/// Does the same with whichever it is.
macro_rules! with {
    ($stream:expr, $inner:ident => $body:expr) => {
        match $stream.get_mut() {
            Stream::Plain($inner) => {
                let $inner = Pin::new($inner);
                $body
            }
            Stream::Tls($inner) => {
                let $inner = Pin::new($inner.as_mut());
                $body
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        with!(self, stream => stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        with!(self, stream => stream.poll_write(context, data))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        with!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        with!(self, stream => stream.poll_shutdown(context))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        with!(self, stream => stream.poll_write_vectored(context, data))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
