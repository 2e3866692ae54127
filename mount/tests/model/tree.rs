//! A file system as simple as can be: a tree in memory, written from POSIX and Linux's manual pages. It shares no code
//! with what it is compared with.
//!
//! What must hold: an operation that fails changes nothing; errors come in the order in which Linux looks for them.
//! Whoever calls may do everything: permissions are the kernel's business.

use std::collections::{BTreeMap, BTreeSet};

/// The number of a node; never used again.
pub type Id = usize;

pub const ROOT: Id = 0;
const NAME_MAX: usize = 255;
const TARGET_MAX: usize = 4095;
const VALUE_MAX: usize = 64 * 1024;

/// An errno.
pub type Errno = i32;
pub type Res<T> = Result<T, Errno>;

/// What kind of node, and what only that kind has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Per byte: what was written there, or nothing yet (a hole).
    File(Vec<Option<u8>>),
    Dir(BTreeMap<Vec<u8>, Id>),
    Symlink(Vec<u8>),
    Special {
        rdev: u32,
    },
}

/// Has a time changed since it was last looked at?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Touched {
    #[default]
    No,
    /// Both are right.
    Maybe,
    Yes,
    /// To exactly this (seconds, nanoseconds).
    Set(i64, u32),
}

#[derive(Clone, Debug)]
pub struct Node {
    pub body: Body,
    /// With the file type.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Of a directory.
    pub parent: Id,
    pub mtime: Touched,
    pub ctime: Touched,
}

impl Node {
    pub fn is_dir(&self) -> bool {
        matches!(self.body, Body::Dir(_))
    }

    /// May this user, who is in one group only, read and write it?
    pub fn may_read_and_write(&self, uid: u32, gid: u32) -> bool {
        let class = if uid == self.uid {
            6
        } else if gid == self.gid {
            3
        } else {
            0
        };
        uid == 0 || (self.mode >> class) & 0o6 == 0o6
    }

    /// What a reader of the whole file gets.
    pub fn content(&self) -> Vec<u8> {
        match &self.body {
            Body::File(bytes) => bytes.iter().map(|byte| byte.unwrap_or(0)).collect(),
            _ => Vec::new(),
        }
    }

    /// How many bytes of a file are not holes.
    pub fn allocated(&self) -> u64 {
        match &self.body {
            Body::File(bytes) => bytes.iter().flatten().count() as u64,
            _ => 0,
        }
    }

    fn changed(&mut self) {
        self.mtime = Touched::Yes;
        self.ctime = Touched::Yes;
    }
}

/// A new node's type and owner.
pub struct New {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub body: Body,
}

/// How a rename treats a name that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    Replace,
    NoReplace,
    Exchange,
}

/// The tree. Nodes without a name stay while somebody has them open, which the caller knows.
#[derive(Clone, Debug)]
pub struct Tree {
    nodes: Vec<Option<Node>>,
}

impl Tree {
    pub fn new() -> Tree {
        let root = Node {
            body: Body::Dir(BTreeMap::new()),
            mode: libc::S_IFDIR | 0o755,
            uid: 0,
            gid: 0,
            nlink: 2,
            xattrs: BTreeMap::new(),
            parent: ROOT,
            mtime: Touched::Maybe,
            ctime: Touched::Maybe,
        };
        Tree { nodes: vec![Some(root)] }
    }

    pub fn get(&self, id: Id) -> Option<&Node> {
        self.nodes[id].as_ref()
    }

    pub fn get_mut(&mut self, id: Id) -> Option<&mut Node> {
        self.nodes[id].as_mut()
    }

    pub fn ids(&self) -> Vec<Id> {
        (0..self.nodes.len()).filter(|id| self.nodes[*id].is_some()).collect()
    }

    /// How many nodes there ever were.
    pub fn ever(&self) -> usize {
        self.nodes.len()
    }

    /// Nobody has a name of it, or holds it open, any more.
    pub fn forget(&mut self, id: Id) {
        self.nodes[id] = None;
    }

    fn node(&self, id: Id) -> Res<&Node> {
        self.get(id).ok_or(libc::ESTALE)
    }

    fn node_mut(&mut self, id: Id) -> Res<&mut Node> {
        self.get_mut(id).ok_or(libc::ESTALE)
    }

    pub fn entries(&self, dir: Id) -> Res<&BTreeMap<Vec<u8>, Id>> {
        match &self.node(dir)?.body {
            Body::Dir(entries) => Ok(entries),
            _ => Err(libc::ENOTDIR),
        }
    }

