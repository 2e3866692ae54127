//! A session's token is renewed when half of its time is over, and told to the master on the stream. Whoever logs in anew
//! needs to tell nobody: the file is read again, too. A session that the master does not let in any more is barred: nobody waits for it.

use std::sync::Arc;
use std::time::Duration;

use dfs_proto::error::DfsError;
use dfs_proto::pb;
use dfs_proto::pb::auth_service_client::AuthServiceClient;
use dfs_proto::secret::Secret;
use dfs_proto::token::unchecked_claims;
use dfs_tls::Connector;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use super::session::Shared;
use super::tokens::Tokens;
use super::{Master, channel};
use crate::lock::lock;

/// For one call.
const WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at the file, at most.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// After a failure.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

impl Shared {
    /// What encrypts connections to keepers, where that is wanted.
    pub(super) fn to_keepers(&self) -> Option<Connector> {
        self.config.tls.as_ref().map(|tls| tls.to_keepers.clone())
    }

    pub(super) fn tokens(&self) -> &Arc<Tokens> {
        &self.config.tokens
    }

    /// The master is told of a newer token.
    pub(super) fn tell_token(&self, token: &Secret) {
        *lock(&self.new_token) = Some(token.clone());
        self.wake.notify_one();
    }

    pub(super) async fn is_closed(&self) {
        // The sender lives in `self`, so that this cannot fail.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// The master does not let us in. Nobody has to wait for that to change.
    pub(super) fn bar(&self, error: &DfsError) {
        if lock(&self.barred).replace(error.clone()).is_none() {
            tracing::error!(master = %self.config.master, "the master does not let this mount in any more, until somebody logs in: {error}");
        }
        self.requests().fail_waiting(error);
        self.uploads().fail_all("the master does not let this mount in");
    }
}

/// Until the session is closed.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut told = None;
    loop {
        let pause = step(&shared, &mut told).await.unwrap_or_else(|error| {
            tracing::debug!("the token is not renewed yet: {error}");
            AGAIN_AFTER
        });
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.is_closed() => return,
        }
    }
}

/// How long to wait for the next.
async fn step(shared: &Shared, told: &mut Option<Secret>) -> Result<Duration, DfsError> {
    let Some(token) = shared.tokens().current().await? else { return Ok(LOOK_EVERY) };
    // What is no token the master will say.
    let Ok(claims) = unchecked_claims(token.expose()) else { return Ok(LOOK_EVERY) };
    let left_s = claims.expires_s.saturating_sub(shared.now().sec);
    let half_s = claims.expires_s.saturating_sub(claims.issued_s) / 2;
    if told.as_ref() != Some(&token) && left_s > 0 {
        shared.tell_token(&token);
        *told = Some(token);
    }
    if left_s > half_s {
        return Ok(Duration::from_secs((left_s - half_s).unsigned_abs()).min(LOOK_EVERY));
    }
    if left_s <= 0 {
        return Ok(AGAIN_AFTER);
    }
    let token = renew(&shared.config.as_master()).await?;
    shared.tokens().put(&token).await;
    shared.tell_token(&token);
    *told = Some(token);
    Ok(AGAIN_AFTER)
}

/// Renews the token now, if half of its time is over. What goes wrong is left to the call that needs it.
pub(crate) async fn if_due(master: &Master) {
    let tokens = &master.tokens;
    let Ok(Some(token)) = tokens.current().await else { return };
    let Ok(claims) = unchecked_claims(token.expose()) else { return };
    let (now_s, half_s) = (pb::Time::now().sec, claims.expires_s.saturating_sub(claims.issued_s) / 2);
    if claims.expires_s > now_s && claims.expires_s - now_s <= half_s {
        match renew(master).await {
            Ok(token) => tokens.put(&token).await,
            Err(error) => tracing::debug!("the token is not renewed: {error}"),
        }
    }
}

async fn renew(master: &Master) -> Result<Secret, DfsError> {
    let mut client = connect(master).await?;
    let reply = channel::within(&master.address, WITHIN, client.renew(pb::RenewRequest {})).await?;
    Ok(Secret::new(reply.into_inner().token))
}

/// A client of the auth service that says who it is.
pub(super) async fn connect(
    master: &Master,
) -> Result<AuthServiceClient<InterceptedService<Channel, super::tokens::Carrier>>, DfsError> {
    let carrier = master.tokens.carrier().await?;
    let channel = channel::open(&master.address, master.tls.as_ref(), WITHIN).await?;
    Ok(AuthServiceClient::with_interceptor(channel, carrier))
}
