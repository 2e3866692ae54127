//! The table of extents: which spans of chunks a file is made of, by file offset.
//!
//! Most files are one span from their first byte on. That one lies in the table itself; any other file has a map of its own.

use std::collections::BTreeMap;

use dfs_proto::ids::InodeNo;

use super::content::Span;
use super::table::Table;

/// Those of all files. They never overlap; content.rs sees to that.
#[derive(Default)]
pub(super) struct Extents {
    files: Table<InodeNo, Spans>,
}

enum Spans {
    /// At offset 0.
    One(Span),
    // In a box, so that this is no larger than the one above.
    #[allow(clippy::box_collection)]
    Many(Box<BTreeMap<u64, Span>>),
}

impl Spans {
    fn one(&self) -> Option<(u64, Span)> {
        match self {
            Spans::One(span) => Some((0, *span)),
            Spans::Many(_) => None,
        }
    }

    fn many(&self) -> Option<&BTreeMap<u64, Span>> {
        match self {
            Spans::One(_) => None,
            Spans::Many(map) => Some(map),
        }
    }

    fn all(&self) -> impl Iterator<Item = (u64, Span)> {
        let many = self.many().into_iter().flatten();
        self.one().into_iter().chain(many.map(|(at, span)| (*at, *span)))
    }
}

impl Extents {
    pub fn get(&self, inode: InodeNo, at: u64) -> Option<Span> {
        match self.files.get(&inode)? {
            Spans::One(span) => (at == 0).then_some(*span),
            Spans::Many(map) => map.get(&at).copied(),
        }
    }

    /// The last that begins before this offset.
    pub fn last_before(&self, inode: InodeNo, offset: u64) -> Option<(u64, Span)> {
        match self.files.get(&inode)? {
            Spans::One(span) => (offset > 0).then_some((0, *span)),
            Spans::Many(map) => map.range(..offset).next_back().map(|(at, span)| (*at, *span)),
        }
    }

    /// Those that begin in [from, to), by offset. `from` is not above `to`.
    pub fn beginning_in(&self, inode: InodeNo, from: u64, to: u64) -> impl Iterator<Item = (u64, Span)> {
        let spans = self.files.get(&inode);
        let one = spans.and_then(Spans::one).filter(|_| from == 0 && to > 0);
        let many = spans.and_then(Spans::many).into_iter().flat_map(move |map| map.range(from..to));
        one.into_iter().chain(many.map(|(at, span)| (*at, *span)))
    }

    /// Puts one in, and gives back the one that began there.
    pub fn insert(&mut self, inode: InodeNo, at: u64, span: Span) -> Option<Span> {
        match self.files.get_mut(&inode) {
            None if at == 0 => {
                self.files.insert(inode, Spans::One(span));
                None
            }
            None => {
                self.files.insert(inode, Spans::Many(Box::new(BTreeMap::from([(at, span)]))));
                None
            }
            Some(Spans::One(old)) if at == 0 => Some(std::mem::replace(old, span)),
            Some(spans @ Spans::One(_)) => {
                let both = spans.all().chain([(at, span)]).collect();
                *spans = Spans::Many(Box::new(both));
                None
            }
            Some(Spans::Many(map)) => map.insert(at, span),
        }
    }

    pub fn remove(&mut self, inode: InodeNo, at: u64) -> Option<Span> {
        let spans = self.files.get_mut(&inode)?;
        let (removed, is_over) = match spans {
            Spans::One(_) if at != 0 => (None, false),
            Spans::One(span) => (Some(*span), true),
            Spans::Many(map) => (map.remove(&at), map.is_empty()),
        };
        if is_over {
            self.files.remove(&inode);
        } else if let Spans::Many(map) = spans
            && map.len() == 1
            && let Some(span) = map.get(&0).copied()
        {
            *spans = Spans::One(span);
        }
        removed
    }

    /// The first file from this one on that has any.
    pub fn next_file(&self, from: InodeNo) -> Option<InodeNo> {
        self.files.from(from).next().map(|(inode, _)| inode)
    }

    /// All of them, by file and offset.
    pub fn iter(&self) -> impl Iterator<Item = (InodeNo, u64, Span)> {
        self.files.iter().flat_map(|(inode, spans)| spans.all().map(move |(at, span)| (inode, at, span)))
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::ids::ChunkId;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map(
            steps in prop::collection::vec((1..4u64, 0..4u64, any::<Option<u32>>()), 0..100),
            (inode, from, more) in (1..5u64, 0..5u64, 0..5u64),
        ) {
            let (mut extents, mut map) = (Extents::default(), BTreeMap::new());
            for (inode, at, length) in steps {
                let inode = InodeNo(inode);
                match length {
                    Some(length) => {
                        let span = Span { length, chunk_offset: 0, chunk: ChunkId(7) };
                        prop_assert_eq!(extents.insert(inode, at, span), map.insert((inode, at), span));
                    }
                    None => prop_assert_eq!(extents.remove(inode, at), map.remove(&(inode, at))),
                }
                prop_assert_eq!(extents.get(inode, at), map.get(&(inode, at)).copied());
            }
            let all = map.iter().map(|((inode, at), span)| (*inode, *at, *span));
            prop_assert!(extents.iter().eq(all));
            let inode = InodeNo(inode);
            let of = |from: u64, to: u64| map.range((inode, from)..(inode, to)).map(|((_, at), span)| (*at, *span));
            prop_assert!(extents.beginning_in(inode, from, from + more).eq(of(from, from + more)));
            prop_assert_eq!(extents.last_before(inode, from), of(0, from).next_back());
            prop_assert_eq!(extents.next_file(inode), map.range((inode, 0)..).next().map(|((inode, _), _)| *inode));
        }
    }
}
