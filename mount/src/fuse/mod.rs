//! The thin adapter between the kernel and [`crate::fs`]: decode, spawn, reply. The only module that knows
//! fuser. FUSE threads never wait for the network: what cannot be answered from memory at once is spawned on
//! the runtime, and the reply is sent from there.
//!
//! Mounting itself is not done here (`mountpoint`): [`Serve`] is given an open `/dev/fuse` that is mounted
//! already, so that fuser's own teardown, which may unmount a file system that is not ours, is never used.

mod adapter;
mod answers;
mod convert;
mod directories;
mod greeting;
mod lock_requests;
pub mod metrics;
mod notices;
mod reads;
mod requester;
mod root;
mod signals;
mod writes;
mod xattr_requests;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use dfs_proto::error::DfsError;
use tokio::sync::mpsc;

use crate::client::lanes::Lane;
use crate::client::{Client, Event};
use crate::fs::Fs;
use crate::fs::atime::AtimeOptions;
use crate::fs::caller::Squash;
use crate::fs::events;
use adapter::Adapter;
use dfs_proto::ids::InodeNo;
use metrics::Metrics;
use root::Root;

/// The longest that the kernel may use what it was told without asking. What this process could not take back, should
/// it be stopped, ends with it.
const LONGEST_CACHED: Duration = Duration::from_secs(30);

/// How the mount behaves towards the kernel.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The directory of the cluster that is mounted.
    pub root: InodeNo,
    /// Which reads change an atime.
    pub atime: AtimeOptions,
    /// Other users than the one who mounted may use it.
    pub allow_other: bool,
    /// FUSE threads.
    pub threads: usize,
    /// How long the kernel may use attributes without asking, if no push says otherwise. At most what the master
    /// promises counts.
    pub attr_timeout: Duration,
    /// The same for names.
    pub entry_timeout: Duration,
    /// Root counts as this user, and the master checks what he does.
    pub squash: Option<Squash>,
    /// The kernel was told to look at no modes: the master does, whoever calls.
    pub master_checks: bool,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            root: InodeNo::ROOT,
            atime: AtimeOptions::default(),
            allow_other: false,
            threads: 2,
            attr_timeout: LONGEST_CACHED,
            entry_timeout: LONGEST_CACHED,
            squash: None,
            master_checks: false,
        }
    }
}

/// Everything that is needed to serve one mount.
pub struct Serve {
    /// `/dev/fuse`, mounted, before the first request was read.
    pub fd: OwnedFd,
    /// Connected to the master.
    pub client: Client,
    /// The client's.
    pub events: mpsc::Receiver<Event>,
    /// Bound of the block cache.
    pub cache_bytes: u64,
    /// Bound of what is written and not yet uploaded.
    pub write_buffer_bytes: u64,
    /// See there.
    pub options: ServeOptions,
}

/// A mount being served.
pub struct Serving {
    fs: Arc<Fs>,
    metrics: Arc<Metrics>,
    session: Mutex<Option<JoinHandle<io::Result<()>>>>,
}

impl Serve {
    /// Greets the kernel and starts to serve. Blocks for the greeting; not to be called on the runtime.
    ///
    /// # Errors
    /// When the kernel does not talk a FUSE version that we know, or threads cannot be started.
    pub fn start(self) -> io::Result<Serving> {
        let lanes = self.client.lanes().clone();
        let fs = {
            let _on_runtime = lanes.of(Lane::Control).enter();
            Fs::new(self.client, self.cache_bytes, self.write_buffer_bytes, self.options.atime)
        };
        let mut config = fuser::Config::default();
        config.acl = if self.options.allow_other { fuser::SessionACL::All } else { fuser::SessionACL::Owner };
        config.n_threads = Some(self.options.threads.max(1));
        config.clone_fd = self.options.threads > 1;
        let acl = config.acl;
        let root = Root::new(self.options.root);
        let shared_notifier = Arc::new(OnceLock::new());
        let metrics = Arc::new(Metrics::default());
        let adapter =
            Adapter::new(fs.clone(), self.options, lanes.clone(), shared_notifier.clone(), metrics.clone());
        let device = self.fd.try_clone()?;
        let session = fuser::Session::from_fd(adapter, self.fd, acl, config)?.spawn()?;
        // Empty until now.
        let _ = shared_notifier.set(session.notifier());
        notices::start(&fs, &session.notifier(), device, root)?;
        lanes.of(Lane::Control).spawn(events::follow(fs.clone(), self.events));
        let session =
            std::thread::Builder::new().name("fuse-session".into()).spawn(move || session.join())?;
        Ok(Serving { fs, metrics, session: Mutex::new(Some(session)) })
    }
}

impl Serving {
    /// What this mount shows over HTTP.
    pub fn shown(&self) -> dfs_observe::http::Shown {
        metrics::shown(self.metrics.clone(), self.fs.clone())
    }

    /// Returns when the kernel has let go of the mount. Blocks; only the first caller waits.
    ///
    /// # Errors
    /// Why serving ended, if it was not an unmount.
    pub fn wait_unmounted(&self) -> io::Result<()> {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner).take();
        match session {
            Some(session) => session
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a FUSE thread panicked; see the log"))),
            None => Ok(()),
        }
    }

    /// Uploads all that is dirty, within `deadline`.
    ///
    /// # Errors
    /// The first error of an upload, or `TimedOut`.
    pub async fn drain(&self, deadline: Duration) -> Result<(), DfsError> {
        self.fs.drain(deadline).await
    }

    /// Logs what was written and is not uploaded: for when nothing more can be done for it.
    pub fn log_lost(&self) {
        self.fs.log_lost();
    }

    /// The master cannot be reached, and everything written here is safe.
    pub fn is_cut_off_and_clean(&self) -> bool {
        self.fs.is_cut_off_and_clean()
    }

    /// Ends the session with the master, so that it knows at once that nothing here is open any more. For
    /// after the last drain.
    pub async fn close(&self) {
        self.fs.close().await;
    }
}
