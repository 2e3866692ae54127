//! Under which names inodes were last seen, so that the log can say of which file it speaks. For people: a name may be an old one.
//! Memory is bounded.

use std::num::NonZeroUsize;
use std::sync::Mutex;

use dfs_proto::ids::InodeNo;
use lru::LruCache;

use crate::lock::lock;

/// Inodes remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add((1 << 15) - 1);
/// No path in the log has more parts: names may be old, and so go round in a circle.
const DEEPEST: usize = 64;

/// A directory, and a name in it.
type Place = (InodeNo, Box<[u8]>);

/// See the module.
pub struct Paths(Mutex<LruCache<InodeNo, Place>>);

impl Default for Paths {
    fn default() -> Paths {
        Paths(Mutex::new(LruCache::new(REMEMBERED)))
    }
}

impl Paths {
    /// `inode` was seen under this name.
    pub fn note(&self, inode: InodeNo, directory: InodeNo, name: &[u8]) {
        lock(&self.0).put(inode, (directory, name.into()));
    }

    /// The path of an inode from the root of the cluster, as far as it is known.
    pub fn of(&self, inode: InodeNo) -> String {
        let names = lock(&self.0);
        let (mut path, mut at) = (String::new(), inode);
        for _ in 0..DEEPEST {
            if at == InodeNo::ROOT {
                return if path.is_empty() { "/".to_owned() } else { path };
            }
            let Some((directory, name)) = names.peek(&at) else { break };
            path = format!("/{}{path}", String::from_utf8_lossy(name));
            at = *directory;
        }
        format!("(inode {at}){path}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_goes_up_to_the_root_or_as_far_as_names_are_known() {
        let paths = Paths::default();
        paths.note(InodeNo(2), InodeNo::ROOT, b"films");
        paths.note(InodeNo(3), InodeNo(2), b"a.mp4");
        paths.note(InodeNo(5), InodeNo(4), b"b");
        assert_eq!(paths.of(InodeNo(3)), "/films/a.mp4");
        assert_eq!(paths.of(InodeNo::ROOT), "/");
        assert_eq!(paths.of(InodeNo(5)), "(inode 4)/b");
        paths.note(InodeNo(2), InodeNo(3), b"old");
        assert!(paths.of(InodeNo(3)).len() < 1_000);
    }
}
