//! The auth service: logging in, and who may. Hashes are made on threads of their own; everything that is stored goes through
//! the core.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use dfs_proto::pb::{self, auth_service_server};
use dfs_proto::secret::Secret;
use dfs_proto::token::{Role, Roles};
use tonic::{Request, Response, Status};

use super::admin::{status, stopped};
use crate::auth::{Bearer, Gate, no_random, password};
use crate::core::State;
use crate::core::id_map::IdMap;
use crate::core::operator::{Operation, OperatorReply};
use crate::core::row::UserRow;
use crate::core::users::UserChange;
use crate::runtime::Engine;

/// The longest that a join token is good.
const MAX_KEEPER_TOKEN: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The service.
pub(super) struct Auth {
    engine: Engine,
    gate: Gate,
}

/// Who asks, and from where.
pub(super) struct Asker {
    pub bearer: Bearer,
    pub from: Option<SocketAddr>,
}

impl Asker {
    /// The gate has put the bearer there.
    pub fn of<T>(request: &Request<T>) -> Result<Asker, Status> {
        let bearer = request.extensions().get::<Bearer>().cloned();
        let bearer = bearer.ok_or_else(|| Status::internal("the gate was not asked (a bug)"))?;
        Ok(Asker { bearer, from: request.remote_addr() })
    }
}

impl Auth {
    pub fn new(engine: Engine, gate: Gate) -> Auth {
        Auth { engine, gate }
    }

    /// Is this the user's password? Counts as a try.
    async fn check(&self, name: &str, password: String, from: Option<SocketAddr>) -> Result<UserRow, Status> {
        self.gate.check_password(name, Secret::new(password), from).await
    }

    async fn change(
        &self,
        event: &'static str,
        asker: &Asker,
        name: String,
        change: UserChange,
    ) -> Result<UserRow, Status> {
        let detail = match &change {
            UserChange::Add { row, dir } => format!("{name}: {}, dir {dir:?}, ids {:?}", row.roles, row.ids),
            UserChange::Grant { roles, disabled, dir, ids } => {
                let roles = roles.map(|roles| roles.to_string()).unwrap_or_default();
                format!("{name}: roles {roles}, disabled {disabled:?}, dir {dir:?}, ids {ids:?}")
            }
            _ => name.clone(),
        };
        let done = self.engine.operate(Operation::User { name, change }).await.map_err(stopped)?;
        self.gate.note_as(event, asker.bearer.name(), asker.from, done.is_ok(), detail);
        match done.map_err(status)? {
            OperatorReply::User(row) => Ok(row),
            other => Err(Status::internal(format!("the core answered something else (a bug): {other:?}"))),
        }
    }

    /// The same, and the user as it is then.
    async fn changed(
        &self,
        event: &'static str,
        asker: &Asker,
        name: String,
        change: UserChange,
    ) -> Result<Response<pb::UserInfo>, Status> {
        let row = self.change(event, asker, name.clone(), change).await?;
        let info = self.engine.read(|state, _| info(state, &name, &row)).await.map_err(stopped)?;
        Ok(Response::new(info))
    }

    fn reply(&self, name: &str, row: &UserRow, lifetime: Option<Duration>) -> Result<pb::TokenReply, Status> {
        let (token, expires_s) = self.gate.issue(name, row, lifetime)?;
        let (token, user, roles) = (token.expose().to_owned(), name.to_owned(), names(row.roles));
        Ok(pb::TokenReply { token, expires_s, user, roles })
    }
}

#[tonic::async_trait]
impl auth_service_server::AuthService for Auth {
    async fn login(&self, request: Request<pb::LoginRequest>) -> Result<Response<pb::TokenReply>, Status> {
        let from = request.remote_addr();
        let pb::LoginRequest { user, password } = request.into_inner();
        if !self.gate.is_on() {
            return Err(Status::failed_precondition("auth is off at this master; nobody needs to log in"));
        }
        let row = self.check(&user, password, from).await?;
        self.gate.note_as("login", &user, from, true, "");
        Ok(Response::new(self.reply(&user, &row, None)?))
    }

    async fn renew(&self, request: Request<pb::RenewRequest>) -> Result<Response<pb::TokenReply>, Status> {
        let asker = Asker::of(&request)?;
        let name = asker.bearer.name();
        let row =
            self.gate.user(name)?.ok_or_else(|| Status::failed_precondition("auth is off at this master"))?;
        Ok(Response::new(self.reply(name, &row, None)?))
    }

    async fn add_user(&self, request: Request<pb::AddUserRequest>) -> Result<Response<pb::UserInfo>, Status> {
        let asker = Asker::of(&request)?;
        let pb::AddUserRequest { user, password, roles, dir, ids } = request.into_inner();
        let roles = parse(&roles)?;
        let ids = Arc::new(ids.as_ref().map_or(Ok(IdMap::None), IdMap::from_wire).map_err(status)?);
        let password_hash = password::hash(Secret::new(password)).await?;
        let row = UserRow { password_hash, roles, generation: fresh()?, ids, ..UserRow::default() };
        self.changed("user add", &asker, user, UserChange::Add { row, dir }).await
    }

