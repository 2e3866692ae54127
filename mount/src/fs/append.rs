//! Appending (O_APPEND), together with other mounts: where the bytes of a write go is decided here, not by the kernel,
//! and only while this mount has the file's append lease.
//!
//! The lease is asked for at the first append and kept until another mount wants it, so that one who appends alone
//! pays for it once. Then all that was written is committed before it is given back, and whoever has it next is
//! told the file's size. A mount that has just got it may use it for [`TURN`] though others wait: a turn costs an
//! upload, and so many writes share one.
//!
//! What must hold: no byte is placed without a turn ([`Turn`]); the lease is given back only when no turn is under way
//! and nothing that was written is uncommitted. What was placed under a lease that got lost, the master refuses.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use tokio::sync::{Notify, oneshot};

use super::open_file::OpenFile;
use super::{Fs, Result};
use crate::client::Client;
use crate::lock::lock;

/// How long a mount that got the lease may append though others wait.
const TURN: Duration = Duration::from_millis(20);
/// Longest wait for the lease: one that has vanished without a word loses it after 40 s.
const LEASE_WAIT: Duration = Duration::from_secs(90);
/// A piece of at least this many bytes may be one of several that the kernel made of one write.
const LARGE_PIECE: usize = (1 << 20) - 4096;
/// The next piece comes within this, if there is one.
const NEXT_PIECE: Duration = Duration::from_millis(200);
/// Large pieces, one after the other, keep the lease no longer than this.
const LARGE_PIECES: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Phase {
    /// Not here.
    #[default]
    Away,
    /// On its way.
    Asked,
    /// Here.
    Held,
    /// Here for those who have their turn already.
    Closing,
}

/// The append lease of one open file. While it is not away, one task sees to it.
#[derive(Default)]
pub struct AppendLease {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    phase: Phase,
    granted_at: Option<Instant>,
    /// Since when somebody else wants it.
    recalled_at: Option<Instant>,
    /// It is of no use any more: no turn is left to its holder.
    at_once: bool,
    large_piece_at: Option<Instant>,
    /// Appends under way.
    turns: usize,
    waiting: Vec<oneshot::Sender<Result<Turn>>>,
    /// Handles that have appended and are open.
    handles: usize,
    /// How often it was given back, or not got.
    ended: u64,
}

/// The right to place bytes at the end of the file. Short: the lease is not given back before it ends.
pub struct Turn(Arc<OpenFile>);

impl Turn {
    fn wrote(&self, bytes: usize) {
        lock(&self.0.lease.state).large_piece_at = (bytes >= LARGE_PIECE).then(Instant::now);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let lease = &self.0.lease;
        let last = {
            let mut state = lock(&lease.state);
            state.turns -= 1;
            state.turns == 0
        };
        if last {
            lease.changed.notify_waiters();
        }
    }
}

impl State {
    fn recall(&mut self, at_once: bool) {
        if self.phase != Phase::Away {
            self.recalled_at.get_or_insert_with(Instant::now);
            self.at_once |= at_once;
        }
    }

    /// How long the lease stays although it is wanted elsewhere; `None`: until it is.
    fn stays_for(&self, now: Instant) -> Option<Duration> {
        let recalled_at = self.recalled_at?;
        if self.at_once {
            return Some(Duration::ZERO);
        }
        let turn = self.granted_at.map(|granted| granted + TURN);
        let piece = self.large_piece_at.map(|at| (at + NEXT_PIECE).min(recalled_at + LARGE_PIECES));
        Some(turn.max(piece).map_or(Duration::ZERO, |until| until.saturating_duration_since(now)))
    }

    /// From now on until the master has answered.
    fn ask(&mut self) {
        self.phase = Phase::Asked;
        self.recalled_at = None;
        self.at_once = false;
    }
}

impl AppendLease {
    /// Another mount waits for it.
    pub fn recall(&self) {
        lock(&self.state).recall(false);
        self.changed.notify_waiters();
    }

    /// One more handle appends.
    pub fn join(&self) {
        lock(&self.state).handles += 1;
    }

    /// One less. After the last the lease is given back; returns when it was.
    pub async fn leave(&self) {
        let ended = {
            let mut state = lock(&self.state);
            state.handles -= 1;
            if state.handles > 0 || state.phase == Phase::Away {
                return;
            }
            state.recall(true);
            state.ended
        };
        self.changed.notify_waiters();
        let until_ended = self.until(|state| (state.ended != ended).then_some(()));
        if tokio::time::timeout(LEASE_WAIT, until_ended).await.is_err() {
            tracing::error!("an append lease could not be given back within {LEASE_WAIT:?}");
        }
    }

    async fn until<T>(&self, mut look: impl FnMut(&mut State) -> Option<T> + Send) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let found = look(&mut lock(&self.state));
            if let Some(found) = found {
                return found;
            }
            changed.await;
        }
    }
}

/// A turn, if the lease is here.
fn try_turn(file: &Arc<OpenFile>, client: &Client) -> Option<Turn> {
    let mut state = lock(&file.lease.state);
    if state.phase != Phase::Held {
        return None;
    }
    if client.holds_append(file.inode) {
        state.turns += 1;
        return Some(Turn(file.clone()));
    }
    // Lost with the session. What was placed meanwhile is refused by the master; then it is asked for anew.
    state.recall(true);
    drop(state);
    file.lease.changed.notify_waiters();
    None
}

