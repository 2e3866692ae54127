//! Quotas: how many bytes, and how many inodes, may be below a directory.
//!
//! A quota counts what `du` of its directory counts: every inode that has a name below it, once, however many
//! names it has there, and the blocks of its data. The directory itself does not count, nor does what has lost its
//! last name. Quotas may be nested; each counts all that is below it, and each has to have room.
//!
//! What must hold: `used` is what a recount of the tree would give (`check_quotas`); it is derived, the limits alone
//! are stored. `names` has every name of what is not a directory, in directories below a quota, and no other; a
//! directory is found by its parent. No directory moves from one set of quotas to another, so that no
//! command has to recount a tree but the one that sets a quota. Without a quota nothing here costs anything.

mod room;

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::error::ErrorCode;
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use super::State;
use super::inode::Body;
use super::out::{Out, Res, fail};
use super::row::{QuotaRow, RowKey};

/// As st_blocks counts.
const BLOCK: u64 = 512;

/// What is below a directory, or what would be added.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Usage {
    pub bytes: u64,
    pub inodes: u64,
}

impl Usage {
    const ONE_INODE: Usage = Usage { bytes: 0, inodes: 1 };

    fn add(&mut self, more: Usage) {
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.inodes = self.inodes.saturating_add(more.inodes);
    }

    fn remove(&mut self, less: Usage) {
        self.bytes = self.bytes.saturating_sub(less.bytes);
        self.inodes = self.inodes.saturating_sub(less.inodes);
    }
}

struct Quota {
    limits: QuotaRow,
    used: Usage,
}

/// See the head of this file.
#[derive(Default)]
pub(super) struct Quotas {
    map: BTreeMap<InodeNo, Quota>,
    /// (inode, directory) -> how many names it has there.
    names: BTreeMap<(InodeNo, InodeNo), u32>,
}

impl Quotas {
    pub fn limits(&self, directory: InodeNo) -> Option<QuotaRow> {
        self.map.get(&directory).map(|quota| quota.limits)
    }

    /// Those that have a quota.
    pub fn directories(&self) -> impl Iterator<Item = InodeNo> {
        self.map.keys().copied()
    }

    fn change(&mut self, quotas: &[InodeNo], change: impl Fn(&mut Usage)) {
        for quota in quotas {
            if let Some(quota) = self.map.get_mut(quota) {
                change(&mut quota.used);
            }
        }
    }
}

/// The bytes of whole blocks.
fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK).saturating_mul(BLOCK)
}

/// Those of `all` that are not in `known`.
fn without(mut all: Vec<InodeNo>, known: &[InodeNo]) -> Vec<InodeNo> {
    all.retain(|quota| !known.contains(quota));
    all
}

impl State {
    /// The quotas that count what is in this directory, from its own up.
    fn quotas_over(&self, directory: InodeNo) -> Vec<InodeNo> {
        let mut found = Vec::new();
        if self.quotas.map.is_empty() {
            return found;
        }
        let mut at = directory;
        while let Some(Body::Dir(dir)) = self.inodes.get(&at).map(|node| &node.body) {
            if self.quotas.map.contains_key(&at) {
                found.push(at);
            }
            if at == InodeNo::ROOT {
                break;
            }
            at = dir.parent;
        }
        found
    }

    /// The quotas that count what is no directory.
    fn quotas_of(&self, inode: InodeNo) -> Vec<InodeNo> {
        let mut found: Vec<InodeNo> = Vec::new();
        for (_, parent) in
            self.quotas.names.range((inode, InodeNo(0))..=(inode, InodeNo(u64::MAX))).map(|n| n.0)
        {
            let more = without(self.quotas_over(*parent), &found);
            found.extend(more);
        }
        found
    }

    /// What one inode is counted as.
    fn usage_of(&self, inode: InodeNo) -> Usage {
        let bytes = match self.inodes.get(&inode).map(|node| &node.body) {
            Some(Body::File { allocated, .. }) => blocks(*allocated),
            _ => 0,
        };
        Usage { bytes, ..Usage::ONE_INODE }
    }

    fn is_directory(&self, inode: InodeNo) -> bool {
        self.inodes.get(&inode).is_some_and(|node| node.is_dir())
    }

    // What happened

    /// An entry was put into a directory. Of a directory only it itself: what is below it was there before.
    pub(super) fn quotas_gain_name(&mut self, inode: InodeNo, parent: InodeNo) {
        let over = self.quotas_over(parent);
        if over.is_empty() {
            return;
        }
        let gained = if self.is_directory(inode) {
            over
        } else {
            let gained = without(over, &self.quotas_of(inode));
            *self.quotas.names.entry((inode, parent)).or_default() += 1;
            gained
        };
        let usage = self.usage_of(inode);
        self.quotas.change(&gained, |used| used.add(usage));
    }

