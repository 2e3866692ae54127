//! Who waits for the master's success message, upload step 6.
//!
//! What must hold: a wait ends with the message, or with an error once it is sure that no message can come: the
//! master was restarted, it forgot the session, or the session has been away for too long.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::ChunkId;
use dfs_proto::pb;
use tokio::sync::oneshot;

use super::session::Shared;

type Done = Result<pb::UploadDone, DfsError>;

struct Waiting {
    done: oneshot::Sender<Done>,
    /// Tells this wait from a later one for the same chunk.
    ticket: u64,
    /// How often the session had been resumed when the wait began.
    resumes: u64,
}

/// The waits of one session.
#[derive(Default)]
pub(super) struct Uploads {
    waiting: HashMap<ChunkId, Waiting>,
    last_ticket: u64,
    resumes: u64,
}

impl Uploads {
    fn register(&mut self, chunk: ChunkId) -> (u64, oneshot::Receiver<Done>) {
        let (done, receiver) = oneshot::channel();
        self.last_ticket += 1;
        self.waiting.insert(chunk, Waiting { done, ticket: self.last_ticket, resumes: self.resumes });
        (self.last_ticket, receiver)
    }

    fn forget(&mut self, chunk: ChunkId, ticket: u64) {
        if self.waiting.get(&chunk).is_some_and(|waiting| waiting.ticket == ticket) {
            self.waiting.remove(&chunk);
        }
    }

    /// The message came.
    pub(super) fn finish(&mut self, mut message: pb::UploadDone) {
        let chunk = ChunkId(message.chunk);
        let Some(waiting) = self.waiting.remove(&chunk) else {
            tracing::debug!(%chunk, "success message for an upload that nobody waits for");
            return;
        };
        let done = match message.error.take() {
            Some(error) => Err(DfsError::from_wire(error)),
            None => Ok(message),
        };
        // A waiter that went away meanwhile wants no answer.
        let _ = waiting.done.send(done);
    }

    /// The session was resumed with a master that knows its uploads.
    pub(super) fn resumed(&mut self) {
        self.resumes += 1;
    }

    /// Ends the waits that began before the session was last resumed: their message was lost in the break.
    pub(super) fn fail_older_than_resume(&mut self, why: &str) {
        let resumes = self.resumes;
        self.fail_where(why, |waiting| waiting.resumes < resumes);
    }

    /// Ends all waits.
    pub(super) fn fail_all(&mut self, why: &str) {
        self.fail_where(why, |_| true);
    }

    fn fail_where(&mut self, why: &str, which: impl Fn(&Waiting) -> bool) {
        for (chunk, waiting) in self.waiting.extract_if(|_, waiting| which(waiting)) {
            let message = format!("upload of chunk {chunk} has to be done again: {why}");
            let _ = waiting.done.send(Err(DfsError::new(ErrorCode::Session, message)));
        }
    }
}

/// A future: the master's success message for one chunk.
///
/// Its error is the master's (the chunk is not and will not be in the file), or has code `Session`: the master
/// knows nothing of the upload any more, and it has to be begun anew with an `Alloc`.
#[must_use = "an upload counts only when the master said success"]
pub struct UploadWaiter {
    shared: Arc<Shared>,
    chunk: ChunkId,
    ticket: u64,
    done: oneshot::Receiver<Done>,
}

impl UploadWaiter {
    pub(super) fn register(shared: &Arc<Shared>, chunk: ChunkId) -> UploadWaiter {
        let (ticket, done) = shared.uploads().register(chunk);
        UploadWaiter { shared: shared.clone(), chunk, ticket, done }
    }
}

impl Future for UploadWaiter {
    type Output = Done;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done> {
        let chunk = self.chunk;
        Pin::new(&mut self.done).poll(cx).map(|done| {
            done.unwrap_or_else(|_| {
                let message = format!("upload of chunk {chunk}: the session with the master is over");
                Err(DfsError::new(ErrorCode::Session, message))
            })
        })
    }
}

impl Drop for UploadWaiter {
    fn drop(&mut self) {
        self.shared.uploads().forget(self.chunk, self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_the_message_is_an_error() {
        let mut uploads = Uploads::default();
        let (_, mut done) = uploads.register(ChunkId(5));
        let error = DfsError::new(ErrorCode::Stale, "gone");
        uploads.finish(pb::UploadDone { chunk: 5, error: Some(error.to_wire()), ..Default::default() });
        assert_eq!(done.try_recv().unwrap(), Err(error));
    }

    #[test]
    fn only_waits_from_before_the_resume_fail() {
        let mut uploads = Uploads::default();
        let (_, mut old) = uploads.register(ChunkId(1));
        uploads.resumed();
        let (_, mut new) = uploads.register(ChunkId(2));
        uploads.fail_older_than_resume("lost");
        assert_eq!(old.try_recv().unwrap().unwrap_err().code, ErrorCode::Session);
        assert!(new.try_recv().is_err());
    }

    #[test]
    fn a_waiter_that_went_away_does_not_take_a_later_ones_place() {
        let mut uploads = Uploads::default();
        let (first, _) = uploads.register(ChunkId(1));
        let (_, mut second) = uploads.register(ChunkId(1));
        uploads.forget(ChunkId(1), first);
        uploads.finish(pb::UploadDone { chunk: 1, ..Default::default() });
        assert!(second.try_recv().unwrap().is_ok());
    }
}
