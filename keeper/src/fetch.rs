//! Blocks of chunks that other keepers have, read over their data ports as a client reads them, and verified as
//! a client does it: the list of block checksums against the master's record, each block against the list.
//!
//! What must hold: each attempt fills a buffer of its own; what does not verify goes no further.

use bytes::Bytes;
use dfs_proto::block_sum::{BLOCK_SIZE, BlockSums};
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, KeeperId};
use dfs_proto::pb;

use crate::node::Node;
use crate::orders::PUSH_PATIENCE;

/// A chunk to be read from those who have it.
#[derive(Debug)]
pub(crate) struct RemoteChunk {
    info: pb::ChunkInfo,
    ticket: Bytes,
    /// Those that have not failed.
    keepers: Vec<pb::KeeperGrant>,
    /// Verified.
    sums: Option<BlockSums>,
    last_error: Option<DfsError>,
}

impl RemoteChunk {
    /// `own`: this keeper, which is not asked.
    pub fn new(source: pb::ChunkSource, own: KeeperId) -> RemoteChunk {
        let grant = source.grant.unwrap_or_default();
        let keepers = grant.keepers.into_iter().filter(|keeper| keeper.keeper != own.0).collect();
        let info = source.info.unwrap_or_default();
        RemoteChunk { info, ticket: grant.ticket, keepers, sums: None, last_error: None }
    }

    pub fn chunk(&self) -> ChunkId {
        ChunkId(self.info.chunk)
    }

    /// A verified block, and the keepers whose copies turned out to be bad or gone.
    ///
    /// # Errors
    /// What the last of the keepers said, or `Lost` when there is none.
    pub fn block(&mut self, index: usize, node: &Node) -> (Result<Bytes, DfsError>, Vec<KeeperId>) {
        let mut bad = Vec::new();
        while let Some(keeper) = self.keepers.first().cloned() {
            match self.attempt(index, &keeper, node) {
                Ok(block) => return (Ok(block), bad),
                Err(error) => {
                    tracing::debug!(chunk = %self.chunk(), keeper = keeper.keeper, %error, "a part could not be read");
                    if matches!(error.code, ErrorCode::Corrupt | ErrorCode::NotFound) {
                        bad.push(KeeperId(keeper.keeper));
                    }
                    self.last_error = Some(error);
                    self.keepers.remove(0);
                }
            }
        }
        let none = || {
            DfsError::new(
                ErrorCode::Lost,
                format!("no other keeper has chunk {} to build with", self.chunk()),
            )
        };
        (Err(self.last_error.clone().unwrap_or_else(none)), bad)
    }

    fn attempt(&mut self, index: usize, keeper: &pb::KeeperGrant, node: &Node) -> Result<Bytes, DfsError> {
        let at = index * BLOCK_SIZE;
        let length = BLOCK_SIZE.min((self.info.length as usize).saturating_sub(at));
        let request = pb::ReadRequest {
            ticket: self.ticket.clone(),
            mac: keeper.mac.clone(),
            offset: at as u32,
            length: length as u32,
            want_sums: self.sums.is_none(),
            ..Default::default()
        };
        let (encoded, block) = exchange(keeper, &request, node)?;
        let chunk = self.chunk();
        let corrupt = |what: &str| {
            let message = format!("{what} of chunk {chunk} from keeper {} does not verify", keeper.keeper);
            DfsError::new(ErrorCode::Corrupt, message)
        };
        if self.sums.is_none() {
            let list = BlockSums::decode(encoded, self.info.length as usize);
            let list = list.filter(|list| list.checksum() == self.info.checksum);
            self.sums = Some(list.ok_or_else(|| corrupt("the list of block checksums"))?);
        }
        match &self.sums {
            Some(sums) if sums.verify(index, &block) => Ok(block.into()),
            _ => Err(corrupt(&format!("block {index}"))),
        }
    }
}

/// One read at this keeper.
fn exchange(
    keeper: &pb::KeeperGrant,
    request: &pb::ReadRequest,
    node: &Node,
) -> Result<(Bytes, Vec<u8>), DfsError> {
    let mut link = node.peers.check_out(keeper, &node.tuning, PUSH_PATIENCE, &node.stop)?;
    let answer = link.read(request)?;
    node.peers.check_in(link);
    Ok(answer)
}
