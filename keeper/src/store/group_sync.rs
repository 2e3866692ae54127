//! Syncs that are shared by those who ask for one at the same time.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Of one thing that can be synced. A sync that begins after several have asked counts for all of them.
#[derive(Debug, Default)]
pub(super) struct GroupSync {
    asked: AtomicU64,
    done: Mutex<u64>,
}

impl GroupSync {
    /// Returns when what was written before the call is on stable storage, which `sync` sees to.
    ///
    /// # Errors
    /// Those of `sync`.
    pub fn sync(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mine = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if *done >= mine {
            return Ok(());
        }
        let covers = self.asked.load(Ordering::SeqCst);
        sync()?;
        *done = covers;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_counts_for_all_who_asked_before_it_began() {
        let group = GroupSync::default();
        group.sync(|| Ok(())).unwrap();
        assert_eq!(*group.done.lock().unwrap(), 1);
        // Two more ask; the sync of the second one, which comes first to the lock, covers both.
        group.asked.fetch_add(1, Ordering::SeqCst);
        group.sync(|| Ok(())).unwrap();
        assert_eq!(*group.done.lock().unwrap(), 3);
        group.sync(|| Err(io::ErrorKind::NotFound.into())).unwrap_err();
        assert_eq!(*group.done.lock().unwrap(), 3, "a sync that failed counts for nobody");
    }
}
