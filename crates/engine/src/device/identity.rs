//! The host's user, home, agent and display in a container.

use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;
use std::{fs, io};

use oci_spec::runtime::Spec;
use robot_env_device::gui::{self, PrivateFile, Request};
use robot_env_device::user::{Accounts, HostUser, map};
use robot_env_device::{HostRoot, Session, SpecEdits, bind, inside};
use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_spec::{
    GuiMode, HomeMode, HostFacts, IpcMode, NetworkMode, Resolved, ResolvedUser, resolve_user,
};
use robot_env_sys::fs as sys_fs;
use rustix::fs::OFlags;

use super::Start;
use super::nested::{self, NestedDisplay};
use super::show;
use crate::engine::Engine;
use crate::record::ContainerRecord;

/// Where the container sees the user's SSH agent.
const AGENT: &str = "/run/robot-env/ssh-agent";
/// The directory of a container's private files, below its run directory.
const PLACE: &str = "gui";

impl Start<'_> {
    /// Makes the container's user the host's, and gives it what of the host's session is wanted.
    pub(crate) fn identify(
        &self,
        host: &HostFacts,
        resolved: &mut Resolved,
        edits: &mut SpecEdits,
    ) -> Result<()> {
        let robot = &self.record.spec.robot;
        let root = HostRoot::system();
        let wants_user = robot.user_map_host || robot.home.is_some() || robot.gitconfig;
        let user = if wants_user { HostUser::of(&root, self.session) } else { HostUser::default() };
        if robot.user_map_host {
            self.map_user(&user, host, resolved, edits)
                .within(|| format!("cannot make the host's user `{}` one of the container's", user.name))?;
        }
        if let Some(mode) = robot.home {
            self.add_home(mode, &user, resolved, edits)?;
        }
        if robot.ssh_agent {
            add_agent(&root, self.session, edits);
        }
        if robot.gitconfig {
            add_gitconfig(&root, &user, resolved, edits);
        }
        if robot.gui == GuiMode::Shared {
            let place = self.run.join(PLACE);
            crate::paths::make_directory(&place, 0o711)?;
            let made = request(self.record, &resolved.user, host, &place, false, |request| {
                gui::gui(&root, self.session, request)
            })?;
            write_files(self.record, &place, &made.files, resolved.user.uid)?;
            edits.merge(made.edits);
        }
        if robot.gui == GuiMode::Isolated {
            self.isolate(&root, host, resolved, edits)
                .within(|| "cannot give the container a display".into())?;
        }
        Ok(())
    }

    fn isolate(
        &self,
        root: &HostRoot,
        host: &HostFacts,
        resolved: &Resolved,
        edits: &mut SpecEdits,
    ) -> Result<()> {
        let place = self.run.join(PLACE);
        crate::paths::make_directory(&place, 0o711)?;
        let display = NestedDisplay::start(root, self.session, self.run, &self.record.name, host.rootless)?;
        let made = request(self.record, &resolved.user, host, &place, false, |request| {
            Ok(gui::isolated(root, self.session, request, display.number, &display.cookie))
        })?;
        write_files(self.record, &place, &made.files, resolved.user.uid)?;
        edits.merge(made.edits);
        edits.warnings.extend(display.warning.clone());
        let _ = self.display.set(display);
        Ok(())
    }

    fn map_user(
        &self,
        user: &HostUser,
        host: &HostFacts,
        resolved: &mut Resolved,
        edits: &mut SpecEdits,
    ) -> Result<()> {
        let spec = &self.record.spec;
        if user.uid == 0 {
            return Ok(());
        }
        for (name, value) in [("USER", &user.name), ("LOGNAME", &user.name)] {
            edits.env_defaults.push(format!("{name}={value}"));
        }
        let root = self.rootfs.mount();
        if host.rootless && self.record.user_map.is_none() {
            // Root of the user's own namespace is that very user outside: files, devices and
            // sockets are the user's on both sides.
            if spec.user.is_none() {
                resolved.user = ResolvedUser { home: user.home.clone(), ..ResolvedUser::default() };
                inside::make_directory(root, &user.home, (0, 0))?;
            }
            return Ok(());
        }
        let read = |path: &str| -> Result<Option<String>> {
            // Bytes as letters, and back again: names need not be UTF-8.
            let bytes = sys_fs::read_in_root(root, path, 1 << 20)?;
            Ok(bytes.map(|bytes| bytes.iter().map(|byte| char::from(*byte)).collect()))
        };
        let had = Accounts {
            passwd: read("/etc/passwd")?.unwrap_or_default(),
            group: read("/etc/group")?.unwrap_or_default(),
            shadow: read("/etc/shadow")?,
        };
        let has = |path: &str| sys_fs::open_in_root(root, path, OFlags::PATH).is_ok();
        let shells = [user.shell.as_str(), "/bin/bash", "/bin/sh"];
        let shell = shells.into_iter().find(|shell| has(shell)).unwrap_or("/bin/sh");
        let now = map(user, &had, shell);
        let write = |path: &str, had: &str, now: &str, mode: u32| -> Result<()> {
            if had == now {
                return Ok(());
            }
            let (mode, owner) = match sys_fs::open_in_root(root, path, OFlags::PATH) {
                Ok(file) => {
                    let stat = rustix::fs::fstat(&file).io_context(|| format!("fstat({path})"))?;
                    (stat.st_mode & 0o7777, (stat.st_uid, stat.st_gid))
                }
                Err(_) => (mode, (0, 0)),
            };
            let bytes: Vec<u8> = now.chars().map(|letter| letter as u8).collect();
            inside::write_file(root, path, &bytes, mode, owner)
        };
        write("/etc/passwd", &had.passwd, &now.passwd, 0o644)?;
        write("/etc/group", &had.group, &now.group, 0o644)?;
        if let (Some(had), Some(now)) = (&had.shadow, &now.shadow) {
            write("/etc/shadow", had, now, 0o640)?;
        }
        if has("/etc/sudoers.d") && (has("/usr/bin/sudo") || has("/bin/sudo")) {
            let line = format!("{} ALL=(ALL:ALL) NOPASSWD: ALL\n", sudoers_name(&user.name));
            write(
                "/etc/sudoers.d/robot-env",
                &read("/etc/sudoers.d/robot-env")?.unwrap_or_default(),
                &line,
                0o440,
            )?;
        }
        if !has(&user.home) {
            let (parent, _) = user.home.rsplit_once('/').unwrap_or(("", ""));
            drop(inside::make_directory(root, if parent.is_empty() { "/" } else { parent }, (0, 0))?);
            let owner = crate::userns::owner(self.record, user.uid, user.gid);
            drop(inside::make_directory(root, &user.home, owner)?);
        }
        if spec.user.is_none() {
            let mut groups = spec.group_add.clone();
            groups.extend(user.groups.iter().map(|(_, gid)| gid.to_string()));
            let bytes = |text: &str| text.chars().map(|letter| letter as u8).collect::<Vec<u8>>();
            resolved.user =
                resolve_user(Some(&user.uid.to_string()), &groups, &bytes(&now.passwd), &bytes(&now.group))?;
            resolved.user.home.clone_from(&user.home);
            // What the image says of another user's home.
            if !spec.env.iter().any(|entry| entry.starts_with("HOME=")) {
                edits.env.push(format!("HOME={}", user.home));
            }
        }
        Ok(())
    }

    fn add_home(
        &self,
        mode: HomeMode,
        user: &HostUser,
        resolved: &Resolved,
        edits: &mut SpecEdits,
    ) -> Result<()> {
        if mode == HomeMode::Private {
            // The volume is one of the container's mounts; a new one is root's.
            let volume = resolved.mounts.iter().find(|mount| mount.target == user.home);
            if let Some(volume) = volume.filter(|_| user.uid == resolved.user.uid) {
                let metadata = fs::metadata(&volume.source)
                    .io_context(|| format!("cannot look at `{}`", volume.source))?;
                if metadata.uid() == 0 && user.uid != 0 {
                    chown(&volume.source, Some(user.uid), Some(user.gid))
                        .io_context(|| format!("cannot give `{}` to its user", volume.source))?;
                }
            }
        } else {
            if !Path::new(&user.home).is_dir() || user.home == "/" {
                return Err(Error::not_found(format!(
                    "cannot mount the home directory `{}`: there is no such directory",
                    user.home
                )));
            }
            let mut mount = bind(&user.home, &user.home, mode == HomeMode::ReadOnly);
            mount.options.clear();
            edits.mounts.push(mount);
        }
        if !self.record.spec.env.iter().any(|entry| entry.starts_with("HOME=")) {
            edits.env.push(format!("HOME={}", user.home));
        }
        Ok(())
    }
}

