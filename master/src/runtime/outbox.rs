//! The connections of mounts and keepers, and the bounded queue of what is to be sent on each.
//!
//! What must hold:
//! - The welcome is the first message on a connection. What is delivered to the same peer before its
//!   welcome (because it was queued while the old connection broke) is held, and follows the welcome.
//! - One connection per peer: a new one takes over, and the old one ends.
//! - Nothing blocks: a peer that does not read until its queue is full loses its connection.

use std::collections::HashMap;
use std::fmt::{Debug, Display};
use std::hash::Hash;

use tokio::sync::{mpsc, oneshot};

/// Most messages that wait to be sent on one connection.
pub(crate) const CAPACITY: usize = 4096;

/// A connection; no two of a master's life are alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ConnectionNo(pub u64);

#[derive(Debug)]
struct Outbox<M> {
    connection: ConnectionNo,
    /// None: the connection is over, but its task has not said so yet.
    open: Option<Open<M>>,
}

#[derive(Debug)]
struct Open<M> {
    messages: mpsc::Sender<M>,
    /// Messages that wait for the welcome; None after it.
    held: Option<Vec<M>>,
    // Dropping it is what tells the connection's task to end.
    _close: oneshot::Sender<()>,
}

/// The queues of all mounts, or of all keepers.
#[derive(Debug)]
pub(super) struct Outboxes<K, M> {
    peers: HashMap<K, Outbox<M>>,
}

impl<K, M> Default for Outboxes<K, M> {
    fn default() -> Self {
        Outboxes { peers: HashMap::new() }
    }
}

impl<K: Copy + Eq + Hash + Debug + Display, M> Outboxes<K, M> {
    /// Puts a new connection of `peer` in the place of the one that it had, which ends. What is returned
    /// resolves (to an error) when the new one has to end.
    pub fn connect(
        &mut self,
        peer: K,
        connection: ConnectionNo,
        messages: mpsc::Sender<M>,
    ) -> oneshot::Receiver<()> {
        let (close, closed) = oneshot::channel();
        let open = Open { messages, held: Some(Vec::new()), _close: close };
        self.peers.insert(peer, Outbox { connection, open: Some(open) });
        closed
    }

    /// Whether `connection` is the one of `peer`, and open.
    pub fn is_open(&self, peer: K, connection: ConnectionNo) -> bool {
        self.peers.get(&peer).is_some_and(|outbox| outbox.connection == connection && outbox.open.is_some())
    }

    /// Whether what is sent to `peer` reaches it, or waits for its welcome.
    pub fn is_connected(&self, peer: K) -> bool {
        self.peers.get(&peer).is_some_and(|outbox| outbox.open.is_some())
    }

    /// Forgets `connection`. False: another has taken over, and the peer is not gone.
    pub fn disconnect(&mut self, peer: K, connection: ConnectionNo) -> bool {
        let ours = self.peers.get(&peer).is_some_and(|outbox| outbox.connection == connection);
        if ours {
            self.peers.remove(&peer);
        }
        ours
    }

    /// Queues a message; drops it if the peer is not connected.
    pub fn send(&mut self, peer: K, message: M) {
        self.deliver(peer, |open| match &mut open.held {
            Some(held) if held.len() < CAPACITY => {
                held.push(message);
                true
            }
            Some(_) => false,
            None => open.messages.try_send(message).is_ok(),
        });
    }

    /// Queues the welcome, and what waited for it. Only the first counts: if a connection was replaced
    /// before its welcome was durable, that welcome reaches the new one and is as good.
    pub fn welcome(&mut self, peer: K, message: M) {
        self.deliver(peer, |open| {
            let Some(held) = open.held.take() else { return true };
            std::iter::once(message).chain(held).all(|message| open.messages.try_send(message).is_ok())
        });
    }

    /// Ends a peer's connection. Its goodbye still counts.
    pub fn close(&mut self, peer: K) {
        if let Some(outbox) = self.peers.get_mut(&peer) {
            outbox.open = None;
        }
    }

    /// Messages that wait, on the connection where most do.
    pub fn longest(&self) -> usize {
        let open = self.peers.values().filter_map(|outbox| outbox.open.as_ref());
        open.map(|open| CAPACITY.saturating_sub(open.messages.capacity())).max().unwrap_or(0)
    }

    /// Ends every connection.
    pub fn close_all(&mut self) {
        self.peers.clear();
    }

    fn deliver(&mut self, peer: K, queue: impl FnOnce(&mut Open<M>) -> bool) {
        let Some(outbox) = self.peers.get_mut(&peer) else { return };
        let Some(open) = &mut outbox.open else { return };
        if !queue(open) {
            if !open.messages.is_closed() {
                tracing::warn!(peer = %peer, "{CAPACITY} messages wait to be read by this peer; its connection is closed");
            }
            outbox.open = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc::error::TryRecvError;

    type Boxes = Outboxes<u64, u32>;

    struct Ends {
        messages: mpsc::Receiver<u32>,
        closed: oneshot::Receiver<()>,
    }

    fn connect(boxes: &mut Boxes, connection: u64) -> Ends {
        let (sender, messages) = mpsc::channel(CAPACITY);
        Ends { messages, closed: boxes.connect(1, ConnectionNo(connection), sender) }
    }

    fn read(ends: &mut Ends) -> Vec<u32> {
        std::iter::from_fn(|| ends.messages.try_recv().ok()).collect()
    }

    #[test]
    fn the_welcome_comes_first_and_nothing_is_lost() {
        let mut boxes = Boxes::default();
        let mut ends = connect(&mut boxes, 1);
        boxes.send(1, 10);
        boxes.send(1, 11);
        assert!(read(&mut ends).is_empty());
        boxes.welcome(1, 0);
        boxes.send(1, 12);
        assert_eq!(read(&mut ends), vec![0, 10, 11, 12]);
    }

    #[test]
    fn a_new_connection_ends_the_old_one_and_outlives_its_goodbye() {
        let mut boxes = Boxes::default();
        let mut old = connect(&mut boxes, 1);
        boxes.welcome(1, 0);
        let mut new = connect(&mut boxes, 2);
        boxes.welcome(1, 100);
        assert!(old.closed.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Closed));
        assert_eq!(read(&mut old), vec![0]);
        assert!(!boxes.is_open(1, ConnectionNo(1)));
        assert!(!boxes.disconnect(1, ConnectionNo(1)));
        boxes.send(1, 101);
        assert_eq!(read(&mut new), vec![100, 101]);
        assert!(boxes.disconnect(1, ConnectionNo(2)));
        assert_eq!(new.messages.try_recv(), Err(TryRecvError::Disconnected));
    }

    #[test]
    fn a_peer_that_does_not_read_is_cut_off() {
        for welcomed in [true, false] {
            let mut boxes = Boxes::default();
            let mut ends = connect(&mut boxes, 1);
            if welcomed {
                boxes.welcome(1, 0);
            }
            for n in 0..=CAPACITY as u32 {
                boxes.send(1, n);
            }
            assert!(!boxes.is_open(1, ConnectionNo(1)));
            assert!(ends.closed.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Closed));
            assert!(boxes.disconnect(1, ConnectionNo(1)), "its goodbye still counts");
        }
    }
}
