//! A Data Keeper: stores chunks, serves them over TCP, copies them to its peers.
//!
//! - [`config`]: what it is told; [`error`]: why it cannot start or go on.
//! - `identity`: the data directory as a whole: whose it is, its lock. What changes it goes through one layer that tests
//!   can cut off (`dfs_files`).
//! - `store/`: chunk files: format, receiving, index, syncing, the disk.
//! - `server/`: the TCP data port: uploads and reads, a thread per connection.
//! - `wire`: frames on one blocking connection, with deadlines. `stream`: that connection, plain or encrypted.
//! - `peers`: connections to other keepers; `relay`: a chunk goes on to one while it arrives; `fetch`: blocks of one come in.
//! - `session`: the gRPC session with the master; `outbox`: notices on their way to it.
//! - `scrub`: reads everything once in a set period.
//! - `orders`: what the master has us do; `expected`: copies that it announced; `build`: a new chunk of parts of others;
//!   `syncer`: group sync. `used`: tickets that are good no more.
//! - `node`: what all of those share; `load`: counters; `metrics`: what Prometheus sees; `pace`: how fast background work goes; `queue`: work for threads.
//!
//! Control is asynchronous (tokio, tonic); the data plane and the disk are plain threads. Between them
//! stand the outbox, and the queues of orders and syncs; all are bounded.

mod build;
pub mod config;
pub mod error;
mod expected;
mod fetch;
#[doc(hidden)]
pub mod fuzz;
mod identity;
mod load;
mod metrics;
mod node;
mod orders;
mod outbox;
mod pace;
mod peers;
mod queue;
mod relay;
mod scrub;
mod server;
mod session;
mod store;
mod stream;
mod syncer;
mod used;
mod wire;

use std::fs;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dfs_files as files;
use dfs_observe::http::Bound;
use dfs_proto::ids::{ClusterId, KeeperId};
use dfs_proto::label;
use dfs_tls::{Protocol, Role, TlsDir};
use tokio::sync::watch;
use tokio::time::timeout;

pub use crate::config::{Config, TlsFor, Tuning};
pub use crate::error::KeeperError;
use crate::identity::DataDir;
use crate::node::{DataTls, Node};
use crate::server::Server;
use crate::session::{Link, Session};
use crate::store::ChunkStore;

/// A shutdown takes no longer.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(5);
/// How often the disk is looked at, once a heartbeat.
const DISK_PROBE_EVERY: Duration = Duration::from_secs(1);

/// One running keeper. Several can run in one process. Dropped, it stops without waiting;
/// [`Keeper::shutdown`] waits.
#[derive(Debug)]
pub struct Keeper {
    node: Arc<Node>,
    server: Option<Server>,
    http: Option<dfs_observe::http::Server>,
    address: SocketAddr,
    threads: Vec<JoinHandle<()>>,
    session: Option<tokio::task::JoinHandle<()>>,
    stop_session: watch::Sender<bool>,
    failed: watch::Receiver<Option<KeeperError>>,
}

impl Keeper {
    /// Starts a keeper on the current tokio runtime. Returns when it has joined its cluster and
    /// listens.
    ///
    /// # Errors
    /// [`KeeperError`]: the data directory, the port or the master is not as it must be.
    pub async fn start(config: Config) -> Result<Keeper, KeeperError> {
        Keeper::start_tuned(config, Tuning::default()).await
    }

