//! What the master pushes over the session: something that this mount may have cached was changed by somebody
//! else. Here it is forgotten, and the kernel told to forget it too.

use std::sync::Arc;

use dfs_proto::ids::InodeNo;
use tokio::sync::mpsc;

use super::Fs;
use crate::client::Event;

/// For the kernel's caches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// Attributes of an inode.
    Attributes(InodeNo),
    /// Attributes and pages of an inode.
    Content(InodeNo),
    /// A name in a directory.
    Name(InodeNo, Vec<u8>),
}

/// Works off the client's events until the client ends. A notice that cannot be delivered at once is waited
/// for, so none is lost; the queue behind `notices` is bounded.
pub async fn follow(fs: Arc<Fs>, mut events: mpsc::Receiver<Event>, notices: mpsc::Sender<Notice>) {
    while let Some(event) = events.recv().await {
        for notice in fs.take_event(event) {
            if notices.send(notice).await.is_err() {
                return;
            }
        }
    }
}

impl Fs {
    /// Forgets what an event says is old; returns what the kernel must forget.
    fn take_event(&self, event: Event) -> Vec<Notice> {
        match event {
            Event::Invalidate(old) => {
                let mut notices = Vec::new();
                let inode = InodeNo(old.inode);
                self.security.forget(inode);
                if old.parent != 0 {
                    notices.push(Notice::Name(InodeNo(old.parent), old.name.to_vec()));
                    notices.push(Notice::Attributes(InodeNo(old.parent)));
                }
                if old.content {
                    self.forget_content(inode);
                    notices.push(Notice::Content(inode));
                } else if old.inode != 0 {
                    notices.push(Notice::Attributes(inode));
                }
                notices
            }
            Event::Recall(inode) => {
                self.recall_append(inode);
                Vec::new()
            }
            // While the session is broken nobody tells of changes: opens, which need the master anyway, start
            // afresh. Reads of what is open go on meanwhile.
            Event::SessionLost => {
                self.ledger.forget_all();
                self.security.forget_all();
                Vec::new()
            }
            // What was cached before the break may have changed during it.
            Event::SessionResumed { .. } => {
                self.ledger.forget_all();
                self.security.forget_all();
                let open = self.files.all();
                open.iter().for_each(|file| file.changed_elsewhere());
                open.iter().map(|file| Notice::Content(file.inode)).collect()
            }
        }
    }

    fn forget_content(&self, inode: InodeNo) {
        self.ledger.changed(inode);
        if let Some(file) = self.files.get(inode) {
            file.changed_elsewhere();
        }
    }
}
