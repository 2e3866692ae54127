//! Scripted keepers: hold chunks, sync them late, copy and build as they are told, tell what they have, answer late, twice
//! or never, die, lose what was not synced, rot.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use dfs_proto::pb::{self, keeper_down, keeper_up};

use super::Bug;
use super::invariants::Saw;
use super::world::{Content, Event, Peer, Up, World};

/// Keepers sync all they have within a second.
const SYNC_WITHIN_MS: i64 = 1_000;
/// What came in so long ago is named to the master, in case that nobody else did.
const ARRIVED_AFTER_MS: i64 = 15_000;
/// A copy that the master has not announced waits so often for so long.
const EXPECT_TRIES: u32 = 60;
const EXPECT_MS: i64 = 50;

/// One chunk on a disk.
#[derive(Clone)]
pub(super) struct Copy {
    pub content: Content,
    pub synced: bool,
    pub rotten: bool,
}

#[derive(Debug)]
pub(super) enum Task {
    Connect,
    Beat(usize),
    Restart,
    /// Of a life.
    Sync(u32, u64),
    SayLate(u32, keeper_up::Msg),
    /// On this stream, or not at all.
    Page(usize, keeper_up::Msg),
    Push(u32, Push),
    Arrived(u32, u64),
    Build(u32, pb::BuildChunk),
}

/// A copy that is to be made.
#[derive(Clone, Debug)]
pub(super) struct Push {
    order: u64,
    chunk: u64,
    to: u64,
    /// How often it has waited to be announced.
    tries: u32,
}

/// See the module.
pub(super) struct Keeper {
    /// 0: none yet.
    pub id: u64,
    host: String,
    pub up: bool,
    /// An operator had it forgotten: it never comes back.
    pub gone: bool,
    /// Grows when the process dies.
    pub life: u32,
    pub link: Option<usize>,
    welcomed: bool,
    pub disk: BTreeMap<u64, Copy>,
    /// Chunks of which it has put a bad file away.
    pub quarantined: BTreeSet<u64>,
    /// Deleted, and not yet synced: a power loss may bring them back.
    deleted: Vec<(u64, Copy)>,
    /// To be said when the master is reached again.
    unsaid: Vec<keeper_up::Msg>,
    /// Orders of which the master said, on this stream, that a copy will come: so deletions of before have come as well.
    expected: BTreeSet<u64>,
}

pub(super) fn checksum(content: &[u64]) -> u32 {
    content.iter().fold(17u64, |sum, byte| (sum ^ byte).wrapping_mul(0x0100_0000_01b3).rotate_left(9)) as u32
}

impl Keeper {
    /// A copy that a reader could use.
    pub fn good(&self, chunk: u64) -> Option<&Copy> {
        self.disk.get(&chunk).filter(|copy| !copy.rotten)
    }

    fn info(&self, chunk: u64) -> Option<pb::ChunkInfo> {
        let copy = self.disk.get(&chunk)?;
        Some(pb::ChunkInfo { chunk, length: copy.content.len() as u32, checksum: checksum(&copy.content) })
    }

    fn load(&self) -> pb::Load {
        let used = self.disk.values().map(|copy| copy.content.len() as u64).sum();
        pb::Load { total: 1 << 40, used, free: (1 << 40) - used, ..pb::Load::default() }
    }
}

impl World {
    pub fn add_keeper(&mut self) {
        let at = self.keepers.len();
        let host = format!("h{}", self.rng.below(4));
        self.keepers.push(Keeper {
            id: 0,
            host,
            up: true,
            gone: false,
            quarantined: BTreeSet::new(),
            life: 0,
            link: None,
            welcomed: false,
            disk: BTreeMap::new(),
            deleted: Vec::new(),
            unsaid: Vec::new(),
            expected: BTreeSet::new(),
        });
        self.after(0, Event::Keeper(at, Task::Connect));
    }

    /// Among the keepers, the one with this id.
    pub fn keeper_of(&self, id: u64) -> Option<usize> {
        self.keepers.iter().position(|keeper| keeper.id == id && id != 0)
    }

