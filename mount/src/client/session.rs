//! The session: one bidirectional stream to the master, kept alive, and resumed after a break.
//!
//! A ping goes out every half second; when the last one that was answered was sent three seconds ago, the stream counts as
//! broken. It is the sending that counts: on a slow link answers still come while what the master says now is far away.
//! After a break the session is resumed with its id and its open inodes, and what was asked and not answered is
//! asked again (`requests` says what). Calls made meanwhile wait. Uploads that the same master had recorded are told
//! again; the waits for all others end with code `Session`.
//!
//! What must hold: an event is never dropped, for the mount's caches depend on each; `SessionLost` is handed out
//! before the stream is replaced, and `SessionResumed` before anything that comes over the new one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{InodeNo, SessionId};
use dfs_proto::looks::LOOK_EVERY;
use dfs_proto::pb;
use dfs_proto::pb::{mount_down, mount_up};
use dfs_proto::secret::Secret;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::clock::Clock;
use super::down::{Down, Seen, Vigil};
use super::hello::{Link, connect, first_link, hello};
use super::renew;
use super::requests::{Answer, Asked, Op, Reply, ReplyTo, Requests};
use super::uploads::Uploads;
use super::{ClientConfig, ClusterInfo, Event, Lost};
use crate::lock::lock;

const PING_EVERY: Duration = Duration::from_millis(500);
/// Age of the last ping that was answered at which the stream counts as broken.
const SILENCE: Duration = Duration::from_secs(3);
pub(super) const BACKOFF_FIRST: Duration = Duration::from_millis(50);
pub(super) const BACKOFF_LAST: Duration = Duration::from_secs(1);
/// For one try to resume.
const ATTEMPT: Duration = Duration::from_secs(3);
/// How long the events' receiver may take none before the stream is given up.
const EVENT_PATIENCE: Duration = Duration::from_secs(3);
/// How long what was cached may take to be forgotten, before the session is brought back.
const FORGET_WITHIN: Duration = Duration::from_secs(1);
/// For what is still queued when the session ends.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// What the calls and the session's task share.
pub(super) struct Shared {
    pub(super) config: ClientConfig,
    requests: Mutex<Requests>,
    uploads: Mutex<Uploads>,
    clock: Mutex<Clock>,
    info: Mutex<ClusterInfo>,
    /// Invalidations that are forgotten here, which the master does not know yet.
    forgotten: Mutex<Vec<u64>>,
    /// To be told to the master.
    pub(super) new_token: Mutex<Option<Secret>>,
    /// The master does not let us in: everybody is told so at once.
    pub(super) barred: Mutex<Option<DfsError>>,
    /// There may be something to send.
    pub(super) wake: Notify,
    /// The stream is there.
    up: AtomicBool,
    /// Or the master is known to be down.
    pub(super) down: Down,
    /// Some lock was lost, ever.
    pub(super) locks_lost: AtomicBool,
    close_asked: watch::Sender<bool>,
    /// The session's task has ended.
    pub(super) closed: watch::Sender<bool>,
}