    /// An entry was taken out of a directory, or another put in its place.
    pub(super) fn quotas_lose_name(&mut self, inode: InodeNo, parent: InodeNo) {
        let over = self.quotas_over(parent);
        if over.is_empty() {
            return;
        }
        let lost = if self.is_directory(inode) {
            over
        } else {
            if let Some(count) = self.quotas.names.get_mut(&(inode, parent)) {
                *count -= 1;
                if *count == 0 {
                    self.quotas.names.remove(&(inode, parent));
                }
            }
            without(over, &self.quotas_of(inode))
        };
        let usage = self.usage_of(inode);
        self.quotas.change(&lost, |used| used.remove(usage));
    }

    /// A file's extents now cover `after` bytes.
    pub(super) fn quotas_note_bytes(&mut self, inode: InodeNo, before: u64, after: u64) {
        let (before, after) = (blocks(before), blocks(after));
        if self.quotas.map.is_empty() || before == after {
            return;
        }
        let quotas = self.quotas_of(inode);
        self.quotas.change(&quotas, |used| used.bytes = (used.bytes + after).saturating_sub(before));
    }

    /// A directory was removed: its quota goes with it.
    pub(super) fn drop_quota(&mut self, directory: InodeNo, out: &mut Out) {
        if self.quotas.map.remove(&directory).is_some() {
            out.touch(RowKey::Quota(directory));
        }
    }

    /// (total, free) as they are seen from a directory.
    pub(super) fn quota_capacity(&self, inode: InodeNo, (total, free): (u64, u64)) -> (u64, u64) {
        let quotas = if self.is_directory(inode) { self.quotas_over(inode) } else { self.quotas_of(inode) };
        quotas.iter().filter_map(|quota| self.quotas.map.get(quota)).fold(
            (total, free),
            |(total, free), quota| {
                let Some(max) = quota.limits.max_bytes else { return (total, free) };
                (total.min(max), free.min(max.saturating_sub(quota.used.bytes)))
            },
        )
    }

    // Operators

    /// Sets the limits that are given, or takes the quota away. Answers with what there is now, or was.
    pub(super) fn change_quota(
        &mut self,
        path: &[u8],
        limits: Option<QuotaRow>,
        out: &mut Out,
    ) -> Res<pb::QuotaList> {
        match limits {
            // Not the root's: a script's variable was empty.
            _ if path.is_empty() => fail(ErrorCode::Invalid, "the path is empty; name a directory"),
            Some(limits) => self.set_quota(path, limits, out),
            None => self.clear_quota(path, out),
        }
    }

    fn set_quota(&mut self, path: &[u8], limits: QuotaRow, out: &mut Out) -> Res<pb::QuotaList> {
        let inode = self.quota_directory(InodeNo::ROOT, path)?;
        if limits == QuotaRow::default() {
            return fail(ErrorCode::Invalid, "a quota limits the size, or the number of files, or both");
        }
        match self.quotas.map.get_mut(&inode) {
            Some(quota) => {
                quota.limits.max_bytes = limits.max_bytes.or(quota.limits.max_bytes);
                quota.limits.max_inodes = limits.max_inodes.or(quota.limits.max_inodes);
            }
            None => self.begin_quota(inode, limits),
        }
        out.touch(RowKey::Quota(inode));
        self.quotas(path)
    }

    fn quota_directory(&self, root: InodeNo, path: &[u8]) -> Res<InodeNo> {
        match self.resolve_below(root, path)?.0 {
            inode if self.is_directory(inode) => Ok(inode),
            _ => fail(ErrorCode::NotDirectory, "it is no directory; only directories have quotas"),
        }
    }

    fn clear_quota(&mut self, path: &[u8], out: &mut Out) -> Res<pb::QuotaList> {
        let inode = self.quota_directory(InodeNo::ROOT, path)?;
        let was = self.quotas(path)?;
        self.drop_quota(inode, out);
        if !was.quotas.is_empty() && self.quotas_over(inode).is_empty() {
            self.forget_names(inode);
        }
        Ok(was)
    }

    /// A stored quota. The tree below it has been loaded.
    ///
    /// # Errors
    /// It is of no directory that has a name, or limits nothing.
    pub(super) fn load_quota(&mut self, directory: InodeNo, limits: QuotaRow) -> Result<(), String> {
        let found = self.inodes.get(&directory);
        if !found.is_some_and(|node| node.is_dir() && node.nlink > 0) || limits == QuotaRow::default() {
            return Err(format!("inode {directory} has a quota and is no directory, or the quota is empty"));
        }
        self.begin_quota(directory, limits);
        Ok(())
    }

    /// Counts once what is there; from now on it is kept.
    fn begin_quota(&mut self, directory: InodeNo, limits: QuotaRow) {
        let (used, names) = self.count_below(directory);
        self.quotas.names.extend(names);
        self.quotas.map.insert(directory, Quota { limits, used });
    }

