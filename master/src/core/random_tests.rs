//! Random commands against the core: after each, every invariant is checked; at the end, the rows that were
//! stored on the way must make the same state again.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::ids::{ChunkId, InodeNo, KeeperId, SessionId};
use dfs_proto::pb::{self, keeper_down, keeper_up, mount_request::Op};
use proptest::prelude::*;

use super::duty::Duty;
use super::lookup_table::Walk;
use super::operator::Operation;
use super::row::QuotaRow;
use super::testkit::{Kit, SESSION, checksum};
use super::{Effect, acl};

const OTHER: SessionId = SessionId(78);

/// One step: what, and three numbers that choose among what there is.
type Step = (u8, u8, u8, u8);

struct World {
    kit: Kit,
    placed: Vec<pb::Placed>,
    /// What scripted keepers have on their disks.
    disks: BTreeMap<KeeperId, BTreeMap<ChunkId, u32>>,
    seen_chunks: BTreeSet<u64>,
}

impl World {
    fn new() -> World {
        let mut kit = Kit::with_keepers(4);
        // Small enough that some chunks are full, and quick.
        kit.settings.chunk_size = 48;
        kit.settings.compact_after_ms = 500;
        kit.state.settings = kit.settings.clone();
        kit.watches_content = true;
        kit.hello(OTHER, &[]);
        let disks = (1..=4).map(|id| (KeeperId(id), BTreeMap::new())).collect();
        World { kit, placed: Vec::new(), disks, seen_chunks: BTreeSet::new() }
    }

    fn name(n: u8) -> bytes::Bytes {
        bytes::Bytes::from(vec![b'a' + n % 4])
    }

    fn inode(&self, n: u8) -> InodeNo {
        let inodes: Vec<InodeNo> = self.kit.state.inodes.iter().map(|(inode, _)| inode).collect();
        inodes[usize::from(n) % inodes.len()]
    }

    fn dir(&self, n: u8) -> u64 {
        let dirs: Vec<u64> =
            self.kit.state.inodes.iter().filter(|(_, node)| node.is_dir()).map(|(i, _)| i.0).collect();
        dirs[usize::from(n) % dirs.len()]
    }

    fn keeper(n: u8) -> KeeperId {
        KeeperId(u64::from(n % 4) + 1)
    }

    fn is_up(&self, keeper: KeeperId) -> bool {
        self.kit.beating.contains(&keeper)
    }

    /// Scripted keepers do what they are told; orders to copy stay until a step carries them out.
    fn obey(&mut self) {
        for effect in std::mem::take(&mut self.kit.sent) {
            if let Effect::ToKeeper(keeper, keeper_down::Msg::Delete(delete)) = effect
                && let Some(disk) = self.disks.get_mut(&keeper)
            {
                disk.retain(|chunk, _| !delete.chunks.contains(&chunk.0));
            }
        }
    }

    fn names(&mut self, (op, a, b, c): Step, by: SessionId) {
        let (parent, name, other) = (self.dir(a), World::name(b), World::name(c));
        let op = match op {
            0 => Op::Create(pb::Create { parent, name, mode: 0o644, uid: 1, gid: 1, umask: 0o22 }),
            1 => Op::Mkdir(pb::Mkdir { parent, name, mode: 0o2755, uid: 1, gid: 1, umask: 0o22 }),
            2 => Op::Unlink(pb::Unlink { parent, name }),
            3 => Op::Rmdir(pb::Rmdir { parent, name }),
            4..=6 => {
                let (no_replace, exchange) = (op == 5, op == 6);
                let new_parent = self.dir(c);
                Op::Rename(pb::Rename { parent, name, new_parent, new_name: other, no_replace, exchange })
            }
            7 => Op::Link(pb::Link { inode: self.inode(c).0, parent, name }),
            8 => Op::Symlink(pb::Symlink { parent, name, target: other, uid: 1, gid: 1 }),
            9 => Op::Open(pb::Open { inode: self.inode(a).0, access: 0 }),
            10 => Op::Release(pb::Release { inode: self.inode(a).0 }),
            11 if c.is_multiple_of(2) => {
                let mode = Some(u32::from(b) << 4 | u32::from(c) >> 1);
                Op::Setattr(pb::Setattr { inode: self.inode(a).0, mode, ..pb::Setattr::default() })
            }
            11 => {
                let size = Some(u64::from(b));
                Op::Setattr(pb::Setattr { inode: self.inode(a).0, size, ..pb::Setattr::default() })
            }
            12 if c.is_multiple_of(2) => self.access_list(a, b, c),
            12 => {
                let value = bytes::Bytes::from(vec![c; usize::from(c)]);
                let inode = self.inode(a).0;
                Op::Setxattr(pb::Setxattr { inode, name, value, create_only: false, replace_only: false })
            }
            13 => Op::Removexattr(pb::Removexattr { inode: self.inode(a).0, name }),
            _ => Op::Fsync(pb::Fsync { inode: self.inode(a).0 }),
        };
        self.kit.request_as(by, op);
    }

