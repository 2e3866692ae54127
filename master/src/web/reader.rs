//! Reads ranges of chunks from keepers, over their data ports, and verifies every block before it hands it on.
//!
//! One reader serves one answer: it has a connection to each keeper that it asked, one request at a time. A range that cannot be had, or
//! does not verify, is asked of the next keeper that has it.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dfs_proto::block_sum::{BLOCK_SIZE, BlockSums};
use dfs_proto::frame::{self, HEADER_LEN, Header, Kind};
use dfs_proto::pb;
use dfs_tls::Connector;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// For one range, of at most [`MAX_PIECE`] bytes and a little.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// Most bytes that are asked for at once, but for what is before and behind them in their blocks.
pub(super) const MAX_PIECE: u64 = 4 * BLOCK_SIZE as u64;
/// One request at a time on a connection, so that its number never matters.
const REQUEST: u32 = 1;

/// See the module.
#[derive(Default)]
pub(super) struct Reader {
    connections: HashMap<u64, Box<dyn Wire>>,
    /// For keepers whose data ports speak TLS.
    tls: Option<Connector>,
    /// Of the chunk that was read last.
    sums: Option<(u64, BlockSums)>,
    /// The keeper that served last: it is asked first.
    last: u64,
}

/// A connection, plain or encrypted.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// The one place where a keeper's data port is called.
async fn connect(keeper: &pb::KeeperGrant, tls: Option<&Connector>) -> io::Result<Box<dyn Wire>> {
    let stream = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(&keeper.address)).await??;
    stream.set_nodelay(true)?;
    match (keeper.tls, tls) {
        (false, _) => Ok(Box::new(stream)),
        (true, Some(tls)) => Ok(Box::new(tls.connect(&keeper.address, stream).await?)),
        (true, None) => Err(io::Error::other("it speaks TLS; start the master with --tls-dir DIR, too")),
    }
}

impl Reader {
    pub fn new(tls: Option<Connector>) -> Reader {
        Reader { tls, ..Reader::default() }
    }

    /// Bytes of a chunk, verified; at most [`MAX_PIECE`]. The range is within the chunk.
    ///
    /// # Errors
    /// No keeper could serve it: what each said.
    pub async fn read(&mut self, source: &pb::ChunkSource, offset: u32, length: u32) -> io::Result<Bytes> {
        let (Some(info), Some(grant)) = (source.info.as_ref(), &source.grant) else {
            return Err(io::Error::other("the master knows nothing of a chunk that a file needs (a bug)"));
        };
        if offset.checked_add(length).is_none_or(|end| end > info.length) {
            return Err(io::Error::other("the range leaves its chunk (a bug)"));
        }
        let mut failed = String::new();
        let (last, mut keepers) = (self.last, grant.keepers.clone());
        // Who served last, and else another one for each chunk.
        let turn = (info.chunk % keepers.len().max(1) as u64) as usize;
        keepers.rotate_left(turn);
        keepers.sort_by_key(|keeper| keeper.keeper != last);
        for keeper in &keepers {
            match self.read_from(keeper, info, &grant.ticket, offset, length).await {
                Ok(bytes) => {
                    self.last = keeper.keeper;
                    return Ok(bytes);
                }
                Err(error) => {
                    let what = format!("keeper {} at {}: {error}; ", keeper.keeper, keeper.address);
                    tracing::debug!(
                        chunk = info.chunk,
                        "a range for a browser is asked of another one: {what}"
                    );
                    failed.push_str(&what);
                }
            }
        }
        let chunk = dfs_proto::ids::ChunkId(info.chunk);
        Err(io::Error::other(format!("chunk {chunk} cannot be read: {failed}no other live keeper has it")))
    }

    async fn read_from(
        &mut self,
        keeper: &pb::KeeperGrant,
        info: &pb::ChunkInfo,
        ticket: &Bytes,
        offset: u32,
        length: u32,
    ) -> io::Result<Bytes> {
        let block = BLOCK_SIZE as u32;
        let from = offset / block * block;
        let to = offset.saturating_add(length).div_ceil(block).saturating_mul(block).min(info.length);
        let known = self.sums.as_ref().filter(|(chunk, _)| *chunk == info.chunk);
        let want_sums = known.is_none();
        let request = pb::ReadRequest {
            ticket: ticket.clone(),
            mac: keeper.mac.clone(),
            offset: from,
            length: to.saturating_sub(from),
            want_sums,
            // Nothing that a mount would log the same number for.
            operation: 0,
        };
        let (sums, data) = self.ask(keeper, &request).await?;
        if want_sums {
            let sums =
                BlockSums::decode(sums, info.length as usize).filter(|sums| sums.checksum() == info.checksum);
            let sums = sums.ok_or_else(|| io::Error::other("its list of checksums is not the chunk's"))?;
            self.sums = Some((info.chunk, sums));
        }
        let Some((_, sums)) = &self.sums else {
            return Err(io::Error::other("there are no checksums (a bug)"));
        };
        let first = (from / block) as usize;
        if let Some(bad) = data.chunks(BLOCK_SIZE).zip(first..).find(|(bytes, at)| !sums.verify(*at, bytes)) {
            return Err(io::Error::other(format!("its block {} does not verify", bad.1)));
        }
        let skip = (offset - from) as usize;
        Ok(data.slice(skip..skip + length as usize))
    }

    /// On the connection that is there, or, if that is of no use any more, a new one.
    async fn ask(
        &mut self,
        keeper: &pb::KeeperGrant,
        request: &pb::ReadRequest,
    ) -> io::Result<(Bytes, Bytes)> {
        if let Some(stream) = self.connections.remove(&keeper.keeper)
            && let Ok(answer) = self.exchange(keeper, stream, request).await
        {
            return Ok(answer);
        }
        let stream = connect(keeper, self.tls.as_ref()).await?;
        self.exchange(keeper, stream, request).await
    }

