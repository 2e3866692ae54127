//! One range of one chunk, from one keeper.

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes};
use dfs_proto::block_sum::BLOCK_SIZE;
use dfs_proto::error::DfsError;
use dfs_proto::frame::{self, Kind};
use dfs_proto::pb;
use tokio::io::AsyncReadExt;

use super::super::operation;
use super::buffers::Buffers;
use super::low_water;
use super::pool::{Connection, KeeperPool};
use super::stream::Stream;
use super::wire::{self, TransferError};

/// Without one byte for this long, a read is given up. Who waits for it hedges long before.
const PATIENCE: Duration = Duration::from_secs(5);

/// A link that takes longer than this to bring as much as wakes us is not fast.
const FAST: Duration = Duration::from_millis(50);

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
            match exchange(&mut connection, request, &self.blocks).await {
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
    buffers: &Buffers,
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
    let blocks = read_blocks(stream, length, buffers).await?;
    Ok(RangeRead { blocks, sums: request.want_sums.then_some(reply.block_sums) })
}

/// When the reader of a range is woken.
struct Mark {
    /// Bytes that have to be there; 1 is what connections have.
    at: usize,
    /// So far it brought what was waited for at once.
    is_fast: bool,
}

impl Mark {
    /// Before some more of `missing` bytes are waited for.
    fn aim(&mut self, stream: &Stream, missing: usize) {
        if !self.is_fast {
            return self.lower(stream);
        }
        // Where it is high enough, and not too high, it costs nothing.
        if self.at == 1 || self.at > missing {
            let at = missing.min(low_water::BULK);
            self.is_fast = stream.wake_at(at);
            self.at = if self.is_fast { at } else { 1 };
        }
    }

    fn lower(&mut self, stream: &Stream) {
        if self.at > 1 {
            stream.wake_at(1);
            self.at = 1;
        }
    }

    fn patience(&self) -> Duration {
        if self.at > 1 { FAST } else { PATIENCE }
    }
}

/// `length` bytes, in blocks. A link that is fast wakes us when much is there; one on which that takes long is read as it comes.
async fn read_blocks(
    stream: &mut Stream,
    length: usize,
    buffers: &Buffers,
) -> Result<Vec<Bytes>, TransferError> {
    let mut blocks = Vec::with_capacity(length.div_ceil(BLOCK_SIZE));
    let mut mark = Mark { at: 1, is_fast: length > BLOCK_SIZE };
    let mut left = length;
    while left > 0 {
        let take = left.min(BLOCK_SIZE);
        let mut buffer = buffers.take(take);
        while buffer.len() < take {
            mark.aim(stream, left - buffer.len());
            let room = take - buffer.len();
            let mut rest = (&mut buffer).limit(room);
            match wire::step(mark.patience(), stream.read_buf(&mut rest), true).await {
                Ok(0) => return Err(wire::ended(true)),
                Ok(_) => {}
                Err(TransferError::Silent(_)) if mark.at > 1 => mark.is_fast = false,
                Err(error) => return Err(error),
            }
        }
        blocks.push(buffer.freeze());
        left -= take;
    }
    mark.lower(stream);
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::net::TcpStream;

    use super::*;

    /// What is sent in these parts, each some time after the one before, arrives whole, and leaves a connection that works.
    async fn arrives(parts: &'static [usize], pause: Duration) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let data: Vec<u8> = (0..parts.iter().sum::<usize>()).map(|n| (n % 251) as u8).collect();
        let expected = data.clone();
        let sender = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut at = 0;
            for part in parts {
                socket.write_all(&data[at..at + part]).unwrap();
                at += part;
                std::thread::sleep(pause);
            }
            // Not before somebody waits for it.
            std::thread::sleep(Duration::from_millis(30));
            socket.write_all(b"!").unwrap();
            socket
        });
        let mut stream = Stream::Plain(TcpStream::connect(address).await.unwrap());
        let buffers = Buffers::of_blocks();
        let blocks = read_blocks(&mut stream, expected.len(), &buffers).await.unwrap();
        assert!(blocks.iter().rev().skip(1).all(|block| block.len() == BLOCK_SIZE));
        assert_eq!(blocks.concat(), expected);
        let mut byte = [0];
        let next = tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut byte)).await;
        next.expect("a single byte wakes nobody any more").unwrap();
        drop(sender.join().unwrap());
    }

    #[tokio::test]
    async fn a_fast_link_and_one_that_brings_little_at_a_time_are_read_whole() {
        const K: usize = 1024;
        arrives(&[1024 * K], Duration::ZERO).await;
        arrives(&[300 * K + 7], Duration::ZERO).await;
        arrives(&[5], Duration::ZERO).await;
        arrives(&[100 * K, 100 * K, 200 * K, 1], Duration::from_millis(2)).await;
        // Less than wakes it, and then nothing for longer than it waits for more.
        arrives(&[90 * K, 10 * K, 300 * K], FAST * 3).await;
    }

    #[tokio::test]
    async fn a_link_that_ends_in_the_middle_is_noticed_at_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let sender = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            socket.write_all(&[7; 100_000]).unwrap();
        });
        let mut stream = Stream::Plain(TcpStream::connect(address).await.unwrap());
        let began = Instant::now();
        let ended = read_blocks(&mut stream, 500_000, &Buffers::of_blocks()).await;
        assert!(matches!(ended, Err(TransferError::Broken { answered: true, .. })));
        assert!(began.elapsed() < PATIENCE);
        sender.join().unwrap();
    }
}
