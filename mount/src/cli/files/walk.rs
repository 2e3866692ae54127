//! A walk over a tree of the cluster: every entry before what is below it, names in order as bytes, and word of each
//! directory that is done with.
//!
//! What must hold: look-ups are paged, and pages are kept of the [`KEPT`] innermost directories alone, so that neither a huge
//! directory nor a deep tree is ever in memory as a whole. A listing goes on from the last name that it got, so that
//! whatever stays is seen exactly once. A name that could lead elsewhere is not believed, whoever sent it.

use std::collections::VecDeque;

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use super::crew::{Step, Steps};
use crate::cli::CliError;
use crate::cli::path::{Found, is_directory, name_it};
use crate::client::Client;

/// Entries asked for at a time.
pub(super) const PAGE: u32 = 1000;
/// Directories of which a page is kept; those further out are asked again when the walk comes back to them.
const KEPT: usize = 64;

/// One entry.
#[derive(Debug)]
pub(super) struct Entry {
    /// From the path that the walk was given on.
    pub(super) path: Vec<u8>,
    pub(super) name: Vec<u8>,
    /// The directory that has it.
    pub(super) parent: InodeNo,
    pub(super) attr: pb::Attr,
    /// 0: what the walk began with.
    pub(super) depth: usize,
    /// No other comes after it in its directory.
    pub(super) is_last: bool,
}

/// A directory that the walk is in.
struct Frame {
    inode: InodeNo,
    /// Of `Walk::path`.
    path_len: usize,
    depth: usize,
    after: Vec<u8>,
    page: VecDeque<pb::DirEntry>,
    is_whole: bool,
}

/// See the module.
pub(super) struct Walk {
    client: Client,
    /// The command, for errors.
    what: &'static str,
    max_depth: usize,
    root: Option<Found>,
    path: Vec<u8>,
    frames: Vec<Frame>,
}

impl Walk {
    /// From `root`, which `path` leads to, down.
    pub(super) fn new(client: &Client, what: &'static str, root: Found, path: &[u8]) -> Walk {
        let path = path.to_vec();
        let (max_depth, frames) = (usize::MAX, Vec::new());
        Walk { client: client.clone(), what, max_depth, root: Some(root), path, frames }
    }

    /// No deeper; directories at this depth are seen and left, and not looked into.
    pub(super) fn at_most(mut self, depth: usize) -> Walk {
        self.max_depth = depth;
        self
    }

    /// The next entry, whatever it is; `None` when there is none any more.
    ///
    /// # Errors
    /// What the master says.
    pub(super) async fn next_entry(&mut self) -> Result<Option<Entry>, CliError> {
        loop {
            match self.next().await? {
                Some(Step::Enter(entry) | Step::One(entry)) => return Ok(Some(entry)),
                Some(Step::Left) => {}
                Some(Step::Failed(error)) => return Err(error),
                None => return Ok(None),
            }
        }
    }

    fn enter(&mut self, inode: u64, depth: usize) {
        if let Some(outer) = self.frames.len().checked_sub(KEPT) {
            let outer = &mut self.frames[outer];
            if !outer.page.is_empty() {
                outer.page = VecDeque::new();
                outer.is_whole = false;
            }
        }
        self.frames.push(Frame {
            inode: InodeNo(inode),
            path_len: self.path.len(),
            depth,
            after: Vec::new(),
            page: VecDeque::new(),
            is_whole: depth >= self.max_depth,
        });
    }

    /// Sees to it that the innermost directory has an entry, if there is one.
    async fn fill(&mut self) -> Result<(), CliError> {
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        while frame.page.is_empty() && !frame.is_whole {
            match self.client.readdir(frame.inode, &frame.after, PAGE).await {
                Ok(page) => {
                    frame.is_whole = page.end || page.entries.is_empty();
                    frame.page = page.entries.into();
                }
                Err(error) if matches!(error.code, ErrorCode::NotFound | ErrorCode::Stale) => {
                    frame.is_whole = true;
                }
                Err(error) => return Err(name_it(error, self.what, &self.path[..frame.path_len])),
            }
        }
        Ok(())
    }
}

impl Steps for Walk {
    type Item = Entry;

    /// An error is what the master says. A directory that somebody removes meanwhile is none: it is empty.
    async fn next(&mut self) -> Result<Option<Step<Entry>>, CliError> {
        if let Some(Found { attr, parent, name, .. }) = self.root.take() {
            if is_directory(&attr) {
                self.enter(attr.inode, 0);
            }
            let path = self.path.clone();
            return Ok(step(Entry { path, name, parent, attr, depth: 0, is_last: true }));
        }
        self.fill().await?;
        let Some(frame) = self.frames.last_mut() else { return Ok(None) };
        let Some(found) = frame.page.pop_front() else {
            self.frames.pop();
            return Ok(Some(Step::Left));
        };
        frame.after = found.name.to_vec();
        let (parent, depth) = (frame.inode, frame.depth + 1);
        self.path.truncate(frame.path_len);
        check(&found.name).map_err(|error| name_it(error, self.what, &self.path))?;
        // So that it is known whether another comes.
        self.fill().await?;
        let is_last = self.frames.last().is_none_or(|frame| frame.page.is_empty());
        if self.path.last() != Some(&b'/') {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(&found.name);
        let attr = found.attr.unwrap_or_default();
        if is_directory(&attr) {
            self.enter(attr.inode, depth);
        }
        let (path, name) = (self.path.clone(), found.name.to_vec());
        Ok(step(Entry { path, name, parent, attr, depth, is_last }))
    }
}

/// An entry as a step.
fn step(entry: Entry) -> Option<Step<Entry>> {
    Some(if is_directory(&entry.attr) { Step::Enter(entry) } else { Step::One(entry) })
}

/// A name of an entry is one that a directory can have.
fn check(name: &[u8]) -> Result<(), DfsError> {
    let leads_elsewhere =
        matches!(name, b"" | b"." | b"..") || name.iter().any(|byte| matches!(byte, b'/' | 0));
    if leads_elsewhere {
        let message =
            "the master sent a name that no entry can have; see that it is the master that you mean";
        return Err(DfsError::new(ErrorCode::Protocol, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_not_believed() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0"] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        for good in [&b"a"[..], b"...", b"\xff"] {
            assert!(check(good).is_ok(), "{good:?}");
        }
    }
}
