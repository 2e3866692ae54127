//! The files that the master has: what they are called, their numbers, and which keepers have their chunks.
//!
//! Directories of at most a thousand files each, and one large one. Everything follows from a file's index, so that
//! neither the keepers nor the mounts have to remember ten million of anything. Each file is one chunk on three keepers, which
//! are chosen as if by chance.

use dfs_proto::pb;

use crate::random::Rng;

/// Bytes of each file.
pub const FILE_LEN: u32 = 100_000;
/// Copies of each chunk.
pub const COPIES: usize = 3;
/// Files of a directory that is not the large one.
const FILES_PER_DIRECTORY: u64 = 1000;
/// There are so many of those at least, if there are as many files, so that each client can have one to itself.
const DIRECTORIES: u64 = 64;
const ROOT: u64 = 1;

/// What there is.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Files in all.
    pub files: u64,
    /// Keepers 1 to this.
    pub keepers: u64,
    /// Files in the large directory, the last of all.
    pub large: u64,
    per_directory: u64,
}

impl Tree {
    /// With a directory of `entries` files, or half of all.
    pub fn new(files: u64, keepers: u64, entries: u64) -> Tree {
        let large = entries.min(files / 2);
        let per_directory = ((files - large) / DIRECTORIES).clamp(1, FILES_PER_DIRECTORY);
        Tree { files, keepers, large, per_directory }
    }

    fn small(&self) -> u64 {
        self.files - self.large
    }

    /// Directories below the root; the large one is the last of them, if there is a file.
    pub fn directories(&self) -> u64 {
        self.small().div_ceil(self.per_directory) + u64::from(self.large > 0)
    }

    /// The number of a directory.
    pub fn directory_inode(&self, directory: u64) -> u64 {
        ROOT + 1 + directory
    }

    /// Its name, in the root.
    pub fn directory_name(&self, directory: u64) -> Vec<u8> {
        format!("d{directory:07}").into_bytes()
    }

    /// The number of the large one.
    pub fn large_inode(&self) -> u64 {
        self.directory_inode(self.directories().saturating_sub(1))
    }

    /// The directory that a file is in.
    pub fn directory_of(&self, file: u64) -> u64 {
        if file < self.small() { file / self.per_directory } else { self.directories() - 1 }
    }

    /// The files of a directory that is not the large one.
    pub fn files_of(&self, directory: u64) -> std::ops::Range<u64> {
        let first = directory * self.per_directory;
        first.min(self.small())..(first + self.per_directory).min(self.small())
    }

    /// How many directories there are beside the large one.
    pub fn small_directories(&self) -> u64 {
        self.small().div_ceil(self.per_directory)
    }

    /// The number of a file.
    pub fn inode(&self, file: u64) -> u64 {
        self.directory_inode(self.directories()) + file
    }

    /// Its name, in its directory.
    pub fn name(&self, file: u64) -> Vec<u8> {
        format!("file{file:08}").into_bytes()
    }

    /// Its one chunk.
    pub fn chunk(&self, file: u64) -> pb::ChunkInfo {
        pb::ChunkInfo { chunk: 1 + file, length: FILE_LEN, checksum: file as u32 }
    }

    /// The first number that no chunk has.
    pub fn next_chunk(&self) -> u64 {
        1 + self.files
    }

    /// The first number that no inode has.
    pub fn next_inode(&self) -> u64 {
        self.inode(self.files)
    }

    /// The keepers that have a file's chunk, in order.
    pub fn keepers_of(&self, file: u64) -> [u64; COPIES] {
        let mut rng = Rng::new(file);
        let mut chosen = [0; COPIES];
        for at in 0..COPIES {
            let mut keeper = 1 + rng.below(self.keepers);
            while chosen[..at].contains(&keeper) {
                keeper = 1 + keeper % self.keepers;
            }
            chosen[at] = keeper;
        }
        chosen.sort_unstable();
        chosen
    }

    /// The files whose chunks each keeper has; the first is nobody's.
    pub fn files_by_keeper(&self) -> Vec<Vec<u32>> {
        let mut all = vec![Vec::new(); self.keepers as usize + 1];
        for file in 0..self.files {
            for keeper in self.keepers_of(file) {
                all[keeper as usize].push(file as u32);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_in_one_directory_and_on_three_keepers() {
        for (files, entries) in [(0, 10), (1, 10), (999, 10), (5000, 1000), (200_000, 1_000_000)] {
            let tree = Tree::new(files, 5, entries);
            let mut in_small = 0;
            for directory in 0..tree.small_directories() {
                let here = tree.files_of(directory);
                assert!(!here.is_empty() && here.end - here.start <= 1000);
                assert!(here.clone().all(|file| tree.directory_of(file) == directory));
                in_small += here.end - here.start;
            }
            assert_eq!(in_small + tree.large, files);
            for file in in_small..files {
                assert_eq!(tree.directory_inode(tree.directory_of(file)), tree.large_inode());
            }
            let copies: usize = tree.files_by_keeper().iter().map(Vec::len).sum();
            assert_eq!(copies, files as usize * COPIES);
        }
        let few = Tree::new(100, 3, 0);
        assert!((0..100).all(|file| few.keepers_of(file) == [1, 2, 3]));
    }
}
