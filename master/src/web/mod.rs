//! The page of the master in a browser, and the JSON that it shows.
//!
//! - `api`: `/api/v1/...`. What operators can ask comes from the same calls on the state as `dfs status`, `dfs keepers` and
//!   `dfs lookup`, in the same JSON.
//! - `watch`: looks at the figures once a second, and keeps a ring of samples, and one of events.
//! - `danger`: finds the names of files with lost or endangered chunks.
//! - `files`: `/files/...`, what is in the cluster; `range`, `types`: what of it, and as what; `reader`: its bytes, from keepers.
//! - `session`: the login of a browser, with a token or a password.
//! - here: the files of the page, which are in the program.
//!
//! What must hold: all memory is bounded; nobody is held up for long, however many files there are and however many browsers
//! look: what looks at every file is done seldom, or a page at a time; nothing in the cluster can be changed from here;
//! where auth is on, nothing of the cluster is told but to who shows a token that may ask the same with `dfs`.

mod api;
mod danger;
mod files;
mod range;
mod reader;
mod session;
mod types;
mod watch;

use std::sync::Arc;

use dfs_observe::axum::Router;
use dfs_observe::axum::http::header::CONTENT_TYPE;
use dfs_observe::axum::response::IntoResponse;
use dfs_observe::axum::routing::get;
use dfs_proto::ids::ClusterId;
use dfs_tls::Connector;
use tokio::task::JoinHandle;

use self::files::Files;
use crate::auth::Gate;
use crate::runtime::Engine;

/// Path, type, text.
const FILES: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("../../web/index.html")),
    ("/app.js", "text/javascript; charset=utf-8", include_str!("../../web/app.js")),
    ("/style.css", "text/css; charset=utf-8", include_str!("../../web/style.css")),
    ("/icon.svg", "image/svg+xml", include_str!("../../web/icon.svg")),
];

/// Who is let in, and over what.
#[derive(Clone, Debug)]
pub(crate) struct Doors {
    pub gate: Gate,
    /// Browsers come over TLS.
    pub encrypted: bool,
    /// A password may come over a network that is not encrypted.
    pub insecure: bool,
}

/// The routes, and the task that watches the cluster for them until it is aborted or the engine stops.
pub(crate) fn start(
    engine: Engine,
    cluster: ClusterId,
    doors: Doors,
    to_keepers: Option<Connector>,
) -> (Router, JoinHandle<()>) {
    let watched = Arc::new(watch::Watched::default());
    let watcher = tokio::spawn(watch::watch(engine.clone(), watched.clone()));
    let mut routes = {
        let files = Arc::new(Files::new(engine.clone(), doors.gate.clone(), to_keepers));
        api::routes(Arc::new(api::Api::new(engine, cluster, watched)), files, doors)
    };
    for (path, kind, text) in FILES {
        routes =
            routes.route(path, get(move || async move { ([(CONTENT_TYPE, kind)], text).into_response() }));
    }
    (routes, watcher)
}
