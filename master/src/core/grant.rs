//! Tickets, signed for the keepers that they name.

use dfs_proto::ids::{ChunkId, KeeperId};
use dfs_proto::pb;
use prost::Message;

use super::State;

pub(super) use dfs_proto::ticket::WRITE_LIFETIME_MS;

/// How long a layout may be read with.
pub(super) const READ_LIFETIME_MS: i64 = 600_000;

impl State {
    /// A ticket for these keepers, in this order. Those that are not known are left out.
    pub(super) fn grant(
        &mut self,
        chunk: ChunkId,
        op: pb::TicketOp,
        keepers: &[KeeperId],
        max_length: u32,
        expires_ms: i64,
    ) -> pb::Grant {
        self.next_nonce = self.next_nonce.wrapping_add(1);
        let ticket = pb::Ticket {
            cluster: self.settings.cluster.short(),
            chunk: chunk.0,
            op: op as i32,
            keepers: keepers.iter().map(|keeper| keeper.0).collect(),
            max_length,
            expires_ms,
            nonce: self.next_nonce,
        };
        let ticket: bytes::Bytes = ticket.encode_to_vec().into();
        let keepers = keepers
            .iter()
            .filter_map(|id| self.keepers.get(id).map(|keeper| (id, keeper)))
            .map(|(id, keeper)| pb::KeeperGrant {
                keeper: id.0,
                address: keeper.row.address.clone(),
                mac: keeper.key.sign(&ticket),
                tls: keeper.data_tls,
            })
            .collect();
        pb::Grant { ticket, keepers }
    }
}
