//! What the user does.

use std::ffi::CString;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Process, Spec};
use robot_env_engine::rootless::{Enter, Identity, enter, hold, roots};
use robot_env_runtime::{Console, Create, Created, Exec, Rootfs, Stdio, create, exec};
use robot_env_sys::mount::{self, OverlayRequest};
use robot_env_sys::{fs as sys_fs, namespace, poll, process};
use rustix::fs::StatVfsMountFlags;
use serde_json::json;

fn run_root() -> PathBuf {
    std::env::var_os("RUN").expect("the test names it").into()
}

fn try_enter(run: &Path) -> robot_env_diag::Result<Identity> {
    let path = std::env::var_os("PATH");
    enter(&Enter { run, login: None, path: path.as_deref(), even_root: false })
}

fn entered() -> Identity {
    let identity = try_enter(&run_root()).unwrap_or_else(|error| panic!("{}", error.to_report()));
    assert!(rustix::process::geteuid().is_root() && rustix::process::getuid().is_root());
    identity
}

/// Plays a role by its name.
pub(crate) fn play(role: &[String]) {
    let words: Vec<&str> = role.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["maps", place] => maps(Path::new(place)),
        ["remove", place] => {
            entered();
            sys_fs::remove_tree(Path::new(place)).unwrap();
        }
        ["group", file] => group(file),
        ["shield"] => {
            entered();
            let program = robot_env_runtime::shield::program().unwrap();
            let kind = rustix::fs::fstatfs(&program).unwrap().f_type;
            let read_only =
                rustix::fs::fstatvfs(&program).unwrap().f_flag.contains(StatVfsMountFlags::RDONLY);
            // A copy in memory would cost each container the size of the program.
            println!(
                "{}, {}",
                if kind == 0x794c_7630 { "overlay" } else { "a copy" },
                if read_only { "read-only" } else { "writable" }
            );
        }
        ["overlay", place] => overlay_in(Path::new(place)),
        ["container", bundle, network, user] => container(Path::new(bundle), network, user),
        ["monitor", bundle] => monitor(Path::new(bundle)),
        ["exec", bundle, pid] => exec_into(Path::new(bundle), pid.parse().unwrap()),
        ["kill", pid] => {
            entered();
            process::signal(process::pidfd_open(pid.parse().unwrap()).unwrap(), libc::SIGKILL).unwrap();
        }
        ["stay", options @ ..] => {
            entered();
            if options.contains(&"hold") {
                hold(&run_root()).unwrap();
            }
            println!("{}", fs::metadata("/proc/self/ns/user").unwrap().ino());
            wait_for_the_end();
        }
        ["again"] => again(),
        ["inside"] => inside(),
        ["roots"] => show_roots(),
        ["even-root"] => {
            let run = run_root();
            let identity = enter(&Enter { run: &run, login: None, path: None, even_root: true });
            let identity = identity.unwrap_or_else(|error| panic!("{}", error.to_report()));
            println!("{:?} {} {} {}", identity.kind, identity.user, identity.group, identity.single_id);
        }
        ["report"] => match try_enter(&run_root()) {
            Ok(identity) => println!("entered: {identity:?}"),
            Err(error) => println!("{}", error.to_report()),
        },
        _ => panic!("no such role: {words:?}"),
    }
}

