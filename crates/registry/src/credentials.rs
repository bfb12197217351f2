//! Docker's credentials: `config.json` and the `docker-credential-*` programs.
//!
//! On disk: `config.json` alone, replaced by renaming a temporary file beside it (mode 0600); what
//! it holds beside credentials is kept.

use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use robot_env_diag::{Error, IoContext as _, Kind, Result};
use serde_json::{Map, Value};

use crate::helper::Helper;
use crate::options::ClientOptions;
use crate::settings::read_text;

/// The key of Docker Hub in `config.json`.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// The largest `config.json` that is read, in bytes.
const FILE_LIMIT: u64 = 8 * 1024 * 1024;
/// The user name that stands for "the secret is an identity token".
const TOKEN_USER: &str = "<token>";

/// What a user proves to be somebody with.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user name and a password or access token.
    Password {
        /// The user's name.
        username: String,
        /// The password.
        password: String,
    },
    /// An OAuth2 refresh token, which the token service gave at login.
    IdentityToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::Password { username, .. } => write!(f, "Password({username:?})"),
            Credentials::IdentityToken(_) => write!(f, "IdentityToken"),
        }
    }
}

impl Credentials {
    /// The value of an `Authorization: Basic` header.
    pub(crate) fn basic(username: &str, password: &str) -> String {
        format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
    }

    pub(crate) fn of_pair(username: String, secret: String) -> Self {
        if username == TOKEN_USER {
            Credentials::IdentityToken(secret)
        } else {
            Credentials::Password { username, password: secret }
        }
    }
}

/// Where credentials were stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// In this file, readable for whoever can read it: worth a warning.
    Unencrypted(PathBuf),
    /// In the credential helper of this name.
    Helper(String),
}

/// The name by which credentials of `authority` (a registry's `host[:port]`) are kept.
pub(crate) fn key_of(authority: &str) -> &str {
    if is_docker_hub(authority) { DOCKER_HUB_KEY } else { authority }
}

pub(crate) fn is_docker_hub(authority: &str) -> bool {
    matches!(authority, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

/// `https://host[:port]/v1/` and the like, as `config.json` may write it, down to `host[:port]`.
fn authority_of(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let authority = rest.split('/').next().unwrap_or_default();
    if is_docker_hub(authority) { "docker.io" } else { authority }
}

/// Docker's `config.json`, with everything that it says.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConfigFile(Map<String, Value>);

impl ConfigFile {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(ConfigFile::default());
        }
        match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Ok(ConfigFile(map)),
            Ok(_) => Err("it is not an object".into()),
            Err(e) => Err(e.to_string()),
        }
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = read_text(path, FILE_LIMIT)?.unwrap_or_default();
        ConfigFile::parse(&text).map_err(|why| {
            Error::invalid(format!("cannot read credentials in `{}`", path.display()))
                .because(Error::invalid(why))
        })
    }

    /// The name of the helper that keeps the credentials of `authority`.
    pub(crate) fn helper_of(&self, authority: &str) -> Option<&str> {
        let of_host = self.0.get("credHelpers").and_then(Value::as_object).and_then(|helpers| {
            let exact = helpers.get(authority).or_else(|| helpers.get(key_of(authority)));
            exact.or_else(|| {
                helpers
                    .iter()
                    .find(|(key, _)| authority_of(key) == authority_of(authority))
                    .map(|(_, value)| value)
            })
        });
        let name = of_host.or_else(|| self.0.get("credsStore"))?.as_str()?;
        (!name.is_empty()).then_some(name)
    }

    fn entry_of(&self, authority: &str) -> Option<&Value> {
        let auths = self.0.get("auths")?.as_object()?;
        let exact = auths.get(key_of(authority)).or_else(|| auths.get(authority));
        exact.or_else(|| {
            auths.iter().find(|(key, _)| authority_of(key) == authority_of(authority)).map(|(_, value)| value)
        })
    }

    /// The credentials that the file itself holds for `authority`.
    pub(crate) fn credentials(&self, authority: &str) -> Option<Credentials> {
        let entry = self.entry_of(authority)?.as_object()?;
        let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let Some(token) = text("identitytoken") {
            return Some(Credentials::IdentityToken(token.to_owned()));
        }
        if let Some(encoded) = text("auth") {
            let encoded = encoded.trim().trim_end_matches('=');
            let decoded = String::from_utf8(STANDARD_NO_PAD.decode(encoded).ok()?).ok()?;
            let (username, password) = decoded.split_once(':')?;
            return Some(Credentials::of_pair(
                username.to_owned(),
                password.trim_end_matches('\0').to_owned(),
            ));
        }
        Some(Credentials::of_pair(text("username")?.to_owned(), text("password")?.to_owned()))
    }

    /// Replaces what the file says about `authority`.
    fn set(&mut self, authority: &str, entry: Value) {
        self.remove(authority);
        let auths = self.0.entry("auths").or_insert_with(|| Value::Object(Map::new()));
        if !auths.is_object() {
            *auths = Value::Object(Map::new());
        }
        if let Some(auths) = auths.as_object_mut() {
            auths.insert(key_of(authority).to_owned(), entry);
        }
    }

    /// Takes every entry about `authority` out; whether there was one.
    fn remove(&mut self, authority: &str) -> bool {
        let Some(auths) = self.0.get_mut("auths").and_then(Value::as_object_mut) else { return false };
        let before = auths.len();
        auths.retain(|key, _| authority_of(key) != authority_of(authority));
        auths.len() != before
    }

    /// Replaces the file. A symbolic link stays one: its target is replaced.
    fn write(&self, path: &Path) -> Result<()> {
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let what = || format!("cannot write file `{}`", target.display());
        let directory = target.parent().ok_or_else(|| Error::invalid(what()))?;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).io_context(what)?;
        let mut text = serde_json::to_string_pretty(&self.0)
            .map_err(|e| Error::new(Kind::Internal, what()).because(e))?;
        text.push('\n');
        let temporary =
            directory.join(format!(".{}.{}.new", crate::options::CONFIG_FILE, std::process::id()));
        let written = (|| {
            let _ = std::fs::remove_file(&temporary);
            let mut file =
                std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, &target)?;
            std::fs::File::open(directory)?.sync_all()
        })();
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        written.io_context(what)
    }
}

