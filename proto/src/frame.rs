//! The framing of the TCP data plane: what goes over the wire between a client and a keeper, and
//! between keepers.
//!
//! A frame is a 16-byte header, then `meta_len` bytes of an encoded message (data.proto, or
//! `pb::Error`), then `data_len` raw bytes of a chunk. All numbers are little-endian:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 4 | magic, `DFS1` |
//! | 4 | 1 | kind |
//! | 5 | 1 | flags, 0 |
//! | 6 | 2 | meta_len, at most [`MAX_META_LEN`] |
//! | 8 | 4 | data_len, at most [`MAX_DATA_LEN`] |
//! | 12 | 4 | request id, the sender's choice; the answer carries it back |
//!
//! Requests on one connection are answered in their order, so a sender may have several under way.
//! A receiver checks the header before it reads, or reserves memory for, anything more.

use bytes::{Bytes, BytesMut};
use prost::Message;

/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 16;
/// The largest structured part.
pub const MAX_META_LEN: usize = 8 * 1024;
/// The most chunk bytes in one frame.
pub const MAX_DATA_LEN: usize = 1024 * 1024;

const MAGIC: [u8; 4] = *b"DFS1";

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// `pb::WriteOpen`.
    WriteOpen = 1,
    /// Raw bytes, no meta.
    WriteData = 2,
    /// `pb::WriteEnd`.
    WriteEnd = 3,
    /// `pb::WriteDone`.
    WriteDone = 4,
    /// `pb::ReadRequest`.
    Read = 5,
    /// `pb::ReadReply` and raw bytes.
    ReadData = 6,
    /// `pb::Error`: the answer to a request that failed. After one that answers a write, the
    /// connection is closed.
    Error = 7,
}

impl Kind {
    fn from_wire(raw: u8) -> Option<Kind> {
        [
            Kind::WriteOpen,
            Kind::WriteData,
            Kind::WriteEnd,
            Kind::WriteDone,
            Kind::Read,
            Kind::ReadData,
            Kind::Error,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == raw)
    }
}

/// Why bytes are no frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// Not our protocol.
    #[error("not a data-plane frame: it begins with {0:02x?}")]
    Magic([u8; 4]),
    /// A kind or flag that this version does not know.
    #[error("unknown frame kind {kind} or flags {flags:#04x}")]
    Unknown {
        /// As received.
        kind: u8,
        /// As received.
        flags: u8,
    },
    /// Longer than any frame may be.
    #[error(
        "oversized frame: {meta_len} + {data_len} bytes, at most {MAX_META_LEN} + {MAX_DATA_LEN} are allowed"
    )]
    Oversized {
        /// As received.
        meta_len: usize,
        /// As received.
        data_len: usize,
    },
    /// The meta part is not the message that the kind promises.
    #[error("the message in a {0:?} frame cannot be decoded")]
    Meta(Kind),
}

/// A frame's first 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What follows.
    pub kind: Kind,
    /// Bytes of the structured part.
    pub meta_len: usize,
    /// Raw bytes after it.
    pub data_len: usize,
    /// The sender's number for the request.
    pub request: u32,
}

impl Header {
    /// Checks and decodes.
    ///
    /// # Errors
    /// [`FrameError`] when it is no header of ours, or promises more than a frame may hold.
    pub fn decode(raw: &[u8; HEADER_LEN]) -> Result<Header, FrameError> {
        let [m0, m1, m2, m3, kind, flags, l0, l1, d0, d1, d2, d3, r0, r1, r2, r3] = *raw;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(FrameError::Magic([m0, m1, m2, m3]));
        }
        let known = Kind::from_wire(kind).filter(|_| flags == 0);
        let kind = known.ok_or(FrameError::Unknown { kind, flags })?;
        let meta_len = usize::from(u16::from_le_bytes([l0, l1]));
        let data_len = u32::from_le_bytes([d0, d1, d2, d3]) as usize;
        if meta_len > MAX_META_LEN || data_len > MAX_DATA_LEN {
            return Err(FrameError::Oversized { meta_len, data_len });
        }
        Ok(Header { kind, meta_len, data_len, request: u32::from_le_bytes([r0, r1, r2, r3]) })
    }

    /// The 16 bytes.
    ///
    /// # Panics
    /// When a length is over its limit: our own mistake.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        assert!(
            self.meta_len <= MAX_META_LEN && self.data_len <= MAX_DATA_LEN,
            "a frame over its limits: {self:?}"
        );
        let mut raw = [0; HEADER_LEN];
        raw[0..4].copy_from_slice(&MAGIC);
        raw[4] = self.kind as u8;
        raw[6..8].copy_from_slice(&(self.meta_len as u16).to_le_bytes());
        raw[8..12].copy_from_slice(&(self.data_len as u32).to_le_bytes());
        raw[12..16].copy_from_slice(&self.request.to_le_bytes());
        raw
    }
}

