//! Both trees, compared whole: names, attributes, contents, link targets, extended attributes, and times where it is known
//! what they must be. On both mounts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dfs_mount::fs::dir::Wanted;
use dfs_proto::pb;

use crate::case::Case;
use crate::tree::{Body, Id, Node, Touched};
use crate::world::ROOT_CALLER;

/// How long a mount may take to hear of the other's change.
const PUSH: Duration = Duration::from_secs(5);

type Check = Result<(), String>;

fn same<T: PartialEq + std::fmt::Debug>(what: &str, real: T, naive: T) -> Check {
    if real == naive { Ok(()) } else { Err(format!("{what} is {real:?}, and not {naive:?}")) }
}

impl Case<'_> {
    pub async fn compare(&mut self) -> Check {
        for mount in 0..2 {
            for id in self.tree.ids() {
                // Without a name and without a handle here: nothing leads to it.
                let open = self.handles.iter().any(|handle| handle.id == id && handle.mount == mount);
                if self.tree.get(id).is_none_or(|node| node.nlink == 0 && !open) {
                    continue;
                }
                let inode = self.inode(id);
                let told = |error| format!("on mount {mount}, inode {inode} (node {id}): {error}");
                let compared = self.compare_node(mount, id).await;
                compared.map_err(told)?;
            }
        }
        for id in self.tree.ids() {
            if !self.dirty.contains_key(&id)
                && let Some(node) = self.tree.get_mut(id)
            {
                (node.mtime, node.ctime) = (Touched::No, Touched::No);
            }
        }
        Ok(())
    }

    async fn compare_node(&mut self, mount: usize, id: Id) -> Check {
        let fs = self.fs(mount);
        let mut node = self.tree.get(id).ok_or("not there")?.clone();
        // As the kernel is answered: without the master where that is possible.
        if let Some((attr, _, _)) = fs.known_attr(self.inode(id)) {
            self.compare_attr(mount, id, &node, &attr).map_err(|error| format!("known: {error}"))?;
            // Its times were compared.
            node = self.tree.get(id).ok_or("not there")?.clone();
        }
        let attr = fs.getattr(self.inode(id)).await.map_err(|error| format!("getattr: {error}"))?;
        self.compare_attr(mount, id, &node, &attr)?;
        let names =
            fs.listxattr(ROOT_CALLER, self.inode(id)).await.map_err(|error| format!("listxattr: {error}"))?;
        let right: Vec<u8> = node.xattrs.keys().flat_map(|name| [name, &[0][..]].concat()).collect();
        same("the list of extended attributes", names, right)?;
        for (name, value) in &node.xattrs {
            let real = fs
                .getxattr(ROOT_CALLER, self.inode(id), name)
                .await
                .map_err(|error| format!("getxattr: {error}"))?;
            same("an extended attribute", &real[..], &value[..])?;
        }
        match &node.body {
            Body::File(_) => self.compare_content(mount, id, &node).await,
            Body::Dir(entries) => self.compare_entries(mount, id, entries).await,
            Body::Symlink(target) => {
                let real = fs.readlink(self.inode(id)).await.map_err(|error| format!("readlink: {error}"))?;
                same("the target", &real[..], &target[..])
            }
            Body::Special { .. } => Ok(()),
        }
    }

    fn compare_attr(&mut self, mount: usize, id: Id, node: &Node, attr: &pb::Attr) -> Check {
        same("the mode", format!("{:o}", attr.mode), format!("{:o}", node.mode))?;
        same("nlink", attr.nlink, node.nlink)?;
        same("the owner", (attr.uid, attr.gid), (node.uid, node.gid))?;
        let dirty = self.dirty.get(&id);
        match &node.body {
            Body::File(bytes) => {
                if dirty.is_none_or(|by| *by == mount) {
                    same("the size", attr.size, bytes.len() as u64)?;
                }
                if dirty.is_none() {
                    same("what is allocated", attr.allocated, node.allocated())?;
                }
            }
            Body::Symlink(target) => same("the size", attr.size, target.len() as u64)?,
            Body::Special { rdev } => same("rdev", attr.rdev, *rdev)?,
            Body::Dir(_) => {}
        }
        if dirty.is_some() { Ok(()) } else { self.compare_times(id, node, attr) }
    }

    fn compare_times(&mut self, id: Id, node: &Node, attr: &pb::Attr) -> Check {
        let (mtime, ctime) = (attr.mtime.unwrap_or_default(), attr.ctime.unwrap_or_default());
        let key = |time: pb::Time| (time.sec, time.nsec);
        if let Some((old_mtime, old_ctime)) = self.times.insert(id, (mtime, ctime)) {
            let right = match node.mtime {
                Touched::No => mtime == old_mtime,
                Touched::Maybe => true,
                Touched::Yes => mtime != old_mtime,
                Touched::Set(sec, nsec) => key(mtime) == (sec, nsec),
            };
            let how = node.mtime;
            right
                .then_some(())
                .ok_or(format!("mtime was {old_mtime:?} and is {mtime:?}; changed: {how:?}"))?;
            let right = match node.ctime {
                Touched::No => ctime == old_ctime,
                Touched::Maybe | Touched::Set(..) => key(ctime) >= key(old_ctime),
                Touched::Yes => key(ctime) > key(old_ctime),
            };
            let how = node.ctime;
            right
                .then_some(())
                .ok_or(format!("ctime was {old_ctime:?} and is {ctime:?}; changed: {how:?}"))?;
        }
        // The other mount must see exactly what this one did.
        if let Some(node) = self.tree.get_mut(id) {
            (node.mtime, node.ctime) = (Touched::No, Touched::No);
        }
        Ok(())
    }

    async fn compare_entries(&mut self, mount: usize, id: Id, entries: &BTreeMap<Vec<u8>, Id>) -> Check {
        let fs = self.fs(mount);
        let handle = fs.opendir(self.inode(id), 0);
        let mut real = BTreeMap::new();
        let mut cookie = 0;
        loop {
            let before = cookie;
            let take = |entry: dfs_mount::fs::dir::Entry<'_>| {
                cookie = entry.cookie;
                real.insert(entry.name.to_vec(), entry.inode);
                false
            };
            fs.readdir(handle, before, Wanted::Names, take)
                .await
                .map_err(|error| format!("readdir: {error}"))?;
            if cookie == before {
                break;
            }
        }
        fs.releasedir(handle);
        let parent = self.tree.get(id).map_or(id, |node| node.parent);
        same("'.'", real.remove(&b"."[..]), Some(self.inode(id)))?;
        let above = real.remove(&b".."[..]);
        // Above the sequence's own root is what it knows nothing of.
        if id != crate::tree::ROOT {
            same("'..'", above, Some(self.inode(parent)))?;
        }
        let right: BTreeMap<Vec<u8>, _> =
            entries.iter().map(|(name, id)| (name.clone(), self.inode(*id))).collect();
        same("the listing", real, right)
    }

    /// What a program that opens the file now reads; and, in turns, one that has had it open all the time.
    async fn compare_content(&mut self, mount: usize, id: Id, node: &Node) -> Check {
        let by = self.dirty.get(&id).copied();
        if by.is_some_and(|by| by != mount) {
            return Ok(());
        }
        let right = node.content();
        let open = self.handles.iter().find(|handle| handle.id == id && handle.mount == mount).copied();
        if let Some(open) = open
            && (by.is_some() || node.nlink == 0 || self.steps % 2 == 1)
        {
            let limit = Instant::now() + PUSH;
            loop {
                let real = self.read_all(mount, open.number).await?;
                // An open file hears of the other mount's changes by push.
                if real != right && self.behind.contains(&(mount, id)) && Instant::now() < limit {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                }
                self.behind.remove(&(mount, id));
                return same_bytes("through an open handle", &real, &right);
            }
        }
        let fs = self.fs(mount);
        let opened = fs
            .open(ROOT_CALLER, self.inode(id), libc::O_RDONLY)
            .await
            .map_err(|error| format!("open: {error}"))?;
        let real = self.read_all(mount, opened.handle).await;
        fs.release(opened.handle).await;
        self.behind.remove(&(mount, id));
        same_bytes("after open", &real?, &right)
    }

    async fn read_all(&self, mount: usize, handle: u64) -> Result<Vec<u8>, String> {
        const AT_ONCE: usize = 128 * 1024;
        let fs = self.fs(mount);
        let mut all = Vec::new();
        loop {
            let part =
                fs.read(handle, all.len() as u64, AT_ONCE).await.map_err(|error| format!("read: {error}"))?;
            all.extend_from_slice(&part);
            if part.len() < AT_ONCE {
                return Ok(all);
            }
        }
    }
}

fn same_bytes(how: &str, real: &[u8], naive: &[u8]) -> Check {
    if real == naive {
        return Ok(());
    }
    let at = real.iter().zip(naive).position(|(a, b)| a != b);
    Err(format!(
        "{how} {} bytes are read, and not {}; the first that differs: {at:?}",
        real.len(),
        naive.len()
    ))
}
