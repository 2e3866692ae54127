//! The life of a mount: look at the mount point, start the embedded cluster if there is to be one, find the
//! master, mount, serve, and end as [`super::stop`] has it.
//!
//! What must hold: once something is mounted, no way out of here leaves it behind with nobody to serve it.

use std::io;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use dfs_cmdline::readiness;
use dfs_observe::http::{Bound, HttpError};
use dfs_proto::error::DfsError;
use dfs_proto::ids::InodeNo;
use dfs_tls::{Protocol, Role, TlsDir, TlsError};
use tokio::runtime::Runtime;

use super::guard::Guard;
use super::ready::Starter;
use super::resident;
use super::stop::{self, Signals};
use super::subdir::{self, SubDirError};
use super::threads::Threads;
use crate::client::tls::Tls;
use crate::client::tokens::Tokens;
use crate::client::{Client, ClientConfig, Event};
use crate::embedded::{Embedded, EmbeddedError};
use crate::fuse::{Serve, ServeOptions, Serving};
use crate::mountpoint::attach::{self, AttachError, Attached, Detach};
use crate::mountpoint::{self, MountPointError, readahead};
use crate::options::{Cluster, EmbeddedSettings, Settings};

/// How long the fresh mount may take to answer for the first time.
const PROBE_DEADLINE: Duration = Duration::from_secs(30);

/// How long the embedded cluster may take to stop.
const CLUSTER_STOP_DEADLINE: Duration = Duration::from_secs(10);

/// How long the master is looked for at the start. It may just be starting too, but whoever mistyped its address
/// should not wait long to hear so.
const FIND_MASTER: Duration = Duration::from_secs(5);

/// Why there is no mount, or why it did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The directory of certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The certificate of the port for metrics.
    #[error("{0}; --http shows a mount's certificate ('dfs tls issue --role mount'), or say --http-plain")]
    HttpTls(TlsError),
    /// The mount point.
    #[error(transparent)]
    MountPoint(#[from] MountPointError),
    /// The mount itself.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The cluster inside this process.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// The master.
    #[error("{0}")]
    Master(DfsError),
    /// The port for metrics.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The directory that is to be mounted.
    #[error(transparent)]
    SubDir(#[from] SubDirError),
    /// The data directory would be hidden by the mount.
    #[error(
        "data directory {data}: is below the mount point {mountpoint}, which will hide it; name another with --data"
    )]
    DataBelow {
        /// The data directory.
        data: String,
        /// The mount point.
        mountpoint: String,
    },
    /// Threads, signals.
    #[error("{what}: {error}; see the limits of this user (ulimit -a)")]
    Start {
        /// What could not be started.
        what: &'static str,
        /// Why not.
        error: io::Error,
    },
    /// The kernel and we do not understand each other.
    #[error("mount of {path}: the kernel's FUSE cannot be served: {error}; Linux 4.20 or newer is needed")]
    Serve {
        /// The mount point.
        path: String,
        /// Why not.
        error: io::Error,
    },
    /// It is mounted, but does not answer.
    #[error("mount of {path}: it does not answer: {error}; see the log")]
    Unusable {
        /// The mount point.
        path: String,
        /// What it says.
        error: io::Error,
    },
    /// The process that was to be told is gone.
    #[error("whoever started the mount is gone; unmounted again")]
    Abandoned,
    /// Bytes that were not flushed, and could not be uploaded at the end.
    #[error(
        "unmounted, but not all that was written could be uploaded: {0}; files that were closed or synced before are safe"
    )]
    Drain(DfsError),
    /// Open files kept the kernel's side alive, so that nothing could be drained.
    #[error("unmounted while files were open; what was written to them since the last sync may be lost")]
    NotDrained,
}

/// Runs a mount from its start to its end. Tells `starter` when it is usable.
///
/// # Errors
/// [`RunError`]; nothing is mounted any more then.
pub fn run(settings: &Settings, starter: &mut Starter) -> Result<(), RunError> {
    settings.notes.iter().for_each(|note| starter.note(note));
    let point = mountpoint::prepare(&settings.mountpoint, &attach::type_name(&settings.mount))?;
    point.notes.iter().for_each(|note| starter.note(note));
    attach::available()?;

    resident::make();
    let threads = Threads::start().map_err(|error| RunError::Start { what: "worker threads", error })?;
    let (cluster, master) = match &settings.cluster {
        Cluster::Join { master } => (None, master.clone()),
        Cluster::Embedded(wanted) => {
            let cluster = start_cluster(threads.bytes(), wanted, &point.path, starter)?;
            let master = cluster.address().to_string();
            (Some(cluster), master)
        }
    };
    let ended = mount(settings, &threads, &point.path, &master, cluster.as_ref(), starter);
    if let Some(cluster) = cluster {
        let stopped = threads
            .bytes()
            .block_on(async { tokio::time::timeout(CLUSTER_STOP_DEADLINE, cluster.shutdown()).await });
        if stopped.is_err() {
            tracing::warn!(
                "embedded cluster: did not stop in time; it is ended as it is, which loses nothing"
            );
        }
    }
    threads.stop();
    ended
}

