//! The calls of the auth service: logging in, users, join tokens.

use std::sync::Arc;
use std::time::Duration;

use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::pb;
use dfs_proto::secret::Secret;

use super::Master;
use super::channel;
use super::renew::connect;
use super::tokens::Tokens;

/// For each call: a hash takes a while on a machine that is busy.
const WITHIN: Duration = Duration::from_secs(30);

/// Hears the master before anything secret is said: a call that says nothing and shows nobody. The first call of a connection
/// goes out before the other side has said a word, so it must not be the one with the password.
///
/// # Errors
/// `Access`: it speaks TLS, and we do not; `Unavailable`, `TimedOut`: it is no master, or not there.
pub async fn hear(master: &Master) -> Result<(), DfsError> {
    let nobody = Master { tokens: Arc::new(Tokens::none()), ..master.clone() };
    let mut client = connect(&nobody).await?;
    match channel::within(&master.address, WITHIN, client.list_users(pb::ListUsersRequest {})).await {
        // A master that asks who one is has answered; so has one with auth off.
        Err(error) if error.code == ErrorCode::Unauthenticated => Ok(()),
        answer => answer.map(|_| ()),
    }
}

/// A token for whoever knows the password.
///
/// # Errors
/// `Unauthenticated`: wrong; `Busy`: too many wrong ones; `Io`: auth is off.
pub async fn login(master: &Master, user: &str, password: &Secret) -> Result<pb::TokenReply, DfsError> {
    // An old token that is not good any more must not be in the way.
    let nobody = Master { tokens: Arc::new(Tokens::none()), ..master.clone() };
    let mut client = connect(&nobody).await?;
    let request = pb::LoginRequest { user: user.to_owned(), password: password.expose().to_owned() };
    Ok(channel::within(&master.address, WITHIN, client.login(request)).await?.into_inner())
}

/// Makes a user. `dir`: the directory that the user is bound to; empty: none. `ids`: how ids are mapped.
///
/// # Errors
/// `Unauthenticated`, `Access`, or what the master refused it with.
pub async fn add_user(
    master: &Master,
    user: &str,
    password: &Secret,
    roles: Vec<String>,
    dir: Vec<u8>,
    ids: Option<pb::IdMap>,
) -> Result<pb::UserInfo, DfsError> {
    let mut client = connect(master).await?;
    let password = password.expose().to_owned();
    let request = pb::AddUserRequest { user: user.to_owned(), password, roles, dir: dir.into(), ids };
    Ok(channel::within(&master.address, WITHIN, client.add_user(request)).await?.into_inner())
}

/// Sets a password; `old` where it is one's own.
///
/// # Errors
/// As [`add_user`].
pub async fn set_password(
    master: &Master,
    user: &str,
    password: &Secret,
    old: &Secret,
) -> Result<pb::UserInfo, DfsError> {
    let mut client = connect(master).await?;
    let request = pb::SetPasswordRequest {
        user: user.to_owned(),
        password: password.expose().to_owned(),
        old_password: old.expose().to_owned(),
    };
    Ok(channel::within(&master.address, WITHIN, client.set_password(request)).await?.into_inner())
}

/// Removes a user.
///
/// # Errors
/// As [`add_user`].
pub async fn remove_user(master: &Master, user: &str) -> Result<pb::UserInfo, DfsError> {
    let mut client = connect(master).await?;
    let request = pb::RemoveUserRequest { user: user.to_owned() };
    Ok(channel::within(&master.address, WITHIN, client.remove_user(request)).await?.into_inner())
}

/// All users.
///
/// # Errors
/// As [`add_user`].
pub async fn list_users(master: &Master) -> Result<Vec<pb::UserInfo>, DfsError> {
    let mut client = connect(master).await?;
    let list = channel::within(&master.address, WITHIN, client.list_users(pb::ListUsersRequest {})).await?;
    Ok(list.into_inner().users)
}

/// Changes what a user may do. No roles: they stay. `dir`: the directory that the user is bound to; empty: none any more. `ids`: how ids are
/// mapped from now on; one with nothing in it: not at all.
///
/// # Errors
/// As [`add_user`].
pub async fn grant(
    master: &Master,
    user: &str,
    roles: Vec<String>,
    disabled: Option<bool>,
    dir: Option<Vec<u8>>,
    ids: Option<pb::IdMap>,
) -> Result<pb::UserInfo, DfsError> {
    let mut client = connect(master).await?;
    let request = pb::GrantRequest { user: user.to_owned(), roles, disabled, dir: dir.map(Into::into), ids };
    Ok(channel::within(&master.address, WITHIN, client.grant(request)).await?.into_inner())
}

/// Ends all tokens of a user.
///
/// # Errors
/// As [`add_user`].
pub async fn revoke(master: &Master, user: &str) -> Result<pb::UserInfo, DfsError> {
    let mut client = connect(master).await?;
    let request = pb::RevokeRequest { user: user.to_owned() };
    Ok(channel::within(&master.address, WITHIN, client.revoke(request)).await?.into_inner())
}

/// A token with which keepers join.
///
/// # Errors
/// As [`add_user`].
pub async fn keeper_token(master: &Master, user: &str, period: Duration) -> Result<pb::TokenReply, DfsError> {
    let mut client = connect(master).await?;
    let request = pb::KeeperTokenRequest { user: user.to_owned(), for_s: period.as_secs() };
    Ok(channel::within(&master.address, WITHIN, client.keeper_token(request)).await?.into_inner())
}
