//! Finds the directory that is to be mounted (`--subdir`), before anything is mounted.

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use crate::client::Client;
use crate::options::subdir::SubDir;

/// Why that directory cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum SubDirError {
    /// There is no such thing.
    #[error("subdir {subdir}: there is no {missing} in the cluster; mount without subdir and make it")]
    Missing {
        /// What was asked for.
        subdir: SubDir,
        /// The first part of it that is not there.
        missing: String,
    },
    /// A file, a device, ...
    #[error("subdir {subdir}: {part} is not a directory; name a directory of the cluster")]
    NotDirectory {
        /// What was asked for.
        subdir: SubDir,
        /// The part of it that is none.
        part: String,
    },
    /// Where it leads may change under the mount.
    #[error(
        "subdir {subdir}: {part} is a symbolic link, which is not followed; name the directory that it leads to"
    )]
    Symlink {
        /// What was asked for.
        subdir: SubDir,
        /// The link.
        part: String,
    },
    /// The master.
    #[error("subdir {subdir}: {error}")]
    Master {
        /// What was asked for.
        subdir: SubDir,
        /// What it said.
        error: DfsError,
    },
}

/// Follows the names from the cluster's root; no symbolic link is followed.
///
/// # Errors
/// [`SubDirError`].
pub async fn find(client: &Client, subdir: &SubDir) -> Result<InodeNo, SubDirError> {
    let mut inode = InodeNo::ROOT;
    let mut part = String::new();
    for name in subdir.names() {
        part = format!("{part}/{}", String::from_utf8_lossy(name));
        let attr = client.lookup(inode, name).await.map_err(|error| failed(subdir, &part, error))?;
        check_directory(subdir, &part, &attr)?;
        inode = InodeNo(attr.inode);
    }
    Ok(inode)
}

fn failed(subdir: &SubDir, part: &str, error: DfsError) -> SubDirError {
    let subdir = subdir.clone();
    match error.code {
        ErrorCode::NotFound => SubDirError::Missing { subdir, missing: part.to_owned() },
        _ => SubDirError::Master { subdir, error },
    }
}

fn check_directory(subdir: &SubDir, part: &str, attr: &pb::Attr) -> Result<(), SubDirError> {
    let (subdir, part) = (subdir.clone(), part.to_owned());
    match attr.mode & libc::S_IFMT {
        libc::S_IFDIR => Ok(()),
        libc::S_IFLNK => Err(SubDirError::Symlink { subdir, part }),
        _ => Err(SubDirError::NotDirectory { subdir, part }),
    }
}
