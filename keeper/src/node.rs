//! What all parts of one running keeper share. No part of it is of the process as a whole, so that
//! several keepers can run in one.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, KeeperId};
use dfs_proto::pb;
use dfs_proto::pb::keeper_up::Msg;
use dfs_proto::ticket::TicketChecker;
use dfs_tls::{Acceptor, Connector, Protocol, TlsDir, TlsError};

use crate::config::{TlsFor, Tuning};
use crate::expected::Expected;
use crate::load::Load;
use crate::metrics::Metrics;
use crate::orders::Orders;
use crate::outbox::Outbox;
use crate::pace::Pace;
use crate::peers::Peers;
use crate::queue::Stop;
use crate::scrub::Scrub;
use crate::store::error::StoreError;
use crate::store::{ChunkStore, SyncReport};
use crate::syncer::SyncQueue;
use crate::used::UsedTickets;

/// The master's clock, as the keeper knows it. Runs on this machine's monotonic clock, so that
/// nothing but the master can set it.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    offset_ms: AtomicI64,
    /// While there is no session, what `now_ms` was when the last one ended.
    session_ended_ms: AtomicI64,
}

/// There is a session.
const NOT_ENDED: i64 = i64::MAX;

impl Clock {
    fn new() -> Clock {
        Clock {
            start: Instant::now(),
            offset_ms: AtomicI64::new(0),
            session_ended_ms: AtomicI64::new(NOT_ENDED),
        }
    }

    /// The master said what time it is.
    pub fn set(&self, now: pb::Time) {
        self.offset_ms.store(now.as_millis().saturating_sub(self.elapsed_ms()), Ordering::Relaxed);
        self.session_ended_ms.store(NOT_ENDED, Ordering::Relaxed);
    }

    /// The session with the master ended.
    pub fn session_ended(&self) {
        self.session_ended_ms.fetch_min(self.now_ms(), Ordering::Relaxed);
    }

    /// By which tickets to read expire: not while nobody can get new ones.
    pub fn reads_now_ms(&self) -> i64 {
        self.now_ms().min(self.session_ended_ms.load(Ordering::Relaxed))
    }

    /// Milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        self.elapsed_ms().saturating_add(self.offset_ms.load(Ordering::Relaxed))
    }

    fn elapsed_ms(&self) -> i64 {
        self.start.elapsed().as_millis() as i64
    }
}

/// What the master's welcome made of this keeper.
#[derive(Debug)]
pub(crate) struct Member {
    /// Knows cluster, keeper id and key.
    pub checker: TicketChecker,
    /// No chunk is longer, in bytes.
    pub chunk_size: usize,
}

/// How the data port is encrypted, and connections to those of others.
#[derive(Debug, Default)]
pub(crate) struct DataTls {
    /// Ours speaks TLS, and nothing else.
    pub port: Option<Acceptor>,
    /// The master says whose do.
    pub to_keepers: Option<Connector>,
}

impl DataTls {
    /// # Errors
    /// As [`TlsDir::acceptor`].
    pub fn new(dir: Option<&TlsDir>, tls_for: TlsFor) -> Result<DataTls, TlsError> {
        let port = dir.filter(|_| tls_for == TlsFor::All);
        Ok(DataTls {
            port: port.map(|dir| dir.acceptor(Protocol::Data)).transpose()?,
            to_keepers: dir.map(TlsDir::to_keepers).transpose()?,
        })
    }
}

/// One keeper.
#[derive(Debug)]
pub(crate) struct Node {
    pub store: Arc<ChunkStore>,
    pub load: Load,
    pub metrics: Metrics,
    pub pace: Pace,
    pub peers: Peers,
    /// The data port speaks TLS.
    pub tls: Option<Acceptor>,
    pub outbox: Outbox,
    pub orders: Orders,
    pub expected: Expected,
    pub used: UsedTickets,
    pub syncs: SyncQueue,
    pub scrub: Scrub,
    pub clock: Clock,
    pub tuning: Tuning,
    pub stop: Arc<Stop>,
    member: RwLock<Option<Arc<Member>>>,
}

