//! What the master orders: push a copy to another keeper, build a chunk, delete, verify. Orders are taken in at once
//! and carried out by threads of their own (builds: `build.rs`). How fast pushes and builds go is `pace`'s business.

use std::time::Duration;

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::ChunkId;
use dfs_proto::pb;
use dfs_proto::pb::keeper_up::Msg;

use crate::node::Node;
use crate::queue::WorkQueue;
use crate::store::error::StoreError;

/// Copies that are pushed at once.
pub(crate) const PUSHERS: usize = 4;
/// Pushes that may wait beyond those; the master gives out far fewer.
const PUSHES: usize = 64;
/// Builds that may wait; the master gives out one at a time.
const BUILDS: usize = 8;
/// Chunks that may wait to be deleted or verified.
const CHORES: usize = 1 << 20;

/// Each frame of a push has this long; longer than a relay's, for nobody waits.
pub(crate) const PUSH_PATIENCE: Duration = Duration::from_secs(5);
pub(crate) const NOTICE_PATIENCE: Duration = Duration::from_secs(5);

/// Chunks in one `Arrived`.
const PAGE: usize = 4096;
/// How old chunks are when the master is told of them: by then it knows of those that it needs.
const ARRIVED_AFTER: Duration = Duration::from_secs(15);
const ARRIVALS_PATIENCE: Duration = Duration::from_millis(100);

#[derive(Debug)]
enum Chore {
    Delete(ChunkId),
    Verify(pb::VerifyChunk),
    EmptyQuarantine(ChunkId),
    /// Look at the files, then send an inventory of this number.
    Inventory(u64),
}

/// The orders that wait.
#[derive(Debug)]
pub(crate) struct Orders {
    pushes: WorkQueue<pb::PushChunk>,
    pub builds: WorkQueue<pb::BuildChunk>,
    chores: WorkQueue<Chore>,
}

impl Orders {
    pub fn new() -> Orders {
        Orders {
            pushes: WorkQueue::new(PUSHES),
            builds: WorkQueue::new(BUILDS),
            chores: WorkQueue::new(CHORES),
        }
    }

    /// Takes in a push; a refusal goes back as `CopyFailed`.
    pub fn push(&self, node: &Node, order: pb::PushChunk) {
        if let Err(order) = self.pushes.push(order) {
            let busy = DfsError::new(ErrorCode::Busy, "this keeper has too many copies to push; order fewer");
            node.outbox.post_or_drop(copy_failed(&order, &busy));
        }
    }

    /// Takes in a build; a refusal goes back as `BuildFailed`.
    pub fn build(&self, node: &Node, order: pb::BuildChunk) {
        if let Err(order) = self.builds.push(order) {
            let busy =
                DfsError::new(ErrorCode::Busy, "this keeper has too many chunks to build; order fewer");
            node.outbox.post_or_drop(build_failed(order.chunk, &busy, Vec::new()));
        }
    }

    /// Takes in a deletion: it is of what is here now, and not of a copy that takes its place before its turn comes.
    pub fn delete(&self, node: &Node, chunks: impl IntoIterator<Item = ChunkId>) {
        for chunk in chunks {
            node.store.doom(chunk);
            if self.chores.push(Chore::Delete(chunk)).is_err() {
                node.store.spare(chunk);
                tracing::warn!(%chunk, "too many orders; this deletion comes again after the next inventory");
                return;
            }
        }
    }

    pub fn verify(&self, order: pb::VerifyChunk) {
        if let Err(Chore::Verify(order)) = self.chores.push(Chore::Verify(order)) {
            tracing::warn!(chunk = %ChunkId(order.chunk), "too many orders; this check is left out");
        }
    }

    pub fn empty_quarantine(&self, chunks: impl IntoIterator<Item = ChunkId>) {
        for chunk in chunks {
            if self.chores.push(Chore::EmptyQuarantine(chunk)).is_err() {
                tracing::warn!(%chunk, "too many orders; it stays in quarantine until the next inventory");
                return;
            }
        }
    }

    /// Behind all deletions that are in line.
    pub fn inventory(&self, number: u64) {
        if self.chores.push(Chore::Inventory(number)).is_err() {
            tracing::warn!("too many orders; the inventory that the master asked for is left out");
        }
    }

    pub fn close(&self) {
        self.pushes.close();
        self.builds.close();
        self.chores.close();
    }
}

/// A thread that deletes and verifies, until the orders are closed.
pub(crate) fn run_chores(node: &Node) {
    while let Some(chore) = node.orders.chores.pop() {
        match chore {
            Chore::Delete(chunk) => match node.store.delete_doomed(chunk) {
                Ok(here) => tracing::debug!(%chunk, here, "chunk deleted"),
                Err(error) => tracing::warn!(%chunk, %error, "cannot delete a chunk"),
            },
            Chore::Verify(order) => verify(node, order),
            Chore::Inventory(number) => take_stock(node, number),
            Chore::EmptyQuarantine(chunk) => match node.store.empty_quarantine(chunk) {
                Ok(()) => tracing::info!(%chunk, "good copies are there: quarantine emptied"),
                Err(error) => tracing::warn!(%chunk, %error, "cannot empty quarantine"),
            },
        }
    }
}

