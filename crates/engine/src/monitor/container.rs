//! The monitor of a container.

use std::cell::OnceCell;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use oci_spec::runtime::Spec;
use robot_env_device::Session;
use robot_env_diag::{Context, Error, IoContext, Kind, Result, Within};
use robot_env_runtime::{self as runtime, Create, Created, ExternalRuntime};
use robot_env_spec::{ContainerId, HostFacts, IpcMode, ResolvedMount, plan};
use robot_env_sys::cgroup::{Cgroup, Hierarchies};
use robot_env_sys::fs::{self as sys_fs, Durability};
use robot_env_sys::poll::SignalFd;
use robot_env_sys::{mount, namespace, process, socket};
use rustix::fs::{FileType, Mode, OFlags};

use crate::apparmor;
use crate::device::live::Hotplug;
use crate::device::nested::NestedDisplay;
use crate::device::{self, Start};
use crate::engine::Engine;
use crate::launch::{Answer, Orders};
use crate::monitor::health::HealthCheck;
use crate::monitor::log::LogWriter;
use crate::monitor::supervise::{Aside, Audience, Both, Nothing, ProcessIo, supervise};
use crate::monitor::{Ground, adopt_terminal, external_runtime, own_mounts, restart, streams};
use crate::mounts::{self, part_place};
use crate::network::{Joined, Publication, Resolver};
use crate::record::{ContainerRecord, ExitRecord, ProcessRecord, State, StateRecord};
use crate::resolve::file_mount;
use crate::rootfs::Rootfs;
use crate::rootless;
use crate::stream::ExitNotice;
use crate::userns;

/// A process that was made, with what is kept of its making.
struct Started {
    pid: i32,
    pidfd: OwnedFd,
    cgroup: Option<Cgroup>,
    io: ProcessIo,
    external: Option<ExternalRuntime>,
    /// Its networks; kept as long as it runs.
    joined: Joined,
    /// It answers the container's questions of names.
    resolver: Option<Resolver>,
    started: Timestamp,
    /// The same by a clock that nobody sets.
    began: Instant,
    warnings: Vec<String>,
    /// The X server that is its own.
    display: Option<NestedDisplay>,
}

/// A process that waits to become the container's program.
struct Ready {
    gate: Gate,
    process: Started,
}

enum Gate {
    Own(Created),
    External(ExternalRuntime),
}

/// A container's monitor at work.
pub(super) struct Monitor {
    pub(super) engine: Engine,
    pub(super) record: ContainerRecord,
    run: PathBuf,
    /// Whose display and identity the container has.
    session: Session,
    /// Held as long as the monitor lives.
    _alive: OwnedFd,
}

/// Runs the monitor of a container until nothing is left to do for it.
pub(super) fn run(engine: Engine, ground: Ground, id: ContainerId, lock: Option<OwnedFd>, orders: Orders) {
    let prepared = prepare(engine, &id, &orders).and_then(|(monitor, state)| {
        let started = monitor.start(&state, ground)?;
        Ok((monitor, state, started))
    });
    // What the state says holds without it.
    drop(lock);
    match prepared {
        Ok((mut monitor, state, started)) => {
            let answer = Answer::Running { pid: started.pid, warnings: started.warnings.clone() };
            // The first client joins before the front is told, so that it misses nothing.
            let listener = listen(&monitor.run).ok();
            let client = orders.client.as_ref().and_then(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3).ok());
            let audience = Audience::new(listener, client);
            drop(orders.answer(&answer));
            match audience {
                Ok(mut audience) => {
                    if monitor.record.spec.step.is_some() {
                        audience.make_vital();
                    }
                    monitor.care(state, started, audience);
                }
                Err(_) => drop(process::signal(&started.pidfd, libc::SIGKILL)),
            }
            // Nobody takes it for the container's monitor any more.
            let Monitor { engine, _alive: alive, .. } = monitor;
            drop(alive);
            engine.rest_networks();
        }
        Err(error) => drop(orders.answer(&Answer::Failed(error.to_report()))),
    }
}

fn listen(run: &Path) -> Result<OwnedFd> {
    let directory = sys_fs::open_directory(run)?;
    let _ = fs::remove_file(run.join("attach.sock"));
    Ok(socket::listen_at(directory.as_fd(), "attach.sock")?)
}

