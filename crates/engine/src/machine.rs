//! What `info` says of the machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use robot_env_config::Configuration;

use crate::engine::Engine;

/// Runtimes that are looked for on the path.
const RUNTIMES: [&str; 5] = ["crun", "kata-runtime", "runc", "runsc", "youki"];

/// Facts of the machine that no start needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Its system by name, `Debian GNU/Linux 13`.
    pub operating_system: String,
    /// The system's version, empty where it has none.
    pub os_version: String,
    /// The kernel's release.
    pub kernel: String,
    /// As `uname -m` says.
    pub architecture: String,
    /// Bytes.
    pub memory: u64,
    /// The file system that the store is on, in Docker's words.
    pub file_system: &'static str,
    /// Whether the kernel filters system calls.
    pub seccomp: bool,
    /// Whether it passes packets on.
    pub ipv4_forwarding: bool,
    /// Whether it has cgroup namespaces.
    pub cgroup_namespaces: bool,
}

impl Engine {
    /// Reads them.
    pub fn machine(&self) -> Machine {
        let uname = rustix::system::uname();
        let release = fs::read_to_string("/etc/os-release")
            .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
            .unwrap_or_default();
        let sysinfo = rustix::system::sysinfo();
        Machine {
            operating_system: field(&release, "PRETTY_NAME").unwrap_or_else(|| "Linux".into()),
            os_version: field(&release, "VERSION_ID").unwrap_or_default(),
            kernel: uname.release().to_string_lossy().into_owned(),
            architecture: uname.machine().to_string_lossy().into_owned(),
            memory: u64::from(sysinfo.mem_unit.max(1)).saturating_mul(sysinfo.totalram),
            file_system: file_system(self.store().path()),
            seccomp: Path::new("/proc/sys/kernel/seccomp").exists(),
            ipv4_forwarding: fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
                .is_ok_and(|text| text.trim() == "1"),
            cgroup_namespaces: Path::new("/proc/self/ns/cgroup").exists(),
        }
    }

    /// The runtimes by name, with their programs: our own, those that are in a directory of `path`
    /// (`$PATH`), and those of the configuration.
    pub fn runtimes(&self, path: &str, configuration: &Configuration) -> BTreeMap<String, PathBuf> {
        let mut found =
            BTreeMap::from([("robot-env".to_owned(), std::env::current_exe().unwrap_or_default())]);
        for name in RUNTIMES {
            let mut paths =
                path.split(':').filter(|dir| dir.starts_with('/')).map(|dir| Path::new(dir).join(name));
            if let Some(path) = paths.find(|path| path.is_file()) {
                found.insert(name.to_owned(), path);
            }
        }
        for name in configuration.runtimes() {
            if let Some(runtime) = configuration.runtime(name) {
                found.insert(name.to_owned(), runtime.path.into());
            }
        }
        found
    }
}

/// A field of os-release(5).
fn field(text: &str, name: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned())
}

/// The name of the file system at `path`, in the words of Docker.
fn file_system(path: &Path) -> &'static str {
    let magic = rustix::fs::statfs(path).map_or(0, |stat| stat.f_type as u64 & 0xffff_ffff);
    match magic {
        0xef53 => "extfs",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlayfs",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        0xca45_1a4e => "bcachefs",
        _ => "<unknown>",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_is_read() {
        let text = "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 13\"\nVERSION_ID='13'\n";
        assert_eq!(field(text, "PRETTY_NAME").as_deref(), Some("Debian GNU/Linux 13"));
        assert_eq!(field(text, "VERSION_ID").as_deref(), Some("13"));
        assert_eq!(field(text, "NAME").as_deref(), Some("x"));
        assert_eq!(field(text, "ID"), None);
    }
}
