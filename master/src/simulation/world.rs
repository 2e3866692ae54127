//! The simulated world: virtual time, what happens when, and streams between the master and its peers.
//!
//! A stream keeps its order in each direction. When it is cut, what has not arrived yet is lost, both ways, and each side
//! notices in its own time: a mount or keeper within 3 s (it hears no answer to its pings), the master perhaps much later.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use dfs_proto::pb::{self, keeper_down, keeper_up, mount_down};

use super::invariants::{self, Invariant, Saw};
use super::keeper::{self, Keeper};
use super::master::Master;
use super::mount::{self, Mount};
use super::rng::Rng;
use super::{Bug, chaos};

/// The bytes of a chunk: each tells which write it is of, and for which place in the file.
pub(super) type Content = Rc<[u64]>;

/// Who is at the other end of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Peer {
    Mount(usize),
    Keeper(usize),
}

/// What peers say.
#[derive(Debug)]
pub(super) enum Up {
    MountHello(pb::MountHello),
    Request(pb::MountRequest),
    Acks(Vec<u64>),
    Goodbye,
    KeeperHello(pb::KeeperHello),
    Keeper(keeper_up::Msg),
}

#[derive(Debug)]
pub(super) enum Event {
    Tick(u64),
    Committed(u64),
    MasterStarts,
    Up(usize, Up),
    DownMount(usize, mount_down::Msg),
    DownKeeper(usize, keeper_down::Msg),
    MasterNotices(usize),
    PeerNotices(usize),
    Mount(usize, mount::Task),
    Keeper(usize, keeper::Task),
    Chaos,
    /// When it is calm: is all as it has to be in the end?
    Look,
}

impl Event {
    /// Comes again and again, whatever happens; or is of no consequence once nothing else is under way.
    fn is_routine(&self) -> bool {
        matches!(
            self,
            Event::Tick(_)
                | Event::Look
                | Event::Chaos
                | Event::Mount(_, mount::Task::Act | mount::Task::Late { .. })
                | Event::Keeper(_, keeper::Task::Beat(_))
        )
    }
}

pub(super) struct Link {
    pub peer: Peer,
    pub cut: bool,
    up_until_ms: i64,
    down_until_ms: i64,
}

/// What a seed chooses.
pub(super) struct Plan {
    pub chaos_until_ms: i64,
    pub end_ms: i64,
    /// It may end before, when all is as it has to be.
    pub may_end_early: bool,
    pub tick_ms: i64,
    /// Between two steps of a mount.
    pub act_ms: i64,
    /// Between two misfortunes.
    pub misfortune_ms: i64,
}

/// See the module.
pub(super) struct World {
    pub now_ms: i64,
    /// Grows with everything that happens: tells what was before what.
    pub step: u64,
    pub rng: Rng,
    pub plan: Plan,
    pub bug: Option<Bug>,
    /// Boxed, because the map moves what it holds.
    queue: BTreeMap<(i64, u64), Box<Event>>,
    /// Looks, one after the other, at which all was as it has to be.
    quiet_looks: u32,
    pub links: Vec<Link>,
    pub master: Master,
    pub mounts: Vec<Mount>,
    pub keepers: Vec<Keeper>,
    /// What each chunk is, by its id.
    pub chunks: BTreeMap<u64, Content>,
    /// Files that are only ever appended to.
    pub logs: BTreeSet<u64>,
    pub last_write: u64,
    /// Chunks of which a copy went bad, and at whom.
    pub rotted: BTreeMap<u64, usize>,
    /// Chunks of which misfortune took the last good copy.
    pub lost: BTreeSet<u64>,
    invariants: Vec<Box<dyn Invariant>>,
    /// The first rule that was broken.
    pub broken: Option<String>,
    pub commands: u64,
    /// What happened, if it is to be told.
    pub trace: bool,
}

/// Between two looks, and before the first.
const LOOK_MS: i64 = 4_000;
const FIRST_LOOK_MS: i64 = 16_000;
/// So many in a row find all as it has to be, and it ends.
const LOOKS: u32 = 3;

pub(super) const BEGIN_MS: i64 = 1_700_000_000_000;

impl World {
    /// `only`: no other invariant than the one of this name watches.
    pub fn new(seed: u64, bug: Option<Bug>, only: Option<&str>) -> World {
        let mut rng = Rng::new(seed);
        // Many short runs find more than few long ones, but not all.
        let chaos_ms = match rng.below(10) {
            // Found after a long absence only.
            _ if bug == Some(Bug::MountKeepsLostLocks) => 40_000,
            0..6 => rng.between(3_000, 10_000),
            6..9 => rng.between(8_000, 20_000),
            _ => rng.between(20_000, 40_000),
        };
        let plan = Plan {
            chaos_until_ms: BEGIN_MS + chaos_ms,
            end_ms: BEGIN_MS + chaos_ms + 400_000,
            may_end_early: !rng.percent(6),
            tick_ms: rng.between(200, 700),
            act_ms: rng.between(40, 300),
            misfortune_ms: rng.between(250, (chaos_ms / 5).clamp(800, 5_000)),
        };
        let mut world = World {
            now_ms: BEGIN_MS,
            step: 0,
            master: Master::new(&mut rng),
            plan,
            bug,
            queue: BTreeMap::new(),
            links: Vec::new(),
            mounts: Vec::new(),
            keepers: Vec::new(),
            chunks: BTreeMap::new(),
            logs: BTreeSet::new(),
            last_write: 0,
            rotted: BTreeMap::new(),
            lost: BTreeSet::new(),
            quiet_looks: 0,
            invariants: invariants::all(only),
            broken: None,
            commands: 0,
            trace: false,
            rng,
        };
        world.master_starts();
        for _ in 0..world.rng.between(3, 5) {
            world.add_keeper();
        }
        for _ in 0..world.rng.between(2, 3) {
            world.add_mount();
        }
        world.after(0, Event::Chaos);
        if world.plan.may_end_early {
            world.after(chaos_ms + FIRST_LOOK_MS, Event::Look);
        }
        world
    }

