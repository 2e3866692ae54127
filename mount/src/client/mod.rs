//! The session with the master, the calls that go over it, and the connections to keepers.
//!
//! - `session`: one bidirectional stream to the master, kept alive, resumed after a break.
//! - `hello`: how such a stream begins. `down`: whether its end means that the master is down.
//! - `requests`: what was asked and not answered yet, in the order of asking (pure).
//! - `uploads`: who waits for the master's success message, upload step 6.
//! - `held_locks`: locks that programs here hold, and append leases (pure). `lock_calls`: how they are got.
//! - `calls`: one method per operation of the protocol, with typed results.
//! - `clock`: the master's clock as this machine knows it.
//! - [`data`]: connections to keepers, and the two transfers over them.
//! - [`lanes`]: on which threads what is done.
//! - [`admin`]: the operators' calls, which need no session.
//! - [`tls`]: what it takes where connections are encrypted.
//! - [`auth`]: logging in, users. [`tokens`]: who this process says it is. `renew`: before a token expires.
//! - `channel`: how the master's address becomes a gRPC channel, and gRPC's errors ours.
//!
//! What must hold: requests enter the stream in the order in which the calls are first polled; every wait ends
//! within a deadline; nothing grows without a bound that the callers set themselves.

pub mod admin;
pub mod auth;
mod calls;
mod channel;
mod clock;
pub mod data;
mod down;
mod held_locks;
mod hello;
pub mod lanes;
mod lock_calls;
pub mod operation;
pub(crate) mod renew;
mod requests;
mod session;
pub mod tls;
pub mod tokens;
mod uploads;

use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_observe::metrics::Histogram;
use dfs_proto::error::DfsError;
use dfs_proto::ids::{ChunkId, ClusterId, InodeNo, SessionId};
use dfs_proto::pb;
use tokio::sync::{mpsc, oneshot};

pub use calls::Changed;
use data::{Buffers, KeeperPool};
use lanes::{Lane, Lanes};
use session::Shared;
use tls::Tls;
use tokens::Tokens;
pub use uploads::UploadWaiter;

/// Events that may wait for the mount to take them. A mount that takes none for seconds loses the session.
const EVENT_QUEUE: usize = 4096;

/// A master, for operators' calls.
#[derive(Clone, Debug)]
pub struct Master {
    /// HOST:PORT.
    pub address: String,
    /// Who we say we are.
    pub tokens: Arc<Tokens>,
    /// Connections are encrypted.
    pub tls: Option<Tls>,
}

impl std::fmt::Display for Master {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.address)
    }
}

/// How to reach the master, and how long to wait for it.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// HOST:PORT.
    pub master: String,
    /// Host, process id and mount point, for operators.
    pub name: String,
    /// How long [`Client::connect`] tries before it gives up.
    pub connect_timeout: Duration,
    /// How long one call may take, waits for a lost session included.
    pub op_timeout: Duration,
    /// Who we say we are.
    pub tokens: Arc<Tokens>,
    /// Connections are encrypted.
    pub tls: Option<Tls>,
}

impl ClientConfig {
    /// For calls of their own.
    fn as_master(&self) -> Master {
        let (address, tokens, tls) = (self.master.clone(), self.tokens.clone(), self.tls.clone());
        Master { address, tokens, tls }
    }

    /// With the default deadlines: 5 s to connect, 30 s for a call.
    pub fn new(master: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            master: master.into(),
            name: name.into(),
            connect_timeout: Duration::from_secs(5),
            op_timeout: Duration::from_secs(30),
            tokens: Arc::new(Tokens::none()),
            tls: None,
        }
    }
}

/// What the master said of its cluster when the session began, or was last resumed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClusterInfo {
    /// The cluster that this session belongs to; it never changes.
    pub cluster: ClusterId,
    /// The session.
    pub session: SessionId,
    /// Bytes: the largest chunk.
    pub chunk_size: u32,
    /// Copies that the master strives for.
    pub copies: u32,
    /// Copies that an upload waits for.
    pub min_copies: u32,
    /// How long the master remembers what it told this mount, at least, counted from the request.
    pub interest: Duration,
    /// Users and groups are others at the cluster: the master checks each caller, and has to be told of him.
    pub maps_ids: bool,
    /// And all are one there.
    pub all_are_one: bool,
}

/// What the master tells without being asked, and what became of the session. In order.
///
/// Replies do not pass through this channel, so a reply may be seen before or after an event that left the
/// master the other way round. Whoever caches what a reply said must therefore note, per inode, that an event
/// came since the request was made, and not keep the reply then.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// Something that may be cached was changed by somebody else. When it is forgotten, [`Client::forgot`] has to be
    /// told.
    Invalidate(pb::Invalidate),
    /// Another mount waits for the append lease of this file.
    Recall(InodeNo),
    /// The stream broke: invalidations may be missed from now on, so nothing cached may be trusted.
    SessionLost(Lost),
    /// After `SessionLost`: nobody listens at the master's address, nor did since the stream broke. So nothing changes: what was known
    /// when it broke is right until `MasterMayBeBack` or `SessionResumed`.
    MasterDown,
    /// After `MasterDown`: somebody may listen there again, and may have taken changes. As after `SessionLost`, nothing may be trusted.
    MasterMayBeBack,
    /// The stream is there again; what is cached from now on may be trusted.
    SessionResumed {
        /// The same master process, and it still knew the session: it says again how the last uploads ended.
        same_master: bool,
    },
}

