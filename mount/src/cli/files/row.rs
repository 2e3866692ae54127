//! What the commands print of an inode: its JSON, which is the same in all of them, and words of ls(1).

use std::borrow::Cow;

use dfs_proto::pb;
use serde::Serialize;

use super::names::Names;

/// One inode under one of its names.
#[derive(Serialize)]
pub(super) struct Row<'a> {
    name: Cow<'a, str>,
    r#type: &'static str,
    mode: String,
    size: u64,
    /// Bytes that it takes, in one copy; holes take none.
    allocated: u64,
    /// Seconds since 1970.
    mtime: i64,
    mtime_nsec: u32,
    inode: u64,
    nlink: u32,
    uid: u32,
    gid: u32,
    /// Null where this machine knows no name.
    user: Option<&'a str>,
    group: Option<&'a str>,
    /// Where a symbolic link leads, where that was asked for.
    target: Option<Cow<'a, str>>,
}

impl<'a> Row<'a> {
    pub(super) fn new(name: &'a [u8], attr: &pb::Attr, names: &'a Names) -> Row<'a> {
        let mtime = attr.mtime.unwrap_or_default();
        Row {
            name: String::from_utf8_lossy(name),
            r#type: type_of(attr.mode).0,
            mode: format!("{:04o}", attr.mode & 0o7777),
            size: attr.size,
            allocated: attr.allocated,
            mtime: mtime.sec,
            mtime_nsec: mtime.nsec,
            inode: attr.inode,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            user: names.user(attr.uid),
            group: names.group(attr.gid),
            target: None,
        }
    }

    pub(super) fn with_target(mut self, target: Option<&'a [u8]>) -> Row<'a> {
        self.target = target.map(String::from_utf8_lossy);
        self
    }

    /// Its owner, for people.
    pub(super) fn user(&self) -> String {
        self.user.map_or_else(|| self.uid.to_string(), str::to_owned)
    }

    pub(super) fn group(&self) -> String {
        self.group.map_or_else(|| self.gid.to_string(), str::to_owned)
    }
}

/// A word, and the letter that ls(1) has for it.
pub(super) fn type_of(mode: u32) -> (&'static str, char) {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => ("directory", 'd'),
        libc::S_IFLNK => ("symlink", 'l'),
        libc::S_IFIFO => ("fifo", 'p'),
        libc::S_IFSOCK => ("socket", 's'),
        libc::S_IFCHR => ("char", 'c'),
        libc::S_IFBLK => ("block", 'b'),
        _ => ("file", '-'),
    }
}

/// As ls(1) writes it: `-rwxr-xr-x`.
pub(super) fn mode_text(mode: u32) -> String {
    let mut text = String::from(type_of(mode).1);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_as_ls_writes_them() {
        assert_eq!(mode_text(libc::S_IFDIR | 0o755), "drwxr-xr-x");
        assert_eq!(mode_text(libc::S_IFREG | 0o4640), "-rwSr-----");
        assert_eq!(mode_text(libc::S_IFREG | 0o6755), "-rwsr-sr-x");
        assert_eq!(mode_text(libc::S_IFDIR | 0o1777), "drwxrwxrwt");
        assert_eq!(mode_text(libc::S_IFDIR | 0o1770), "drwxrwx--T");
    }
}
