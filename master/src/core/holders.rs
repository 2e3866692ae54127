//! The keepers that have a copy of one chunk. Up to three, which is what most chunks have, lie in the chunk itself.

use std::ops::Deref;

use dfs_proto::ids::KeeperId;

const FEW: usize = 3;

/// Sorted, each once.
#[derive(Clone, Debug)]
pub(super) enum Holders {
    /// The first so many of them.
    Few(u8, [KeeperId; FEW]),
    Many(Box<[KeeperId]>),
}

impl Holders {
    /// Of a list that is sorted.
    pub fn of(list: Vec<KeeperId>) -> Holders {
        let mut few = [KeeperId(0); FEW];
        match few.get_mut(..list.len()) {
            Some(part) => {
                part.copy_from_slice(&list);
                // At most FEW.
                Holders::Few(list.len() as u8, few)
            }
            None => Holders::Many(list.into()),
        }
    }

    /// Was it new?
    pub fn insert(&mut self, keeper: KeeperId) -> bool {
        let Err(at) = self.binary_search(&keeper) else { return false };
        let mut list = self.to_vec();
        list.insert(at, keeper);
        *self = Holders::of(list);
        true
    }

    /// Was it there?
    pub fn remove(&mut self, keeper: KeeperId) -> bool {
        let Ok(at) = self.binary_search(&keeper) else { return false };
        let mut list = self.to_vec();
        list.remove(at);
        *self = Holders::of(list);
        true
    }
}

impl Deref for Holders {
    type Target = [KeeperId];

    fn deref(&self) -> &[KeeperId] {
        match self {
            Holders::Few(count, few) => &few[..usize::from(*count)],
            Holders::Many(many) => many,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepers_come_and_go_in_order() {
        let mut holders = Holders::of(Vec::new());
        for keeper in [5, 1, 9, 3, u64::MAX] {
            assert!(holders.insert(KeeperId(keeper)) && !holders.insert(KeeperId(keeper)));
        }
        assert_eq!(*holders, [1, 3, 5, 9, u64::MAX].map(KeeperId));
        assert!(holders.remove(KeeperId(5)) && !holders.remove(KeeperId(5)));
        assert!(holders.remove(KeeperId(1)));
        assert_eq!(*holders, [3, 9, u64::MAX].map(KeeperId));
        assert!(matches!(holders, Holders::Few(3, _)));
        for keeper in [3, 9, u64::MAX] {
            assert!(holders.remove(KeeperId(keeper)));
        }
        assert!(holders.is_empty());
    }
}
