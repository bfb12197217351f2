use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use robot_env_runtime::{Console, Create, Rootfs, Stdio, create};
use robot_env_sys::{cgroup, poll, process};

/// A root file system of busybox and a directory around it, removed when dropped.
pub(crate) struct Place {
    pub(crate) directory: PathBuf,
    anchor: PathBuf,
    /// How many containers were made of it.
    made: std::cell::Cell<u32>,
}

impl Place {
    pub(crate) fn new(name: &str) -> Option<Place> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        if !Path::new("/bin/busybox").exists() {
            println!("skipped: needs /bin/busybox (package busybox-static)");
            return None;
        }
        let directory = std::env::temp_dir().join(format!("re-runtime-{name}-{}", std::process::id()));
        for sub in ["rootfs/bin", "rootfs/etc", "rootfs/tmp", "anchor"] {
            std::fs::create_dir_all(directory.join(sub)).unwrap();
        }
        std::fs::copy("/bin/busybox", directory.join("rootfs/bin/busybox")).unwrap();
        for tool in [
            "sh", "id", "cat", "hostname", "ls", "echo", "sleep", "tty", "mount", "touch", "grep", "mkdir",
            "umask", "ulimit", "pwd", "head", "cut", "stat", "wc", "mknod", "tr", "stty", "readlink", "true",
            "mkfifo",
        ] {
            symlink("busybox", directory.join("rootfs/bin").join(tool)).unwrap();
        }
        Some(Place { anchor: directory.join("anchor"), directory, made: std::cell::Cell::default() })
    }

    #[allow(clippy::unused_self)] // reads like the other methods
    pub(crate) fn spec(&self, args: &[&str], change: impl FnOnce(&mut serde_json::Value)) -> Spec {
        let mut spec = serde_json::json!({
            "ociVersion": "1.2.0",
            "process": {
                "user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/bin"], "cwd": "/",
                "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
            },
            "root": {"path": "rootfs"},
            "hostname": "inside",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]},
            ],
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
                "maskedPaths": ["/proc/kcore", "/proc/timer_list"], "readonlyPaths": ["/proc/sys"],
                "resources": {"pids": {"limit": 50}},
            },
        });
        change(&mut spec);
        serde_json::from_value(spec).expect("the spec is well-formed")
    }

    pub(crate) fn create(
        &self,
        spec: &Spec,
        console: Console,
    ) -> robot_env_diag::Result<robot_env_runtime::Created> {
        self.create_with(spec, console, 0)
    }

    /// With descriptors from 3 on that the program inherits.
    pub(crate) fn create_with(
        &self,
        spec: &Spec,
        console: Console,
        preserve_fds: u32,
    ) -> robot_env_diag::Result<robot_env_runtime::Created> {
        let hierarchies = cgroup::detect();
        let made = self.made.get();
        self.made.set(made + 1);
        let suffix = if made == 0 { String::new() } else { format!("-{made}") };
        let path = format!("/robot-env-test/{}{suffix}", self.id());
        let cgroup = hierarchies.is_writable().then_some((&hierarchies, path.as_str()));
        create(Create { cgroup, preserve_fds, ..self.request(spec, console) })
    }

    /// In the caller's cgroup.
    pub(crate) fn create_without_cgroup(
        &self,
        spec: &Spec,
        console: Console,
    ) -> robot_env_diag::Result<robot_env_runtime::Created> {
        create(self.request(spec, console))
    }

    fn request<'a>(&'a self, spec: &'a Spec, console: Console) -> Create<'a> {
        Create {
            id: "test",
            spec,
            bundle: &self.directory,
            anchor: &self.anchor,
            rootfs: Rootfs::Path(self.directory.join("rootfs")),
            console,
            cgroup: None,
            seccomp_cache: None,
            preserve_fds: 0,
            init: false,
            gate: None,
        }
    }

    /// Its directory's name, unique on this machine.
    pub(crate) fn id(&self) -> &str {
        self.directory.file_name().unwrap().to_str().unwrap()
    }

    /// Starts one whose output nobody reads.
    pub(crate) fn start(&self, spec: &Spec) -> robot_env_runtime::Process {
        let (console, _output) = streams();
        self.create(spec, console).and_then(robot_env_runtime::Created::start).expect("it starts")
    }

    /// Kills a container and removes its cgroup.
    pub(crate) fn end(container: robot_env_runtime::Process) {
        process::signal(&container.pidfd, 9).unwrap();
        assert_eq!(process::wait(&container.pidfd).unwrap(), 137);
        if let Some(cgroup) = container.cgroup {
            cgroup.remove();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
        // The last one to go removes the directory that all tests' cgroups are in.
        let hierarchies = cgroup::detect();
        // runc makes one in an empty version 2 hierarchy too.
        let unified = PathBuf::from("/sys/fs/cgroup/unified");
        for point in hierarchies.mounts().values().chain([&unified]) {
            let _ = std::fs::remove_dir(point.join("robot-env-test"));
        }
    }
}

/// Streams that end in the returned pipe.
pub(crate) fn streams() -> (Console, OwnedFd) {
    let (read, write) = poll::pipe().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let stdio = Stdio { stdin: null.into(), stdout: write.try_clone().unwrap(), stderr: write };
    (Console::Pipes(stdio), read)
}

pub(crate) fn text(fd: OwnedFd) -> String {
    let mut out = String::new();
    std::fs::File::from(fd).read_to_string(&mut out).unwrap();
    out
}

/// Runs to the end: exit code and output.
pub(crate) fn run(place: &Place, spec: &Spec) -> (i32, String) {
    let (console, output) = streams();
    let process = place.create(spec, console).and_then(robot_env_runtime::Created::start).expect("it starts");
    let output = text(output);
    let code = process::wait(&process.pidfd).unwrap();
    if let Some(cgroup) = process.cgroup {
        cgroup.remove();
    }
    (code, output)
}
