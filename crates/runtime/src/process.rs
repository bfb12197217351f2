//! The last steps of a process: limits, identity, capabilities, filter, program.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Process;
use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_sys::capability::{self, Bits};
use robot_env_sys::{process, seccomp};

use crate::create::Filter;
use crate::sync::{Message, Sync};

/// From inside the container to the program. Returns only an error.
pub(crate) fn finish(spec: &Process, filter: Option<&Filter>, preserve_fds: u32, sync: &Sync) -> Result<std::convert::Infallible> {
    for limit in spec.rlimits().iter().flatten() {
        let name = limit.typ().to_string();
        let number = process::limit_number(&name).ok_or_else(|| Error::invalid(format!("unknown resource limit `{name}`")))?;
        process::set_limit(number, limit.soft(), limit.hard())?;
    }
    let user = spec.user();
    if let Some(mask) = user.umask() {
        rustix::process::umask(rustix::fs::Mode::from(mask));
    }
    let cwd = spec.cwd();
    let early = std::env::set_current_dir(cwd);
    let no_new_privileges = spec.no_new_privileges().unwrap_or(false);
    if let Some(label) = spec.apparmor_profile() {
        set_apparmor(label)?;
    }
    if no_new_privileges {
        rustix::thread::set_no_new_privs(true).io_context(|| "cannot set no_new_privs".into())?;
    } else if let Some(filter) = filter {
        // Without no_new_privs this needs CAP_SYS_ADMIN, which is about to go.
        seccomp::install(filter, 0).map_err(Error::from).within(|| "cannot install the system call filter".into())?;
    }
    let wanted = Sets::of(spec)?;
    capability::limit_bounding(wanted.bounding)?;
    capability::keep_over_setuid(true)?;
    set_groups(user.additional_gids().as_deref().unwrap_or_default())?;
    process::set_group(user.gid())?;
    process::set_user(user.uid())?;
    capability::set(wanted.effective, wanted.permitted, wanted.inheritable)?;
    capability::set_ambient(wanted.ambient)?;
    capability::keep_over_setuid(false)?;
    // A home that only its user may enter is entered now.
    if early.is_err() {
        std::env::set_current_dir(cwd).io_context(|| format!("cannot change to working directory `{}`", cwd.display()))?;
    }
    // A working directory outside the root would be a way out (CVE-2024-21626).
    std::env::current_dir().io_context(|| format!("working directory `{}` is not inside the container", cwd.display()))?;

    let args = spec.args().as_deref().unwrap_or_default();
    let env = spec.env().as_deref().unwrap_or_default();
    let name = args.first().ok_or_else(|| Error::invalid("no command specified"))?;
    let program = find_program(name, env)?;
    let c = |text: &str| CString::new(text).map_err(|_| Error::invalid(format!("`{}` has a NUL byte", text.replace('\0', "\\0"))));
    let (c_args, c_env) = (args.iter().map(|a| c(a)).collect::<Result<Vec<_>>>()?, env.iter().map(|e| c(e)).collect::<Result<Vec<_>>>()?);
    let path = CString::new(program.as_os_str().as_bytes()).map_err(|_| Error::invalid("the program's path has a NUL byte"))?;
    process::close_on_exec_from(3 + preserve_fds)?;
    sync.ready()?;
    match sync.receive()? {
        Message::Go => {}
        // Whoever should have started the program is gone.
        _ => robot_env_sys::poll::exit_now(0),
    }
    if no_new_privileges && let Some(filter) = filter {
        seccomp::install(filter, 0).map_err(Error::from).within(|| "cannot install the system call filter".into())?;
    }
    let failure = process::execute(&path, &c_args, &c_env);
    Err(exec_error(name, failure))
}

