//! Credentials that requests bring: `X-Registry-Auth`, and `X-Registry-Config` of builds.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use robot_env_registry::Credentials;
use serde::Deserialize;

use crate::failure::{Failure, Result};

/// What stands for Docker Hub where credentials are kept.
const HUB: &str = "https://index.docker.io/v1/";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Given {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
}

impl Given {
    fn credentials(mut self) -> Option<Credentials> {
        if self.username.is_empty() && !self.auth.is_empty() {
            let pair = decode(&self.auth).and_then(|bytes| String::from_utf8(bytes).ok());
            if let Some((user, password)) = pair.as_deref().and_then(|pair| pair.split_once(':')) {
                (self.username, self.password) = (user.to_owned(), password.to_owned());
            }
        }
        if !self.identitytoken.is_empty() {
            Some(Credentials::IdentityToken(self.identitytoken))
        } else if !self.username.is_empty() {
            Some(Credentials::Password { username: self.username, password: self.password })
        } else {
            None
        }
    }
}

/// Base64 in either alphabet, with or without padding.
fn decode(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&URL_SAFE, config).decode(text.replace('+', "-").replace('/', "_")).ok()
}

/// The credentials of `X-Registry-Auth`: for the registry that the request is about.
pub(crate) fn of_request(header: Option<&str>) -> Result<Option<Credentials>> {
    let Some(text) = header.filter(|text| !text.is_empty()) else { return Ok(None) };
    let given: Option<Given> = decode(text).and_then(|bytes| serde_json::from_slice(&bytes).ok());
    given.map(Given::credentials).ok_or_else(|| Failure::new(400, "invalid X-Registry-Auth header"))
}

/// The credentials of `X-Registry-Config`: for several registries, by `host[:port]`.
pub(crate) fn of_build(header: Option<&str>) -> Result<BTreeMap<String, Credentials>> {
    let Some(text) = header.filter(|text| !text.is_empty()) else {
        return Ok(BTreeMap::new());
    };
    let given: Option<BTreeMap<String, Given>> =
        decode(text).and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let given = given.ok_or_else(|| Failure::new(400, "invalid X-Registry-Config header"))?;
    let known = given.into_iter().filter_map(|(key, given)| {
        let host = if key == HUB {
            "docker.io".to_owned()
        } else {
            let bare = key.split_once("://").map_or(key.as_str(), |(_, rest)| rest);
            bare.split('/').next().unwrap_or_default().to_owned()
        };
        Some((host, given.credentials()?))
    });
    Ok(known.collect())
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn one_registry() {
        let password =
            |user: &str| Some(Credentials::Password { username: user.into(), password: "p?>".into() });
        for (document, want) in [
            ("{}", None),
            (r#"{"username":"u","password":"p?>"}"#, password("u")),
            (&format!(r#"{{"auth":"{}"}}"#, STANDARD.encode("v:p?>")), password("v")),
            (r#"{"identitytoken":"t"}"#, Some(Credentials::IdentityToken("t".into()))),
        ] {
            assert_eq!(of_request(Some(&STANDARD.encode(document))).unwrap(), want, "{document}");
        }
        assert_eq!(of_request(None).unwrap(), None);
        assert!(of_request(Some("no")).is_err());
    }

    #[test]
    fn several_registries() {
        let one = r#"{"username":"u","password":"p"}"#;
        let text = format!(r#"{{"{HUB}":{one},"lab:5000":{one},"https://b.c/v2/":{one},"x":{{}}}}"#);
        let found = of_build(Some(&STANDARD.encode(&text))).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["b.c", "docker.io", "lab:5000"]);
    }
}
