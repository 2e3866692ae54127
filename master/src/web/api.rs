//! `/api/v1/...`: JSON for the page, and for whoever wants it.
//!
//! | path | what |
//! |---|---|
//! | `status` | as `dfs status --json` |
//! | `keepers` | as `dfs keepers --json` |
//! | `lookup?path=&search=&after=&limit=` | rows as those of `dfs lookup --json`, and where to go on (`next`) |
//! | `overview` | all that the page shows but the files |
//!
//! Where auth is on, a request needs `Authorization: Bearer TOKEN`, as `dfs login` gets one, or the cookie that `POST session` gives for it, or `POST login` for a name and a password (`session`). Errors are `{"error": "..."}`. What is answered is durable, but for what of `overview` is not `status`: that is for eyes
//! alone, and must be there when the store is in trouble.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dfs_observe::axum::body::Body;
use dfs_observe::axum::extract::{Query, State};
use dfs_observe::axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use dfs_observe::axum::http::{Request, StatusCode};
use dfs_observe::axum::middleware::{Next, from_fn};
use dfs_observe::axum::response::{IntoResponse, Response};
use dfs_observe::axum::routing::{get, post};
use dfs_observe::axum::{Extension, Router};
use dfs_proto::error::{DfsError, ErrorCode};
use dfs_proto::ids::{ClusterId, InodeNo};
use dfs_proto::{json, pb};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::Doors;
use super::danger::{Danger, Found};
use super::files::{self, Files};
use super::session;
use super::watch::{Event, Rate, Sample, Watched};
use crate::auth::Refusal;
use crate::core::LookupCursor;
use crate::runtime::{Engine, Stopped};

/// Rows of the look-up table in one answer.
const MAX_ROWS: usize = 1000;
/// Rows that are looked at under the engine's lock.
const PAGE_ROWS: usize = 1000;
/// How long one answer looks for what is searched for; the next goes on.
const SEARCH_FOR: Duration = Duration::from_millis(500);
/// Bytes of what is searched for.
const MAX_SEARCH: usize = 1024;
/// When something is lost, the status looks at every file. It is good for so many times what that took, and this at least.
const STATUS_REST: u32 = 50;
const STATUS_GOOD_FOR: Duration = Duration::from_secs(1);
/// The rest of the overview does not wait longer for it.
const STATUS_WITHIN: Duration = Duration::from_secs(2);
/// Copies under way that are shown.
const MAX_ORDERS: usize = 20;

pub(super) struct Api {
    engine: Engine,
    cluster: ClusterId,
    watched: Arc<Watched>,
    danger: Arc<Danger>,
    status: Mutex<Option<Made>>,
    turn: Semaphore,
}

/// A status, when it was made, and how long that took.
type Made = (Instant, Duration, Arc<pb::ClusterStatus>);

impl Api {
    pub fn new(engine: Engine, cluster: ClusterId, watched: Arc<Watched>) -> Api {
        Api {
            engine,
            cluster,
            watched,
            danger: Arc::default(),
            status: Mutex::default(),
            turn: Semaphore::new(1),
        }
    }

    /// A little old where there are many files. One at a time makes it, and who waits for that gets the same.
    async fn status(&self) -> Result<Arc<pb::ClusterStatus>, Failure> {
        if let Some(status) = self.good_status() {
            return Ok(status);
        }
        // It is never closed.
        let _turn = self.turn.acquire().await.map_err(|_| Stopped)?;
        if let Some(status) = self.good_status() {
            return Ok(status);
        }
        let made = self.engine.read(|state, now| {
            let began = Instant::now();
            (state.status(now), began.elapsed())
        });
        let (status, took) = made.await?;
        let status = Arc::new(status);
        *self.lock() = Some((Instant::now(), took, status.clone()));
        Ok(status)
    }

