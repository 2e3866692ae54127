//! One chunk, to the keeper that the master named. Upload step 3.

use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_proto::block_sum::BlockSums;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::frame::{self, Kind};
use dfs_proto::ids::ChunkId;
use dfs_proto::{pb, upload_step};
use tokio::io::{AsyncRead, AsyncWrite};

use super::pool::{Connection, KeeperPool};
use super::stream::Stream;
use super::wire::{self, TransferError};
use crate::client::operation;

/// Chunk bytes in one frame: small enough that relay and disk work while the next one travels.
const FRAME_DATA: usize = 256 * 1024;
/// Without one byte taken or answered for this long, an upload is given up: at the first try, the second, and all
/// others. A keeper that has stopped is left soon, one that is merely busy not again and again. Longer than a keeper
/// waits for its companions.
const PATIENCE: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(5)];
/// The same, for the answer of a keeper that has to sync the chunk first.
const SYNC_PATIENCE: [Duration; 3] =
    [Duration::from_secs(3), Duration::from_secs(8), Duration::from_secs(20)];
/// No deadline for the answer as long as the keeper takes what is sent, and that has its own.
const WHILE_SENDING: Duration = Duration::from_secs(3600);
/// There is one request at a time on a connection.
const REQUEST: u32 = 1;

/// How long a keeper may take.
#[derive(Clone, Copy)]
struct Patience {
    to_take: Duration,
    to_answer: Duration,
}

impl Patience {
    fn new(sync: bool, tries: usize) -> Patience {
        let at = tries.min(PATIENCE.len() - 1);
        let to_take = PATIENCE[at];
        Patience { to_take, to_answer: if sync { SYNC_PATIENCE[at] } else { to_take } }
    }
}

impl KeeperPool {
    /// Transfers a chunk, `pieces` one after the other, to the first keeper of `placed`, which relays it to the
    /// others. `sums` are the whole chunk's. With `sync`, every keeper syncs it before it answers. `tries` were made
    /// before. Returns who holds it.
    ///
    /// # Errors
    /// `Unavailable` and `TimedOut` when the keeper cannot be had, else what it refused the chunk with. The
    /// transfer may have succeeded all the same: the master's success message decides.
    pub async fn store(
        &self,
        placed: &pb::Placed,
        pieces: &[Bytes],
        sums: &BlockSums,
        sync: bool,
        tries: usize,
    ) -> Result<pb::WriteDone, DfsError> {
        let chunk = ChunkId(placed.chunk);
        let grant = placed.grant.as_ref();
        let Some((primary, relay)) = grant.and_then(|grant| grant.keepers.split_first()) else {
            let message = format!("the master named no keeper for chunk {chunk}; ask it for another place");
            return Err(DfsError::new(ErrorCode::NoKeeper, message));
        };
        let length: usize = pieces.iter().map(Bytes::len).sum();
        let open = pb::WriteOpen {
            ticket: grant.map(|grant| grant.ticket.clone()).unwrap_or_default(),
            mac: primary.mac.clone(),
            length: u32::try_from(length).map_err(|_| too_long(chunk, length))?,
            sync,
            relay: relay.to_vec(),
            relayed: false,
            order: 0,
            urgent: false,
            operation: operation::current().0,
        };
        let segments = segments(&open, pieces, sums);
        upload_step!(3, chunk, keeper = primary.keeper, "transfer begins");
        let began = Instant::now();
        let done = self.send(primary, &segments, Patience::new(sync, tries)).await;
        self.stores.observe(began.elapsed());
        match &done {
            Ok(done) => upload_step!(3, chunk, keepers = ?done.keepers, "transfer ends"),
            Err(error) => tracing::debug!(%chunk, %error, "transfer failed"),
        }
        done
    }

    async fn send(
        &self,
        primary: &pb::KeeperGrant,
        segments: &[Bytes],
        patience: Patience,
    ) -> Result<pb::WriteDone, DfsError> {
        let mut fresh = false;
        loop {
            let mut connection = self.check_out(primary, fresh).await?;
            match exchange(&mut connection, segments, patience).await {
                Ok(done) => {
                    self.check_in(connection);
                    return Ok(done);
                }
                Err(error) => match self.failed(&connection, error) {
                    Ok(()) => fresh = true,
                    Err(error) => return Err(error.explain("upload to", primary)),
                },
            }
        }
    }
}

