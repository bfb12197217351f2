//! Passwords and tokens.

use std::time::{Duration, Instant};

use super::http::{Request, Response};
use super::{State, Stored};

/// Who may do what.
#[derive(Clone, Debug, Default)]
pub enum Auth {
    /// Everybody everything.
    #[default]
    Open,
    /// Only this user, with the password in each request.
    Basic {
        /// The user's name.
        username: String,
        /// The password.
        password: String,
    },
    /// Only with a token of the service at `/token`.
    Bearer {
        /// The user's name.
        username: String,
        /// The password.
        password: String,
        /// Whether anybody may pull.
        anonymous_pull: bool,
        /// How long tokens are good for, in seconds.
        expires_in: u64,
        /// Where the service is, if it is not here.
        realm: Option<String>,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Token {
    scopes: Vec<String>,
    expires: Instant,
}

pub(super) fn basic(username: &str, password: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::from("Basic ");
    for chunk in format!("{username}:{password}").as_bytes().chunks(3) {
        let group = chunk.iter().fold(0_u32, |all, b| all << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * place)) as usize & 63];
            out.push(if place <= chunk.len() { digit as char } else { '=' });
        }
    }
    out
}

/// Lets the request in, or gives the answer that turns it away.
pub(super) fn check(
    state: &State,
    stored: &Stored,
    request: &Request,
    repository: Option<&str>,
) -> Option<Response> {
    let given = request.header("authorization");
    match &state.options.auth {
        Auth::Open => None,
        Auth::Basic { username, password } => (given != Some(&basic(username, password)))
            .then(|| Response::unauthorized("Basic realm=\"test\"")),
        Auth::Bearer { realm, .. } => {
            let action =
                if matches!(request.method.as_str(), "GET" | "HEAD") && !request.path.contains("/uploads/") {
                    "pull"
                } else {
                    "push"
                };
            let token = given
                .and_then(|g| g.strip_prefix("Bearer "))
                .and_then(|g| stored.tokens.get(g))
                .filter(|t| t.expires > Instant::now());
            let allowed = token.is_some_and(|token| {
                repository.is_none_or(|repository| {
                    token.scopes.iter().any(|scope| {
                        let mut parts = scope.splitn(3, ':');
                        parts.next() == Some("repository")
                            && parts.next() == Some(repository)
                            && parts.next().is_some_and(|actions| actions.split(',').any(|a| a == action))
                    })
                })
            });
            if allowed {
                return None;
            }
            let own = format!("{}://{}/token", state.scheme(), state.address);
            let realm = realm.as_ref().unwrap_or(&own);
            let scope = repository
                .map(|r| {
                    format!(
                        ",scope=\"repository:{r}:{}\"",
                        if action == "push" { "pull,push" } else { "pull" }
                    )
                })
                .unwrap_or_default();
            Some(Response::unauthorized(&format!("Bearer realm=\"{realm}\",service=\"test\"{scope}")))
        }
    }
}

/// The token service.
pub(super) fn token(state: &State, request: &Request, body: &[u8]) -> Response {
    let Auth::Bearer { username, password, anonymous_pull, expires_in, .. } = &state.options.auth else {
        return Response::error(404, "NOT_FOUND", "no token service");
    };
    let mut stored = state.lock();
    let form = String::from_utf8_lossy(body).into_owned();
    let (known, scopes) = if request.method == "POST" {
        let refresh = super::http::query(&form, "refresh_token").into_iter().next().unwrap_or_default();
        if !stored.refresh_tokens.contains(&refresh)
            || super::http::query(&form, "grant_type") != ["refresh_token"]
        {
            return Response::error(401, "UNAUTHORIZED", "unknown refresh token");
        }
        let scopes = super::http::query(&form, "scope")
            .iter()
            .flat_map(|s| s.split(' ').map(str::to_owned).collect::<Vec<_>>())
            .collect();
        (true, scopes)
    } else {
        let given = request.header("authorization");
        if given.is_some() && given != Some(&basic(username, password)) {
            return Response::error(401, "UNAUTHORIZED", "incorrect username or password");
        }
        (given.is_some(), super::http::query(&request.query, "scope"))
    };
    let scopes: Vec<String> = scopes
        .into_iter()
        .filter_map(|scope| match (known, anonymous_pull, scope.rsplit_once(':')) {
            (true, ..) => Some(scope),
            (false, true, Some((front, _))) => Some(format!("{front}:pull")),
            _ => None,
        })
        .collect();
    let token = format!("token-{}", state.next());
    stored
        .tokens
        .insert(token.clone(), Token { scopes, expires: Instant::now() + Duration::from_secs(*expires_in) });
    let mut answer = serde_json::json!({"token": token, "expires_in": expires_in});
    if known && super::http::query(&request.query, "offline_token") == ["true"] {
        let refresh = format!("refresh-{}", state.next());
        stored.refresh_tokens.insert(refresh.clone());
        answer["refresh_token"] = refresh.into();
    }
    Response::new(200).header("Content-Type", "application/json").body(answer.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_by_hand_is_right() {
        for (user, password, want) in [
            ("a", "b", "YTpi"),
            ("ab", "c", "YWI6Yw=="),
            ("abc", "d", "YWJjOmQ="),
            ("Aladdin", "open sesame", "QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
        ] {
            assert_eq!(super::basic(user, password), format!("Basic {want}"));
        }
    }
}
