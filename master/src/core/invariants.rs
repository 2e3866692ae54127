//! What must hold of the state, always: checked after a load, and after each command in tests.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::ids::{ChunkId, InodeNo, KeeperId};

use super::State;
use super::acl::{self, Acl, is_acl, is_security};
use super::inode::Body;
use super::table::Table;
use super::upload::Phase;

macro_rules! ensure {
    ($holds:expr, $($what:tt)+) => {
        if !$holds {
            return Err(format!($($what)+));
        }
    };
}

impl State {
    /// Checks every rule of the tables. Looks at everything: not for every day.
    ///
    /// # Errors
    /// The first rule that does not hold, and where.
    pub fn check(&self) -> Result<(), String> {
        self.check_names()?;
        self.check_census()?;
        self.check_extents()?;
        self.check_chunks()?;
        self.check_sessions()?;
        self.check_uploads()?;
        self.check_orders()?;
        self.check_compaction()?;
        self.check_locks()?;
        self.check_quotas()?;
        self.check_trash()?;
        self.acks.check()
    }

    fn check_names(&self) -> Result<(), String> {
        let root = self.inodes.get(&InodeNo::ROOT);
        ensure!(root.is_some_and(|root| root.is_dir()), "the root directory is missing");
        let mut names: Table<InodeNo, u32> = Table::default();
        for (parent, node) in self.inodes.iter() {
            ensure!(parent.0 != 0, "there is an inode 0");
            ensure!(parent.0 < self.ids.stored.next_inode, "inode {parent} was never handed out");
            let Body::Dir(dir) = &node.body else { continue };
            let mut subdirectories = 0;
            for inode in dir.entries.inodes() {
                *names.or_default(inode) += 1;
                let Some(child) = self.inodes.get(&inode) else {
                    return Err(format!(
                        "directory {parent} has an entry for inode {inode}, which is missing"
                    ));
                };
                if let Body::Dir(child) = &child.body {
                    subdirectories += 1;
                    ensure!(
                        child.parent == parent,
                        "directory {inode} is in {parent}, not in {}",
                        child.parent
                    );
                }
            }
            let removed = node.nlink == 0 && dir.entries.is_empty() && parent != InodeNo::ROOT;
            ensure!(
                node.nlink == 2 + subdirectories || removed,
                "directory {parent} has nlink {} and {subdirectories} subdirectories",
                node.nlink
            );
        }
        for (inode, node) in self.inodes.iter() {
            let names = names.get(&inode).copied().unwrap_or(0);
            if node.is_dir() {
                let want = u32::from(node.nlink > 0 && inode != InodeNo::ROOT);
                ensure!(names == want, "directory {inode} has {names} names and nlink {}", node.nlink);
            } else {
                ensure!(names == node.nlink, "inode {inode} has {names} names and nlink {}", node.nlink);
            }
            let held = self.opens.contains_key(&inode);
            let orphan = self.orphans.contains(&inode);
            let trashed = self.trash.has(inode);
            ensure!(!orphan || node.nlink == 0 && !held && !trashed, "inode {inode} is no orphan");
            ensure!(
                node.nlink > 0 || held || trashed || orphan,
                "inode {inode} has no name and nobody holds it"
            );
        }
        ensure!(self.orphans.iter().all(|inode| self.inodes.contains_key(inode)), "an orphan is gone");
        for (inode, name) in self.xattrs.keys() {
            ensure!(self.inodes.contains_key(inode), "inode {inode} is missing and has attribute {name:?}");
        }
        self.check_homes()?;
        self.check_access_lists()?;
        self.check_reachable()
    }

    /// Each is valid, where it may be, and says what the mode says; and who has one is known.
    fn check_access_lists(&self) -> Result<(), String> {
        let mut guarded = BTreeSet::new();
        for ((inode, name), value) in self.xattrs.iter().filter(|((_, name), _)| is_security(name)) {
            guarded.insert(*inode);
            let Some(node) = self.inodes.get(inode).filter(|_| is_acl(name)) else { continue };
            let list = Acl::parse(value).map_err(|error| format!("inode {inode}: {error}"))?;
            let Some(list) = list else { return Err(format!("inode {inode} has an empty access list")) };
            if **name == *acl::ACCESS {
                ensure!(!list.is_minimal(), "inode {inode} has an access list that says what its mode says");
                let mode = node.mode & 0o777;
                ensure!(
                    list.mode() == mode,
                    "inode {inode}: mode {mode:o} and access list {:o}",
                    list.mode()
                );
            } else {
                ensure!(node.is_dir(), "inode {inode} is no directory and has a default access list");
            }
        }
        for (inode, node) in self.inodes.iter() {
            let has = guarded.contains(&inode);
            ensure!(node.has_security == has, "inode {inode}: has_security is {}", node.has_security);
        }
        Ok(())
    }