fn too_long(chunk: ChunkId, length: usize) -> DfsError {
    DfsError::new(
        ErrorCode::TooLarge,
        format!("chunk {chunk} of {length} bytes is longer than any chunk may be"),
    )
}

/// The whole upload as it travels: frame headers, and slices of the pieces between them.
fn segments(open: &pb::WriteOpen, pieces: &[Bytes], sums: &BlockSums) -> Vec<Bytes> {
    let length = open.length as usize;
    let mut out = Vec::with_capacity(pieces.len() + 2 * length.div_ceil(FRAME_DATA) + 2);
    out.push(frame::encode(Kind::WriteOpen, REQUEST, open, 0));
    let mut left = length;
    let mut room = 0;
    for piece in pieces {
        let mut rest = piece.clone();
        while !rest.is_empty() {
            if room == 0 {
                room = left.min(FRAME_DATA);
                left -= room;
                out.push(Bytes::copy_from_slice(&frame::encode_data(REQUEST, room)));
            }
            let take = rest.split_to(rest.len().min(room));
            room -= take.len();
            out.push(take);
        }
    }
    let end = pb::WriteEnd { block_sums: sums.encoded().clone() };
    out.push(frame::encode(Kind::WriteEnd, REQUEST, &end, 0));
    out
}

/// Sends all and waits for the answer, which may come early when it is a refusal.
async fn exchange(
    connection: &mut Connection,
    segments: &[Bytes],
    patience: Patience,
) -> Result<pb::WriteDone, TransferError> {
    match &mut connection.stream {
        Stream::Plain(stream) => {
            let (from, to) = stream.split();
            send_and_receive(from, to, segments, patience).await
        }
        // Its halves take turns, under a lock.
        Stream::Tls(stream) => {
            let (from, to) = tokio::io::split(stream);
            send_and_receive(from, to, segments, patience).await
        }
    }
}

async fn send_and_receive(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    segments: &[Bytes],
    patience: Patience,
) -> Result<pb::WriteDone, TransferError> {
    let mut answer = pin!(wire::read_answer(&mut from, Kind::WriteDone, REQUEST, WHILE_SENDING));
    tokio::select! {
        biased;
        early = &mut answer => {
            early?;
            let message = "it said that it has the chunk before all of it was sent".to_owned();
            return Err(TransferError::Garbage(message));
        }
        sent = wire::write_all(&mut to, segments, patience.to_take) => match sent {
            // A keeper that closes the connection has said why before.
            Ok(()) | Err(TransferError::Broken { .. }) => {}
            Err(error) => return Err(error),
        },
    }
    let answer = tokio::time::timeout(patience.to_answer, answer).await;
    let (_, meta) = answer.unwrap_or(Err(TransferError::Silent(patience.to_answer)))?;
    Ok(frame::decode_meta(Kind::WriteDone, meta)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::frame::{HEADER_LEN, Header};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn frames_carry_exactly_the_pieces(lengths in proptest::collection::vec(0usize..400_000, 0..8)) {
            let pieces: Vec<Bytes> =
                lengths.iter().enumerate().map(|(n, &length)| Bytes::from(vec![n as u8; length])).collect();
            let data = pieces.concat();
            let open = pb::WriteOpen { length: data.len() as u32, ..Default::default() };
            let wire = segments(&open, &pieces, &BlockSums::of(&data)).concat();
            let (mut at, mut kinds, mut carried) = (0, Vec::new(), Vec::new());
            while at < wire.len() {
                let header = Header::decode(wire[at..at + HEADER_LEN].try_into().unwrap()).unwrap();
                at += HEADER_LEN + header.meta_len;
                prop_assert!(header.data_len <= FRAME_DATA);
                carried.extend_from_slice(&wire[at..at + header.data_len]);
                at += header.data_len;
                kinds.push(header.kind);
            }
            prop_assert_eq!(carried, data);
            prop_assert_eq!(kinds.first(), Some(&Kind::WriteOpen));
            prop_assert_eq!(kinds.last(), Some(&Kind::WriteEnd));
            prop_assert!(kinds[1..kinds.len() - 1].iter().all(|kind| *kind == Kind::WriteData));
        }
    }
}