/// A turn, as soon as the lease is here.
///
/// # Errors
/// Those of [`Client::acquire_append`].
async fn turn(file: &Arc<OpenFile>, client: &Client) -> Result<Turn> {
    if let Some(turn) = try_turn(file, client) {
        return Ok(turn);
    }
    let (sender, answer) = oneshot::channel();
    let first = {
        let mut state = lock(&file.lease.state);
        state.waiting.push(sender);
        let first = state.phase == Phase::Away;
        if first {
            state.ask();
        }
        first
    };
    if first {
        tokio::spawn(keep(file.clone(), client.clone()));
    }
    match tokio::time::timeout(LEASE_WAIT, answer).await {
        Ok(Ok(turn)) => turn,
        Ok(Err(_)) => Err(DfsError::new(ErrorCode::Io, "the task of the append lease broke; see the log")),
        Err(_) => Err(DfsError::new(
            ErrorCode::TimedOut,
            format!("append to inode {}: no append lease within {LEASE_WAIT:?}", file.inode),
        )),
    }
}

/// Sees to the lease until nobody here wants it any more.
async fn keep(file: Arc<OpenFile>, client: Client) {
    loop {
        tracing::debug!(inode = %file.inode, "append lease asked for");
        match client.acquire_append(file.inode, LEASE_WAIT).await {
            Ok(attr) => file.learn(&attr),
            Err(error) => return refuse(&file, &error),
        }
        {
            let mut state = lock(&file.lease.state);
            state.granted_at = Some(Instant::now());
            state.large_piece_at = None;
        }
        open(&file);
        until_closed(&file).await;
        if let Err(error) = file.writer.settle_in_the_end().await {
            tracing::warn!(inode = %file.inode, "what was appended is lost, and its writers are told: {error}");
        }
        if let Err(error) = client.return_append(file.inode).await {
            tracing::warn!(inode = %file.inode, "the append lease could not be given back: {error}");
        }
        let goes_on = {
            let mut state = lock(&file.lease.state);
            state.ended += 1;
            let goes_on = !state.waiting.is_empty();
            if goes_on {
                state.ask()
            } else {
                state.phase = Phase::Away
            }
            goes_on
        };
        file.lease.changed.notify_waiters();
        if !goes_on {
            return;
        }
    }
}

/// Ends when the lease is wanted elsewhere, may not stay, and nobody can place bytes any more.
async fn until_closed(file: &Arc<OpenFile>) {
    let lease = &file.lease;
    loop {
        let stays = lease.until(|state| state.stays_for(Instant::now())).await;
        if !stays.is_zero() {
            tokio::time::sleep(stays).await;
            continue;
        }
        lock(&lease.state).phase = Phase::Closing;
        lease.until(|state| (state.turns == 0).then_some(())).await;
        // The last of these turns may have been the first piece of a long write.
        if lock(&lease.state).stays_for(Instant::now()) == Some(Duration::ZERO) {
            return;
        }
        open(file);
    }
}

/// The lease is here: gives all who wait their turn.
fn open(file: &Arc<OpenFile>) {
    let waiting = {
        let mut state = lock(&file.lease.state);
        state.phase = Phase::Held;
        let waiting = std::mem::take(&mut state.waiting);
        state.turns += waiting.len();
        waiting
    };
    for sender in waiting {
        // Whoever has given up gives its turn back by dropping it.
        let _ = sender.send(Ok(Turn(file.clone())));
    }
}

/// There is no lease: gives all who wait the error.
fn refuse(file: &Arc<OpenFile>, error: &DfsError) {
    let waiting = {
        let mut state = lock(&file.lease.state);
        state.phase = Phase::Away;
        state.ended += 1;
        std::mem::take(&mut state.waiting)
    };
    for sender in waiting {
        let _ = sender.send(Err(error.clone()));
    }
    file.lease.changed.notify_waiters();
}

impl Fs {
    /// write(2) with O_APPEND: all of `data` in one piece at the end of the file, wherever the kernel believes that
    /// to be. Returns the offset. `data` is at most what one FUSE request holds.
    ///
    /// # Errors
    /// `TimedOut`: another mount does not give the append lease back; else as [`Fs::write`].
    pub async fn append(&self, handle: u64, data: &[u8]) -> Result<u64> {
        let handle = self.handles.get(handle)?;
        handle.appends();
        let file = &handle.file;
        let turn = turn(file, &self.client).await?;
        file.refresh_changed(&self.client).await?;
        let at = handle.writer.append(data, &|| file.committed_size()).await?;
        turn.wrote(data.len());
        Ok(at)
    }

    /// The same without waiting; `None`: something has to be waited for.
    pub fn try_append(&self, handle: u64, data: &[u8]) -> Option<Result<u64>> {
        let handle = self.handles.get(handle).ok()?;
        let file = &handle.file;
        let turn = try_turn(file, &self.client)?;
        if file.is_changed() {
            return None;
        }
        handle.appends();
        let at = handle.writer.try_append(data, &|| file.committed_size())?;
        turn.wrote(data.len());
        Some(at)
    }

    /// Another mount waits for the append lease of this file.
    pub(super) fn recall_append(&self, inode: InodeNo) {
        if let Some(file) = self.files.get(inode) {
            file.lease.recall();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_stays_for_its_turn_and_for_the_next_piece_of_a_long_write() {
        let now = Instant::now();
        let ago = |ms| now.checked_sub(Duration::from_millis(ms));
        let ms = |state: &State| state.stays_for(now).map(|stays| stays.as_millis());
        let mut state = State { phase: Phase::Held, granted_at: ago(5), ..State::default() };
        assert_eq!(ms(&state), None, "nobody else wants it");
        state.recalled_at = ago(1);
        assert_eq!(ms(&state), Some(15));
        state.granted_at = ago(5_000);
        assert_eq!(ms(&state), Some(0));
        state.large_piece_at = ago(50);
        assert_eq!(ms(&state), Some(150));
        state.recalled_at = ago(4_990);
        assert_eq!(ms(&state), Some(10), "large pieces do not keep it for ever");
        state.at_once = true;
        assert_eq!(ms(&state), Some(0));
    }
}
