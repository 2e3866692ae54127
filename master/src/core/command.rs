//! What goes into the core and what comes out of it.

use std::sync::Arc;

use dfs_proto::error::DfsError;
use dfs_proto::ids::{ChunkId, ClusterId, InodeNo, KeeperId, SessionId};
use dfs_proto::pb;

use super::id_map::IdMap;
use super::operator::{Operation, OperatorReply};
use super::row::RowChange;

/// What does not change while a master runs.
#[derive(Clone)]
pub struct Settings {
    /// The cluster.
    pub cluster: ClusterId,
    /// Signs tickets (`dfs_proto::ticket`). Never logged.
    pub secret: [u8; 32],
    /// Random, another at each start of the master.
    pub master_epoch: u64,
    /// Copies wanted of every chunk.
    pub copies: u32,
    /// Copies needed before an upload is a success.
    pub min_copies: u32,
    /// Bytes: no chunk is longer.
    pub chunk_size: u32,
    /// What a keeper may spend on copies and builds, in bytes a second.
    pub repair_rate: u64,
    /// Between two replication scans.
    pub replicate_every_ms: u64,
    /// A file whose extents have not changed for so long may be compacted; 0: none ever is.
    pub compact_after_ms: u64,
    /// How long a file whose last name went is kept; 0: it is not.
    pub trash_ms: u64,
    /// Of a restored cluster.
    pub spared: Option<Spared>,
}

/// Chunks that keepers of a restored cluster keep although no row knows them: they were stored after the dump was
/// taken, and a newer dump may turn up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spared {
    /// Ids from this one on were handed out after the restoring.
    pub below: ChunkId,
    /// On the machine's clock, in ms since 1970.
    pub until_ms: i64,
}

/// Everything that can happen to the master. Ids that have to be random or are bound to a connection
/// come from outside, so that the same commands at the same times always give the same state.
#[derive(Clone, Debug)]
pub enum Command {
    /// This session is about to say hello, and may trust what it caches then. Of its own, so that the welcome waits for no row.
    Enroll(SessionId),
    /// A mount opened its session. `fresh` is the id to use when the hello asks for a new session.
    MountHello {
        /// Not used before.
        fresh: SessionId,
        /// The directory that its user is bound to; of others, the cluster's root.
        root: InodeNo,
        /// How its user's ids are mapped.
        ids: Arc<IdMap>,
        /// As received.
        hello: pb::MountHello,
    },
    /// A request of a mount.
    Mount {
        /// That it came from.
        session: SessionId,
        /// As received.
        request: pb::MountRequest,
    },
    /// A mount has forgotten what these invalidations were about.
    MountAcks {
        /// That it came from.
        session: SessionId,
        /// As received.
        seqs: Vec<u64>,
    },
    /// The stream of a mount's session ended. It may resume; after a grace period it is dropped.
    /// Not to be said of a stream that a later hello of the same session has taken over from.
    MountGone {
        /// Whose.
        session: SessionId,
        /// The mount itself ended it.
        clean: bool,
    },
    /// A keeper opened its session; its cluster and version have been checked.
    KeeperHello(pb::KeeperHello),
    /// A keeper says something other than hello.
    Keeper {
        /// That it came from.
        keeper: KeeperId,
        /// As received.
        msg: pb::keeper_up::Msg,
    },
    /// The stream of a keeper's session ended. It is dead only after 3 s of silence.
    /// Not to be said of a stream that a later hello of the same keeper has taken over from.
    KeeperGone(KeeperId),
    /// An operator wants something done.
    Operator(Operation),
    /// Time passes. At least five times a second.
    Tick,
}

/// What a command did. The changes are stored in the order of commands, each command's all or none;
/// `effects` leave when they, and all that `shows` names, are durable.
#[derive(Debug, Default)]
pub struct Applied {
    /// To be stored.
    pub changes: Vec<RowChange>,
    /// To be sent, in order. The direct answer to the command comes first.
    pub effects: Vec<Effect>,
    /// Inodes whose state the effects show to somebody. Nobody may be shown a state that a crash could
    /// still take back, so the effects wait for open changes of these too. Effects other than the direct
    /// answer wait for every change before them, and nothing overtakes a change of the counters: an id must
    /// not leave before the block that it is from is durably reserved.
    pub shows: Vec<InodeNo>,
}

/// When a command is applied, by two clocks that need not agree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// The machine's clock, which somebody may set: times of files.
    pub time: pb::Time,
    /// A clock that never jumps, in ms: all time limits hang on it, those of tickets too.
    pub steady_ms: i64,
}

/// Where time passes as the machine's clock says.
impl From<pb::Time> for Now {
    fn from(time: pb::Time) -> Now {
        Now { time, steady_ms: time.as_millis() }
    }
}

/// Something to send.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// Answers `Command::MountHello`: welcome, or refused (and the stream ends).
    MountAnswer(pb::mount_down::Msg),
    /// Answers `Command::KeeperHello`: welcome, or refused (and the stream ends).
    KeeperAnswer(pb::keeper_down::Msg),
    /// Answers `Command::Operator`.
    OperatorAnswer(Result<OperatorReply, DfsError>),
    /// To a mount, if it is connected: replies, upload step 6, invalidations.
    ToMount(SessionId, pb::mount_down::Msg),
    /// This mount does not answer: its stream is to be closed, so that it trusts nothing that it has cached.
    CloseMount(SessionId),
    /// To a keeper, if it is connected.
    ToKeeper(KeeperId, pb::keeper_down::Msg),
}
