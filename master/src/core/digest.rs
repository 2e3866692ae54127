//! The MD5 of a file's content, as a mount computed it: remembered until the content changes.
//!
//! It is stored as an extended attribute that nobody sees but who asks for it by name: the content version that it
//! belongs to (8 bytes, big-endian), then the digest. What must hold: it is given out for that version alone, and
//! no time changes when it is stored. Names that begin with `user.dfs.` are kept for such attributes.

use bytes::{BufMut, Bytes, BytesMut};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::InodeNo;
use dfs_proto::pb::{self, mount_reply::Result as Reply};

use super::State;
use super::out::{Out, Res, fail};
use super::row::{Name, RowKey};

/// Under which it is stored and asked for.
pub(super) const MD5_NAME: &[u8] = b"user.dfs.md5";

const RESERVED_PREFIX: &[u8] = b"user.dfs.";
const VERSION_LEN: usize = 8;
const MD5_LEN: usize = 16;

/// A name that is not the users' to set, list or remove.
pub(super) fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(RESERVED_PREFIX)
}

impl State {
    pub(super) fn set_digest(&mut self, op: &pb::SetDigest, out: &mut Out) -> Res<Reply> {
        let inode = InodeNo(op.inode);
        out.show(inode);
        let node = self.inode(inode)?;
        if !node.is_file() || op.md5.len() != MD5_LEN {
            let message = format!("inode {inode}: an MD5 has {MD5_LEN} bytes and belongs to a regular file");
            return fail(ErrorCode::Invalid, message);
        }
        if node.content_version != op.content_version {
            return fail(ErrorCode::Busy, format!("inode {inode}: its content changed meanwhile; try again"));
        }
        let mut value = BytesMut::with_capacity(VERSION_LEN + MD5_LEN);
        value.put_u64(op.content_version);
        value.put_slice(&op.md5);
        let name = Name::from(MD5_NAME);
        out.touch(RowKey::Xattr { inode, name: name.clone() });
        self.xattrs.insert((inode, name), value.freeze());
        Ok(Reply::Empty(pb::Empty {}))
    }

    /// The digest of the content as it is now, if it is known.
    pub(super) fn digest(&self, inode: InodeNo) -> Option<Bytes> {
        let stored = self.xattrs.get(&(inode, Name::from(MD5_NAME)))?;
        let (version, digest) = stored.split_first_chunk::<VERSION_LEN>()?;
        let current = self.inodes.get(&inode)?.content_version;
        (u64::from_be_bytes(*version) == current && digest.len() == MD5_LEN)
            .then(|| stored.slice(VERSION_LEN..))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::Kit;
    use super::*;
    use dfs_proto::pb::mount_request::Op;

    fn get(inode: InodeNo) -> Op {
        Op::Getxattr(pb::Getxattr { inode: inode.0, name: MD5_NAME.into() })
    }

    fn set(inode: InodeNo, content_version: u64) -> Op {
        let md5 = Bytes::from_static(b"0123456789abcdef");
        Op::SetDigest(pb::SetDigest { inode: inode.0, content_version, md5 })
    }

    #[test]
    fn it_is_remembered_until_the_content_changes() {
        let mut kit = Kit::with_keepers(2);
        let file = kit.create(InodeNo::ROOT, "f");
        kit.upload(file, 0, 10);
        assert_eq!(kit.code(get(file)), Some(ErrorCode::NoData));
        let before = kit.attr(file);
        kit.ok(set(file, before.content_version));
        assert_eq!(kit.attr(file), before, "no time changes");
        let wanted = Reply::Value(pb::Value { value: b"0123456789abcdef"[..].into() });
        assert_eq!(kit.ok(get(file)), wanted);
        kit.restart();
        kit.hello(super::super::testkit::SESSION, &[file]);
        assert_eq!(kit.ok(get(file)), wanted, "a restart does not forget it");
        kit.ok(Op::Setattr(pb::Setattr { inode: file.0, mode: Some(0o600), ..Default::default() }));
        assert_eq!(kit.ok(get(file)), wanted, "the content is the same");
        kit.truncate(file, 5);
        assert_eq!(kit.code(get(file)), Some(ErrorCode::NoData));
        assert_eq!(kit.code(set(file, before.content_version)), Some(ErrorCode::Busy), "too late");
    }

    #[test]
    fn nobody_sets_lists_or_removes_it() {
        let mut kit = Kit::with_keepers(2);
        let file = kit.create(InodeNo::ROOT, "f");
        let version = kit.attr(file).content_version;
        kit.ok(set(file, version));
        assert_eq!(
            kit.ok(Op::Listxattr(pb::Listxattr { inode: file.0 })),
            Reply::Names(pb::Names { names: vec![] })
        );
        for name in [MD5_NAME, b"user.dfs.other"] {
            let name = Bytes::from_static(name);
            let setxattr = pb::Setxattr { inode: file.0, name: name.clone(), ..Default::default() };
            assert_eq!(kit.code(Op::Setxattr(setxattr)), Some(ErrorCode::Permission));
            let remove = pb::Removexattr { inode: file.0, name };
            assert_eq!(kit.code(Op::Removexattr(remove)), Some(ErrorCode::Permission));
        }
        let directory = pb::SetDigest { inode: 1, content_version: 0, md5: vec![0; 16].into() };
        assert_eq!(kit.code(Op::SetDigest(directory)), Some(ErrorCode::Invalid));
        let short = pb::SetDigest { inode: file.0, content_version: version, md5: vec![0; 15].into() };
        assert_eq!(kit.code(Op::SetDigest(short)), Some(ErrorCode::Invalid));
        kit.unlink(InodeNo::ROOT, "f");
        kit.release(file);
        assert!(kit.state.xattrs.is_empty(), "it goes with its file");
    }
}
