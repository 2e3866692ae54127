//! Runs of many seeds, and of known bugs.

use super::Bug;
use super::world::World;

/// Seeds of the short form.
const SEEDS: u64 = 130;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: it has to be a number")))
}

/// Runs one seed; an error has what was broken. Returns how many commands there were.
fn run(seed: u64, bug: Option<Bug>, trace: bool) -> Result<u64, String> {
    let whole = || {
        let mut world = World::new(seed, bug);
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

fn many_seeds() {
    if let Some(seed) = number("DFS_SIM_SEED") {
        let result = run(seed, None, true);
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
            match run(first + seed, None, false) {
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

/// The invariant of this name finds the bug within some hundred seeds.
fn finds(bug: Bug, invariant: &str) {
    let mut others = Vec::new();
    for seed in 1..=300 {
        match run(seed, Some(bug), false) {
            Err(why) if why.starts_with(invariant) => return,
            Err(why) => others.push(why),
            Ok(_) => {}
        }
    }
    others.truncate(10);
    panic!("{bug:?} was not found by '{invariant}', but by: {others:#?}");
}

#[test]
fn whatever_happens_every_invariant_holds() {
    many_seeds();
}

#[test]
fn known_bugs_are_found() {
    known_bugs();
}

fn known_bugs() {
    for (bug, invariant) in [
        (Bug::LeavesBeforeItIsDurable, "nobody sees what a crash takes back"),
        (Bug::ForgetsReservedIds, "nobody sees what a crash takes back"),
        (Bug::GivesAChunkTwice, "ids are never used again"),
        (Bug::LosesReplies, "a change is done once"),
        (Bug::DeletesWhatIsNeeded, "nobody sees what a crash takes back"),
    ] {
        finds(bug, invariant);
    }
}

/// Those that are yet to be seen found.
#[test]
#[ignore = "each is to be run once before it counts"]
fn more_known_bugs_are_found() {
    for (bug, invariant) in [
        (Bug::KeeperLosesSyncedChunks, "what was acknowledged is kept"),
        (Bug::MountForgetsNothing, "what a mount trusts is so"),
        (Bug::MountWritesOutOfOrder, "writes become visible in their order"),
        (Bug::MountKeepsLostLocks, "locks exclude each other"),
        (Bug::GrantsTwice, "locks exclude each other"),
        (Bug::GrantsTheLeaseTwice, "no append is lost"),
        (Bug::KeeperCopiesNothing, "there are as many copies as are wanted"),
        (Bug::KeeperDeletesNothing, "garbage goes"),
        (Bug::KeeperSaysSyncedTooEarly, "fsync means stable storage"),
        (Bug::CopiesToTheSource, "copies go to keepers that have none"),
        (Bug::LosesRows, "the tables fit together"),
        (Bug::AnswersNever, "everything is answered"),
    ] {
        finds(bug, invariant);
    }
}
