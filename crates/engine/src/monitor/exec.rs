//! The monitor of a further process in a container.

use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::Spec;
use robot_env_device::Session;
use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_runtime::{self as runtime, Console, Exec};
use robot_env_spec::{ContainerId, HostFacts, ProcessOverrides, ResolvedUser, plan_exec, resolve_user};
use robot_env_sys::cgroup::{self, Cgroup, Hierarchies};
use robot_env_sys::process;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::launch::{Answer, Orders};
use crate::monitor::supervise::{Audience, Nothing, ProcessIo, supervise};
use crate::monitor::{Ground, adopt_terminal, external_runtime, is_own_runtime, own_mounts, streams};
use crate::record::{ContainerRecord, ProcessRecord};
use crate::records::{Container, read_json};
use crate::rootfs::read_lines;
use crate::stream::ExitNotice;

/// What an exec is to do, as the front says it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ExecOrder {
    /// Its id, for events.
    pub(crate) id: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) working_dir: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
    pub(crate) privileged: bool,
    #[serde(default)]
    pub(crate) gui: bool,
    pub(crate) session: Session,
}

/// A process in a container, and the ends of its streams.
struct Running {
    pid: i32,
    pidfd: OwnedFd,
    io: ProcessIo,
}

/// Runs the monitor of an exec until its process has ended.
pub(super) fn run(engine: &Engine, ground: Ground, id: &ContainerId, orders: Orders) {
    match make(engine, ground, id, &orders) {
        Ok((container, exec, mut running)) => {
            let client = orders.client.as_ref().and_then(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3).ok());
            let audience = Audience::new(None, client);
            drop(orders.answer(&Answer::Running { pid: running.pid, warnings: Vec::new() }));
            let Ok(mut audience) = audience else { return };
            process::trim_memory();
            let watched =
                supervise(running.pidfd.as_fd(), &mut running.io, &mut audience, &mut None, &mut Nothing);
            let code = process::wait(&running.pidfd).unwrap_or(255);
            let told = [("execID", exec), ("exitCode", code.to_string())];
            engine.tell(&container, "exec_die", &told);
            audience.dismiss(&ExitNotice { code, error: watched.err().map(|error| error.to_report()) });
        }
        Err(error) => drop(orders.answer(&Answer::Failed(error.to_report()))),
    }
}

fn make(
    engine: &Engine,
    mut ground: Ground,
    id: &ContainerId,
    orders: &Orders,
) -> Result<(ContainerRecord, String, Running)> {
    let order: ExecOrder = orders.request()?;
    let container = engine.records.load(id)?;
    if container.state.state.process().is_some_and(|process| process.cgroup.is_some()) {
        ground.enter(&container.record)?;
    }
    let place = Place::of(engine, &container, &ground.hierarchies)?;
    let user = match &order.user {
        Some(user) => place.find_user(user)?,
        None => place.own_user(),
    };
    let exec = crate::device::Exec {
        engine,
        record: &container.record,
        session: &order.session,
        container: &place.spec,
        pid: place.process.pid,
        gui: order.gui,
    };
    let env = exec.environment(&user, &ground.host)?;
    let overrides = ProcessOverrides {
        args: order.args,
        env: env.into_iter().chain(order.env).collect(),
        working_dir: order.working_dir,
        tty: order.tty,
        privileged: order.privileged,
    };
    crate::userns::check_user(&container.record, user.uid, user.gid)?;
    let planned = plan_exec(&place.spec, &overrides, &user, &ground.host)?;
    let (console, mut io) = streams(order.tty, order.stdin, true)?;
    let (pid, pidfd, master) = place.run(engine, &planned, console)?;
    adopt_terminal(&mut io, master)?;
    Ok((container.record, order.id, Running { pid, pidfd, io }))
}

/// Whether a running container's files know `user`.
pub(crate) fn check_user(engine: &Engine, container: &Container, user: &str) -> Result<()> {
    Place::of(engine, container, &cgroup::detect())?.find_user(user).map(drop)
}

