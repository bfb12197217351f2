//! An ordinary user that exists as long as a test.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use robot_env_sys::namespace::{self, IdRange};
use robot_env_sys::poll::{self, Fork};
use robot_env_sys::process;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A user made by `useradd`, with ranges of subordinate ids; removed with its home when dropped.
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: String,
    /// A group that the user is started with beside its own.
    pub(crate) extra: u32,
    program: String,
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

/// The inode of a process's user namespace.
pub(crate) fn namespace_of(process: &str) -> u64 {
    fs::metadata(format!("/proc/{process}/ns/user")).unwrap().ino()
}

impl User {
    pub(crate) fn make() -> Option<User> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        for program in ["/usr/bin/newuidmap", "/usr/bin/newgidmap", "/usr/sbin/useradd", "/usr/bin/setpriv"] {
            if !Path::new(program).exists() {
                println!("skipped: needs {program} (packages uidmap, passwd, util-linux)");
                return None;
            }
        }
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("re-test-{}-{count}", std::process::id());
        run("useradd", &["-m", "-s", "/bin/sh", &name]);
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let line = passwd.lines().find(|line| line.starts_with(&format!("{name}:"))).expect("it was added");
        let fields: Vec<&str> = line.split(':').collect();
        let mut user = User {
            uid: fields[2].parse().unwrap(),
            gid: fields[3].parse().unwrap(),
            home: fields[5].to_owned(),
            extra: 4_000_000_000 + count,
            program: String::new(),
            name,
        };
        user.program = format!("{}/program", user.home);
        fs::copy("/proc/self/exe", &user.program).unwrap();
        Some(user)
    }

    /// The run root that roles use.
    pub(crate) fn run(&self) -> PathBuf {
        Path::new(&self.home).join("run")
    }

    /// A new directory of the user's.
    pub(crate) fn directory(&self, name: &str) -> String {
        let path = format!("{}/{name}", self.home);
        fs::create_dir(&path).unwrap();
        chown(&path, Some(self.uid), Some(self.gid)).unwrap();
        path
    }

    pub(crate) fn first_subordinate(&self, file: &str) -> u32 {
        let text = fs::read_to_string(file).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{}:", self.name)));
        line.and_then(|line| line.split(':').next()?.parse().ok()).expect("useradd gives ranges")
    }

    pub(crate) fn drop_ranges(&self) {
        for (file, option) in [("/etc/subuid", "--del-subuids"), ("/etc/subgid", "--del-subgids")] {
            let first = self.first_subordinate(file);
            run("usermod", &[option, &format!("{first}-{}", first + 65535), &self.name]);
        }
    }

    fn command(&self, group: u32, role: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={}", self.uid)).arg(format!("--regid={group}"));
        command.arg(format!("--groups={},{}", self.gid, self.extra));
        command.arg(&self.program).arg("as-user").args(role);
        command.env_clear().env("HOME", &self.home).env("PATH", "/usr/bin:/bin").env("RUN", self.run());
        command.current_dir(&self.home);
        command
    }

    fn output(mut command: Command, role: &[&str]) -> String {
        let output = command.output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{role:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Plays a role to its end: what it printed.
    pub(crate) fn play(&self, role: &[&str]) -> String {
        Self::output(self.command(self.gid, role), role)
    }

    pub(crate) fn play_as_group(&self, group: u32, role: &[&str]) -> String {
        Self::output(self.command(group, role), role)
    }

    pub(crate) fn play_with(&self, environment: &[(&str, &str)], role: &[&str]) -> String {
        let mut command = self.command(self.gid, role);
        command.envs(environment.iter().copied());
        Self::output(command, role)
    }

    /// Plays a role as root.
    pub(crate) fn play_as_root(environment: &[(&str, &str)], role: &[&str]) -> String {
        let mut command = Command::new("/proc/self/exe");
        command.arg("as-user").args(role).env_clear().envs(environment.iter().copied());
        Self::output(command, role)
    }

    /// Like `play`, in a mount namespace that root changes first.
    pub(crate) fn play_after(&self, setup: &str, role: &[&str]) -> String {
        let inner = self.command(self.gid, role);
        let setup = setup.replace("USER", &self.name);
        let script =
            format!("mount -t tmpfs tmpfs /tmp && {{ {setup}; }} && chmod -R a+rX /tmp && exec \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation=private", "sh", "-c", &script, "sh"]);
        command.arg(inner.get_program()).args(inner.get_args()).env_clear();
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(&self.home);
        Self::output(command, role)
    }

    /// Plays `report` where no user namespace may be made: in one whose root has said so.
    pub(crate) fn play_where_none_may(&self) -> String {
        let (output, write) = poll::pipe().unwrap();
        let (go, ready) = poll::pipe().unwrap();
        match poll::fork().unwrap() {
            Fork::Child => {
                drop((output, ready));
                namespace::unshare(libc::CLONE_NEWUSER).unwrap();
                rustix::io::write(&write, b"x").unwrap();
                fs::File::from(go).read_exact(&mut [0]).unwrap();
                fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
                poll::replace_stdio(1, &write).unwrap();
                drop(write);
                let mut command = self.command(self.gid, &["report"]);
                poll::exit_now(i32::from(!command.status().is_ok_and(|status| status.success())));
            }
            Fork::Parent(pid) => {
                drop((write, go));
                let mut output = fs::File::from(output);
                output.read_exact(&mut [0]).unwrap();
                let all = [IdRange { inside: 0, outside: 0, count: u32::MAX }];
                namespace::write_id_maps(pid, &all, &all, false).unwrap();
                rustix::io::write(&ready, b"x").unwrap();
                let mut text = String::new();
                output.read_to_string(&mut text).unwrap();
                let status = process::pidfd_open(pid).and_then(|pidfd| process::wait(&pidfd));
                assert_eq!(status, Ok(0), "{text}");
                text
            }
        }
    }

    /// Starts a role that prints a line and waits for the end of its input.
    pub(crate) fn start(&self, role: &[&str]) -> Running {
        self.start_with(&[], role)
    }

    fn start_with(&self, environment: &[(&str, &str)], role: &[&str]) -> Running {
        let mut command = self.command(self.gid, role);
        command.envs(environment.iter().copied());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let output = BufReader::new(child.stdout.take().unwrap());
        Running { child, output }
    }

    /// Starts one that enters and stays.
    pub(crate) fn stay(&self, options: &[&str]) -> Staying {
        let role: Vec<&str> = ["stay"].into_iter().chain(options.iter().copied()).collect();
        Staying::of(self.start(&role))
    }

    /// Starts one that enters and stays, in another environment.
    pub(crate) fn stay_with(&self, environment: &[(&str, &str)]) -> Staying {
        Staying::of(self.start_with(environment, &["stay"]))
    }

    /// Starts several at the same time.
    pub(crate) fn stay_all(&self, count: usize) -> Vec<Staying> {
        let running: Vec<Running> = (0..count).map(|_| self.start(&["stay"])).collect();
        running.into_iter().map(Staying::of).collect()
    }

    /// A directory for a container of busybox: `lower`, `upper`, `work`, `anchor`.
    pub(crate) fn bundle(&self) -> Option<String> {
        if !Path::new("/bin/busybox").exists() {
            println!("skipped: needs /bin/busybox (package busybox-static)");
            return None;
        }
        let path = self.directory("bundle");
        let at = Path::new(&path);
        for sub in
            ["lower/bin", "lower/tmp", "lower/proc", "lower/dev", "lower/sys", "upper", "work", "anchor"]
        {
            fs::create_dir_all(at.join(sub)).unwrap();
        }
        fs::set_permissions(at.join("lower/tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777))
            .unwrap();
        fs::copy("/bin/busybox", at.join("lower/bin/busybox")).unwrap();
        for tool in ["sh", "id", "hostname", "touch", "sleep", "echo", "cat"] {
            symlink("busybox", at.join("lower/bin").join(tool)).unwrap();
        }
        run("chown", &["-R", &format!("{}:{}", self.uid, self.gid), &path]);
        Some(path)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let removed = Command::new("userdel").args(["-f", "-r", &self.name]).output();
        if removed.map_or(true, |output| !output.status.success()) {
            println!("the user {} could not be removed", self.name);
        }
    }
}

/// A role at work.
pub(crate) struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    /// The line that it prints when it is ready.
    pub(crate) fn word(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the role failed, see above");
        line.trim_end().to_owned()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn end(&mut self) {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        while self.output.read_line(&mut rest).unwrap() > 0 {}
        assert!(self.child.wait().unwrap().success(), "{rest}");
    }
}

/// A process that stays in its namespace.
pub(crate) struct Staying {
    running: Running,
    pub(crate) namespace: u64,
}

impl Staying {
    fn of(mut running: Running) -> Self {
        let namespace = running.word().parse().unwrap();
        Staying { running, namespace }
    }

    pub(crate) fn end(mut self) {
        self.running.end();
    }
}
