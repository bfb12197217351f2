//! `send`: images and containers go to another machine, and only the layers that it lacks. A program that
//! stands for ssh runs the other machine's commands on roots of their own; where sshd is installed, a
//! real one does.

mod place;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use place::{Call, Done, Place};

fn program(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The other machine: the program on roots of its own, as `far/robot-env`.
fn far_machine(place: &Place) {
    program(
        &place.directory.join("far/robot-env"),
        &format!(
            "#!/bin/sh\nexec {} --root {} --run-root {} \"$@\"\n",
            env!("CARGO_BIN_EXE_robot-env"),
            place.directory.join("far-root").display(),
            place.directory.join("far-run").display()
        ),
    );
}

fn far(place: &Place, args: &[&str]) -> Done {
    let mut call = Call(Command::new(place.directory.join("far/robot-env")));
    call.0.args(args);
    call.run()
}

/// The program with `near` first in PATH: there is the `ssh`.
fn near(place: &Place, args: &[&str]) -> Done {
    let path = format!("{}:{}", place.directory.join("near").display(), std::env::var("PATH").unwrap());
    place.command(args).env("PATH", &path).run()
}

#[test]
fn privileged_only_missing_layers_are_sent() {
    let Some(place) = Place::new("send") else { return };
    let at = |name: &str| place.directory.join(name);
    far_machine(&place);
    for tool in ["sh", "sort", "tee"] {
        let found =
            ["/usr/bin", "/bin"].iter().map(|place| Path::new(place).join(tool)).find(|path| path.exists());
        std::os::unix::fs::symlink(found.unwrap(), at("far").join(tool)).unwrap();
    }
    // What goes into the program there is kept, to see how much it was.
    program(
        &at("near/ssh"),
        &format!(
            "#!/bin/sh\n[ \"$1 $2\" = '-p 2222' ] && shift 2\n[ \"$1\" = -- ] || exit 9\n\
             [ \"$2\" = robot@arm ] || {{ echo \"no route to $2\" >&2; exit 255; }}\n\
             PATH={}\nexport PATH\ntee {} | sh -c \"$3\"\n",
            at("far").display(),
            at("sent").display()
        ),
    );
    let sent = || fs::metadata(at("sent")).unwrap().len();
    let layers = |count: &str| format!("{count} layers went to robot@arm");
    let out = near(&place, &["send", "--compress", "none", "busybox", "robot@arm"]).ok();
    assert_eq!(out, format!("Sent busybox:latest\n{}", layers("1 of 1")));
    let whole = sent();
    place.run("run --name nav --network none busybox touch /new").ok();
    place.run("commit nav nav:1").ok();
    let out = near(&place, &["send", "--compress", "none", "nav:1", "busybox", "robot@arm"]).ok();
    assert_eq!(out, format!("Sent nav:1\nSent busybox:latest\n{}", layers("1 of 2")));
    assert!(sent() < whole / 4, "{} of {whole} bytes", sent());
    // Once more, over another port: there is nothing to send, and that is no mistake.
    let out = near(&place, &["send", "nav:1", "robot@arm:2222"]).ok();
    assert!(out.ends_with("0 of 2 layers went to robot@arm:2222"), "{out}");
    assert_eq!(far(&place, &["run", "--rm", "--network", "none", "nav:1", "ls", "/new"]).ok(), "/new");
    assert_eq!(far(&place, &["system", "fsck"]).code, 0);
    // A container: its tree, and what its image says of how it starts.
    near(&place, &["container", "send", "-q", "nav", "robot@arm", "tree:2"]).ok();
    let script = "echo $FROM_IMAGE; ls /new";
    let out = far(&place, &["run", "--rm", "--network", "none", "tree:2", "sh", "-c", script]).ok();
    assert_eq!(out, "1\n/new");
    assert!(sent() < whole, "it was compressed: {} of {whole} bytes", sent());
    // Docker in its place, by its name: nothing is compressed for it.
    fs::rename(at("far/robot-env"), at("far/docker")).unwrap();
    let from_docker = |args: &[&str]| Call(Command::new(at("far/docker"))).args(args).run();
    from_docker(&["rmi", "-f", "nav:1"]).ok();
    near(&place, &["send", "-q", "nav:1", "robot@arm"]).ok();
    assert!(fs::read(at("sent")).unwrap().windows(10).any(|part| part == b"oci-layout"), "not compressed");
    assert_eq!(from_docker(&["image", "inspect", "-f", "{{index .RepoTags 0}}", "nav:1"]).ok(), "nav:1");
    fs::remove_file(at("far/docker")).unwrap();

    for (args, want) in [
        (&["send", "nav:1", "robot@arm"][..], "neither robot-env nor Docker is installed there"),
        (&["send", "nav:1", "robot@away"], "no route to robot@away"),
        (&["send", "nope", "robot@away"], "no route to robot@away"),
        (&["send", "nav:1", "-oProxyCommand=x"], "unknown shorthand flag"),
        (&["send", "nav:1", "robot@-oProxyCommand=x"], "it is no host"),
        (&["send", "nav:1", "robot@arm:0"], "the port is no number"),
        (&["send", "--program", "x;y", "nav:1", "robot@arm"], "it is no program's name"),
        (&["send", "--compress", "lz4", "nav:1", "robot@arm"], "zstd, gzip or none"),
        (&["send", "nav:1"], "requires"),
        (&["container", "send", "nav", "robot@arm", "UPPER"], "UPPER"),
    ] {
        let done = near(&place, args);
        assert!(done.code != 0 && done.err.contains(want), "{args:?}: {done:?}");
    }
    far_machine(&place);
    let done = near(&place, &["send", "nope", "robot@arm"]);
    assert!(done.code == 1 && done.err.contains("No such image: nope:latest"), "{done:?}");
    // What the other side says is what is shown.
    program(&at("far/robot-env"), "#!/bin/sh\n[ $1 = load ] || exit 0\necho 'no space' >&2\nexit 3\n");
    let done = near(&place, &["send", "nav:1", "robot@arm"]);
    assert!(done.code == 1 && done.err.contains("no space") && !done.err.contains("EPIPE"), "{done:?}");
}

/// sshd on loopback, with a key and a configuration of its own.
struct Sshd(Child);

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sshd(place: &Place, port: u16) -> Sshd {
    let at = |name: &str| place.directory.join(name);
    for key in ["host-key", "key"] {
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(at(key)).status();
        assert!(made.unwrap().success());
    }
    fs::copy(at("key.pub"), at("authorized")).unwrap();
    fs::set_permissions(at("authorized"), fs::Permissions::from_mode(0o600)).unwrap();
    let text = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
         StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n",
        at("host-key").display(),
        at("authorized").display()
    );
    fs::write(at("sshd.conf"), text).unwrap();
    // Its directory for privilege separation is in a /run of its own.
    let script = "mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec /usr/sbin/sshd -D -e -f \"$0\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(at("sshd.conf"));
    let log = fs::File::create(at("sshd.log")).unwrap();
    let sshd = Sshd(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "{}", fs::read_to_string(at("sshd.log")).unwrap());
        std::thread::sleep(Duration::from_millis(20));
    }
    sshd
}

