//! The table of file locks: who holds what, who waits, and who would wait for ever. Pure, and knows nothing of
//! the rest of the state.
//!
//! What must hold: no two owners hold ranges of one file that conflict; a lock is granted in the order of
//! asking among those that conflict (so nobody starves), but for waits that have to overtake because the one
//! ahead waits, perhaps through others, for them; a wait that is not blocked is granted at once.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::ids::{InodeNo, SessionId};
use dfs_proto::lock_ranges::{LockMode, LockRange, LockRanges};

/// Locks of different kinds on one inode do not see each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum LockKind {
    /// Byte ranges. The only kind for which a ring of waits is an error.
    Fcntl,
    /// Whole files; changing the mode gives up what is held first, as flock(2) has it.
    Flock,
    /// The append lease.
    Append,
}

/// What a lock is on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct LockFile {
    pub inode: InodeNo,
    pub kind: LockKind,
}

/// Who holds a lock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Owner {
    pub session: SessionId,
    pub number: u64,
}

#[derive(Default, Debug)]
struct File {
    held: BTreeMap<Owner, (LockRanges, u32)>,
    waits: BTreeSet<u64>,
}

/// A request that cannot be granted yet.
#[derive(Debug)]
struct Wait {
    file: LockFile,
    owner: Owner,
    range: LockRange,
    request: u64,
    pid: u32,
    /// Need not stand behind earlier waits.
    hasty: bool,
}

/// A wait that is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Granted {
    pub owner: Owner,
    pub file: LockFile,
    pub request: u64,
}

/// What became of a request that may wait.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Asked {
    Granted,
    Waits,
    Deadlock,
}

/// See the module.
#[derive(Default, Debug)]
pub(super) struct LockTable {
    files: BTreeMap<LockFile, File>,
    /// In the order of asking.
    waits: BTreeMap<u64, Wait>,
    waits_of: BTreeMap<Owner, BTreeSet<u64>>,
    next_wait: u64,
    ranges_of: BTreeMap<SessionId, usize>,
}

impl LockTable {
    /// Ranges that a session holds.
    pub fn held_by(&self, session: SessionId) -> usize {
        self.ranges_of.get(&session).copied().unwrap_or(0)
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waits.len()
    }

    /// The first lock of somebody else that is in the way.
    pub fn conflict(
        &self,
        file: LockFile,
        owner: Owner,
        range: &LockRange,
    ) -> Option<(Owner, LockRange, u32)> {
        let held = &self.files.get(&file)?.held;
        let others = held.iter().filter(|(other, _)| **other != owner);
        let mut conflicts =
            others.filter_map(|(other, (ranges, pid))| Some((*other, *ranges.conflict(range)?, *pid)));
        conflicts.next()
    }

    /// Who holds a lock on this file, of this kind.
    pub fn holders(&self, file: LockFile) -> impl Iterator<Item = Owner> {
        self.files.get(&file).into_iter().flat_map(|inner| inner.held.keys().copied())
    }

    /// Does anybody wait for this file?
    pub fn is_waited_for(&self, file: LockFile) -> bool {
        self.files.get(&file).is_some_and(|inner| !inner.waits.is_empty())
    }

    /// The files on which a session holds locks of this kind.
    pub fn files_of(&self, session: SessionId, kind: LockKind) -> Vec<LockFile> {
        let of_kind = self.files.iter().filter(|(file, _)| file.kind == kind);
        let held = of_kind.filter(|(_, inner)| inner.held.keys().any(|owner| owner.session == session));
        held.map(|(file, _)| *file).collect()
    }

    /// Gives up what an owner has in another mode than `mode`. Returns the waits that this ended.
    pub fn give_up_for(&mut self, file: LockFile, owner: Owner, mode: LockMode) -> Vec<Granted> {
        let held = self.files.get(&file).and_then(|inner| inner.held.get(&owner));
        if !held.is_some_and(|(ranges, _)| ranges.iter().any(|range| range.mode != mode)) {
            return Vec::new();
        }
        self.set(file, owner, (0, u64::MAX, None), 0)
    }

    /// Locks or unlocks, without a look at who else has it. Returns the waits that this ended.
    pub fn set(
        &mut self,
        file: LockFile,
        owner: Owner,
        (start, end, mode): (u64, u64, Option<LockMode>),
        pid: u32,
    ) -> Vec<Granted> {
        self.put(file, owner, (start, end, mode), pid);
        self.advance(BTreeSet::from([file]))
    }

    fn put(
        &mut self,
        file: LockFile,
        owner: Owner,
        (start, end, mode): (u64, u64, Option<LockMode>),
        pid: u32,
    ) {
        let held = &mut self.files.entry(file).or_default().held;
        let (ranges, holder) = held.entry(owner).or_default();
        let before = ranges.len();
        ranges.set(start, end, mode);
        if mode.is_some() {
            *holder = pid;
        }
        let after = ranges.len();
        if after == 0 {
            held.remove(&owner);
        }
        let count = self.ranges_of.entry(owner.session).or_default();
        *count = *count + after - before;
        if *count == 0 {
            self.ranges_of.remove(&owner.session);
        }
        self.tidy(file);
    }

