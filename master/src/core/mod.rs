//! The pure core of the Master Tracker: `apply(command, now)` changes [`State`] and says which rows to
//! store and what to send. No clock, no randomness, no I/O, no await: the same commands at the same times
//! always give the same state. Everything that decides anything is here.
//!
//! - [`command`], [`row`]: what goes in and comes out, and what is stored. `out` collects it.
//! - `load`: the state from its rows. `invariants`: what must hold of it, always.
//! - `inode`, `namespace`, `rename`, `attr`, `xattr`: names and attributes, as POSIX has them.
//! - `census`: how much there is. `homes`: in which directories an inode has names.
//! - [`bound`]: users who see one directory alone. [`id_map`], `mapped`: users whose ids are others at the cluster.
//! - `acl`: access lists (pure); `acl_ops`: what they do to inodes. `permission`: requests that the master itself
//!   has to check.
//! - `content`: extents; `extent_ops`: holes and copies made of them alone. `chunks`: chunks, their reference counts and copies, and indexes over them.
//! - `table`, `names`, `extents`, `holders`, `chunk_set`: how that is kept in little memory.
//! - `session`: mounts, what they hold open, and inodes without a name. `request`: their requests; `replies`: each done once.
//! - `upload`: steps 1, 2, 4 to 7; `commit`: what becomes visible, in which order.
//! - `keepers`, `inventory`, `grant`: who is alive, what they have, and tickets for them.
//! - `placement`: where copies go, and which is one too many. `duty`: what operators order of keepers.
//! - `replicate`: who copies what to whom, and trimming. `moves`: copies that would be better elsewhere. `sync`: fsync.
//! - `compact`: files of many small extents get new, full chunks; `compact_plan`: which extents;
//!   `compact_jobs`: the chunks that are built.
//! - `locks`, `lock_table`: locks of files. `leases`: append leases, which are locks of mounts.
//! - `quota`: limits of what is below a directory, and what is used of them.
//! - `digest`: MD5s that are remembered. `locate`: where a file's bytes lie.
//! - `interest`: what each mount may have cached. `acks`: replies that wait until others have forgotten it.
//! - [`trash`]: files without a name that are kept for a while.
//! - [`users`]: who may log in.
//! - `fsck`: the table set against what keepers have.
//! - `quarantine`: files that did not verify, and may go when good copies are there.
//! - `report`, `lookup_table`: what operators see. `browse`: what a browser is shown of files. [`operator`]: what they have done.
//!
//! Stored: counters, inodes, dentries, extents, chunks with their copies, extended attributes, keepers, quotas,
//! the trash, users, replies.
//! All else (liveness, sessions, uploads under way, copy orders, what is synced) is learned again after
//! a restart.

mod acks;
mod acl;
mod acl_ops;
mod allowance;
mod attr;
pub mod bound;
mod browse;
mod census;
mod chunk_set;
mod chunks;
pub mod command;
mod commit;
mod compact;
mod compact_jobs;
mod compact_plan;
mod content;
mod digest;
pub mod duty;
mod extent_ops;
mod extents;
mod fsck;
mod grant;
mod holders;
mod homes;
pub mod id_map;
mod ids;
mod inode;
mod interest;
mod invariants;
mod inventory;
mod keepers;
mod leases;
mod load;
mod locate;
mod lock_table;
mod locks;
mod lookup_table;
mod mapped;
mod moves;
mod names;
mod namespace;
pub mod operator;
mod out;
mod permission;
mod placement;
mod quarantine;
mod quiet_start;
mod quota;
mod rename;
mod replicate;
mod replies;
mod report;
mod request;
mod roll;
pub mod row;
mod session;
mod sync;
mod table;
pub mod trash;
mod trouble;
mod upload;
pub mod users;
mod xattr;

#[cfg(test)]
mod acl_tests;
#[cfg(test)]
mod compact_testkit;
#[cfg(test)]
mod compact_tests;
#[cfg(test)]
mod interest_tests;
#[cfg(test)]
mod lease_tests;
#[cfg(test)]
mod lock_tests;
#[cfg(test)]
mod namespace_tests;
#[cfg(test)]
mod permission_tests;
#[cfg(test)]
mod quota_tests;
#[cfg(test)]
mod random_tests;
#[cfg(test)]
pub(crate) mod testkit;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dfs_proto::ids::{ChunkId, InodeNo, KeeperId, SessionId};
use dfs_proto::pb;

