//! The login of a browser: a token in a cookie. The page gets it for a name and a password, or for a token that somebody pasted, and renews it as long as it is open.
//!
//! What must hold: the cookie cannot be read by scripts, goes to nobody else's requests (`SameSite=Strict`), over TLS alone where there is TLS, and
//! lives no longer than its token. A password comes in a body of JSON, never in an address; it is in no log, and no browser sends it
//! over a network in plain text but with `--insecure`. Guesses are counted as those of `dfs login` are.
//!
//! Other sites can do nothing here: what the cookie opens only reads, it is not sent for them, and what a browser posts for another site
//! (to log somebody out, or in as somebody else) says so in its `Origin`, and is refused ([`only_from_here`]).

use std::net::IpAddr;

use dfs_observe::axum::Extension;
use dfs_observe::axum::body::{Body, to_bytes};
use dfs_observe::axum::extract::State;
use dfs_observe::axum::http::header::{CONTENT_TYPE, COOKIE, HOST, ORIGIN, SET_COOKIE};
use dfs_observe::axum::http::{HeaderMap, Method, Request, StatusCode};
use dfs_observe::axum::middleware::Next;
use dfs_observe::axum::response::{IntoResponse, Response};
use dfs_observe::http::Peer;
use dfs_proto::pb;
use dfs_proto::secret::Secret;
use serde::{Deserialize, Serialize};
use tonic::{Code, Status};

use super::Doors;
use super::api::{Failure, to_json};
use crate::auth::Bearer;
use crate::core::row::UserRow;

/// Of a login, in bytes: names and passwords are shorter.
const MAX_BODY: usize = 8 * 1024;

const NAME: &str = "dfs_token";

/// The token in a request's cookies.
pub(super) fn token_of(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, value)| *name == NAME && !value.is_empty()).map(|(_, value)| value)
}

#[derive(Serialize)]
struct Session<'a> {
    user: &'a str,
    /// When the cookie ends; the page asks for another before.
    lasts_s: i64,
}

/// A cookie for whoever shows a good token, in a header or in a cookie.
pub(super) async fn begin(
    State(doors): State<Doors>,
    Extension(bearer): Extension<Bearer>,
) -> Result<Response, Failure> {
    let Some(user) = bearer.user.as_deref() else { return Ok(to_json(&Session { user: "", lasts_s: 0 })) };
    let gone = || Failure(StatusCode::UNAUTHORIZED, format!("user '{user}' is not there any more"));
    let row = doors.gate.user(user).map_err(Failure::from)?.ok_or_else(gone)?;
    with_cookie(&doors, user, &row)
}

fn with_cookie(doors: &Doors, user: &str, row: &UserRow) -> Result<Response, Failure> {
    let (token, expires_s) = doors.gate.issue(user, row, None).map_err(failure)?;
    let lasts_s = expires_s.saturating_sub(pb::Time::now().sec);
    let cookie = cookie(token.expose(), lasts_s, doors.encrypted);
    Ok(([(SET_COOKIE, cookie)], to_json(&Session { user, lasts_s })).into_response())
}

fn cookie(token: &str, lasts_s: i64, encrypted: bool) -> String {
    let secure = if encrypted { "; Secure" } else { "" };
    format!("{NAME}={token}; Max-Age={lasts_s}; Path=/; HttpOnly; SameSite=Strict{secure}")
}

/// As the page sends it. No `Debug`: a password shows itself nowhere.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    user: String,
    password: String,
}

/// A cookie for whoever knows a password.
pub(super) async fn log_in(
    State(doors): State<Doors>,
    Extension(Peer(from)): Extension<Peer>,
    request: Request<Body>,
) -> Result<Response, Failure> {
    if !doors.gate.is_on() {
        let why = "auth is off at this master; nobody needs to log in";
        return Err(Failure(StatusCode::CONFLICT, why.to_owned()));
    }
    if !may_hear_a_password(&doors, from.ip()) {
        let why = "passwords are not taken over a connection that is not encrypted; give the master --tls-dir without --http-plain, or come through an ssh tunnel";
        return Err(Failure(StatusCode::FORBIDDEN, why.to_owned()));
    }
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().map(str::trim) != Some("application/json") {
        let why = "a login is JSON (content-type: application/json)";
        return Err(Failure(StatusCode::UNSUPPORTED_MEDIA_TYPE, why.to_owned()));
    }
    // What is wrong with it is not repeated: a password could be in that.
    let bad = || Failure(StatusCode::BAD_REQUEST, r#"a login is {"user": ..., "password": ...}"#.to_owned());
    let body = to_bytes(request.into_body(), MAX_BODY).await.map_err(|_| bad())?;
    let Login { user, password } = serde_json::from_slice(&body).map_err(|_| bad())?;
    let checked = doors.gate.check_password(&user, Secret::new(password), Some(from)).await;
    let row = checked.map_err(failure)?;
    doors.gate.note_as("login", &user, Some(from), true, "the page");
    with_cookie(&doors, &user, &row)
}

fn may_hear_a_password(doors: &Doors, from: IpAddr) -> bool {
    doors.encrypted || doors.insecure || from.to_canonical().is_loopback()
}

fn failure(status: Status) -> Failure {
    let code = match status.code() {
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    Failure(code, status.message().to_owned())
}

/// The browser forgets it.
pub(super) async fn end(State(doors): State<Doors>) -> Response {
    ([(SET_COOKIE, cookie("", 0, doors.encrypted))], StatusCode::NO_CONTENT).into_response()
}

/// Refuses what a browser posts for a page of another site. What is no browser says no `Origin`, and has no cookie of somebody else's.
pub(super) async fn only_from_here(request: Request<Body>, next: Next) -> Response {
    if request.method() == Method::POST && !is_from_here(request.headers()) {
        let why = "this was posted for a page of another site";
        return Failure(StatusCode::FORBIDDEN, why.to_owned()).into_response();
    }
    next.run(request).await
}

fn is_from_here(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    match (origin, host) {
        (Some((_, origin)), Some(host)) => origin.eq_ignore_ascii_case(host),
        // `null` is the origin of a page that was put into a sandbox, say.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use dfs_observe::axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_token_is_found_among_other_cookies() {
        let of = |values: &[&'static str]| {
            let headers: HeaderMap =
                values.iter().map(|value| (COOKIE, HeaderValue::from_static(value))).collect();
            token_of(&headers).map(str::to_owned)
        };
        assert_eq!(of(&["a=b; dfs_token=x.y.z; c"]).as_deref(), Some("x.y.z"));
        assert_eq!(of(&["a=b", "dfs_token=t"]).as_deref(), Some("t"));
        for none in ["", "dfs_token=", "xdfs_token=a", "dfs_token"] {
            assert_eq!(of(&[none]), None, "{none}");
        }
    }

    #[test]
    fn who_posts_for_another_site_is_known() {
        let from_here = |origin: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("dfs.example:9100"));
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
            is_from_here(&headers)
        };
        assert!(from_here("https://dfs.example:9100") && from_here("http://DFS.example:9100"));
        for other in
            ["https://dfs.example", "https://evil.example", "null", "", "https://dfs.example:9100.evil"]
        {
            assert!(!from_here(other), "{other}");
        }
        assert!(is_from_here(&HeaderMap::new()));
    }

    #[test]
    fn a_cookie_stays_with_tls() {
        assert!(cookie("t", 9, true).ends_with("; HttpOnly; SameSite=Strict; Secure"));
        assert!(!cookie("t", 9, false).contains("Secure"));
    }
}