    fn good_status(&self) -> Option<Arc<pb::ClusterStatus>> {
        let kept = self.lock();
        let (made, took, status) = kept.as_ref()?;
        (made.elapsed() < STATUS_GOOD_FOR.max(STATUS_REST * *took)).then(|| status.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Made>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The operators' calls that show the same.
const STATUS: &str = "/dfs.v1.AdminService/Status";
const KEEPERS: &str = "/dfs.v1.AdminService/Keepers";
const LOOKUP: &str = "/dfs.v1.AdminService/LookupTable";

const MOUNT: &str = "/dfs.v1.MountService/Session";
const RENEW: &str = "/dfs.v1.AuthService/Renew";

/// The calls that who asks for this must be allowed to make.
fn calls_of(path: &str) -> &'static [&'static str] {
    match path {
        "/api/v1/status" => &[STATUS],
        "/api/v1/keepers" => &[KEEPERS],
        "/api/v1/lookup" => &[LOOKUP],
        "/api/v1/session" => &[RENEW],
        path if path.starts_with(files::PREFIX) => &[MOUNT],
        // The overview names files, too.
        _ => &[STATUS, KEEPERS, LOOKUP],
    }
}

pub(super) fn routes(api: Arc<Api>, of_files: Arc<Files>, doors: Doors) -> Router {
    let gate = doors.gate.clone();
    let guard = move |mut request: Request<Body>, next: Next| {
        let gate = gate.clone();
        async move {
            let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            let cookie = session::token_of(request.headers()).map(|token| format!("Bearer {token}"));
            let shown = header.or(cookie.as_deref());
            let mut admitted = None;
            for call in calls_of(request.uri().path()) {
                match gate.admit(call, shown) {
                    Ok(bearer) => admitted = Some(bearer),
                    Err(refusal) => return Failure::from(refusal).into_response(),
                }
            }
            if let Some(bearer) = admitted {
                request.extensions_mut().insert(Sees(bearer.root));
                request.extensions_mut().insert(bearer);
            }
            next.run(request).await
        }
    };
    Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/keepers", get(keepers))
        .route("/api/v1/lookup", get(lookup))
        .route("/api/v1/overview", get(overview))
        .with_state(api)
        .merge(Router::new().route("/api/v1/session", post(session::begin)).with_state(doors.clone()))
        .merge(
            Router::new()
                .route("/files/", get(files::get))
                .route("/files/{*path}", get(files::get))
                .with_state(of_files),
        )
        .layer(from_fn(guard))
        .merge(
            Router::new()
                .route("/api/v1/login", post(session::log_in))
                .route("/api/v1/logout", post(session::end))
                .with_state(doors),
        )
        .layer(from_fn(session::only_from_here))
}

/// The directory that is all that the asker sees of the cluster.
#[derive(Clone, Copy)]
struct Sees(InodeNo);

impl Sees {
    /// Without the names of files that are none of the asker's business.
    fn status<'a>(self, status: &'a pb::ClusterStatus) -> json::Status<'a> {
        let shown = json::Status::from(status);
        if self.0 == InodeNo::ROOT { shown } else { json::Status { lost_files: &[], ..shown } }
    }
}

/// What is answered instead.
#[derive(Debug)]
pub(super) struct Failure(pub StatusCode, pub String);

impl From<Stopped> for Failure {
    fn from(stopped: Stopped) -> Failure {
        Failure(StatusCode::SERVICE_UNAVAILABLE, stopped.to_string())
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let status = match &refusal {
            Refusal::NotAllowed { .. } | Refusal::Unknown(_) => StatusCode::FORBIDDEN,
            Refusal::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::UNAUTHORIZED,
        };
        Failure(status, refusal.to_string())
    }
}

impl From<DfsError> for Failure {
    fn from(error: DfsError) -> Failure {
        let status = match error.code {
            ErrorCode::NotFound | ErrorCode::Stale | ErrorCode::NotDirectory => StatusCode::NOT_FOUND,
            _ => StatusCode::BAD_REQUEST,
        };
        Failure(status, error.message)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body {
            error: String,
        }
        let Failure(status, error) = self;
        (status, to_json(&Body { error })).into_response()
    }
}

pub(super) fn to_json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
        // Nothing of what is shown can do that.
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn status(State(api): State<Arc<Api>>, Extension(sees): Extension<Sees>) -> Result<Response, Failure> {
    Ok(to_json(&sees.status(&*api.status().await?)))
}

