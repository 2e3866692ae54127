//! `dfs mv`: gives files and directories other names, each in one step.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::pb;

use crate::cli::CliError;
use crate::cli::output::{Output, printable};
use crate::cli::path::{is_directory, name_it, resolve, target};
use crate::client::Client;

pub(super) async fn mv(
    client: &Client,
    from: &[OsString],
    to: &OsString,
    no_replace: bool,
    json: bool,
) -> Result<(), CliError> {
    let to = to.as_bytes();
    if from.len() > 1 {
        needs_directory(client, "mv", to).await?;
    }
    for from in from {
        let from = from.as_bytes();
        let found = resolve(client, from, false).await.map_err(|error| name_it(error, "mv", from))?;
        if found.name.is_empty() {
            let why = "it is the root, or named by '..'; give the name that it has";
            return Err(CliError::Local(format!("mv {}: {why}", printable(from))));
        }
        let named = |error| name_it(advised(error), "mv to", to);
        let target = target(client, to, Some(&found.name)).await.map_err(named)?;
        let rename = pb::Rename {
            parent: found.parent.0,
            name: Bytes::from(found.name),
            new_parent: target.parent.0,
            new_name: Bytes::from(target.name),
            no_replace,
            exchange: false,
        };
        client.rename(rename).await.map_err(named)?;
    }
    let mut output = Output::new();
    if json {
        output.json(&serde_json::json!({"moved": from.len()}))?;
    }
    output.finish()
}

fn advised(error: DfsError) -> DfsError {
    let remedy = match error.code {
        ErrorCode::CrossesQuota => "dfs cp -r and dfs rm -r do it",
        ErrorCode::Exists | ErrorCode::NotEmpty => "remove what is there, or choose another name",
        ErrorCode::Invalid => "choose another place",
        ErrorCode::NotDirectory | ErrorCode::IsDirectory => "see what both are with dfs ls -l",
        _ => return error,
    };
    if error.message.contains("; ") {
        return error;
    }
    DfsError::new(error.code, format!("{}; {remedy}", error.message.trim_end_matches('.')))
}

/// Several things go to a directory alone.
pub(super) async fn needs_directory(client: &Client, what: &str, to: &[u8]) -> Result<(), CliError> {
    let found = resolve(client, to, true).await.map_err(|error| name_it(error, &format!("{what} to"), to))?;
    if is_directory(&found.attr) {
        return Ok(());
    }
    Err(CliError::Local(format!(
        "{what} to {}: it is no directory; several things can only go to one",
        printable(to)
    )))
}
