//! The data server: the keeper's plain TCP port.
//!
//! One thread per connection with blocking I/O: serving a chunk is file work, and so is taking one
//! in. Their number is bounded, and so is what each may hold in memory (one piece of data and one
//! frame's meta). Requests of one connection are answered in their order; a client may send the next
//! ones early, and they wait in the socket.
//!
//! - [`conn`]: one connection, frame by frame.
//! - [`upload`]: a chunk comes in, from a client, a relaying keeper or a copying one.
//! - [`read`]: a range goes out.

mod conn;
mod read;
mod upload;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::frame::{self, Kind};
use rustix::net::SendFlags;

use crate::node::Node;
use crate::server::conn::Conn;

/// A connection's thread needs little: its buffers are on the heap.
const STACK: usize = 512 * 1024;
/// After accept(2) failed, for want of file descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The listening port and its threads.
#[derive(Debug)]
pub(crate) struct Server {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    active: Arc<AtomicUsize>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Opens the port. Connections wait until [`Server::start`].
    ///
    /// # Errors
    /// As bind(2) says.
    pub fn bind(listen: SocketAddr) -> io::Result<Server> {
        let listener = TcpListener::bind(listen)?;
        let address = listener.local_addr()?;
        Ok(Server { listener: Arc::new(listener), address, active: Arc::default(), acceptor: None })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins to serve, at most `limit` connections at once.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(&mut self, node: Arc<Node>, limit: usize) -> io::Result<()> {
        let (listener, active) = (self.listener.clone(), self.active.clone());
        let acceptor = thread::Builder::new().name("dfs-accept".to_owned()).stack_size(STACK);
        self.acceptor = Some(acceptor.spawn(move || accept(&listener, &node, &active, limit))?);
        Ok(())
    }

    /// Stops accepting; the node's sign to stop must be set. Does not wait.
    pub fn begin_stop(&self) {
        // On Linux this wakes accept(2).
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }

    /// Waits until all connections are closed, at most until `by`.
    pub fn join(&mut self, by: Instant) {
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        while self.active.load(Ordering::SeqCst) > 0 && Instant::now() < by {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Counts a connection for as long as it lives, also when its thread panics.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn accept(listener: &TcpListener, node: &Arc<Node>, active: &Arc<AtomicUsize>, limit: usize) {
    while !node.stop.is_set() {
        let (stream, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(_) if node.stop.is_set() => return,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        if active.load(Ordering::SeqCst) >= limit {
            // Where there is TLS it could not be understood without a handshake, which would cost more than it is worth.
            if node.tls.is_none() {
                refuse(&stream, limit);
            }
            continue;
        }
        active.fetch_add(1, Ordering::SeqCst);
        let slot = Slot(active.clone());
        let node = node.clone();
        let thread = thread::Builder::new().name("dfs-conn".to_owned()).stack_size(STACK);
        let spawned = thread.spawn(move || {
            // The node goes before the slot, so that nothing holds the data directory any more when
            // the count says that the connection is gone.
            let _slot = slot;
            Conn::serve(node, stream, peer);
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread for a connection");
        }
    }
}

fn refuse(stream: &TcpStream, limit: usize) {
    let busy = DfsError::new(
        ErrorCode::Busy,
        format!("this keeper serves {limit} connections already; try again, or another keeper"),
    );
    let answer = frame::encode(Kind::Error, 0, &busy.to_wire(), 0);
    // A fresh socket has room for it; and nobody waits here for one that has not.
    let _ = rustix::net::send(stream, &answer, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}
