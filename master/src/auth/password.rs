//! Passwords: argon2id, with the parameters that its authors recommend (19 MiB, two passes, one lane). It is meant to
//! take long, so it never runs on an async thread, and only [`AT_ONCE`] of it at a time: the memory is bounded.

use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use dfs_proto::secret::Secret;
use tokio::sync::Semaphore;
use tonic::Status;

use super::no_random;

/// Hashes that are computed at a time.
const AT_ONCE: usize = 2;
static ROOM: Semaphore = Semaphore::const_new(AT_ONCE);

/// The shortest password, in bytes.
const MIN_LEN: usize = 8;
/// The longest.
const MAX_LEN: usize = 1024;

/// Of nobody's password: whoever logs in as somebody who is not there takes as long as anybody.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// The hash of a new password.
///
/// # Errors
/// It is too short or too long, or the system fails us.
pub async fn hash(password: Secret) -> Result<String, Status> {
    if !(MIN_LEN..=MAX_LEN).contains(&password.expose().len()) {
        return Err(Status::invalid_argument(format!(
            "a password has {MIN_LEN} to {MAX_LEN} bytes; choose another"
        )));
    }
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(no_random)?;
    let broken = |error| Status::internal(format!("the password cannot be hashed: {error}"));
    let salt = SaltString::encode_b64(&salt).map_err(broken)?;
    aside(move || {
        let hashed = Argon2::default().hash_password(password.expose().as_bytes(), &salt);
        hashed.map(|hash| hash.to_string()).map_err(broken)
    })
    .await?
}

/// Is it this one? `hash` empty: there is none, and it is not.
///
/// # Errors
/// The system fails us.
pub async fn verify(password: Secret, hash: String) -> Result<bool, Status> {
    aside(move || {
        let hash = if hash.is_empty() { NOBODY } else { &hash };
        // The comparison takes the same time wherever the two differ.
        PasswordHash::new(hash)
            .and_then(|hash| Argon2::default().verify_password(password.expose().as_bytes(), &hash))
            .is_ok()
    })
    .await
}

async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    let broken =
        |error: &dyn std::fmt::Display| Status::internal(format!("a hash was not computed: {error}"));
    let _turn = ROOM.acquire().await.map_err(|error| broken(&error))?;
    tokio::task::spawn_blocking(work).await.map_err(|error| broken(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_known_again_and_another_is_not() {
        let password = || Secret::new("correct horse");
        let one = hash(password()).await.unwrap();
        let two = hash(password()).await.unwrap();
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && one != two, "{one}");
        assert!(verify(password(), one.clone()).await.unwrap());
        assert!(!verify(Secret::new("correct horsf"), one).await.unwrap());
        for nothing in ["", "x", "$argon2id$"] {
            assert!(!verify(password(), nothing.to_owned()).await.unwrap());
        }
        assert!(PasswordHash::new(NOBODY).is_ok());
    }

    #[tokio::test]
    async fn what_is_too_short_or_too_long_is_no_password() {
        for bad in ["", "1234567", &"x".repeat(1025)] {
            let error = hash(Secret::new(bad)).await.unwrap_err();
            assert_eq!(error.code(), tonic::Code::InvalidArgument);
        }
    }
}
