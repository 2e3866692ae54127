//! The state, its connections and its group commit under one lock.
//!
//! The lock is held for one command, or one look at the state, and never across an await or any I/O.
//! Effects are queued to connections under it too, so that they leave in the order in which the commands
//! were applied.
//!
//! A commit that fails because the disk takes no writes is tried again until it does (committer.rs). Meanwhile requests
//! that change something are refused with the reason, so that what waits stays little; what was applied before waits
//! with its reply, and all that rests on it. Reads of everything else go on.
//!
//! Any other failure ends the engine: what the store holds is then unknown, so nothing more may be
//! shown. Every connection is closed, every call returns [`Stopped`], and [`Engine::failed`] says why.

mod connect;
mod counted;
mod deliver;
pub(crate) mod quiet;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dfs_proto::error::DfsError;
use dfs_proto::ids::{KeeperId, SessionId};
use dfs_proto::pb::{self, keeper_down, mount_down};
use tokio::sync::{Semaphore, TryAcquireError, oneshot, watch};

use connect::no_answer;
use counted::{Counted, Waiting};
use quiet::{Quiet, has_to_be_stored};

use super::clock::Clock;
use super::committer::commit_thread;
use super::deletions::Deletions;
use super::group::{self, Admitted, GroupCommit};
use super::outbox::{ConnectionNo, Outboxes};
use crate::core::operator::{Operation, OperatorReply};
use crate::core::{Applied, Command, CorruptRow, Effect, Now, Settings, State};
use crate::metrics::{self, Metrics};
use crate::store::{Snapshot, Store, StoreError};

/// Commands that may wait for their batch. The next ones wait to be applied.
const MAX_QUEUED_COMMANDS: usize = 4096;
/// How long a look at the state waits until what it saw is durable.
const SETTLE_DEADLINE: Duration = Duration::from_secs(30);

/// The engine takes no more commands: it was stopped, or its store failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the master is stopping, or its store does not answer; try again later")]
pub struct Stopped;

/// One connection of a mount or a keeper.
#[derive(Debug)]
pub struct Link<K> {
    /// The session, or the keeper.
    pub peer: K,
    /// Resolves, to an error, when the connection has to end: another one took over, the peer does not
    /// read, or the master stops.
    pub closed: oneshot::Receiver<()>,
    connection: ConnectionNo,
}

/// Runs commands. Clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("failed", &self.shared.has_failed()).finish_non_exhaustive()
    }
}

pub(super) struct Shared {
    pub(super) inner: Mutex<Inner>,
    /// There is a batch to commit, or the engine is stopping.
    pub(super) work: Condvar,
    /// One permit for each command that may still be queued.
    pub(super) room: Semaphore,
    /// The newest batch that is durable.
    pub(super) durable: watch::Sender<u64>,
    /// The store takes nothing at the moment.
    pub(super) in_trouble: watch::Sender<bool>,
    pub(super) metrics: Metrics,
    quiet: Quiet,
    failed: watch::Sender<Option<String>>,
    /// The commit thread has ended, and the store is closed.
    pub(super) finished: watch::Sender<bool>,
}

pub(super) type SnapshotSender = oneshot::Sender<Result<Box<dyn Snapshot>, StoreError>>;

pub(super) struct Inner {
    state: State,
    clock: Clock,
    pub(super) group: GroupCommit,
    /// Requests whose replies wait in a batch.
    waiting: Waiting,
    mounts: Outboxes<SessionId, mount_down::Msg>,
    keepers: Outboxes<KeeperId, keeper_down::Msg>,
    deletions: Deletions,
    connections: u64,
    /// Those who wait for a snapshot of the store.
    pub(super) snapshots: Vec<SnapshotSender>,
    /// Why the store takes nothing at the moment.
    pub(super) trouble: Option<pb::Error>,
    pub(super) stopping: bool,
}