fn start_cluster(
    runtime: &Runtime,
    wanted: &EmbeddedSettings,
    mountpoint: &Path,
    starter: &mut Starter,
) -> Result<Embedded, RunError> {
    if mountpoint::real_name(&wanted.data).is_ok_and(|data| data.starts_with(mountpoint)) {
        let (data, mountpoint) = (wanted.data.display().to_string(), mountpoint.display().to_string());
        return Err(RunError::DataBelow { data, mountpoint });
    }
    let cluster = runtime.block_on(Embedded::start(wanted))?;
    cluster.notes().iter().for_each(|note| starter.note(note));
    starter.note(&format!("embedded cluster at {}, data in {}", cluster.address(), cluster.data().display()));
    Ok(cluster)
}

/// Finds the master, mounts, and serves until the end.
fn mount(
    settings: &Settings,
    threads: &Threads,
    path: &Path,
    master: &str,
    cluster: Option<&Embedded>,
    starter: &mut Starter,
) -> Result<(), RunError> {
    let config = ClientConfig {
        master: master.to_owned(),
        name: client_name(path),
        connect_timeout: FIND_MASTER.min(settings.master_timeout),
        op_timeout: settings.master_timeout,
        // The embedded cluster is on this machine's loopback alone.
        tls: match cluster {
            Some(_) => None,
            None => Tls::load_if_named(settings.tls_dir.as_deref())?,
        },
        tokens: Arc::new(match cluster {
            Some(cluster) => cluster.tokens(),
            None => Tokens::at_or_of_login(settings.token_file.as_deref(), master),
        }),
    };
    let connecting = Client::connect_on(config, threads.lanes());
    let (client, events) = threads.on_control(connecting).map_err(RunError::Master)?;
    let root = threads.on_control(subdir::find(&client, &settings.subdir))?;
    let runtime = threads.bytes();
    let http = open_http(settings, runtime)?;
    // Before anything is mounted: from here on a signal must not end the process and leave a dead mount.
    let signals =
        Signals::new(runtime.handle()).map_err(|error| RunError::Start { what: "signal handlers", error })?;
    let (attached, serving) = attach_and_serve(settings, path, root, (client, events))?;
    let http = http.map(|bound| {
        let _on_runtime = runtime.enter();
        bound.serve(serving.shown())
    });
    // Without a guard it is still a mount.
    let guard = Guard::start(&attached)
        .inspect_err(|error| tracing::warn!("no guard: {error}; should this process be killed, it may hang"))
        .ok();
    let usable = probe(path).map_err(|error| RunError::Unusable { path: path.display().to_string(), error });
    if let Err(error) = readahead::raise(attached.device()) {
        tracing::debug!("readahead stays at the kernel's default: {error}");
    }
    tracing::info!(mountpoint = %path.display(), master, "mounted");
    let usable = usable.and_then(|()| starter.ready().map_err(|_| RunError::Abandoned));
    if usable.is_ok() {
        readiness::ready(&format!("mounted on {}", path.display()));
    }
    let ended = match &usable {
        Ok(()) => stop::serve_until_end(runtime, serving, &attached, signals, cluster),
        Err(_) => stop::end(runtime, serving, &attached, signals),
    };
    readiness::stopping();
    drop((guard, http));
    tracing::info!(mountpoint = %path.display(), "unmounted");
    usable.and(ended)
}

/// Opens the port for metrics, which speaks TLS where the mount does.
fn open_http(settings: &Settings, runtime: &Runtime) -> Result<Option<Bound>, RunError> {
    let Some(address) = settings.http else { return Ok(None) };
    let dir = settings.tls_dir.as_ref().filter(|_| !settings.http_plain);
    let acceptor = |dir| TlsDir::load(dir, Some(Role::Mount))?.acceptor(Protocol::Http);
    let tls = dir.map(|dir| acceptor(dir)).transpose().map_err(RunError::HttpTls)?;
    Ok(Some(runtime.block_on(Bound::open(address, tls))?))
}

fn attach_and_serve(
    settings: &Settings,
    path: &Path,
    root: InodeNo,
    (client, events): (Client, tokio::sync::mpsc::Receiver<Event>),
) -> Result<(Attached, Serving), RunError> {
    // All are one at the cluster, so what owners and modes say here is right for nobody.
    let master_checks = client.info().all_are_one;
    let (fd, attached) = attach::attach(path, &settings.mount, master_checks)?;
    let serve = Serve {
        fd,
        client,
        events,
        cache_bytes: settings.cache_bytes,
        write_buffer_bytes: settings.write_buffer_bytes,
        options: ServeOptions {
            root,
            atime: settings.mount.atime(),
            allow_other: settings.mount.allow_other,
            threads: Threads::number(),
            squash: settings.mount.squash,
            master_checks,
            ..ServeOptions::default()
        },
    };
    match serve.start() {
        Ok(serving) => Ok((attached, serving)),
        Err(error) => {
            if let Err(error) = attached.detach(Detach::Abort) {
                tracing::warn!("{error}");
            }
            Err(RunError::Serve { path: path.display().to_string(), error })
        }
    }
}

/// Waits until the mount answers, in a thread that is left to itself when it takes too long.
fn probe(path: &Path) -> io::Result<()> {
    let (send, receive) = mpsc::sync_channel(1);
    let path = path.to_owned();
    thread::Builder::new().name("probe".to_owned()).spawn(move || {
        let _ = send.send(attach::probe(&path));
    })?;
    receive.recv_timeout(PROBE_DEADLINE).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Host, process id and mount point, for operators.
fn client_name(path: &Path) -> String {
    format!("{} {} {}", crate::embedded::host_name(), std::process::id(), path.display())
}
