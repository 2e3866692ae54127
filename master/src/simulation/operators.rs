//! What operators do meanwhile: quotas, the trash, duties of keepers, rebalancing, fsck.

use bytes::Bytes;
use dfs_proto::ids::{InodeNo, KeeperId};
use dfs_proto::pb;

use super::Bug;
use super::world::World;
use crate::core::Command;
use crate::core::duty::Duty;
use crate::core::operator::Operation;
use crate::core::row::QuotaRow;
use crate::core::trash::TrashOperation;

impl World {
    pub fn an_operator_acts(&mut self) {
        // They wait as changes of mounts do.
        if self.awaits_mounts() {
            return;
        }
        let operation = match self.rng.below(100) {
            _ if self.bug == Some(Bug::ForgetsTooEarly) => self.some_duty(),
            _ if self.bug == Some(Bug::ExceedsQuotas) => self.some_quota(),
            0..35 => self.some_quota(),
            35..60 => self.some_trash(),
            60..86 => self.some_duty(),
            86..94 => Operation::Rebalance { run: self.rng.percent(80) },
            _ => Operation::Fsck { repair: self.rng.percent(60) },
        };
        self.submit(Command::Operator(operation));
    }

    /// It is calm: some drains are given up.
    pub fn operators_rest(&mut self) {
        let draining: Vec<u64> =
            self.master.rows.keepers().filter(|(_, row)| row.draining).map(|(id, _)| id).collect();
        for keeper in draining {
            if self.rng.percent(50) {
                let duty = Operation::Duty { keeper: KeeperId(keeper).to_string(), duty: Duty::CancelDrain };
                self.submit(Command::Operator(duty));
            }
        }
    }

    /// Sets one, or takes it away.
    fn some_quota(&mut self) -> Operation {
        let path = match self.rng.below(3) {
            0 => Bytes::from_static(b"/"),
            n => Bytes::from(format!("/d{}", n - 1)),
        };
        let max_bytes = self.rng.percent(50).then(|| 50 + self.rng.below(6_000) as u64);
        let max_inodes = Some(3 + self.rng.below(30) as u64);
        let limits = self.rng.percent(60).then_some(QuotaRow { max_bytes, max_inodes });
        Operation::Quota { path, limits }
    }

    fn some_trash(&mut self) -> Operation {
        let entries: Vec<InodeNo> = self.master.rows.trash().map(|(inode, _)| InodeNo(inode)).collect();
        let entry = self.rng.pick(&entries).unwrap_or(InodeNo(2));
        let to = match self.rng.below(3) {
            0 => Bytes::new(),
            n => Bytes::from(format!("/f{n}")),
        };
        Operation::Trash(match self.rng.below(10) {
            0 => TrashOperation::Purge(None),
            1..4 => TrashOperation::Purge(Some(entry)),
            _ => TrashOperation::Restore { entry, to },
        })
    }

    fn some_duty(&mut self) -> Operation {
        let of = |draining: bool| {
            let rows = self.master.rows.keepers().filter(move |(_, row)| row.draining || !draining);
            rows.map(|(id, _)| id).collect::<Vec<_>>()
        };
        let (all, draining) = (of(false), of(true));
        let keeper = self.rng.pick(&all).unwrap_or(1);
        let drained = self.rng.pick(&draining).unwrap_or(keeper);
        let (keeper, duty) = match self.rng.below(100) {
            0..35 => (keeper, Duty::Drain),
            35..50 => (drained, Duty::CancelDrain),
            50..65 => {
                let for_ms = self.rng.below(15_000) as u64;
                (keeper, Duty::Maintenance { for_ms: if for_ms < 3_000 { 0 } else { for_ms } })
            }
            65..90 => (drained, Duty::Forget),
            _ => (keeper, Duty::Forget),
        };
        Operation::Duty { keeper: KeeperId(keeper).to_string(), duty }
    }

    /// With a bug: what the core is told instead.
    pub fn mistold(&self, command: Command) -> Command {
        match command {
            Command::Operator(Operation::Quota { path, limits: Some(limits) })
                if self.bug == Some(Bug::ExceedsQuotas) =>
            {
                let more = |limit: Option<u64>| limit.map(|limit| limit * 10);
                let limits =
                    QuotaRow { max_bytes: more(limits.max_bytes), max_inodes: more(limits.max_inodes) };
                Command::Operator(Operation::Quota { path, limits: Some(limits) })
            }
            same => same,
        }
    }

    /// The master has forgotten this keeper. It ends; what it has is nobody's.
    pub fn keeper_refused(&mut self, at: usize, error: &pb::Error) {
        if error.code == pb::Code::NotFound as i32 {
            self.keeper_dies(at, false, 1);
            self.keepers[at].gone = true;
            self.keepers[at].disk.clear();
        }
    }
}
