//! One range of one chunk, from one keeper.

use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_proto::block_sum::BLOCK_SIZE;
use dfs_proto::error::DfsError;
use dfs_proto::frame::{self, Kind};
use dfs_proto::pb;

use super::super::operation;
use super::pool::{Connection, KeeperPool};
use super::wire::{self, TransferError};

/// Without one byte for this long, a read is given up. Who waits for it hedges long before.
const PATIENCE: Duration = Duration::from_secs(5);

/// There is one request at a time on a connection, so that its number never matters.
const REQUEST: u32 = 1;

/// What a keeper sent; nothing of it is verified yet.
#[derive(Debug)]
pub struct RangeRead {
    /// One buffer for each 64 KiB block, so that the cache's accounting is exact. The last may be shorter.
    pub blocks: Vec<Bytes>,
    /// The encoded block checksums of the whole chunk, when asked for.
    pub sums: Option<Bytes>,
}

impl KeeperPool {
    /// Reads `length` bytes from `offset` of the chunk that `ticket` is for. `offset` is a multiple of 64 KiB;
    /// `length` is one too or reaches to the chunk's end, and is at most 1 MiB. Nothing is verified here.
    ///
    /// # Errors
    /// `Unavailable` and `TimedOut` when the keeper cannot be had, else what the keeper refused it with.
    pub async fn read_range(
        &self,
        keeper: &pb::KeeperGrant,
        ticket: &Bytes,
        offset: u32,
        length: u32,
        want_sums: bool,
    ) -> Result<RangeRead, DfsError> {
        let request = pb::ReadRequest {
            ticket: ticket.clone(),
            mac: keeper.mac.clone(),
            offset,
            length,
            want_sums,
            operation: operation::current().0,
        };
        let began = Instant::now();
        let read = self.read_once_more(keeper, &request).await;
        self.reads.observe(began.elapsed());
        read
    }

    /// On an idle connection; when that turns out to be stale, on a fresh one.
    async fn read_once_more(
        &self,
        keeper: &pb::KeeperGrant,
        request: &pb::ReadRequest,
    ) -> Result<RangeRead, DfsError> {
        let mut fresh = false;
        loop {
            let mut connection = self.check_out(keeper, fresh).await?;
            match exchange(&mut connection, request).await {
                Ok(range) => {
                    self.check_in(connection);
                    return Ok(range);
                }
                Err(error) => match self.failed(&connection, error) {
                    Ok(()) => fresh = true,
                    Err(error) => return Err(error.explain("read from", keeper)),
                },
            }
        }
    }
}

async fn exchange(
    connection: &mut Connection,
    request: &pb::ReadRequest,
) -> Result<RangeRead, TransferError> {
    let stream = &mut connection.stream;
    wire::write_all(stream, &[frame::encode(Kind::Read, REQUEST, request, 0)], PATIENCE).await?;
    let (header, meta) = wire::read_answer(stream, Kind::ReadData, REQUEST, PATIENCE).await?;
    let reply: pb::ReadReply = frame::decode_meta(Kind::ReadData, meta)?;
    let length = request.length as usize;
    if header.data_len != length {
        let message = format!("it sent {} bytes, {length} were asked for", header.data_len);
        return Err(TransferError::Garbage(message));
    }
    let mut answered = true;
    let mut blocks = Vec::with_capacity(length.div_ceil(BLOCK_SIZE));
    let mut left = length;
    while left > 0 {
        let take = left.min(BLOCK_SIZE);
        blocks.push(wire::read_exact(stream, take, PATIENCE, &mut answered).await?);
        left -= take;
    }
    Ok(RangeRead { blocks, sums: request.want_sums.then_some(reply.block_sums) })
}
