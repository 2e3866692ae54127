//! The idle connections to keepers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dfs_observe::metrics::Histogram;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::pb;
use dfs_tls::Connector;
use rustix::net::sockopt;
use tokio::net::TcpStream;

use super::buffers::Buffers;
use super::stream::Stream;
use super::wire::TransferError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A keeper that has stopped is connected to by its kernel, and then says nothing.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// Half of the silence after which a keeper closes a connection.
const MAX_IDLE: Duration = Duration::from_secs(5);
const MAX_IDLE_PER_KEEPER: usize = 16;
/// A keeper's machine that does not confirm what it was sent for so long, or does not answer the kernel's question whether it is
/// there, is cut off: the connection breaks. A keeper that is there may well be busy for longer, with a sync, say.
const CONFIRMED_WITHIN_MS: u32 = 2_000;
/// When nothing is under way, how often the kernel asks.
const ASK_EVERY: Duration = Duration::from_secs(1);

struct Idle {
    stream: Stream,
    since: Instant,
}

fn set_up(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_tcp_user_timeout(stream, CONFIRMED_WITHIN_MS)?;
    sockopt::set_tcp_keepidle(stream, ASK_EVERY)?;
    sockopt::set_tcp_keepintvl(stream, ASK_EVERY)?;
    Ok(sockopt::set_socket_keepalive(stream, true)?)
}

/// Connections to keepers, by address.
pub struct KeeperPool {
    /// For keepers whose ports speak TLS.
    tls: Option<Connector>,
    idle: Mutex<HashMap<String, Vec<Idle>>>,
    /// For the blocks that are read.
    pub(super) blocks: Arc<Buffers>,
    /// How long transfers took, whatever their end.
    pub(super) reads: Histogram,
    pub(super) stores: Histogram,
}

/// A connection that one transfer owns.
pub(super) struct Connection {
    pub(super) stream: Stream,
    /// It carried a transfer before, and may have been closed by the keeper meanwhile.
    used: bool,
    address: String,
}

impl Default for KeeperPool {
    fn default() -> Self {
        Self::new()
    }
}

impl KeeperPool {
    /// With no connection yet, and blocks of its own.
    pub fn new() -> Self {
        Self::with(None, Arc::new(Buffers::of_blocks()))
    }

    /// With no connection yet: for a cluster whose connections may be encrypted. Blocks are read into `blocks`.
    pub fn with(tls: Option<Connector>, blocks: Arc<Buffers>) -> Self {
        let (reads, stores) = Default::default();
        Self { tls, idle: Mutex::default(), blocks, reads, stores }
    }

    /// How long reads of ranges took, and how long chunks took to be stored.
    pub fn took(&self) -> [&Histogram; 2] {
        [&self.reads, &self.stores]
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<String, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to `keeper`: an idle one, or with `fresh`, and when there is none, a new one.
    pub(super) async fn check_out(
        &self,
        keeper: &pb::KeeperGrant,
        fresh: bool,
    ) -> Result<Connection, DfsError> {
        let address = keeper.address.clone();
        if !fresh && let Some(stream) = self.take_idle(&address) {
            return Ok(Connection { stream, used: true, address });
        }
        let failed = |why: String| {
            let message = format!("cannot connect to keeper {} at {address}: {why}", keeper.keeper);
            DfsError::new(ErrorCode::Unavailable, message)
        };
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))),
        };
        set_up(&stream).map_err(|error| failed(error.to_string()))?;
        let stream = match (keeper.tls, &self.tls) {
            (false, _) => Stream::Plain(stream),
            (true, None) => return Err(failed("it speaks TLS; give --tls-dir DIR".to_owned())),
            (true, Some(tls)) => {
                match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.connect(&address, stream)).await {
                    Ok(Ok(stream)) => Stream::Tls(Box::new(stream)),
                    Ok(Err(error)) => return Err(failed(error.to_string())),
                    Err(_) => {
                        return Err(failed(format!("no TLS within {} s", HANDSHAKE_TIMEOUT.as_secs())));
                    }
                }
            }
        };
        Ok(Connection { stream, used: false, address })
    }

    fn take_idle(&self, address: &str) -> Option<Stream> {
        let mut idle = self.idle();
        let of_keeper = idle.get_mut(address)?;
        // The last one in is the youngest: when it is too old, so are all.
        let youngest = of_keeper.pop()?;
        if youngest.since.elapsed() < MAX_IDLE {
            return Some(youngest.stream);
        }
        idle.remove(address);
        None
    }

    /// What becomes of a transfer that failed on `connection`: Ok when a fresh one should be tried. Where a connection broke or
    /// fell silent, the idle ones to that keeper are closed: each would cost its own wait.
    pub(super) fn failed(&self, connection: &Connection, error: TransferError) -> Result<(), TransferError> {
        if matches!(error, TransferError::Broken { .. } | TransferError::Silent(_)) {
            self.idle().remove(&connection.address);
        }
        if connection.used && error.may_be_stale() { Ok(()) } else { Err(error) }
    }

    /// Gives back a connection whose transfer was answered whole.
    pub(super) fn check_in(&self, connection: Connection) {
        let now = Instant::now();
        let mut idle = self.idle();
        for of_keeper in idle.values_mut() {
            of_keeper.retain(|old| now.duration_since(old.since) < MAX_IDLE);
        }
        idle.retain(|_, of_keeper| !of_keeper.is_empty());
        let of_keeper = idle.entry(connection.address).or_default();
        if of_keeper.len() < MAX_IDLE_PER_KEEPER {
            of_keeper.push(Idle { stream: connection.stream, since: now });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn when_a_transfer_breaks_the_idle_connections_to_its_keeper_go_and_others_stay() {
        let (silent, other) = (
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        );
        let grant = |listener: &TcpListener| pb::KeeperGrant {
            address: listener.local_addr().unwrap().to_string(),
            ..Default::default()
        };
        let (silent, other) = (grant(&silent), grant(&other));
        let pool = KeeperPool::new();
        for keeper in [&silent, &silent, &silent, &other] {
            let connection = pool.check_out(keeper, true).await.unwrap();
            pool.check_in(connection);
        }
        let idle = |keeper: &pb::KeeperGrant| pool.idle().get(&keeper.address).map_or(0, Vec::len);
        let connection = pool.check_out(&silent, false).await.unwrap();
        let refused = TransferError::Refused(DfsError::new(ErrorCode::Invalid, "no"));
        assert!(pool.failed(&connection, refused).is_err());
        assert_eq!((idle(&silent), idle(&other)), (2, 1), "a refusal says nothing of the connection");
        assert!(pool.failed(&connection, TransferError::Silent(MAX_IDLE)).is_err());
        assert_eq!((idle(&silent), idle(&other)), (0, 1));
        let gone = std::io::ErrorKind::ConnectionReset.into();
        assert!(pool.failed(&connection, TransferError::Broken { error: gone, answered: false }).is_ok());
    }
}