/// sudoers(5) has special characters.
fn sudoers_name(name: &str) -> String {
    name.chars()
        .flat_map(|c| {
            (!c.is_ascii_alphanumeric() && !"_-.".contains(c)).then_some('\\').into_iter().chain([c])
        })
        .collect()
}

fn add_agent(root: &HostRoot, session: &Session, edits: &mut SpecEdits) {
    match session.get("SSH_AUTH_SOCK").filter(|path| root.is_socket(path)) {
        Some(path) => {
            edits.mounts.push(bind(path, AGENT, false));
            edits.env.push(format!("SSH_AUTH_SOCK={AGENT}"));
        }
        None => edits.warnings.push("there is no SSH agent: SSH_AUTH_SOCK does not lead to one".into()),
    }
}

fn add_gitconfig(root: &HostRoot, user: &HostUser, resolved: &Resolved, edits: &mut SpecEdits) {
    if edits.mounts.iter().any(|mount| mount.target == user.home && mount.source == user.home) {
        return; // it is in the home directory
    }
    let places = [".gitconfig", ".config/git/config"];
    match places.into_iter().find(|place| root.read(&format!("{}/{place}", user.home)).is_some()) {
        Some(place) => {
            let home = resolved.user.home.trim_end_matches('/');
            edits.mounts.push(bind(format!("{}/{place}", user.home), format!("{home}/{place}"), true));
        }
        None => edits.warnings.push(format!("there is no git configuration in {}", user.home)),
    }
}