fn prepare(engine: Engine, id: &ContainerId, orders: &Orders) -> Result<(Monitor, StateRecord)> {
    let session: Session = orders.request()?;
    let run = engine.make_run_directory(id)?;
    let alive = engine
        .records
        .monitor_lock(id)?
        .ok_or_else(|| Error::new(Kind::Conflict, "the container has a monitor already"))?;
    if engine.rootless {
        // Only makes the next command's search short.
        let _ = rootless::hold(engine.paths.run_root());
    }
    let container = engine.records.load(id)?;
    Ok((Monitor { engine, record: container.record, run, session, _alive: alive }, container.state))
}

impl Monitor {
    /// Makes the process and lets it run. The state says so before a single instruction of the
    /// image is executed: a process that nobody could find again there never is.
    fn start(&self, state: &StateRecord, mut ground: Ground) -> Result<Started> {
        let within = || format!("cannot start container `{}`", self.record.name);
        let settled = ground.settle(&self.engine, &self.record);
        let joined = self.engine.join_networks(&self.record).within(within)?;
        let made = self.make(ground, &joined).within(within);
        // Nothing of a volume may be below the run directory when that is removed.
        for (index, _) in self.parts() {
            let _ = mount::detach(&part_place(&self.run, index).to_string_lossy());
        }
        let Ready { gate, process: mut started } = match made {
            Ok(ready) => ready,
            Err(error) => {
                let _ = self.engine.leave_networks(&self.record.id);
                return Err(error);
            }
        };
        let attached = joined
            .attach_process(&self.engine, started.pid)
            .and_then(|()| self.engine.join_can(&self.record, started.pid))
            .and_then(|()| Resolver::open(&self.engine, &self.record, started.pid))
            .map(|resolver| started.resolver = resolver)
            .within(within);
        started.warnings.extend(settled);
        started.warnings.extend(self.shut_in_once(&joined));
        started.joined = joined;
        if let Err(error) = attached {
            let _ = process::signal(&started.pidfd, libc::SIGKILL);
            let _ = process::wait(&started.pidfd);
            self.clean_up(&started);
            return Err(error);
        }
        let running = StateRecord {
            state: State::Running {
                process: ProcessRecord {
                    pid: started.pid,
                    start_time: process::start_time(started.pid).unwrap_or(0),
                    monitor: rustix::process::getpid().as_raw_nonzero().get(),
                    cgroup: started.cgroup.as_ref().map(|cgroup| cgroup.path().to_owned()),
                    runtime: self.record.spec.runtime.clone(),
                },
                started: started.started,
                paused: false,
            },
            health: HealthCheck::initial(&self.record),
            ..state.clone()
        };
        if let Err(error) = self.engine.records.save_state(&self.record.id, &running, Durability::NoSync) {
            let _ = process::signal(&started.pidfd, libc::SIGKILL);
            let _ = process::wait(&started.pidfd);
            self.clean_up(&started);
            return Err(error);
        }
        let begun = match gate {
            Gate::Own(created) => created.start().map(drop),
            Gate::External(external) => {
                let begun = external.start(self.record.id.as_str());
                if begun.is_err() {
                    let _ = external.delete(self.record.id.as_str(), true);
                }
                started.external = Some(external);
                begun
            }
        };
        if let Err(error) = begun.within(within) {
            self.clean_up(&started);
            let _ = self.engine.records.save_state(&self.record.id, state, Durability::NoSync);
            return Err(error);
        }
        started.joined.tell(&self.engine, &self.record, "connect");
        self.engine.tell(&self.record, "start", &[]);
        Ok(started)
    }

