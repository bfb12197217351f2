//! Files of git repositories, as `git` brings them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use robot_env_diag::{Error, IoContext, Kind, Result};

use crate::request::Secret;

/// What of which repository is wanted: `ADDRESS#REF:DIRECTORY`, or with a query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GitAddress {
    /// The repository, as `git` takes it.
    pub(crate) remote: String,
    /// A branch, tag or commit; `None`: the repository's `HEAD`.
    pub(crate) reference: Option<String>,
    /// A directory of it.
    pub(crate) directory: Option<String>,
    /// The commit that it must be, or its beginning.
    pub(crate) checksum: Option<String>,
    /// Whether `.git` is kept, where the address says so.
    pub(crate) keep_git_dir: Option<bool>,
    /// Whether submodules are left out.
    pub(crate) no_submodules: bool,
}

/// What `git` is given beside.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    /// The socket of an ssh agent.
    pub(crate) agent: Option<PathBuf>,
    /// What is sent to the server as its `Authorization`.
    pub(crate) authorization: Option<String>,
    /// Whether repositories of this machine may be read (`file://`), and the user's own settings: for
    /// the context of a build, which the user names, and not for what a Dockerfile names.
    pub(crate) trusted: bool,
}

impl GitAddress {
    /// Reads an address; `None` for what is none of a repository.
    ///
    /// # Errors
    /// `InvalidInput` for a query that is not understood.
    pub(crate) fn parse(text: &str) -> Result<Option<GitAddress>> {
        let (address, part) = text.split_once('#').unwrap_or((text, ""));
        let (address, query) = match address.split_once('?') {
            Some((address, query)) if address.contains("://") => (address, query),
            _ => (address, ""),
        };
        let is_git = address.starts_with("git@")
            || ["git://", "ssh://", "file://"].iter().any(|scheme| address.starts_with(scheme))
            || address.starts_with("github.com/")
            || ((address.starts_with("http://") || address.starts_with("https://"))
                && Path::new(address).extension().is_some_and(|end| end == "git"));
        if !is_git {
            return Ok(None);
        }
        let remote = if address.starts_with("github.com/") {
            format!("https://{address}")
        } else {
            address.to_owned()
        };
        let (reference, directory) = part.split_once(':').unwrap_or((part, ""));
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let mut found = GitAddress {
            remote,
            reference: some(reference),
            directory: some(directory),
            ..GitAddress::default()
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let flag = || match value {
                "" | "1" | "true" => Ok(true),
                "0" | "false" => Ok(false),
                _ => Err(Error::invalid(format!("invalid value `{value}` for `{key}` in `{text}`"))),
            };
            match key {
                "ref" => found.reference = some(value),
                "branch" => found.reference = Some(format!("refs/heads/{value}")),
                "tag" => found.reference = Some(format!("refs/tags/{value}")),
                "subdir" => found.directory = some(value),
                "checksum" | "commit" => found.checksum = some(value),
                "keep-git-dir" => found.keep_git_dir = Some(flag()?),
                "submodules" => found.no_submodules = !flag()?,
                _ => return Err(Error::invalid(format!("`{key}` is not understood in `{text}`"))),
            }
        }
        if found.reference.as_deref().is_some_and(|reference| reference.starts_with('-')) {
            return Err(Error::invalid(format!("`{text}` names no branch, tag or commit")));
        }
        Ok(Some(found))
    }

    /// The authorization that the build's secrets have for it: `GIT_AUTH_HEADER` and `GIT_AUTH_TOKEN`,
    /// those for the host before the others.
    pub(crate) fn authorization(&self, secrets: &BTreeMap<String, Secret>) -> Result<Option<String>> {
        let Some(rest) = self.remote.strip_prefix("https://") else { return Ok(None) };
        let host = rest.split(['/', ':']).next().unwrap_or_default();
        for (name, is_token) in [("GIT_AUTH_HEADER", false), ("GIT_AUTH_TOKEN", true)] {
            for id in [format!("{name}.{host}"), name.to_owned()] {
                let Some(secret) = secrets.get(&id) else { continue };
                let value = match secret {
                    Secret::Value(value) => value.clone(),
                    Secret::File(path) => {
                        fs::read(path).io_context(|| format!("cannot read secret `{id}`"))?
                    }
                };
                let value = String::from_utf8_lossy(&value).trim().to_owned();
                return Ok(Some(if is_token {
                    format!("basic {}", base64(format!("x-access-token:{value}").as_bytes()))
                } else {
                    value
                }));
            }
        }
        Ok(None)
    }

    fn failed(&self, why: &str) -> Error {
        Error::new(Kind::Unavailable, format!("cannot fetch the git repository `{}`: {why}", self.remote))
    }

