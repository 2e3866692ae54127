//! Compaction: a file of many small extents, or of chunks that are mostly waste, gets new, full chunks.
//!
//! A file whose extents change becomes a *candidate*. When it has been quiet for `compact_after_ms`, or has waited
//! too long for that, a *round* goes through it: `compact_plan` says which extents are packed, and for each new chunk
//! there is a *job* (`compact_jobs`). Bytes, size, times and content version of the file stay as they are, so that
//! nobody has to be told.
//!
//! What must hold: a file is a candidate, or in a round, or neither; each job is of a file in a round, which counts
//! it. Nothing here is stored: after a restart a sweep over all files finds the candidates again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dfs_proto::ids::{ChunkId, InodeNo};

use super::State;
use super::compact_jobs::{Given, Job};
use super::compact_plan::Window;
use super::out::Out;

/// A file that is never quiet is compacted all the same after this many quiet periods.
const MAX_WAIT_PERIODS: i64 = 30;
/// After a round the file is left alone for as long as it takes to write what was moved at this rate, in bytes a
/// second: a file that is changed again and again must not be rewritten again and again.
const MOVE_RATE: u64 = 4 << 20;
/// But no longer than this.
const MAX_REST_MS: u64 = 600_000;
/// Before a round that failed is tried again.
const RETRY_MS: i64 = 30_000;
/// Files that are being compacted at once.
const MAX_ROUNDS: usize = 16;
/// Files that are planned in one tick.
const PLANS_PER_TICK: usize = 8;
/// Files that one step of a sweep looks at.
const SWEEP_STEP: usize = 256;
/// No sweep while more candidates than this wait.
const SWEEP_BELOW: usize = 10_000;
/// Between two sweeps.
const SWEEP_EVERY_MS: i64 = 600_000;

/// A file that may have to be compacted.
struct Candidate {
    /// When it became one.
    first_ms: i64,
    due_ms: i64,
}

/// A file that is being compacted.
#[derive(Default)]
struct Round {
    windows: VecDeque<Window>,
    /// Where the part of the file begins that is not planned yet.
    next: Option<u64>,
    jobs: usize,
    moved_bytes: u64,
    failed: bool,
    changed: bool,
}

/// All of it.
#[derive(Default)]
pub(super) struct Compaction {
    candidates: BTreeMap<InodeNo, Candidate>,
    by_due: BTreeSet<(i64, InodeNo)>,
    /// Files that were compacted of late, and until when they rest.
    resting: BTreeMap<InodeNo, i64>,
    rounds: BTreeMap<InodeNo, Round>,
    pub jobs: BTreeMap<ChunkId, Job>,
    /// Bytes moved since the start.
    pub moved_bytes: u64,
    /// Files whose extents this command has swapped: no change of theirs.
    pub swapped: BTreeSet<InodeNo>,
    /// How far the sweep is.
    sweep: Option<InodeNo>,
    sweep_wanted: bool,
    next_sweep_ms: i64,
}

impl Compaction {
    /// Some file may gain by compaction, and nobody knows which.
    pub fn want_sweep(&mut self) {
        self.sweep_wanted = true;
    }

    /// Looks at all files again, without waiting for the time of the next sweep.
    #[cfg(test)]
    pub fn sweep_now(&mut self) {
        (self.sweep_wanted, self.next_sweep_ms) = (true, i64::MIN);
    }

    /// Nothing is known of any file yet.
    pub fn begin_after_load(&mut self) {
        self.sweep = Some(InodeNo(0));
    }

    /// Files that wait to be looked at.
    pub fn waiting(&self) -> usize {
        self.candidates.len() + self.rounds.len()
    }

    fn put_candidate(&mut self, inode: InodeNo, candidate: Candidate) {
        let due_ms = candidate.due_ms;
        if let Some(old) = self.candidates.insert(inode, candidate) {
            self.by_due.remove(&(old.due_ms, inode));
        }
        self.by_due.insert((due_ms, inode));
    }

    fn take_due(&mut self, now_ms: i64) -> Option<(InodeNo, Candidate)> {
        let &(due_ms, inode) = self.by_due.first().filter(|(due_ms, _)| *due_ms <= now_ms)?;
        self.by_due.remove(&(due_ms, inode));
        self.candidates.remove(&inode).map(|candidate| (inode, candidate))
    }
}

