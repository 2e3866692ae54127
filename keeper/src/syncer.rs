//! Group sync: one thread brings stored chunks to stable storage, many at once, within a second or
//! when the master asks, and tells the master. What is in the journal it brings to its place with them.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dfs_proto::ids::ChunkId;
use dfs_proto::pb;
use dfs_proto::pb::keeper_up::Msg;

use crate::node::Node;
use crate::store::error::StoreError;

/// Chunks that may wait to be synced; each takes 8 bytes.
const CAPACITY: usize = 1 << 20;
/// Chunks in one `Synced`.
const PAGE: usize = 4096;
/// How long one notice waits for the session before the chunks go back in line.
const NOTICE_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct State {
    /// Stored, not urgent.
    waiting: Vec<ChunkId>,
    /// When a batch of those was first wanted.
    since: Option<Instant>,
    /// The master wants these now.
    asked: Vec<ChunkId>,
    closed: bool,
}

/// What the thread has before it.
#[derive(Debug)]
pub(crate) struct SyncQueue {
    state: Mutex<State>,
    wake: Condvar,
    after: Duration,
}

impl SyncQueue {
    /// Chunks wait at most `after`.
    pub fn new(after: Duration) -> SyncQueue {
        SyncQueue { state: Mutex::default(), wake: Condvar::new(), after }
    }

    /// A chunk was stored: sync it soon.
    pub fn add(&self, chunk: ChunkId) {
        let mut state = self.lock();
        if state.waiting.len() < CAPACITY {
            state.waiting.push(chunk);
        } else {
            tracing::warn!(%chunk, "too many chunks wait to be synced; this one is synced when the master asks");
        }
        self.begin(state);
    }

    /// Chunks are in the journal alone: a batch is wanted soon, whatever is in it.
    pub fn settle_soon(&self) {
        self.begin(self.lock());
    }

    fn begin(&self, mut state: MutexGuard<'_, State>) {
        // Else it waits for the end of the time of those before already.
        if state.since.is_none() {
            state.since = Some(Instant::now());
            drop(state);
            self.wake.notify_one();
        }
    }

