//! A whole cluster inside one process: a master and its keepers on loopback ports, kept in one directory, so
//! that `dfs-mount /mnt/dfs` needs nothing else. The only module that knows the master and the keeper.
//!
//! The directory:
//!
//! ```text
//! lock         locked by the process that runs it; its pid, the master's address, and `stopping` once it is,
//!              a line each
//! master/      the master's data directory; `address` in it holds HOST:PORT while it runs
//! keeper-1/    the first keeper's data directory
//! keeper-2/    ...
//! token        with which this mount, and `dfs` of this user, say who they are; join-token: the keepers (`secrets`)
//! ```
//!
//! It asks everybody who he is, and listens on loopback alone: another user of the machine can neither read its files nor use its ports.
//!
//! What must hold: every keeper that was ever in the directory is started again, whatever number is asked for:
//! chunks may rest on it alone. The master's port is the same as last time when it is free, so that other
//! mounts and scripts find it again.

mod lock;
mod secrets;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dfs_keeper::{Keeper, KeeperError};
use dfs_master::{Master, MasterError};
use dfs_proto::token_file::TokenFileError;
use tokio::task::JoinSet;

use crate::client::tokens::Tokens;
use crate::options::EmbeddedSettings;
use lock::{Lock, STOPPING};
use secrets::Secrets;

/// How long a keeper may look for the master beside it.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long another process that runs the cluster is given to say that it is stopping: `umount` returns before
/// the process behind the mount knows.
const GRACE: Duration = Duration::from_secs(1);

/// Why the embedded cluster does not run.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// The directory cannot be used.
    #[error("data directory {path}: {error}; make it writable for this user, or name another with --data")]
    Data {
        /// The directory, or the file in it.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The directory is something else's.
    #[error("data directory {path}: it is a {of}'s own, not a cluster's; name another with --data")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose.
        of: &'static str,
    },
    /// A token cannot be kept.
    #[error("embedded cluster: {0}")]
    Token(#[from] TokenFileError),
    /// Another process runs the cluster of this directory.
    #[error("data directory {path}: a mount runs its cluster already{}; {}", shown_pid(*.pid),
            remedy(.address.as_ref(), *.stopping))]
    Running {
        /// The directory.
        path: PathBuf,
        /// The process, if it says.
        pid: Option<u32>,
        /// Its master's address, if it says.
        address: Option<SocketAddr>,
        /// It is on its way out.
        stopping: bool,
    },
    /// The master.
    #[error("embedded master: {0}")]
    Master(#[from] MasterError),
    /// One of the keepers.
    #[error("embedded keeper {number}: {error}")]
    Keeper {
        /// From 1 on.
        number: u32,
        /// Why.
        error: KeeperError,
    },
}

