//! The changes of one commit as bytes: what a record of the journal holds, and what the tables take.
//!
//! ```text
//! (table:1 key_len:2 value:4 key value)*        numbers little-endian; `value`: its length + 1, or 0 to delete the row
//! ```
//!
//! Tables, keys and values are those of codec.rs.

use std::collections::BTreeMap;

use super::codec::{self, Table};
use crate::core::RowChange;

const HEAD_LEN: usize = 7;

/// What rows of one table are to be, by key: a value, or nothing.
pub(super) type TableChanges<'a> = BTreeMap<&'a [u8], Option<&'a [u8]>>;

/// Appends the changes, in their order.
pub(super) fn encode(changes: &[RowChange], out: &mut Vec<u8>) {
    for change in changes {
        let (table, key, value) = match change {
            RowChange::Put(row) => {
                let (table, key, value) = codec::encode(row);
                (table, key, Some(value))
            }
            RowChange::Delete(key) => {
                let (table, key) = codec::encode_key(key);
                (table, key, None)
            }
        };
        // A key is a name and two numbers at most, a value what fits a message.
        out.push(table as u8);
        out.extend_from_slice(&(key.len() as u16).to_le_bytes());
        out.extend_from_slice(&value.as_ref().map_or(0, |value| value.len() as u32 + 1).to_le_bytes());
        out.extend_from_slice(&key);
        out.extend_from_slice(&value.unwrap_or_default());
    }
}

/// Adds what a batch changes to what earlier ones did: the last change to a key wins. `None`: the bytes are no batch.
pub(super) fn gather<'a>(batch: &'a [u8], into: &mut BTreeMap<Table, TableChanges<'a>>) -> Option<()> {
    let mut rest = batch;
    while let Some((head, more)) = rest.split_first_chunk::<HEAD_LEN>() {
        let [number, a, b, length @ ..] = *head;
        let table = Table::ALL.into_iter().find(|table| *table as u8 == number)?;
        let (key, more) = more.split_at_checked(usize::from(u16::from_le_bytes([a, b])))?;
        let (value, more) = match u32::from_le_bytes(length).checked_sub(1) {
            None => (None, more),
            Some(length) => {
                let (value, more) = more.split_at_checked(usize::try_from(length).ok()?)?;
                (Some(value), more)
            }
        };
        into.entry(table).or_default().insert(key, value);
        rest = more;
    }
    rest.is_empty().then_some(())
}

#[cfg(test)]
mod tests {
    use super::super::codec::tests::samples;
    use super::*;

    #[test]
    fn what_was_encoded_is_gathered_and_the_last_change_wins() {
        let rows = samples();
        let mut bytes = Vec::new();
        encode(&rows.iter().cloned().map(RowChange::Put).collect::<Vec<_>>(), &mut bytes);
        let mut deletes = Vec::new();
        encode(&[RowChange::Delete(codec::key_of(&rows[0]))], &mut deletes);
        let mut changes = BTreeMap::new();
        gather(&bytes, &mut changes).unwrap();
        gather(&deletes, &mut changes).unwrap();
        assert_eq!(changes.values().map(BTreeMap::len).sum::<usize>(), rows.len());
        for (n, row) in rows.iter().enumerate() {
            let (table, key, value) = codec::encode(row);
            assert_eq!(changes[&table][&key[..]], (n > 0).then_some(&value[..]), "{row:?}");
        }
    }

    #[test]
    fn what_is_no_batch_is_refused() {
        let mut bytes = Vec::new();
        encode(&[RowChange::Put(samples().remove(0))], &mut bytes);
        for length in 1..bytes.len() {
            assert!(gather(&bytes[..length], &mut BTreeMap::new()).is_none(), "cut to {length}");
        }
        assert!(gather(&[99, 0, 0, 0, 0, 0, 0], &mut BTreeMap::new()).is_none(), "a table that nobody knows");
        assert!(gather(&[], &mut BTreeMap::new()).is_some());
    }
}