    async fn exchange(
        &mut self,
        keeper: &pb::KeeperGrant,
        mut stream: Box<dyn Wire>,
        request: &pb::ReadRequest,
    ) -> io::Result<(Bytes, Bytes)> {
        let answer = tokio::time::timeout(READ_WITHIN, exchange(&mut *stream, request)).await??;
        self.connections.insert(keeper.keeper, stream);
        Ok(answer)
    }
}

/// The chunk's checksums, if they were asked for, and the bytes.
async fn exchange(stream: &mut dyn Wire, request: &pb::ReadRequest) -> io::Result<(Bytes, Bytes)> {
    stream.write_all(&frame::encode(Kind::Read, REQUEST, request, 0)).await?;
    stream.flush().await?;
    let mut head = [0; HEADER_LEN];
    stream.read_exact(&mut head).await?;
    let header = Header::decode(&head).map_err(io::Error::other)?;
    let meta = read_exactly(stream, header.meta_len).await?;
    match header.kind {
        Kind::ReadData if header.request == REQUEST && header.data_len == request.length as usize => {
            let reply: pb::ReadReply = frame::decode_meta(Kind::ReadData, meta).map_err(io::Error::other)?;
            Ok((reply.block_sums, read_exactly(stream, header.data_len).await?))
        }
        Kind::Error => {
            let error: pb::Error = frame::decode_meta(Kind::Error, meta).map_err(io::Error::other)?;
            Err(io::Error::other(error.message))
        }
        _ => Err(io::Error::other("it answered with something else than was asked for")),
    }
}

/// As many as a frame may have: that was checked.
async fn read_exactly(stream: &mut dyn Wire, length: usize) -> io::Result<Bytes> {
    let mut bytes = BytesMut::zeroed(length);
    stream.read_exact(&mut bytes).await?;
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const LENGTH: usize = 3 * BLOCK_SIZE + 100;

    fn chunk() -> Vec<u8> {
        (0..LENGTH).map(|at| (at % 251) as u8).collect()
    }

    /// A keeper that serves this as its copy.
    async fn keeper(id: u64, copy: Vec<u8>, sums_of: Vec<u8>) -> pb::KeeperGrant {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; HEADER_LEN];
                while stream.read_exact(&mut head).await.is_ok() {
                    let header = Header::decode(&head).unwrap();
                    let meta = read_exactly(&mut stream, header.meta_len).await.unwrap();
                    let asked: pb::ReadRequest = frame::decode_meta(Kind::Read, meta).unwrap();
                    let block_sums = match asked.want_sums {
                        true => BlockSums::of(&sums_of).encoded().clone(),
                        false => Bytes::new(),
                    };
                    let data = &copy[asked.offset as usize..(asked.offset + asked.length) as usize];
                    let reply = pb::ReadReply { block_sums };
                    let answer = frame::encode(Kind::ReadData, header.request, &reply, data.len());
                    stream.write_all(&answer).await.unwrap();
                    stream.write_all(data).await.unwrap();
                }
            }
        });
        pb::KeeperGrant { keeper: id, address, mac: Bytes::new(), tls: false }
    }

    fn source(keepers: Vec<pb::KeeperGrant>) -> pb::ChunkSource {
        let checksum = BlockSums::of(&chunk()).checksum();
        pb::ChunkSource {
            info: Some(pb::ChunkInfo { chunk: 3, length: LENGTH as u32, checksum }),
            grant: Some(pb::Grant { ticket: Bytes::from_static(b"ticket"), keepers }),
        }
    }

    #[tokio::test]
    async fn any_range_is_read_and_cut_to_what_was_asked_for() {
        let (source, mut reader) = (source(vec![keeper(1, chunk(), chunk()).await]), Reader::default());
        for (offset, length) in
            [(0, 1), (0, LENGTH), (65_535, 2), (65_536, 65_536), (LENGTH - 1, 1), (100, 190_000)]
        {
            let read = reader.read(&source, offset as u32, length as u32).await.unwrap();
            assert_eq!(read, chunk()[offset..offset + length], "{offset} {length}");
        }
        assert!(reader.read(&source, 1, LENGTH as u32).await.is_err());
        assert!(reader.read(&source, u32::MAX, 1).await.is_err());
    }

    #[tokio::test]
    async fn what_does_not_verify_is_asked_of_another_keeper_and_never_handed_on() {
        let mut bad = chunk();
        bad[70_000] ^= 1;
        let lying = keeper(1, bad.clone(), bad.clone()).await;
        let rotten = keeper(2, bad, chunk()).await;
        let good = keeper(3, chunk(), chunk()).await;
        let dead =
            pb::KeeperGrant { keeper: 4, address: "127.0.0.1:1".to_owned(), mac: Bytes::new(), tls: false };
        let all = source(vec![lying.clone(), rotten.clone(), dead.clone(), good]);
        let mut reader = Reader::default();
        assert_eq!(reader.read(&all, 65_536, 65_536).await.unwrap(), chunk()[65_536..131_072]);
        assert_eq!(reader.last, 3);
        // A good block of a bad copy is good.
        let some = source(vec![rotten.clone()]);
        assert_eq!(Reader::default().read(&some, 0, 10).await.unwrap(), chunk()[..10]);
        let none = source(vec![lying, rotten, dead]);
        let error = Reader::default().read(&none, 65_536, 65_536).await.unwrap_err().to_string();
        assert!(error.contains("does not verify") && error.contains("list of checksums"), "{error}");
        assert!(Reader::default().read(&source(Vec::new()), 0, 1).await.is_err());
    }
}
