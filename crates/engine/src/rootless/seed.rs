//! Making the namespace: a child is cloned into a new one and waits there while its maps are
//! written, so that whatever fails can be tried again in a fresh one.

use std::ffi::{CString, OsStr};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_sys::namespace::{self, IdRange};
use robot_env_sys::poll;
use robot_env_sys::process::{self, CloneRequest, Cloned};

use super::{Enter, ranges, refusal};

/// Where the programs may be beside `PATH`; the last one is NixOS's.
const DIRECTORIES: [&str; 4] = ["/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin"];
/// So much of what a program says is shown.
const COMPLAINT: u64 = 4096;

/// A process that waits in a new user namespace; dropped, it ends.
pub(super) struct Seed {
    pid: i32,
    pidfd: OwnedFd,
    /// Closed, it lets the process end.
    line: Option<OwnedFd>,
}

impl Seed {
    fn plant() -> Result<Self> {
        let (end, line) = poll::pipe()?;
        let request = CloneRequest { namespaces: libc::CLONE_NEWUSER, ..Default::default() };
        match process::clone(&request).map_err(|error| refusal::explain(&error))? {
            Cloned::Parent { pid, pidfd } => Ok(Seed { pid, pidfd, line: Some(line) }),
            Cloned::Child => {
                let _ = process::close_all_but(&[end.as_raw_fd()]);
                let _ = rustix::io::retry_on_intr(|| rustix::io::read(&end, &mut [0u8; 1]));
                poll::exit_now(0)
            }
        }
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        self.line = None;
        let _ = process::wait(&self.pidfd);
    }
}

/// A namespace with its maps.
pub(super) struct Made {
    pub(super) seed: Seed,
    /// Why only one id is mapped, if it is so.
    pub(super) single_id_because: Option<String>,
}

/// Makes one with the user's ranges, or with the user's id alone.
pub(super) fn make(request: &Enter<'_>) -> Result<Made> {
    let user = rustix::process::geteuid().as_raw();
    // Most of the switches are not for root.
    if user != 0 {
        refusal::check()?;
    }
    let group = rustix::process::getegid().as_raw();
    let reason = match with_ranges(request, user, group)? {
        Ok(seed) => return Ok(Made { seed, single_id_because: None }),
        Err(reason) => reason,
    };
    let seed = Seed::plant()?;
    let one = |id| [IdRange { inside: 0, outside: id, count: 1 }];
    namespace::write_id_maps(seed.pid, &one(user), &one(group), true)
        .map_err(|error| refusal::explain(&error))
        .within(|| "cannot map the user's own id".into())?;
    Ok(Made { seed, single_id_because: Some(reason) })
}

/// With the user's ranges; the inner error says why not.
fn with_ranges(request: &Enter<'_>, user: u32, group: u32) -> Result<Result<Seed, String>> {
    let passwd = ranges::read("/etc/passwd");
    let name = ranges::name_of(&passwd, user).or(request.login);
    let mut plans = Vec::new();
    for (file, own, program) in [("/etc/subuid", user, "newuidmap"), ("/etc/subgid", group, "newgidmap")] {
        let found = ranges::of_user(&ranges::read(file), name, user);
        let map = ranges::map(own, &found);
        if map.len() == 1 {
            let who = name.map_or_else(|| user.to_string(), str::to_owned);
            return Ok(Err(format!("`{file}` has no range for `{who}`")));
        }
        let Some(path) = find(program, request.path) else {
            return Ok(Err(format!("there is no program `{program}` (package uidmap or shadow-utils)")));
        };
        plans.push((program, path, map));
    }
    let seed = Seed::plant()?;
    // Both at the same time: each is a process that starts and looks the user up.
    let running: Vec<_> = plans
        .iter()
        .map(|(program, path, map)| (*program, Helper::start(path, &id_arguments(seed.pid, map))))
        .collect();
    let mut failure = None;
    for (program, helper) in running {
        if let Err(reason) = helper?.finish() {
            failure = failure.or(Some(format!("`{program}` failed: {reason}")));
        }
    }
    Ok(failure.map_or(Ok(seed), Err))
}