    fn set_entry(&mut self, dir: Id, name: &[u8], to: Option<Id>) {
        let Some(node) = self.get_mut(dir) else { return };
        node.changed();
        if let Body::Dir(entries) = &mut node.body {
            match to {
                Some(id) => entries.insert(name.to_vec(), id),
                None => entries.remove(name),
            };
        }
    }

    /// # Errors
    /// ENAMETOOLONG, ENOTDIR.
    fn find(&self, dir: Id, name: &[u8]) -> Res<Option<Id>> {
        if name.len() > NAME_MAX {
            return Err(libc::ENAMETOOLONG);
        }
        Ok(self.entries(dir)?.get(name).copied())
    }

    pub fn lookup(&self, dir: Id, name: &[u8]) -> Res<Id> {
        self.find(dir, name)?.ok_or(libc::ENOENT)
    }

    pub fn add(&mut self, dir: Id, name: &[u8], new: New) -> Res<Id> {
        if let Body::Symlink(target) = &new.body
            && target.len() > TARGET_MAX
        {
            return Err(libc::ENAMETOOLONG);
        }
        if self.find(dir, name)?.is_some() {
            return Err(libc::EEXIST);
        }
        let parent = self.node(dir)?;
        let inherits = parent.mode & libc::S_ISGID != 0;
        let is_dir = matches!(new.body, Body::Dir(_));
        let gid = if inherits { parent.gid } else { new.gid };
        let mode = if inherits && is_dir { new.mode | libc::S_ISGID } else { new.mode };
        self.nodes.push(Some(Node {
            body: new.body,
            mode,
            uid: new.uid,
            gid,
            nlink: if is_dir { 2 } else { 1 },
            xattrs: BTreeMap::new(),
            parent: dir,
            mtime: Touched::Maybe,
            ctime: Touched::Maybe,
        }));
        let id = self.nodes.len() - 1;
        self.set_entry(dir, name, Some(id));
        if is_dir {
            self.node_mut(dir)?.nlink += 1;
        }
        Ok(id)
    }

    pub fn link(&mut self, id: Id, dir: Id, name: &[u8]) -> Res<()> {
        if self.find(dir, name)?.is_some() {
            return Err(libc::EEXIST);
        }
        let node = self.node_mut(id)?;
        if node.is_dir() {
            return Err(libc::EPERM);
        }
        if node.nlink == 0 {
            return Err(libc::ENOENT);
        }
        node.nlink += 1;
        node.ctime = Touched::Yes;
        self.set_entry(dir, name, Some(id));
        Ok(())
    }

    fn drop_link(&mut self, id: Id) {
        let Some(node) = self.get_mut(id) else { return };
        node.nlink = if node.is_dir() { 0 } else { node.nlink - 1 };
        node.ctime = Touched::Yes;
    }

    /// Returns whose name it was.
    pub fn unlink(&mut self, dir: Id, name: &[u8]) -> Res<Id> {
        let id = self.lookup(dir, name)?;
        if self.node(id)?.is_dir() {
            return Err(libc::EISDIR);
        }
        self.set_entry(dir, name, None);
        self.drop_link(id);
        Ok(id)
    }

    /// Returns whose name it was.
    pub fn rmdir(&mut self, dir: Id, name: &[u8]) -> Res<Id> {
        let id = self.lookup(dir, name)?;
        if !self.entries(id)?.is_empty() {
            return Err(libc::ENOTEMPTY);
        }
        self.set_entry(dir, name, None);
        self.node_mut(dir)?.nlink -= 1;
        self.drop_link(id);
        Ok(id)
    }

    /// Is `id` the directory `above`, or somewhere below it?
    fn is_within(&self, mut id: Id, above: Id) -> bool {
        let mut seen = BTreeSet::new();
        while id != above && seen.insert(id) {
            match self.get(id) {
                Some(node) => id = node.parent,
                None => return false,
            }
        }
        id == above
    }

