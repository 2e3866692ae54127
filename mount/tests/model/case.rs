//! One sequence on its way: the naive tree, the real one, and what connects them.
//!
//! What must hold between the mounts: names and attributes are the same on both after every operation. Bytes that one mount
//! wrote and did not yet flush are seen on that mount alone; what the other sees of that file meanwhile is not compared. Before
//! the other one changes such a file, the first one flushes (that is what programs have to do, and what close does).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dfs_mount::fs::Fs;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use crate::operation::{Pick, Step};
use crate::tree::{Body, Errno, Id, ROOT, Tree};
use crate::world::ROOT_CALLER;
use crate::world::World;

/// What an operation gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Bytes(Vec<u8>),
    Number(u64),
}

pub type Outcome = Result<Answer, Errno>;

/// The naive outcome, and the real one.
pub type Both = (Outcome, Outcome);

/// An open file. All are open for reading and writing.
#[derive(Clone, Copy, Debug)]
pub struct Handle {
    pub id: Id,
    pub mount: usize,
    pub number: u64,
}

/// An open directory on its way through it.
#[derive(Clone, Debug)]
pub struct Listing {
    pub id: Id,
    pub mount: usize,
    pub number: u64,
    pub cookie: u64,
    pub listed: Vec<Vec<u8>>,
    /// There since the listing began.
    pub stayed: BTreeSet<Vec<u8>>,
    /// There at some time since.
    pub came: BTreeSet<Vec<u8>>,
}

pub struct Case<'a> {
    pub world: &'a mut World,
    pub tree: Tree,
    /// By id.
    pub inodes: Vec<InodeNo>,
    pub handles: Vec<Handle>,
    pub listings: Vec<Listing>,
    /// Which mount has bytes that it may not have flushed.
    pub dirty: BTreeMap<Id, usize>,
    /// Open on a mount that may not yet have heard of the other's change.
    pub behind: BTreeSet<(usize, Id)>,
    /// mtime and ctime when they were last looked at.
    pub times: BTreeMap<Id, (pb::Time, pb::Time)>,
    /// Steps so far.
    pub steps: usize,
}

/// Runs a sequence on both, and compares both after each step.
///
/// # Errors
/// What was not the same.
pub async fn run(world: &mut World, steps: &[Step]) -> Result<(), String> {
    let root = world.directory().await;
    let mut case = Case {
        world,
        tree: Tree::new(),
        inodes: vec![root],
        handles: Vec::new(),
        listings: Vec::new(),
        dirty: BTreeMap::new(),
        behind: BTreeSet::new(),
        times: BTreeMap::new(),
        steps: 0,
    };
    for (number, step) in steps.iter().enumerate() {
        case.steps = number;
        let told = |error| format!("step {number}, {step:?}: {error}");
        case.step(step).await.map_err(told)?;
        case.forget_unused();
        case.compare().await.map_err(told)?;
    }
    case.finish().await
}

