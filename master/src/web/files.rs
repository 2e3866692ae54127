//! `/files/PATH`: what is in the cluster, for a browser. A directory is a list in JSON; a file is its bytes, whole or a range of them, so that a film plays and
//! can be sought in.
//!
//! | request | answer |
//! |---|---|
//! | `GET /files/DIR?after=NAME` | `{"entries": [{name, href, kind, size, mtime_ms, type}], "next": NAME or null}` |
//! | `GET`, `HEAD` `/files/FILE` | 200, 206, 304 or 416: `Range`, `If-Range`, `If-None-Match`; the tag is that of inode and content |
//!
//! Bytes come from the keepers, over their data ports, with tickets that the master gives itself (`reader`). They are verified before they are sent.
//!
//! What must hold: memory is bounded, whatever the file and whoever reads ([`MAX_STREAMS`], some pieces each); an answer is of one content of
//! the file, and ends early rather than going on with another; whoever may not read any more gets no more than [`PLAN`] bytes;
//! nothing from the cluster is a page or a script of this origin (`types`, and `sandbox`).

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use dfs_observe::axum::Extension;
use dfs_observe::axum::body::Body;
use dfs_observe::axum::extract::{Query, State};
use dfs_observe::axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use dfs_observe::axum::response::{IntoResponse, Response};
use dfs_proto::error::DfsError;
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;
use dfs_tls::Connector;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::api::{Failure, to_json};
use super::range::{Wanted, wanted};
use super::reader::{MAX_PIECE, Reader};
use super::types;
use crate::auth::{Bearer, Gate};
use crate::runtime::Engine;

/// Before the path.
pub(super) const PREFIX: &str = "/files";
/// Answers that are being read from keepers at once.
const MAPPED: &str = "the ids of this user are mapped, so files are his through a mount alone; mount";
const MAX_STREAMS: usize = 32;
/// Bytes of a file that are planned at once: so often it is looked at whether the asker may go on, and the file is the same.
const PLAN: u64 = 32 << 20;
/// Pieces that wait to be sent.
const AHEAD: usize = 2;
/// Entries of a directory in one answer.
const MAX_ENTRIES: usize = 1000;
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
/// Not even what a browser wrongly takes for a page runs, or reaches anything.
const POLICY: &str = "sandbox; default-src 'none'; media-src 'self'; img-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'";

pub(super) struct Files {
    engine: Engine,
    gate: Gate,
    /// For keepers whose data ports speak TLS.
    tls: Option<Connector>,
    streams: Arc<Semaphore>,
}