impl State {
    fn quiet_ms(&self) -> i64 {
        i64::try_from(self.settings.compact_after_ms).unwrap_or(i64::MAX)
    }

    /// After each command: files whose extents it changed are candidates.
    pub(super) fn note_changed_extents(&mut self, out: &Out) {
        let swapped = std::mem::take(&mut self.compaction.swapped);
        if self.quiet_ms() == 0 {
            return;
        }
        for inode in out.changed_extents() {
            if !swapped.contains(&inode) {
                self.note_candidate(inode, out.now_ms);
            }
        }
    }

    fn note_candidate(&mut self, inode: InodeNo, now_ms: i64) {
        if let Some(round) = self.compaction.rounds.get_mut(&inode) {
            round.changed = true;
        } else if self.may_be_loose(inode) {
            let known = self.compaction.candidates.get(&inode);
            let first_ms = known.map_or(now_ms, |known| known.first_ms);
            let latest_ms = first_ms.saturating_add(self.quiet_ms().saturating_mul(MAX_WAIT_PERIODS));
            let rested_ms = self.compaction.resting.get(&inode).copied().unwrap_or(i64::MIN);
            let due_ms = now_ms.saturating_add(self.quiet_ms()).min(latest_ms).max(rested_ms);
            self.compaction.put_candidate(inode, Candidate { first_ms, due_ms });
        }
    }

    pub(super) fn compact_tick(&mut self, out: &mut Out) {
        if self.quiet_ms() == 0 {
            return;
        }
        self.end_late_jobs(out);
        self.advance_jobs(out);
        self.sweep(out.now_ms);
        // Keepers and mounts get time to come back after a restart.
        if !self.orders.quiet.is_on(out.now_ms) {
            self.begin_rounds(out.now_ms);
            self.go_on_with_rounds(out);
        }
        self.compaction.resting.retain(|_, until_ms| *until_ms > out.now_ms);
    }

    /// One step through all files.
    fn sweep(&mut self, now_ms: i64) {
        let compaction = &mut self.compaction;
        if compaction.sweep.is_none() && compaction.sweep_wanted && now_ms >= compaction.next_sweep_ms {
            compaction.sweep = Some(InodeNo(0));
            compaction.sweep_wanted = false;
        }
        for _ in 0..SWEEP_STEP {
            let Some(at) = self.compaction.sweep else { return };
            if self.compaction.candidates.len() >= SWEEP_BELOW {
                return;
            }
            let Some(inode) = self.extents.next_file(at) else {
                self.compaction.sweep = None;
                self.compaction.next_sweep_ms = now_ms.saturating_add(SWEEP_EVERY_MS);
                return;
            };
            self.compaction.sweep = Some(InodeNo(inode.0.saturating_add(1)));
            let compaction = &self.compaction;
            if !compaction.candidates.contains_key(&inode) && !compaction.rounds.contains_key(&inode) {
                self.note_candidate(inode, now_ms);
            }
        }
    }

    fn begin_rounds(&mut self, now_ms: i64) {
        for _ in 0..PLANS_PER_TICK {
            if self.compaction.rounds.len() >= MAX_ROUNDS {
                return;
            }
            let Some((inode, candidate)) = self.compaction.take_due(now_ms) else { return };
            let waited_ms = now_ms.saturating_sub(candidate.first_ms);
            let uploading = self.sessions.values().any(|session| session.pending.contains_key(&inode));
            if uploading && waited_ms < self.quiet_ms().saturating_mul(MAX_WAIT_PERIODS) {
                let due_ms = now_ms.saturating_add(self.quiet_ms());
                self.compaction.put_candidate(inode, Candidate { due_ms, ..candidate });
                continue;
            }
            let plan = self.plan_compaction(inode, 0);
            if !plan.windows.is_empty() || plan.next.is_some() {
                tracing::debug!(%inode, chunks = plan.windows.len(), "compaction begins");
                let round = Round { windows: plan.windows.into(), next: plan.next, ..Round::default() };
                self.compaction.rounds.insert(inode, round);
            }
        }
    }

    fn go_on_with_rounds(&mut self, out: &mut Out) {
        let inodes: Vec<InodeNo> = self.compaction.rounds.keys().copied().collect();
        for inode in inodes {
            if !self.go_on_with_round(inode, out) {
                return;
            }
        }
    }

