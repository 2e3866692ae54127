//! From a path in the cluster to an inode, by the session's calls.

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use super::CliError;
use super::output::printable;
use crate::client::Client;

/// As the kernel has it.
const MAX_LINKS: usize = 40;

/// What a path leads to.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) attr: pb::Attr,
    /// The directory that has it, and the name it has there; for the root its own number and no name.
    pub(super) parent: InodeNo,
    pub(super) name: Vec<u8>,
    /// The directories that were gone through, from the root to `parent`.
    pub(super) above: Vec<InodeNo>,
}

/// Where something goes to.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) parent: InodeNo,
    pub(super) name: Vec<u8>,
    /// From the root to `parent`.
    pub(super) above: Vec<InodeNo>,
    /// What has this name now.
    pub(super) there: Option<pb::Attr>,
}

pub(super) fn is_directory(attr: &pb::Attr) -> bool {
    attr.mode & libc::S_IFMT == libc::S_IFDIR
}

pub(super) fn is_regular(attr: &pb::Attr) -> bool {
    attr.mode & libc::S_IFMT == libc::S_IFREG
}

pub(super) fn is_symlink(attr: &pb::Attr) -> bool {
    attr.mode & libc::S_IFMT == libc::S_IFLNK
}

/// Says what was being done to which path when the master refused it.
pub(super) fn name_it(error: DfsError, what: &str, path: &[u8]) -> CliError {
    let path = printable(path);
    match error.code {
        ErrorCode::NotFound => CliError::Local(format!(
            "{what} {path}: there is no such file or directory in the cluster; dfs ls shows what is there"
        )),
        ErrorCode::NotDirectory => CliError::Local(format!(
            "{what} {path}: a part of the path is no directory; dfs ls shows what is there"
        )),
        // These name address and remedy themselves.
        ErrorCode::Unavailable | ErrorCode::TimedOut => CliError::Dfs(error),
        ErrorCode::Interrupted => CliError::Interrupted,
        _ => CliError::Local(format!("{what} {path}: {}", error.message)),
    }
}

/// Follows `path` from the root; a symbolic link at its very end only with `follow`.
pub(super) async fn resolve(client: &Client, path: &[u8], follow: bool) -> Result<Found, DfsError> {
    // Still to go, the next one last.
    let mut todo = components(path);
    let mut dirs = vec![InodeNo::ROOT];
    let at = |attr, parent| Found { attr, parent, name: Vec::new(), above: Vec::new() };
    let mut found = at(client.getattr(InodeNo::ROOT).await?, InodeNo::ROOT);
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if !is_directory(&found.attr) {
            return Err(DfsError::new(
                ErrorCode::NotDirectory,
                format!("{} is no directory", printable(&found.name)),
            ));
        }
        if name == b".." {
            dirs.pop();
            let here = dirs.last().copied().unwrap_or(InodeNo::ROOT);
            if dirs.is_empty() {
                dirs.push(here);
            }
            found = at(client.getattr(here).await?, here);
            continue;
        }
        let parent = dirs.last().copied().unwrap_or(InodeNo::ROOT);
        let attr = client.lookup(parent, &name).await?;
        if is_symlink(&attr) && (follow || !todo.is_empty()) {
            links += 1;
            if links > MAX_LINKS {
                return Err(DfsError::new(ErrorCode::Loop, "too many symbolic links; see where they lead"));
            }
            let target = client.readlink(InodeNo(attr.inode)).await?;
            if target.starts_with(b"/") {
                dirs.truncate(1);
            }
            let here = dirs.last().copied().unwrap_or(InodeNo::ROOT);
            found = at(client.getattr(here).await?, here);
            todo.extend(components(&target));
            continue;
        }
        if is_directory(&attr) {
            dirs.push(InodeNo(attr.inode));
        }
        found = Found { attr, parent, name, above: Vec::new() };
    }
    if is_directory(&found.attr) && dirs.len() > 1 {
        dirs.pop();
    }
    found.above = dirs;
    Ok(found)
}

/// What `path` is as the place for something new. A directory that is there gets it under the name `base`, its own; with no `base` that is
/// an error.
pub(super) async fn target(client: &Client, path: &[u8], base: Option<&[u8]>) -> Result<Target, DfsError> {
    match resolve(client, path, true).await {
        Ok(found) if is_directory(&found.attr) => {
            let parent = InodeNo(found.attr.inode);
            let needs_name = || DfsError::new(ErrorCode::IsDirectory, "it is a directory; say a name in it");
            let name = base.ok_or_else(needs_name)?.to_vec();
            let mut above = found.above;
            if above.last() != Some(&parent) {
                above.push(parent);
            }
            let there = look(client, parent, &name).await?;
            Ok(Target { parent, name, above, there })
        }
        Ok(Found { attr, parent, name, above }) => Ok(Target { parent, name, above, there: Some(attr) }),
        Err(error) if error.code == ErrorCode::NotFound => {
            let (parent, name) = split_last(path).ok_or(error)?;
            let found = resolve(client, parent, true).await?;
            if !is_directory(&found.attr) {
                return Err(DfsError::new(ErrorCode::NotDirectory, "its parent is no directory"));
            }
            let parent = InodeNo(found.attr.inode);
            let mut above = found.above;
            if above.last() != Some(&parent) {
                above.push(parent);
            }
            // A link that leads nowhere has the name.
            let there = look(client, parent, name).await?;
            Ok(Target { parent, name: name.to_vec(), above, there })
        }
        Err(error) => Err(error),
    }
}

/// What has this name, if anything.
pub(super) async fn look(
    client: &Client,
    parent: InodeNo,
    name: &[u8],
) -> Result<Option<pb::Attr>, DfsError> {
    match client.lookup(parent, name).await {
        Ok(attr) => Ok(Some(attr)),
        Err(error) if error.code == ErrorCode::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The names of a path, the last one first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    names.rev().map(<[u8]>::to_vec).collect()
}

/// A path's directory part and last name; `None` when it ends in no name (`/`, `a/`, `..`).
pub(super) fn split_last(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let (parent, name) = path.split_at(at);
    (!name.is_empty() && name != b"." && name != b"..").then_some((parent, name))
}

/// The last name of a path, however it ends: what a file from there is called elsewhere.
pub(super) fn base_name(path: &[u8]) -> Option<Vec<u8>> {
    components(path).into_iter().next().filter(|name| name != b"..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_name_of_a_path() {
        assert_eq!(split_last(b"/a/b"), Some((&b"/a/"[..], &b"b"[..])));
        assert_eq!(split_last(b"b"), Some((&b""[..], &b"b"[..])));
        for none in [&b"/"[..], b"", b"/a/", b"/a/..", b"."] {
            assert_eq!(split_last(none), None, "{}", printable(none));
        }
        assert_eq!(base_name(b"/a/b//"), Some(b"b".to_vec()));
        assert_eq!(base_name(b"/"), None);
        assert_eq!(base_name(b".."), None);
    }
}
