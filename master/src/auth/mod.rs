//! Who may do what.
//!
//! - [`Gate`]: every call of every service passes it ([`rules`] says who may make which), and every session goes by it for
//!   as long as it lasts ([`Watch`]).
//! - `password`: hashes. `limiter`: how often somebody may guess (pure). `first`: the first admin.
//! - `login`: whether a password is right, for gRPC and the page alike.
//! - [`audit`]: what was done, by whom, line by line.
//!
//! The auth service itself is `service/auth.rs`. It and the gate need of the rest nothing but the table of users, so that
//! they could run apart.
//!
//! What must hold: a token is good only as long as its user is there, is not disabled, and has the generation that the token
//! names; what a token allows is what both it and the user's row allow. Nothing secret leaves here but in a reply to
//! whoever it is for.

pub mod audit;
pub mod first;
pub mod limiter;
mod login;
pub mod password;
pub mod rules;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dfs_proto::ids::InodeNo;
use dfs_proto::pb;
use dfs_proto::secret::Secret;
use dfs_proto::token::{Claims, Role, Roles, TokenError, TokenKey};
use dfs_proto::token_file::bearer;
use tonic::Status;

use crate::core::id_map::IdMap;
use crate::core::row::UserRow;
use crate::runtime::Engine;
use audit::{Audit, Entry};
use limiter::Limiter;

/// How often a session looks whether its bearer may go on.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Why somebody is not let in. Nothing secret is in the words.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Refusal {
    #[error(
        "this cluster wants to know who you are; log in with 'dfs login', or name a token file with --token-file"
    )]
    NoToken,
    #[error("{0}")]
    Token(#[from] TokenError),
    #[error("user '{0}' is not there any more, or is disabled; ask an admin")]
    Gone(Box<str>),
    #[error("the tokens of user '{0}' were revoked; log in again")]
    Revoked(Box<str>),
    #[error("user '{user}' may not do that ({method}): it takes one of the roles {needed}; ask an admin")]
    NotAllowed { user: Box<str>, method: String, needed: Roles },
    #[error(
        "the directory that user '{0}' is bound to is gone; ask an admin to name another (dfs user grant {0} --dir DIR)"
    )]
    NoDirectory(Box<str>),
    #[error("user '{0}' is bound to another directory now")]
    Rebound(Box<str>),
    #[error("the ids of user '{0}' are mapped in another way now")]
    Remapped(Box<str>),
    #[error("there is no such call: {0}; see that the versions agree")]
    Unknown(String),
    #[error("the master is stopping; try again later")]
    Stopping,
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        let message = refusal.to_string();
        match refusal {
            Refusal::NoToken | Refusal::Token(_) | Refusal::Gone(_) | Refusal::Revoked(_) => {
                Status::unauthenticated(message)
            }
            Refusal::NotAllowed { .. }
            | Refusal::NoDirectory(_)
            | Refusal::Rebound(_)
            | Refusal::Remapped(_) => Status::permission_denied(message),
            Refusal::Unknown(_) => Status::unimplemented(message),
            Refusal::Stopping => Status::unavailable(message),
        }
    }
}

/// Who makes a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bearer {
    /// `None`: auth is off, or the call is for everybody.
    pub user: Option<Box<str>>,
    /// What the user may do.
    pub roles: Roles,
    /// The directory that is all that the user sees; of most, the cluster's root.
    pub root: InodeNo,
    /// How the ids of the user's machines are mapped; of most, not at all.
    pub ids: Arc<IdMap>,
    expires_s: i64,
    generation: u32,
}

impl Bearer {
    fn nobody(roles: Roles) -> Bearer {
        Bearer {
            user: None,
            roles,
            root: InodeNo::ROOT,
            ids: Arc::default(),
            expires_s: i64::MAX,
            generation: 0,
        }
    }

    /// For people and logs.
    pub fn name(&self) -> &str {
        self.user.as_deref().unwrap_or("-")
    }
}

/// Lets in or refuses. Clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    is_on: bool,
    key: TokenKey,
    lifetime: Duration,
    engine: Engine,
    audit: Audit,
    limiter: Mutex<Limiter>,
}

