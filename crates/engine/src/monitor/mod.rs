//! What cares for a running process: the monitor of a container, and that of each exec.
//!
//! It is a process of its own, started by [`crate::launch`]. It makes the process, moves its
//! streams, writes the log, checks health, restarts by the policy, and records how it all ended.
//! Its liveness is a lock ([`crate::records::Records::monitor_lock`]): when it is killed, the
//! kernel frees the lock, and the next command cleans up.

mod container;
mod exec;
mod health;
mod log;
mod restart;
mod scope;
mod supervise;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;

use robot_env_diag::{Context, Kind, Result};
use robot_env_runtime::{Console, ExternalRuntime, Stdio};
use robot_env_spec::HostFacts;
use robot_env_sys::cgroup::Hierarchies;
use robot_env_sys::{cgroup, mount, namespace, poll, process};

pub(crate) use container::is_own as is_own_runtime;
pub(crate) use exec::{ExecOrder, check_user};
#[cfg(test)]
pub(crate) use log::LogWriter;
pub(crate) use supervise::Aside;

use crate::engine::Engine;
use crate::launch::{Answer, Orders, Role};
use crate::monitor::supervise::ProcessIo;
use crate::stream::Stream;

/// Runs a monitor: the arguments behind [`crate::MONITOR`]. Returns its exit code, which nobody
/// looks at.
pub fn main(args: &[OsString]) -> i32 {
    let Ok(orders) = Orders::parse(args) else { return 125 };
    let _ = rustix::thread::set_name(c"robot-env-mon");
    // Nothing of the user's terminal and directory is a monitor's.
    process::reset_signals();
    process::ignore_broken_pipes();
    let _ = rustix::process::chdir("/");
    let prepared = process::new_session()
        .and_then(|()| process::become_subreaper())
        .context(Kind::Internal, || "cannot become a reaper".into())
        .and_then(|()| Engine::open(&orders.options));
    match prepared {
        Ok(engine) => {
            // All that needs no container is done while the front still works for it.
            let ground = Ground::of(&engine);
            match (orders.subject(), orders.role) {
                (Ok(None), _) => {}
                (Ok(Some((id, lock))), Role::Container) => container::run(engine, ground, id, lock, orders),
                (Ok(Some((id, _))), Role::Exec) => exec::run(&engine, ground, &id, orders),
                (Err(error), _) => drop(orders.answer(&Answer::Failed(error.to_report()))),
            }
        }
        Err(error) => {
            orders.answer(&Answer::Failed(error.to_report()));
            return 1;
        }
    }
    0
}

/// The host as it is now.
struct Ground {
    hierarchies: Hierarchies,
    host: HostFacts,
}

impl Ground {
    fn of(engine: &Engine) -> Ground {
        let hierarchies = cgroup::detect();
        Ground { host: engine.host_facts_with(&hierarchies), hierarchies }
    }
}

/// The far ends of a process's streams, and the near ones.
fn streams(tty: bool, stdin_open: bool, stdin_once: bool) -> Result<(Console, ProcessIo)> {
    if tty {
        let io = ProcessIo { stdin: None, outputs: Vec::new(), terminal: None, stdin_once };
        return Ok((Console::Terminal { size: (0, 0) }, io));
    }
    let (stdout, stdout_far) = poll::pipe()?;
    let (stderr, stderr_far) = poll::pipe()?;
    let (stdin_far, stdin) = if stdin_open {
        let (far, near) = poll::pipe()?;
        (far, Some(near))
    } else {
        (null()?, None)
    };
    let stdio = Stdio { stdin: stdin_far, stdout: stdout_far, stderr: stderr_far };
    let outputs = vec![(Stream::Stdout, stdout), (Stream::Stderr, stderr)];
    Ok((Console::Pipes(stdio), ProcessIo { stdin, outputs, terminal: None, stdin_once }))
}

fn null() -> Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .context(Kind::Internal, || "cannot open `/dev/null`".into())
}

/// Gives this process, which has one thread, a mount namespace of its own that passes nothing on to
/// the host's.
fn own_mounts() -> Result<()> {
    namespace::unshare(libc::CLONE_NEWNS)?;
    let propagation = mount::PropagationFlags::DOWNSTREAM | mount::PropagationFlags::REC;
    Ok(mount::set_propagation("/", propagation)?)
}

/// Another runtime, for a caller with mounts of its own. `crun` refuses control groups of version 1
/// beside a `unified` hierarchy, which has no controllers then: it is hidden.
fn external_runtime(engine: &Engine, name: &str, command: &[String]) -> ExternalRuntime {
    const UNIFIED: &str = "/sys/fs/cgroup/unified";
    if cgroup::detect().version() == cgroup::Version::V1 && Path::new(UNIFIED).exists() {
        let _ = mount::detach(UNIFIED);
    }
    let (program, arguments) = match command {
        [program, arguments @ ..] => (program.as_str(), arguments),
        [] => (name, command),
    };
    let mut external = ExternalRuntime::new(program);
    external.arguments = arguments.iter().map(Into::into).collect();
    external.root = Some(engine.paths.run_root().join("runtimes"));
    external
}

/// Takes the terminal's master into the streams.
fn adopt_terminal(io: &mut ProcessIo, master: Option<OwnedFd>) -> Result<()> {
    if let Some(master) = master {
        let copy = rustix::io::fcntl_dupfd_cloexec(&master, 3)
            .context(Kind::Internal, || "cannot use the container's terminal".into())?;
        io.outputs = vec![(Stream::Stdout, copy)];
        io.terminal = Some(master);
    }
    Ok(())
}
