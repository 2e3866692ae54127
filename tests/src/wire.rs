//! Clients that say to a port what no program of ours would: bytes as they are, or over TLS with any certificate; and uploads and
//! reads with any ticket.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_proto::block_sum::BlockSums;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::frame::{self, HEADER_LEN, Header, Kind};
use dfs_proto::pb;
use dfs_tls::TlsDir;
use dfs_tls::rustls::crypto::ring;
use dfs_tls::rustls::pki_types::pem::PemObject;
use dfs_tls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use dfs_tls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use prost::Message;
use prost::bytes::Bytes;

use crate::cluster::Cluster;
use crate::wait::secs;

/// A connection, of either kind.
pub trait Wire: Read + Write {}

impl<T: Read + Write> Wire for T {}

/// What a port answers these bytes with, up to its end, which may also be a reset.
///
/// # Panics
/// When it has not ended the connection by itself within `limit`.
#[track_caller]
pub fn answer_to(address: &str, bytes: &[u8], limit: Duration) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    let begun = Instant::now();
    let _ = stream.write_all(bytes);
    let mut got = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let left = limit.saturating_sub(begun.elapsed()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left)).unwrap();
        match stream.read(&mut piece) {
            Ok(n @ 1..) => got.extend_from_slice(&piece[..n]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                panic!("{address} still listens after {limit:?} to {:.40?}; it said {got:?}", bytes)
            }
            _ => return got,
        }
    }
}

/// TLS with a client that believes `ca` and shows the certificate of the directory `shown`, whatever the port asks for.
pub fn over_tls(address: &str, ca: &Path, shown: Option<&Path>) -> StreamOwned<ClientConnection, TcpStream> {
    let read = |path: &Path| fs::read(path).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&read(ca)).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match shown {
        Some(dir) => {
            let chain = vec![CertificateDer::from_pem_slice(&read(&dir.join("cert.pem"))).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(&read(&dir.join("key.pem"))).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let session = ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(secs(10))).unwrap();
    StreamOwned::new(session, stream)
}

/// A connection to a data port of the cluster, as its clients make it.
pub fn to_keeper(cluster: &Cluster, address: &str) -> Box<dyn Wire> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(secs(10))).unwrap();
    let client = cluster.tls_dir("client");
    if !client.is_dir() {
        return Box::new(stream);
    }
    let connector = TlsDir::load(&client, None).unwrap().to_keepers().unwrap();
    Box::new(StreamOwned::new(connector.session(address).unwrap(), stream))
}

/// Sends frames to a data port, and gives what it answers.
pub fn ask(wire: &mut dyn Wire, frames: &[Bytes]) -> Result<(), ErrorCode> {
    for frame in frames {
        // It may refuse, and close, before it has all.
        let _ = wire.write_all(frame);
    }
    let mut head = [0; HEADER_LEN];
    wire.read_exact(&mut head).unwrap();
    let header = Header::decode(&head).unwrap();
    let mut meta = vec![0; header.meta_len];
    wire.read_exact(&mut meta).unwrap();
    match header.kind {
        Kind::Error => Err(DfsError::from_wire(pb::Error::decode(&meta[..]).unwrap()).code),
        _ => Ok(()),
    }
}

/// An upload as a client does it, over a connection of its own.
pub fn upload(
    cluster: &Cluster,
    address: &str,
    open: pb::WriteOpen,
    content: &[u8],
) -> Result<(), ErrorCode> {
    let open = pb::WriteOpen { length: content.len() as u32, ..open };
    let end = pb::WriteEnd { block_sums: BlockSums::of(content).encoded().clone() };
    let frames = [
        frame::encode(Kind::WriteOpen, 1, &open, 0),
        Bytes::copy_from_slice(&frame::encode_data(1, content.len())),
        Bytes::copy_from_slice(content),
        frame::encode(Kind::WriteEnd, 1, &end, 0),
    ];
    ask(&mut *to_keeper(cluster, address), &frames)
}

/// A read of the first bytes of a chunk, over a connection of its own.
pub fn read(
    cluster: &Cluster,
    address: &str,
    ticket: &Bytes,
    mac: &Bytes,
    length: usize,
) -> Result<(), ErrorCode> {
    let request = pb::ReadRequest {
        ticket: ticket.clone(),
        mac: mac.clone(),
        length: length as u32,
        ..pb::ReadRequest::default()
    };
    ask(&mut *to_keeper(cluster, address), &[frame::encode(Kind::Read, 1, &request, 0)])
}

/// The same bytes but for one.
pub fn altered(bytes: &Bytes, at: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes.into()
}

/// The ticket with one field changed, each in its turn.
pub fn altered_in_each_field(ticket: &Bytes) -> Vec<(&'static str, Bytes)> {
    let good = pb::Ticket::decode(&ticket[..]).unwrap();
    let write = good.op() == pb::TicketOp::Write;
    // A new field makes this fail to compile: it has to be in the list below.
    let pb::Ticket { cluster, chunk, op: _, keepers, max_length, expires_ms, nonce } = good.clone();
    let other_op = if write { pb::TicketOp::Read } else { pb::TicketOp::Write } as i32;
    let all = [
        ("cluster", pb::Ticket { cluster: cluster ^ 1, ..good.clone() }),
        ("chunk", pb::Ticket { chunk: chunk + 1, ..good.clone() }),
        ("op", pb::Ticket { op: other_op, ..good.clone() }),
        ("keepers", pb::Ticket { keepers: [&keepers[..], &[99]].concat(), ..good.clone() }),
        ("max_length", pb::Ticket { max_length: max_length + 1, ..good.clone() }),
        ("expires_ms", pb::Ticket { expires_ms: expires_ms + 1, ..good.clone() }),
        ("nonce", pb::Ticket { nonce: nonce ^ 1, ..good.clone() }),
    ];
    all.map(|(field, ticket)| (field, ticket.encode_to_vec().into())).into()
}
