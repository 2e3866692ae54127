//! A whole master, from its configuration to its end.
//!
//! Order of the start: lock the data directory, take the port, load the store, serve; so that what a user
//! can get wrong is said before anything is read or changed. Order of the end: no new connections, no new
//! commands, the last batch committed and delivered, the sessions closed, the store closed, the lock given
//! back.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_observe::axum::Router;
use dfs_observe::http::{Bound, HttpError, Server, Shown};
use dfs_proto::ids::ClusterId;
use dfs_proto::pb;
use dfs_proto::secret::Secret;
use dfs_proto::token::TokenKey;
use dfs_tls::{Acceptor, Protocol, Role, TlsDir, TlsError};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::auth::audit::{self, Audit};
use crate::auth::{Gate, first};
use crate::config::{Config, ConfigError};
use crate::core::Settings;
use crate::core::operator::{Operation, OperatorReply};
use crate::core::row::UserRow;
use crate::core::users::UserChange;
use crate::runtime::{Engine, tick_forever};
use crate::service;
use crate::store::{DataDir, DataDirError, Identity, JournaledStore, Store, StoreError, unwritable};
use crate::web;

/// The file in the data directory that holds the address of the running master.
const ADDRESS_FILE: &str = "address";
/// The longest that a clean end takes.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(5);
/// For the first admin to be stored.
const FIRST_ADMIN_DEADLINE: Duration = Duration::from_secs(30);

/// Why a master does not start, or does not go on.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum MasterError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("listen on {address}: the port is in use; stop who uses it, or choose another with --listen")]
    PortInUse { address: SocketAddr },
    #[error("listen on {address}: {why}; choose an address of this machine with --listen")]
    Listen { address: SocketAddr, why: io::Error },
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("write {}: {why}; {}", path.display(), unwritable(why.kind()))]
    AddressFile { path: PathBuf, why: io::Error },
    #[error("open the audit log {}: {why}; {}", path.display(), unwritable(why.kind()))]
    Audit { path: PathBuf, why: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("random numbers: the system gives none: {0}; check that /dev/urandom works")]
    Random(String),
    #[error("start: {0}")]
    Broken(String),
    /// The running master gave up. Nothing that was answered is lost.
    #[error("{0}; nothing that was acknowledged is lost")]
    Failed(String),
}

/// A running master. Dropped without [`Master::shutdown`], it ends too, but nobody waits for it.
#[derive(Debug)]
pub struct Master {
    address: SocketAddr,
    cluster: ClusterId,
    address_file: PathBuf,
    engine: Engine,
    gate: Gate,
    stop_serving: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
    ticker: JoinHandle<()>,
    http: Option<Server>,
    /// Looks at the cluster for the page.
    watcher: Option<JoinHandle<()>>,
}