    pub fn is_calm(&self) -> bool {
        self.now_ms >= self.plan.chaos_until_ms
    }

    pub fn after(&mut self, ms: i64, event: Event) {
        self.step += 1;
        self.queue.insert((self.now_ms + ms, self.step), Box::new(event));
    }

    /// Until a rule is broken, or all is done. Then the invariants look at what is left.
    pub fn run(&mut self) {
        while self.broken.is_none()
            && let Some(((at_ms, _), event)) = self.queue.pop_first()
        {
            if at_ms > self.plan.end_ms {
                break;
            }
            self.now_ms = at_ms;
            self.step += 1;
            if self.trace {
                println!("{:>8} {event:?}", self.now_ms - BEGIN_MS);
            }
            self.happens(*event);
            if self.quiet_looks >= LOOKS {
                break;
            }
        }
        self.saw(&Saw::End);
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Tick(epoch) => self.tick(epoch),
            Event::Committed(epoch) => self.committed(epoch),
            Event::MasterStarts => self.master_starts(),
            Event::Up(link, up) => self.arrives(link, up),
            Event::DownMount(link, msg) => {
                if let Link { peer: Peer::Mount(at), cut: false, .. } = self.links[link]
                    && self.mounts[at].link == Some(link)
                {
                    self.mount_hears(at, msg);
                }
            }
            Event::DownKeeper(link, msg) => {
                if let Link { peer: Peer::Keeper(at), cut: false, .. } = self.links[link]
                    && self.keepers[at].link == Some(link)
                {
                    self.keeper_hears(at, msg);
                }
            }
            Event::MasterNotices(link) => self.master_loses(link, false),
            Event::PeerNotices(link) => self.peer_loses(link),
            Event::Mount(at, task) => self.mount_does(at, task),
            Event::Keeper(at, task) => self.keeper_does(at, task),
            Event::Chaos => chaos::strike(self),
            Event::Look => self.look(),
        }
    }

    fn look(&mut self) {
        let quiet = self.queue.values().all(|event| event.is_routine());
        let settled = quiet && invariants::is_settled(self);
        self.quiet_looks = if settled { self.quiet_looks + 1 } else { 0 };
        self.after(LOOK_MS, Event::Look);
    }

    /// A new stream of a peer.
    pub fn open_link(&mut self, peer: Peer) -> usize {
        self.links.push(Link { peer, cut: false, up_until_ms: 0, down_until_ms: 0 });
        self.links.len() - 1
    }

    pub fn send_up(&mut self, link: usize, up: Up) {
        let at_ms = (self.now_ms + self.rng.delay_ms()).max(self.links[link].up_until_ms);
        self.links[link].up_until_ms = at_ms;
        self.after(at_ms - self.now_ms, Event::Up(link, up));
    }

    fn down_in_ms(&mut self, link: usize) -> i64 {
        let at_ms = (self.now_ms + self.rng.delay_ms()).max(self.links[link].down_until_ms);
        self.links[link].down_until_ms = at_ms;
        at_ms - self.now_ms
    }

    pub fn send_to_mount(&mut self, link: usize, msg: mount_down::Msg) {
        let ms = self.down_in_ms(link);
        self.after(ms, Event::DownMount(link, msg));
    }

    pub fn send_to_keeper(&mut self, link: usize, msg: keeper_down::Msg) {
        let ms = self.down_in_ms(link);
        self.after(ms, Event::DownKeeper(link, msg));
    }

    /// What has not arrived is lost. The ends notice after so long.
    pub fn cut(&mut self, link: usize, master_ms: i64, peer_ms: i64) {
        self.links[link].cut = true;
        self.after(master_ms, Event::MasterNotices(link));
        self.after(peer_ms, Event::PeerNotices(link));
    }

    fn peer_loses(&mut self, link: usize) {
        self.links[link].cut = true;
        match self.links[link].peer {
            Peer::Mount(at) if self.mounts[at].link == Some(link) => self.mount_loses_link(at),
            Peer::Keeper(at) if self.keepers[at].link == Some(link) => self.keeper_loses_link(at),
            _ => {}
        }
    }

    /// Misfortune struck a copy of this chunk.
    pub fn note_loss(&mut self, chunk: u64) {
        if self.keepers.iter().all(|keeper| keeper.good(chunk).is_none()) {
            self.lost.insert(chunk);
        }
    }

    /// Shows something to every invariant.
    pub fn saw(&mut self, what: &Saw) {
        if self.broken.is_some() {
            return;
        }
        let mut invariants = std::mem::take(&mut self.invariants);
        for invariant in &mut invariants {
            if let Err(why) = invariant.saw(what, self) {
                self.broken = Some(format!("{}: {why}", invariant.name()));
                break;
            }
        }
        self.invariants = invariants;
    }
}
