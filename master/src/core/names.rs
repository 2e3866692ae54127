//! The names of a directory, packed: sorted pages of bytes, in which an entry takes its name's bytes and nine more.
//!
//! An entry is the length of its name (1 byte), the name, and the inode (8 bytes, little-endian). A page is at most
//! [`PAGE`] bytes, so that an entry is found by a search over the pages' first names and a look through one page. Pages that
//! become too long are cut in two, and small neighbours are joined; where names come in their order, pages are filled.
//!
//! What must hold: entries ascend within a page and from page to page; no page is empty.

use dfs_proto::ids::InodeNo;

/// Bytes of a page at most.
const PAGE: usize = 1024;
/// A page with fewer is joined with its neighbour, if both fit well.
const SMALL: usize = PAGE / 4;
/// Bytes for which a page takes room at once.
const STEP: usize = 128;
const INODE_LEN: usize = 8;

/// Names, each with an inode.
#[derive(Default)]
pub(super) struct Names {
    pages: Vec<Page>,
}

struct Page(Vec<u8>);

impl Page {
    /// Entries from a place on: where each begins, its name and inode.
    fn from(&self, at: usize) -> impl Iterator<Item = (usize, &[u8], InodeNo)> {
        let mut at = at;
        std::iter::from_fn(move || {
            let begins = at;
            let (len, rest) = self.0.get(at..)?.split_first()?;
            let (name, rest) = rest.split_at_checked(usize::from(*len))?;
            let inode = rest.first_chunk::<INODE_LEN>()?;
            at += entry_len(name);
            Some((begins, name, InodeNo(u64::from_le_bytes(*inode))))
        })
    }

    fn first(&self) -> &[u8] {
        self.from(0).next().map_or(&[], |(_, name, _)| name)
    }

    /// Where a name's entry begins, or would, and its inode.
    fn find(&self, name: &[u8]) -> (usize, Option<InodeNo>) {
        for (at, have, inode) in self.from(0) {
            if have >= name {
                return (at, (have == name).then_some(inode));
            }
        }
        (self.0.len(), None)
    }

    fn put(&mut self, at: usize, name: &[u8], inode: InodeNo) {
        let len = entry_len(name);
        if self.0.capacity() - self.0.len() < len {
            self.0.reserve_exact(len.max(STEP));
        }
        let end = self.0.len();
        self.0.resize(end + len, 0);
        self.0.copy_within(at..end, at + len);
        let entry = &mut self.0[at..at + len];
        // Names have at most 255 bytes.
        entry[0] = name.len() as u8;
        entry[1..=name.len()].copy_from_slice(name);
        entry[1 + name.len()..].copy_from_slice(&inode.0.to_le_bytes());
    }

    /// The second half.
    fn cut(&mut self) -> Page {
        let half = self.0.len() / 2;
        let at = self.from(0).map(|(at, ..)| at).find(|at| *at >= half).unwrap_or(self.0.len());
        let rest = Page(self.0[at..].to_vec());
        self.0.truncate(at);
        self.0.shrink_to_fit();
        rest
    }
}

fn entry_len(name: &[u8]) -> usize {
    1 + name.len() + INODE_LEN
}

impl Names {
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// The page that has a name, or would.
    fn page_of(&self, name: &[u8]) -> usize {
        self.pages.partition_point(|page| page.first() <= name).saturating_sub(1)
    }

    pub fn get(&self, name: &[u8]) -> Option<InodeNo> {
        self.pages.get(self.page_of(name))?.find(name).1
    }

    pub fn contains(&self, name: &[u8]) -> bool {
        self.get(name).is_some()
    }

    /// Puts a name of 1 to 255 bytes in, and gives back the inode that it led to.
    pub fn insert(&mut self, name: &[u8], inode: InodeNo) -> Option<InodeNo> {
        let number = self.page_of(name);
        let is_last = number + 1 >= self.pages.len();
        let Some(page) = self.pages.get_mut(number) else {
            self.pages.push(Page(Vec::new()));
            return self.insert(name, inode);
        };
        let (at, old) = page.find(name);
        if old.is_some() {
            let value = at + 1 + name.len();
            page.0[value..value + INODE_LEN].copy_from_slice(&inode.0.to_le_bytes());
            return old;
        }
        if page.0.len() + entry_len(name) <= PAGE {
            page.put(at, name, inode);
        } else if is_last && at == page.0.len() {
            page.0.shrink_to_fit();
            let mut next = Page(Vec::new());
            next.put(0, name, inode);
            self.pages.push(next);
        } else {
            let mut rest = page.cut();
            if at < page.0.len() {
                page.put(at, name, inode);
            } else {
                rest.put(at - page.0.len(), name, inode);
            }
            self.pages.insert(number + 1, rest);
        }
        None
    }

