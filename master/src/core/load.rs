//! The state from its rows, in any order; and what no row has: reference counts, allocated bytes, entries,
//! parents. What was loaded has to pass every check of `invariants.rs` before it is served from.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::ids::{ChunkId, InodeNo, KeeperId};
use dfs_proto::ticket::TicketKey;

use super::State;
use super::chunks::Chunk;
use super::command::Now;
use super::content::Span;
use super::holders::Holders;
use super::ids::Ids;
use super::inode::{Body, Inode};
use super::keepers::Keeper;
use super::namespace::check_name;
use super::row::{ChunkRow, Counters, ExtentRow, Name, QuotaRow, Row};
use super::session::ORPHAN_GRACE_MS;
use super::xattr::{MAX_XATTR_LEN, MAX_XATTR_NAME_LEN};

/// A stored row makes no sense, or the rows do not fit together.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the master's store is damaged: {0}; move the data directory away, do not delete it, and restore a backup: \
     dfs-master --data DIR --restore FILE (docs/DUMP.md)"
)]
pub struct CorruptRow(pub String);

fn corrupt<T>(what: impl Into<String>) -> Result<T, CorruptRow> {
    Err(CorruptRow(what.into()))
}

/// What waits until every row is there.
#[derive(Default)]
pub(super) struct Loading {
    counters: Option<Counters>,
    dentries: Vec<(InodeNo, Name, InodeNo)>,
    quotas: BTreeMap<InodeNo, QuotaRow>,
}

impl Loading {
    pub fn is_empty(&self) -> bool {
        self.counters.is_none() && self.dentries.is_empty() && self.quotas.is_empty()
    }
}

impl State {
    /// Takes in one stored row; they may come in any order.
    ///
    /// # Errors
    /// The row makes no sense by itself, or came twice.
    pub fn load_row(&mut self, row: Row) -> Result<(), CorruptRow> {
        match row {
            Row::Counters(counters) => match self.loading.counters.replace(counters) {
                None => Ok(()),
                Some(_) => corrupt("the row of counters is there twice"),
            },
            Row::Inode(inode, row) => {
                let node = Inode::from_row(row).or_else(|e| corrupt(format!("inode {inode}: {e}")))?;
                match self.insert_inode(inode, node) {
                    None => Ok(()),
                    Some(_) => corrupt(format!("inode {inode} is there twice")),
                }
            }
            Row::Dentry { parent, name, inode } => {
                if let Err(error) = check_name(&name) {
                    return corrupt(format!("an entry of directory {parent}: {error}"));
                }
                // A store gives inodes before names, which then need not be kept twice.
                if self.inodes.contains_key(&parent) && self.inodes.contains_key(&inode) {
                    return self.load_dentry(parent, name, inode);
                }
                self.loading.dentries.push((parent, name, inode));
                Ok(())
            }
            Row::Extent(inode, row) => self.load_extent(inode, row),
            Row::Chunk(chunk, row) => self.load_chunk(chunk, row),
            Row::Xattr { inode, name, value } => {
                if name.is_empty() || name.len() > MAX_XATTR_NAME_LEN || value.len() > MAX_XATTR_LEN {
                    return corrupt(format!("an attribute of inode {inode} has no name, or is too long"));
                }
                match self.xattrs.insert((inode, name), value) {
                    None => Ok(()),
                    Some(_) => corrupt(format!("an attribute of inode {inode} is there twice")),
                }
            }
            Row::Reply { session, request, reply } => match self.replies.load(session, request, reply) {
                true => Ok(()),
                false => {
                    corrupt(format!("the reply to request {request} of session {session} is there twice"))
                }
            },
            Row::Keeper(id, row) => {
                let key = TicketKey::derive(&self.settings.secret, id);
                match self.keepers.insert(id, Keeper::away(row, key)) {
                    None => Ok(()),
                    Some(_) => corrupt(format!("keeper {id} is there twice")),
                }
            }
            Row::Quota(inode, row) => match self.loading.quotas.insert(inode, row) {
                None => Ok(()),
                Some(_) => corrupt(format!("the quota of directory {inode} is there twice")),
            },
            Row::Trash(inode, row) => match self.trash.insert(inode, row) {
                true => Ok(()),
                false => corrupt(format!("inode {inode} is in the trash twice")),
            },
            Row::Session(id) => self.roll.load(id),
            Row::User(name, row) => match self.users.insert(&name, row) {
                true => Ok(()),
                false => corrupt(format!("user '{name}' is there twice, or has an impossible name")),
            },
        }
    }

