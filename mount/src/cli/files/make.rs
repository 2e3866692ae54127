//! Makes what is no regular file, and gives finished files their names.

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use super::attributes::{kept, owner};
use crate::cli::CliError;
use crate::cli::output::printable;
use crate::cli::path::{is_directory, look};
use crate::client::Client;

/// A name that nobody looks for, under which a file is written until it is whole.
pub(super) fn temporary_name() -> Result<Vec<u8>, CliError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random)
        .map_err(|error| CliError::Local(format!("choosing a temporary name: {error}; try again")))?;
    Ok(format!(".{:016x}.dfs-put", u64::from_le_bytes(random)).into_bytes())
}

/// A new, open file with nothing in it.
pub(super) async fn create(
    client: &Client,
    parent: InodeNo,
    name: &[u8],
    mode: u32,
    (uid, gid): (u32, u32),
) -> Result<InodeNo, DfsError> {
    let name = Bytes::copy_from_slice(name);
    let create = pb::Create { parent: parent.0, name, mode, uid, gid, umask: 0 };
    Ok(InodeNo(client.create(create).await?.what.inode))
}

/// Gives what has the name `from` the name `to` in the same directory, in place of what has it.
pub(super) async fn rename(client: &Client, dir: InodeNo, from: &[u8], to: &[u8]) -> Result<(), DfsError> {
    let rename = pb::Rename {
        parent: dir.0,
        name: Bytes::copy_from_slice(from),
        new_parent: dir.0,
        new_name: Bytes::copy_from_slice(to),
        no_replace: false,
        exchange: false,
    };
    client.rename(rename).await.map(drop)
}

/// The directory of this name, which may be there. Its own owner may work in it until it gets the mode of `like`. True: it is new.
pub(super) async fn directory(
    client: &Client,
    parent: InodeNo,
    name: &[u8],
    like: &pb::Attr,
) -> Result<(InodeNo, bool), DfsError> {
    let (uid, gid) = owner(like, true);
    let mode = like.mode & 0o777 | 0o700;
    let mkdir = pb::Mkdir { parent: parent.0, name: Bytes::copy_from_slice(name), mode, uid, gid, umask: 0 };
    match client.mkdir(mkdir).await {
        Ok(attr) => Ok((InodeNo(attr.what.inode), true)),
        Err(error) if error.code == ErrorCode::Exists => {
            let attr = client.lookup(parent, name).await?;
            if is_directory(&attr) {
                return Ok((InodeNo(attr.inode), false));
            }
            let message =
                format!("there is something named {} that is no directory; remove it", printable(name));
            Err(DfsError::new(ErrorCode::NotDirectory, message))
        }
        Err(error) => Err(error),
    }
}

/// A symbolic link to `target`, or a node as `like` is one, in place of what has the name.
pub(super) async fn special(
    client: &Client,
    parent: InodeNo,
    name: &[u8],
    like: &pb::Attr,
    target: Option<&[u8]>,
) -> Result<(), DfsError> {
    let (uid, gid) = owner(like, true);
    let there = look(client, parent, name).await?;
    if let (Some(there), Some(target)) = (&there, target)
        && there.mode & libc::S_IFMT == libc::S_IFLNK
        && client.readlink(InodeNo(there.inode)).await? == target
    {
        return Ok(());
    }
    let temporary = temporary_name().map_err(|error| DfsError::new(ErrorCode::Io, error.to_string()))?;
    let (wire_parent, wire_name) = (parent.0, Bytes::copy_from_slice(&temporary));
    let made = match target {
        Some(target) => {
            let target = Bytes::copy_from_slice(target);
            client.symlink(pb::Symlink { parent: wire_parent, name: wire_name, target, uid, gid }).await?
        }
        None => {
            let (mode, rdev) = (like.mode, like.rdev);
            let node = pb::Mknod { parent: wire_parent, name: wire_name, mode, uid, gid, rdev, umask: 0 };
            client.mknod(node).await?
        }
    };
    let whole = async {
        client.setattr(kept(made.what.inode, like)).await?;
        rename(client, parent, &temporary, name).await
    };
    let done = whole.await;
    if done.is_err() {
        // What matters is the error before it.
        let _ = client.unlink(parent, &temporary).await;
    }
    done
}
