//! What a peer is told that speaks no TLS to a port that does, in its own protocol, so that it is not left to guess.
//!
//! Nothing that such a peer sends is believed or acted on.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The first byte of whoever speaks TLS: a handshake record.
const HANDSHAKE: u8 = 0x16;
/// How HTTP/2 begins, and so gRPC without TLS.
const HTTP2: &[u8] = b"PRI * HT";
/// For the peer to take the answer.
const LINGER: Duration = Duration::from_secs(1);
/// How long that is in all.
const PREFACE_LEN: usize = 24;
/// Of a frame of HTTP/2: three bytes of length, one of kind, one of flags, four for the stream.
const FRAME_HEAD_LEN: usize = 9;
/// The kind of the frame with which a call begins.
const HEADERS: u8 = 1;
/// HTTP/2's own code for this.
const INADEQUATE_SECURITY: u32 = 0xc;

/// In words.
pub const REASON: &str = "this port speaks TLS alone; give --tls-dir DIR";

/// Does whoever sends this as his first bytes speak TLS?
pub fn is_tls(first: &[u8]) -> bool {
    first.first() == Some(&HANDSHAKE)
}

/// Waits for the peer's first bytes. True: they are TLS, and still there to be read. False: it was told, and is to be
/// left.
pub(crate) async fn speaks_tls(stream: &mut TcpStream, within: Duration) -> bool {
    let mut first = [0; HTTP2.len()];
    match timeout(within, stream.peek(&mut first)).await {
        Ok(Ok(n)) if is_tls(&first[..n]) => return true,
        Ok(Ok(n)) if n > 0 && HTTP2.starts_with(&first[..n]) => {
            let _ = timeout(LINGER, turn_away(stream)).await;
        }
        _ => {}
    }
    false
}

/// Waits for a call, since clients keep the reason to themselves when there is none. Then lets the peer finish sending: bytes
/// that nobody reads would reset the connection, and could take the answer with them.
async fn turn_away(stream: &mut TcpStream) -> io::Result<()> {
    let (settings, goaway) = frames();
    stream.write_all(&settings).await?;
    let mut sink = [0; 1024];
    stream.read_exact(&mut sink[..PREFACE_LEN]).await?;
    loop {
        let mut head = [0; FRAME_HEAD_LEN];
        stream.read_exact(&mut head).await?;
        if head[3] == HEADERS {
            break;
        }
        let mut left = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        while left > 0 {
            let take = left.min(sink.len());
            stream.read_exact(&mut sink[..take]).await?;
            left -= take;
        }
    }
    stream.write_all(&goaway).await?;
    stream.shutdown().await?;
    while stream.read(&mut sink).await? > 0 {}
    Ok(())
}

/// Of HTTP/2: our settings, which come first, and that the connection ends, with the reason.
fn frames() -> (Vec<u8>, Vec<u8>) {
    let frame = |kind: u8, payload: &[u8]| {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 0], payload].concat()
    };
    let (settings, ends) = (
        frame(4, &[]),
        [&0u32.to_be_bytes()[..], &INADEQUATE_SECURITY.to_be_bytes(), REASON.as_bytes()].concat(),
    );
    (settings, frame(7, &ends))
}
