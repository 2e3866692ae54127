//! Changes of names.
//!
//! What must hold: while one is on its way, notices about its directories are acknowledged at once, for the kernel
//! holds their locks until the answer is there (`board`).

use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use super::{Caller, Fs, Result};

impl Fs {
    /// What this mount changed in these directories the kernel knows; what was asked for before is old.
    pub(super) fn changed_names(&self, directories: &[InodeNo]) {
        for directory in directories {
            self.trust.names_changed(*directory, true);
            self.trust.attrs_changed(*directory);
        }
    }

    /// Does a change of names in these directories.
    async fn change<T>(&self, directories: &[InodeNo], work: impl Future<Output = Result<T>>) -> Result<T> {
        let _changing = self.board.begin(directories);
        let done = work.await;
        // Whatever came of it.
        self.changed_names(directories);
        done
    }

    fn changed(&self, gone: pb::Gone) {
        if let Some(removed) = gone.removed.as_ref().filter(|attr| attr.mode & libc::S_IFMT == libc::S_IFDIR)
        {
            self.dirs.removed(removed);
        }
        let changed = [gone.moved, gone.removed].into_iter().flatten();
        changed.for_each(|attr| self.trust.attrs_changed(InodeNo(attr.inode)));
    }

    /// A node that is neither file, directory nor symbolic link, or a file without opening it.
    ///
    /// # Errors
    /// The master's, here and below.
    pub async fn mknod(
        &self,
        caller: Caller,
        parent: InodeNo,
        name: &[u8],
        mode: u32,
        umask: u32,
        rdev: u32,
    ) -> Result<pb::Attr> {
        let (name, uid, gid) = (name.to_vec().into(), caller.uid, caller.gid);
        let op = pb::Mknod { parent: parent.0, name, mode, umask, uid, gid, rdev };
        self.change(&[parent], self.seen(caller.client(&self.client).mknod(op))).await
    }

    /// A directory.
    pub async fn mkdir(
        &self,
        caller: Caller,
        parent: InodeNo,
        name: &[u8],
        mode: u32,
        umask: u32,
    ) -> Result<pb::Attr> {
        let (name, uid, gid) = (name.to_vec().into(), caller.uid, caller.gid);
        let op = pb::Mkdir { parent: parent.0, name, mode, umask, uid, gid };
        self.change(&[parent], self.seen(caller.client(&self.client).mkdir(op))).await
    }

    /// A symbolic link to `target`.
    pub async fn symlink(
        &self,
        caller: Caller,
        parent: InodeNo,
        name: &[u8],
        target: &[u8],
    ) -> Result<pb::Attr> {
        let (name, target) = (name.to_vec().into(), target.to_vec().into());
        let op = pb::Symlink { parent: parent.0, name, target, uid: caller.uid, gid: caller.gid };
        self.change(&[parent], caller.client(&self.client).symlink(op)).await
    }

    /// Another name for `inode`.
    pub async fn link(
        &self,
        caller: Caller,
        inode: InodeNo,
        parent: InodeNo,
        name: &[u8],
    ) -> Result<pb::Attr> {
        let link = pb::Link { inode: inode.0, parent: parent.0, name: name.to_vec().into() };
        let attr = self.change(&[parent], caller.client(&self.client).link(link)).await?;
        Ok(self.files.adjust(attr))
    }

    /// Takes a name away.
    pub async fn unlink(&self, caller: Caller, parent: InodeNo, name: &[u8]) -> Result<()> {
        self.change(&[parent], caller.client(&self.client).unlink(parent, name))
            .await
            .map(|gone| self.changed(gone))
    }

    /// Takes an empty directory away.
    pub async fn rmdir(&self, caller: Caller, parent: InodeNo, name: &[u8]) -> Result<()> {
        self.change(&[parent], caller.client(&self.client).rmdir(parent, name))
            .await
            .map(|gone| self.changed(gone))
    }

    /// Moves a name; `no_replace` and `exchange` as renameat2(2) has them.
    pub async fn rename(&self, caller: Caller, rename: pb::Rename) -> Result<()> {
        let (from, to) = (InodeNo(rename.parent), InodeNo(rename.new_parent));
        // The kernel moves what it has cached under the one name to the other.
        self.trust.moved(to, &rename.new_name);
        if rename.exchange {
            self.trust.moved(from, &rename.name);
        }
        self.change(&[from, to], caller.client(&self.client).rename(rename))
            .await
            .map(|gone| self.changed(gone))
    }
}