impl Gate {
    /// `is_on` false: everybody may do everything. Tokens live for `lifetime`.
    pub fn new(is_on: bool, key: TokenKey, lifetime: Duration, engine: Engine, audit: Audit) -> Gate {
        Gate { inner: Arc::new(Inner { is_on, key, lifetime, engine, audit, limiter: Mutex::default() }) }
    }

    /// Is anybody asked who he is?
    pub fn is_on(&self) -> bool {
        self.inner.is_on
    }

    /// Who makes this call, if he may. `header`: the call's `authorization`.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn admit(&self, method: &str, header: Option<&str>) -> Result<Bearer, Refusal> {
        if !self.is_on() {
            return Ok(Bearer::nobody(Role::ALL.into_iter().collect()));
        }
        let Some(rule) = rules::of(method) else { return Err(Refusal::Unknown(method.to_owned())) };
        let rules::Rule::Roles(needed) = rule else { return Ok(Bearer::nobody(Roles::default())) };
        let token = header.and_then(bearer).ok_or(Refusal::NoToken)?;
        let bearer = self.identify(token)?;
        if bearer.roles.has_one_of(needed) {
            return Ok(bearer);
        }
        let (user, needed) = (bearer.name().into(), needed.iter().copied().collect());
        Err(Refusal::NotAllowed { user, method: method.to_owned(), needed })
    }

    /// Whose token this is, if it is good.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn identify(&self, token: &str) -> Result<Bearer, Refusal> {
        let claims = self.inner.key.verify(token, now_s())?;
        let bearer = Bearer {
            user: Some(claims.subject.into()),
            roles: claims.roles.into_iter().collect::<Roles>().with_implied(),
            root: InodeNo::ROOT,
            ids: Arc::default(),
            expires_s: claims.expires_s,
            generation: claims.generation,
        };
        self.look_again(&bearer)
    }

    /// The bearer as things are now, if its token is still good.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn look_again(&self, bearer: &Bearer) -> Result<Bearer, Refusal> {
        let Some(user) = &bearer.user else { return Ok(bearer.clone()) };
        let ago_s = now_s().saturating_sub(bearer.expires_s);
        if ago_s >= 0 {
            return Err(TokenError::Expired { ago_s }.into());
        }
        let row = self.user(user)?.filter(|row| !row.disabled).ok_or_else(|| Refusal::Gone(user.clone()))?;
        if row.generation != bearer.generation {
            return Err(Refusal::Revoked(user.clone()));
        }
        let root = row.dir.unwrap_or(InodeNo::ROOT);
        let is_there =
            self.inner.engine.peek(|state| state.is_live_dir(root)).map_err(|_| Refusal::Stopping)?;
        if !is_there {
            return Err(Refusal::NoDirectory(user.clone()));
        }
        let roles = bearer.roles.and(row.roles.with_implied());
        Ok(Bearer { roles, root, ids: row.ids, ..bearer.clone() })
    }

    /// A user's row. It waits for nothing: a store in trouble must not keep anybody out.
    ///
    /// # Errors
    /// `Stopping`.
    pub fn user(&self, name: &str) -> Result<Option<UserRow>, Refusal> {
        self.inner.engine.peek(|state| state.user(name).cloned()).map_err(|_| Refusal::Stopping)
    }

    /// A token for a user, good for `lifetime` (`None`: the usual one), and when it ends, in seconds since 1970.
    ///
    /// # Errors
    /// No random number to be had.
    pub fn issue(
        &self,
        name: &str,
        row: &UserRow,
        lifetime: Option<Duration>,
    ) -> Result<(Secret, i64), Status> {
        let lifetime = lifetime.unwrap_or(self.inner.lifetime);
        let (issued_s, cluster) = (now_s(), self.inner.key.cluster().to_owned());
        let expires_s = issued_s.saturating_add(i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX));
        let id = getrandom::u64().map_err(no_random)?;
        let claims = Claims {
            issuer: cluster.clone(),
            subject: name.to_owned(),
            audience: cluster,
            expires_s,
            issued_s,
            id: format!("{id:016x}"),
            roles: row.roles.iter().collect(),
            generation: row.generation,
        };
        Ok((self.inner.key.sign(&claims), expires_s))
    }

    /// What this bearer did goes into the audit log.
    pub fn note(
        &self,
        event: &'static str,
        by: &Bearer,
        from: Option<SocketAddr>,
        detail: impl Into<String>,
    ) {
        self.note_as(event, by.name(), from, true, detail);
    }

    /// What somebody did, or could not.
    pub fn note_as(
        &self,
        event: &'static str,
        user: &str,
        from: Option<SocketAddr>,
        ok: bool,
        detail: impl Into<String>,
    ) {
        let from = from.map(|from| from.to_string()).unwrap_or_default();
        self.inner.audit.write(Entry { event, user: user.to_owned(), from, ok, detail: detail.into() });
    }

    /// Watches whether a session's bearer may go on.
    pub fn watch(&self, bearer: Bearer) -> Watch {
        let mut checks = tokio::time::interval(CHECK_EVERY);
        checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Watch { gate: self.clone(), roles: bearer.roles, bearer, checks }
    }
}