/// The credentials kept for `authority`, from its helper or the file.
pub(crate) fn find(options: &ClientOptions, authority: &str) -> Result<Option<Credentials>> {
    let given = options.given.iter().find(|(own, _)| key_of(own) == key_of(authority));
    if let Some((_, credentials)) = given {
        return Ok(Some(credentials.clone()));
    }
    let Some(path) = &options.docker_config else { return Ok(None) };
    let file = ConfigFile::read(path)?;
    if let Some(name) = file.helper_of(authority)
        && let Some(found) = Helper::find(options, name)?.get(key_of(authority))?
    {
        return Ok(Some(found));
    }
    Ok(file.credentials(authority))
}

/// Keeps `credentials` for `authority`. `username` is whom an identity token belongs to.
pub(crate) fn store(
    options: &ClientOptions,
    authority: &str,
    username: &str,
    credentials: &Credentials,
) -> Result<Stored> {
    let path = options.docker_config.as_ref().ok_or_else(|| {
        Error::invalid(format!(
            "cannot store credentials of registry `{authority}`: no home directory is known"
        ))
    })?;
    let mut file = ConfigFile::read(path)?;
    if let Some(name) = file.helper_of(authority).map(str::to_owned) {
        let (user, secret) = match credentials {
            Credentials::Password { username, password } => (username.as_str(), password.as_str()),
            Credentials::IdentityToken(token) => (TOKEN_USER, token.as_str()),
        };
        Helper::find(options, &name)?.store(key_of(authority), user, secret)?;
        // Docker lists the registry in the file too, without a secret.
        file.set(authority, Value::Object(Map::new()));
        file.write(path)?;
        return Ok(Stored::Helper(name));
    }
    let entry = match credentials {
        Credentials::Password { username, password } => {
            serde_json::json!({ "auth": STANDARD.encode(format!("{username}:{password}")) })
        }
        Credentials::IdentityToken(token) => {
            serde_json::json!({ "auth": STANDARD.encode(format!("{username}:")), "identitytoken": token })
        }
    };
    file.set(authority, entry);
    file.write(path)?;
    Ok(Stored::Unencrypted(path.clone()))
}

