//! Which faults, when, and for how long: from a seed, before anything begins.

use std::time::Duration;

use crate::random::Rng;

/// A process of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Target {
    /// The master.
    Master,
    /// A keeper, by its index.
    Keeper(usize),
    /// A mount, by its index.
    Mount(usize),
}

/// A fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// SIGKILL, and started again at the end.
    Kill(Target),
    /// SIGSTOP, and SIGCONT at the end.
    Stop(Target),
    /// What the first sends to the second vanishes.
    Cut(Target, Target),
    /// What it sends goes slowly, and part of it is lost.
    Slow(Target),
    /// The connections between the two are reset, once.
    Reset(Target, Target),
    /// A chunk file of this keeper, of which there are two good copies elsewhere, is damaged or removed.
    Rot(usize),
    /// This keeper's disk is filled, and has room again at the end.
    Fill(usize),
}

impl Fault {
    /// Are the two never to hold at once?
    fn excludes(&self, other: &Fault) -> bool {
        self == other || self.process().is_some_and(|process| other.process() == Some(process))
    }

    /// The process that it is done to, if it is one.
    pub(super) fn process(&self) -> Option<Target> {
        match self {
            Fault::Kill(target) | Fault::Stop(target) => Some(*target),
            Fault::Cut(..) | Fault::Slow(_) | Fault::Reset(..) | Fault::Rot(_) | Fault::Fill(_) => None,
        }
    }
}

/// A fault with its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// From the beginning of the round.
    pub at: Duration,
    /// How long until it is healed.
    pub lasts: Duration,
    /// What.
    pub fault: Fault,
}

/// How a plan is made.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The faults to choose from. One that is in it twice comes twice as often.
    pub faults: Vec<Fault>,
    /// How long the round is; all faults have ended by then.
    pub length: Duration,
    /// The longest time that a process is stopped, or a link hurt. (The shortest is 1 s.)
    pub longest_stop: Duration,
}

/// A keeper or a mount that was killed is started again after this at the latest.
const LONGEST_DEATH_MS: u64 = 3_000;

/// The next fault comes after this at the latest, whether or not the last one is healed.
const LONGEST_PEACE_MS: u64 = 1_500;

/// All faults of the recipe in random order, again and again, until the time is over. Several may hold at once.
pub fn plan(recipe: &Recipe, rng: &mut Rng) -> Vec<Event> {
    let (mut events, mut deck): (Vec<Event>, Vec<Fault>) = (Vec::new(), Vec::new());
    let mut at = Duration::from_millis(500 + rng.below(1_000));
    loop {
        if deck.is_empty() {
            deck.clone_from(&recipe.faults);
        }
        let fault = deck.swap_remove(rng.below(deck.len() as u64) as usize);
        let lasts = Duration::from_millis(match fault {
            Fault::Kill(_) => 50 + rng.below(LONGEST_DEATH_MS),
            Fault::Reset(..) | Fault::Rot(_) => 0,
            Fault::Stop(_) | Fault::Cut(..) | Fault::Slow(_) | Fault::Fill(_) => {
                1_000 + rng.below(recipe.longest_stop.as_millis() as u64 - 999)
            }
        });
        // Not before the last one of the same process is healed.
        let same = events.iter().filter(|event| event.fault.excludes(&fault));
        let free = same.map(|event| event.at + event.lasts + Duration::from_millis(200)).max();
        let begin = free.map_or(at, |free| free.max(at));
        if begin + lasts > recipe.length {
            break;
        }
        events.push(Event { at: begin, lasts, fault });
        at += Duration::from_millis(100 + rng.below(LONGEST_PEACE_MS));
    }
    events.sort_by_key(|event| event.at);
    events
}

/// How often who is killed in [`kills`], on average.
const KEEPER_EVERY_MS: u64 = 1_500;
const OTHERS_EVERY_MS: u64 = 14_000;

/// Kills in quick succession: some keeper every 1.5 s, the master every 14 s, some mount every 14 s, each started again
/// within half a second. Their times are each other's business only as far as nobody is killed who is not back.
pub fn kills(keepers: usize, mounts: usize, length: Duration, rng: &mut Rng) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    let rows: [(Vec<Target>, u64); 3] = [
        ((0..keepers).map(Target::Keeper).collect(), KEEPER_EVERY_MS),
        (vec![Target::Master], OTHERS_EVERY_MS),
        ((0..mounts).map(Target::Mount).collect(), OTHERS_EVERY_MS),
    ];
    for (targets, every_ms) in rows {
        let mut at = Duration::from_millis(rng.below(every_ms));
        loop {
            let fault = Fault::Kill(targets[rng.below(targets.len() as u64) as usize]);
            let lasts = Duration::from_millis(20 + rng.below(480));
            if at + lasts > length {
                break;
            }
            events.push(Event { at, lasts, fault });
            at += lasts + Duration::from_millis(every_ms / 2 + rng.below(every_ms) - 260);
        }
    }
    events.sort_by_key(|event| event.at);
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_come_as_often_as_they_should_and_nobody_dies_twice_at_once() {
        let events = kills(4, 2, Duration::from_secs(150), &mut Rng::new(7));
        assert_eq!(events, kills(4, 2, Duration::from_secs(150), &mut Rng::new(7)));
        let count = |what: fn(&Target) -> bool| {
            events.iter().filter(|event| event.fault.process().is_some_and(|p| what(&p))).count()
        };
        assert!((90..=110).contains(&count(|target| matches!(target, Target::Keeper(_)))));
        assert!((8..=14).contains(&count(|target| *target == Target::Master)));
        assert!((8..=14).contains(&count(|target| matches!(target, Target::Mount(_)))));
        for (n, event) in events.iter().enumerate() {
            let same = events[..n].iter().filter(|other| other.fault.excludes(&event.fault));
            assert!(same.into_iter().all(|other| other.at + other.lasts < event.at), "{event:?}");
        }
    }

    #[test]
    fn a_plan_comes_from_its_seed_has_all_faults_and_none_twice_at_once() {
        let targets = [Target::Master, Target::Keeper(0), Target::Keeper(1), Target::Mount(0)];
        let faults: Vec<Fault> = targets.into_iter().flat_map(|t| [Fault::Kill(t), Fault::Stop(t)]).collect();
        let (length, longest_stop) = (Duration::from_secs(120), Duration::from_secs(5));
        let recipe = Recipe { faults: faults.clone(), length, longest_stop };
        let events = plan(&recipe, &mut Rng::new(7));
        assert_eq!(events, plan(&recipe, &mut Rng::new(7)));
        assert_ne!(events, plan(&recipe, &mut Rng::new(8)));
        assert!(faults.iter().all(|fault| events.iter().any(|event| event.fault == *fault)));
        for (n, event) in events.iter().enumerate() {
            assert!(event.at + event.lasts <= recipe.length);
            let same = events[..n].iter().filter(|other| other.fault.excludes(&event.fault));
            assert!(same.into_iter().all(|other| other.at + other.lasts < event.at), "{event:?}");
        }
        let overlap = |a: &Event, b: &Event| a.at < b.at && b.at < a.at + a.lasts;
        assert!(events.iter().any(|a| events.iter().any(|b| overlap(a, b))), "some hold at once");
    }
}
