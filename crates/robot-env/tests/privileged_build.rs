//! `build` by the command line.

mod place;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use place::{Done, Place};
use robot_env_testkit::registry::TestRegistry;

/// A context with these files and this Dockerfile.
fn context(place: &Place, name: &str, dockerfile: &str, files: &[(&str, &str)]) -> PathBuf {
    let directory = place.directory.join(name);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("Dockerfile"), dockerfile).unwrap();
    for (path, content) in files {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    directory
}

fn build(place: &Place, directory: &std::path::Path, words: &[&str]) -> Done {
    let all = [&["build", "--progress", "plain"], words, &[directory.to_str().unwrap()]].concat();
    place.command(&all).run()
}

/// What a container of the image prints.
fn prints(place: &Place, image: &str, command: &str) -> String {
    place.command(&["run", "--rm", "--network", "none", image, "sh", "-c", command]).run().ok()
}

#[test]
fn privileged_stages_files_and_commands_become_an_image() {
    let Some(place) = Place::new("build") else { return };
    let text = "\
FROM busybox AS base
ARG WHO=world
ENV GREET=hello
WORKDIR /app
COPY a.txt sub /app/files/
RUN echo \"$GREET $WHO\" > greet
RUN <<EOF
echo one > /one
echo two >> /one
EOF
FROM busybox AS unused
RUN exit 9
FROM busybox
COPY --from=base --chown=7:8 /app /srv
COPY --from=base /one /one
COPY --chmod=640 <<EOT /etc/motd
from a document
EOT
LABEL a=b
EXPOSE 80/udp
USER 1000
CMD [\"cat\", \"/srv/greet\"]
";
    let files = [("a.txt", "A"), ("sub/s.txt", "S"), ("sub/.hidden", "H")];
    let directory = context(&place, "ctx", text, &files);
    let done = build(&place, &directory, &["-t", "test:1", "-t", "test:2", "--build-arg", "WHO=robot"]);
    assert!(done.code == 0 && !done.err.contains("exit 9"), "{}", done.err);
    assert_eq!(place.run("run --rm --network none test:1").ok(), "hello robot");
    let list = prints(
        &place,
        "test:2",
        "cd /srv; find . | sort; stat -c %u:%g greet; stat -c %a /etc/motd; cat /one",
    );
    assert_eq!(
        list,
        ".\n./files\n./files/.hidden\n./files/a.txt\n./files/s.txt\n./greet\n7:8\n640\none\ntwo"
    );
    let config = place.command(&["image", "inspect", "-f", "{{json .Config}}", "test:1"]).run().ok();
    for part in [r#""User":"1000""#, r#""a":"b""#, r#""80/udp":{}"#, r#"["cat","/srv/greet"]"#] {
        assert!(config.contains(part), "{part} in {config}");
    }
    assert_eq!(place.run("ps -aq").ok(), "");

    // Again: all of it is there, and the image is the same.
    let id = place.command(&["image", "inspect", "-f", "{{.Id}}", "test:1"]).run().ok();
    let again = build(&place, &directory, &["-t", "test:1", "--build-arg", "WHO=robot"]);
    assert_eq!(again.err.matches("CACHED").count(), 7, "{}", again.err);
    assert_eq!(place.command(&["image", "inspect", "-f", "{{.Id}}", "test:1"]).run().ok(), id);
    // A label changes no step; a file changes those from its copy on.
    fs::write(directory.join("Dockerfile"), text.replace("LABEL a=b", "LABEL a=c")).unwrap();
    let labelled = build(&place, &directory, &["-t", "test:1", "--build-arg", "WHO=robot"]);
    assert_eq!(labelled.err.matches("CACHED").count(), 7, "{}", labelled.err);
    fs::write(directory.join("sub/s.txt"), "other").unwrap();
    let changed = build(&place, &directory, &["-t", "test:1", "--build-arg", "WHO=robot"]);
    assert_eq!(changed.err.matches("CACHED").count(), 1, "{}", changed.err);
    assert_eq!(prints(&place, "test:1", "cat /srv/files/s.txt"), "other");
    assert_eq!(build(&place, &directory, &["-q", "--no-cache"]).err.matches("CACHED").count(), 0);

    // What builds keep goes with `system prune`; the image stays.
    assert!(fs::read_dir(place.directory.join("root/cache")).unwrap().count() > 0);
    place.run("system prune -f").ok();
    assert_eq!(fs::read_dir(place.directory.join("root/cache")).unwrap().count(), 0);
    assert_eq!(prints(&place, "test:1", "cat /srv/greet"), "hello robot");

    // The image goes out and comes back as any other.
    let registry = TestRegistry::start();
    let name = registry.name("built:1");
    place.command(&["tag", "test:1", &name]).run().ok();
    place.command(&["push", "-q", &name]).run().ok();
    place.command(&["rmi", "-f", &name, "test:1", "test:2"]).run().ok();
    place.command(&["pull", "-q", &name]).run().ok();
    assert_eq!(prints(&place, &name, "cat /srv/greet"), "hello robot");
}

#[test]
fn privileged_mounts_of_a_command() {
    let Some(place) = Place::new("build-mounts") else { return };
    let text = "\
FROM busybox AS other
RUN echo from-a-stage > /thing
FROM busybox
RUN --mount=type=secret,id=s cat /run/secrets/s | wc -c > /length; stat -c %a /run/secrets/s >> /length
RUN --mount=type=secret,id=e,env=TOKEN echo ${#TOKEN} >> /length
RUN --mount=type=cache,target=/c echo x >> /c/x; wc -l < /c/x > /count
RUN --mount=type=bind,target=/ctx,rw ls /ctx > /list; touch /ctx/mine
RUN --mount=type=bind,from=other,target=/o cp /o/thing /
RUN --mount=type=tmpfs,target=/t grep -c ' /t tmpfs ' /proc/mounts > /tmpfs
RUN <<SCRIPT
#!/bin/sh
echo \"by $0\" > /script
SCRIPT
";
    let files = [("seen", ""), ("unseen", ""), (".dockerignore", "unseen\n"), ("../secret", "hunter2")];
    let directory = context(&place, "ctx", text, &files);
    let secret = format!("id=s,src={}", place.directory.join("secret").display());
    let mut call = place.command(&[
        "build",
        "--progress",
        "plain",
        "-t",
        "t",
        "--secret",
        &secret,
        "--secret",
        "id=e,env=E",
        directory.to_str().unwrap(),
    ]);
    call.0.env("E", "tok-98765");
    let done = call.run();
    assert_eq!(done.code, 0, "{}", done.err);
    let all = prints(
        &place,
        "t",
        "cat /length /count /list /thing /tmpfs /script; ls -d /c /ctx /o /t /run/secrets 2>&1 | wc -l",
    );
    assert_eq!(all, "7\n400\n9\n1\nDockerfile\nseen\nfrom-a-stage\n1\nby /dev/pipes/SCRIPT\n5");
    assert_eq!(prints(&place, "t", "ls -d /c /ctx /o /t /run/secrets 2>/dev/null | wc -l"), "0");
    assert!(!directory.join("mine").exists());
    // The secret is in no layer, no history, no cache record.
    let found = std::process::Command::new("grep")
        .args(["-rlE", "hunter2|tok-98765"])
        .arg(place.directory.join("root"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    // A cache outlives the build.
    let done = build(&place, &directory, &["-t", "t", "--no-cache"]);
    assert!(done.code != 0 && done.err.contains("secrets/s"), "{}", done.err);
    let text = "FROM busybox\nRUN --mount=type=cache,target=/c echo y >> /c/x; wc -l < /c/x > /count\n";
    fs::write(directory.join("Dockerfile"), text).unwrap();
    assert_eq!(build(&place, &directory, &["-t", "t"]).code, 0);
    assert_eq!(prints(&place, "t", "cat /count"), "2");
}

#[test]
fn privileged_bad_builds_are_refused_and_leave_nothing() {
    let Some(place) = Place::new("build-bad") else { return };
    let directory = context(&place, "ctx", "", &[("d/f", ""), ("hidden", ""), (".dockerignore", "hidden\n")]);
    std::os::unix::fs::symlink("/etc/passwd", directory.join("link")).unwrap();
    for (text, want) in [
        ("FROM busybox\nRUN exit 3\n", "ended with exit code 3"),
        ("FROM busybox\nRUN exit 3\n", "line 2, column 1"),
        ("FROM busybox\nCOPPY a b\n", "did you mean `COPY`"),
        ("FROM busybox\nCOPY nope /x\n", "`nope` is not in the context"),
        ("FROM busybox\nCOPY hidden /x\n", "a line of .dockerignore keeps it out"),
        ("FROM busybox\nCOPY ../secret /x\n", "is not in the context"),
        ("FROM busybox\nCOPY link /x\n", "is not in the context"),
        ("FROM busybox\nCOPY d/f Dockerfile /x\n", "must be a directory and end with a /"),
        ("FROM busybox\nCOPY d /bin/busybox\n", "is no directory"),
        ("FROM busybox AS a\nCOPY --from=b /x /x\nFROM a AS b\n", "circular dependency"),
        ("FROM busybox\nCOPY --chmod=rwx d/f /x\n", "invalid mode `rwx`"),
        ("FROM busybox\nCOPY --chown=nobody9 d/f /x\n", "unable to find user nobody9"),
        ("FROM busybox\nRUN --mount=type=secret,id=no,required true\n", "the secret `no` was not given"),
        ("FROM busybox\nRUN --security=insecure true\n", "it was not allowed"),
        ("", "file with no instructions"),
    ] {
        fs::write(directory.join("Dockerfile"), text).unwrap();
        let done = build(&place, &directory, &["-t", "t"]);
        assert!(done.code != 0 && done.err.contains(want), "{text}: {}", done.err);
    }
    for (words, want) in [
        (&["--isolation", "hyperv"][..], "cannot isolate by `hyperv`"),
        (&["--target", "nope"], "target stage \"nope\" could not be found"),
        (&["--progress", "loud"], "invalid argument `loud` for --progress"),
        (&["-f", "missing"], "there is no such file"),
        (&["--allow", "everything"], "invalid argument `everything` for --allow"),
        (&["-t", "UPPER"], "must be lower case"),
    ] {
        fs::write(directory.join("Dockerfile"), "FROM busybox\n").unwrap();
        let done = build(&place, &directory, words);
        assert!(done.code != 0 && done.err.contains(want), "{words:?}: {}", done.err);
    }
    for left in ["root/snapshots", "run/builds"] {
        let left = fs::read_dir(place.directory.join(left)).map(Iterator::count);
        assert_eq!(left.unwrap_or(0), 0);
    }
    assert!(place.run("images -q t").ok().is_empty());
}

#[test]
fn privileged_a_killed_build_leaves_nothing_that_runs_or_stays() {
    let Some(place) = Place::new("build-kill") else { return };
    let directory = context(&place, "ctx", "FROM busybox\nRUN echo begun; sleep 987\n", &[]);
    let mut call = place.command(&["build", "--progress", "plain", directory.to_str().unwrap()]);
    let log = place.directory.join("log");
    let mut child = call.0.stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
    let sleeps = || {
        fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            fs::read(entry.path().join("cmdline")).is_ok_and(|line| line.starts_with(b"sleep\x00987"))
        })
    };
    let patience = Instant::now() + Duration::from_secs(20);
    while !sleeps() {
        assert!(Instant::now() < patience, "{}", fs::read_to_string(&log).unwrap());
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let patience = Instant::now() + Duration::from_secs(8);
    while sleeps() {
        assert!(Instant::now() < patience, "the command outlives its build");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(place.run("ps -aq").ok(), "");
    fs::write(directory.join("Dockerfile"), "FROM busybox\nRUN true\n").unwrap();
    assert_eq!(build(&place, &directory, &[]).code, 0);
    let containers = fs::read_dir(place.directory.join("root/containers")).unwrap().flatten();
    assert_eq!(containers.filter(|entry| entry.file_name().len() == 64).count(), 0);
    assert_eq!(fs::read_dir(place.directory.join("root/snapshots")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(place.directory.join("run/builds")).unwrap().count(), 0);
}

#[test]
fn privileged_contexts_come_from_archives_repositories_and_standard_input() {
    let Some(place) = Place::new("build-contexts") else { return };
    let directory = context(
        &place,
        "ctx",
        "FROM busybox\nCOPY f /f\nADD a.tar.gz /a/\n",
        &[("f", "content"), ("in/x", "X")],
    );
    let shell = |script: &str| {
        let done =
            std::process::Command::new("sh").args(["-ec", script]).current_dir(&directory).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    };
    shell("tar czf a.tar.gz in");
    let tar = shell("tar c .");
    let done = place.command(&["build", "-t", "t", "-"]).feed(&tar);
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(prints(&place, "t", "cat /f /a/in/x"), "contentX");
    let done = place.command(&["build", "-t", "t2", "-"]).feed(b"FROM busybox\nRUN echo hi > /hi\n");
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(prints(&place, "t2", "cat /hi"), "hi");
    let done = place
        .command(&["build", "-t", "t3", "-f", "-", directory.to_str().unwrap()])
        .feed(b"FROM busybox\nCOPY f /g\n");
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(prints(&place, "t3", "cat /g"), "content");
    if std::process::Command::new("git").arg("--version").output().is_err() {
        println!("skipped: git is not installed");
        return;
    }
    shell("git init -q; git add -A; git -c user.name=a -c user.email=a@b commit -qm first");
    let address = format!("file://{}/.git", directory.display());
    let done = place.command(&["build", "-t", "t4", &address]).run();
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(prints(&place, "t4", "cat /f"), "content");
    // A file of the web.
    let registry = TestRegistry::start();
    let digest = registry.put_blob("web", b"downloaded");
    let address = format!("{}/v2/web/blobs/{digest}", registry.url());
    fs::write(directory.join("Dockerfile"), format!("FROM busybox\nADD --checksum={digest} {address} /w\n"))
        .unwrap();
    assert_eq!(build(&place, &directory, &["-t", "t5"]).code, 0);
    assert_eq!(prints(&place, "t5", "cat /w"), "downloaded");
    let other = robot_env_oci::Digest::of(b"other");
    fs::write(directory.join("Dockerfile"), format!("FROM busybox\nADD --checksum={other} {address} /w\n"))
        .unwrap();
    let done = build(&place, &directory, &[]);
    assert!(done.code != 0 && done.err.contains("has the digest"), "{}", done.err);
}
