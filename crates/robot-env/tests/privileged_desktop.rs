//! Display and identity by the command line: a real X server with a cookie, a real X client in a
//! container, the host's user in images that do not know it. Needs root and busybox-static, for the
//! display Xvfb, xauth and xdpyinfo; a test that cannot run says so.

mod place;

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;

use place::{Done, Place};
use robot_env_testkit::display::XServer;
use robot_env_testkit::host;
use robot_env_testkit::image::{Compression, Entry, ImageBuilder};
use robot_env_testkit::registry::TestRegistry;

macro_rules! place {
    ($name:literal) => {
        match Place::new($name) {
            Some(place) => place,
            None => return,
        }
    };
}

/// An image with xdpyinfo and what it is linked to.
fn x_image(place: &Place) -> Option<()> {
    let mut entries = host::busybox(&["sh", "sleep", "cat", "env", "ls", "id", "stat"])?;
    entries.extend(host::programs(&["/usr/bin/xdpyinfo"])?);
    entries.extend([
        Entry::file("etc/passwd", "root:x:0:0::/root:/bin/sh\nrobot:x:1000:1000::/:/bin/sh\n"),
        Entry::directory("tmp").mode(0o1777),
    ]);
    let config = serde_json::json!({ "Cmd": ["sh"], "Env": ["PATH=/bin:/usr/bin"] });
    let image = ImageBuilder::new().layer_with(&entries, Compression::Gzip).config(config).build();
    let registry = TestRegistry::start();
    registry.put_image("x", "latest", &image);
    let from = registry.name("x:latest");
    place.command(&["pull", "-q", &from]).run().ok();
    place.command(&["tag", &from, "x"]).run().ok();
    Some(())
}

/// A place with the image `x`; `None`, with the reason printed, where there cannot be one.
#[allow(clippy::print_stdout)] // why a test is skipped
fn x_place(name: &str) -> Option<Place> {
    let place = Place::new(name)?;
    let needed = ["/usr/bin/Xvfb", "/usr/bin/xauth", "/usr/bin/xdpyinfo"];
    if let Some(program) = needed.into_iter().find(|path| !Path::new(path).exists()) {
        println!("skipped: needs {program} (packages xvfb, xauth, x11-utils)");
        return None;
    }
    if x_image(&place).is_none() {
        println!("skipped: xdpyinfo cannot be put into an image");
        return None;
    }
    Some(place)
}

#[test]
fn privileged_windows_on_a_display_that_wants_a_cookie() {
    let Some(place) = x_place("gui") else { return };
    let first = XServer::start(&place.directory.path().join("first"), "00112233445566778899aabbccddeeff");
    let call = |server: &XServer, args: &[&str]| -> Done {
        let call = place
            .command(args)
            .env("DISPLAY", &server.display)
            .env("XAUTHORITY", server.cookie.to_str().unwrap());
        call.env("XDG_RUNTIME_DIR", "/nonexistent").run()
    };
    let run = |args: &[&str]| {
        let args: Vec<&str> = ["run", "--rm", "--network", "none"].iter().chain(args).copied().collect();
        call(&first, &args)
    };
    let out = run(&["--gui", "x", "xdpyinfo"]).ok();
    assert!(out.contains("dimensions:    640x480 pixels"), "{out}");
    let out = run(&["--gui", "--user", "robot", "x", "xdpyinfo"]).ok();
    assert!(out.contains("640x480"), "an ordinary user has a cookie of its own: {out}");
    let done =
        run(&["--gui", "-e", "XAUTHORITY=/dev/null", "x", "sh", "-c", "XAUTHORITY=/dev/null xdpyinfo"]);
    assert_ne!(done.code, 0, "the server wants the cookie: {done:?}");
    assert_ne!(run(&["x", "xdpyinfo"]).code, 0, "no display without --gui");
    assert_eq!(run(&["--gui", "x", "sh", "-c", "echo $QT_X11_NO_MITSHM"]).ok(), "1");
    assert_eq!(run(&["--gui", "--ipc", "host", "x", "sh", "-c", "echo $QT_X11_NO_MITSHM"]).ok(), "");
    let modes =
        run(&["--gui", "--user", "robot", "x", "stat", "-c", "%a %u", "/run/robot-env/gui/Xauthority-1000"])
            .ok();
    assert_eq!(modes, "600 1000");

    // A desktop that is new: another server, another cookie. The container goes on.
    call(
        &first,
        &["run", "-d", "--name", "long", "--network", "none", "--init", "--gui", "x", "sleep", "10000"],
    )
    .ok();
    assert!(call(&first, &["exec", "long", "xdpyinfo"]).ok().contains("640x480"));
    let second = XServer::start(&place.directory.path().join("second"), "ffeeddccbbaa99887766554433221100");
    assert_ne!(second.display, first.display);
    drop(first);
    let out = call(&second, &["exec", "long", "xdpyinfo"]).ok();
    assert!(out.contains(&format!("name of display:    {}", second.display)), "{out}");
    assert!(call(&second, &["exec", "--user", "robot", "long", "xdpyinfo"]).ok().contains("640x480"));
    call(&second, &["restart", "-t", "0", "long"]).ok();
    assert!(call(&second, &["exec", "long", "sh", "-c", "xdpyinfo"]).ok().contains(&second.display));

    // Nobody's display is stored.
    let record = fs::read_to_string(
        place.directory.join("root/containers").join(place.field("long", "{{.Id}}")).join("container.json"),
    )
    .unwrap();
    assert!(record.contains("shared"), "the intent is: {record}");
    assert!(!record.contains("Xauthority") && !record.contains("DISPLAY"), "{record}");
    // Without a display it starts all the same, and says so.
    let none = place
        .command(&["run", "--rm", "--network", "none", "--gui", "x", "sh", "-c", "echo fine"])
        .env("DISPLAY", "")
        .env("WAYLAND_DISPLAY", "")
        .run();
    assert!(none.err.contains("no display"), "{none:?}");
    assert_eq!(none.ok(), "fine");
}