impl Engine {
    /// Loads the state from the store (a fresh one gets what a new cluster has), and starts the commit
    /// thread, which owns the store. Blocks. `listens_since`: from then on, mounts can see that a master is there.
    ///
    /// # Errors
    /// The store cannot be read or written, or what it holds makes no sense.
    pub fn start(
        mut store: Box<dyn Store>,
        settings: Settings,
        listens_since: Instant,
    ) -> Result<Engine, StoreError> {
        let mut clock = Clock::default();
        let (state, is_fresh) = load(&mut *store, settings, clock.now())?;
        let quiet = Quiet::new(&state, is_fresh, listens_since);
        let inner = Inner {
            state,
            clock,
            group: GroupCommit::default(),
            waiting: Waiting::default(),
            mounts: Outboxes::default(),
            keepers: Outboxes::default(),
            deletions: Deletions::default(),
            connections: 0,
            snapshots: Vec::new(),
            trouble: None,
            stopping: false,
        };
        let shared = Arc::new(Shared {
            inner: Mutex::new(inner),
            work: Condvar::new(),
            room: Semaphore::new(MAX_QUEUED_COMMANDS),
            durable: watch::Sender::new(0),
            in_trouble: watch::Sender::new(false),
            metrics: Metrics::default(),
            quiet,
            failed: watch::Sender::new(None),
            finished: watch::Sender::new(false),
        });
        let thread_shared = shared.clone();
        std::thread::Builder::new()
            .name("dfs-commit".to_owned())
            .spawn(move || commit_thread(&thread_shared, store))
            .map_err(|e| StoreError::Io {
                path: "commit thread".into(),
                why: format!("cannot be started: {e}"),
                kind: e.kind(),
            })?;
        Ok(Engine { shared })
    }