    fn load_extent(&mut self, inode: InodeNo, row: ExtentRow) -> Result<(), CorruptRow> {
        let Ok(length) = u32::try_from(row.length) else {
            return corrupt(format!(
                "inode {inode}: an extent at {} is longer than a chunk",
                row.file_offset
            ));
        };
        let span = Span { length, chunk_offset: row.chunk_offset, chunk: row.chunk };
        match self.extents.insert(inode, row.file_offset, span) {
            None => Ok(()),
            Some(_) => corrupt(format!("inode {inode}: the extent at {} is there twice", row.file_offset)),
        }
    }

    fn load_chunk(&mut self, chunk: ChunkId, row: ChunkRow) -> Result<(), CorruptRow> {
        if !row.keepers.is_sorted_by(|a: &KeeperId, b| a < b) {
            return corrupt(format!("chunk {chunk}: its keepers are not in order, or one is there twice"));
        }
        let ChunkRow { length, checksum, keepers } = row;
        let keepers = Holders::of(keepers);
        if !self.chunks.insert(chunk, Chunk { length, checksum, refs: 0, used: 0, live: 0, keepers }) {
            return corrupt(format!("chunk {chunk} is there twice"));
        }
        Ok(())
    }

    /// All rows are there. `now` begins the time in which mounts may come back to files without a name.
    ///
    /// # Errors
    /// The rows do not fit together.
    pub fn finish_load(&mut self, now: impl Into<Now>) -> Result<(), CorruptRow> {
        let now_ms = now.into().steady_ms;
        let loading = std::mem::take(&mut self.loading);
        let Some(counters) = loading.counters else { return corrupt("the row of counters is missing") };
        self.ids = Ids::loaded(counters);
        for (parent, name, inode) in loading.dentries {
            self.load_dentry(parent, name, inode)?;
        }
        if let Some(Body::Dir(root)) = self.inodes.get_mut(&InodeNo::ROOT).map(|node| &mut node.body) {
            root.parent = InodeNo::ROOT;
        }
        for (inode, _, span) in self.extents.iter() {
            self.chunks.add_ref(span.chunk, span.length);
            if let Some(Body::File { allocated, .. }) = self.inodes.get_mut(&inode).map(|node| &mut node.body)
            {
                *allocated += u64::from(span.length);
            }
        }
        self.reindex_many(self.chunks.iter().map(|(chunk, _)| chunk).collect());
        let guarded: BTreeSet<InodeNo> = self.xattrs.keys().map(|(inode, _)| *inode).collect();
        guarded.into_iter().for_each(|inode| self.derive_security(inode));
        let nameless = self.inodes.iter().filter(|(inode, node)| node.nlink == 0 && !self.trash.has(*inode));
        self.orphans = nameless.map(|(inode, _)| inode).collect();
        self.grace_until_ms = now_ms + ORPHAN_GRACE_MS;
        self.roll.begin_after_load(now_ms);
        self.locks.begin_grace(now_ms);
        self.syncs.begin_after_load(self.keepers.keys().copied(), now_ms);
        self.orders.quiet.begin(now_ms);
        self.compaction.begin_after_load();
        self.check().map_err(CorruptRow)?;
        // Last: what is counted has to be a tree.
        for (inode, row) in loading.quotas {
            self.load_quota(inode, row).map_err(CorruptRow)?;
        }
        self.check_quotas().map_err(CorruptRow)
    }