/// The process ids of this user's X servers that know themselves by this word.
fn servers(word: &str) -> usize {
    let all = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| line.split(|byte| *byte == 0).any(|part| part == word.as_bytes()))
    });
    all.count()
}

#[test]
#[allow(clippy::print_stdout)] // why a test is skipped
fn privileged_a_display_of_the_containers_own() {
    let Some(place) = x_place("gui-isolated") else { return };
    let desktop = XServer::start(&place.directory.path().join("desktop"), "00112233445566778899aabbccddeeff");
    let call = |display: &str, args: &[&str]| -> Done {
        let call = place.command(args).env("DISPLAY", display).env("WAYLAND_DISPLAY", "");
        call.env("XAUTHORITY", desktop.cookie.to_str().unwrap()).run()
    };
    // Without a display: Xvfb, and it is said that nobody sees it.
    let flags = ["run", "--rm", "--network", "none", "--gui=isolated", "x", "xdpyinfo"];
    let done = call("", &flags);
    assert!(
        done.err.contains("windows are on Xvfb, where nobody sees them: there is no X display now"),
        "{done:?}"
    );
    let out = done.ok();
    assert!(out.contains("dimensions:    1920x1080 pixels"), "{out}");
    // In a user namespace of its own its users have other ids outside.
    for user in ["root", "robot"] {
        let mut args = flags.to_vec();
        args.splice(2..2, ["--userns", "auto", "--user", user]);
        let out = call("", &args).ok();
        assert!(out.contains("dimensions:    1920x1080 pixels"), "{user}: {out}");
    }
    let has_xephyr = Path::new("/usr/bin/Xephyr").exists();
    let done = call(&desktop.display, &flags);
    if has_xephyr {
        assert!(done.err.is_empty() && done.out.contains("dimensions:    1600x900 pixels"), "{done:?}");
    } else {
        println!("skipped: a window on the desktop; Xephyr is not installed (package xserver-xephyr)");
        assert!(done.err.contains("Xephyr is not installed"), "{done:?}");
    }
    // The container sees its own display and no other; others of its users have a cookie, too.
    let name = format!("own{}", std::process::id());
    let args = [
        "run",
        "-d",
        "--name",
        &name,
        "--network",
        "none",
        "--init",
        "--gui=isolated",
        "x",
        "sleep",
        "10000",
    ];
    call(&desktop.display, &args).ok();
    let sockets = call("", &["exec", &name, "ls", "/tmp/.X11-unix"]).ok();
    assert!(sockets.starts_with('X') && sockets.lines().count() == 1, "{sockets}");
    assert_ne!(format!(":{}", &sockets[1..]), desktop.display);
    for user in ["root", "robot"] {
        let out = call("", &["exec", "--user", user, &name, "xdpyinfo"]).ok();
        assert!(out.contains(&format!("name of display:    :{}", &sockets[1..])), "{out}");
    }
    let bare = call("", &["exec", "-e", "XAUTHORITY=/dev/null", &name, "xdpyinfo"]);
    assert_ne!(bare.code, 0, "the server wants the cookie: {bare:?}");
    // It goes with the container, also with one whose monitor is killed.
    let word = if has_xephyr { name.as_str() } else { "1920x1080x24" };
    assert!(servers(word) > 0);
    call("", &["restart", "-t", "0", &name]).ok();
    call("", &["exec", &name, "xdpyinfo"]).ok();
    let monitor = rustix::process::Pid::from_raw(place.monitor(&name)).unwrap();
    let pid = fs::read_to_string(format!("/proc/{0}/task/{0}/children", monitor.as_raw_nonzero())).unwrap();
    let children: Vec<u32> = pid.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(children.len(), 2, "the program and the server: {pid}");
    place.run(&format!("rm -f {name}")).ok();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while children.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
        assert!(std::time::Instant::now() < deadline, "{children:?}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // Without them it says which one is missing, and why that one.
    for (display, says) in [
        ("", "there is no X display for Xephyr now, and Xvfb, which needs none, is not installed"),
        (desktop.display.as_str(), "neither Xephyr nor Xvfb is installed"),
    ] {
        let hide = "for name in Xephyr Xvfb; do [ ! -e /usr/bin/$name ] || mount --bind /dev/null /usr/bin/$name; done; exec \"$@\"";
        let mut hidden = Command::new("unshare");
        hidden.args(["--mount", "--propagation", "private", "sh", "-c", hide, "sh"]);
        let program = place.command(&flags);
        hidden.arg(program.0.get_program()).args(program.0.get_args());
        hidden.env("DISPLAY", display).env("WAYLAND_DISPLAY", "").env("XAUTHORITY", &desktop.cookie);
        let done = hidden.output().unwrap();
        let err = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success() && err.contains(says), "{err}");
    }
    let bad = call("", &["run", "--rm", "--gui=nested", "x", "true"]);
    assert!(bad.err.contains("it must be shared, isolated or none"), "{bad:?}");
}

