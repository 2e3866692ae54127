//! Frames over a connection to a keeper: vectored writing, and reading under a deadline that each byte renews.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::frame::{self, FrameError, HEADER_LEN, Header, Kind};
use dfs_proto::pb;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Slices that one vectored write takes.
const SLICES: usize = 64;

/// Why a transfer failed.
#[derive(Debug)]
pub(super) enum TransferError {
    /// The connection broke; `answered`: after the keeper had begun to answer.
    Broken { error: io::Error, answered: bool },
    /// No byte was taken or came for this long.
    Silent(Duration),
    /// What came is no frame, or not the one that was due.
    Garbage(String),
    /// The keeper's own words.
    Refused(DfsError),
}

impl TransferError {
    /// May the connection have been dead before the transfer began? Not one on which the keeper's machine fell silent: a new one
    /// would too.
    pub(super) fn may_be_stale(&self) -> bool {
        matches!(self, TransferError::Broken { answered: false, error } if error.kind() != io::ErrorKind::TimedOut)
    }

    /// As the caller sees it. `what` is what was tried on which chunk.
    pub(super) fn explain(self, what: &str, keeper: &pb::KeeperGrant) -> DfsError {
        let at = format!("{what} keeper {} at {}", keeper.keeper, keeper.address);
        match self {
            TransferError::Broken { error, .. } => {
                DfsError::new(ErrorCode::Unavailable, format!("{at}: connection lost: {error}"))
            }
            TransferError::Silent(time) => {
                DfsError::new(ErrorCode::TimedOut, format!("{at}: no progress for {} s", time.as_secs()))
            }
            TransferError::Garbage(why) => DfsError::new(ErrorCode::Protocol, format!("{at}: {why}")),
            TransferError::Refused(error) => DfsError::new(error.code, format!("{at}: {}", error.message)),
        }
    }
}

impl From<FrameError> for TransferError {
    fn from(error: FrameError) -> Self {
        TransferError::Garbage(error.to_string())
    }
}

/// One step of reading or writing, within `patience`.
pub(super) async fn step<T>(
    patience: Duration,
    io: impl Future<Output = io::Result<T>>,
    answered: bool,
) -> Result<T, TransferError> {
    match tokio::time::timeout(patience, io).await {
        Ok(result) => result.map_err(|error| TransferError::Broken { error, answered }),
        Err(_) => Err(TransferError::Silent(patience)),
    }
}

/// Writes `segments` one after the other, without copying them together.
pub(super) async fn write_all(
    to: &mut (impl AsyncWrite + Unpin),
    segments: &[Bytes],
    patience: Duration,
) -> Result<(), TransferError> {
    let mut first = 0;
    let mut done = 0;
    while first < segments.len() {
        let window = &segments[first..segments.len().min(first + SLICES)];
        let mut slices = [io::IoSlice::new(&[]); SLICES];
        for (n, (slice, segment)) in slices.iter_mut().zip(window).enumerate() {
            *slice = io::IoSlice::new(if n == 0 { &segment[done..] } else { segment });
        }
        let mut written = step(patience, to.write_vectored(&slices[..window.len()]), false).await?;
        if written == 0 {
            let error = io::Error::from(io::ErrorKind::WriteZero);
            return Err(TransferError::Broken { error, answered: false });
        }
        written += done;
        while first < segments.len() && written >= segments[first].len() {
            written -= segments[first].len();
            first += 1;
        }
        done = written;
    }
    // Where it is encrypted, some may wait to be sent.
    step(patience, to.flush(), false).await
}

/// The stream ended within a frame.
pub(super) fn ended(answered: bool) -> TransferError {
    TransferError::Broken { error: io::ErrorKind::UnexpectedEof.into(), answered }
}

