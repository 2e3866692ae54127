//! How a row looks as bytes: a [`Table`], a key in it, and a value.
//!
//! Keys are big-endian, so that the order of bytes is the order of numbers: a directory's names, a file's
//! extents and a file's attributes lie side by side.
//!
//! ```text
//! table     key                        body of the value
//! counters  (empty)                    next_inode next_chunk next_keeper
//! inode     inode:8                    mode nlink uid gid rdev size atime mtime ctime content_version target
//! dentry    parent:8 name              inode
//! extent    inode:8 file_offset:8      length chunk chunk_offset
//! chunk     chunk:8                    length checksum count keeper*count   (keepers ascending)
//! xattr     inode:8 name               the value's bytes
//! keeper    keeper:8                   address data_dir host version        (each: length, UTF-8)
//!                                      count (name value)*count draining maintenance_until_ms   (from version 2 on)
//! reply     session:8 request:8        the encoded reply
//! quota     inode:8                    max_bytes max_inodes                 (each: 0 for none, else 1 and the number)
//! trash     inode:8                    deleted bytes path
//! session   session:8                  (empty)
//! user      name                       roles disabled generation dir (0: none; from version 2 on) ids (from version 3 on)
//!                                      password_hash (the rest; UTF-8)
//! ```
//!
//! Numbers in bodies are base-128 varints (as protobuf has them). A time is its seconds, zigzag, and its
//! nanoseconds. A target is 0 for none, else its length + 1 and its bytes. Ids are 0 for no map; 1 (root) or 2 (everybody), uid, gid; or 3 and two lists, of
//! users and of groups, each: count (from to count)*count, ascending by `from`.
//!
//! A value is a version byte (3 for users, 2 for keepers, else 1; older ones are read, newer ones refused), the body, and a CRC-32C, 4 bytes little-endian, over table number, key,
//! version and body: the engines below do not notice every flipped bit, and a wrong row is worse than none.

use std::sync::Arc;

use bytes::Bytes;
use dfs_proto::ids::{ChunkId, InodeNo, KeeperId, SessionId};
use dfs_proto::token::Roles;
use dfs_proto::{MAX_NAME_LEN, pb};
use prost::encoding::{decode_varint, encode_varint};

use crate::core::id_map::IdMap;
use crate::core::row::{
    ChunkRow, Counters, ExtentRow, InodeRow, KeeperRow, Name, QuotaRow, TrashRow, UserRow,
};
use crate::core::{Row, RowKey};

mod ids;

const CRC_LEN: usize = 4;
const MAX_NSEC: u64 = 999_999_999;

/// A table of rows of one kind. The numbers are part of the format.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Table {
    Counters = 1,
    Inode = 2,
    Dentry = 3,
    Extent = 4,
    Chunk = 5,
    Xattr = 6,
    Keeper = 7,
    Quota = 8,
    Reply = 9,
    Trash = 10,
    Session = 11,
    User = 12,
}

impl Table {
    /// Every table. Counters and keepers come first, they are needed to judge the others.
    pub const ALL: [Table; 12] = [
        Table::Counters,
        Table::Keeper,
        Table::Inode,
        Table::Dentry,
        Table::Extent,
        Table::Chunk,
        Table::Xattr,
        Table::Reply,
        Table::Quota,
        Table::Trash,
        Table::Session,
        Table::User,
    ];

    /// The version of its values, as they are written.
    fn version(self) -> u8 {
        match self {
            Table::User => 3,
            Table::Keeper => 2,
            _ => 1,
        }
    }

    /// Its name, part of the format of engines that name their tables.
    pub fn name(self) -> &'static str {
        match self {
            Table::Counters => "counters",
            Table::Inode => "inode",
            Table::Dentry => "dentry",
            Table::Extent => "extent",
            Table::Chunk => "chunk",
            Table::Xattr => "xattr",
            Table::Keeper => "keeper",
            Table::Reply => "reply",
            Table::Quota => "quota",
            Table::Trash => "trash",
            Table::Session => "session",
            Table::User => "user",
        }
    }
}

