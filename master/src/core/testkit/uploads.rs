//! The steps of the upload protocol, played by a scripted mount and scripted keepers.

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, InodeNo, KeeperId};
use dfs_proto::pb::{self, keeper_up, mount_down, mount_reply::Result as Reply, mount_request::Op};

use super::super::Effect;
use super::{Kit, checksum};

impl Kit {
    pub fn try_alloc(
        &mut self,
        inode: InodeNo,
        runs: &[(u64, u64)],
        replaces: u64,
        avoid: &[u64],
    ) -> Result<pb::Placed, DfsError> {
        let runs = runs.iter().map(|&(file_offset, length)| pb::Run { file_offset, length }).collect();
        let mtime = Some(self.now());
        let avoid = avoid.to_vec();
        let op = pb::Alloc { inode: inode.0, runs, mtime, replaces, avoid, sync: false, append: false };
        match self.call(Op::Alloc(op))? {
            Reply::Placed(placed) => Ok(placed),
            other => panic!("not placed: {other:?}"),
        }
    }

    pub fn alloc_runs(&mut self, inode: InodeNo, runs: &[(u64, u64)]) -> Result<pb::Placed, DfsError> {
        self.try_alloc(inode, runs, 0, &[])
    }

    pub fn alloc(&mut self, inode: InodeNo, offset: u64, length: u64) -> pb::Placed {
        self.alloc_runs(inode, &[(offset, length)]).unwrap()
    }

    pub fn alloc_replacing(&mut self, inode: InodeNo, offset: u64, length: u64, replaces: u64) -> pb::Placed {
        self.try_alloc(inode, &[(offset, length)], replaces, &[]).unwrap()
    }

    pub fn alloc_code(
        &mut self,
        inode: InodeNo,
        offset: u64,
        length: u64,
        avoid: &[u64],
    ) -> Option<ErrorCode> {
        self.try_alloc(inode, &[(offset, length)], 0, avoid).map_err(|e| e.code).err()
    }

    fn ticketed_length(placed: &pb::Placed) -> u32 {
        let ticket = placed.grant.as_ref().unwrap().ticket.clone();
        <pb::Ticket as prost::Message>::decode(ticket).unwrap().max_length
    }

    fn say_stored(&mut self, placed: &pb::Placed, keepers: &[KeeperId], length: u32, synced: bool) {
        let stored = pb::Stored {
            info: Some(pb::ChunkInfo { chunk: placed.chunk, length, checksum: checksum(placed.chunk) }),
            keepers: keepers.iter().map(|keeper| keeper.0).collect(),
            synced,
            ..Default::default()
        };
        self.keeper_says(keepers[0], keeper_up::Msg::Stored(stored));
    }

    /// Step 4 from these keepers alone.
    pub fn store_on(&mut self, placed: &pb::Placed, keepers: &[KeeperId]) {
        self.say_stored(placed, keepers, Kit::ticketed_length(placed), false);
    }

    /// The same, `synced` on all of them or not.
    pub fn store_synced(&mut self, placed: &pb::Placed, keepers: &[KeeperId], synced: bool) {
        self.say_stored(placed, keepers, Kit::ticketed_length(placed), synced);
    }

    pub fn placed_on(placed: &pb::Placed) -> Vec<KeeperId> {
        placed.grant.as_ref().unwrap().keepers.iter().map(|grant| KeeperId(grant.keeper)).collect()
    }

    /// Step 4 from all that the ticket names.
    pub fn store(&mut self, placed: &pb::Placed) {
        self.store_on(placed, &Kit::placed_on(placed));
    }

    /// Step 4, with another length.
    pub fn store_as(&mut self, placed: &mut pb::Placed, length: u32) {
        self.say_stored(placed, &Kit::placed_on(placed), length, false);
    }

    /// All steps up to 6.
    pub fn upload(&mut self, inode: InodeNo, offset: u64, length: u64) -> ChunkId {
        let placed = self.alloc(inode, offset, length);
        self.store(&placed);
        assert!(self.state.chunks.get(ChunkId(placed.chunk)).is_some(), "not recorded");
        ChunkId(placed.chunk)
    }

    pub fn done(&self) -> Vec<pb::UploadDone> {
        let is_done = |effect: &Effect| match effect {
            Effect::ToMount(_, mount_down::Msg::UploadDone(done)) => Some(done.clone()),
            _ => None,
        };
        self.sent.iter().filter_map(is_done).collect()
    }
}
