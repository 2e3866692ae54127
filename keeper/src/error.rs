//! Why a keeper cannot start or go on. Each message is one line: what failed, on what, why, and what
//! to do.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use dfs_proto::ids::ClusterId;
use dfs_tls::TlsError;

/// Ends a keeper, or keeps it from starting.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeeperError {
    /// A value in the configuration makes no sense.
    #[error("{what}: {why}; {remedy}")]
    Config {
        /// Which value.
        what: String,
        /// What is wrong with it.
        why: String,
        /// What to give instead.
        remedy: &'static str,
    },
    /// The directory of certificates is not as it has to be.
    #[error("{0}")]
    Tls(Arc<TlsError>),
    /// The data directory cannot be used.
    #[error("data directory {dir}: cannot {what}: {source}; make it writable for this user, or name another with --data", dir = dir.display())]
    DataDir {
        /// The directory.
        dir: PathBuf,
        /// What was tried.
        what: String,
        /// Why it failed.
        source: Arc<io::Error>,
    },
    /// Another keeper runs on the data directory.
    #[error("data directory {dir} is in use by another running keeper; stop that one, or name another directory with --data", dir = dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory holds something else.
    #[error("data directory {dir} is not a keeper's: {why}; name an empty or a new directory with --data", dir = dir.display())]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// What gives it away.
        why: String,
    },
    /// Written by a later version of this program.
    #[error("data directory {dir} has format {found}, this program knows formats up to {known}; run the newer program that wrote it", dir = dir.display())]
    NewerFormat {
        /// The directory.
        dir: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that we know.
        known: u32,
    },
    /// The identity file cannot be understood.
    #[error("data directory {dir}: its IDENTITY file is damaged: {why}; restore that file, or start with an empty directory", dir = dir.display())]
    DamagedIdentity {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The data directory belongs to another cluster than the master's.
    #[error("data directory {dir} belongs to cluster {ours}, the master at {master} is of cluster {theirs}; use that cluster's master, or an empty directory", dir = dir.display())]
    WrongCluster {
        /// The directory.
        dir: PathBuf,
        /// Its cluster.
        ours: ClusterId,
        /// The master's cluster.
        theirs: ClusterId,
        /// The master's address.
        master: String,
    },
    /// The data port cannot be opened.
    #[error("cannot listen on {address}: {source}; free that port, or name another with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The port for metrics cannot be opened.
    #[error("{0}")]
    Http(String),
    /// No master answered in time.
    #[error(
        "cannot join the master at {master}: {why} (tried for {waited_s:.1} s); start the master, or correct --master"
    )]
    Unreachable {
        /// Its address.
        master: String,
        /// The last failure.
        why: String,
        /// Seconds that were spent.
        waited_s: f64,
    },
    /// The master does not want this keeper.
    #[error("the master at {master} refused this keeper: {message}")]
    Refused {
        /// Its address.
        master: String,
        /// Its words.
        message: String,
    },
    /// The operating system refused a thread.
    #[error("cannot start a thread for {what}: {source}; raise the limit of processes for this user")]
    Thread {
        /// Its job.
        what: &'static str,
        /// Why.
        source: Arc<io::Error>,
    },
}

impl From<TlsError> for KeeperError {
    fn from(error: TlsError) -> KeeperError {
        KeeperError::Tls(Arc::new(error))
    }
}
