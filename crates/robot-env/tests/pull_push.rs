//! `pull` and `push` by the command line, with a registry in the test's process: Docker's lines on
//! standard output, exit codes, Ctrl-C.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use robot_env_testkit::image::{BuiltImage, Entry, ImageBuilder};
use robot_env_testkit::registry::{Effect, Fault, TestRegistry};
use robot_env_testkit::temporary::TemporaryDirectory;

struct Place {
    directory: TemporaryDirectory,
    registry: TestRegistry,
}

impl Place {
    fn new(name: &str) -> Self {
        Place { directory: TemporaryDirectory::new(name), registry: TestRegistry::start() }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_robot-env"));
        let root = |name: &str| self.directory.join(name).into_os_string();
        command.arg("--root").arg(root("data")).arg("--run-root").arg(root("run")).arg("--config");
        command.arg(root("config")).args(line.split(' ')).env_remove("DOCKER_DEFAULT_PLATFORM");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it; `@` in `line` stands for the registry.
    fn run(&self, line: &str) -> Output {
        self.command(&line.replace('@', &self.registry.host())).output().unwrap()
    }

    /// What it printed; it must have gone well.
    fn ok(&self, line: &str) -> Vec<String> {
        let output = self.run(line);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {told}");
        assert_eq!(told, "", "{line}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    /// What it complained of.
    fn fails(&self, line: &str, code: i32) -> String {
        let output = self.run(line);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{line}: {told}");
        told
    }

    fn entries(&self, name: &str) -> usize {
        std::fs::read_dir(self.directory.join("data").join(name)).map_or(0, Iterator::count)
    }
}

fn image() -> BuiltImage {
    ImageBuilder::new()
        .layer(&[Entry::directory("etc/"), Entry::file("etc/large", "large ".repeat(100_000))])
        .layer(&[Entry::file("etc/small", "s")])
        .build()
}

#[test]
fn pull_prints_what_docker_prints() {
    let place = Place::new("cli-pull");
    let image = image();
    place.registry.put_image("team/robot", "latest", &image);
    place.registry.put_image("team/robot", "v1", &image);
    let host = place.registry.host();
    let digest = image.digest();
    let lines = place.ok("pull @/team/robot");
    let short = |n: usize| image.layers[n].descriptor.digest.short();
    assert_eq!(lines[..2], ["Using default tag: latest", "latest: Pulling from team/robot"]);
    for n in 0..2 {
        for step in ["Pulling fs layer", "Download complete", "Pull complete"] {
            assert!(lines.contains(&format!("{}: {step}", short(n))), "{lines:?}");
        }
    }
    let end = [
        format!("Digest: {digest}"),
        format!("Status: Downloaded newer image for {host}/team/robot:latest"),
        format!("{host}/team/robot:latest"),
    ];
    assert_eq!(lines[lines.len() - 3..], end);
    assert_eq!(lines.len(), 2 + 6 + 3);

    let again = [
        "latest: Pulling from team/robot".to_owned(),
        format!("Digest: {digest}"),
        format!("Status: Image is up to date for {host}/team/robot:latest"),
        format!("{host}/team/robot:latest"),
    ];
    assert_eq!(place.ok("pull @/team/robot:latest"), again);
    assert_eq!(place.ok("image pull -q @/team/robot"), [format!("{host}/team/robot:latest")]);
    let all = place.ok("pull --all-tags @/team/robot");
    let statuses = all.iter().filter(|line| line.starts_with("Status: ")).count();
    assert_eq!((statuses, all.last().unwrap()), (2, &format!("{host}/team/robot")));
    let name = format!("{host}/team/robot@{digest}");
    let by_digest = place.command(&format!("pull {name}")).output().unwrap();
    let out = String::from_utf8(by_digest.stdout).unwrap();
    assert!(out.starts_with(&format!("{name}: Pulling from team/robot\n")), "{out}");
}

#[test]
fn push_prints_what_docker_prints() {
    let place = Place::new("cli-push");
    let image = image();
    place.registry.put_image("team/robot", "latest", &image);
    let host = place.registry.host();
    place.ok("pull -q @/team/robot");
    place.ok("tag @/team/robot @/mine/robot:v2");
    let lines = place.ok("push @/mine/robot:v2");
    assert_eq!(lines[0], format!("The push refers to repository [{host}/mine/robot]"));
    for layer in &image.layers {
        let short = layer.diff_id.short();
        assert!(lines.contains(&format!("{short}: Mounted from team/robot")), "{lines:?}");
    }
    let end = format!("v2: digest: {} size: {}", image.digest(), image.manifest.len());
    assert_eq!(lines.last().unwrap(), &end);
    assert_eq!(place.ok("push -q @/mine/robot:v2"), [format!("{host}/mine/robot:v2")]);
    place.ok("tag @/team/robot @/mine/robot");
    let all = place.ok("push -a @/mine/robot");
    assert_eq!(all.iter().filter(|line| line.contains(": digest: ")).count(), 2);
    assert_eq!(place.ok("push @/mine/robot")[0], "Using default tag: latest");
}

#[test]
fn mistakes_are_told_and_nothing_changes() {
    let place = Place::new("cli-mistakes");
    place.registry.put_image("robot", "latest", &image());
    for (line, code, words) in [
        ("pull @/nothing", 1, "404"),
        ("pull @/robot:nothing", 1, "cannot pull image"),
        ("pull UPPER", 1, "lower case"),
        ("pull -a @/robot:latest", 1, "tag can't be used with --all-tags/-a"),
        ("pull --platform nonsense/of/many/parts @/robot", 1, "invalid platform"),
        ("pull --platform linux/riscv64 @/robot", 1, "not for `linux/riscv64`"),
        ("pull --disable-content-trust=false @/robot", 1, "not supported"),
        ("pull --nope @/robot", 125, "unknown flag: --nope"),
        ("pull", 1, "NAME"),
        ("push @/robot", 1, "no image here"),
        ("push -a @/robot", 1, "no image here"),
        ("push -a @/robot:latest", 1, "tag can't be used with --all-tags/-a"),
    ] {
        let told = place.fails(line, code);
        assert!(told.starts_with("error: ") && told.contains(words), "{line}: {told}");
    }
    assert_eq!((place.entries("images"), place.entries("names"), place.entries("staging")), (0, 0, 0));
}

fn interrupt(child: &Child) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), rustix::process::Signal::INT)
        .unwrap();
}

#[test]
fn ctrl_c_takes_back_what_was_begun() {
    let place = Place::new("cli-interrupt");
    let image = image();
    place.registry.put_image("robot", "latest", &image);
    let stall = Effect::StallAfter(500, Duration::from_secs(60));
    let blob = image.layers[0].descriptor.digest.to_string();
    place.registry.fault(Fault::times(&blob, 1, stall));
    let child = place.command(&format!("pull {}/robot", place.registry.host())).spawn().unwrap();
    let data: PathBuf = place.directory.join("data/staging");
    let started = Instant::now();
    while std::fs::read_dir(&data).map_or(0, Iterator::count) == 0 || place.registry.count("GET", &blob) == 0
    {
        assert!(started.elapsed() < Duration::from_secs(20), "it never began");
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(100));
    let pressed = Instant::now();
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert!(pressed.elapsed() < Duration::from_secs(2), "{:?}", pressed.elapsed());
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{told}");
    assert!(told.contains("cancelled"), "{told}");
    let left = ["staging", "leases", "images", "names"].map(|name| place.entries(name));
    assert_eq!(left, [0; 4]);
    place.ok("pull -q @/robot");
}
