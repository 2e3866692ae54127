//! One round: programs work on all mounts while faults happen; then everything heals, is read once more, and is judged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::check::{History, Wrong, check};
use super::inject::Injector;
use super::log::{self, Action, Operation, Outcome, now_ns};
use super::plan::Event;
use crate::cluster::Cluster;
use crate::mount::Mount;
use crate::process::{binary, tail};
use crate::wait::{secs, wait_for, wait_until};

/// Longer than any call may take once everything works again: an append waits at most 90 s for its turn.
const LONGEST_CALL: Duration = secs(150);

/// After the last fault all chunks have all their copies by then.
const REPAIRED: Duration = secs(60);

/// And chunks that no file needs are removed by then: within a minute of when the last compaction gave some up.
const COLLECTED: Duration = secs(75);

/// What happened in a round.
#[derive(Debug, Default)]
pub struct Report {
    /// How often each kind of fault was done.
    pub faults: BTreeMap<String, u64>,
    /// How many operations of each kind were done (true) or failed (false).
    pub operations: BTreeMap<(String, bool), u64>,
}

/// Runs a round with these faults. `number` tells rounds on one cluster apart.
///
/// # Panics
/// When anything is wrong: with the seed, what is wrong, and the log of the files that are concerned.
pub fn run(cluster: &mut Cluster, mounts: &mut [Mount], number: u64, seed: u64, events: &[Event]) -> Report {
    let round = Round { number, seed, log_dir: cluster.scratch.path("log") };
    round.start(cluster, mounts, 0, "setup", None).finish(secs(60));
    let mut workers: Vec<Worker> =
        (0..mounts.len()).map(|mount| round.start(cluster, mounts, mount, "work", None)).collect();
    let mut injector = Injector::new(cluster, mounts, seed);
    injector.run(events);
    injector.wait_healed();
    let (pauses, faults) = (std::mem::take(&mut injector.pauses), std::mem::take(&mut injector.counts));
    drop(injector);
    workers.iter_mut().for_each(Worker::stop);
    workers.into_iter().for_each(|worker| worker.finish(LONGEST_CALL));

    let healed_ns = now_ns();
    let mut operations = round.operations(mounts.len(), &["setup", "work"]);
    let paths = round.paths(&operations);
    for mount in 0..mounts.len() {
        round.start(cluster, mounts, mount, "final", Some(&paths)).finish(LONGEST_CALL);
    }
    operations.extend(round.operations(mounts.len(), &["final"]));
    let history = History { operations, pauses, healed_ns, mounts: mounts.len() as u32 };
    let report = Report { faults, operations: tally(&history.operations) };
    println!("round {number}, seed {seed}: {:?}\n{:?}", report.faults, report.operations);
    let wrong = check(&history);
    assert!(wrong.is_empty(), "{}", round.complain(&history, &wrong, events));

    whole(cluster);
    collected(cluster);
    round.start(cluster, mounts, 0, "clear", None).finish(secs(60));
    report
}

struct Round {
    number: u64,
    seed: u64,
    log_dir: PathBuf,
}

/// A worker process.
struct Worker {
    name: String,
    child: Child,
    errors: PathBuf,
}

impl Round {
    fn log(&self, mount: usize, task: &str) -> PathBuf {
        self.log_dir.join(format!("round-{}-{task}-{mount}.ops", self.number))
    }

    fn start(
        &self,
        cluster: &Cluster,
        mounts: &[Mount],
        mount: usize,
        task: &str,
        paths: Option<&Path>,
    ) -> Worker {
        let name = format!("round-{}-{task}-{mount}", self.number);
        let errors = self.log_dir.join(format!("{name}.log"));
        let mut command: Command = cluster.scratch.program(binary("dfs-test-worker"));
        command.arg(task).arg(mounts[mount].path(format!("r{}", self.number)));
        command.args([mount.to_string(), mounts.len().to_string(), self.seed.to_string()]);
        command.arg(self.log(mount, task)).args(paths);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(File::create(&errors).unwrap());
        Worker { name, child: command.spawn().unwrap(), errors }
    }

    fn operations(&self, mounts: usize, tasks: &[&str]) -> Vec<Operation> {
        let logs = tasks.iter().flat_map(|task| (0..mounts).map(|mount| self.log(mount, task)));
        logs.filter(|log| log.exists()).flat_map(|log| log::read(&log)).collect()
    }

    /// Everything that was ever written, for those who read at the end.
    fn paths(&self, operations: &[Operation]) -> PathBuf {
        let mut paths = BTreeSet::new();
        for operation in operations {
            match &operation.action {
                Action::Replace { path, .. }
                | Action::Overwrite { path, .. }
                | Action::Append { path, .. } => {
                    paths.insert(path.clone());
                }
                Action::Names { changes, .. } => {
                    paths.extend(changes.iter().map(|change| change.path.clone()))
                }
                _ => {}
            }
        }
        let to = self.log_dir.join(format!("round-{}.paths", self.number));
        fs::write(&to, serde_json::to_vec(&paths).unwrap()).unwrap();
        to
    }