    /// Every directory that has a name can be reached: there is no ring of them.
    fn check_reachable(&self) -> Result<(), String> {
        let mut reached = 0;
        let mut next = vec![InodeNo::ROOT];
        while let Some(inode) = next.pop() {
            reached += 1;
            if let Some(Body::Dir(dir)) = self.inodes.get(&inode).map(|node| &node.body) {
                let is_dir = |inode: &InodeNo| self.inodes.get(inode).is_some_and(|node| node.is_dir());
                next.extend(dir.entries.inodes().filter(is_dir));
            }
        }
        let named = self.inodes.values().filter(|node| node.is_dir() && node.nlink > 0).count();
        ensure!(reached == named, "{} directories cannot be reached", named.abs_diff(reached));
        Ok(())
    }

    fn check_extents(&self) -> Result<(), String> {
        let mut allocated: Table<InodeNo, u64> = Table::default();
        let mut refs: Table<ChunkId, (u32, u64)> = Table::default();
        let mut before = (InodeNo(0), 0);
        for (inode, start, span) in self.extents.iter() {
            let end = start.saturating_add(u64::from(span.length));
            let size = self.inodes.get(&inode).filter(|node| node.is_file()).map(|node| node.size);
            ensure!(size.is_some(), "inode {inode} is missing, or no file, and has an extent at {start}");
            ensure!(size >= Some(end), "inode {inode}: the extent at {start} reaches past the file's end");
            ensure!(span.length > 0, "inode {inode}: the extent at {start} is empty");
            ensure!(before.0 != inode || before.1 <= start, "inode {inode}: extents overlap at {start}");
            let chunk_end = u64::from(span.chunk_offset) + u64::from(span.length);
            let Some(chunk) = self.chunks.get(span.chunk) else {
                return Err(format!("inode {inode}: chunk {} at {start} is missing", span.chunk));
            };
            ensure!(
                chunk_end <= u64::from(chunk.length),
                "inode {inode}: the extent at {start} leaves its chunk"
            );
            *allocated.or_default(inode) += u64::from(span.length);
            let uses = refs.or_default(span.chunk);
            *uses = (uses.0 + 1, uses.1 + u64::from(span.length));
            before = (inode, end);
        }
        for (inode, node) in self.inodes.iter() {
            if let Body::File { allocated: kept, .. } = node.body {
                let counted = allocated.get(&inode).copied().unwrap_or(0);
                ensure!(kept == counted, "inode {inode}: {kept} bytes allocated, extents cover {counted}");
            }
        }
        for (id, chunk) in self.chunks.iter() {
            let (counted, used) = refs.get(&id).copied().unwrap_or_default();
            ensure!(chunk.refs == counted, "chunk {id} has {} references, {counted} extents", chunk.refs);
            ensure!(chunk.used == used, "chunk {id}: {} bytes used, extents cover {used}", chunk.used);
            ensure!(counted > 0, "chunk {id} is in no file");
        }
        Ok(())
    }

    fn check_chunks(&self) -> Result<(), String> {
        let mut on: BTreeMap<KeeperId, usize> = BTreeMap::new();
        let (mut wanting, mut surplus) = (0, 0);
        for (id, chunk) in self.chunks.iter() {
            ensure!(id.0 != 0 && id.0 < self.ids.stored.next_chunk, "chunk {id} was never handed out");
            ensure!(!self.uploads.contains_key(&id), "chunk {id} is in the table and on its way");
            ensure!(!self.compaction.jobs.contains_key(&id), "chunk {id} is in the table and being built");
            ensure!(chunk.keepers.is_sorted_by(|a, b| a < b), "chunk {id}: keepers are not in order");
            for keeper in &*chunk.keepers {
                ensure!(
                    self.keepers.contains_key(keeper),
                    "chunk {id} is on keeper {keeper}, which is unknown"
                );
                *on.entry(*keeper).or_default() += 1;
            }
            let live = self.count_live(&chunk.keepers);
            ensure!(chunk.live == live, "chunk {id} has {live} live copies, its index says {}", chunk.live);
            let tally = self.tally(&chunk.keepers);
            let wants = tally.missing(self.settings.copies, self.settings.min_copies) > 0;
            ensure!(self.chunks.wanting().contains(live, id) == wants, "chunk {id}: wanting is wrong");
            wanting += usize::from(wants);
            let too_many = tally.is_surplus(self.settings.copies);
            ensure!(self.chunks.surplus().contains(&id) == too_many, "chunk {id}: surplus is wrong");
            surplus += usize::from(too_many);
        }
        ensure!(self.chunks.wanting().len() == wanting, "chunks that want copies are not in the table");
        ensure!(self.chunks.surplus().len() == surplus, "surplus chunks are not in the table");
        for keeper in self.keepers.keys() {
            ensure!(
                keeper.0 != 0 && keeper.0 < self.ids.stored.next_keeper,
                "keeper {keeper}: not handed out"
            );
            let copies = on.get(keeper).copied().unwrap_or(0);
            let index = self.chunks.count_on(*keeper);
            ensure!(copies == index, "keeper {keeper} has {copies} copies, its index {index}");
            let strays = self.chunks.on(*keeper).find(|chunk| !self.chunks.has_copy(*chunk, *keeper));
            ensure!(strays.is_none(), "keeper {keeper}: its index has {strays:?}");
        }
        for (chunk, keeper) in self.syncs.unsynced() {
            let held = self.uploads.get(&chunk).is_some_and(|upload| upload.holders.contains(&keeper))
                || self.compaction.jobs.get(&chunk).is_some_and(|job| job.holders.contains(&keeper));
            ensure!(held || self.chunks.has_copy(chunk, keeper), "no copy of {chunk} on {keeper} to sync");
        }
        Ok(())
    }