    fn make(&self, ground: Ground, joined: &Joined) -> Result<Ready> {
        let (engine, record) = (&self.engine, &self.record);
        let Ground { hierarchies, mut host } = ground;
        let unconfined = self.load_apparmor(&mut host);
        let host = userns::facts(host, record.user_map.as_ref());
        let rootfs = Rootfs::of(engine, record)?;
        let root = userns::AsRoot::of(record)?;
        let start = Start {
            engine,
            record,
            rootfs: &rootfs,
            session: &self.session,
            run: &self.run,
            display: OnceCell::new(),
        };
        let mut edits = start.edits()?;
        let mut resolved = engine.resolve_start(record, &rootfs, &host, joined)?;
        self.mount_parts()?;
        self.mount_images(&mut resolved.mounts)?;
        self.mount_shared_memory(&mut resolved.mounts)?;
        start.identify(&host, &mut resolved, &mut edits)?;
        let display = start.display.into_inner();
        device::apply(&edits, &rootfs, &host, &mut resolved)?;
        let mut planned = plan(&record.spec, &record.image_config, &host, &resolved)?;
        planned.warnings.extend(edits.warnings.iter().cloned());
        planned.warnings.extend(unconfined);
        let mut spec = planned.spec;
        edits.finish(&mut spec);
        engine.leave_out_limits(&mut spec, &hierarchies, &mut planned.warnings);
        if record.spec.robot.realtime {
            let path = resolved.cgroup_path.as_deref();
            planned.warnings.extend(device::realtime::prepare(path, &hierarchies, &host, &mut spec));
        }
        if let Some(process) = spec.process() {
            let owner = userns::owner(record, resolved.user.uid, resolved.user.gid);
            rootfs.make_directory(&process.cwd().to_string_lossy(), owner)?;
        }
        drop(root);
        userns::check_user(record, resolved.user.uid, resolved.user.gid)?;
        let external = record.spec.runtime.as_deref().filter(|name| !is_own(name));
        if external.is_some() {
            spec.set_version(ExternalRuntime::SPEC_VERSION.into());
        }
        write_config(&self.run, &spec)?;
        let tty = record.spec.tty;
        let (console, mut io) = streams(tty, record.spec.stdin_open, record.spec.stdin_once)?;
        if let Some(name) = external {
            let cgroup = resolved.cgroup_path.as_deref().map(|path| hierarchies.cgroup(path, &[]));
            let mut ready = self.make_external(name, console, io, rootfs, cgroup, planned.warnings)?;
            ready.process.display = display;
            return Ok(ready);
        }
        let path = resolved.cgroup_path.clone();
        let seccomp_cache = engine.paths.seccomp();
        let created: Created = runtime::create(Create {
            id: record.id.as_str(),
            spec: &spec,
            bundle: &self.run,
            anchor: &self.run.join("rootfs"),
            rootfs: runtime::Rootfs::Mount(rootfs.into_mount()),
            console,
            cgroup: path.as_deref().map(|path| (&hierarchies as &Hierarchies, path)),
            seccomp_cache: Some(&seccomp_cache),
            preserve_fds: 0,
            gate: None,
            init: record.spec.init,
        })?;
        let copy = |fd: &OwnedFd| fd.try_clone().io_context(|| "cannot copy a descriptor".into());
        adopt_terminal(&mut io, created.master.as_ref().map(copy).transpose()?)?;
        let process = Started {
            pid: created.pid,
            pidfd: copy(&created.pidfd)?,
            cgroup: created.cgroup.clone(),
            io,
            external: None,
            joined: Joined::default(),
            resolver: None,
            started: Timestamp::now(),
            began: Instant::now(),
            warnings: planned.warnings,
            display,
        };
        Ok(Ready { gate: Gate::Own(created), process })
    }

    /// Has the kernel know the AppArmor profile that the container will have unless it names another one;
    /// what the user should hear when it cannot be had.
    fn load_apparmor(&self, host: &mut HostFacts) -> Option<String> {
        let spec = &self.record.spec;
        let named = spec.security.apparmor.as_deref().unwrap_or_default();
        if !host.apparmor || host.rootless || spec.privileged || !matches!(named, "" | apparmor::PROFILE) {
            return None;
        }
        match apparmor::load(self.engine.paths.run_root()) {
            Ok(profile) => {
                host.apparmor_profile = profile.map(str::to_owned);
                None
            }
            Err(error) => {
                Some(format!("the container runs without an AppArmor profile: {}", error.to_report()))
            }
        }
    }

