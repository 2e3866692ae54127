//! The first admin: where auth is on and nobody is a user yet, one is made, whose password is in a file of the data
//! directory that its owner alone can read. The log says where, not what.

use std::path::{Path, PathBuf};

use dfs_proto::secret::Secret;
use dfs_proto::token::Role;
use dfs_proto::token_file;
use tonic::Status;

use super::{no_random, password};
use crate::core::operator::Operation;
use crate::core::row::UserRow;
use crate::core::users::UserChange;
use crate::runtime::Engine;

/// The user's name.
pub const NAME: &str = "admin";
/// In the data directory.
pub const FILE_NAME: &str = "initial-admin-password";
/// Without those that look alike.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
const LENGTH: usize = 24;

/// Makes the first admin, where there is no user. Returns where the password is.
///
/// # Errors
/// The file cannot be written, or the store takes nothing.
pub async fn make_sure(engine: &Engine, data: &Path) -> Result<Option<PathBuf>, Status> {
    let stopped = |error: crate::runtime::Stopped| Status::unavailable(error.to_string());
    if engine.peek(|state| !state.all_users().is_empty()).map_err(stopped)? {
        return Ok(None);
    }
    let (secret, path) = (random()?, data.join(FILE_NAME));
    let hash = password::hash(secret.clone()).await?;
    let to = path.clone();
    // First the file: a user whose password nobody knows would be the last one for ever.
    let written = tokio::task::spawn_blocking(move || token_file::write(&to, &secret)).await;
    let failed = |why: &dyn std::fmt::Display| Status::internal(format!("the first admin's password: {why}"));
    written.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    let roles = [Role::Admin].into_iter().collect();
    let generation = getrandom::u32().map_err(no_random)?;
    let row = UserRow { password_hash: hash, roles, generation, ..UserRow::default() };
    let add =
        Operation::User { name: NAME.to_owned(), change: UserChange::Add { row, dir: Default::default() } };
    engine.operate(add).await.map_err(stopped)?.map_err(|error| failed(&error))?;
    Ok(Some(path))
}

fn random() -> Result<Secret, Status> {
    let mut bytes = [0; LENGTH];
    getrandom::fill(&mut bytes).map_err(no_random)?;
    let text: String = bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect();
    Ok(Secret::new(text))
}
