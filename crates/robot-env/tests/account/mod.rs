//! An ordinary user of this machine, made by `useradd`, with an engine of its own, on a host whose
//! network and mounts are the test's alone.

#![allow(dead_code, reason = "not every test file needs all of it")]

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use robot_env_sys::{mount, namespace};

static COUNT: AtomicU32 = AtomicU32::new(0);
/// The host's address on the test's own network.
pub(crate) const HOST: &str = "198.51.100.2";

/// The user; gone with its home when dropped.
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: PathBuf,
    program: PathBuf,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out.trim_end().to_owned()
    }
}

#[track_caller]
pub(crate) fn root(program: &str, arguments: &[&str]) {
    let Output { status, stderr, .. } = Command::new(program).args(arguments).output().expect(program);
    assert!(status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&stderr));
}

/// Covers a file with another one, for this test alone.
pub(crate) fn cover(path: &str, by: &str) {
    if Path::new(path).exists() {
        root("mount", &["--bind", by, path]);
    }
}

impl Account {
    /// A new user, and a thread whose host is the test's own; `None`, with the reason printed, where
    /// that cannot be.
    #[allow(clippy::print_stdout)] // why a test is skipped
    pub(crate) fn new() -> Option<Account> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        let needed = ["/usr/bin/newuidmap", "/usr/sbin/useradd", "/usr/bin/setpriv", "/usr/bin/unshare"];
        let missing = needed.into_iter().find(|path| !Path::new(path).exists());
        if let Some(missing) = missing.or(busybox.is_none().then_some("busybox-static")) {
            println!("skipped: needs {missing} (packages uidmap, passwd, util-linux, busybox-static)");
            return None;
        }
        own_host();
        let name = format!("re-acc-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // Another test's user may be on its way out, with all that is in its home.
        eventually(Duration::from_secs(120), || {
            let made =
                Command::new("useradd").args(["-m", "-s", "/bin/sh", &name]).output().expect("useradd");
            let text = String::from_utf8_lossy(&made.stderr).into_owned();
            assert!(made.status.success() || text.contains("cannot lock"), "{text}");
            if made.status.success() { Ok(()) } else { Err(text) }
        });
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let line = passwd.lines().find(|line| line.starts_with(&format!("{name}:"))).expect("it was added");
        let fields: Vec<&str> = line.split(':').collect();
        let home = PathBuf::from(fields[5]);
        let account = Account {
            uid: fields[2].parse().unwrap(),
            gid: fields[3].parse().unwrap(),
            program: home.join("robot-env"),
            home,
            name,
        };
        fs::copy(env!("CARGO_BIN_EXE_robot-env"), &account.program).unwrap();
        account.import(busybox?);
        Some(account)
    }

