//! For the fuzz targets (`fuzz/`) and for the smoke runs of the same functions in the normal tests: not part of what
//! this crate is for.
//!
//! A target takes any bytes. It may refuse them; it must not panic, and not take more memory than a small multiple of
//! what it was given and of what one frame may hold.

use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;

use crate::block_sum::BlockSums;
use crate::frame::{self, HEADER_LEN, Header, Kind};
use crate::ids::{ClusterId, KeeperId};
use crate::pb;
use crate::ticket::{TicketChecker, TicketKey};

/// One connection's bytes, as a keeper or a client takes them in: frames, what is in them, and tickets, which are
/// signed here so that what is behind the signature is reached.
pub fn wire(bytes: &[u8]) {
    let mut rest = bytes;
    while let Some((head, after)) = rest.split_first_chunk::<HEADER_LEN>() {
        let Ok(header) = Header::decode(head) else { return };
        assert_eq!(header.encode(), *head, "a header that is read is the one that is written");
        let Some((meta, after)) = after.split_at_checked(header.meta_len) else { return };
        message(header.kind, meta);
        let Some((_, after)) = after.split_at_checked(header.data_len) else { return };
        rest = after;
    }
}

fn message(kind: Kind, meta: &[u8]) {
    match kind {
        Kind::WriteOpen => {
            let Ok(open) = frame::decode_meta::<pb::WriteOpen>(kind, meta) else { return };
            ticket(&open.ticket, &open.mac);
            open.relay.iter().for_each(|grant| ticket(&open.ticket, &grant.mac));
        }
        Kind::WriteData => {}
        Kind::WriteEnd => {
            let Ok(end) = frame::decode_meta::<pb::WriteEnd>(kind, meta) else { return };
            sums(end.block_sums);
        }
        Kind::WriteDone => drop(frame::decode_meta::<pb::WriteDone>(kind, meta)),
        Kind::Read => {
            let Ok(read) = frame::decode_meta::<pb::ReadRequest>(kind, meta) else { return };
            ticket(&read.ticket, &read.mac);
        }
        Kind::ReadData => {
            let Ok(reply) = frame::decode_meta::<pb::ReadReply>(kind, meta) else { return };
            sums(reply.block_sums);
        }
        Kind::Error => {
            let Ok(error) = frame::decode_meta::<pb::Error>(kind, meta) else { return };
            drop(crate::error::DfsError::from_wire(error));
        }
    }
}

fn checker() -> TicketChecker {
    TicketChecker {
        key: TicketKey::derive(&[9; 32], KeeperId(3)),
        cluster: ClusterId([5; 16]),
        keeper: KeeperId(3),
    }
}

fn ticket(ticket: &[u8], mac: &[u8]) {
    let (checker, ops) = (checker(), [pb::TicketOp::Read, pb::TicketOp::Write]);
    for now_ms in [0, 1_700_000_000_000, i64::MAX] {
        // Refused or not: either is an answer.
        let _ = checker.check(ticket, mac, &ops, now_ms);
        let _ = checker.check(ticket, &checker.key.sign(ticket), &ops, now_ms);
    }
}

fn sums(encoded: Bytes) {
    for length in [encoded.len() * (16 * 1024), encoded.len(), 0] {
        if let Some(sums) = BlockSums::decode(encoded.clone(), length) {
            let _ = (sums.get(0), sums.get(usize::MAX), sums.checksum(), sums.verify(0, b"x"));
        }
    }
}