impl Case<'_> {
    async fn step(&mut self, step: &Step) -> Result<(), String> {
        let Some((naive, real)) = self.apply(step).await? else { return Ok(()) };
        // For ten seconds after the master's start what has no name is still there: nobody can say yet who has it open.
        let gone = |outcome: &Outcome| matches!(outcome, Err(libc::ESTALE | libc::ENOENT | libc::ENOTDIR));
        if naive == real || naive == Err(libc::ESTALE) && gone(&real) {
            return Ok(());
        }
        Err(format!("gave {}, and not {}", shown(&real), shown(&naive)))
    }

    /// Closes all, and looks at everything once more.
    async fn finish(&mut self) -> Result<(), String> {
        for handle in std::mem::take(&mut self.handles) {
            self.close(handle).await.map_err(|error| format!("close at the end: {error}"))?;
        }
        for listing in std::mem::take(&mut self.listings) {
            self.fs(listing.mount).releasedir(listing.number);
        }
        self.dirty.clear();
        self.forget_unused();
        self.compare().await.map_err(|error| format!("at the end: {error}"))
    }

    pub fn fs(&self, mount: usize) -> Arc<Fs> {
        self.world.fs(mount)
    }

    pub async fn close(&mut self, handle: Handle) -> Result<(), DfsError> {
        let fs = self.fs(handle.mount);
        let flushed = fs.flush(handle.number).await;
        fs.release(handle.number).await;
        flushed
    }

    fn forget_unused(&mut self) {
        for id in self.tree.ids() {
            let nameless = self.tree.get(id).is_some_and(|node| node.nlink == 0);
            if nameless && !self.handles.iter().any(|handle| handle.id == id) {
                self.tree.forget(id);
                self.times.remove(&id);
                self.dirty.remove(&id);
            }
        }
    }

    /// Entries of directories came and went: for the listings under way.
    pub fn note_names(&mut self) {
        for listing in &mut self.listings {
            if let Ok(entries) = self.tree.entries(listing.id) {
                listing.stayed.retain(|name| entries.contains_key(name));
                listing.came.extend(entries.keys().cloned());
            }
        }
    }

    // ---- who is meant

    /// Directories; at the end of the range a node that is none, and one that is gone.
    pub fn pick_dir(&self, pick: Pick) -> Id {
        let is_dir = |id: &Id| self.tree.get(*id).is_some_and(|node| node.is_dir());
        let ids = self.tree.ids();
        let found = match pick {
            14 => ids.iter().copied().find(|id| !is_dir(id)),
            15 => (0..self.tree.ever()).find(|id| self.tree.get(*id).is_none()),
            _ => None,
        };
        let dirs: Vec<Id> = ids.into_iter().filter(is_dir).collect();
        found.unwrap_or_else(|| dirs[usize::from(pick) % dirs.len()])
    }

    /// Anything but the root, if there is anything.
    pub fn pick_node(&self, pick: Pick) -> Id {
        let ids: Vec<Id> = self.tree.ids().into_iter().filter(|id| *id != ROOT).collect();
        if ids.is_empty() { ROOT } else { ids[usize::from(pick) % ids.len()] }
    }

    pub fn pick_file(&self, pick: Pick) -> Option<Id> {
        let is_file = |id: &Id| self.tree.get(*id).is_some_and(|node| matches!(node.body, Body::File(_)));
        let files: Vec<Id> = self.tree.ids().into_iter().filter(is_file).collect();
        (!files.is_empty()).then(|| files[usize::from(pick) % files.len()])
    }

    pub fn pick_handle(&self, pick: Pick) -> Option<Handle> {
        (!self.handles.is_empty()).then(|| self.handles[usize::from(pick) % self.handles.len()])
    }

    /// Another, or the same, of the same mount.
    pub fn pick_handle_of(&self, mount: usize, pick: Pick) -> Option<Handle> {
        let of: Vec<Handle> = self.handles.iter().copied().filter(|handle| handle.mount == mount).collect();
        (!of.is_empty()).then(|| of[usize::from(pick) % of.len()])
    }

    pub fn inode(&self, id: Id) -> InodeNo {
        self.inodes[id]
    }

    // ---- one mount after the other

    /// Before `mount` reads or changes the content or the times of `id`: the other one's bytes are flushed, and what is open
    /// here hears of it by an open, as close-to-open promises.
    pub async fn hand_over(&mut self, mount: usize, id: Id) -> Result<(), String> {
        self.flush_other(mount, id).await?;
        if self.behind.remove(&(mount, id)) {
            let fs = self.fs(mount);
            let opened = fs
                .open(ROOT_CALLER, self.inode(id), libc::O_RDONLY)
                .await
                .map_err(|e| format!("open: {e}"))?;
            fs.release(opened.handle).await;
        }
        Ok(())
    }

    pub async fn flush_other(&mut self, mount: usize, id: Id) -> Result<(), String> {
        if self.dirty.get(&id).is_some_and(|by| *by != mount) {
            self.dirty.remove(&id);
            let other = self.handles.iter().find(|handle| handle.id == id && handle.mount != mount);
            if let Some(other) = other {
                self.fs(other.mount).flush(other.number).await.map_err(|e| format!("flush: {e}"))?;
            }
        }
        Ok(())
    }

    /// `mount` changed the content: what is open on the other one hears of it soon.
    pub fn changed(&mut self, mount: usize, id: Id) {
        if self.handles.iter().any(|handle| handle.id == id && handle.mount != mount) {
            self.behind.insert((1 - mount, id));
        }
    }
}

fn shown(outcome: &Outcome) -> String {
    match outcome {
        Ok(Answer::Done) => "success".into(),
        Ok(Answer::Number(number)) => number.to_string(),
        Ok(Answer::Bytes(bytes)) => {
            format!("{} bytes beginning with {:?}", bytes.len(), &bytes[..bytes.len().min(20)])
        }
        Err(errno) => format!("errno {errno}"),
    }
}

/// The real one's errno.
pub fn errno(error: &DfsError) -> Errno {
    error.code.errno() as i32
}

/// Where the kernel gets ENXIO.
pub fn seek_errno(error: &DfsError) -> Errno {
    if error.code == ErrorCode::Invalid { libc::ENXIO } else { errno(error) }
}
