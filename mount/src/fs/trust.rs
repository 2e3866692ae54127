//! What the kernel was told, and for how long it may believe it. Pure but for the time that it is given.
//!
//! An answer may be cached for as long as the master remembers that it gave it, counted from when it was asked for:
//! within that time the master says when it is no longer so. Not at all, when a change of it was heard since it was
//! asked for (replies and invalidations overtake each other on their way through this process), and not while the
//! session is broken. Names and inodes that the kernel may have are kept as long as it may have them, for when
//! everything has to be forgotten: two generations of tables take turns, so memory is bounded.
//!
//! What must hold: whatever the kernel may use without asking is in the tables here. So is the content that it was last
//! told of, whether it may use that or not: a file's size must not go back to an earlier one when it is opened.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use crate::lock::lock;

/// Most names, and most inodes, of one generation. The kernel is not let cache more.
const MAX_HANDED: usize = 1 << 18;
/// Most inodes of which is known when they last changed. More, and everything counts as changed.
const MAX_CHANGED: usize = 1 << 16;
/// The kernel may take this long, at most, to take in an entry that it was told.
const TAKES_IN: Duration = Duration::from_secs(2);

/// When something was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    at: Instant,
    tick: u64,
}

impl Asked {
    /// Later than that?
    pub fn is_after(self, when: Instant) -> bool {
        self.at > when
    }

    /// Earlier than that?
    pub fn is_before(self, other: Asked) -> bool {
        self.at < other.at
    }
}

/// How long an entry may be cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ttl {
    /// The name.
    pub entry: Duration,
    /// The attributes of what it leads to.
    pub attr: Duration,
}

/// Everything that the kernel may have cached.
#[derive(Default, Debug)]
pub struct Handed {
    /// By directory.
    pub names: HashMap<InodeNo, Vec<Box<[u8]>>>,
    /// Attributes.
    pub inodes: HashSet<InodeNo>,
}

/// When each of some inodes last changed.
#[derive(Default)]
struct Changes(HashMap<InodeNo, u64>);

impl Changes {
    /// Forgets the rest when there are too many: then it returns false.
    fn note(&mut self, inode: InodeNo, tick: u64) -> bool {
        let fits = self.0.len() < MAX_CHANGED;
        if !fits {
            self.0.clear();
        }
        self.0.insert(inode, tick);
        fits
    }

    fn since(&self, inode: InodeNo, asked: Asked) -> bool {
        self.0.get(&inode).is_some_and(|tick| *tick > asked.tick)
    }
}

#[derive(Clone, Copy)]
struct Told {
    /// Of the newest attributes that it was told.
    content_version: u64,
    /// How many names it may think that this has: the most of what it was told, back to an answer that it had asked for
    /// after everything else. It does not believe one that it asked for before it took in another.
    nlink: u32,
    at: Instant,
    /// The directory through which it was last told, and when.
    through: Option<(InodeNo, Instant)>,
}

#[derive(Default)]
struct Generation {
    names: HashSet<(InodeNo, Box<[u8]>)>,
    inodes: HashMap<InodeNo, Told>,
}

#[derive(Default)]
struct State {
    tick: u64,
    /// What was asked for before this is old.
    floor: u64,
    broken: bool,
    attrs: Changes,
    /// Names in these directories, changed by others.
    names: Changes,
    /// By anybody.
    entries: Changes,
    young: Generation,
    old: Generation,
    rotated: Option<Instant>,
}

/// See the module.
pub struct Trust {
    /// The longest that anything may be cached.
    longest: Duration,
    state: Mutex<State>,
}