    fn load_dentry(&mut self, parent: InodeNo, name: Name, inode: InodeNo) -> Result<(), CorruptRow> {
        match self.inodes.get_mut(&inode).map(|node| &mut node.body) {
            None => {
                return corrupt(format!(
                    "directory {parent} has an entry for inode {inode}, which is missing"
                ));
            }
            Some(Body::Dir(dir)) if dir.parent != InodeNo(0) || inode == InodeNo::ROOT => {
                return corrupt(format!("directory {inode} has two names"));
            }
            Some(Body::Dir(dir)) => {
                dir.parent = parent;
                dir.name = name.clone();
            }
            Some(_) => self.gain_home(inode, parent),
        }
        let Some(Body::Dir(dir)) = self.inodes.get_mut(&parent).map(|node| &mut node.body) else {
            return corrupt(format!("inode {parent} has entries and is no directory"));
        };
        match dir.entries.insert(&name, inode) {
            None => Ok(()),
            Some(_) => corrupt(format!("directory {parent} has a name twice")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::RowKey;
    use super::super::testkit::{Kit, settings};
    use super::*;

    fn rows() -> Vec<Row> {
        let mut kit = Kit::with_keepers(2);
        let dir = kit.mkdir(InodeNo::ROOT, "d");
        let file = kit.create(dir, "f");
        kit.upload(file, 0, 10);
        kit.upload(file, 20, 10);
        kit.stored_rows()
    }

    fn load(rows: impl IntoIterator<Item = Row>) -> Result<State, CorruptRow> {
        let mut state = State::new(settings());
        for row in rows {
            state.load_row(row)?;
        }
        state.finish_load(dfs_proto::pb::Time { sec: 1_000, nsec: 0 })?;
        Ok(state)
    }

    #[test]
    fn any_order_gives_the_same_state() {
        let rows = rows();
        let forward = load(rows.clone()).unwrap();
        let backward = load(rows.iter().rev().cloned()).unwrap();
        for state in [forward, backward] {
            assert!(!state.is_empty());
            for row in &rows {
                let key = super::super::testkit::key_of(row);
                assert_eq!(state.row(&key).as_ref(), Some(row));
            }
        }
    }

    #[test]
    fn a_missing_or_doubled_row_is_found() {
        let rows = rows();
        for at in 0..rows.len() {
            let mut missing = rows.clone();
            let row = missing.remove(at);
            let doubled = rows.iter().chain([&row]).cloned();
            assert!(load(doubled).is_err(), "twice: {row:?}");
            // A hole in a file is nothing that could be seen, but its chunk is then nobody's. Of a reply nothing says
            // that it was there, nor of a session.
            let unseen = matches!(row, Row::Reply { .. } | Row::Session(_));
            assert!(unseen || load(missing).is_err(), "without: {row:?}");
        }
    }

    #[test]
    fn a_row_that_does_not_fit_is_found() {
        let rows = rows();
        let with = |change: &dyn Fn(&mut Row) -> bool| {
            let mut rows = rows.clone();
            assert!(rows.iter_mut().any(change));
            load(rows).map(|_| ())
        };
        let inode = |row: &mut Row, change: &dyn Fn(&mut super::super::row::InodeRow)| match row {
            Row::Inode(InodeNo(3), row) => {
                change(row);
                true
            }
            _ => false,
        };
        assert!(with(&|row| inode(row, &|r| r.nlink = 2)).is_err());
        assert!(with(&|row| inode(row, &|r| r.size = 29)).is_err());
        assert!(with(&|row| inode(row, &|r| r.mode = 0o644)).is_err());
        assert!(with(&|row| inode(row, &|r| r.target = Some(b"x"[..].into()))).is_err());
        let extent = |row: &mut Row, change: &dyn Fn(&mut ExtentRow)| match row {
            Row::Extent(_, row) => {
                change(row);
                true
            }
            _ => false,
        };
        assert!(with(&|row| extent(row, &|r| r.length = 11)).is_err());
        assert!(with(&|row| extent(row, &|r| r.length = 0)).is_err());
        assert!(with(&|row| extent(row, &|r| r.file_offset = u64::MAX)).is_err());
        assert!(with(&|row| extent(row, &|r| r.chunk = ChunkId(77))).is_err());
        let counters = |row: &mut Row, change: &dyn Fn(&mut Counters)| match row {
            Row::Counters(row) => {
                change(row);
                true
            }
            _ => false,
        };
        assert!(with(&|row| counters(row, &|c| c.next_chunk = 2)).is_err());
        assert!(with(&|row| counters(row, &|c| c.next_inode = 3)).is_err());
        assert!(with(&|row| counters(row, &|c| c.next_keeper = 2)).is_err());
        assert!(load(Vec::new()).is_err());
        assert!(State::new(settings()).is_empty());
        assert_eq!(RowKey::Counters, super::super::testkit::key_of(&rows[0]));
    }

    #[test]
    fn ids_go_on_after_what_was_reserved() {
        let mut kit = Kit::with_keepers(2);
        let file = kit.create(InodeNo::ROOT, "f");
        let mut last = 0;
        for round in 0..3 {
            for _ in 0..700 {
                let placed = kit.alloc(file, 0, 1);
                assert!(placed.chunk > last, "round {round}");
                last = placed.chunk;
            }
            let inode = kit.create(InodeNo::ROOT, &format!("g{round}"));
            kit.restart();
            kit.hello(super::super::testkit::SESSION, &[file, inode]);
            for keeper in [1, 2] {
                kit.keeper_hello(KeeperId(keeper), "h");
            }
            assert!(kit.create(InodeNo::ROOT, &format!("h{round}")) > inode);
        }
    }
}
