//! The thread that commits: it owns the store, and is the only one that waits for the disk.

use std::io::ErrorKind;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use dfs_proto::error::{DfsError, ErrorCode};

use super::engine::{Inner, Shared};
use crate::core::RowChange;
use crate::store::{Store, StoreError};

/// How often a store that took nothing is tried again, and one that has nothing to do is looked after; and how long changes
/// wait that nobody waits for.
const TRY_AGAIN: Duration = Duration::from_millis(500);

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

/// Until the engine stops: one batch after the other, and snapshots between them. While there is nothing to do, it looks
/// after the store, which may have found out since that the disk takes no writes, and commits what nobody waits for.
fn commit_batches(shared: &Shared, store: &mut dyn Store) -> Result<(), StoreError> {
    loop {
        let (changes, snapshots) = {
            let Ok(inner) = shared.inner.lock() else { return Ok(()) };
            let nothing =
                |inner: &mut Inner| !inner.group.hurries() && inner.snapshots.is_empty() && !inner.stopping;
            let Ok((mut inner, waited)) = shared.work.wait_timeout_while(inner, TRY_AGAIN, nothing) else {
                return Ok(());
            };
            let snapshots = std::mem::take(&mut inner.snapshots);
            let idle = waited.timed_out();
            if shared.has_failed() || (!inner.group.has_open() && snapshots.is_empty() && !idle) {
                return Ok(());
            }
            (inner.group.has_open().then(|| inner.group.take()), snapshots)
        };
        for wanted in snapshots {
            // Whoever wanted it may have given up.
            let _ = wanted.send(store.snapshot());
        }
        let Some(changes) = changes else {
            if let Err(error) = store.check() {
                until_it_works(shared, store, &[], error)?;
            }
            continue;
        };
        commit(shared, store, &changes)?;
        let Ok(mut inner) = shared.inner.lock() else { return Ok(()) };
        let committed = inner.group.committed();
        inner.count_replies(shared);
        inner.deliver(committed.effects);
        shared.durable.send_replace(inner.group.durable());
        drop(inner);
        shared.room.add_permits(committed.commands);
    }
}

/// However long it takes.
fn commit(shared: &Shared, store: &mut dyn Store, changes: &[RowChange]) -> Result<(), StoreError> {
    if changes.is_empty() {
        return Ok(());
    }
    let began = Instant::now();
    if let Err(error) = store.commit(changes) {
        shared.metrics.commit_failures.inc();
        until_it_works(shared, store, changes, error)?;
    }
    shared.metrics.commits.observe(began.elapsed());
    shared.metrics.commit_rows.add(changes.len() as u64);
    Ok(())
}

/// The store takes nothing: tries to commit again and again, until the disk takes writes or the engine stops. The same
/// changes may have been stored by what failed, which does not matter: a batch says what rows are to be.
fn until_it_works(
    shared: &Shared,
    store: &mut dyn Store,
    changes: &[RowChange],
    mut error: StoreError,
) -> Result<(), StoreError> {
    tracing::error!("{error}; changes are refused until it works again");
    loop {
        set_trouble(shared, Some(&error));
        if wait_or_stop(shared) {
            return Err(error);
        }
        // Whatever the commit made of the file in memory, what is on the disk counts.
        error = match store.reopen().and_then(|()| store.commit(changes)) {
            Ok(()) => break,
            Err(error) if may_pass(&error) => {
                shared.metrics.commit_failures.inc();
                error
            }
            Err(error) => return Err(error),
        };
    }
    set_trouble(shared, None);
    tracing::warn!("the store takes changes again");
    Ok(())
}

fn may_pass(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { .. } | StoreError::InUse { .. })
}

fn set_trouble(shared: &Shared, error: Option<&StoreError>) {
    let Ok(mut inner) = shared.inner.lock() else { return };
    shared.in_trouble.send_replace(error.is_some());
    inner.trouble = error.map(|error| {
        let code = match error {
            StoreError::Io { kind: ErrorKind::StorageFull | ErrorKind::QuotaExceeded, .. } => {
                ErrorCode::NoSpace
            }
            StoreError::Io { kind: ErrorKind::ReadOnlyFilesystem, .. } => ErrorCode::ReadOnly,
            _ => ErrorCode::Io,
        };
        DfsError::new(code, format!("the master cannot store changes: {error}")).to_wire()
    });
}

/// Waits for a while. True: the engine stops, and nobody waits for the disk any more.
fn wait_or_stop(shared: &Shared) -> bool {
    let until = Instant::now() + TRY_AGAIN;
    let Ok(mut inner) = shared.inner.lock() else { return true };
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if inner.stopping || left.is_zero() {
            return inner.stopping;
        }
        inner = match shared.work.wait_timeout(inner, left) {
            Ok((inner, _)) => inner,
            Err(_) => return true,
        };
    }
}
