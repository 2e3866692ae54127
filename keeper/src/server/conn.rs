//! One connection to the data port, from its first frame to its end.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_observe::metrics::ErrorClass;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::frame::{Header, Kind};
use dfs_tls::{Acceptor, plain};

use crate::metrics::DataOp;
use crate::node::Node;
use crate::server::{read, upload};
use crate::stream::{Stream, was_plain};
use crate::wire::{Wire, WireError};

/// How long a peer may go on sending after its request was refused.
const LINGER: Duration = Duration::from_secs(1);

/// Why a connection, or one request, ends.
#[derive(Debug)]
pub(super) enum Failure {
    /// The request is refused; the peer gets the words, and the connection is closed.
    Refused(DfsError),
    /// The connection is of no use any more.
    Wire(WireError),
}

impl From<DfsError> for Failure {
    fn from(error: DfsError) -> Failure {
        Failure::Refused(error)
    }
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Failure {
        Failure::Wire(error)
    }
}

/// The peer broke the rules of the data plane.
pub(super) fn protocol(why: impl Into<String>) -> Failure {
    Failure::Refused(DfsError::new(ErrorCode::Protocol, why))
}

/// One connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub node: Arc<Node>,
    pub wire: Wire,
    pub peer: SocketAddr,
    /// What the request under way is, for the metrics.
    pub kind: DataOp,
    /// Where an upload's bytes pass through. Grows to one piece at the first upload.
    pub buffer: Vec<u8>,
}

impl Conn {
    /// Serves a peer until it leaves, is cut off, or the keeper stops.
    pub fn serve(node: Arc<Node>, stream: TcpStream, peer: SocketAddr) {
        let stream = match node.tls.as_ref().map(Acceptor::session) {
            None => Ok(Stream::Plain(stream)),
            Some(session) => session.map(|session| Stream::tls(stream, session)),
        };
        let wire = stream.and_then(|s| Wire::new(s, node.tuning.silence_timeout, node.stop.clone()));
        let wire = match wire {
            Ok(wire) => wire,
            Err(error) => {
                tracing::debug!(%peer, %error, "connection was gone at once");
                return;
            }
        };
        let counted = node.clone();
        let _held = counted.metrics.connections.hold();
        let mut conn = Conn { node, wire, peer, kind: DataOp::Other, buffer: Vec::new() };
        match conn.wire.handshake() {
            Ok(()) => {}
            Err(WireError::Io(error)) if was_plain(&error) => {
                // In its own protocol, and nothing of what it sent is looked at.
                conn.wire = conn.wire.into_plain();
                return conn.refuse(0, DfsError::new(ErrorCode::Access, plain::REASON));
            }
            Err(error) => {
                tracing::info!(%peer, "a TLS handshake failed: {error}");
                return;
            }
        }
        let mut request = 0;
        loop {
            match conn.request(&mut request) {
                Ok(()) => {}
                Err(Failure::Wire(WireError::Closed | WireError::Stopping)) => return,
                Err(Failure::Wire(WireError::Frame(error))) => {
                    return conn.refuse(request, DfsError::new(ErrorCode::Protocol, error.to_string()));
                }
                Err(Failure::Wire(error)) => {
                    tracing::debug!(%peer, %error, "connection closed");
                    return;
                }
                Err(Failure::Refused(error)) => return conn.refuse(request, error),
            }
        }
    }

    /// One request and its answer. An error ends the connection. `number` becomes the request's.
    fn request(&mut self, number: &mut u32) -> Result<(), Failure> {
        let header = self.wire.header()?;
        *number = header.request;
        let began = Instant::now();
        let served = self.serve_one(&header);
        self.node.metrics.requests.done(self.kind, began.elapsed());
        if let Err(Failure::Wire(_)) = &served {
            self.node.metrics.requests.failed(self.kind, ErrorClass::Io);
        }
        served
    }

    fn serve_one(&mut self, header: &Header) -> Result<(), Failure> {
        match header.kind {
            Kind::Read => {
                self.kind = DataOp::Read;
                read::serve(self, header)
            }
            Kind::WriteOpen => {
                self.kind = DataOp::Write;
                upload::serve(self, header)
            }
            kind => {
                self.kind = DataOp::Other;
                Err(protocol(format!("a {kind:?} frame is no request")))
            }
        }
    }

    /// Answers a request that failed.
    pub fn answer_error(&mut self, request: u32, error: &DfsError) -> Result<(), WireError> {
        tracing::debug!(peer = %self.peer, code = ?error.code, %error, "request refused");
        self.node.metrics.requests.failed(self.kind, ErrorClass::of_errno(error.code.errno() as i32));
        self.wire.send(Kind::Error, request, &error.to_wire())
    }

    fn refuse(mut self, request: u32, error: DfsError) {
        if self.answer_error(request, &error).is_ok() {
            self.wire.close_gently(LINGER);
        }
    }
}

/// Refuses raw bytes where a frame has none.
pub(super) fn no_data(header: &Header) -> Result<(), Failure> {
    if header.data_len == 0 {
        return Ok(());
    }
    Err(protocol(format!("a {:?} frame carries no raw bytes, this one {}", header.kind, header.data_len)))
}
