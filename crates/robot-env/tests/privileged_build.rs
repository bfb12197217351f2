//! `build` by the command line.

mod place;

use std::fs;
use std::time::{Duration, Instant};

use place::{Place, build, context, prints};
use robot_env_testkit::registry::TestRegistry;

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
    let files = [("d/f", ""), ("hidden", ""), (".dockerignore", "# not\nhid*\n"), ("../beside", "")];
    let directory = context(&place, "ctx", "", &files);
    std::os::unix::fs::symlink("/etc/passwd", directory.join("link")).unwrap();
    for (text, want) in [
        ("FROM busybox\nRUN exit 3\n", "ended with exit code 3"),
        ("FROM busybox\nRUN exit 3\n", "line 2, column 1"),
        ("FROM busybox\nRUN exit 3\n", " 2 | >>> RUN exit 3\n"),
        ("FROM busybox\nRUN echo why; exit 3\n", "------\n > [2/2] RUN echo why; exit 3:\nwhy\n------\n"),
        (
            "FROM busybox\nCOPPY a b\n",
            "Dockerfile:2\n--------------------\n 1 |     FROM busybox\n 2 | >>> COPPY a b\n",
        ),
        (
            "# check=error=true\nFROM busybox\nCMD true\n",
            "lint violation found for rules: JSONArgsRecommended",
        ),
        ("FROM busybox\nCOPPY a b\n", "did you mean `COPY`"),
        ("FROM busybox\nCOPY nope /x\n", "`nope` is not in the context"),
        ("FROM busybox\nCOPY hidden /x\n", "`hid*` in line 2 of .dockerignore keeps it out"),
        ("FROM busybox\nCOPY dockerfile /x\n", "did you mean `Dockerfile`?"),
        ("FROM busybox\nCOPY d/../hidde /x\n", "is not in the context"),
        ("FROM busybox\nCOPY f /x\n", "did you mean `d/f`?"),
        ("FROM busybox\nRUN --mount=type=bind,source=f,target=/x true\n", "did you mean `d/f`?"),
        ("FROM busybox\nCOPY ../beside /x\n", "it lies outside of the context"),
        ("FROM busybox AS a\nFROM a\nCOPY --from=a bin/bsuybox /x\n", "did you mean `bin/busybox`?"),
        ("FROM busybox\nRUN pipx install\n", "`pipx` is not in the image at this step"),
        ("FROM busybox\nRUN [\"pipx\", \"install\"]\n", "caused by: cannot run the command `pipx`\n"),
        ("FROM busybox\nRUN [\"pipx\", \"install\"]\n", "`pipx` is not in the image at this step"),
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
        (&["--platform", "bogus"], "there is no architecture `bogus`"),
        (&["--no-cache-filter", "nope"], "there is no stage `nope`"),
        (&["--memory-swap", "50m"], "it needs a memory limit too"),
        (&["--provenance", "true"], "--provenance"),
        (&["--target", "nope"], "target stage \"nope\" could not be found"),
        (&["--progress", "tty"], "standard error is no terminal"),
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

#[test]
fn privileged_stages_are_built_at_once_and_wait_where_they_need_each_other() {
    let Some(place) = Place::new("build-parallel") else { return };
    // Each of the two waits until the other one works, by a cache that they share.
    let text = "\
FROM busybox AS one
RUN --mount=type=cache,target=/c touch /c/one; until [ -e /c/two ]; do sleep 0.05; done; echo 1 > /made
FROM busybox AS two
RUN --mount=type=cache,target=/c touch /c/two; until [ -e /c/one ]; do sleep 0.05; done; echo 2 > /made
FROM busybox AS same-one
RUN date +%N > /time; echo shared
FROM busybox AS same-two
RUN date +%N > /time; echo shared
FROM busybox
COPY --from=one /made /one
COPY --from=two /made /two
COPY --from=same-one /time /time-one
COPY --from=same-two /time /time-two
";
    let directory = context(&place, "ctx", text, &[]);
    // On one processor they would wait for ever.
    let parallel = std::thread::available_parallelism().is_ok_and(|number| number.get() > 1);
    if !parallel {
        println!("skipped: one processor builds one stage at a time");
        return;
    }
    let done = build(&place, &directory, &["-t", "t", "--no-cache"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(
        prints(&place, "t", "cat /one /two; [ $(cat /time-one) = $(cat /time-two) ] && echo same"),
        "1\n2\nsame"
    );
    // Lines of both name their stages; the step that both stages have is made once.
    for label in ["[one 2/2] RUN", "[two 2/2] RUN"] {
        assert!(done.err.contains(label), "{}", done.err);
    }
    let shared = done.err.lines().filter(|line| line.ends_with(" shared") && !line.contains("RUN"));
    assert_eq!(shared.count(), 1, "{}", done.err);

    // A failure ends the other stage and is named; nothing of either is left.
    let text = "\
FROM busybox AS slow
RUN sleep 981
FROM busybox AS bad
RUN sleep 0.5; echo reason; exit 7
FROM busybox
COPY --from=slow / /
COPY --from=bad / /
";
    let directory = context(&place, "bad", text, &[]);
    let begun = Instant::now();
    let done = build(&place, &directory, &[]);
    assert!(begun.elapsed() < Duration::from_secs(60), "{}", done.err);
    assert_eq!(done.code, 1, "{}", done.err);
    assert!(done.err.contains("stage `bad` of"), "{}", done.err);
    assert!(done.err.contains("line 4, column 1") && done.err.contains("exit code 7"), "{}", done.err);
    assert_leaves_nothing(&place, b"sleep\x00981");
}

#[test]
fn privileged_an_interrupted_build_ends_its_commands() {
    let Some(place) = Place::new("build-interrupt") else { return };
    let text = "\
FROM busybox AS a
RUN echo begun; sleep 983
FROM busybox AS b
RUN echo begun; sleep 983.5
FROM busybox
COPY --from=a / /
COPY --from=b / /
";
    let directory = context(&place, "ctx", text, &[]);
    let mut call = place.command(&["build", "--progress", "plain", directory.to_str().unwrap()]);
    let log = place.directory.join("log");
    let mut child = Killed(call.0.stderr(fs::File::create(&log).unwrap()).spawn().unwrap());
    let patience = Instant::now() + Duration::from_secs(30);
    let wanted = std::thread::available_parallelism().map_or(1, |number| number.get().min(2));
    while fs::read_to_string(&log).unwrap().matches(" begun\n").count() < wanted {
        assert!(Instant::now() < patience, "{}", fs::read_to_string(&log).unwrap());
        std::thread::sleep(Duration::from_millis(20));
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child.0), rustix::process::Signal::INT)
        .unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(130), "{}", fs::read_to_string(&log).unwrap());
    assert_leaves_nothing(&place, b"sleep\x00983");
}

/// A child that does not outlive its test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// No process with this command line, no container, snapshot or directory of a build.
#[track_caller]
fn assert_leaves_nothing(place: &Place, command: &[u8]) {
    let runs = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .any(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|line| line.starts_with(command)));
    assert!(!runs, "a command outlives its build");
    let containers = fs::read_dir(place.directory.join("root/containers")).unwrap().flatten();
    assert_eq!(containers.filter(|entry| entry.file_name().len() == 64).count(), 0);
    for left in ["root/snapshots", "run/builds"] {
        assert_eq!(fs::read_dir(place.directory.join(left)).map_or(0, Iterator::count), 0, "{left}");
    }
}

