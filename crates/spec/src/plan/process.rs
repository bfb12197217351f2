//! The process: arguments, environment, user, limits.

use std::path::PathBuf;

use oci_spec::runtime::{
    Capabilities, LinuxCapabilities, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, Spec, User,
};
use robot_env_diag::{Error, Kind, Result};
use robot_env_oci::RuntimeConfig;

use super::{internal, security};
use crate::{ContainerSpec, HostFacts, Resolved, ResolvedUser, UserMap};

/// What `PATH` is when nobody says otherwise (Docker's default on Linux).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What `exec` changes about a container's process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessOverrides {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// `NAME=value` or `NAME`, on top of the container's.
    pub env: Vec<String>,
    /// Absolute path; absent: the container's.
    pub working_dir: Option<String>,
    /// Whether the process gets a terminal.
    pub tty: bool,
    /// Whether it gets every capability.
    pub privileged: bool,
}

pub(super) fn process(
    spec: &ContainerSpec,
    image: &RuntimeConfig,
    host: &HostFacts,
    resolved: &Resolved,
    capabilities: &Capabilities,
    hostname: Option<&str>,
    warnings: &mut Vec<String>,
) -> Result<Process> {
    if host.single_id && !spec.group_add.is_empty() {
        warnings.push("further groups are left out: only one group id is mapped here".into());
    }
    let mut out = Process::default();
    out.set_terminal(Some(spec.tty))
        .set_user(user(&resolved.user, host, resolved.user_map.as_ref())?)
        .set_args(Some(arguments(spec, image)?))
        .set_env(Some(environment(spec, image, hostname, &resolved.user.home)))
        .set_cwd(working_dir(spec, image))
        .set_capabilities(Some(capability_sets(capabilities, resolved.user.uid)))
        .set_rlimits(Some(rlimits(spec, host, warnings)?).filter(|limits| !limits.is_empty()))
        .set_no_new_privileges(Some(spec.security.no_new_privileges))
        .set_apparmor_profile(security::apparmor(spec, host, warnings))
        .set_oom_score_adj(oom_score_adj(spec, host, warnings)?);
    Ok(out)
}

pub(super) fn exec(
    container: &Spec,
    overrides: &ProcessOverrides,
    user: &ResolvedUser,
    host: &HostFacts,
) -> Result<Process> {
    if overrides.args.is_empty() {
        return Err(Error::invalid("no command specified"));
    }
    let base = container.process().clone().unwrap_or_default();
    let mut env = Environment::from(base.env().clone().unwrap_or_default());
    // The container's plan puts a home directory that nobody set in front of everything else.
    if env.0.first().is_some_and(|entry| entry.starts_with("HOME=")) {
        env.0.remove(0);
    }
    if overrides.tty && env.get("TERM").is_none() {
        env.apply("TERM=xterm");
    }
    for entry in &overrides.env {
        env.apply(entry);
    }
    env.add_home(&user.home);

    let cwd = match overrides.working_dir.as_deref().filter(|dir| !dir.is_empty()) {
        Some(dir) if dir.starts_with('/') => PathBuf::from(clean(dir)),
        Some(dir) => return Err(relative_working_dir(dir)),
        None => base.cwd().clone(),
    };
    let capabilities = if overrides.privileged {
        security::available(host)
    } else {
        base.capabilities().as_ref().and_then(|sets| sets.bounding().clone()).unwrap_or_default()
    };
    let mut out = base.clone();
    out.set_terminal(Some(overrides.tty))
        .set_console_size(None)
        .set_user(self::user(user, host, container.linux().as_ref().and_then(UserMap::of).as_ref())?)
        .set_args(Some(overrides.args.clone()))
        .set_env(Some(env.0))
        .set_cwd(cwd)
        .set_capabilities(Some(capability_sets(&capabilities, user.uid)));
    if overrides.privileged && base.apparmor_profile().is_some() {
        out.set_apparmor_profile(Some("unconfined".into()));
    }
    Ok(out)
}

