//! One file's unfinished bytes: what is dirty, what is frozen and on its way, and the error that its writers
//! have yet to hear of.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, InodeNo};
use dfs_proto::{MAX_FILE_SIZE, pb};
use tokio::sync::Notify;

use super::dirty::{DirtyBuffer, Frozen};
use super::handle::WriteHandle;
use super::pending::{Pending, PendingAttr};
use super::{OnOutcome, Outcome, UPLOAD_DEADLINE, Writers, lock, permits_for, too_large, upload};
use crate::client::lanes::Lane;

/// The write side of one inode on this mount, shared by all its handles.
pub struct FileWriter {
    inode: InodeNo,
    writers: Arc<Writers>,
    on_outcome: OnOutcome,
    state: Mutex<State>,
    /// Rung when an upload finished or failed.
    progress: Notify,
    /// Rung when something was frozen.
    pub(super) frozen: Notify,
    /// Uploads that other mounts may not have heard of when they succeeded, and up to which of them they have.
    unheard: AtomicU64,
    heard: AtomicU64,
    itself: Weak<FileWriter>,
}

#[derive(Default)]
struct State {
    dirty: DirtyBuffer,
    dirty_since: Option<Instant>,
    /// Of the last write.
    mtime: pb::Time,
    /// Of what is dirty, something was appended.
    appended: bool,
    /// Frozen and not yet committed, oldest first; their numbers follow each other.
    uploads: VecDeque<Upload>,
    /// The number that the next frozen buffer gets.
    next_number: u64,
    /// How often uploads failed for good, and why they did the last time.
    failures: u64,
    error: Option<DfsError>,
    /// The last upload that succeeded, if all of the file was on stable storage then.
    synced_at: Option<u64>,
    /// Grows when the places that the master gave are given back: one that comes later is not for us.
    round: u64,
    /// Is a task at work on `uploads`?
    driving: bool,
}

/// A frozen buffer on its way to be a chunk.
#[derive(Clone)]
pub(super) struct Upload {
    pub number: u64,
    pub frozen: Arc<Frozen>,
    pub mtime: pb::Time,
    pub sync: bool,
    /// Some of its bytes are where they are by the append lease.
    pub append: bool,
    /// That the master last gave it.
    pub chunk: Option<ChunkId>,
    /// Of places; see the state.
    pub round: u64,
    /// When a place was first asked for.
    pub begun: Option<Instant>,
    /// Success was heard, but an older upload's was not yet.
    done: Option<pb::Attr>,
}

impl Upload {
    /// Where its bytes are moved.
    pub fn lane(&self) -> Lane {
        Lane::carrying(self.frozen.len())
    }
}

/// Where bytes go.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// To this offset.
    At(u64),
    /// Behind all bytes, of which this many are committed. Asked under the writer's lock.
    End(&'a (dyn Fn() -> u64 + Sync)),
}

impl FileWriter {
    pub(super) fn new(writers: Arc<Writers>, inode: InodeNo, on_outcome: OnOutcome) -> Arc<FileWriter> {
        Arc::new_cyclic(|itself| FileWriter {
            inode,
            writers,
            on_outcome,
            state: Mutex::default(),
            progress: Notify::new(),
            frozen: Notify::new(),
            unheard: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            itself: itself.clone(),
        })
    }

    /// Whose bytes these are.
    pub fn inode(&self) -> InodeNo {
        self.inode
    }

    pub(super) fn writers(&self) -> &Arc<Writers> {
        &self.writers
    }

    /// One more who writes it; what failed before is not its business.
    pub fn handle(self: &Arc<Self>) -> WriteHandle {
        WriteHandle::new(self.clone(), self.failures().0)
    }

    /// How often uploads failed for good, and why the last time.
    pub(super) fn failures(&self) -> (u64, Option<DfsError>) {
        let state = lock(&self.state);
        (state.failures, state.error.clone())
    }