impl Files {
    pub fn new(engine: Engine, gate: Gate, tls: Option<Connector>) -> Files {
        Files { engine, gate, tls, streams: Arc::new(Semaphore::new(MAX_STREAMS)) }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// The `next` of the page before.
    #[serde(default)]
    after: String,
}

#[derive(Serialize)]
struct List {
    entries: Vec<Entry>,
    /// None: that was all.
    next: Option<String>,
}

#[derive(Serialize)]
struct Entry {
    /// For people.
    name: String,
    /// The name as it stands in an address.
    href: String,
    kind: &'static str,
    size: u64,
    mtime_ms: i64,
    /// As a browser will be told.
    #[serde(rename = "type")]
    mime: &'static str,
}

pub(super) async fn get(
    State(files): State<Arc<Files>>,
    Extension(bearer): Extension<Bearer>,
    Query(query): Query<ListQuery>,
    uri: Uri,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let bad = |why: &str| Failure(StatusCode::BAD_REQUEST, why.to_owned());
    let path =
        uri.path().strip_prefix(PREFIX).and_then(decode).ok_or_else(|| bad("the path cannot be read"))?;
    if !bearer.ids.is_none() {
        // Nobody here would look at modes for him.
        return Err(Failure(StatusCode::FORBIDDEN, MAPPED.to_owned()));
    }
    let root = bearer.root;
    let attr = files.engine.read(|state, _| state.find(root, &path)).await??;
    match attr.mode & 0o170_000 {
        DIRECTORY => {
            let after =
                decode(&query.after).ok_or_else(|| bad("after: give the 'next' of the page before"))?;
            let inode = InodeNo(attr.inode);
            let (entries, all) =
                files.engine.read(|state, _| state.list(inode, &after, MAX_ENTRIES)).await??;
            let next = entries.last().filter(|_| !all).map(|(name, _)| encode(name));
            Ok(to_json(&List {
                entries: entries.iter().map(|(name, attr)| entry(name, attr)).collect(),
                next,
            }))
        }
        FILE => Ok(file(&files, bearer, &path, &attr, (&method, &headers))),
        _ => Err(Failure(
            StatusCode::NOT_FOUND,
            "that is neither a file nor a directory; links are not followed".to_owned(),
        )),
    }
}

fn entry(name: &[u8], attr: &pb::Attr) -> Entry {
    let kind = match attr.mode & 0o170_000 {
        DIRECTORY => "directory",
        FILE => "file",
        LINK => "link",
        _ => "other",
    };
    let mtime_ms = attr.mtime.map_or(0, |time| time.as_millis());
    let (name, href, mime) = (String::from_utf8_lossy(name).into_owned(), encode(name), types::of(name).mime);
    Entry { name, href, kind, size: attr.size, mtime_ms, mime }
}

fn file(
    files: &Arc<Files>,
    bearer: Bearer,
    path: &[u8],
    attr: &pb::Attr,
    (method, headers): (&Method, &HeaderMap),
) -> Response {
    let tag = format!("\"{:x}-{:x}\"", attr.inode, attr.content_version);
    let size = attr.size;
    let (status, from, to) = match wanted(headers, &tag, size) {
        Wanted::Nothing => (StatusCode::NOT_MODIFIED, 0, 0),
        Wanted::All => (StatusCode::OK, 0, size),
        Wanted::Part(from, to) => (StatusCode::PARTIAL_CONTENT, from, to),
        Wanted::Impossible => (StatusCode::RANGE_NOT_SATISFIABLE, 0, 0),
    };
    let range = match status {
        StatusCode::PARTIAL_CONTENT => Some(format!("bytes {from}-{}/{size}", to - 1)),
        StatusCode::RANGE_NOT_SATISFIABLE => Some(format!("bytes */{size}")),
        _ => None,
    };
    let body = if to > from && method != Method::HEAD {
        let Ok(place) = files.streams.clone().try_acquire_owned() else {
            let words = "too many files are being read through this master; try again, or mount the cluster";
            let busy = Failure(StatusCode::SERVICE_UNAVAILABLE, words.to_owned());
            return ([(header::RETRY_AFTER, "5")], busy).into_response();
        };
        let (sender, pieces) = mpsc::channel(AHEAD);
        let stream = Stream {
            files: files.clone(),
            bearer,
            inode: InodeNo(attr.inode),
            version: attr.content_version,
        };
        tokio::spawn(stream.run(from, to, sender, place));
        Body::from_stream(ReceiverStream::new(pieces))
    } else {
        Body::empty()
    };
    let kind = types::of(path);
    let mut answer = (status, body).into_response();
    let mut put = |name: header::HeaderName, value: &str| {
        // Numbers and words of ours.
        if let Ok(value) = HeaderValue::from_str(value) {
            answer.headers_mut().insert(name, value);
        }
    };
    put(header::ETAG, &tag);
    put(header::ACCEPT_RANGES, "bytes");
    put(header::CACHE_CONTROL, "private, no-cache");
    put(header::CONTENT_SECURITY_POLICY, POLICY);
    put(header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    if status != StatusCode::NOT_MODIFIED {
        put(header::CONTENT_TYPE, kind.mime);
        put(header::CONTENT_LENGTH, &(to - from).to_string());
        put(header::CONTENT_DISPOSITION, if kind.save { "attachment" } else { "inline" });
    }
    if let Some(range) = range {
        put(header::CONTENT_RANGE, &range);
    }
    answer
}

/// The bytes of one answer, on their way.
struct Stream {
    files: Arc<Files>,
    bearer: Bearer,
    inode: InodeNo,
    version: u64,
}

type Pieces = mpsc::Sender<io::Result<Bytes>>;

impl Stream {
    async fn run(self, from: u64, to: u64, sender: Pieces, _place: OwnedSemaphorePermit) {
        if let Err(error) = self.send(from, to, &sender).await {
            tracing::debug!(inode = self.inode.0, "a file for a browser ends early: {error}");
            // It is cut off: what was promised does not come.
            let _ = sender.send(Err(error)).await;
        }
    }

    async fn send(&self, mut at: u64, to: u64, sender: &Pieces) -> io::Result<()> {
        let mut reader = Reader::new(self.files.tls.clone());
        while at < to {
            let plan = self.plan(at, PLAN.min(to - at)).await?;
            let end = plan.covered_to.min(to);
            if end <= at {
                return Err(io::Error::other("the master plans nothing (a bug)"));
            }
            while at < end {
                let piece = piece(&plan, at, end, &mut reader).await?;
                at += piece.len() as u64;
                // Whoever waits here reads, or is cut off by the server before long.
                if sender.send(Ok(piece)).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// If the asker may still read, and the file is as it was.
    async fn plan(&self, offset: u64, length: u64) -> io::Result<pb::FileLayout> {
        let bearer = self.files.gate.look_again(&self.bearer).map_err(io::Error::other)?;
        if !bearer.ids.is_none() {
            return Err(io::Error::other(MAPPED));
        }
        let (root, inode) = (bearer.root, self.inode);
        let plan =
            self.files.engine.ask(|state, now| state.read_plan(root, inode, (offset, length), now)).await;
        let plan =
            plan.map_err(io::Error::other)?.map_err(|error: DfsError| io::Error::other(error.message))?;
        match plan.attr.is_some_and(|attr| attr.content_version == self.version) {
            true => Ok(plan),
            false => Err(io::Error::other("the file was changed meanwhile")),
        }
    }
}

/// The next bytes: of an extent, or of a hole.
async fn piece(plan: &pb::FileLayout, at: u64, end: u64, reader: &mut Reader) -> io::Result<Bytes> {
    let last = end.min(at.saturating_add(MAX_PIECE));
    let found = plan.extents.iter().find(|extent| extent.file_offset.saturating_add(extent.length) > at);
    let Some(extent) = found.filter(|extent| extent.file_offset < last) else {
        return Ok(zeroes(last - at));
    };
    if extent.file_offset > at {
        return Ok(zeroes(extent.file_offset - at));
    }
    let skipped = at - extent.file_offset;
    let length = (extent.length - skipped).min(last - at);
    let source = plan.chunks.iter().find(|source| source.info.is_some_and(|info| info.chunk == extent.chunk));
    let source =
        source.ok_or_else(|| io::Error::other("the master does not say where a chunk is (a bug)"))?;
    let offset = u64::from(extent.chunk_offset) + skipped;
    // An extent lies within its chunk, and chunks are short.
    let (offset, length) = (u32::try_from(offset), u32::try_from(length));
    let (Ok(offset), Ok(length)) = (offset, length) else {
        return Err(io::Error::other("an extent leaves its chunk (a bug)"));
    };
    reader.read(source, offset, length).await
}

/// At most [`MAX_PIECE`].
fn zeroes(length: u64) -> Bytes {
    static ZEROES: [u8; MAX_PIECE as usize] = [0; MAX_PIECE as usize];
    Bytes::from_static(&ZEROES[..length as usize])
}

/// The bytes that percent signs stand for.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = more;
            continue;
        }
        let digits = std::str::from_utf8(more.get(..2)?).ok()?;
        bytes.push(
            u8::from_str_radix(digits, 16).ok().filter(|_| digits.bytes().all(|d| d.is_ascii_hexdigit()))?,
        );
        rest = &more[2..];
    }
    Some(bytes)
}

/// A name as it stands in an address.
fn encode(name: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(name.len());
    for byte in name {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(byte) {
            text.push(char::from(*byte));
        } else {
            // A String takes everything.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_stand_in_an_address_and_come_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)), Some(all));
        assert_eq!(encode(b"a b/c?%#\xff"), "a%20b%2Fc%3F%25%23%FF");
        for bad in ["%", "%4", "%zz", "%+1", "%e\u{e9}"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn holes_are_zeroes_in_pieces() {
        let extent = pb::Extent { file_offset: 500_000, length: 10, chunk: 1, chunk_offset: 0 };
        let plan = pb::FileLayout { extents: vec![extent], covered_to: 900_000, ..pb::FileLayout::default() };
        let mut reader = Reader::default();
        let mut of = async |at: u64| piece(&plan, at, 900_000, &mut reader).await.map(|bytes| bytes.len());
        assert_eq!(of(0).await.unwrap() as u64, MAX_PIECE);
        assert_eq!(of(499_000).await.unwrap(), 1_000);
        assert_eq!(of(899_999).await.unwrap(), 1);
        assert!(of(500_000).await.is_err(), "nobody has that chunk");
    }
}