    /// [`Keeper::start`] with other deadlines than the protocol's, for tests.
    ///
    /// # Errors
    /// As `start`.
    pub async fn start_tuned(config: Config, tuning: Tuning) -> Result<Keeper, KeeperError> {
        config.validate()?;
        let mut labels = config.all_labels()?;
        let (data, reserve, tls_dir) = (config.data.clone(), config.reserve_bytes, config.tls_dir.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let tls = tls_dir.map(|dir| TlsDir::load(&dir, Some(Role::Keeper))).transpose()?;
            let dir = DataDir::open(&data)?;
            let identity = dir.identity()?;
            Ok::<_, KeeperError>((tls, identity, ChunkStore::open(dir, reserve)?))
        });
        let (tls, identity, (store, bad)) =
            opened.await.map_err(|error| no_thread("the data directory", io::Error::other(error)))??;
        let server = Server::bind(config.listen)
            .map_err(|error| KeeperError::Listen { address: config.listen, source: error.into() })?;
        let address = server.address();
        let http = match config.http {
            Some(address) => {
                let tls = tls.as_ref().filter(|_| !config.http_plain);
                let tls = tls.map(|dir| dir.acceptor(Protocol::Http)).transpose()?;
                let bound = Bound::open(address, tls).await;
                Some(bound.map_err(|error| KeeperError::Http(error.to_string()))?)
            }
            None => None,
        };
        let to_master = tls.as_ref().map(TlsDir::to_master).transpose()?;
        let data_tls = DataTls::new(tls.as_ref(), config.tls_for)?;
        if tls.is_some() && data_tls.port.is_none() {
            tracing::warn!("--tls control: file bytes and tickets travel as they are, to and from {address}");
        }
        let node = Arc::new(Node::new(store, tuning, data_tls));
        node.scrub.plan(config.scrub_every, config.scrub_rate);
        for (chunk, error) in &bad {
            node.report_bad(*chunk, error);
        }
        let session = Session {
            node: node.clone(),
            identity: Mutex::new(identity),
            master: config.master.clone(),
            token_file: config.token_file.clone(),
            tls: to_master,
            listen: address,
            advertise: config.advertise.clone(),
            host: labels.remove(label::HOST).unwrap_or_else(host_name),
            labels,
        };
        let link = session.join(config.join_timeout).await?;
        let (stop_session, stopped) = watch::channel(false);
        let (failing, failed) = watch::channel(None);
        let mut keeper = Keeper {
            http: http.map(|bound| bound.serve(metrics::shown(&node))),
            node,
            server: Some(server),
            address,
            threads: Vec::new(),
            session: None,
            stop_session,
            failed,
        };
        keeper.start_threads(config.max_connections)?;
        keeper.start_session(session, link, stopped, failing);
        let (id, cluster) = (keeper.id(), keeper.cluster());
        tracing::info!(
            "dfs-keeper: keeper {id} joined cluster {cluster} at {}, data port {address}",
            config.master
        );
        Ok(keeper)
    }

    fn start_threads(&mut self, max_connections: usize) -> Result<(), KeeperError> {
        let mut spawn = |what: &'static str, work: fn(&Node)| {
            let node = self.node.clone();
            let thread = thread::Builder::new().name(format!("dfs-{what}")).spawn(move || work(&node));
            self.threads.push(thread.map_err(|error| no_thread(what, error))?);
            Ok::<(), KeeperError>(())
        };
        spawn("sync", syncer::run)?;
        spawn("chores", orders::run_chores)?;
        spawn("disk", watch_disk)?;
        spawn("build", build::run_builds)?;
        spawn("scrub", scrub::run)?;
        for _ in 0..orders::PUSHERS {
            spawn("push", orders::run_pushes)?;
        }
        match &mut self.server {
            Some(server) => server
                .start(self.node.clone(), max_connections)
                .map_err(|error| no_thread("the data port", error)),
            None => Ok(()),
        }
    }

    fn start_session(
        &mut self,
        session: Session,
        link: Link,
        stopped: watch::Receiver<bool>,
        failing: watch::Sender<Option<KeeperError>>,
    ) {
        self.session = Some(tokio::spawn(session.run(link, stopped, failing)));
    }

    /// Where the data port listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it serves HTTP.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(dfs_observe::http::Server::address)
    }

    /// This keeper's id in its cluster.
    pub fn id(&self) -> KeeperId {
        self.node.id()
    }

    /// The cluster that it belongs to.
    pub fn cluster(&self) -> ClusterId {
        self.node.member().map_or(ClusterId([0; 16]), |member| member.checker.cluster)
    }

    /// Resolves when the keeper cannot go on, as when its master refuses it after a reconnect.
    pub fn failed(&self) -> impl Future<Output = KeeperError> + Send + use<> {
        let mut failed = self.failed.clone();
        async move {
            loop {
                if let Some(error) = failed.borrow_and_update().clone() {
                    return error;
                }
                if failed.changed().await.is_err() {
                    // It was shut down in order.
                    return std::future::pending().await;
                }
            }
        }
    }

    /// Stops serving, syncs what is not synced, says so to the master, and ends every thread. Takes
    /// at most 5 s.
    pub async fn shutdown(mut self) {
        let by = Instant::now() + SHUTDOWN_WITHIN;
        self.begin_stop();
        if let Some(http) = self.http.take() {
            http.shutdown().await;
        }
        let (node, server) = (self.node.clone(), self.server.take());
        let threads = std::mem::take(&mut self.threads);
        let ended = tokio::task::spawn_blocking(move || {
            if let Some(mut server) = server {
                server.join(by);
            }
            // Only when no upload adds to it any more.
            node.syncs.close();
            for thread in threads {
                // A panic of it was reported when it happened.
                let _ = thread.join();
            }
        });
        if timeout(SHUTDOWN_WITHIN, ended).await.is_err() {
            tracing::warn!("some of the keeper's work did not end within {SHUTDOWN_WITHIN:?}");
        }
        let _ = self.stop_session.send(true);
        if let Some(mut session) = self.session.take() {
            let left = by.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
            if timeout(left, &mut session).await.is_err() {
                session.abort();
                let _ = session.await;
            }
        }
    }

    fn begin_stop(&self) {
        self.node.begin_stop();
        if let Some(server) = &self.server {
            server.begin_stop();
        }
        for thread in &self.threads {
            thread.thread().unpark();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.begin_stop();
        self.node.syncs.close();
        self.node.outbox.close();
        if let Some(session) = &self.session {
            session.abort();
        }
    }
}

fn no_thread(what: &'static str, error: io::Error) -> KeeperError {
    KeeperError::Thread { what, source: error.into() }
}

/// A thread that looks at the disk, and says what came in, until the keeper stops.
fn watch_disk(node: &Node) {
    while !node.stop.is_set() {
        node.store.disk.probe();
        orders::say_arrivals(node);
        thread::park_timeout(DISK_PROBE_EVERY);
    }
}

fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}
