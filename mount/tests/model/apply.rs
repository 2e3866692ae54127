//! Each operation, done to both.

use dfs_mount::fs::dir::Wanted;
use dfs_mount::fs::extent_ops::Allocate as RealAllocate;
use dfs_mount::fs::{Caller, Seek};
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use crate::bytes::Allocate;
use crate::case::{Answer, Both, Case, Handle, Listing, Outcome, errno, seek_errno};
use crate::cluster::noise;
use crate::operation::{Kind, Operation, Pick, Set, Step, name};
use crate::tree::{Body, Id, New, Rename};
use crate::world::ROOT_CALLER;

const READ: u32 = 4;
const WRITE: u32 = 2;
const SEARCH: u32 = 1;

const USER: Caller = Caller { uid: 1000, gid: 1000, pid: 0, checked: false };

fn caller(user: bool) -> Caller {
    if user { USER } else { ROOT_CALLER }
}

fn new(kind: u32, mode: u32, caller: Caller, body: Body) -> New {
    New { mode: kind | mode & 0o7777, uid: caller.uid, gid: caller.gid, body }
}

fn done<T>(result: Result<T, DfsError>) -> Outcome {
    result.map(|_| Answer::Done).map_err(|error| errno(&error))
}

fn xattr_name(pick: Pick) -> Vec<u8> {
    match pick {
        0 => b"user.one".to_vec(),
        1 => b"trusted.\xfe".to_vec(),
        _ => [&b"security."[..], &[b'x'; 246]].concat(),
    }
}

