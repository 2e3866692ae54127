//! Access control lists, as POSIX.1e draft 17 and acl(5) have them. Pure: bytes in, bytes and modes out.
//!
//! A list travels, and is stored, in the form that the kernel uses for the attributes [`ACCESS`] and [`DEFAULT`]:
//! version 2 (u32), then eight bytes an entry: tag (u16), permissions (u16), id (u32), all little-endian
//! (linux/posix_acl_xattr.h).
//!
//! What must hold: a list that is stored is valid, and an access list that says no more than the mode is not
//! stored. The permission bits of an inode with an access list are the list's: owner, mask, others.

use bytes::{BufMut, Bytes, BytesMut};
use dfs_proto::error::ErrorCode;

use super::out::{Res, fail};

/// The attribute with the list that says who may do what.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute of a directory with the list that what is made in it begins with.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const HEADER_LEN: usize = 4;
const ENTRY_LEN: usize = 8;
/// Most entries of a list: the kernel takes no more than a page of it.
const MAX_ENTRIES: usize = (4096 - HEADER_LEN) / ENTRY_LEN;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
/// The id of an entry that has none; no user's or group's id.
const NO_ID: u32 = u32::MAX;

/// Read, write, execute, as in three bits of a mode.
const RWX: u32 = 0o7;

/// Is it the name of an attribute that is a list?
pub(super) fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

/// Is it the name of an attribute that kernels ask for by themselves, at look-ups and writes?
pub(super) fn is_security(name: &[u8]) -> bool {
    is_acl(name) || name == b"security.capability"
}

/// Whom an entry is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Tag {
    Owner,
    User(u32),
    OwningGroup,
    Group(u32),
    Mask,
    Other,
}

impl Tag {
    fn is_named(self) -> bool {
        matches!(self, Tag::User(_) | Tag::Group(_))
    }

    /// As it travels: tag and id.
    fn to_wire(self) -> (u16, u32) {
        match self {
            Tag::Owner => (USER_OBJ, NO_ID),
            Tag::User(uid) => (USER, uid),
            Tag::OwningGroup => (GROUP_OBJ, NO_ID),
            Tag::Group(gid) => (GROUP, gid),
            Tag::Mask => (MASK, NO_ID),
            Tag::Other => (OTHER, NO_ID),
        }
    }

    fn from_wire(tag: u16, id: u32) -> Option<Tag> {
        Some(match tag {
            USER_OBJ => Tag::Owner,
            USER if id != NO_ID => Tag::User(id),
            GROUP_OBJ => Tag::OwningGroup,
            GROUP if id != NO_ID => Tag::Group(id),
            MASK => Tag::Mask,
            OTHER => Tag::Other,
            _ => return None,
        })
    }

    /// Entries come in this order; those of users, and of groups, among themselves in any.
    fn rank(self) -> u16 {
        self.to_wire().0
    }
}

/// A valid list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Acl {
    /// With their permissions, of [`RWX`].
    entries: Vec<(Tag, u32)>,
}

impl Acl {
    /// From an attribute's value. `None`: it has no entry, which means that there is to be no list.
    ///
    /// # Errors
    /// `Invalid`: these bytes are no list, or not one that acl(5) allows.
    pub fn parse(value: &[u8]) -> Res<Option<Acl>> {
        let bad = |why: &str| fail(ErrorCode::Invalid, format!("access list: {why}; see acl(5)"));
        let Some((version, rest)) = value.split_first_chunk::<HEADER_LEN>() else {
            return bad("it is too short for a version");
        };
        if u32::from_le_bytes(*version) != VERSION {
            return bad("it is not of version 2");
        }
        let (raw, left) = rest.as_chunks::<ENTRY_LEN>();
        if !left.is_empty() || raw.len() > MAX_ENTRIES {
            return bad("its length is none that a list has");
        }
        let mut entries = Vec::with_capacity(raw.len());
        for &[t0, t1, p0, p1, i0, i1, i2, i3] in raw {
            let permissions = u32::from(u16::from_le_bytes([p0, p1]));
            let tag = Tag::from_wire(u16::from_le_bytes([t0, t1]), u32::from_le_bytes([i0, i1, i2, i3]));
            match tag {
                Some(tag) if permissions & !RWX == 0 => entries.push((tag, permissions)),
                _ => return bad("it has an entry of an unknown kind"),
            }
        }
        if entries.is_empty() {
            return Ok(None);
        }
        let acl = Acl { entries };
        if !acl.is_valid() {
            return bad("an entry is missing, there twice, or in the wrong place");
        }
        Ok(Some(acl))
    }

