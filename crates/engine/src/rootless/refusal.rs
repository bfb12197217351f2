//! Why the machine gives no user namespace to an ordinary user, and which switch it is.

use std::fs;
use std::path::Path;

use robot_env_diag::{Error, Kind};
use robot_env_sys::CallError;
use rustix::io::Errno;

/// The switches of the kernel that forbid user namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Switches {
    /// Whether the kernel has user namespaces at all.
    known: bool,
    /// `kernel.unprivileged_userns_clone` (Debian, Arch hardened); 0 forbids.
    unprivileged: Option<u64>,
    /// `user.max_user_namespaces`; 0 forbids.
    maximum: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns` (Ubuntu 24.04 and later); 1 forbids to
    /// programs without a profile.
    apparmor: Option<u64>,
    /// Whether an AppArmor profile stands for the calling program.
    profiled: bool,
}

impl Switches {
    fn read() -> Self {
        let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
        let label = |path: &str| fs::read_to_string(path).ok();
        let own = label("/proc/self/attr/apparmor/current").or_else(|| label("/proc/self/attr/current"));
        Switches {
            known: Path::new("/proc/self/ns/user").exists(),
            unprivileged: number("/proc/sys/kernel/unprivileged_userns_clone"),
            maximum: number("/proc/sys/user/max_user_namespaces"),
            apparmor: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            profiled: own.is_some_and(|own| !matches!(own.trim_end_matches(['\0', '\n']), "unconfined" | "")),
        }
    }

    /// What is known before anything is tried: on Ubuntu the namespace is made and useless.
    fn forbids(&self) -> Option<Error> {
        if !self.known {
            return Some(Error::new(Kind::Unsupported, "this kernel has no user namespaces"));
        }
        if self.unprivileged == Some(0) {
            return Some(
                Error::new(Kind::Denied, "the kernel gives user namespaces to root alone").with_hint(
                    "sudo sysctl -w kernel.unprivileged_userns_clone=1 (and the same line in \
                     /etc/sysctl.d/99-robot-env.conf to keep it)",
                ),
            );
        }
        if self.maximum == Some(0) {
            return Some(Error::new(Kind::Denied, "the kernel allows no user namespaces").with_hint(
                "sudo sysctl -w user.max_user_namespaces=28633 (and the same line in \
                     /etc/sysctl.d/99-robot-env.conf to keep it)",
            ));
        }
        None
    }

    /// AppArmor's word.
    fn apparmor_forbids(&self, program: &Path) -> Option<Error> {
        (self.apparmor == Some(1) && !self.profiled).then(|| {
            Error::new(Kind::Denied, "AppArmor gives user namespaces only to programs with a profile")
                .with_hint(match profile(program) {
                    Some(profile) => format!(
                        "printf '{}' | sudo tee /etc/apparmor.d/robot-env && sudo apparmor_parser -r \
                         /etc/apparmor.d/robot-env (or, for every program: {EVERY_PROGRAM})",
                        profile.replace('\n', "\\n")
                    ),
                    None => EVERY_PROGRAM.to_owned(),
                })
        })
    }

    /// The whole story of a failed call.
    fn explain(&self, error: &CallError, program: &Path) -> Error {
        let fact = match error.errno() {
            Errno::PERM | Errno::ACCESS | Errno::NOSPC | Errno::INVAL | Errno::NOSYS => {
                self.forbids().or_else(|| self.apparmor_forbids(program)).or_else(|| {
                    (error.errno() == Errno::NOSPC).then(|| {
                        Error::new(
                            Kind::Unavailable,
                            "there are too many user namespaces or mounts, or they are nested too deeply",
                        )
                    })
                })
            }
            _ => None,
        };
        match fact {
            Some(fact) => fact.because(error.clone()),
            None => error.clone().into(),
        }
    }
}

const EVERY_PROGRAM: &str = "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0";

/// An AppArmor profile that lets a program make user namespaces and restricts nothing; `None` for a
/// path that a shell or AppArmor would read differently.
fn profile(program: &Path) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@ ".contains(c);
    let program = program.to_str().filter(|path| path.chars().all(plain))?;
    Some(format!(
        "abi <abi/4.0>,\ninclude <tunables/global>\nprofile robot-env \"{program}\" flags=(unconfined) {{\n  userns,\n}}\n"
    ))
}

fn program() -> std::path::PathBuf {
    std::env::current_exe().unwrap_or_else(|_| "/usr/bin/robot-env".into())
}

/// Says no at once where the machine is known to.
///
/// # Errors
/// With the switch and a hint.
pub(super) fn check() -> Result<(), Error> {
    let switches = Switches::read();
    switches.forbids().or_else(|| switches.apparmor_forbids(&program())).map_or(Ok(()), Err)
}

/// A failed call with the switch that made it fail, if one did.
pub(super) fn explain(error: &CallError) -> Error {
    Switches::read().explain(error, &program())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Switches {
        Switches { known: true, maximum: Some(1000), ..Switches::default() }
    }

    #[test]
    fn each_switch_is_named_with_its_cure() {
        let program = Path::new("/opt/robot-env/bin/robot-env");
        let cases = [
            (Switches { unprivileged: Some(0), ..open() }, Errno::PERM, "kernel.unprivileged_userns_clone=1"),
            (Switches { maximum: Some(0), ..open() }, Errno::NOSPC, "user.max_user_namespaces=28633"),
            (Switches { apparmor: Some(1), ..open() }, Errno::PERM, "/etc/apparmor.d/robot-env"),
            (Switches { apparmor: Some(1), ..open() }, Errno::ACCESS, "/opt/robot-env/bin/robot-env"),
        ];
        for (switches, errno, word) in cases {
            let error = switches.explain(&CallError::new("unshare(0x10000000)", errno), program);
            assert_eq!(error.kind(), Kind::Denied);
            assert!(error.hint().is_some_and(|hint| hint.contains(word)), "{word}: {error:?}");
            assert_eq!(error.causes().len(), 1, "the call is the cause");
        }
        let odd = Switches { apparmor: Some(1), ..open() }.apparmor_forbids(Path::new("/it's/robot-env"));
        assert_eq!(odd.unwrap().hint(), Some(EVERY_PROGRAM));
    }

    #[test]
    fn no_hint_without_its_precondition() {
        let program = Path::new("/usr/bin/robot-env");
        let cases = [
            (open(), Errno::PERM, Kind::Denied),
            (Switches { apparmor: Some(1), profiled: true, ..open() }, Errno::PERM, Kind::Denied),
            (Switches { apparmor: Some(0), ..open() }, Errno::PERM, Kind::Denied),
            (open(), Errno::NOSPC, Kind::Unavailable),
            (Switches { known: false, ..open() }, Errno::INVAL, Kind::Unsupported),
            (Switches { unprivileged: Some(0), ..open() }, Errno::NOMEM, Kind::Internal),
        ];
        for (switches, errno, kind) in cases {
            let error = switches.explain(&CallError::new("unshare(0x10000000)", errno), program);
            assert_eq!((error.kind(), error.hint()), (kind, None), "{switches:?} {errno:?}");
        }
    }

    #[test]
    fn what_is_allowed_is_not_forbidden_beforehand() {
        let program = Path::new("/usr/bin/robot-env");
        for (switches, forbidden) in [
            (open(), false),
            (Switches { unprivileged: Some(1), apparmor: Some(0), ..open() }, false),
            (Switches { apparmor: Some(1), profiled: true, ..open() }, false),
            (Switches { apparmor: Some(1), ..open() }, true),
            (Switches { unprivileged: Some(0), ..open() }, true),
            (Switches { maximum: None, ..open() }, false),
        ] {
            let found = switches.forbids().or_else(|| switches.apparmor_forbids(program));
            assert_eq!(found.is_some(), forbidden, "{switches:?}");
        }
    }
}
