//! `dfs rm`: removes what is no directory.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::CliError;
use super::output::printable;
use super::path::{is_directory, name_it, resolve};
use crate::client::Client;

pub(super) async fn rm(client: &Client, path: &OsStr) -> Result<(), CliError> {
    let path = path.as_bytes();
    let found = resolve(client, path, false).await.map_err(|error| name_it(error, "rm", path))?;
    if is_directory(&found.attr) {
        return Err(CliError::Local(format!(
            "rm {}: it is a directory; remove its files one by one, or use rm -r on a mount",
            printable(path)
        )));
    }
    client.unlink(found.parent, &found.name).await.map_err(|error| name_it(error, "rm", path))?;
    Ok(())
}