    pub fn keeper_loses_link(&mut self, at: usize) {
        self.keepers[at].link = None;
        self.keepers[at].welcomed = false;
        self.keepers[at].expected.clear();
        if self.keepers[at].up {
            let ms = self.rng.between(20, 500);
            self.after(ms, Event::Keeper(at, Task::Connect));
        }
    }

    /// The process ends; `power`: with the machine.
    pub fn keeper_dies(&mut self, at: usize, power: bool, down_ms: i64) {
        if !self.keepers[at].up {
            return;
        }
        let keeper = &mut self.keepers[at];
        keeper.up = false;
        keeper.life += 1;
        keeper.unsaid.clear();
        keeper.expected.clear();
        keeper.welcomed = false;
        let link = keeper.link.take();
        let deleted = std::mem::take(&mut keeper.deleted);
        if power {
            let unsynced: Vec<u64> =
                keeper.disk.iter().filter(|(_, c)| !c.synced).map(|(id, _)| *id).collect();
            for chunk in unsynced {
                if self.rng.percent(70) {
                    self.keepers[at].disk.remove(&chunk);
                    self.note_loss(chunk);
                }
            }
            if self.bug == Some(Bug::KeeperLosesSyncedChunks) {
                self.keepers[at].disk.clear();
            }
            for (chunk, copy) in deleted {
                if copy.synced && self.rng.percent(50) {
                    self.keepers[at].disk.entry(chunk).or_insert(copy);
                }
            }
            self.keepers[at].disk.values_mut().for_each(|copy| copy.synced = true);
        }
        if let Some(link) = link {
            let ms = if power { self.rng.between(0, 9_000) } else { self.rng.delay_ms() };
            self.cut(link, ms, 0);
        }
        self.after(down_ms, Event::Keeper(at, Task::Restart));
    }

    pub fn keeper_does(&mut self, at: usize, task: Task) {
        match task {
            Task::Restart if self.keepers[at].gone => {}
            Task::Restart => {
                self.keepers[at].up = true;
                // What was not synced is still in the machine's cache, and is synced now.
                let life = self.keepers[at].life;
                let unsynced: Vec<u64> =
                    self.keepers[at].disk.iter().filter(|(_, copy)| !copy.synced).map(|(c, _)| *c).collect();
                unsynced.into_iter().for_each(|chunk| self.sync_later(at, life, chunk));
                self.after(0, Event::Keeper(at, Task::Connect));
            }
            Task::Connect => self.keeper_connects(at),
            Task::Beat(link) => {
                if self.keepers[at].link == Some(link) && self.keepers[at].up {
                    let load = Some(self.keepers[at].load());
                    self.send_up(link, Up::Keeper(keeper_up::Msg::Heartbeat(pb::Heartbeat { seq: 1, load })));
                    let ms = if self.is_calm() { 2_000 } else { 1_000 };
                    if self.is_calm() {
                        self.keeper_scrubs(at);
                    }
                    self.after(ms, Event::Keeper(at, Task::Beat(link)));
                }
            }
            Task::Sync(life, chunk) => {
                if self.lives(at, life)
                    && let Some(copy) = self.keepers[at].disk.get_mut(&chunk).filter(|copy| !copy.synced)
                {
                    copy.synced = true;
                    self.keeper_says(at, keeper_up::Msg::Synced(pb::Synced { chunks: vec![chunk] }));
                }
            }
            Task::SayLate(life, msg) => {
                if self.lives(at, life) {
                    self.keeper_says(at, msg);
                }
            }
            Task::Page(link, msg) => {
                if self.keepers[at].link == Some(link) {
                    self.send_up(link, Up::Keeper(msg));
                }
            }
            Task::Push(life, push) => {
                if self.lives(at, life) {
                    self.keeper_pushes(at, push);
                }
            }
            Task::Arrived(life, chunk) => {
                if self.lives(at, life) && self.keepers[at].disk.contains_key(&chunk) {
                    self.keeper_says(at, keeper_up::Msg::Arrived(pb::Arrived { chunks: vec![chunk] }));
                }
            }
            Task::Build(life, order) => {
                if self.lives(at, life) {
                    self.keeper_builds(at, &order);
                }
            }
        }
    }

