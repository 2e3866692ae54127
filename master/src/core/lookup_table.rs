//! The look-up table as operators see it: file name, keeper, path on that keeper, is it alive; dentries,
//! extents and copies joined. In the order of paths, each directory's names as bytes; in pages, since it
//! has a row per copy of everything.

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, InodeNo};
use dfs_proto::pb;

use super::State;
use super::content::Span;
use super::inode::Body;
use super::namespace::shown;
use super::row::Name;

/// Entries that one page looks at, so that a tree of empty files does not hold everybody up.
const MAX_VISITS: usize = 65_536;

/// Where a page of the look-up table ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LookupCursor {
    /// The last entry that was looked at: absolute.
    path: Vec<u8>,
    /// The first byte of it whose extent has yet to be shown; `None`: it was shown whole.
    from: Option<u64>,
}

impl LookupCursor {
    /// As text without anything that has a meaning in an address.
    pub fn encode(&self) -> String {
        use std::fmt::Write;
        let mut text = self.from.map_or("-".to_owned(), |from| from.to_string());
        text.push('.');
        for byte in &self.path {
            // A String takes everything.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// What [`LookupCursor::encode`] made. `None`: it made nothing of the kind.
    pub fn decode(text: &str) -> Option<LookupCursor> {
        let (from, path) = text.split_once('.')?;
        let from = if from == "-" { None } else { Some(from.parse().ok()?) };
        let digits = path.as_bytes();
        if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let path: Vec<u8> = digits.chunks(2).map(byte).collect::<Option<_>>()?;
        path.starts_with(b"/").then_some(LookupCursor { path, from })
    }
}

/// All entries below a directory, in the order of paths, a directory before what is in it.
pub(super) struct Walk<'a> {
    state: &'a State,
    /// From the top down: a directory, the length of its path, and the last name that was given out.
    stack: Vec<(InodeNo, usize, Option<Name>)>,
    /// Of the directory on top of the stack, without a slash at the end.
    path: Vec<u8>,
}

impl<'a> Walk<'a> {
    /// `path` is that of the directory.
    pub fn new(state: &'a State, directory: InodeNo, path: &[u8]) -> Walk<'a> {
        let mut walk = Walk { state, stack: Vec::new(), path: Vec::new() };
        walk.path.extend_from_slice(path.strip_suffix(b"/").unwrap_or(path));
        walk.stack.push((directory, walk.path.len(), None));
        walk
    }

    fn entries(&self, directory: InodeNo) -> Option<&'a super::inode::Dir> {
        match &self.state.inodes.get(&directory)?.body {
            Body::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    fn enter(&mut self, name: &[u8], inode: InodeNo) {
        if self.entries(inode).is_some() {
            self.path.push(b'/');
            self.path.extend_from_slice(name);
            self.stack.push((inode, self.path.len(), None));
        }
    }

    /// Goes on behind the entry at `below`, a path relative to where the walk began. It need not be there
    /// any more.
    fn skip_to(&mut self, below: &[u8]) {
        for name in below.split(|byte| *byte == b'/') {
            let Some((directory, _, last)) = self.stack.last_mut() else { return };
            *last = Some(name.into());
            let directory = *directory;
            let child = self.entries(directory).and_then(|dir| dir.entries.get(name));
            match child {
                Some(inode) if self.entries(inode).is_some() => self.enter(name, inode),
                _ => return,
            }
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = (Vec<u8>, InodeNo);

    fn next(&mut self) -> Option<(Vec<u8>, InodeNo)> {
        loop {
            let (directory, length, last) = self.stack.last_mut()?;
            self.path.truncate(*length);
            let after = last.take().unwrap_or_default();
            let directory = *directory;
            let found = self.entries(directory).and_then(|dir| dir.entries.after(&after).next());
            let Some((name, inode)) = found else {
                self.stack.pop();
                continue;
            };
            if let Some((_, _, last)) = self.stack.last_mut() {
                *last = Some(name.into());
            }
            let mut path = self.path.clone();
            path.push(b'/');
            path.extend_from_slice(name);
            self.enter(name, inode);
            return Some((path, inode));
        }
    }
}

impl State {
    /// The inode at an absolute path (no symbolic link is followed), and the path without needless slashes.
    pub(super) fn resolve(&self, path: &[u8]) -> Result<(InodeNo, Vec<u8>), DfsError> {
        self.resolve_below(InodeNo::ROOT, path)
    }

    /// The same, where `root` is the root of all paths.
    pub(super) fn resolve_below(&self, root: InodeNo, path: &[u8]) -> Result<(InodeNo, Vec<u8>), DfsError> {
        let (mut inode, mut clean) = (root, Vec::new());
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let next = match &self.inode(inode)?.body {
                Body::Dir(dir) => dir.entries.get(name),
                _ => {
                    let message = format!("'{}' is not a directory", String::from_utf8_lossy(&clean));
                    return Err(DfsError::new(ErrorCode::NotDirectory, message));
                }
            };
            let Some(next) = next else {
                let message =
                    format!("there is no '{}' in '{}/'", shown(name), String::from_utf8_lossy(&clean));
                return Err(DfsError::new(ErrorCode::NotFound, message));
            };
            clean.push(b'/');
            clean.extend_from_slice(name);
            inode = next;
        }
        Ok((inode, clean))
    }

    /// A page of the look-up table: of the file at `path`, or of all below the directory at `path` (empty:
    /// the root). `after` is where the page before ended; `limit` is the number of rows at which a page ends
    /// (the copies of one extent are never parted, so it may be a few over). With `None` for the next page the
    /// table is over.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`.
    pub fn lookup_rows(
        &self,
        path: &[u8],
        after: Option<LookupCursor>,
        limit: usize,
    ) -> Result<(Vec<pb::LookupRow>, Option<LookupCursor>), DfsError> {
        self.lookup_rows_below(InodeNo::ROOT, path, after, limit)
    }

    /// The same as it is seen by whoever sees `root` alone.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`.
    pub fn lookup_rows_below(
        &self,
        root: InodeNo,
        path: &[u8],
        after: Option<LookupCursor>,
        limit: usize,
    ) -> Result<(Vec<pb::LookupRow>, Option<LookupCursor>), DfsError> {
        let (base, clean) = self.resolve_below(root, path)?;
        let mut rows = Vec::new();
        if !self.inode(base)?.is_dir() {
            let from = after.map_or(Some(0), |cursor| cursor.from);
            let next = from.and_then(|from| self.rows_of(base, &clean, from, limit, &mut rows));
            let cursor = next.map(|from| LookupCursor { path: clean, from: Some(from) });
            return Ok((rows, cursor));
        }
        let mut walk = Walk::new(self, base, &clean);
        if let Some(after) = after {
            if let Some(below) = after.path.strip_prefix(&clean[..]).and_then(|rest| rest.strip_prefix(b"/"))
            {
                walk.skip_to(below);
            }
            if let (Some(from), Ok((inode, path))) = (after.from, self.resolve_below(root, &after.path))
                && let Some(from) = self.rows_of(inode, &path, from, limit, &mut rows)
            {
                return Ok((rows, Some(LookupCursor { path, from: Some(from) })));
            }
        }
        for (visits, (path, inode)) in walk.enumerate() {
            let next = self.rows_of(inode, &path, 0, limit, &mut rows);
            if next.is_some() || visits >= MAX_VISITS {
                return Ok((rows, Some(LookupCursor { path, from: next })));
            }
        }
        Ok((rows, None))
    }

    /// Appends the rows of one file from a byte on. `Some`: the page was full before this byte's extent.
    fn rows_of(
        &self,
        inode: InodeNo,
        path: &[u8],
        from: u64,
        limit: usize,
        rows: &mut Vec<pb::LookupRow>,
    ) -> Option<u64> {
        for (start, span) in self.extents_from(inode, from) {
            if rows.len() >= limit.max(1) {
                return Some(start);
            }
            self.rows_of_extent(path, start, span, rows);
        }
        None
    }

    fn rows_of_extent(&self, path: &[u8], start: u64, span: Span, rows: &mut Vec<pb::LookupRow>) {
        let row = pb::LookupRow {
            file: bytes::Bytes::copy_from_slice(path),
            chunk: span.chunk.0,
            offset: start,
            length: u64::from(span.length),
            ..pb::LookupRow::default()
        };
        let copies = self.chunks.get(span.chunk).map_or(&[][..], |chunk| &chunk.keepers);
        if copies.is_empty() {
            rows.push(row);
            return;
        }
        for id in copies {
            let Some(keeper) = self.keepers.get(id) else { continue };
            let directory = keeper.row.data_dir.trim_end_matches('/');
            rows.push(pb::LookupRow {
                keeper: id.0,
                path: format!("{directory}/{}", ChunkId(row.chunk).relative_path()),
                alive: keeper.alive,
                address: keeper.row.address.clone(),
                ..row.clone()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::Kit;
    use super::*;
    use dfs_proto::ids::KeeperId;

    fn tree() -> Kit {
        let mut kit = Kit::with_keepers(2);
        let a = kit.mkdir(InodeNo::ROOT, "a");
        let deep = kit.mkdir(a, "deep");
        kit.mkdir(a, "empty");
        for (parent, name, extents) in
            [(InodeNo::ROOT, "z", 3), (a, "f", 2), (deep, "g", 5), (deep, "none", 0)]
        {
            let file = kit.create(parent, name);
            for i in 0..extents {
                kit.upload(file, i * 20, 10);
            }
        }
        kit
    }

    fn table(kit: &Kit, path: &str, limit: usize) -> Vec<(String, u64, u64)> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let (rows, next) = kit.state.lookup_rows(path.as_bytes(), after, limit).unwrap();
            all.extend(
                rows.into_iter().map(|r| (String::from_utf8_lossy(&r.file).into_owned(), r.offset, r.keeper)),
            );
            match next {
                None => return all,
                next => after = next,
            }
        }
    }

    #[test]
    fn pages_join_to_the_whole_table_in_the_order_of_paths() {
        let kit = tree();
        let whole = table(&kit, "", usize::MAX);
        assert_eq!(whole.len(), 2 * 10);
        let files: Vec<&str> = whole.iter().map(|(file, _, _)| file.as_str()).collect();
        assert_eq!((files[0], files[4], files[14]), ("/a/deep/g", "/a/deep/g", "/z"));
        assert!(files.is_sorted());
        for limit in 1..=21 {
            assert_eq!(table(&kit, "/", limit), whole, "limit {limit}");
        }
        assert_eq!(table(&kit, "/a//f/", 1), whole[10..14]);
        assert_eq!(table(&kit, "/a", 3), whole[..14]);
    }

    #[test]
    fn a_row_says_where_the_copy_is_and_whether_it_can_be_had() {
        let mut kit = tree();
        kit.kill(KeeperId(2));
        let (rows, _) = kit.state.lookup_rows(b"/z", None, 2).unwrap();
        let chunk = ChunkId(rows[0].chunk);
        assert_eq!(rows[0].path, format!("/data/1/{}", chunk.relative_path()));
        assert_eq!((rows[0].alive, rows[1].alive), (true, false));
        kit.bad_copy(KeeperId(1), chunk);
        kit.keeper_hello(KeeperId(2), "h2");
        kit.bad_copy(KeeperId(2), chunk);
        let (rows, _) = kit.state.lookup_rows(b"/z", None, 1).unwrap();
        assert_eq!((rows[0].keeper, rows[0].path.as_str(), rows[0].alive), (0, "", false));
    }

    #[test]
    fn a_missing_path_is_named() {
        let kit = tree();
        let code = |path: &[u8]| kit.state.lookup_rows(path, None, 9).map_err(|e| e.code).err();
        assert_eq!(code(b"/a/nope"), Some(ErrorCode::NotFound));
        assert_eq!(code(b"/z/nope"), Some(ErrorCode::NotDirectory));
    }
}
