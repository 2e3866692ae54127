//! What a command collects while it runs: touched rows, effects, inodes that are shown.
//!
//! A handler changes the state and says which rows it touched; when the command is over, each touched row is
//! read from the state once. So what is stored cannot differ from what is in memory, and a row that a command
//! changes five times is stored once.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, InodeNo, KeeperId, SessionId};
use dfs_proto::pb::{self, keeper_down, mount_down};

use super::State;
use super::acks::Ack;
use super::command::{Applied, Effect, Now};
use super::row::{RowChange, RowKey};

/// The result of most handlers.
pub(super) type Res<T> = Result<T, DfsError>;

/// An error with its words.
pub(super) fn fail<T>(code: ErrorCode, message: impl Into<String>) -> Res<T> {
    Err(DfsError::new(code, message))
}

/// Chunks in one message of a list, so that it stays far below the largest message.
const LIST_LEN: usize = 8192;

/// One command's output.
pub(super) struct Out {
    /// Times of files.
    pub now: pb::Time,
    /// What time limits are reckoned in: it never jumps.
    pub now_ms: i64,
    answer: Option<Effect>,
    effects: Vec<Effect>,
    shows: Vec<InodeNo>,
    touched: BTreeSet<RowKey>,
    /// Answers to invalidations of this command that nobody waits for yet.
    pub acks: Vec<Ack>,
    deletes: BTreeMap<KeeperId, BTreeSet<u64>>,
    syncs: BTreeMap<KeeperId, BTreeSet<u64>>,
}

impl Out {
    pub fn new(now: impl Into<Now>) -> Out {
        let now = now.into();
        Out {
            now: now.time,
            now_ms: now.steady_ms,
            answer: None,
            effects: Vec::new(),
            shows: Vec::new(),
            touched: BTreeSet::new(),
            acks: Vec::new(),
            deletes: BTreeMap::new(),
            syncs: BTreeMap::new(),
        }
    }

    /// What keepers are told that it is: tickets expire by it.
    pub fn steady(&self) -> pb::Time {
        pb::Time {
            sec: self.now_ms.div_euclid(1_000),
            nsec: self.now_ms.rem_euclid(1_000) as u32 * 1_000_000,
        }
    }

    /// The direct answer to the command: leaves first.
    pub fn answer(&mut self, effect: Effect) {
        self.answer = Some(effect);
    }

    /// Something for a mount.
    pub fn for_mount(&mut self, session: SessionId, msg: mount_down::Msg) {
        self.effects.push(Effect::ToMount(session, msg));
    }

    /// A mount's stream is to end.
    pub fn close_mount(&mut self, session: SessionId) {
        self.effects.push(Effect::CloseMount(session));
    }

    /// Something for a keeper.
    pub fn for_keeper(&mut self, keeper: KeeperId, msg: keeper_down::Msg) {
        self.effects.push(Effect::ToKeeper(keeper, msg));
    }

    /// An effect of this command shows the state of this inode.
    pub fn show(&mut self, inode: InodeNo) {
        self.shows.push(inode);
    }

    /// Inodes that this command shows or has changed until now.
    pub fn shown(&self) -> Vec<InodeNo> {
        let changed = self.touched.iter().filter_map(|key| match key {
            RowKey::Inode(inode)
            | RowKey::Extent { inode, .. }
            | RowKey::Xattr { inode, .. }
            | RowKey::Dentry { parent: inode, .. } => Some(*inode),
            RowKey::Quota(inode) | RowKey::Trash(inode) => Some(*inode),
            RowKey::Counters
            | RowKey::Chunk(_)
            | RowKey::Keeper(_)
            | RowKey::Reply { .. }
            | RowKey::Session(_)
            | RowKey::User(_) => None,
        });
        self.shows.iter().copied().chain(changed).collect()
    }

    /// An effect that is no direct answer.
    pub fn send(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// This row was changed, added or removed.
    pub fn touch(&mut self, key: RowKey) {
        self.touched.insert(key);
    }

    /// Is there anything to store?
    pub fn has_changes(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Files of which extents were changed, added or removed.
    pub fn changed_extents(&self) -> BTreeSet<InodeNo> {
        let inode = |key: &RowKey| match key {
            RowKey::Extent { inode, .. } => Some(*inode),
            _ => None,
        };
        self.touched.iter().filter_map(inode).collect()
    }

    /// Lists are sent at the end of the command, deletions before everything but the answer: an order in
    /// the same command to copy the chunk to that keeper again must come after.
    pub fn delete(&mut self, keeper: KeeperId, chunk: ChunkId) {
        self.deletes.entry(keeper).or_default().insert(chunk.0);
    }

    /// A keeper is to sync this chunk.
    pub fn sync(&mut self, keeper: KeeperId, chunk: ChunkId) {
        self.syncs.entry(keeper).or_default().insert(chunk.0);
    }

    /// The command is over.
    pub fn finish(mut self, state: &State) -> Applied {
        let mut effects: Vec<Effect> = self.answer.take().into_iter().collect();
        lists(&mut effects, self.deletes, |chunks| keeper_down::Msg::Delete(pb::DeleteChunks { chunks }));
        effects.append(&mut self.effects);
        lists(&mut effects, self.syncs, |chunks| keeper_down::Msg::Sync(pb::SyncChunks { chunks }));
        Applied {
            changes: self
                .touched
                .into_iter()
                .map(|key| match state.row(&key) {
                    Some(row) => RowChange::Put(row),
                    None => RowChange::Delete(key),
                })
                .collect(),
            effects,
            shows: self.shows,
        }
    }
}

fn lists(
    effects: &mut Vec<Effect>,
    by_keeper: BTreeMap<KeeperId, BTreeSet<u64>>,
    msg: fn(Vec<u64>) -> keeper_down::Msg,
) {
    for (keeper, chunks) in by_keeper {
        let chunks: Vec<u64> = chunks.into_iter().collect();
        effects.extend(chunks.chunks(LIST_LEN).map(|page| Effect::ToKeeper(keeper, msg(page.to_vec()))));
    }
}
