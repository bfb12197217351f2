//! An engine of a test's own: the built program on temporary roots, with a small image of busybox.

#![allow(dead_code, reason = "not every test file needs all of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use robot_env_testkit::image::{Compression, Entry, ImageBuilder};
use robot_env_testkit::registry::TestRegistry;
use robot_env_testkit::temporary::TemporaryDirectory;

/// The programs of busybox that the image has by name.
const APPLETS: &[&str] = &[
    "cat", "chmod", "chown", "date", "dd", "echo", "env", "false", "find", "grep", "head", "hostname", "id",
    "kill", "ln", "ls", "mkdir", "mount", "mv", "nc", "printf", "ps", "pwd", "readlink", "rm", "sh", "sleep",
    "stat", "stty", "tail", "test", "touch", "true", "tty", "umount", "wc", "yes",
];

/// Two roots, and the image `busybox` in them.
pub(crate) struct Place {
    pub(crate) directory: TemporaryDirectory,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    fn of(output: &Output) -> Done {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Done {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// The output without its last newline, of a command that must have succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out.trim_end().to_owned()
    }
}

impl Place {
    /// A new place; `None`, with the reason printed, where there cannot be one.
    #[allow(clippy::print_stdout)] // why a test is skipped
    pub(crate) fn new(name: &str) -> Option<Place> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find_map(|path| fs::read(path).ok());
        let Some(busybox) = busybox else {
            println!("skipped: busybox-static is not installed");
            return None;
        };
        let place = Place { directory: TemporaryDirectory::new(name) };
        // What tests remove is gone, but where undoing is what they try.
        fs::create_dir_all(place.directory.join("config/robot-env")).unwrap();
        fs::write(place.directory.join("config/robot-env/config.toml"), "undo-time = \"0\"\n").unwrap();
        let registry = TestRegistry::start();
        registry.put_image("busybox", "latest", &image(busybox));
        let from = registry.name("busybox:latest");
        place.command(&["pull", "-q", &from]).run().ok();
        place.command(&["tag", &from, "busybox"]).run().ok();
        Some(place)
    }

    /// The program with these arguments.
    pub(crate) fn command(&self, args: &[&str]) -> Call {
        let mut command = Command::new(program());
        command.arg("--root").arg(self.directory.join("root"));
        command.arg("--run-root").arg(self.directory.join("run"));
        command.env("XDG_CONFIG_HOME", self.directory.join("config"));
        command.args(args).stdin(Stdio::null());
        Call(command)
    }

    /// Runs the program with the words of `line`, which have no quotes.
    pub(crate) fn run(&self, line: &str) -> Done {
        self.command(&line.split_whitespace().collect::<Vec<_>>()).run()
    }

    /// `run --rm busybox sh -c SCRIPT` with further flags.
    pub(crate) fn script(&self, flags: &str, script: &str) -> Done {
        let mut args = vec!["run", "--rm", "--network", "none"];
        args.extend(flags.split_whitespace());
        args.extend(["busybox", "sh", "-c", script]);
        self.command(&args).run()
    }

    /// A container that runs until it is told to stop.
    #[track_caller]
    pub(crate) fn sleeper(&self, flags: &str) -> String {
        let line = format!("run -d --network none --init {flags} busybox sleep 10000");
        self.run(&line).ok()
    }

    /// A field of a container, by a Go template.
    #[track_caller]
    pub(crate) fn field(&self, container: &str, template: &str) -> String {
        self.command(&["inspect", "-f", template, container]).run().ok()
    }

