//! What the store should hold, counted: so that a row, a table or a commit that went missing is found at the start.
//!
//! Each row has a checksum of its own (codec.rs). The tally has, for each table, how many rows there are and the sum
//! of their marks, which are made of those checksums; and how many commits there were. It is written in the same
//! transaction as the rows, so it fits them or they are not those that were stored.
//!
//! ```text
//! store:8 commits:8  (table:1 rows:8 sum:8)*  crc:4        numbers little-endian; the crc: CRC-32C of all before it
//! ```
//!
//! `store` is a number made by chance when the store was, so that one store is never taken for another (seal.rs).
//! Table 0 are the fields of the identity.

use std::collections::BTreeMap;

use super::Table;

const CRC_LEN: usize = 4;
const ENTRY_LEN: usize = 17;
const IDENTITY_NO: u8 = 0;

/// How many rows, and the sum of their marks, in whatever order they came.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Sum {
    pub rows: u64,
    marks: u64,
}

impl Sum {
    pub fn add(&mut self, mark: u64) {
        self.rows = self.rows.wrapping_add(1);
        self.marks = self.marks.wrapping_add(mark);
    }

    pub fn remove(&mut self, mark: u64) {
        self.rows = self.rows.wrapping_sub(1);
        self.marks = self.marks.wrapping_sub(mark);
    }
}

/// The mark of a row, from its value, which ends with its checksum. Mixed (splitmix64): checksums of rows that differ
/// alike differ alike, and would cancel each other.
pub(super) fn mark(value: &[u8]) -> u64 {
    let crc = value.last_chunk::<CRC_LEN>().map_or(0, |crc| u32::from_le_bytes(*crc));
    let mut z = u64::from(crc).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The mark of a field of the identity, which has no checksum of its own.
pub(super) fn field_mark(name: &str, value: &[u8]) -> u64 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(name.as_bytes()), value);
    mark(&crc.to_le_bytes())
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Tally {
    /// Which store.
    pub store: u64,
    pub commits: u64,
    tables: BTreeMap<u8, Sum>,
}

impl Tally {
    pub fn of(store: u64) -> Tally {
        Tally { store, ..Tally::default() }
    }

    pub fn table(&mut self, table: Table) -> &mut Sum {
        self.tables.entry(table as u8).or_default()
    }

    pub fn identity(&mut self) -> &mut Sum {
        self.tables.entry(IDENTITY_NO).or_default()
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = [self.store.to_le_bytes(), self.commits.to_le_bytes()].concat();
        for (table, sum) in &self.tables {
            bytes.push(*table);
            bytes.extend_from_slice(&sum.rows.to_le_bytes());
            bytes.extend_from_slice(&sum.marks.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Option<Tally> {
        let (body, crc) = bytes.split_last_chunk::<CRC_LEN>()?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (store, rest) = number(body)?;
        let (commits, mut rest) = number(rest)?;
        let mut tally = Tally { store, commits, tables: BTreeMap::new() };
        while let Some((entry, more)) = rest.split_first_chunk::<ENTRY_LEN>() {
            let (rows, marks) = number(&entry[1..])?;
            let (marks, _) = number(marks)?;
            tally.tables.insert(entry[0], Sum { rows, marks });
            rest = more;
        }
        rest.is_empty().then_some(tally)
    }
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    bytes.split_first_chunk::<8>().map(|(number, rest)| (u64::from_le_bytes(*number), rest))
}
