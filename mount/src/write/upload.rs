//! Takes a file's frozen buffers through the upload protocol: asks the master for a place (step 1 and 2),
//! transfers to the keeper (step 3), waits for the success message (step 6).
//!
//! One driver task per file asks for places, one after the other, because the order of asking is the order
//! of becoming visible; the transfers then run side by side. A transfer that fails takes another place with the
//! same rank (`Alloc.replaces`). When the master forgot the session's uploads (it was restarted), all that
//! are unfinished are asked for again in order. An upload that does not succeed in time fails the file's
//! whole queue.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dfs_proto::block_sum::{BlockSummer, BlockSums};
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::ChunkId;
use dfs_proto::{pb, upload_step};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::UPLOAD_DEADLINE;
use super::dirty::Frozen;
use super::file::{FileWriter, Upload};

/// Uploads of one file under way at once.
const IN_FLIGHT: usize = 4;

/// Between two attempts, growing from the first to the last.
const BACKOFF: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
];

type Finished = (u64, Result<pb::UploadDone, DfsError>);

/// Works until nothing frozen is left.
pub(super) async fn drive(file: Arc<FileWriter>) {
    let mut running: JoinSet<Finished> = JoinSet::new();
    let mut next = 0;
    loop {
        while let Some(finished) = running.try_join_next() {
            settle(&file, finished.ok(), &mut running, &mut next).await;
        }
        let upload = if running.len() < IN_FLIGHT { file.upload_from(next) } else { None };
        if let Some(upload) = upload {
            next = upload.number + 1;
            begin(&file, upload, &mut running, &mut next).await;
        } else if running.is_empty() {
            if file.stop_driving() {
                return;
            }
            next = 0;
        } else {
            tokio::select! {
                finished = running.join_next() => settle(&file, finished.and_then(Result::ok), &mut running, &mut next).await,
                () = file.frozen.notified() => {}
            }
        }
    }
}

/// Steps 1 and 2 for one upload, and sends its transfer off.
async fn begin(file: &Arc<FileWriter>, upload: Upload, running: &mut JoinSet<Finished>, next: &mut u64) {
    let deadline = Instant::now() + UPLOAD_DEADLINE;
    let attempt = Attempt { file: file.clone(), upload, deadline };
    match attempt.place(0, &[]).await {
        Ok(placed) => {
            let number = attempt.upload.number;
            running.spawn(async move { (number, attempt.run(placed).await) });
        }
        Err(error) => settle(file, Some((attempt.upload.number, Err(error))), running, next).await,
    }
}

/// Takes in how one upload ended.
async fn settle(
    file: &Arc<FileWriter>,
    finished: Option<Finished>,
    running: &mut JoinSet<Finished>,
    next: &mut u64,
) {
    match finished {
        Some((number, Ok(done))) => file.committed(number, done.attr.unwrap_or_default()),
        Some((number, Err(error))) if error.code == ErrorCode::Session => {
            tracing::info!(inode = %file.inode(), upload = number, "the master forgot this file's uploads; asking again: {error}");
            stop(running).await;
            *next = 0;
            sleep(BACKOFF[1]).await;
        }
        Some((_, Err(error))) => {
            stop(running).await;
            for chunk in file.failed(error) {
                // The master drops it by itself when this does not get through.
                let _ = file.writers().client.abort_upload(chunk).await;
            }
            *next = 0;
        }
        // Tasks are only ever cancelled by `stop`, which takes them out; what is left is a panic, which
        // the upload must not survive in silence.
        None => {
            stop(running).await;
            file.failed(DfsError::new(ErrorCode::Io, "an upload task ended without a result; see the log"));
        }
    }
}

async fn stop(running: &mut JoinSet<Finished>) {
    running.abort_all();
    while running.join_next().await.is_some() {}
}

/// One upload until it succeeds, fails for good, or its time is over.
struct Attempt {
    file: Arc<FileWriter>,
    upload: Upload,
    deadline: Instant,
}

impl Attempt {
    /// Asks for a place until there is one.
    async fn place(&self, replaces: u64, avoid: &[u64]) -> Result<pb::Placed, DfsError> {
        let client = &self.file.writers().client;
        let alloc = pb::Alloc {
            inode: self.file.inode().0,
            runs: self.upload.frozen.wire_runs(),
            mtime: Some(self.upload.mtime),
            replaces,
            avoid: avoid.to_vec(),
            sync: self.upload.sync,
        };
        let mut tries = 0;
        loop {
            tracing::debug!(target: "dfs::upload", step = 1, inode = alloc.inode, upload = self.upload.number, replaces = %ChunkId(replaces), "asks the master for a place");
            match client.alloc(alloc.clone()).await {
                Ok(placed) => {
                    upload_step!(
                        2,
                        ChunkId(placed.chunk),
                        inode = alloc.inode,
                        upload = self.upload.number,
                        "got a ticket"
                    );
                    self.file.set_chunk(self.upload.number, ChunkId(placed.chunk));
                    return Ok(placed);
                }
                Err(error) => self.pause(&error, &mut tries).await?,
            }
        }
    }

