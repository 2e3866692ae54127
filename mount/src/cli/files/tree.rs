//! `dfs tree`: what is below a directory, drawn.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde::Serialize;

use super::names::Names;
use super::row::Row;
use super::walk::{Entry, Walk};
use crate::cli::CliError;
use crate::cli::output::{Output, Rows, printable};
use crate::cli::path::{is_directory, name_it, resolve};
use crate::client::Client;

#[derive(Serialize)]
struct Line<'a> {
    path: std::borrow::Cow<'a, str>,
    /// 0: where it began.
    depth: usize,
    #[serde(flatten)]
    row: Row<'a>,
}

pub(super) async fn tree(
    client: &Client,
    path: &OsStr,
    depth: Option<usize>,
    json: bool,
) -> Result<(), CliError> {
    let path = path.as_bytes();
    let found = resolve(client, path, true).await.map_err(|error| name_it(error, "tree", path))?;
    let mut walk = Walk::new(client, "tree", found, path).at_most(depth.unwrap_or(usize::MAX));
    match json {
        true => as_json(&mut walk).await,
        false => drawn(&mut walk).await,
    }
}

async fn as_json(walk: &mut Walk) -> Result<(), CliError> {
    let (names, mut rows) = (Names::of_machine(), Rows::<0>::new(true, []));
    while let Some(entry) = walk.next_entry().await? {
        let row = Row::new(&entry.name, &entry.attr, &names);
        let line = Line { path: String::from_utf8_lossy(&entry.path), depth: entry.depth, row };
        rows.row(|| [], &line)?;
    }
    rows.finish()
}

async fn drawn(walk: &mut Walk) -> Result<(), CliError> {
    let mut output = Output::new();
    let mut branches = Branches::default();
    let (mut directories, mut files) = (0u64, 0u64);
    while let Some(entry) = walk.next_entry().await? {
        if entry.depth > 0 {
            *(if is_directory(&entry.attr) { &mut directories } else { &mut files }) += 1;
        }
        let line = branches.line(&entry);
        output.text(&line)?;
    }
    output.text(&format!("\n{directories} directories, {files} files\n"))?;
    output.finish()
}

/// The lines to the left of a name.
#[derive(Default)]
struct Branches {
    /// Of each directory on the way but the first: no other comes after it.
    is_last: Vec<bool>,
}

impl Branches {
    fn line(&mut self, entry: &Entry) -> String {
        let Some(above) = entry.depth.checked_sub(1) else {
            return format!("{}\n", printable(&entry.path));
        };
        self.is_last.truncate(above);
        let mut line = String::new();
        for is_last in &self.is_last {
            line.push_str(if *is_last { "    " } else { "│   " });
        }
        line.push_str(if entry.is_last { "└── " } else { "├── " });
        line.push_str(&printable(&entry.name));
        line.push('\n');
        self.is_last.push(entry.is_last);
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::ids::InodeNo;

    #[test]
    fn branches_end_where_nothing_comes() {
        let mut branches = Branches::default();
        let mut text = String::new();
        for (name, depth, is_last) in
            [("/a", 0, true), ("b", 1, false), ("c", 2, true), ("d", 3, true), ("e", 1, true), ("f", 2, true)]
        {
            text += &branches.line(&Entry {
                path: name.into(),
                name: name.into(),
                parent: InodeNo::ROOT,
                attr: Default::default(),
                depth,
                is_last,
            });
        }
        assert_eq!(text, "/a\n├── b\n│   └── c\n│       └── d\n└── e\n    └── f\n");
    }
}