    /// Lets another OCI runtime make the process. It needs the root file system mounted where it
    /// can see it: in a mount namespace that only this monitor and its children have.
    fn make_external(
        &self,
        name: &str,
        console: runtime::Console,
        mut io: ProcessIo,
        rootfs: Rootfs,
        cgroup: Option<Cgroup>,
        warnings: Vec<String>,
    ) -> Result<Ready> {
        if self.record.spec.init {
            return Err(Error::new(
                Kind::Unsupported,
                format!("--init does not work with the runtime `{name}`"),
            ));
        }
        own_mounts()?;
        let anchor = self.run.join("rootfs");
        let target = sys_fs::open_directory(&anchor)?;
        mount::attach(rootfs.mount(), target.as_fd())?;
        let external = external_runtime(&self.engine, name, &self.record.spec.runtime_command);
        let id = self.record.id.as_str();
        let made = external.create(id, &self.run, console)?;
        adopt_terminal(&mut io, made.master)?;
        let process = Started {
            pid: made.pid,
            pidfd: made.pidfd,
            cgroup,
            io,
            external: None,
            joined: Joined::default(),
            resolver: None,
            started: Timestamp::now(),
            began: Instant::now(),
            warnings,
            display: None,
        };
        Ok(Ready { gate: Gate::External(external), process })
    }

    /// That the container does not reach the outside is said once: it may be meant so.
    fn shut_in_once(&self, joined: &Joined) -> Option<String> {
        let reason = joined.shut_in()?;
        let said = format!("containers reach each other, but not the outside: {reason}");
        let told = rootless::once::first(self.engine.paths.run_root(), "shut-in", &said);
        let hint = reason.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        told.then(|| said + &hint)
    }

    /// Images among the mounts, mounted read-only where only this monitor and its children see.
    fn mount_images(&self, mounts: &mut Vec<ResolvedMount>) -> Result<()> {
        let images: Vec<_> = self.record.mounts.iter().filter(|point| point.kind == "image").collect();
        // The store is open in the mount namespace that is left here: its trees are cloned before.
        let trees = images.iter().map(|point| self.engine.image_mount(point)).collect::<Result<Vec<_>>>()?;
        if !trees.is_empty() {
            own_mounts()?;
        }
        for (index, (point, tree)) in images.into_iter().zip(&trees).enumerate() {
            let directory = self.run.join(format!("image-{index}"));
            mounts.push(mounts::attach_image(point, tree.as_fd(), &directory)?);
        }
        Ok(())
    }

    fn parts(&self) -> impl Iterator<Item = (usize, (&str, &str))> {
        let mounts = self.record.mounts.iter().enumerate();
        mounts.filter_map(|(index, point)| Some((index, (point.source.as_str(), point.part()?))))
    }

    /// Parts of volumes, mounted where only this monitor and its children see them.
    fn mount_parts(&self) -> Result<()> {
        if self.parts().next().is_some() {
            own_mounts()?;
        }
        for (index, (volume, subpath)) in self.parts() {
            let tree = mounts::tree_below(volume, subpath)?;
            let place = part_place(&self.run, index);
            let stat = rustix::fs::fstat(&tree).io_context(|| format!("fstat({subpath})"))?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                crate::paths::make_directory(&place, 0o700)?;
            } else {
                fs::write(&place, "").io_context(|| format!("cannot write `{}`", place.display()))?;
            }
            let target = rustix::fs::open(&place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .io_context(|| format!("cannot open `{}`", place.display()))?;
            mount::attach(tree.as_fd(), target.as_fd())?;
        }
        Ok(())
    }

    /// Whoever shares another container's IPC namespace shares its `/dev/shm`. A mount can be cloned
    /// only from within its namespace, so this monitor goes there for a moment.
    fn mount_shared_memory(&self, mounts: &mut Vec<ResolvedMount>) -> Result<()> {
        let IpcMode::Container(id) = &self.record.spec.ipc else { return Ok(()) };
        if mounts.iter().any(|mount| mount.target == "/dev/shm") {
            return Ok(());
        }
        own_mounts()?;
        let own = namespace::open("/proc/self/ns/mnt")?;
        let theirs = namespace::open(&self.engine.namespace_of(id, "mnt")?)?;
        namespace::join(theirs.as_fd(), libc::CLONE_NEWNS)?;
        let shared = mount::clone_path("/dev/shm", false);
        namespace::join(own.as_fd(), libc::CLONE_NEWNS)?;
        let directory = self.run.join("shm");
        crate::paths::make_directory(&directory, 0o700)?;
        mount::attach(shared?.as_fd(), sys_fs::open_directory(&directory)?.as_fd())?;
        mounts.push(file_mount(&directory.to_string_lossy(), "/dev/shm"));
        Ok(())
    }