    fn lives(&self, at: usize, life: u32) -> bool {
        self.keepers[at].up && self.keepers[at].life == life
    }

    fn keeper_connects(&mut self, at: usize) {
        if !self.keepers[at].up || self.keepers[at].link.is_some() {
            return;
        }
        let link = self.open_link(Peer::Keeper(at));
        let keeper = &mut self.keepers[at];
        keeper.link = Some(link);
        let hello = pb::KeeperHello {
            protocol_version: dfs_proto::PROTOCOL_VERSION,
            keeper: keeper.id,
            address: format!("k{at}:1"),
            host: keeper.host.clone(),
            load: Some(keeper.load()),
            ..pb::KeeperHello::default()
        };
        self.send_up(link, Up::KeeperHello(hello));
    }

    /// Says it now, or when the master can be reached.
    fn keeper_says(&mut self, at: usize, msg: keeper_up::Msg) {
        match self.keepers[at].link {
            Some(link) if self.keepers[at].welcomed => self.send_up(link, Up::Keeper(msg)),
            _ => self.keepers[at].unsaid.push(msg),
        }
    }

    fn says_in(&mut self, at: usize, ms: i64, msg: keeper_up::Msg) {
        let life = self.keepers[at].life;
        self.after(ms, Event::Keeper(at, Task::SayLate(life, msg)));
    }

    pub fn keeper_hears(&mut self, at: usize, msg: keeper_down::Msg) {
        let life = self.keepers[at].life;
        match msg {
            keeper_down::Msg::Welcome(welcome) => self.keeper_welcomed(at, welcome.keeper),
            keeper_down::Msg::Delete(_) if self.bug == Some(Bug::KeeperDeletesNothing) => {}
            keeper_down::Msg::Delete(delete) => {
                for chunk in delete.chunks {
                    if let Some(copy) = self.keepers[at].disk.remove(&chunk) {
                        self.keepers[at].deleted.push((chunk, copy));
                        self.saw(&Saw::Deleted { keeper: at, chunk });
                    }
                }
            }
            keeper_down::Msg::Push(_) if self.bug == Some(Bug::KeeperCopiesNothing) => {}
            keeper_down::Msg::Push(push) => {
                let to = push.grant.as_ref().and_then(|grant| grant.keepers.first()).map_or(0, |k| k.keeper);
                let ms = self.slow_ms();
                let push = Push { order: push.order, chunk: push.chunk, to, tries: 0 };
                self.after(ms, Event::Keeper(at, Task::Push(life, push)));
            }
            keeper_down::Msg::Sync(sync) => {
                let ms = self.slow_ms();
                if self.bug == Some(Bug::KeeperSaysSyncedTooEarly) {
                    let synced = keeper_up::Msg::Synced(pb::Synced { chunks: sync.chunks.clone() });
                    return self.keeper_says(at, synced);
                }
                for chunk in &sync.chunks {
                    self.after(ms, Event::Keeper(at, Task::Sync(life, *chunk)));
                }
                let (here, missing): (Vec<u64>, Vec<u64>) =
                    sync.chunks.into_iter().partition(|chunk| self.keepers[at].disk.contains_key(chunk));
                missing.into_iter().for_each(|chunk| self.keeper_verifies(at, chunk));
                self.says_in(at, ms + 1, keeper_up::Msg::Synced(pb::Synced { chunks: here }));
            }
            keeper_down::Msg::Verify(verify) => self.keeper_verifies(at, verify.chunk),
            keeper_down::Msg::Build(build) => {
                let ms = self.slow_ms();
                self.after(ms, Event::Keeper(at, Task::Build(life, build)));
            }
            keeper_down::Msg::SendInventory(order) => self.keeper_tells_what_it_has(at, order.number),
            keeper_down::Msg::EmptyQuarantine(order) => {
                self.keepers[at].quarantined.retain(|chunk| !order.chunks.contains(chunk));
            }
            keeper_down::Msg::Refused(error) => self.keeper_refused(at, &error),
            keeper_down::Msg::Expect(expect) => drop(self.keepers[at].expected.insert(expect.order)),
            keeper_down::Msg::Ack(_) => {}
            #[allow(unreachable_patterns)]
            _ => {}
        }
    }

