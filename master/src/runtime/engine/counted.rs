//! Requests are counted, and how long they take, until their replies leave.
//!
//! What must hold: this costs a request two looks at the clock and a few additions. A request whose reply waits in a batch has
//! a place in a queue until then, which is as bounded as the commands that may wait are.

use std::collections::VecDeque;
use std::time::Instant;

use dfs_observe::metrics::{Label, Page};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{OperationNo, SessionId};
use dfs_proto::pb::{self, mount_down, mount_reply};

use super::{Engine, Inner, MAX_QUEUED_COMMANDS, Shared, Stopped};
use crate::core::{Command, Effect, Now as Time, State};
use crate::metrics::{self, Metrics, Now, Op};

/// One request that has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    op: Op,
    session: SessionId,
    id: u64,
    operation: OperationNo,
    came: Instant,
    /// Of an error.
    code: Option<i32>,
}

impl Counted {
    pub fn request(session: SessionId, request: &pb::MountRequest) -> Option<Counted> {
        let (op, operation) = (metrics::op(request.op.as_ref()), OperationNo(request.operation));
        Some(Counted { op, session, id: request.id, operation, came: Instant::now(), code: None })
    }

    /// It was answered with an error before it was looked at.
    pub fn refused(mut self, metrics: &Metrics, code: i32) {
        self.code = Some(code);
        metrics.failed(self.op, code);
        self.over(metrics);
    }

    /// What came of it.
    pub fn applied(&mut self, metrics: &Metrics, effects: &[Effect]) {
        for effect in effects {
            if let Effect::ToMount(_, mount_down::Msg::Reply(reply)) = effect
                && reply.id == self.id
                && let Some(mount_reply::Result::Error(error)) = &reply.result
            {
                self.code = Some(error.code);
                metrics.failed(self.op, error.code);
            }
        }
    }

    /// Its reply leaves.
    pub fn over(self, metrics: &Metrics) {
        let took = self.came.elapsed();
        metrics.requests.done(self.op, took);
        let Counted { op, session, id, operation, code, .. } = self;
        let error = code.map(ErrorCode::from_wire);
        let took_us = took.as_micros();
        tracing::debug!(target: "dfs::requests", %operation, %session, request = id, op = op.name(), took_us, ?error, "answered");
    }
}

/// Requests whose replies wait in a batch, in the order in which they were applied.
#[derive(Debug, Default)]
pub(super) struct Waiting(VecDeque<(u64, Counted)>);

impl Waiting {
    pub fn push(&mut self, batch: u64, counted: Counted) {
        self.0.push_back((batch, counted));
    }
}

impl Inner {
    /// A batch became durable.
    pub(in crate::runtime) fn count_replies(&mut self, shared: &Shared) {
        while let Some((batch, counted)) = self.waiting.0.front()
            && *batch <= self.group.durable()
        {
            counted.over(&shared.metrics);
            self.waiting.0.pop_front();
        }
    }
}

impl Engine {
    pub(super) async fn run_counted(
        &self,
        condition: impl FnOnce(&mut Inner) -> bool,
        command: Command,
        counted: Option<Counted>,
    ) -> Result<(), Stopped> {
        let permit = self.shared.room.acquire().await.map_err(|_| Stopped)?;
        let mut inner = self.shared.lock()?;
        if condition(&mut inner) && self.shared.submit(&mut inner, command, counted) {
            permit.forget();
        }
        Ok(())
    }

    /// Looks at the state at once. What is seen may not be durable yet: this is for figures, on which no program acts.
    ///
    /// # Errors
    /// [`Stopped`].
    pub(crate) fn look<T>(&self, look: impl FnOnce(&State, Time) -> T) -> Result<T, Stopped> {
        let mut inner = self.shared.lock()?;
        let now = inner.clock.now();
        Ok(look(&inner.state, now))
    }

    /// The figures of this moment. `None`: the engine has stopped.
    pub(crate) fn now(&self) -> Option<Now> {
        let mut inner = self.shared.lock().ok()?;
        let time = inner.clock.now();
        Some(Now {
            figures: inner.state.figures(time),
            store_fails: inner.trouble.is_some(),
            queued_commands: MAX_QUEUED_COMMANDS.saturating_sub(self.shared.room.available_permits()),
            longest_outbox: inner.mounts.longest().max(inner.keepers.longest()),
        })
    }

    /// Writes what Prometheus is to see.
    pub fn write_metrics(&self, page: &mut Page) {
        if let Some(now) = self.now() {
            self.shared.metrics.write(&now, page);
        }
    }

    /// Whether changes are taken now.
    ///
    /// # Errors
    /// Why not.
    pub fn is_ready(&self) -> Result<(), String> {
        let inner = self.shared.lock().map_err(|stopped| stopped.to_string())?;
        match &inner.trouble {
            Some(trouble) => Err(trouble.message.clone()),
            None => Ok(()),
        }
    }
}