    /// Sets or removes an access list, or a default one.
    fn access_list(&self, a: u8, b: u8, c: u8) -> Op {
        let name = if b.is_multiple_of(2) { acl::ACCESS } else { acl::DEFAULT };
        let (inode, name) = (self.inode(a).0, bytes::Bytes::from_static(name));
        let bits = |shift: u8| u16::from(b >> shift & 7);
        let none = u32::MAX;
        let mut list = vec![(1, bits(0), none), (4, bits(2), none), (0x20, bits(4), none)];
        match c % 8 {
            0 => list.clear(),
            2 => return Op::Removexattr(pb::Removexattr { inode, name }),
            4 => {}
            _ => {
                list.insert(1, (2, bits(1), u32::from(c)));
                list.insert(3, (0x10, bits(3), none));
            }
        }
        let value = acl::tests::bytes_of(&list).into();
        Op::Setxattr(pb::Setxattr { inode, name, value, ..Default::default() })
    }

    fn alloc(&mut self, a: u8, b: u8, c: u8, replace: bool) {
        let runs = [(u64::from(b), u64::from(c % 32) + 1), (u64::from(b) + 64, u64::from(c % 7) + 1)];
        let count = 1 + usize::from(c) % 2;
        let replaces = match self.placed.last() {
            Some(last) if replace => last.chunk,
            _ => 0,
        };
        if let Ok(placed) = self.kit.try_alloc(self.inode(a), &runs[..count], replaces, &[u64::from(a % 5)]) {
            assert!(self.seen_chunks.insert(placed.chunk), "chunk {} was handed out twice", placed.chunk);
            self.placed.push(placed);
        }
    }

    /// A keeper says that an upload is stored: of any ticket, new or old, on some of its keepers.
    fn store(&mut self, a: u8, b: u8) {
        if self.placed.is_empty() {
            return;
        }
        let at = usize::from(a) % self.placed.len();
        let placed = if b.is_multiple_of(8) { self.placed[at].clone() } else { self.placed.remove(at) };
        let chunk = ChunkId(placed.chunk);
        let length = self.kit.length_of(chunk);
        let mut holders: Vec<KeeperId> = Kit::placed_on(&placed);
        holders.retain(|keeper| self.is_up(*keeper));
        if b.is_multiple_of(3) {
            holders.truncate(1);
        }
        for keeper in &holders {
            self.disks.entry(*keeper).or_default().insert(chunk, length);
        }
        if !holders.is_empty() {
            self.kit.store_on(&placed, &holders);
        }
    }

    fn copy(&mut self, a: u8, b: u8) {
        let pushes = self.kit.pushes();
        if pushes.is_empty() {
            return;
        }
        let (order, chunk, source, destination) = pushes[usize::from(a) % pushes.len()];
        assert_ne!(source, destination);
        assert!(self.is_up(source) && self.is_up(destination), "an order for the dead");
        if b.is_multiple_of(5) {
            let failed = pb::CopyFailed { order, chunk: chunk.0, error: None };
            self.kit.keeper_says(destination, keeper_up::Msg::CopyFailed(failed));
        } else {
            let length = self.kit.length_of(chunk);
            self.disks.entry(destination).or_default().insert(chunk, length);
            self.kit.say_copied(order, chunk, length, destination);
        }
    }

