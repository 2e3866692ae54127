//! Directory handles. The master lists names after a given name; the kernel goes on from a number. A handle
//! keeps the names that it gave out, so that it can turn any number that the kernel has back into a name.
//! A listing therefore sees every entry that stays exactly once, whatever else comes and goes.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use dfs_proto::error::DfsError;
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use super::Fs;
use super::lists::Names;
use super::open_file::Handles;
use super::trust::{Asked, Ttl};

/// Entries asked for at once.
const PAGE: u32 = 1024;

/// Cookies: 1 follows ".", 2 follows "..", and 3 + n follows the n-th name.
const FIRST_NAME: u64 = 2;

/// Directory handles by number.
pub type DirHandles = Handles<DirHandle>;

/// One listing.
pub struct DirHandle {
    /// Which directory.
    pub inode: InodeNo,
    /// Listing it changes no atime (O_NOATIME).
    pub no_atime: bool,
    /// What the kernel's own list has, which it may begin with.
    kernels: Option<Names>,
    state: Mutex<Listing>,
    /// What it was when this mount removed it: who has it open may look at it all the same.
    removed: OnceLock<pb::Attr>,
}

/// What was listed so far.
#[derive(Default)]
struct Listing {
    /// The names given out, in order.
    names: Vec<Box<[u8]>>,
    /// The page fetched last, and the number of its first name.
    page: Vec<pb::DirEntry>,
    page_start: usize,
    /// The page is the last one.
    end: bool,
    /// The whole list was noted for other handles.
    noted: bool,
    /// Of the directory itself, for "..".
    parent: u64,
    /// When the page was asked for; when the listing began, if it went on without a jump.
    asked: Option<Asked>,
    began: Option<Asked>,
}

/// One entry, for whoever answers the kernel.
pub struct Entry<'a> {
    /// Goes on after this entry.
    pub cookie: u64,
    /// As bytes.
    pub name: &'a [u8],
    /// What the name leads to.
    pub inode: InodeNo,
    /// Attributes; `None` for "." and "..".
    pub attr: Option<pb::Attr>,
    /// How long it may be cached.
    pub ttl: Ttl,
}

impl DirHandle {
    /// Nothing is listed yet. `kernels`: the names that the kernel may list by itself.
    pub fn new(inode: InodeNo, no_atime: bool, kernels: Option<Names>) -> DirHandle {
        DirHandle { inode, no_atime, kernels, state: Mutex::default(), removed: OnceLock::new() }
    }

    fn locked(&self) -> MutexGuard<'_, Listing> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the entries from `cookie` on to `take`, until it says that it is full or there are no more. What the
    /// master says of them goes to `lacking`.
    ///
    /// # Errors
    /// The master's.
    pub async fn list(
        &self,
        fs: &Fs,
        cookie: u64,
        mut take: impl FnMut(Entry<'_>) -> bool + Send,
    ) -> Result<(), DfsError> {
        let index = usize::try_from(cookie.saturating_sub(FIRST_NAME)).unwrap_or(usize::MAX);
        self.go_on_from_kernels(index);
        // A listing from the start (opendir, rewinddir) shows what is there now.
        if cookie == 0 || !self.locked().has(index) {
            self.fetch(fs, index).await?;
        }
        let parent = InodeNo(self.locked().parent);
        let dots: [(&[u8], InodeNo); 2] = [(b".", self.inode), (b"..", parent)];
        for (number, (name, inode)) in
            dots.into_iter().enumerate().skip(usize::try_from(cookie).unwrap_or(usize::MAX))
        {
            if take(Entry { cookie: number as u64 + 1, name, inode, attr: None, ttl: Ttl::default() }) {
                return Ok(());
            }
        }
        // One page an answer is enough: the kernel asks again until an answer is empty.
        let mut state = self.locked();
        let mut at = index;
        while let Some(entry) = at.checked_sub(state.page_start).and_then(|n| state.page.get(n)).cloned() {
            // Names behind it stay: numbers that were given out can be gone back to (seekdir).
            match state.names.get_mut(at) {
                Some(name) => *name = entry.name.to_vec().into(),
                None => state.names.push(entry.name.to_vec().into()),
            }
            let attr = fs.files.adjust(entry.attr.unwrap_or_default());
            at += 1;
            let ttl = state
                .asked
                .map_or(Ttl::default(), |asked| fs.may_cache_listed(asked, self.inode, &entry.name, &attr));
            if take(Entry {
                cookie: at as u64 + FIRST_NAME,
                name: &entry.name,
                inode: InodeNo(attr.inode),
                attr: Some(attr),
                ttl,
            }) {
                break;
            }
        }
        if state.end
            && at == state.page_start + state.page.len()
            && let Some(began) = state.began
        {
            if !std::mem::replace(&mut state.noted, true) {
                fs.lists.put(self.inode, &state.names[..at.min(state.names.len())]);
            }
            fs.trust.listed(began, self.inode);
        }
        Ok(())
    }

    /// A number that this handle has not given out is one of the kernel's own list.
    fn go_on_from_kernels(&self, index: usize) {
        let mut state = self.locked();
        if let Some(names) = self.kernels.as_ref().filter(|_| index > state.names.len()) {
            state.names = names.to_vec();
        }
    }

    /// Fetches the page whose first name has number `index`.
    async fn fetch(&self, fs: &Fs, index: usize) -> Result<(), DfsError> {
        let after = {
            let state = self.locked();
            match index.checked_sub(1) {
                None => Some(Vec::new()),
                Some(last) => state.names.get(last).map(|name| name.to_vec()),
            }
        };
        // A number that was never given out: nothing is there.
        let Some(after) = after else { return Ok(()) };
        let (mark, asked) = (fs.lacking.mark(), fs.trust.ask());
        let entries = fs.client.readdir(self.inode, &after, PAGE).await?;
        entries.entries.iter().flat_map(|entry| &entry.attr).for_each(|attr| fs.lacking.learn(mark, attr));
        let mut state = self.locked();
        let goes_on = index == state.page_start + state.page.len();
        state.noted &= index != 0;
        state.began = if index == 0 { Some(asked) } else { state.began.filter(|_| goes_on) };
        state.asked = Some(asked);
        state.page = entries.entries;
        state.page_start = index;
        state.end = entries.end;
        state.parent = entries.parent;
        Ok(())
    }
}

impl DirHandles {
    /// This mount removed a directory, which was like this at last.
    pub(super) fn removed(&self, attr: &pb::Attr) {
        // Nothing to be found: every handle is looked at.
        self.find(|handle| {
            if handle.inode.0 == attr.inode {
                let _ = handle.removed.set(*attr);
            }
            None::<()>
        });
    }

    /// The attributes of a directory that this mount removed while it was open here.
    pub(super) fn attr_of_removed(&self, inode: InodeNo) -> Option<pb::Attr> {
        self.find(|handle| handle.removed.get().filter(|_| handle.inode == inode).cloned())
    }
}

impl Listing {
    /// Can the name of this number, or the end, be given out without asking?
    fn has(&self, index: usize) -> bool {
        let page_end = self.page_start + self.page.len();
        (self.page_start..page_end).contains(&index) || (self.end && index == page_end && self.parent != 0)
    }
}