    /// Applies a mount's request; a change, when the quiet time after the start is over.
    /// Nothing is done when the connection is over: its successor may have asked again.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn mount_request(
        &self,
        link: &Link<SessionId>,
        request: pb::MountRequest,
    ) -> Result<(), Stopped> {
        let counted = Counted::request(link.peer, &request);
        if self.has_to_wait(&request) {
            self.quiet_is_over().await;
        }
        let (session, connection) = (link.peer, link.connection);
        let command = Command::Mount { session, request };
        self.run_counted(|inner| inner.mounts.is_open(session, connection), command, counted).await
    }

    /// A mount has forgotten what these invalidations were about.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn mount_acks(&self, link: &Link<SessionId>, seqs: Vec<u64>) -> Result<(), Stopped> {
        let (session, connection) = (link.peer, link.connection);
        let command = Command::MountAcks { session, seqs };
        self.run_if(|inner| inner.mounts.is_open(session, connection), command).await
    }

    /// Applies what a keeper says, as [`Engine::mount_request`].
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn keeper_message(
        &self,
        link: &Link<KeeperId>,
        msg: pb::keeper_up::Msg,
    ) -> Result<(), Stopped> {
        let (keeper, connection) = (link.peer, link.connection);
        self.shared.metrics.keeper_messages.of(metrics::said(&msg)).inc();
        self.run_if(|inner| inner.keepers.is_open(keeper, connection), Command::Keeper { keeper, msg }).await
    }

    /// Answers a mount's ping. It waits for nothing.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn pong(&self, link: &Link<SessionId>, ping: pb::Ping) -> Result<(), Stopped> {
        let mut inner = self.shared.lock()?;
        let now = Some(inner.clock.now().time);
        if inner.mounts.is_open(link.peer, link.connection) {
            inner.mounts.send(link.peer, mount_down::Msg::Pong(pb::Pong { seq: ping.seq, now }));
        }
        Ok(())
    }

    /// Lets time pass. Left out while commands wait for room: they were sent before it, and a heartbeat
    /// among them must not come too late for having waited here. And left out while the store is in trouble and much
    /// waits already: ticks alone must not take up all the room.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn tick(&self) -> Result<(), Stopped> {
        match self.shared.room.try_acquire() {
            Err(TryAcquireError::NoPermits) => Ok(()),
            Err(TryAcquireError::Closed) => Err(Stopped),
            Ok(permit) => {
                let mut inner = self.shared.lock()?;
                let crowded = self.shared.room.available_permits() < MAX_QUEUED_COMMANDS / 2;
                if inner.trouble.is_some() && crowded {
                    return Ok(());
                }
                if self.shared.submit(&mut inner, Command::Tick, None) {
                    permit.forget();
                }
                Ok(())
            }
        }
    }

    /// Does what an operator wants, and returns when that is durable. The inner error is the core's refusal.
    ///
    /// # Errors
    /// As [`Engine::read`].
    pub async fn operate(&self, operation: Operation) -> Result<Result<OperatorReply, DfsError>, Stopped> {
        if let Some(trouble) = self.shared.lock()?.trouble.clone() {
            return Ok(Err(DfsError::from_wire(trouble)));
        }
        self.quiet_is_over().await;
        let answer = self
            .run(|inner| {
                let mut applied = inner.apply(Command::Operator(operation));
                let mut answer = None;
                applied.effects.retain(|effect| match effect {
                    Effect::OperatorAnswer(found) => {
                        answer = Some(found.clone());
                        false
                    }
                    _ => true,
                });
                (applied, answer)
            })
            .await?;
        self.read(|_, _| ()).await?;
        Ok(answer.unwrap_or_else(|| Err(DfsError::from_wire(no_answer()))))
    }

    /// Looks at the state, and returns when all that was seen is durable.
    ///
    /// # Errors
    /// [`Stopped`]; also when the store takes too long.
    pub async fn read<T>(&self, look: impl FnOnce(&State, Now) -> T) -> Result<T, Stopped> {
        self.ask(|state, now| look(state, now)).await
    }

    /// As [`Engine::read`], for a question that counts something: tickets have numbers. It must change nothing that is stored.
    ///
    /// # Errors
    /// As [`Engine::read`].
    pub(crate) async fn ask<T>(&self, look: impl FnOnce(&mut State, Now) -> T) -> Result<T, Stopped> {
        let (seen, need) = {
            let mut inner = self.shared.lock()?;
            let (now, need) = (inner.clock.now(), inner.group.newest_change());
            if need > inner.group.durable() {
                if inner.trouble.is_some() {
                    return Err(Stopped);
                }
                self.shared.hurry(&mut inner);
            }
            (look(&mut inner.state, now), need)
        };
        let mut durable = self.shared.durable.subscribe();
        let settled = async {
            tokio::select! {
                reached = durable.wait_for(|&no| no >= need) => reached.is_ok(),
                _ = self.failed() => false,
            }
        };
        match tokio::time::timeout(SETTLE_DEADLINE, settled).await {
            Ok(true) => Ok(seen),
            Ok(false) | Err(_) => Err(Stopped),
        }
    }

    /// Looks at the state as it is, which a crash may still take back. For what is shown to nobody.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn peek<T>(&self, look: impl FnOnce(&State) -> T) -> Result<T, Stopped> {
        Ok(look(&self.shared.lock()?.state))
    }

    /// Answers a mount's request with an error, without a look at the state.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn refuse_request(&self, link: &Link<SessionId>, id: u64, error: &DfsError) -> Result<(), Stopped> {
        let mut inner = self.shared.lock()?;
        if inner.mounts.is_open(link.peer, link.connection) {
            let result = Some(pb::mount_reply::Result::Error(error.to_wire()));
            inner
                .mounts
                .send(link.peer, mount_down::Msg::Reply(pb::MountReply { id, result, ..Default::default() }));
        }
        Ok(())
    }

    /// What is durable at this moment: all that was ever acknowledged. The commit thread makes it between two batches,
    /// and goes on at once.
    ///
    /// # Errors
    /// The inner one is the store's. [`Stopped`]; also when the store takes too long.
    pub async fn snapshot(&self) -> Result<Result<Box<dyn Snapshot>, StoreError>, Stopped> {
        let (sender, snapshot) = oneshot::channel();
        self.shared.lock()?.snapshots.push(sender);
        self.shared.work.notify_one();
        match tokio::time::timeout(SETTLE_DEADLINE, snapshot).await {
            Ok(Ok(snapshot)) => Ok(snapshot),
            Ok(Err(_)) | Err(_) => Err(Stopped),
        }
    }

    /// Takes no more commands. The last batch is committed and delivered, then every connection ends and
    /// the store is closed: see [`Engine::finished`].
    pub fn stop(&self) {
        self.shared.room.close();
        // A poisoned lock means that the engine has failed, and the thread ends for that.
        let mut inner = self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.stopping = true;
        self.shared.work.notify_all();
    }

    /// Resolves when the engine has stopped, or failed, and the store is closed.
    pub async fn finished(&self) {
        // The sender lives as long as `self`.
        let _ = self.shared.finished.subscribe().wait_for(|&finished| finished).await;
    }

    /// Resolves, to the reason, when the engine fails. Never after a [`Engine::stop`] that went well.
    pub fn failed(&self) -> impl Future<Output = String> + Send + use<> {
        let shared = self.shared.clone();
        async move {
            let mut failed = shared.failed.subscribe();
            match failed.wait_for(Option::is_some).await.map(|reason| reason.clone()) {
                Ok(Some(reason)) => reason,
                Ok(None) | Err(_) => std::future::pending().await,
            }
        }
    }

    /// Ends everything, at once, for a reason that no caller can mend.
    pub(crate) fn fail(&self, reason: String) {
        self.shared.fail(reason);
    }

    async fn run<T>(&self, work: impl FnOnce(&mut Inner) -> (Applied, T)) -> Result<T, Stopped> {
        let permit = self.shared.room.acquire().await.map_err(|_| Stopped)?;
        let mut inner = self.shared.lock()?;
        let (applied, result) = work(&mut inner);
        let only_answers = group::effects_answer(&applied.effects);
        if self.shared.admit(&mut inner, only_answers, false, applied) {
            permit.forget();
        }
        Ok(result)
    }

    async fn run_if(
        &self,
        condition: impl FnOnce(&mut Inner) -> bool,
        command: Command,
    ) -> Result<(), Stopped> {
        self.run_counted(condition, command, None).await
    }
}