impl Node {
    pub fn new(store: Arc<ChunkStore>, tuning: Tuning, tls: DataTls) -> Node {
        Node {
            store,
            load: Load::new(),
            metrics: Metrics::default(),
            pace: Pace::new(),
            peers: Peers::new(tls.to_keepers),
            tls: tls.port,
            outbox: Outbox::default(),
            orders: Orders::new(),
            expected: Expected::default(),
            used: UsedTickets::default(),
            syncs: SyncQueue::new(tuning.sync_after),
            scrub: Scrub::default(),
            clock: Clock::new(),
            tuning,
            stop: Arc::default(),
            member: RwLock::default(),
        }
    }

    /// Waits until background work may go on with so many bytes. `urgent`: without regard to clients.
    pub fn spend(&self, bytes: usize, urgent: bool) {
        self.pace.spend(bytes, urgent, &self.load, &self.stop);
    }

    /// Brings chunks to stable storage, for somebody who waits.
    pub fn sync(&self, chunks: &[ChunkId]) -> SyncReport {
        let report = self.store.sync(chunks);
        if report.journaled {
            self.syncs.settle_soon();
        }
        report
    }

    /// A welcome came.
    pub fn set_member(&self, member: Member) {
        *self.member.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(member));
    }

    /// # Errors
    /// `Unavailable` before the first welcome.
    pub fn member(&self) -> Result<Arc<Member>, DfsError> {
        let member = self.member.read().unwrap_or_else(PoisonError::into_inner).clone();
        member.ok_or_else(|| {
            DfsError::new(ErrorCode::Unavailable, "this keeper has not joined its cluster yet; try again")
        })
    }

    /// This keeper's id; 0 before the first welcome.
    pub fn id(&self) -> KeeperId {
        self.member().map_or(KeeperId(0), |member| member.checker.keeper)
    }

    /// Tells the master of a copy that is bad or gone; other errors are not its business.
    pub fn report_bad(&self, chunk: ChunkId, error: &StoreError) {
        if error.means_bad_copy() {
            self.outbox.post_or_drop(self.bad_copy(chunk, error));
        }
    }

    /// The notice of a copy that is bad or gone.
    pub fn bad_copy(&self, chunk: ChunkId, error: &StoreError) -> Msg {
        self.metrics.bad_copies.inc();
        let error = Some(DfsError::from(error).to_wire());
        Msg::BadCopy(pb::BadCopy { chunk: chunk.0, error, quarantined: self.store.is_quarantined(chunk) })
    }

    /// For a hello or a heartbeat. Asks no disk.
    pub fn report_load(&self) -> pb::Load {
        pb::Load { scrub: Some(self.scrub.state()), ..self.load.report(&self.store) }
    }

    /// Lets every thread that waits for something end.
    pub fn begin_stop(&self) {
        self.stop.set();
        self.orders.close();
        self.scrub.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_the_masters_whatever_this_machine_thinks() {
        let clock = Clock::new();
        clock.set(pb::Time { sec: 5_000, nsec: 0 });
        let now = clock.now_ms();
        assert!((5_000_000..5_010_000).contains(&now), "{now}");
        clock.set(pb::Time { sec: i64::MAX, nsec: 0 });
        clock.now_ms();
    }

    #[test]
    fn for_tickets_to_read_time_stands_still_without_a_session() {
        let clock = Clock::new();
        clock.set(pb::Time { sec: 5_000, nsec: 0 });
        clock.session_ended();
        let ended = clock.reads_now_ms();
        std::thread::sleep(std::time::Duration::from_millis(20));
        clock.session_ended();
        assert_eq!(clock.reads_now_ms(), ended);
        assert!(clock.now_ms() >= ended + 20);
        clock.set(pb::Time { sec: 6_000, nsec: 0 });
        assert!(clock.reads_now_ms() >= 6_000_000);
    }
}
