//! Reads everything that is here and checks it: once in a set period, spread over it, and at once when the master
//! asks. What is bad, cut short or gone is quarantined and reported, and the master has it copied anew.
//!
//! What must hold: a scrub never reads faster than its rate, and yields to clients' reads; a restart goes on where
//! the last process was. How far it is is kept in the file `SCRUB`, text, `key = value` a line: `began` (seconds
//! since 1970), and while a scrub is under way `after`, the last chunk that was read (16 hex digits).

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dfs_proto::ids::ChunkId;
use dfs_proto::pb;

use crate::node::Node;
use crate::store::error::StoreError;

/// A scrub by itself reads at least so many bytes a second, so that a small keeper is done soon.
const LEAST_RATE: u64 = 1 << 20;
/// And so many while clients read.
const YIELDING_RATE: u64 = 8 << 20;
/// Of the period a scrub by itself takes this share, so that it ends within it.
const SHARE: f64 = 0.8;
/// How often it is written down how far a scrub is.
const SAVE_EVERY: Duration = Duration::from_secs(30);
/// Longest wait at a time: the clock of the period is the machine's, which may be set.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How long a notice waits for a session, until it is tried again.
const NOTICE_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct State {
    every: Option<Duration>,
    /// Bytes a second.
    rate: u64,
    /// The number of an order that has yet to begin.
    ordered: Option<u64>,
    closed: bool,
    /// Of the turn under way, or the last.
    progress: pb::ScrubState,
    /// Of the last turn that was ordered: somebody watches it, whatever comes after.
    last_ordered: pb::ScrubState,
}

/// What is planned, and how far it is.
#[derive(Debug, Default)]
pub(crate) struct Scrub {
    state: Mutex<State>,
    wake: Condvar,
}

/// One scrub to be done.
#[derive(Debug)]
struct Turn {
    /// Of the order; 0: by itself.
    number: u64,
    /// What is behind this chunk is to be read.
    after: ChunkId,
    /// Bytes a second.
    rate: u64,
}

impl Scrub {
    /// How often by itself, and how fast at most in bytes a second.
    pub fn plan(&self, every: Option<Duration>, rate: u64) {
        let mut state = self.lock();
        (state.every, state.rate) = (every, rate);
    }

    /// The master wants everything read now.
    pub fn order(&self, number: u64) {
        self.lock().ordered = Some(number);
        self.wake.notify_all();
    }