    fn is_valid(&self) -> bool {
        let count = |tag: Tag| self.entries.iter().filter(|(known, _)| *known == tag).count();
        let named = self.entries.iter().any(|(tag, _)| tag.is_named());
        self.entries.is_sorted_by_key(|(tag, _)| tag.rank())
            && [Tag::Owner, Tag::OwningGroup, Tag::Other].into_iter().all(|tag| count(tag) == 1)
            && count(Tag::Mask) <= 1
            && (!named || count(Tag::Mask) == 1)
    }

    /// As an attribute's value.
    pub fn encode(&self) -> Bytes {
        let mut value = BytesMut::with_capacity(HEADER_LEN + self.entries.len() * ENTRY_LEN);
        value.put_u32_le(VERSION);
        for (tag, permissions) in &self.entries {
            let (tag, id) = tag.to_wire();
            value.put_u16_le(tag);
            // Three bits.
            value.put_u16_le(*permissions as u16);
            value.put_u32_le(id);
        }
        value.freeze()
    }

    /// Does it say what nine bits of a mode can say?
    pub fn is_minimal(&self) -> bool {
        self.entries.iter().all(|(tag, _)| matches!(tag, Tag::Owner | Tag::OwningGroup | Tag::Other))
    }

    fn of(&self, wanted: Tag) -> Option<u32> {
        self.entries.iter().find(|(tag, _)| *tag == wanted).map(|(_, permissions)| *permissions)
    }

    fn set(&mut self, wanted: Tag, permissions: u32) {
        if let Some(entry) = self.entries.iter_mut().find(|(tag, _)| *tag == wanted) {
            entry.1 = permissions & RWX;
        }
    }

    /// The entry that the group bits of the mode stand for.
    fn group_class(&self) -> Tag {
        if self.of(Tag::Mask).is_some() { Tag::Mask } else { Tag::OwningGroup }
    }

    /// The nine permission bits of a mode that go with it.
    pub fn mode(&self) -> u32 {
        let bits = |tag| self.of(tag).unwrap_or(0);
        bits(Tag::Owner) << 6 | bits(self.group_class()) << 3 | bits(Tag::Other)
    }

    /// What chmod(2) makes of it.
    pub fn chmod(&mut self, mode: u32) {
        self.set(Tag::Owner, mode >> 6);
        self.set(self.group_class(), mode >> 3);
        self.set(Tag::Other, mode);
    }

    /// What a new inode that is made with `mode` gets, in a directory with this default list: its access list and
    /// its nine permission bits. No bit is granted that `mode` does not have.
    pub fn inherit(&self, mode: u32) -> (Acl, u32) {
        let mut acl = self.clone();
        acl.chmod(self.mode() & mode);
        let mode = acl.mode();
        (acl, mode)
    }

    /// May somebody have all of `want` (of [`RWX`])? `is_owner`: the inode is his; `is_user`: is he this user;
    /// `in_group`: is he in this group, `None` for the inode's own. The algorithm of acl(5), "access check
    /// algorithm".
    pub fn permits(
        &self,
        is_owner: bool,
        is_user: impl Fn(u32) -> bool,
        in_group: impl Fn(Option<u32>) -> bool,
        want: u32,
    ) -> bool {
        let has = |permissions: u32| permissions & want == want;
        if is_owner {
            return has(self.of(Tag::Owner).unwrap_or(0));
        }
        let mask = self.of(Tag::Mask).unwrap_or(RWX);
        let user = self.entries.iter().find(|(tag, _)| matches!(tag, Tag::User(uid) if is_user(*uid)));
        if let Some((_, permissions)) = user {
            return has(permissions & mask);
        }
        let groups: Vec<u32> = self
            .entries
            .iter()
            .filter(|(tag, _)| match tag {
                Tag::OwningGroup => in_group(None),
                Tag::Group(gid) => in_group(Some(*gid)),
                _ => false,
            })
            .map(|(_, permissions)| *permissions)
            .collect();
        if groups.is_empty() {
            return has(self.of(Tag::Other).unwrap_or(0));
        }
        groups.into_iter().any(|permissions| has(permissions & mask))
    }
}

impl Acl {
    /// Could somebody who may be each of these users and in each of these groups, and is not the owner, have all of `want`?
    pub fn permits_some(
        &self,
        is_user: impl Fn(u32) -> bool,
        in_group: impl Fn(Option<u32>) -> bool,
        want: u32,
    ) -> bool {
        let mask = self.of(Tag::Mask).unwrap_or(RWX);
        self.entries.iter().any(|(tag, permissions)| match tag {
            Tag::User(uid) => is_user(*uid) && permissions & mask & want == want,
            Tag::OwningGroup => in_group(None) && permissions & mask & want == want,
            Tag::Group(gid) => in_group(Some(*gid)) && permissions & mask & want == want,
            Tag::Other => permissions & want == want,
            Tag::Owner | Tag::Mask => false,
        })
    }