/// The user in numbers; with a single mapped id there is only the one.
fn user(resolved: &ResolvedUser, host: &HostFacts, map: Option<&UserMap>) -> Result<User> {
    let mut groups = resolved.additional_gids.clone();
    if let Some(map) = map {
        groups.retain(|group| map.outside(0, *group).1.is_some());
    }
    if host.single_id {
        if map.is_none() && (resolved.uid != 0 || resolved.gid != 0) {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "cannot run as user {}:{}: only one user id is mapped here",
                    resolved.uid, resolved.gid
                ),
            )
            .with_hint("give your user ranges in /etc/subuid and /etc/subgid, or run with `--user 0`"));
        }
        groups.clear();
    }
    let mut out = User::default();
    out.set_uid(resolved.uid)
        .set_gid(resolved.gid)
        .set_additional_gids(Some(groups).filter(|g| !g.is_empty()));
    Ok(out)
}

/// The effective and permitted sets of other users than root are what execve(2) would leave: none.
/// Inheritable and ambient sets are always empty (CVE-2022-24769).
fn capability_sets(capabilities: &Capabilities, uid: u32) -> LinuxCapabilities {
    let own = if uid == 0 { capabilities.clone() } else { Capabilities::new() };
    let mut out = LinuxCapabilities::default();
    out.set_bounding(Some(capabilities.clone()))
        .set_effective(Some(own.clone()))
        .set_permitted(Some(own))
        .set_inheritable(Some(Capabilities::new()))
        .set_ambient(Some(Capabilities::new()));
    out
}

/// Docker's rules: an entrypoint of the user drops the image's command, a command of the user
/// replaces it.
fn arguments(spec: &ContainerSpec, image: &RuntimeConfig) -> Result<Vec<String>> {
    let command = spec.command.clone().filter(|command| !command.is_empty());
    let (entrypoint, command) = match &spec.entrypoint {
        Some(entrypoint) => {
            let removed = entrypoint.len() == 1 && entrypoint[0].is_empty();
            (if removed { Vec::new() } else { entrypoint.clone() }, command.unwrap_or_default())
        }
        None => (
            image.entrypoint.clone().unwrap_or_default(),
            command.or_else(|| image.cmd.clone()).unwrap_or_default(),
        ),
    };
    let mut program = entrypoint;
    program.extend(command);
    if program.is_empty() {
        return Err(Error::invalid("no command specified"));
    }
    Ok(program)
}

/// Variables in order, each name once.
struct Environment(Vec<String>);

impl From<Vec<String>> for Environment {
    fn from(entries: Vec<String>) -> Self {
        Environment(entries)
    }
}

impl Environment {
    fn position(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|entry| entry.split_once('=').is_some_and(|(other, _)| other == name))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.position(name).map(|at| &self.0[at][name.len() + 1..])
    }

    /// Sets `NAME=value` where the variable stands, else at the end; `NAME` alone removes it.
    fn apply(&mut self, entry: &str) {
        match (entry.split_once('='), self.position(entry.split_once('=').map_or(entry, |(name, _)| name))) {
            (Some(_), Some(at)) => entry.clone_into(&mut self.0[at]),
            (Some(_), None) => self.0.push(entry.to_owned()),
            (None, Some(at)) => {
                self.0.remove(at);
            }
            (None, None) => {}
        }
    }

    /// A home directory that nobody set stands in front, where [`exec`] knows it by.
    fn add_home(&mut self, home: &str) {
        if self.get("HOME").is_none_or(str::is_empty) {
            self.apply("HOME");
            self.0.insert(0, format!("HOME={}", if home.is_empty() { "/" } else { home }));
        }
    }
}

