use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio as CommandStdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::Process as ProcessSpec;
use robot_env_diag::{Context, Error, IoContext, Kind, Result, Within};
use robot_env_sys::{process, socket};

use crate::{Console, State, Stdio};

/// How long a runtime may take to send a terminal's master after it has ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// Any OCI runtime, driven by its command line.
///
/// It needs a bundle: a directory with `config.json` whose `root.path` the runtime can see, so the
/// root file system must be mounted somewhere. The container's first process becomes a child of the
/// caller only if the caller is a subreaper.
#[derive(Clone, Debug)]
pub struct ExternalRuntime {
    /// The program, by path or by name.
    pub program: PathBuf,
    /// Where it keeps its state (`--root`); `None`: its own default.
    pub root: Option<PathBuf>,
    /// Further global arguments, before the command.
    pub arguments: Vec<OsString>,
}

/// A process that an external runtime has made.
#[derive(Debug)]
pub struct ExternalProcess {
    /// Its pid.
    pub pid: i32,
    /// A descriptor of it.
    pub pidfd: OwnedFd,
    /// The terminal's master, where there is one.
    pub master: Option<OwnedFd>,
}

impl ExternalRuntime {
    /// The version that a bundle's config should name: every runtime takes it, while some (crun
    /// before 1.9) refuse every other.
    pub const SPEC_VERSION: &str = "1.0.2";

    /// A runtime with its own defaults.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        ExternalRuntime { program: program.into(), root: None, arguments: Vec::new() }
    }

    /// Makes a container of the bundle; it waits for [`ExternalRuntime::start`].
    ///
    /// # Errors
    /// What the runtime says on its standard error or in its log;
    /// [`Kind::CommandNotFound`] and [`Kind::CommandNotExecutable`] where its words are those.
    pub fn create(&self, id: &str, bundle: &Path, console: Console) -> Result<ExternalProcess> {
        let scratch = Scratch::make(bundle, "create")?;
        let mut command = self.command("create", &scratch);
        command.arg("--bundle").arg(bundle);
        self.make(command, &scratch, console, &[OsStr::new(id)])
            .within(|| format!("cannot create container `{id}` with `{}`", self.program.display()))
    }

    /// Makes and starts a further process; its exit is for the caller to wait for.
    ///
    /// Some runtimes (crun) leave what they could not execute as a zombie: a subreaper has to reap
    /// its children then, or the container, whose pid namespace waits for them, never ends.
    pub fn exec(
        &self,
        id: &str,
        bundle: &Path,
        spec: &ProcessSpec,
        console: Console,
    ) -> Result<ExternalProcess> {
        let scratch = Scratch::make(bundle, "exec")?;
        let json = serde_json::to_vec(spec).context(Kind::Internal, || "cannot write the process".into())?;
        let file = scratch.path.join("process.json");
        fs::write(&file, json).io_context(|| format!("cannot write `{}`", file.display()))?;
        let mut command = self.command("exec", &scratch);
        command.arg("--detach").arg("--process").arg(&file);
        self.make(command, &scratch, console, &[OsStr::new(id)])
            .within(|| format!("cannot execute in container `{id}` with `{}`", self.program.display()))
    }

    /// Lets the container's program run.
    pub fn start(&self, id: &str) -> Result<()> {
        self.plain(&["start", id]).map(drop)
    }

    /// What the runtime says about the container.
    pub fn state(&self, id: &str) -> Result<State> {
        let output = self.plain(&["state", id])?;
        serde_json::from_slice(&output).context(Kind::Corrupt, || {
            format!("`{} state` did not answer with a state", self.program.display())
        })
    }

    /// Sends a signal to the container's first process.
    pub fn kill(&self, id: &str, signal: i32) -> Result<()> {
        self.plain(&["kill", id, &signal.to_string()]).map(drop)
    }

    /// Removes what the runtime keeps of the container; with `force` a running one too.
    pub fn delete(&self, id: &str, force: bool) -> Result<()> {
        if force { self.plain(&["delete", "--force", id]) } else { self.plain(&["delete", id]) }.map(drop)
    }

    /// Freezes the container's processes.
    pub fn pause(&self, id: &str) -> Result<()> {
        self.plain(&["pause", id]).map(drop)
    }

    /// Lets them go on.
    pub fn resume(&self, id: &str) -> Result<()> {
        self.plain(&["resume", id]).map(drop)
    }

    fn base(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(root) = &self.root {
            command.arg("--root").arg(root);
        }
        command.args(&self.arguments);
        command
    }

    fn command(&self, verb: &str, scratch: &Scratch) -> Command {
        let mut command = self.base();
        command.arg("--log").arg(scratch.path.join("log")).args(["--log-format", "json"]);
        command.arg(verb).arg("--pid-file").arg(scratch.path.join("pid"));
        command
    }

    /// A command without streams; its output.
    fn plain(&self, args: &[&str]) -> Result<Vec<u8>> {
        let output = self
            .base()
            .args(args)
            .stdin(CommandStdio::null())
            .output()
            .io_context(|| format!("cannot run `{}`", self.program.display()))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let message = format!("`{} {}` failed", self.program.display(), args[0]);
        Err(failure(&String::from_utf8_lossy(&output.stderr), output.status).within(message))
    }

    /// Runs a command that makes a process.
    fn make(
        &self,
        mut command: Command,
        scratch: &Scratch,
        console: Console,
        last: &[&OsStr],
    ) -> Result<ExternalProcess> {
        let mut listener = None;
        // A runtime's own words go to its log: the standard error is the container's.
        match console {
            Console::Pipes(Stdio { stdin, stdout, stderr }) => {
                command.stdin(stdin).stdout(stdout).stderr(stderr);
            }
            Console::Terminal { .. } => {
                listener = Some(socket::listen_at(scratch.directory.as_fd(), "console.sock")?);
                command.arg("--console-socket").arg(scratch.path.join("console.sock"));
                command.stdin(CommandStdio::null()).stdout(CommandStdio::null()).stderr(CommandStdio::null());
            }
        }
        let status =
            command.args(last).status().io_context(|| format!("cannot run `{}`", self.program.display()))?;
        if !status.success() {
            let log = fs::read_to_string(scratch.path.join("log")).unwrap_or_default();
            return Err(failure(&log, status));
        }
        let master = listener.map(|listener| receive_master(&listener)).transpose()?;
        let path = scratch.path.join("pid");
        let text = fs::read_to_string(&path).io_context(|| format!("cannot read `{}`", path.display()))?;
        let pid =
            text.trim().parse().map_err(|_| Error::new(Kind::Corrupt, format!("`{text}` is not a pid")))?;
        let pidfd = process::pidfd_open(pid)?;
        Ok(ExternalProcess { pid, pidfd, master })
    }
}

