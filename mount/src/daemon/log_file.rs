//! Where a mount in the background logs. One file for each mount point, bounded: a start that finds more than
//! [`MAX_LOG_BYTES`] begins anew.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::options::home;

/// A log larger than this is emptied at the next start, in bytes.
pub const MAX_LOG_BYTES: u64 = 10 * 1024 * 1024;

/// Longest escaped mount point in a file name; the end of it tells more than the start.
const MAX_NAME: usize = 200;

/// The log file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("log file {path}: {error}; name another with --log-file")]
pub struct LogFileError {
    path: PathBuf,
    error: io::Error,
}

/// `dfs/mount-<escaped mount point>.log` in the user's state directory; `None` where there is no such
/// directory.
pub fn default_path(mountpoint: &Path) -> Option<PathBuf> {
    home::state_home().map(|state| state.join("dfs").join(format!("mount-{}.log", escape(mountpoint))))
}

/// Opens the file to append to; makes it and its directory when they are missing, for the user's eyes alone.
///
/// # Errors
/// Names the file, and what is wrong.
pub fn open(path: &Path) -> Result<File, LogFileError> {
    let failed = |error| LogFileError { path: path.to_owned(), error };
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(failed)?;
    // A device or a pipe has no size to bound.
    let meta = fs::metadata(path).map_err(failed)?;
    if meta.is_file() && meta.len() > MAX_LOG_BYTES {
        file.set_len(0).map_err(failed)?;
    }
    Ok(file)
}

/// A path as one file name: `/` becomes `-`, and what is not a letter, a digit, `.` or `_` becomes `%XX`; so no
/// two paths share a name.
fn escape(path: &Path) -> String {
    let mut out = String::new();
    let bytes = path.as_os_str().as_bytes();
    for &byte in bytes.strip_prefix(b"/").unwrap_or(bytes) {
        match byte {
            b'/' => out.push('-'),
            b if b.is_ascii_alphanumeric() || b == b'.' || b == b'_' => out.push(char::from(b)),
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    let cut = out.len().saturating_sub(MAX_NAME);
    out.split_off(cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn mount_points_become_file_names_of_their_own() {
        assert_eq!(escape(Path::new("/mnt/dfs")), "mnt-dfs");
        assert_eq!(escape(Path::new("/mnt-dfs")), "mnt%2Ddfs");
        assert_eq!(escape(Path::new("/mnt/my films")), "mnt-my%20films");
        assert_eq!(escape(Path::new(&format!("/{}", "a".repeat(4000)))).len(), MAX_NAME);
    }

    #[test]
    fn the_log_is_private_appended_to_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/dir/x.log");
        open(&path).unwrap().write_all(b"one").unwrap();
        open(&path).unwrap().write_all(b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"onetwo");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        File::create(&path).unwrap().set_len(MAX_LOG_BYTES + 1).unwrap();
        open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    }

    #[test]
    fn a_log_that_cannot_be_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&dir.path().display().to_string()) && error.contains("--log-file"), "{error}");
    }
}
