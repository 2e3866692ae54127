//! Takes a file's frozen buffers through the upload protocol: asks the master for a place (step 1 and 2),
//! transfers to the keeper (step 3), waits for the success message (step 6).
//!
//! One driver task per file asks for places, one after the other, because the order of asking is the order
//! of becoming visible; the transfers then run side by side. A transfer that fails takes another place with the
//! same rank (`Alloc.replaces`). When that rank is lost (the stream to the master broke), all that
//! are unfinished are asked for again in order, and nothing later is asked for before that (`queue`). An upload that does not
//! succeed in time fails the file's whole queue.
//!
//! What must hold: a place that was given and is not used any more is given back, for the master keeps later
//! ones of the file waiting behind it.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use dfs_proto::block_sum::{BlockSummer, BlockSums};
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::ChunkId;
use dfs_proto::{pb, upload_step};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::UPLOAD_DEADLINE;
use super::dirty::Frozen;
use super::file::FileWriter;
use super::queue::Upload;
use crate::client::UploadWaiter;
use crate::client::lanes::Lane;
use crate::client::operation;

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

/// Of a task.
type Ended = Result<Finished, JoinError>;

/// Longest that one upload is asked for anew, counted from the first time.
const GIVE_UP: Duration = UPLOAD_DEADLINE.saturating_mul(2);

/// Where the driver goes on.
#[derive(PartialEq, Eq)]
enum Then {
    WithTheNext,
    FromTheOldest,
}

/// Works until nothing frozen is left.
pub(super) async fn drive(file: Arc<FileWriter>) {
    let mut running: JoinSet<Finished> = JoinSet::new();
    let mut next = 0;
    loop {
        let upload = if running.len() < IN_FLIGHT { file.upload_from(next) } else { None };
        let ended = if let Some(upload) = upload {
            // The turn comes before the place: a ticket does not grow old in a queue, and no upload waits for a turn
            // while later ones of its file, which wait for it, have them all.
            tokio::select! {
                biased;
                Some(ended) = running.join_next() => Some(ended),
                turn = file.writers().transfer_turn() => begin(&file, upload, turn, &mut running, &mut next).await
            }
        } else if running.is_empty() {
            if file.stop_driving() {
                return;
            }
            next = 0;
            None
        } else {
            tokio::select! {
                ended = running.join_next() => ended,
                () = file.frozen.notified() => None,
            }
        };
        if let Some(ended) = ended
            && take_in(&file, ended, &mut running).await == Then::FromTheOldest
        {
            next = 0;
        }
    }
}

/// Steps 1 and 2 for one upload, and sends its transfer off. Returns its end, if it got no place. The one to go on with is `next`.
async fn begin(
    file: &Arc<FileWriter>,
    upload: Upload,
    turn: Result<OwnedSemaphorePermit, DfsError>,
    running: &mut JoinSet<Finished>,
    next: &mut u64,
) -> Option<Ended> {
    let number = upload.number;
    *next = number + 1;
    let turn = match turn {
        Ok(turn) => turn,
        Err(error) => return Some(Ok((number, Err(error)))),
    };
    let now = Instant::now();
    let last = upload.begun.map_or(now, Instant::from_std) + GIVE_UP;
    let lane = upload.lane();
    let attempt = Attempt { file: file.clone(), upload, deadline: last.min(now + UPLOAD_DEADLINE) };
    let operation = attempt.upload.operation;
    match operation::within(operation, attempt.place(0, &[])).await {
        Ok(placed) => {
            let transfer = async move {
                let _turn = turn;
                (number, attempt.run(placed).await)
            };
            running.spawn_on(operation::within(operation, transfer), file.writers().client.lanes().of(lane));
            None
        }
        // The stream broke. It is asked for again when it is known how those ended that were asked for over that.
        Err(error) if error.code == ErrorCode::Session => {
            *next = number;
            sleep(BACKOFF[0]).await;
            None
        }
        Err(error) => Some(Ok((number, Err(error)))),
    }
}