    fn build(&mut self, a: u8, b: u8) {
        let builds = self.kit.builds();
        if builds.is_empty() {
            return;
        }
        let (chunk, builder) = builds[usize::from(a) % builds.len()];
        assert!(self.is_up(builder), "an order for the dead");
        if b.is_multiple_of(7) {
            let bad = vec![pb::BadSource { chunk: u64::from(a), keeper: u64::from(b % 4) + 1 }];
            let failed = pb::BuildFailed { chunk: chunk.0, error: None, bad };
            self.kit.keeper_says(builder, keeper_up::Msg::BuildFailed(failed));
        } else {
            let length = self.kit.length_of(chunk);
            self.disks.entry(builder).or_default().insert(chunk, length);
            self.kit.say_built(chunk, length, builder);
        }
    }

    fn keepers(&mut self, (op, a, b, _): Step) {
        let keeper = World::keeper(a);
        match (op, self.is_up(keeper)) {
            (0, true) => self.kit.kill(keeper),
            (0 | 1, _) => {
                if self.is_up(keeper) {
                    self.kit.apply(super::Command::KeeperGone(keeper));
                }
                self.kit.keeper_hello(keeper, &format!("h{}", a % 3));
            }
            (2, true) => {
                let info = |(chunk, length): (&ChunkId, &u32)| pb::ChunkInfo {
                    chunk: chunk.0,
                    length: *length,
                    checksum: checksum(chunk.0),
                };
                let chunks = self.disks.get(&keeper).into_iter().flatten().map(info).collect();
                self.kit.inventory(keeper, chunks);
            }
            (3, true) => {
                let disk = self.disks.entry(keeper).or_default();
                if let Some(chunk) = disk.keys().nth(usize::from(b) % disk.len().max(1)).copied() {
                    disk.remove(&chunk);
                    self.kit.bad_copy(keeper, chunk);
                }
            }
            (4, true) => {
                let chunks =
                    self.disks.get(&keeper).into_iter().flatten().map(|(chunk, _)| chunk.0).collect();
                self.kit.keeper_says(keeper, keeper_up::Msg::Synced(pb::Synced { chunks }));
            }
            _ => {}
        }
    }

    fn sessions(&mut self, a: u8, b: u8) {
        let session = if a.is_multiple_of(2) { SESSION } else { OTHER };
        match b % 4 {
            0 => self.kit.gone(session),
            1 => {
                let open: Vec<InodeNo> = self
                    .kit
                    .state
                    .sessions
                    .get(&session)
                    .map_or(Vec::new(), |s| s.opens.keys().copied().collect());
                self.kit.hello(session, &open);
            }
            2 => self.kit.pass_ms(i64::from(b) * 100),
            _ => {
                self.kit.pass_ms(65_000);
                self.kit.hello(SESSION, &[]);
            }
        }
    }

    fn extents(&mut self, (what, a, b, c): Step) {
        let inode = self.inode(a).0;
        let (offset, length) = (u64::from(b), u64::from(c % 64));
        let op = if what == 57 {
            let (keep_size, make_hole) = (c.is_multiple_of(2), c.is_multiple_of(3));
            Op::Fallocate(pb::Fallocate { inode, offset, length, keep_size, make_hole })
        } else {
            let (target, target_offset) = (self.inode(b ^ c).0, u64::from(a ^ c));
            Op::CopyRange(pb::CopyRange {
                source: inode,
                source_offset: offset,
                target,
                target_offset,
                length,
            })
        };
        self.kit.request_as(if b.is_multiple_of(2) { SESSION } else { OTHER }, op);
    }

    /// Sets or clears a quota, tight or wide, of any directory that has a name.
    fn quota(&mut self, a: u8, b: u8, c: u8) {
        let walk = Walk::new(&self.kit.state, InodeNo::ROOT, b"/");
        let is_dir = |inode: &InodeNo| self.kit.state.inodes.get(inode).is_some_and(|node| node.is_dir());
        let mut dirs: Vec<Vec<u8>> = walk.filter(|(_, inode)| is_dir(inode)).map(|(path, _)| path).collect();
        dirs.push(b"/".to_vec());
        let path = dirs[usize::from(a) % dirs.len()].clone().into();
        let limit = |n: u8, unit: u64| (!n.is_multiple_of(3)).then_some(u64::from(n) * unit);
        let limits = QuotaRow { max_bytes: limit(b, 64), max_inodes: limit(c, 1) };
        let limits = (!(b ^ c).is_multiple_of(4)).then_some(limits);
        let quota = super::operator::Operation::Quota { path, limits };
        self.kit.apply(super::Command::Operator(quota));
    }