#[test]
fn privileged_windows_of_a_container_that_was_started_without() {
    let Some(place) = x_place("gui-exec") else { return };
    let server = XServer::start(&place.directory.path().join("desktop"), "00112233445566778899aabbccddeeff");
    let call = |args: &[&str]| -> Done {
        let call = place.command(args).env("DISPLAY", &server.display).env("WAYLAND_DISPLAY", "");
        call.env("XAUTHORITY", server.cookie.to_str().unwrap()).run()
    };
    place.run("run -d --name plain --network none --init x sleep 10000").ok();
    assert_ne!(call(&["exec", "plain", "xdpyinfo"]).code, 0, "no display without --gui");
    for user in ["root", "robot", "root"] {
        let out = call(&["exec", "--gui", "--user", user, "plain", "xdpyinfo"]).ok();
        assert!(out.contains("dimensions:    640x480 pixels"), "{user}: {out}");
    }
    place.run("run -d --name shifted --network none --init --userns auto x sleep 10000").ok();
    let out = call(&["exec", "--gui", "--user", "robot", "shifted", "xdpyinfo"]).ok();
    assert!(out.contains("dimensions:    640x480 pixels"), "{out}");
    let mounted = call(&["exec", "plain", "cat", "/proc/mounts"]).ok();
    assert_eq!(mounted.lines().filter(|line| line.contains(" /tmp/.X11-unix ")).count(), 1, "{mounted}");
    assert_ne!(call(&["exec", "plain", "sh", "-c", "touch /run/robot-env/gui/x"]).code, 0, "read-only");
    assert_ne!(call(&["exec", "plain", "xdpyinfo"]).code, 0, "only where it was asked for");
}

