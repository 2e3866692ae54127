//! The relay of an upload: its bytes go on to the companions while they arrive.

use std::time::Duration;

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::pb;

use crate::node::Node;
use crate::peers::Outgoing;

/// The companions' part of one upload: bytes go to the first of them, which hands them on to the
/// next. When it fails, the upload goes on without it, and without those behind it.
///
/// A companion that hangs must not make the sender believe that we do: each keeper of the chain waits less long for
/// the next one than the one before waits for it.
#[derive(Debug)]
pub(crate) struct Relay<'a> {
    node: &'a Node,
    link: Option<Outgoing>,
    first: u64,
    sync: bool,
    /// For the chain behind us to take something.
    patience: Duration,
    chunk: dfs_proto::ids::ChunkId,
    /// The first companion could not be reached or did not answer in time; not: it refused.
    failed: bool,
}

/// What the chain behind us holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ChainDone {
    /// In chain order.
    pub keepers: Vec<u64>,
    /// On stable storage on all of them.
    pub synced: bool,
    /// Those that could not be reached or did not answer in time.
    pub failed: Vec<u64>,
}

impl<'a> Relay<'a> {
    /// Begins the upload at the first companion of `open`, if there is one.
    pub fn begin(open: &pb::WriteOpen, chunk: dfs_proto::ids::ChunkId, node: &'a Node) -> Relay<'a> {
        // Half as long again for each keeper that the first one waits for.
        let behind = open.relay.len().saturating_sub(1) as u32;
        let patience = node.tuning.relay_timeout + node.tuning.relay_timeout / 2 * behind;
        let mut relay = Relay { node, link: None, first: 0, sync: open.sync, patience, chunk, failed: false };
        let Some((first, rest)) = open.relay.split_first() else { return relay };
        relay.first = first.keeper;
        let forward = pb::WriteOpen {
            ticket: open.ticket.clone(),
            mac: first.mac.clone(),
            length: open.length,
            sync: open.sync,
            relay: rest.to_vec(),
            relayed: true,
            order: 0,
            urgent: false,
            operation: open.operation,
        };
        match node.peers.check_out(first, &node.tuning, patience, &node.stop) {
            Ok(link) => {
                relay.link = Some(link);
                relay.step(|link| link.open(&forward));
            }
            Err(error) => relay.give_up(&error),
        }
        relay
    }

    /// Hands on the next bytes.
    pub fn data(&mut self, data: &[u8]) {
        self.step(|link| link.data(data));
    }

    /// Hands on the end. Returns at once.
    pub fn end(&mut self, block_sums: &Bytes) {
        self.step(|link| link.end(block_sums.clone()));
    }

    /// Waits for the chain's answer. No answer means that none of them counts.
    pub fn done(mut self) -> ChainDone {
        // Syncing takes longer.
        let patience = if self.sync { self.patience * 3 / 2 } else { self.patience };
        let mut done = None;
        self.step(|link| {
            done = Some(link.done(patience)?);
            Ok(())
        });
        match done {
            Some(pb::WriteDone { keepers, synced, failed }) => {
                self.link.into_iter().for_each(|link| self.node.peers.check_in(link));
                ChainDone { keepers, synced, failed }
            }
            None => {
                let failed = self.failed.then_some(self.first).into_iter().collect();
                ChainDone { keepers: Vec::new(), synced: true, failed }
            }
        }
    }

    fn step(&mut self, act: impl FnOnce(&mut Outgoing) -> Result<(), DfsError>) {
        if let Some(link) = &mut self.link
            && let Err(error) = act(link)
        {
            self.give_up(&error);
        }
    }

    fn give_up(&mut self, error: &DfsError) {
        tracing::warn!(chunk = %self.chunk, %error, "upload goes on without the companion");
        self.link = None;
        self.failed = matches!(error.code, ErrorCode::Unavailable | ErrorCode::TimedOut);
    }
}