    /// How long work takes; now and then longer than the master waits.
    fn slow_ms(&mut self) -> i64 {
        if self.is_calm() || !self.rng.percent(2) {
            self.rng.between(1, 60)
        } else {
            self.rng.between(100, 70_000)
        }
    }

    /// The stream is open.
    fn keeper_welcomed(&mut self, at: usize, id: u64) {
        let Some(link) = self.keepers[at].link else { return };
        let keeper = &mut self.keepers[at];
        keeper.id = id;
        keeper.welcomed = true;
        let unsaid = std::mem::take(&mut keeper.unsaid);
        self.keeper_tells_what_it_has(at, 0);
        unsaid.into_iter().for_each(|msg| self.keeper_says(at, msg));
        self.after(500, Event::Keeper(at, Task::Beat(link)));
    }

    /// In pages, and the world goes on meanwhile.
    fn keeper_tells_what_it_has(&mut self, at: usize, number: u64) {
        let Some(link) = self.keepers[at].link else { return };
        let keeper = &self.keepers[at];
        let infos: Vec<pb::ChunkInfo> = keeper.disk.keys().filter_map(|chunk| keeper.info(*chunk)).collect();
        let quarantined = keeper.quarantined.iter().copied().collect();
        let half = infos.len() / 2;
        let (chunks, rest) = (infos[..half].to_vec(), infos[half..].to_vec());
        let first = pb::InventoryPage { chunks, last: false, quarantined, number };
        self.keeper_says(at, keeper_up::Msg::Inventory(first));
        let last = pb::InventoryPage { chunks: rest, last: true, quarantined: Vec::new(), number };
        let last = keeper_up::Msg::Inventory(last);
        if self.rng.percent(50) {
            self.keeper_says(at, last);
        } else {
            let ms = self.rng.between(1, 2_000);
            self.after(ms, Event::Keeper(at, Task::Page(link, last)));
        }
    }

    fn sync_later(&mut self, at: usize, life: u32, chunk: u64) {
        let ms = self.rng.between(1, SYNC_WITHIN_MS);
        self.after(ms, Event::Keeper(at, Task::Sync(life, chunk)));
    }

    fn takes_chunk(&mut self, at: usize, chunk: u64, content: &Content, synced: bool) {
        // What is here already is as good, and may be synced.
        let synced = synced || self.keepers[at].good(chunk).is_some_and(|copy| copy.synced);
        let copy = Copy { content: content.clone(), synced, rotten: false };
        self.keepers[at].disk.insert(chunk, copy);
        let life = self.keepers[at].life;
        if !synced {
            self.sync_later(at, life, chunk);
        }
        self.after(ARRIVED_AFTER_MS, Event::Keeper(at, Task::Arrived(life, chunk)));
    }

    /// Steps 3 and 4 of an upload: the first keeper takes it, and relays it to the others. False: it could not.
    pub fn transfer(&mut self, chunk: u64, placed: &[u64], content: &Content, synced: bool) -> bool {
        let Some(first) = placed.first().and_then(|id| self.keeper_of(*id)) else { return false };
        if !self.keepers[first].up || self.rng.percent(2) {
            return false;
        }
        self.chunks.insert(chunk, content.clone());
        let mut holders = Vec::new();
        for id in placed {
            let Some(at) = self.keeper_of(*id).filter(|at| self.keepers[*at].up) else { continue };
            if holders.is_empty() || !self.rng.percent(5) {
                self.takes_chunk(at, chunk, content, synced);
                holders.push(*id);
            }
        }
        let Some(info) = self.keepers[first].info(chunk) else { return false };
        let stored = pb::Stored { info: Some(info), keepers: holders, synced, ..Default::default() };
        self.says_soon(first, keeper_up::Msg::Stored(stored));
        true
    }

