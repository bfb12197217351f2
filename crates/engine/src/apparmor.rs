//! The AppArmor profile of containers that name none.
//!
//! It is loaded when a container starts and the kernel has not got it, which is once after the machine has
//! started: by `apparmor_parser`, the one program that turns the text of a profile into what the kernel
//! takes. Only root can; containers of an ordinary user have none, and so have all where there is no parser.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use robot_env_diag::{Context, Error, IoContext, Kind, Result, Within};
use robot_env_spec::ContainerSpec;
use robot_env_sys::fs::kernel_text;

use crate::engine::Engine;

/// Its name.
pub const PROFILE: &str = "robot-env-default";
/// The profiles that the kernel has, one a line: `NAME (MODE)`.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
/// Where the parser is looked for: a monitor has no path.
const PARSERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// What a container needs is allowed, and what reaches the kernel of the host is denied even to a process
/// that has the capability for it: mounts, and writes below `/proc` and `/sys` but for the processes' own
/// files, System V shared memory's limits and control groups.
const TEXT: &str = "\
profile robot-env-default flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,

  # The engine, and whoever else is root outside, stops what runs inside.
  signal (receive) peer=unconfined,
  signal (receive) peer=robot-env,
  signal (send,receive) peer=robot-env-default,
  ptrace (trace,read,tracedby,readby) peer=robot-env-default,

  deny mount,
  deny /proc/* w,
  deny /proc/[^0-9s]*/** w,
  deny /proc/s[^y]*/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/kernel/[^s]** w,
  deny /proc/sys/kernel/s[^h]** w,
  deny /proc/sys/kernel/sh[^m]** w,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
";

impl Engine {
    /// The AppArmor profile of a container with this spec on this machine; `None`: none.
    pub fn apparmor_profile(&self, spec: &ContainerSpec) -> Option<String> {
        let named = spec.security.apparmor.clone().filter(|profile| !profile.is_empty());
        named.or_else(|| (!spec.privileged && self.confines()).then(|| PROFILE.to_owned()))
    }

    /// Whether containers that name no profile get the engine's.
    pub fn confines(&self) -> bool {
        !self.rootless && is_enabled() && kernel_text(LOADED).is_ok_and(|all| has(&all) || parser().is_some())
    }
}

/// Whether the kernel has AppArmor, and it is on.
pub(crate) fn is_enabled() -> bool {
    kernel_text("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

/// Sees to it that the kernel has the profile: its name; `None` where it cannot be had. `run` keeps what
/// text the kernel has got.
///
/// # Errors
/// `Denied` and others where it should be had, and loading it fails.
pub(crate) fn load(run: &Path) -> Result<Option<&'static str>> {
    // Not even root has it inside a container.
    let Ok(all) = kernel_text(LOADED) else { return Ok(None) };
    let (known, stamp) = (has(&all), run.join("apparmor-profile"));
    if known && fs::read_to_string(&stamp).is_ok_and(|text| text == TEXT) {
        return Ok(Some(PROFILE));
    }
    let Some(parser) = parser() else { return Ok(known.then_some(PROFILE)) };
    parse(&parser).within(|| format!("cannot load AppArmor profile `{PROFILE}`"))?;
    fs::write(&stamp, TEXT).io_context(|| format!("cannot write `{}`", stamp.display()))?;
    Ok(Some(PROFILE))
}

/// Whether it is among the kernel's profiles.
fn has(all: &str) -> bool {
    all.lines().any(|line| line.strip_prefix(PROFILE).is_some_and(|rest| rest.starts_with(" (")))
}

fn parser() -> Option<PathBuf> {
    PARSERS.iter().map(|directory| Path::new(directory).join("apparmor_parser")).find(|path| path.is_file())
}

/// Gives the text to the parser, which gives it to the kernel.
fn parse(parser: &Path) -> Result<()> {
    let name = parser.display();
    let mut child = Command::new(parser)
        .args(["--replace", "--skip-cache", "--quiet"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .io_context(|| format!("cannot run `{name}`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that has ended says why itself.
        let _ = stdin.write_all(TEXT.as_bytes());
    }
    let done = child.wait_with_output().context(Kind::Internal, || format!("cannot wait for `{name}`"))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let said = said.lines().next_back().unwrap_or_default().trim();
    Err(Error::new(Kind::Denied, format!("`{name}` ended with {}: {said}", done.status)))
}

#[cfg(test)]
mod tests {
    use robot_env_testkit::temporary::TemporaryDirectory;

    use super::*;

    #[test]
    fn the_profile_is_found_by_its_whole_name() {
        for (all, want) in [
            ("robot-env-default (enforce)\n", true),
            ("docker-default (enforce)\nrobot-env-default (complain)\n", true),
            ("robot-env-default-2 (enforce)\nrobot-env (unconfined)\n", false),
            ("/usr/bin/robot-env-default (enforce)\n", false),
            ("", false),
        ] {
            assert_eq!(has(all), want, "{all:?}");
        }
    }

    #[test]
    fn the_text_has_the_name_and_nothing_to_include() {
        assert!(TEXT.starts_with(&format!("profile {PROFILE} ")));
        assert!(!TEXT.contains("include") && !TEXT.contains("@{"));
        assert_eq!(TEXT.matches('{').count(), TEXT.matches('}').count());
    }

    /// The parser gets the text on its standard input; what it says about it is the error.
    #[test]
    fn what_the_parser_says_is_told() {
        use std::os::unix::fs::PermissionsExt as _;
        let place = TemporaryDirectory::new("apparmor");
        let parser = place.join("apparmor_parser");
        let script = |text: &str| {
            fs::write(&parser, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&parser, fs::Permissions::from_mode(0o755)).unwrap();
        };
        script(&format!("/bin/cat > {}", place.join("got").display()));
        parse(&parser).unwrap();
        assert_eq!(fs::read_to_string(place.join("got")).unwrap(), TEXT);
        script("echo 'AppArmor parser error: permission denied' >&2; exit 243");
        let error = parse(&parser).unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
        assert!(
            error.to_string().ends_with("exit status: 243: AppArmor parser error: permission denied"),
            "{error}"
        );
    }

    /// A parser that is here checks the text itself, without a kernel that has AppArmor.
    #[test]
    #[allow(clippy::print_stdout)] // why a test is skipped
    fn a_real_parser_takes_the_text() {
        let Some(parser) = parser() else {
            println!("skipped: apparmor_parser is not installed");
            return;
        };
        let place = TemporaryDirectory::new("apparmor-text");
        let path = place.join("profile");
        fs::write(&path, TEXT).unwrap();
        let done = Command::new(parser)
            .args(["--skip-kernel-load", "--skip-cache", "--quiet"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}