impl Shared {
    pub(super) fn requests(&self) -> MutexGuard<'_, Requests> {
        lock(&self.requests)
    }

    pub(super) fn uploads(&self) -> MutexGuard<'_, Uploads> {
        lock(&self.uploads)
    }

    pub(super) fn info(&self) -> ClusterInfo {
        *lock(&self.info)
    }

    pub(super) fn now(&self) -> pb::Time {
        lock(&self.clock).now(Instant::now())
    }

    pub(super) fn op_timeout(&self) -> Duration {
        self.config.op_timeout
    }

    pub(super) fn ask(&self, op: Op, by: Option<Arc<pb::Caller>>, reply: ReplyTo) -> Result<u64, DfsError> {
        self.queue(|requests| Ok(requests.ask(op, by, reply)))
    }

    /// Has a request queued, unless the session is over.
    pub(super) fn queue(&self, ask: impl FnOnce(&mut Requests) -> Asked) -> Asked {
        let id = self.queue_by_the_way(ask)?;
        self.wake.notify_one();
        Ok(id)
    }

    /// Queues one that nobody waits for: it goes out, in its order, with the next that somebody does, or the next ping. A
    /// message of its own would cost both sides more than what it says.
    pub(super) fn ask_by_the_way(
        &self,
        op: Op,
        by: Option<Arc<pb::Caller>>,
        reply: ReplyTo,
    ) -> Result<u64, DfsError> {
        self.queue_by_the_way(|requests| Ok(requests.ask(op, by, reply)))
    }

    fn queue_by_the_way(&self, ask: impl FnOnce(&mut Requests) -> Asked) -> Asked {
        if *self.closed.borrow() {
            return Err(self.closed_error());
        }
        if let Some(error) = lock(&self.barred).clone() {
            return Err(error);
        }
        ask(&mut self.requests())
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    pub(super) fn forgot(&self, seq: u64) {
        lock(&self.forgotten).push(seq);
        self.wake.notify_one();
    }

    pub(super) fn report(&self, report: pb::ReportBad) {
        self.requests().report(report);
        self.wake.notify_one();
    }

    pub(super) fn closed_error(&self) -> DfsError {
        let message = format!("the session with the master at {} is over", self.config.master);
        DfsError::new(ErrorCode::Session, message)
    }

    pub(super) fn timed_out(&self, what: &str) -> DfsError {
        let why = if self.up.load(Ordering::Relaxed) { "did not answer" } else { "cannot be reached" };
        let (master, waited) = (&self.config.master, self.config.op_timeout.as_secs_f32());
        let message =
            format!("{what}: the master at {master} {why} for {waited} s; see that it runs, and try again");
        DfsError::new(ErrorCode::TimedOut, message)
    }

    pub(super) fn ask_to_close(&self) {
        self.close_asked.send_replace(true);
    }

    /// Ends the session and waits for that, at most twice as long as what is queued may take.
    pub(super) async fn close(&self) {
        self.ask_to_close();
        let mut closed = self.closed.subscribe();
        // Whether it ended in time or not, this process goes its way.
        let _ = tokio::time::timeout(CLOSE_WITHIN * 2, closed.wait_for(|closed| *closed)).await;
    }

    async fn close_asked(&self) {
        // The sender lives in `self`, so that this cannot fail.
        let _ = self.close_asked.subscribe().wait_for(|asked| *asked).await;
    }
}

/// Begins a session and spawns the task that keeps it.
///
/// # Errors
/// See [`super::Client::connect`].
pub(super) async fn begin(
    config: ClientConfig,
    events: mpsc::Sender<Event>,
) -> Result<Arc<Shared>, DfsError> {
    let link = first_link(&config).await?;
    let mut clock = Clock::default();
    if let Some(now) = link.welcome.now {
        clock.learn(now, link.came_at, link.round_trip);
    }
    let info = info_of(&link);
    let shared = Arc::new(Shared {
        config,
        requests: Mutex::default(),
        uploads: Mutex::default(),
        clock: Mutex::new(clock),
        info: Mutex::new(info),
        forgotten: Mutex::default(),
        new_token: Mutex::default(),
        barred: Mutex::default(),
        wake: Notify::new(),
        up: AtomicBool::new(true),
        down: Down::default(),
        locks_lost: AtomicBool::new(false),
        close_asked: watch::Sender::new(false),
        closed: watch::Sender::new(false),
    });
    tracing::debug!(session = %info.session, cluster = %info.cluster, "session begun");
    if shared.config.tokens.is_any() {
        tokio::spawn(renew::keep(shared.clone()));
    }
    tokio::spawn(keep(shared.clone(), link, events));
    Ok(shared)
}

fn info_of(link: &Link) -> ClusterInfo {
    ClusterInfo {
        cluster: link.cluster,
        session: SessionId(link.welcome.session),
        chunk_size: link.welcome.chunk_size,
        copies: link.welcome.copies,
        min_copies: link.welcome.min_copies,
        interest: Duration::from_millis(u64::from(link.welcome.interest_ms)),
        maps_ids: link.welcome.maps_ids,
        all_are_one: link.welcome.all_are_one,
    }
}

