//! The thread that folds what was committed into the tables.
//!
//! It takes what waits in its order: records up to a wish for a snapshot, in one transaction; then the snapshot. So a
//! snapshot shows all that was committed before it and nothing later, and the thread that commits does not wait for it.
//!
//! Whoever waits for a fold waits for the disk, as long as that takes; the thread says so when it ends, however it does.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::super::journal::Record;
use super::super::redb::RedbSnapshot;
use super::super::{Identity, Snapshot, StoreError, Tables};
use super::{Shape, closed};
use crate::core::Row;

/// The longest that a reader waits for its snapshot.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(60);

type SnapshotResult = Result<RedbSnapshot, StoreError>;

/// How the thread is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// When all is folded.
    Fold,
    /// When what it does now is done.
    Now,
}

#[derive(Debug)]
enum Item {
    Fold(Record),
    Show(Sender<SnapshotResult>),
}

/// What is done next: records are folded, and then somebody sees the tables.
#[derive(Debug, Default)]
struct Step {
    records: Vec<Record>,
    show: Option<Sender<SnapshotResult>>,
}

#[derive(Debug)]
struct Queue {
    items: VecDeque<Item>,
    /// Of the records in it.
    bytes: u64,
    /// When the first record of them came.
    since: Option<Instant>,
    /// The tables have all commits up to this one, for good.
    folded: u64,
    /// Somebody waits for what is in it.
    hurry: bool,
    end: Option<End>,
    failed: Option<StoreError>,
}

#[derive(Debug)]
struct Shared {
    shape: Shape,
    path: PathBuf,
    /// The queue may be locked by who has these locked, never the other way round.
    tables: Mutex<Tables>,
    queue: Mutex<Queue>,
    /// There is something to fold, or the thread is to end.
    work: Condvar,
    /// Something was folded, or nothing will be any more.
    done: Condvar,
}