impl Case<'_> {
    /// `None` when there is nothing to do it to.
    pub async fn apply(&mut self, step: &Step) -> Result<Option<Both>, String> {
        use Operation::*;
        let mount = usize::from(step.mount % 2);
        let both = match step.operation.clone() {
            Lookup { .. } | Readlink { .. } | GetXattr { .. } => self.look(mount, &step.operation).await,
            Create { .. } => self.create(mount, &step.operation).await?,
            Mknod { .. } | Mkdir { .. } | Symlink { .. } => self.make(mount, &step.operation).await,
            Link { .. } | Unlink { .. } | Rmdir { .. } | Rename { .. } => {
                self.change_names(mount, &step.operation).await
            }
            Open { file, truncate } => match self.pick_file(file) {
                Some(id) => self.open(mount, id, truncate).await?,
                None => return Ok(None),
            },
            Truncate { node, size } => {
                let id = self.pick_node(node);
                self.truncate(mount, id, u64::from(size)).await?
            }
            Chmod { .. } | Chown { .. } | SetMtime { .. } | SetXattr { .. } | RemoveXattr { .. } => {
                self.set_attributes(mount, &step.operation).await?
            }
            OpenDir { dir } => {
                self.open_dir(mount, dir);
                return Ok(None);
            }
            List { listing, entries } => {
                self.list(listing, entries).await?;
                return Ok(None);
            }
            RestartMaster => {
                self.world.restart_master().await;
                return Ok(None);
            }
            Remount { closes } => {
                self.remount(mount, closes).await?;
                return Ok(None);
            }
            Close { handle }
            | Read { handle, .. }
            | Write { handle, .. }
            | Append { handle, .. }
            | Fsync { handle }
            | Fallocate { handle, .. }
            | Seek { handle, .. }
            | Copy { from: handle, .. } => match self.pick_handle(handle) {
                Some(handle) => self.through(handle, &step.operation).await?,
                None => return Ok(None),
            },
        };
        self.note_names();
        Ok(Some(both))
    }

    async fn look(&mut self, mount: usize, operation: &Operation) -> Both {
        let fs = self.fs(mount);
        match *operation {
            Operation::Lookup { dir, name: pick } => {
                let (dir, name) = (self.pick_dir(dir), name(pick));
                let naive = self.tree.lookup(dir, &name).map(|id| Answer::Number(self.inode(id).0));
                let inode = self.inode(dir);
                let real = match fs.known_entry(&ROOT_CALLER, inode, &name) {
                    Some(known) => {
                        known.attr.ok_or_else(|| DfsError::new(ErrorCode::NotFound, "known to be absent"))
                    }
                    None => fs.lookup(ROOT_CALLER, inode, &name).await,
                };
                (naive, real.map(|attr| Answer::Number(attr.inode)).map_err(|e| errno(&e)))
            }
            Operation::Readlink { node } => {
                let id = self.pick_node(node);
                let real = fs.readlink(self.inode(id)).await;
                (
                    self.tree.readlink(id).map(Answer::Bytes),
                    real.map(|t| Answer::Bytes(t.to_vec())).map_err(|e| errno(&e)),
                )
            }
            Operation::GetXattr { node, name } => {
                let (id, name) = (self.pick_node(node), xattr_name(name));
                let real = fs.getxattr(ROOT_CALLER, self.inode(id), &name).await;
                (
                    self.tree.get_xattr(id, &name).map(Answer::Bytes),
                    real.map(|v| Answer::Bytes(v.to_vec())).map_err(|e| errno(&e)),
                )
            }
            _ => unreachable!("not for look: {operation:?}"),
        }
    }

    /// The real one's new inode belongs to the naive one's new node.
    fn made(&mut self, naive: Result<Id, i32>, real: Result<pb::Attr, DfsError>) -> Both {
        if let (Ok(id), Ok(attr)) = (&naive, &real) {
            assert_eq!(*id, self.inodes.len());
            self.inodes.push(InodeNo(attr.inode));
        }
        (naive.map(|_| Answer::Done), done(real))
    }

    async fn make(&mut self, mount: usize, operation: &Operation) -> Both {
        let fs = self.fs(mount);
        match *operation {
            Operation::Mknod { dir, name: pick, kind } => {
                let (dir, name) = (self.pick_dir(dir), name(pick));
                let (kind, rdev, body) = match kind {
                    Kind::File => (libc::S_IFREG, 0, Body::File(Vec::new())),
                    Kind::Fifo => (libc::S_IFIFO, 0, Body::Special { rdev: 0 }),
                    Kind::Socket => (libc::S_IFSOCK, 0, Body::Special { rdev: 0 }),
                    Kind::Device => (libc::S_IFCHR, 0x0103, Body::Special { rdev: 0x0103 }),
                };
                let real = fs.mknod(ROOT_CALLER, self.inode(dir), &name, kind | 0o640, 0, rdev).await;
                let naive = self.tree.add(dir, &name, new(kind, 0o640, ROOT_CALLER, body));
                self.made(naive, real)
            }
            Operation::Mkdir { dir, name: pick, mode, user } => {
                let (dir, name, caller) = (self.pick_dir(dir), name(pick), caller(user));
                let real = fs.mkdir(caller, self.inode(dir), &name, mode, 0).await;
                let naive = self.tree.add(
                    dir,
                    &name,
                    new(libc::S_IFDIR, mode, caller, Body::Dir(Default::default())),
                );
                self.made(naive, real)
            }
            Operation::Symlink { dir, name: pick, length } => {
                let (dir, name) = (self.pick_dir(dir), name(pick));
                let target = vec![b't'; usize::from(length)];
                let real = fs.symlink(ROOT_CALLER, self.inode(dir), &name, &target).await;
                let naive =
                    self.tree.add(dir, &name, new(libc::S_IFLNK, 0o777, ROOT_CALLER, Body::Symlink(target)));
                self.made(naive, real)
            }
            _ => unreachable!("not for make: {operation:?}"),
        }
    }

    async fn create(&mut self, mount: usize, operation: &Operation) -> Result<Both, String> {
        let Operation::Create { dir, name: pick, mode, user, exclusive, truncate } = *operation else {
            unreachable!("not for create: {operation:?}")
        };
        let (dir, name, caller) = (self.pick_dir(dir), name(pick), caller(user));
        let there = self.tree.lookup(dir, &name).ok().filter(|_| !exclusive);
        if let Some(id) = there {
            self.hand_over(mount, id).await?;
        }
        let mut flags = libc::O_CREAT | libc::O_RDWR;
        flags |= if exclusive { libc::O_EXCL } else { 0 };
        flags |= if truncate { libc::O_TRUNC } else { 0 };
        let real = self.fs(mount).create(caller, self.inode(dir), &name, mode, 0, flags).await;
        // A kernel that believed that nothing is there has not looked at any mode of what is.
        let permits =
            |id, want| self.tree.get(id).is_some_and(|node| node.permits(caller.uid, caller.gid, want));
        let naive = match there.and_then(|id| Some((id, self.tree.get(id)?.body.clone()))) {
            None => self.tree.add(dir, &name, new(libc::S_IFREG, mode, caller, Body::File(Vec::new()))),
            Some(_) if !permits(dir, SEARCH) => Err(libc::EACCES),
            Some((_, Body::Dir(_))) => Err(libc::EISDIR),
            // The kernel opens these by itself; of us it asks only for what it thinks is not there.
            Some((_, Body::Symlink(_) | Body::Special { .. })) => Err(libc::EEXIST),
            Some((id, Body::File(_))) if !permits(id, READ | WRITE) => Err(libc::EACCES),
            Some((id, Body::File(_))) => Ok(id),
        };
        if let (Ok(id), Ok((attr, opened))) = (naive, &real) {
            self.handles.push(Handle { id, mount, number: opened.handle });
            if there.is_some() {
                self.tree.opened_to_write(id, caller.uid).map_err(|e| format!("naive open: {e}"))?;
                if truncate {
                    self.tree.truncate(id, 0).map_err(|e| format!("naive truncate: {e}"))?;
                    self.dirty.remove(&id);
                    self.changed(mount, id);
                }
                let right = self.inode(id).0;
                return Ok((Ok(Answer::Number(right)), Ok(Answer::Number(attr.inode))));
            }
        }
        Ok(self.made(naive, real.map(|(attr, _)| attr)))
    }

    async fn change_names(&mut self, mount: usize, operation: &Operation) -> Both {
        let fs = self.fs(mount);
        match *operation {
            Operation::Link { node, dir, name: pick } => {
                let (id, dir, name) = (self.pick_node(node), self.pick_dir(dir), name(pick));
                let real = fs.link(ROOT_CALLER, self.inode(id), self.inode(dir), &name).await;
                (self.tree.link(id, dir, &name).map(|()| Answer::Done), done(real))
            }
            Operation::Unlink { dir, name: pick } => {
                let (dir, name) = (self.pick_dir(dir), name(pick));
                let real = fs.unlink(ROOT_CALLER, self.inode(dir), &name).await;
                (self.tree.unlink(dir, &name).map(|_| Answer::Done), done(real))
            }
            Operation::Rmdir { dir, name: pick } => {
                let (dir, name) = (self.pick_dir(dir), name(pick));
                let real = fs.rmdir(ROOT_CALLER, self.inode(dir), &name).await;
                (self.tree.rmdir(dir, &name).map(|_| Answer::Done), done(real))
            }
            Operation::Rename { dir, name: from, to_dir, to_name, how } => {
                let (dir, to_dir, from, to) =
                    (self.pick_dir(dir), self.pick_dir(to_dir), name(from), name(to_name));
                let rename = pb::Rename {
                    parent: self.inode(dir).0,
                    name: from.clone().into(),
                    new_parent: self.inode(to_dir).0,
                    new_name: to.clone().into(),
                    no_replace: how == Rename::NoReplace,
                    exchange: how == Rename::Exchange,
                };
                let real = fs.rename(ROOT_CALLER, rename).await;
                (self.tree.rename((dir, &from), (to_dir, &to), how).map(|_| Answer::Done), done(real))
            }
            _ => unreachable!("not for change_names: {operation:?}"),
        }
    }

    async fn set_attributes(&mut self, mount: usize, operation: &Operation) -> Result<Both, String> {
        let fs = self.fs(mount);
        Ok(match *operation {
            Operation::Chmod { node, mode } => {
                let id = self.pick_node(node);
                // A symbolic link has no mode of its own: the kernel refuses.
                if self.tree.get(id).is_some_and(|node| matches!(node.body, Body::Symlink(_))) {
                    return Ok((Ok(Answer::Done), Ok(Answer::Done)));
                }
                let change = pb::Setattr { inode: self.inode(id).0, mode: Some(mode), ..Default::default() };
                (
                    self.tree.chmod(id, mode).map(|()| Answer::Done),
                    done(fs.setattr(Some(ROOT_CALLER), change).await),
                )
            }
            Operation::Chown { node, uid, gid } => {
                let id = self.pick_node(node);
                let change = pb::Setattr { inode: self.inode(id).0, uid, gid, ..Default::default() };
                (
                    self.tree.chown(id, uid, gid).map(|()| Answer::Done),
                    done(fs.setattr(Some(ROOT_CALLER), change).await),
                )
            }
            Operation::SetMtime { node, sec, nsec } => {
                let id = self.pick_node(node);
                self.hand_over(mount, id).await?;
                let mtime = Some(pb::Time { sec, nsec });
                let change = pb::Setattr { inode: self.inode(id).0, mtime, ..Default::default() };
                let real = done(fs.setattr(Some(ROOT_CALLER), change).await);
                self.dirty.remove(&id);
                (self.tree.set_mtime(id, sec, nsec).map(|()| Answer::Done), real)
            }
            Operation::SetXattr { node, name, length, how } => {
                let (id, name) = (self.pick_node(node), xattr_name(name));
                let value = noise(u64::from(length), length as usize);
                let (create, replace) =
                    (matches!(how, Set::Create | Set::Both), matches!(how, Set::Replace | Set::Both));
                let change = pb::Setxattr {
                    inode: self.inode(id).0,
                    name: name.clone().into(),
                    value: value.clone().into(),
                    create_only: create,
                    replace_only: replace,
                };
                let real = done(fs.setxattr(ROOT_CALLER, change).await);
                (self.tree.set_xattr(id, &name, &value, create, replace).map(|()| Answer::Done), real)
            }
            Operation::RemoveXattr { node, name } => {
                let (id, name) = (self.pick_node(node), xattr_name(name));
                let real = done(fs.removexattr(ROOT_CALLER, self.inode(id), &name).await);
                (self.tree.remove_xattr(id, &name).map(|()| Answer::Done), real)
            }
            _ => unreachable!("not for set_attributes: {operation:?}"),
        })
    }

    async fn truncate(&mut self, mount: usize, id: Id, size: u64) -> Result<Both, String> {
        self.hand_over(mount, id).await?;
        let change = pb::Setattr { inode: self.inode(id).0, size: Some(size), ..Default::default() };
        let real = done(self.fs(mount).setattr(Some(ROOT_CALLER), change).await);
        let naive = self.tree.truncate(id, size).map(|()| Answer::Done);
        self.dirty.remove(&id);
        self.changed(mount, id);
        Ok((naive, real))
    }

    async fn open(&mut self, mount: usize, id: Id, truncate: bool) -> Result<Both, String> {
        self.flush_other(mount, id).await?;
        match self.fs(mount).open(ROOT_CALLER, self.inode(id), libc::O_RDWR).await {
            Ok(opened) => self.handles.push(Handle { id, mount, number: opened.handle }),
            Err(error) => return Ok((Ok(Answer::Done), Err(errno(&error)))),
        }
        self.behind.remove(&(mount, id));
        // The kernel opens, and truncates then.
        if truncate { self.truncate(mount, id, 0).await } else { Ok((Ok(Answer::Done), Ok(Answer::Done))) }
    }

    /// What is done through a handle, on the mount that it is of.
    async fn through(&mut self, handle: Handle, operation: &Operation) -> Result<Both, String> {
        let Handle { id, mount, number } = handle;
        let fs = self.fs(mount);
        let flushes = matches!(operation, Operation::Close { .. } | Operation::Fsync { .. });
        if !flushes {
            self.hand_over(mount, id).await?;
        }
        Ok(match *operation {
            Operation::Close { .. } => {
                self.handles.retain(|other| (other.mount, other.number) != (mount, number));
                let closed = self.close(handle).await;
                self.clean(mount, id);
                (Ok(Answer::Done), done(closed))
            }
            Operation::Fsync { .. } => {
                let synced = fs.fsync(number).await;
                self.clean(mount, id);
                (Ok(Answer::Done), done(synced))
            }
            Operation::Read { offset, length, .. } => {
                let real = match fs.try_read(number, u64::from(offset), length as usize) {
                    Some(bytes) => Ok(bytes),
                    None => fs.read(number, u64::from(offset), length as usize).await,
                };
                let naive = self.tree.read(id, u64::from(offset), u64::from(length)).map(Answer::Bytes);
                (naive, real.map(|bytes| Answer::Bytes(bytes.to_vec())).map_err(|e| errno(&e)))
            }
            Operation::Write { offset, length, seed, .. } => {
                self.write(handle, u64::from(offset), length, seed).await
            }
            Operation::Append { length, seed, .. } => {
                let end = self.tree.size(id).map_err(|e| format!("naive size: {e}"))?;
                self.write(handle, end, length, seed).await
            }
            Operation::Fallocate { offset, length, how, .. } => {
                let (keep_size, make_hole) = match how {
                    Allocate::Plain => (false, false),
                    Allocate::KeepSize => (true, false),
                    Allocate::Punch | Allocate::ZeroKeepSize => (true, true),
                    Allocate::Zero => (false, true),
                };
                let (offset, length) = (u64::from(offset), u64::from(length));
                let real =
                    done(fs.fallocate(number, offset, length, RealAllocate { keep_size, make_hole }).await);
                self.dirty.remove(&id);
                self.changed(mount, id);
                (self.tree.fallocate(id, offset, length, how).map(|()| Answer::Done), real)
            }
            Operation::Copy { from_offset, to, to_offset, length, .. } => {
                let Some(to) = self.pick_handle_of(mount, to) else {
                    return Ok((Ok(Answer::Done), Ok(Answer::Done)));
                };
                self.hand_over(mount, to.id).await?;
                let (from_offset, to_offset, length) =
                    (u64::from(from_offset), u64::from(to_offset), u64::from(length));
                let real = fs.copy_file_range((number, from_offset), (to.number, to_offset), length).await;
                self.clean(mount, id);
                self.clean(mount, to.id);
                self.changed(mount, to.id);
                let naive = self.tree.copy((id, from_offset), (to.id, to_offset), length).map(Answer::Number);
                (naive, real.map(|copied| Answer::Number(u64::from(copied))).map_err(|e| errno(&e)))
            }
            Operation::Seek { offset, data, .. } => {
                let what = if data { Seek::Data } else { Seek::Hole };
                let real = fs.seek(number, u64::from(offset), what).await;
                self.clean(mount, id);
                let naive = self.tree.seek(id, u64::from(offset), data).map(Answer::Number);
                (naive, real.map(Answer::Number).map_err(|e| seek_errno(&e)))
            }
            _ => unreachable!("not for through: {operation:?}"),
        })
    }

    /// All that `mount` wrote is flushed.
    fn clean(&mut self, mount: usize, id: Id) {
        if self.dirty.get(&id) == Some(&mount) {
            self.dirty.remove(&id);
        }
    }

    async fn write(&mut self, handle: Handle, offset: u64, length: u32, seed: u8) -> Both {
        let fs = self.fs(handle.mount);
        let data = noise(u64::from(seed), length as usize);
        let real = match fs.try_write(handle.number, offset, &data) {
            Some(done) => done,
            None => fs.write(handle.number, offset, &data).await,
        };
        if length > 0 {
            self.dirty.insert(handle.id, handle.mount);
            self.changed(handle.mount, handle.id);
        }
        (self.tree.write(handle.id, offset, &data).map(|()| Answer::Done), done(real))
    }

    fn open_dir(&mut self, mount: usize, dir: Pick) {
        let id = self.pick_dir(dir);
        let Ok(entries) = self.tree.entries(id) else { return };
        let names = entries.keys().cloned().collect();
        let number = self.fs(mount).opendir(self.inode(id), 0);
        let (listed, came) = (Vec::new(), entries.keys().cloned().collect());
        self.listings.push(Listing { id, mount, number, cookie: 0, listed, stayed: names, came });
    }

    /// Takes some more entries. At the end: what stayed was listed once, and nothing that was never there.
    async fn list(&mut self, pick: Pick, entries: u8) -> Result<(), String> {
        if self.listings.is_empty() {
            return Ok(());
        }
        let at = usize::from(pick) % self.listings.len();
        let fs = self.fs(self.listings[at].mount);
        let listing = &mut self.listings[at];
        let mut left = entries;
        let mut got = 0;
        let (cookie, listed) = (&mut listing.cookie, &mut listing.listed);
        let wanted = if entries.is_multiple_of(2) { Wanted::Names } else { Wanted::Attributes };
        let result = fs
            .readdir(listing.number, *cookie, wanted, |entry| {
                let full = left == 0;
                if !full {
                    left -= 1;
                    got += 1;
                    *cookie = entry.cookie;
                    listed.push(entry.name.to_vec());
                }
                full
            })
            .await;
        let removed = self.tree.get(listing.id).is_none();
        match result {
            Ok(()) if got > 0 => return Ok(()),
            Ok(()) => {}
            Err(_) if removed => {}
            Err(error) => return Err(format!("readdir: {error}")),
        }
        let listing = self.listings.remove(at);
        fs.releasedir(listing.number);
        if removed {
            return Ok(());
        }
        let names: Vec<&Vec<u8>> =
            listing.listed.iter().filter(|name| !matches!(&name[..], b"." | b"..")).collect();
        let unique: std::collections::BTreeSet<_> = names.iter().copied().cloned().collect();
        if unique.len() != names.len() {
            return Err(format!("a name was listed twice: {names:?}"));
        }
        if !listing.stayed.is_subset(&unique) {
            return Err(format!("of {:?}, which stayed, only {unique:?} were listed", listing.stayed));
        }
        if !unique.is_subset(&listing.came) {
            return Err(format!("{unique:?} were listed, and only {:?} were ever there", listing.came));
        }
        Ok(())
    }

    async fn remount(&mut self, mount: usize, closes: bool) -> Result<(), String> {
        let fs = self.fs(mount);
        let (gone, stay): (Vec<Handle>, Vec<Handle>) =
            self.handles.iter().partition(|handle| handle.mount == mount);
        self.handles = stay;
        for handle in gone {
            let ended = if closes { self.close(handle).await } else { fs.flush(handle.number).await };
            ended.map_err(|error| format!("close before the remount: {error}"))?;
        }
        self.listings.retain(|listing| listing.mount != mount);
        self.dirty.retain(|_, by| *by != mount);
        self.behind.retain(|(at, _)| *at != mount);
        self.world.replace_mount(mount).await;
        Ok(())
    }
}
