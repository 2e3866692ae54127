//! Notices for the kernel that wait to be delivered, and when the master is told that they were. No I/O.
//!
//! The kernel makes a notice about a name wait for the lock of its directory, and a program of this mount that changes
//! a name there holds that lock until the master answers. That answer may wait for another mount to forget, which
//! in turn may wait for a change there that waits for us. So a notice about a directory in which this mount is changing
//! a name is acknowledged at once, whether the change or the notice came first; it is still delivered, as soon as
//! the kernel takes it. There are longer ways to the same circle (a link holds the directory's lock and waits for
//! the lock of an inode whose mode is being changed), so whatever is blocked for [`BLOCKED`] while any change of this mount
//! is on its way is acknowledged too.
//!
//! Several threads deliver, so that one that is blocked does not hold up the others. Notices of one directory, or of
//! one inode, are delivered in their order.
//!
//! Only notices about names and pages can be blocked. That attributes are old the kernel is told at once, by a thread
//! that does nothing else, and nothing is acknowledged before: where pages are stuck (a read of them waits for a
//! keeper) an open file of an earlier size would else be read to its earlier end.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dfs_proto::ids::InodeNo;

use super::events::Notice;
use crate::client::Lost;
use crate::lock::lock;

/// A notice that waits for longer than this may be part of a circle.
const BLOCKED: Duration = Duration::from_millis(100);

/// Notices that belong together, in order.
#[derive(Debug, Default)]
pub struct Job {
    /// To be acknowledged.
    pub seq: Option<u64>,
    /// Jobs of one key are delivered one after the other.
    pub key: InodeNo,
    /// Directories whose locks it waits for.
    pub directories: Vec<InodeNo>,
    /// What the kernel is to be told.
    pub notices: Vec<Notice>,
    /// Held until it is delivered.
    pub lost: Option<Lost>,
}

struct Unacked {
    directories: Vec<InodeNo>,
    since: Instant,
    /// The kernel does not know yet that attributes are old.
    untold: bool,
    /// To be acknowledged as soon as it does.
    early: bool,
}

/// Inodes whose attributes are old.
#[derive(Debug, Default)]
pub struct Quick {
    /// Of the job that they belong to.
    seq: Option<u64>,
    /// Which.
    pub inodes: Vec<InodeNo>,
    /// Held until it is delivered.
    pub lost: Option<Lost>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    quick: VecDeque<Quick>,
    running: HashSet<InodeNo>,
    unacked: BTreeMap<u64, Unacked>,
    /// How many changes of names this mount has on their way in each directory.
    changing: HashMap<InodeNo, u32>,
    /// Changes on their way, of any kind.
    changes: u32,
    closed: bool,
}

/// See the module.
pub struct Board {
    state: Mutex<State>,
    work: Condvar,
    quick_work: Condvar,
    acknowledge: Box<dyn Fn(u64) + Send + Sync>,
}

/// This mount is changing something, until it is dropped.
pub struct Changing {
    board: Arc<Board>,
    directories: Vec<InodeNo>,
}

