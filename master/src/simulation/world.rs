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
    queue: BTreeMap<(i64, u64), Event>,
    pub links: Vec<Link>,
    pub master: Master,
    pub mounts: Vec<Mount>,
    pub keepers: Vec<Keeper>,
    /// What each chunk is, by its id.
    pub chunks: BTreeMap<u64, Content>,
    /// Files that are only ever appended to.
    pub logs: BTreeSet<u64>,
    pub last_write: u64,
    /// Chunks of which a copy went bad.
    pub rotted: BTreeSet<u64>,
    /// Chunks of which misfortune took the last good copy.
    pub lost: BTreeSet<u64>,
    invariants: Vec<Box<dyn Invariant>>,
    /// The first rule that was broken.
    pub broken: Option<String>,
    pub commands: u64,
    /// What happened, if it is to be told.
    pub trace: bool,
}

pub(super) const BEGIN_MS: i64 = 1_700_000_000_000;

impl World {
    pub fn new(seed: u64, bug: Option<Bug>) -> World {
        let mut rng = Rng::new(seed);
        let chaos_ms = rng.between(10_000, 40_000);
        let plan = Plan {
            chaos_until_ms: BEGIN_MS + chaos_ms,
            end_ms: BEGIN_MS + chaos_ms + 400_000,
            tick_ms: rng.between(200, 700),
            act_ms: rng.between(60, 300),
            misfortune_ms: rng.between(300, 5_000),
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
            rotted: BTreeSet::new(),
            lost: BTreeSet::new(),
            invariants: invariants::all(),
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
        world
    }

    pub fn is_calm(&self) -> bool {
        self.now_ms >= self.plan.chaos_until_ms
    }

    pub fn after(&mut self, ms: i64, event: Event) {
        self.step += 1;
        self.queue.insert((self.now_ms + ms, self.step), event);
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
            self.happens(event);
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
        }
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