    /// The same list of other users and groups.
    ///
    /// # Errors
    /// The first id that has no other.
    pub fn with_ids(
        &self,
        user: impl Fn(u32) -> Option<u32>,
        group: impl Fn(u32) -> Option<u32>,
    ) -> Result<Acl, u32> {
        let entry = |&(tag, permissions): &(Tag, u32)| {
            let tag = match tag {
                Tag::User(uid) => Tag::User(user(uid).ok_or(uid)?),
                Tag::Group(gid) => Tag::Group(group(gid).ok_or(gid)?),
                Tag::Owner | Tag::OwningGroup | Tag::Mask | Tag::Other => tag,
            };
            Ok((tag, permissions))
        };
        Ok(Acl { entries: self.entries.iter().map(entry).collect::<Result<_, u32>>()? })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A list as bytes: (tag, permissions, id).
    pub(in super::super) fn bytes_of(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            value.extend(tag.to_le_bytes());
            value.extend(permissions.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    }

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl::parse(&bytes_of(entries)).unwrap().unwrap()
    }

    fn code(value: &[u8]) -> Option<ErrorCode> {
        Acl::parse(value).err().map(|error| error.code)
    }

    const N: u32 = NO_ID;

    #[test]
    fn what_is_no_list_is_refused() {
        let good = [(1, 7, N), (2, 7, 5), (4, 5, N), (8, 4, 6), (0x10, 7, N), (0x20, 0, N)];
        assert_eq!(code(&bytes_of(&good)), None);
        for missing in [0, 2, 4, 5] {
            let mut bad = good.to_vec();
            bad.remove(missing);
            assert_eq!(code(&bytes_of(&bad)), Some(ErrorCode::Invalid), "without entry {missing}");
        }
        for twice in [0, 2, 4, 5] {
            let mut bad = good.to_vec();
            bad.insert(twice, good[twice]);
            assert_eq!(code(&bytes_of(&bad)), Some(ErrorCode::Invalid), "entry {twice} twice");
        }
        let mut disordered = good;
        disordered.swap(0, 5);
        assert_eq!(code(&bytes_of(&disordered)), Some(ErrorCode::Invalid));
        for entry in [(3, 7, N), (0, 7, N), (0x40, 7, N), (1, 8, N), (2, 7, N), (8, 7, N)] {
            let mut bad = good;
            let at = bad.iter().position(|known| known.0 == entry.0).unwrap_or(0);
            bad[at] = entry;
            assert_eq!(code(&bytes_of(&bad)), Some(ErrorCode::Invalid), "{entry:?}");
        }
        let mut bytes = bytes_of(&good);
        assert_eq!(code(&bytes[..bytes.len() - 1]), Some(ErrorCode::Invalid));
        bytes[0] = 1;
        assert_eq!(code(&bytes), Some(ErrorCode::Invalid));
        assert_eq!(code(b""), Some(ErrorCode::Invalid));
        assert_eq!(Acl::parse(&bytes_of(&[])).unwrap(), None);
        let many: Vec<_> = [(1, 7, N)]
            .into_iter()
            .chain((0..600).map(|id| (2, 7, id)))
            .chain([(4, 7, N), (0x10, 7, N), (0x20, 7, N)])
            .collect();
        assert_eq!(code(&bytes_of(&many)), Some(ErrorCode::Invalid));
    }

    #[test]
    fn the_mask_is_the_modes_group_and_chmod_changes_it() {
        let mut list = acl(&[(1, 7, N), (2, 7, 5), (4, 5, N), (0x10, 6, N), (0x20, 1, N)]);
        assert_eq!((list.mode(), list.is_minimal()), (0o761, false));
        list.chmod(0o640);
        assert_eq!(list, acl(&[(1, 6, N), (2, 7, 5), (4, 5, N), (0x10, 4, N), (0x20, 0, N)]));
        let mut minimal = acl(&[(1, 7, N), (4, 5, N), (0x20, 1, N)]);
        minimal.chmod(0o640);
        assert_eq!(minimal, acl(&[(1, 6, N), (4, 4, N), (0x20, 0, N)]));
    }

    #[test]
    fn who_may_is_decided_as_acl_5_says() {
        let list = acl(&[
            (1, 6, N),
            (2, 7, 5),
            (2, 0, 6),
            (4, 4, N),
            (8, 2, 50),
            (8, 0, 51),
            (0x10, 6, N),
            (0x20, 1, N),
        ]);
        // The file is of user 1 and group 10.
        let may = |uid: u32, groups: &[u32], want| {
            list.permits(uid == 1, |user| user == uid, |gid| groups.contains(&gid.unwrap_or(10)), want)
        };
        assert!(may(1, &[], 6) && !may(1, &[50], 1), "the owner's entry alone counts");
        assert!(may(5, &[51], 6) && !may(5, &[], 1), "the mask cuts a named user");
        assert!(!may(6, &[10, 50], 4), "a named user's entry comes before those of his groups");
        assert!(may(7, &[10, 51], 4) && may(7, &[10, 50], 2), "one of his groups is enough");
        assert!(!may(7, &[10, 50], 6), "but one entry must grant all");
        assert!(!may(7, &[51], 1), "who is in a named group is nobody else");
        assert!(may(7, &[99], 1) && !may(7, &[99], 4), "the mask does not cut the others");
    }

    fn any_acl() -> impl Strategy<Value = Acl> {
        let named = || prop::collection::vec((0u32..8, 0u32..8), 0..4);
        ([0u32..8, 0u32..8, 0u32..8], named(), named(), prop::option::of(0u32..8)).prop_map(
            |([owner, group, other], users, groups, mask)| {
                let mut entries = vec![(Tag::Owner, owner)];
                entries.extend(users.iter().map(|(id, bits)| (Tag::User(*id), *bits)));
                entries.push((Tag::OwningGroup, group));
                entries.extend(groups.iter().map(|(id, bits)| (Tag::Group(*id), *bits)));
                let mask = if users.is_empty() && groups.is_empty() { mask } else { mask.or(Some(7)) };
                entries.extend(mask.map(|bits| (Tag::Mask, bits)));
                entries.push((Tag::Other, other));
                Acl { entries }
            },
        )
    }

    proptest! {
        #[test]
        fn lists_survive_the_wire(list in any_acl()) {
            prop_assert_eq!(Acl::parse(&list.encode()).unwrap(), Some(list));
        }

        #[test]
        fn no_bytes_do_harm(mut bytes in prop::collection::vec(any::<u8>(), 0..80), header: bool) {
            if header && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&VERSION.to_le_bytes());
            }
            if let Ok(Some(list)) = Acl::parse(&bytes) {
                prop_assert_eq!(&list.encode()[..], &bytes[..]);
            }
        }

