//! The login of a browser: a token in a cookie, which the page asks for with a token that somebody pasted, and renews as long as it is open.
//!
//! What must hold: the cookie cannot be read by scripts, goes to nobody else's requests (`SameSite=Strict`), and lives no longer than its token.
//! Nothing can be changed with it: what it opens only reads.

use dfs_observe::axum::Extension;
use dfs_observe::axum::extract::State;
use dfs_observe::axum::http::header::{COOKIE, SET_COOKIE};
use dfs_observe::axum::http::{HeaderMap, StatusCode};
use dfs_observe::axum::response::{IntoResponse, Response};
use dfs_proto::pb;
use serde::Serialize;

use super::api::{Failure, to_json};
use crate::auth::{Bearer, Gate};

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
    State(gate): State<Gate>,
    Extension(bearer): Extension<Bearer>,
) -> Result<Response, Failure> {
    let Some(user) = bearer.user.as_deref() else { return Ok(to_json(&Session { user: "", lasts_s: 0 })) };
    let gone = || Failure(StatusCode::UNAUTHORIZED, format!("user '{user}' is not there any more"));
    let row = gate.user(user).map_err(Failure::from)?.ok_or_else(gone)?;
    let issued = gate.issue(user, &row, None);
    let (token, expires_s) =
        issued.map_err(|status| Failure(StatusCode::SERVICE_UNAVAILABLE, status.message().to_owned()))?;
    let lasts_s = expires_s.saturating_sub(pb::Time::now().sec);
    let cookie = format!("{NAME}={}; Max-Age={lasts_s}; Path=/; HttpOnly; SameSite=Strict", token.expose());
    Ok(([(SET_COOKIE, cookie)], to_json(&Session { user, lasts_s })).into_response())
}

/// The browser forgets it.
pub(super) async fn end() -> Response {
    let cookie = format!("{NAME}=; Max-Age=0; Path=/; HttpOnly; SameSite=Strict");
    ([(SET_COOKIE, cookie)], StatusCode::NO_CONTENT).into_response()
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
}
