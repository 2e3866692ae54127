//! One range, verified, from whichever keeper gives it.
//!
//! The first keeper of the range is asked; on its error the next one. When it is late against the recent ranges,
//! the next one is asked as well, and the first good answer wins: the others are dropped with their connections and
//! buffers, so that nothing of theirs is ever seen. When too many are late for hedges to help, a range waits for
//! its hedge a little longer. A bad range is reported to the master. A copy that is not there is reported only when a
//! layout that was asked for later still names it: chunks go when a file is overwritten or compacted. What must hold: an answer within
//! [`RANGE_DEADLINE`]; at most one attempt per copy.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_observe::metrics::Counter;
use dfs_proto::block_sum::{BLOCK_SIZE, block_count};
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, InodeNo, KeeperId, OperationNo};
use dfs_proto::pb;
use tokio::task::JoinSet;

use super::attempt::attempt;
use super::cache::{BlockCache, SumsCache};
use super::flights::{Flights, Outcome, Seat};
use super::latency::{HEDGE_CAP, Latency};
use super::layout::Source;
use super::lock;
use super::parts::read_buffers;
use super::planner::{DataPiece, RANGE_BLOCKS};
use super::suspects::Suspects;
use crate::client::Client;
use crate::client::data::Buffers;
use crate::client::lanes::Lane;
use crate::client::operation;

/// For one range, whatever its keepers do.
const RANGE_DEADLINE: Duration = Duration::from_secs(30);
/// Copies that were not there and are remembered.
const MISSING_KEPT: usize = 10_000;

/// What all fetches share.
pub(super) struct Fetcher {
    pub(super) client: Client,
    pub(super) cache: BlockCache,
    pub(super) buffers: Arc<Buffers>,
    /// Attempts beside the first: because one was late, and because one failed.
    pub(super) hedges: Counter,
    pub(super) retries: Counter,
    sums: SumsCache,
    flights: Flights,
    latency: Mutex<Latency>,
    suspects: Mutex<Suspects>,
    /// Copies that were not there, and by which layout they should have been.
    missing: Mutex<HashMap<(ChunkId, KeeperId), Weak<Source>>>,
}

/// The blocks of one piece: here already, or on their way.
pub(super) enum Wanted {
    Here(Vec<Bytes>),
    Coming(Seat),
}

/// One range to be fetched.
struct Job {
    inode: InodeNo,
    source: Arc<Source>,
    blocks: Range<u32>,
    first_copy: usize,
    operation: OperationNo,
}

impl Job {
    fn lane(&self) -> Lane {
        Lane::carrying(self.blocks.len() * BLOCK_SIZE)
    }
}

/// How one attempt ended.
struct Ended {
    keeper: pb::KeeperGrant,
    began: Instant,
    result: Result<Vec<Bytes>, DfsError>,
}

impl Fetcher {
    pub(super) fn new(client: Client, cache_bytes: u64) -> Self {
        Self {
            cache: BlockCache::new(cache_bytes, client.block_buffers().clone()),
            client,
            buffers: read_buffers(),
            hedges: Counter::default(),
            retries: Counter::default(),
            sums: SumsCache::new(),
            flights: Flights::default(),
            latency: Mutex::default(),
            suspects: Mutex::default(),
            missing: Mutex::default(),
        }
    }

    /// All blocks of `piece` from the cache, if they are all there.
    pub(super) fn cached(&self, piece: &DataPiece) -> Option<Vec<Bytes>> {
        if !piece.blocks().all(|block| self.cache.contains(piece.chunk, block)) {
            return None;
        }
        piece.blocks().map(|block| self.cache.get(piece.chunk, block)).collect()
    }