    /// What is below a directory, and the names there of what is no directory.
    fn count_below(&self, directory: InodeNo) -> (Usage, BTreeMap<(InodeNo, InodeNo), u32>) {
        let mut used = Usage::default();
        let mut names: BTreeMap<(InodeNo, InodeNo), u32> = BTreeMap::new();
        // Those with more names than one.
        let mut counted: BTreeSet<InodeNo> = BTreeSet::new();
        let mut left = vec![directory];
        while let Some(parent) = left.pop() {
            let Some(Body::Dir(dir)) = self.inodes.get(&parent).map(|node| &node.body) else { continue };
            for inode in dir.entries.inodes() {
                let Some(node) = self.inodes.get(&inode) else { continue };
                if node.is_dir() {
                    left.push(inode);
                } else {
                    *names.entry((inode, parent)).or_default() += 1;
                }
                if node.is_dir() || node.nlink == 1 || counted.insert(inode) {
                    used.add(self.usage_of(inode));
                }
            }
        }
        (used, names)
    }

    /// A directory is below no quota any more; what is below it may be below another.
    fn forget_names(&mut self, directory: InodeNo) {
        let mut left = vec![directory];
        while let Some(parent) = left.pop() {
            let Some(Body::Dir(dir)) = self.inodes.get(&parent).map(|node| &node.body) else { continue };
            for inode in dir.entries.inodes() {
                let below_another = self.quotas.map.contains_key(&inode);
                if !self.inodes.get(&inode).is_some_and(|node| node.is_dir()) {
                    self.quotas.names.remove(&(inode, parent));
                } else if !below_another {
                    left.push(inode);
                }
            }
        }
    }

    /// Every quota by path, or that of one directory: empty if it has none. Looks at every entry of the
    /// directories on the way to them.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`.
    pub fn quotas(&self, path: &[u8]) -> Res<pb::QuotaList> {
        self.quotas_below(InodeNo::ROOT, path)
    }

    /// The same as they are seen by whoever sees `root` alone.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`.
    pub fn quotas_below(&self, root: InodeNo, path: &[u8]) -> Res<pb::QuotaList> {
        let info = |path: Vec<u8>, quota: &Quota| pb::QuotaInfo {
            path: path.into(),
            max_bytes: quota.limits.max_bytes,
            max_inodes: quota.limits.max_inodes,
            used_bytes: quota.used.bytes,
            used_inodes: quota.used.inodes,
        };
        if !path.is_empty() {
            let inode = self.quota_directory(root, path)?;
            let (_, mut path) = self.resolve_below(root, path)?;
            if path.is_empty() {
                path.push(b'/');
            }
            let quotas = self.quotas.map.get(&inode).map(|quota| info(path, quota)).into_iter().collect();
            return Ok(pb::QuotaList { quotas });
        }
        let mut quotas: Vec<pb::QuotaInfo> = Vec::new();
        let on_the_way = self.quota_ancestors();
        let mut left = vec![(root, Vec::new())];
        while let Some((inode, path)) = left.pop() {
            if let Some(quota) = self.quotas.map.get(&inode) {
                quotas.push(info(if path.is_empty() { b"/".to_vec() } else { path.clone() }, quota));
            }
            let Some(Body::Dir(dir)) = self.inodes.get(&inode).map(|node| &node.body) else { continue };
            let below = dir.entries.iter().filter(|(_, child)| on_the_way.contains(child));
            left.extend(below.map(|(name, child)| (child, [&path[..], b"/", name].concat())));
        }
        quotas.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(pb::QuotaList { quotas })
    }

    /// The directories with a quota, and those above them.
    fn quota_ancestors(&self) -> BTreeSet<InodeNo> {
        let mut found = BTreeSet::new();
        for mut at in self.quotas.directories() {
            while found.insert(at)
                && let Ok(dir) = self.dir(at)
            {
                at = dir.parent;
            }
        }
        found
    }

    /// What the head of this file says.
    ///
    /// # Errors
    /// The first thing that is not so.
    pub(super) fn check_quotas(&self) -> Result<(), String> {
        let mut names = BTreeMap::new();
        for (directory, quota) in &self.quotas.map {
            let found = self.inodes.get(directory);
            if !found.is_some_and(|node| node.is_dir() && node.nlink > 0) {
                return Err(format!("inode {directory} has a quota and is no directory with a name"));
            }
            let (used, below) = self.count_below(*directory);
            if used != quota.used {
                return Err(format!(
                    "the quota of {directory} counts {:?}, below it is {used:?}",
                    quota.used
                ));
            }
            names.extend(below);
        }
        if names != self.quotas.names {
            return Err(format!("{} names are below quotas, not {}", names.len(), self.quotas.names.len()));
        }
        Ok(())
    }
}
