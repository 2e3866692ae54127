//! What must hold, one file each. An invariant looks at what happens and keeps what it has to remember; it never changes
//! the world.

mod acknowledged;
mod answered;
mod appends;
mod caches;
mod copies;
mod duties;
mod fsync;
mod garbage;
mod ids;
mod locks;
mod moves;
mod needed;
mod once;
mod order;
mod orders;
mod quotas;
mod tables;
mod trash;
mod visible;

use dfs_proto::pb::{self, mount_reply::Result as Reply, mount_request::Op};

use super::world::World;
use crate::core::{Applied, Command, Effect, RowChange};

/// What happened.
pub(super) enum Saw<'a> {
    /// The master has just started. It has the durable rows alone.
    Started,
    Crashed,
    /// It applied a command. Nothing of it is durable yet, or has left.
    Applied {
        command: &'a Command,
        applied: &'a Applied,
    },
    /// These are durable now.
    Committed(&'a [RowChange]),
    /// This leaves the master.
    Left(&'a Effect),
    Asked {
        mount: usize,
        request: u64,
        op: &'a Op,
    },
    Answered {
        mount: usize,
        request: u64,
        result: &'a Reply,
    },
    WriteBegun {
        mount: usize,
        inode: u64,
        write: u64,
        append: bool,
        runs: &'a [pb::Run],
    },
    /// The mount asks for all places of what is not safe anew. What it gave up may become visible before the master
    /// hears of that.
    BegunAnew {
        mount: usize,
        inode: u64,
        given_up: &'a [u64],
    },
    /// The mount gives up all that is not safe of a file, and its programs are told.
    WritesDropped {
        mount: usize,
        inode: u64,
    },
    /// A program was told that it is safe.
    WriteAcked {
        inode: u64,
        write: u64,
        append: bool,
    },
    /// A program got these bytes of a file, from its beginning on; it asked at that step.
    Read {
        inode: u64,
        asked: u64,
        bytes: &'a [u64],
    },
    /// A keeper has deleted a chunk as it was told.
    Deleted {
        keeper: usize,
        chunk: u64,
    },
    /// It has been calm for long, or something was broken.
    End,
}

/// See the module.
pub(super) trait Invariant {
    /// As the tests of known bugs name it.
    fn name(&self) -> &'static str;
    /// # Errors
    /// It does not hold, and why.
    fn saw(&mut self, what: &Saw, world: &World) -> Result<(), String>;
}

/// Is all as it has to be when it has been calm for long?
pub(super) fn is_settled(world: &World) -> bool {
    let mut trash = trash::Trash::default();
    let mut of_the_end: [&mut dyn Invariant; 5] =
        [&mut copies::Copies, &mut garbage::Garbage, &mut answered::Answered, &mut moves::Moves, &mut trash];
    of_the_end.iter_mut().all(|invariant| invariant.saw(&Saw::End, world).is_ok())
}

/// Each of them, or the one of this name; fresh.
pub(super) fn all(only: Option<&str>) -> Vec<Box<dyn Invariant>> {
    let mut all = every();
    all.retain(|invariant| only.is_none_or(|name| invariant.name() == name));
    all
}

fn every() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(acknowledged::Acknowledged::default()),
        Box::new(visible::Visible::default()),
        Box::new(ids::Ids::default()),
        Box::new(needed::Needed),
        Box::new(once::Once::default()),
        Box::new(order::Order::default()),
        Box::new(appends::Appends::default()),
        Box::new(locks::Locks),
        Box::new(caches::Caches::default()),
        Box::new(fsync::Fsync::default()),
        Box::new(orders::Orders),
        Box::new(trash::Trash::default()),
        Box::new(quotas::Quotas::default()),
        Box::new(duties::Duties::default()),
        Box::new(tables::Tables),
        Box::new(moves::Moves),
        Box::new(copies::Copies),
        Box::new(garbage::Garbage),
        Box::new(answered::Answered),
    ]
}