/// Header and meta of one frame, ready to be sent before its `data_len` raw bytes.
///
/// # Panics
/// When meta or data are over their limits: our own mistake.
pub fn encode(kind: Kind, request: u32, meta: &impl Message, data_len: usize) -> Bytes {
    let meta_len = meta.encoded_len();
    let header = Header { kind, meta_len, data_len, request };
    let mut out = BytesMut::with_capacity(HEADER_LEN + meta_len);
    out.extend_from_slice(&header.encode());
    if meta.encode(&mut out).is_err() {
        unreachable!("a BytesMut grows as needed");
    }
    out.freeze()
}

/// The header of a frame of raw bytes alone.
pub fn encode_data(request: u32, data_len: usize) -> [u8; HEADER_LEN] {
    Header { kind: Kind::WriteData, meta_len: 0, data_len, request }.encode()
}

/// Decodes a frame's structured part.
///
/// # Errors
/// [`FrameError::Meta`] when it is not such a message.
pub fn decode_meta<M: Message + Default>(kind: Kind, meta: impl bytes::Buf) -> Result<M, FrameError> {
    M::decode(meta).map_err(|_| FrameError::Meta(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;
    use proptest::prelude::*;

    #[test]
    fn golden() {
        let frame = encode(
            Kind::WriteEnd,
            0x0102_0304,
            &pb::WriteEnd { block_sums: Bytes::from_static(&[9, 8, 7, 6]) },
            0,
        );
        let expected = [b'D', b'F', b'S', b'1', 3, 0, 6, 0, 0, 0, 0, 0, 4, 3, 2, 1, 0x0a, 4, 9, 8, 7, 6];
        assert_eq!(&frame[..], expected);
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        assert_eq!(Header::decode(b"GET / HTTP/1.1\r\n"), Err(FrameError::Magic(*b"GET ")));
        for other in [b"DFS0", b"DFS2"] {
            let mut raw = encode_data(1, 5);
            raw[..4].copy_from_slice(other);
            assert_eq!(Header::decode(&raw), Err(FrameError::Magic(*other)));
        }
        let mut raw = encode_data(1, 5);
        raw[4] = 99;
        assert!(matches!(Header::decode(&raw), Err(FrameError::Unknown { kind: 99, .. })));
        let mut raw = encode_data(1, 5);
        raw[5] = 1;
        assert!(matches!(Header::decode(&raw), Err(FrameError::Unknown { flags: 1, .. })));
        let mut raw = encode_data(1, 5);
        raw[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Header::decode(&raw), Err(FrameError::Oversized { .. })));
        let mut raw = encode_data(1, 5);
        raw[6..8].copy_from_slice(&u16::MAX.to_le_bytes());
        assert!(matches!(Header::decode(&raw), Err(FrameError::Oversized { .. })));
    }

    proptest! {
        #[test]
        fn any_header_round_trips(kind in 1u8..8, meta_len in 0..=MAX_META_LEN, data_len in 0..=MAX_DATA_LEN, request: u32) {
            let kind = Kind::from_wire(kind).ok_or(TestCaseError::fail("kind"))?;
            let header = Header { kind, meta_len, data_len, request };
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn hostile_bytes_never_panic_nor_pass_the_limits(raw: [u8; HEADER_LEN], ours: bool, meta in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut raw = raw;
            if ours {
                raw[..4].copy_from_slice(&MAGIC);
            }
            if let Ok(header) = Header::decode(&raw) {
                prop_assert!(header.meta_len <= MAX_META_LEN && header.data_len <= MAX_DATA_LEN);
            }
            let _ = decode_meta::<pb::WriteOpen>(Kind::WriteOpen, &meta[..]);
            let _ = decode_meta::<pb::ReadRequest>(Kind::Read, &meta[..]);
        }
    }
}