    /// Waits before another try; gives the error back when there is none.
    async fn pause(&self, error: &DfsError, tries: &mut usize) -> Result<(), DfsError> {
        if !may_pass(error.code) || Instant::now() >= self.deadline {
            return Err(error.clone());
        }
        tracing::warn!(inode = %self.file.inode(), upload = self.upload.number, code = ?error.code, "upload is tried again: {error}");
        sleep(BACKOFF[(*tries).min(BACKOFF.len() - 1)]).await;
        *tries += 1;
        Ok(())
    }

    /// Step 3, and the wait for step 6.
    async fn run(self, mut placed: pb::Placed) -> Result<pb::UploadDone, DfsError> {
        let writers = self.file.writers().clone();
        let _one_of_few = writers
            .transfers
            .acquire()
            .await
            .map_err(|_| DfsError::new(ErrorCode::Io, "the mount is shutting down"))?;
        let pieces: Vec<Bytes> = self.upload.frozen.runs.iter().map(|(_, run)| run.clone()).collect();
        let sums = sum(&self.upload.frozen).await;
        let mut avoid = Vec::new();
        let mut tries = 0;
        loop {
            let chunk = ChunkId(placed.chunk);
            let mut success = std::pin::pin!(writers.client.expect_upload(chunk));
            let stored = timeout_at(
                self.deadline,
                writers.client.keepers().store(&placed, &pieces, &sums, self.upload.sync),
            )
            .await;
            let late = || {
                DfsError::new(
                    ErrorCode::TimedOut,
                    format!(
                        "chunk {chunk} of inode {} was not stored within {UPLOAD_DEADLINE:?}",
                        self.file.inode()
                    ),
                )
            };
            let error = match stored {
                Ok(Ok(_)) => match timeout_at(self.deadline, success.as_mut()).await {
                    Ok(Ok(done)) => {
                        upload_step!(
                            6,
                            chunk,
                            inode = done.inode,
                            copies = done.copies,
                            "success message received"
                        );
                        return Ok(done);
                    }
                    Ok(Err(error)) => error,
                    Err(_) => late(),
                },
                Ok(Err(error)) => {
                    avoid.extend(
                        placed
                            .grant
                            .iter()
                            .flat_map(|grant| grant.keepers.first())
                            .map(|keeper| keeper.keeper),
                    );
                    error
                }
                Err(_) => late(),
            };
            self.pause(&error, &mut tries).await?;
            placed = match self.place(chunk.0, &avoid).await {
                Ok(placed) => placed,
                // The notice may have got through although the transfer's answer did not.
                Err(error) => match tokio::time::timeout(Duration::ZERO, success).await {
                    Ok(Ok(done)) => return Ok(done),
                    Ok(Err(_)) | Err(_) => return Err(error),
                },
            };
        }
    }
}

/// Checksums a buffer, a little at a time, so that the runtime's other tasks get their turn.
async fn sum(frozen: &Frozen) -> BlockSums {
    let mut summer = BlockSummer::new();
    for (_, run) in &frozen.runs {
        for piece in run.chunks(1 << 20) {
            summer.update(piece);
            tokio::task::yield_now().await;
        }
    }
    summer.finish()
}

/// Is it worth another try?
fn may_pass(code: ErrorCode) -> bool {
    match code {
        ErrorCode::Io
        | ErrorCode::Unavailable
        | ErrorCode::TimedOut
        | ErrorCode::Corrupt
        | ErrorCode::TicketExpired
        | ErrorCode::Busy
        | ErrorCode::NoKeeper
        | ErrorCode::Interrupted
        | ErrorCode::Protocol
        | ErrorCode::TicketForged
        | ErrorCode::TicketWrong
        | ErrorCode::ReadOnly
        // The keeper that had it died before the master recorded it.
        | ErrorCode::Lost => true,
        ErrorCode::NotFound
        | ErrorCode::Exists
        | ErrorCode::NotDirectory
        | ErrorCode::IsDirectory
        | ErrorCode::NotEmpty
        | ErrorCode::Invalid
        | ErrorCode::NameTooLong
        | ErrorCode::TooManyLinks
        | ErrorCode::NoSpace
        | ErrorCode::TooLarge
        | ErrorCode::Permission
        | ErrorCode::Access
        | ErrorCode::NoData
        | ErrorCode::Range
        | ErrorCode::TooBig
        | ErrorCode::Stale
        | ErrorCode::NotSupported
        | ErrorCode::Loop
        | ErrorCode::Version
        | ErrorCode::WrongCluster
        | ErrorCode::Session
        | ErrorCode::Deadlock
        | ErrorCode::WouldBlock => false,
    }
}
