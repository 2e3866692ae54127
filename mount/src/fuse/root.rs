//! The mount's root, as the kernel numbers it. To the kernel the root of every mount is inode 1; here it may be any
//! directory of the cluster (`-o subdir=`). Numbers are translated where they come in and go out, and nowhere else.
//!
//! What must hold: the cluster's own root cannot be named from a mount of another directory. The kernel's 1 is that
//! directory, no other number leads to the root, and its number is never handed out.

use dfs_proto::ids::InodeNo;
use dfs_proto::pb;
use fuser::FileAttr;

use super::convert::file_attr;
use crate::fs::dir::Entry;

/// Which directory the kernel sees as its root.
#[derive(Clone, Copy, Debug)]
pub struct Root(InodeNo);

impl Root {
    /// Of a mount of this directory.
    pub fn new(directory: InodeNo) -> Root {
        Root(directory)
    }

    /// From the kernel.
    pub fn inward(self, inode: fuser::INodeNo) -> InodeNo {
        if inode.0 == InodeNo::ROOT.0 { self.0 } else { InodeNo(inode.0) }
    }

    /// For the kernel. The cluster's root, which can only be meant as the parent of something, becomes the mount's.
    pub fn outward(self, inode: InodeNo) -> fuser::INodeNo {
        let is_root = inode == self.0 || inode == InodeNo::ROOT;
        fuser::INodeNo(if is_root { InodeNo::ROOT.0 } else { inode.0 })
    }

    /// An inode that others changed, for the kernel; `None` when the kernel cannot know it.
    pub fn noticed(self, inode: InodeNo) -> Option<fuser::INodeNo> {
        (inode != InodeNo::ROOT || self.0 == InodeNo::ROOT).then(|| self.outward(inode))
    }

    /// The number of an entry that `directory` was listed with. ".." of the mount's root is itself.
    pub fn entry(self, directory: InodeNo, entry: &Entry<'_>) -> fuser::INodeNo {
        let leads_up = entry.name == b".." && directory == self.0;
        self.outward(if leads_up { self.0 } else { entry.inode })
    }

    /// Attributes for the kernel.
    pub fn attr(self, attr: &pb::Attr) -> FileAttr {
        FileAttr { ino: self.outward(InodeNo(attr.inode)), ..file_attr(attr) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::trust::Ttl;
    use fuser::INodeNo;

    const REAL: InodeNo = InodeNo::ROOT;

    #[test]
    fn a_mount_of_everything_translates_nothing() {
        let root = Root::new(REAL);
        for number in [1, 2, 77] {
            assert_eq!(root.inward(INodeNo(number)), InodeNo(number));
            assert_eq!(root.outward(InodeNo(number)), INodeNo(number));
            assert_eq!(root.noticed(InodeNo(number)), Some(INodeNo(number)));
        }
    }

    #[test]
    fn no_number_leads_out_of_a_subtree() {
        let root = Root::new(InodeNo(50));
        for number in 0..100 {
            assert_ne!(root.inward(INodeNo(number)), REAL, "{number}");
        }
        assert_eq!((root.inward(INodeNo(1)), root.outward(InodeNo(50))), (InodeNo(50), INodeNo(1)));
        assert_eq!(root.outward(REAL), INodeNo(1));
        let up = |inode| Entry {
            cookie: 2,
            name: b"..",
            inode,
            mode: libc::S_IFDIR,
            attr: None,
            ttl: Ttl::default(),
        };
        assert_eq!(root.entry(InodeNo(50), &up(InodeNo(40))), INodeNo(1), "'..' of the root is the root");
        assert_eq!(root.entry(InodeNo(51), &up(InodeNo(50))), INodeNo(1));
        assert_eq!(root.entry(InodeNo(52), &up(InodeNo(51))), INodeNo(51));
        assert_eq!(root.noticed(REAL), None);
        assert_eq!(root.attr(&pb::Attr { inode: 50, ..Default::default() }).ino, INodeNo(1));
    }
}
