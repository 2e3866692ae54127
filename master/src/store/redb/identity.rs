//! The identity as fields of bytes.

use std::collections::BTreeMap;

use dfs_proto::ids::{ChunkId, ClusterId};
use dfs_proto::pb;

use crate::core::Spared;
use crate::store::Identity;

/// By name.
pub(super) type IdentityFields = BTreeMap<String, Vec<u8>>;

pub(super) fn encode_identity(identity: &Identity) -> IdentityFields {
    let created =
        [&identity.created.sec.to_le_bytes()[..], &identity.created.nsec.to_le_bytes()[..]].concat();
    let mut fields = IdentityFields::from([
        ("cluster".to_owned(), identity.cluster.0.to_vec()),
        ("secret".to_owned(), identity.secret.to_vec()),
        ("created".to_owned(), created),
    ]);
    if let Some(spared) = identity.spared {
        let spared = [spared.below.0.to_le_bytes(), spared.until_ms.to_le_bytes()].concat();
        fields.insert("spared".to_owned(), spared);
    }
    fields
}

pub(super) fn decode_identity(fields: &IdentityFields) -> Option<Identity> {
    let field = |name: &str| fields.get(name).map(Vec::as_slice);
    let (sec, nsec) = field("created")?.split_first_chunk::<8>()?;
    let spared = match field("spared") {
        None => None,
        Some(bytes) => {
            let (below, until_ms) = bytes.split_first_chunk::<8>()?;
            let until_ms = i64::from_le_bytes(until_ms.try_into().ok()?);
            Some(Spared { below: ChunkId(u64::from_le_bytes(*below)), until_ms })
        }
    };
    Some(Identity {
        cluster: ClusterId::from_bytes(field("cluster")?)?,
        secret: field("secret")?.try_into().ok()?,
        created: pb::Time { sec: i64::from_le_bytes(*sec), nsec: u32::from_le_bytes(nsec.try_into().ok()?) },
        spared,
    })
}
