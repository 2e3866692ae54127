//! Tickets: the master's signed permission for one transfer.
//!
//! A ticket is an encoded [`pb::Ticket`], and for each keeper that it names a MAC with that keeper's
//! own key. A keeper can so check what the master said, and forge nothing that another keeper would
//! believe. Keys are derived from one secret of the master: HMAC-SHA256(secret, keeper id), so that
//! nothing but the secret is stored. HMAC is RFC 2104; the MAC is its first 16 bytes.

use bytes::Bytes;
use hmac::{Hmac, Mac};
use prost::Message;
use sha2::Sha256;

use crate::error::{DfsError, ErrorCode};
use crate::ids::{ChunkId, ClusterId, KeeperId};
use crate::pb;

/// Bytes of a MAC on the wire.
pub const MAC_LEN: usize = 16;

/// The largest encoded ticket that is looked at.
pub const MAX_TICKET_LEN: usize = 1024;

/// How long a client may begin an upload, or a keeper a copy.
pub const WRITE_LIFETIME_MS: i64 = 60_000;

/// What one keeper checks tickets with. Never logged: its `Debug` is empty.
#[derive(Clone)]
pub struct TicketKey([u8; 32]);

impl std::fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TicketKey(..)")
    }
}

fn hmac_sha256(key: &[u8]) -> Hmac<Sha256> {
    match Hmac::<Sha256>::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes a key of any length"),
    }
}

impl TicketKey {
    /// The key of `keeper`, derived from the master's secret.
    pub fn derive(secret: &[u8; 32], keeper: KeeperId) -> TicketKey {
        let mut mac = hmac_sha256(secret);
        mac.update(b"dfs ticket key");
        mac.update(&keeper.0.to_le_bytes());
        TicketKey(mac.finalize().into_bytes().into())
    }

    /// From the 32 bytes of a welcome; `None` for any other length.
    pub fn from_bytes(bytes: &[u8]) -> Option<TicketKey> {
        bytes.try_into().ok().map(TicketKey)
    }

    /// For the welcome, and for nothing else.
    pub fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }

    /// Signs an encoded ticket for the keeper whose key this is.
    pub fn sign(&self, ticket: &[u8]) -> Bytes {
        let mut mac = hmac_sha256(&self.0);
        mac.update(ticket);
        Bytes::copy_from_slice(&mac.finalize().into_bytes()[..MAC_LEN])
    }

    fn signed(&self, ticket: &[u8], mac: &[u8]) -> bool {
        let mut expected = hmac_sha256(&self.0);
        expected.update(ticket);
        mac.len() == MAC_LEN && expected.verify_truncated_left(mac).is_ok()
    }
}

/// What a keeper knows of itself when it checks a ticket.
#[derive(Clone, Debug)]
pub struct TicketChecker {
    /// The keeper's own key.
    pub key: TicketKey,
    /// The keeper's cluster.
    pub cluster: ClusterId,
    /// The keeper.
    pub keeper: KeeperId,
}

impl TicketChecker {
    /// Checks signature, cluster, keeper, operation and expiry, and returns what is allowed.
    ///
    /// `now_ms` is the master's clock in milliseconds since 1970, as the keeper knows it.
    ///
    /// # Errors
    /// `TicketForged`, `TicketWrong` or `TicketExpired`, with a message that names the reason.
    pub fn check(
        &self,
        ticket: &[u8],
        mac: &[u8],
        ops: &[pb::TicketOp],
        now_ms: i64,
    ) -> Result<pb::Ticket, DfsError> {
        if ticket.len() > MAX_TICKET_LEN || !self.key.signed(ticket, mac) {
            return Err(DfsError::new(
                ErrorCode::TicketForged,
                format!("ticket refused by keeper {}: not signed by this cluster's master", self.keeper),
            ));
        }
        let wrong = |why: &str| {
            DfsError::new(ErrorCode::TicketWrong, format!("ticket refused by keeper {}: {why}", self.keeper))
        };
        let body = pb::Ticket::decode(ticket).map_err(|_| wrong("it cannot be decoded"))?;
        if body.cluster != self.cluster.short() {
            return Err(wrong("it is for another cluster"));
        }
        if !body.keepers.contains(&self.keeper.0) {
            return Err(wrong("it names other keepers"));
        }
        if !ops.contains(&body.op()) {
            return Err(wrong("it allows another operation"));
        }
        if body.expires_ms < now_ms {
            return Err(DfsError::new(
                ErrorCode::TicketExpired,
                format!(
                    "ticket for chunk {} refused by keeper {}: it expired {} ms ago; ask the master for a new one",
                    ChunkId(body.chunk),
                    self.keeper,
                    now_ms.saturating_sub(body.expires_ms)
                ),
            ));
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checker() -> TicketChecker {
        TicketChecker {
            key: TicketKey::derive(&[9; 32], KeeperId(3)),
            cluster: ClusterId([5; 16]),
            keeper: KeeperId(3),
        }
    }

    fn ticket() -> pb::Ticket {
        pb::Ticket {
            cluster: ClusterId([5; 16]).short(),
            chunk: 77,
            op: pb::TicketOp::Read as i32,
            keepers: vec![2, 3],
            max_length: 10,
            expires_ms: 1_000,
            nonce: 1,
        }
    }

    fn check(body: &pb::Ticket, key: &TicketKey) -> Result<pb::Ticket, ErrorCode> {
        let bytes = body.encode_to_vec();
        checker().check(&bytes, &key.sign(&bytes), &[pb::TicketOp::Read], 500).map_err(|e| e.code)
    }

    #[test]
    fn a_good_ticket_passes() {
        assert_eq!(check(&ticket(), &checker().key), Ok(ticket()));
    }

    #[test]
    fn every_lie_is_refused() {
        let key = checker().key;
        let with = |change: fn(&mut pb::Ticket)| {
            let mut body = ticket();
            change(&mut body);
            check(&body, &key)
        };
        assert_eq!(with(|t| t.cluster = 1), Err(ErrorCode::TicketWrong));
        assert_eq!(with(|t| t.keepers = vec![2]), Err(ErrorCode::TicketWrong));
        assert_eq!(with(|t| t.op = pb::TicketOp::Write as i32), Err(ErrorCode::TicketWrong));
        assert_eq!(with(|t| t.expires_ms = 499), Err(ErrorCode::TicketExpired));
        assert_eq!(check(&ticket(), &TicketKey::derive(&[9; 32], KeeperId(2))), Err(ErrorCode::TicketForged));
    }

    #[test]
    fn an_extreme_expiry_is_only_an_expiry() {
        let key = checker().key;
        let at = |expires_ms| check(&pb::Ticket { expires_ms, ..ticket() }, &key).map(|_| ());
        assert_eq!(at(i64::MIN), Err(ErrorCode::TicketExpired));
        assert_eq!(at(i64::MAX), Ok(()));
    }

    #[test]
    fn an_altered_ticket_or_mac_is_forged() {
        let bytes = ticket().encode_to_vec();
        let mac = checker().key.sign(&bytes);
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            let refused = checker().check(&altered, &mac, &[pb::TicketOp::Read], 500).map_err(|e| e.code);
            assert_eq!(refused, Err(ErrorCode::TicketForged));
        }
        for short in 0..MAC_LEN {
            assert!(checker().check(&bytes, &mac[..short], &[pb::TicketOp::Read], 500).is_err());
        }
    }

    #[test]
    fn a_key_does_not_show_itself() {
        assert_eq!(format!("{:?}", checker().key), "TicketKey(..)");
    }
}