    /// Waits until a field has this value.
    #[track_caller]
    pub(crate) fn await_field(&self, container: &str, template: &str, want: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let done = self.command(&["inspect", "-f", template, container]).run();
            if done.code == 0 && done.out.trim_end() == want {
                return;
            }
            assert!(Instant::now() < deadline, "{container}: {template} is {done:?}, not {want}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The monitor of a running container.
    pub(crate) fn monitor(&self, container: &str) -> i32 {
        let pid: i32 = self.field(container, "{{.State.Pid}}").parse().unwrap();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// Nothing of a removed container is left in the roots.
    #[track_caller]
    pub(crate) fn assert_empty(&self) {
        for part in ["root/containers", "root/containers/by-name", "root/snapshots", "run/containers"] {
            let entries: Vec<_> = fs::read_dir(self.directory.join(part))
                .unwrap()
                .flatten()
                .map(|e| e.path())
                .filter(|path| !path.ends_with("by-name"))
                .collect();
            assert!(entries.is_empty(), "{entries:?}");
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let ids = self.run("ps -aq").out;
        for id in ids.split_whitespace() {
            self.run(&format!("rm -f -v {id}"));
        }
    }
}

/// The program: the one that was built for the tests, or `ROBOT_ENV_TEST_PROGRAM`.
fn program() -> std::ffi::OsString {
    std::env::var_os("ROBOT_ENV_TEST_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_robot-env").into())
}

/// A call of the program.
pub(crate) struct Call(pub(crate) Command);

impl Call {
    pub(crate) fn env(mut self, name: &str, value: &str) -> Call {
        self.0.env(name, value);
        self
    }

    pub(crate) fn directory(mut self, path: &Path) -> Call {
        self.0.current_dir(path);
        self
    }

    pub(crate) fn args(mut self, args: &[&str]) -> Call {
        self.0.args(args);
        self
    }

    pub(crate) fn run(mut self) -> Done {
        Done::of(&self.0.output().expect("the program is there"))
    }

    /// Runs it with `input` on its standard input.
    pub(crate) fn feed(mut self, input: &[u8]) -> Done {
        use std::io::Write;
        let mut child =
            self.0.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // It may have ended before it has read everything.
                let _ = stdin.write_all(input);
            });
            Done::of(&child.wait_with_output().unwrap())
        })
    }

    /// Starts it, with pipes.
    pub(crate) fn spawn(mut self) -> Child {
        self.0.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

/// A context with these files and this Dockerfile.
pub(crate) fn context(place: &Place, name: &str, dockerfile: &str, files: &[(&str, &str)]) -> PathBuf {
    let directory = place.directory.join(name);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("Dockerfile"), dockerfile).unwrap();
    for (path, content) in files {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    directory
}

/// Builds a context, with further flags.
pub(crate) fn build(place: &Place, directory: &Path, words: &[&str]) -> Done {
    let all = [&["build", "--progress", "plain"], words, &[directory.to_str().unwrap()]].concat();
    place.command(&all).run()
}

/// What a container of the image prints.
pub(crate) fn prints(place: &Place, image: &str, command: &str) -> String {
    place.command(&["run", "--rm", "--network", "none", image, "sh", "-c", command]).run().ok()
}

/// What a script of the host's prints, without its last newline.
#[track_caller]
pub(crate) fn shell(directory: &Path, script: &str) -> String {
    let out = Command::new("sh").args(["-euc", script]).current_dir(directory).output().unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
}

/// The image of busybox, where its program is installed.
pub(crate) fn busybox_image() -> Option<robot_env_testkit::image::BuiltImage> {
    let found = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find_map(|path| fs::read(path).ok());
    found.map(image)
}

fn image(busybox: Vec<u8>) -> robot_env_testkit::image::BuiltImage {
    let mut entries = vec![
        Entry::directory("bin"),
        Entry::file("bin/busybox", busybox).mode(0o755),
        Entry::directory("etc"),
        Entry::file("etc/passwd", "root:x:0:0::/root:/bin/sh\nrobot:x:1000:1000::/home/robot:/bin/sh\n"),
        Entry::file("etc/group", "root:x:0:\nrobot:x:1000:\ndialout:x:20:robot\n"),
        Entry::directory("root"),
        Entry::directory("home/robot").owner(1000, 1000),
        Entry::directory("tmp").mode(0o1777),
        Entry::directory("data"),
        Entry::file("data/from-image", "seed\n").owner(1000, 1000),
    ];
    entries.extend(APPLETS.iter().map(|name| Entry::symlink(&format!("bin/{name}"), "busybox")));
    let config = serde_json::json!({
        "Cmd": ["sh"],
        "Env": ["PATH=/bin", "FROM_IMAGE=1"],
        "Labels": { "made-by": "test" },
    });
    ImageBuilder::new().layer_with(&entries, Compression::Gzip).config(config).build()
}