    /// False: no keeper can take an order now.
    fn go_on_with_round(&mut self, inode: InodeNo, out: &mut Out) -> bool {
        loop {
            let Some(round) = self.compaction.rounds.get_mut(&inode) else { return true };
            let Some(window) = round.windows.pop_front() else { break };
            match self.order_build(inode, &window, out) {
                Given::Yes => {
                    if let Some(round) = self.compaction.rounds.get_mut(&inode) {
                        round.jobs += 1;
                    }
                }
                Given::Obsolete => {}
                Given::Busy => {
                    if let Some(round) = self.compaction.rounds.get_mut(&inode) {
                        round.windows.push_front(window);
                    }
                    return false;
                }
            }
        }
        let planned = self.compaction.rounds.get_mut(&inode).filter(|round| round.jobs == 0);
        if let Some(round) = planned {
            match round.next.take() {
                Some(from) => {
                    let plan = self.plan_compaction(inode, from);
                    if let Some(round) = self.compaction.rounds.get_mut(&inode) {
                        round.windows = plan.windows.into();
                        round.next = plan.next;
                    }
                }
                None => self.end_round(inode, out.now_ms),
            }
        }
        true
    }

    fn end_round(&mut self, inode: InodeNo, now_ms: i64) {
        let Some(round) = self.compaction.rounds.remove(&inode) else { return };
        let rest_ms = (round.moved_bytes.saturating_mul(1000) / MOVE_RATE).min(MAX_REST_MS);
        if round.moved_bytes > 0 {
            tracing::debug!(%inode, bytes = round.moved_bytes, "compaction ends");
            // At most MAX_REST_MS.
            let until_ms = now_ms.saturating_add(rest_ms as i64);
            let resting = self.compaction.resting.entry(inode).or_insert(until_ms);
            *resting = until_ms.max(*resting);
        }
        if round.failed {
            let due_ms = now_ms.saturating_add(RETRY_MS);
            self.compaction.put_candidate(inode, Candidate { first_ms: now_ms, due_ms });
        } else if round.changed {
            self.note_candidate(inode, now_ms);
        } else if round.moved_bytes > 0 && self.may_be_loose(inode) {
            // What was cut short by a limit goes on; mostly the next plan has nothing to do.
            self.compaction.put_candidate(inode, Candidate { first_ms: now_ms, due_ms: now_ms });
        }
    }

    /// One job of a file has ended; `moved_bytes` are in their new chunk.
    pub(super) fn job_over(&mut self, inode: InodeNo, moved_bytes: u64, failed: bool) {
        self.compaction.moved_bytes += moved_bytes;
        if let Some(round) = self.compaction.rounds.get_mut(&inode) {
            round.jobs = round.jobs.saturating_sub(1);
            round.moved_bytes += moved_bytes;
            round.failed |= failed;
        }
    }

    /// # Errors
    /// The first rule of this module that does not hold.
    pub(super) fn check_compaction(&self) -> Result<(), String> {
        let compaction = &self.compaction;
        let index: BTreeSet<(i64, InodeNo)> =
            compaction.candidates.iter().map(|(inode, candidate)| (candidate.due_ms, *inode)).collect();
        if index != compaction.by_due {
            return Err("candidates by due time are not the candidates".to_owned());
        }
        if let Some(inode) = compaction.rounds.keys().find(|inode| compaction.candidates.contains_key(inode))
        {
            return Err(format!("inode {inode} is being compacted and a candidate"));
        }
        let mut jobs: BTreeMap<InodeNo, usize> = BTreeMap::new();
        for job in compaction.jobs.values() {
            *jobs.entry(job.inode).or_default() += 1;
        }
        let counted: BTreeMap<InodeNo, usize> = compaction
            .rounds
            .iter()
            .filter(|(_, round)| round.jobs > 0)
            .map(|(inode, round)| (*inode, round.jobs))
            .collect();
        if jobs != counted {
            return Err(format!("jobs of compaction by file are {jobs:?}, rounds say {counted:?}"));
        }
        for (chunk, job) in &compaction.jobs {
            if !job.holders.is_sorted_by(|a, b| a < b) || job.holders.is_empty() != job.checksum.is_none() {
                return Err(format!("chunk {chunk} is being built: its holders make no sense"));
            }
        }
        Ok(())
    }
}
