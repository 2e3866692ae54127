//! A master's core with scripted mounts and keepers, for tests: every command is followed by the invariant
//! check, and every row change is kept as a store would.

mod uploads;

use std::collections::BTreeMap;

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, ClusterId, InodeNo, KeeperId, SessionId};
use dfs_proto::pb::{
    self, keeper_down, keeper_up, mount_down, mount_reply::Result as Reply, mount_request::Op,
};

use super::compact_testkit::Part;
use super::operator::{Operation, OperatorReply};
use super::{Command, Effect, Row, RowChange, RowKey, Settings, State};

/// The session of the kit's own mount.
pub(crate) const SESSION: SessionId = SessionId(77);
pub(super) const CHUNK_SIZE: u32 = 1 << 20;
const FREE: u64 = 1 << 40;

pub(super) fn settings() -> Settings {
    Settings {
        cluster: ClusterId([1; 16]),
        secret: [2; 32],
        master_epoch: 3,
        copies: 3,
        min_copies: 2,
        chunk_size: CHUNK_SIZE,
        repair_rate: 100 << 20,
        replicate_every_ms: 10_000,
        compact_after_ms: 10_000,
        spared: None,
        trash_ms: 0,
    }
}

pub(super) fn key_of(row: &Row) -> RowKey {
    match row {
        Row::Counters(_) => RowKey::Counters,
        Row::Inode(inode, _) => RowKey::Inode(*inode),
        Row::Dentry { parent, name, .. } => RowKey::Dentry { parent: *parent, name: name.clone() },
        Row::Extent(inode, row) => RowKey::Extent { inode: *inode, file_offset: row.file_offset },
        Row::Chunk(chunk, _) => RowKey::Chunk(*chunk),
        Row::Reply { session, request, .. } => RowKey::Reply { session: *session, request: *request },
        Row::Xattr { inode, name, .. } => RowKey::Xattr { inode: *inode, name: name.clone() },
        Row::Keeper(keeper, _) => RowKey::Keeper(*keeper),
        Row::Quota(inode, _) => RowKey::Quota(*inode),
        Row::Trash(inode, _) => RowKey::Trash(*inode),
        Row::Session(id) => RowKey::Session(*id),
        Row::User(name, _) => RowKey::User(name.clone()),
    }
}

/// The checksum that scripted keepers compute of a chunk.
pub(super) fn checksum(chunk: u64) -> u32 {
    (chunk as u32).wrapping_mul(2_654_435_761)
}

/// See the module.
pub(crate) struct Kit {
    pub state: State,
    /// Also of the next master.
    pub settings: Settings,
    rows: BTreeMap<RowKey, Row>,
    now_ms: i64,
    /// Keepers that send heartbeats as time passes.
    pub beating: Vec<KeeperId>,
    /// Every effect since it was last cleared.
    pub sent: Vec<Effect>,
    next_request: u64,
    /// What chunks of compaction are made of: (chunk of a mount, offset, length).
    pub made_of: BTreeMap<ChunkId, Vec<Part>>,
    /// After each command: no file's bytes have changed unless its content version has.
    pub watches_content: bool,
    /// Mounts that do not say that they forgot.
    pub silent: Vec<SessionId>,
}

impl Kit {
    /// A fresh cluster with one mount and no keeper.
    pub fn new() -> Kit {
        let mut kit = Kit {
            state: State::new(settings()),
            settings: settings(),
            made_of: BTreeMap::new(),
            watches_content: false,
            rows: BTreeMap::new(),
            now_ms: 1_700_000_000_000,
            beating: Vec::new(),
            sent: Vec::new(),
            next_request: 1,
            silent: Vec::new(),
        };
        assert!(kit.state.is_empty());
        let changes = kit.state.bootstrap(kit.now());
        kit.store_rows(changes);
        kit.hello(SESSION, &[]);
        kit
    }

    /// With keepers 1 to `count`, each on a host of its own.
    pub fn with_keepers(count: u64) -> Kit {
        let mut kit = Kit::new();
        for id in 1..=count {
            kit.keeper_hello(KeeperId(id), &format!("h{id}"));
            kit.inventory(KeeperId(id), Vec::new());
        }
        kit
    }