    pub fn remove(&mut self, name: &[u8]) -> Option<InodeNo> {
        let number = self.page_of(name);
        let page = self.pages.get_mut(number)?;
        let (at, inode) = page.find(name);
        let inode = inode?;
        page.0.drain(at..at + entry_len(name));
        if page.0.is_empty() {
            self.pages.remove(number);
        } else if page.0.len() < SMALL {
            self.join(number);
        }
        Some(inode)
    }

    /// A page that has become small takes in the one behind it, or is taken in by the one before it.
    fn join(&mut self, number: usize) {
        let fits = |first: usize| match (self.pages.get(first), self.pages.get(first + 1)) {
            (Some(one), Some(other)) => one.0.len() + other.0.len() <= PAGE - SMALL,
            _ => false,
        };
        let first = [Some(number), number.checked_sub(1)].into_iter().flatten().find(|first| fits(*first));
        let Some(first) = first else { return self.pages[number].0.shrink_to(SMALL + STEP) };
        let rest = self.pages.remove(first + 1);
        let page = &mut self.pages[first].0;
        page.reserve_exact(rest.0.len());
        page.extend_from_slice(&rest.0);
        if self.pages.capacity() > 2 * self.pages.len() + 8 {
            self.pages.shrink_to(self.pages.len() + 4);
        }
    }

    /// All, in the order of names as bytes.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], InodeNo)> {
        self.pages.iter().flat_map(|page| page.from(0)).map(|(_, name, inode)| (name, inode))
    }

    /// Those after this name; all after the empty one.
    pub fn after(&self, name: &[u8]) -> impl Iterator<Item = (&[u8], InodeNo)> {
        let number = self.page_of(name);
        let first = self.pages.get(number);
        let from = first.map_or(0, |page| match page.find(name) {
            (at, Some(_)) => at + entry_len(name),
            (at, None) => at,
        });
        let rest = self.pages.get(number + 1..).unwrap_or_default();
        let rest = rest.iter().flat_map(|page| page.from(0));
        first
            .into_iter()
            .flat_map(move |page| page.from(from))
            .chain(rest)
            .map(|(_, name, inode)| (name, inode))
    }

    pub fn inodes(&self) -> impl Iterator<Item = InodeNo> {
        self.iter().map(|(_, inode)| inode)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Bound;

    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(b'a'..=b'c', 1..4),
            (0..400u32).prop_map(|n| format!("file{n:06}").into_bytes()),
            (0..20u8).prop_map(|n| vec![n + 1; 255]),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_map(
            steps in prop::collection::vec((name(), prop_oneof![3 => (1..9u64).prop_map(Some), 2 => Just(None)]), 0..600),
            after in name(),
            in_order in any::<bool>(),
        ) {
            let (mut names, mut map) = (Names::default(), BTreeMap::new());
            let mut steps = steps;
            if in_order {
                steps.sort();
            }
            for (name, inode) in steps {
                match inode.map(InodeNo) {
                    Some(inode) => prop_assert_eq!(names.insert(&name, inode), map.insert(name.clone(), inode)),
                    None => prop_assert_eq!(names.remove(&name), map.remove(&name)),
                }
                prop_assert_eq!(names.get(&name), map.get(&name).copied());
                prop_assert_eq!(names.contains(&name), map.contains_key(&name));
                prop_assert_eq!(names.is_empty(), map.is_empty());
            }
            prop_assert!(names.iter().eq(map.iter().map(|(name, inode)| (&name[..], *inode))));
            prop_assert!(names.after(b"").eq(names.iter()));
            let rest = map.range::<Vec<u8>, _>((Bound::Excluded(&after), Bound::Unbounded));
            prop_assert!(names.after(&after).eq(rest.map(|(name, inode)| (&name[..], *inode))));
            prop_assert!(names.pages.iter().all(|page| !page.0.is_empty() && page.0.len() <= PAGE));
        }
    }

    #[test]
    fn names_in_order_fill_their_pages_and_few_that_are_left_are_joined() {
        let mut names = Names::default();
        let all: Vec<Vec<u8>> = (0..10_000).map(|n| format!("file{n:08}").into_bytes()).collect();
        for (at, name) in all.iter().enumerate() {
            names.insert(name, InodeNo(at as u64));
        }
        let held: usize = names.pages.iter().map(|page| page.0.capacity()).sum();
        assert!(held < all.len() * (12 + 9) * 105 / 100, "{held} bytes");
        for name in all.iter().enumerate().filter(|(at, _)| at % 10 != 0).map(|(_, name)| name) {
            names.remove(name);
        }
        let held: usize = names.pages.iter().map(|page| page.0.capacity()).sum();
        assert!(held < 1000 * (12 + 9) * 4, "{held} bytes in {} pages", names.pages.len());
    }
}
