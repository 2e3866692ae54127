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
//! ```
//!
//! What must hold: every keeper that was ever in the directory is started again, whatever number is asked for:
//! chunks may rest on it alone. The master's port is the same as last time when it is free, so that other
//! mounts and scripts find it again.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dfs_keeper::{Keeper, KeeperError};
use dfs_master::{Master, MasterError};
use rustix::fs::{FlockOperation, flock};
use tokio::task::JoinSet;

use crate::options::EmbeddedSettings;

/// How long a keeper may look for the master beside it.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long another process that runs the cluster is given to say that it is stopping: `umount` returns before
/// the process behind the mount knows.
const GRACE: Duration = Duration::from_secs(1);

/// How long one that is stopping is waited for. It may have something to upload first.
const STOPPING_DEADLINE: Duration = Duration::from_secs(60);

/// How often we look whether it is gone.
const POLL: Duration = Duration::from_millis(50);

/// The lock file's word for a process that is on its way out.
const STOPPING: &str = "stopping";

/// Longest lock file that is read, in bytes.
const MAX_LOCK_BYTES: u64 = 256;

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
        match start_keepers(&data, plan.keepers, address).await {
            Ok(keepers) => Ok(Embedded { keepers, master, address, data, notes: plan.notes, lock }),
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
async fn start_keepers(data: &Path, count: u32, master: SocketAddr) -> Result<Vec<Keeper>, EmbeddedError> {
    let mut starting = JoinSet::new();
    for number in 1..=count {
        let mut config = dfs_keeper::Config::new(keeper_dir(data, number), master.to_string());
        config.host = Some(host_name());
        config.join_timeout = JOIN_TIMEOUT;
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

/// The lock on the data directory.
#[derive(Debug)]
struct Lock {
    file: File,
    path: PathBuf,
    last_address: Option<SocketAddr>,
}

impl Lock {
    /// Makes the directory when it is missing, and locks it.
    fn take(data: &Path) -> Result<Lock, EmbeddedError> {
        let failed = |error| EmbeddedError::Data { path: data.to_owned(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(failed)?;
        let path = data.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(failed)?;
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
        let (pid, address, stopping) = read_lock(&file).map_err(failed)?;
        match locked {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(EmbeddedError::Running { path: data.to_owned(), pid, address, stopping });
            }
            Err(error) => return Err(failed(error.into())),
        }
        let lock = Lock { file, path, last_address: address };
        lock.write("")?;
        Ok(lock)
    }

    /// As [`Lock::take`]; waits for a holder that is stopping, or says so within `grace`.
    async fn take_in_time(data: &Path, grace: Duration) -> Result<Lock, EmbeddedError> {
        let begun = Instant::now();
        loop {
            match Lock::take(data) {
                Err(EmbeddedError::Running { stopping, .. })
                    if begun.elapsed() < if stopping { STOPPING_DEADLINE } else { grace } =>
                {
                    tokio::time::sleep(POLL).await;
                }
                taken => return taken,
            }
        }
    }

    /// Writes our pid, the address if there is one, and `word`.
    fn write(&self, word: &str) -> Result<(), EmbeddedError> {
        let address = self.last_address.map(|a| a.to_string()).unwrap_or_default();
        let text = format!("{}\n{address}\n{word}\n", std::process::id());
        let mut file = &self.file;
        let written =
            file.rewind().and_then(|()| file.set_len(0)).and_then(|()| file.write_all(text.as_bytes()));
        written.map_err(|error| EmbeddedError::Data { path: self.path.clone(), error })
    }
}

/// Pid, address, and whether it is stopping. What cannot be read is not there.
fn read_lock(file: &File) -> io::Result<(Option<u32>, Option<SocketAddr>, bool)> {
    let mut bytes = Vec::new();
    file.take(MAX_LOCK_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines();
    let pid = lines.next().and_then(|l| l.parse().ok());
    // Only what we could have written: an address outside this machine is none of ours.
    let address = lines.next().and_then(|l| l.parse().ok()).filter(|a: &SocketAddr| a.ip().is_loopback());
    Ok((pid, address, lines.next() == Some(STOPPING)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn wanted(data: &Path, keepers: u32) -> EmbeddedSettings {
        EmbeddedSettings {
            data: data.to_owned(),
            keepers,
            copies: 3,
            min_copies: 2,
            chunk_size: 1 << 20,
            replicate_every: Duration::from_secs(10),
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

    #[test]
    fn a_second_process_is_refused_and_told_whom_to_join() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("new");
        let mut lock = Lock::take(&data).unwrap();
        assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
        let error = Lock::take(&data).unwrap_err().to_string();
        assert!(error.contains("just starting"), "{error}");
        lock.last_address = Some("127.0.0.1:4567".parse().unwrap());
        lock.write("").unwrap();
        let error = Lock::take(&data).unwrap_err().to_string();
        assert!(error.contains("--master 127.0.0.1:4567"), "{error}");
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    }

    #[test]
    fn the_address_is_remembered_when_the_process_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let address = "127.0.0.1:4567".parse().unwrap();
        let mut lock = Lock::take(dir.path()).unwrap();
        lock.last_address = Some(address);
        lock.write("").unwrap();
        drop(lock);
        assert_eq!(Lock::take(dir.path()).unwrap().last_address, Some(address));
        fs::write(dir.path().join("lock"), "1\n8.8.8.8:53\n").unwrap();
        assert_eq!(Lock::take(dir.path()).unwrap().last_address, None);
        fs::write(dir.path().join("lock"), [0xff; 1000]).unwrap();
        assert_eq!(Lock::take(dir.path()).unwrap().last_address, None);
    }

    #[tokio::test]
    async fn a_process_that_is_stopping_is_waited_for_and_another_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let held = Lock::take(dir.path()).unwrap();
        let refused = Lock::take_in_time(dir.path(), Duration::ZERO).await.unwrap_err();
        assert!(matches!(refused, EmbeddedError::Running { stopping: false, .. }), "{refused}");
        held.write(STOPPING).unwrap();
        let next = Lock::take_in_time(dir.path(), Duration::ZERO);
        tokio::pin!(next);
        // The first look finds it held, and waits.
        assert!(tokio::time::timeout(Duration::ZERO, &mut next).await.is_err());
        drop(held);
        next.await.unwrap();
    }

    #[test]
    fn a_data_directory_that_is_a_file_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Lock::take(file.path()).unwrap_err().to_string();
        assert!(error.contains("--data") && error.contains(&file.path().display().to_string()), "{error}");
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
