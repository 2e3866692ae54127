//! Runs of many seeds, and of known bugs.

use super::world::World;
use super::{Bug, invariants};

/// Seeds of the short form.
const SEEDS: u64 = 1_500;
/// In how many seeds a known bug has to be found.
const WITHIN: u64 = 1000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: it has to be a number")))
}

/// Runs one seed; an error has what was broken. Returns how many commands there were.
fn run(seed: u64, bug: Option<Bug>, only: Option<&str>, trace: bool) -> Result<u64, String> {
    let whole = || {
        let mut world = World::new(seed, bug, only);
        world.trace = trace;
        world.run();
        match world.broken {
            Some(why) => Err(why),
            None => Ok(world.commands),
        }
    };
    // An assertion of the core is a finding as well.
    std::panic::catch_unwind(whole).unwrap_or_else(|_| Err("the core broke: see above".to_owned()))
}

#[test]
fn whatever_happens_every_invariant_holds() {
    if let Some(seed) = number("DFS_SIM_SEED") {
        let result = run(seed, None, None, true);
        return result.map(|_| ()).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
    let first = number("DFS_SIM_FIRST").unwrap_or(1);
    let seeds = number("DFS_SIM_SEEDS").unwrap_or(SEEDS);
    let begun = std::time::Instant::now();
    let next = std::sync::atomic::AtomicU64::new(0);
    let work = || {
        let (mut commands, mut broken) = (0, Vec::new());
        loop {
            let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if seed >= seeds || broken.len() >= 20 {
                return (commands, broken);
            }
            match run(first + seed, None, None, false) {
                Ok(more) => commands += more,
                Err(why) => broken.push(format!("DFS_SIM_SEED={}: {why}", first + seed)),
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let ended: Vec<(u64, Vec<String>)> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let commands: u64 = ended.iter().map(|(commands, _)| commands).sum();
    let broken: Vec<String> = ended.into_iter().flat_map(|(_, broken)| broken).collect();
    println!("{seeds} seeds, {commands} commands, {:.1} s", begun.elapsed().as_secs_f64());
    assert!(broken.is_empty(), "{} seeds failed:\n{}", broken.len(), broken.join("\n"));
}

/// With this bug, and nobody else watching, the invariant of this name fails in one of the first seeds.
fn finds(bug: Bug, invariant: &str) {
    let mut others = Vec::new();
    for seed in 1..=WITHIN {
        match run(seed, Some(bug), Some(invariant), false) {
            Err(why) if why.starts_with(invariant) => return println!("seed {seed}: {why}"),
            Err(why) => others.push(why),
            Ok(_) => {}
        }
    }
    others.truncate(10);
    panic!("{bug:?} was not found by '{invariant}', but: {others:#?}");
}

macro_rules! known_bugs {
    ($($name:ident: $bug:ident => $invariant:literal,)*) => {
        $(#[test] fn $name() { finds(Bug::$bug, $invariant); })*
        const FOUND: &[&str] = &[$($invariant),*];
    };
}

known_bugs! {
    a_success_that_is_told_too_early_is_found: SaysSuccessTooEarly => "what was acknowledged is kept",
    a_keeper_that_loses_synced_chunks_is_found: KeeperLosesSyncedChunks => "what was acknowledged is kept",
    effects_that_leave_too_early_are_found: LeavesBeforeItIsDurable => "nobody sees what a crash takes back",
    reserved_ids_that_are_forgotten_are_found: ForgetsReservedIds => "nobody sees what a crash takes back",
    chunks_deleted_while_they_are_recorded_are_found: DeletesWhatIsNeeded => "nobody sees what a crash takes back",
    a_chunk_that_is_given_out_twice_is_found: GivesAChunkTwice => "ids are never used again",
    deleting_all_copies_is_found: DeletesAllCopies => "nothing that is needed is deleted",
    lost_replies_are_found: LosesReplies => "a change is done once",
    writes_out_of_order_are_found: MountWritesOutOfOrder => "writes become visible in their order",
    a_lease_of_two_is_found: GrantsTheLeaseTwice => "no append is lost",
    a_lock_of_two_is_found: GrantsTwice => "locks exclude each other",
    a_mount_that_keeps_lost_locks_is_found: MountKeepsLostLocks => "locks exclude each other",
    changes_that_nobody_is_told_are_found: InvalidatesNobody => "what a mount trusts is so",
    a_mount_that_forgets_nothing_is_found: MountForgetsNothing => "what a mount trusts is so",
    a_roll_that_nobody_is_on_is_found: LosesTheRoll => "what a mount trusts is so",
    an_fsync_that_is_answered_too_early_is_found: AnswersFsyncTooEarly => "fsync means stable storage",
    a_keeper_that_says_synced_too_early_is_found: KeeperSaysSyncedTooEarly => "fsync means stable storage",
    copies_to_the_source_are_found: CopiesToTheSource => "copies go to keepers that have none",
    lost_rows_are_found: LosesRows => "the tables fit together",
    copies_that_are_not_made_are_found: KeeperCopiesNothing => "there are as many copies as are wanted",
    garbage_that_stays_is_found: KeeperDeletesNothing => "garbage goes",
    a_trash_that_keeps_nothing_is_found: LosesTrash => "what is deleted is kept as long as was promised",
    names_that_quotas_count_for_nothing_are_found: LosesNames => "quotas count what is there, and hold",
    quotas_that_are_exceeded_are_found: ExceedsQuotas => "quotas count what is there, and hold",
    a_keeper_forgotten_too_early_is_found: ForgetsTooEarly => "no keeper is let go with what is needed",
    a_drain_that_goes_on_unknown_is_found: DrainsNothing => "no keeper is let go with what is needed",
    a_rebalancing_without_an_end_is_found: RebalancesForEver => "moves end",
    requests_without_an_answer_are_found: AnswersNever => "everything is answered",
}

#[test]
fn each_invariant_has_a_known_bug_that_it_finds() {
    for invariant in invariants::all(None) {
        assert!(FOUND.contains(&invariant.name()), "no known bug shows that '{}' can fail", invariant.name());
    }
}
