//! Connections come and go: sessions are opened, taken over and ended.

use std::sync::Arc;
use std::time::Duration;

use dfs_proto::ids::{InodeNo, KeeperId, SessionId};
use dfs_proto::pb::{self, keeper_down, mount_down};
use tokio::sync::mpsc;

use super::{Engine, Link, Stopped};
use crate::core::id_map::IdMap;
use crate::core::{Command, Effect};

/// For so long a mount's welcome waits until the mount's row is durable.
const ENROLLED_WITHIN: Duration = Duration::from_millis(500);

impl Engine {
    /// Opens, or takes over, a mount's session. Messages to the mount go to `outbox`, the welcome first.
    /// The inner error is the core's refusal, to be sent to the mount. `root`: the directory that its user is bound to, or the
    /// cluster's; `ids`: how the user's ids are mapped.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn connect_mount(
        &self,
        hello: pb::MountHello,
        (root, ids): (InodeNo, Arc<IdMap>),
        outbox: mpsc::Sender<mount_down::Msg>,
    ) -> Result<Result<Link<SessionId>, pb::Error>, Stopped> {
        let fresh = SessionId(random_id()?);
        self.enroll(if hello.session == 0 { fresh } else { SessionId(hello.session) }).await?;
        self.run(|inner| {
            let mut applied = inner.apply(Command::MountHello { fresh, root, ids, hello });
            self.shared.quiet.note(&inner.state);
            let answer = applied.effects.iter().position(|e| matches!(e, Effect::MountAnswer(_)));
            let welcome = match answer.map(|at| applied.effects.remove(at)) {
                Some(Effect::MountAnswer(mount_down::Msg::Welcome(welcome))) => welcome,
                Some(Effect::MountAnswer(mount_down::Msg::Refused(error))) => return (applied, Err(error)),
                _ => return (applied, Err(no_answer())),
            };
            let peer = SessionId(welcome.session);
            let connection = inner.next_connection();
            let closed = inner.mounts.connect(peer, connection, outbox);
            // Nothing that it says can be taken back by a crash, so it waits for nothing. What else the hello did may have to.
            inner.mounts.welcome(peer, mount_down::Msg::Welcome(welcome));
            (applied, Ok(Link { peer, closed, connection }))
        })
        .await
    }

    /// Puts a session on the roll. Returns when that is durable; while the store takes nothing at once, and soon when it hangs:
    /// see `core/roll.rs` for why that is right.
    async fn enroll(&self, session: SessionId) -> Result<(), Stopped> {
        let permit = self.shared.room.acquire().await.map_err(|_| Stopped)?;
        let need = {
            let mut inner = self.shared.lock()?;
            if self.shared.submit(&mut inner, Command::Enroll(session), None) {
                permit.forget();
            }
            self.shared.hurry(&mut inner);
            inner.group.newest_batch()
        };
        let mut durable = self.shared.durable.subscribe();
        let mut in_trouble = self.shared.in_trouble.subscribe();
        tokio::select! {
            _ = durable.wait_for(|&no| no >= need) => return Ok(()),
            _ = in_trouble.wait_for(|&there| there) => {}
            () = tokio::time::sleep(ENROLLED_WITHIN) => {}
        }
        tracing::warn!("mount {session} is let in although the store has not taken its row yet");
        Ok(())
    }

    /// As [`Engine::connect_mount`], for a keeper whose cluster and version have been checked.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn connect_keeper(
        &self,
        hello: pb::KeeperHello,
        outbox: mpsc::Sender<keeper_down::Msg>,
    ) -> Result<Result<Link<KeeperId>, pb::Error>, Stopped> {
        self.run(|inner| {
            let mut applied = inner.apply(Command::KeeperHello(hello));
            let answer = applied.effects.iter().position(|e| matches!(e, Effect::KeeperAnswer(_)));
            let answer = answer.map(|at| (at, applied.effects.remove(at)));
            let (at, welcome) = match answer {
                Some((at, Effect::KeeperAnswer(keeper_down::Msg::Welcome(welcome)))) => (at, welcome),
                Some((_, Effect::KeeperAnswer(keeper_down::Msg::Refused(error)))) => {
                    return (applied, Err(error));
                }
                _ => return (applied, Err(no_answer())),
            };
            let peer = KeeperId(welcome.keeper);
            applied.effects.insert(at, Effect::ToKeeper(peer, keeper_down::Msg::Welcome(welcome)));
            let connection = inner.next_connection();
            let closed = inner.keepers.connect(peer, connection, outbox);
            (applied, Ok(Link { peer, closed, connection }))
        })
        .await
    }

    /// A mount's connection has ended, `clean` if the mount ended it. If no other has taken over, the session is gone.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn disconnect_mount(&self, link: Link<SessionId>, clean: bool) -> Result<(), Stopped> {
        let (session, connection) = (link.peer, link.connection);
        let command = Command::MountGone { session, clean };
        self.run_if(|inner| inner.mounts.disconnect(session, connection), command).await
    }

    /// As [`Engine::disconnect_mount`], for a keeper.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn disconnect_keeper(&self, link: Link<KeeperId>) -> Result<(), Stopped> {
        let (keeper, connection) = (link.peer, link.connection);
        self.run_if(|inner| inner.keepers.disconnect(keeper, connection), Command::KeeperGone(keeper)).await
    }
}

fn random_id() -> Result<u64, Stopped> {
    match getrandom::u64() {
        Ok(id) => Ok(id.max(1)),
        Err(error) => {
            tracing::error!("no random numbers from the system: {error}");
            Err(Stopped)
        }
    }
}

pub(super) fn no_answer() -> pb::Error {
    pb::Error { code: pb::Code::Io as i32, message: "the master did not answer the hello (a bug)".to_owned() }
}