    /// Cares for the process, and for those that the restart policy makes after it.
    fn care(&mut self, mut state: StateRecord, mut started: Started, mut audience: Audience) {
        let mut backoff = restart::Backoff::default();
        loop {
            let exit = self.watch(&mut started, &mut audience);
            self.clean_up(&started);
            let ran = started.began.elapsed();
            let decision = self.record_exit(&mut state, &exit, &mut backoff, ran);
            self.tell_death(&exit);
            started.joined.tell(&self.engine, &self.record, "disconnect");
            let notice = ExitNotice { code: exit.code, error: None };
            match decision {
                restart::Decision::Stay => {
                    if self.record.spec.auto_remove {
                        self.engine.discard_anonymous_volumes(&self.record, false);
                        let gone = self.engine.unpublish(&self.record);
                        audience.dismiss(&notice);
                        if gone.is_ok() {
                            self.engine.forget_directories(&self.record.id);
                        }
                        // Deleting is nobody's hurry: the next command goes first.
                        process::yield_to_others();
                        let _ = self.engine.store.empty_trash(None);
                    } else {
                        audience.dismiss(&notice);
                        let _ = self.engine.records.save_state(&self.record.id, &state, Durability::Sync);
                    }
                    return;
                }
                restart::Decision::Again(pause) => {
                    audience.dismiss(&notice);
                    match self.again(&mut state, &exit, pause) {
                        Some(next) => started = next,
                        None => return,
                    }
                }
            }
        }
    }

    /// Waits for `pause` and starts the container again; `None` when it is to stay as it is.
    fn again(&mut self, state: &mut StateRecord, exit: &ExitRecord, pause: Duration) -> Option<Started> {
        let stopped = restart::wait(pause);
        let lock = self.engine.records.lock(&self.record.id).ok()?;
        let now = self.engine.records.load(&self.record.id).ok()?;
        if stopped || now.state.stopped_by_user {
            *state = StateRecord { state: State::Exited { exit: exit.clone() }, ..now.state };
            let _ = self.engine.records.save_state(&self.record.id, state, Durability::Sync);
            return None;
        }
        *state = StateRecord { restart_count: now.state.restart_count + 1, ..now.state };
        // Its networks, its name and its limits may be others by now.
        self.record = now.record;
        match self.start(state, Ground::of(&self.engine)) {
            Ok(started) => {
                drop(lock);
                Some(started)
            }
            Err(error) => {
                let exit = ExitRecord { error: Some(error.to_report().to_string()), ..exit.clone() };
                *state = StateRecord { state: State::Exited { exit }, ..state.clone() };
                let _ = self.engine.records.save_state(&self.record.id, state, Durability::Sync);
                None
            }
        }
    }

    /// Moves the streams until the process has ended, and says how it did.
    fn watch(&self, started: &mut Started, audience: &mut Audience) -> ExitRecord {
        let mut log = LogWriter::open(&self.engine.paths.log(&self.record.id), &self.record.spec.log);
        let mut health = HealthCheck::of(&self.engine, &self.record);
        // The monitor of an idle container should cost next to nothing.
        process::trim_memory();
        let mut hotplug = Hotplug::of(&self.engine, &self.record, &self.session);
        let Started { pidfd, io, resolver, joined, .. } = started;
        let mut ports = Publication::new(&self.engine, &self.record.id, joined.held());
        let mut nothing = Nothing;
        let resolver: &mut dyn Aside = match resolver {
            Some(resolver) => resolver,
            None => &mut nothing,
        };
        let mut nothing = Nothing;
        let hotplug: &mut dyn Aside = match &mut hotplug {
            Some(hotplug) => hotplug,
            None => &mut nothing,
        };
        // Ports first: names may ask for what they bring.
        let mut network = Both(&mut ports, resolver);
        let mut rest = Both(&mut network, hotplug);
        let mut all = Both(&mut health, &mut rest);
        let watched = supervise(pidfd.as_fd(), io, audience, &mut log, &mut all);
        drop(ports);
        started.resolver = None;
        let mut error = watched.err().map(|error| error.to_report().to_string());
        let code = process::wait(&started.pidfd).unwrap_or_else(|failure| {
            error.get_or_insert_with(|| failure.to_string());
            255
        });
        if let Some(log) = &mut log {
            log.finish();
            if log.dropped > 0 {
                error
                    .get_or_insert_with(|| format!("{} pieces of the log could not be written", log.dropped));
            }
        }
        ExitRecord {
            code,
            oom_killed: started.cgroup.as_ref().is_some_and(|cgroup| cgroup.oom_kills() > 0),
            started: started.started,
            finished: Timestamp::now(),
            error,
        }
    }