/// Bytes that are no row.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a row of table '{}' cannot be read: {why} (key {key})", table.name())]
pub struct DecodeError {
    /// Where it was.
    pub table: Table,
    /// Its key, in hex.
    pub key: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// The key of a row.
pub fn key_of(row: &Row) -> RowKey {
    match row {
        Row::Counters(_) => RowKey::Counters,
        Row::Inode(inode, _) => RowKey::Inode(*inode),
        Row::Dentry { parent, name, .. } => RowKey::Dentry { parent: *parent, name: name.clone() },
        Row::Extent(inode, extent) => RowKey::Extent { inode: *inode, file_offset: extent.file_offset },
        Row::Chunk(chunk, _) => RowKey::Chunk(*chunk),
        Row::Xattr { inode, name, .. } => RowKey::Xattr { inode: *inode, name: name.clone() },
        Row::Keeper(keeper, _) => RowKey::Keeper(*keeper),
        Row::Reply { session, request, .. } => RowKey::Reply { session: *session, request: *request },
        Row::Quota(inode, _) => RowKey::Quota(*inode),
        Row::Trash(inode, _) => RowKey::Trash(*inode),
        Row::Session(id) => RowKey::Session(*id),
        Row::User(name, _) => RowKey::User(name.clone()),
    }
}

/// The table and the key of a row, encoded.
pub fn encode_key(key: &RowKey) -> (Table, Vec<u8>) {
    let pair = |first: u64, rest: &[u8]| [&first.to_be_bytes(), rest].concat();
    match key {
        RowKey::Counters => (Table::Counters, Vec::new()),
        RowKey::Inode(inode) => (Table::Inode, pair(inode.0, &[])),
        RowKey::Dentry { parent, name } => (Table::Dentry, pair(parent.0, name)),
        RowKey::Extent { inode, file_offset } => (Table::Extent, pair(inode.0, &file_offset.to_be_bytes())),
        RowKey::Chunk(chunk) => (Table::Chunk, pair(chunk.0, &[])),
        RowKey::Xattr { inode, name } => (Table::Xattr, pair(inode.0, name)),
        RowKey::Keeper(keeper) => (Table::Keeper, pair(keeper.0, &[])),
        RowKey::Reply { session, request } => (Table::Reply, pair(session.0, &request.to_be_bytes())),
        RowKey::Quota(inode) => (Table::Quota, pair(inode.0, &[])),
        RowKey::Trash(inode) => (Table::Trash, pair(inode.0, &[])),
        RowKey::Session(id) => (Table::Session, pair(id.0, &[])),
        RowKey::User(name) => (Table::User, name.as_bytes().to_vec()),
    }
}

/// A row as table, key and value.
pub fn encode(row: &Row) -> (Table, Vec<u8>, Vec<u8>) {
    let (table, key) = encode_key(&key_of(row));
    let mut value = vec![table.version()];
    encode_body(row, &mut value);
    let crc = checksum(table, &key, &value);
    value.extend_from_slice(&crc.to_le_bytes());
    (table, key, value)
}

fn checksum(table: Table, key: &[u8], value: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&[table as u8]), key);
    crc32c::crc32c_append(crc, value)
}

fn encode_body(row: &Row, out: &mut Vec<u8>) {
    match row {
        Row::Counters(c) => put_numbers(out, &[c.next_inode, c.next_chunk, c.next_keeper]),
        Row::Inode(_, inode) => encode_inode(inode, out),
        Row::Dentry { inode, .. } => put_numbers(out, &[inode.0]),
        Row::Extent(_, e) => put_numbers(out, &[e.length, e.chunk.0, u64::from(e.chunk_offset)]),
        Row::Chunk(_, chunk) => {
            let count = chunk.keepers.len() as u64;
            put_numbers(out, &[u64::from(chunk.length), u64::from(chunk.checksum), count]);
            chunk.keepers.iter().for_each(|keeper| encode_varint(keeper.0, out));
        }
        Row::Reply { reply, .. } => out.extend_from_slice(reply),
        Row::Xattr { value, .. } => out.extend_from_slice(value),
        Row::Keeper(_, keeper) => {
            for text in [&keeper.address, &keeper.data_dir, &keeper.host, &keeper.version] {
                put_text(text, out);
            }
            encode_varint(keeper.labels.len() as u64, out);
            for text in keeper.labels.iter().flat_map(|(name, value)| [name, value]) {
                put_text(text, out);
            }
            // Times of a row are after 1970.
            put_numbers(out, &[u64::from(keeper.draining), keeper.maintenance_until_ms as u64]);
        }
        Row::Quota(_, quota) => {
            for limit in [quota.max_bytes, quota.max_inodes] {
                encode_varint(u64::from(limit.is_some()), out);
                limit.iter().for_each(|&n| encode_varint(n, out));
            }
        }
        Row::Trash(_, trash) => {
            encode_time(&trash.deleted, out);
            encode_varint(trash.bytes, out);
            out.extend_from_slice(&trash.path);
        }
        Row::Session(_) => {}
        Row::User(_, user) => {
            let numbers =
                [u64::from(user.roles.bits()), u64::from(user.disabled), u64::from(user.generation)];
            put_numbers(out, &numbers);
            encode_varint(user.dir.map_or(0, |dir| dir.0), out);
            ids::encode(&user.ids, out);
            out.extend_from_slice(user.password_hash.as_bytes());
        }
    }
}