/// The session's task: ends when it is asked to.
async fn keep(shared: Arc<Shared>, mut link: Link, events: mpsc::Sender<Event>) {
    loop {
        let epoch = link.welcome.master_epoch;
        let ended = tokio::select! {
            why = drive(&shared, &mut link, &events) => Some(why),
            () = shared.close_asked() => None,
        };
        let Some(Broke { why, trusted_until }) = ended else {
            say_goodbye(&shared, link).await;
            break;
        };
        tracing::warn!(master = %shared.config.master, %why, "session with the master lost; trying to resume it");
        shared.up.store(false, Ordering::Relaxed);
        let forgotten = lose(&events).await;
        let mut vigil = Vigil::new(&shared.config.master, &shared.down, &events, trusted_until);
        // The master takes the end of the stream for the word that all is forgotten.
        tokio::join!(until_forgotten(forgotten), vigil.look());
        drop(link);
        lock(&shared.forgotten).clear();
        shared.requests().stream_broke();
        let resumed = tokio::select! {
            link = replace(&shared, &events, vigil, epoch) => Some(link),
            () = shared.close_asked() => None,
        };
        let Some(next) = resumed else { break };
        link = next;
    }
    shared.up.store(false, Ordering::Relaxed);
    shared.closed.send_replace(true);
    shared.requests().fail_all(&shared.closed_error());
    shared.uploads().fail_all("the session was closed");
}

/// Sends what is queued. The master learns from the end of the stream.
async fn say_goodbye(shared: &Shared, link: Link) {
    let send_all = async {
        while let Some(request) = { shared.requests().next_to_send() } {
            if link.up.send(pb::MountUp { msg: Some(mount_up::Msg::Request(request)) }).await.is_err() {
                return;
            }
        }
        let Link { up, mut down, .. } = link;
        drop(up);
        // The end of the answers shows that all was taken.
        while let Ok(Some(_)) = down.message().await {}
    };
    let _ = tokio::time::timeout(CLOSE_WITHIN, send_all).await;
}

/// Says that the session is lost. What it returns ends when what was cached is forgotten.
async fn lose(events: &mpsc::Sender<Event>) -> oneshot::Receiver<()> {
    let (lost, forgotten) = Lost::new();
    insist(events, Event::SessionLost(lost)).await;
    forgotten
}

async fn until_forgotten(forgotten: oneshot::Receiver<()>) {
    if tokio::time::timeout(FORGET_WITHIN, forgotten).await.is_err() {
        tracing::warn!(
            "not all that was cached could be forgotten within {FORGET_WITHIN:?}; the rest follows"
        );
    }
}

/// Brings the lost session back, and says so. `epoch` is of the master that was lost.
async fn replace(shared: &Shared, events: &mpsc::Sender<Event>, mut vigil: Vigil<'_>, epoch: u64) -> Link {
    let lost_at = Instant::now();
    let mut session = shared.info().session;
    let mut backoff = BACKOFF_FIRST;
    loop {
        if lost_at.elapsed() > shared.config.op_timeout {
            shared.uploads().fail_all("the master has been away for too long");
        }
        // A look that finds out nothing is repeated at once: an attempt at a session takes longer.
        if vigil.look().await != Seen::Unknown {
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        }
        let (opens, locks) = {
            let requests = shared.requests();
            (requests.open_inodes(), requests.locks.declare())
        };
        match connect(&shared.config, hello(&shared.config, session, opens, locks), ATTEMPT).await {
            Ok(link) if link.cluster == shared.info().cluster => {
                let same_master = link.welcome.resumed && link.welcome.master_epoch == epoch;
                install(shared, &link, same_master);
                insist(events, Event::SessionResumed { same_master }).await;
                return link;
            }
            Ok(link) => tracing::error!(
                master = %shared.config.master, theirs = %link.cluster, ours = %shared.info().cluster,
                "another cluster's master answers at this address; unmount, or bring the right one back"
            ),
            Err(error) if error.code == ErrorCode::Session => session = SessionId(0),
            Err(error) if matches!(error.code, ErrorCode::Unauthenticated | ErrorCode::Access) => {
                shared.bar(&error);
            }
            Err(error) => tracing::debug!(%error, "session not resumed yet"),
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_LAST);
    }
}