/// Asks `of` for what a display is to this user.
fn request<T>(
    record: &ContainerRecord,
    user: &ResolvedUser,
    host: &HostFacts,
    place: &Path,
    for_exec: bool,
    of: impl FnOnce(&Request<'_>) -> Result<T>,
) -> Result<T> {
    of(&Request {
        uid: user.uid,
        gid: user.gid,
        shares_ipc: record.spec.ipc == IpcMode::Host,
        shares_network: record.spec.network == NetworkMode::Host,
        hostname: &host.hostname,
        place: &place.to_string_lossy(),
        for_exec,
    })
}

/// Writes files that only `uid` may read, in place: the directory is mounted in the container.
fn write_files(record: &ContainerRecord, place: &Path, files: &[PrivateFile], uid: u32) -> Result<()> {
    let (owner, _) = crate::userns::owner(record, uid, 0);
    for file in files {
        let path = place.join(&file.name);
        let temporary = place.join(sys_fs::temporary_name());
        let written = (|| -> io::Result<()> {
            let mut options = fs::OpenOptions::new();
            let opened = options.write(true).create_new(true).mode(0o600).open(&temporary)?;
            io::Write::write_all(&mut &opened, &file.bytes)?;
            opened.set_permissions(fs::Permissions::from_mode(0o600))?;
            std::os::unix::fs::fchown(opened.as_fd(), Some(owner), None)?;
            fs::rename(&temporary, &path)
        })();
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written.io_context(|| format!("cannot write `{}`", path.display()))?;
    }
    Ok(())
}

/// A further process in a container.
pub(crate) struct Exec<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) record: &'a ContainerRecord,
    pub(crate) session: &'a Session,
    /// The container's plan.
    pub(crate) container: &'a Spec,
    /// Its first process.
    pub(crate) pid: i32,
    /// Whether a display is wanted even where the container was started without one.
    pub(crate) gui: bool,
}

impl Exec<'_> {
    /// The variables of the display, for the session that asks now. The cookie is written anew.
    pub(crate) fn environment(&self, user: &ResolvedUser, host: &HostFacts) -> Result<Vec<String>> {
        let run = self.engine.paths.container_run(&self.record.id);
        let place = run.join(PLACE);
        match self.record.spec.robot.gui {
            GuiMode::None if !self.gui => return Ok(Vec::new()),
            GuiMode::None => return self.show(user, host, &place),
            GuiMode::Shared => {}
            GuiMode::Isolated => {
                let Some((number, cookie)) = nested::noted(&run) else { return Ok(Vec::new()) };
                let made = request(self.record, user, host, &place, true, |request| {
                    Ok(gui::isolated(&HostRoot::system(), self.session, request, number, &cookie))
                })?;
                write_files(self.record, &place, &made.files, user.uid)?;
                return Ok(made.edits.env);
            }
        }
        let made = request(self.record, user, host, &place, true, |request| {
            gui::gui(&HostRoot::system(), self.session, request)
        })?;
        match write_files(self.record, &place, &made.files, user.uid) {
            // The container was started before there was such a directory.
            Err(error) if error.kind() == Kind::NotFound => return Ok(Vec::new()),
            written => written?,
        }
        Ok(self.reachable(user, made.edits.env))
    }

    /// A display for a container that was started without one.
    fn show(&self, user: &ResolvedUser, host: &HostFacts, place: &Path) -> Result<Vec<String>> {
        crate::paths::make_directory(place, 0o711)?;
        let made = request(self.record, user, host, place, false, |request| {
            gui::gui(&HostRoot::system(), self.session, request)
        })?;
        write_files(self.record, place, &made.files, user.uid)?;
        show::mount_directories(self.pid, &made.edits)?;
        let defaults = made.edits.env_defaults.iter().cloned();
        Ok(self.reachable(user, defaults.chain(made.edits.env.iter().cloned()).collect()))
    }

    /// The variables that lead somewhere in the container.
    fn reachable(&self, user: &ResolvedUser, variables: Vec<String>) -> Vec<String> {
        // Sockets of a desktop are there only if they were at the start.
        let mounted = |target: &str| {
            self.container.mounts().iter().flatten().any(|mount| mount.destination() == Path::new(target))
        };
        let runtime = format!("/run/user/{}", user.uid);
        let is_there = |entry: &String| match entry.split_once('=') {
            Some(("WAYLAND_DISPLAY", name)) => mounted(&format!("{runtime}/{name}")),
            Some(("PULSE_SERVER" | "PULSE_COOKIE" | "PULSE_CLIENTCONFIG", _)) => {
                mounted(&format!("{runtime}/pulse/native"))
            }
            Some(("XDG_RUNTIME_DIR", path)) => mounted(path),
            _ => true,
        };
        variables.into_iter().filter(is_there).collect()
    }
}
