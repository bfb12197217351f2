//! Beside others' firewalls: published ports are reached, and containers go out, with their rules
//! loaded, before and after they load them again.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use robot_env_sys::{mount, namespace};

use crate::{Host, call, host, server};
use robot_env_testkit::network::{neighbour, within};

/// What dockerd 28 has in the tables of iptables when one container publishes a port.
const DOCKER: &str = "*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 9999 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-BRIDGE - [0:0]
:DOCKER-CT - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-BRIDGE -o docker0 -j DOCKER
-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
COMMIT
";

/// A system bus for firewalld alone.
const BUS: &str = "<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen>
<policy context=\"default\"><allow user=\"*\"/><allow own=\"*\"/><allow send_destination=\"*\"/>
<allow receive_sender=\"*\"/></policy></busconfig>
";

/// The rules of a user who lets nothing in and forwards nothing, in a table of his own.
const GUARDED: &str = "table inet mine {
  chain input { type filter hook input priority 0; policy drop; ct state established,related accept; iif lo accept; }
}
";

fn program(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .map(|d| Path::new(d).join(name))
        .find(|path| path.exists())
}

#[track_caller]
fn run(program: &Path, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{} {arguments:?}: {} {}",
        program.display(),
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Somebody outside who greets each caller.
struct Outside {
    namespace: OwnedFd,
}

impl Outside {
    fn new() -> Outside {
        let namespace = neighbour();
        let listener = within(&namespace, || TcpListener::bind("192.0.2.2:9000").unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.write_all(b"outside\n");
                // The last one ends it.
                let mut first = [0u8; 1];
                let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                if stream.read(&mut first).is_ok_and(|length| length == 1) && first[0] == b'q' {
                    return;
                }
            }
        });
        Outside { namespace }
    }

    /// Both ways, and from the host itself.
    #[track_caller]
    fn assert_passes(&self, host: &Host, when: &str) {
        // On a busy machine one attempt may be too late.
        let deadline = Instant::now() + Duration::from_secs(20);
        let passed = |what: &str, attempt: &dyn Fn() -> Option<String>, want: &str| {
            loop {
                let answer = attempt();
                if answer.as_deref() == Some(want) {
                    return;
                }
                assert!(Instant::now() < deadline, "{when}: {what}: {answer:?}");
                std::thread::sleep(Duration::from_millis(30));
            }
        };
        let from_outside = || within(&self.namespace, || call("192.0.2.1:8080"));
        passed("the published port is not reached", &from_outside, "hello");
        passed("it is not reached from the host", &|| call("127.0.0.1:8080"), "hello");
        let ask = ["exec", "web", "sh", "-c", "echo | nc -w 5 192.0.2.2 9000"];
        let goes_out = || Some(host.place.command(&ask).run().out.trim_end().to_owned());
        passed("the container does not go out", &goes_out, "outside");
    }

    fn end(self) {
        let mut stream = std::net::TcpStream::connect("192.0.2.2:9000").unwrap();
        let _ = stream.write_all(b"q");
        drop(self.namespace);
    }
}

/// A program of the test's; it ends with it.
struct Daemon(std::process::Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whatever `load` puts into the kernel, `again` puts there a second time, ours flushed with it or not.
fn beside(host: &Host, load: &dyn Fn(), again: &dyn Fn(), in_the_way: bool) {
    let outside = Outside::new();
    // Rules that come after our network, and those that were there before.
    host.start("--name web -p 8080:80", &server(80, "hello"));
    outside.assert_passes(host, "alone");
    load();
    if in_the_way {
        assert_eq!(within(&outside.namespace, || call("192.0.2.1:8080")), None, "the rules are in the way");
    }
    host.ok("network reload");
    outside.assert_passes(host, "after network reload");
    again();
    host.ok("network reload");
    outside.assert_passes(host, "after both were loaded again");
    host.ok("rm -f web");
    host.ok("network prune -f");
    host.start("--name web -p 8080:80", &server(80, "hello"));
    outside.assert_passes(host, "a network made beside them");
    host.ok("rm -f web");
    host.ok("network prune -f");
    outside.end();
}

#[test]
fn privileged_ports_work_beside_docker() {
    let host = host!("beside-docker");
    let Some(restore) = program("iptables-nft-restore") else {
        println!("skipped: needs iptables");
        return;
    };
    let load = || drop(run(&restore, &[], DOCKER));
    beside(&host, &load, &load, true);
    // What is Docker's is as it was.
    let save = run(&program("iptables-nft-save").unwrap(), &[], "");
    assert!(save.contains("-A DOCKER-FORWARD -i docker0 -j ACCEPT"), "{save}");
}

#[test]
fn privileged_ports_work_beside_rules_of_the_user() {
    let host = host!("beside-nft");
    let Some(nft) = program("nft") else {
        println!("skipped: needs nft");
        return;
    };
    let load = || drop(run(&nft, &["-f", "-"], GUARDED));
    let again = || drop(run(&nft, &["-f", "-"], &format!("flush ruleset\n{GUARDED}")));
    beside(&host, &load, &again, false);
}

/// A copy of what a firewall may change on disk, for this thread alone.
fn own_files(directories: &[&str]) {
    namespace::unshare(libc::CLONE_FS | libc::CLONE_NEWNS).unwrap();
    mount::set_propagation("/", mount::PropagationFlags::PRIVATE | mount::PropagationFlags::REC).unwrap();
    run(Path::new("/bin/mount"), &["-t", "tmpfs", "tmpfs", "/mnt"], "");
    for (number, directory) in directories.iter().enumerate() {
        let copy = format!("/mnt/{number}");
        if Path::new(directory).exists() {
            run(Path::new("/bin/cp"), &["-a", directory, &copy], "");
            run(Path::new("/bin/mount"), &["--bind", &copy, directory], "");
        }
    }
}

#[test]
fn privileged_ports_work_beside_ufw() {
    let host = host!("beside-ufw");
    let Some(ufw) = program("ufw") else {
        println!("skipped: needs ufw");
        return;
    };
    own_files(&["/etc/ufw", "/etc/default", "/var/lib/ufw", "/lib/ufw"]);
    let load = || drop(run(&ufw, &["--force", "enable"], ""));
    let again = || drop(run(&ufw, &["reload"], ""));
    beside(&host, &load, &again, true);
}

#[test]
fn privileged_ports_work_beside_firewalld() {
    let host = host!("beside-firewalld");
    let (Some(firewalld), Some(control), Some(bus)) =
        (program("firewalld"), program("firewall-cmd"), program("dbus-daemon"))
    else {
        println!("skipped: needs firewalld and dbus-daemon");
        return;
    };
    own_files(&["/etc/firewalld", "/run", "/var/log"]);
    fs::create_dir_all("/run/dbus").unwrap();
    // One that starts no services.
    fs::write("/mnt/bus.conf", BUS).unwrap();
    let arguments = ["--config-file=/mnt/bus.conf", "--nofork", "--nopidfile"];
    let _bus = Daemon(Command::new(bus).args(arguments).spawn().unwrap());
    let _daemon =
        Daemon(Command::new(firewalld).args(["--nofork", "--nopid"]).stderr(Stdio::null()).spawn().unwrap());
    let deadline = Instant::now() + Duration::from_secs(60);
    while !Command::new(&control).arg("--state").output().is_ok_and(|done| done.status.success()) {
        assert!(Instant::now() < deadline, "firewalld does not start");
        std::thread::sleep(Duration::from_millis(200));
    }
    let nothing = || {};
    let again = || drop(run(&control, &["--reload"], ""));
    beside(&host, &nothing, &again, false);
}
