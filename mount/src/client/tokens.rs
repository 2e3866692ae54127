//! The token with which this process says who it is: from a file, which is read again for every connection, since somebody
//! may have logged in meanwhile. A renewed token goes back into the file; where that cannot be written, it is kept here.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::secret::Secret;
use dfs_proto::token_file::{self, TokenFileError};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;

use crate::lock::lock;

/// See the module.
#[derive(Debug, Default)]
pub struct Tokens {
    file: Option<PathBuf>,
    /// It has to be there: it was named.
    must: bool,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// As the file last had it.
    in_file: Option<Secret>,
    current: Option<Secret>,
}

impl Tokens {
    /// There is none: for clusters that ask nobody.
    pub fn none() -> Tokens {
        Tokens::default()
    }

    /// In a file that was named, and has to be there.
    pub fn at(file: impl Into<PathBuf>) -> Tokens {
        Tokens { file: Some(file.into()), must: true, kept: Mutex::default() }
    }

    /// Where `dfs login` puts it for the master at this address, if somebody logged in.
    pub fn of_login(master: &str) -> Tokens {
        Tokens { file: login_file(master), must: false, kept: Mutex::default() }
    }

    /// The named file, or else that of the login.
    pub fn at_or_of_login(file: Option<&Path>, master: &str) -> Tokens {
        file.map_or_else(|| Tokens::of_login(master), Tokens::at)
    }

    /// Could there be one?
    pub fn is_any(&self) -> bool {
        self.file.is_some()
    }

    /// The token now.
    ///
    /// # Errors
    /// `Unauthenticated`: the file is not as it has to be.
    pub async fn current(self: &Arc<Self>) -> Result<Option<Secret>, DfsError> {
        if self.file.is_none() {
            return Ok(None);
        }
        let tokens = self.clone();
        let read = tokio::task::spawn_blocking(move || tokens.read()).await;
        read.unwrap_or_else(|error| {
            Err(DfsError::new(ErrorCode::Io, format!("reading the token file: {error}")))
        })
    }

    fn read(&self) -> Result<Option<Secret>, DfsError> {
        let Some(file) = &self.file else { return Ok(None) };
        let read = match token_file::read(file) {
            Ok(token) => token,
            // Nobody named it, and it may be in another user's home.
            Err(error @ TokenFileError::Read { .. }) if !self.must => {
                tracing::debug!("there is no login: {error}");
                return Ok(None);
            }
            Err(error) => return Err(DfsError::new(ErrorCode::Unauthenticated, error.to_string())),
        };
        let mut kept = lock(&self.kept);
        if kept.in_file.as_ref() != Some(&read) {
            kept.current = Some(read.clone());
            kept.in_file = Some(read);
        }
        Ok(kept.current.clone())
    }

    /// The metadata that carries it.
    ///
    /// # Errors
    /// As [`Tokens::current`].
    pub(super) async fn carrier(self: &Arc<Self>) -> Result<Carrier, DfsError> {
        let Some(token) = self.current().await? else { return Ok(Carrier(None)) };
        let value = token_file::header(&token).ok_or_else(|| {
            DfsError::new(
                ErrorCode::Unauthenticated,
                "what is in the token file is no token; log in again with 'dfs login'",
            )
        })?;
        Ok(Carrier(Some(value)))
    }

    /// There is a newer one.
    pub(super) async fn put(self: &Arc<Self>, token: &Secret) {
        let (tokens, token) = (self.clone(), token.clone());
        if let Err(error) = tokio::task::spawn_blocking(move || tokens.write(&token)).await {
            tracing::debug!("the renewed token is lost: {error}");
        }
    }

    fn write(&self, token: &Secret) {
        let Some(file) = &self.file else { return };
        let mut kept = lock(&self.kept);
        kept.current = Some(token.clone());
        match token_file::write(file, token) {
            Ok(()) => kept.in_file = Some(token.clone()),
            Err(error) => tracing::debug!("the renewed token is kept in memory alone: {error}"),
        }
    }
}

/// The file of a login at the master of this address.
pub fn login_file(master: &str) -> Option<PathBuf> {
    let name: String =
        master.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' }).collect();
    crate::options::home::state_home().map(|home| home.join("dfs").join(format!("login-{name}")))
}

/// Puts the token on a call.
#[derive(Clone, Debug)]
pub struct Carrier(Option<MetadataValue<Ascii>>);

impl Interceptor for Carrier {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert(token_file::HEADER, value.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_file_and_memory_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let secret = Secret::new;
        token_file::write(&path, &secret("first")).unwrap();
        let tokens = Tokens::at(&path);
        let current = || tokens.read().unwrap().unwrap().expose().to_owned();
        assert_eq!(current(), "first");
        tokens.write(&secret("renewed"));
        assert_eq!((current().as_str(), token_file::read(&path).unwrap().expose()), ("renewed", "renewed"));
        // Somebody logs in.
        token_file::write(&path, &secret("login")).unwrap();
        assert_eq!(current(), "login");
        // A file that cannot be replaced: what was renewed is kept, until somebody logs in.
        lock(&tokens.kept).current = Some(secret("in memory"));
        assert_eq!(current(), "in memory");
        token_file::write(&path, &secret("again")).unwrap();
        assert_eq!(current(), "again");
    }

    #[test]
    fn a_file_that_was_named_has_to_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none");
        assert_eq!(Tokens::at(&path).read().unwrap_err().code, ErrorCode::Unauthenticated);
        std::fs::write(dir.path().join("file"), "").unwrap();
        for nowhere in [path, dir.path().join("file/token")] {
            let of_login = Tokens { must: false, ..Tokens::at(nowhere) };
            assert_eq!(of_login.read().unwrap(), None);
        }
        assert_eq!(Tokens::none().read().unwrap(), None);
    }
}