    fn tidy(&mut self, file: LockFile) {
        if self.files.get(&file).is_some_and(|file| file.held.is_empty() && file.waits.is_empty()) {
            self.files.remove(&file);
        }
    }

    /// Takes a lock now or later. The second value: other waits that this ended (a weaker lock than before may
    /// let others in).
    pub fn ask(
        &mut self,
        file: LockFile,
        owner: Owner,
        range: LockRange,
        request: u64,
        pid: u32,
    ) -> (Asked, Vec<Granted>) {
        self.next_wait += 1;
        let number = self.next_wait;
        self.waits.insert(number, Wait { file, owner, range, request, pid, hasty: false });
        self.waits_of.entry(owner).or_default().insert(number);
        self.files.entry(file).or_default().waits.insert(number);
        let (mut todo, deadlock) = self.untangle(owner);
        let blocked = self.conflict(file, owner, &range).is_some();
        if deadlock && blocked && file.kind == LockKind::Fcntl {
            self.remove_wait(number);
            todo.insert(file);
            return (Asked::Deadlock, self.advance(todo));
        }
        todo.insert(file);
        let mut granted = self.advance(todo);
        let before = granted.len();
        granted.retain(|grant| (grant.owner, grant.request) != (owner, request));
        (if granted.len() < before { Asked::Granted } else { Asked::Waits }, granted)
    }

    /// Ends the waits that `which` chooses, ungranted. Returns their owners and requests, and what was granted.
    pub fn cancel(
        &mut self,
        which: impl Fn(LockFile, Owner, u64) -> bool,
    ) -> (Vec<(Owner, u64)>, Vec<Granted>) {
        let chosen = |wait: &Wait| which(wait.file, wait.owner, wait.request);
        let numbers: Vec<u64> =
            self.waits.iter().filter(|(_, wait)| chosen(wait)).map(|(number, _)| *number).collect();
        let gone: Vec<Wait> = numbers.into_iter().filter_map(|number| self.remove_wait(number)).collect();
        let granted = self.advance(gone.iter().map(|wait| wait.file).collect());
        (gone.iter().map(|wait| (wait.owner, wait.request)).collect(), granted)
    }

    /// Frees every lock that `which` chooses. Returns whether there was one, and what was granted.
    pub fn drop_held(&mut self, which: impl Fn(LockFile, Owner) -> bool) -> (bool, Vec<Granted>) {
        let mut chosen = Vec::new();
        for (file, held) in self.files.iter().map(|(file, inner)| (*file, &inner.held)) {
            chosen.extend(held.keys().filter(|owner| which(file, **owner)).map(|owner| (file, *owner)));
        }
        for (file, owner) in &chosen {
            self.put(*file, *owner, (0, u64::MAX, None), 0);
        }
        (!chosen.is_empty(), self.advance(chosen.iter().map(|(file, _)| *file).collect()))
    }

    /// Takes all locks of a session, and lets nobody in yet: `advance` of the files that are returned does.
    pub fn take_all_of(&mut self, session: SessionId) -> BTreeSet<LockFile> {
        let mut chosen = Vec::new();
        for (file, inner) in &self.files {
            chosen.extend(inner.held.keys().filter(|o| o.session == session).map(|owner| (*file, *owner)));
        }
        for (file, owner) in &chosen {
            self.put(*file, *owner, (0, u64::MAX, None), 0);
        }
        chosen.into_iter().map(|(file, _)| file).collect()
    }

    /// Locks, and lets nobody in yet.
    pub fn put_silently(&mut self, file: LockFile, owner: Owner, range: LockRange, pid: u32) {
        self.put(file, owner, (range.start, range.end, Some(range.mode)), pid);
    }

    fn remove_wait(&mut self, number: u64) -> Option<Wait> {
        let wait = self.waits.remove(&number)?;
        if let Some(of_owner) = self.waits_of.get_mut(&wait.owner) {
            of_owner.remove(&number);
            if of_owner.is_empty() {
                self.waits_of.remove(&wait.owner);
            }
        }
        if let Some(file) = self.files.get_mut(&wait.file) {
            file.waits.remove(&number);
        }
        self.tidy(wait.file);
        Some(wait)
    }

    /// Who keeps a wait waiting: the owner, and whether it does so only by having asked first.
    fn blockers(&self, number: u64, only_holders: bool) -> Vec<(Owner, bool)> {
        let Some(wait) = self.waits.get(&number) else { return Vec::new() };
        let Some(file) = self.files.get(&wait.file) else { return Vec::new() };
        let others = file.held.iter().filter(|(owner, _)| **owner != wait.owner);
        let holders = others.filter(|(_, (ranges, _))| ranges.conflict(&wait.range).is_some());
        let mut blockers: Vec<(Owner, bool)> = holders.map(|(owner, _)| (*owner, false)).collect();
        if !only_holders && !wait.hasty {
            let earlier = file.waits.range(..number).filter_map(|number| self.waits.get(number));
            let ahead = earlier.filter(|e| e.owner != wait.owner && e.range.conflicts(&wait.range));
            blockers.extend(ahead.map(|e| (e.owner, true)));
        }
        blockers
    }

