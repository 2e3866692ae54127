//! Looks at the figures once a second, and remembers: throughput over the last hour, and what happened.
//!
//! Events are the differences between one look and the next, so nothing else in the master has to know of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::core::{Figures, KeeperFigures};
use crate::metrics;
use crate::runtime::Engine;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A sample is the mean of so many looks.
const LOOKS_PER_SAMPLE: u32 = 10;
/// An hour.
const SAMPLES: usize = 360;
const EVENTS: usize = 200;

/// What passed in a second, in the mean over some.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub(super) struct Sample {
    /// When it ended, since 1970.
    pub time_ms: u64,
    pub requests: f64,
    /// Bytes that clients read from keepers, that came in there, and that were copied by order.
    pub read: f64,
    pub written: f64,
    pub repaired: f64,
}

/// What one keeper does in a second.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub(super) struct Rate {
    pub read: f64,
    pub written: f64,
}

/// How much it concerns somebody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Good,
    Plain,
    Warn,
    Bad,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Event {
    pub time_ms: u64,
    pub level: Level,
    pub text: String,
}

#[derive(Default)]
struct State {
    samples: VecDeque<Sample>,
    events: VecDeque<Event>,
    rates: BTreeMap<u64, Rate>,
}

/// What was seen.
#[derive(Default)]
pub(super) struct Watched(Mutex<State>);

impl Watched {
    pub fn samples(&self) -> Vec<Sample> {
        self.lock().samples.iter().copied().collect()
    }

    pub fn events(&self) -> Vec<Event> {
        self.lock().events.iter().cloned().collect()
    }

    /// By keeper.
    pub fn rates(&self) -> BTreeMap<u64, Rate> {
        self.lock().rates.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, happened: Vec<(Level, String)>) {
        let time_ms = now_ms();
        let mut state = self.lock();
        for (level, text) in happened {
            tracing::debug!(?level, "event: {text}");
            push(&mut state.events, EVENTS, Event { time_ms, level, text });
        }
    }
}

/// Until the engine stops.
pub(super) async fn watch(engine: Engine, watched: Arc<Watched>) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let Some(mut before) = engine.now() else { return };
    let (mut counts, mut since, mut looked) = (Counts::of(&before), Instant::now(), 0);
    // Of the last look.
    let mut keepers_at = Instant::now();
    loop {
        looks.tick().await;
        let Some(now) = engine.now() else { return };
        watched.note(differences(&before, &now));
        watched.lock().rates = rates(&before.figures, &now.figures, keepers_at.elapsed());
        keepers_at = Instant::now();
        counts.pass(&before.figures, &now.figures);
        before = now;
        looked += 1;
        if looked == LOOKS_PER_SAMPLE {
            let sample = counts.sample(&before, since.elapsed());
            push(&mut watched.lock().samples, SAMPLES, sample);
            (counts, since, looked) = (Counts::of(&before), Instant::now(), 0);
        }
    }
}

/// Counters when a sample began, and what keepers did since. Their own counters begin at 0 when they start.
struct Counts {
    requests: u64,
    repaired: u64,
    read: u64,
    written: u64,
}

impl Counts {
    fn of(now: &metrics::Now) -> Counts {
        Counts { requests: now.figures.requests, repaired: now.figures.copied_bytes, read: 0, written: 0 }
    }

    fn pass(&mut self, before: &Figures, now: &Figures) {
        for (old, new) in pairs(before, now) {
            self.read += new.bytes_read.saturating_sub(old.bytes_read);
            self.written += new.bytes_written.saturating_sub(old.bytes_written);
        }
    }

    fn sample(&self, now: &metrics::Now, passed: Duration) -> Sample {
        let per_s = |count: u64| count as f64 / passed.as_secs_f64().max(0.001);
        Sample {
            time_ms: now_ms(),
            requests: per_s(now.figures.requests.saturating_sub(self.requests)),
            read: per_s(self.read),
            written: per_s(self.written),
            repaired: per_s(now.figures.copied_bytes.saturating_sub(self.repaired)),
        }
    }
}

fn rates(before: &Figures, now: &Figures, passed: Duration) -> BTreeMap<u64, Rate> {
    let per_s = |old: u64, new: u64| new.saturating_sub(old) as f64 / passed.as_secs_f64().max(0.001);
    let rate = |old: &KeeperFigures, new: &KeeperFigures| Rate {
        read: per_s(old.bytes_read, new.bytes_read),
        written: per_s(old.bytes_written, new.bytes_written),
    };
    pairs(before, now).map(|(old, new)| (new.keeper, rate(old, new))).collect()
}

/// Keepers that were there before and are now.
fn pairs<'a>(
    before: &'a Figures,
    now: &'a Figures,
) -> impl Iterator<Item = (&'a KeeperFigures, &'a KeeperFigures)> {
    now.keepers.iter().filter_map(|new| Some((keeper(before, new.keeper)?, new)))
}

fn keeper(figures: &Figures, id: u64) -> Option<&KeeperFigures> {
    // In order of ids.
    let at = figures.keepers.binary_search_by_key(&id, |keeper| keeper.keeper).ok()?;
    figures.keepers.get(at)
}