/// A running container, as something that processes are put into.
pub(super) struct Place {
    id: String,
    process: ProcessRecord,
    pidfd: OwnedFd,
    spec: Spec,
    cgroup: Option<Cgroup>,
}

impl Place {
    pub(super) fn of(engine: &Engine, container: &Container, hierarchies: &Hierarchies) -> Result<Place> {
        let name = &container.record.name;
        let not_running =
            || Error::new(Kind::Conflict, format!("container {} is not running", container.record.id));
        let process = container.state.state.process().ok_or_else(not_running)?.clone();
        let pidfd = process::pidfd_open(process.pid).map_err(|_| not_running())?;
        if process::start_time(process.pid) != Some(process.start_time) {
            return Err(not_running());
        }
        let config = engine.paths.container_run(&container.record.id).join("config.json");
        let spec: Spec = read_json(&config)?.ok_or_else(|| {
            Error::new(Kind::Corrupt, format!("the run state of container `{name}` is gone"))
        })?;
        let cgroup = process.cgroup.as_ref().map(|path| hierarchies.cgroup(path, &[]));
        Ok(Place { id: container.record.id.as_str().to_owned(), process, pidfd, spec, cgroup })
    }

    /// The user that the container's own process is.
    pub(super) fn own_user(&self) -> ResolvedUser {
        let user = self.spec.process().as_ref().map(|process| process.user().clone()).unwrap_or_default();
        let additional_gids = user.additional_gids().clone().unwrap_or_default();
        let home = self
            .spec
            .process()
            .as_ref()
            .and_then(|process| process.env().as_ref()?.iter().find_map(|v| v.strip_prefix("HOME=")))
            .unwrap_or("/")
            .to_owned();
        ResolvedUser { uid: user.uid(), gid: user.gid(), additional_gids, home }
    }

    /// A user by name or number, as the container's files know it now.
    fn find_user(&self, user: &str) -> Result<ResolvedUser> {
        let path = format!("/proc/{}/root", self.process.pid);
        let root = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .io_context(|| format!("cannot open `{path}`"))?;
        let read = |path: &str| read_lines(root.as_fd(), path);
        resolve_user(Some(user), &[], &read("/etc/passwd")?, &read("/etc/group")?)
    }

    /// Plans a process that the container's own user runs.
    pub(super) fn plan(&self, args: Vec<String>, host: &HostFacts) -> Result<oci_spec::runtime::Process> {
        let overrides = ProcessOverrides { args, ..Default::default() };
        plan_exec(&self.spec, &overrides, &self.own_user(), host)
    }

    /// Puts a process into the container and lets it run: its pid, descriptor and terminal.
    pub(super) fn run(
        &self,
        engine: &Engine,
        planned: &oci_spec::runtime::Process,
        console: Console,
    ) -> Result<(i32, OwnedFd, Option<OwnedFd>)> {
        if let Some(name) = self.process.runtime.as_deref().filter(|name| !is_own_runtime(name)) {
            own_mounts()?;
            let record = engine.records.load_record(&self.id.parse()?)?;
            let external = external_runtime(engine, name, &record.spec.runtime_command);
            let bundle = engine.paths.run_root().join("containers").join(&self.id);
            let made = external.exec(&self.id, &bundle, planned, console)?;
            return Ok((made.pid, made.pidfd, made.master));
        }
        let cache = engine.paths.seccomp();
        let created = runtime::exec(Exec {
            pid: self.process.pid,
            pidfd: self.pidfd.as_fd(),
            process: planned,
            cgroup: self.cgroup.as_ref(),
            seccomp: self.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()),
            seccomp_cache: Some(&cache),
            console,
            preserve_fds: 0,
        })
        .within(|| "OCI runtime exec failed".into())?;
        let running = created.start().within(|| "OCI runtime exec failed".into())?;
        Ok((running.pid, running.pidfd, running.master))
    }
}