impl Board {
    /// `acknowledge` is called under the board's lock and must not wait.
    pub fn new(acknowledge: impl Fn(u64) + Send + Sync + 'static) -> Arc<Board> {
        Arc::new(Board {
            state: Mutex::default(),
            work: Condvar::new(),
            quick_work: Condvar::new(),
            acknowledge: Box::new(acknowledge),
        })
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Puts up a job. What it is about is forgotten by this process already.
    pub fn put(&self, job: Job) {
        let mut state = self.locked();
        let attributes = |notice: &Notice| match notice {
            Notice::Attributes(inode) | Notice::Content(inode) => Some(*inode),
            Notice::Name(..) | Notice::Expire(..) | Notice::Settle(_) => None,
        };
        let inodes: Vec<InodeNo> = job.notices.iter().filter_map(attributes).collect();
        if let Some(seq) = job.seq {
            let early = job.directories.iter().any(|directory| state.changing.contains_key(directory));
            let (directories, untold) = (job.directories.clone(), !inodes.is_empty());
            state.unacked.insert(seq, Unacked { directories, since: Instant::now(), untold, early });
            self.acknowledge_early(&mut state, |_| false);
        }
        if !inodes.is_empty() {
            state.quick.push_back(Quick { seq: job.seq, inodes, lost: job.lost.clone() });
            self.quick_work.notify_one();
        }
        state.queue.push_back(job);
        self.work.notify_one();
    }

    /// Acknowledges what is to be early, now also those that `more` says, and of which the kernel knows enough.
    fn acknowledge_early(&self, state: &mut State, more: impl Fn(&Unacked) -> bool) {
        state.unacked.retain(|seq, waiting| {
            waiting.early |= more(waiting);
            let goes = waiting.early && !waiting.untold;
            if goes {
                (self.acknowledge)(*seq);
            }
            !goes
        });
    }

    /// The next inodes of which the kernel has to be told that their attributes are old; waits for some. `None` when the
    /// board is closed.
    pub fn take_quick(&self) -> Option<Quick> {
        let mut state = self.locked();
        loop {
            if state.closed {
                return None;
            }
            if let Some(quick) = state.quick.pop_front() {
                return Some(quick);
            }
            state = self.quick_work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The kernel took them.
    pub fn delivered_quick(&self, quick: Quick) {
        let mut state = self.locked();
        if let Some(waiting) = quick.seq.and_then(|seq| state.unacked.get_mut(&seq)) {
            waiting.untold = false;
            self.acknowledge_early(&mut state, |_| false);
        }
    }

    /// Jobs that are not delivered.
    pub fn waiting(&self) -> usize {
        let state = self.locked();
        state.queue.len() + state.running.len()
    }

    /// The next job that may be delivered now; waits for one. `None` when the board is closed.
    pub fn take(&self) -> Option<Job> {
        let mut state = self.locked();
        loop {
            if state.closed {
                return None;
            }
            let State { queue, running, .. } = &mut *state;
            // The first of its key, and none of its key before it or under way.
            let mut passed = HashSet::new();
            let free = |job: &Job| !running.contains(&job.key) && passed.insert(job.key);
            if let Some(job) = queue.iter().position(free).and_then(|at| queue.remove(at)) {
                running.insert(job.key);
                return Some(job);
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The kernel took it.
    pub fn delivered(&self, job: Job) {
        let mut state = self.locked();
        state.running.remove(&job.key);
        if let Some(seq) = job.seq
            && state.unacked.remove(&seq).is_some()
        {
            (self.acknowledge)(seq);
        }
        self.work.notify_all();
    }

    /// A change of this mount is on its way: of names in these directories, or of something else.
    pub fn begin(self: &Arc<Self>, directories: &[InodeNo]) -> Changing {
        let mut state = self.locked();
        state.changes += 1;
        for directory in directories {
            *state.changing.entry(*directory).or_default() += 1;
        }
        self.acknowledge_early(&mut state, |waiting| {
            waiting.directories.iter().any(|directory| directories.contains(directory))
        });
        Changing { board: self.clone(), directories: directories.to_vec() }
    }

    /// Acknowledges what is blocked for so long that it may wait for ourselves.
    pub fn acknowledge_blocked(&self) {
        let mut state = self.locked();
        if state.changes == 0 {
            return;
        }
        self.acknowledge_early(&mut state, |waiting| {
            let blocked = waiting.since.elapsed() >= BLOCKED;
            if blocked {
                tracing::debug!(directories = ?waiting.directories, "the kernel does not take a notice while changes are on their way; others go on without it");
            }
            blocked
        });
    }

    /// No more jobs are given out.
    pub fn close(&self) {
        self.locked().closed = true;
        self.work.notify_all();
        self.quick_work.notify_all();
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        let mut state = self.board.locked();
        state.changes -= 1;
        for directory in &self.directories {
            if let Some(count) = state.changing.get_mut(directory) {
                *count -= 1;
                if *count == 0 {
                    state.changing.remove(directory);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: InodeNo = InodeNo(1);
    const OTHER: InodeNo = InodeNo(2);

    fn board() -> (Arc<Board>, Arc<Mutex<Vec<u64>>>) {
        let acked = Arc::new(Mutex::new(Vec::new()));
        let board = Board::new({
            let acked = acked.clone();
            move |seq| acked.lock().unwrap().push(seq)
        });
        (board, acked)
    }

    fn name(seq: u64, directory: InodeNo) -> Job {
        Job { seq: Some(seq), key: directory, directories: vec![directory], ..Job::default() }
    }

    #[test]
    fn a_notice_is_acknowledged_when_the_kernel_took_it() {
        let (board, acked) = board();
        board.put(name(1, DIR));
        let job = board.take().unwrap();
        assert!(acked.lock().unwrap().is_empty());
        board.delivered(job);
        assert_eq!(*acked.lock().unwrap(), [1]);
        assert_eq!(board.waiting(), 0);
    }

    #[test]
    fn a_notice_in_a_directory_that_this_mount_changes_is_acknowledged_at_once_and_still_delivered() {
        let (board, acked) = board();
        let changing = board.begin(&[DIR]);
        board.put(name(1, DIR));
        board.put(name(2, OTHER));
        assert_eq!(*acked.lock().unwrap(), [1]);
        let job = board.take().unwrap();
        board.delivered(job);
        assert_eq!(*acked.lock().unwrap(), [1], "not twice");
        drop(changing);
        board.put(name(3, DIR));
        assert_eq!(*acked.lock().unwrap(), [1]);
    }

    #[test]
    fn a_change_that_begins_while_a_notice_is_blocked_acknowledges_it() {
        let (board, acked) = board();
        board.put(name(1, DIR));
        let _blocked = board.take().unwrap();
        board.put(name(2, DIR));
        let _other = board.begin(&[OTHER]);
        assert!(acked.lock().unwrap().is_empty());
        let _changing = board.begin(&[OTHER, DIR]);
        assert_eq!(*acked.lock().unwrap(), [1, 2]);
    }

    #[test]
    fn a_blocked_job_holds_up_its_own_key_alone() {
        let (board, _) = board();
        [name(1, DIR), name(2, DIR), name(3, OTHER)].into_iter().for_each(|job| board.put(job));
        let first = board.take().unwrap();
        let second = board.take().unwrap();
        assert_eq!((first.seq, second.seq), (Some(1), Some(3)));
        board.delivered(first);
        assert_eq!(board.take().unwrap().seq, Some(2));
    }

    #[test]
    fn what_is_blocked_for_long_is_acknowledged_only_while_there_are_changes() {
        let (board, acked) = board();
        board.put(name(1, DIR));
        let long_ago = Instant::now().checked_sub(BLOCKED * 2).unwrap();
        board.locked().unacked.get_mut(&1).unwrap().since = long_ago;
        board.acknowledge_blocked();
        assert!(acked.lock().unwrap().is_empty());
        let _changing = board.begin(&[]);
        board.acknowledge_blocked();
        assert_eq!(*acked.lock().unwrap(), [1]);
    }

    #[test]
    fn nothing_is_acknowledged_before_the_kernel_knows_that_attributes_are_old() {
        let (board, acked) = board();
        let content = |seq| Job { notices: vec![Notice::Content(OTHER)], ..name(seq, DIR) };
        let _changing = board.begin(&[DIR]);
        board.put(content(1));
        let _stuck = board.take().unwrap();
        board.put(content(2));
        assert!(acked.lock().unwrap().is_empty());
        for seq in [1, 2] {
            let quick = board.take_quick().unwrap();
            assert_eq!(quick.inodes, [OTHER], "also of the one behind the one that is stuck");
            board.delivered_quick(quick);
            assert_eq!(acked.lock().unwrap().last(), Some(&seq));
        }
        assert_eq!(board.waiting(), 2);
    }

    #[test]
    fn a_closed_board_gives_out_nothing() {
        let (board, _) = board();
        board.put(Job { notices: vec![Notice::Content(OTHER)], ..name(1, DIR) });
        board.close();
        assert!(board.take().is_none() && board.take_quick().is_none());
    }
}
