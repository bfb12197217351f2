use std::os::unix::fs::lchown;
use std::path::Path;

use robot_env_runtime::Created;
use robot_env_sys::{namespace, process};
use serde_json::json;

use crate::place::{Place, streams, text};

const USER: u32 = 12345;

fn give(path: &Path) {
    lchown(path, Some(USER), Some(USER)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in std::fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path());
        }
    }
}

/// Becomes an ordinary user, and root of a user namespace that maps only that one id.
fn become_user() {
    let _ = process::set_groups(&[]);
    process::set_group(USER).unwrap();
    process::set_user(USER).unwrap();
    // Unlike after a login, /proc/self belongs to root after a change of the user.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable).unwrap();
    namespace::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS).unwrap();
    std::fs::write("/proc/self/setgroups", "deny").unwrap();
    std::fs::write("/proc/self/uid_map", format!("0 {USER} 1")).unwrap();
    std::fs::write("/proc/self/gid_map", format!("0 {USER} 1")).unwrap();
}

pub(crate) fn privileged_an_ordinary_user_runs_containers() {
    let Some(place) = Place::new("rootless") else { return };
    if std::fs::read_to_string("/proc/sys/kernel/unprivileged_userns_clone")
        .is_ok_and(|text| text.trim() == "0")
    {
        println!("skipped: the kernel gives user namespaces to root alone");
        return;
    }
    give(&place.directory);
    // Root has to remove it, and root is not reached again from here: a child plays the user.
    let robot_env_sys::poll::Fork::Parent(pid) = robot_env_sys::poll::fork().unwrap() else {
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| as_user(&place))).is_err();
        robot_env_sys::poll::exit_now(i32::from(failed));
    };
    let pid = rustix::process::Pid::from_raw(pid);
    let status = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()).unwrap();
    assert_eq!(status.and_then(|(_, status)| status.exit_status()), Some(0), "see above");
}

fn as_user(place: &Place) {
    become_user();
    for network in ["none", "host"] {
        let spec = place.spec(
            &[
                "sh",
                "-c",
                "id -u; touch /tmp/made; echo x > /dev/null && echo null; ls /sys/class/net; tty; hostname",
            ],
            |s| {
                s["process"]["oomScoreAdj"] = json!(100);
                s["linux"].as_object_mut().unwrap().remove("resources");
                s["mounts"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!({"destination": "/dev/mqueue", "type": "mqueue",
                    "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]}));
                // The group of terminals is not mapped.
                s["mounts"][2]["options"].as_array_mut().unwrap().push(json!("gid=5"));
                if network == "host" {
                    s["linux"]["namespaces"] =
                        json!([{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]);
                }
                s["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
            },
        );
        let (console, output) = streams();
        let made = place.create_without_cgroup(&spec, console).and_then(Created::start).unwrap();
        let out = text(output);
        assert_eq!(process::wait(&made.pidfd).unwrap(), 0, "{out}");
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!((lines[0], lines[1], *lines.last().unwrap()), ("0", "null", "inside"), "{network}: {out}");
        assert!(lines.contains(&"lo") && lines.contains(&"not a tty"), "{out}");
        let made = std::fs::symlink_metadata(place.directory.join("rootfs/tmp/made")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 0, "{network}");
    }
}