#[test]
fn privileged_checks_warnings_and_space_are_told() {
    let Some(place) = Place::new("build-told") else { return };
    let text = "\
FROM busybox
RUN mkdir -p /var/lib/apt/lists; dd if=/dev/zero of=/var/lib/apt/lists/l bs=1000000 count=2 2>/dev/null
RUN dd if=/dev/zero of=/big bs=1000000 count=3 2>/dev/null
RUN rm /big; printf '\\033[2J\\377 over\\rwritten\\n'
CMD echo $UNSET
";
    let directory = context(&place, "ctx", text, &[]);
    let path = directory.to_str().unwrap();
    let checked = place.command(&["build", "--check", path]).run();
    assert_eq!(checked.code, 1, "{checked:?}");
    assert!(
        checked
            .out
            .starts_with("Check complete, 1 warning has been found!\n\nWARNING: JSONArgsRecommended - "),
        "{}",
        checked.out
    );
    assert!(checked.out.contains("Dockerfile:5\n--------------------\n"), "{}", checked.out);
    assert!(checked.out.contains(" 5 | >>> CMD echo $UNSET\n"), "{}", checked.out);
    assert!(!place.directory.join("root/cache").exists(), "nothing was built");

    let done = build(&place, &directory, &["-t", "t"]);
    assert_eq!(done.code, 0, "{}", done.err);
    for part in [
        "1 warning found",
        " - JSONArgsRecommended: JSON arguments recommended for CMD",
        "(line 5)",
        "5MB in 2 layers of this Dockerfile:\n",
        "     3MB  line 3    RUN dd if=/dev/zero of=/big",
        "5MB of it for nothing:\n      3MB  line 3    /big, deleted by line 4\n",
        "     2MB  line 2    /var/lib/apt/lists: lists of apt left behind\n",
        " written\n",
        "layer of 2MB\n",
    ] {
        assert!(done.err.contains(part), "{part}: {}", done.err);
    }
    assert!(!done.err.contains('\x1b'), "{}", done.err);
    // Nothing is measured again when nothing was made.
    assert!(!build(&place, &directory, &["-t", "t"]).err.contains("of this Dockerfile"));

    let json = place.command(&["build", "--no-cache", "--progress", "json", path]).run();
    for part in [
        r#""begin":"[2/4] RUN"#,
        r#""stage":"stage-0""#,
        r#""layer":2000000"#,
        r#""rule":"JSONArgsRecommended""#,
        r#"{"space":{"layers":[{"files":1,"line":2,"#,
    ] {
        assert!(json.err.contains(part), "{part}: {}", json.err);
    }
    for object in json.err.lines() {
        assert!(object.starts_with('{') && object.ends_with('}'), "{object}");
    }
    let quiet = place.command(&["build", "--progress", "quiet", path]).run();
    assert!(quiet.ok().starts_with("sha256:"));
    let clean = context(&place, "clean", "FROM busybox\nCMD [\"true\"]\n", &[]);
    let checked = place.command(&["build", "--check", clean.to_str().unwrap()]).run();
    assert_eq!(checked.ok(), "Check complete, no warnings found.");
}