pub use command::{Applied, Command, Effect, Now, Settings, Spared};
pub use load::CorruptRow;
pub use lookup_table::LookupCursor;
pub use report::{Figures, KeeperFigures};
pub(crate) use roll::TRUST_AFTER_START_MS;
pub use row::{Row, RowChange, RowKey};

use chunks::Chunks;
use compact::Compaction;
use extents::Extents;
use ids::Ids;
use inode::{Body, Inode};
use keepers::Keeper;
use out::Out;
use replicate::Orders;
use replies::Replies;
use row::{ExtentRow, Name};
use session::Session;
use sync::Syncs;
use table::Table;
use trouble::Troubles;
use upload::Upload;

/// Everything that the master knows.
///
/// Tables are ordered maps, not hash maps: their order decides who comes first, and must be the same in
/// every run.
pub struct State {
    settings: Settings,
    ids: Ids,
    inodes: Table<InodeNo, Inode>,
    more_homes: homes::MoreHomes,
    census: census::Census,
    extents: Extents,
    xattrs: BTreeMap<(InodeNo, Name), Bytes>,
    chunks: Chunks,
    keepers: BTreeMap<KeeperId, Keeper>,
    quotas: quota::Quotas,
    trash: trash::Trash,
    users: users::Users,

    sessions: BTreeMap<SessionId, Session>,
    roll: roll::Roll,
    /// How often each inode is held open, over all sessions.
    opens: BTreeMap<InodeNo, u32>,
    /// Inodes without a name that nobody is known to hold, kept until `grace_until_ms`: after a restart
    /// the mounts that hold them have yet to come back.
    orphans: BTreeSet<InodeNo>,
    grace_until_ms: i64,

    replies: Replies,
    /// Ticketed, and not yet in the table.
    uploads: BTreeMap<ChunkId, Upload>,
    orders: Orders,
    troubles: Troubles,
    moves: moves::Moves,
    syncs: Syncs,
    compaction: Compaction,
    locks: locks::Locks,
    acks: acks::Acks,
    /// Requests of mounts since the start.
    requests: u64,
    /// When a keeper was last asked to verify its copy, in ms; at most once a second.
    verify_asked: BTreeMap<(ChunkId, KeeperId), i64>,
    fsck: fsck::Fsck,
    next_quarantine_look_ms: i64,
    /// The number of the last scrub that an operator ordered.
    last_scrub: u64,
    next_nonce: u64,
    /// Grows with each placement; the keeper with the lowest number is next.
    placements: u64,
    loading: load::Loading,
}

impl State {
    /// An empty state: give it rows ([`State::load_row`], then [`State::finish_load`]), or make it a fresh
    /// cluster ([`State::bootstrap`]).
    pub fn new(settings: Settings) -> State {
        State {
            next_nonce: settings.master_epoch,
            settings,
            ids: Ids::fresh(),
            inodes: Table::default(),
            more_homes: homes::MoreHomes::default(),
            census: census::Census::default(),
            extents: Extents::default(),
            xattrs: BTreeMap::new(),
            chunks: Chunks::default(),
            keepers: BTreeMap::new(),
            quotas: quota::Quotas::default(),
            trash: trash::Trash::default(),
            users: users::Users::default(),
            sessions: BTreeMap::new(),
            roll: roll::Roll::default(),
            opens: BTreeMap::new(),
            orphans: BTreeSet::new(),
            grace_until_ms: i64::MIN,
            replies: Replies::default(),
            uploads: BTreeMap::new(),
            orders: Orders::default(),
            troubles: Troubles::default(),
            moves: moves::Moves::default(),
            syncs: Syncs::default(),
            compaction: Compaction::default(),
            locks: locks::Locks::default(),
            acks: acks::Acks::default(),
            requests: 0,
            verify_asked: BTreeMap::new(),
            fsck: fsck::Fsck::default(),
            next_quarantine_look_ms: i64::MIN,
            last_scrub: 0,
            placements: 0,
            loading: load::Loading::default(),
        }
    }

    /// Makes a fresh cluster of an empty state: the root directory and the counters. Returns its rows.
    pub fn bootstrap(&mut self, now: pb::Time) -> Vec<RowChange> {
        let mut out = Out::new(now);
        let mut root = Inode::new(inode::S_IFDIR | 0o755, 0, 0, now, Inode::empty_dir(InodeNo::ROOT));
        root.nlink = 2;
        self.insert_inode(InodeNo::ROOT, root);
        out.touch(RowKey::Inode(InodeNo::ROOT));
        out.touch(RowKey::Counters);
        out.finish(self).changes
    }