/// The command, as `ann` with the id 4321 would call it with sudo; her home is `home`.
fn as_ann(place: &Place, home: &Path, args: &[&str]) -> Done {
    let call = place.command(args).env("SUDO_UID", "4321").env("SUDO_GID", "4321").env("SUDO_USER", "ann");
    call.env("HOME", home.to_str().unwrap()).run()
}

#[test]
fn privileged_the_host_s_user_in_any_image() {
    let place = place!("user-map");
    let home = place.directory.join("home");
    let work = place.directory.join("work");
    for directory in [&home, &work] {
        fs::create_dir(directory).unwrap();
        chown(directory, Some(4321), Some(4321)).unwrap();
    }
    fs::write(home.join(".gitconfig"), "[user]\n\tname = Ann\n").unwrap();
    let run = |flags: &[&str], command: &[&str]| {
        let args: Vec<&str> = ["run", "--rm", "--network", "none", "--user-map", "host"]
            .iter()
            .chain(flags)
            .chain(command)
            .copied()
            .collect();
        as_ann(&place, &home, &args)
    };
    assert_eq!(run(&["busybox"], &["id", "-un"]).ok(), "ann");
    assert_eq!(run(&["busybox"], &["id"]).ok(), "uid=4321(ann) gid=4321(ann) groups=4321(ann)");
    let script =
        format!("echo $HOME $USER; touch $HOME/x /work/by-ann && stat -c %u $HOME; echo {}", home.display());
    let volume = format!("{}:/work", work.display());
    let out = run(&["-v", &volume, "busybox"], &["sh", "-c", &script]).ok();
    assert_eq!(out, format!("{home} ann\n4321\n{home}", home = home.display()));
    assert_eq!(fs::metadata(work.join("by-ann")).unwrap().uid(), 4321, "files on the host are hers");
    assert!(!home.join("x").exists(), "her home is not in it unless she says so");
    assert_eq!(run(&["--user", "root", "busybox"], &["id", "-u"]).ok(), "0");
    assert_eq!(run(&["--read-only", "busybox"], &["id", "-un"]).ok(), "ann");
    assert_eq!(
        run(&["--home", "busybox"], &["sh", "-c", "touch ~/from-inside; cat ~/.gitconfig"]).ok(),
        "[user]\n\tname = Ann"
    );
    assert_eq!(fs::metadata(home.join("from-inside")).unwrap().uid(), 4321);
    assert_ne!(run(&["--home=ro", "busybox"], &["touch", &format!("{}/no", home.display())]).code, 0);
    assert_eq!(
        run(&["--gitconfig", "busybox"], &["sh", "-c", "cat ~/.gitconfig"]).ok(),
        "[user]\n\tname = Ann"
    );
    run(&["--home=private", "busybox"], &["sh", "-c", "echo kept > ~/note"]).ok();
    assert_eq!(run(&["--home=private", "busybox"], &["sh", "-c", "cat ~/note"]).ok(), "kept");
    assert!(!home.join("note").exists());

    // It lives with the container, start after start, and root is always there.
    as_ann(
        &place,
        &home,
        &[
            "create",
            "--name",
            "bot",
            "--network",
            "none",
            "--init",
            "--user-map",
            "host",
            "busybox",
            "sleep",
            "10000",
        ],
    )
    .ok();
    for _ in 0..2 {
        as_ann(&place, &home, &["start", "bot"]).ok();
        assert_eq!(as_ann(&place, &home, &["exec", "bot", "id", "-un"]).ok(), "ann");
        assert_eq!(
            as_ann(&place, &home, &["exec", "--user", "root", "bot", "sh", "-c", "id -u; echo $HOME"]).ok(),
            "0\n/root"
        );
        assert_eq!(as_ann(&place, &home, &["exec", "bot", "grep", "-c", "ann", "/etc/passwd"]).ok(), "1");
        as_ann(&place, &home, &["stop", "-t", "0", "bot"]).ok();
    }
    place.run("rm bot").ok();
    // Root's own identity needs nothing.
    let args = ["run", "--rm", "--network", "none", "--user-map", "host", "busybox", "id", "-u"];
    assert_eq!(place.command(&args).env("SUDO_UID", "").run().ok(), "0");
}

