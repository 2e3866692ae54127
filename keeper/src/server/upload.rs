//! A chunk comes in: from a client, from the keeper before us in a relay chain, or from a keeper that
//! copies it here.
//!
//! The bytes go to the companion and to the disk piece by piece as they arrive, and so does their end. When all are here
//! and verify, the chunk takes its place; when the companions have answered too, the master is told; when
//! that notice is on its way, the sender gets its answer. A companion that fails costs the upload
//! nothing but that copy. A sender that goes away leaves nothing, here or at the companions, which
//! lose their connection with ours.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::frame::{Header, Kind};
use dfs_proto::ids::{ChunkId, OperationNo};
use dfs_proto::pb;
use dfs_proto::pb::TicketOp;
use dfs_proto::pb::keeper_up::Msg;
use dfs_proto::upload_step;
use dfs_tls::Role;

use crate::metrics::DataOp;
use crate::node::Node;
use crate::relay::{ChainDone, Relay};
use crate::server::conn::{Conn, Failure, no_data, protocol};
use crate::store::Incoming;

/// What is received, forwarded, summed and written at a time. Small enough to stay in the processor's
/// cache meanwhile.
const PIECE: usize = 256 * 1024;
/// How long a copy that is here waits to be announced by the master.
const EXPECT_PATIENCE: Duration = Duration::from_secs(3);

/// What the ticket and the opening frame allow, checked.
struct Admitted {
    open: pb::WriteOpen,
    ticket: pb::Ticket,
    chunk: ChunkId,
    /// This keeper.
    keeper: u64,
    copy: bool,
}

/// Takes in one chunk and answers the sender. A refusal ends the connection.
pub(super) fn serve(conn: &mut Conn, header: &Header) -> Result<(), Failure> {
    let came = Instant::now();
    no_data(header)?;
    let open: pb::WriteOpen = conn.wire.meta(header)?;
    let node = conn.node.clone();
    let admitted = admit(&node, open, conn.wire.peer())?;
    conn.kind = match (admitted.copy, admitted.open.relayed) {
        (true, _) => DataOp::Copy,
        (false, true) => DataOp::Relayed,
        (false, false) => DataOp::Write,
    };
    let _active = node.load.begin_write();
    let incoming = node.store.receive(admitted.chunk, admitted.open.length as usize, admitted.copy);
    let mut incoming = incoming.map_err(|error| DfsError::from(&error))?;
    let mut relay = Relay::begin(&admitted.open, admitted.chunk, &node);
    let sums = receive(conn, header.request, &admitted, &mut incoming, &mut relay)?;
    // At once: the companions verify for themselves, and take it in while we do.
    relay.end(&sums);
    if admitted.copy && !node.expected.take(admitted.open.order, EXPECT_PATIENCE) {
        let message = format!("chunk {}: the master has not announced this copy here", admitted.chunk);
        return Err(DfsError::new(ErrorCode::Unavailable, message).into());
    }
    let info = incoming.commit(sums).map_err(|error| DfsError::from(&error))?;
    upload_step!(
        3,
        admitted.chunk,
        keeper = admitted.keeper,
        length = info.length,
        "transfer finished, whole and verified"
    );
    let done = settle(&node, &admitted, info, relay)?;
    let (operation, took_us) = (OperationNo(admitted.open.operation), came.elapsed().as_micros());
    tracing::debug!(target: "dfs::requests", %operation, chunk = %admitted.chunk, length = info.length, took_us, "write");
    Ok(conn.wire.send(Kind::WriteDone, header.request, &done)?)
}