    /// Once, later, or twice.
    fn says_soon(&mut self, at: usize, msg: keeper_up::Msg) {
        if self.rng.percent(3) {
            let ms = self.rng.between(100, 20_000);
            self.says_in(at, ms, msg.clone());
        }
        if self.rng.percent(90) {
            self.keeper_says(at, msg);
        } else {
            let ms = self.rng.between(10, 3_000);
            self.says_in(at, ms, msg);
        }
    }

    fn keeper_pushes(&mut self, at: usize, push: Push) {
        let Push { order, chunk, to, tries } = push;
        let failed = keeper_up::Msg::CopyFailed(pb::CopyFailed { order, chunk, error: None });
        let Some(copy) = self.keepers[at].good(chunk).cloned() else {
            self.keeper_verifies(at, chunk);
            return self.says_soon(at, failed);
        };
        let breaks = tries == 0 && self.rng.percent(3) || tries == EXPECT_TRIES;
        let Some(to) = self.keeper_of(to).filter(|to| self.keepers[*to].up && !breaks) else {
            return self.says_soon(at, failed);
        };
        if !self.keepers[to].expected.remove(&order) {
            let (life, again) = (self.keepers[at].life, Push { tries: tries + 1, ..push });
            return self.after(EXPECT_MS, Event::Keeper(at, Task::Push(life, again)));
        }
        self.takes_chunk(to, chunk, &copy.content, false);
        let info = self.keepers[to].info(chunk);
        self.says_soon(to, keeper_up::Msg::Copied(pb::Copied { info, order }));
    }

    /// Reads everything once.
    pub fn keeper_scrubs(&mut self, at: usize) {
        let rotten = self.keepers[at].disk.iter().filter(|(_, copy)| copy.rotten);
        let chunks: Vec<u64> = rotten.map(|(chunk, _)| *chunk).collect();
        chunks.into_iter().for_each(|chunk| self.keeper_verifies(at, chunk));
    }

    /// A bad copy is put away, and reported; so is one that is not there.
    pub fn keeper_verifies(&mut self, at: usize, chunk: u64) {
        if self.keepers[at].good(chunk).is_none() {
            let quarantined = self.keepers[at].disk.remove(&chunk).is_some();
            if quarantined {
                self.keepers[at].quarantined.insert(chunk);
            }
            self.keeper_says(at, keeper_up::Msg::BadCopy(pb::BadCopy { chunk, error: None, quarantined }));
        }
    }

    fn keeper_builds(&mut self, at: usize, order: &pb::BuildChunk) {
        let mut content = Vec::new();
        let mut bad = Vec::new();
        for piece in &order.pieces {
            let source = &order.sources[piece.source as usize];
            let chunk = source.info.map_or(0, |info| info.chunk);
            let (from, to) = (piece.offset as usize, (piece.offset + piece.length) as usize);
            let mut found = self.keepers[at].good(chunk).map(|copy| copy.content.clone());
            for holder in source.grant.iter().flat_map(|grant| &grant.keepers) {
                if found.is_some() {
                    break;
                }
                let holder_at = self.keeper_of(holder.keeper).filter(|at| self.keepers[*at].up);
                found =
                    holder_at.and_then(|at| self.keepers[at].good(chunk)).map(|copy| copy.content.clone());
                if found.is_none() {
                    bad.push(pb::BadSource { chunk, keeper: holder.keeper });
                }
            }
            match found.as_ref().and_then(|bytes| bytes.get(from..to)) {
                Some(bytes) => content.extend_from_slice(bytes),
                None => {
                    let failed = pb::BuildFailed { chunk: order.chunk, error: None, bad };
                    return self.says_soon(at, keeper_up::Msg::BuildFailed(failed));
                }
            }
        }
        let content: Content = Rc::from(content);
        self.chunks.insert(order.chunk, content.clone());
        self.takes_chunk(at, order.chunk, &content, true);
        let info = self.keepers[at].info(order.chunk);
        self.says_soon(at, keeper_up::Msg::Built(pb::ChunkBuilt { info, bad }));
    }
}