    /// Does one command. Never fails: what cannot be done is answered with an error.
    pub fn apply(&mut self, command: Command, now: impl Into<Now>) -> Applied {
        let mut out = Out::new(now);
        match command {
            Command::Enroll(session) => self.enroll(session, &mut out),
            Command::MountHello { fresh, root, ids, hello } => {
                self.mount_hello(fresh, (root, ids), hello, &mut out)
            }
            Command::Mount { session, request } => self.mount_request(session, request, &mut out),
            Command::MountAcks { session, seqs } => self.mount_acks(session, &seqs, &mut out),
            Command::MountGone { session, clean } => self.mount_gone(session, clean, &mut out),
            Command::KeeperHello(hello) => self.keeper_hello(hello, &mut out),
            Command::Keeper { keeper, msg } => self.keeper_says(keeper, msg, &mut out),
            Command::KeeperGone(keeper) => self.keeper_gone(keeper, &mut out),
            Command::Operator(operation) => self.operate(operation, &mut out),
            Command::Tick => self.tick(&mut out),
        }
        self.note_changed_extents(&out);
        out.finish(self)
    }

    fn tick(&mut self, out: &mut Out) {
        self.find_dead_keepers(out);
        self.end_maintenance(out);
        self.expire_orders(out);
        self.troubles.tick(out.now_ms);
        self.expire_uploads(out);
        self.expire_locks(out);
        self.expire_acks(out);
        self.expire_sessions(out);
        self.keep_roll(out);
        self.rotate_interests(out);
        self.reap_after_grace(out);
        self.forget_replies_after_grace(out);
        self.expire_syncs(out);
        self.verify_asked.retain(|_, asked_ms| out.now_ms.saturating_sub(*asked_ms) < VERIFY_EVERY_MS);
        self.recheck_uploads(out);
        self.replicate_tick(out);
        self.moves_tick(out);
        self.empty_quarantines(out);
        self.end_late_fsck(out);
        self.purge_trash(out);
        self.compact_tick(out);
    }

    /// Was nothing loaded? Then the store is that of a cluster yet to be made.
    pub fn is_empty(&self) -> bool {
        self.inodes.is_empty() && self.keepers.is_empty() && self.loading.is_empty()
    }

    /// A row as it is to be stored now; `None`: there is none.
    fn row(&self, key: &RowKey) -> Option<Row> {
        Some(match key {
            RowKey::Counters => Row::Counters(self.ids.stored),
            RowKey::Inode(inode) => Row::Inode(*inode, self.inodes.get(inode)?.to_row()),
            RowKey::Dentry { parent, name } => match &self.inodes.get(parent)?.body {
                Body::Dir(dir) => {
                    Row::Dentry { parent: *parent, name: name.clone(), inode: dir.entries.get(name)? }
                }
                Body::File { .. } | Body::Symlink(_) | Body::Special { .. } => return None,
            },
            RowKey::Extent { inode, file_offset } => {
                let span = self.extents.get(*inode, *file_offset)?;
                let row = ExtentRow {
                    file_offset: *file_offset,
                    length: u64::from(span.length),
                    chunk: span.chunk,
                    chunk_offset: span.chunk_offset,
                };
                Row::Extent(*inode, row)
            }
            RowKey::Chunk(chunk) => Row::Chunk(*chunk, self.chunks.get(*chunk)?.to_row()),
            RowKey::Xattr { inode, name } => {
                let value = self.xattrs.get(&(*inode, name.clone()))?.clone();
                Row::Xattr { inode: *inode, name: name.clone(), value }
            }
            RowKey::Reply { session, request } => {
                let reply = self.replies.get(*session, *request)?.clone();
                Row::Reply { session: *session, request: *request, reply }
            }
            RowKey::Keeper(keeper) => Row::Keeper(*keeper, self.keepers.get(keeper)?.row.clone()),
            RowKey::Quota(inode) => Row::Quota(*inode, self.quotas.limits(*inode)?),
            RowKey::Trash(inode) => Row::Trash(*inode, self.trash.get(*inode)?.clone()),
            RowKey::Session(id) => Row::Session(self.roll.has(*id).then_some(*id)?),
            RowKey::User(name) => Row::User(name.clone(), self.users.get(name)?.clone()),
        })
    }
}

/// Between two requests to a keeper to verify one copy.
const VERIFY_EVERY_MS: i64 = 1_000;
