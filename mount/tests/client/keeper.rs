//! A keeper that does as the test says: one thread per connection, blocking.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dfs_proto::block_sum::BlockSums;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::frame::{self, HEADER_LEN, Header, Kind};
use dfs_proto::pb;
use prost::Message;

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Mode {
    Good,
    /// One bit of each answer is wrong.
    FlipsBits,
    /// The list of checksums is that of other bytes, which are sent, too.
    OtherContent,
    /// Takes requests and never answers.
    Silent,
    /// Answers late, and then with wrong bytes.
    LateAndWrong(Duration),
    /// Closes the connection after each answer.
    HangsUp,
    /// Refuses everything.
    Refuses(ErrorCode),
}

pub(crate) struct Inner {
    id: u64,
    mode: Mutex<Mode>,
    pub(crate) chunks: Mutex<HashMap<u64, Vec<u8>>>,
    pub(crate) reads: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
}

#[derive(Clone)]
pub(crate) struct Keeper {
    pub(crate) address: String,
    pub(crate) inner: Arc<Inner>,
}

impl Keeper {
    pub(crate) fn start(id: u64) -> Keeper {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let inner = Arc::new(Inner {
            id,
            mode: Mutex::new(Mode::Good),
            chunks: Mutex::default(),
            reads: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
        });
        let served = inner.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let inner = served.clone();
                std::thread::spawn(move || serve(&inner, stream.unwrap()));
            }
        });
        Keeper { address, inner }
    }

    pub(crate) fn set(&self, mode: Mode) {
        *self.inner.mode.lock().unwrap() = mode;
    }

    pub(crate) fn put(&self, chunk: u64, data: &[u8]) {
        self.inner.chunks.lock().unwrap().insert(chunk, data.to_vec());
    }

    pub(crate) fn reads(&self) -> u64 {
        self.inner.reads.load(Ordering::SeqCst)
    }

    pub(crate) fn bytes_read(&self) -> u64 {
        self.inner.bytes_read.load(Ordering::SeqCst)
    }

    pub(crate) fn grant(&self) -> pb::KeeperGrant {
        pb::KeeperGrant { keeper: self.inner.id, address: self.address.clone(), ..Default::default() }
    }
}

/// An unsigned ticket: scripted keepers only want to know the chunk.
pub(crate) fn grant(chunk: u64, keepers: &[&Keeper]) -> pb::Grant {
    let ticket = pb::Ticket { chunk, ..Default::default() }.encode_to_vec().into();
    pb::Grant { ticket, keepers: keepers.iter().map(|keeper| keeper.grant()).collect() }
}

fn receive(stream: &mut TcpStream) -> Option<(Header, Vec<u8>, Vec<u8>)> {
    let mut raw = [0; HEADER_LEN];
    stream.read_exact(&mut raw).ok()?;
    let header = Header::decode(&raw).unwrap();
    let mut meta = vec![0; header.meta_len];
    let mut data = vec![0; header.data_len];
    stream.read_exact(&mut meta).ok()?;
    stream.read_exact(&mut data).ok()?;
    Some((header, meta, data))
}

fn serve(inner: &Inner, mut stream: TcpStream) {
    let mut upload: Option<(pb::WriteOpen, Vec<u8>)> = None;
    while let Some((header, meta, data)) = receive(&mut stream) {
        let mode = *inner.mode.lock().unwrap();
        match mode {
            Mode::Silent => continue,
            Mode::Refuses(code) => {
                let error = DfsError::new(code, "refused by the test").to_wire();
                let _ = stream.write_all(&frame::encode(Kind::Error, header.request, &error, 0));
                return;
            }
            _ => {}
        }
        let sent = match header.kind {
            Kind::Read => answer_read(inner, mode, &mut stream, header.request, &meta),
            Kind::WriteOpen => {
                upload = Some((pb::WriteOpen::decode(&meta[..]).unwrap(), Vec::new()));
                continue;
            }
            Kind::WriteData => {
                upload.as_mut().unwrap().1.extend_from_slice(&data);
                continue;
            }
            Kind::WriteEnd => answer_write(inner, &mut stream, header.request, &meta, upload.take().unwrap()),
            other => panic!("a client sent {other:?}"),
        };
        if sent.is_err() || mode == Mode::HangsUp {
            return;
        }
    }
}

fn answer_read(
    inner: &Inner,
    mode: Mode,
    stream: &mut TcpStream,
    request: u32,
    meta: &[u8],
) -> std::io::Result<()> {
    let read = pb::ReadRequest::decode(meta).unwrap();
    let chunk = pb::Ticket::decode(&read.ticket[..]).unwrap().chunk;
    let (mut part, block_sums) = {
        let chunks = inner.chunks.lock().unwrap();
        let mut whole = std::borrow::Cow::from(&chunks[&chunk]);
        if mode == Mode::OtherContent {
            whole.to_mut().iter_mut().for_each(|byte| *byte ^= 0x55);
        }
        let sums = if read.want_sums { BlockSums::of(&whole).encoded().clone() } else { Bytes::new() };
        (whole[read.offset as usize..(read.offset + read.length) as usize].to_vec(), sums)
    };
    match mode {
        Mode::FlipsBits => part[100] ^= 4,
        Mode::LateAndWrong(late) => {
            std::thread::sleep(late);
            part.fill(0xee);
        }
        _ => {}
    }
    inner.reads.fetch_add(1, Ordering::SeqCst);
    inner.bytes_read.fetch_add(part.len() as u64, Ordering::SeqCst);
    stream.write_all(&frame::encode(Kind::ReadData, request, &pb::ReadReply { block_sums }, part.len()))?;
    stream.write_all(&part)
}

fn answer_write(
    inner: &Inner,
    stream: &mut TcpStream,
    request: u32,
    meta: &[u8],
    (open, data): (pb::WriteOpen, Vec<u8>),
) -> std::io::Result<()> {
    let end = pb::WriteEnd::decode(meta).unwrap();
    assert_eq!(data.len(), open.length as usize);
    assert_eq!(&end.block_sums, BlockSums::of(&data).encoded());
    let chunk = pb::Ticket::decode(&open.ticket[..]).unwrap().chunk;
    inner.chunks.lock().unwrap().insert(chunk, data);
    let keepers = std::iter::once(inner.id).chain(open.relay.iter().map(|grant| grant.keeper)).collect();
    let done = pb::WriteDone { keepers, synced: open.sync, failed: vec![] };
    stream.write_all(&frame::encode(Kind::WriteDone, request, &done, 0))
}