/// Takes over what the new stream's welcome said.
fn install(shared: &Shared, link: &Link, same_master: bool) {
    *lock(&shared.info) = info_of(link);
    *lock(&shared.barred) = None;
    {
        let mut clock = lock(&shared.clock);
        if !same_master {
            clock.reset();
        }
        if let Some(now) = link.welcome.now {
            clock.learn(now, link.came_at, link.round_trip);
        }
    }
    {
        let mut uploads = shared.uploads();
        uploads.resumed();
        if !same_master {
            uploads.fail_older_than_resume("the master was restarted, or forgot the session");
        }
    }
    if !link.welcome.lost_locks.is_empty() {
        tracing::error!(
            locks = link.welcome.lost_locks.len(),
            "locks were lost while the session was broken; their holders get errors until they close the files"
        );
        shared.requests().locks.lose(&link.welcome.lost_locks);
        shared.locks_lost.store(true, Ordering::Relaxed);
    }
    shared.up.store(true, Ordering::Relaxed);
    tracing::info!(session = %SessionId(link.welcome.session), same_master, "session with the master resumed");
}

/// Hands out an event that may not be lost, however long its receiver takes.
pub(super) async fn insist(events: &mpsc::Sender<Event>, event: Event) {
    while let Err(error) = events.send_timeout(event.clone(), EVENT_PATIENCE).await {
        match error {
            mpsc::error::SendTimeoutError::Timeout(_) => tracing::error!("nobody takes the session's events"),
            mpsc::error::SendTimeoutError::Closed(_) => return,
        }
    }
}

/// Pings that are not answered, oldest first, each with its time; and since when all that the master said before is
/// here. What the two directions of one stream share.
struct Pulse(Mutex<(VecDeque<(u64, Instant)>, Instant)>);

impl Pulse {
    fn sent(&self, seq: u64, now: Instant) {
        lock(&self.0).0.push_back((seq, now));
    }

    /// When the ping was sent that this answers.
    fn answered(&self, seq: u64) -> Option<Instant> {
        let mut pulse = lock(&self.0);
        while let Some((number, sent)) = pulse.0.front().copied().filter(|(number, _)| *number <= seq) {
            pulse.0.pop_front();
            if number == seq {
                pulse.1 = sent;
                return Some(sent);
            }
        }
        None
    }

    fn since(&self) -> Instant {
        lock(&self.0).1
    }
}

/// The end of a stream.
struct Broke {
    why: String,
    /// Until when nothing can have changed without a word to this mount; `None`: it was the mount that gave up, and what it
    /// did not hear may have been said.
    trusted_until: Option<Instant>,
}

/// Runs one stream until it breaks.
async fn drive(shared: &Shared, link: &mut Link, events: &mpsc::Sender<Event>) -> Broke {
    // Whatever is cached from now on is asked for over this stream.
    let pulse = Pulse(Mutex::new((VecDeque::new(), Instant::now())));
    let (why, ended) = tokio::select! {
        (why, ended) = receive(shared, &mut link.down, events, &pulse) => (why, ended),
        why = send(shared, &link.up, &pulse) => (why, true),
        why = watch_pulse(shared, &pulse) => (why, false),
    };
    Broke { why, trusted_until: ended.then(|| pulse.since() + SILENCE) }
}