        #[test]
        fn chmod_sets_the_mode(mut list in any_acl(), mode in 0u32..0o1000) {
            list.chmod(mode);
            prop_assert!(list.is_valid());
            prop_assert_eq!(list.mode(), mode);
        }

        #[test]
        fn nothing_is_inherited_that_was_not_asked_for(list in any_acl(), mode in 0u32..0o1000) {
            let (inherited, bits) = list.inherit(mode);
            prop_assert!(inherited.is_valid());
            prop_assert_eq!(bits & !mode, 0);
            prop_assert_eq!(bits & !list.mode(), 0);
            prop_assert_eq!(inherited.mode(), bits);
            prop_assert_eq!(inherited.is_minimal(), list.is_minimal());
        }

        #[test]
        fn a_minimal_list_is_the_mode(mode in 0u32..0o1000, want in 0u32..8, owner: bool, group: bool) {
            let list = Acl {
                entries: vec![(Tag::Owner, mode >> 6), (Tag::OwningGroup, mode >> 3 & 7), (Tag::Other, mode & 7)],
            };
            let bits = if owner { mode >> 6 } else if group { mode >> 3 } else { mode };
            let may = list.permits(owner, |_| false, |gid| gid.is_none() && group, want);
            prop_assert_eq!(may, bits & want == want);
            prop_assert_eq!((list.is_minimal(), list.mode()), (true, mode));
        }

        #[test]
        fn nobody_but_the_owner_and_others_gets_more_than_the_mask(
            list in any_acl(), uid in 0u32..8, groups in prop::collection::vec(0u32..8, 0..3),
        ) {
            let own = 3;
            let named = list.entries.iter().any(|(tag, _)| match tag {
                Tag::User(id) => *id == uid,
                Tag::Group(id) => groups.contains(id),
                _ => false,
            }) || groups.contains(&own);
            for want in 0..8 {
                let may = list.permits(false, |id| id == uid, |gid| groups.contains(&gid.unwrap_or(own)), want);
                let most = if named { list.of(Tag::Mask).unwrap_or(RWX) } else { list.of(Tag::Other).unwrap_or(0) };
                prop_assert!(!may || most & want == want);
            }
        }
    }
}
