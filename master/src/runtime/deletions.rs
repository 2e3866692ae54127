//! Deletions that wait for the next message to their keeper.
//!
//! Nobody waits for a deletion, and one message for each chunk wakes three keepers for each file that is removed: `rm -r`
//! then spends most of its time on that. So deletions gather, and leave in one message before whatever is sent to the
//! keeper next, at the latest the answer to its heartbeat, a second later.
//!
//! What must hold: what is sent to a keeper after a deletion was decided arrives after it. The order to copy the same
//! chunk there again would else be undone.

use std::collections::HashMap;

use dfs_proto::ids::KeeperId;
use dfs_proto::pb::{self, keeper_down};

/// Chunks in one message, so that it stays far below the largest.
const MOST: usize = 8192;

/// The deletions that wait, by keeper.
#[derive(Debug, Default)]
pub(super) struct Deletions {
    waiting: HashMap<KeeperId, Vec<u64>>,
}

impl Deletions {
    /// What is to be sent now, in this order, when the next thing for this keeper is `message`: nothing yet for a
    /// deletion, unless there are as many as fit in a message.
    pub fn pass(
        &mut self,
        keeper: KeeperId,
        message: keeper_down::Msg,
    ) -> impl Iterator<Item = keeper_down::Msg> {
        let (deletions, message) = match message {
            keeper_down::Msg::Delete(order) => (self.hold(keeper, order), None),
            message => (self.waiting.remove(&keeper), Some(message)),
        };
        let deletions = deletions.map(|chunks| keeper_down::Msg::Delete(pb::DeleteChunks { chunks }));
        deletions.into_iter().chain(message)
    }

    /// The keeper is not connected: it will say what it has when it comes.
    pub fn forget(&mut self, keeper: KeeperId) {
        self.waiting.remove(&keeper);
    }

    /// Some: a message's worth.
    fn hold(&mut self, keeper: KeeperId, mut order: pb::DeleteChunks) -> Option<Vec<u64>> {
        let waiting = self.waiting.entry(keeper).or_default();
        waiting.append(&mut order.chunks);
        if waiting.len() < MOST { None } else { self.waiting.remove(&keeper) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delete(chunks: impl IntoIterator<Item = u64>) -> keeper_down::Msg {
        keeper_down::Msg::Delete(pb::DeleteChunks { chunks: chunks.into_iter().collect() })
    }

    fn pass(deletions: &mut Deletions, keeper: u64, message: keeper_down::Msg) -> Vec<keeper_down::Msg> {
        deletions.pass(KeeperId(keeper), message).collect()
    }

    #[test]
    fn they_gather_by_keeper_and_leave_once_before_what_is_sent_next() {
        let mut deletions = Deletions::default();
        assert_eq!(pass(&mut deletions, 1, delete([1])), []);
        assert_eq!(pass(&mut deletions, 2, delete([1])), []);
        assert_eq!(pass(&mut deletions, 1, delete([2, 3])), []);
        let copy_again = keeper_down::Msg::Expect(pb::ExpectChunk { order: 7, ..Default::default() });
        assert_eq!(pass(&mut deletions, 1, copy_again.clone()), [delete([1, 2, 3]), copy_again.clone()]);
        assert_eq!(pass(&mut deletions, 1, copy_again.clone()), std::slice::from_ref(&copy_again));
        deletions.forget(KeeperId(2));
        assert_eq!(pass(&mut deletions, 2, copy_again.clone()), [copy_again]);
    }

    #[test]
    fn a_full_message_leaves_at_once() {
        let mut deletions = Deletions::default();
        assert_eq!(pass(&mut deletions, 1, delete(1..MOST as u64)), []);
        assert_eq!(pass(&mut deletions, 1, delete([9_999])), [delete((1..MOST as u64).chain([9_999]))]);
        assert!(deletions.waiting.is_empty());
    }
}