    /// The message of a round that failed. With DFS_TEST_KEEP=DIRECTORY all logs are copied there.
    fn complain(&self, history: &History, wrong: &[Wrong], events: &[Event]) -> String {
        let mut text =
            format!("{} things are wrong in round {} (seed {}):\n", wrong.len(), self.number, self.seed);
        wrong.iter().take(20).for_each(|one| text += &format!("  {one}\n"));
        text += "faults:\n";
        events.iter().for_each(|event| text += &format!("  {event:?}\n"));
        let paths: BTreeSet<&str> = wrong.iter().map(|one| one.path.as_str()).collect();
        let begin = history.operations.iter().map(|operation| operation.begin_ns).min().unwrap_or(0);
        for path in paths.into_iter().take(3) {
            text += &format!("log of {path}, in seconds:\n");
            let mut of_path: Vec<_> =
                history.operations.iter().filter(|operation| concerns(operation, path)).collect();
            of_path.sort_by_key(|operation| operation.begin_ns);
            for operation in of_path.iter().rev().take(60).rev() {
                let time = |at: u64| (at - begin) as f64 / 1e9;
                let (from, to) = (time(operation.begin_ns), operation.end_ns.map(time));
                let shown = format!("{:?} -> {:?}", operation.action, operation.outcome);
                let shown: String = shown.chars().take(400).collect();
                text += &format!("  {from:.3} {to:.3?} mount {} {shown}\n", operation.mount);
            }
        }
        if let Some(keep) = std::env::var_os("DFS_TEST_KEEP") {
            let to = Path::new(&keep).join(format!("seed-{}-round-{}", self.seed, self.number));
            fs::create_dir_all(&to).unwrap();
            for entry in fs::read_dir(&self.log_dir).unwrap().flatten() {
                fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
            text += &format!("all logs are in {}\n", to.display());
        }
        text
    }
}

impl Worker {
    fn stop(&mut self) {
        drop(self.child.stdin.take());
    }

    #[track_caller]
    fn finish(mut self, limit: Duration) {
        self.stop();
        let what = format!("{} ends; where it is: {}", self.name, where_it_is(self.child.id()));
        let status = wait_for(limit, &what, || self.child.try_wait().unwrap());
        assert!(status.success(), "{} failed: {status}: {}", self.name, tail(&self.errors));
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Not waited for: it may be stuck in a mount that is ended later.
        let _ = self.child.kill();
    }
}

/// The system calls that its threads are in.
fn where_it_is(pid: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let shown = tasks.map(|task| fs::read_to_string(task.path().join("syscall")).unwrap_or_default());
    shown.map(|call| call.trim().to_owned()).collect::<Vec<_>>().join(" | ")
}

fn concerns(operation: &Operation, path: &str) -> bool {
    match &operation.action {
        Action::Names { changes, .. } => changes.iter().any(|change| change.path == path),
        Action::List { path: dir } => path.rsplit_once('/').is_some_and(|(parent, _)| parent == dir),
        Action::Replace { path: of, .. }
        | Action::Overwrite { path: of, .. }
        | Action::Append { path: of, .. }
        | Action::Read { path: of }
        | Action::ReadOpen { path: of }
        | Action::ReadRecords { path: of }
        | Action::Look { path: of } => of == path,
    }
}

fn tally(operations: &[Operation]) -> BTreeMap<(String, bool), u64> {
    let mut counts = BTreeMap::new();
    for operation in operations {
        let shown = format!("{:?}", operation.action);
        let name = shown.split(' ').next().unwrap_or_default().to_owned();
        let good = !matches!(operation.outcome, None | Some(Outcome::Failed(..)));
        *counts.entry((name, good)).or_default() += 1;
    }
    counts
}

/// All chunks have all their copies again.
#[track_caller]
pub fn whole(cluster: &Cluster) {
    wait_until(REPAIRED, "all chunks have all their copies", || {
        ["under_replicated", "endangered", "lost"].iter().all(|field| cluster.status(field) == 0)
    });
}

/// No keeper has a chunk file that the look-up table does not show, and none is missing. Nobody is started again for that, and
/// so makes an inventory.
#[track_caller]
pub fn collected(cluster: &Cluster) {
    let begun = Instant::now();
    loop {
        let shown: BTreeSet<PathBuf> = shown_by_the_table(cluster);
        let there: BTreeSet<PathBuf> =
            (0..cluster.keeper_count()).flat_map(|index| cluster.chunk_files(index)).collect();
        if shown == there {
            println!("chunk files and look-up table agree after {} s", begun.elapsed().as_secs());
            return;
        }
        if begun.elapsed() > COLLECTED {
            let orphans = there.difference(&shown).map(|path| format!("orphan {}", path.display()));
            let missing = shown.difference(&there).map(|path| format!("missing {}", path.display()));
            let differ: Vec<String> = orphans.chain(missing).collect();
            panic!("{COLLECTED:?} after all was over, chunk files and look-up table differ: {differ:#?}");
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn shown_by_the_table(cluster: &Cluster) -> BTreeSet<PathBuf> {
    let dirs: BTreeMap<u64, PathBuf> = (0..cluster.keeper_count())
        .map(|index| (cluster.keeper_id(index), cluster.keeper_data(index)))
        .collect();
    let rows = cluster.lookup("/");
    let paths = rows.iter().filter_map(|row| {
        let dir = dirs.get(&row["keeper"].as_u64()?)?;
        Some(dir.join(row["path"].as_str()?))
    });
    paths.collect()
}