    /// The master wants to know that these are on stable storage.
    pub fn ask(&self, chunks: impl IntoIterator<Item = ChunkId>) {
        let mut state = self.lock();
        let room = CAPACITY.saturating_sub(state.asked.len());
        let mut chunks = chunks.into_iter();
        state.asked.extend(chunks.by_ref().take(room));
        if chunks.next().is_some() {
            tracing::warn!("the master asks for more syncs than can wait; it must ask again");
        }
        drop(state);
        self.wake.notify_one();
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    /// The next batch, and whether the master asked for it. `None` when closed; then [`SyncQueue::rest`] has what was left.
    fn next(&self) -> Option<(Vec<ChunkId>, bool)> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if !state.asked.is_empty() {
                return Some((std::mem::take(&mut state.asked), true));
            }
            state = match state.since.map(|since| self.after.saturating_sub(since.elapsed())) {
                Some(left) if left.is_zero() => {
                    state.since = None;
                    return Some((std::mem::take(&mut state.waiting), false));
                }
                Some(left) => self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn rest(&self) -> Vec<ChunkId> {
        let mut state = self.lock();
        let mut rest = std::mem::take(&mut state.asked);
        rest.append(&mut state.waiting);
        rest
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread: until the queue is closed, and then once more for the rest.
pub(crate) fn run(node: &Node) {
    while let Some((batch, asked)) = node.syncs.next() {
        sync(node, &batch, asked, NOTICE_PATIENCE);
    }
    sync(node, &node.syncs.rest(), false, Duration::ZERO);
}

/// One that is not here any more was deleted, or whoever found it bad has said so: only the master's question is answered
/// once more. What could not be synced because the disk is read-only is tried again.
fn sync(node: &Node, batch: &[ChunkId], asked: bool, patience: Duration) {
    let report = if asked { node.sync(batch) } else { node.store.settle(batch) };
    for (chunk, error) in &report.failed {
        match error {
            StoreError::ReadOnly(_) => node.syncs.add(*chunk),
            StoreError::NotFound(_) if !asked => {}
            _ => node.report_bad(*chunk, error),
        }
    }
    for page in report.synced.chunks(PAGE) {
        let notice = Msg::Synced(pb::Synced { chunks: page.iter().map(|c| c.0).collect() });
        if node.outbox.post(notice, patience).is_err() && !patience.is_zero() {
            // Synced already, so the next round costs nothing but the notice.
            node.syncs.ask(page.iter().copied());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use dfs_proto::block_sum::BlockSums;

    use crate::config::Tuning;
    use crate::files::crash::{Cut, Forgotten, Op, Recorder};
    use crate::identity::{DataDir, Identity};
    use crate::node::DataTls;
    use crate::store::ChunkStore;
    use crate::store::tests::scratch;

    /// As long as users are promised, and not longer.
    const STABLE_WITHIN: Duration = Duration::from_secs(2);

    #[test]
    fn what_was_stored_two_seconds_before_a_power_cut_is_there() {
        let (live, chunk) = (scratch(), ChunkId(0x4_2042));
        let recorder: Arc<Recorder<()>> = Arc::new(Recorder::new(live.path(), Forgotten::Nothing));
        let dir = DataDir::open_through(&live.path().join("data"), recorder.clone()).unwrap();
        let cluster = dfs_proto::ids::ClusterId([1; 16]);
        dir.set_identity(Identity { cluster, keeper: dfs_proto::ids::KeeperId(1) }).unwrap();
        let node =
            Node::new(ChunkStore::open(dir, Some(0)).unwrap().0, Tuning::default(), DataTls::default());
        let bytes = vec![7; 100_000];
        let synced: Op<()> = Op::SyncDir("data/chunks/42".into());
        let ops = std::thread::scope(|scope| {
            let syncer = scope.spawn(|| run(&node));
            let mut incoming = node.store.receive(chunk, bytes.len(), false).unwrap();
            incoming.append(&bytes).unwrap();
            incoming.commit(BlockSums::of(&bytes).encoded().clone()).unwrap();
            node.syncs.add(chunk);
            let stored = Instant::now();
            while !recorder.ops().contains(&synced) && stored.elapsed() < STABLE_WITHIN {
                std::thread::sleep(Duration::from_millis(5));
            }
            // Before the end of the thread, which syncs the rest.
            let ops = recorder.ops();
            node.syncs.close();
            syncer.join().unwrap();
            ops
        });
        let mut cut = Cut::default();
        ops.iter().for_each(|op| cut.then(op));
        for seed in 0..20 {
            let image = scratch();
            cut.leave(seed, image.path());
            let dir = DataDir::open(&image.path().join("data")).unwrap();
            let (store, bad) = ChunkStore::open(dir, Some(0)).unwrap();
            assert!(bad.is_empty(), "seed {seed}: {bad:?}");
            store.verify(chunk, None).unwrap();
        }
    }

    #[test]
    fn what_is_asked_for_does_not_wait_and_the_rest_waits_its_time() {
        let queue = SyncQueue::new(Duration::from_millis(30));
        let begin = Instant::now();
        queue.add(ChunkId(1));
        queue.add(ChunkId(2));
        queue.ask([ChunkId(7)]);
        assert_eq!(queue.next(), Some((vec![ChunkId(7)], true)));
        assert_eq!(queue.next(), Some((vec![ChunkId(1), ChunkId(2)], false)));
        assert!(begin.elapsed() >= Duration::from_millis(30));
        queue.add(ChunkId(3));
        queue.close();
        assert_eq!(queue.next(), None);
        assert_eq!(queue.rest(), [ChunkId(3)]);
    }
}
