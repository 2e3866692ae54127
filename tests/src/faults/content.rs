//! Blocks and records that say what they must be.
//!
//! A block of 4 KiB, or a record of any length, begins with a header that names its file, its place and its version;
//! the rest is random bytes that follow from the header. So any byte that is not the right one is seen, wherever it
//! comes from: zeroes, another file, another place, another version, half of one and half of another.

use serde::{Deserialize, Serialize};

use crate::random::Rng;

/// Bytes of a block.
pub const BLOCK: usize = 4096;

/// Bytes of a record's header, and so the least length of a record.
pub const RECORD_HEADER: usize = 40;

/// The longest record.
pub const MAX_RECORD: usize = 64 * 1024;

const BLOCK_MAGIC: &[u8; 8] = b"dfsblock";
const RECORD_MAGIC: &[u8; 8] = b"dfsrecrd";

/// A number for a path, so that bytes of one file are not taken for those of another.
pub fn file_number(path: &str) -> u64 {
    // FNV-1a.
    path.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What a block says that it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag {
    /// [`file_number`].
    pub file: u64,
    /// Which writing of the file.
    pub version: u64,
    /// Its number in the file.
    pub block: u32,
    /// How many blocks the file has in this version.
    pub blocks: u32,
}

/// The block that `tag` describes, at the end of `out`.
pub fn append_block(out: &mut Vec<u8>, tag: Tag) {
    let end = out.len() + BLOCK;
    out.extend_from_slice(BLOCK_MAGIC);
    out.extend_from_slice(&tag.file.to_le_bytes());
    out.extend_from_slice(&tag.version.to_le_bytes());
    out.extend_from_slice(&tag.block.to_le_bytes());
    out.extend_from_slice(&tag.blocks.to_le_bytes());
    let seed =
        tag.file ^ tag.version.rotate_left(20) ^ u64::from(tag.block).rotate_left(44) ^ u64::from(tag.blocks);
    fill(out, end, seed);
}

fn fill(out: &mut Vec<u8>, end: usize, seed: u64) {
    let mut rng = Rng::new(seed);
    while out.len() < end {
        let bytes = rng.bits().to_le_bytes();
        let room = end - out.len();
        out.extend_from_slice(&bytes[..room.min(8)]);
    }
}

/// All blocks of a version of a file.
pub fn blocks(file: u64, version: u64, range: std::ops::Range<u32>, of: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(range.len() * BLOCK);
    for block in range {
        append_block(&mut out, Tag { file, version, block, blocks: of });
    }
    out
}

/// What was found where a block should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Block {
    /// A right one, of this version, in which the file has so many blocks.
    Version(u64, u32),
    /// Zeroes alone.
    Zeroes,
    /// Anything else: what it is, as far as can be said.
    Foreign(String),
}

