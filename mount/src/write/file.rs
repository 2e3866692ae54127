//! One file's unfinished bytes: what is dirty, what is frozen and on its way, and the error that its writers
//! have yet to hear of.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, InodeNo};
use dfs_proto::{MAX_FILE_SIZE, pb};
use tokio::sync::Notify;

use super::dirty::DirtyBuffer;
use super::handle::WriteHandle;
use super::pending::{Pending, PendingAttr};
use super::queue::{Queue, Upload};
use super::{OnOutcome, Outcome, UPLOAD_DEADLINE, Writers, lock, permits_for, too_large, upload};
use crate::client::lanes::Lane;
use crate::client::operation;

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
    /// Frozen and not yet committed.
    uploads: Queue,
    /// How often uploads failed for good, and why they did the last time.
    failures: u64,
    error: Option<DfsError>,
    /// The last upload that succeeded, if all of the file was on stable storage then.
    synced_at: Option<u64>,
    /// Is a task at work on `uploads`?
    driving: bool,
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
                state.uploads.sync_all();
            }
            (state.uploads.next_number(), froze)
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
        for frozen in state.uploads.frozen() {
            pieces.extend(frozen.overlapping(offset, length));
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
        Some(PendingAttr {
            end: state.end(),
            mtime: state.mtime,
            bytes: (state.uploads.bytes() + state.dirty.len()) as u64,
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

    /// For the driver: the upload with this number, or the next that is there, if its place may be asked for now.
    pub(super) fn upload_from(&self, number: u64) -> Option<Upload> {
        lock(&self.state).uploads.next(number, self.writers.client.stream(), Instant::now())
    }

    /// For the driver: nothing is left, and the next freeze has to start a new one. False if there is.
    pub(super) fn stop_driving(&self) -> bool {
        let mut state = lock(&self.state);
        state.driving = !state.uploads.is_empty();
        !state.driving
    }

    /// For the driver: the master gave this upload a chunk. False when it is not wanted any more.
    pub(super) fn take_place(&self, upload: &Upload, chunk: ChunkId) -> bool {
        lock(&self.state).uploads.take_place(upload, chunk)
    }

    /// For the driver: all that is unfinished has to be asked for again, from the oldest on. Returns the chunks that the
    /// master must forget, newest first.
    pub(super) fn begin_anew(&self) -> Vec<ChunkId> {
        let mut state = lock(&self.state);
        state.synced_at = None;
        state.uploads.begin_anew()
    }

    /// For the driver: uploads with a place and unknown end, as numbers and chunks, newest first.
    pub(super) fn unknown(&self) -> Vec<(u64, ChunkId)> {
        lock(&self.state).uploads.unknown()
    }

    /// For the driver: since when the oldest upload has been under way.
    pub(super) fn under_way_since(&self) -> Option<Instant> {
        lock(&self.state).uploads.under_way_since()
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
            state.uploads.succeeded(number, attr);
            state.synced_at = done.synced.then_some(number);
            while let Some((attr, bytes)) = state.uploads.pop_done() {
                (self.on_outcome)(Outcome::Committed(&attr));
                released += bytes;
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
        let (frozen_bytes, chunks) = state.uploads.drop_all();
        let dirty_bytes = state.dirty.clear();
        state.dirty_since = None;
        state.appended = false;
        state.failures += 1;
        state.error = Some(error);
        (self.on_outcome)(Outcome::Lost);
        drop(state);
        self.writers.budget.add_permits(frozen_bytes + dirty_bytes);
        self.progress.notify_waiters();
        chunks
    }
}

impl State {
    /// The offset after the last byte that is here alone.
    fn end(&self) -> u64 {
        self.uploads.end().max(self.dirty.end())
    }

    /// Are all uploads before this one over, and all of the file synced with the last of them?
    fn done_before(&self, target: u64) -> Option<bool> {
        let synced = self.synced_at.is_some_and(|number| number + 1 >= target);
        self.uploads.are_over(target).then_some(synced)
    }

    /// Moves the dirty bytes to the uploads; false if there are none.
    fn freeze(&mut self, sync: bool) -> bool {
        if self.dirty.is_empty() {
            return false;
        }
        let frozen = Arc::new(self.dirty.freeze());
        self.dirty_since = None;
        let appended = std::mem::take(&mut self.appended);
        self.uploads.push(frozen, self.mtime, operation::current(), sync, appended);
        true
    }
}

impl Drop for FileWriter {
    /// The budget outlives the file: what was never uploaded gives its bytes back.
    fn drop(&mut self) {
        let state = lock(&self.state);
        let held = state.dirty.len() + state.uploads.bytes();
        if held > 0 {
            tracing::error!(inode = %self.inode, bytes = held, "a file was closed for good with bytes that never reached a keeper");
        }
        self.writers.budget.add_permits(held);
    }
}
