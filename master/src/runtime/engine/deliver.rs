//! What commands come to goes into the queues of connections.

use dfs_proto::ids::KeeperId;
use dfs_proto::pb::{keeper_down, mount_down};

use super::Inner;
use crate::core::Effect;

impl Inner {
    /// Effects leave in this order.
    pub(in crate::runtime) fn deliver(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::ToMount(session, welcome @ mount_down::Msg::Welcome(_)) => {
                    self.mounts.welcome(session, welcome);
                }
                Effect::ToMount(session, message) => self.mounts.send(session, message),
                Effect::CloseMount(session) => {
                    tracing::warn!(%session, "this mount does not say that it forgot what others changed; its stream is closed, so that it trusts nothing");
                    self.mounts.close(session);
                }
                Effect::ToKeeper(keeper, welcome @ keeper_down::Msg::Welcome(_)) => {
                    self.keepers.welcome(keeper, welcome);
                }
                Effect::ToKeeper(keeper, message) => self.send_to_keeper(keeper, message),
                Effect::MountAnswer(_) | Effect::KeeperAnswer(_) | Effect::OperatorAnswer(_) => {
                    tracing::error!("the core answered a hello that nobody sent; the answer is dropped");
                }
            }
        }
    }

    fn send_to_keeper(&mut self, keeper: KeeperId, message: keeper_down::Msg) {
        if !self.keepers.is_connected(keeper) {
            return self.deletions.forget(keeper);
        }
        for message in self.deletions.pass(keeper, message) {
            self.keepers.send(keeper, message);
        }
    }
}
