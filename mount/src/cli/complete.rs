//! Names that a shell completes: paths of the cluster, keepers, users.
//!
//! What must hold: an answer comes within [`WITHIN`], or none; whatever is wrong, nothing is said of it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::CommandFactory;
use dfs_cmdline::completion::{self, ArgValueCompleter, CompletionCandidate};
use dfs_cmdline::settings_file;
use dfs_proto::ids::InodeNo;

use super::output::printable;
use super::path::{is_directory, look, resolve};
use super::{Args, CliError, in_session};
use crate::client::tls::Tls;
use crate::client::tokens::Tokens;
use crate::client::{Client, Master, admin, auth};

/// Somebody waits at his keyboard.
const WITHIN: Duration = Duration::from_secs(1);
/// More would not be read.
const MOST: usize = 500;
/// Entries asked for at a time.
const PAGE: u32 = 500;

/// Of a path in the cluster.
pub(super) fn paths() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let (is_bash, current) = (is_bash(), current.to_owned());
        let current = if is_bash { without_backslashes(current.as_bytes()) } else { current.into_vec() };
        let found =
            ask(async |master| in_session(&master, async |client| Ok(below(client, &current).await)).await);
        let path = |path: Vec<u8>| if is_bash { with_backslashes(&path) } else { path };
        found.into_iter().map(|found| CompletionCandidate::new(OsString::from_vec(path(found)))).collect()
    })
}

/// Of a keeper's id.
pub(super) fn keepers() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let rows = ask(async |master| Ok(admin::keepers(&master).await?));
        let candidate = |row: dfs_proto::pb::KeeperRow| {
            let help = format!("{} {}", row.address, printable(row.host.as_bytes()));
            CompletionCandidate::new(row.keeper.to_string()).help(Some(help.into()))
        };
        beginning_with(rows.into_iter().map(candidate), current)
    })
}

/// Of a user's name.
pub(super) fn users() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let users = ask(async |master| Ok(auth::list_users(&master).await?));
        let candidate = |user: dfs_proto::pb::UserInfo| {
            CompletionCandidate::new(user.user).help(Some(user.roles.join(",").into()))
        };
        beginning_with(users.into_iter().map(candidate), current)
    })
}

fn beginning_with(
    candidates: impl Iterator<Item = CompletionCandidate>,
    current: &OsStr,
) -> Vec<CompletionCandidate> {
    let begins = |found: &CompletionCandidate| found.get_value().as_bytes().starts_with(current.as_bytes());
    candidates.filter(begins).take(MOST).collect()
}

/// What the cluster says; nothing, where it does not in time.
fn ask<T: Default>(question: impl AsyncFnOnce(Master) -> Result<T, CliError>) -> T {
    let answer = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let answer = runtime.block_on(async {
            tokio::time::timeout(WITHIN, async { question(master()?).await.ok() }).await.ok()?
        });
        runtime.shutdown_background();
        answer
    };
    answer().unwrap_or_default()
}

/// The master of the line that is being completed: of its flags, the environment or the settings file.
fn master() -> Option<Master> {
    let words = completion::words();
    let command = settings_file::apply(Args::command(), "dfs", &words).ok()?.ignore_errors(true);
    let matches = command.try_get_matches_from(words).ok()?;
    let address = matches.try_get_one::<String>("master").ok()??.clone();
    let token_file = matches.try_get_one::<PathBuf>("token_file").ok()?;
    let tokens = Arc::new(Tokens::at_or_of_login(token_file.map(PathBuf::as_path), &address));
    let tls_dir = matches.try_get_one::<PathBuf>("tls_dir").ok()?;
    let tls = Tls::load_if_named(tls_dir.map(PathBuf::as_path)).ok()?;
    Some(Master { address, tokens, tls })
}

/// Paths that begin like this one; directories with a slash at their end.
async fn below(client: &Client, current: &[u8]) -> Vec<Vec<u8>> {
    let split = current.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let (above, begin) = current.split_at(split);
    let mut found = Vec::new();
    let Ok(dir) = resolve(client, above, true).await else { return found };
    let inode = InodeNo(dir.attr.inode);
    let mut add = |name: &[u8], attr: &dfs_proto::pb::Attr| {
        let end: &[u8] = if is_directory(attr) { b"/" } else { b"" };
        found.push([above, name, end].concat());
    };
    // Names are in order, so that those that begin like it come one after the other, itself first.
    if !begin.is_empty()
        && let Ok(Some(attr)) = look(client, inode, begin).await
    {
        add(begin, &attr);
    }
    let (mut after, mut left) = (begin.to_vec(), MOST);
    while let Ok(page) = client.readdir(inode, &after, PAGE).await {
        for entry in &page.entries {
            if !entry.name.starts_with(begin) || left == 0 {
                return found;
            }
            left -= 1;
            add(&entry.name, &entry.attr.unwrap_or_default());
        }
        match page.entries.last() {
            Some(last) if !page.end => after = last.name.to_vec(),
            _ => break,
        }
    }
    found
}

/// Bash hands on what was typed as it was typed, and takes candidates as if they were. Kept from before it is taken out of the environment.
fn is_bash() -> bool {
    IS_BASH.get().copied().unwrap_or(false)
}

static IS_BASH: std::sync::OnceLock<bool> = std::sync::OnceLock::new();

/// To be called first of all.
pub(super) fn note_shell() {
    let is_bash = completion::asked_by().is_some_and(|shell| OsStr::new("bash") == shell);
    let _ = IS_BASH.set(is_bash);
}

fn with_backslashes(path: &[u8]) -> Vec<u8> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+,@%=:".contains(&byte) || byte >= 0x80;
    path.iter().flat_map(|byte| if is_plain(*byte) { vec![*byte] } else { vec![b'\\', *byte] }).collect()
}

fn without_backslashes(typed: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(typed.len());
    let mut bytes = typed.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => path.extend(bytes.next()),
            // A word in quotes that is not at its end.
            b'"' | b'\'' => {}
            byte => path.push(*byte),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_bash_would_take_apart_has_backslashes() {
        let name = "/a film's (1).mp4";
        let typed = with_backslashes(name.as_bytes());
        assert_eq!(String::from_utf8_lossy(&typed), "/a\\ film\\'s\\ \\(1\\).mp4");
        assert_eq!(without_backslashes(&typed), name.as_bytes());
        assert_eq!(without_backslashes(b"\"/a fi"), b"/a fi");
    }
}