/// `peer`: where there is TLS, who is at the other end.
fn admit(node: &Node, open: pb::WriteOpen, peer: Option<Option<Role>>) -> Result<Admitted, DfsError> {
    let member = node.member()?;
    let ops = [TicketOp::Write, TicketOp::Copy];
    let ticket = member.checker.check(&open.ticket, &open.mac, &ops, node.clock.now_ms())?;
    let chunk = ChunkId(ticket.chunk);
    let longest = member.chunk_size.min(ticket.max_length as usize);
    if chunk == ChunkId(0) || open.length == 0 || open.length as usize > longest {
        return Err(DfsError::new(
            ErrorCode::TicketWrong,
            format!("chunk {chunk} of {} bytes refused: its ticket allows 1 to {longest}", open.length),
        ));
    }
    let own = member.checker.keeper.0;
    // Each step of a chain needs a keeper of its own, and only the master names them.
    let mut seen = vec![own];
    for companion in &open.relay {
        if seen.contains(&companion.keeper) || !ticket.keepers.contains(&companion.keeper) {
            return Err(DfsError::new(
                ErrorCode::TicketWrong,
                format!("chunk {chunk} refused: its ticket allows no relay to keeper {}", companion.keeper),
            ));
        }
        seen.push(companion.keeper);
    }
    let copy = ticket.op() == TicketOp::Copy;
    if (copy || open.relayed) && peer.is_some_and(|role| role != Some(Role::Keeper)) {
        return Err(DfsError::new(
            ErrorCode::Access,
            format!(
                "chunk {chunk} refused: only keepers relay and copy, and they show a keeper's certificate; send it as an upload of its own"
            ),
        ));
    }
    // Last: a ticket that is refused for something else was not used.
    node.used.take(&ticket, &open.mac, Instant::now())?;
    Ok(Admitted { open, ticket, chunk, keeper: own, copy })
}

/// Receives the bytes. Returns the sender's block checksums.
fn receive(
    conn: &mut Conn,
    request: u32,
    admitted: &Admitted,
    incoming: &mut Incoming,
    relay: &mut Relay<'_>,
) -> Result<Bytes, Failure> {
    loop {
        let header = conn.wire.header()?;
        if header.request != request {
            return Err(protocol(format!("a frame of request {} within {request}", header.request)));
        }
        match header.kind {
            Kind::WriteData if header.meta_len == 0 => {
                if header.data_len > incoming.missing() {
                    return Err(protocol(format!(
                        "more bytes than the {} of chunk {}",
                        admitted.open.length, admitted.chunk
                    )));
                }
                receive_data(conn, header.data_len, admitted, incoming, relay)?;
            }
            Kind::WriteEnd => {
                no_data(&header)?;
                let end: pb::WriteEnd = conn.wire.meta(&header)?;
                return Ok(end.block_sums);
            }
            kind => return Err(protocol(format!("a {kind:?} frame in the middle of an upload"))),
        }
    }
}

fn receive_data(
    conn: &mut Conn,
    mut left: usize,
    admitted: &Admitted,
    incoming: &mut Incoming,
    relay: &mut Relay<'_>,
) -> Result<(), Failure> {
    conn.buffer.resize(PIECE, 0);
    while left > 0 {
        let piece = &mut conn.buffer[..PIECE.min(left)];
        if admitted.copy {
            conn.node.spend(piece.len(), admitted.open.urgent);
        }
        conn.wire.data(piece)?;
        if !admitted.copy {
            conn.node.load.note_foreground();
        }
        relay.data(piece);
        incoming.append(piece).map_err(|error| DfsError::from(&error))?;
        conn.node.load.add_written(piece.len());
        conn.node.metrics.bytes.of(conn.kind).add(piece.len() as u64);
        left -= piece.len();
    }
    Ok(())
}

/// The chunk is here. Syncs it if asked, waits for the companions, tells the master.
fn settle(
    node: &Arc<Node>,
    admitted: &Admitted,
    info: pb::ChunkInfo,
    relay: Relay<'_>,
) -> Result<pb::WriteDone, DfsError> {
    let synced = if admitted.open.sync { sync(node, admitted.chunk) } else { Ok(false) };
    let others = relay.done();
    let result = synced.and_then(|synced| {
        let (keepers, synced) = (holders(admitted, &others), synced && others.synced);
        let done = pb::WriteDone { keepers, synced, failed: others.failed };
        tell_master(node, admitted, info, &done)?;
        Ok(done)
    });
    // Only now, so that the master hears of the chunk before it hears that it is synced.
    if !matches!(result, Ok(pb::WriteDone { synced: true, .. })) {
        node.syncs.add(admitted.chunk);
    }
    result
}