impl Inner {
    fn apply(&mut self, command: Command) -> Applied {
        let now = self.clock.now();
        self.state.apply(command, now)
    }

    pub(super) fn close_all(&mut self) {
        self.mounts.close_all();
        self.keepers.close_all();
        self.snapshots.clear();
    }

    fn next_connection(&mut self) -> ConnectionNo {
        self.connections += 1;
        ConnectionNo(self.connections)
    }
}

impl Shared {
    fn lock(&self) -> Result<MutexGuard<'_, Inner>, Stopped> {
        match self.inner.lock() {
            Ok(inner) if inner.stopping => Err(Stopped),
            Ok(inner) => Ok(inner),
            Err(poisoned) => {
                drop(poisoned);
                self.fail("a command broke the master's state (a bug); the log says where".to_owned());
                Err(Stopped)
            }
        }
    }

    /// Somebody waits for all that was applied until now.
    fn hurry(&self, inner: &mut Inner) {
        inner.group.hurry();
        self.work.notify_one();
    }

    /// Applies a command. True if its effects wait in a batch.
    fn submit(&self, inner: &mut Inner, command: Command, mut counted: Option<Counted>) -> bool {
        if let (Some(trouble), Command::Mount { session, request }) = (&inner.trouble, &command)
            && has_to_be_stored(request)
        {
            if let Some(counted) = counted {
                counted.refused(&self.metrics, trouble.code);
            }
            let result = Some(pb::mount_reply::Result::Error(trouble.clone()));
            let (session, reply) =
                (*session, pb::MountReply { id: request.id, result, ..Default::default() });
            inner.mounts.send(session, mount_down::Msg::Reply(reply));
            return false;
        }
        let (asks, may_wait) = (group::asks(&command), group::may_wait(&command));
        let applied = inner.apply(command);
        let only_answers = asks && group::effects_answer(&applied.effects);
        if let Some(counted) = &mut counted {
            counted.applied(&self.metrics, &applied.effects);
        }
        let queued = self.admit(inner, only_answers, may_wait, applied);
        match counted {
            Some(counted) if queued => inner.waiting.push(inner.group.newest_batch(), counted),
            Some(counted) => counted.over(&self.metrics),
            None => {}
        }
        queued
    }

    fn admit(&self, inner: &mut Inner, only_answers: bool, may_wait: bool, applied: Applied) -> bool {
        match inner.group.admit_as(only_answers, may_wait, applied) {
            Admitted::Now(effects) => {
                inner.deliver(effects);
                false
            }
            Admitted::Queued => {
                if inner.group.hurries() {
                    self.work.notify_one();
                }
                true
            }
        }
    }

    pub(super) fn fail(&self, reason: String) {
        tracing::error!("{reason}");
        self.room.close();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.stopping = true;
        inner.close_all();
        drop(inner);
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            if first {
                *failed = Some(reason);
            }
            first
        });
        self.work.notify_all();
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.borrow().is_some()
    }
}

/// Returns whether the cluster is a fresh one, too.
fn load(store: &mut dyn Store, settings: Settings, now: Now) -> Result<(State, bool), StoreError> {
    let corrupt = |error: CorruptRow| StoreError::Rows(error.to_string());
    let mut state = State::new(settings);
    store.load(&mut |row| state.load_row(row).map_err(corrupt))?;
    let is_fresh = state.is_empty();
    if is_fresh {
        let changes = state.bootstrap(now.time);
        store.commit(&changes)?;
    } else {
        state.finish_load(now).map_err(corrupt)?;
    }
    Ok((state, is_fresh))
}

#[cfg(test)]
mod tests;
