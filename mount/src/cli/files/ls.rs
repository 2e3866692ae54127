//! `dfs ls`: a directory as `ls -lA` shows it, less what nobody reads; with `-l`, all of it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use dfs_proto::ids::InodeNo;
use dfs_proto::pb;

use super::names::Names;
use super::row::{Row, mode_text};
use super::walk::PAGE;
use crate::cli::CliError;
use crate::cli::output::{Cell, Rows, minute, printable};
use crate::cli::path::{is_directory, is_symlink, name_it, resolve};
use crate::client::Client;

pub(super) async fn ls(client: &Client, path: &OsStr, long: bool, json: bool) -> Result<(), CliError> {
    let path = path.as_bytes();
    let named = |error| name_it(error, "ls", path);
    // As ls(1) has it: with -l, a link is shown and not followed.
    let found = resolve(client, path, !long).await.map_err(named)?;
    let mut list = List { client, names: Names::of_machine(), long, json, rows: Rows::new(json, [""; 7]) };
    if !is_directory(&found.attr) {
        list.add(&found.name, &found.attr).await.map_err(named)??;
        return list.rows.finish();
    }
    let inode = InodeNo(found.attr.inode);
    let mut after = Vec::new();
    loop {
        let page = client.readdir(inode, &after, PAGE).await.map_err(named)?;
        for entry in &page.entries {
            list.add(&entry.name, &entry.attr.unwrap_or_default()).await.map_err(named)??;
        }
        match page.entries.last() {
            Some(last) if !page.end => after = last.name.to_vec(),
            _ => return list.rows.finish(),
        }
    }
}

struct List<'a> {
    client: &'a Client,
    names: Names,
    long: bool,
    json: bool,
    rows: Rows<7>,
}

impl List<'_> {
    /// The outer error is the master's.
    async fn add(
        &mut self,
        name: &[u8],
        attr: &pb::Attr,
    ) -> Result<Result<(), CliError>, dfs_proto::error::DfsError> {
        let target = match is_symlink(attr) && (self.long || self.json) {
            true => Some(self.client.readlink(InodeNo(attr.inode)).await?),
            false => None,
        };
        let row = Row::new(name, attr, &self.names).with_target(target.as_deref());
        let long = self.long;
        let cells = || {
            let [links, user, group] = match long {
                true => [attr.nlink.to_string(), row.user(), row.group()],
                false => Default::default(),
            };
            let arrow = target.as_ref().map(|target| format!(" -> {}", printable(target)));
            [
                Cell::Text(mode_text(attr.mode)),
                Cell::Number(links),
                Cell::Text(user),
                Cell::Text(group),
                Cell::Number(attr.size.to_string()),
                Cell::Text(minute(attr.mtime.unwrap_or_default().sec)),
                Cell::Text(format!("{}{}", printable(name), arrow.unwrap_or_default())),
            ]
        };
        Ok(self.rows.row(cells, &row))
    }
}