impl Master {
    /// Starts a master in the current tokio runtime. When this returns, it is listening, and whoever
    /// connects is served.
    ///
    /// # Errors
    /// See [`MasterError`]; whatever was begun is undone.
    pub async fn start(config: Config) -> Result<Master, MasterError> {
        config.validate()?;
        let (data, tls_dir) = (config.data.clone(), config.tls_dir.clone());
        let (http_is_encrypted, insecure) = (config.http_is_encrypted(), config.insecure);
        let (dir, tls, of_http, to_keepers) = blocking(move || {
            let tls_dir = tls_dir.map(|dir| TlsDir::load(&dir, Some(Role::Master))).transpose()?;
            let tls = tls_dir.as_ref().map(|dir| dir.acceptor(Protocol::Control)).transpose()?;
            let of_http = tls_dir.as_ref().filter(|_| http_is_encrypted);
            let of_http = of_http.map(|dir| dir.acceptor(Protocol::Http)).transpose()?;
            let to_keepers = tls_dir.map(|dir| dir.to_keepers()).transpose()?;
            let dir = DataDir::open(&data)?;
            remove_address(&dir.path().join(ADDRESS_FILE));
            Ok((dir, tls, of_http, to_keepers))
        })
        .await?;
        let address_file = dir.path().join(ADDRESS_FILE);
        let (listener, address) = listen(config.listen).await?;
        let bound = match config.http {
            Some(address) => Some(Bound::open(address, of_http).await?),
            None => None,
        };
        let listens_since = Instant::now();
        let (for_open, for_rename) = (address_file.clone(), address_file.clone());
        // On a disk that is full, opening the store may take what room there is.
        let options = config.clone();
        let (engine, cluster, gate) = blocking(move || {
            prepare_address(&for_open, address)?;
            open(dir, &options, listens_since).inspect_err(|_| remove_address(&prepared(&for_open)))
        })
        .await?;
        secure(&config, address, &engine).await.inspect_err(|_| engine.stop())?;
        blocking(move || publish_address(&for_rename)).await.inspect_err(|_| engine.stop())?;

        let (stop_serving, stopped) = oneshot::channel();
        let page = web::Doors { gate: gate.clone(), encrypted: http_is_encrypted, insecure };
        let server = tokio::spawn(serve(
            engine.clone(),
            gate.clone(),
            cluster,
            Port { listener, address, tls },
            stopped,
        ));
        let ticker = tokio::spawn(tick_forever(engine.clone()));
        tracing::info!("dfs-master: listening on {address}, cluster {cluster}");
        let (mut http, mut watcher) = (None, None);
        if let Some(bound) = bound {
            let (routes, task) = web::start(engine.clone(), cluster, page, to_keepers);
            (http, watcher) = (Some(bound.serve(shown(&engine, routes))), Some(task));
        }
        let stop_serving = Some(stop_serving);
        Ok(Master {
            address,
            cluster,
            address_file,
            engine,
            gate,
            stop_serving,
            server,
            ticker,
            http,
            watcher,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it serves HTTP.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(Server::address)
    }

    /// A token of the first admin, for whoever runs this master in his own process. Where auth is on.
    ///
    /// # Errors
    /// There is no such user any more, or he is disabled.
    pub fn admin_token(&self, lifetime: Duration) -> Result<Secret, MasterError> {
        let row = self.gate.user(first::NAME).ok().flatten().filter(|row| !row.disabled);
        let row = row.ok_or_else(|| {
            let name = first::NAME;
            MasterError::Broken(format!(
                "user '{name}' is not there, or is disabled; start with --auth off, make him with 'dfs user add {name} --role admin', and start anew"
            ))
        })?;
        self.issue(first::NAME, &row, lifetime)
    }

    /// A token with which keepers join, as 'dfs keeper token' gets one.
    ///
    /// # Errors
    /// The store takes no user, or he is somebody else.
    pub async fn join_token(&self, user: &str, lifetime: Duration) -> Result<Secret, MasterError> {
        let generation = getrandom::u32().map_err(no_random)?;
        let change = UserChange::AddKeeper { generation };
        let made = self.engine.operate(Operation::User { name: user.to_owned(), change }).await;
        match made {
            Ok(Ok(OperatorReply::User(row))) => self.issue(user, &row, lifetime),
            Ok(Ok(other)) => Err(MasterError::Broken(format!("the core answered {other:?} (a bug)"))),
            Ok(Err(error)) => {
                Err(MasterError::Broken(format!("a join token for '{user}': {}", error.message)))
            }
            Err(stopped) => Err(MasterError::Broken(stopped.to_string())),
        }
    }

    fn issue(&self, user: &str, row: &UserRow, lifetime: Duration) -> Result<Secret, MasterError> {
        let issued = self.gate.issue(user, row, Some(lifetime));
        issued.map(|(token, _)| token).map_err(|status| MasterError::Broken(status.message().to_owned()))
    }

    /// Whom it serves.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Resolves, to the reason, when the master cannot go on (its store failed, say). It serves nobody
    /// then; what is left to do is [`Master::shutdown`].
    pub fn failed(&self) -> impl Future<Output = MasterError> + Send + use<> {
        let failed = self.engine.failed();
        async move { MasterError::Failed(failed.await) }
    }

    /// Ends it cleanly, within 5 s: takes no more connections and commands, commits and delivers the last
    /// batch, closes the sessions and the store. Another master can then use the data directory.
    pub async fn shutdown(mut self) {
        let deadline = Instant::now() + SHUTDOWN_DEADLINE;
        self.begin_to_stop();
        if let Some(http) = self.http.take() {
            http.shutdown().await;
        }
        if tokio::time::timeout_at(deadline.into(), self.engine.finished()).await.is_err() {
            tracing::warn!("the store is still busy; changes that nobody was told of may be lost");
        }
        if tokio::time::timeout_at(deadline.into(), &mut self.server).await.is_err() {
            tracing::warn!("some sessions did not end in time; they are cut off");
        }
        tracing::info!("dfs-master: stopped");
        // The rest is in `drop`.
    }

    fn begin_to_stop(&mut self) {
        if let Some(stop) = self.stop_serving.take() {
            // Nobody listens when the server has ended by itself.
            let _ = stop.send(());
        }
        self.ticker.abort();
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
        self.engine.stop();
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.begin_to_stop();
        self.server.abort();
        remove_address(&self.address_file);
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MasterError> + Send + 'static,
) -> Result<T, MasterError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(MasterError::Broken(format!("{error}; this is a bug, please report it"))),
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), MasterError> {
    let bound = TcpListener::bind(address).await.and_then(|listener| {
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    });
    bound.map_err(|why| match why.kind() {
        io::ErrorKind::AddrInUse => MasterError::PortInUse { address },
        _ => MasterError::Listen { address, why },
    })
}

/// Says how safe this master is, and makes the first admin where there is none.
async fn secure(config: &Config, address: SocketAddr, engine: &Engine) -> Result<(), MasterError> {
    let others_can_come = !address.ip().is_loopback();
    if others_can_come && config.tls_dir.is_none() {
        tracing::warn!(
            "--insecure: there is no TLS: whoever can listen to the network of {address} can read passwords, tokens and files"
        );
    }
    if !config.auth_is_on() {
        if others_can_come {
            tracing::warn!("--insecure: anybody who can reach {address} can do everything");
        }
        return Ok(());
    }
    let made = tokio::time::timeout(FIRST_ADMIN_DEADLINE, first::make_sure(engine, &config.data)).await;
    match made {
        Ok(Ok(None)) => Ok(()),
        Ok(Ok(Some(path))) => {
            let (name, path) = (first::NAME, path.display());
            tracing::info!(
                "the first admin is '{name}'; the password is in {path}: log in, change it ('dfs user passwd'), remove the file"
            );
            Ok(())
        }
        Ok(Err(status)) => Err(MasterError::Broken(format!("make the first admin: {}", status.message()))),
        Err(_) => {
            Err(MasterError::Broken("make the first admin: the store did not take it in time".to_owned()))
        }
    }
}

fn open(
    dir: DataDir,
    config: &Config,
    listens_since: Instant,
) -> Result<(Engine, ClusterId, Gate), MasterError> {
    let data = dir.path().to_owned();
    let mut store = JournaledStore::open(dir)?;
    let identity = store.identity(fresh_identity()?)?;
    let settings = Settings {
        cluster: identity.cluster,
        secret: identity.secret,
        master_epoch: getrandom::u64().map_err(no_random)?,
        copies: config.copies,
        min_copies: config.min_copies,
        chunk_size: config.chunk_size,
        repair_rate: config.repair_rate,
        replicate_every_ms: u64::try_from(config.replicate_every.as_millis()).unwrap_or(u64::MAX),
        compact_after_ms: u64::try_from(config.compact_after.as_millis()).unwrap_or(u64::MAX),
        spared: identity.spared,
        trash_ms: u64::try_from(config.trash.as_millis()).unwrap_or(u64::MAX),
    };
    let audit =
        Audit::open(&data).map_err(|why| MasterError::Audit { path: data.join(audit::FILE_NAME), why })?;
    let key = TokenKey::derive(&identity.secret, identity.cluster);
    let engine = Engine::start(Box::new(store), settings, listens_since)?;
    let gate = Gate::new(config.auth_is_on(), key, config.token_lifetime, engine.clone(), audit);
    Ok((engine, identity.cluster, gate))
}

fn shown(engine: &Engine, routes: Router) -> Shown {
    let (for_metrics, for_ready) = (engine.clone(), engine.clone());
    Shown {
        role: "master",
        version: env!("CARGO_PKG_VERSION"),
        metrics: Arc::new(move |page| for_metrics.write_metrics(page)),
        ready: Arc::new(move || for_ready.is_ready()),
        routes,
    }
}

fn fresh_identity() -> Result<Identity, MasterError> {
    let mut identity =
        Identity { cluster: ClusterId([0; 16]), secret: [0; 32], created: pb::Time::now(), spared: None };
    getrandom::fill(&mut identity.cluster.0).map_err(no_random)?;
    getrandom::fill(&mut identity.secret).map_err(no_random)?;
    Ok(identity)
}

fn no_random(error: getrandom::Error) -> MasterError {
    MasterError::Random(error.to_string())
}

/// Where the master listens.
struct Port {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Acceptor>,
}

async fn serve(engine: Engine, gate: Gate, cluster: ClusterId, port: Port, stopped: oneshot::Receiver<()>) {
    let Port { listener, address, tls } = port;
    let stop = async {
        // An error means that the master was dropped, which is an order to stop too.
        let _ = stopped.await;
    };
    if let Err(error) = service::serve(engine.clone(), gate, cluster, listener, tls, stop).await {
        engine.fail(format!("listen on {address}: the server broke: {error}"));
    }
}

/// Where the address waits until the master can be found there.
fn prepared(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn prepare_address(path: &Path, address: SocketAddr) -> Result<(), MasterError> {
    std::fs::write(prepared(path), format!("{address}\n"))
        .map_err(|why| MasterError::AddressFile { path: path.to_owned(), why })
}

/// Whole or not at all: scripts wait for the file and read it at once.
fn publish_address(path: &Path) -> Result<(), MasterError> {
    std::fs::rename(prepared(path), path)
        .map_err(|why| MasterError::AddressFile { path: path.to_owned(), why })
}

fn remove_address(path: &Path) {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!("{} cannot be removed: {error}; it is out of date", path.display()),
    }
}