    /// The image `busybox`, with files of several owners.
    fn import(&self, busybox: &str) {
        let tree = self.home.join("tree");
        for directory in ["bin", "etc", "root", "tmp", "home/robot", "shared"] {
            fs::create_dir_all(tree.join(directory)).unwrap();
        }
        fs::copy(busybox, tree.join("bin/busybox")).unwrap();
        for applet in [
            "cat", "chown", "echo", "grep", "id", "ip", "ls", "mkdir", "nc", "rm", "sh", "sleep", "stat",
            "su", "touch", "true",
        ] {
            std::os::unix::fs::symlink("busybox", tree.join("bin").join(applet)).unwrap();
        }
        for (name, text) in [
            ("etc/passwd", "root:x:0:0::/root:/bin/sh\nrobot:x:1000:1000::/home/robot:/bin/sh\n"),
            ("etc/group", "root:x:0:\nrobot:x:1000:\n"),
            ("shared/of-7", ""),
        ] {
            fs::write(tree.join(name), text).unwrap();
        }
        chown(tree.join("home/robot"), Some(1000), Some(1000)).unwrap();
        chown(tree.join("shared/of-7"), Some(7), Some(7)).unwrap();
        fs::set_permissions(tree.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::set_permissions(tree.join("shared"), fs::Permissions::from_mode(0o777)).unwrap();
        let archive = self.home.join("tree.tar");
        root("tar", &["-C", tree.to_str().unwrap(), "-cf", archive.to_str().unwrap(), "."]);
        fs::remove_dir_all(tree).unwrap();
        self.run(&["import", archive.to_str().unwrap(), "busybox"]).ok();
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={}", self.uid)).arg(format!("--regid={}", self.gid));
        command.arg("--clear-groups").arg(&self.program);
        command.arg("--root").arg(self.home.join("data")).arg("--run-root").arg(self.home.join("run"));
        command.args(args).stdin(Stdio::null()).current_dir(&self.home);
        command.env_clear().env("HOME", &self.home).env("PATH", "/usr/bin:/bin").env("USER", &self.name);
        command
    }

    /// The program with these arguments, to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Done {
        let output = self.command(args).output().expect("it starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Done {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// `run --rm FLAGS busybox sh -c SCRIPT`.
    pub(crate) fn script(&self, flags: &str, script: &str) -> Done {
        let mut args = vec!["run", "--rm"];
        args.extend(flags.split_whitespace());
        args.extend(["busybox", "sh", "-c", script]);
        self.run(&args)
    }

    /// A container in the background that runs SCRIPT.
    #[track_caller]
    pub(crate) fn start(&self, flags: &str, script: &str) -> String {
        let mut args = vec!["run", "-d", "--init"];
        args.extend(flags.split_whitespace());
        args.extend(["busybox", "sh", "-c", script]);
        self.run(&args).ok()
    }

    /// The user's processes: pids and names.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let field =
                |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            let uid = field("Uid:").split_whitespace().next().and_then(|uid| uid.parse().ok());
            if uid == Some(self.uid) && !field("State:").trim_start().starts_with('Z') {
                found.push((pid, field("Name:").trim().to_owned()));
            }
        }
        found
    }

    /// Waits until no process of the user is left.
    #[track_caller]
    pub(crate) fn await_nobody(&self) {
        eventually(Duration::from_secs(20), || {
            let left = self.processes();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        for id in self.run(&["ps", "-aq"]).out.split_whitespace() {
            self.run(&["rm", "-f", "-v", id]);
        }
        for (pid, _) in self.processes() {
            if let Ok(pidfd) = robot_env_sys::process::pidfd_open(pid) {
                let _ = robot_env_sys::process::signal(&pidfd, libc::SIGKILL);
            }
        }
        // Another test may hold the lock of /etc/passwd.
        for _ in 0..100 {
            let done = Command::new("userdel").args(["-r", &self.name]).output();
            if !done.is_ok_and(|done| String::from_utf8_lossy(&done.stderr).contains("cannot lock")) {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// Tries until it works.
#[track_caller]
pub(crate) fn eventually<T>(patience: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a server at `address` says first.
pub(crate) fn greeting(address: &str) -> Result<String, String> {
    use std::io::Read;
    let mut stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(|error| error.to_string())?;
    let mut line = [0u8; 64];
    let length = stream.read(&mut line).map_err(|error| error.to_string())?;
    if length == 0 {
        Err("it said nothing".into())
    } else {
        Ok(String::from_utf8_lossy(&line[..length]).trim().into())
    }
}

/// Gives the calling thread a network with a way out and mounts of its own; anybody may open
/// `/dev/net/tun` and `/dev/fuse` in it, as on every distribution.
fn own_host() {
    namespace::unshare(libc::CLONE_FS | libc::CLONE_NEWNS | libc::CLONE_NEWNET).expect("namespaces");
    mount::set_propagation("/", mount::PropagationFlags::PRIVATE | mount::PropagationFlags::REC).unwrap();
    robot_env_sys::netlink::RouteSocket::open().unwrap().loopback_up().unwrap();
    for line in [
        "link add out type veth peer name far",
        &format!("address add {HOST}/24 dev out"),
        "link set out up",
        "link set far up",
        "route add default via 198.51.100.1",
    ] {
        root("ip", &line.split(' ').collect::<Vec<_>>());
    }
    root("mount", &["-t", "tmpfs", "tmpfs", "/mnt"]);
    for (name, major, minor, place) in
        [("tun", "10", "200", "/dev/net/tun"), ("fuse", "10", "229", "/dev/fuse")]
    {
        let node = format!("/mnt/{name}");
        root("mknod", &["-m", "0666", &node, "c", major, minor]);
        cover(place, &node);
    }
}
