//! Notices for the master, on their way from the keeper's threads to the session.
//!
//! What must hold: a notice that was taken in reaches the master, as long as this process lives. A
//! session may break with notices in flight, so each is kept until the master has acknowledged a
//! heartbeat that was sent after it (the session's stream is in order), and those that were not are
//! sent again on the next session. So the master may hear a notice twice.
//!
//! Bounded: when too many notices are unacknowledged, threads wait, and so do their clients.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dfs_proto::pb::keeper_up::Msg;
use tokio::sync::Notify;

/// Notices that may be unacknowledged at once.
const CAPACITY: usize = 4096;

/// From this many on, the session sends a heartbeat early, so that the outbox empties.
const CROWDED: usize = CAPACITY / 4;

#[derive(Debug, Default)]
struct State {
    unsent: VecDeque<Msg>,
    /// With the number of the first heartbeat after each.
    sent: VecDeque<(u64, Msg)>,
    /// The master asked for an inventory of this number.
    inventory: Option<u64>,
    connected: bool,
    closed: bool,
}

impl State {
    fn is_full(&self) -> bool {
        self.unsent.len() + self.sent.len() >= CAPACITY
    }
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    room: Condvar,
    filled: Notify,
}

/// A notice was not taken in: no session, or no room, in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NotTaken;

impl Outbox {
    /// Hands a notice to the session; waits up to `patience` for a session and for room. For threads
    /// that may block.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub fn post(&self, msg: Msg, patience: Duration) -> Result<(), NotTaken> {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        while !state.closed && (!state.connected || state.is_full()) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NotTaken);
            }
            state = self.room.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        self.enter(state, msg)
    }

    /// Takes in a notice that nobody waits for: also without a session, dropped (with a word in the
    /// log) when there is no room. The next inventory says the same.
    pub fn post_or_drop(&self, msg: Msg) {
        let state = self.lock();
        if state.is_full() || self.enter(state, msg).is_err() {
            tracing::warn!("a notice for the master was dropped; the next inventory makes up for it");
        }
    }

    fn enter(&self, mut state: MutexGuard<'_, State>, msg: Msg) -> Result<(), NotTaken> {
        if state.closed {
            return Err(NotTaken);
        }
        state.unsent.push_back(msg);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// A session began and its inventory is sent: what the last one left unacknowledged comes first.
    pub fn session_began(&self) {
        let mut state = self.lock();
        while let Some((_, msg)) = state.sent.pop_back() {
            state.unsent.push_front(msg);
        }
        state.connected = true;
        drop(state);
        self.room.notify_all();
        self.filled.notify_one();
    }

    /// An inventory is to be sent, behind all notices that are here.
    pub fn ask_inventory(&self, number: u64) {
        self.lock().inventory = Some(number);
        self.filled.notify_one();
    }

    /// The number of an inventory that is to be sent now; said once.
    pub fn inventory_asked(&self) -> Option<u64> {
        let mut state = self.lock();
        if state.unsent.is_empty() { state.inventory.take() } else { None }
    }

    /// The session is gone.
    /// Is there a session?
    pub fn is_connected(&self) -> bool {
        self.lock().connected
    }

    pub fn session_ended(&self) {
        self.lock().connected = false;
    }

    /// The next notice to send. `next_heartbeat` is the number of the first heartbeat that will
    /// follow it.
    pub fn next(&self, next_heartbeat: u64) -> Option<Msg> {
        let mut state = self.lock();
        let msg = state.unsent.pop_front()?;
        state.sent.push_back((next_heartbeat, msg.clone()));
        Some(msg)
    }

    /// Returns when there may be something to send.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    /// The master got heartbeat `seq`, and so all that was sent before it.
    pub fn acknowledged(&self, seq: u64) {
        let mut state = self.lock();
        while state.sent.front().is_some_and(|(heartbeat, _)| *heartbeat <= seq) {
            state.sent.pop_front();
        }
        drop(state);
        self.room.notify_all();
    }

    /// So many notices wait for an acknowledgement that a heartbeat should not wait for its time.
    pub fn is_crowded(&self) -> bool {
        self.lock().sent.len() >= CROWDED
    }

    /// Nothing is taken in any more; whoever waits, goes.
    pub fn close(&self) {
        self.lock().closed = true;
        self.room.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::pb;

    const SOON: Duration = Duration::from_millis(20);

    fn notice(n: u64) -> Msg {
        Msg::Synced(pb::Synced { chunks: vec![n] })
    }

    #[test]
    fn nothing_is_taken_without_a_session() {
        let outbox = Outbox::default();
        assert_eq!(outbox.post(notice(1), SOON), Err(NotTaken));
        outbox.session_began();
        assert_eq!(outbox.post(notice(1), SOON), Ok(()));
        outbox.session_ended();
        assert_eq!(outbox.post(notice(2), SOON), Err(NotTaken));
    }

    #[test]
    fn what_was_not_acknowledged_is_sent_again_in_order() {
        let outbox = Outbox::default();
        outbox.session_began();
        for n in 0..4 {
            outbox.post(notice(n), SOON).unwrap();
        }
        assert_eq!(outbox.next(1), Some(notice(0)));
        assert_eq!(outbox.next(2), Some(notice(1)));
        assert_eq!(outbox.next(2), Some(notice(2)));
        outbox.acknowledged(1);
        outbox.session_ended();
        outbox.session_began();
        let again: Vec<_> = std::iter::from_fn(|| outbox.next(3)).collect();
        assert_eq!(again, [notice(1), notice(2), notice(3)]);
        outbox.acknowledged(3);
        outbox.session_began();
        assert_eq!(outbox.next(4), None);
    }

    #[test]
    fn it_is_bounded_and_acknowledgements_make_room() {
        let outbox = Outbox::default();
        outbox.session_began();
        for n in 0..CAPACITY as u64 {
            outbox.post(notice(n), SOON).unwrap();
        }
        while outbox.next(1).is_some() {}
        assert!(outbox.is_crowded());
        assert_eq!(outbox.post(notice(0), SOON), Err(NotTaken));
        outbox.acknowledged(1);
        assert_eq!(outbox.post(notice(0), SOON), Ok(()));
    }

    #[test]
    fn closing_lets_the_waiting_go() {
        let outbox = Outbox::default();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| outbox.post(notice(1), Duration::from_secs(60)));
            outbox.close();
            assert_eq!(waiting.join().unwrap(), Err(NotTaken));
        });
    }
}
