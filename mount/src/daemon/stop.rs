//! How a mount ends: somebody unmounts it, or a signal asks us to.
//!
//! A signal (TERM, INT, HUP) uploads all that was written, unmounts what we mounted and nothing else, also when it
//! is busy, and uploads what came in meanwhile, each as far as it succeeds within [`DRAIN_DEADLINE`]. A second signal ends the process at
//! once. Every step has its deadline, and all together have one, so the process always ends.

use std::io;
use std::process;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::run::RunError;
use crate::embedded::Embedded;
use crate::fuse::Serving;
use crate::mountpoint::attach::{Attached, Detach, Detached};
use crate::mountpoint::connection;

/// The longest that uploading the rest may take.
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);

/// The longest that the kernel may take to unmount. It may have pages to write back first.
const DETACH_DEADLINE: Duration = Duration::from_secs(30);

/// The longest that the kernel may take to let go of the mount after that.
const RELEASE_DEADLINE: Duration = Duration::from_secs(10);

/// The longest that all this may take together, whatever does not answer. A step that is begun then gets [`HURRY`].
const END_WITHIN: Duration = Duration::from_secs(45);

/// How often we look whether the mount was taken away from a process that has lost its master.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// For how long it must look so. Programs that wait for the master get their errors then.
const ABANDONED_AFTER: Duration = Duration::from_secs(5);

/// The same when the user is in a hurry.
const HURRY: Duration = Duration::from_secs(1);

/// Exit status of a process that was told twice.
const HURRIED: i32 = 1;

/// What asks us to end.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// From now on these signals end nothing by themselves.
    ///
    /// # Errors
    /// When the handlers cannot be set.
    pub fn new(runtime: &Handle) -> io::Result<Signals> {
        let _on_runtime = runtime.enter();
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one; gives its name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}

/// When the process must have ended.
#[derive(Clone, Copy)]
struct EndBy(Instant);

impl EndBy {
    fn new() -> EndBy {
        EndBy(Instant::now() + END_WITHIN)
    }

    /// For a step that may take `most`.
    fn time_for(self, most: Duration) -> Duration {
        most.min(self.0.saturating_duration_since(Instant::now())).max(HURRY)
    }
}

/// A mount that is served, and how to know when the kernel has let go of it.
struct Watched {
    serving: Arc<Serving>,
    ended: oneshot::Receiver<io::Result<()>>,
}

impl Watched {
    fn new(serving: Serving) -> Result<Watched, RunError> {
        let serving = Arc::new(serving);
        let (send, ended) = oneshot::channel();
        let waiting = serving.clone();
        let spawned = thread::Builder::new().name("unmounted".to_owned()).spawn(move || {
            let _ = send.send(waiting.wait_unmounted());
        });
        spawned
            .map(|_| Watched { serving, ended })
            .map_err(|error| RunError::Start { what: "a thread", error })
    }
}

/// Why serving ends.
enum End {
    /// The kernel let go of the mount; how reading from it ended.
    Unmounted(io::Result<()>),
    /// Somebody wants us to end.
    Asked,
    /// See [`abandoned`].
    Abandoned,
}

/// Serves until the mount is gone, or a signal comes; then ends as [`end`] does.
///
/// # Errors
/// What was written could not all be uploaded.
pub fn serve_until_end(
    runtime: &Runtime,
    serving: Serving,
    attached: &Attached,
    mut signals: Signals,
    cluster: Option<&Embedded>,
) -> Result<(), RunError> {
    let mut watched = Watched::new(serving)?;
    let end = runtime.block_on(async {
        let failed = report_failure(cluster);
        let abandoned = abandoned(&watched.serving, attached);
        tokio::pin!(failed, abandoned);
        let mut running = true;
        loop {
            tokio::select! {
                ended = &mut watched.ended => return ended.map_or(End::Asked, End::Unmounted),
                name = signals.next() => {
                    tracing::info!("{name}: unmounting");
                    return End::Asked;
                }
                () = &mut abandoned => {
                    tracing::warn!("unmounted lazily while the master is away, and nothing is left to upload: ending");
                    return End::Abandoned;
                }
                // The mount stays: it says what is wrong to everybody who uses it. Without it they would go on
                // in the directory below, and not know.
                () = &mut failed, if running => running = false,
            }
        }
    });
    if let Some(cluster) = cluster {
        cluster.announce_stop();
    }
    match end {
        // The kernel ends its side when our descriptors are closed, which the end of the process does.
        End::Abandoned => {
            runtime.block_on(watched.serving.close());
            Ok(())
        }
        End::Unmounted(ended) => {
            runtime.block_on(drain(&watched.serving, ended, attached, &mut signals, EndBy::new()))
        }
        End::Asked => runtime.block_on(unmount(watched, attached, &mut signals)),
    }
}

