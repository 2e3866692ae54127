//! `dfs info`: a file's chunks, their checksums, and where the copies are.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use dfs_proto::MAX_FILE_SIZE;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ChunkId, InodeNo};
use dfs_proto::pb;
use serde::Serialize;

use super::names::Names;
use super::row::{Row, mode_text};
use crate::cli::CliError;
use crate::cli::keepers::state;
use crate::cli::output::{Cell, Output, Rows, human, minute, printable};
use crate::cli::path::{is_regular, is_symlink, name_it, resolve};
use crate::client::{Client, Master, admin};

/// How often it is looked at anew when it is written to meanwhile.
const TRIES: usize = 5;

#[derive(Serialize)]
struct Info<'a> {
    path: std::borrow::Cow<'a, str>,
    #[serde(flatten)]
    row: Row<'a>,
    /// Grows with each change of the content. Chunks have none: they never change.
    version: u64,
    extents: &'a [Extent],
    chunks: &'a [Chunk],
}

/// In bytes. What no extent covers is a hole.
#[derive(Serialize)]
struct Extent {
    offset: u64,
    length: u64,
    chunk: String,
    chunk_offset: u32,
}

#[derive(Serialize)]
struct Chunk {
    chunk: String,
    length: u32,
    /// CRC-32C over the checksums of its blocks, as the master has it.
    checksum: String,
    copies: Vec<Copy>,
}

#[derive(Serialize, Clone)]
struct Copy {
    keeper: u64,
    address: String,
    live: bool,
    /// Of the keeper, as dfs keepers has it.
    state: String,
}

/// One content of a file.
#[derive(Default)]
struct Content {
    attr: pb::Attr,
    extents: Vec<Extent>,
    /// In the order of their first bytes in the file.
    chunks: Vec<Chunk>,
    places: HashMap<u64, usize>,
}

pub(super) async fn info(client: &Client, master: &Master, path: &OsStr, json: bool) -> Result<(), CliError> {
    let path = path.as_bytes();
    let named = |error| name_it(error, "info", path);
    let found = resolve(client, path, false).await.map_err(named)?;
    let mut content = Content { attr: found.attr, ..Content::default() };
    if is_regular(&found.attr) {
        // Without the right to ask for keepers, a copy is live or dead.
        let keepers = admin::keepers(master).await.unwrap_or_default();
        let states = keepers.iter().map(|keeper| (keeper.keeper, state(keeper))).collect();
        content = read(client, InodeNo(found.attr.inode), &states).await.map_err(named)?;
    }
    let target = match is_symlink(&found.attr) {
        true => Some(client.readlink(InodeNo(found.attr.inode)).await.map_err(named)?),
        false => None,
    };
    let names = Names::of_machine();
    let row = Row::new(&found.name, &content.attr, &names).with_target(target.as_deref());
    if json {
        let mut output = Output::new();
        let (path, version) = (String::from_utf8_lossy(path), content.attr.content_version);
        output.json(&Info { path, row, version, extents: &content.extents, chunks: &content.chunks })?;
        return output.finish();
    }
    let mut output = Output::new();
    output.text(&head(path, &content.attr, &row, target.as_deref()))?;
    output.finish()?;
    if content.extents.is_empty() {
        return Ok(());
    }
    table(&content)
}

fn head(path: &[u8], attr: &pb::Attr, row: &Row<'_>, target: Option<&[u8]>) -> String {
    let time = |time: Option<pb::Time>| minute(time.unwrap_or_default().sec);
    let mut lines = vec![
        format!("path      {}", printable(path)),
        format!("inode     {}, {} names", attr.inode, attr.nlink),
        format!("mode      {} {} {}", mode_text(attr.mode), row.user(), row.group()),
        format!("size      {} bytes ({}), {} stored", attr.size, human(attr.size), human(attr.allocated)),
        format!(
            "changed   {} (attributes {}, read {})",
            time(attr.mtime),
            time(attr.ctime),
            time(attr.atime)
        ),
        format!("version   {}", attr.content_version),
    ];
    lines.extend(target.map(|target| format!("leads to  {}", printable(target))));
    lines.join("\n") + "\n"
}

