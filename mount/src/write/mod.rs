//! The write path: dirty buffers -> frozen -> uploading -> committed, in order, under one byte budget.
//!
//! A write lands in its file's [`dirty::DirtyBuffer`]. When that is full, old, or somebody asks for it
//! (close, fsync, another file in need of memory), it is frozen whole into the content of one chunk, and
//! `upload` takes it through the steps of the upload protocol. Until the master's success message, reads on
//! this mount lay the bytes over what is committed.
//!
//! What must hold:
//! - chunks of one file are asked for, and so become visible, in the order in which they were frozen;
//! - bytes leave memory only after the success message, or with an error that is latched on the file and
//!   reported to each handle at its next write, fsync or close;
//! - dirty and frozen bytes of all files together never exceed the budget (`--write-buffer`).

pub mod dirty;
mod file;
mod handle;
mod pending;
mod queue;
mod upload;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use dfs_observe::metrics::Counter;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::{MAX_FILE_SIZE, pb};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::client::Client;
use crate::client::lanes::Lane;
use crate::lock::lock;

pub use file::FileWriter;
pub use handle::WriteHandle;
pub use pending::Pending;

/// Dirty bytes are frozen and uploaded when the oldest of them is this old, without being asked.
const DIRTY_AGE: Duration = Duration::from_secs(1);

/// How often the age of dirty bytes is looked at.
const AGE_CHECK_EVERY: Duration = Duration::from_millis(250);

/// Chunks on their way to keepers at once, over all files.
const TRANSFERS: usize = 8;

/// How long a write waits for memory, and an upload for its success, before it is an error.
const UPLOAD_DEADLINE: Duration = Duration::from_secs(60);

/// The smallest useful budget, in bytes.
pub const MIN_BUDGET: u64 = 1024 * 1024;

/// All files being written by this process, and what they share: the budget and the transfers.
pub struct Writers {
    client: Client,
    /// One permit is one byte of dirty or frozen data.
    budget: Semaphore,
    budget_bytes: usize,
    /// Transfers that began anew, since one failed.
    retries: Counter,
    transfers: Arc<Semaphore>,
    /// When an upload of any file last succeeded.
    last_success: Mutex<Instant>,
    /// A dirty buffer is frozen at this many bytes.
    freeze_at: usize,
    /// Files that may have something dirty.
    dirty_files: Mutex<HashMap<InodeNo, Weak<FileWriter>>>,
}

/// What became of bytes that were written.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// They are in the file, whose attributes after it these are. They will next stop being laid over reads.
    Committed(&'a pb::Attr),
    /// All that was unfinished is dropped: what the file is now, only the master knows.
    Lost,
}

