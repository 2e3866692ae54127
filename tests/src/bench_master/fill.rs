//! A master's data directory that holds a [`Tree`], as a master would have left it: made with the master's own tables, a
//! hundred thousand rows at a time. No other part of the benchmark reaches into the master.

use std::path::Path;
use std::sync::Arc;

use dfs_master::core::row::{ChunkRow, Counters, ExtentRow, InodeRow, KeeperRow};
use dfs_master::core::{Row, RowChange};
use dfs_master::store::{DataDir, Identity, Tables};
use dfs_proto::ids::{ChunkId, ClusterId, InodeNo, KeeperId};
use dfs_proto::pb;

use super::tree::{FILE_LEN, Tree};

const BATCH: usize = 100_000;
const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_644;

/// The cluster that the tree is of.
pub const CLUSTER: ClusterId = ClusterId(*b"dfs-bench-master");

/// Where a keeper's data port would be.
pub fn address(keeper: u64) -> String {
    format!("10.{}.{}.{}:4000", keeper >> 16 & 255, keeper >> 8 & 255, keeper & 255)
}

/// Where its data would be.
pub fn data_dir(keeper: u64) -> String {
    format!("/srv/keeper-{keeper}")
}

/// Its host.
pub fn host(keeper: u64) -> String {
    format!("host-{keeper}")
}

/// Makes the directory.
///
/// # Panics
/// When the store says no.
pub fn fill(tree: &Tree, data: &Path) {
    let dir = Arc::new(DataDir::open(data).unwrap());
    let mut filling = Filling { tables: Tables::create(dir).unwrap(), batch: Vec::with_capacity(BATCH) };
    let created = pb::Time::now();
    let secret = [7; 32];
    filling.tables.identity(Identity { cluster: CLUSTER, secret, created, spared: None }).unwrap();
    filling.put(Row::Counters(Counters {
        next_inode: tree.next_inode(),
        next_chunk: tree.next_chunk(),
        next_keeper: tree.keepers + 1,
    }));
    for keeper in 1..=tree.keepers {
        let row = KeeperRow {
            address: address(keeper),
            data_dir: data_dir(keeper),
            host: host(keeper),
            version: "0".to_owned(),
            ..KeeperRow::default()
        };
        filling.put(Row::Keeper(KeeperId(keeper), row));
    }
    filling.put_inode(InodeNo::ROOT.0, DIRECTORY, 2 + tree.directories() as u32, 0, created);
    for directory in 0..tree.directories() {
        let inode = tree.directory_inode(directory);
        filling.put_inode(inode, DIRECTORY, 2, 0, created);
        filling.put_name(InodeNo::ROOT.0, tree.directory_name(directory), inode);
    }
    for file in 0..tree.files {
        filling.put_file(tree, file, created);
    }
    filling.commit();
    filling.tables.put_in_place().unwrap();
}

struct Filling {
    tables: Tables,
    batch: Vec<RowChange>,
}

impl Filling {
    fn put(&mut self, row: Row) {
        self.batch.push(RowChange::Put(row));
        if self.batch.len() >= BATCH {
            self.commit();
        }
    }

    fn commit(&mut self) {
        self.tables.commit(&self.batch).unwrap();
        self.batch.clear();
    }

    fn put_inode(&mut self, inode: u64, mode: u32, nlink: u32, size: u64, time: pb::Time) {
        let row = InodeRow {
            mode,
            nlink,
            uid: 1000,
            gid: 1000,
            rdev: 0,
            size,
            atime: time,
            mtime: time,
            ctime: time,
            content_version: 1,
            target: None,
        };
        self.put(Row::Inode(InodeNo(inode), row));
    }

    fn put_name(&mut self, parent: u64, name: Vec<u8>, inode: u64) {
        self.put(Row::Dentry { parent: InodeNo(parent), name: name.into(), inode: InodeNo(inode) });
    }

    fn put_file(&mut self, tree: &Tree, file: u64, time: pb::Time) {
        let (inode, chunk) = (tree.inode(file), tree.chunk(file));
        self.put_inode(inode, FILE, 1, u64::from(FILE_LEN), time);
        self.put_name(tree.directory_inode(tree.directory_of(file)), tree.name(file), inode);
        let (id, length) = (ChunkId(chunk.chunk), chunk.length);
        let extent = ExtentRow { file_offset: 0, length: u64::from(length), chunk: id, chunk_offset: 0 };
        self.put(Row::Extent(InodeNo(inode), extent));
        let keepers = tree.keepers_of(file).map(KeeperId).to_vec();
        self.put(Row::Chunk(id, ChunkRow { length, checksum: chunk.checksum, keepers }));
    }
}