/// Of one session.
#[derive(Debug)]
pub struct Watch {
    gate: Gate,
    bearer: Bearer,
    /// What it may do at the moment.
    roles: Roles,
    checks: tokio::time::Interval,
}

impl Watch {
    /// Resolves, to the reason, when the bearer may not go on. May be dropped and asked anew.
    pub async fn over(&mut self) -> Refusal {
        if self.bearer.user.is_none() {
            return std::future::pending().await;
        }
        loop {
            self.checks.tick().await;
            match self.gate.look_again(&self.bearer) {
                Ok(now) if now.roles.is_empty() => return self.not_allowed(now),
                Ok(now) if !self.sees_as(&now) => return self.rebound(&now),
                // Never more than the token: a later look may find the user with more again.
                Ok(now) => self.roles = now.roles,
                Err(refusal) => return refusal,
            }
        }
    }

    /// What the session may name, and as whom, hangs on it.
    fn sees_as(&self, now: &Bearer) -> bool {
        now.root == self.bearer.root && now.ids == self.bearer.ids
    }

    fn rebound(&self, now: &Bearer) -> Refusal {
        let user = self.bearer.name().into();
        if now.root == self.bearer.root { Refusal::Remapped(user) } else { Refusal::Rebound(user) }
    }

    fn not_allowed(&self, bearer: Bearer) -> Refusal {
        let (user, method) = (bearer.name().into(), "session".to_owned());
        Refusal::NotAllowed { user, method, needed: self.bearer.roles }
    }

    /// The session goes on with this token.
    ///
    /// # Errors
    /// [`Refusal`]: it is not good, or is of a user who may have no such session.
    pub fn take(&mut self, token: &str) -> Result<(), Refusal> {
        if self.bearer.user.is_none() {
            return Ok(());
        }
        let next = self.gate.identify(token)?;
        if !next.roles.has_one_of(rules::MOUNTS) {
            return Err(self.not_allowed(next));
        }
        if !self.sees_as(&next) {
            return Err(self.rebound(&next));
        }
        self.roles = next.roles;
        self.bearer = next;
        Ok(())
    }

    /// For people and logs.
    pub fn name(&self) -> &str {
        self.bearer.name()
    }

    /// The directory that is all that the session sees.
    pub fn root(&self) -> InodeNo {
        self.bearer.root
    }

    /// How the ids of the session's machine are mapped.
    pub fn ids(&self) -> Arc<IdMap> {
        self.bearer.ids.clone()
    }

    /// May it not change anything?
    pub fn is_read_only(&self) -> bool {
        !self.roles.has(Role::Rw)
    }
}

fn now_s() -> i64 {
    pb::Time::now().sec
}

/// The error when the system has no random numbers.
pub(crate) fn no_random(error: getrandom::Error) -> Status {
    Status::internal(format!("no random numbers from the system: {error}; check that /dev/urandom works"))
}

#[cfg(test)]
mod tests;