/// Reads exactly `length` bytes into a buffer of exactly that size.
pub(super) async fn read_exact(
    from: &mut (impl AsyncRead + Unpin),
    length: usize,
    patience: Duration,
    answered: &mut bool,
) -> Result<Bytes, TransferError> {
    let mut buffer = BytesMut::with_capacity(length);
    while buffer.len() < length {
        let mut rest = (&mut buffer).limit(length);
        rest.set_limit(length - rest.get_ref().len());
        let got = step(patience, from.read_buf(&mut rest), *answered).await?;
        if got == 0 {
            return Err(ended(*answered));
        }
        *answered = true;
    }
    Ok(buffer.freeze())
}

/// An answer's header and meta. An `Error` frame becomes [`TransferError::Refused`]; any other kind than
/// `expected`, and an answer to another request than `request`, is garbage.
pub(super) async fn read_answer(
    from: &mut (impl AsyncRead + Unpin),
    expected: Kind,
    request: u32,
    patience: Duration,
) -> Result<(Header, Bytes), TransferError> {
    let mut answered = false;
    let raw = read_exact(from, HEADER_LEN, patience, &mut answered).await?;
    let mut fixed = [0; HEADER_LEN];
    raw.as_ref().copy_to_slice(&mut fixed);
    let header = Header::decode(&fixed)?;
    let meta = read_exact(from, header.meta_len, patience, &mut answered).await?;
    if header.kind == Kind::Error {
        let error: pb::Error = frame::decode_meta(Kind::Error, meta)?;
        return Err(TransferError::Refused(DfsError::from_wire(error)));
    }
    if header.kind != expected || header.request != request {
        let (kind, got) = (header.kind, header.request);
        let message = format!("it answered with {kind:?} to request {got}, not {expected:?} to {request}");
        return Err(TransferError::Garbage(message));
    }
    Ok((header, meta))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn segments_of_any_size_arrive_whole_and_in_order() {
        let (mut near, mut far) = tokio::io::duplex(7);
        let segments: Vec<Bytes> =
            (0..300u16).map(|n| Bytes::from(vec![n as u8; usize::from(n % 40)])).collect();
        let expected = segments.concat();
        let writer = tokio::spawn(async move { write_all(&mut near, &segments, PATIENCE).await });
        let mut answered = false;
        let got = read_exact(&mut far, expected.len(), PATIENCE, &mut answered).await.unwrap();
        writer.await.unwrap().unwrap();
        assert_eq!(got, expected);
        assert!(answered);
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_the_keepers_words() {
        let (mut near, mut far) = tokio::io::duplex(1024);
        let error = DfsError::new(ErrorCode::NoSpace, "disk full");
        far.write_all(&frame::encode(Kind::Error, 1, &error.to_wire(), 0)).await.unwrap();
        let got = read_answer(&mut near, Kind::WriteDone, 1, PATIENCE).await;
        assert!(matches!(got, Err(TransferError::Refused(e)) if e == error));
    }

    #[tokio::test]
    async fn an_answer_to_another_request_is_garbage() {
        let (mut near, mut far) = tokio::io::duplex(1024);
        far.write_all(&frame::encode(Kind::WriteDone, 2, &pb::WriteDone::default(), 0)).await.unwrap();
        let got = read_answer(&mut near, Kind::WriteDone, 1, PATIENCE).await;
        assert!(matches!(got, Err(TransferError::Garbage(_))));
    }

    #[tokio::test]
    async fn only_a_connection_that_broke_before_the_answer_may_be_stale() {
        let (mut near, mut far) = tokio::io::duplex(1024);
        far.write_all(b"DFS1").await.unwrap();
        drop(far);
        let got = read_answer(&mut near, Kind::WriteDone, 1, PATIENCE).await.unwrap_err();
        assert!(!got.may_be_stale());
        let (mut near, far) = tokio::io::duplex(1024);
        drop(far);
        assert!(read_answer(&mut near, Kind::WriteDone, 1, PATIENCE).await.unwrap_err().may_be_stale());
    }
}
