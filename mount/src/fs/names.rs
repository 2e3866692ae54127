//! Changes of names.
//!
//! What must hold: while one is on its way, notices about its directories are acknowledged at once, for the kernel
//! holds their locks until the answer is there (`board`).

use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use super::trust::Asked;
use super::{Caller, Fs, Result};
use crate::client::Changed;

impl Fs {
    /// What this mount changed in these directories the kernel knows; what was asked for before is old. `told`: what the
    /// master said of them then.
    pub(super) fn changed_names(&self, asked: Asked, directories: &[InodeNo], told: &[pb::Attr]) {
        for directory in directories {
            self.trust.names_changed(*directory, true);
            match told.iter().find(|attr| attr.inode == directory.0) {
                Some(attr) => {
                    self.known.changed(&self.trust, asked, attr);
                    self.known_names.heard(&self.trust, asked, *directory);
                }
                None => self.trust.attrs_changed(*directory),
            }
        }
    }

    /// Does a change of names in these directories, of `names`.
    async fn change<T>(
        &self,
        directories: &[InodeNo],
        names: &[(InodeNo, &[u8])],
        work: impl Future<Output = Result<Changed<T>>>,
    ) -> Result<(Asked, T)> {
        let asked = self.trust.ask();
        let _changing = self.board.begin(directories);
        let changes =
            || names.iter().for_each(|(directory, name)| self.known_names.changes(*directory, name));
        changes();
        let done = work.await;
        // Whatever came of it.
        let told = done.as_ref().map_or(&[][..], |changed| &changed.directories);
        self.changed_names(asked, directories, told);
        // Once more, and last: a list may have come meanwhile, and from now on none does that was asked for before.
        changes();
        done.map(|changed| (asked, changed.what))
    }

    /// The same for a new inode.
    pub(super) async fn make(
        &self,
        parent: InodeNo,
        name: &[u8],
        work: impl Future<Output = Result<Changed<pb::Attr>>>,
    ) -> Result<(Asked, pb::Attr)> {
        let mark = self.lacking.mark();
        let (asked, attr) = self.change(&[parent], &[(parent, name)], work).await?;
        self.lacking.learn(mark, &attr);
        Ok((asked, attr))
    }

    fn changed(&self, asked: Asked, gone: &pb::Gone) {
        if let Some(removed) = gone.removed.as_ref().filter(|attr| attr.mode & libc::S_IFMT == libc::S_IFDIR)
        {
            self.dirs.removed(removed);
        }
        let changed = [&gone.moved, &gone.removed, &gone.exchanged].into_iter().flatten();
        changed.for_each(|attr| self.known.changed(&self.trust, asked, attr));
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
        let (given, name, uid, gid) = (name, name.to_vec().into(), caller.uid, caller.gid);
        let op = pb::Mknod { parent: parent.0, name, mode, umask, uid, gid, rdev };
        let made = self.make(parent, given, caller.client(&self.client).await.mknod(op)).await;
        made.map(|(_, attr)| attr)
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
        let (given, name, uid, gid) = (name, name.to_vec().into(), caller.uid, caller.gid);
        let op = pb::Mkdir { parent: parent.0, name, mode, umask, uid, gid };
        let (asked, attr) = self.make(parent, given, caller.client(&self.client).await.mkdir(op)).await?;
        self.known_names.made(asked, InodeNo(attr.inode));
        Ok(attr)
    }

    /// A symbolic link to `target`.
    pub async fn symlink(
        &self,
        caller: Caller,
        parent: InodeNo,
        name: &[u8],
        target: &[u8],
    ) -> Result<pb::Attr> {
        let (given, name, target) = (name, name.to_vec().into(), target.to_vec().into());
        let op = pb::Symlink { parent: parent.0, name, target, uid: caller.uid, gid: caller.gid };
        let made = self.make(parent, given, caller.client(&self.client).await.symlink(op)).await;
        made.map(|(_, attr)| attr)
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
        let linked =
            self.change(&[parent], &[(parent, name)], caller.client(&self.client).await.link(link)).await;
        // Whatever came of it.
        let (asked, attr) = linked.inspect_err(|_| self.trust.attrs_changed(inode))?;
        self.known.changed(&self.trust, asked, &attr);
        Ok(self.files.adjust(attr))
    }

    /// Takes a name away.
    pub async fn unlink(&self, caller: Caller, parent: InodeNo, name: &[u8]) -> Result<()> {
        let (asked, gone) = self
            .change(&[parent], &[(parent, name)], caller.client(&self.client).await.unlink(parent, name))
            .await?;
        self.changed(asked, &gone);
        Ok(())
    }

    /// Takes an empty directory away.
    pub async fn rmdir(&self, caller: Caller, parent: InodeNo, name: &[u8]) -> Result<()> {
        let (asked, gone) = self
            .change(&[parent], &[(parent, name)], caller.client(&self.client).await.rmdir(parent, name))
            .await?;
        self.changed(asked, &gone);
        Ok(())
    }

    /// Moves a name; `no_replace` and `exchange` as renameat2(2) has them.
    pub async fn rename(&self, caller: Caller, rename: pb::Rename) -> Result<()> {
        let (from, to) = (InodeNo(rename.parent), InodeNo(rename.new_parent));
        // The kernel moves what it has cached under the one name to the other.
        self.trust.moved(to, &rename.new_name);
        if rename.exchange {
            self.trust.moved(from, &rename.name);
        }
        let (name, new_name) = (rename.name.clone(), rename.new_name.clone());
        let directories = if from == to { &[from][..] } else { &[from, to] };
        let client = caller.client(&self.client).await;
        let (asked, gone) =
            self.change(directories, &[(from, &name), (to, &new_name)], client.rename(rename)).await?;
        self.changed(asked, &gone);
        if let Some(moved) = &gone.moved {
            self.paths.note(InodeNo(moved.inode), to, &new_name);
        }
        Ok(())
    }
}
