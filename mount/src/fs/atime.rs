//! Which reads change an atime. The kernel leaves that to us, and tells us of no read that its page cache answers.
//!
//! The master is told by a request that nobody waits for. It enters the session when the bytes are there and before
//! the kernel has them: so it delays no read, and whoever asks for the attributes after the read gets the new
//! atime. What must hold: at most one such request per inode is under way; reads meanwhile are gathered into one more, after
//! which the kernel is told to ask again: it may have asked in between.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use dfs_proto::atime::is_due;
use dfs_proto::error::DfsError;
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;
use tokio::runtime::Handle;

use super::board::{Board, Job};
use super::events::Notice;
use super::known::Known;
use super::lists::Lists;
use super::open_file::OpenFile;
use super::trust::{Asked, Trust};
use crate::client::Client;
use crate::lock::lock;

/// When reading changes the atime.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AtimePolicy {
    /// noatime, and mounts that are read-only.
    Never,
    /// relatime: when it is not later than mtime and ctime, or a day old.
    #[default]
    Relative,
    /// strictatime.
    Always,
}

/// The policies of a mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AtimeOptions {
    /// For all but directories.
    pub files: AtimePolicy,
    /// For directories (nodiratime).
    pub directories: AtimePolicy,
}

/// See the module.
pub struct Atimes {
    client: Client,
    options: AtimeOptions,
    board: Arc<Board>,
    lists: Arc<Lists>,
    known: Arc<Known>,
    trust: Arc<Trust>,
    runtime: Handle,
    /// Inodes whose request is under way; true: read again since.
    under_way: Mutex<HashMap<InodeNo, bool>>,
}

impl Atimes {
    /// Must be called inside a tokio runtime.
    pub fn new(
        client: Client,
        options: AtimeOptions,
        board: Arc<Board>,
        lists: Arc<Lists>,
        known: Arc<Known>,
        trust: Arc<Trust>,
    ) -> Arc<Atimes> {
        let runtime = Handle::current();
        Arc::new(Atimes { client, options, board, lists, known, trust, runtime, under_way: Mutex::default() })
    }

    fn is_due(&self, policy: AtimePolicy, attr: &pb::Attr) -> bool {
        match policy {
            AtimePolicy::Never => false,
            AtimePolicy::Relative => is_due(attr, false, self.client.now()),
            AtimePolicy::Always => true,
        }
    }

    /// Would reading a file with these attributes change its atime?
    pub fn file_is_due(&self, attr: &pb::Attr) -> bool {
        self.is_due(self.options.files, attr)
    }

    /// Does a second listing of a directory in which nothing changed leave its atime as it is?
    pub fn counts_lists_once(&self) -> bool {
        self.options.directories != AtimePolicy::Always
    }

    /// Bytes of a file were read.
    pub fn read_file(self: &Arc<Self>, file: &Arc<OpenFile>) {
        if self.file_is_due(&file.committed_attr()) {
            self.touch(file.inode, self.options.files, Some(file.clone()));
        }
    }

    /// Something else was read whose times are not known here.
    pub fn read_node(self: &Arc<Self>, inode: InodeNo) {
        self.touch(inode, self.options.files, None);
    }

    /// A directory was listed.
    pub fn read_directory(self: &Arc<Self>, inode: InodeNo) {
        self.touch(inode, self.options.directories, None);
    }

    fn touch(self: &Arc<Self>, inode: InodeNo, policy: AtimePolicy, file: Option<Arc<OpenFile>>) {
        if policy == AtimePolicy::Never {
            return;
        }
        match lock(&self.under_way).entry(inode) {
            Entry::Occupied(mut again) => {
                again.insert(true);
                return;
            }
            Entry::Vacant(none) => none.insert(false),
        };
        let always = policy == AtimePolicy::Always;
        let (mut at, mut answer) = self.ask(inode, always);
        let atimes = self.clone();
        self.runtime.spawn(async move {
            let mut gathered = false;
            loop {
                match answer.await {
                    Ok(attr) => {
                        file.iter().for_each(|file| file.learn(&attr));
                        atimes.lists.atime_changed(inode);
                        atimes.known.atime_changed(&atimes.trust, at.0, at.1, &attr);
                    }
                    // An atime that stays old harms nobody.
                    Err(error) => {
                        tracing::debug!(%inode, "atime not changed: {error}");
                        lock(&atimes.under_way).remove(&inode);
                        return;
                    }
                }
                if gathered {
                    let notices = vec![Notice::Attributes(inode)];
                    atimes.board.put(Job { key: inode, notices, ..Job::default() });
                }
                if !atimes.go_on(inode, policy, file.as_deref()) {
                    return;
                }
                gathered = true;
                (at, answer) = atimes.ask(inode, always);
            }
        });
    }

    /// What the master says of the inode from now on has the new atime; what it said before is old.
    fn ask(
        &self,
        inode: InodeNo,
        always: bool,
    ) -> ((Instant, Asked), impl Future<Output = Result<pb::Attr, DfsError>> + Send + use<>) {
        let asked = self.trust.ask();
        let answer = self.client.touch_atime(inode, always);
        // After it has its place in the order: what has an earlier one was asked for before now.
        ((self.known.atime_changes(inode), asked), answer)
    }

    /// A request is over: is another one needed? If not, the next read begins anew.
    fn go_on(&self, inode: InodeNo, policy: AtimePolicy, file: Option<&OpenFile>) -> bool {
        let mut under_way = lock(&self.under_way);
        let again = under_way.insert(inode, false) == Some(true)
            && file.is_none_or(|file| self.is_due(policy, &file.committed_attr()));
        if !again {
            under_way.remove(&inode);
        }
        again
    }
}