/// Forgets the credentials of `authority`; whether there were any.
pub(crate) fn erase(options: &ClientOptions, authority: &str) -> Result<bool> {
    let Some(path) = &options.docker_config else { return Ok(false) };
    let mut file = ConfigFile::read(path)?;
    let mut found = file.remove(authority);
    if let Some(name) = file.helper_of(authority) {
        let helper = Helper::find(options, name)?;
        if helper.get(key_of(authority))?.is_some() {
            helper.erase(key_of(authority))?;
            found = true;
        }
    }
    if found {
        file.write(path)?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use robot_env_testkit::temporary::TemporaryDirectory;

    fn password(username: &str, password: &str) -> Credentials {
        Credentials::Password { username: username.into(), password: password.into() }
    }

    #[test]
    fn reads_the_forms_of_the_file() {
        let auth = STANDARD.encode("u:p:with:colons");
        for (text, authority, want) in [
            (
                format!(r#"{{"auths":{{"lab:5000":{{"auth":"{auth}"}}}}}}"#),
                "lab:5000",
                Some(password("u", "p:with:colons")),
            ),
            (
                format!(r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{auth}"}}}}}}"#),
                "docker.io",
                Some(password("u", "p:with:colons")),
            ),
            (
                format!(r#"{{"auths":{{"https://lab/v2/":{{"auth":"{auth}"}}}}}}"#),
                "lab",
                Some(password("u", "p:with:colons")),
            ),
            (
                format!(r#"{{"auths":{{"lab":{{"auth":"{auth}","identitytoken":"t"}}}}}}"#),
                "lab",
                Some(Credentials::IdentityToken("t".into())),
            ),
            (r#"{"auths":{"lab":{"username":"u","password":"p"}}}"#.into(), "lab", Some(password("u", "p"))),
            (r#"{"auths":{"lab":{}}}"#.into(), "lab", None),
            (r#"{"auths":{"lab":{"auth":"%%%"}}}"#.into(), "lab", None),
            (r#"{"auths":[]}"#.into(), "lab", None),
            (format!(r#"{{"auths":{{"lab.evil":{{"auth":"{auth}"}}}}}}"#), "lab", None),
            (String::new(), "lab", None),
        ] {
            assert_eq!(ConfigFile::parse(&text).unwrap().credentials(authority), want, "{text}");
        }
        for bad in ["{", "[]", "7"] {
            assert!(ConfigFile::parse(bad).is_err());
        }
    }

    #[test]
    fn a_helper_of_the_host_wins_over_the_store() {
        let file =
            ConfigFile::parse(r#"{"credsStore":"all","credHelpers":{"lab:5000":"lab","docker.io":"hub"}}"#)
                .unwrap();
        for (authority, want) in [("lab:5000", "lab"), ("lab", "all"), ("docker.io", "hub")] {
            assert_eq!(file.helper_of(authority), Some(want));
        }
        assert_eq!(ConfigFile::parse(r#"{"credsStore":""}"#).unwrap().helper_of("lab"), None);
    }

    #[test]
    fn storing_keeps_the_rest_and_the_mode_is_0600() {
        let directory = TemporaryDirectory::new("credentials");
        let path = directory.path().join("docker/config.json");
        let options = ClientOptions { docker_config: Some(path.clone()), ..ClientOptions::default() };
        assert_eq!(find(&options, "lab").unwrap(), None);
        assert_eq!(
            store(&options, "lab", "u", &password("u", "p")).unwrap(),
            Stored::Unencrypted(path.clone())
        );
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen('{', r#"{"detachKeys":"ctrl-q","auths2":{"x":1},"#, 1)).unwrap();
        store(&options, "docker.io", "u", &Credentials::IdentityToken("t".into())).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(find(&options, "lab").unwrap(), Some(password("u", "p")));
        assert_eq!(find(&options, "docker.io").unwrap(), Some(Credentials::IdentityToken("t".into())));
        assert!(erase(&options, "lab").unwrap());
        assert!(!erase(&options, "lab").unwrap());
        let value: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!((value["detachKeys"].as_str(), &value["auths2"]["x"]), (Some("ctrl-q"), &Value::from(1)));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_linked_file_stays_a_link() {
        let directory = TemporaryDirectory::new("credentials");
        let (real, link) = (directory.path().join("real.json"), directory.path().join("config.json"));
        std::fs::write(&real, "{}").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let options = ClientOptions { docker_config: Some(link.clone()), ..ClientOptions::default() };
        store(&options, "lab", "u", &password("u", "p")).unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(std::fs::read_to_string(&real).unwrap().contains("auth"));
    }

    #[test]
    fn a_secret_is_never_printed() {
        assert!(!format!("{:?}", password("u", "secret")).contains("secret"));
        assert!(!format!("{:?}", Credentials::IdentityToken("secret".into())).contains("secret"));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,200}", authority in "[a-z:.0-9]{0,10}") {
            if let Ok(file) = ConfigFile::parse(&text) {
                let _ = (file.credentials(&authority), file.helper_of(&authority));
            }
        }

        #[test]
        fn never_panics_on_any_entry(auth in "[A-Za-z0-9+/=%]{0,30}", key in "(https://)?[a-z:/]{0,12}") {
            let text = serde_json::json!({"auths": {key.clone(): {"auth": auth}}}).to_string();
            let _ = ConfigFile::parse(&text).unwrap().credentials(&key);
        }
    }
}
