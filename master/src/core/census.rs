//! How much there is: counted as it changes, so that an operator who asks does not hold everybody up for a look at every
//! inode.
//!
//! What must hold: [`Census`] says what a look at every inode would (`check_census`), so inodes come, go and change their size
//! through here alone.

use dfs_proto::ids::InodeNo;

use super::State;
use super::inode::Inode;

/// Of all inodes, those in the trash too.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Census {
    pub files: u64,
    pub directories: u64,
    /// Of files, in bytes: their sizes, whatever of them is a hole.
    pub bytes: u64,
}

impl Census {
    fn add(&mut self, node: &Inode) {
        self.files += u64::from(node.is_file());
        self.directories += u64::from(node.is_dir());
        if node.is_file() {
            self.bytes = self.bytes.wrapping_add(node.size);
        }
    }

    fn take(&mut self, node: &Inode) {
        self.files -= u64::from(node.is_file());
        self.directories -= u64::from(node.is_dir());
        if node.is_file() {
            self.bytes = self.bytes.wrapping_sub(node.size);
        }
    }

    /// A file's size changed. Sums wrap, so that what was taken in can be taken out again whatever else there is: a
    /// million files of the largest size are over what 64 bits hold.
    pub fn resized(&mut self, from: u64, to: u64) {
        self.bytes = self.bytes.wrapping_sub(from).wrapping_add(to);
    }
}

impl State {
    /// Returns the one that was there already.
    pub(super) fn insert_inode(&mut self, inode: InodeNo, node: Inode) -> Option<Inode> {
        self.census.add(&node);
        let before = self.inodes.insert(inode, node);
        before.iter().for_each(|before| self.census.take(before));
        before
    }

    pub(super) fn remove_inode(&mut self, inode: InodeNo) {
        if let Some(node) = self.inodes.remove(&inode) {
            self.census.take(&node);
        }
    }

    /// Without what is in the trash.
    pub(super) fn census_of_names(&self) -> Census {
        let mut census = self.census;
        self.trash.keys().filter_map(|inode| self.inodes.get(&inode)).for_each(|node| census.take(node));
        census
    }

    /// # Errors
    /// Something else was counted than is there.
    pub(super) fn check_census(&self) -> Result<(), String> {
        let mut found = Census::default();
        self.inodes.values().for_each(|node| found.add(node));
        if found == self.census { Ok(()) } else { Err(format!("counted {:?}, found {found:?}", self.census)) }
    }
}

#[cfg(test)]
mod tests {
    use crate::core::testkit::Kit;
    use dfs_proto::ids::InodeNo;

    #[test]
    fn what_comes_goes_and_grows_is_counted() {
        let mut kit = Kit::with_keepers(3);
        let all = |kit: &Kit| {
            let status = kit.state.status(kit.now());
            (status.files, status.directories, status.bytes)
        };
        assert_eq!(all(&kit), (0, 1, 0));
        let file = kit.create(InodeNo::ROOT, "f");
        kit.mkdir(InodeNo::ROOT, "d");
        kit.upload(file, 0, 5_000);
        assert_eq!(all(&kit), (1, 2, 5_000));
        kit.restart();
        assert_eq!(all(&kit), (1, 2, 5_000));
        kit.state.check_census().unwrap();
        kit.state.census.resized(5_000, 4_999);
        assert!(kit.state.check_census().is_err());
    }
}
