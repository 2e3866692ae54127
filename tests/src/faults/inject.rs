//! Doing the faults of a plan to the processes of a cluster, and healing them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::check::Pause;
use super::disk;
use super::log::now_ns;
use super::plan::{Event, Fault, Target};
use crate::cluster::Cluster;
use crate::mount::{Mount, mounted};
use crate::netns::Network;
use crate::process::Process;
use crate::random::Rng;
use crate::wait::secs;

/// A process that ended by itself is started again after this: a mount, say, that did not find the master.
const START_AGAIN: Duration = secs(1);

/// What a slow process sends goes no faster than this.
const SLOW: &str = "4mbit";

/// Does faults, and remembers what it did.
pub struct Injector<'a> {
    cluster: &'a mut Cluster,
    mounts: &'a mut [Mount],
    holding: Vec<Holding>,
    /// Which of many chunk files rots.
    rng: Rng,
    /// Keepers with chunk files that rotted.
    rotten: BTreeSet<usize>,
    /// When each process that ended by itself was seen to have.
    ended: BTreeMap<Target, Instant>,
    /// Mounts that stood still.
    pub pauses: Vec<Pause>,
    /// How often what happened.
    pub counts: BTreeMap<String, u64>,
}

/// A fault that is not healed yet.
struct Holding {
    fault: Fault,
    until: Instant,
    from_ns: u64,
}