    /// Runs git; what it prints.
    fn git(&self, access: &Access, directory: &Path, words: &[&str]) -> Result<String> {
        let mut command = Command::new("git");
        command.args(words).current_dir(directory).stdin(Stdio::null());
        // Nothing but what the words say decides.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("GIT_") && name != "GIT_SSL_CAINFO" {
                command.env_remove(name);
            }
        }
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_LFS_SKIP_SMUDGE", "0").env("LC_ALL", "C");
        let protocols = if access.trusted { "file:git:http:https:ssh" } else { "git:http:https:ssh" };
        command.env("GIT_ALLOW_PROTOCOL", protocols);
        let mut settings = vec![
            ("core.hooksPath".to_owned(), "/dev/null".to_owned()),
            ("advice.detachedHead".to_owned(), "false".to_owned()),
        ];
        if !access.trusted {
            command.env("GIT_CONFIG_GLOBAL", "/dev/null");
            settings.push(("credential.helper".to_owned(), String::new()));
        }
        if let Some(value) = &access.authorization {
            settings.push((format!("http.{}.extraHeader", self.remote), format!("Authorization: {value}")));
        }
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (number, (key, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        match &access.agent {
            Some(agent) => drop(command.env("SSH_AUTH_SOCK", agent)),
            None if !access.trusted => drop(command.env_remove("SSH_AUTH_SOCK")),
            None => {}
        }
        command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes");
        let out = command.output().map_err(|error| {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            let out = Error::new(Kind::of_io(&error), "cannot run `git`").because(error);
            if missing { out.with_hint("install git") } else { out }
        })?;
        if out.status.success() {
            return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&out.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
        Err(self.failed(last))
    }

    /// The commit that is meant at the moment. `directory` is any.
    ///
    /// # Errors
    /// `Unavailable` when the repository cannot be read, `NotFound` when it has no such branch or tag,
    /// `Corrupt` when the commit is not the one that it must be.
    pub(crate) fn resolve(&self, access: &Access, directory: &Path) -> Result<String> {
        let commit = match self.reference.as_deref() {
            Some(reference) if is_commit(reference) => reference.to_owned(),
            reference => {
                let reference = reference.unwrap_or("HEAD");
                let annotated = format!("{reference}^{{}}");
                let said =
                    self.git(access, directory, &["ls-remote", "--", &self.remote, reference, &annotated])?;
                let listed: Vec<(&str, &str)> =
                    said.lines().filter_map(|line| line.split_once('\t')).collect();
                let of = |name: &str| listed.iter().find(|(_, known)| *known == name).map(|(id, _)| *id);
                let short = reference.trim_start_matches("refs/");
                let names = [
                    format!("{reference}^{{}}"),
                    reference.to_owned(),
                    format!("refs/heads/{reference}"),
                    format!("refs/tags/{reference}^{{}}"),
                    format!("refs/tags/{reference}"),
                    format!("refs/{short}"),
                ];
                let found = names.iter().find_map(|name| of(name)).map(str::to_owned);
                found.ok_or_else(|| {
                    Error::not_found(format!(
                        "the git repository `{}` has no branch or tag `{reference}`",
                        self.remote
                    ))
                })?
            }
        };
        match &self.checksum {
            Some(wanted) if wanted.len() < 7 || !commit.starts_with(wanted.as_str()) => Err(Error::new(
                Kind::Corrupt,
                format!("`{}` is at the commit {commit} instead of {wanted}", self.remote),
            )),
            _ => Ok(commit),
        }
    }

    /// Checks a commit out into the empty directory `into`, with its submodules. Gives the directory
    /// that is wanted of it and when the commit was made, in seconds since the Unix epoch.
    ///
    /// # Errors
    /// `Unavailable` when the repository cannot be read; `NotFound` when it has no such directory.
    pub(crate) fn checkout(
        &self,
        access: &Access,
        commit: &str,
        into: &Path,
        keep_git_dir: bool,
    ) -> Result<(PathBuf, i64)> {
        let git = |words: &[&str]| self.git(access, into, words);
        git(&["init", "-q"])?;
        git(&["remote", "add", "origin", &self.remote])?;
        // By its id alone, else with all that the name has, else with all there is: servers differ.
        let by_id = git(&["fetch", "-q", "--depth", "1", "--no-tags", "origin", commit]);
        if by_id.is_err() {
            let reference = self.reference.as_deref().filter(|name| !is_commit(name)).unwrap_or("HEAD");
            let shallow = git(&["fetch", "-q", "--depth", "1", "origin", reference]);
            let there = format!("{commit}^{{commit}}");
            if shallow.is_err() || git(&["cat-file", "-e", &there]).is_err() {
                git(&["fetch", "-q", "origin", "+refs/heads/*:refs/remotes/origin/*", "--tags"])?;
            }
        }
        git(&["checkout", "-q", "--detach", commit])?;
        if !self.no_submodules && into.join(".gitmodules").is_file() {
            let modules = ["submodule", "update", "-q", "--init", "--recursive", "--depth", "1"];
            git(&modules).or_else(|_| git(&modules[..5]))?;
        }
        let time = git(&["show", "-s", "--format=%ct", commit])?;
        let time = time.trim().parse::<i64>().map_err(|_| self.failed("git names no time"))?;
        if !keep_git_dir {
            remove_git_dirs(into)?;
        }
        let Some(directory) = &self.directory else { return Ok((into.to_owned(), time)) };
        let missing = || {
            Error::not_found(format!("the git repository `{}` has no directory `{directory}`", self.remote))
        };
        let root = fs::canonicalize(into).io_context(|| format!("cannot open `{}`", into.display()))?;
        let found = fs::canonicalize(root.join(directory.trim_start_matches('/'))).ok();
        let found = found.filter(|path| path.starts_with(&root) && path.is_dir()).ok_or_else(missing)?;
        Ok((found, time))
    }
}

/// Takes `.git` away, and the files of that name that submodules have.
fn remove_git_dirs(root: &Path) -> Result<()> {
    let within = || "cannot remove `.git`".to_owned();
    let modules = fs::read_to_string(root.join(".gitmodules")).unwrap_or_default();
    fs::remove_dir_all(root.join(".git")).io_context(within)?;
    for line in modules.lines() {
        let Some(path) = line.trim().strip_prefix("path = ") else { continue };
        let below = root.join(path);
        // A name with `..` is none that git made.
        if !path.split('/').any(|part| part == "..") && below.join(".git").is_file() {
            fs::remove_file(below.join(".git")).io_context(within)?;
        }
    }
    Ok(())
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn base64(bytes: &[u8]) -> String {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let number =
            chunk.iter().fold(0u32, |all, byte| all << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let sign = SIGNS[(number >> (18 - 6 * place)) as usize & 63];
            out.push(if place <= chunk.len() { char::from(sign) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_repositories() {
        let parse = |text: &str| GitAddress::parse(text).unwrap();
        for none in ["https://x.org/a.tar", "http://x.org/", "dir/x.git", "/srv/x.git", "gitty"] {
            assert_eq!(parse(none), None, "{none}");
        }
        for (text, remote, reference, directory) in [
            ("https://x.org/a.git", "https://x.org/a.git", None, None),
            ("https://x.org/a.git#v1", "https://x.org/a.git", Some("v1"), None),
            ("git@x.org:a/b.git#main:sub/d", "git@x.org:a/b.git", Some("main"), Some("sub/d")),
            ("github.com/a/b#:d", "https://github.com/a/b", None, Some("d")),
            ("git://x.org/a?ref=v2&subdir=d", "git://x.org/a", Some("v2"), Some("d")),
            ("ssh://git@x.org/a?tag=t", "ssh://git@x.org/a", Some("refs/tags/t"), None),
        ] {
            let found = parse(text).unwrap();
            assert_eq!(
                (found.remote.as_str(), found.reference.as_deref(), found.directory.as_deref()),
                (remote, reference, directory),
                "{text}"
            );
        }
        assert_eq!(parse("https://x.org/a.git?keep-git-dir=1").unwrap().keep_git_dir, Some(true));
        for bad in ["https://x.org/a.git?what=1", "https://x.org/a.git#--upload-pack=x"] {
            assert!(GitAddress::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn authorization_of_secrets() {
        for (text, want) in [("", ""), ("a", "YQ=="), ("ab", "YWI="), ("abc", "YWJj"), ("abcd", "YWJjZA==")] {
            assert_eq!(base64(text.as_bytes()), want);
        }
        let secrets = BTreeMap::from([
            ("GIT_AUTH_TOKEN".to_owned(), Secret::Value(b"t\n".to_vec())),
            ("GIT_AUTH_TOKEN.y.org".to_owned(), Secret::Value(b"own".to_vec())),
        ]);
        let of =
            |address: &str| GitAddress::parse(address).unwrap().unwrap().authorization(&secrets).unwrap();
        assert_eq!(of("https://x.org/a.git"), Some(format!("basic {}", base64(b"x-access-token:t"))));
        assert_eq!(of("https://y.org/a.git"), Some(format!("basic {}", base64(b"x-access-token:own"))));
        assert_eq!(of("http://x.org/a.git"), None);
    }
}