impl Trust {
    /// `longest` is at most what the master promised.
    pub fn new(longest: Duration) -> Trust {
        Trust { longest, state: Mutex::default() }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// To be called before the master is asked.
    pub fn ask(&self) -> Asked {
        Asked { at: Instant::now(), tick: self.locked().tick }
    }

    fn left(&self, asked: Asked) -> Duration {
        self.longest.saturating_sub(asked.at.elapsed())
    }

    /// The kernel will be told that `name` in `parent` is `inode`, or is not there. How long may it believe that?
    pub fn entry(&self, asked: Asked, parent: InodeNo, name: &[u8], attr: Option<&pb::Attr>) -> Ttl {
        let left = self.left(asked);
        let mut state = self.locked();
        state.rotate(self.longest);
        let may = !state.is_old(asked) && state.has_room();
        let entry = if may && !state.names.since(parent, asked) { left } else { Duration::ZERO };
        if !entry.is_zero() {
            state.young.names.insert((parent, name.into()));
        }
        let attr = match attr {
            Some(attr) => {
                let may = may && !state.attrs.since(InodeNo(attr.inode), asked);
                // Also when it may not be cached: the notice that came too early for it has to be repeated.
                state.tell(asked, attr, Some((parent, Instant::now())));
                if may { left } else { Duration::ZERO }
            }
            None => Duration::ZERO,
        };
        Ttl { entry, attr }
    }

    /// The kernel will be told an inode's attributes.
    pub fn attr(&self, asked: Asked, attr: &pb::Attr) -> Duration {
        let left = self.left(asked);
        let inode = InodeNo(attr.inode);
        let mut state = self.locked();
        state.rotate(self.longest);
        if !state.has_room() {
            return Duration::ZERO;
        }
        let may = !state.is_old(asked) && !state.attrs.since(inode, asked);
        let through = state.told(inode).and_then(|told| told.through);
        state.tell(asked, attr, through);
        if may { left } else { Duration::ZERO }
    }

    /// Was the kernel told of a newer content of this inode than that one?
    pub fn has_told_newer(&self, attr: &pb::Attr) -> bool {
        let told = self.locked().told(InodeNo(attr.inode)).copied();
        told.is_some_and(|told| told.content_version > attr.content_version)
    }

    /// Was the kernel last told that this inode has more names?
    pub fn has_told_more_names(&self, attr: &pb::Attr) -> bool {
        self.locked().told(InodeNo(attr.inode)).is_some_and(|told| told.nlink > attr.nlink)
    }

    /// Did anybody, this mount too, change a name in this directory since?
    pub fn has_new_entries(&self, asked: Asked, directory: InodeNo) -> bool {
        self.locked().entries.since(directory, asked)
    }

    /// Is the list of this directory that was asked for then still right, the directory above it too?
    pub fn is_list_right(&self, asked: Asked, directory: InodeNo) -> bool {
        let state = self.locked();
        let changed = state.entries.since(directory, asked) || state.attrs.since(directory, asked);
        !changed && !state.is_old(asked) && !self.is_over(asked)
    }

    /// Are the attributes of this inode that were asked for then still right?
    pub fn is_attr_right(&self, asked: Asked, inode: InodeNo) -> bool {
        let state = self.locked();
        !state.attrs.since(inode, asked) && !state.is_old(asked) && !self.is_over(asked)
    }

    /// Did nobody else change a name in this directory since, as far as would be known?
    pub fn are_names_right(&self, asked: Asked, directory: InodeNo) -> bool {
        let state = self.locked();
        !state.names.since(directory, asked) && !state.is_old(asked) && !self.is_over(asked)
    }

    /// Was it asked for so long ago that nobody speaks of changes of it any more?
    pub fn is_over(&self, asked: Asked) -> bool {
        self.left(asked).is_zero()
    }

    /// The attributes of this inode changed, whoever did it.
    pub fn attrs_changed(&self, inode: InodeNo) {
        let mut state = self.locked();
        state.tick += 1;
        let tick = state.tick;
        if !state.attrs.note(inode, tick) {
            state.floor = tick;
        }
    }

    /// This mount changed the attributes of this inode by what it asked for at `asked`. As of when do those in the answer count?
    /// `None`: something else changed them since, before or after.
    pub fn own_change(&self, inode: InodeNo, asked: Asked) -> Option<Asked> {
        let mut state = self.locked();
        let overlaps = state.is_old(asked) || state.attrs.since(inode, asked);
        state.tick += 1;
        let tick = state.tick;
        if !state.attrs.note(inode, tick) {
            state.floor = tick;
        }
        (!overlaps).then_some(Asked { tick, ..asked })
    }

    /// May the attributes of this inode have changed since, as far as was heard? Of files that are open, all is heard.
    pub fn changed_since(&self, asked: Asked, inode: InodeNo) -> bool {
        let state = self.locked();
        asked.tick < state.floor || state.attrs.since(inode, asked)
    }

    /// Somebody else changed a name in this directory. `own`: this mount did, whose kernel knows.
    pub fn names_changed(&self, directory: InodeNo, own: bool) {
        let mut state = self.locked();
        state.tick += 1;
        let tick = state.tick;
        let fits = state.entries.note(directory, tick) && (own || state.names.note(directory, tick));
        if !fits {
            state.floor = tick;
        }
    }

    /// The directory whose lock the kernel may still hold while it takes in an entry for this inode.
    pub fn being_told_through(&self, inode: InodeNo) -> Option<InodeNo> {
        let (directory, at) = self.locked().told(inode)?.through?;
        (at.elapsed() < TAKES_IN).then_some(directory)
    }

    /// Two names moved or came without an entry being told (rename): the kernel has them all the same.
    pub fn moved(&self, directory: InodeNo, name: &[u8]) {
        let mut state = self.locked();
        state.rotate(self.longest);
        state.young.names.insert((directory, name.into()));
    }

    /// The session is lost: nothing may be cached from now on. Returns what has to be forgotten.
    pub fn lost(&self) -> Handed {
        let mut state = self.locked();
        state.broken = true;
        state.take_all()
    }

    /// The session is back: what is asked for from now on may be cached. Returns what has to be forgotten.
    pub fn resumed(&self) -> Handed {
        let mut state = self.locked();
        state.broken = false;
        state.tick += 1;
        state.floor = state.tick;
        state.take_all()
    }
}

impl State {
    fn is_old(&self, asked: Asked) -> bool {
        self.broken || asked.tick < self.floor
    }

