//! `dfs cat`: files of the cluster, one after the other, to stdout.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use super::get::to_stdout;
use crate::cli::CliError;
use crate::client::Client;

pub(super) async fn cat(client: &Client, paths: &[OsString]) -> Result<(), CliError> {
    for path in paths {
        to_stdout(client, "cat", path.as_bytes()).await?;
    }
    Ok(())
}