#[test]
fn privileged_what_builds_keep_is_listed_and_pruned() {
    let Some(place) = Place::new("build-kept") else { return };
    let text = "\
FROM busybox
RUN dd if=/dev/zero of=/one bs=1000000 count=2 2>/dev/null
RUN --mount=type=cache,id=things,target=/c dd if=/dev/zero of=/c/x bs=1000000 count=3 2>/dev/null; echo > /two
FROM busybox
RUN dd if=/dev/zero of=/kept bs=1000000 count=4 2>/dev/null
COPY --from=0 /two /two
";
    let directory = context(&place, "ctx", text, &[]);
    build(&place, &directory, &["-t", "t"]).ok();
    let list = place.command(&["system", "df", "-v", "--format", "{{json .BuildCache}}"]).run().ok();
    let list: Vec<serde_json::Value> = serde_json::from_str(&list).unwrap();
    let one = |part: &str| {
        let found = list.iter().find(|one| one["Description"].as_str().unwrap().contains(part));
        found.unwrap_or_else(|| panic!("{part} in {list:?}")).clone()
    };
    assert_eq!(
        (one("of=/one")["Size"].as_str(), one("of=/one")["Shared"].as_bool()),
        (Some("2MB"), Some(false))
    );
    assert_eq!(one("of=/kept")["Shared"].as_bool(), Some(true));
    let mount = one("cached mount things");
    assert_eq!((mount["Size"].as_str(), mount["CacheType"].as_str()), (Some("3MB"), Some("exec.cachemount")));
    let total =
        place.command(&["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Size}}"]).run().ok();
    assert!(total.contains("Build Cache 5 5"), "{total}");

    for (words, want) in [
        (&["--filter", "colour=red"][..], "invalid filter 'colour'"),
        (&["--keep-storage", "-1"], "invalid size `-1`"),
        (&["--filter", "until=1h", "--filter", "unused-for=1h"], "give one"),
        (&["--filter", "unused-for=-5h"], "lies in the future"),
        (&["--filter", "until=-5h"], "lies in the future"),
        (&["--filter", "unused-for=5"], "unused-for"),
    ] {
        let done = place.command(&[&["builder", "prune", "-f"], words].concat()).run();
        assert!(done.code != 0 && done.err.contains(want), "{words:?}: {done:?}");
    }
    assert!(place.run("builder prune -f --filter until=1h").ok().contains("Total reclaimed space: 0B"));
    assert!(place.run("builder prune -f --keep-storage 1GB").ok().contains("Total reclaimed space: 0B"));
    let mounts = place.run("builder prune -f --filter type=exec.cachemount").ok();
    assert!(mounts.contains("Total reclaimed space: 3MB"), "{mounts}");
    let dangling = place.run("builder prune -f").ok();
    assert!(dangling.contains("Total reclaimed space: 2"), "{dangling}");
    // What an image has, too, is there to be used until it is asked for.
    let again = build(&place, &directory, &["-t", "t"]);
    assert!(again.err.contains("[stage-1 2/3] RUN dd if=/dev/zero of=/kept"), "{}", again.err);
    assert!(place.run("buildx prune -a -f").ok().starts_with("Deleted build cache objects:\n"));
    assert_eq!(place.command(&["system", "df", "-v", "--format", "{{json .BuildCache}}"]).run().ok(), "[]");
    assert_eq!(prints(&place, "t", "wc -c < /kept"), "4000000");
}
