//! The thread that commits: it owns the store, and is the only one that waits for the disk.

use std::sync::PoisonError;

use super::engine::Shared;
use crate::store::{Store, StoreError};

/// What is left to do when the commit thread ends, however it does.
struct LastWords<'a>(&'a Shared);

impl Drop for LastWords<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("the master's commit thread broke (a bug); the log says where".to_owned());
        }
        self.0.finished.send_replace(true);
    }
}

/// Commits batch after batch, until the engine stops or fails. Then everything that was committed has been
/// delivered, every connection is closed, and so is the store.
pub(super) fn commit_thread(shared: &Shared, store: Box<dyn Store>) {
    let _last_words = LastWords(shared);
    // Declared after the above, so that it is closed before "finished" is said.
    let mut store = store;
    if let Err(error) = commit_batches(shared, &mut *store) {
        shared.fail(format!("commit of changes: {error}"));
    }
    let mut inner = shared.inner.lock().unwrap_or_else(PoisonError::into_inner);
    inner.close_all();
}

/// Until the engine stops: one batch after the other, and snapshots between them.
fn commit_batches(shared: &Shared, store: &mut dyn Store) -> Result<(), StoreError> {
    loop {
        let (changes, snapshots) = {
            let Ok(mut inner) = shared.inner.lock() else { return Ok(()) };
            while !inner.group.has_open() && inner.snapshots.is_empty() && !inner.stopping {
                inner = match shared.work.wait(inner) {
                    Ok(inner) => inner,
                    Err(_) => return Ok(()),
                };
            }
            let snapshots = std::mem::take(&mut inner.snapshots);
            if shared.has_failed() || (!inner.group.has_open() && snapshots.is_empty()) {
                return Ok(());
            }
            (inner.group.has_open().then(|| inner.group.take()), snapshots)
        };
        for wanted in snapshots {
            // Whoever wanted it may have given up.
            let _ = wanted.send(store.snapshot());
        }
        let Some(changes) = changes else { continue };
        if !changes.is_empty() {
            store.commit(&changes)?;
        }
        let Ok(mut inner) = shared.inner.lock() else { return Ok(()) };
        let committed = inner.group.committed();
        inner.deliver(committed.effects);
        shared.durable.send_replace(inner.group.durable());
        drop(inner);
        shared.room.add_permits(committed.commands);
    }
}