    /// Writes the exit down, and decides what comes next.
    fn record_exit(
        &self,
        state: &mut StateRecord,
        exit: &ExitRecord,
        backoff: &mut restart::Backoff,
        ran: Duration,
    ) -> restart::Decision {
        // A container that cannot be locked is being removed.
        let Ok(_lock) = self.engine.records.lock(&self.record.id) else { return restart::Decision::Stay };
        let mut policy = self.record.spec.restart;
        if let Ok(now) = self.engine.records.load(&self.record.id) {
            *state = now.state;
            policy = now.record.spec.restart;
        }
        let decision = restart::decide(policy, exit.code, state, backoff, ran);
        state.state = match decision {
            restart::Decision::Stay => State::Exited { exit: exit.clone() },
            restart::Decision::Again(_) => State::Restarting { exit: exit.clone() },
        };
        // One that removes itself now needs no state; should this monitor be killed before, the next
        // command finds it without one.
        if !(self.record.spec.auto_remove && decision == restart::Decision::Stay) {
            let _ = self.engine.records.save_state(&self.record.id, state, Durability::NoSync);
        }
        decision
    }

    fn tell_death(&self, exit: &ExitRecord) {
        if exit.oom_killed {
            self.engine.tell(&self.record, "oom", &[]);
        }
        let seconds = exit.finished.duration_since(exit.started).as_secs();
        self.engine.tell(
            &self.record,
            "die",
            &[("exitCode", exit.code.to_string()), ("execDuration", seconds.to_string())],
        );
    }

    /// Takes away what the process left: other processes of it, its cgroup.
    fn clean_up(&self, started: &Started) {
        if let Some(external) = &started.external {
            let _ = external.delete(self.record.id.as_str(), true);
        }
        // Mounts of this monitor's own; most have none.
        for entry in fs::read_dir(&self.run).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let _ = mount::detach(&entry.path().to_string_lossy());
            }
        }
        if let Some(cgroup) = &started.cgroup {
            cgroup.kill();
            let patience = Instant::now() + Duration::from_secs(5);
            while !cgroup.processes().is_empty() && Instant::now() < patience {
                process::reap_others(0);
                std::thread::sleep(Duration::from_millis(1));
            }
            cgroup.remove();
        }
        if let Some(display) = &started.display {
            display.end();
        }
        process::reap_others(0);
        if !started.joined.places().is_empty() || self.engine.has_joined_later(&self.record.id) {
            let _ = self.engine.leave_networks(&self.record.id);
            started.joined.free_ports();
        }
        // Whoever finds it cleans up after a monitor that was killed.
        let _ = fs::remove_file(self.run.join("config.json"));
    }
}

/// Whether a runtime's name means ours. `nvidia` does too, with what the image's variables ask for.
pub(crate) fn is_own(name: &str) -> bool {
    matches!(name, "" | "robot-env" | device::NVIDIA)
}

fn write_config(run: &Path, spec: &Spec) -> Result<()> {
    let bytes =
        serde_json::to_vec(spec).context(Kind::Internal, || "cannot write the runtime spec".into())?;
    let path = run.join("config.json");
    fs::write(&path, bytes).io_context(|| format!("cannot write `{}`", path.display()))
}

/// Signals that a monitor hears while it waits to start its container again.
pub(super) fn stop_signals() -> Result<SignalFd> {
    Ok(SignalFd::new(&[libc::SIGTERM])?)
}
