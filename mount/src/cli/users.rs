//! `dfs login`, `dfs logout`, `dfs user`, `dfs keeper`: who may use the cluster.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use dfs_proto::pb;
use dfs_proto::secret::Secret;
use dfs_proto::token::Role;
use dfs_proto::token_file;
use dfs_proto::units::Period;
use serde::Serialize;

use super::id_flags::{self, IdFlags};
use super::output::{Cell, Output, Rows};
use super::{CliError, complete, password};
use crate::client::tokens::login_file;
use crate::client::{Master, auth};

/// Users of the cluster. Roles: admin (everything), rw (read and write), ro (read), keeper (be a keeper).
#[derive(Subcommand, Debug)]
pub(super) enum User {
    /// Add a user; the password is asked for, or read from stdin
    Add {
        /// Letters, digits and . _ - @
        name: String,
        /// What the user may do; may be given several times, or cut at commas
        #[arg(long = "role", value_name = "ROLE", value_delimiter = ',', default_value = "rw", value_parser = role)]
        roles: Vec<String>,
        /// All that the user sees of the cluster
        #[arg(long, value_name = "DIR")]
        dir: Option<OsString>,
        #[command(flatten)]
        ids: IdFlags,
        /// Read the password from this file, which only its owner can read
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Set a password, and end all tokens of the user
    Passwd {
        /// Whose [default: your own]
        #[arg(add = complete::users())]
        name: Option<String>,
        /// Read the new password from this file
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// Where it is your own: read the old one from this file
        #[arg(long, value_name = "FILE")]
        old_password_file: Option<PathBuf>,
    },
    /// Remove a user; mounts of the user stop within a second or two
    Rm {
        /// Whom
        #[arg(add = complete::users())]
        name: String,
    },
    /// List the users
    Ls,
    /// Change what a user may do
    Grant {
        /// Whom
        #[arg(add = complete::users())]
        name: String,
        /// In place of those that there were: admin, rw, ro, keeper
        #[arg(value_parser = role, required_unless_present_any = ["disable", "enable", "dir", "no_dir", "ids", "no_map"])]
        roles: Vec<String>,
        /// Nothing, for now
        #[arg(long, conflicts_with = "enable")]
        disable: bool,
        /// And now again
        #[arg(long)]
        enable: bool,
        /// All that the user sees of the cluster from now on; it is this directory, wherever it is moved
        #[arg(long, value_name = "DIR", conflicts_with = "no_dir")]
        dir: Option<OsString>,
        /// The user sees all of the cluster
        #[arg(long)]
        no_dir: bool,
        #[command(flatten)]
        ids: IdFlags,
        /// Users and groups of the user's machines are who they are
        #[arg(long, conflicts_with = "ids")]
        no_map: bool,
    },
    /// End all tokens of a user, who may log in again
    Revoke {
        /// Whose
        #[arg(add = complete::users())]
        name: String,
    },
}

/// Tokens with which keepers join.
#[derive(Subcommand, Debug)]
pub(super) enum Keeper {
    /// Print a token, for dfs-keeper --token-file; several keepers may have the same
    Token {
        /// A name, by which it can be revoked
        name: String,
        /// How long it is good
        #[arg(long = "for", value_name = "TIME", default_value = "8760h")]
        period: Period,
    },
    /// End all tokens of this name; keepers that have one are let in no more
    Revoke {
        /// The name
        name: String,
    },
}

fn bytes_of(path: Option<&OsStr>) -> Vec<u8> {
    path.map(|path| path.as_bytes().to_vec()).unwrap_or_default()
}

fn role(text: &str) -> Result<String, String> {
    text.parse::<Role>().map(|role| role.name().to_owned())
}

/// The token goes to `token_file`, where one is named, as for a mount of the machine.
/// Before a password is asked for: without TLS it may go to this machine alone, unless the user says otherwise, and to no
/// master that has not answered yet.
pub(super) async fn may_hear_a_password(master: &Master, insecure: bool) -> Result<(), CliError> {
    if master.tls.is_none() && !insecure {
        let found = tokio::net::lookup_host(&master.address).await;
        if !found.is_ok_and(|mut found| found.all(|address| address.ip().is_loopback())) {
            let address = &master.address;
            return Err(CliError::Local(format!(
                "the password would go to {address} unencrypted; give --tls-dir DIR, or --insecure if nobody else is on that network"
            )));
        }
    }
    Ok(auth::hear(master).await?)
}

pub(super) async fn login(
    master: &Master,
    user: Option<&str>,
    file: Option<&Path>,
    token_file: Option<&Path>,
) -> Result<(), CliError> {
    let user = match user.map(str::to_owned).or_else(|| std::env::var("USER").ok()) {
        Some(user) if !user.is_empty() => user,
        _ => return Err(CliError::Usage("as whom? name the user: dfs login NAME".to_owned())),
    };
    let path = token_file.map(Path::to_owned).or_else(|| login_file(&master.address));
    let no_home = || {
        CliError::Local("there is no home directory to keep the login in; set XDG_STATE_HOME, or name a file with --token-file".to_owned())
    };
    let path = path.ok_or_else(no_home)?;
    let password = password::read(file, "password", false).await?;
    let reply = auth::login(master, &user, &password).await?;
    let token = Secret::new(reply.token);
    token_file::write(&path, &token).map_err(|error| CliError::Local(error.to_string()))?;
    let mut output = Output::new();
    output.text(&format!("logged in at {master} as {} ({})\n", reply.user, reply.roles.join(",")))?;
    output.finish()
}

pub(super) fn logout(master: &str, token_file: Option<&Path>) -> Result<(), CliError> {
    let Some(path) = token_file.map(Path::to_owned).or_else(|| login_file(master)) else { return Ok(()) };
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(CliError::local("removing", &path, &error, "remove it yourself"))
        }
        _ => Ok(()),
    }
}