#[test]
#[allow(clippy::print_stdout)] // why a test is skipped
fn privileged_send_over_a_real_ssh() {
    if !["/usr/sbin/sshd", "/usr/bin/ssh"].iter().all(|path| Path::new(path).exists()) {
        println!("skipped: openssh-server and openssh-client are not installed");
        return;
    }
    let Some(place) = Place::new("send-ssh") else { return };
    let at = |name: &str| place.directory.join(name);
    far_machine(&place);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let _sshd = sshd(&place, port);
    let host_key = fs::read_to_string(at("host-key.pub")).unwrap();
    fs::write(at("known"), format!("[127.0.0.1]:{port} {host_key}")).unwrap();
    let config = format!(
        "IdentityFile {}\nUserKnownHostsFile {}\nBatchMode yes\nIdentitiesOnly yes\nStrictHostKeyChecking yes\n",
        at("key").display(),
        at("known").display()
    );
    fs::write(at("ssh.conf"), config).unwrap();
    program(
        &at("near/ssh"),
        &format!("#!/bin/sh\nexec /usr/bin/ssh -F {} \"$@\"\n", at("ssh.conf").display()),
    );
    let there = format!("root@127.0.0.1:{port}");
    let remote = at("far/robot-env").display().to_string();
    place.run("run --name nav --network none busybox touch /new").ok();
    place.run("commit nav nav:1").ok();
    for (image, want) in [("busybox", "1 of 1"), ("nav:1", "1 of 2"), ("nav:1", "0 of 2")] {
        let out = near(&place, &["send", "--program", &remote, image, &there]).ok();
        assert!(out.ends_with(&format!("{want} layers went to {there}")), "{out}");
    }
    near(&place, &["container", "send", "--program", &remote, "nav", &there, "tree:2"]).ok();
    for image in ["nav:1", "tree:2"] {
        assert_eq!(far(&place, &["run", "--rm", "--network", "none", image, "ls", "/new"]).ok(), "/new");
    }
    // A key that is not the other machine's.
    fs::write(at("known"), "").unwrap();
    let done = near(&place, &["send", "nav:1", &there]);
    assert!(done.code == 1 && done.err.contains("Host key verification failed"), "{done:?}");
}
