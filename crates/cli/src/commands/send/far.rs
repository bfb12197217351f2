//! One connection to the other machine: first it says what it has, then it takes what is sent.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use robot_env_diag::{Error, IoContext, Kind, Result};
use robot_env_layer::Compression;
use robot_env_oci::{ChainId, DiffId, LayerChain};

use super::destination::Destination;

/// What the other side may say of its layers, in bytes.
const ANSWER_LIMIT: u64 = 64 << 20;

/// What runs there. It stands in single quotes for whatever shell the user has, so it has none itself.
/// `$p` may be several words. After its answer it reads the arguments of the program, a line each, and
/// an empty line; the rest of its input is the program's. The containerd store of Docker takes no
/// archive that lacks layers, and neither does podman.
const SCRIPT: &str = "\
if [ -z \"$p\" ]; then for q in robot-env docker; do \
if command -v $q >/dev/null 2>&1; then p=$q; break; fi; done; fi; \
if [ -z \"$p\" ]; then echo none; exit 0; fi; \
echo \"program $p\"; \
case \"$p $($p info --format \"{{.DriverStatus}}\" 2>/dev/null)\" in \
*podman*|*io.containerd.snapshotter*) ;; \
*) $p images --all --quiet --no-trunc | sort -u | while read -r i; do \
$p image inspect --format \"{{json .RootFS.Layers}}\" \"$i\" </dev/null; done;; esac; \
echo end; set --; \
while IFS= read -r l; do if [ -z \"$l\" ]; then exec $p \"$@\" >/dev/null; fi; set -- \"$@\" \"$l\"; done";

/// The connection.
pub(super) struct Far {
    /// The machine, for messages.
    host: String,
    program: String,
    child: Option<Child>,
    present: BTreeSet<ChainId>,
}

impl Far {
    /// Connects and asks what is there.
    ///
    /// # Errors
    /// `Unavailable` where ssh fails, or nothing there takes images.
    pub(super) fn connect(to: &Destination, program: Option<&str>) -> Result<Far> {
        let program = program.unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._- ".contains(c);
        if !program.chars().all(plain) || program.starts_with('-') {
            return Err(Error::invalid(format!("invalid --program `{program}`: it is no program's name")));
        }
        let mut command = Command::new("ssh");
        if let Some(port) = to.port {
            command.args(["-p", &port.to_string()]);
        }
        command.args(["--", &to.host, &format!("sh -c 'p=\"{program}\"; {SCRIPT}'")]);
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let child = spawned.io_context(|| "cannot run `ssh`".into())?;
        let mut far = Far {
            host: to.host.clone(),
            program: String::new(),
            child: Some(child),
            present: BTreeSet::new(),
        };
        far.listen()?;
        Ok(far)
    }

    fn listen(&mut self) -> Result<()> {
        let out = self.child.as_mut().and_then(|child| child.stdout.take());
        let lines = out.map(|out| BufReader::new(out.take(ANSWER_LIMIT)).lines());
        for line in lines.into_iter().flatten() {
            // What is no text is noise of a login shell.
            let Ok(line) = line else { continue };
            if line == "end" && !self.program.is_empty() {
                return Ok(());
            }
            if line == "none" {
                return Err(unavailable(format!(
                    "cannot send to `{}`: neither robot-env nor Docker is installed there",
                    self.host
                ))
                .with_hint("name the program with --program, e.g. `--program /opt/bin/robot-env`"));
            }
            match line.strip_prefix("program ") {
                Some(program) => program.clone_into(&mut self.program),
                None => self.present.extend(chain(&line)),
            }
        }
        let status = self.wait()?;
        Err(unavailable(format!("cannot ask `{}` for its images: ssh ended with {status}", self.host)))
    }

    /// The layers that are there.
    pub(super) fn present(&self) -> &BTreeSet<ChainId> {
        &self.present
    }

    /// What the program there surely understands and what is worth it.
    pub(super) fn compression(&self) -> Compression {
        if self.program.ends_with("robot-env") { Compression::Zstd } else { Compression::None }
    }

    /// Starts the program there with these arguments, none of which has a line break; what is written
    /// to the result is its input.
    pub(super) fn begin(&mut self, words: &[String]) -> Result<ChildStdin> {
        let input = self.child.as_mut().and_then(|child| child.stdin.take());
        let mut input = input.ok_or_else(|| Error::new(Kind::Internal, "ssh has no input"))?;
        let text: String = words.iter().map(|word| format!("{word}\n")).collect();
        // That it is gone shows in its end.
        let _ = input.write_all(format!("{text}\n").as_bytes());
        Ok(input)
    }

    /// Waits for the program there, to which `what` was `sent`.
    pub(super) fn end(&mut self, what: &str, sent: Result<ChildStdin>) -> Result<()> {
        let sent = sent.map(drop);
        let status = self.wait()?;
        if status.success() {
            return sent;
        }
        // A pipe that breaks is only the echo of what the other side said on standard error.
        if let Err(error) = sent
            && !has_broken_pipe(&error)
        {
            return Err(error);
        }
        let host = &self.host;
        Err(unavailable(format!("cannot send {what} to `{host}`: the other side ended with {status}")))
    }

    fn wait(&mut self) -> Result<std::process::ExitStatus> {
        match self.child.take() {
            Some(mut child) => child.wait().io_context(|| "cannot wait for ssh".into()),
            None => Err(Error::new(Kind::Internal, "ssh has ended before")),
        }
    }
}

impl Drop for Far {
    /// Nothing is to be sent after all.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn unavailable(text: String) -> Error {
    Error::new(Kind::Unavailable, text)
}

fn has_broken_pipe(error: &Error) -> bool {
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = at {
        if cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
        {
            return true;
        }
        at = cause.source();
    }
    false
}

/// The chain of an image whose layers are listed in JSON; nothing for anything else.
fn chain(line: &str) -> Vec<ChainId> {
    let layers = serde_json::from_str::<Vec<DiffId>>(line).unwrap_or_default();
    LayerChain::new(&layers).links().iter().map(|(_, id)| id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_layers_are_chains() {
        let digest = |c: char| format!("sha256:{}", c.to_string().repeat(64));
        let two = chain(&format!("[\"{}\",\"{}\"]", digest('a'), digest('b')));
        assert_eq!(two.len(), 2);
        assert_eq!(chain(&format!("[\"{}\"]", digest('a'))), two[..1]);
        for noise in ["", "Welcome to arm", "null", "[1]", "[\"sha256:zz\"]"] {
            assert!(chain(noise).is_empty(), "{noise}");
        }
    }

    #[test]
    fn the_script_fits_into_quotes() {
        assert!(!SCRIPT.contains(['\'', '\n', '!']));
    }
}