/// Unmounts, and uploads what is left.
///
/// # Errors
/// What was written could not all be uploaded.
pub fn end(
    runtime: &Runtime,
    serving: Serving,
    attached: &Attached,
    mut signals: Signals,
) -> Result<(), RunError> {
    let watched = Watched::new(serving)?;
    runtime.block_on(unmount(watched, attached, &mut signals))
}

/// Ends when the mount is not in the mount table any more, the master cannot be reached and nothing waits to be
/// uploaded. Whoever still has files open there could only wait for errors, each for a master's timeout.
async fn abandoned(serving: &Serving, attached: &Attached) {
    let mut since = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if serving.is_cut_off_and_clean() && is_gone(attached).await {
            let since = *since.get_or_insert_with(Instant::now);
            if since.elapsed() >= ABANDONED_AFTER {
                return;
            }
        } else {
            since = None;
        }
    }
}

async fn is_gone(attached: &Attached) -> bool {
    let attached = attached.clone();
    tokio::task::spawn_blocking(move || attached.is_gone()).await.unwrap_or(false)
}

async fn report_failure(cluster: Option<&Embedded>) {
    match cluster {
        Some(cluster) => {
            let error = cluster.failed().await;
            tracing::error!("{error}; unmount and mount again");
        }
        None => std::future::pending().await,
    }
}

async fn unmount(mut watched: Watched, attached: &Attached, signals: &mut Signals) -> Result<(), RunError> {
    let serving = watched.serving.clone();
    let by = EndBy::new();
    let gone = async {
        // While the mount is whole: should the kernel not let go of it, this much is safe.
        if let Err(error) = serving.drain(by.time_for(DRAIN_DEADLINE)).await {
            tracing::warn!("before the unmount: {error}");
        }
        match detach(attached, Detach::Clean, by).await {
            Some(Detached::Done) => {}
            Some(Detached::NotOurs) => {
                tracing::warn!(
                    "the mount was taken away or covered by another one already; nothing is unmounted"
                );
                cut_off(attached, Detach::Lazy, by).await;
            }
            None => cut_off(attached, Detach::Abort, by).await,
        }
        timeout(by.time_for(RELEASE_DEADLINE), &mut watched.ended).await
    };
    let ended = tokio::select! {
        ended = gone => ended,
        name = signals.next() => hurry(name, attached).await,
    };
    match ended {
        Ok(Ok(ended)) => drain(&serving, ended, attached, signals, by).await,
        _ => {
            serving.log_lost();
            Err(RunError::NotDrained)
        }
    }
}

/// Ends the connection with the kernel, whoever still has files open.
async fn cut_off(attached: &Attached, how: Detach, by: EndBy) {
    detach(attached, how, by).await;
    // Not everybody may unmount by force, but whoever mounted may end the connection.
    if let Err(error) = connection::abort(attached.device()) {
        tracing::debug!("the connection with the kernel was not ended by hand: {error}");
    }
}

/// `None` when it did not work, which is logged. The kernel may ask us things meanwhile, so it is done in a
/// thread of its own.
async fn detach(attached: &Attached, how: Detach, by: EndBy) -> Option<Detached> {
    let attached = attached.clone();
    let within = by.time_for(DETACH_DEADLINE);
    let task = tokio::task::spawn_blocking(move || attached.detach(how));
    match timeout(within, task).await {
        Ok(Ok(Ok(detached))) => Some(detached),
        Ok(Ok(Err(error))) if error.is_busy() => {
            tracing::warn!("the mount is busy; it is unmounted all the same");
            None
        }
        Ok(Ok(Err(error))) => {
            tracing::warn!("{error}");
            None
        }
        Ok(Err(error)) => {
            tracing::error!("unmount: {error}");
            None
        }
        Err(_) => {
            tracing::warn!("unmount: the kernel took longer than {within:?}");
            None
        }
    }
}

/// Uploads what the mount still has, after the kernel let go of it, and ends the session.
async fn drain(
    serving: &Serving,
    result: io::Result<()>,
    attached: &Attached,
    signals: &mut Signals,
    by: EndBy,
) -> Result<(), RunError> {
    if let Err(error) = result {
        tracing::warn!("serving the mount ended: {error}");
    }
    // When the connection was ended from outside, the mount is still there, and dead.
    detach(attached, Detach::Lazy, by).await;
    let drained = tokio::select! {
        drained = serving.drain(by.time_for(DRAIN_DEADLINE)) => drained.map_err(RunError::Drain),
        name = signals.next() => hurry(name, attached).await,
    };
    serving.log_lost();
    serving.close().await;
    drained
}

/// A second signal: leaves no dead mount if that can be had quickly, and ends the process.
async fn hurry<T>(name: &str, attached: &Attached) -> T {
    tracing::warn!("{name} again: ending at once; what was not uploaded is lost");
    let _ = timeout(HURRY, detach(attached, Detach::Lazy, EndBy::new())).await;
    process::exit(HURRIED)
}
