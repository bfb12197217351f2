//! Devices that come and go while a container runs. The nodes are the kernel's own loop devices,
//! and those of a synthetic sysfs whose news are real events of the null device. Needs root and
//! busybox-static, for loop devices python3; a test that cannot run says so.

mod place;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use place::Place;
use rustix::fs::{CWD, FileType, Mode, makedev};

macro_rules! place {
    ($name:literal) => {
        match Place::new($name) {
            Some(place) => place,
            None => return,
        }
    };
}

/// The kernel tells of the null device: every monitor looks again.
fn news() {
    fs::write("/sys/class/mem/null/uevent", "change").unwrap();
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Plugs a serial adapter into `machine`; its node is the kernel's zero device.
fn plug(machine: &Path, name: &str) {
    let place = format!("sys/devices/usb1/1-1/{name}/tty/{name}");
    write(&machine.join("sys/devices/usb1/1-1/idVendor"), "0403\n");
    write(&machine.join("sys/devices/usb1/1-1/idProduct"), "6001\n");
    write(&machine.join(format!("{place}/uevent")), &format!("MAJOR=1\nMINOR=5\nDEVNAME={name}\n"));
    write(&machine.join(format!("{place}/dev")), "1:5\n");
    symlink("../..", machine.join(format!("{place}/device"))).unwrap();
    for (link, target) in [
        (format!("sys/class/tty/{name}"), format!("../../../{place}")),
        ("sys/bus/usb/devices/1-1".to_owned(), "../../../devices/usb1/1-1".to_owned()),
    ] {
        fs::create_dir_all(machine.join(&link).parent().unwrap()).unwrap();
        symlink(target, machine.join(link)).unwrap();
    }
    fs::create_dir_all(machine.join("dev")).unwrap();
    let node = machine.join(format!("dev/{name}"));
    rustix::fs::mknodat(CWD, &node, FileType::CharacterDevice, Mode::from_raw_mode(0o600), makedev(1, 5))
        .unwrap();
}

fn unplug(machine: &Path, name: &str) {
    fs::remove_file(machine.join(format!("dev/{name}"))).unwrap();
    fs::remove_file(machine.join(format!("sys/class/tty/{name}"))).unwrap();
    fs::remove_file(machine.join("sys/bus/usb/devices/1-1")).unwrap();
    fs::remove_dir_all(machine.join("sys/devices/usb1")).unwrap();
}

/// Waits until a script in the container prints `want`.
#[track_caller]
fn await_inside(place: &Place, container: &str, script: &str, want: &str) {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let done = place.command(&["exec", container, "sh", "-c", script]).run();
        if done.out.trim_end() == want {
            return;
        }
        assert!(Instant::now() < deadline, "{script}: {done:?}, not {want}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

#[test]
fn privileged_a_serial_adapter_comes_and_goes() {
    let place = place!("hotplug");
    let machine = place.directory.join("machine");
    fs::create_dir_all(machine.join("dev")).unwrap();
    let root = machine.to_str().unwrap();
    // An ordinary user inside, and the node is root's outside.
    let args = [
        "run",
        "-d",
        "--name",
        "robot",
        "--network",
        "none",
        "--init",
        "--user",
        "1000",
        "--device",
        "serial,name=lidar",
        "busybox",
        "sleep",
        "10000",
    ];
    place.command(&args).env("ROBOT_ENV_DRIVER_ROOT", root).run().ok();
    let read = "head -c 2 /dev/ttyUSB0 | wc -c";
    await_inside(&place, "robot", "ls /dev/ttyUSB0 /dev/lidar 2>/dev/null", "");
    for name in ["ttyUSB0", "ttyUSB1", "ttyUSB0"] {
        plug(&machine, name);
        news();
        await_inside(&place, "robot", &format!("head -c 2 /dev/{name} | wc -c"), "2");
        await_inside(&place, "robot", "head -c 2 /dev/lidar | wc -c", "2");
        unplug(&machine, name);
        news();
        await_inside(&place, "robot", &format!("ls /dev/{name} /dev/lidar 2>/dev/null"), "");
    }
    // What is there at the start is there at once, restarted or not.
    plug(&machine, "ttyUSB0");
    place.command(&["restart", "-t", "0", "robot"]).env("ROBOT_ENV_DRIVER_ROOT", root).run().ok();
    assert_eq!(place.run("exec --user root robot ls /dev/lidar").ok(), "/dev/lidar");
    assert_eq!(place.command(&["exec", "--user", "root", "robot", "sh", "-c", read]).run().ok(), "2");
    let listed = place
        .command(&["device", "ls", "--format", "{{.Class}} {{.Path}} {{.Usb}}"])
        .env("ROBOT_ENV_DRIVER_ROOT", root)
        .run()
        .ok();
    assert_eq!(listed, "serial /dev/ttyUSB0 usb:0403:6001");

    // By command: taken away it stays away until it is plugged in again.
    let call = |line: &str| {
        place.command(&line.split_whitespace().collect::<Vec<_>>()).env("ROBOT_ENV_DRIVER_ROOT", root).run()
    };
    assert_eq!(call("device detach robot serial").ok(), "/dev/ttyUSB0\n/dev/lidar");
    news();
    std::thread::sleep(Duration::from_millis(500));
    await_inside(&place, "robot", "ls /dev/ttyUSB0 2>/dev/null", "");
    unplug(&machine, "ttyUSB0");
    news();
    std::thread::sleep(Duration::from_millis(500));
    plug(&machine, "ttyUSB0");
    news();
    await_inside(&place, "robot", "ls /dev/ttyUSB0", "/dev/ttyUSB0");
    place.run("rm -f robot").ok();
}

#[test]
#[allow(clippy::print_stdout)] // why a test is skipped
fn privileged_a_device_given_by_command_is_open_and_closed_for_the_kernel_too() {
    let place = place!("attach");
    place.sleeper("--name bot");
    if !Path::new("/dev/loop0").exists() {
        println!("skipped: there is no /dev/loop0");
        return;
    }
    let try_it = || place.command(&["exec", "bot", "sh", "-c", "head -c 0 /dev/loop0"]).run();
    assert_ne!(try_it().code, 0);
    assert_eq!(place.run("device attach bot /dev/loop0").ok(), "/dev/loop0");
    assert_eq!(try_it().code, 0, "{:?}", try_it());
    assert_eq!(place.run("device attach bot /dev/loop0,name=disk").ok(), "/dev/loop0\n/dev/disk");
    assert_eq!(place.run("device detach bot disk").ok(), "/dev/loop0\n/dev/disk");
    assert_ne!(try_it().code, 0);
    // The kernel itself refuses it, not only the missing node.
    let pid = place.field("bot", "{{.State.Pid}}");
    let node = Path::new("/proc").join(&pid).join("root/dev/loop0");
    rustix::fs::mknodat(CWD, &node, FileType::BlockDevice, Mode::from_raw_mode(0o666), makedev(7, 0))
        .unwrap();
    let done = try_it();
    assert!(done.err.contains("not permitted"), "{done:?}");
    for (line, says) in [
        ("device attach bot /dev/no-such", "there is none now"),
        ("device attach bot usb:dead:beef", "there is none now"),
        ("device attach bot nonsense", "neither a path nor a kind"),
        ("device attach bot /dev/no-such", "cannot attach device `/dev/no-such`"),
        ("device detach bot /dev/null", "no such device from a selector"),
        ("device detach bot nonsense", "neither a path nor a kind"),
        ("device attach no-such /dev/null", "No such container"),
    ] {
        let done = place.run(line);
        assert_eq!(done.code, 1, "{line}: {done:?}");
        assert!(done.err.contains(says), "{line}: {done:?}");
    }
    place.run("stop -t 0 bot").ok();
    assert!(place.run("device attach bot /dev/loop0").err.contains("is not running"));
    // A new life begins without it.
    place.run("start bot").ok();
    assert_ne!(try_it().code, 0);
    let done =
        place.run("run --rm --network none --device usb:dead:beef --device /dev/serial/by-id/x busybox true");
    for what in ["usb:dead:beef", "/dev/serial/by-id/x"] {
        assert!(done.err.contains(&format!("device `{what}` is not there now; it comes when")), "{done:?}");
    }
    done.ok();
    let done = place.run("run --rm --network none --device can busybox true");
    assert!(done.err.contains("--network host"), "{done:?}");
    place.run("rm -f bot").ok();
}

#[test]
#[allow(clippy::print_stdout)] // why a test is skipped
fn privileged_a_loop_device_that_the_kernel_makes_now() {
    let place = place!("loop");
    const ADD: u32 = 0x4c80;
    const REMOVE: u32 = 0x4c81;
    let control = |request: u32| {
        let script = format!("import fcntl; fcntl.ioctl(open('/dev/loop-control'), {request}, 211)");
        Command::new("python3").args(["-c", &script]).output().is_ok_and(|done| done.status.success())
    };
    if !Path::new("/dev/loop-control").exists() || !control(ADD) || !control(REMOVE) {
        println!("skipped: python3 cannot make a loop device");
        return;
    }
    place.run("run -d --name bot --network none --init --device path:/dev/loop211 busybox sleep 10000").ok();
    let listener = listen(&place, "bot");
    await_inside(&place, "bot", "ls /dev/loop211 2>/dev/null", "");
    assert!(control(ADD));
    // Nobody but the kernel says so.
    await_inside(&place, "bot", "head -c 0 /dev/loop211 && echo open", "open");
    assert!(control(REMOVE));
    await_inside(&place, "bot", "ls /dev/loop211 2>/dev/null", "");
    // Programs inside heard of both, as from udev.
    let heard = String::from_utf8_lossy(&listener.wait_with_output().unwrap().stdout).into_owned();
    for wanted in [
        "ACTION=add DEVPATH=/devices/virtual/block/loop211 SUBSYSTEM=block DEVNAME=/dev/loop211",
        "ACTION=remove DEVPATH=/devices/virtual/block/loop211",
    ] {
        assert!(heard.contains(wanted), "{wanted} in {heard}");
    }
    place.run("rm -f bot").ok();
}

/// Listens in a container's network namespace to what udev would say, until two messages have come.
fn listen(place: &Place, container: &str) -> std::process::Child {
    let pid = place.field(container, "{{.State.Pid}}");
    let script = "import socket\ns = socket.socket(16, 3, 15)\ns.bind((0, 2))\ns.settimeout(20)\nprint('ready', flush=True)\n\
                  for n in range(2):\n    m = s.recv(8192)\n    assert m[:12] == b'libudev\\0\\xfe\\xed\\xca\\xfe', m\n    print(m[40:].replace(b'\\0', b' ').decode(), flush=True)\n";
    let mut child = Command::new("nsenter")
        .args(["-t", &pid, "-n", "python3", "-c", script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // One byte at a time: the rest of the output is the test's.
    let mut said = Vec::new();
    let mut byte = [0u8];
    while !said.ends_with(b"\n")
        && std::io::Read::read(child.stdout.as_mut().unwrap(), &mut byte).is_ok_and(|n| n > 0)
    {
        said.push(byte[0]);
    }
    child
}
