//! In which directories an inode has names, so that it can be asked whether one is below a directory.
//!
//! A directory knows its parent. Any other inode keeps one directory in its body, its home; those in which it has further names are
//! in a map, which has nothing for a file of one name. All of it is derived from the entries.
//!
//! What must hold: an inode's home and its directories in the map, each as often as it counts, are those of its names
//! (`check_homes`). One without a name has no home.

use std::collections::BTreeMap;

use dfs_proto::ids::InodeNo;

use super::State;
use super::inode::Body;

/// No directory has this number.
const NOWHERE: InodeNo = InodeNo(0);

/// (inode, directory) -> how many names it has there, but for the one that its home is kept for.
pub(super) type MoreHomes = BTreeMap<(InodeNo, InodeNo), u32>;

fn home_of(body: &Body) -> Option<InodeNo> {
    match body {
        Body::File { home, .. } | Body::Special { home, .. } => Some(*home),
        Body::Symlink(link) => Some(link.home),
        Body::Dir(_) => None,
    }
}

impl State {
    fn home_mut(&mut self, inode: InodeNo) -> Option<&mut InodeNo> {
        match &mut self.inodes.get_mut(&inode)?.body {
            Body::File { home, .. } | Body::Special { home, .. } => Some(home),
            Body::Symlink(link) => Some(&mut link.home),
            Body::Dir(_) => None,
        }
    }

    /// It has one more name, in this directory.
    pub(super) fn gain_home(&mut self, inode: InodeNo, directory: InodeNo) {
        match self.home_mut(inode) {
            Some(home) if *home == NOWHERE => *home = directory,
            Some(_) => *self.more_homes.entry((inode, directory)).or_default() += 1,
            None => {}
        }
    }

    /// And one less.
    pub(super) fn lose_home(&mut self, inode: InodeNo, directory: InodeNo) {
        if self.take_more_home(inode, directory) {
            return;
        }
        let next = self.more_homes_of(inode).next();
        if let Some(next) = next {
            self.take_more_home(inode, next);
        }
        if let Some(home) = self.home_mut(inode) {
            *home = next.unwrap_or(NOWHERE);
        }
    }

    fn take_more_home(&mut self, inode: InodeNo, directory: InodeNo) -> bool {
        let Some(count) = self.more_homes.get_mut(&(inode, directory)) else { return false };
        *count -= 1;
        if *count == 0 {
            self.more_homes.remove(&(inode, directory));
        }
        true
    }

    fn more_homes_of(&self, inode: InodeNo) -> impl Iterator<Item = InodeNo> {
        self.more_homes.range((inode, InodeNo(0))..=(inode, InodeNo(u64::MAX))).map(|((_, home), _)| *home)
    }

    /// Is this inode that directory, or has it a name somewhere below it? Costs a step for each directory above it.
    pub(super) fn is_below(&self, inode: InodeNo, directory: InodeNo) -> bool {
        let Some(node) = self.inodes.get(&inode) else { return false };
        match home_of(&node.body) {
            None => self.leads_up_to(inode, directory),
            Some(NOWHERE) => false,
            Some(home) => {
                let mut homes = std::iter::once(home).chain(self.more_homes_of(inode));
                homes.any(|home| self.leads_up_to(home, directory))
            }
        }
    }

    fn leads_up_to(&self, mut at: InodeNo, directory: InodeNo) -> bool {
        while at != directory {
            match self.inodes.get(&at).map(|node| &node.body) {
                Some(Body::Dir(dir)) if at != InodeNo::ROOT => at = dir.parent,
                _ => return false,
            }
        }
        true
    }

    /// For `invariants.rs`.
    pub(super) fn check_homes(&self) -> Result<(), String> {
        let mut names = MoreHomes::new();
        for (parent, node) in self.inodes.iter() {
            let Body::Dir(dir) = &node.body else { continue };
            for inode in
                dir.entries.inodes().filter(|inode| !self.inodes.get(inode).is_some_and(|n| n.is_dir()))
            {
                *names.entry((inode, parent)).or_default() += 1;
            }
        }
        let mut kept = self.more_homes.clone();
        for (inode, node) in self.inodes.iter() {
            if let Some(home) = home_of(&node.body).filter(|home| *home != NOWHERE) {
                *kept.entry((inode, home)).or_default() += 1;
            }
        }
        match kept == names {
            true => Ok(()),
            false => Err("the homes of inodes are not where their names are".to_owned()),
        }
    }
}