    pub fn now(&self) -> pb::Time {
        pb::Time { sec: self.now_ms.div_euclid(1000), nsec: self.now_ms.rem_euclid(1000) as u32 * 1_000_000 }
    }

    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }

    fn store_rows(&mut self, changes: Vec<RowChange>) {
        for change in changes {
            match change {
                RowChange::Put(row) => drop(self.rows.insert(key_of(&row), row)),
                RowChange::Delete(key) => drop(self.rows.remove(&key)),
            }
        }
    }

    pub fn stored_rows(&self) -> Vec<Row> {
        self.rows.values().cloned().collect()
    }

    pub fn apply(&mut self, command: Command) {
        let told = format!("{command:?}");
        let before = if self.watches_content { self.contents() } else { BTreeMap::new() };
        let applied = self.state.apply(command, self.now());
        self.store_rows(applied.changes);
        for effect in &applied.effects {
            if let Effect::ToKeeper(_, keeper_down::Msg::Build(order)) = effect {
                self.note_build(order);
            }
        }
        let after = if self.watches_content { self.contents() } else { BTreeMap::new() };
        for (inode, (version, bytes)) in &before {
            let same = after.get(inode).is_none_or(|(now, other)| now != version || other == bytes);
            assert!(same, "after {told}: inode {inode} was {bytes:?}, is {:?}", after[inode]);
        }
        let acks = self.acks(&applied.effects);
        self.sent.extend(applied.effects);
        if let Err(broken) = self.state.check() {
            panic!("after {told}: {broken}");
        }
        for (session, seq) in acks {
            self.apply(Command::MountAcks { session, seqs: vec![seq] });
        }
    }

    /// What mounts that are not silent answer to invalidations.
    fn acks(&self, effects: &[Effect]) -> Vec<(SessionId, u64)> {
        let told = effects.iter().filter_map(|effect| match effect {
            Effect::ToMount(session, mount_down::Msg::Invalidate(what)) => Some((*session, what.seq)),
            _ => None,
        });
        told.filter(|(session, _)| !self.silent.contains(session)).collect()
    }

    /// A new master on what was stored.
    pub fn restart(&mut self) {
        self.now_ms += 1;
        let mut state = State::new(self.settings.clone());
        for row in self.stored_rows() {
            state.load_row(row).unwrap();
        }
        state.finish_load(self.now()).unwrap();
        self.state = state;
        self.beating.clear();
    }

    /// Rebuilds the state from the stored rows, and compares all that is stored of both.
    pub fn compare_with_stored(&self) {
        let mut rebuilt = State::new(self.settings.clone());
        for row in self.stored_rows() {
            rebuilt.load_row(row).unwrap();
        }
        rebuilt.finish_load(self.now()).unwrap();
        assert_eq!(all_rows(&rebuilt), self.rows);
        assert_eq!(all_rows(&self.state), self.rows);
    }

    // Time

    pub fn tick(&mut self) {
        self.apply(Command::Tick);
    }

    /// Time passes with ticks; keepers that live send heartbeats.
    pub fn pass_ms(&mut self, ms: i64) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            self.now_ms = end.min(self.now_ms + 1_000);
            for keeper in self.beating.clone() {
                self.heartbeat(keeper);
            }
            self.tick();
        }
    }

    /// And without heartbeats.
    pub fn pass_silently_ms(&mut self, ms: i64) {
        self.now_ms += ms;
        self.tick();
    }

    // The mount

    pub fn hello(&mut self, session: SessionId, open: &[InodeNo]) {
        let open_inodes = open.iter().map(|inode| inode.0).collect();
        let hello = pb::MountHello {
            protocol_version: dfs_proto::PROTOCOL_VERSION,
            session: session.0,
            client: "test".to_owned(),
            open_inodes,
            version: String::new(),
            held_locks: Vec::new(),
        };
        self.apply(Command::Enroll(session));
        self.apply(Command::MountHello {
            fresh: SessionId(1),
            root: InodeNo::ROOT,
            ids: Default::default(),
            hello,
        });
    }

    pub fn gone(&mut self, session: SessionId) {
        self.apply(Command::MountGone { session, clean: false });
    }

    pub fn request_as(&mut self, session: SessionId, op: Op) -> u64 {
        let id = self.next_request;
        self.next_request += 1;
        self.request_numbered(session, id, op);
        id
    }

    /// All before it are answered.
    pub fn request_numbered(&mut self, session: SessionId, id: u64, op: Op) {
        let request =
            pb::MountRequest { id, caller: None, op: Some(op), answered_below: id, ..Default::default() };
        self.apply(Command::Mount { session, request });
    }

    pub fn request(&mut self, op: Op) -> u64 {
        self.request_as(SESSION, op)
    }

    pub fn reply_to(&self, request: u64) -> Option<Reply> {
        self.sent.iter().find_map(|effect| match effect {
            Effect::ToMount(_, mount_down::Msg::Reply(reply)) if reply.id == request => reply.result.clone(),
            _ => None,
        })
    }

    pub fn call_as(&mut self, session: SessionId, op: Op) -> Result<Reply, DfsError> {
        let id = self.request_as(session, op);
        match self.reply_to(id) {
            Some(Reply::Error(error)) => Err(DfsError::from_wire(error)),
            Some(reply) => Ok(reply),
            None => panic!("no reply"),
        }
    }

    pub fn call(&mut self, op: Op) -> Result<Reply, DfsError> {
        self.call_as(SESSION, op)
    }

    /// On behalf of somebody.
    pub fn call_for(&mut self, caller: pb::Caller, op: Op) -> Result<Reply, DfsError> {
        self.call_by(SESSION, Some(caller), op)
    }

    /// The same, in another session.
    pub fn call_by(
        &mut self,
        session: SessionId,
        caller: Option<pb::Caller>,
        op: Op,
    ) -> Result<Reply, DfsError> {
        let id = self.next_request;
        self.next_request += 1;
        let request = pb::MountRequest { id, caller, op: Some(op), answered_below: id, ..Default::default() };
        self.apply(Command::Mount { session, request });
        match self.reply_to(id) {
            Some(Reply::Error(error)) => Err(DfsError::from_wire(error)),
            Some(reply) => Ok(reply),
            None => panic!("no reply"),
        }
    }

    pub fn code(&mut self, op: Op) -> Option<ErrorCode> {
        self.call(op).map_err(|e| e.code).err()
    }

    pub fn ok(&mut self, op: Op) -> Reply {
        self.call(op).unwrap()
    }

    pub fn ok_as(&mut self, session: SessionId, op: Op) -> Reply {
        self.call_as(session, op).unwrap()
    }

    pub fn attr_of(reply: &Reply) -> pb::Attr {
        match reply {
            Reply::Attr(attr) => *attr,
            other => panic!("no attributes: {other:?}"),
        }
    }

    pub fn attr(&mut self, inode: InodeNo) -> pb::Attr {
        Kit::attr_of(&self.ok(Op::Getattr(pb::Getattr { inode: inode.0 })))
    }

    pub fn getattr_code(&mut self, inode: InodeNo) -> Option<ErrorCode> {
        self.code(Op::Getattr(pb::Getattr { inode: inode.0 }))
    }

    pub fn create(&mut self, parent: InodeNo, name: &str) -> InodeNo {
        let name = name.to_owned().into();
        let op = pb::Create { parent: parent.0, name, mode: 0o644, uid: 10, gid: 20, umask: 0 };
        InodeNo(Kit::attr_of(&self.ok(Op::Create(op))).inode)
    }

    pub fn mkdir(&mut self, parent: InodeNo, name: &str) -> InodeNo {
        let name = name.to_owned().into();
        let op = pb::Mkdir { parent: parent.0, name, mode: 0o755, uid: 10, gid: 20, umask: 0 };
        InodeNo(Kit::attr_of(&self.ok(Op::Mkdir(op))).inode)
    }

    pub fn unlink_op(&self, parent: InodeNo, name: &str) -> Op {
        Op::Unlink(pb::Unlink { parent: parent.0, name: name.to_owned().into() })
    }

    pub fn unlink(&mut self, parent: InodeNo, name: &str) {
        self.ok(self.unlink_op(parent, name));
    }

    pub fn release(&mut self, inode: InodeNo) {
        self.ok(Op::Release(pb::Release { inode: inode.0 }));
    }

    pub fn truncate(&mut self, inode: InodeNo, size: u64) {
        let op = pb::Setattr { inode: inode.0, size: Some(size), ..pb::Setattr::default() };
        self.ok(Op::Setattr(op));
    }

    pub fn layout(&mut self, inode: InodeNo, offset: u64, length: u64) -> pb::FileLayout {
        match self.ok(Op::Layout(pb::Layout { inode: inode.0, offset, length })) {
            Reply::Layout(layout) => layout,
            other => panic!("no layout: {other:?}"),
        }
    }

    // Keepers

    pub fn keeper_hello(&mut self, keeper: KeeperId, host: &str) -> KeeperId {
        self.keeper_joins(keeper, host, &[])
    }

    pub fn keeper_joins(&mut self, keeper: KeeperId, host: &str, labels: &[(&str, &str)]) -> KeeperId {
        self.try_keeper_joins(keeper, host, labels).unwrap()
    }

    pub fn try_keeper_joins(
        &mut self,
        keeper: KeeperId,
        host: &str,
        labels: &[(&str, &str)],
    ) -> Result<KeeperId, DfsError> {
        let label =
            |(name, value): &(&str, &str)| pb::Label { name: (*name).to_owned(), value: (*value).to_owned() };
        let hello = pb::KeeperHello {
            data_tls: false,
            protocol_version: dfs_proto::PROTOCOL_VERSION,
            cluster: bytes::Bytes::new(),
            keeper: keeper.0,
            address: format!("{host}:1"),
            data_dir: format!("/data/{keeper}"),
            host: host.to_owned(),
            version: "1".to_owned(),
            load: Some(pb::Load { total: FREE, free: FREE, ..pb::Load::default() }),
            labels: labels.iter().map(label).collect(),
        };
        let from = self.sent.len();
        self.apply(Command::KeeperHello(hello));
        let welcomed = self.sent[from..].iter().find_map(|effect| match effect {
            Effect::KeeperAnswer(keeper_down::Msg::Welcome(welcome)) => Some(Ok(KeeperId(welcome.keeper))),
            Effect::KeeperAnswer(keeper_down::Msg::Refused(error)) => {
                Some(Err(DfsError::from_wire(error.clone())))
            }
            _ => None,
        });
        let id = welcomed.expect("no answer")?;
        if !self.beating.contains(&id) {
            self.beating.push(id);
        }
        Ok(id)
    }

    /// Its stream breaks and comes back; its inventory is still to come.
    pub fn reconnect(&mut self, keeper: KeeperId) {
        self.apply(Command::KeeperGone(keeper));
        self.keeper_hello(keeper, &format!("h{keeper}"));
    }

    pub fn keeper_says(&mut self, keeper: KeeperId, msg: keeper_up::Msg) {
        self.apply(Command::Keeper { keeper, msg });
    }

    pub fn heartbeat(&mut self, keeper: KeeperId) {
        self.keeper_says(keeper, keeper_up::Msg::Heartbeat(pb::Heartbeat { seq: 1, load: None }));
    }

    /// Its stream breaks, and it is found dead.
    pub fn kill(&mut self, keeper: KeeperId) {
        self.apply(Command::KeeperGone(keeper));
        self.beating.retain(|id| *id != keeper);
        self.pass_ms(5_000);
        assert!(!self.state.is_alive(keeper));
    }

    pub fn inventory(&mut self, keeper: KeeperId, chunks: Vec<pb::ChunkInfo>) {
        self.inventory_with_quarantine(keeper, chunks, &[]);
    }

    pub fn inventory_with_quarantine(
        &mut self,
        keeper: KeeperId,
        chunks: Vec<pb::ChunkInfo>,
        quarantined: &[u64],
    ) {
        let quarantined = quarantined.to_vec();
        let page = pb::InventoryPage { chunks, last: true, quarantined, number: 0 };
        self.keeper_says(keeper, keeper_up::Msg::Inventory(page));
    }

    /// In answer to an order.
    pub fn numbered_inventory(&mut self, keeper: KeeperId, number: u64, chunks: Vec<pb::ChunkInfo>) {
        let page = pb::InventoryPage { chunks, last: true, number, quarantined: Vec::new() };
        self.keeper_says(keeper, keeper_up::Msg::Inventory(page));
    }

    pub fn info(&self, chunk: ChunkId) -> pb::ChunkInfo {
        self.state.chunks.get(chunk).unwrap().info(chunk)
    }

    pub fn bad_copy(&mut self, keeper: KeeperId, chunk: ChunkId) {
        let bad = pb::BadCopy { chunk: chunk.0, ..pb::BadCopy::default() };
        self.keeper_says(keeper, keeper_up::Msg::BadCopy(bad));
    }

    /// A copy did not verify, and its file is kept.
    pub fn quarantined_copy(&mut self, keeper: KeeperId, chunk: ChunkId) {
        let bad = pb::BadCopy { chunk: chunk.0, quarantined: true, ..pb::BadCopy::default() };
        self.keeper_says(keeper, keeper_up::Msg::BadCopy(bad));
    }

    /// An operator's command.
    pub fn operate(&mut self, operation: Operation) -> Result<OperatorReply, DfsError> {
        let from = self.sent.len();
        self.apply(Command::Operator(operation));
        let answer = self.sent[from..].iter().find_map(|effect| match effect {
            Effect::OperatorAnswer(answer) => Some(answer.clone()),
            _ => None,
        });
        answer.expect("no answer")
    }

    pub fn synced(&mut self, keeper: KeeperId, chunk: ChunkId) {
        self.keeper_says(keeper, keeper_up::Msg::Synced(pb::Synced { chunks: vec![chunk.0] }));
    }

    /// Copy orders that are under way: (number, chunk, source, destination).
    pub fn pushes(&self) -> Vec<(u64, ChunkId, KeeperId, KeeperId)> {
        let orders = self.state.orders.map.iter();
        orders.map(|(number, order)| (*number, order.chunk, order.source, order.destination)).collect()
    }

    /// Says that the copy of an order arrived.
    pub fn say_copied(&mut self, order: u64, chunk: ChunkId, length: u32, destination: KeeperId) {
        let info = Some(pb::ChunkInfo { chunk: chunk.0, length, checksum: checksum(chunk.0) });
        self.keeper_says(destination, keeper_up::Msg::Copied(pb::Copied { info, order }));
    }

    pub fn length_of(&self, chunk: ChunkId) -> u32 {
        let in_table = self.state.chunks.get(chunk).map(|row| row.length);
        let job = self.state.compaction.jobs.get(&chunk).map(|job| job.length);
        in_table.or(self.state.uploads.get(&chunk).map(|upload| upload.length)).or(job).unwrap_or(1)
    }

    /// Every copy order is carried out, and every one that follows.
    pub fn copy_all(&mut self) {
        while let Some((order, chunk, _, destination)) = self.pushes().first().copied() {
            self.say_copied(order, chunk, self.length_of(chunk), destination);
        }
    }

    fn was_told(&self, keeper: KeeperId, what: impl Fn(&keeper_down::Msg) -> bool) -> bool {
        self.sent.iter().any(|effect| match effect {
            Effect::ToKeeper(to, msg) => *to == keeper && what(msg),
            _ => false,
        })
    }

    pub fn was_deleted(&self, keeper: KeeperId, chunk: ChunkId) -> bool {
        self.was_told(keeper, |m| matches!(m, keeper_down::Msg::Delete(d) if d.chunks.contains(&chunk.0)))
    }

    pub fn was_asked_to_sync(&self, keeper: KeeperId, chunk: ChunkId) -> bool {
        self.was_told(keeper, |m| matches!(m, keeper_down::Msg::Sync(s) if s.chunks.contains(&chunk.0)))
    }

    pub fn was_verified(&self, keeper: KeeperId, chunk: ChunkId) -> bool {
        self.was_told(keeper, |m| matches!(m, keeper_down::Msg::Verify(v) if v.chunk == chunk.0))
    }
}

