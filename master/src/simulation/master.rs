//! The master: the core, its group commit (the runtime's own), and a store that keeps durable and volatile rows apart. It
//! may crash at any moment, and starts again from what was durable.

use std::collections::BTreeMap;

use dfs_proto::ids::{ClusterId, InodeNo, KeeperId, SessionId};
use dfs_proto::pb::{self, keeper_down, mount_down, mount_request::Op};

use super::Bug;
use super::door::Door;
use super::invariants::Saw;
use super::rng::Rng;
use super::rows::Rows;
use super::sabotage;
use super::world::{Event, Peer, Up, World};
use crate::core::operator::Operation;
use crate::core::{Applied, Command, Effect, Row, RowChange, Settings, State};
use crate::runtime::group::{self, Admitted, GroupCommit};

pub(super) const CHUNK_SIZE: u32 = 24;

/// What is sent to one peer. Before its welcome all waits.
struct Outbox<M> {
    link: usize,
    held: Option<Vec<M>>,
    open: bool,
}

/// See the module.
pub(super) struct Master {
    /// `None`: it is down.
    pub state: Option<State>,
    pub settings: Settings,
    pub group: GroupCommit,
    pub door: Door,
    in_flight: Option<Vec<RowChange>>,
    /// All that was applied.
    pub rows: Rows,
    /// What a crash leaves.
    pub durable: Rows,
    mounts: BTreeMap<SessionId, Outbox<mount_down::Msg>>,
    keepers: BTreeMap<KeeperId, Outbox<keeper_down::Msg>>,
    pub started_ms: i64,
    /// When the answer to a mount's request was made.
    pub stamps: BTreeMap<(usize, u64), u64>,
}

impl Master {
    pub fn new(rng: &mut Rng) -> Master {
        let copies = rng.between(2, 3) as u32;
        let settings = Settings {
            cluster: ClusterId([1; 16]),
            secret: [2; 32],
            master_epoch: 0,
            copies,
            min_copies: rng.between(1, 2) as u32,
            chunk_size: CHUNK_SIZE,
            replicate_every_ms: 10_000,
            trash_ms: rng.pick(&[0, 0, 2_000, 15_000, 900_000]).unwrap_or(0),
            repair_rate: 100 << 20,
            spared: None,
            compact_after_ms: rng.pick(&[0, 500, 3_000, 10_000]).unwrap_or(0),
        };
        Master {
            state: None,
            settings,
            group: GroupCommit::default(),
            door: Door::default(),
            in_flight: None,
            rows: Rows::default(),
            durable: Rows::default(),
            mounts: BTreeMap::new(),
            keepers: BTreeMap::new(),
            started_ms: 0,
            stamps: BTreeMap::new(),
        }
    }

    pub fn is_up(&self) -> bool {
        self.state.is_some()
    }

    /// The stream on which a keeper is heard.
    pub fn link_of_keeper(&self, keeper: KeeperId) -> Option<usize> {
        self.keepers.get(&keeper).filter(|outbox| outbox.open).map(|outbox| outbox.link)
    }
}

impl World {
    pub fn now(&self) -> pb::Time {
        pb::Time {
            sec: self.now_ms.div_euclid(1000),
            nsec: self.now_ms.rem_euclid(1000) as u32 * 1_000_000 + (self.step % 1_000_000) as u32,
        }
    }

    pub fn master_starts(&mut self) {
        let now = self.now();
        let master = &mut self.master;
        if master.is_up() {
            return;
        }
        master.settings.master_epoch += 1 << 32;
        master.started_ms = self.now_ms;
        let mut state = State::new(master.settings.clone());
        if master.durable.0.is_empty() {
            let changes = state.bootstrap(now);
            master.durable.change(&changes);
            master.rows.change(&changes);
        } else {
            let rows = master.durable.0.values().cloned();
            let loaded = rows.into_iter().try_for_each(|row| state.load_row(row));
            if let Err(error) = loaded.and_then(|()| state.finish_load(now)) {
                self.broken = Some(format!("the master cannot load what it stored: {error}"));
                return;
            }
        }
        let epoch = master.settings.master_epoch;
        master.state = Some(state);
        self.saw(&Saw::Started);
        self.after(0, Event::Tick(epoch));
    }

    /// It dies, and with it what is not durable. Starts again after so long.
    pub fn master_crashes(&mut self, down_ms: i64) {
        let master = &mut self.master;
        if master.state.take().is_none() {
            return;
        }
        // The batch in flight may have got there.
        if let Some(changes) = master.in_flight.take()
            && self.rng.percent(50)
        {
            master.durable.change(&changes);
        }
        master.rows = master.durable.clone();
        master.group = GroupCommit::default();
        master.door = Door::default();
        let links: Vec<usize> = master.keepers.values().map(|outbox| outbox.link).collect();
        let mounts: Vec<usize> = self.mounts.iter().filter_map(|mount| mount.link).collect();
        master.mounts.clear();
        master.keepers.clear();
        self.saw(&Saw::Crashed);
        for link in links {
            self.links[link].cut = true;
            let peer_ms = self.rng.between(0, down_ms.min(3_000));
            self.after(peer_ms, Event::PeerNotices(link));
        }
        // One that is cut off meanwhile trusts what it has cached also after the next start.
        for link in mounts {
            self.links[link].cut = true;
            let longest_ms = if self.rng.percent(50) { down_ms.min(3_000) } else { 3_000 };
            let peer_ms = self.rng.between(0, longest_ms);
            self.after(peer_ms, Event::PeerNotices(link));
        }
        self.after(down_ms, Event::MasterStarts);
    }