fn environment(
    spec: &ContainerSpec,
    image: &RuntimeConfig,
    hostname: Option<&str>,
    home: &str,
) -> Vec<String> {
    let mut out = Environment(vec![format!("PATH={DEFAULT_PATH}")]);
    if let Some(hostname) = hostname {
        out.apply(&format!("HOSTNAME={hostname}"));
    }
    if spec.tty {
        out.apply("TERM=xterm");
    }
    for entry in image.env.iter().chain(&spec.env) {
        out.apply(entry);
    }
    out.add_home(home);
    out.0
}

fn working_dir(spec: &ContainerSpec, image: &RuntimeConfig) -> PathBuf {
    let dir = spec.working_dir.as_deref().filter(|dir| !dir.is_empty()).unwrap_or(&image.working_dir);
    PathBuf::from(clean(dir))
}

pub(crate) fn relative_working_dir(dir: &str) -> Error {
    Error::invalid(format!("invalid working directory `{dir}`: it needs to be an absolute path"))
}

/// A path from the root on without empty parts, `.` and `..`, as text: nothing is looked up.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The kernel's name of a limit that `--ulimit` knows by `name`.
pub(crate) fn rlimit_type(name: &str) -> Option<PosixRlimitType> {
    Some(match name {
        "as" => PosixRlimitType::RlimitAs,
        "core" => PosixRlimitType::RlimitCore,
        "cpu" => PosixRlimitType::RlimitCpu,
        "data" => PosixRlimitType::RlimitData,
        "fsize" => PosixRlimitType::RlimitFsize,
        "locks" => PosixRlimitType::RlimitLocks,
        "memlock" => PosixRlimitType::RlimitMemlock,
        "msgqueue" => PosixRlimitType::RlimitMsgqueue,
        "nice" => PosixRlimitType::RlimitNice,
        "nofile" => PosixRlimitType::RlimitNofile,
        "nproc" => PosixRlimitType::RlimitNproc,
        "rss" => PosixRlimitType::RlimitRss,
        "rtprio" => PosixRlimitType::RlimitRtprio,
        "rttime" => PosixRlimitType::RlimitRttime,
        "sigpending" => PosixRlimitType::RlimitSigpending,
        "stack" => PosixRlimitType::RlimitStack,
        _ => return None,
    })
}

/// Limits of the process. Where the engine may not raise a hard limit, a higher wish is cut down to
/// it: asking the kernel would only be EPERM.
fn rlimits(spec: &ContainerSpec, host: &HostFacts, warnings: &mut Vec<String>) -> Result<Vec<PosixRlimit>> {
    let mut out = Vec::new();
    for (at, ulimit) in spec.ulimits.iter().enumerate() {
        if spec.ulimits[at + 1..].iter().any(|later| later.name == ulimit.name) {
            continue; // the last one counts
        }
        let kind = rlimit_type(&ulimit.name)
            .ok_or_else(|| Error::invalid(format!("invalid ulimit type `{}`", ulimit.name)))?;
        let value = |n: i64| if n < 0 { u64::MAX } else { n as u64 };
        let (mut soft, mut hard) = (value(ulimit.soft), value(ulimit.hard));
        if soft > hard {
            return Err(Error::invalid(format!(
                "invalid ulimit `{}`: the soft limit must not be above the hard limit ({} > {})",
                ulimit.name, ulimit.soft, ulimit.hard
            )));
        }
        if let Some(&most) = host.hard_limits.get(&ulimit.name).filter(|_| !host.may_raise_limits)
            && hard > most
        {
            warnings.push(format!(
                "ulimit {} is cut from {} to {most}: the hard limit of this user cannot be raised",
                ulimit.name,
                if hard == u64::MAX { "unlimited".to_owned() } else { hard.to_string() }
            ));
            hard = most;
            soft = soft.min(most);
        }
        out.push(PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build().map_err(internal)?);
    }
    Ok(out)
}