fn shown_pid(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

fn remedy(address: Option<&SocketAddr>, stopping: bool) -> String {
    match address {
        _ if stopping => "it is still stopping; try again when it is gone".to_owned(),
        Some(address) => format!("to mount it a second time, join it with --master {address}"),
        None => "it is just starting; try again, or name another with --data".to_owned(),
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Embedded {
    keepers: Vec<Keeper>,
    master: Master,
    address: SocketAddr,
    data: PathBuf,
    notes: Vec<String>,
    secrets: Option<Secrets>,
    /// Held for as long as anything here runs; so it comes last.
    lock: Lock,
}

impl Embedded {
    /// Starts the cluster of `wanted.data`; makes it when there is none. Returns when every keeper has joined.
    ///
    /// # Errors
    /// [`EmbeddedError`]; nothing runs then.
    pub async fn start(wanted: &EmbeddedSettings) -> Result<Embedded, EmbeddedError> {
        for (file, of) in [("IDENTITY", "keeper"), ("master.redb", "master")] {
            if wanted.data.join(file).exists() {
                return Err(EmbeddedError::Foreign { path: wanted.data.clone(), of });
            }
        }
        let mut lock = Lock::take_in_time(&wanted.data, GRACE).await?;
        let data = wanted.data.clone();
        let found =
            count_keepers(&data).map_err(|error| EmbeddedError::Data { path: data.clone(), error })?;
        let plan = Plan::new(wanted, found);
        let master = start_master(&plan, wanted, lock.last_address).await?;
        let address = master.address();
        lock.last_address = Some(address);
        lock.write("")?;
        let keepers = async {
            let secrets = match wanted.auth {
                true => Some(Secrets::make(&master, &data, address).await?),
                false => None,
            };
            let join_token = secrets.as_ref().map(|secrets| secrets.join_token.clone());
            Ok((start_keepers(&data, plan.keepers, address, join_token).await?, secrets))
        };
        match keepers.await {
            Ok((keepers, secrets)) => {
                Ok(Embedded { keepers, master, address, data, notes: plan.notes, secrets, lock })
            }
            Err(error) => {
                master.shutdown().await;
                Err(error)
            }
        }
    }

    /// Where the master listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// With what this process says to it who it is.
    pub fn tokens(&self) -> Tokens {
        self.secrets.as_ref().map_or_else(Tokens::none, Secrets::tokens)
    }

    /// The directory that keeps the cluster.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Where it is not as it was asked for.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Tells whoever wants to start it next that it is worth waiting.
    pub fn announce_stop(&self) {
        if let Err(error) = self.lock.write(STOPPING) {
            tracing::debug!("{error}");
        }
    }

    /// Returns when a part of it cannot go on, and says which and why.
    pub async fn failed(&self) -> EmbeddedError {
        let mut parts = JoinSet::new();
        for (keeper, number) in self.keepers.iter().zip(1..) {
            let failed = keeper.failed();
            parts.spawn(async move { EmbeddedError::Keeper { number, error: failed.await } });
        }
        let failed = self.master.failed();
        parts.spawn(async move { EmbeddedError::Master(failed.await) });
        loop {
            match parts.join_next().await {
                Some(Ok(error)) => return error,
                // The master's watcher is there for as long as this is.
                Some(Err(error)) => tracing::error!("embedded cluster: its watcher broke: {error}"),
                None => std::future::pending().await,
            }
        }
    }

    /// Stops it: the keepers first, so that what they still have to tell the master is told.
    pub async fn shutdown(self) {
        let Embedded { keepers, master, lock: _held, .. } = self;
        stop_keepers(keepers).await;
        master.shutdown().await;
    }
}

/// This machine's name; the failure domain of all keepers here.
pub fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "localhost".to_owned() } else { name.trim().to_owned() }
}

/// What is started, from what was asked for and what is there.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Plan {
    keepers: u32,
    copies: u32,
    min_copies: u32,
    notes: Vec<String>,
}

impl Plan {
    fn new(wanted: &EmbeddedSettings, found: u32) -> Plan {
        let keepers = wanted.keepers.max(found);
        let mut notes = Vec::new();
        if keepers > wanted.keepers {
            notes.push(format!(
                "{keepers} keepers run, not {}: each that is in the data directory may have the only copy of something",
                wanted.keepers
            ));
        }
        let copies = wanted.copies.min(keepers);
        if copies < wanted.copies {
            notes.push(format!(
                "{copies} copies of each chunk, not {}: there are no more keepers",
                wanted.copies
            ));
        }
        Plan { keepers, copies, min_copies: wanted.min_copies.min(keepers), notes }
    }
}

async fn start_master(
    plan: &Plan,
    wanted: &EmbeddedSettings,
    last_address: Option<SocketAddr>,
) -> Result<Master, EmbeddedError> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut config = dfs_master::Config {
        listen: last_address.unwrap_or(any_port),
        copies: plan.copies,
        min_copies: plan.min_copies,
        chunk_size: wanted.chunk_size,
        replicate_every: wanted.replicate_every,
        auth: Some(wanted.auth),
        ..dfs_master::Config::new(wanted.data.join("master"))
    };
    match Master::start(config.clone()).await {
        Err(MasterError::PortInUse { address }) if last_address.is_some() => {
            tracing::info!("embedded master: port {} is taken by now; another is chosen", address.port());
            config.listen = any_port;
            Ok(Master::start(config).await?)
        }
        started => Ok(started?),
    }
}