    /// An operator orders something of a keeper.
    fn duty(&mut self, a: u8, b: u8) {
        let duty = match b % 8 {
            0..=2 => Duty::Drain,
            3 => Duty::CancelDrain,
            4 => Duty::Maintenance { for_ms: u64::from(a) * 500 },
            5 => Duty::Maintenance { for_ms: 0 },
            _ => Duty::Forget,
        };
        let keeper = World::keeper(a);
        self.kit.apply(super::Command::Operator(Operation::Duty { keeper: keeper.to_string(), duty }));
        if !self.kit.state.keepers.contains_key(&keeper) {
            // Told so if it lived, and gone.
            self.kit.beating.retain(|other| *other != keeper);
        }
        self.kit.apply(super::Command::Operator(Operation::Rebalance { run: !b.is_multiple_of(3) }));
    }

    fn step(&mut self, step: Step) {
        let (what, a, b, c) = step;
        match what {
            0..=14 => self.names(step, SESSION),
            15..=24 => self.names((what - 10, a, b, c), OTHER),
            25..=32 => self.alloc(a, b, c, false),
            33 => self.alloc(a, b, c, true),
            34..=43 => self.store(a, b),
            44..=48 => self.copy(a, b),
            49..=53 => self.keepers((what - 49, a, b, c)),
            54 => {
                if let Some(placed) = self.placed.last() {
                    let chunk = placed.chunk;
                    self.kit.request(Op::AbortUpload(pb::AbortUpload { chunk, ..Default::default() }));
                }
            }
            55 => self.sessions(a, b),
            56 => {
                self.kit.restart();
                self.kit.hello(SESSION, &[]);
                for keeper in 1..=4 {
                    self.kit.keeper_hello(KeeperId(keeper), "h");
                }
            }
            57..=59 => self.extents(step),
            60..=61 => self.quota(a, b, c),
            62 => self.duty(a, b),
            63..=66 => self.build(a, b),
            _ => self.kit.pass_ms(i64::from(a) * 10),
        }
        self.obey();
    }

    /// When everybody is well for a while, nothing is left undone.
    fn heal(&mut self) {
        for keeper in 1..=4 {
            self.step((50, keeper, 0, 0));
        }
        for keeper in 1..=4 {
            self.step((51, keeper, 0, 0));
        }
        for keeper in 1..=4 {
            for duty in [Duty::CancelDrain, Duty::Maintenance { for_ms: 0 }] {
                self.kit
                    .apply(super::Command::Operator(Operation::Duty { keeper: keeper.to_string(), duty }));
            }
        }
        for round in 0..100 {
            while !self.kit.pushes().is_empty() || !self.kit.builds().is_empty() {
                self.copy(0, 1);
                self.build(0, 1);
                self.obey();
            }
            for keeper in 1..=4 {
                self.step((53, keeper, 0, 0));
            }
            self.kit.state.compaction.sweep_now();
            self.kit.pass_ms(31_000);
            self.obey();
            if round >= 5 && self.kit.state.compaction.waiting() == 0 {
                break;
            }
        }
        for (inode, _) in self.kit.state.inodes.iter() {
            let plan = self.kit.state.plan_compaction(inode, 0);
            assert!(plan.windows.is_empty(), "inode {inode} is not packed: {:?}", plan.windows);
        }
        assert!(self.kit.state.compaction.jobs.is_empty());
        let status = self.kit.state.status(self.kit.now());
        assert_eq!(status.under_replicated, status.lost, "{status:?}");
        assert!(self.kit.state.chunks.surplus().is_empty());
        for (id, chunk) in self.kit.state.chunks.iter() {
            for keeper in &*chunk.keepers {
                assert!(self.disks[keeper].contains_key(&id), "chunk {id} is not on keeper {keeper}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, rng_seed: proptest::test_runner::RngSeed::Fixed(7), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_tables_fit_together_and_are_stored(
        steps in prop::collection::vec((0u8..69, any::<u8>(), any::<u8>(), any::<u8>()), 1..250),
    ) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.kit.compare_with_stored();
        world.heal();
        world.kit.compare_with_stored();
    }
}