    /// Takes the budget for `piece`, which is no larger than that can ever be.
    pub(super) async fn wait_for_memory(&self, piece: &[u8]) -> Result<(), DfsError> {
        self.writers.freeze_all();
        let client = &self.writers.client;
        let room = self.writers.budget.acquire_many(permits_for(piece));
        let late = |_| {
            let why = "uploads do not get ahead; is a keeper reachable?";
            DfsError::new(
                ErrorCode::TimedOut,
                format!("write to inode {} waited {UPLOAD_DEADLINE:?} for memory: {why}", self.inode),
            )
        };
        let closed = |_| DfsError::new(ErrorCode::Io, "the mount is shutting down");
        tokio::select! {
            room = tokio::time::timeout(UPLOAD_DEADLINE, room) => room.map_err(late)?.map_err(closed)?.forget(),
            () = client.master_is_away() => return Err(self.master_is_away("memory")),
        }
        Ok(())
    }

    /// Puts data whose permits were taken into the dirty buffer, and gives back those it did not need. Refused while
    /// there are failures that the writer has not heard of: its later bytes must not appear without the earlier. Returns
    /// where they went. What is appended is all in one chunk, if one can hold it, and so never seen in part.
    pub(super) fn put(&self, place: Place<'_>, data: &[u8], heard: u64) -> Result<u64, DfsError> {
        let limit = self.writers.freeze_at;
        let mtime = self.writers.client.now();
        let mut grown = 0;
        let mut froze = false;
        let mut rest = data;
        let mut state = lock(&self.state);
        if heard < state.failures
            && let Some(error) = state.error.clone()
        {
            drop(state);
            self.writers.budget.add_permits(data.len());
            return Err(error);
        }
        let appends = matches!(place, Place::End(_));
        let offset = match place {
            Place::At(offset) => offset,
            Place::End(committed) => state.end().max(committed()),
        };
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > MAX_FILE_SIZE) {
            drop(state);
            self.writers.budget.add_permits(data.len());
            return Err(too_large(offset));
        }
        if appends && state.dirty.room(limit) < data.len() {
            froze |= state.freeze(false);
        }
        state.mtime = mtime;
        while !rest.is_empty() {
            let room = state.dirty.room(limit);
            if room == 0 {
                froze |= state.freeze(false);
                continue;
            }
            let (now, later) = rest.split_at(room.min(rest.len()));
            state.appended |= appends;
            grown += state.dirty.write(offset + (data.len() - rest.len()) as u64, now, limit);
            rest = later;
        }
        if state.dirty.room(limit) == 0 {
            froze |= state.freeze(false);
        }
        let newly_dirty = !state.dirty.is_empty() && state.dirty_since.is_none();
        if newly_dirty {
            state.dirty_since = Some(Instant::now());
        }
        drop(state);
        self.writers.budget.add_permits(data.len() - grown);
        if newly_dirty && let Some(itself) = self.itself.upgrade() {
            self.writers.note_dirty(&itself);
        }
        if froze {
            self.drive();
        }
        Ok(offset)
    }

    /// Starts the upload of what is dirty.
    pub fn freeze(&self) {
        let froze = lock(&self.state).freeze(false);
        if froze {
            self.drive();
        }
    }

    /// Uploads everything and returns when the master said success for every byte written before the
    /// call. For those who are no writers: what failed is told to the handles all the same.
    ///
    /// # Errors
    /// That of an upload that failed meanwhile.
    pub async fn settle(&self) -> Result<(), DfsError> {
        self.settle_unless(self.writers.client.master_is_away()).await
    }

    /// The same for whoever has to know that nothing is left, however long the master is away.
    ///
    /// # Errors
    /// That of an upload that failed meanwhile.
    pub async fn settle_in_the_end(&self) -> Result<(), DfsError> {
        self.settle_unless(std::future::pending()).await
    }

    async fn settle_unless(&self, away: impl Future<Output = ()> + Send) -> Result<(), DfsError> {
        let (before, _) = self.failures();
        self.upload_all(false, away).await?;
        match self.failures() {
            (failures, Some(error)) if failures > before => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns when every byte written before the call was uploaded, or dropped because an upload failed.
    /// Bounded, because each upload is. True: with the success of the last, which began here, all of the file was synced.
    ///
    /// # Errors
    /// `TimedOut` when `away` ends: the master has been away for as long as a call may take. The uploads are still
    /// tried.
    pub(super) async fn upload_all(
        &self,
        sync: bool,
        away: impl Future<Output = ()> + Send,
    ) -> Result<bool, DfsError> {
        let (target, froze) = {
            let mut state = lock(&self.state);
            let froze = state.freeze(sync);
            if sync {
                state.uploads.iter_mut().for_each(|upload| upload.sync = true);
            }
            (state.next_number, froze)
        };
        self.drive();
        let mut away = std::pin::pin!(away);
        loop {
            let mut progress = std::pin::pin!(self.progress.notified());
            progress.as_mut().enable();
            if let Some(synced) = lock(&self.state).done_before(target) {
                return Ok(froze && synced);
            }
            tokio::select! {
                () = progress => {}
                () = &mut away => return Err(self.master_is_away("its bytes to be uploaded")),
            }
        }
    }

    fn master_is_away(&self, what: &str) -> DfsError {
        let message = format!(
            "inode {} waited in vain for {what}: the master is away; see that it runs. What was written is kept and \
             tried again for a while",
            self.inode
        );
        DfsError::new(ErrorCode::TimedOut, message)
    }

    /// Returns when no other mount has cached what the uploads until now changed. Costs nothing where none had.
    ///
    /// # Errors
    /// The master's.
    pub async fn wait_for_others(&self) -> Result<(), DfsError> {
        let unheard = self.unheard.load(Ordering::Acquire);
        if self.heard.load(Ordering::Acquire) < unheard {
            self.writers.client.barrier().await?;
            self.heard.fetch_max(unheard, Ordering::AcqRel);
        }
        Ok(())
    }

    /// What of `[offset, offset + length)` is here alone.
    pub fn pending(&self, offset: u64, length: usize) -> Pending {
        let state = lock(&self.state);
        let mut pieces: Vec<(u64, Bytes)> = Vec::new();
        for upload in &state.uploads {
            pieces.extend(upload.frozen.overlapping(offset, length));
        }
        pieces.extend(state.dirty.overlapping(offset, length));
        Pending { pieces }
    }

    /// How the file's attributes differ from what is committed; `None` when they do not.
    pub fn pending_attr(&self) -> Option<PendingAttr> {
        let state = lock(&self.state);
        if state.dirty.is_empty() && state.uploads.is_empty() {
            return None;
        }
        let frozen_bytes: usize = state.uploads.iter().map(|upload| upload.frozen.len()).sum();
        Some(PendingAttr {
            end: state.end(),
            mtime: state.mtime,
            bytes: (frozen_bytes + state.dirty.len()) as u64,
        })
    }

    /// Is anything not yet committed?
    pub fn has_pending(&self) -> bool {
        let state = lock(&self.state);
        !state.dirty.is_empty() || !state.uploads.is_empty()
    }

    /// Age of the oldest dirty byte.
    pub(super) fn dirty_for(&self) -> Duration {
        lock(&self.state).dirty_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Sees to it that a task works on the uploads.
    fn drive(&self) {
        let Some(itself) = self.itself.upgrade() else { return };
        let mut state = lock(&self.state);
        if state.uploads.is_empty() {
            return;
        }
        if state.driving {
            drop(state);
            self.frozen.notify_one();
        } else {
            state.driving = true;
            drop(state);
            self.writers.client.lanes().of(Lane::Control).spawn(upload::drive(itself));
        }
    }

    /// For the driver: the upload with this number, or the next that is there.
    pub(super) fn upload_from(&self, number: u64) -> Option<Upload> {
        let mut state = lock(&self.state);
        let round = state.round;
        let next =
            state.uploads.iter_mut().find(|upload| upload.number >= number && upload.done.is_none())?;
        next.round = round;
        next.begun.get_or_insert_with(Instant::now);
        Some(next.clone())
    }

    /// For the driver: nothing is left, and the next freeze has to start a new one. False if there is.
    pub(super) fn stop_driving(&self) -> bool {
        let mut state = lock(&self.state);
        state.driving = !state.uploads.is_empty();
        !state.driving
    }

    /// For the driver: the master gave this upload a chunk. False when it is not wanted any more.
    pub(super) fn take_place(&self, upload: &Upload, chunk: ChunkId) -> bool {
        let mut state = lock(&self.state);
        if state.round != upload.round {
            return false;
        }
        let known = state.uploads.iter_mut().find(|known| known.number == upload.number);
        known.is_some_and(|known| {
            known.chunk = Some(chunk);
            true
        })
    }

    /// For the driver: all that is unfinished has to be asked for again, from the oldest on, also what became
    /// visible ahead of an older one, which would else cover it. Returns the chunks that the master must
    /// forget, newest first.
    pub(super) fn begin_anew(&self) -> Vec<ChunkId> {
        let mut state = lock(&self.state);
        state.round += 1;
        state.synced_at = None;
        let given = |upload: &mut Upload| {
            let chunk = upload.chunk.take();
            chunk.filter(|_| upload.done.take().is_none())
        };
        state.uploads.iter_mut().rev().filter_map(given).collect()
    }

    /// For the driver: since when the oldest upload has been under way.
    pub(super) fn under_way_since(&self) -> Option<Instant> {
        lock(&self.state).uploads.front().and_then(|upload| upload.begun)
    }

    /// For the driver: the master said success. Bytes stop being laid over reads in the order of uploads:
    /// an older one whose message is not through yet would else cover newer bytes.
    pub(super) fn committed(&self, number: u64, done: &pb::UploadDone) {
        if done.acks_pending {
            self.unheard.fetch_add(1, Ordering::AcqRel);
        }
        let attr = done.attr.unwrap_or_default();
        let mut released = 0;
        {
            let mut state = lock(&self.state);
            if let Some(upload) = state.uploads.iter_mut().find(|upload| upload.number == number) {
                upload.done = Some(attr);
            }
            state.synced_at = done.synced.then_some(number);
            while let Some(attr) = state.uploads.front().and_then(|upload| upload.done) {
                (self.on_outcome)(Outcome::Committed(&attr));
                released += state.uploads.pop_front().map_or(0, |upload| upload.frozen.len());
            }
        }
        self.writers.budget.add_permits(released);
        self.progress.notify_waiters();
    }

    /// For the driver: this file's uploads failed for good. Everything unfinished is dropped, so that
    /// no later bytes become visible without the earlier ones, and the error is latched. Returns the chunks
    /// that the master must forget, newest first.
    pub(super) fn failed(&self, error: DfsError) -> Vec<ChunkId> {
        tracing::error!(inode = %self.inode, code = ?error.code, "upload failed, unwritten data is dropped and reported to the writer: {error}");
        let mut state = lock(&self.state);
        let dropped = std::mem::take(&mut state.uploads);
        let frozen_bytes: usize = dropped.iter().map(|upload| upload.frozen.len()).sum();
        let dirty_bytes = state.dirty.clear();
        state.dirty_since = None;
        state.appended = false;
        state.failures += 1;
        state.round += 1;
        state.error = Some(error);
        (self.on_outcome)(Outcome::Lost);
        drop(state);
        self.writers.budget.add_permits(frozen_bytes + dirty_bytes);
        self.progress.notify_waiters();
        dropped
            .iter()
            .rev()
            .filter(|upload| upload.done.is_none())
            .filter_map(|upload| upload.chunk)
            .collect()
    }
}

impl State {
    /// The offset after the last byte that is here alone.
    fn end(&self) -> u64 {
        let frozen = self.uploads.iter().map(|upload| upload.frozen.end()).max().unwrap_or(0);
        frozen.max(self.dirty.end())
    }

    /// Are all uploads before this one over, and all of the file synced with the last of them?
    fn done_before(&self, target: u64) -> Option<bool> {
        let synced = self.synced_at.is_some_and(|number| number + 1 >= target);
        self.uploads.front().is_none_or(|upload| upload.number >= target).then_some(synced)
    }

    /// Moves the dirty bytes to the uploads; false if there are none.
    fn freeze(&mut self, sync: bool) -> bool {
        if self.dirty.is_empty() {
            return false;
        }
        let frozen = Arc::new(self.dirty.freeze());
        self.dirty_since = None;
        self.uploads.push_back(Upload {
            number: self.next_number,
            frozen,
            mtime: self.mtime,
            sync,
            append: std::mem::take(&mut self.appended),
            chunk: None,
            round: 0,
            begun: None,
            done: None,
        });
        self.next_number += 1;
        true
    }
}

impl Drop for FileWriter {
    /// The budget outlives the file: what was never uploaded gives its bytes back.
    fn drop(&mut self) {
        let state = lock(&self.state);
        let held = state.dirty.len() + state.uploads.iter().map(|upload| upload.frozen.len()).sum::<usize>();
        if held > 0 {
            tracing::error!(inode = %self.inode, bytes = held, "a file was closed for good with bytes that never reached a keeper");
        }
        self.writers.budget.add_permits(held);
    }
}