fn verify(node: &Node, order: pb::VerifyChunk) {
    let chunk = ChunkId(order.chunk);
    match node.store.verify(chunk, order.info) {
        Ok(()) => tracing::debug!(%chunk, "chunk verified"),
        Err(error) => {
            tracing::warn!(%chunk, %error, "chunk did not verify");
            node.report_bad(chunk, &error);
        }
    }
}

/// Bad copies are reported before the inventory says what is left.
fn take_stock(node: &Node, number: u64) {
    for (chunk, error) in node.store.look_at_files() {
        tracing::warn!(%chunk, %error, "a chunk's file is not as it was");
        let notice = node.bad_copy(chunk, &error);
        while !node.stop.is_set() && node.outbox.post(notice.clone(), NOTICE_PATIENCE).is_err() {}
    }
    node.outbox.ask_inventory(number);
}

/// Says to the master what came in some time ago: what it does not need, it has deleted. An upload that nobody ever
/// spoke of again, as when its client and its first keeper died, would else stay here for ever.
pub(crate) fn say_arrivals(node: &Node) {
    let arrived = node.store.take_arrivals(ARRIVED_AFTER);
    for page in arrived.chunks(PAGE) {
        let notice = Msg::Arrived(pb::Arrived { chunks: page.iter().map(|chunk| chunk.0).collect() });
        if node.outbox.post(notice, ARRIVALS_PATIENCE).is_err() {
            node.store.put_arrivals_back(page);
        }
    }
}

/// A thread that pushes copies, until the orders are closed.
pub(crate) fn run_pushes(node: &Node) {
    while let Some(order) = node.orders.pushes.pop() {
        let chunk = ChunkId(order.chunk);
        match push(node, &order) {
            Ok(()) => tracing::debug!(%chunk, order = order.order, "copy pushed"),
            Err(_) if node.stop.is_set() => return,
            Err(error) => {
                tracing::warn!(%chunk, order = order.order, %error, "copy failed");
                if node.outbox.post(copy_failed(&order, &error), NOTICE_PATIENCE).is_err() {
                    tracing::warn!(%chunk, order = order.order, "the master does not know that this copy failed");
                }
            }
        }
    }
}

pub(crate) fn build_failed(chunk: u64, error: &DfsError, bad: Vec<pb::BadSource>) -> Msg {
    Msg::BuildFailed(pb::BuildFailed { chunk, error: Some(error.to_wire()), bad })
}

fn copy_failed(order: &pb::PushChunk, error: &DfsError) -> Msg {
    let error = Some(error.to_wire());
    Msg::CopyFailed(pb::CopyFailed { order: order.order, chunk: order.chunk, error })
}

/// Reading a chunk to send it ends by an error of ours, or of the transfer.
enum PushError {
    Store(StoreError),
    Link(DfsError),
}

impl From<StoreError> for PushError {
    fn from(error: StoreError) -> PushError {
        PushError::Store(error)
    }
}

fn push(node: &Node, order: &pb::PushChunk) -> Result<(), DfsError> {
    let chunk = ChunkId(order.chunk);
    let invalid =
        || DfsError::new(ErrorCode::Invalid, format!("the order to copy chunk {chunk} names no keeper"));
    let grant = order.grant.as_ref().ok_or_else(invalid)?;
    let to = grant.keepers.first().ok_or_else(invalid)?;
    let open = node.store.open_chunk(chunk).map_err(|error| {
        node.report_bad(chunk, &error);
        DfsError::from(&error)
    })?;
    let mut link = node.peers.check_out(to, &node.tuning, PUSH_PATIENCE, &node.stop)?;
    link.open(&pb::WriteOpen {
        ticket: grant.ticket.clone(),
        mac: to.mac.clone(),
        length: open.header.length as u32,
        sync: false,
        relay: Vec::new(),
        relayed: true,
        order: order.order,
        urgent: order.urgent,
        operation: 0,
    })?;
    let sent = node.store.read_verified(&open, |run| {
        node.spend(run.len(), order.urgent);
        node.metrics.pushed_bytes.add(run.len() as u64);
        link.data(run).map_err(PushError::Link)
    });
    sent.map_err(|error| match error {
        PushError::Link(error) => error,
        PushError::Store(error) => {
            node.report_bad(chunk, &error);
            DfsError::from(&error)
        }
    })?;
    link.end(open.header.sums.encoded().clone())?;
    // The destination waits for its own session before it answers.
    link.done(PUSH_PATIENCE + node.tuning.notice_timeout)?;
    node.peers.check_in(link);
    Ok(())
}