/// The program in `PATH` or where distributions put it.
pub(crate) fn find(program: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    std::env::split_paths(path.unwrap_or_default())
        .chain(DIRECTORIES.map(PathBuf::from))
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(program))
        .find(|file| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file())
}

/// What a program says when it is run with one argument; `None` when it fails.
pub(super) fn said_by(program: &Path, argument: &str) -> Option<String> {
    let helper = Helper::start(program, &[argument.to_owned()]).ok()?;
    let (code, said) = helper.end();
    matches!(code, Ok(0)).then_some(said)
}

/// A process's id maps as `newuidmap` wants them.
fn id_arguments(pid: i32, map: &[IdRange]) -> Vec<String> {
    let numbers = map.iter().flat_map(|range| [range.inside, range.outside, range.count]);
    std::iter::once(pid.to_string()).chain(numbers.map(|number| number.to_string())).collect()
}

/// A program at work that ends by itself, outside of the namespace.
struct Helper {
    pidfd: OwnedFd,
    output: OwnedFd,
}

impl Helper {
    fn start(program: &Path, arguments: &[String]) -> Result<Self> {
        let text = |text: &[u8]| CString::new(text).unwrap_or_default();
        let path = text(program.as_os_str().as_bytes());
        let mut words = vec![path.clone()];
        words.extend(arguments.iter().map(|argument| text(argument.as_bytes())));
        let (output, write) = poll::pipe()?;
        match process::clone(&CloneRequest::default())? {
            Cloned::Parent { pidfd, .. } => Ok(Helper { pidfd, output }),
            Cloned::Child => {
                process::reset_signals();
                let ready = std::fs::File::open("/dev/null")
                    .is_ok_and(|null| poll::replace_stdio(0, &null).is_ok())
                    && poll::replace_stdio(1, &write).is_ok()
                    && poll::replace_stdio(2, &write).is_ok()
                    && process::close_all_but(&[]).is_ok();
                if ready {
                    let error = process::execute(&path, &words, &[c"LC_ALL=C".into()]);
                    let stderr = rustix::stdio::stderr();
                    let _ = rustix::io::write(stderr, error.to_string().as_bytes());
                }
                poll::exit_now(127)
            }
        }
    }

    /// Waits for its end; the error is what it said.
    fn finish(self) -> Result<(), String> {
        match self.end() {
            (Ok(0), _) => Ok(()),
            (Ok(code), said) if said.is_empty() => Err(format!("exit status {code}")),
            (Ok(_), said) => Err(said),
            (Err(error), _) => Err(error.to_string()),
        }
    }

    /// Waits for its end: its exit status and what it said, in one line.
    fn end(self) -> (Result<i32>, String) {
        let mut said = Vec::new();
        let mut output = std::fs::File::from(self.output);
        let _ = (&mut output).take(COMPLAINT).read_to_end(&mut said);
        drop(output);
        let said = String::from_utf8_lossy(&said).split_whitespace().collect::<Vec<_>>().join(" ");
        let code = process::wait(&self.pidfd).map_err(|error| Error::new(Kind::Internal, error.to_string()));
        (code, said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_absolute_directories() {
        let place = robot_env_testkit::temporary::TemporaryDirectory::new("rootless-path");
        std::fs::write(place.join("sh"), "").unwrap();
        let path = std::env::join_paths([place.path(), Path::new("relative"), Path::new("/bin")]).unwrap();
        let found = find("sh", Some(&path)).unwrap();
        assert!(found.ends_with("bin/sh"), "the one that cannot be executed is passed over: {found:?}");
        assert_eq!(find("no-such-program", Some(&path)), None);
        assert!(find("sh", None).is_some());
    }
}