/// What happened between two looks.
fn differences(before: &metrics::Now, now: &metrics::Now) -> Vec<(Level, String)> {
    let mut happened = Vec::new();
    match (before.store_fails, now.store_fails) {
        (false, true) => happened.push((Level::Bad, "the store takes no changes".to_owned())),
        (true, false) => happened.push((Level::Good, "the store takes changes again".to_owned())),
        _ => {}
    }
    of_keepers(&before.figures, &now.figures, &mut happened);
    let (old, new) = (&before.figures, &now.figures);
    for (was, is, what, level) in [
        (old.lost, new.lost, "lost", Level::Bad),
        (old.endangered, new.endangered, "endangered", Level::Warn),
    ] {
        match (was, is) {
            (0, 1..) => happened.push((level, format!("chunks {what}: {is}"))),
            (1.., 0) => happened.push((Level::Good, format!("no chunk is {what} any more"))),
            _ => {}
        }
    }
    match (old.under_replicated, new.under_replicated) {
        (0, 1..) => happened.push((
            Level::Plain,
            format!("repair begins, chunks that want copies: {}", new.under_replicated),
        )),
        (1.., 0) => happened.push((Level::Good, "every chunk has its copies".to_owned())),
        _ => {}
    }
    match new.mounts.cmp(&old.mounts) {
        std::cmp::Ordering::Greater => {
            happened.push((Level::Plain, format!("a mount came, there are {} now", new.mounts)))
        }
        std::cmp::Ordering::Less => {
            happened.push((Level::Plain, format!("a mount went, there are {} now", new.mounts)))
        }
        std::cmp::Ordering::Equal => {}
    }
    happened
}

fn of_keepers(before: &Figures, now: &Figures, happened: &mut Vec<(Level, String)>) {
    for new in &now.keepers {
        let name = format!("keeper {} at {}", new.keeper, new.address);
        let Some(old) = keeper(before, new.keeper) else {
            happened.push((Level::Good, format!("{name} joined")));
            continue;
        };
        let mut turned =
            |was: bool, is: bool, (on, off): (&str, &str), levels: (Level, Level)| match (was, is) {
                (false, true) => happened.push((levels.0, format!("{name} {on}"))),
                (true, false) => happened.push((levels.1, format!("{name} {off}"))),
                _ => {}
            };
        turned(old.alive, new.alive, ("is live again", "is dead"), (Level::Good, Level::Bad));
        turned(
            old.read_only,
            new.read_only,
            ("takes no chunks", "takes chunks again"),
            (Level::Warn, Level::Good),
        );
        turned(
            old.draining,
            new.draining,
            ("is being drained", "is not drained any more"),
            (Level::Plain, Level::Plain),
        );
        turned(
            old.in_maintenance,
            new.in_maintenance,
            ("is in maintenance", "is not in maintenance any more"),
            (Level::Plain, Level::Plain),
        );
        if new.quarantine_bytes > old.quarantine_bytes {
            happened.push((Level::Warn, format!("{name} found a bad copy")));
        }
    }
    for old in before.keepers.iter().filter(|old| keeper(now, old.keeper).is_none()) {
        happened.push((Level::Plain, format!("keeper {} at {} was forgotten", old.keeper, old.address)));
    }
}

fn push<T>(ring: &mut VecDeque<T>, most: usize, new: T) {
    if ring.len() >= most {
        ring.pop_front();
    }
    ring.push_back(new);
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(keepers: &[(u64, bool)], endangered: u64) -> metrics::Now {
        let keepers = keepers.iter().map(|(keeper, alive)| KeeperFigures {
            keeper: *keeper,
            address: "h:1".to_owned(),
            alive: *alive,
            ..KeeperFigures::default()
        });
        let figures = Figures { keepers: keepers.collect(), endangered, ..Figures::default() };
        metrics::Now { figures, ..metrics::Now::default() }
    }

    #[test]
    fn what_changed_is_an_event_and_nothing_else() {
        let before = look(&[(1, true), (2, false)], 0);
        assert_eq!(differences(&before, &before), vec![]);
        let texts: Vec<String> = differences(&before, &look(&[(1, false), (3, true)], 4))
            .into_iter()
            .map(|(_, text)| text)
            .collect();
        assert_eq!(
            texts,
            [
                "keeper 1 at h:1 is dead",
                "keeper 3 at h:1 joined",
                "keeper 2 at h:1 was forgotten",
                "chunks endangered: 4"
            ]
        );
    }

    #[test]
    fn a_keeper_that_starts_again_does_not_count_backwards() {
        let (mut before, mut now) = (look(&[(1, true)], 0).figures, look(&[(1, true)], 0).figures);
        before.keepers[0].bytes_read = 1000;
        now.keepers[0].bytes_read = 10;
        now.keepers[0].bytes_written = 50;
        let rates = rates(&before, &now, Duration::from_secs(5));
        assert_eq!(rates[&1], Rate { read: 0.0, written: 10.0 });
    }

    #[test]
    fn the_rings_are_bounded() {
        let watched = Watched::default();
        for n in 0..EVENTS + 5 {
            watched.note(vec![(Level::Plain, n.to_string())]);
        }
        let events = watched.events();
        assert_eq!((events.len(), events[0].text.as_str()), (EVENTS, "5"));
    }
}