/// Told each outcome of a file's uploads, in order. It runs under the writer's lock and must not call back into
/// the writer.
pub type OnOutcome = Box<dyn Fn(Outcome<'_>) + Send + Sync>;

/// A write that would end beyond the largest file.
pub fn too_large(offset: u64) -> DfsError {
    let message = format!("write at {offset}: no file can be larger than {MAX_FILE_SIZE} bytes");
    DfsError::new(ErrorCode::TooLarge, message)
}

impl Writers {
    /// `budget_bytes` bounds what all files together hold in memory; at least [`MIN_BUDGET`] is used.
    /// The uploads run on the client's lanes.
    pub fn new(client: Client, budget_bytes: u64) -> Arc<Writers> {
        let budget =
            usize::try_from(budget_bytes.max(MIN_BUDGET)).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let chunk_size = client.info().chunk_size as usize;
        let writers = Arc::new(Writers {
            client,
            budget: Semaphore::new(budget),
            budget_bytes: budget,
            retries: Counter::default(),
            transfers: Arc::new(Semaphore::new(TRANSFERS)),
            last_success: Mutex::new(Instant::now()),
            freeze_at: chunk_size.min(budget / 4).max(1),
            dirty_files: Mutex::default(),
        });
        writers.client.lanes().of(Lane::Control).spawn(freeze_by_age(Arc::downgrade(&writers)));
        writers
    }

    /// Bytes that are dirty or frozen now, and as many as there may be.
    pub fn budget(&self) -> (u64, u64) {
        let used = self.budget_bytes.saturating_sub(self.budget.available_permits());
        (used as u64, self.budget_bytes as u64)
    }

    /// Transfers that began anew, since one failed.
    pub fn retries(&self) -> u64 {
        self.retries.get()
    }

    /// For the only one who writes `inode` through these writers.
    pub fn file(self: &Arc<Self>, inode: InodeNo) -> WriteHandle {
        self.file_with(inode, Box::new(|_| {})).handle()
    }

    /// What all handles on `inode` share; it tells what becomes of its uploads. There must be at most one at a
    /// time for an inode.
    pub fn file_with(self: &Arc<Self>, inode: InodeNo, on_outcome: OnOutcome) -> Arc<FileWriter> {
        FileWriter::new(self.clone(), inode, on_outcome)
    }

    /// Starts the upload of everything dirty, in all files.
    pub fn freeze_all(&self) {
        for file in self.take_dirty(|_| true) {
            file.freeze();
        }
    }

    /// Uploads everything and waits for it, at most `deadline`.
    ///
    /// # Errors
    /// The first file's error, or `TimedOut`.
    pub async fn drain(&self, deadline: Duration) -> Result<(), DfsError> {
        let all = async {
            let mut outcome = Ok(());
            self.freeze_all();
            for file in self.live_files() {
                outcome = outcome.and(file.settle().await);
            }
            outcome
        };
        let late = |_| {
            DfsError::new(
                ErrorCode::TimedOut,
                format!("not everything could be uploaded within {deadline:?}"),
            )
        };
        tokio::time::timeout(deadline, all).await.map_err(late)?
    }

    /// Logs which files have bytes that were not uploaded, for when the process ends with them.
    pub fn log_lost(&self) {
        for file in self.live_files() {
            if let Some(pending) = file.pending_attr() {
                let (inode, bytes) = (file.inode(), pending.bytes);
                tracing::error!(%inode, bytes, "lost: bytes that were written and not yet safe; the file is as it was before them");
            }
        }
    }

    /// Is anything of any file not committed yet?
    pub fn has_pending(&self) -> bool {
        self.live_files().iter().any(|file| file.has_pending())
    }

    fn note_dirty(&self, file: &Arc<FileWriter>) {
        // Not only where there is none: one that is there may be of an earlier open, and end any moment.
        lock(&self.dirty_files).insert(file.inode(), Arc::downgrade(file));
    }

    /// Waits for the turn of one transfer, as long as others get ahead.
    ///
    /// # Errors
    /// `TimedOut` when nothing at all was uploaded for [`UPLOAD_DEADLINE`].
    async fn transfer_turn(&self) -> Result<OwnedSemaphorePermit, DfsError> {
        let mut since = Instant::now();
        loop {
            let turn = self.transfers.clone().acquire_owned();
            match tokio::time::timeout_at((since + UPLOAD_DEADLINE).into(), turn).await {
                Ok(turn) => {
                    return turn.map_err(|_| DfsError::new(ErrorCode::Io, "the mount is shutting down"));
                }
                Err(_) => {
                    let last_success = *lock(&self.last_success);
                    if last_success <= since {
                        let why = "nothing could be uploaded";
                        return Err(DfsError::new(
                            ErrorCode::TimedOut,
                            format!("{why} within {UPLOAD_DEADLINE:?}; is a keeper reachable?"),
                        ));
                    }
                    since = last_success;
                }
            }
        }
    }

    fn note_success(&self) {
        *lock(&self.last_success) = Instant::now();
    }

    fn live_files(&self) -> Vec<Arc<FileWriter>> {
        lock(&self.dirty_files).values().filter_map(Weak::upgrade).collect()
    }

    /// Takes the files that are `due` off the list; those that are gone, or have nothing left, too.
    fn take_dirty(&self, due: impl Fn(&FileWriter) -> bool) -> Vec<Arc<FileWriter>> {
        let mut taken = Vec::new();
        for file in self.live_files() {
            if due(&file) {
                taken.push(file);
            }
        }
        lock(&self.dirty_files).retain(|_, file| file.upgrade().is_some_and(|f| f.has_pending()));
        taken
    }
}

async fn freeze_by_age(writers: Weak<Writers>) {
    loop {
        tokio::time::sleep(AGE_CHECK_EVERY).await;
        let Some(writers) = writers.upgrade() else { return };
        for file in writers.take_dirty(|file| file.dirty_for() >= DIRTY_AGE) {
            file.freeze();
        }
    }
}

/// Permits are bytes; a piece is never larger than a FUSE request or a chunk.
fn permits_for(data: &[u8]) -> u32 {
    u32::try_from(data.len()).unwrap_or(u32::MAX)
}