fn exec_error(name: &str, failure: robot_env_sys::CallError) -> Error {
    use rustix::io::Errno;
    let (kind, why) = match failure.errno() {
        Errno::NOENT => (Kind::CommandNotFound, "no such file or directory"),
        Errno::ACCESS | Errno::PERM => (Kind::CommandNotExecutable, "permission denied"),
        Errno::NOEXEC => (Kind::CommandNotExecutable, "exec format error"),
        Errno::NOTDIR => (Kind::CommandNotFound, "not a directory"),
        Errno::ISDIR => (Kind::CommandNotExecutable, "is a directory"),
        _ => (Kind::CommandNotExecutable, "it cannot be executed"),
    };
    Error::new(kind, format!("exec: \"{name}\": {why}")).because(failure)
}

/// Finds a program as execvp would, with the container's `PATH`.
fn find_program(name: &str, env: &[String]) -> Result<PathBuf> {
    let missing = |why: &str| Error::new(Kind::CommandNotFound, format!("exec: \"{name}\": {why}"));
    if name.is_empty() {
        return Err(missing("executable file not found in $PATH"));
    }
    let usable = |path: &Path| -> Result<bool> {
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_file() => {
                if rustix::fs::accessat(rustix::fs::CWD, path, rustix::fs::Access::EXEC_OK, rustix::fs::AtFlags::EACCESS).is_ok() {
                    Ok(true)
                } else {
                    Err(Error::new(Kind::CommandNotExecutable, format!("exec: \"{name}\": permission denied")))
                }
            }
            _ => Ok(false),
        }
    };
    if name.contains('/') {
        return match std::fs::metadata(name) {
            Ok(meta) if meta.is_dir() => Err(Error::new(Kind::CommandNotExecutable, format!("exec: \"{name}\": is a directory"))),
            Ok(_) => usable(Path::new(name)).map(|_| PathBuf::from(name)),
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
                Err(Error::new(Kind::CommandNotExecutable, format!("exec: \"{name}\": permission denied")))
            }
            Err(_) => Err(missing("stat: no such file or directory")),
        };
    }
    let path = env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or("");
    let mut refused = None;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = Path::new(directory).join(OsStr::new(name));
        match usable(&candidate) {
            Ok(true) => return Ok(candidate),
            Ok(false) => {}
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.unwrap_or_else(|| missing("executable file not found in $PATH")))
}

struct Sets {
    bounding: Bits,
    effective: Bits,
    permitted: Bits,
    inheritable: Bits,
    ambient: Bits,
}

impl Sets {
    fn of(spec: &Process) -> Result<Sets> {
        let Some(sets) = spec.capabilities() else {
            return Ok(Sets { bounding: 0, effective: 0, permitted: 0, inheritable: 0, ambient: 0 });
        };
        let bits = |set: &Option<oci_spec::runtime::Capabilities>| -> Result<Bits> {
            set.iter().flatten().try_fold(0, |sum, capability| {
                let text = capability.to_string();
                let name = if text.starts_with("CAP_") { text } else { format!("CAP_{text}") };
                capability::bit(&name).map(|bit| sum | bit).ok_or_else(|| Error::invalid(format!("unknown capability `{name}`")))
            })
        };
        Ok(Sets {
            bounding: bits(sets.bounding())?,
            effective: bits(sets.effective())?,
            permitted: bits(sets.permitted())?,
            inheritable: bits(sets.inheritable())?,
            ambient: bits(sets.ambient())?,
        })
    }
}

fn set_groups(groups: &[u32]) -> Result<()> {
    match process::set_groups(groups) {
        Ok(()) => Ok(()),
        // A user namespace with one id refuses setgroups: the process keeps the groups it has.
        Err(error) if error.errno() == rustix::io::Errno::PERM => {
            let denied = std::fs::read_to_string("/proc/self/setgroups").map_or(true, |text| text.trim() == "deny");
            if denied { Ok(()) } else { Err(error.into()) }
        }
        Err(error) => Err(error.into()),
    }
}

fn set_apparmor(label: &str) -> Result<()> {
    if label.is_empty() || label == "unconfined" {
        return Ok(());
    }
    let write = |path: &str| std::fs::write(path, format!("exec {label}"));
    write("/proc/self/attr/apparmor/exec")
        .or_else(|_| write("/proc/self/attr/exec"))
        .io_context(|| format!("cannot apply AppArmor profile `{label}`"))
}