fn table(content: &Content) -> Result<(), CliError> {
    let columns = ["OFFSET", "LENGTH", "CHUNK", "FROM", "CHUNK LENGTH", "CHECKSUM", "COPIES"];
    let mut rows = Rows::new(false, columns);
    let chunks: HashMap<&str, &Chunk> = content.chunks.iter().map(|chunk| (&*chunk.chunk, chunk)).collect();
    for extent in &content.extents {
        let Some(chunk) = chunks.get(&*extent.chunk) else { continue };
        let copy = |copy: &Copy| format!("{} {} {}", copy.keeper, copy.address, copy.state);
        let copies: Vec<String> = chunk.copies.iter().map(copy).collect();
        let copies = if copies.is_empty() { "LOST".to_owned() } else { copies.join("; ") };
        let cells = || {
            [
                Cell::Number(extent.offset.to_string()),
                Cell::Number(extent.length.to_string()),
                Cell::Text(extent.chunk.clone()),
                Cell::Number(extent.chunk_offset.to_string()),
                Cell::Number(chunk.length.to_string()),
                Cell::Text(chunk.checksum.clone()),
                Cell::Text(printable(copies.as_bytes())),
            ]
        };
        rows.row(cells, &())?;
    }
    rows.finish()
}

async fn read(client: &Client, inode: InodeNo, states: &HashMap<u64, String>) -> Result<Content, DfsError> {
    for _ in 0..TRIES {
        if let Some(content) = read_once(client, inode, states).await? {
            return Ok(content);
        }
    }
    Err(DfsError::new(ErrorCode::Busy, "it was written to again and again meanwhile; try again"))
}

/// `None`: the content changed meanwhile.
async fn read_once(
    client: &Client,
    inode: InodeNo,
    states: &HashMap<u64, String>,
) -> Result<Option<Content>, DfsError> {
    let mut content = Content::default();
    let mut at = 0;
    while at < MAX_FILE_SIZE {
        let located = client.locate(inode, at, MAX_FILE_SIZE - at).await?;
        let covered = located.covered_to.min(MAX_FILE_SIZE);
        if covered <= at {
            let message = "the master's answer covers nothing; see that both are of the same version";
            return Err(DfsError::new(ErrorCode::Protocol, message));
        }
        let attr = located.attr.unwrap_or_default();
        if at > 0 && attr.content_version != content.attr.content_version {
            return Ok(None);
        }
        let Some(sums) = checksums(client, inode, (at, covered), attr.content_version).await? else {
            return Ok(None);
        };
        content.attr = attr;
        let holders: HashMap<u64, &[pb::Holder]> =
            located.chunks.iter().map(|chunk| (chunk.chunk, &chunk.holders[..])).collect();
        for extent in &located.extents {
            content.add(extent, &sums, holders.get(&extent.chunk).copied().unwrap_or_default(), states);
        }
        at = covered;
    }
    Ok(Some(content))
}

/// Length and checksum of the chunks between two offsets.
async fn checksums(
    client: &Client,
    inode: InodeNo,
    (from, to): (u64, u64),
    version: u64,
) -> Result<Option<HashMap<u64, pb::ChunkInfo>>, DfsError> {
    let (mut at, mut sums) = (from, HashMap::new());
    while at < to {
        let layout = client.layout(inode, at, to - at).await?;
        if layout.attr.unwrap_or_default().content_version != version || layout.covered_to <= at {
            return Ok(None);
        }
        sums.extend(layout.chunks.iter().filter_map(|chunk| chunk.info).map(|info| (info.chunk, info)));
        at = layout.covered_to;
    }
    Ok(Some(sums))
}

impl Content {
    fn add(
        &mut self,
        extent: &pb::Extent,
        sums: &HashMap<u64, pb::ChunkInfo>,
        holders: &[pb::Holder],
        states: &HashMap<u64, String>,
    ) {
        let name = ChunkId(extent.chunk).to_string();
        let next = self.chunks.len();
        if *self.places.entry(extent.chunk).or_insert(next) == next {
            let info = sums.get(&extent.chunk).copied().unwrap_or_default();
            let copy = |holder: &pb::Holder| {
                let state = states.get(&holder.keeper).cloned();
                let state = state.unwrap_or_else(|| if holder.live { "live" } else { "dead" }.to_owned());
                Copy { keeper: holder.keeper, address: holder.address.clone(), live: holder.live, state }
            };
            let (checksum, copies) = (format!("{:08x}", info.checksum), holders.iter().map(copy).collect());
            self.chunks.push(Chunk { chunk: name.clone(), length: info.length, checksum, copies });
        }
        let (offset, length, chunk_offset) = (extent.file_offset, extent.length, extent.chunk_offset);
        self.extents.push(Extent { offset, length, chunk: name, chunk_offset });
    }
}