fn wait_for_the_end() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn maps(place: &Path) {
    std::env::set_current_dir(place).unwrap();
    let identity = entered();
    let of = |file: &str| {
        let text = fs::read_to_string(format!("/proc/self/{file}")).unwrap();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    println!(
        "{:?} {} {} {} {:?}",
        identity.kind, identity.user, identity.group, identity.single_id, identity.single_id_because
    );
    println!("map {}\nmap {}\nsetgroups {}", of("uid_map"), of("gid_map"), of("setgroups"));
    println!("cwd {}", std::env::current_dir().unwrap().display());
    assert_eq!(
        (identity.user_outside(0), identity.user_inside(identity.user)),
        (Some(identity.user), Some(0))
    );
    assert_eq!(
        (identity.group_outside(0), identity.group_inside(identity.group)),
        (Some(identity.group), Some(0))
    );
    let file = |name: &str| {
        let path = place.join(name);
        fs::write(&path, "").unwrap();
        path
    };
    file("of-root");
    let given = chown(file("of-1000"), Some(1000), Some(1000));
    assert_eq!(given.is_ok(), !identity.single_id);
}

fn group(file: &str) {
    entered();
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    print!("{} {} {}", user.as_raw(), group.as_raw(), fs::read_to_string(file).unwrap());
    // What is made belongs to mapped ids, whatever the command was started with.
    let made = Path::new(file).with_extension("made");
    fs::write(&made, "").unwrap();
    let stat = fs::metadata(&made).unwrap();
    assert_eq!((stat.uid(), stat.gid()), (0, 0));
    fs::remove_file(made).unwrap();
    assert!(Path::new("/proc/self/fd").read_dir().unwrap().count() > 0, "still its own master");
}

fn open(path: &Path) -> OwnedFd {
    sys_fs::open_directory(path).unwrap()
}

fn mounted(lower: &Path, upper: &Path, work: &Path) -> OwnedFd {
    let (lower, upper, work) = (open(lower), open(upper), open(work));
    mount::overlay(&OverlayRequest {
        lowers: &[lower.as_fd()],
        upper: Some((upper.as_fd(), work.as_fd())),
        volatile: true,
        userxattr: true,
    })
    .unwrap()
}

fn overlay_in(place: &Path) {
    entered();
    for sub in ["lower/kept", "lower/whole", "upper", "work", "point"] {
        fs::create_dir_all(place.join(sub)).unwrap();
    }
    fs::write(place.join("lower/gone"), "").unwrap();
    fs::write(place.join("lower/whole/old"), "").unwrap();
    let tree = mounted(&place.join("lower"), &place.join("upper"), &place.join("work"));
    mount::attach(tree.as_fd(), open(&place.join("point")).as_fd()).unwrap();
    let point = place.join("point");
    fs::remove_file(point.join("gone")).unwrap();
    fs::remove_dir_all(point.join("whole")).unwrap();
    fs::create_dir(point.join("whole")).unwrap();
    assert_eq!(fs::read_dir(point.join("whole")).unwrap().count(), 0, "it is opaque");
    fs::write(point.join("new"), "x").unwrap();
    assert_eq!(fs::read_to_string(place.join("upper/new")).unwrap(), "x");
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(place.join("upper/whole"), "user.overlay.opaque", &mut value).unwrap();
    assert_eq!(&value[..length], b"y");
}

fn spec(args: &[&str], network: &str, user: u32) -> Spec {
    let mut namespaces = vec![json!({"type": "pid"}), json!({"type": "ipc"}), json!({"type": "uts"})];
    namespaces.push(json!({"type": "mount"}));
    if network == "none" {
        namespaces.push(json!({"type": "network"}));
    }
    let spec = json!({
        "ociVersion": "1.2.0",
        "process": process_of(args, user),
        "root": {"path": "rootfs"},
        "hostname": "inside",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        ],
        "linux": {"namespaces": namespaces, "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"]},
    });
    serde_json::from_value(spec).expect("the spec is well-formed")
}

fn process_of(args: &[&str], user: u32) -> serde_json::Value {
    json!({
        "user": {"uid": user, "gid": user}, "args": args, "env": ["PATH=/bin"], "cwd": "/",
        "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
    })
}

fn streams() -> (Console, OwnedFd) {
    let (read, write) = poll::pipe().unwrap();
    let null = fs::File::open("/dev/null").unwrap();
    let stdio = Stdio { stdin: null.into(), stdout: write.try_clone().unwrap(), stderr: write };
    (Console::Pipes(stdio), read)
}

fn text(fd: OwnedFd) -> String {
    let mut out = String::new();
    fs::File::from(fd).read_to_string(&mut out).unwrap();
    out
}

