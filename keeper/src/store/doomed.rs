//! Chunks that the master has had deleted: those whose files have yet to go, and for a while those that are gone, so that
//! what comes late is not kept.
//!
//! What must hold: a doomed chunk is in no inventory; its file goes, unless a copy of it is pushed here again first; and
//! an upload of it takes no place any more. Nothing is done under the lock but looking things up.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dfs_proto::ids::ChunkId;

/// How long after its deletion a chunk may still come in: longer than a ticket and a transfer.
const REMEMBERED: Duration = Duration::from_secs(150);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// The order is in line.
    Waiting,
    /// Done, then.
    Gone(Instant),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Doomed(Mutex<HashMap<ChunkId, Fate>>);

impl Doomed {
    /// The master wants it deleted.
    pub fn doom(&self, chunk: ChunkId) {
        self.lock().insert(chunk, Fate::Waiting);
    }

    pub fn is_doomed(&self, chunk: ChunkId) -> bool {
        self.lock().contains_key(&chunk)
    }

    /// Has its file yet to go?
    pub fn is_waiting(&self, chunk: ChunkId) -> bool {
        self.lock().get(&chunk) == Some(&Fate::Waiting)
    }

    /// The master wants it here again.
    pub fn spare(&self, chunk: ChunkId) {
        self.lock().remove(&chunk);
    }

    /// Its file is gone.
    pub fn gone(&self, chunk: ChunkId) {
        if let Some(fate) = self.lock().get_mut(&chunk) {
            *fate = Fate::Gone(Instant::now());
        }
    }

    /// Forgets those that cannot come in any more.
    pub fn forget_old(&self) {
        self.lock().retain(|_, fate| match fate {
            Fate::Waiting => true,
            Fate::Gone(when) => when.elapsed() < REMEMBERED,
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ChunkId, Fate>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
