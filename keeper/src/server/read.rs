//! A range of a chunk goes out: ticket, header of the chunk file, then the bytes straight from the
//! page cache. Its blocks are not verified here: the client does that, for it also has to guard
//! against us.

use std::time::Instant;

use bytes::Bytes;
use dfs_proto::block_sum::BLOCK_SIZE;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::frame::{self, Header, Kind, MAX_DATA_LEN};
use dfs_proto::ids::{ChunkId, OperationNo};
use dfs_proto::pb;

use crate::node::Node;
use crate::server::conn::{Conn, Failure, no_data};
use crate::store::{ChunkFile, DATA_AT};
use crate::wire::WireError;

/// Answers one read. Refusals are answered too, and leave the connection open.
pub(super) fn serve(conn: &mut Conn, header: &Header) -> Result<(), Failure> {
    no_data(header)?;
    let request: pb::ReadRequest = conn.wire.meta(header)?;
    let node = conn.node.clone();
    let (_active, came) = (node.load.begin_read(), Instant::now());
    let open = match admit(&node, &request) {
        Ok(open) => open,
        Err(error) => return Ok(conn.answer_error(header.request, &error)?),
    };
    let block_sums = if request.want_sums { open.header.sums.encoded().clone() } else { Bytes::new() };
    let (at, length) = (DATA_AT + u64::from(request.offset), request.length as usize);
    let head = frame::encode(Kind::ReadData, header.request, &pb::ReadReply { block_sums }, length);
    match conn.wire.send_file(head, &open.file, at, length) {
        Ok(()) => {
            let took_us = came.elapsed().as_micros();
            tracing::debug!(target: "dfs::requests", operation = %OperationNo(request.operation), chunk = %open.header.chunk, offset = request.offset, length, took_us, "read");
            node.load.add_read(length);
            node.metrics.bytes.of(conn.kind).add(length as u64);
            Ok(())
        }
        Err(WireError::File(source)) => {
            // The frame has begun, so closing is the one answer left.
            let kind = source.kind();
            let error = node.store.mistrust(&open, source);
            tracing::error!(chunk = %open.header.chunk, %error, "read failed");
            node.report_bad(open.header.chunk, &error);
            Err(Failure::Wire(WireError::File(kind.into())))
        }
        Err(error) => Err(error.into()),
    }
}

fn admit(node: &Node, request: &pb::ReadRequest) -> Result<ChunkFile, DfsError> {
    let member = node.member()?;
    let ops = [pb::TicketOp::Read];
    let ticket = member.checker.check(&request.ticket, &request.mac, &ops, node.clock.reads_now_ms())?;
    let chunk = ChunkId(ticket.chunk);
    let from = u64::from(request.offset);
    let wanted = from..from + u64::from(request.length).min(MAX_DATA_LEN as u64);
    let open = node.store.open_chunk_for(chunk, wanted).map_err(|error| {
        node.report_bad(chunk, &error);
        DfsError::from(&error)
    })?;
    check_range(chunk, open.header.length, request.offset as usize, request.length as usize)?;
    Ok(open)
}

fn check_range(chunk: ChunkId, chunk_length: usize, offset: usize, length: usize) -> Result<(), DfsError> {
    let end = offset.checked_add(length).filter(|end| *end <= chunk_length);
    let whole_blocks = length.is_multiple_of(BLOCK_SIZE) || end == Some(chunk_length);
    if end.is_some() && whole_blocks && offset.is_multiple_of(BLOCK_SIZE) && length <= MAX_DATA_LEN {
        return Ok(());
    }
    Err(DfsError::new(
        ErrorCode::Invalid,
        format!(
            "cannot read {length} bytes at {offset} of chunk {chunk}, which has {chunk_length}: ask for whole \
             blocks of {BLOCK_SIZE} bytes, or up to the end, and at most {MAX_DATA_LEN} at once"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_whole_blocks_or_reach_the_end() {
        let ok = |chunk_length, offset, length| check_range(ChunkId(1), chunk_length, offset, length).is_ok();
        let block = BLOCK_SIZE;
        assert!(ok(3 * block + 5, 0, block));
        assert!(ok(3 * block + 5, 2 * block, block + 5));
        assert!(ok(5, 0, 5));
        assert!(ok(2 * MAX_DATA_LEN, MAX_DATA_LEN, MAX_DATA_LEN));
        assert!(!ok(2 * MAX_DATA_LEN, 0, 2 * MAX_DATA_LEN), "too much at once");
        assert!(!ok(3 * block, 1, block), "offset within a block");
        assert!(!ok(3 * block, 0, 5), "part of a block");
        assert!(!ok(3 * block, 2 * block, 2 * block), "past the end");
        assert!(!ok(5, usize::MAX, 1));
    }
}