#[test]
fn privileged_the_working_directory_and_the_agent() {
    let place = place!("workdir");
    let work = place.directory.join("project");
    fs::create_dir(&work).unwrap();
    let args = [
        "run",
        "--rm",
        "--network",
        "none",
        "--workdir-mount",
        "busybox",
        "sh",
        "-c",
        "pwd; echo made > here",
    ];
    assert_eq!(place.command(&args).directory(&work).run().ok(), work.to_str().unwrap());
    assert_eq!(fs::read_to_string(work.join("here")).unwrap(), "made\n");
    let socket = place.directory.join("agent");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let args = [
        "run",
        "--rm",
        "--network",
        "none",
        "--ssh-agent",
        "busybox",
        "sh",
        "-c",
        "test -S $SSH_AUTH_SOCK && echo $SSH_AUTH_SOCK",
    ];
    let done = place.command(&args).env("SSH_AUTH_SOCK", socket.to_str().unwrap()).run();
    assert_eq!(done.ok(), "/run/robot-env/ssh-agent");
    let done = place.command(&args).env("SSH_AUTH_SOCK", "/nonexistent").run();
    assert!(done.err.contains("there is no SSH agent"), "{done:?}");
    for (flag, says) in [("--gui=wide", "--gui"), ("--home=x", "--home"), ("--user-map=x", "--user-map")] {
        let done = place.command(&["run", flag, "busybox"]).run();
        assert_eq!(done.code, 125);
        assert!(done.err.contains(says), "{done:?}");
    }
}

#[test]
fn privileged_ros_and_real_time() {
    let place = place!("ros");
    let project = place.directory.join("ws");
    fs::create_dir_all(project.join("src/deep")).unwrap();
    fs::create_dir(project.join(".git")).unwrap();
    let run = |directory: &Path, flags: &[&str], script: &str| {
        let args: Vec<&str> =
            ["run", "--rm"].iter().chain(flags).chain(&["busybox", "sh", "-c", script]).copied().collect();
        place.command(&args).env("ROS_MASTER_URI", "http://robot:11311").directory(directory).run()
    };
    let show = "echo $ROS_DOMAIN_ID; echo $ROS_MASTER_URI; readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; echo $FASTDDS_BUILTIN_TRANSPORTS";
    let out = run(&project, &["--ros"], show).ok();
    let lines: Vec<&str> = out.lines().collect();
    let own =
        |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_str().unwrap().to_owned();
    assert!((1..=101).contains(&lines[0].parse::<u32>().unwrap()), "{out}");
    assert_eq!(lines[1..4], ["http://robot:11311", &own("net"), &own("ipc")], "{out}");
    let deep = run(&project.join("src/deep"), &["--ros"], "echo $ROS_DOMAIN_ID").ok();
    assert_eq!(deep, lines[0], "a project has one domain");
    assert_eq!(run(&project, &["--ros", "-e", "ROS_DOMAIN_ID=7"], "echo $ROS_DOMAIN_ID").ok(), "7");
    let out = run(&project, &["--ros=private", "--network", "none"], show).ok();
    assert!(out.ends_with("UDPv4") && !out.contains(&own("ipc")), "{out}");
    let done = run(&project, &["--ros", "--ipc", "private"], "true");
    assert!(done.err.contains("UDP only"), "{done:?}");

    let limits =
        run(&project, &["--network", "none", "--realtime"], "ulimit -r; grep CapBnd /proc/self/status");
    let out = limits.out.clone();
    assert_eq!(limits.code, 0, "{limits:?}");
    let set = u64::from_str_radix(out.split_whitespace().last().unwrap(), 16).unwrap();
    assert_ne!(set & (1 << 23), 0, "CAP_SYS_NICE: {out}");
    if !limits.err.contains("no real-time priorities") && Path::new("/usr/bin/chrt").exists() {
        // The very thing, by the host's program in the container's namespaces and cgroup.
        let done = run(
            &project,
            &[
                "--network",
                "none",
                "--realtime",
                "-v",
                "/usr:/usr:ro",
                "-v",
                "/lib:/lib:ro",
                "-v",
                "/lib64:/lib64:ro",
            ],
            "/usr/bin/chrt -f 10 /bin/true && echo real",
        );
        assert_eq!(done.out.trim(), "real", "{done:?}");
    }
    let done = run(&project, &["--network", "none", "--privileged", "--device", "/dev/full"], "true");
    assert!(done.err.contains("this may be enough: ") && done.err.contains("--device /dev/full"), "{done:?}");
}
