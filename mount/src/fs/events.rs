//! What the master pushes over the session: something that this mount may have cached was changed by somebody
//! else. Here it is forgotten, and the kernel told to forget it too; then the master hears of it, and whoever made
//! the change is told that it is done.

use std::sync::Arc;
use std::time::Duration;

use dfs_proto::ids::InodeNo;
use dfs_proto::pb;
use tokio::sync::mpsc;

use super::Fs;
use super::board::Job;
use super::trust::Handed;
use crate::client::{Event, Lost};

/// For the kernel's caches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// Attributes of an inode.
    Attributes(InodeNo),
    /// Attributes and pages of an inode.
    Content(InodeNo),
    /// A name in a directory.
    Name(InodeNo, Vec<u8>),
    /// What a name leads to is to be asked for again, but what is in use under it may stay.
    Expire(InodeNo, Vec<u8>),
    /// Nothing: it comes back when the kernel has taken in all entries of this directory that it was told.
    Settle(InodeNo),
}

/// Jobs that may wait to be delivered; past that, the flow of events waits.
const JOBS: usize = 1024;
/// Between two looks at what is blocked, old, or delivered.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The same, while the flow of events waits.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Inodes of one job.
const INODES: usize = 1024;

/// Works off the client's events until the client ends. None is lost; the board is bounded.
pub async fn follow(fs: Arc<Fs>, mut events: mpsc::Receiver<Event>) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            _ = look.tick() => {
                fs.look_after_notices();
                continue;
            }
        };
        let Some(event) = event else { break };
        while fs.board.waiting() >= JOBS {
            fs.look_after_notices();
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        fs.take_event(event);
    }
    fs.board.close();
}

impl Fs {
    fn look_after_notices(&self) {
        self.board.acknowledge_blocked();
        self.lists.forget_old(&self.trust);
    }

    /// Forgets what an event says is old, and has the kernel forget it.
    fn take_event(&self, event: Event) {
        match event {
            Event::Invalidate(old) => {
                self.lacking.forget(InodeNo(old.inode));
                self.board.put(self.forget(&old));
            }
            Event::Recall(inode) => self.recall_append(inode),
            Event::SessionLost(lost) => {
                self.ledger.forget_all();
                // First: who appends asks for what is not known, unless nothing can be asked.
                self.away.lost();
                self.forget_pages(Some(&lost));
                self.lacking.forget_all();
                let handed = self.trust.lost();
                self.forget_handed(handed, Some(&lost));
            }
            Event::MasterDown => self.away.master_down(),
            Event::MasterMayBeBack => {
                self.away.lost();
                self.files.all().iter().for_each(|file| file.forget_known());
                self.forget_pages(None);
            }
            // What was cached before the break may have changed during it.
            Event::SessionResumed { .. } => {
                self.ledger.forget_all();
                self.lacking.forget_all();
                let handed = self.trust.resumed();
                // First: what is known may be old, and can be asked for.
                self.files.all().iter().for_each(|file| file.forget_known());
                self.away.resumed();
                self.forget_pages(None);
                self.forget_handed(handed, None);
            }
        }
    }

    fn forget(&self, old: &pb::Invalidate) -> Job {
        let (inode, parent) = (InodeNo(old.inode), InodeNo(old.parent));
        let mut job = Job { seq: Some(old.seq), key: inode, ..Job::default() };
        // In this order: a file that is being opened is told of the change, or finds it noted.
        if old.inode != 0 {
            self.trust.attrs_changed(inode);
        }
        if old.content {
            self.forget_content(inode);
        }
        if old.inode != 0 {
            if let Some(directory) = self.trust.being_told_through(inode) {
                job.directories.push(directory);
                job.notices.push(Notice::Settle(directory));
            }
            job.notices.push(if old.content { Notice::Content(inode) } else { Notice::Attributes(inode) });
        }
        if old.parent != 0 {
            job.key = parent;
            self.trust.names_changed(parent, false);
            job.directories.push(parent);
            job.notices.push(Notice::Name(parent, old.name.to_vec()));
        }
        job
    }

    /// Of open files.
    fn forget_pages(&self, lost: Option<&Lost>) {
        for file in self.files.all() {
            let notices = vec![Notice::Content(file.inode)];
            self.board.put(Job { key: file.inode, notices, lost: lost.cloned(), ..Job::default() });
        }
    }

    fn forget_handed(&self, handed: Handed, lost: Option<&Lost>) {
        let inodes: Vec<InodeNo> = handed.inodes.into_iter().collect();
        for some in inodes.chunks(INODES) {
            let notices = some.iter().map(|inode| Notice::Attributes(*inode)).collect();
            self.board.put(Job { key: some[0], notices, lost: lost.cloned(), ..Job::default() });
        }
        for (directory, names) in handed.names {
            let expire = |name: Box<[u8]>| Notice::Expire(directory, name.into_vec());
            let notices = names.into_iter().map(expire).collect();
            self.board.put(Job { key: directory, notices, lost: lost.cloned(), ..Job::default() });
        }
    }

    fn forget_content(&self, inode: InodeNo) {
        self.ledger.changed(inode);
        if let Some(file) = self.files.get(inode) {
            file.changed_elsewhere();
        }
    }
}
