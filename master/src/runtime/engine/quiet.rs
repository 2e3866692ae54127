//! The quiet time: for how long after its start a master changes nothing.
//!
//! What must hold: nothing is changed while a mount may show what it knows of the time before without hearing of changes. One that
//! believes that there is no master does for [`QUIET_AFTER_START`]; one that is cut off and does not know it yet until it comes back,
//! and no longer than [`TRUST_AFTER_START_MS`].

use std::time::{Duration, Instant};

use dfs_proto::looks::QUIET_AFTER_START;
use dfs_proto::pb::{self, mount_request::Op};
use dfs_proto::request_kind::{RequestKind, request_kind};
use tokio::sync::watch;

use super::Engine;
use crate::core::{State, TRUST_AFTER_START_MS};

/// Longest quiet time.
pub(super) const LONGEST: Duration = Duration::from_millis(TRUST_AFTER_START_MS as u64);

/// See the module.
pub(super) struct Quiet {
    until: Instant,
    mounts_awaited: watch::Sender<bool>,
    /// Nobody is awaited for longer.
    await_until: Instant,
}

impl Quiet {
    /// `listens_since`: from then on, mounts can see that a master is there. Of a fresh cluster nobody knows anything.
    pub fn new(state: &State, is_fresh: bool, listens_since: Instant) -> Quiet {
        Quiet {
            until: listens_since + if is_fresh { Duration::ZERO } else { QUIET_AFTER_START },
            mounts_awaited: watch::Sender::new(state.awaits_mounts()),
            await_until: listens_since + LONGEST,
        }
    }

    pub fn is_over(&self) -> bool {
        let now = Instant::now();
        now >= self.until && (now >= self.await_until || !*self.mounts_awaited.borrow())
    }

    /// Resolves when it is over.
    pub async fn over(&self) {
        if self.is_over() {
            return;
        }
        tokio::time::sleep_until(self.until.into()).await;
        let mut awaited = self.mounts_awaited.subscribe();
        let all_are_back = awaited.wait_for(|awaited| !awaited);
        // Or they are not, and trust nothing any more.
        let _ = tokio::time::timeout_at(self.await_until.into(), all_are_back).await;
    }

    /// A mount came back, perhaps.
    pub fn note(&self, state: &State) {
        let awaited = state.awaits_mounts();
        self.mounts_awaited.send_if_modified(|known| std::mem::replace(known, awaited) != awaited);
    }
}

impl Engine {
    /// Does this request have to wait until the quiet time after the start is over?
    pub fn has_to_wait(&self, request: &pb::MountRequest) -> bool {
        changes_what_others_know(request) && !self.shared.quiet.is_over()
    }

    /// Resolves when changes are taken.
    pub async fn quiet_is_over(&self) {
        self.shared.quiet.over().await;
    }
}

/// Is a request one that cannot be done without the store?
pub(super) fn has_to_be_stored(request: &pb::MountRequest) -> bool {
    let needs = |op: &Op| match request_kind(op) {
        RequestKind::Change => true,
        RequestKind::Repeatable => matches!(op, Op::Alloc(_) | Op::TouchAtime(_) | Op::SetDigest(_)),
        RequestKind::Question | RequestKind::Wait | RequestKind::Notice => false,
    };
    request.op.as_ref().is_some_and(needs)
}

/// Is a request one that the quiet time is for? An atime is not worth that whoever reads waits.
pub(crate) fn changes_what_others_know(request: &pb::MountRequest) -> bool {
    has_to_be_stored(request) && !matches!(request.op, Some(Op::TouchAtime(_)))
}

/// May a request be done before older ones of its mount that have to wait? Those who ask do not depend on them, and the atime of
/// what was read is looked at next.
pub(crate) fn may_overtake(request: &pb::MountRequest) -> bool {
    let asks =
        |op: &Op| matches!(op, Op::Open(_) | Op::TouchAtime(_)) || request_kind(op) == RequestKind::Question;
    request.op.as_ref().is_some_and(asks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testkit::{Kit, SESSION};

    #[tokio::test]
    async fn it_ends_when_all_are_back_who_were_there() {
        let mut kit = Kit::new();
        kit.restart();
        let listens_since = Instant::now().checked_sub(QUIET_AFTER_START).unwrap();
        let quiet = Quiet::new(&kit.state, false, listens_since);
        let over = quiet.over();
        let mut over = std::pin::pin!(over);
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut over).await.is_err());
        kit.hello(SESSION, &[]);
        quiet.note(&kit.state);
        over.await;
        assert!(quiet.is_over() && listens_since.elapsed() < LONGEST);
    }
}