/// A directory for what a runtime writes, removed when dropped.
struct Scratch {
    path: PathBuf,
    directory: OwnedFd,
}

impl Scratch {
    fn make(bundle: &Path, verb: &str) -> Result<Scratch> {
        let mut random = [0u8; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .io_context(|| "getrandom()".into())?;
        let path = bundle.join(format!(".{verb}-{:016x}", u64::from_ne_bytes(random)));
        fs::create_dir(&path).io_context(|| format!("cannot make `{}`", path.display()))?;
        let directory = robot_env_sys::fs::open_directory(&path)?;
        Ok(Scratch { path, directory })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn receive_master(listener: &OwnedFd) -> Result<OwnedFd> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut fds =
            [rustix::event::PollFd::from_borrowed_fd(listener.as_fd(), rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
        let _ = rustix::event::poll(&mut fds, Some(&limit));
        if let Some(connection) = socket::accept(listener)? {
            rustix::io::ioctl_fionbio(&connection, false).io_context(|| "ioctl(FIONBIO)".into())?;
            let mut name = [0; 256];
            if let (_, Some(master)) = socket::receive_with_fd(&connection, &mut name)? {
                socket::set_nonblocking(&master)?;
                return Ok(master);
            }
        }
        if Instant::now() > deadline {
            return Err(Error::new(Kind::Unavailable, "the runtime did not send the terminal"));
        }
    }
}

/// What a runtime said, from JSON lines with a `msg`, or text.
fn failure(said: &str, status: ExitStatus) -> Error {
    let message = |line: &str| {
        let entry: serde_json::Value = serde_json::from_str(line).ok()?;
        (entry["level"] == "error").then(|| entry["msg"].as_str().map(str::to_owned))?
    };
    let text = said
        .lines()
        .rev()
        .find_map(message)
        .or_else(|| said.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned))
        .unwrap_or_else(|| status.to_string());
    // runc has its own small words, crun those of strerror(3).
    let lower = text.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let about_program = lower.contains("exec");
    let kind = if about_program && has(&["file not found", "not found in $path", "no such file or directory"])
    {
        Kind::CommandNotFound
    } else if about_program
        && has(&["permission denied", "not permitted", "exec format error", "is a directory"])
    {
        Kind::CommandNotExecutable
    } else if has(&["does not exist", "not exist", "/status`: no such file or directory"]) {
        Kind::NotFound
    } else {
        Kind::Internal
    };
    Error::new(kind, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_runtime_says_has_a_kind() {
        use std::os::unix::process::ExitStatusExt;
        let status = ExitStatus::from_raw(256);
        let json = |msg: &str| {
            format!(
                "{{\"level\":\"warning\",\"msg\":\"w\"}}\n{}\n",
                serde_json::json!({"level": "error", "msg": msg})
            )
        };
        for (said, kind, text) in [
            (
                json("exec: \"x\": executable file not found in $PATH"),
                Kind::CommandNotFound,
                "exec: \"x\": executable file not found in $PATH",
            ),
            (
                json("executable file `x` not found in $PATH: No such file or directory"),
                Kind::CommandNotFound,
                "executable file `x` not found in $PATH: No such file or directory",
            ),
            (
                json("open executable: Operation not permitted"),
                Kind::CommandNotExecutable,
                "open executable: Operation not permitted",
            ),
            (json("exec /x: exec format error"), Kind::CommandNotExecutable, "exec /x: exec format error"),
            (
                "2026-01-01T00:00:00Z: error opening file `/r/c/status`: No such file or directory\n".into(),
                Kind::NotFound,
                "2026-01-01T00:00:00Z: error opening file `/r/c/status`: No such file or directory",
            ),
            ("container does not exist\n\n".into(), Kind::NotFound, "container does not exist"),
            (String::new(), Kind::Internal, "exit status: 1"),
        ] {
            let error = failure(&said, status);
            assert_eq!((error.kind(), error.to_string().as_str()), (kind, text));
        }
    }
}