/// Bytes that [`wire`] takes to their end.
pub fn wire_seeds() -> Vec<Vec<u8>> {
    let body = |op: pb::TicketOp| pb::Ticket {
        cluster: ClusterId([5; 16]).short(),
        chunk: 77,
        op: op as i32,
        keepers: vec![2, 3],
        max_length: 10,
        expires_ms: i64::MAX,
        nonce: 1,
    };
    let signed = |op| {
        let ticket = Bytes::from(body(op).encode_to_vec());
        let mac = Bytes::from(checker().key.sign(&ticket).to_vec());
        (ticket, mac)
    };
    let ((write, write_mac), (read, read_mac)) = (signed(pb::TicketOp::Write), signed(pb::TicketOp::Read));
    let open = pb::WriteOpen {
        ticket: write,
        mac: write_mac,
        length: 5,
        sync: true,
        relay: vec![pb::KeeperGrant { keeper: 2, address: "127.0.0.1:1".to_owned(), ..Default::default() }],
        ..Default::default()
    };
    let block_sums = BlockSums::of(b"12345").encoded().clone();
    let request = pb::ReadRequest { ticket: read, mac: read_mac, length: 65_536, ..Default::default() };
    let upload = [
        &frame::encode(Kind::WriteOpen, 1, &open, 0)[..],
        &frame::encode_data(1, 5),
        b"12345",
        &frame::encode(Kind::WriteEnd, 1, &pb::WriteEnd { block_sums: block_sums.clone() }, 0),
    ];
    let answers = [
        frame::encode(Kind::WriteDone, 1, &pb::WriteDone::default(), 0),
        frame::encode(Kind::ReadData, 2, &pb::ReadReply { block_sums }, 0),
        frame::encode(Kind::Error, 3, &pb::Error { code: 3, message: "no".to_owned() }, 0),
    ];
    vec![upload.concat(), frame::encode(Kind::Read, 2, &request, 0).to_vec(), answers.concat()]
}

/// The target on valid seeds and on mutations of them, for a while; what is tried follows from `seed`, how much of it
/// from the machine. Prints what panicked. `DFS_TEST_FUZZ=SECONDS` makes it longer, `DFS_TEST_SEED=N` another one. With `DFS_TEST_CORPUS=DIRECTORY` the seeds are written there, as a corpus for
/// the fuzzer.
///
/// # Panics
/// When the target does.
pub fn smoke(name: &str, seeds: &[Vec<u8>], period: Duration, target: fn(&[u8])) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (seed, period) =
        (number("DFS_TEST_SEED").unwrap_or(1), number("DFS_TEST_FUZZ").map_or(period, Duration::from_secs));
    if let Some(corpus) = std::env::var_os("DFS_TEST_CORPUS") {
        let dir = std::path::Path::new(&corpus).join(name);
        let written = std::fs::create_dir_all(&dir).and_then(|()| {
            let mut seeds = seeds.iter().enumerate();
            seeds.try_for_each(|(n, bytes)| std::fs::write(dir.join(format!("seed-{n}")), bytes))
        });
        assert!(written.is_ok(), "{}: {written:?}", dir.display());
    }
    seeds.iter().for_each(|bytes| target(bytes));
    let (mut dice, begin, mut runs) = (Dice(seed), Instant::now(), 0u64);
    while begin.elapsed() < period {
        let mut bytes = seeds[dice.below(seeds.len())].clone();
        for _ in 0..=dice.below(4) {
            mutate(&mut bytes, seeds, &mut dice);
        }
        if let Err(panic) = std::panic::catch_unwind(|| target(&bytes)) {
            let hex: String = bytes.iter().take(4096).map(|byte| format!("{byte:02x}")).collect();
            println!("{name}, seed {seed}, run {runs}: {hex}");
            std::panic::resume_unwind(panic);
        }
        runs += 1;
    }
    println!("{name}: {runs} inputs, seed {seed}");
    assert!(runs > 0);
}

fn mutate(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], dice: &mut Dice) {
    let (at, length) = (dice.below(bytes.len() + 1), dice.below(32));
    let end = bytes.len().min(at + length);
    match dice.below(7) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => drop(bytes.splice(at..at, (0..length).map(|n| n as u8))),
        3 => bytes[at..end].fill([0, 0xff, 0x7f, 0x80][dice.below(4)]),
        4 => {
            let other = &seeds[dice.below(seeds.len())];
            let from = dice.below(other.len() + 1);
            drop(bytes.splice(at..end, other[from..other.len().min(from + 64)].iter().copied()));
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
        }
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bytes_on_the_wire_break_the_decoder() {
        smoke("wire", &wire_seeds(), Duration::from_millis(700), wire);
    }

    #[test]
    #[should_panic(expected = "found")]
    fn a_target_that_breaks_is_found() {
        smoke("broken", &wire_seeds(), Duration::from_secs(20), |bytes| {
            assert!(bytes.len() > HEADER_LEN, "found");
        });
    }
}