    async fn set_password(
        &self,
        request: Request<pb::SetPasswordRequest>,
    ) -> Result<Response<pb::UserInfo>, Status> {
        let asker = Asker::of(&request)?;
        let pb::SetPasswordRequest { user, password, old_password } = request.into_inner();
        let own = asker
            .bearer
            .user
            .as_deref()
            .filter(|own| user.is_empty() || user == **own && !asker.bearer.roles.has(Role::Admin));
        let user = match own {
            // Whoever finds a token must not be able to keep the account.
            Some(own) => {
                let wrong = |status: Status| match status.code() {
                    tonic::Code::Unauthenticated => {
                        Status::invalid_argument("the old password is wrong; try again")
                    }
                    _ => status,
                };
                self.check(own, old_password, asker.from).await.map_err(wrong)?;
                own.to_owned()
            }
            None if asker.bearer.roles.has(Role::Admin) => user,
            None => {
                return Err(Status::permission_denied(
                    "only an admin may set another user's password; ask one",
                ));
            }
        };
        let hash = password::hash(Secret::new(password)).await?;
        let change = UserChange::SetPassword { hash, generation: fresh()? };
        self.changed("user passwd", &asker, user, change).await
    }

    async fn remove_user(
        &self,
        request: Request<pb::RemoveUserRequest>,
    ) -> Result<Response<pb::UserInfo>, Status> {
        let asker = Asker::of(&request)?;
        let user = request.into_inner().user;
        self.changed("user rm", &asker, user, UserChange::Remove).await
    }

    async fn list_users(&self, _: Request<pb::ListUsersRequest>) -> Result<Response<pb::UserList>, Status> {
        let list =
            |state: &State| state.all_users().iter().map(|(name, row)| info(state, name, row)).collect();
        let users = self.engine.read(|state, _| list(state)).await.map_err(stopped)?;
        Ok(Response::new(pb::UserList { users }))
    }

    async fn grant(&self, request: Request<pb::GrantRequest>) -> Result<Response<pb::UserInfo>, Status> {
        let asker = Asker::of(&request)?;
        let pb::GrantRequest { user, roles, disabled, dir, ids } = request.into_inner();
        let roles = if roles.is_empty() { None } else { Some(parse(&roles)?) };
        let ids = ids.as_ref().map(IdMap::from_wire).transpose().map_err(status)?;
        self.changed("user grant", &asker, user, UserChange::Grant { roles, disabled, dir, ids }).await
    }

    async fn revoke(&self, request: Request<pb::RevokeRequest>) -> Result<Response<pb::UserInfo>, Status> {
        let asker = Asker::of(&request)?;
        let user = request.into_inner().user;
        let change = UserChange::Revoke { generation: fresh()? };
        self.changed("user revoke", &asker, user, change).await
    }

    async fn keeper_token(
        &self,
        request: Request<pb::KeeperTokenRequest>,
    ) -> Result<Response<pb::TokenReply>, Status> {
        let asker = Asker::of(&request)?;
        let pb::KeeperTokenRequest { user, for_s } = request.into_inner();
        let lifetime = Duration::from_secs(for_s);
        if lifetime.is_zero() || lifetime > MAX_KEEPER_TOKEN {
            let days = MAX_KEEPER_TOKEN.as_secs() / 86_400;
            return Err(Status::invalid_argument(format!(
                "a join token is good for 1 s to {days} days; choose another time"
            )));
        }
        let change = UserChange::AddKeeper { generation: fresh()? };
        let row = self.change("keeper token", &asker, user.clone(), change).await?;
        Ok(Response::new(self.reply(&user, &row, Some(lifetime))?))
    }
}

fn fresh() -> Result<u32, Status> {
    getrandom::u32().map_err(no_random)
}

fn names(roles: Roles) -> Vec<String> {
    roles.iter().map(|role| role.name().to_owned()).collect()
}

fn parse(roles: &[String]) -> Result<Roles, Status> {
    roles.iter().map(|role| Role::from_str(role)).collect::<Result<_, _>>().map_err(Status::invalid_argument)
}

fn info(state: &State, name: &str, row: &UserRow) -> pb::UserInfo {
    pb::UserInfo {
        user: name.to_owned(),
        roles: names(row.roles),
        disabled: row.disabled,
        has_password: !row.password_hash.is_empty(),
        bound: row.dir.is_some(),
        dir: row.dir.and_then(|dir| state.dir_path(dir)).unwrap_or_default().into(),
        ids: row.ids.to_wire(),
    }
}