async fn watch_pulse(shared: &Shared, pulse: &Pulse) -> String {
    let began = Instant::now();
    loop {
        let silent = pulse.since().elapsed();
        if silent >= SILENCE {
            return format!("no ping of the last {} ms was answered", silent.as_millis());
        }
        if began.elapsed() > shared.config.op_timeout {
            // A success message that left in the break would have come again by now.
            shared.uploads().fail_older_than_resume("its success message was lost with the earlier stream");
        }
        tokio::time::sleep((SILENCE - silent).min(PING_EVERY)).await;
    }
}

async fn send(shared: &Shared, up: &mpsc::Sender<pb::MountUp>, pulse: &Pulse) -> String {
    let mut ping = tokio::time::interval(PING_EVERY);
    ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seq = 0;
    loop {
        let msg = tokio::select! {
            biased;
            _ = ping.tick() => {
                seq += 1;
                pulse.sent(seq, Instant::now());
                mount_up::Msg::Ping(pb::Ping { seq })
            }
            next = next_message(shared) => next,
        };
        if up.send(pb::MountUp { msg: Some(msg) }).await.is_err() {
            return "the stream does not take requests any more".to_owned();
        }
    }
}

/// What others wait for goes first.
async fn next_message(shared: &Shared) -> mount_up::Msg {
    loop {
        if let Some(token) = lock(&shared.new_token).take() {
            return mount_up::Msg::NewToken(pb::NewToken { token: token.expose().to_owned() });
        }
        let seqs = std::mem::take(&mut *lock(&shared.forgotten));
        if !seqs.is_empty() {
            return mount_up::Msg::InvalidateDone(pb::InvalidateDone { seqs });
        }
        let next = shared.requests().next_to_send();
        match next {
            Some(request) => return mount_up::Msg::Request(request),
            None => shared.wake.notified().await,
        }
    }
}

/// Says why it ended, and whether the other side ended it.
async fn receive(
    shared: &Shared,
    down: &mut tonic::Streaming<pb::MountDown>,
    events: &mpsc::Sender<Event>,
    pulse: &Pulse,
) -> (String, bool) {
    loop {
        let message = match down.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return ("the master ended it".to_owned(), true),
            Err(status) => return (format!("{:?}: {}", status.code(), status.message()), true),
        };
        match message.msg {
            Some(mount_down::Msg::Reply(reply)) => {
                answer(shared, reply);
                let unheard = std::mem::take(&mut shared.requests().unheard);
                for what in unheard {
                    insist(events, Event::Invalidate(what)).await;
                }
            }
            Some(mount_down::Msg::Pong(pong)) => learn_time(shared, &pong, pulse),
            Some(mount_down::Msg::UploadDone(done)) => shared.uploads().finish(done),
            Some(mount_down::Msg::Invalidate(what)) => {
                let sent = events.send_timeout(Event::Invalidate(what), EVENT_PATIENCE).await;
                if matches!(sent, Err(mpsc::error::SendTimeoutError::Timeout(_))) {
                    return ("the mount takes no events".to_owned(), false);
                }
            }
            Some(mount_down::Msg::Recall(recall)) => {
                insist(events, Event::Recall(InodeNo(recall.inode))).await;
            }
            Some(mount_down::Msg::Refused(error)) => return (error.message, false),
            Some(mount_down::Msg::Welcome(_)) => {
                return ("the master sent a second welcome".to_owned(), false);
            }
            // A message of a later version.
            None => {}
        }
    }
}

fn answer(shared: &Shared, reply: pb::MountReply) {
    let result = match reply.result {
        Some(Reply::Error(error)) => Err(DfsError::from_wire(error)),
        Some(answer) => Ok(Answer { reply: answer, directories: reply.directories }),
        None => Err(DfsError::new(
            ErrorCode::Protocol,
            "the master sent a reply of a kind that this version does not know; see that the versions agree",
        )),
    };
    if shared.requests().answer(reply.id, result) {
        shared.wake.notify_one();
    }
}

fn learn_time(shared: &Shared, pong: &pb::Pong, pulse: &Pulse) {
    if let Some((sent, now)) = pulse.answered(pong.seq).zip(pong.now) {
        lock(&shared.clock).learn(now, Instant::now(), sent.elapsed());
    }
}