/// Starts keepers 1 to `count`, all at once.
async fn start_keepers(
    data: &Path,
    count: u32,
    master: SocketAddr,
    join_token: Option<PathBuf>,
) -> Result<Vec<Keeper>, EmbeddedError> {
    let mut starting = JoinSet::new();
    for number in 1..=count {
        let mut config = dfs_keeper::Config::new(keeper_dir(data, number), master.to_string());
        config.host = Some(host_name());
        config.join_timeout = JOIN_TIMEOUT;
        config.token_file = join_token.clone();
        starting.spawn(async move { (number, Keeper::start(config).await) });
    }
    let mut keepers = Vec::new();
    let mut failed = None;
    while let Some(started) = starting.join_next().await {
        match started {
            Ok((number, Ok(keeper))) => keepers.push((number, keeper)),
            Ok((number, Err(error))) => failed = failed.or(Some(EmbeddedError::Keeper { number, error })),
            Err(error) => {
                let error = io::Error::other(error);
                failed = failed.or(Some(EmbeddedError::Data { path: data.to_owned(), error }));
            }
        }
    }
    keepers.sort_by_key(|(number, _)| *number);
    let keepers = keepers.into_iter().map(|(_, keeper)| keeper).collect();
    match failed {
        None => Ok(keepers),
        Some(error) => {
            stop_keepers(keepers).await;
            Err(error)
        }
    }
}

async fn stop_keepers(keepers: Vec<Keeper>) {
    let mut stopping: JoinSet<()> = keepers.into_iter().map(Keeper::shutdown).collect();
    while stopping.join_next().await.is_some() {}
}

fn keeper_dir(data: &Path, number: u32) -> PathBuf {
    data.join(format!("keeper-{number}"))
}

/// The highest number of a keeper's directory; 0 when there is none.
fn count_keepers(data: &Path) -> io::Result<u32> {
    let mut highest = 0;
    for entry in fs::read_dir(data)? {
        let name = entry?.file_name();
        let number =
            name.to_str().and_then(|n| n.strip_prefix("keeper-")).and_then(|n| n.parse::<u32>().ok());
        highest = highest.max(number.unwrap_or(0));
    }
    Ok(highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(data: &Path, keepers: u32) -> EmbeddedSettings {
        EmbeddedSettings {
            data: data.to_owned(),
            keepers,
            copies: 3,
            min_copies: 2,
            chunk_size: 1 << 20,
            replicate_every: Duration::from_secs(10),
            auth: true,
        }
    }

    #[test]
    fn every_keeper_that_is_there_is_started() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(count_keepers(dir.path()).unwrap(), 0);
        for name in ["keeper-1", "keeper-4", "keeper-x", "master"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        assert_eq!(count_keepers(dir.path()).unwrap(), 4);
        let plan = Plan::new(&wanted(dir.path(), 3), 4);
        assert_eq!((plan.keepers, plan.copies, plan.min_copies, plan.notes.len()), (4, 3, 2, 1));
        assert_eq!(Plan::new(&wanted(dir.path(), 5), 4).keepers, 5);
    }

    #[test]
    fn copies_are_never_more_than_keepers() {
        let plan = Plan::new(&wanted(Path::new("/d"), 1), 0);
        assert_eq!((plan.keepers, plan.copies, plan.min_copies), (1, 1, 1));
        assert!(plan.notes[0].contains("1 copies"), "{:?}", plan.notes);
        assert_eq!(Plan::new(&wanted(Path::new("/d"), 3), 3).notes, Vec::<String>::new());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_next_start_finds_everything_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = Embedded::start(&wanted(dir.path(), 2)).await.unwrap();
        let (address, ids) = (first.address(), ids(&first));
        assert_eq!(ids.len(), 2);
        let told = fs::read_to_string(dir.path().join("master/address")).unwrap();
        assert_eq!(told.trim(), address.to_string());
        let refused = Embedded::start(&wanted(dir.path(), 2)).await.unwrap_err();
        assert!(
            matches!(refused, EmbeddedError::Running { address: Some(a), .. } if a == address),
            "{refused}"
        );
        first.shutdown().await;

        // Fewer are asked for: all run. The port is taken: another is chosen.
        let _taken = std::net::TcpListener::bind(address).unwrap();
        let second = Embedded::start(&wanted(dir.path(), 1)).await.unwrap();
        assert_eq!(self::ids(&second), ids);
        assert_ne!(second.address(), address);
        let address = second.address();
        second.shutdown().await;
        let third = Embedded::start(&wanted(dir.path(), 3)).await.unwrap();
        assert_eq!(third.address(), address);
        assert_eq!(self::ids(&third)[..2], ids);
        third.shutdown().await;
    }

    fn ids(cluster: &Embedded) -> Vec<dfs_proto::ids::KeeperId> {
        cluster.keepers.iter().map(Keeper::id).collect()
    }
}