/// The tables, and the thread that changes them.
#[derive(Debug)]
pub(super) struct Folder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Folder {
    pub fn start(tables: Tables, shape: Shape) -> Result<Folder, StoreError> {
        let path = tables.path().to_owned();
        let folded = tables.commits();
        let queue = Queue {
            items: VecDeque::new(),
            bytes: 0,
            since: None,
            folded,
            hurry: false,
            end: None,
            failed: None,
        };
        let shared = Arc::new(Shared {
            shape,
            path,
            tables: Mutex::new(tables),
            queue: Mutex::new(queue),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new().name("dfs-fold".to_owned()).spawn(move || fold(&of_thread));
        let thread = thread.map_err(|error| StoreError::Io {
            path: "fold thread".into(),
            why: format!("cannot be started: {error}"),
            kind: error.kind(),
        })?;
        Ok(Folder { shared, thread: Some(thread) })
    }

    /// Has a fold failed?
    pub fn check(&self) -> Result<(), StoreError> {
        self.shared.queue().failed.clone().map_or(Ok(()), Err)
    }

    /// The newest commit that the tables have for good.
    pub fn folded(&self) -> u64 {
        self.shared.queue().folded
    }

    /// The next commit. It is in the journal.
    pub fn push(&self, record: Record) {
        let mut queue = self.shared.queue();
        if queue.failed.is_some() {
            // It is folded when the store is opened again.
            return;
        }
        let first = queue.since.is_none();
        queue.since.get_or_insert_with(Instant::now);
        queue.bytes += record.len();
        queue.items.push_back(Item::Fold(record));
        if first || self.shared.is_much(&queue) {
            self.shared.work.notify_one();
        }
    }

    /// Has everything folded, and waits until the tables have this commit.
    pub fn wait_for(&self, commit: u64) -> Result<(), StoreError> {
        let mut queue = self.shared.queue();
        queue.hurry |= !queue.items.is_empty();
        self.shared.work.notify_one();
        while queue.folded < commit {
            if let Some(error) = &queue.failed {
                return Err(error.clone());
            }
            queue = self.shared.done.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Changes the tables, which have all commits. Returns how many there are then, too.
    pub fn with_tables<T>(
        &self,
        change: impl FnOnce(&mut Tables) -> Result<T, StoreError>,
    ) -> Result<(T, u64), StoreError> {
        let mut tables = self.shared.tables();
        let done = change(&mut tables)?;
        let commits = tables.commits();
        drop(tables);
        self.shared.queue().folded = commits;
        Ok((done, commits))
    }

    /// What was committed so far.
    pub fn snapshot(&self) -> Result<FoldedSnapshot, StoreError> {
        self.check()?;
        let (sender, coming) = channel();
        let mut queue = self.shared.queue();
        queue.items.push_back(Item::Show(sender));
        queue.hurry = true;
        drop(queue);
        self.shared.work.notify_one();
        Ok(FoldedSnapshot { path: self.shared.path.clone(), coming, here: None })
    }

    /// Ends the thread and closes the tables.
    pub fn close(mut self, end: End) -> Result<(), StoreError> {
        self.shared.queue().end = Some(end);
        self.shared.work.notify_one();
        // Of a thread that panicked, `failed` tells.
        let _ = self.thread.take().map(JoinHandle::join);
        let folded = self.check();
        folded.and(self.shared.tables().close())
    }
}

impl Shared {
    // What is under the locks is changed in steps that make sense each; and after a panic all fails, see `LastWords`.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_much(&self, queue: &Queue) -> bool {
        self.shape.fold_after.is_some() && queue.bytes >= self.shape.file / 2
    }

    /// Waits until there is something to do.
    fn next(&self) -> Option<Step> {
        let mut queue = self.queue();
        loop {
            let age = queue.since.map(|since| since.elapsed());
            let left = self.shape.fold_after.zip(age).map(|(after, age)| after.saturating_sub(age));
            let is_time = queue.hurry || left == Some(Duration::ZERO) || self.is_much(&queue);
            match queue.end {
                Some(End::Now) => return None,
                Some(End::Fold) if queue.items.is_empty() => return None,
                Some(End::Fold) => return Some(queue.take()),
                None if is_time && !queue.items.is_empty() => return Some(queue.take()),
                None => {}
            }
            queue = match left {
                Some(left) => self.work.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.work.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn fail(&self, error: StoreError) {
        let mut queue = self.queue();
        queue.failed.get_or_insert(error);
        // Who waits for a snapshot sees its sender go.
        queue.items.clear();
        drop(queue);
        self.done.notify_all();
    }
}

impl Queue {
    fn take(&mut self) -> Step {
        let mut step = Step::default();
        while step.show.is_none() {
            match self.items.pop_front() {
                Some(Item::Fold(record)) => {
                    self.bytes -= record.len();
                    step.records.push(record);
                }
                Some(Item::Show(sender)) => step.show = Some(sender),
                None => break,
            }
        }
        if self.bytes == 0 {
            self.since = None;
        }
        self.hurry &= !self.items.is_empty();
        step
    }
}

/// What is left to do when the thread ends by a panic.
struct LastWords<'a>(&'a Shared);

impl Drop for LastWords<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let why = "the thread that stores it broke (a bug); the log says where".to_owned();
            self.0.fail(StoreError::Io { path: self.0.path.clone(), why, kind: ErrorKind::Other });
        }
    }
}

fn fold(shared: &Shared) {
    let _last_words = LastWords(shared);
    while let Some(Step { records, show }) = shared.next() {
        let mut tables = shared.tables();
        if let Some(last) = records.last() {
            if let Err(error) = tables.fold(records.iter().map(Record::batch), last.commit) {
                drop(tables);
                shared.fail(error);
                return;
            }
            shared.queue().folded = last.commit;
            shared.done.notify_all();
        }
        if let Some(sender) = show {
            // Whoever wanted it may have given up.
            let _ = sender.send(tables.snapshot());
        }
    }
}

/// A snapshot that the fold thread makes when it has come so far.
pub(super) struct FoldedSnapshot {
    path: PathBuf,
    coming: Receiver<SnapshotResult>,
    here: Option<RedbSnapshot>,
}

impl FoldedSnapshot {
    fn get(&mut self) -> Result<&mut RedbSnapshot, StoreError> {
        let snapshot = match self.here.take() {
            Some(here) => here,
            None => {
                self.coming.recv_timeout(SNAPSHOT_DEADLINE).unwrap_or_else(|_| Err(closed(&self.path)))?
            }
        };
        Ok(self.here.insert(snapshot))
    }
}

impl Snapshot for FoldedSnapshot {
    fn identity(&mut self) -> Result<Identity, StoreError> {
        self.get()?.identity()
    }

    fn load(&mut self, each: &mut dyn FnMut(Row) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.get()?.load(each)
    }
}
