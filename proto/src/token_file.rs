//! Files that hold one token, and the header in which it travels.
//!
//! What must hold: a file that others than its owner can read is refused, for its token is not a secret any more; a file is
//! written whole, for its owner alone, and stays with the owner that it had.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use tonic::metadata::{Ascii, MetadataValue};

use crate::secret::Secret;
use crate::token::MAX_TOKEN_LEN;

/// The metadata of a call that has the token.
pub const HEADER: &str = "authorization";
const PREFIX: &str = "Bearer ";

/// Why there is no token in a file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TokenFileError {
    #[error("token file {}: {why}; log in with 'dfs login', or name another file with --token-file", path.display())]
    Read { path: PathBuf, why: io::Error },
    #[error("token file {}: others than its owner can read it (mode {mode:o}); run chmod 600 on it, and log in again if somebody may have read it", path.display())]
    Readable { path: PathBuf, mode: u32 },
    #[error("token file {}: there is no token in it; log in with 'dfs login'", path.display())]
    NoToken { path: PathBuf },
    #[error("token file {}: cannot be written: {why}; see that its directory is there and writable", path.display())]
    Write { path: PathBuf, why: io::Error },
}

/// Reads a secret of one line: a token, or a password.
///
/// # Errors
/// [`TokenFileError`].
pub fn read(path: &Path) -> Result<Secret, TokenFileError> {
    let failed = |why| TokenFileError::Read { path: path.to_owned(), why };
    let file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if meta.is_file() && meta.mode() & 0o077 != 0 {
        return Err(TokenFileError::Readable { path: path.to_owned(), mode: meta.mode() & 0o7777 });
    }
    let mut text = String::new();
    file.take(MAX_TOKEN_LEN as u64 + 1).read_to_string(&mut text).map_err(failed)?;
    let line = text.trim_end_matches(['\n', '\r']);
    if line.is_empty() || line.len() > MAX_TOKEN_LEN || line.contains('\n') {
        return Err(TokenFileError::NoToken { path: path.to_owned() });
    }
    Ok(Secret::new(line))
}

/// Puts a secret in a file, in place of what is there; a directory that is missing is made.
///
/// # Errors
/// [`TokenFileError`]; the file is as it was then.
pub fn write(path: &Path, secret: &Secret) -> Result<(), TokenFileError> {
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let written = (|| {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        let _ = fs::remove_file(&part);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
        if let Ok(old) = fs::metadata(path) {
            let ours = file.metadata()?;
            if (old.uid(), old.gid()) != (ours.uid(), ours.gid()) {
                fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
        }
        writeln!(file, "{}", secret.expose())?;
        file.sync_all()?;
        fs::rename(&part, path)
    })();
    written.map_err(|why| {
        // What matters is the error before it.
        let _ = fs::remove_file(&part);
        TokenFileError::Write { path: path.to_owned(), why }
    })
}

/// The header's value. `None`: a token has none of these characters.
pub fn header(token: &Secret) -> Option<MetadataValue<Ascii>> {
    let mut value = MetadataValue::try_from(format!("{PREFIX}{}", token.expose())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The token in a header's value.
pub fn bearer(value: &str) -> Option<&str> {
    value.strip_prefix(PREFIX).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/token");
        for text in ["first", "second.x.y"] {
            write(&path, &Secret::new(text)).unwrap();
            assert_eq!(read(&path).unwrap().expose(), text);
        }
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_others_can_read_and_what_is_no_token_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        assert!(matches!(read(&path), Err(TokenFileError::Read { .. })));
        for (text, mode) in [("t\n", 0o640), ("t\n", 0o604), ("t\n", 0o660)] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read(&path), Err(TokenFileError::Readable { .. })), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for text in ["", "\n", "one\ntwo\n", &"x".repeat(MAX_TOKEN_LEN + 1)] {
            fs::write(&path, text).unwrap();
            assert!(matches!(read(&path), Err(TokenFileError::NoToken { .. })), "{text:.9}");
        }
    }

    #[test]
    fn a_header_carries_the_token_and_does_not_show_it() {
        let value = header(&Secret::new("a.b.c")).unwrap();
        assert_eq!(bearer(value.to_str().unwrap()), Some("a.b.c"));
        assert!(!format!("{value:?}").contains("a.b.c"));
        assert!(header(&Secret::new("a\nb")).is_none());
        assert_eq!((bearer("Basic x"), bearer("Bearer ")), (None, None));
    }
}
