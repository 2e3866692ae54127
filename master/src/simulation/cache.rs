//! What a mount has cached of attributes and names, and until when it trusts that.

use std::collections::BTreeMap;

use bytes::Bytes;
use dfs_proto::pb::{self, mount_reply::Result as Reply, mount_request::Op};

use super::mount::Asked;

#[derive(Clone, Copy)]
pub(super) struct Cached {
    /// The step at which the master made the answer.
    pub stamp: u64,
    pub until_ms: i64,
}

/// See the module.
#[derive(Default)]
pub(super) struct Cache {
    pub attrs: BTreeMap<u64, Cached>,
    pub names: BTreeMap<(u64, Bytes), Cached>,
    /// Nothing that was asked for before is taken in: the session broke then.
    floor: u64,
    /// When something was last said to have changed.
    changed: BTreeMap<(u64, Bytes), u64>,
}

impl Cache {
    /// An empty one, of a session that is broken.
    pub fn since(step: u64) -> Cache {
        Cache { floor: step, ..Cache::default() }
    }

    /// Nothing that has changed since it was asked for is taken in.
    pub fn take_in(&mut self, asked: &Asked, result: &Reply, until_ms: i64, stamp: Option<u64>) {
        let Some(stamp) = stamp.filter(|_| asked.step > self.floor) else { return };
        let entry = Cached { stamp, until_ms };
        let fresh = |key: &(u64, Bytes)| self.changed.get(key).is_none_or(|step| *step < asked.step);
        let attrs = match result {
            Reply::Attr(attr) => vec![attr.inode],
            Reply::Gone(gone) => [gone.moved, gone.removed].iter().flatten().map(|attr| attr.inode).collect(),
            _ => Vec::new(),
        };
        for inode in attrs {
            if fresh(&(inode, Bytes::new())) {
                self.attrs.insert(inode, entry);
            }
        }
        let missing = matches!(result, Reply::Error(e) if e.code == pb::Code::NotFound as i32);
        let name = match (&asked.op, result) {
            (Op::Lookup(op), Reply::Attr(_)) => Some((op.parent, op.name.clone())),
            (Op::Lookup(op), Reply::Error(_)) if missing => Some((op.parent, op.name.clone())),
            (Op::Create(op), Reply::Attr(_)) => Some((op.parent, op.name.clone())),
            (Op::Mkdir(op), Reply::Attr(_)) => Some((op.parent, op.name.clone())),
            (Op::Unlink(op), Reply::Gone(_)) => Some((op.parent, op.name.clone())),
            (Op::Rename(op), Reply::Gone(_)) => Some((op.new_parent, op.new_name.clone())),
            _ => None,
        };
        if let Some(name) = name.filter(fresh) {
            self.names.insert(name, entry);
        }
    }

    pub fn forget(&mut self, what: &pb::Invalidate, step: u64) {
        if what.inode != 0 {
            self.attrs.remove(&what.inode);
            self.changed.insert((what.inode, Bytes::new()), step);
        }
        if what.parent != 0 {
            let name = (what.parent, what.name.clone());
            self.names.remove(&name);
            self.changed.insert(name, step);
            self.attrs.remove(&what.parent);
            self.changed.insert((what.parent, Bytes::new()), step);
        }
    }
}
