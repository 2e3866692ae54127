//! `dfs du`: how much is below directories, in one copy. What has several names counts once.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde::Serialize;

use super::crew::{Step, Steps};
use super::walk::Walk;
use crate::cli::CliError;
use crate::cli::output::{Cell, Rows, human, printable};
use crate::cli::path::{name_it, resolve};
use crate::client::Client;

/// Of a directory, all below it included.
#[derive(Serialize, Default, Clone)]
struct Sum {
    path: String,
    /// That reading all would give.
    size: u64,
    /// That are stored, in one copy.
    allocated: u64,
    /// Everything but directories.
    files: u64,
    /// Itself included.
    directories: u64,
}

pub(super) async fn du(
    client: &Client,
    path: &OsStr,
    (summarize, for_people): (bool, bool),
    json: bool,
) -> Result<(), CliError> {
    let path = path.as_bytes();
    let found = resolve(client, path, true).await.map_err(|error| name_it(error, "du", path))?;
    let mut rows = Rows::new(json, [""; 2]);
    let mut show = |sum: &Sum| {
        let size = match for_people {
            true => human(sum.allocated),
            // As du(1) without flags.
            false => sum.allocated.div_ceil(1024).to_string(),
        };
        rows.row(|| [Cell::Number(size), Cell::Text(printable(sum.path.as_bytes()))], sum)
    };
    let mut walk = Walk::new(client, "du", found, path);
    // Inodes with several names that were counted.
    let mut counted = HashSet::new();
    let mut open: Vec<Sum> = Vec::new();
    while let Some(step) = walk.next().await? {
        match step {
            Step::Enter(entry) => {
                let path = String::from_utf8_lossy(&entry.path).into_owned();
                open.push(Sum { path, directories: 1, ..Sum::default() });
            }
            Step::One(entry) => {
                let is_new = entry.attr.nlink < 2 || counted.insert(entry.attr.inode);
                let mut alone =
                    Sum { path: String::from_utf8_lossy(&entry.path).into_owned(), ..Sum::default() };
                let sum = open.last_mut().unwrap_or(&mut alone);
                sum.files += 1;
                if is_new {
                    sum.size += entry.attr.size;
                    sum.allocated += entry.attr.allocated;
                }
                // The path was that of a file.
                if entry.depth == 0 {
                    show(&alone)?;
                }
            }
            Step::Failed(error) => return Err(error),
            Step::Left => {
                let Some(sum) = open.pop() else { continue };
                if let Some(above) = open.last_mut() {
                    above.size += sum.size;
                    above.allocated += sum.allocated;
                    above.files += sum.files;
                    above.directories += sum.directories;
                }
                if !summarize || open.is_empty() {
                    show(&sum)?;
                }
            }
        }
    }
    rows.finish()
}
