//! What operators have the master do. Each command has one answer.

use bytes::Bytes;
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::KeeperId;
use dfs_proto::pb::{self, keeper_down};

use super::State;
use super::command::Effect;
use super::duty::Duty;
use super::out::{Out, Res, fail};
use super::row::{QuotaRow, UserRow};
use super::trash::TrashOperation;
use super::users::UserChange;

/// A command of an operator.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Sets a directory's quota, or takes it away.
    Quota {
        /// Absolute.
        path: Bytes,
        /// The limits that change; `None`: the quota goes.
        limits: Option<QuotaRow>,
    },
    /// Has keepers read all that they have.
    Scrub {
        /// None: every live one.
        keepers: Vec<KeeperId>,
    },
    /// Sets the table against what keepers have.
    Fsck {
        /// And mends what can be mended.
        repair: bool,
    },
    /// Changes the trash.
    Trash(TrashOperation),
    /// Orders something of a keeper.
    Duty {
        /// Its id or address, as typed.
        keeper: String,
        /// What.
        duty: Duty,
    },
    /// Changes a user.
    User {
        /// As typed.
        name: String,
        /// What.
        change: UserChange,
    },
    /// Starts or stops rebalancing.
    Rebalance {
        /// Start.
        run: bool,
    },
}

/// What an operator's command was answered with.
#[derive(Clone, PartialEq, Debug)]
pub enum OperatorReply {
    /// To [`Operation::Quota`].
    Quotas(pb::QuotaList),
    /// To [`Operation::Scrub`].
    Scrub(pb::ScrubStarted),
    /// To [`Operation::Fsck`].
    Fsck(pb::FsckStarted),
    /// To [`Operation::Trash`].
    Trash(pb::TrashList),
    /// To [`Operation::Duty`]: the keeper as it is now; after [`Duty::Forget`], as it was.
    Keeper(Box<pb::KeeperRow>),
    /// To [`Operation::User`]: the user as it is now; after [`UserChange::Remove`], as it was.
    User(UserRow),
    /// To [`Operation::Rebalance`].
    Rebalance(pb::RebalanceStatus),
}

impl State {
    pub(super) fn operate(&mut self, operation: Operation, out: &mut Out) {
        let answer = match operation {
            Operation::Quota { path, limits } => {
                self.change_quota(&path, limits, out).map(OperatorReply::Quotas)
            }
            Operation::Scrub { keepers } => self.start_scrub(&keepers, out).map(OperatorReply::Scrub),
            Operation::Fsck { repair } => self.start_fsck(repair, out).map(OperatorReply::Fsck),
            Operation::Trash(operation) => self.change_trash(&operation, out).map(OperatorReply::Trash),
            Operation::Duty { keeper, duty } => {
                self.change_duty(&keeper, duty, out).map(|row| OperatorReply::Keeper(Box::new(row)))
            }
            Operation::User { name, change } => self.change_user(&name, change, out).map(OperatorReply::User),
            Operation::Rebalance { run } => {
                self.change_rebalance(run);
                Ok(OperatorReply::Rebalance(self.rebalance_status()))
            }
        };
        out.answer(Effect::OperatorAnswer(answer));
    }

    fn start_scrub(&mut self, keepers: &[KeeperId], out: &mut Out) -> Res<pb::ScrubStarted> {
        let able = |id: &KeeperId| self.keepers.get(id).is_some_and(|k| k.alive && k.connected);
        if let Some(unable) = keepers.iter().find(|id| !able(id)) {
            return Err(self.not_at_hand(*unable));
        }
        let keepers: Vec<KeeperId> = match keepers {
            [] => self.keepers.keys().copied().filter(able).collect(),
            named => named.to_vec(),
        };
        if keepers.is_empty() {
            return fail(ErrorCode::NoKeeper, "no keeper is live: start one, or see why they are gone");
        }
        // Another than that of any earlier scrub, also of an earlier master.
        self.last_scrub = u64::try_from(out.now_ms).unwrap_or(0).max(self.last_scrub + 1);
        let number = self.last_scrub;
        for keeper in &keepers {
            out.for_keeper(*keeper, keeper_down::Msg::Scrub(pb::StartScrub { number }));
        }
        Ok(pb::ScrubStarted { number, keepers: keepers.iter().map(|id| id.0).collect() })
    }

    /// Why this keeper can be given no order.
    fn not_at_hand(&self, keeper: KeeperId) -> DfsError {
        if self.keepers.contains_key(&keeper) {
            let message = format!("keeper {keeper} is not live; start it, or leave it out");
            return DfsError::new(ErrorCode::Unavailable, message);
        }
        let message = format!("there is no keeper {keeper}; dfs keepers lists them");
        DfsError::new(ErrorCode::NotFound, message)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::Kit;
    use super::*;

    fn scrub(kit: &mut Kit, keepers: &[u64]) -> Result<pb::ScrubStarted, DfsError> {
        let keepers = keepers.iter().map(|id| KeeperId(*id)).collect();
        match kit.operate(Operation::Scrub { keepers })? {
            OperatorReply::Scrub(started) => Ok(started),
            other => panic!("{other:?}"),
        }
    }

    fn was_ordered(kit: &Kit, keeper: u64, number: u64) -> bool {
        let order = keeper_down::Msg::Scrub(pb::StartScrub { number });
        kit.sent.contains(&Effect::ToKeeper(KeeperId(keeper), order))
    }

    #[test]
    fn a_scrub_goes_to_those_who_live_and_each_has_a_number_of_its_own() {
        let mut kit = Kit::with_keepers(3);
        kit.kill(KeeperId(2));
        let all = scrub(&mut kit, &[]).unwrap();
        assert_eq!(all.keepers, [1, 3]);
        let one = scrub(&mut kit, &[3]).unwrap();
        assert!(one.number > all.number && one.keepers == [3]);
        assert!(was_ordered(&kit, 1, all.number) && was_ordered(&kit, 3, one.number));
        assert!(!was_ordered(&kit, 1, one.number) && !was_ordered(&kit, 2, all.number));
    }

    #[test]
    fn a_keeper_that_cannot_scrub_is_named() {
        let mut kit = Kit::with_keepers(2);
        kit.kill(KeeperId(2));
        assert_eq!(scrub(&mut kit, &[1, 2]).unwrap_err().code, ErrorCode::Unavailable);
        assert_eq!(scrub(&mut kit, &[9]).unwrap_err().code, ErrorCode::NotFound);
        kit.kill(KeeperId(1));
        assert_eq!(scrub(&mut kit, &[]).unwrap_err().code, ErrorCode::NoKeeper);
    }
}