    fn is_of(&self, epoch: u64) -> bool {
        self.master.is_up() && self.master.settings.master_epoch == epoch
    }

    pub fn tick(&mut self, epoch: u64) {
        if self.is_of(epoch) {
            self.submit(Command::Tick);
            self.let_in();
            if self.bug == Some(Bug::RebalancesForEver) {
                self.submit(Command::Operator(Operation::Rebalance { run: true }));
            }
            let every_ms = if self.is_calm() { 900 } else { self.plan.tick_ms };
            self.after(every_ms, Event::Tick(epoch));
        }
    }

    /// Applies a command, and shows what came of it.
    fn apply(&mut self, command: Command) -> Option<Applied> {
        let now = self.now();
        let told = command.clone();
        if self.trace {
            println!("           applies {told:?}");
        }
        let command = self.mistold(command);
        let mut applied = self.master.state.as_mut()?.apply(command, now);
        self.commands += 1;
        sabotage::spoil(self, &told, &mut applied);
        self.master.rows.change(&applied.changes);
        self.stamp(&told, &applied);
        self.note_log(&told, &applied);
        self.saw(&Saw::Applied { command: &told, applied: &applied });
        Some(applied)
    }

    /// What a file is for is decided when it is made, before anybody knows of it. A number that no crash has let out is
    /// used again.
    fn note_log(&mut self, command: &Command, applied: &Applied) {
        let Command::Mount { request: pb::MountRequest { op: Some(Op::Create(op)), .. }, .. } = command
        else {
            return;
        };
        for change in &applied.changes {
            if let RowChange::Put(Row::Dentry { inode, .. }) = change {
                match op.name.starts_with(b"l") {
                    true => self.logs.insert(inode.0),
                    false => self.logs.remove(&inode.0),
                };
            }
        }
    }

    /// A reply that is held back shows the state of when it was made.
    fn stamp(&mut self, command: &Command, applied: &Applied) {
        let Command::Mount { session, request } = command else { return };
        let Some(at) = self.mounts.iter().position(|mount| mount.session == session.0) else { return };
        let answers = applied.effects.iter().any(|effect| match effect {
            Effect::ToMount(to, mount_down::Msg::Reply(reply)) => to == session && reply.id == request.id,
            _ => false,
        });
        let stamp = self.master.stamps.entry((at, request.id)).or_insert(self.step);
        if answers {
            *stamp = self.step;
        }
    }

    pub fn submit(&mut self, command: Command) {
        let asks = group::asks(&command);
        let Some(applied) = self.apply(command) else { return };
        let only_answers = asks && group::effects_answer(&applied.effects);
        self.admit(only_answers, applied);
    }

    fn admit(&mut self, only_answers: bool, applied: Applied) {
        if self.bug == Some(Bug::LeavesBeforeItIsDurable) {
            let early = applied.effects.clone();
            self.master.group.admit(only_answers, Applied { effects: Vec::new(), ..applied });
            self.deliver(early);
        } else if let Admitted::Now(effects) = self.master.group.admit(only_answers, applied) {
            self.deliver(effects);
        }
        self.commit_next();
    }

    fn commit_next(&mut self) {
        if self.master.in_flight.is_none() && self.master.group.has_open() {
            self.master.in_flight = Some(self.master.group.take());
            let ms = self.rng.delay_ms();
            self.after(ms, Event::Committed(self.master.settings.master_epoch));
        }
    }

    pub fn committed(&mut self, epoch: u64) {
        if !self.is_of(epoch) {
            return;
        }
        let Some(changes) = self.master.in_flight.take() else { return };
        self.master.durable.change(&changes);
        self.saw(&Saw::Committed(&changes));
        let committed = self.master.group.committed();
        self.deliver(committed.effects);
        self.commit_next();
        self.let_in();
    }