/// Every row that the state would store.
fn all_rows(state: &State) -> BTreeMap<RowKey, Row> {
    let mut keys = vec![RowKey::Counters];
    for (inode, node) in state.inodes.iter() {
        keys.push(RowKey::Inode(inode));
        if let super::Body::Dir(dir) = &node.body {
            keys.extend(
                dir.entries.iter().map(|(name, _)| RowKey::Dentry { parent: inode, name: name.into() }),
            );
        }
    }
    keys.extend(state.extents.iter().map(|(inode, at, _)| RowKey::Extent { inode, file_offset: at }));
    keys.extend(state.chunks.iter().map(|(chunk, _)| RowKey::Chunk(chunk)));
    keys.extend(state.replies.keys().map(|(session, request)| RowKey::Reply { session, request }));
    keys.extend(state.xattrs.keys().map(|(inode, name)| RowKey::Xattr { inode: *inode, name: name.clone() }));
    keys.extend(state.keepers.keys().map(|keeper| RowKey::Keeper(*keeper)));
    keys.extend(state.quotas.directories().map(RowKey::Quota));
    keys.extend(state.trash.keys().map(RowKey::Trash));
    keys.extend(state.roll.keys().map(RowKey::Session));
    keys.extend(state.users.iter().map(|(name, _)| RowKey::User(name.clone())));
    keys.into_iter().map(|key| (key.clone(), state.row(&key).unwrap())).collect()
}
