//! How a user's map of ids looks as bytes: see the head of `codec.rs`.

use prost::encoding::encode_varint;

use super::{Body, Why, put_numbers};
use crate::core::id_map::{IdMap, IdRange, IdRanges, MAX_RANGES, Owner};

pub(super) fn encode(ids: &IdMap, out: &mut Vec<u8>) {
    let owner = |kind: u64, owner: &Owner| [kind, u64::from(owner.uid), u64::from(owner.gid)];
    match ids {
        IdMap::None => encode_varint(0, out),
        IdMap::Root(root) => put_numbers(out, &owner(1, root)),
        IdMap::All(all) => put_numbers(out, &owner(2, all)),
        IdMap::Ranges { uids, gids } => {
            encode_varint(3, out);
            for ranges in [uids, gids] {
                encode_varint(ranges.iter().len() as u64, out);
                for range in ranges.iter() {
                    put_numbers(out, &[range.from, range.to, range.count].map(u64::from));
                }
            }
        }
    }
}

/// # Errors
/// Says what is wrong with the bytes.
pub(super) fn decode(body: &mut Body<'_>) -> Result<IdMap, Why> {
    let owner = |body: &mut Body<'_>| Ok::<_, Why>(Owner { uid: body.small()?, gid: body.small()? });
    Ok(match body.number()? {
        0 => IdMap::None,
        1 => IdMap::Root(owner(body)?),
        2 => IdMap::All(owner(body)?),
        3 => IdMap::Ranges { uids: decode_ranges(body)?, gids: decode_ranges(body)? },
        _ => return Err("its ids are mapped in a way that is not known"),
    })
}

fn decode_ranges(body: &mut Body<'_>) -> Result<IdRanges, Why> {
    let count = body.number()?;
    if count > MAX_RANGES as u64 {
        return Err("it has too many ranges of ids");
    }
    let range = |_| Ok(IdRange { from: body.small()?, to: body.small()?, count: body.small()? });
    let ranges = (0..count).map(range).collect::<Result<_, Why>>()?;
    IdRanges::new(ranges).map_err(|_| "its ranges of ids do not fit together")
}