fn encode_time(time: &pb::Time, out: &mut Vec<u8>) {
    encode_varint(((time.sec << 1) ^ (time.sec >> 63)) as u64, out);
    encode_varint(u64::from(time.nsec), out);
}

fn encode_inode(inode: &InodeRow, out: &mut Vec<u8>) {
    let numbers = [inode.mode, inode.nlink, inode.uid, inode.gid, inode.rdev];
    numbers.iter().for_each(|&n| encode_varint(u64::from(n), out));
    encode_varint(inode.size, out);
    for time in [&inode.atime, &inode.mtime, &inode.ctime] {
        encode_time(time, out);
    }
    encode_varint(inode.content_version, out);
    match &inode.target {
        None => encode_varint(0, out),
        Some(target) => {
            encode_varint(target.len() as u64 + 1, out);
            out.extend_from_slice(target);
        }
    }
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    encode_varint(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

fn put_numbers(out: &mut Vec<u8>, numbers: &[u64]) {
    numbers.iter().for_each(|&n| encode_varint(n, out));
}

/// Reads a row back. Never panics, whatever the bytes.
///
/// # Errors
/// Says what is wrong with the bytes.
pub fn decode(table: Table, key: &[u8], value: &[u8]) -> Result<Row, DecodeError> {
    decode_row(table, key, value).map_err(|why| DecodeError {
        table,
        key: key.iter().take(64).map(|byte| format!("{byte:02x}")).collect(),
        why,
    })
}

type Why = &'static str;

fn decode_row(table: Table, key: &[u8], value: &[u8]) -> Result<Row, Why> {
    let Some((rest, crc)) = value.split_last_chunk::<CRC_LEN>() else { return Err("it is too short") };
    if checksum(table, key, rest) != u32::from_le_bytes(*crc) {
        return Err("its checksum is wrong");
    }
    let Some((&version, body)) = rest.split_first() else { return Err("it is too short") };
    if version == 0 || version > table.version() {
        return Err("it is of another version");
    }
    let mut body = Body(body);
    let row = decode_body(table, version, key, &mut body)?;
    if body.0.is_empty() { Ok(row) } else { Err("it is too long") }
}

fn decode_body(table: Table, version: u8, key: &[u8], body: &mut Body<'_>) -> Result<Row, Why> {
    Ok(match table {
        Table::Counters => {
            key_end(key)?;
            Row::Counters(Counters {
                next_inode: body.number()?,
                next_chunk: body.number()?,
                next_keeper: body.number()?,
            })
        }
        Table::Inode => Row::Inode(InodeNo(whole_key(key)?), decode_inode(body)?),
        Table::Dentry => {
            let (parent, name) = named_key(key)?;
            Row::Dentry { parent, name, inode: InodeNo(body.number()?) }
        }
        Table::Extent => {
            let (inode, rest) = first_number(key)?;
            let file_offset = whole_key(rest)?;
            let (length, chunk) = (body.number()?, ChunkId(body.number()?));
            let chunk_offset = body.small()?;
            Row::Extent(InodeNo(inode), ExtentRow { file_offset, length, chunk, chunk_offset })
        }
        Table::Chunk => Row::Chunk(ChunkId(whole_key(key)?), decode_chunk(body)?),
        Table::Xattr => {
            let (inode, name) = named_key(key)?;
            Row::Xattr { inode, name, value: Bytes::copy_from_slice(body.take_all()) }
        }
        Table::Reply => {
            let (session, rest) = first_number(key)?;
            let request = whole_key(rest)?;
            let reply = Bytes::copy_from_slice(body.take_all());
            Row::Reply { session: SessionId(session), request, reply }
        }
        Table::Keeper => Row::Keeper(KeeperId(whole_key(key)?), decode_keeper(version, body)?),
        Table::Quota => {
            let row = QuotaRow { max_bytes: body.limit()?, max_inodes: body.limit()? };
            Row::Quota(InodeNo(whole_key(key)?), row)
        }
        Table::Trash => {
            let (deleted, bytes) = (body.time()?, body.number()?);
            let row = TrashRow { deleted, bytes, path: body.take_all().into() };
            Row::Trash(InodeNo(whole_key(key)?), row)
        }
        Table::Session => Row::Session(SessionId(whole_key(key)?)),
        Table::User => {
            let name = std::str::from_utf8(key).map_err(|_| "its name is not UTF-8")?;
            Row::User(name.into(), decode_user(version, body)?)
        }
    })
}

fn decode_inode(body: &mut Body<'_>) -> Result<InodeRow, Why> {
    Ok(InodeRow {
        mode: body.small()?,
        nlink: body.small()?,
        uid: body.small()?,
        gid: body.small()?,
        rdev: body.small()?,
        size: body.number()?,
        atime: body.time()?,
        mtime: body.time()?,
        ctime: body.time()?,
        content_version: body.number()?,
        target: match body.number()? {
            0 => None,
            more => Some(body.take(more - 1)?.into()),
        },
    })
}

fn decode_keeper(version: u8, body: &mut Body<'_>) -> Result<KeeperRow, Why> {
    let mut row = KeeperRow {
        address: body.text()?,
        data_dir: body.text()?,
        host: body.text()?,
        version: body.text()?,
        ..KeeperRow::default()
    };
    if version >= 2 {
        let count = body.number()?;
        for _ in 0..count {
            if row.labels.insert(body.text()?, body.text()?).is_some() {
                return Err("it has a label twice");
            }
        }
        row.draining = body.mark()?;
        row.maintenance_until_ms = i64::try_from(body.number()?).map_err(|_| "a time in it is impossible")?;
    }
    Ok(row)
}

fn decode_user(version: u8, body: &mut Body<'_>) -> Result<UserRow, Why> {
    let roles = u8::try_from(body.number()?).ok().and_then(Roles::from_bits);
    let roles = roles.ok_or("it has a role that is not known")?;
    let (disabled, generation) = (body.mark()?, body.small()?);
    let dir = if version >= 2 { body.number()? } else { 0 };
    let dir = (dir != 0).then_some(InodeNo(dir));
    let ids = Arc::new(if version >= 3 { ids::decode(body)? } else { IdMap::None });
    let password_hash =
        String::from_utf8(body.take_all().to_vec()).map_err(|_| "a text in it is not UTF-8")?;
    Ok(UserRow { password_hash, roles, disabled, generation, dir, ids })
}

fn decode_chunk(body: &mut Body<'_>) -> Result<ChunkRow, Why> {
    let (length, checksum) = (body.small()?, body.small()?);
    let count = body.number()?;
    if count > body.0.len() as u64 {
        return Err("it names more keepers than it has room for");
    }
    let keepers = (0..count).map(|_| body.number().map(KeeperId)).collect::<Result<Vec<_>, _>>()?;
    if keepers.is_sorted_by(|a, b| a < b) {
        Ok(ChunkRow { length, checksum, keepers })
    } else {
        Err("its keepers are not in order")
    }
}

fn first_number(key: &[u8]) -> Result<(u64, &[u8]), Why> {
    key.split_first_chunk::<8>().map(|(n, rest)| (u64::from_be_bytes(*n), rest)).ok_or("its key is too short")
}

fn key_end(rest: &[u8]) -> Result<(), Why> {
    if rest.is_empty() { Ok(()) } else { Err("its key is too long") }
}

fn whole_key(key: &[u8]) -> Result<u64, Why> {
    let (number, rest) = first_number(key)?;
    key_end(rest).map(|()| number)
}

fn named_key(key: &[u8]) -> Result<(InodeNo, Name), Why> {
    let (inode, name) = first_number(key)?;
    if (1..=MAX_NAME_LEN).contains(&name.len()) {
        Ok((InodeNo(inode), name.into()))
    } else {
        Err("its name has an impossible length")
    }
}

/// What is left to read of a value's body.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn number(&mut self) -> Result<u64, Why> {
        decode_varint(&mut self.0).map_err(|_| "a number in it is broken")
    }

    fn small(&mut self) -> Result<u32, Why> {
        u32::try_from(self.number()?).map_err(|_| "a number in it is too large")
    }

    fn mark(&mut self) -> Result<bool, Why> {
        match self.number()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err("a mark in it is neither there nor not"),
        }
    }

    fn limit(&mut self) -> Result<Option<u64>, Why> {
        match self.number()? {
            0 => Ok(None),
            1 => self.number().map(Some),
            _ => Err("a limit in it is neither there nor not"),
        }
    }

    fn time(&mut self) -> Result<pb::Time, Why> {
        let zigzag = self.number()?;
        let nsec = self.number()?;
        if nsec > MAX_NSEC {
            return Err("a time in it is impossible");
        }
        Ok(pb::Time { sec: (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64), nsec: nsec as u32 })
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Why> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some((taken, rest)) = self.0.split_at_checked(length) else { return Err("it is too short") };
        self.0 = rest;
        Ok(taken)
    }

    fn take_all(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn text(&mut self) -> Result<String, Why> {
        let length = self.number()?;
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| "a text in it is not UTF-8")
    }
}

#[cfg(test)]
pub(crate) mod tests;