    /// The blocks of `piece`, from the cache, from a fetch under way, or from one that is begun now: of the whole
    /// range with `whole_range`, else of no more than the piece needs. Does not wait.
    pub(super) fn get(
        self: &Arc<Self>,
        inode: InodeNo,
        source: &Arc<Source>,
        piece: &DataPiece,
        whole_range: bool,
    ) -> Wanted {
        let here: Option<Vec<Bytes>> =
            piece.blocks().map(|block| self.cache.get(piece.chunk, block)).collect();
        if let Some(blocks) = here {
            return Wanted::Here(blocks);
        }
        let wanted = piece.blocks();
        let range = piece.range();
        let blocks = if whole_range {
            let last = block_count(source.length as usize) as u32;
            range * RANGE_BLOCKS..((range + 1) * RANGE_BLOCKS).min(last)
        } else {
            wanted.clone()
        };
        let (seat, pilot) = self.flights.board(source, range, &wanted, blocks.clone());
        if let Some(pilot) = pilot {
            let fetcher = self.clone();
            let job = Job {
                inode,
                source: source.clone(),
                blocks,
                first_copy: piece.first_copy,
                operation: operation::current(),
            };
            self.client.lanes().of(job.lane()).spawn(async move {
                let outcome = fetcher.fetch(job).await;
                pilot.land(outcome);
            });
        }
        Wanted::Coming(seat)
    }

    async fn fetch(self: &Arc<Self>, job: Job) -> Outcome {
        let chunk = job.source.chunk;
        let late = || {
            let message = format!(
                "chunk {chunk} of inode {} could not be read within {} s from {}; try again",
                job.inode,
                RANGE_DEADLINE.as_secs(),
                names(&job.source.keepers)
            );
            Err(DfsError::new(ErrorCode::TimedOut, message))
        };
        let blocks =
            tokio::time::timeout(RANGE_DEADLINE, self.race(&job)).await.unwrap_or_else(|_| late())?;
        for (index, block) in (job.blocks.start..).zip(&blocks) {
            self.cache.put(chunk, index, block.clone());
        }
        Ok(blocks.into())
    }

    /// The copies in the order in which they are asked.
    fn order(&self, job: &Job) -> Vec<pb::KeeperGrant> {
        let keepers = &job.source.keepers;
        let now = Instant::now();
        let suspects = lock(&self.suspects);
        let mut order: Vec<_> =
            (0..keepers.len()).map(|n| keepers[(job.first_copy + n) % keepers.len()].clone()).collect();
        // Stable: among the good ones, and among the others, the order stays.
        order.sort_by_key(|keeper| suspects.is_suspect(KeeperId(keeper.keeper), now));
        order
    }

    async fn race(self: &Arc<Self>, job: &Job) -> Result<Vec<Bytes>, DfsError> {
        let mut waiting = self.order(job).into_iter();
        let mut running = JoinSet::new();
        let mut asked: Vec<(KeeperId, Instant)> = Vec::new();
        let mut errors = Vec::new();
        let mut delay = lock(&self.latency).hedge_delay();
        let mut waited = false;
        let mut start = |running: &mut JoinSet<Ended>, asked: &mut Vec<_>| {
            let keeper = waiting.next()?;
            asked.push((KeeperId(keeper.keeper), Instant::now()));
            let attempt =
                self.clone().one_attempt(job.source.clone(), job.blocks.clone(), keeper, job.lane());
            running.spawn(operation::within(job.operation, attempt));
            Some(())
        };
        let mut more = start(&mut running, &mut asked).is_some();
        while !running.is_empty() {
            let ended = tokio::select! {
                ended = running.join_next() => ended,
                () = tokio::time::sleep(delay), if more => {
                    if !waited && !lock(&self.latency).may_hedge() {
                        waited = true;
                        delay = HEDGE_CAP.saturating_sub(delay);
                        continue;
                    }
                    more = start(&mut running, &mut asked).is_some();
                    self.hedges.add(u64::from(more));
                    continue;
                }
            };
            // `None` cannot be: something is running. A task that was lost counts as a failed attempt.
            let Some(Ok(ended)) = ended else {
                more = start(&mut running, &mut asked).is_some();
                continue;
            };
            match ended.result {
                Ok(blocks) => {
                    self.learn_from_winner(&ended.keeper, ended.began, &asked);
                    return Ok(blocks);
                }
                Err(error) => {
                    self.learn_from_failure(job, &ended.keeper, &error, &mut asked);
                    errors.push(error);
                    more = start(&mut running, &mut asked).is_some();
                    self.retries.add(u64::from(more));
                }
            }
        }
        Err(all_failed(job, &errors))
    }

