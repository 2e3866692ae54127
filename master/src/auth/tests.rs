//! The gate over a real engine, with users that change.

use std::time::Instant;

use dfs_proto::ids::ClusterId;

use super::*;
use crate::archive::settings_to_check;
use crate::core::operator::Operation;
use crate::core::users::UserChange;
use crate::store::{Identity, MemoryStore};

const CLUSTER: ClusterId = ClusterId([1; 16]);
const STATUS: &str = "/dfs.v1.AdminService/Status";
const DRAIN: &str = "/dfs.v1.AdminService/Drain";

struct Fixture {
    gate: Gate,
    engine: Engine,
    _dir: tempfile::TempDir,
}

fn key() -> TokenKey {
    TokenKey::derive(&[2; 32], CLUSTER)
}

impl Fixture {
    fn new(is_on: bool) -> Fixture {
        let created = pb::Time::now();
        let identity = Identity { cluster: CLUSTER, secret: [2; 32], created, spared: None };
        let store = Box::new(MemoryStore::new());
        let engine = Engine::start(store, settings_to_check(&identity), Instant::now()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        let gate = Gate::new(is_on, key(), Duration::from_secs(60), engine.clone(), audit);
        Fixture { gate, engine, _dir: dir }
    }

    async fn change(&self, name: &str, change: UserChange) {
        let operation = Operation::User { name: name.to_owned(), change };
        self.engine.operate(operation).await.unwrap().unwrap();
    }

    async fn add(&self, name: &str, roles: &[Role]) -> String {
        let roles = roles.iter().copied().collect();
        let row = UserRow {
            password_hash: "x".to_owned(),
            roles,
            disabled: false,
            generation: 1,
            ..UserRow::default()
        };
        self.change(name, UserChange::Add { row: row.clone(), dir: Default::default() }).await;
        self.header(name, &row)
    }

    fn header(&self, name: &str, row: &UserRow) -> String {
        format!("Bearer {}", self.gate.issue(name, row, None).unwrap().0.expose())
    }

    fn admit(&self, method: &str, header: &str) -> Result<Roles, Refusal> {
        self.gate.admit(method, Some(header)).map(|bearer| bearer.roles)
    }
}

fn grant(roles: &[Role], disabled: bool) -> UserChange {
    UserChange::Grant {
        roles: Some(roles.iter().copied().collect()),
        disabled: Some(disabled),
        dir: None,
        ids: None,
    }
}

#[tokio::test]
async fn a_token_is_worth_what_its_user_is_now() {
    let fixture = Fixture::new(true);
    fixture.add("root", &[Role::Admin]).await;
    let anna = fixture.add("anna", &[Role::Rw]).await;
    assert_eq!(fixture.admit(STATUS, &anna).unwrap().to_string(), "rw,ro");
    assert!(matches!(fixture.admit(DRAIN, &anna), Err(Refusal::NotAllowed { .. })));
    // More than the token says is not had with it, less at once.
    fixture.change("anna", grant(&[Role::Admin], false)).await;
    assert!(matches!(fixture.admit(DRAIN, &anna), Err(Refusal::NotAllowed { .. })));
    fixture.change("anna", grant(&[Role::Ro], false)).await;
    assert_eq!(fixture.admit(STATUS, &anna).unwrap().to_string(), "ro");
    fixture.change("anna", grant(&[Role::Rw], true)).await;
    assert!(matches!(fixture.admit(STATUS, &anna), Err(Refusal::Gone(_))));
    fixture.change("anna", grant(&[Role::Rw], false)).await;
    assert!(fixture.admit(STATUS, &anna).is_ok());
    fixture.change("anna", UserChange::Revoke { generation: 2 }).await;
    assert!(matches!(fixture.admit(STATUS, &anna), Err(Refusal::Revoked(_))));
    fixture.change("anna", UserChange::Remove).await;
    assert!(matches!(fixture.admit(STATUS, &anna), Err(Refusal::Gone(_))));
    // Another of the same name is another.
    let row = UserRow { roles: [Role::Rw].into_iter().collect(), generation: 7, ..UserRow::default() };
    fixture.change("anna", UserChange::Add { row, dir: Default::default() }).await;
    assert!(matches!(fixture.admit(STATUS, &anna), Err(Refusal::Revoked(_))));
}

#[tokio::test]
async fn a_watch_ends_with_its_bearer_and_goes_on_with_a_new_token() {
    let fixture = Fixture::new(true);
    fixture.add("root", &[Role::Admin]).await;
    let header = fixture.add("anna", &[Role::Rw]).await;
    let bearer = fixture.gate.admit(STATUS, Some(&header)).unwrap();
    let soon = Bearer { expires_s: now_s() + 2, ..bearer };
    let mut watch = fixture.gate.watch(soon.clone());
    let over = tokio::time::timeout(Duration::from_secs(20), watch.over()).await.unwrap();
    assert!(matches!(over, Refusal::Token(TokenError::Expired { .. })), "{over}");
    let mut watch = fixture.gate.watch(soon);
    watch.take(header.strip_prefix("Bearer ").unwrap()).unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(3), watch.over()).await.is_err(), "it goes on");
    assert!(!watch.is_read_only());
    fixture.change("anna", grant(&[Role::Ro], false)).await;
    assert!(tokio::time::timeout(Duration::from_secs(3), watch.over()).await.is_err(), "it may read");
    assert!(watch.is_read_only());
    let keeper = fixture.add("k", &[Role::Keeper]).await;
    assert!(watch.take(keeper.strip_prefix("Bearer ").unwrap()).is_err(), "a keeper has no mounts");
}

#[tokio::test]
async fn where_auth_is_off_everybody_may_everything() {
    let fixture = Fixture::new(false);
    for path in dfs_proto::METHODS {
        assert_eq!(fixture.gate.admit(path, None).unwrap().roles.iter().count(), Role::ALL.len());
    }
}
