//! A `docker-credential-NAME` program: `get`, `store` and `erase` over its standard streams.
//!
//! This is the one place of the crate that starts a program.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use robot_env_diag::{Error, IoContext as _, Kind, Result};

use crate::credentials::Credentials;
use crate::options::ClientOptions;
use crate::transport::excerpt;

/// The largest answer that is read, in bytes.
const ANSWER_LIMIT: u64 = 1024 * 1024;

/// A credential helper that was found.
#[derive(Debug)]
pub(crate) struct Helper {
    name: String,
    program: PathBuf,
    time_out: Duration,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

impl Helper {
    /// Looks for `docker-credential-<name>` in the program path.
    pub(crate) fn find(options: &ClientOptions, name: &str) -> Result<Self> {
        let what = format!("cannot use credential helper `{name}`");
        if name.contains('/') || name.contains('\0') {
            return Err(Error::invalid(what).because(Error::invalid("its name must not contain `/`")));
        }
        let program = format!("docker-credential-{name}");
        let found = std::env::split_paths(&options.program_path)
            .filter(|directory| directory.is_absolute())
            .map(|directory| directory.join(&program))
            .find(|path| {
                std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
            });
        let program = found.ok_or_else(|| {
            Error::not_found(what).because(Error::not_found(format!("no program `{program}` in PATH")))
        })?;
        Ok(Helper { name: name.to_owned(), program, time_out: options.time_outs.helper })
    }

    /// The credentials kept under `key`.
    pub(crate) fn get(&self, key: &str) -> Result<Option<Credentials>> {
        let (fine, answer) = self.run("get", key)?;
        if !fine {
            // The helpers say this, in these words, on standard output.
            if answer.contains("credentials not found") {
                return Ok(None);
            }
            return Err(self.failed("get", &answer));
        }
        let answer: Answer = serde_json::from_str(&answer)
            .map_err(|e| self.failed("get", "its answer is malformed").because(e))?;
        Ok((!answer.secret.is_empty()).then(|| Credentials::of_pair(answer.username, answer.secret)))
    }

    /// Keeps a secret under `key`.
    pub(crate) fn store(&self, key: &str, username: &str, secret: &str) -> Result<()> {
        let input =
            serde_json::json!({ "ServerURL": key, "Username": username, "Secret": secret }).to_string();
        let (fine, answer) = self.run("store", &input)?;
        if fine { Ok(()) } else { Err(self.failed("store", &answer)) }
    }

    /// Forgets what is kept under `key`.
    pub(crate) fn erase(&self, key: &str) -> Result<()> {
        let (fine, answer) = self.run("erase", key)?;
        if fine { Ok(()) } else { Err(self.failed("erase", &answer)) }
    }

    fn failed(&self, verb: &str, why: &str) -> Error {
        Error::new(Kind::Denied, format!("credential helper `{}` cannot {verb} credentials", self.name))
            .because(Error::new(Kind::Denied, excerpt(why)))
    }

    /// Whether it succeeded, and what it wrote to standard output.
    fn run(&self, verb: &str, input: &str) -> Result<(bool, String)> {
        let what = || format!("cannot run credential helper `{}`", self.program.display());
        let mut child = Command::new(&self.program)
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .io_context(what)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let input = input.to_owned();
        // Both streams are served from aside, so that a helper that neither reads nor writes is
        // still given up after the time-out.
        let writer = std::thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
        let reader = std::thread::spawn(move || {
            let mut out = Vec::new();
            stdout.map_or(Ok(0), |stdout| stdout.take(ANSWER_LIMIT).read_to_end(&mut out)).map(|_| out)
        });
        let end = Instant::now() + self.time_out;
        let status = loop {
            if let Some(status) = child.try_wait().io_context(what)? {
                break status;
            }
            if Instant::now() >= end {
                stop(&mut child);
                return Err(Error::new(Kind::Unavailable, what()).because(Error::new(
                    Kind::Unavailable,
                    format!("it gave no answer in {} s", self.time_out.as_secs()),
                )));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        // A helper may refuse without reading all of its input.
        let _ = writer.join();
        let out = reader.join().unwrap_or_else(|_| Ok(Vec::new())).io_context(what)?;
        Ok((status.success(), String::from_utf8_lossy(&out).trim().to_owned()))
    }
}

fn stop(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;
    use robot_env_testkit::temporary::TemporaryDirectory;

    fn options(directory: &TemporaryDirectory, script: &str) -> ClientOptions {
        let program = directory.path().join("docker-credential-test");
        let source = directory.path().join("source");
        std::fs::write(&source, script).unwrap();
        // Copied by a program: a descriptor open for writing here could be inherited by a child of
        // another test, and the script would be "busy".
        assert!(
            Command::new("install").args(["-m", "755"]).args([&source, &program]).status().unwrap().success()
        );
        let mut options = ClientOptions {
            program_path: directory.path().into(),
            docker_config: Some(directory.path().join("config.json")),
            ..ClientOptions::default()
        };
        options.time_outs.helper = Duration::from_secs(10);
        options
    }

    /// Keeps one secret in a file, as the real helpers keep theirs in a key ring.
    const KEEPER: &str = r#"#!/bin/sh
kept="$(dirname "$0")/kept"
case "$1" in
store) cat > "$kept" ;;
get) read -r key; if grep -q "\"$key\"" "$kept" 2>/dev/null; then sed 's/"ServerURL":"[^"]*",*//' "$kept"; else echo "credentials not found in native keychain"; exit 1; fi ;;
erase) rm -f "$kept" ;;
esac
"#;

    #[test]
    fn a_helper_keeps_and_forgets() {
        let directory = TemporaryDirectory::new("helper");
        let options = options(&directory, KEEPER);
        std::fs::write(options.docker_config.as_ref().unwrap(), r#"{"credsStore":"test","x":1}"#).unwrap();
        let secret = Credentials::Password { username: "u".into(), password: "p".into() };
        assert_eq!(crate::credentials::find(&options, "lab").unwrap(), None);
        assert_eq!(
            crate::credentials::store(&options, "lab", "u", &secret).unwrap(),
            crate::credentials::Stored::Helper("test".into())
        );
        assert_eq!(crate::credentials::find(&options, "lab").unwrap(), Some(secret));
        let text = std::fs::read_to_string(options.docker_config.as_ref().unwrap()).unwrap();
        assert!(text.contains("\"lab\": {}") && text.contains("\"x\": 1"), "{text}");
        assert!(crate::credentials::erase(&options, "lab").unwrap());
        assert!(!crate::credentials::erase(&options, "lab").unwrap());
    }

    #[test]
    fn failures_are_told_apart() {
        let directory = TemporaryDirectory::new("helper");
        let options = options(&directory, "#!/bin/sh\necho 'the key ring is locked'; exit 1\n");
        let error = Helper::find(&options, "test").unwrap().get("lab").unwrap_err();
        assert_eq!(error.causes(), ["the key ring is locked"]);
        assert_eq!(Helper::find(&options, "absent").unwrap_err().kind(), Kind::NotFound);
        assert_eq!(Helper::find(&options, "../x").unwrap_err().kind(), Kind::InvalidInput);
    }

    #[test]
    fn one_that_hangs_is_given_up() {
        let directory = TemporaryDirectory::new("helper");
        let mut options = options(&directory, "#!/bin/sh\nexec sleep 600\n");
        options.time_outs.helper = Duration::from_millis(200);
        assert_eq!(Helper::find(&options, "test").unwrap().get("lab").unwrap_err().kind(), Kind::Unavailable);
    }
}