/// Takes in how one upload ended.
async fn take_in(file: &Arc<FileWriter>, ended: Ended, running: &mut JoinSet<Finished>) -> Then {
    let error = match ended {
        Ok((number, Ok(done))) => {
            file.committed(number, &done);
            return Then::WithTheNext;
        }
        Ok((_, Err(error))) if error.code == ErrorCode::WouldBlock => {
            file.writers().client.forget_append(file.inode());
            DfsError::new(ErrorCode::Io, format!("what was appended is dropped: {}", error.message))
        }
        Ok((_, Err(error))) => error,
        // Only `stop` cancels, and takes out what it cancelled; what is left is a panic, which the upload
        // must not survive in silence.
        Err(error) => DfsError::new(ErrorCode::Io, format!("an upload task broke: {error}; see the log")),
    };
    stop(file, running).await;
    let in_time = file.under_way_since().is_some_and(|since| since.elapsed() < GIVE_UP);
    if error.code == ErrorCode::Session && in_time {
        tracing::info!(inode = %file.inode(), "this file's uploads lost their order; asking again: {error}");
        count_recorded(file).await;
        give_back(file, file.begin_anew()).await;
        sleep(BACKOFF[1]).await;
    } else {
        give_back(file, file.failed(error)).await;
    }
    Then::FromTheOldest
}

/// Ends all transfers. Those that had ended well count.
async fn stop(file: &FileWriter, running: &mut JoinSet<Finished>) {
    running.abort_all();
    while let Some(ended) = running.join_next().await {
        if let Ok((number, Ok(done))) = ended {
            file.committed(number, &done);
        }
    }
}

/// Some may be in the file without our having heard of it, when the master was restarted. To write them again would put
/// older bytes over newer ones, if only for a moment. The master records a file's uploads in the order of their places: the newest
/// that is in the file shows that those before it were, too.
async fn count_recorded(file: &FileWriter) {
    let client = &file.writers().client;
    let mut unknown = file.unknown().into_iter();
    let recorded = loop {
        let Some((number, chunk)) = unknown.next() else { return };
        match client.abort_upload(file.inode(), chunk).await {
            Err(error) if error.code == ErrorCode::Exists => break number,
            _ => {}
        }
    };
    let Ok(attr) = client.getattr(file.inode()).await else { return };
    // Whether all others have heard of it, nobody knows.
    let done =
        pb::UploadDone { inode: file.inode().0, attr: Some(attr), acks_pending: true, ..Default::default() };
    for number in std::iter::once(recorded).chain(unknown.map(|(number, _)| number)) {
        tracing::info!(inode = %file.inode(), upload = number, "is in the file, as a restarted master knows");
        file.committed(number, &done);
    }
}