    /// For a heartbeat. An order that has yet to begin counts as running.
    pub fn state(&self) -> pb::ScrubState {
        let state = self.lock();
        match state.ordered {
            Some(number) => pb::ScrubState { number, running: true, ..pb::ScrubState::default() },
            None if state.last_ordered.number != 0 => state.last_ordered,
            None => state.progress,
        }
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    /// Waits for the next turn; `None` when closed.
    fn next(&self, mark: &Mark, bytes: impl Fn() -> u64) -> Option<Turn> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(number) = state.ordered.take() {
                state.progress = pb::ScrubState { number, running: true, ..pb::ScrubState::default() };
                return Some(Turn { number, after: ChunkId(0), rate: state.rate });
            }
            let wait = match state.every.map(|every| (every, mark.due_in(every))) {
                Some((every, Duration::ZERO)) => {
                    let spread = bytes() as f64 / (every.as_secs_f64() * SHARE).max(0.001);
                    let rate = (spread as u64).max(LEAST_RATE).min(state.rate);
                    state.progress = pb::ScrubState { running: true, ..pb::ScrubState::default() };
                    return Some(Turn { number: 0, after: mark.after.unwrap_or(ChunkId(0)), rate });
                }
                Some((_, left)) => left.min(LONGEST_WAIT),
                None => LONGEST_WAIT,
            };
            state = self.wake.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Has the thread something else to do than to go on?
    fn is_interrupted(&self) -> bool {
        let state = self.lock();
        state.closed || state.ordered.is_some()
    }

    /// Sleeps, unless it is interrupted.
    fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut state = self.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || state.closed || state.ordered.is_some() {
                return;
            }
            state = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn progress(&self, change: impl FnOnce(&mut pb::ScrubState)) {
        let mut state = self.lock();
        change(&mut state.progress);
        if state.progress.number != 0 {
            state.last_ordered = state.progress;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that scrubs, until the keeper stops.
pub(crate) fn run(node: &Node) {
    let dir = node.store.dir().path();
    let mut mark = Mark::load(dir);
    while let Some(turn) = node.scrub.next(&mark, || node.store.used().1) {
        if turn.after == ChunkId(0) {
            mark = Mark { began_s: now_s(), after: Some(ChunkId(0)) };
        }
        scrub(node, &turn, &mut mark);
        mark.save(dir);
    }
}

fn scrub(node: &Node, turn: &Turn, mark: &mut Mark) {
    let list = node.store.list_after(turn.after);
    node.scrub.progress(|progress| {
        progress.total_chunks = list.len() as u64;
        progress.total_bytes = list.iter().map(|(_, length)| u64::from(*length)).sum();
    });
    let mut pace = Pace { next: Instant::now(), rate: turn.rate };
    let mut saved = Instant::now();
    for (chunk, length) in list {
        if node.scrub.is_interrupted() {
            return;
        }
        let bad = is_bad(node, chunk, &mut pace);
        mark.after = Some(chunk);
        node.scrub.progress(|progress| {
            progress.chunks += 1;
            progress.bytes += u64::from(length);
            progress.bad += u64::from(bad);
        });
        if saved.elapsed() >= SAVE_EVERY {
            mark.save(node.store.dir().path());
            saved = Instant::now();
        }
    }
    mark.after = None;
    let mut done = pb::ScrubState::default();
    node.scrub.progress(|progress| {
        progress.running = false;
        done = *progress;
    });
    if turn.number != 0 || done.bad > 0 {
        tracing::info!(chunks = done.chunks, bytes = done.bytes, bad = done.bad, "scrub is over");
    }
}

/// Reads one chunk. True: the copy is bad, and the master knows.
fn is_bad(node: &Node, chunk: ChunkId, pace: &mut Pace) -> bool {
    match node.store.scrub(chunk, |bytes| pace.read(node, bytes)) {
        // Deleted since the list was made.
        Ok(()) | Err(StoreError::NotFound(_)) => false,
        Err(error) if error.means_bad_copy() => {
            tracing::warn!(%chunk, %error, "scrub found a bad copy");
            let notice = node.bad_copy(chunk, &error);
            while !node.stop.is_set() && node.outbox.post(notice.clone(), NOTICE_PATIENCE).is_err() {}
            true
        }
        Err(error) => {
            tracing::warn!(%chunk, %error, "scrub could not read a chunk; the next one will try again");
            false
        }
    }
}

/// Keeps a scrub to its rate, and behind clients.
struct Pace {
    next: Instant,
    rate: u64,
}

impl Pace {
    /// So many bytes were read.
    fn read(&mut self, node: &Node, bytes: usize) {
        let rate = if node.load.foreground_is_busy() { self.rate.min(YIELDING_RATE) } else { self.rate };
        let takes = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        // Time that was lost is not made up for in a burst.
        self.next = self.next.max(Instant::now() - takes) + takes;
        node.scrub.pause(self.next.saturating_duration_since(Instant::now()));
    }
}

/// What the file `SCRUB` says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Mark {
    /// When the last scrub began, in seconds since 1970. 0: none has.
    began_s: u64,
    /// Under way, and read up to here.
    after: Option<ChunkId>,
}

impl Mark {
    /// One that cannot be read is as good as none: everything is read once more.
    fn load(dir: &Path) -> Mark {
        fs::read_to_string(dir.join("SCRUB")).map(|text| Mark::parse(&text)).unwrap_or_default()
    }

    fn parse(text: &str) -> Mark {
        let mut mark = Mark::default();
        for line in text.lines() {
            match line.split_once(" = ") {
                Some(("began", seconds)) => mark.began_s = seconds.parse().unwrap_or(0),
                Some(("after", chunk)) => mark.after = u64::from_str_radix(chunk, 16).ok().map(ChunkId),
                _ => {}
            }
        }
        mark
    }

    fn render(&self) -> String {
        let after = self.after.map(|chunk| format!("after = {chunk}\n")).unwrap_or_default();
        format!("began = {}\n{after}", self.began_s)
    }

    fn save(&self, dir: &Path) {
        let write = || -> io::Result<()> {
            fs::write(dir.join("SCRUB.new"), self.render())?;
            fs::rename(dir.join("SCRUB.new"), dir.join("SCRUB"))
        };
        if let Err(error) = write() {
            tracing::warn!(dir = %dir.display(), %error, "cannot write down how far the scrub is");
        }
    }

    /// How long until a scrub of this period is to begin, or to go on.
    fn due_in(&self, every: Duration) -> Duration {
        let now_s = now_s();
        // A clock that was set back must not put it off for ever.
        if self.after.is_some() || self.began_s > now_s {
            return Duration::ZERO;
        }
        every.saturating_sub(Duration::from_secs(now_s - self.began_s))
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_and_nonsense_is_no_mark() {
        for mark in
            [Mark { began_s: 1_700_000_000, after: Some(ChunkId(0xabc)) }, Mark { began_s: 7, after: None }]
        {
            assert_eq!(Mark::parse(&mark.render()), mark);
        }
        assert_eq!(Mark::parse("began = soon\nafter = zz\nx"), Mark::default());
    }

    #[test]
    fn a_scrub_is_due_when_its_period_is_over_or_it_was_interrupted() {
        let every = Duration::from_secs(100);
        assert_eq!(Mark::default().due_in(every), Duration::ZERO);
        let began = |began_s, after| Mark { began_s, after };
        assert!(began(now_s(), None).due_in(every) > Duration::from_secs(90));
        assert_eq!(began(now_s() - 100, None).due_in(every), Duration::ZERO);
        assert_eq!(began(now_s(), Some(ChunkId(3))).due_in(every), Duration::ZERO);
        assert_eq!(began(now_s() + 9_999, None).due_in(every), Duration::ZERO);
    }

    #[test]
    fn an_order_comes_before_the_plan_and_the_plan_is_spread_over_its_period() {
        let scrub = Scrub::default();
        scrub.plan(Some(Duration::from_secs(100)), 10 << 20);
        scrub.order(9);
        assert_eq!((scrub.state().number, scrub.state().running), (9, true));
        let turn = scrub.next(&Mark::default(), || 1 << 40).unwrap();
        assert_eq!((turn.number, turn.rate), (9, 10 << 20));
        scrub.progress(|progress| (progress.running, progress.bad) = (false, 3));
        let rate_of = |bytes: u64| scrub.next(&Mark::default(), || bytes).unwrap().rate;
        assert_eq!(rate_of(80 * (5 << 20)), 5 << 20);
        assert_eq!((rate_of(0), rate_of(1 << 40)), (LEAST_RATE, 10 << 20));
        assert_eq!((scrub.state().number, scrub.state().bad), (9, 3), "a scrub by itself came after it");
        let goes_on = Mark { began_s: now_s(), after: Some(ChunkId(7)) };
        assert_eq!(scrub.next(&goes_on, || 0).unwrap().after, ChunkId(7));
        scrub.close();
        assert!(scrub.next(&Mark::default(), || 0).is_none());
    }
}
