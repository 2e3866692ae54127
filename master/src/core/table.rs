//! A table from ids to rows that takes little more memory than its rows.
//!
//! Ids are handed out one after the other, so neighbours lie in one page of [`SLOTS`] ids. A page has only the rows that are
//! there, in the order of their ids, and a bit for each of its ids that says whether it is: a page of which most was
//! removed is a small one.
//!
//! What must hold: a page has as many rows as bits; no page is empty; `len` is the sum of all.

use std::collections::BTreeMap;
use std::marker::PhantomData;

/// Ids of one page: the bits of a word.
const SLOTS: u64 = u64::BITS as u64;
/// Rows for which a page takes room at once.
const STEP: usize = 8;

/// Rows by id, in the order of ids.
pub(super) struct Table<K, V> {
    pages: BTreeMap<u64, Page<V>>,
    len: usize,
    ids: PhantomData<K>,
}

struct Page<V> {
    present: u64,
    rows: Vec<V>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Table { pages: BTreeMap::new(), len: 0, ids: PhantomData }
    }
}

impl<V> Page<V> {
    /// Where in `rows` a slot's row is, or would be.
    fn place(&self, slot: u64) -> usize {
        (self.present & ((1 << slot) - 1)).count_ones() as usize
    }

    fn find(&self, slot: u64) -> Option<usize> {
        (self.present >> slot & 1 == 1).then(|| self.place(slot))
    }

    /// The slots from this one on that have a row, each with it.
    fn from(&self, slot: u64) -> impl Iterator<Item = (u64, &V)> {
        let mut left = self.present & (u64::MAX << slot);
        let slots = std::iter::from_fn(move || {
            let next = (left != 0).then(|| u64::from(left.trailing_zeros()))?;
            left &= left - 1;
            Some(next)
        });
        slots.zip(self.rows.iter().skip(self.place(slot)))
    }
}

impl<K: From<u64> + Into<u64> + Copy, V> Table<K, V> {
    fn split(id: K) -> (u64, u64) {
        let id: u64 = id.into();
        (id / SLOTS, id % SLOTS)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get(&self, id: &K) -> Option<&V> {
        let (page, slot) = Self::split(*id);
        let page = self.pages.get(&page)?;
        page.rows.get(page.find(slot)?)
    }

    pub fn get_mut(&mut self, id: &K) -> Option<&mut V> {
        let (page, slot) = Self::split(*id);
        let page = self.pages.get_mut(&page)?;
        let at = page.find(slot)?;
        page.rows.get_mut(at)
    }

    pub fn contains_key(&self, id: &K) -> bool {
        self.get(id).is_some()
    }

    /// Puts a row in, and gives back the one that was there.
    pub fn insert(&mut self, id: K, row: V) -> Option<V> {
        let (page, slot) = Self::split(id);
        let page = self.pages.entry(page).or_insert_with(|| Page { present: 0, rows: Vec::new() });
        if let Some(old) = page.find(slot).and_then(|at| page.rows.get_mut(at)) {
            return Some(std::mem::replace(old, row));
        }
        let at = page.place(slot);
        if page.rows.len() == page.rows.capacity() {
            page.rows.reserve_exact(STEP);
        }
        page.rows.insert(at, row);
        page.present |= 1 << slot;
        self.len += 1;
        None
    }

    /// The row; one is put in if there is none.
    pub fn or_default(&mut self, id: K) -> &mut V
    where
        V: Default,
    {
        if !self.contains_key(&id) {
            self.insert(id, V::default());
        }
        let (page, slot) = Self::split(id);
        let page = self.pages.entry(page).or_insert_with(|| Page { present: 0, rows: Vec::new() });
        let at = page.place(slot);
        &mut page.rows[at]
    }

    pub fn remove(&mut self, id: &K) -> Option<V> {
        let (number, slot) = Self::split(*id);
        let page = self.pages.get_mut(&number)?;
        let at = page.find(slot)?;
        let row = page.rows.remove(at);
        page.present &= !(1 << slot);
        self.len -= 1;
        if page.rows.is_empty() {
            self.pages.remove(&number);
        } else if page.rows.len() + 2 * STEP <= page.rows.capacity() {
            page.rows.shrink_to(page.rows.len() + STEP);
        }
        Some(row)
    }

    /// All rows, by id.
    pub fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        self.pages.iter().flat_map(|(number, page)| {
            page.from(0).map(move |(slot, row)| (K::from(number * SLOTS + slot), row))
        })
    }

    /// Those from this id on.
    pub fn from(&self, id: K) -> impl Iterator<Item = (K, &V)> {
        let (first, slot) = Self::split(id);
        self.pages.range(first..).flat_map(move |(number, page)| {
            let from = if *number == first { slot } else { 0 };
            page.from(from).map(move |(slot, row)| (K::from(number * SLOTS + slot), row))
        })
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.pages.values().flat_map(|page| &page.rows)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dfs_proto::ids::ChunkId;
    use proptest::prelude::*;

    use super::*;

    fn ids() -> impl Strategy<Value = u64> {
        prop_oneof![0..200u64, (1 << 50)..(1 << 50) + 130u64, Just(u64::MAX), Just(u64::MAX - 64)]
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((ids(), any::<Option<u16>>()), 0..400), from in ids()) {
            let (mut table, mut map) = (Table::<ChunkId, u16>::default(), BTreeMap::new());
            for (id, row) in steps {
                let id = ChunkId(id);
                match row {
                    Some(row) => prop_assert_eq!(table.insert(id, row), map.insert(id, row)),
                    None => prop_assert_eq!(table.remove(&id), map.remove(&id)),
                }
                prop_assert_eq!(table.get(&id), map.get(&id));
                prop_assert_eq!(table.get_mut(&id), map.get_mut(&id));
                prop_assert_eq!((table.len(), table.is_empty()), (map.len(), map.is_empty()));
            }
            prop_assert!(table.iter().eq(map.iter().map(|(id, row)| (*id, row))));
            prop_assert!(table.from(ChunkId(from)).eq(map.range(ChunkId(from)..).map(|(id, row)| (*id, row))));
            prop_assert!(table.values().eq(map.values()));
            prop_assert!(table.pages.values().all(|page| !page.rows.is_empty()));
        }
    }
}