/// Has the master forget these chunks. Returns when all are asked for, in this order and so before whatever is asked
/// for next; the answers are not waited for. The master drops by itself, later, what does not get through.
async fn give_back(file: &Arc<FileWriter>, chunks: Vec<ChunkId>) {
    let abort = |chunk| {
        let file = file.clone();
        Box::pin(async move {
            if let Err(error) = file.writers().client.abort_upload(file.inode(), chunk).await {
                tracing::warn!(inode = %file.inode(), %chunk, "an upload that is given up could not be taken back: {error}");
            }
        })
    };
    let mut aborts: Vec<_> = chunks.into_iter().map(abort).collect();
    std::future::poll_fn(|context| {
        aborts.retain_mut(|abort| abort.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    for abort in aborts {
        file.writers().client.lanes().of(Lane::Control).spawn(abort);
    }
}

/// One upload until it succeeds, fails for good, or its time is over.
struct Attempt {
    file: Arc<FileWriter>,
    upload: Upload,
    deadline: Instant,
}

impl Attempt {
    /// Asks for a place until there is one. One that was to take the place of another (`replaces`) and cannot
    /// ends with code `Session`: the whole order has to be asked for anew. Over another stream, the master says whether it is.
    /// The first one ends with that code when its stream breaks.
    async fn place(&self, replaces: u64, avoid: &[u64]) -> Result<pb::Placed, DfsError> {
        let alloc = pb::Alloc {
            inode: self.file.inode().0,
            runs: self.upload.frozen.wire_runs(),
            mtime: Some(self.upload.mtime),
            replaces,
            avoid: avoid.to_vec(),
            sync: self.upload.sync,
            append: self.upload.append,
        };
        let mut tries = 0;
        loop {
            tracing::debug!(target: "dfs::upload", step = 1, inode = alloc.inode, upload = self.upload.number, replaces = %ChunkId(replaces), "asks the master for a place");
            let placed = timeout_at(self.deadline, self.ask(alloc.clone())).await;
            match placed.unwrap_or_else(|_| Err(self.late("got no place"))) {
                Ok(placed) => return Ok(placed),
                Err(error) if replaces != 0 && error.code == ErrorCode::TimedOut => {
                    return Err(DfsError::new(ErrorCode::Session, error.message));
                }
                Err(error) if replaces != 0 && error.code == ErrorCode::Session => {}
                // The master's word, not a keeper's: this user may not write.
                Err(error) if error.code == ErrorCode::ReadOnly => return Err(error),
                Err(error) => self.may_go_on(&error)?,
            }
            sleep(backoff(tries)).await;
            tries += 1;
        }
    }

    /// Asks in a task of its own, which goes on when the one who asks is stopped: so a place that comes too late is
    /// still given back.
    async fn ask(&self, alloc: pb::Alloc) -> Result<pb::Placed, DfsError> {
        let (file, upload) = (self.file.clone(), self.upload.clone());
        // What takes another's place, the master refuses over another stream than that was asked for.
        let stream = if alloc.replaces == 0 { upload.stream } else { file.writers().client.stream() };
        let operation = upload.operation;
        let asking = async move {
            let placed = file.writers().client.alloc(alloc, stream).await?;
            let chunk = ChunkId(placed.chunk);
            if file.take_place(&upload, chunk) {
                upload_step!(2, chunk, inode = file.inode().0, upload = upload.number, "got a ticket");
                return Ok(placed);
            }
            give_back(&file, vec![chunk]).await;
            Err(DfsError::new(
                ErrorCode::Interrupted,
                format!("chunk {chunk} was placed too late and is given back"),
            ))
        };
        let asking = operation::within(operation, asking);
        let asking = self.file.writers().client.lanes().of(Lane::Control).spawn(asking);
        let broken = |error: JoinError| DfsError::new(ErrorCode::Io, format!("a task broke: {error}"));
        asking.await.unwrap_or_else(|error| Err(broken(error)))
    }

    /// Gives the error back when another try makes no sense.
    fn may_go_on(&self, error: &DfsError) -> Result<(), DfsError> {
        if !may_pass(error.code) || Instant::now() >= self.deadline {
            return Err(error.clone());
        }
        tracing::warn!(inode = %self.file.inode(), upload = self.upload.number, code = ?error.code, "upload is tried again: {error}");
        Ok(())
    }

    fn late(&self, what: &str) -> DfsError {
        let (number, inode) = (self.upload.number, self.file.inode());
        DfsError::new(
            ErrorCode::TimedOut,
            format!("upload {number} of inode {inode} {what} within {UPLOAD_DEADLINE:?}"),
        )
    }

    /// Step 3, and the wait for step 6.
    async fn run(self, mut placed: pb::Placed) -> Result<pb::UploadDone, DfsError> {
        let writers = self.file.writers().clone();
        let pieces: Vec<Bytes> = self.upload.frozen.runs.iter().map(|(_, run)| run.clone()).collect();
        let sums = sum(&self.upload.frozen).await;
        let mut avoid = Vec::new();
        let mut tries = 0;
        loop {
            let chunk = ChunkId(placed.chunk);
            let mut success = writers.client.expect_upload(chunk);
            let transfer = writers.client.keepers(self.upload.lane()).store(
                &placed,
                &pieces,
                &sums,
                self.upload.sync,
                tries,
            );
            let transfer = async {
                let stored = timeout_at(self.deadline, transfer).await;
                stored.unwrap_or_else(|_| Err(self.late("was not stored")))
            };
            let (stored, early) = unless_refused(transfer, &mut success).await;
            // Also after a failure: the notice may have got through although the transfer's answer did not.
            let patience = match &stored {
                Ok(_) => self.deadline,
                Err(_) => self.deadline.min(Instant::now() + backoff(tries)),
            };
            let told = match early {
                Some(told) => Ok(told),
                None => timeout_at(patience, &mut success).await,
            };
            let success = match (told, stored) {
                (Ok(Ok(done)), _) => return Ok(self.succeeded(chunk, done)),
                (Ok(Err(refused)), _) => {
                    self.may_go_on(&refused)?;
                    sleep(backoff(tries)).await;
                    None
                }
                (Err(_), Err(error)) => {
                    avoid.extend(primary(&placed));
                    self.may_go_elsewhere(&error)?;
                    Some(success)
                }
                (Err(_), Ok(_)) => return Err(self.late("was stored, but not recorded")),
            };
            tries += 1;
            writers.retries.inc();
            placed = match (self.place(chunk.0, &avoid).await, success) {
                (Ok(placed), _) => placed,
                // It is in the file: the message came before this answer.
                (Err(error), Some(success)) if error.code == ErrorCode::Exists => {
                    return match timeout(Duration::ZERO, success).await {
                        Ok(Ok(done)) => Ok(self.succeeded(chunk, done)),
                        _ => Err(DfsError::new(ErrorCode::Session, error.message)),
                    };
                }
                (Err(error), _) => return Err(error),
            };
        }
    }

    fn succeeded(&self, chunk: ChunkId, done: pb::UploadDone) -> pb::UploadDone {
        self.file.writers().note_success();
        upload_step!(6, chunk, inode = done.inode, copies = done.copies, "success message received");
        done
    }

    /// Gives a transfer's error back when no other keeper, nor the same one later, could do better. One that is
    /// full is not the only one; and one that was told to forget the chunk, since a session broke, says so before the master does.
    fn may_go_elsewhere(&self, error: &DfsError) -> Result<(), DfsError> {
        let passes = matches!(error.code, ErrorCode::NoSpace | ErrorCode::Stale);
        if passes && Instant::now() < self.deadline {
            return Ok(());
        }
        self.may_go_on(error)
    }
}

/// Waits for a transfer, but not once the master has said that its chunk will not be in the file. Returns what it said meanwhile, too.
async fn unless_refused(
    transfer: impl Future<Output = Result<pb::WriteDone, DfsError>>,
    success: &mut UploadWaiter,
) -> (Result<pb::WriteDone, DfsError>, Option<Result<pb::UploadDone, DfsError>>) {
    let mut transfer = pin!(transfer);
    tokio::select! {
        biased;
        stored = &mut transfer => (stored, None),
        told = success => match &told {
            Ok(_) => (transfer.await, Some(told)),
            Err(refused) => (Err(refused.clone()), Some(told)),
        }
    }
}

fn backoff(tries: usize) -> Duration {
    BACKOFF[tries.min(BACKOFF.len() - 1)]
}

/// Whom the bytes were sent to.
fn primary(placed: &pb::Placed) -> Option<u64> {
    placed.grant.as_ref()?.keepers.first().map(|keeper| keeper.keeper)
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
        | ErrorCode::TicketUsed
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
        | ErrorCode::WouldBlock
        | ErrorCode::QuotaExceeded
        | ErrorCode::CrossesQuota
        | ErrorCode::Unauthenticated => false,
    }
}
