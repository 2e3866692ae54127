//! For the fuzz targets (`fuzz/`): see `dfs_proto::fuzz`.

use dfs_proto::ids::ClusterId;
use dfs_proto::pb;

use crate::archive::settings_to_check;
use crate::core::State;
use crate::store::Identity;
use crate::store::codec::{self, Table};
use crate::store::dump::Reader;

/// A row of the store: a byte for the table, one for the length of the key, the key, the value. Read as it is, and with
/// its checksum put right.
pub fn row(bytes: &[u8]) {
    let Some((&[table, length], rest)) = bytes.split_first_chunk::<2>() else { return };
    let table = Table::ALL[usize::from(table) % Table::ALL.len()];
    let (key, value) = rest.split_at(rest.len().min(usize::from(length)));
    // Refused or not: either is an answer.
    let _ = codec::decode(table, key, value);
    let body = &value[..value.len().saturating_sub(4)];
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&[table as u8]), key), body);
    let sealed = [body, &crc.to_le_bytes()].concat();
    if let Ok(row) = codec::decode(table, key, &sealed) {
        let (same_table, same_key, again) = codec::encode(&row);
        assert!((same_table, &same_key[..]) == (table, key), "a row that is read is the one that is written");
        assert!(
            codec::decode(table, key, &again) == Ok(row),
            "a row that is written is the one that is read"
        );
    }
}

/// A dump, and what a restoring would do with its rows: of any bytes, and of the same with every checksum put right.
pub fn dump(bytes: &[u8]) {
    restore(bytes);
    restore(&sealed(bytes));
}

fn restore(bytes: &[u8]) {
    let Ok((_, mut reader)) = Reader::begin(bytes) else { return };
    let identity =
        Identity { cluster: ClusterId([1; 16]), secret: [2; 32], created: pb::Time::default(), spared: None };
    let mut state = State::new(settings_to_check(&identity));
    loop {
        match reader.next_row() {
            Ok(Some(row)) => {
                if state.load_row(row).is_err() {
                    return;
                }
            }
            Ok(None) => break,
            Err(_) => return,
        }
    }
    // Whole or refused: either is an answer.
    let _ = state.finish_load(pb::Time { sec: 1_700_000_000, nsec: 0 });
}

/// The records of a dump with right checksums, also those of the rows in them, and its right end.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    const HEAD_LEN: usize = 16;
    let Some((head, mut rest)) = bytes.split_at_checked(HEAD_LEN) else { return bytes.to_vec() };
    let mut out = head.to_vec();
    let mut rows = 0u64;
    let record = |out: &mut Vec<u8>, kind: u8, payload: &[u8]| {
        let from = out.len();
        out.push(kind);
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(payload);
        let crc = crc32c::crc32c(&out[from..]);
        out.extend_from_slice(&crc.to_le_bytes());
    };
    while let Some((&[kind, l0, l1, l2, l3], after)) = rest.split_first_chunk::<5>() {
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if kind == 3 {
            break;
        }
        let (payload, after) = after.split_at(after.len().min(length));
        let mut payload = payload.to_vec();
        if kind == 2 {
            rows += 1;
            seal_row(&mut payload);
        }
        record(&mut out, kind, &payload);
        rest = &after[after.len().min(4)..];
    }
    let hash = Sha256::digest(&out);
    record(&mut out, 3, &[&rows.to_le_bytes()[..], &hash].concat());
    out
}

fn seal_row(payload: &mut [u8]) {
    let Some((&[_, k0, k1], _)) = payload.split_first_chunk::<3>() else { return };
    let value_at = 3 + usize::from(u16::from_le_bytes([k0, k1]));
    let Some(crc_at) = payload.len().checked_sub(4).filter(|&at| at >= value_at) else { return };
    let crc = crc32c::crc32c(&payload[..1]);
    let crc = crc32c::crc32c_append(crc, &payload[3..value_at]);
    let crc = crc32c::crc32c_append(crc, &payload[value_at..crc_at]);
    payload[crc_at..].copy_from_slice(&crc.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dfs_proto::fuzz::smoke;
    use dfs_proto::ids::{InodeNo, KeeperId};

    use super::*;
    use crate::core::RowChange;
    use crate::core::testkit::Kit;
    use crate::store::codec::tests::samples;
    use crate::store::{MemoryStore, Store, dump};

    fn seed(row: &crate::core::Row) -> Vec<u8> {
        let (table, key, value) = codec::encode(row);
        let number = Table::ALL.iter().position(|known| *known == table).unwrap() as u8;
        [&[number, key.len() as u8], &key[..], &value].concat()
    }

    /// Of a state that can be loaded.
    fn a_dump() -> Vec<u8> {
        let mut kit = Kit::with_keepers(2);
        let dir = kit.mkdir(InodeNo::ROOT, "d");
        let file = kit.create(dir, "f");
        kit.upload(file, 0, 10);
        kit.upload(file, 20, 10);
        kit.keeper_hello(KeeperId(1), "h");
        let mut store = MemoryStore::new();
        let identity = Identity {
            cluster: ClusterId([1; 16]),
            secret: [2; 32],
            created: pb::Time::default(),
            spared: None,
        };
        store.identity(identity).unwrap();
        let changes: Vec<_> = kit.stored_rows().into_iter().map(RowChange::Put).collect();
        store.commit(&changes).unwrap();
        let mut bytes = Vec::new();
        dump::write(&mut *store.snapshot().unwrap(), pb::Time::default(), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn putting_checksums_right_changes_nothing_that_is_right() {
        let bytes = a_dump();
        assert_eq!(sealed(&bytes), bytes);
    }

    #[test]
    fn no_row_breaks_its_reader() {
        let seeds: Vec<Vec<u8>> = samples().iter().map(seed).collect();
        smoke("row", &seeds, Duration::from_millis(700), row);
    }

    #[test]
    fn no_dump_breaks_its_reader() {
        smoke("dump", &[a_dump()], Duration::from_millis(900), super::dump);
    }
}