async fn keepers(State(api): State<Arc<Api>>) -> Result<Response, Failure> {
    let keepers = api.engine.read(|state, now| state.keepers(now)).await?;
    Ok(to_json(&keepers.iter().map(json::Keeper::from).collect::<Vec<_>>()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LookupQuery {
    #[serde(default)]
    path: String,
    /// Part of a path; upper and lower case of ASCII are alike.
    #[serde(default)]
    search: String,
    /// The `next` of the page before.
    #[serde(default)]
    after: String,
    #[serde(default = "max_rows")]
    limit: usize,
}

fn max_rows() -> usize {
    MAX_ROWS
}

#[derive(Serialize)]
struct Rows<'a> {
    rows: Vec<json::Copy<'a>>,
    /// None: that was all.
    next: Option<String>,
}

async fn lookup(
    State(api): State<Arc<Api>>,
    Extension(Sees(root)): Extension<Sees>,
    Query(query): Query<LookupQuery>,
) -> Result<Response, Failure> {
    let bad = |why: &str| Failure(StatusCode::BAD_REQUEST, why.to_owned());
    let limit = query.limit.clamp(1, MAX_ROWS);
    if query.search.len() > MAX_SEARCH || query.path.len() > 4096 {
        return Err(bad("search: too long; give part of a path"));
    }
    let mut after = match query.after.as_str() {
        "" => None,
        text => {
            Some(LookupCursor::decode(text).ok_or_else(|| bad("after: give the 'next' of the page before"))?)
        }
    };
    let needle = query.search.to_ascii_lowercase().into_bytes();
    let began = Instant::now();
    let mut found: Vec<pb::LookupRow> = Vec::new();
    let next = loop {
        let page_began = Instant::now();
        // Without a needle every row is shown: no more than are wanted.
        let wanted = if needle.is_empty() { limit } else { PAGE_ROWS };
        let path = query.path.as_bytes();
        let page = api.engine.read(|state, _| state.lookup_rows_below(root, path, after.take(), wanted));
        let (rows, next) = page.await??;
        found.extend(rows.into_iter().filter(|row| has(&row.file, &needle)));
        // A page that finds more than are wanted is shown whole: it is bounded too.
        if next.is_none() || found.len() >= limit || needle.is_empty() || began.elapsed() > SEARCH_FOR {
            break next;
        }
        after = next;
        // As long as it worked, so that others get in between.
        tokio::time::sleep(page_began.elapsed()).await;
    };
    let rows = found.iter().map(json::Copy::from).collect();
    Ok(to_json(&Rows { rows, next: next.map(|cursor| cursor.encode()) }))
}

/// Does the path hold this? Letters of ASCII are alike in both cases.
fn has(path: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || path.windows(needle.len()).any(|part| part.eq_ignore_ascii_case(needle))
}

#[derive(Serialize)]
struct Overview<'a> {
    cluster: String,
    store_fails: bool,
    figures: Shown,
    /// None: the store does not answer, so what is known may not last.
    status: Option<json::Status<'a>>,
    keepers: Vec<json::Keeper<'a>>,
    /// By keeper.
    rates: BTreeMap<u64, Rate>,
    orders: Vec<Order>,
    rebalance: Rebalance,
    trouble: Trouble,
    history: Vec<Sample>,
    events: Vec<Event>,
}

/// The figures that move; those of `status` may be older.
#[derive(Serialize)]
struct Shown {
    keepers_live: u64,
    keepers_dead: u64,
    mounts: u64,
    chunks: u64,
    under_replicated: u64,
    endangered: u64,
    lost: u64,
    total_bytes: u64,
    free_bytes: u64,
    copies_under_way: u64,
    compactions_under_way: u64,
    compactions_waiting: u64,
}

#[derive(Serialize)]
struct Order {
    chunk: String,
    source: u64,
    destination: u64,
}

#[derive(Serialize)]
struct Rebalance {
    running: bool,
    moved_bytes: u64,
    left_bytes: u64,
}

#[derive(Serialize)]
struct Trouble {
    lost: u64,
    endangered: u64,
    #[serde(flatten)]
    found: Found,
}

async fn overview(
    State(api): State<Arc<Api>>,
    Extension(sees): Extension<Sees>,
) -> Result<Response, Failure> {
    let status = tokio::time::timeout(STATUS_WITHIN, api.status()).await.ok().and_then(Result::ok);
    let now = api.engine.now().ok_or(Stopped)?;
    let (keepers, orders, rebalance) = api.engine.look(|state, now| {
        (state.keepers(now), state.copies_under_way(MAX_ORDERS), state.rebalance_status())
    })?;
    let f = &now.figures;
    let live = f.keepers.iter().filter(|keeper| keeper.alive).count() as u64;
    let found = match sees.0 {
        InodeNo::ROOT => api.danger.found(&api.engine, f.lost > 0 || f.endangered > 0),
        _ => Found::default(),
    };
    Ok(to_json(&Overview {
        cluster: api.cluster.to_string(),
        store_fails: now.store_fails,
        figures: Shown {
            keepers_live: live,
            keepers_dead: f.keepers.len() as u64 - live,
            mounts: f.mounts,
            chunks: f.chunks,
            under_replicated: f.under_replicated,
            endangered: f.endangered,
            lost: f.lost,
            total_bytes: f.total_bytes,
            free_bytes: f.free_bytes,
            copies_under_way: f.copies_under_way,
            compactions_under_way: f.compactions_under_way,
            compactions_waiting: f.compactions_waiting,
        },
        status: status.as_deref().map(|status| sees.status(status)),
        keepers: keepers.iter().map(json::Keeper::from).collect(),
        rates: api.watched.rates(),
        orders: orders
            .into_iter()
            .map(|(chunk, source, destination)| Order {
                chunk: chunk.to_string(),
                source: source.0,
                destination: destination.0,
            })
            .collect(),
        rebalance: Rebalance {
            running: rebalance.running,
            moved_bytes: rebalance.moved_bytes,
            left_bytes: rebalance.left_bytes,
        },
        trouble: Trouble { lost: f.lost, endangered: f.endangered, found },
        history: api.watched.samples(),
        events: api.watched.events(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_path_is_found_in_both_cases_and_any_bytes() {
        assert!(has(b"/Films/a.MP4", b".mp4"));
        assert!(has(b"/\xff\xfe/x", b"/x"));
        assert!(has(b"/a", b""));
        assert!(!has(b"/a", b"/ab"));
    }
}
