//! ROS nodes in containers of a user-defined network exchange messages by name, for root and for an
//! ordinary user. The image is made of Debian 12's packages of ROS 1, fetched once by apt.

#[path = "account/mod.rs"]
mod account;
#[path = "place/mod.rs"]
mod place;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use account::{Account, eventually};
use place::Place;
use robot_env_sys::netlink::RouteSocket;
use robot_env_sys::{lock, namespace};

const PACKAGES: [&str; 3] = ["python3-rosmaster", "python3-rospy", "python3-std-msgs"];

/// The one that has the master beside it.
const TALKER: &str = "import subprocess
subprocess.Popen(['python3', '/usr/bin/rosmaster', '--core', '-p', '11311'])
import rospy
from std_msgs.msg import String
rospy.init_node('talker')
out = rospy.Publisher('chatter', String, queue_size=1)
while not rospy.is_shutdown():
    out.publish('hello from the talker')
    rospy.sleep(0.1)
";

const LISTENER: &str = "import rospy
from std_msgs.msg import String
rospy.init_node('listener')
print(rospy.wait_for_message('chatter', String, 60).data)
";

/// The tree of an image with ROS, as an archive; made where it is not there yet. Why it cannot be.
fn archive() -> Result<PathBuf, String> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ros");
    let archive = directory.join("tree.tar");
    fs::create_dir_all(directory.join("packages/partial")).unwrap();
    let guard = fs::File::create(directory.join("lock")).unwrap();
    lock::lock_exclusive(&guard).unwrap();
    if archive.exists() {
        return Ok(archive);
    }
    // Nothing is installed, so that apt fetches all that these need.
    fs::write(directory.join("status"), "").unwrap();
    let set = |name: &str, path: &str| format!("{name}={}", directory.join(path).display());
    let mut apt = Command::new("apt-get");
    apt.args(["install", "-y", "-q", "--no-install-recommends", "--download-only"]);
    apt.args(["-o", &set("Dir::State::status", "status"), "-o", "Debug::NoLocking=true"]);
    apt.args(["-o", &set("Dir::Cache::archives", "packages")]).args(PACKAGES).stdin(Stdio::null());
    let done = apt.output().map_err(|error| format!("apt-get: {error}"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        return Err(format!("apt does not give {PACKAGES:?}: {}", said.lines().last().unwrap_or_default()));
    }
    let tree = directory.join("tree");
    for entry in fs::read_dir(directory.join("packages")).unwrap().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            account::root("dpkg", &["-x", path.to_str().unwrap(), tree.to_str().unwrap()]);
        }
    }
    for unread in ["usr/share/doc", "usr/share/man", "usr/share/locale"] {
        let _ = fs::remove_dir_all(tree.join(unread));
    }
    fs::create_dir_all(tree.join("tmp")).unwrap();
    let half = directory.join("half.tar");
    account::root("tar", &["-C", tree.to_str().unwrap(), "-cf", half.to_str().unwrap(), "."]);
    fs::remove_dir_all(tree).unwrap();
    fs::remove_dir_all(directory.join("packages")).unwrap();
    fs::rename(half, &archive).unwrap();
    Ok(archive)
}

/// A run's exit code, output and errors.
type Ran = (i32, String, String);

/// `run` is the program with arguments.
fn exchange(archive: &Path, run: &dyn Fn(&[&str]) -> Ran) {
    let ok = |args: &[&str]| {
        let (code, out, err) = run(args);
        assert_eq!(code, 0, "{args:?}: {out} {err}");
        out
    };
    ok(&["import", archive.to_str().unwrap(), "ros"]);
    ok(&["network", "create", "robots"]);
    let node = |name: &'static str| {
        let mut words =
            vec!["--name", name, "--network", "robots", "-e", "ROS_MASTER_URI=http://talker:11311"];
        let own = if name == "talker" { "ROS_HOSTNAME=talker" } else { "ROS_HOSTNAME=listener" };
        words.extend(["-e", "ROS_LOG_DIR=/tmp", "-e", own]);
        words
    };
    ok(&[&["run", "-d"], &node("talker")[..], &["ros", "python3", "-c", TALKER]].concat());
    // The master takes a moment.
    let said = eventually(Duration::from_secs(60), || {
        let all = [&["run", "--rm"], &node("listener")[..], &["ros", "python3", "-c", LISTENER]].concat();
        let (code, out, err) = run(&all);
        if code == 0 { Ok(out) } else { Err(format!("{out} {err}")) }
    });
    // Before it, rospy may say that the master is not there yet.
    assert_eq!(said.trim().lines().last(), Some("hello from the talker"));
    ok(&["rm", "-f", "talker"]);
}

#[test]
fn privileged_ros_nodes_talk_by_name() {
    let Some(place) = Place::new("ros") else { return };
    let archive = match archive() {
        Ok(archive) => archive,
        Err(reason) => return println!("skipped: {reason}"),
    };
    namespace::unshare(libc::CLONE_NEWNET).unwrap();
    RouteSocket::open().unwrap().loopback_up().unwrap();
    exchange(&archive, &|args| {
        let done = place.command(args).run();
        (done.code, done.out, done.err)
    });
}

#[test]
fn privileged_ros_nodes_of_an_ordinary_user_talk_by_name() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: needs root");
    }
    let archive = match archive() {
        Ok(archive) => archive,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let Some(user) = Account::new() else { return };
    let own = user.home.join("ros.tar");
    fs::copy(archive, &own).unwrap();
    exchange(&own, &|args| {
        let done = user.run(args);
        (done.code, done.out, done.err)
    });
}