/// Dropped, with all its clones, when everything that was cached is forgotten.
#[derive(Clone, Debug, Default)]
pub struct Lost {
    // Dropping it is what tells the session.
    _forgotten: Option<Arc<oneshot::Sender<()>>>,
}

impl Lost {
    fn new() -> (Lost, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        (Lost { _forgotten: Some(Arc::new(sender)) }, receiver)
    }
}

impl PartialEq for Lost {
    /// There is nothing to tell one from another by.
    fn eq(&self, _: &Lost) -> bool {
        true
    }
}

/// A session with the master and the connections to its keepers. Cheap to clone; ends with its last clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    /// On whose behalf it asks; `None`: on the mount's own.
    caller: Option<Arc<pb::Caller>>,
}

struct Inner {
    shared: Arc<Shared>,
    lanes: Lanes,
    /// A connection belongs to the runtime that it was made on.
    blocks: Arc<Buffers>,
    control_keepers: KeeperPool,
    bytes_keepers: KeeperPool,
    /// How long the master's answers were waited for.
    master_calls: Histogram,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.ask_to_close();
    }
}

impl Client {
    /// Begins a session. Must be called inside a tokio runtime, which then carries the session.
    ///
    /// # Errors
    /// `Unavailable` when the master cannot be reached within `connect_timeout`, `Invalid` when the address
    /// is none, or what the master refused the session with.
    pub async fn connect(config: ClientConfig) -> Result<(Client, mpsc::Receiver<Event>), DfsError> {
        Client::connect_on(config, Lanes::current()).await
    }

    /// The same, with the work divided among `lanes`. Must be called inside the control lane's runtime.
    ///
    /// # Errors
    /// As `connect`.
    pub async fn connect_on(
        config: ClientConfig,
        lanes: Lanes,
    ) -> Result<(Client, mpsc::Receiver<Event>), DfsError> {
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let shared = session::begin(config, events).await?;
        let blocks = Arc::new(Buffers::of_blocks());
        let to_keepers = || KeeperPool::with(shared.to_keepers(), blocks.clone());
        let (control_keepers, bytes_keepers) = (to_keepers(), to_keepers());
        let master_calls = Histogram::default();
        let inner = Arc::new(Inner { shared, lanes, blocks, control_keepers, bytes_keepers, master_calls });
        Ok((Client { inner, caller: None }, receiver))
    }

    /// The same session, for requests on behalf of `caller`.
    pub fn on_behalf_of(&self, caller: pb::Caller) -> Client {
        Client { inner: self.inner.clone(), caller: Some(Arc::new(caller)) }
    }

    /// What the master said of its cluster.
    pub fn info(&self) -> ClusterInfo {
        self.inner.shared.info()
    }

    /// Is the stream to the master whole, as far as is known?
    pub fn is_up(&self) -> bool {
        self.inner.shared.is_up()
    }

    /// The number of the stream to the master that requests go over; it grows when one breaks. Places of uploads have an order
    /// only among those that were asked for over the same.
    pub fn stream(&self) -> u64 {
        self.inner.shared.requests().stream()
    }

    /// Is the master known to be down, so that nothing can have changed since the session broke? That is certain only for
    /// what was right when [`Event::MasterDown`] came.
    pub fn is_master_down(&self) -> bool {
        self.inner.shared.down.is_down()
    }

    /// The moment by which tickets expire: while the master is down, and cannot give new ones, the one when it went.
    pub fn tickets_now(&self) -> Instant {
        self.inner.shared.down.since().unwrap_or_else(Instant::now)
    }

    /// How long one call to the master may take.
    pub fn op_timeout(&self) -> Duration {
        self.inner.shared.op_timeout()
    }

    /// The master's clock now: this machine's monotonic clock plus what welcome and pongs told. Does not go
    /// back, unless the master's own clock was set back by more than a second.
    pub fn now(&self) -> pb::Time {
        self.inner.shared.now()
    }

    /// Where tasks run.
    pub fn lanes(&self) -> &Lanes {
        &self.inner.lanes
    }

    /// Connections to keepers, for tasks of this lane.
    pub fn keepers(&self, lane: Lane) -> &KeeperPool {
        match lane {
            Lane::Control => &self.inner.control_keepers,
            Lane::Bytes => &self.inner.bytes_keepers,
        }
    }

    /// What blocks of chunks are read into: for those that nobody needs any more.
    pub fn block_buffers(&self) -> &Arc<Buffers> {
        &self.inner.blocks
    }

    /// How long the master's answers were waited for.
    pub fn master_calls(&self) -> &Histogram {
        &self.inner.master_calls
    }

    /// Waits for the master's success message for `chunk`, upload step 6. Call this before the transfer; the
    /// wait may begin later.
    pub fn expect_upload(&self, chunk: ChunkId) -> UploadWaiter {
        UploadWaiter::register(&self.inner.shared, chunk)
    }

    /// What the invalidation with this number was about is forgotten here. Never waits.
    pub fn forgot(&self, seq: u64) {
        self.inner.shared.forgot(seq);
    }

    /// Sends what is queued and ends the session, for a process that ends now. Waits at most 2 s. Other clones
    /// get code `Session` from then on.
    pub async fn close(&self) {
        self.inner.shared.close().await;
    }
}