fn made(bundle: &Path, spec: &Spec, console: Console) -> robot_env_runtime::Process {
    let tree = mounted(&bundle.join("lower"), &bundle.join("upper"), &bundle.join("work"));
    let created = create(Create {
        id: "test",
        spec,
        bundle,
        anchor: &bundle.join("anchor"),
        rootfs: Rootfs::Mount(tree),
        console,
        cgroup: None,
        seccomp_cache: None,
        preserve_fds: 0,
        init: false,
        gate: None,
    });
    created.and_then(Created::start).unwrap_or_else(|error| panic!("{}", error.to_report()))
}

fn container(bundle: &Path, network: &str, user: &str) {
    entered();
    let script = format!("echo $(id -u) $(hostname); touch /tmp/by-{user}");
    let (console, output) = streams();
    let process = made(bundle, &spec(&["sh", "-c", &script], network, user.parse().unwrap()), console);
    let said = text(output);
    println!("{} {}", said.trim_end(), process::wait(&process.pidfd).unwrap());
    // The next one gets fresh ones, as overlay wants it of volatile mounts.
    sys_fs::remove_tree(&bundle.join("work")).unwrap();
    fs::create_dir(bundle.join("work")).unwrap();
}

/// Starts a container, says its pid, and stays.
fn monitor(bundle: &Path) {
    entered();
    hold(&run_root()).unwrap();
    let (console, _output) = streams();
    let process = made(bundle, &spec(&["sleep", "1000"], "none", 0), console);
    println!("{}", process.pid);
    wait_for_the_end();
}

fn exec_into(bundle: &Path, pid: i32) {
    entered();
    let pidfd = process::pidfd_open(pid).unwrap();
    assert_eq!(
        fs::metadata(format!("/proc/{pid}/ns/user")).unwrap().ino(),
        fs::metadata("/proc/self/ns/user").unwrap().ino()
    );
    let words = ["sh", "-c", "echo $(id -u) $(hostname) from exec"];
    let process: Process = serde_json::from_value(process_of(&words, 0)).unwrap();
    let (console, output) = streams();
    let made = exec(Exec {
        pid,
        pidfd: pidfd.as_fd(),
        process: &process,
        cgroup: None,
        seccomp: None,
        seccomp_cache: None,
        console,
        preserve_fds: 0,
    });
    let made = made.and_then(Created::start).unwrap_or_else(|error| panic!("{}", error.to_report()));
    print!("{}", text(output));
    assert_eq!(process::wait(&made.pidfd).unwrap(), 0);
    // A volume, a copy: mounts of the container's are within reach.
    let root = format!("/proc/{pid}/root");
    assert!(fs::read_dir(&root).unwrap().count() > 3, "{}", bundle.display());
    namespace::join(pidfd.as_fd(), libc::CLONE_NEWNS).unwrap();
    assert!(Path::new("/bin/busybox").exists() && !Path::new("/usr").exists());
}

fn roots_of_process() -> robot_env_engine::rootless::Roots {
    roots(None, None, Path::new("/"), |name| std::env::var_os(name)).unwrap()
}

fn show_roots() {
    let roots = roots_of_process();
    println!("{} {}", roots.data.display(), roots.run.display());
}

/// Enters, and executes itself.
fn again() {
    show_roots();
    fs::create_dir_all(roots_of_process().run).unwrap();
    try_enter(&roots_of_process().run).unwrap();
    inside();
    let arguments = ["program", "as-user", "inside"].map(|word| CString::new(word).unwrap());
    let environment: Vec<CString> =
        std::env::vars().map(|(name, value)| CString::new(format!("{name}={value}")).unwrap()).collect();
    panic!("{}", process::execute(c"/proc/self/exe", &arguments, &environment));
}

fn inside() {
    let identity = try_enter(&roots_of_process().run).unwrap();
    println!("{:?} {} {}", identity.kind, identity.user, identity.group);
    show_roots();
    assert_eq!(Identity::current().unwrap(), identity);
}
