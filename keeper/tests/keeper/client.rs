//! A client of the data port that can also misbehave.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use dfs_proto::block_sum::BlockSums;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::frame::{self, HEADER_LEN, Header, Kind};
use dfs_proto::pb;
use prost::Message;

pub struct Client {
    pub stream: TcpStream,
    request: u32,
}

pub struct Frame {
    pub header: Header,
    pub meta: Vec<u8>,
    pub data: Vec<u8>,
}

pub type Answer<T> = Result<T, DfsError>;

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, request: 0 }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next frame; `None` when the keeper closed.
    pub fn frame(&mut self) -> Option<Frame> {
        let mut raw = [0; HEADER_LEN];
        self.stream.read_exact(&mut raw).ok()?;
        let header = Header::decode(&raw).unwrap();
        let (mut meta, mut data) = (vec![0; header.meta_len], vec![0; header.data_len]);
        self.stream.read_exact(&mut meta).unwrap();
        self.stream.read_exact(&mut data).unwrap();
        Some(Frame { header, meta, data })
    }

    pub fn expect_error(&mut self) -> ErrorCode {
        let frame = self.frame().expect("an answer");
        assert_eq!(frame.header.kind, Kind::Error);
        DfsError::from_wire(pb::Error::decode(&frame.meta[..]).unwrap()).code
    }

    /// Did the keeper close? Waits for it.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0))
            || self.stream.take_error().is_ok_and(|error| error.is_some())
    }

    fn answer<T: Message + Default>(&mut self, wanted: Kind) -> Answer<(T, Vec<u8>)> {
        let frame = self.frame().expect("an answer");
        assert_eq!(frame.header.request, self.request);
        if frame.header.kind == Kind::Error {
            return Err(DfsError::from_wire(pb::Error::decode(&frame.meta[..]).unwrap()));
        }
        assert_eq!(frame.header.kind, wanted);
        Ok((T::decode(&frame.meta[..]).unwrap(), frame.data))
    }

    pub fn open(&mut self, open: &pb::WriteOpen) {
        self.request += 1;
        self.send(&frame::encode(Kind::WriteOpen, self.request, open, 0));
    }

    pub fn data(&mut self, data: &[u8]) {
        self.send(&frame::encode_data(self.request, data.len()));
        self.send(data);
    }

    pub fn end(&mut self, block_sums: Bytes) {
        self.send(&frame::encode(Kind::WriteEnd, self.request, &pb::WriteEnd { block_sums }, 0));
    }

    pub fn done(&mut self) -> Answer<pb::WriteDone> {
        self.answer(Kind::WriteDone).map(|(done, _)| done)
    }

    /// A whole upload as a client does it; the first keeper of the grant is ours.
    pub fn upload(&mut self, grant: &pb::Grant, data: &[u8], sync: bool) -> Answer<pb::WriteDone> {
        self.open(&write_open(grant, data.len(), sync));
        for piece in data.chunks(256 * 1024) {
            self.data(piece);
        }
        self.end(BlockSums::of(data).encoded().clone());
        self.done()
    }

    pub fn ask(&mut self, request: &pb::ReadRequest) {
        self.request += 1;
        self.send(&frame::encode(Kind::Read, self.request, request, 0));
    }

    pub fn read(&mut self, request: &pb::ReadRequest) -> Answer<(pb::ReadReply, Vec<u8>)> {
        self.ask(request);
        self.answer(Kind::ReadData)
    }

    /// The whole chunk, in ranges of 1 MiB.
    pub fn read_all(&mut self, grant: &pb::Grant, length: usize) -> Answer<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < length {
            let take = (length - all.len()).min(1 << 20);
            all.extend(self.read(&read_request(grant, all.len(), take))?.1);
        }
        Ok(all)
    }
}

pub fn write_open(grant: &pb::Grant, length: usize, sync: bool) -> pb::WriteOpen {
    pb::WriteOpen {
        ticket: grant.ticket.clone(),
        mac: grant.keepers[0].mac.clone(),
        length: length as u32,
        sync,
        relay: grant.keepers[1..].to_vec(),
        relayed: false,
        order: 0,
        urgent: false,
        operation: 0,
    }
}

pub fn read_request(grant: &pb::Grant, offset: usize, length: usize) -> pb::ReadRequest {
    pb::ReadRequest {
        ticket: grant.ticket.clone(),
        mac: grant.keepers[0].mac.clone(),
        offset: offset as u32,
        length: length as u32,
        want_sums: false,
        ..Default::default()
    }
}