#[derive(Serialize)]
struct Row<'a> {
    user: &'a str,
    roles: &'a [String],
    disabled: bool,
    has_password: bool,
    /// Not there: bound to none; empty: it was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    dir: Option<Cow<'a, str>>,
    /// Not there: they are who they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    ids: Option<id_flags::Shown>,
}

fn print(users: &[pb::UserInfo], json: bool) -> Result<(), CliError> {
    let mut rows = Rows::new(json, ["USER", "ROLES", "STATE", "DIRECTORY", "IDS"]);
    for user in users {
        let pb::UserInfo { user: name, roles, disabled, has_password, bound, dir, ids } = user;
        let (disabled, has_password) = (*disabled, *has_password);
        let state = if disabled {
            "disabled"
        } else if has_password {
            ""
        } else {
            "join token"
        };
        let dir = bound.then(|| String::from_utf8_lossy(dir));
        let shown = match dir.as_deref() {
            None => "",
            Some("") => "(removed)",
            Some(dir) => dir,
        };
        let ids = ids.as_ref().map(id_flags::Shown::of);
        let shown_ids = ids.as_ref().map(|ids| ids.to_string()).unwrap_or_default();
        let cells = || {
            [name.clone(), roles.join(","), state.to_owned(), shown.to_owned(), shown_ids.clone()]
                .map(Cell::Text)
        };
        rows.row(
            cells,
            &Row { user: name, roles, disabled, has_password, dir: dir.clone(), ids: ids.clone() },
        )?;
    }
    rows.finish()
}

pub(super) async fn user(master: &Master, command: &User, json: bool) -> Result<(), CliError> {
    let changed = match command {
        User::Add { name, roles, dir, ids, password_file } => {
            let password = password::read(password_file.as_deref(), "password of the new user", true).await?;
            auth::add_user(master, name, &password, roles.clone(), bytes_of(dir.as_deref()), ids.to_wire())
                .await?
        }
        User::Passwd { name, password_file, old_password_file } => {
            let old = match name {
                None => password::read(old_password_file.as_deref(), "old password", false).await?,
                Some(_) => Secret::default(),
            };
            let new = password::read(password_file.as_deref(), "new password", true).await?;
            auth::set_password(master, name.as_deref().unwrap_or(""), &new, &old).await?
        }
        User::Rm { name } => auth::remove_user(master, name).await?,
        User::Ls => return print(&auth::list_users(master).await?, json),
        User::Grant { name, roles, disable, enable, dir, no_dir, ids, no_map } => {
            let disabled = (*disable || *enable).then_some(*disable);
            let dir = (*no_dir || dir.is_some()).then(|| bytes_of(dir.as_deref()));
            let ids = if *no_map { Some(pb::IdMap::default()) } else { ids.to_wire() };
            auth::grant(master, name, roles.clone(), disabled, dir, ids).await?
        }
        User::Revoke { name } => auth::revoke(master, name).await?,
    };
    print(&[changed], json)
}

pub(super) async fn keeper(master: &Master, command: &Keeper, json: bool) -> Result<(), CliError> {
    match command {
        Keeper::Token { name, period } => {
            let reply = auth::keeper_token(master, name, period.0).await?;
            let mut output = Output::new();
            match json {
                true => {
                    output.json(&serde_json::json!({"token": reply.token, "expires_s": reply.expires_s}))?
                }
                false => output.text(&format!("{}\n", reply.token))?,
            }
            output.finish()
        }
        Keeper::Revoke { name } => print(&[auth::remove_user(master, name).await?], json),
    }
}
