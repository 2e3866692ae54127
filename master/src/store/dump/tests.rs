//! Dumps are read whole or refused.

use super::super::codec::tests::samples;
use super::super::{Identity, MemoryStore, Store};
use super::*;
use crate::core::RowChange;

const TAKEN: pb::Time = pb::Time { sec: 1_700_000_000, nsec: 5 };

fn identity() -> Identity {
    Identity {
        cluster: ClusterId([3; 16]),
        secret: [0xa5; 32],
        created: pb::Time { sec: 7, nsec: 8 },
        spared: None,
    }
}

pub(crate) fn sample_dump() -> Vec<u8> {
    let mut store = MemoryStore::new();
    store.identity(identity()).unwrap();
    store.commit(&samples().into_iter().map(RowChange::Put).collect::<Vec<_>>()).unwrap();
    let mut bytes = Vec::new();
    let summary = write(&mut *store.snapshot().unwrap(), TAKEN, &mut bytes).unwrap();
    assert_eq!(summary, Summary { rows: dumped().len() as u64, bytes: bytes.len() as u64 });
    bytes
}

/// All but who is mounted.
fn dumped() -> Vec<Row> {
    samples().into_iter().filter(|row| !matches!(row, Row::Session(_))).collect()
}

fn read(bytes: &[u8]) -> Result<(Head, Vec<Row>), DumpError> {
    let (head, mut reader) = Reader::begin(bytes)?;
    let mut rows = Vec::new();
    while let Some(row) = reader.next_row()? {
        rows.push(row);
    }
    Ok((head, rows))
}

#[test]
fn what_was_written_is_read_back() {
    let (head, mut rows) = read(&sample_dump()).unwrap();
    assert_eq!(head, Head { cluster: ClusterId([3; 16]), created: identity().created, taken: TAKEN });
    let mut expected = dumped();
    expected.sort_by_key(codec::key_of);
    rows.sort_by_key(codec::key_of);
    assert_eq!(rows, expected);
}

#[test]
fn the_secret_stays_at_home() {
    assert!(!sample_dump().windows(8).any(|bytes| bytes == [0xa5; 8]));
}

#[test]
fn a_dump_that_is_cut_anywhere_is_refused() {
    let whole = sample_dump();
    for length in 0..whole.len() {
        assert!(read(&whole[..length]).is_err(), "cut to {length} bytes");
    }
    assert!(matches!(read(&[&whole[..], b"x"].concat()), Err(DumpError::Damaged(_))));
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let whole = sample_dump();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        assert!(read(&flipped).is_err(), "byte {at}");
    }
}

/// Each record alone is in order.
#[test]
fn a_row_that_is_missing_twice_there_or_elsewhere_is_found() {
    let whole = sample_dump();
    let mut ends = vec![HEAD_LEN];
    while *ends.last().unwrap() < whole.len() {
        let at = *ends.last().unwrap();
        ends.push(at + 1 + 4 + number(&whole, at + 1).unwrap() as usize + CRC_LEN);
    }
    let records: Vec<&[u8]> = ends.windows(2).map(|pair| &whole[pair[0]..pair[1]]).collect();
    let dump = |records: &[&[u8]]| [&whole[..HEAD_LEN], &records.concat()].concat();
    assert!(read(&dump(&records)).is_ok());
    let mut swapped = records.clone();
    swapped.swap(1, 2);
    let missing = [&records[..2], &records[3..]].concat();
    let twice = [&records[..2], &records[1..]].concat();
    for wrong in [swapped, missing, twice] {
        let error = read(&dump(&wrong)).unwrap_err().to_string();
        assert!(error.contains("its end is not that of what is before it"), "{error}");
    }
}

#[test]
fn other_files_and_newer_dumps_are_told_apart() {
    assert!(matches!(read(b"letter to somebody\n"), Err(DumpError::NotADump)));
    let mut newer = sample_dump();
    newer[8] = 5;
    assert!(matches!(read(&newer), Err(DumpError::Damaged(_))), "a flipped bit is no newer version");
    let crc = crc32c::crc32c(&newer[..12]).to_le_bytes();
    newer[12..16].copy_from_slice(&crc);
    let error = read(&newer).unwrap_err();
    assert!(matches!(error, DumpError::Newer(5)));
    assert!(error.to_string().ends_with("knows formats up to 4; use a newer dfs-master"), "{error}");
}
