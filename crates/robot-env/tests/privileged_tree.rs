//! A container's files from outside, by the command line: `cp`, `diff`, `export`, `commit`. Needs
//! root and busybox-static; a test that cannot be says why.

#![allow(clippy::print_stdout)] // why a test is skipped

mod place;

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use place::Place;

/// An engine in roots of its own, with the image `box`.
struct Host {
    place: Place,
}

/// What a command did.
#[derive(Debug)]
struct Done {
    code: i32,
    out: Vec<u8>,
    err: String,
}

impl Host {
    fn new() -> Option<Host> {
        let host = Host { place: Place::new("tree")? };
        let root = host.path("image");
        for name in ["bin", "etc", "tmp", "a/sub"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
        std::fs::write(root.join("a/f"), "one\n").unwrap();
        std::fs::write(root.join("a/sub/g"), "two\n").unwrap();
        symlink("a", root.join("la")).unwrap();
        symlink("a/f", root.join("lf")).unwrap();
        symlink("/nowhere", root.join("broken")).unwrap();
        let tar = host.path("image.tar");
        let from = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new).into_iter().find(|path| path.exists());
        std::fs::copy(from.unwrap(), root.join("bin/busybox")).unwrap();
        for name in "sh cat ls sleep mkdir touch rm mv ln echo id chown true".split(' ') {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        let made = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status().unwrap();
        assert!(made.success());
        host.good(&["import", "-c", "CMD [\"sleep\", \"1000\"]", tar.to_str().unwrap(), "box"]);
        Some(host)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.directory.join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn call_with(&self, args: &[&str], input: &[u8]) -> Done {
        let mut child = self
            .place
            .command(args)
            .0
            .current_dir(self.place.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // One that does not read its input is no failure.
        let feed = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        feed.join().unwrap();
        Done {
            code: output.status.code().unwrap_or(-1),
            out: output.stdout,
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn call(&self, args: &[&str]) -> Done {
        self.call_with(args, b"")
    }

    /// Its output without spaces around; it must do.
    fn good(&self, args: &[&str]) -> String {
        let done = self.call(args);
        assert_eq!(done.code, 0, "{args:?}: {}", done.err);
        String::from_utf8_lossy(&done.out).trim().to_owned()
    }

    /// What it says on standard error; it must fail.
    fn bad(&self, args: &[&str]) -> String {
        let done = self.call(args);
        assert_ne!(done.code, 0, "{args:?} should fail: {}", String::from_utf8_lossy(&done.out));
        done.err
    }

    fn start(&self, name: &str, flags: &[&str]) {
        let mut args = vec!["run", "-d", "--network", "none", "--name", name];
        args.extend(flags);
        args.push("box");
        self.good(&args);
    }

    fn exec(&self, name: &str, script: &str) -> String {
        self.good(&["exec", name, "sh", "-c", script])
    }

    /// The names in a tar.
    fn names(tar: &[u8]) -> Vec<String> {
        let mut child =
            Command::new("tar").arg("-tf-").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let tar = tar.to_vec();
        let feed = std::thread::spawn(move || stdin.write_all(&tar));
        let output = child.wait_with_output().unwrap();
        feed.join().unwrap().unwrap();
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let ids = self.call(&["ps", "-aq"]);
        let ids = String::from_utf8_lossy(&ids.out).into_owned();
        for id in ids.split_whitespace() {
            self.call(&["rm", "-f", id]);
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let left = mounts.contains(self.place.directory.path().to_str().unwrap());
        assert!(!left || std::thread::panicking(), "a mount is left: {mounts}");
    }
}

/// Two files of the host, in a directory with a link to it.
fn sources(host: &Host) {
    host.write("h/x", "x\n");
    host.write("h/sub/y", "y\n");
    host.write("f", "f\n");
    symlink("h", host.path("lh")).unwrap();
    std::os::unix::fs::chown(host.path("h/x"), Some(1234), Some(4321)).unwrap();
    std::fs::set_permissions(host.path("h"), std::fs::Permissions::from_mode(0o750)).unwrap();
}

#[test]
fn privileged_cp_follows_dockers_rules() {
    let Some(host) = Host::new() else { return };
    sources(&host);
    // Into a container that never ran: what is found under which name afterwards.
    for (source, to, flags, want) in [
        ("f", "/a", "", Ok("/a/f")),
        ("f", "/a/", "", Ok("/a/f")),
        ("f", "/new", "", Ok("/new")),
        ("f", "/new/", "", Err("no such directory")),
        ("f", "/a/f", "", Ok("/a/f")),
        ("f", "/lf", "", Ok("/a/f")),
        ("f", "/la", "", Ok("/a/f")),
        ("f", "/broken", "", Ok("/nowhere")),
        ("f", "/no/dir", "", Err("Could not find the file /no in container")),
        ("f/", "/a", "", Err("not a directory")),
        ("h", "/a", "", Ok("/a/h/sub/y")),
        ("h", "/new", "", Ok("/new/sub/y")),
        ("h/", "/new/", "", Ok("/new/sub/y")),
        ("h/.", "/a", "", Ok("/a/sub/y")),
        ("h/.", "/new", "", Ok("/new/sub/y")),
        ("h", "/a/f", "", Err("cannot copy directory")),
        ("lh", "/new", "", Ok("/new")),
        ("lh", "/new", "-L", Ok("/new/sub/y")),
        ("lh/", "/a", "", Ok("/a/lh/sub/y")),
        ("lh", "/a", "-L", Ok("/a/lh/sub/y")),
        ("gone", "/a", "", Err("no such file or directory")),
    ] {
        host.good(&["create", "--network", "none", "--name", "cc", "box"]);
        let target = format!("cc:{to}");
        let mut args = vec!["cp", source, &target];
        args.extend(Some(flags).filter(|flags| !flags.is_empty()));
        let case = format!("{source} -> {to} {flags}");
        match want {
            Ok(path) => {
                let done = host.call(&args);
                assert_eq!(done.code, 0, "{case}: {}", done.err);
                assert!(
                    done.err.starts_with("Successfully copied ") && done.err.contains(" to cc:/"),
                    "{case}: {}",
                    done.err
                );
                let tar = host.call(&["cp", &format!("cc:{path}"), "-"]);
                assert_eq!(tar.code, 0, "{case}: {}", tar.err);
            }
            Err(reason) => {
                let said = host.bad(&args);
                assert!(said.contains(reason), "{case}: {said}");
            }
        }
        host.good(&["rm", "cc"]);
    }
    // Out of one.
    host.good(&["create", "--network", "none", "--name", "cc", "box"]);
    for (n, (from, to, flags, want)) in [
        ("/a/f", "d", "", Ok("d/f")),
        ("/a/f", "new", "", Ok("new")),
        ("/a/f", "new/", "", Err("no such directory")),
        ("/a/f", "file", "", Ok("file")),
        ("/a/f", "file/", "", Err("not a directory")),
        ("/a/f", "gone/new", "", Err("invalid output path: directory")),
        ("/a/f/", "d", "", Err("not a directory")),
        ("/a", "d", "", Ok("d/a/sub/g")),
        ("/a", "new", "", Ok("new/sub/g")),
        ("/a/.", "d", "", Ok("d/sub/g")),
        ("/a", "file", "", Err("cannot copy directory")),
        ("/la/", "d", "", Ok("d/la/sub/g")),
        ("/la", "d", "-L", Ok("d/la/sub/g")),
        ("/lf", "d", "-L", Ok("d/lf")),
        ("/broken", "d", "-L", Err("Could not find the file /nowhere in container cc")),
        ("/none", "d", "", Err("Could not find the file /none in container cc")),
    ]
    .into_iter()
    .enumerate()
    {
        let here = host.path(&format!("out{n}"));
        std::fs::create_dir_all(here.join("d")).unwrap();
        std::fs::write(here.join("file"), "old").unwrap();
        let (from, target) = (format!("cc:{from}"), here.join(to).display().to_string());
        let target = if to.ends_with('/') { format!("{}/", target.trim_end_matches('/')) } else { target };
        let mut args = vec!["cp", &from, &target];
        args.extend(Some(flags).filter(|flags| !flags.is_empty()));
        match want {
            Ok(path) => {
                host.good(&args);
                let found = here.join(path).symlink_metadata();
                assert_eq!(found.map(|found| found.uid()).ok(), Some(0), "{from} -> {to}");
                assert!(!here.join(path).is_symlink());
            }
            Err(reason) => {
                let said = host.bad(&args);
                assert!(said.contains(reason), "{from} -> {to}: {said}");
            }
        }
    }
    host.good(&["cp", "cc:/la", "link"]);
    assert_eq!(std::fs::read_link(host.path("link")).unwrap(), Path::new("a"));
    for (args, reason) in [
        (["cc:/a", "cc:/b"], "copying between containers is not supported"),
        (["f", "h"], "must specify at least one container source"),
        (["", "cc:/a"], "source can not be empty"),
        (["f", ""], "destination can not be empty"),
        (["f", "cc:"], "path cannot be empty"),
        (["f", "none:/a"], "No such container: none"),
    ] {
        let said = host.bad(&["cp", args[0], args[1]]);
        assert!(said.contains(reason), "{args:?}: {said}");
    }
    // Owners by number on the way in, a directory that is there stays as it is, and silence.
    let done = host.call(&["cp", "-q", "h/.", "cc:/a"]);
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    host.good(&["start", "cc"]);
    assert_eq!(
        host.exec("cc", "ls -ln /a/x; ls -dln /a").split_whitespace().collect::<Vec<_>>()[2..4],
        ["1234", "4321"]
    );
    assert!(host.exec("cc", "ls -dln /a").starts_with("drwxr-xr-x"));
}

#[test]
fn privileged_cp_moves_streams() {
    let Some(host) = Host::new() else { return };
    host.good(&["create", "--network", "none", "--name", "cc", "box"]);
    for (path, want) in [
        ("/a", &["a/", "a/f", "a/sub/", "a/sub/g"][..]),
        ("/a/.", &["./", "./f", "./sub/", "./sub/g"]),
        ("/a/f", &["f"]),
        ("/la", &["la"]),
    ] {
        let done = host.call(&["cp", &format!("cc:{path}"), "-"]);
        assert_eq!((done.code, done.err.as_str()), (0, ""));
        assert_eq!(Host::names(&done.out), want, "{path}");
    }
    let tar = host.call(&["cp", "cc:/a", "-"]).out;
    let done = host.call_with(&["cp", "-", "cc:/tmp"], &tar);
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(Host::names(&host.call(&["cp", "cc:/tmp/a/sub/g", "-"]).out), ["g"]);
    for (to, input, reason) in [
        ("cc:/new", &tar[..], "must be a directory"),
        ("cc:/a/f", &tar, "must be a directory"),
        ("cc:/a", b"no tar, but long enough to look like something", "cannot"),
        ("cc:/tmp", &tar[..700], "cannot"),
    ] {
        let done = host.call_with(&["cp", "-", to], input);
        assert!(done.code == 1 && done.err.contains(reason), "{to}: {}", done.err);
    }
}

#[test]
fn privileged_volumes_are_there_whether_the_container_runs_or_not() {
    let Some(host) = Host::new() else { return };
    let bind = host.path("bind");
    std::fs::create_dir(&bind).unwrap();
    let bind = bind.to_str().unwrap();
    let file = host.write("single", "single\n");
    let text = host.write("f", "f\n");
    let (bound, read_only, single) =
        (format!("{bind}:/deep/er"), format!("{bind}:/ro:ro"), format!("{file}:/etc/single"));
    let flags = ["-v", "vol:/data", "-v", &bound, "-v", &read_only, "-v", &single, "--tmpfs", "/scratch"];
    let mut create = vec!["create", "--network", "none", "--name", "cc"];
    create.extend(flags);
    create.push("box");
    host.good(&create);
    let volume = host.path("root/volumes/vol/_data");
    for round in ["created", "running", "stopped"] {
        match round {
            "running" => drop(host.good(&["start", "cc"])),
            "stopped" => drop(host.good(&["stop", "-t", "0", "cc"])),
            _ => {}
        }
        host.good(&["cp", &text, &format!("cc:/data/{round}")]);
        assert_eq!(std::fs::read_to_string(volume.join(round)).unwrap(), "f\n", "{round}");
        host.good(&["cp", &format!("cc:/data/{round}"), &format!("out-{round}")]);
        assert!(host.path(&format!("out-{round}")).exists());
        // Below a mount, and through the one above it.
        host.good(&["cp", &text, "cc:/deep/er/b"]);
        assert!(Path::new(bind).join("b").exists());
        std::fs::remove_file(Path::new(bind).join("b")).unwrap();
        let tar = host.call(&["cp", "cc:/etc", "-"]);
        assert!(Host::names(&tar.out).contains(&"etc/single".to_owned()), "{round}");
        let said = host.bad(&["cp", &text, "cc:/ro"]);
        assert!(said.contains("mounted volume is marked read-only"), "{round}: {said}");
        let whole = host.call(&["cp", "cc:/", "-"]);
        let names = Host::names(&whole.out);
        assert!(names.contains(&format!("./data/{round}")), "{round}: {}", whole.err);
        assert!(!names.iter().any(|name| name.starts_with("./proc/") && name.len() > 7));
        let into_tmpfs = host.call(&["cp", &text, "cc:/scratch/f"]);
        if round == "running" {
            assert_eq!(into_tmpfs.code, 0, "{}", into_tmpfs.err);
            assert_eq!(host.exec("cc", "cat /scratch/f /data/created /data/running"), "f\nf\nf");
            let said = host.bad(&["cp", "cc:/proc/version", "out-version"]);
            assert!(
                said.contains("it is the kernel's") && said.contains("exec cc cat /proc/version"),
                "{said}"
            );
        } else {
            assert!(into_tmpfs.err.contains("is a tmpfs"), "{round}: {}", into_tmpfs.err);
        }
    }
    // A source that has gone does not keep the rest of the files from their owner.
    std::fs::remove_dir_all(bind).unwrap();
    host.good(&["cp", "cc:/a/f", "rescued"]);
    let said = host.bad(&["cp", &text, "cc:/deep/er/b"]);
    assert!(said.contains("does not exist on the host"), "{said}");
    host.good(&["rm", "cc"]);
    host.good(&["create", "--network", "none", "--read-only", "--name", "cc", "box"]);
    for round in 0..2 {
        let said = host.bad(&["cp", &text, "cc:/a"]);
        assert!(said.contains("container rootfs is marked read-only"), "{round}: {said}");
        host.good(&["start", "cc"]);
    }
}

#[test]
fn privileged_links_of_a_container_lead_nowhere_else() {
    let Some(host) = Host::new() else { return };
    let secret = host.write("secret/s", "secret");
    let directory = host.path("secret").display().to_string();
    host.write("payload/s", "payload");
    host.start("cc", &[]);
    // The names of the host's files, as links in the container.
    host.exec("cc", &format!("ln -s {directory} /evil; ln -s ../../../../../../../..{directory} /climb; ln -s /proc/1/root /magic"));
    for link in ["evil", "climb"] {
        let said = host.bad(&["cp", &format!("cc:/{link}/s"), "stolen"]);
        assert!(said.contains("Could not find the file"), "{said}");
        host.bad(&["cp", "payload/s", &format!("cc:/{link}/s")]);
    }
    let said = host.bad(&["cp", "cc:/magic/etc/passwd", "stolen"]);
    assert!(!host.path("stolen").exists(), "{said}");
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "secret");
    // A race: a directory that becomes a link to the host's and back again, all the time.
    host.exec(
        "cc",
        &format!("mkdir -p {directory} /race; echo inside > {directory}/s; echo inside > /race/s"),
    );
    host.good(&[
        "exec", "-d", "cc", "sh", "-c",
        &format!("ln -s {directory} /trap; while true; do mv /race /safe; mv /trap /race; mv /race /trap; mv /safe /race; done"),
    ]);
    let mut copied = [0; 3];
    for round in 0..25 {
        let (file, tree) = (format!("race{round}"), format!("tree{round}"));
        for (n, args) in
            [["cp", "cc:/race/s", &file], ["cp", "cc:/race", &tree], ["cp", "payload/.", "cc:/race"]]
                .into_iter()
                .enumerate()
        {
            copied[n] += usize::from(host.call(&args).code == 0);
        }
        // A link is copied as a link, and followed by nobody.
        let tree = Some(host.path(&tree)).filter(|tree| !tree.is_symlink());
        for path in [Some(host.path(&file)), tree.map(|tree| tree.join("s"))].into_iter().flatten() {
            assert!(!path.is_symlink());
            assert_ne!(std::fs::read_to_string(path).unwrap_or_default(), "secret");
        }
        let outside: Vec<_> = std::fs::read_dir(host.path("secret")).unwrap().flatten().collect();
        assert_eq!((outside.len(), std::fs::read_to_string(&secret).unwrap().as_str()), (1, "secret"));
    }
    println!("{copied:?} of 25 copies each did something");
    assert!(copied.iter().sum::<usize>() > 10, "the race was one: {copied:?}");
}

#[test]
fn privileged_diff_lists_what_was_written_also_after_a_commit() {
    let Some(host) = Host::new() else { return };
    host.start("cc", &["-v", "vol:/data"]);
    assert_eq!(host.good(&["diff", "cc"]), "A /data", "the places of mounts are no change, a volume's is");
    host.exec("cc", "rm -r /a/sub; echo x > /a/f; mkdir /new; touch /new/n /etc/mine; echo v > /data/v");
    let want = "C /a\nC /a/f\nD /a/sub\nA /data\nC /etc\nA /etc/mine\nA /new\nA /new/n";
    assert_eq!(host.good(&["diff", "cc"]), want);
    host.good(&["stop", "-t", "0", "cc"]);
    assert_eq!(host.good(&["diff", "cc"]), want);
    host.good(&["commit", "cc", "one"]);
    assert_eq!(host.good(&["container", "diff", "cc"]), want, "the container is as it was");
    host.good(&["start", "cc"]);
    host.exec("cc", "rm /new/n; rm /a/f; echo again > /etc/mine; touch /second");
    let later = "C /a\nD /a/f\nD /a/sub\nA /data\nC /etc\nA /etc/mine\nA /new\nA /second";
    assert_eq!(host.good(&["diff", "cc"]), later);
    assert!(host.bad(&["diff", "none"]).contains("No such container: none"));
}

#[test]
fn privileged_export_is_the_containers_own_file_system() {
    let Some(host) = Host::new() else { return };
    host.start("cc", &["-v", "vol:/data", "--tmpfs", "/scratch"]);
    host.exec("cc", "echo v > /data/v; echo s > /scratch/s; rm -r /a/sub; echo new > /new");
    let running = host.call(&["export", "cc"]);
    assert_eq!((running.code, running.err.as_str()), (0, ""));
    let names = Host::names(&running.out);
    for (name, there) in [
        ("new", true),
        ("a/f", true),
        ("a/sub/", false),
        ("data/", true),
        ("data/v", false),
        ("scratch/s", false),
    ] {
        assert_eq!(names.iter().any(|known| known == name), there, "{name}: {names:?}");
    }
    assert!(!names.iter().any(|name| name.starts_with("proc/") && name.len() > 5), "nothing of the kernel's");
    assert_eq!(host.exec("cc", "cat /data/v /scratch/s"), "v\ns", "the container goes on");
    host.good(&["stop", "-t", "0", "cc"]);
    host.good(&["export", "-o", "c.tar", "cc"]);
    let stopped = std::fs::read(host.path("c.tar")).unwrap();
    assert_eq!(Host::names(&stopped), names);
    host.good(&["import", "c.tar", "again"]);
    assert_eq!(host.good(&["run", "--rm", "--network", "none", "again", "cat", "/new"]), "new");
    assert!(host.bad(&["export", "-o", "no/such/c.tar", "cc"]).contains("no/such"));
    assert!(host.bad(&["export", "-o", "x.tar", "none"]).contains("No such container"));
    assert!(!host.path("x.tar").exists());
}

#[test]
fn privileged_commit_makes_an_image_of_a_container() {
    let Some(host) = Host::new() else { return };
    host.start("cc", &["-e", "A=1", "-v", "vol:/data", "-w", "/a"]);
    host.exec("cc", "echo kept > /kept; echo v > /data/v; rm /lf");
    for (round, flags) in [("running", &["-p"][..]), ("unpaused", &["--pause=false"]), ("stopped", &[])] {
        if round == "stopped" {
            host.good(&["stop", "-t", "0", "cc"]);
        }
        let mut args =
            vec!["commit", "-a", "Ada", "-m", "a message", "-c", "ENV B=2", "-c", "CMD [\"cat\", \"/kept\"]"];
        args.extend(flags);
        args.extend(["cc", "made:1"]);
        let id = host.good(&args);
        assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
        assert_eq!(host.good(&["run", "--rm", "--network", "none", "made:1"]), "kept", "{round}");
        let env = host.good(&[
            "run",
            "--rm",
            "--network",
            "none",
            "made:1",
            "sh",
            "-c",
            "echo $A$B$PWD; ls /data; ls /lf || true",
        ]);
        assert!(env.starts_with("12/a") && !env.contains('v'), "{round}: {env}");
        let history = host.good(&["history", "--format", "{{.Comment}}", "made:1"]);
        assert!(history.starts_with("a message"), "{history}");
        let state = host.good(&["inspect", "-f", "{{.State.Status}}", "cc"]);
        assert_eq!(state, if round == "stopped" { "exited" } else { "running" });
    }
    // What was committed is still the container's, and it can go on.
    host.good(&["start", "cc"]);
    assert_eq!(host.exec("cc", "cat /kept; echo more > /kept; cat /kept"), "kept\nmore");
    assert_eq!(host.good(&["run", "--rm", "--network", "none", "made:1"]), "kept", "an image never changes");
    assert!(host.bad(&["commit", "-c", "RUN x", "cc", "bad"]).contains("RUN"));
    assert!(host.bad(&["commit", "none"]).contains("No such container: none"));
}

#[test]
fn privileged_an_interrupted_commit_leaves_no_container_frozen() {
    let Some(host) = Host::new() else { return };
    host.start("cc", &[]);
    host.exec("cc", "/bin/busybox head -c 150000000 /dev/zero > /big");
    let state = || host.good(&["inspect", "-f", "{{.State.Status}}", "cc"]);
    let mut commit = host.place.command(&["commit", "cc", "made"]).spawn();
    while state() != "paused" {
        assert!(commit.try_wait().unwrap().is_none(), "it ended before anybody saw it frozen");
    }
    let pid = rustix::process::Pid::from_raw(commit.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = commit.wait().unwrap();
    assert!(!ended.success(), "the signal came through in the end: {ended:?}");
    assert_eq!(state(), "running");
}

#[test]
fn privileged_modes_and_times_come_along() {
    let Some(host) = Host::new() else { return };
    host.write("h/x", "x");
    std::fs::set_permissions(host.path("h/x"), std::fs::Permissions::from_mode(0o640)).unwrap();
    let before = std::fs::metadata(host.path("h/x")).unwrap();
    host.good(&["create", "--network", "none", "--name", "cc", "box"]);
    host.good(&["cp", "h", "cc:/new"]);
    host.good(&["cp", "cc:/new/x", "back"]);
    let after = std::fs::metadata(host.path("back")).unwrap();
    assert_eq!((after.mode(), after.mtime(), after.size()), (before.mode(), before.mtime(), before.size()));
    // What a container made gets no rights on the host.
    host.good(&["start", "cc"]);
    host.exec("cc", "/bin/busybox chmod 6755 /new/x; /bin/busybox chmod 2755 /new");
    let done = host.call(&["cp", "cc:/new", "plain"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.err.contains("set-user-ID") && done.err.contains("were left out"), "{}", done.err);
    for name in ["plain", "plain/x"] {
        assert_eq!(std::fs::metadata(host.path(name)).unwrap().mode() & 0o7777, 0o755, "{name}");
    }
}