    async fn one_attempt(
        self: Arc<Self>,
        source: Arc<Source>,
        blocks: Range<u32>,
        keeper: pb::KeeperGrant,
        lane: Lane,
    ) -> Ended {
        let began = Instant::now();
        let result = attempt(self.client.keepers(lane), &self.sums, &source, blocks, &keeper).await;
        Ended { keeper, began, result }
    }

    /// `asked`: those that did not fail, the winner among them.
    fn learn_from_winner(&self, winner: &pb::KeeperGrant, began: Instant, asked: &[(KeeperId, Instant)]) {
        let now = Instant::now();
        lock(&self.latency).record(now.saturating_duration_since(began));
        let winner = KeeperId(winner.keeper);
        let mut suspects = lock(&self.suspects);
        suspects.answered(winner);
        let before = asked.iter().take_while(|(keeper, _)| *keeper != winner);
        before.for_each(|(keeper, _)| suspects.late(*keeper, now));
    }

    fn learn_from_failure(
        &self,
        job: &Job,
        keeper: &pb::KeeperGrant,
        error: &DfsError,
        asked: &mut Vec<(KeeperId, Instant)>,
    ) {
        let id = KeeperId(keeper.keeper);
        asked.retain(|(other, _)| *other != id);
        tracing::debug!(chunk = %job.source.chunk, keeper = %id, %error, "a copy could not be read");
        match error.code {
            // The keeper is well, this copy is not.
            ErrorCode::NotFound | ErrorCode::Lost if !self.is_missing_again(&job.source, id) => {
                job.source.outdated.store(true, Ordering::Relaxed);
            }
            ErrorCode::Corrupt | ErrorCode::NotFound | ErrorCode::Lost => {
                tracing::warn!(inode = %job.inode, chunk = %job.source.chunk, keeper = %id, "bad copy reported: {error}");
                self.client.report_bad(job.source.chunk, id, error);
            }
            ErrorCode::TicketExpired => {}
            _ => lock(&self.suspects).failed(id, Instant::now()),
        }
    }
}

impl Fetcher {
    /// Did the keeper not have the chunk before, by an older layout?
    fn is_missing_again(&self, source: &Arc<Source>, keeper: KeeperId) -> bool {
        let mut missing = lock(&self.missing);
        if missing.len() >= MISSING_KEPT {
            missing.clear();
        }
        match missing.insert((source.chunk, keeper), Arc::downgrade(source)) {
            Some(before) => !std::ptr::eq(before.as_ptr(), Arc::as_ptr(source)),
            None => false,
        }
    }
}

fn names(keepers: &[pb::KeeperGrant]) -> String {
    let names: Vec<_> =
        keepers.iter().map(|keeper| format!("keeper {} at {}", keeper.keeper, keeper.address)).collect();
    if names.is_empty() { "no keeper".to_owned() } else { names.join(", ") }
}

fn all_failed(job: &Job, errors: &[DfsError]) -> DfsError {
    let what = format!("chunk {} of inode {}", job.source.chunk, job.inode);
    if job.source.keepers.is_empty() {
        let message = format!(
            "{what}: no live keeper has a copy; start the keepers that have (dfs lookup shows which)"
        );
        return DfsError::new(ErrorCode::Unavailable, message);
    }
    let gone = errors.iter().all(|error| matches!(error.code, ErrorCode::NotFound | ErrorCode::Lost));
    // Not lost, as far as we know: the layout may be older than what happened to the file.
    let code = if gone { ErrorCode::NotFound } else { ErrorCode::Io };
    let whys: Vec<_> = errors.iter().map(|error| error.message.as_str()).collect();
    let message = format!("{what} cannot be read from {}: {}", names(&job.source.keepers), whys.join("; "));
    DfsError::new(code, message)
}
