//! Directory handles. Lists are in the order of names, and go on after a name: one that stays is therefore in each list
//! exactly once, whatever else comes and goes. The kernel goes on from a number instead, which the handle turns back into a
//! name (`places`). Every list is the handle's own: the kernel keeps none (`lists`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use dfs_proto::error::DfsError;
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use super::Fs;
use super::lists::{List, Listed};
use super::open_file::Handles;
use super::places::{FIRST_NAME, Name, Places};
use super::trust::{Asked, Ttl};
use crate::lock::lock;

/// Entries asked for at once.
const PAGE: u32 = 1024;

/// Directory handles by number.
#[derive(Default)]
pub struct DirHandles {
    handles: Handles<DirHandle>,
    open: Mutex<HashMap<InodeNo, Open>>,
}

/// A directory with handles.
#[derive(Default)]
struct Open {
    handles: usize,
    /// What it was when this mount removed it: who has it open may look at it all the same.
    removed: Option<pb::Attr>,
}

/// One listing.
pub struct DirHandle {
    /// Which directory.
    pub inode: InodeNo,
    /// Listing it changes no atime (O_NOATIME).
    pub no_atime: bool,
    state: Mutex<Listing>,
}

/// What was listed so far.
#[derive(Default)]
struct Listing {
    places: Places,
    /// What the next entries are taken from.
    page: Option<Page>,
    /// All entries since the start, while they are fetched in one go.
    whole: Option<List>,
}

/// Some entries that follow each other.
struct Page {
    /// They are all that come after this name,
    after: Name,
    /// up to the last one, or to the end.
    end: bool,
    entries: Entries,
    asked: Asked,
    /// Of the directory itself, for "..".
    parent: InodeNo,
    /// To list them counts as reading the directory already.
    read: bool,
}

enum Entries {
    /// By this handle, with attributes.
    Fetched(Vec<(Name, pb::Attr)>),
    /// Of a list that was known to be right when this one was begun, or went on.
    Known(Arc<List>),
}

/// What a listing is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Names, inodes and types.
    Names,
    /// Attributes too.
    Attributes,
}

/// One entry, for whoever answers the kernel.
pub struct Entry<'a> {
    /// Goes on after this entry.
    pub cookie: u64,
    /// As bytes.
    pub name: &'a [u8],
    /// What the name leads to.
    pub inode: InodeNo,
    /// The type of that.
    pub mode: u32,
    /// Attributes, where they are wanted; never of "." and "..".
    pub attr: Option<pb::Attr>,
    /// How long it may be cached.
    pub ttl: Ttl,
}

impl DirHandle {
    /// Nothing is listed yet.
    fn new(inode: InodeNo, no_atime: bool) -> DirHandle {
        DirHandle { inode, no_atime, state: Mutex::default() }
    }