    fn deliver(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if self.trace {
                println!("           sends {effect:?}");
            }
            self.saw(&Saw::Left(&effect));
            match effect {
                Effect::ToMount(session, msg) => {
                    let Some(outbox) = self.master.mounts.get_mut(&session).filter(|o| o.open) else {
                        continue;
                    };
                    for msg in release(outbox, msg, |m| matches!(m, mount_down::Msg::Welcome(_))) {
                        let link = self.master.mounts[&session].link;
                        self.send_to_mount(link, msg);
                    }
                }
                Effect::ToKeeper(keeper, msg) => {
                    let Some(outbox) = self.master.keepers.get_mut(&keeper).filter(|o| o.open) else {
                        continue;
                    };
                    for msg in release(outbox, msg, |m| matches!(m, keeper_down::Msg::Welcome(_))) {
                        let link = self.master.keepers[&keeper].link;
                        self.send_to_keeper(link, msg);
                    }
                }
                Effect::CloseMount(session) => {
                    if let Some(outbox) = self.master.mounts.get_mut(&session) {
                        outbox.open = false;
                        let link = outbox.link;
                        let ms = self.rng.delay_ms();
                        self.cut(link, ms, ms);
                    }
                }
                Effect::MountAnswer(_) | Effect::KeeperAnswer(_) | Effect::OperatorAnswer(_) => {}
            }
        }
    }

    /// Something has come over a stream.
    pub fn arrives(&mut self, link: usize, up: Up) {
        if self.links[link].cut {
            return;
        }
        if !self.master.is_up() {
            self.links[link].cut = true;
            let ms = self.rng.between(1, 50);
            return self.after(ms, Event::PeerNotices(link));
        }
        match up {
            Up::MountHello(hello) => self.hello_arrives(link, hello),
            Up::KeeperHello(hello) => self.hello_of_keeper(link, hello),
            Up::Goodbye => self.master_loses(link, true),
            Up::Request(request) => self.request_arrives(link, request),
            Up::Acks(seqs) => {
                if let Some(session) = self.session_on(link) {
                    self.submit(Command::MountAcks { session, seqs });
                }
            }
            Up::Keeper(msg) => {
                if let Peer::Keeper(at) = self.links[link].peer {
                    let keeper = KeeperId(self.keepers[at].id);
                    if self.master.link_of_keeper(keeper) == Some(link) {
                        self.submit(Command::Keeper { keeper, msg });
                    }
                }
            }
        }
    }

    pub fn session_on(&self, link: usize) -> Option<SessionId> {
        let open = self.master.mounts.iter().find(|(_, outbox)| outbox.link == link && outbox.open);
        open.map(|(session, _)| *session)
    }

    pub fn hello_of_mount(&mut self, link: usize, fresh: SessionId, hello: pb::MountHello) {
        let Some(mut applied) =
            self.apply(Command::MountHello { fresh, root: InodeNo::ROOT, ids: Default::default(), hello })
        else {
            return;
        };
        let answer = applied.effects.iter().position(|effect| matches!(effect, Effect::MountAnswer(_)));
        if let Some(at) = answer
            && let Effect::MountAnswer(mount_down::Msg::Welcome(welcome)) = applied.effects.remove(at)
        {
            let session = SessionId(welcome.session);
            self.master.mounts.insert(session, Outbox { link, held: Some(Vec::new()), open: true });
            // It waits for nothing.
            self.deliver(vec![Effect::ToMount(session, mount_down::Msg::Welcome(welcome))]);
        }
        let only_answers = group::effects_answer(&applied.effects);
        self.admit(only_answers, applied);
    }

    fn hello_of_keeper(&mut self, link: usize, hello: pb::KeeperHello) {
        let Some(mut applied) = self.apply(Command::KeeperHello(hello)) else { return };
        for effect in &mut applied.effects {
            if let Effect::KeeperAnswer(keeper_down::Msg::Welcome(welcome)) = effect {
                let keeper = KeeperId(welcome.keeper);
                *effect = Effect::ToKeeper(keeper, keeper_down::Msg::Welcome(welcome.clone()));
                self.master.keepers.insert(keeper, Outbox { link, held: Some(Vec::new()), open: true });
            }
        }
        let only_answers = group::effects_answer(&applied.effects);
        self.admit(only_answers, applied);
    }

    /// The master finds that a stream has ended. Nothing, if another has taken over.
    pub fn master_loses(&mut self, link: usize, clean: bool) {
        if !self.master.is_up() {
            return;
        }
        self.forget_hello(link);
        let session = self.master.mounts.iter().find(|(_, o)| o.link == link).map(|(session, _)| *session);
        if let Some(session) = session {
            self.master.mounts.remove(&session);
            self.submit(Command::MountGone { session, clean });
        }
        let keeper = self.master.keepers.iter().find(|(_, o)| o.link == link).map(|(keeper, _)| *keeper);
        if let Some(keeper) = keeper {
            self.master.keepers.remove(&keeper);
            self.submit(Command::KeeperGone(keeper));
        }
    }
}

/// What may be sent now: nothing before the welcome, which comes first.
fn release<M>(outbox: &mut Outbox<M>, msg: M, is_welcome: fn(&M) -> bool) -> Vec<M> {
    match (&mut outbox.held, is_welcome(&msg)) {
        (Some(_), true) => {
            let held = outbox.held.take().unwrap_or_default();
            std::iter::once(msg).chain(held).collect()
        }
        (Some(held), false) => {
            held.push(msg);
            Vec::new()
        }
        (None, true) => Vec::new(),
        (None, false) => vec![msg],
    }
}
