//! A robot developer's day (`examples/workday`), played on a terminal by an ordinary user: Docker's
//! commands as they are written for years, with a registry that wants a password, a mirror that is dead,
//! an X server and a synthetic GPU. A test that cannot run says so.

mod account;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use account::{Account, root};
use robot_env_testkit::display::XServer;
use robot_env_testkit::host;
use robot_env_testkit::image::{BuiltImage, Compression, Entry, ImageBuilder};
use robot_env_testkit::registry::{Auth, RegistryOptions, TestRegistry};

const VERSION: &str = "550.54.15";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// What the image and the stage are made of.
const NEEDED: [&str; 8] = [
    "/usr/bin/Xvfb",
    "/usr/bin/xauth",
    "/usr/bin/xdpyinfo",
    "/usr/bin/python3",
    "/usr/bin/pasta",
    "/usr/sbin/useradd",
    "/usr/sbin/groupadd",
    "/bin/bash",
];

/// A CUDA image of that time, small.
fn robot_image() -> BuiltImage {
    let mut entries = host::busybox(&["sh", "cat", "echo", "grep", "id", "ls", "sleep"]).unwrap();
    entries.extend([
        Entry::file("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
        Entry::file("etc/group", "root:x:0:\n"),
        Entry::directory("root"),
        Entry::directory("home"),
        Entry::directory("opt"),
        Entry::directory("tmp").mode(0o1777),
    ]);
    let programs = ["/bin/bash", "/usr/bin/xdpyinfo", "/usr/sbin/useradd", "/usr/sbin/groupadd"];
    entries.extend(host::programs(&programs).unwrap());
    let config = serde_json::json!({
        "Cmd": ["bash"],
        "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "CUDA_VERSION=10.0.130", "NVIDIA_VISIBLE_DEVICES=all"],
    });
    ImageBuilder::new().layer_with(&entries, Compression::Gzip).config(config).build()
}

fn plain_image() -> BuiltImage {
    let entries = host::busybox(&["sh", "ls", "cat"]).unwrap();
    let config = serde_json::json!({ "Cmd": ["sh"], "Env": ["PATH=/bin"] });
    ImageBuilder::new().layer_with(&entries, Compression::Gzip).config(config).build()
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A machine with a driver of that version, two GPUs and a serial adapter; the nodes are null devices.
fn machine(root_directory: &Path) {
    let at = |path: &str| root_directory.join(path);
    for name in
        ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", "nvidia0", "nvidia1", "ttyUSB0"]
    {
        let path = at(&format!("dev/{name}"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        root("mknod", &["-m", "0666", path.to_str().unwrap(), "c", "1", "3"]);
    }
    for gpu in 0..2 {
        write(
            &at(&format!("proc/driver/nvidia/gpus/0000:0{}:00.0/information", gpu + 1)),
            &format!("Model: Synthetic\nGPU UUID: GPU-{gpu}\nDevice Minor: {gpu}\n"),
        );
    }
    write(&at("sys/module/nvidia/version"), VERSION);
    for name in ["cuda", "nvidia-ml", "GLX_nvidia"] {
        write(&at(&format!("{LIBRARIES}/lib{name}.so.{VERSION}")), "");
    }
    let smi = at("usr/bin/nvidia-smi");
    write(
        &smi,
        "#!/bin/sh\nfor n in 0 1; do [ -c /dev/nvidia$n ] && echo \"GPU $n: Synthetic (UUID: GPU-$n)\"; done\n",
    );
    fs::set_permissions(smi, fs::Permissions::from_mode(0o755)).unwrap();
    let tty = "sys/devices/usb1/1-1/ttyUSB0/tty/ttyUSB0";
    write(&at(&format!("{tty}/uevent")), "MAJOR=1\nMINOR=3\nDEVNAME=ttyUSB0\n");
    symlink("../..", at(&format!("{tty}/device"))).unwrap();
    fs::create_dir_all(at("sys/class/tty")).unwrap();
    symlink(format!("../../../{tty}"), at("sys/class/tty/ttyUSB0")).unwrap();
}

#[test]
#[allow(clippy::print_stdout)] // why a test is skipped
fn privileged_a_working_day() {
    if let Some(missing) = NEEDED.into_iter().find(|path| !Path::new(path).exists()) {
        println!("skipped: needs {missing} (packages xvfb, xauth, x11-utils, python3, passt)");
        return;
    }
    let Some(user) = Account::new() else { return };
    let owner = (user.uid, user.gid);
    let auth = Auth::Basic { username: "ada".into(), password: "secret".into() };
    let registry = TestRegistry::with(RegistryOptions { auth, ..RegistryOptions::default() });
    registry.put_image("robot-env/robot-env", "cuda10.0-py2-ubuntu16.04", &robot_image());
    let mirror = TestRegistry::start();
    mirror.put_image("library/busybox", "latest", &plain_image());

    let home = &user.home;
    machine(&home.join("machine"));
    for directory in ["bin", "work", "xdg"] {
        fs::create_dir(home.join(directory)).unwrap();
        chown(home.join(directory), Some(owner.0), Some(owner.1)).unwrap();
    }
    fs::set_permissions(home.join("xdg"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink(home.join("robot-env"), home.join("bin/docker")).unwrap();
    write(
        &home.join(".config/docker/daemon.json"),
        &format!(
            "{{\n  \"registry-mirrors\": [\"http://127.0.0.1:1/\", \"{}\"],\n  \"runtimes\": {{\n    \"nvidia\": {{ \"path\": \"nvidia-container-runtime\", \"runtimeArgs\": [] }}\n  }}\n}}\n",
            mirror.url()
        ),
    );
    let desktop = XServer::start(&home.join(".Xauthority"), "00112233445566778899aabbccddeeff");
    chown(&desktop.cookie, Some(owner.0), Some(owner.1)).unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/workday");
    // The user may not read where this test was built.
    for name in ["play", "workday"] {
        fs::copy(example.join(name), home.join("work").join(name)).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={}", owner.0)).arg(format!("--regid={}", owner.1));
    command.args(["--clear-groups", "python3", "play", "workday", "--record", "recording"]);
    let path = format!("{}:/usr/sbin:/usr/bin:/bin", home.join("bin").display());
    let output = command
        .current_dir(home.join("work"))
        .env_clear()
        .env("PATH", path)
        .env("HOME", home)
        .env("USER", &user.name)
        .env("LANG", "C.UTF-8")
        .env("TERM", "xterm-256color")
        .env("XDG_RUNTIME_DIR", home.join("xdg"))
        .env("REGISTRY", registry.host())
        .env("DISPLAY", &desktop.display)
        .env("XAUTHORITY", &desktop.cookie)
        .env("XAUTH", home.join("docker.xauth"))
        .env("ROBOT_ENV_DRIVER_ROOT", home.join("machine"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{err}\n{out}");
    // The dead mirror was asked, and cost nothing.
    assert!(mirror.count("GET", "/v2/library/busybox/manifests/") + mirror.count("HEAD", "/v2/") > 0);
    if let Some(place) = std::env::var_os("ROBOT_ENV_RECORD") {
        let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(place);
        fs::create_dir_all(&place).unwrap();
        for name in ["workday.cast", "workday.txt"] {
            let recording = fs::read_to_string(home.join("work/recording").join(name)).unwrap();
            // The names of this run are no one's business.
            let recording = recording
                .replace(home.to_str().unwrap(), "/home/ada")
                .replace(&user.name, "ada")
                .replace(&registry.host(), "registry.lab:80");
            fs::write(place.join(name), recording).unwrap();
        }
    }
    user.await_nobody();
}