fn sync(node: &Node, chunk: ChunkId) -> Result<bool, DfsError> {
    match node.sync(&[chunk]).failed.into_iter().next() {
        None => Ok(true),
        Some((_, error)) => {
            node.report_bad(chunk, &error);
            Err(DfsError::from(&error))
        }
    }
}

/// Us, then those of the chain that the ticket names: a companion cannot speak for others.
fn holders(admitted: &Admitted, others: &ChainDone) -> Vec<u64> {
    let mut keepers = vec![admitted.keeper];
    for &keeper in &others.keepers {
        let named = admitted.open.relay.iter().any(|companion| companion.keeper == keeper);
        if named && !keepers.contains(&keeper) {
            keepers.push(keeper);
        }
    }
    keepers
}

fn tell_master(
    node: &Node,
    admitted: &Admitted,
    info: pb::ChunkInfo,
    done: &pb::WriteDone,
) -> Result<(), DfsError> {
    let notice = match (admitted.copy, admitted.open.relayed) {
        (true, _) => Msg::Copied(pb::Copied { info: Some(info), order: admitted.open.order }),
        (false, true) => return Ok(()),
        (false, false) => Msg::Stored(pb::Stored {
            info: Some(info),
            keepers: done.keepers.clone(),
            synced: done.synced,
            nonce: admitted.ticket.nonce,
            failed: done.failed.clone(),
        }),
    };
    // Before it is handed over: the master's step 5 may be logged before this thread runs again.
    if !admitted.copy {
        upload_step!(4, admitted.chunk, keeper = admitted.keeper, holders = ?done.keepers, "notice to the master");
    }
    node.outbox.post(notice, node.tuning.notice_timeout).map_err(|_| {
        DfsError::new(
            ErrorCode::Unavailable,
            format!(
                "chunk {} is stored, but keeper {} has no connection to the master to say so; try again",
                admitted.chunk, admitted.keeper
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use dfs_proto::ids::{ClusterId, KeeperId};
    use dfs_proto::ticket::{TicketChecker, TicketKey};
    use prost::Message;

    use super::*;
    use crate::config::Tuning;
    use crate::identity::DataDir;
    use crate::node::{DataTls, Member};
    use crate::store::ChunkStore;

    #[test]
    fn where_there_is_tls_only_keepers_relay_and_copy() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(&dir.path().join("data")).unwrap();
        let node =
            Node::new(ChunkStore::open(data, Some(0)).unwrap().0, Tuning::default(), DataTls::default());
        let (cluster, keeper) = (ClusterId([1; 16]), KeeperId(3));
        let key = TicketKey::derive(&[9; 32], keeper);
        node.set_member(Member {
            checker: TicketChecker { key: key.clone(), cluster, keeper },
            chunk_size: 100,
        });
        node.used.welcomed(0);
        let mut nonce = 0;
        let mut admitted = |op: TicketOp, relayed, peer| {
            nonce += 1;
            let (cluster, keepers) = (cluster.short(), vec![keeper.0]);
            let ticket = pb::Ticket {
                cluster,
                chunk: 7,
                op: op as i32,
                keepers,
                max_length: 10,
                expires_ms: i64::MAX,
                nonce,
            };
            let ticket: Bytes = ticket.encode_to_vec().into();
            let open =
                pb::WriteOpen { mac: key.sign(&ticket), ticket, length: 5, relayed, ..Default::default() };
            admit(&node, open, peer).map(drop).map_err(|error| error.code)
        };
        let (mount, other, master) = (Some(None), Some(Some(Role::Keeper)), Some(Some(Role::Master)));
        for peer in [None, mount, other, master] {
            assert_eq!(admitted(TicketOp::Write, false, peer), Ok(()));
        }
        for (op, relayed) in [(TicketOp::Write, true), (TicketOp::Copy, false)] {
            assert_eq!(admitted(op, relayed, None), Ok(()), "without TLS nobody shows anything");
            assert_eq!(admitted(op, relayed, other), Ok(()));
            for peer in [mount, master] {
                assert_eq!(admitted(op, relayed, peer), Err(ErrorCode::Access), "{op:?} {peer:?}");
            }
        }
    }
}