    fn check_sessions(&self) -> Result<(), String> {
        let mut opens: BTreeMap<InodeNo, u32> = BTreeMap::new();
        for (inode, count) in self.sessions.values().flat_map(|session| &session.opens) {
            ensure!(*count > 0, "inode {inode} is open 0 times");
            *opens.entry(*inode).or_default() += count;
        }
        ensure!(opens == self.opens, "inodes held open: {:?}, sessions: {opens:?}", self.opens);
        for inode in opens.keys() {
            ensure!(self.inodes.contains_key(inode), "inode {inode} is open and gone");
        }
        Ok(())
    }

    fn check_uploads(&self) -> Result<(), String> {
        let mut queued = BTreeSet::new();
        for (id, session) in &self.sessions {
            for (inode, queue) in &session.pending {
                ensure!(!queue.is_empty(), "session {id}: an empty queue for inode {inode}");
                for chunk in queue {
                    ensure!(queued.insert(*chunk), "chunk {chunk} is queued twice");
                    let fits = self.uploads.get(chunk).is_some_and(|u| u.session == *id && u.inode == *inode);
                    ensure!(
                        fits,
                        "session {id}: chunk {chunk} is queued for inode {inode} and not under way"
                    );
                }
            }
        }
        for (chunk, upload) in &self.uploads {
            ensure!(queued.contains(chunk), "chunk {chunk} is under way and not queued");
            ensure!(self.inodes.contains_key(&upload.inode), "chunk {chunk}: inode {} is gone", upload.inode);
            let stored = matches!(upload.phase, Phase::Stored { .. });
            ensure!(stored || upload.holders.is_empty(), "chunk {chunk} is held and not stored");
            ensure!(upload.holders.is_sorted_by(|a, b| a < b), "chunk {chunk}: holders are not in order");
        }
        Ok(())
    }

    fn check_orders(&self) -> Result<(), String> {
        let mut counts: BTreeMap<KeeperId, (u32, u32, u64)> = BTreeMap::new();
        for upload in self.uploads.values().filter(|upload| upload.phase == Phase::Ticketed) {
            for keeper in &upload.placed {
                counts.entry(*keeper).or_default().2 += u64::from(upload.length);
            }
        }
        for job in self.compaction.jobs.values().filter(|job| job.checksum.is_none()) {
            counts.entry(job.builder).or_default().2 += u64::from(job.length);
        }
        for order in self.orders.map.values() {
            ensure!(order.source != order.destination, "chunk {} is copied to where it is", order.chunk);
            let has =
                self.subject(order.chunk).is_some_and(|subject| subject.holders.contains(&order.source));
            ensure!(has, "chunk {} is copied from keeper {}, which has it not", order.chunk, order.source);
            let length = self.chunks.get(order.chunk).map(|chunk| chunk.length);
            let length = length.or(self.uploads.get(&order.chunk).map(|upload| upload.length));
            let length = length.or(self.compaction.jobs.get(&order.chunk).map(|job| job.length));
            let Some(length) = length else {
                return Err(format!("chunk {} is gone and being copied", order.chunk));
            };
            counts.entry(order.source).or_default().0 += 1;
            let destination = counts.entry(order.destination).or_default();
            destination.1 += 1;
            destination.2 += u64::from(length);
        }
        for (id, keeper) in &self.keepers {
            let kept = (keeper.orders_out, keeper.orders_in, keeper.pending_bytes);
            let counted = counts.get(id).copied().unwrap_or_default();
            ensure!(kept == counted, "keeper {id}: orders and bytes under way are {counted:?}, not {kept:?}");
        }
        let index: BTreeSet<(ChunkId, u64)> = self.orders_index().collect();
        let orders: BTreeSet<(ChunkId, u64)> =
            self.orders.map.iter().map(|(number, order)| (order.chunk, *number)).collect();
        ensure!(index == orders, "orders by chunk are {index:?}, not {orders:?}");
        Ok(())
    }
}