    /// Grants what is not blocked any more, in these files and whatever follows from it.
    pub fn advance(&mut self, mut todo: BTreeSet<LockFile>) -> Vec<Granted> {
        let mut all = Vec::new();
        while let Some(file) = todo.pop_first() {
            let Some(inner) = self.files.get(&file) else { continue };
            for number in inner.waits.clone() {
                if !self.blockers(number, false).is_empty() {
                    continue;
                }
                let Some(wait) = self.remove_wait(number) else { continue };
                let LockRange { start, end, mode } = wait.range;
                self.put(file, wait.owner, (start, end, Some(mode)), wait.pid);
                all.push(Granted { owner: wait.owner, file, request: wait.request });
                // It may have been exclusive before, and it is no longer ahead of anybody.
                todo.insert(file);
                if self.waits_of.contains_key(&wait.owner) {
                    todo.extend(self.untangle(wait.owner).0);
                }
            }
        }
        all
    }

    /// Lets waits overtake where standing in line would close a ring through `owner`. Returns the files where
    /// one may, and whether a ring of holders alone is left: a deadlock.
    fn untangle(&mut self, owner: Owner) -> (BTreeSet<LockFile>, bool) {
        let mut files = BTreeSet::new();
        let deadlock = self.ring(owner, true).is_some();
        while !deadlock && let Some(in_line) = self.ring(owner, false) {
            for number in in_line {
                if let Some(wait) = self.waits.get_mut(&number) {
                    wait.hasty = true;
                    files.insert(wait.file);
                }
            }
        }
        (files, deadlock)
    }

    /// A way from `start` through those that it waits for back to `start`: the waits on it that only stand in
    /// line.
    fn ring(&self, start: Owner, only_holders: bool) -> Option<Vec<u64>> {
        let mut came: BTreeMap<Owner, (Owner, u64, bool)> = BTreeMap::new();
        let mut next = vec![start];
        while let Some(owner) = next.pop() {
            for number in self.waits_of.get(&owner).into_iter().flatten() {
                for (blocker, in_line) in self.blockers(*number, only_holders) {
                    if blocker == start {
                        let mut waits: Vec<u64> = in_line.then_some(*number).into_iter().collect();
                        let mut at = owner;
                        while at != start {
                            let Some((before, number, in_line)) = came.get(&at).copied() else { break };
                            waits.extend(in_line.then_some(number));
                            at = before;
                        }
                        return Some(waits);
                    }
                    came.entry(blocker).or_insert_with(|| {
                        next.push(blocker);
                        (owner, *number, in_line)
                    });
                }
            }
        }
        None
    }

    /// Every file with locks or waits, and every session with some.
    pub fn named(&self) -> (BTreeSet<InodeNo>, BTreeSet<SessionId>) {
        let sessions = self.ranges_of.keys().copied().chain(self.waits_of.keys().map(|owner| owner.session));
        (self.files.keys().map(|file| file.inode).collect(), sessions.collect())
    }

    /// Checks every rule of the table.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn check(&self) -> Result<(), String> {
        let mut counts: BTreeMap<SessionId, usize> = BTreeMap::new();
        for (file, inner) in &self.files {
            if inner.held.is_empty() && inner.waits.is_empty() {
                return Err(format!("locks of {file:?}: an empty row"));
            }
            for (owner, (ranges, _)) in &inner.held {
                *counts.entry(owner.session).or_default() += ranges.len();
                if ranges.is_empty() || !ranges.is_tidy() {
                    return Err(format!("locks of {file:?}: {owner:?} has {ranges:?}"));
                }
                if let Some(other) = ranges.iter().find_map(|range| self.conflict(*file, *owner, range)) {
                    return Err(format!("locks of {file:?}: {owner:?} and {other:?} conflict"));
                }
            }
            for number in &inner.waits {
                if self.waits.get(number).is_none_or(|wait| wait.file != *file) {
                    return Err(format!("locks of {file:?}: wait {number} is of another file"));
                }
                if self.blockers(*number, false).is_empty() {
                    return Err(format!("locks of {file:?}: {:?} waits for nobody", self.waits.get(number)));
                }
            }
        }
        let waits: usize = self.files.values().map(|file| file.waits.len()).sum();
        let by_owner: usize = self.waits_of.values().map(BTreeSet::len).sum();
        if waits != self.waits.len() || by_owner != self.waits.len() {
            return Err(format!("{} lock waits, {waits} of files, {by_owner} of owners", self.waits.len()));
        }
        if counts != self.ranges_of {
            return Err(format!("locks by session are {counts:?}, not {:?}", self.ranges_of));
        }
        Ok(())
    }
}