    /// Returns who lost its name to the one that was moved.
    pub fn rename(&mut self, from: (Id, &[u8]), to: (Id, &[u8]), how: Rename) -> Res<Option<Id>> {
        let source = self.lookup(from.0, from.1)?;
        let target = self.find(to.0, to.1)?;
        match (target, how) {
            (Some(_), Rename::NoReplace) => return Err(libc::EEXIST),
            (None, Rename::Exchange) => return Err(libc::ENOENT),
            _ => {}
        }
        let moves_dir = self.node(source)?.is_dir();
        if moves_dir && self.is_within(to.0, source) {
            return Err(libc::EINVAL);
        }
        if target == Some(source) {
            return Ok(None);
        }
        let target_dir = match target {
            Some(target) => self.node(target)?.is_dir(),
            None => false,
        };
        if let (Some(target), Rename::Exchange) = (target, how) {
            if target_dir && self.is_within(from.0, target) {
                return Err(libc::EINVAL);
            }
            self.place(source, moves_dir, from.0, to);
            self.place(target, target_dir, to.0, from);
            return Ok(None);
        }
        if let Some(target) = target {
            match (moves_dir, target_dir) {
                (true, false) => return Err(libc::ENOTDIR),
                (false, true) => return Err(libc::EISDIR),
                (true, true) if !self.entries(target)?.is_empty() => return Err(libc::ENOTEMPTY),
                _ => {}
            }
            if target_dir {
                self.node_mut(to.0)?.nlink -= 1;
            }
            self.drop_link(target);
        }
        self.set_entry(from.0, from.1, None);
        self.place(source, moves_dir, from.0, to);
        Ok(target)
    }

    /// Gives `id`, which was in the directory `from`, a place in another.
    fn place(&mut self, id: Id, is_dir: bool, from: Id, to: (Id, &[u8])) {
        self.set_entry(to.0, to.1, Some(id));
        if let Some(node) = self.get_mut(id) {
            node.parent = to.0;
            node.ctime = Touched::Yes;
        }
        if is_dir {
            self.get_mut(from).into_iter().for_each(|node| node.nlink -= 1);
            self.get_mut(to.0).into_iter().for_each(|node| node.nlink += 1);
        }
    }

    pub fn readlink(&self, id: Id) -> Res<Vec<u8>> {
        match &self.node(id)?.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(libc::EINVAL),
        }
    }

    pub fn chmod(&mut self, id: Id, mode: u32) -> Res<()> {
        let node = self.node_mut(id)?;
        node.mode = node.mode & libc::S_IFMT | mode & 0o7777;
        node.ctime = Touched::Yes;
        Ok(())
    }

    /// chown(2) takes S_ISUID away, and S_ISGID where the group may execute, of all but directories.
    pub fn chown(&mut self, id: Id, uid: Option<u32>, gid: Option<u32>) -> Res<()> {
        let node = self.node_mut(id)?;
        if uid.is_none() && gid.is_none() {
            return Ok(());
        }
        node.uid = uid.unwrap_or(node.uid);
        node.gid = gid.unwrap_or(node.gid);
        if !node.is_dir() {
            let group = if node.mode & libc::S_IXGRP != 0 { libc::S_ISGID } else { 0 };
            node.mode &= !(libc::S_ISUID | group);
        }
        node.ctime = Touched::Yes;
        Ok(())
    }

    pub fn set_mtime(&mut self, id: Id, sec: i64, nsec: u32) -> Res<()> {
        let node = self.node_mut(id)?;
        node.mtime = Touched::Set(sec, nsec);
        node.ctime = Touched::Yes;
        Ok(())
    }

    pub fn set_xattr(&mut self, id: Id, name: &[u8], value: &[u8], create: bool, replace: bool) -> Res<()> {
        let node = self.node_mut(id)?;
        if create && replace {
            return Err(libc::EINVAL);
        }
        if value.len() > VALUE_MAX {
            return Err(libc::E2BIG);
        }
        match node.xattrs.contains_key(name) {
            true if create => return Err(libc::EEXIST),
            false if replace => return Err(libc::ENODATA),
            _ => {}
        }
        node.xattrs.insert(name.to_vec(), value.to_vec());
        node.ctime = Touched::Yes;
        Ok(())
    }

    pub fn get_xattr(&self, id: Id, name: &[u8]) -> Res<Vec<u8>> {
        self.node(id)?.xattrs.get(name).cloned().ok_or(libc::ENODATA)
    }

    pub fn remove_xattr(&mut self, id: Id, name: &[u8]) -> Res<()> {
        let node = self.node_mut(id)?;
        node.xattrs.remove(name).ok_or(libc::ENODATA)?;
        node.ctime = Touched::Yes;
        Ok(())
    }
}