/// Says what `bytes`, found at block `block` of `file`, are. Looks at every byte.
pub fn identify(bytes: &[u8], file: u64, block: u32) -> Block {
    if bytes.iter().all(|byte| *byte == 0) {
        return Block::Zeroes;
    }
    if bytes.len() != BLOCK {
        return Block::Foreign(format!("the file ends {} bytes into the block", bytes.len()));
    }
    if &bytes[..8] != BLOCK_MAGIC {
        let right = bytes.iter().position(|byte| *byte != 0).unwrap_or(0);
        return Block::Foreign(format!("no block begins here: {:02x?}, {right} zeroes before", &bytes[..8]));
    }
    let tag = Tag {
        file: number(&bytes[8..16]),
        version: number(&bytes[16..24]),
        block: number(&bytes[24..28]) as u32,
        blocks: number(&bytes[28..32]) as u32,
    };
    let mut right = Vec::with_capacity(BLOCK);
    append_block(&mut right, tag);
    if let Some(at) = bytes.iter().zip(&right).position(|(is, should)| is != should) {
        let zeroes = bytes[at..].iter().all(|byte| *byte == 0);
        let how = if zeroes { "zeroes from" } else { "wrong from" };
        return Block::Foreign(format!("version {}, {how} byte {at}", tag.version));
    }
    if (tag.file, tag.block) != (file, block) {
        return Block::Foreign(format!(
            "block {} of file {:016x}, version {}",
            tag.block, tag.file, tag.version
        ));
    }
    Block::Version(tag.version, tag.blocks)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Record `seq` of `writer` for an append file, at the end of `out`. `length` bytes, header included.
pub fn append_record(out: &mut Vec<u8>, file: u64, writer: u32, seq: u64, length: usize) {
    assert!((RECORD_HEADER..=MAX_RECORD).contains(&length));
    let end = out.len() + length;
    out.extend_from_slice(RECORD_MAGIC);
    out.extend_from_slice(&file.to_le_bytes());
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend_from_slice(&writer.to_le_bytes());
    out.extend_from_slice(&(length as u32).to_le_bytes());
    fill(out, end, file ^ seq.rotate_left(24) ^ u64::from(writer).rotate_left(50) ^ length as u64);
}

/// The records at the beginning of `bytes`, (writer, seq) in their order, and what is wrong with the first thing that
/// is not a whole record of `file`.
pub fn records(bytes: &[u8], file: u64) -> (Vec<(u32, u64)>, Option<String>) {
    let (mut found, mut at, mut right) = (Vec::new(), 0, Vec::new());
    while at < bytes.len() {
        let rest = &bytes[at..];
        let wrong = |what: String| Some(format!("at byte {at} of {}: {what}", bytes.len()));
        if rest.len() < RECORD_HEADER {
            return (found, wrong("a record that is cut short".into()));
        }
        let (of, seq, writer) = (number(&rest[8..16]), number(&rest[16..24]), number(&rest[24..28]) as u32);
        let length = number(&rest[28..32]) as usize;
        if &rest[..8] != RECORD_MAGIC || !(RECORD_HEADER..=MAX_RECORD).contains(&length) {
            return (found, wrong(format!("no record begins here: {:02x?}", &rest[..16])));
        }
        if of != file {
            return (found, wrong(format!("a record of file {of:016x}")));
        }
        if rest.len() < length {
            return (found, wrong(format!("record {seq} of writer {writer} is cut short")));
        }
        right.clear();
        append_record(&mut right, file, writer, seq, length);
        if let Some(byte) = (0..length).find(|byte| rest[*byte] != right[*byte]) {
            return (
                found,
                wrong(format!("record {seq} of writer {writer} is wrong from its byte {byte} on")),
            );
        }
        found.push((writer, seq));
        at += length;
    }
    (found, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_known_again_and_nothing_else_passes() {
        let mut bytes = blocks(7, 3, 5..6, 9);
        assert_eq!(identify(&bytes, 7, 5), Block::Version(3, 9));
        assert!(matches!(identify(&bytes, 8, 5), Block::Foreign(_)), "another file's");
        assert!(matches!(identify(&bytes, 7, 4), Block::Foreign(_)), "another place's");
        assert!(matches!(identify(&bytes[..100], 7, 5), Block::Foreign(_)), "cut short");
        for at in [0, 9, 17, 25, 31, 32, 2000, BLOCK - 1] {
            bytes[at] ^= 1;
            assert!(matches!(identify(&bytes, 7, 5), Block::Foreign(_)), "byte {at} is flipped");
            bytes[at] ^= 1;
        }
        assert_eq!(identify(&[0; BLOCK], 7, 5), Block::Zeroes);
        bytes[2048..].fill(0);
        assert!(
            matches!(identify(&bytes, 7, 5), Block::Foreign(what) if what.contains("zeroes from byte 2048"))
        );
    }

    #[test]
    fn records_are_known_again_and_the_first_wrong_one_is_told() {
        let mut bytes = Vec::new();
        append_record(&mut bytes, 7, 1, 0, 100);
        append_record(&mut bytes, 7, 2, 0, RECORD_HEADER);
        append_record(&mut bytes, 7, 1, 1, 9000);
        assert_eq!(records(&bytes, 7), (vec![(1, 0), (2, 0), (1, 1)], None));
        let (found, wrong) = records(&bytes[..5000], 7);
        assert_eq!(found, [(1, 0), (2, 0)]);
        assert!(wrong.unwrap().contains("record 1 of writer 1 is cut short"));
        bytes[120] ^= 4;
        assert_eq!(records(&bytes, 7).0, [(1, 0)]);
        assert!(records(&bytes, 8).1.is_some(), "another file's");
    }
}