    fn locked(&self) -> MutexGuard<'_, Listing> {
        lock(&self.state)
    }

    /// Gives the entries from `cookie` on to `take`, until it says that it is full or there are no more, if nothing has to be
    /// asked for that; false if something has.
    pub fn list_known(
        &self,
        fs: &Fs,
        cookie: u64,
        wanted: Wanted,
        take: impl FnMut(Entry<'_>) -> bool,
    ) -> bool {
        let mut state = self.locked();
        // A place that was never told: nothing is there.
        let Some(after) = state.places.name(cookie) else { return true };
        // A listing from the start (opendir, rewinddir) shows what is there now.
        let goes_on = cookie != 0 && state.page.as_ref().is_some_and(|page| page.has(&after, cookie, wanted));
        if !goes_on {
            // No attributes are known of it, but of "." and ".." none are needed.
            let known = (wanted == Wanted::Names || cookie < FIRST_NAME)
                .then(|| fs.lists.get(&fs.trust, self.inode))
                .flatten();
            let Some(list) = known else { return false };
            state.page = Some(Page::known(list));
        }
        self.give(fs, &mut state, cookie, wanted, take);
        true
    }

    /// The same, with what the master says.
    ///
    /// # Errors
    /// The master's.
    pub async fn list(
        &self,
        fs: &Fs,
        cookie: u64,
        wanted: Wanted,
        mut take: impl FnMut(Entry<'_>) -> bool + Send,
    ) -> Result<(), DfsError> {
        if self.list_known(fs, cookie, wanted, &mut take) {
            return Ok(());
        }
        let Some(after) = self.locked().places.name(cookie) else { return Ok(()) };
        let page = self.fetch(fs, after).await?;
        fs.until_counted(0, page.attrs()).await;
        let mut state = self.locked();
        let whole = state.whole_with(&page).filter(|list| !fs.lists.is_too_long(list.entries.len()));
        match whole {
            Some(list) if page.end => fs.lists.put(self.inode, List { read: !self.no_atime, ..list }),
            whole => state.whole = whole,
        }
        state.page = Some(page);
        self.give(fs, &mut state, cookie, wanted, take);
        Ok(())
    }

    /// One page an answer is enough: the kernel asks again until an answer is empty.
    fn give(
        &self,
        fs: &Fs,
        state: &mut Listing,
        cookie: u64,
        wanted: Wanted,
        mut take: impl FnMut(Entry<'_>) -> bool,
    ) {
        let Listing { places, page: Some(page), .. } = state else { return };
        if cookie == 0 {
            places.begin();
            let counted = page.read && fs.atimes.counts_lists_once();
            if !self.no_atime && !counted {
                fs.atimes.read_directory(self.inode);
            }
        }
        let Some(after) = places.name(cookie) else { return };
        let dots: [(u64, &[u8], InodeNo); 2] = [(1, b".", self.inode), (2, b"..", page.parent)];
        for (number, name, inode) in dots.into_iter().filter(|(number, ..)| *number > cookie) {
            let (mode, attr, ttl) = (libc::S_IFDIR, None, Ttl::default());
            if take(Entry { cookie: number, name, inode, mode, attr, ttl }) {
                return;
            }
        }
        match &page.entries {
            Entries::Fetched(entries) => {
                for (name, attr) in &entries[page.place(&after)..] {
                    let (inode, mode) = (InodeNo(attr.inode), attr.mode);
                    let (attr, ttl) = match wanted {
                        Wanted::Attributes => {
                            let attr = fs.files.adjust(*attr);
                            (Some(attr), fs.may_cache_listed(page.asked, self.inode, name, &attr))
                        }
                        Wanted::Names => (None, Ttl::default()),
                    };
                    if take(Entry { cookie: places.tell(name), name, inode, mode, attr, ttl }) {
                        return;
                    }
                }
            }
            // Where attributes are wanted: only for "." and "..".
            Entries::Known(_) if wanted == Wanted::Attributes => {}
            Entries::Known(list) => {
                for Listed { name, inode, mode } in &list.entries[page.place(&after)..] {
                    let (attr, ttl) = (None, Ttl::default());
                    if take(Entry { cookie: places.tell(name), name, inode: *inode, mode: *mode, attr, ttl })
                    {
                        return;
                    }
                }
            }
        }
    }

    /// Fetches what comes after a name. What the master says of it goes to `lacking`.
    async fn fetch(&self, fs: &Fs, after: Name) -> Result<Page, DfsError> {
        let (mark, asked) = (fs.lacking.mark(), fs.trust.ask());
        let got = fs.client.readdir(self.inode, &after, PAGE).await?;
        got.entries.iter().flat_map(|entry| &entry.attr).for_each(|attr| fs.lacking.learn(mark, attr));
        let entries = got.entries.into_iter();
        let entries = entries.map(|entry| (entry.name[..].into(), entry.attr.unwrap_or_default())).collect();
        Ok(Page {
            after,
            end: got.end,
            entries: Entries::Fetched(entries),
            asked,
            parent: InodeNo(got.parent),
            read: false,
        })
    }
}

impl Page {
    fn known(list: Arc<List>) -> Page {
        Page {
            after: Name::default(),
            end: true,
            asked: list.asked,
            parent: list.parent,
            read: list.read,
            entries: Entries::Known(list),
        }
    }

    /// Can an answer for that be given from this page?
    fn has(&self, after: &Name, cookie: u64, wanted: Wanted) -> bool {
        let (last, fits) = match &self.entries {
            Entries::Fetched(entries) => (entries.last().map(|(name, _)| name), true),
            Entries::Known(list) => {
                (list.entries.last().map(|entry| &entry.name), wanted == Wanted::Names || cookie < FIRST_NAME)
            }
        };
        fits && self.after <= *after && (self.end || last.is_some_and(|last| after < last))
    }

    /// All attributes of a page that was fetched.
    fn attrs(&self) -> impl Iterator<Item = &pb::Attr> {
        let fetched = match &self.entries {
            Entries::Fetched(entries) => entries.as_slice(),
            Entries::Known(_) => &[],
        };
        fetched.iter().map(|(_, attr)| attr)
    }

    /// The first entry after that name.
    fn place(&self, after: &Name) -> usize {
        match &self.entries {
            Entries::Fetched(entries) => entries.partition_point(|(name, _)| name <= after),
            Entries::Known(list) => list.entries.partition_point(|entry| entry.name <= *after),
        }
    }
}

impl Listing {
    /// The list from its start with this page, if that goes on where it was. It is taken out.
    fn whole_with(&mut self, page: &Page) -> Option<List> {
        let Entries::Fetched(entries) = &page.entries else { return None };
        let before = self.whole.take();
        let mut list = match page.after.is_empty() {
            true => List { asked: page.asked, parent: page.parent, entries: Vec::new(), read: false },
            false => before.filter(|list| list.entries.last().is_some_and(|last| last.name == page.after))?,
        };
        list.entries.extend(entries.iter().map(|(name, attr)| Listed {
            name: name.clone(),
            inode: InodeNo(attr.inode),
            mode: attr.mode,
        }));
        Some(list)
    }
}

impl DirHandles {
    /// Opens one.
    pub(super) fn open(&self, inode: InodeNo, no_atime: bool) -> u64 {
        lock(&self.open).entry(inode).or_default().handles += 1;
        self.handles.insert(DirHandle::new(inode, no_atime))
    }

    /// Finds one.
    pub(super) fn get(&self, number: u64) -> Result<Arc<DirHandle>, DfsError> {
        self.handles.get(number)
    }

    /// Closes one.
    pub(super) fn close(&self, number: u64) {
        let Some(handle) = self.handles.remove(number) else { return };
        let mut open = lock(&self.open);
        if let Some(directory) = open.get_mut(&handle.inode) {
            directory.handles -= 1;
            if directory.handles == 0 {
                open.remove(&handle.inode);
            }
        }
    }

    /// This mount removed a directory, which was like this at last.
    pub(super) fn removed(&self, attr: &pb::Attr) {
        if let Some(directory) = lock(&self.open).get_mut(&InodeNo(attr.inode)) {
            directory.removed = Some(*attr);
        }
    }

    /// The attributes of a directory that this mount removed while it was open here.
    pub(super) fn attr_of_removed(&self, inode: InodeNo) -> Option<pb::Attr> {
        lock(&self.open).get(&inode)?.removed
    }
}