fn oom_score_adj(spec: &ContainerSpec, host: &HostFacts, warnings: &mut Vec<String>) -> Result<Option<i32>> {
    let Some(score) = spec.resources.oom_score_adj else { return Ok(None) };
    if !(-1000..=1000).contains(&score) {
        return Err(Error::invalid(format!(
            "invalid value {score} for oom score adj: it must be from -1000 to 1000"
        )));
    }
    if host.rootless && score < 0 {
        warnings.push(format!("oom score adj {score} is left out: an ordinary user cannot lower it"));
        return Ok(None);
    }
    Ok(Some(score))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_text() {
        for (path, want) in
            [("", "/"), ("/", "/"), ("a", "/a"), ("/a//b/./c/", "/a/b/c"), ("/a/../../b", "/b"), ("/..", "/")]
        {
            assert_eq!(clean(path), want, "{path}");
        }
    }

    #[test]
    fn variables_are_set_in_place_and_removed_by_their_name() {
        let mut env = Environment(vec!["A=1".into(), "AB=2".into(), "C=".into()]);
        for entry in ["A=9", "AB", "D=x=y", "E", "C=3"] {
            env.apply(entry);
        }
        assert_eq!(env.0, ["A=9", "C=3", "D=x=y"]);
        assert_eq!(env.get("D"), Some("x=y"));
        assert_eq!(env.get("AB"), None);
    }

    #[test]
    fn the_command_by_docker_s_rules() {
        type Words = Option<&'static [&'static str]>;
        let list = |words: Words| words.map(|words| words.iter().map(|&w| w.to_owned()).collect::<Vec<_>>());
        // Entrypoint and command of the user, entrypoint and command of the image, what runs.
        let cases: [(Words, Words, Words, Words, Words); 11] = [
            (None, None, Some(&["e"]), Some(&["c"]), Some(&["e", "c"])),
            (None, Some(&["u"]), Some(&["e"]), Some(&["c"]), Some(&["e", "u"])),
            (Some(&["x"]), None, Some(&["e"]), Some(&["c"]), Some(&["x"])),
            (Some(&["x"]), Some(&["u"]), Some(&["e"]), Some(&["c"]), Some(&["x", "u"])),
            (Some(&[]), Some(&["u"]), Some(&["e"]), Some(&["c"]), Some(&["u"])),
            (Some(&[""]), Some(&["u"]), Some(&["e"]), Some(&["c"]), Some(&["u"])),
            (Some(&[]), None, Some(&["e"]), Some(&["c"]), None),
            (None, Some(&[]), None, Some(&["c"]), Some(&["c"])),
            (None, None, None, None, None),
            (None, None, Some(&[]), Some(&[]), None),
            (None, Some(&[""]), None, None, Some(&[""])),
        ];
        for (entrypoint, command, image_entrypoint, image_command, want) in cases {
            let spec = ContainerSpec {
                entrypoint: list(entrypoint),
                command: list(command),
                ..ContainerSpec::default()
            };
            let image = RuntimeConfig {
                entrypoint: list(image_entrypoint),
                cmd: list(image_command),
                ..RuntimeConfig::default()
            };
            assert_eq!(arguments(&spec, &image).ok(), list(want), "{entrypoint:?} {command:?}");
        }
    }

    fn capabilities(names: &[&str]) -> Capabilities {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn container(env: &[&str]) -> Spec {
        let mut process = Process::default();
        process
            .set_env(Some(env.iter().map(|&e| e.to_owned()).collect()))
            .set_cwd("/ws".into())
            .set_no_new_privileges(Some(true))
            .set_apparmor_profile(Some("robot".into()))
            .set_capabilities(Some(capability_sets(&capabilities(&["CHOWN", "KILL"]), 1000)));
        let mut out = Spec::default();
        out.set_process(Some(process));
        out
    }

    fn overrides(args: &[&str]) -> ProcessOverrides {
        ProcessOverrides { args: args.iter().map(|&a| a.to_owned()).collect(), ..ProcessOverrides::default() }
    }

    fn root() -> ResolvedUser {
        ResolvedUser { uid: 0, gid: 0, additional_gids: vec![0], home: "/root".into() }
    }

    #[test]
    fn exec_takes_the_container_s_environment_and_the_user_s_home() {
        type Words = &'static [&'static str];
        let cases: [(Words, Words, bool, Words); 5] = [
            (&["HOME=/home/ros", "PATH=/bin"], &[], false, &["HOME=/root", "PATH=/bin"]),
            (&["PATH=/bin", "HOME=/set"], &[], false, &["PATH=/bin", "HOME=/set"]),
            (&["HOME=/home/ros", "A=1"], &["A", "HOME=/mine", "B=2"], false, &["HOME=/mine", "B=2"]),
            (&["HOME=/home/ros", "A=1"], &[], true, &["HOME=/root", "A=1", "TERM=xterm"]),
            (&["PATH=/bin", "TERM=vt100"], &["TERM=linux"], true, &["HOME=/root", "PATH=/bin", "TERM=linux"]),
        ];
        for (env, extra, tty, want) in cases {
            let change = ProcessOverrides {
                env: extra.iter().map(|&e| e.to_owned()).collect(),
                tty,
                ..overrides(&["sh"])
            };
            let process = exec(&container(env), &change, &root(), &HostFacts::default()).unwrap();
            assert_eq!(process.env().clone().unwrap(), want, "{env:?} {extra:?}");
            assert_eq!(process.terminal(), Some(tty));
        }
    }

    #[test]
    fn exec_as_root_gets_the_bounding_set_and_as_another_user_nothing() {
        let host = HostFacts {
            capabilities: ["CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN"].map(str::to_owned).into(),
            ..HostFacts::default()
        };
        let ros =
            ResolvedUser { uid: 1000, gid: 1000, additional_gids: vec![1000, 44], home: "/home/ros".into() };
        let (some, all) = (capabilities(&["CHOWN", "KILL"]), capabilities(&["CHOWN", "KILL", "SYS_ADMIN"]));
        for (user, privileged, bounding, effective) in [
            (root(), false, &some, &some),
            (ros.clone(), false, &some, &Capabilities::new()),
            (root(), true, &all, &all),
            (ros, true, &all, &Capabilities::new()),
        ] {
            let change = ProcessOverrides { privileged, ..overrides(&["id"]) };
            let process = exec(&container(&[]), &change, &user, &host).unwrap();
            let sets = process.capabilities().clone().unwrap();
            assert_eq!(sets.bounding().as_ref(), Some(bounding));
            assert_eq!(sets.effective().as_ref(), Some(effective));
            assert_eq!(sets.permitted().as_ref(), Some(effective));
            assert_eq!(sets.inheritable().as_ref(), Some(&Capabilities::new()));
            assert_eq!(sets.ambient().as_ref(), Some(&Capabilities::new()));
            assert_eq!(process.no_new_privileges(), Some(true));
            assert_eq!(
                process.apparmor_profile().as_deref(),
                Some(if privileged { "unconfined" } else { "robot" })
            );
            assert_eq!(process.user().uid(), user.uid);
        }
    }

    #[test]
    fn exec_refuses_nothing_to_run_and_relative_directories() {
        let host = HostFacts::default();
        let error = exec(&container(&[]), &overrides(&[]), &root(), &host).unwrap_err();
        assert_eq!(error.to_string(), "no command specified");
        let change = ProcessOverrides { working_dir: Some("a".into()), ..overrides(&["sh"]) };
        let error = exec(&container(&[]), &change, &root(), &host).unwrap_err();
        assert_eq!(error.to_string(), "invalid working directory `a`: it needs to be an absolute path");
        let change = ProcessOverrides { working_dir: Some("/a/../b/".into()), ..overrides(&["sh"]) };
        assert_eq!(exec(&container(&[]), &change, &root(), &host).unwrap().cwd(), &PathBuf::from("/b"));
        assert_eq!(
            exec(&container(&[]), &overrides(&["sh"]), &root(), &host).unwrap().cwd(),
            &PathBuf::from("/ws")
        );
    }
}