impl<'a> Injector<'a> {
    /// For these processes.
    pub fn new(cluster: &'a mut Cluster, mounts: &'a mut [Mount], seed: u64) -> Injector<'a> {
        let (holding, ended, rng, rotten) = (Vec::new(), BTreeMap::new(), Rng::new(seed), BTreeSet::new());
        Injector { cluster, mounts, holding, ended, rng, rotten, pauses: Vec::new(), counts: BTreeMap::new() }
    }

    /// Does a whole plan, and heals everything.
    pub fn run(&mut self, events: &[Event]) {
        let begun = Instant::now();
        let mut left = events.iter().peekable();
        while left.peek().is_some() || !self.holding.is_empty() {
            while let Some(event) = left.next_if(|event| event.at <= begun.elapsed()) {
                self.begin(event);
            }
            let (due, rest) = std::mem::take(&mut self.holding)
                .into_iter()
                .partition::<Vec<_>, _>(|holding| holding.until <= Instant::now());
            self.holding = rest;
            due.into_iter().for_each(|holding| self.heal(&holding));
            self.look_after();
            std::thread::sleep(Duration::from_millis(10));
        }
        // A keeper looks at its directory when it starts, and so comes upon files that are gone, which nobody may read.
        for index in std::mem::take(&mut self.rotten) {
            self.cluster.keeper(index).kill();
            self.cluster.keeper(index).restart();
        }
    }

    fn process(&mut self, target: Target) -> &mut Process {
        match target {
            Target::Master => &mut self.cluster.master,
            Target::Keeper(index) => self.cluster.keeper(index),
            Target::Mount(index) => &mut self.mounts[index].process,
        }
    }

    fn network(&self) -> &Network {
        self.cluster.network()
    }

    fn count(&mut self, what: String) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn begin(&mut self, event: &Event) {
        let fault = event.fault;
        // One that has ended by itself is not there to be hurt; one that is stopped still, because we are late, is to be left.
        if let Some(target) = fault.process() {
            let is_hurt = self.holding.iter().any(|holding| holding.fault.process() == Some(target));
            if is_hurt || !self.process(target).is_running() {
                return;
            }
        }
        self.count(match fault {
            Fault::Kill(target) => format!("kill {}", kind(target)),
            Fault::Stop(target) => format!("stop {}", kind(target)),
            Fault::Cut(from, to) => format!("cut {} to {}", kind(from), kind(to)),
            Fault::Slow(target) => format!("slow {}", kind(target)),
            Fault::Reset(a, b) => format!("reset {} and {}", kind(a), kind(b)),
            Fault::Rot(_) => "a chunk file is to rot".to_owned(),
            Fault::Fill(_) => "fill a keeper's disk".to_owned(),
        });
        let from_ns = now_ns();
        match fault {
            Fault::Kill(Target::Mount(index)) => {
                if !self.mounts[index].end() {
                    self.count("a killed mount that did not end until its connection was aborted".into());
                }
            }
            Fault::Kill(target) => self.process(target).kill(),
            Fault::Stop(target) => self.process(target).stop(),
            Fault::Cut(from, to) => self.network().cut_one_way(&name(from), &name(to)),
            Fault::Slow(target) => self.network().slow(&name(target), SLOW),
            Fault::Reset(a, b) => self.network().reset(&name(a), &name(b)),
            Fault::Rot(index) => {
                let what = disk::rot(self.cluster, index, &mut self.rng).unwrap_or("none could rot");
                self.count(what.to_owned());
                self.rotten.insert(index);
            }
            Fault::Fill(index) => disk::fill(&self.cluster.keeper_data(index)),
        }
        self.holding.push(Holding { fault, until: Instant::now() + event.lasts, from_ns });
    }

    fn heal(&mut self, holding: &Holding) {
        match holding.fault {
            Fault::Kill(Target::Master) => self.cluster.restart_master(),
            Fault::Kill(target) => self.process(target).restart(),
            Fault::Stop(target) => {
                self.process(target).cont();
                if let Target::Mount(index) = target {
                    let pause = Pause { mount: index as u32, from_ns: holding.from_ns, to_ns: now_ns() };
                    self.pauses.push(pause);
                }
            }
            Fault::Cut(from, to) => self.network().heal(&name(from), &name(to)),
            Fault::Slow(target) => self.network().fast(&name(target)),
            Fault::Fill(index) => disk::empty(&self.cluster.keeper_data(index)),
            Fault::Reset(..) | Fault::Rot(_) => {}
        }
    }

    fn targets(&self) -> Vec<Target> {
        let keepers = (0..self.cluster.keeper_count()).map(Target::Keeper);
        let mounts = (0..self.mounts.len()).map(Target::Mount);
        std::iter::once(Target::Master).chain(keepers).chain(mounts).collect()
    }

    /// Starts again what has ended by itself.
    fn look_after(&mut self) {
        for target in self.targets() {
            let hurt = self.holding.iter().any(|holding| holding.fault == Fault::Kill(target));
            if hurt || self.process(target).is_running() {
                self.ended.remove(&target);
                continue;
            }
            let since = *self.ended.entry(target).or_insert_with(Instant::now);
            if since.elapsed() > START_AGAIN {
                self.count(format!("a {} that ended by itself", kind(target)));
                match target {
                    Target::Master => self.cluster.restart_master(),
                    _ => self.process(target).restart(),
                }
                self.ended.remove(&target);
            }
        }
    }

    /// Waits until everybody is there again.
    #[track_caller]
    pub fn wait_healed(&mut self) {
        let limit = secs(90);
        let begun = Instant::now();
        loop {
            self.look_after();
            let mounted = self.mounts.iter().all(|mount| mounted(mount.dir()).is_some());
            let (keepers, mounts) = (self.cluster.keeper_count() as u64, self.mounts.len() as u64);
            let is = (self.cluster.status("keepers_live"), self.cluster.status("mounts"));
            if mounted && is == (keepers, mounts) {
                return;
            }
            assert!(
                begun.elapsed() < limit,
                "(keepers live, mounts) are {is:?} {limit:?} after the last fault"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The name of its node.
fn name(target: Target) -> String {
    match target {
        Target::Master => "master".to_owned(),
        Target::Keeper(index) => format!("keeper-{index}"),
        Target::Mount(index) => format!("mount-{index}"),
    }
}

fn kind(target: Target) -> &'static str {
    match target {
        Target::Master => "master",
        Target::Keeper(_) => "keeper",
        Target::Mount(_) => "mount",
    }
}