    fn has_room(&self) -> bool {
        self.young.names.len() < MAX_HANDED && self.young.inodes.len() < MAX_HANDED
    }

    /// The kernel will be told this.
    fn tell(&mut self, asked: Asked, attr: &pb::Attr, through: Option<(InodeNo, Instant)>) {
        let inode = InodeNo(attr.inode);
        let told =
            Told { content_version: attr.content_version, nlink: attr.nlink, at: Instant::now(), through };
        let told = match self.told(inode) {
            Some(before) => Told {
                content_version: told.content_version.max(before.content_version),
                nlink: if asked.at > before.at { told.nlink } else { told.nlink.max(before.nlink) },
                ..told
            },
            None => told,
        };
        self.young.inodes.insert(inode, told);
    }

    fn told(&self, inode: InodeNo) -> Option<&Told> {
        self.young.inodes.get(&inode).or_else(|| self.old.inodes.get(&inode))
    }

    fn rotate(&mut self, longest: Duration) {
        let now = Instant::now();
        let last = *self.rotated.get_or_insert(now);
        if now.saturating_duration_since(last) >= longest.max(TAKES_IN) {
            self.rotated = Some(now);
            self.old = std::mem::take(&mut self.young);
        }
    }

    fn take_all(&mut self) -> Handed {
        let mut handed = Handed::default();
        for generation in [std::mem::take(&mut self.young), std::mem::take(&mut self.old)] {
            handed.inodes.extend(generation.inodes.into_keys());
            for (parent, name) in generation.names {
                handed.names.entry(parent).or_default().push(name);
            }
        }
        handed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(30);
    const DIR: InodeNo = InodeNo(1);
    const FILE: InodeNo = InodeNo(5);

    fn attr(inode: u64, content_version: u64) -> pb::Attr {
        pb::Attr { inode, content_version, ..Default::default() }
    }

    fn entry(trust: &Trust, asked: Asked) -> (bool, bool) {
        let ttl = trust.entry(asked, DIR, b"f", Some(&attr(FILE.0, 1)));
        assert!(ttl.entry <= LONGEST && ttl.attr <= LONGEST);
        (!ttl.entry.is_zero(), !ttl.attr.is_zero())
    }

    #[test]
    fn what_changed_since_it_was_asked_for_is_not_cached() {
        let trust = Trust::new(LONGEST);
        let asked = trust.ask();
        assert_eq!(entry(&trust, asked), (true, true));
        trust.attrs_changed(FILE);
        assert_eq!(entry(&trust, asked), (true, false));
        assert!(trust.attr(asked, &attr(FILE.0, 1)).is_zero());
        trust.names_changed(DIR, false);
        assert_eq!(entry(&trust, asked), (false, false));
        assert_eq!(entry(&trust, trust.ask()), (true, true));
    }

    #[test]
    fn nothing_is_cached_while_the_session_is_broken_nor_what_was_asked_for_before() {
        let trust = Trust::new(LONGEST);
        let before = trust.ask();
        entry(&trust, before);
        let handed = trust.lost();
        assert_eq!(handed.names[&DIR], [Box::from(&b"f"[..])]);
        assert!(handed.inodes.contains(&FILE));
        assert_eq!(entry(&trust, trust.ask()), (false, false));
        let during = trust.ask();
        trust.resumed();
        assert_eq!(entry(&trust, before), (false, false));
        assert_eq!(entry(&trust, during), (false, false));
        assert_eq!(entry(&trust, trust.ask()), (true, true));
    }

    #[test]
    fn an_answer_is_cached_for_what_is_left_of_the_time() {
        let trust = Trust::new(Duration::ZERO);
        assert_eq!(entry(&trust, trust.ask()), (false, false));
    }

    #[test]
    fn a_list_is_right_until_an_entry_changes_or_the_directory_itself() {
        let trust = Trust::new(LONGEST);
        let first = trust.ask();
        assert!(trust.is_list_right(first, DIR));
        trust.names_changed(DIR, true);
        assert!(!trust.is_list_right(first, DIR));
        let second = trust.ask();
        assert!(trust.is_list_right(second, DIR) && !trust.is_list_right(first, DIR));
        assert!(entry(&trust, first).0, "the kernel knows of this mount's own changes of names");
        trust.attrs_changed(DIR);
        assert!(!trust.is_list_right(second, DIR));
        let third = trust.ask();
        trust.lost();
        assert!(!trust.is_list_right(third, DIR));
        assert!(!Trust::new(Duration::ZERO).is_list_right(third, DIR), "it is too old");
    }

    #[test]
    fn through_which_directory_an_inode_was_told_is_known_for_a_while() {
        let trust = Trust::new(LONGEST);
        assert_eq!(trust.being_told_through(FILE), None);
        entry(&trust, trust.ask());
        assert_eq!(trust.being_told_through(FILE), Some(DIR));
    }

    #[test]
    fn the_newest_content_that_was_told_is_known_also_when_it_may_not_be_cached() {
        let trust = Trust::new(LONGEST);
        let asked = trust.ask();
        trust.attrs_changed(FILE);
        assert!(trust.attr(asked, &attr(FILE.0, 7)).is_zero());
        entry(&trust, trust.ask());
        assert!(trust.has_told_newer(&attr(FILE.0, 6)));
        assert!(!trust.has_told_newer(&attr(FILE.0, 7)) && !trust.has_told_newer(&attr(9, 0)));
    }

    #[test]
    fn the_names_that_the_kernel_may_think_of_go_down_with_what_it_asked_for_last_alone() {
        let trust = Trust::new(LONGEST);
        let names = |nlink| pb::Attr { nlink, ..attr(FILE.0, 1) };
        let early = trust.ask();
        assert!(!trust.has_told_more_names(&names(0)), "nothing was told");
        trust.entry(trust.ask(), DIR, b"f", Some(&names(2)));
        assert!(trust.has_told_more_names(&names(1)) && !trust.has_told_more_names(&names(2)));
        trust.attr(early, &names(1));
        assert!(trust.has_told_more_names(&names(1)), "the kernel does not believe it");
        std::thread::sleep(Duration::from_millis(1));
        trust.attr(trust.ask(), &names(1));
        assert!(!trust.has_told_more_names(&names(1)));
    }

    #[test]
    fn the_tables_are_bounded() {
        let trust = Trust::new(LONGEST);
        let asked = trust.ask();
        for inode in 0..=MAX_HANDED as u64 {
            trust.attr(asked, &attr(inode, 1));
        }
        assert!(trust.attr(asked, &attr(u64::MAX, 1)).is_zero());
        (0..=MAX_CHANGED as u64).for_each(|inode| trust.attrs_changed(InodeNo(inode)));
        assert!(trust.attr(asked, &attr(7, 1)).is_zero(), "it may be among those that changed");
    }
}
