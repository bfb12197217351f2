//! Login and logout.

use robot_env_diag::{Error, Kind, Result, Within as _};
use robot_env_oci::Repository;
use ureq::http::{Method, StatusCode};

use crate::client::{Client, unexpected};
use crate::credentials::{self, Credentials, Stored};
use crate::token::Scope;
use crate::transport::{Call, Failure};

/// What a login came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Where the credentials were stored.
    pub stored: Stored,
    /// Whether the registry gave an identity token, which was stored in place of the password.
    pub identity_token: bool,
}

/// `authority` as an image's name would write it: no scheme, no path.
fn normalise(authority: &str) -> Result<String> {
    let rest =
        authority.strip_prefix("https://").or_else(|| authority.strip_prefix("http://")).unwrap_or(authority);
    let host = rest.split('/').next().unwrap_or_default();
    if credentials::is_docker_hub(host) {
        return Ok("docker.io".into());
    }
    // The grammar of names decides, with a repository that every registry could have; a host
    // without dot or port would be read as part of the path.
    let probe: Result<Repository> = format!("{host}/x").parse();
    match probe {
        Ok(repository) if repository.domain() == host => Ok(host.to_owned()),
        _ => Err(Error::invalid(format!("invalid registry `{authority}`"))
            .with_hint("a registry is written like `registry.example` or `localhost:5000`")),
    }
}

impl Client {
    /// Checks the password at the registry and stores it (or the identity token that the registry
    /// gives for it) in `config.json` or the credential helper set there.
    pub fn login(&self, authority: &str, username: &str, password: &str) -> Result<Login> {
        let authority = normalise(authority)?;
        let what = || format!("cannot log in to registry `{authority}`");
        if username.is_empty() || username.contains(':') {
            return Err(Error::invalid(what())
                .because(Error::invalid("a user name must not be empty or contain `:`")));
        }
        let given = Credentials::Password { username: username.to_owned(), password: password.to_owned() };
        let identity = self.verify(&authority, &given).within(what)?;
        let identity_token = identity.is_some();
        let kept = identity.map_or(given, Credentials::IdentityToken);
        let stored = credentials::store(self.options(), &authority, username, &kept).within(what)?;
        Ok(Login { stored, identity_token })
    }

    /// Forgets the credentials of a registry; false: there were none.
    pub fn logout(&self, authority: &str) -> Result<bool> {
        let authority = normalise(authority)?;
        credentials::erase(self.options(), &authority)
            .within(|| format!("cannot log out of registry `{authority}`"))
    }

    /// The user name stored for a registry; `None` where nothing is stored or only a token is.
    pub fn stored_username(&self, authority: &str) -> Result<Option<String>> {
        let authority = normalise(authority)?;
        Ok(match credentials::find(self.options(), &authority)? {
            Some(Credentials::Password { username, .. }) => Some(username),
            _ => None,
        })
    }

    /// Checks a password at a registry and stores nothing; gives the identity token, if the registry
    /// grants one.
    pub fn check_login(&self, authority: &str, username: &str, password: &str) -> Result<Option<String>> {
        let authority = normalise(authority)?;
        let given = Credentials::Password { username: username.to_owned(), password: password.to_owned() };
        self.verify(&authority, &given).within(|| format!("cannot log in to registry `{authority}`"))
    }

    /// Checks credentials at the registry; gives the identity token, if it grants one.
    fn verify(&self, authority: &str, given: &Credentials) -> Result<Option<String>> {
        let endpoint = self.registry(authority)?;
        let ask = |authorization| {
            let mut call = Call::new(Method::GET, endpoint.url(""));
            call.authorization = authorization;
            self.transport().send(self.options(), call).map_err(Failure::into_error)
        };
        let answer = ask(None)?;
        if answer.status != StatusCode::UNAUTHORIZED {
            // It does not ask who we are; so nothing can be checked.
            return if answer.status == StatusCode::OK { Ok(None) } else { Err(unexpected(answer)) };
        }
        let granted =
            self.grant(&endpoint, &Scope::none(), Some(given), &answer, true).map_err(Failure::into_error)?;
        let Some(granted) = granted else {
            return Err(Error::new(Kind::Unsupported, "it offers neither a token service nor passwords"));
        };
        let answer = ask(granted.pass.header().cloned())?;
        match answer.status {
            StatusCode::OK => Ok(granted.identity),
            _ => Err(unexpected(answer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_registries() {
        for (text, want) in [
            ("docker.io", Some("docker.io")),
            ("https://index.docker.io/v1/", Some("docker.io")),
            ("registry-1.docker.io", Some("docker.io")),
            ("localhost:5000", Some("localhost:5000")),
            ("https://lab.example/", Some("lab.example")),
            ("[::1]:5000", Some("[::1]:5000")),
            ("", None),
            ("a b.c", None),
            ("-x.y", None),
        ] {
            assert_eq!(normalise(text).ok().as_deref(), want, "{text}");
        }
    }
}
