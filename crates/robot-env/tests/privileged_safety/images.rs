//! Images that mean harm: what they put where the engine mounts, reads and enters.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use robot_env_testkit::image::Entry;
use serde_json::json;

use crate::{place_or_return, pull_image};

/// CVE-2019-19921, CVE-2025-31133, CVE-2025-52565 and their kin: a link where the engine mounts
/// would let the image choose what is mounted where.
#[test]
fn privileged_links_in_the_place_of_the_kernels_directories_are_refused() {
    let place = place_or_return!("kernel-links");
    let outside = place.directory.join("outside");
    fs::create_dir(&outside).unwrap();
    let target = outside.display().to_string();
    for (index, path) in ["proc", "sys", "dev"].into_iter().enumerate() {
        for (kind, to) in [("absolute", target.as_str()), ("inside", "tmp"), ("up", "../../../../tmp")] {
            let name = format!("link{index}{kind}");
            pull_image(&place, &name, &[Entry::directory("tmp"), Entry::symlink(path, to)], &json!({}));
            let done = place.run(&format!("run --rm --network none {name} true"));
            assert_eq!(done.code, 125, "{path} -> {to}: {done:?}");
            assert!(done.err.contains("symbolic link"), "{path} -> {to}: {done:?}");
        }
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    place.assert_empty();
}

/// What stands where the engine puts its own files is resolved inside the root, made there where it
/// leads to nothing, and never opened.
#[test]
fn privileged_what_is_mounted_over_is_found_inside() {
    let place = place_or_return!("file-links");
    let outside = place.directory.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("there"), "of the host\n").unwrap();
    let at = |name: &str| outside.join(name).display().to_string();
    let up = format!("../../../../../..{}", at("there"));
    let works = [
        ("nowhere", Entry::symlink("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")),
        ("chain", Entry::symlink("etc/resolv.conf", "further")),
        ("absolute", Entry::symlink("etc/resolv.conf", &at("missing"))),
        ("existing", Entry::symlink("etc/resolv.conf", &at("there"))),
        ("up", Entry::symlink("etc/resolv.conf", &up)),
        ("device", Entry::character("etc/resolv.conf", 1, 5)),
        ("fifo", Entry::fifo("etc/resolv.conf")),
        ("etc", Entry::symlink("etc", &outside.display().to_string())),
    ];
    for (name, entry) in works {
        let more = [Entry::symlink("etc/further", "/made/later"), entry];
        let more = if name == "etc" { &more[1..] } else { &more[..] };
        pull_image(&place, name, more, &json!({}));
        let before = Instant::now();
        let done = place.run(&format!("run --rm --network none --dns 192.0.2.7 {name} cat /etc/resolv.conf"));
        assert_eq!(done.out, "nameserver 192.0.2.7\n", "{name}: {done:?}");
        assert!(before.elapsed() < Duration::from_secs(10), "{name}");
    }
    for (name, entry, says) in [
        ("loop", Entry::symlink("etc/resolv.conf", "resolv.conf"), "cannot mount `/etc/resolv.conf`"),
        ("dir", Entry::directory("etc/resolv.conf"), "is a directory"),
        (
            "procfs",
            Entry::symlink("etc/resolv.conf", "/proc/self/attr/exec"),
            "cannot mount `/etc/resolv.conf`",
        ),
        ("magic", Entry::symlink("etc/resolv.conf", "/proc/self/fd/3"), "cannot mount `/etc/resolv.conf`"),
    ] {
        pull_image(&place, name, &[entry], &json!({}));
        let done = place.run(&format!("run --rm --network none {name} true"));
        assert_eq!(done.code, 125, "{name}: {done:?}");
        assert!(done.err.contains(says), "{name}: {done:?}");
    }
    let names: Vec<_> = fs::read_dir(&outside).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["there"]);
    assert_eq!(fs::read_to_string(outside.join("there")).unwrap(), "of the host\n");
    place.assert_empty();
}

/// Rule 11: the users' files are read by descriptor, regular ones only, and not without end.
#[test]
fn privileged_users_are_looked_up_in_regular_files_of_a_bounded_size() {
    let place = place_or_return!("passwd");
    let user = "robot:x:1000:1000::/home/robot:/bin/sh\n";
    let huge = format!("{user}{}late:x:7:7::/:/bin/sh\n", "x:x:5:5::/:/bin/sh\n".repeat(200_000));
    // The first MiB ends in the middle of this line: cut, it would name another group.
    let mut cut = "#".repeat((1 << 20) - 11);
    cut.push_str("\ncut:x:7:1000::/:/bin/sh\n");
    // Who is asked for, and the id that it is.
    type Users = &'static [(&'static str, Option<&'static str>)];
    let cases: [(&str, Entry, Users); 7] = [
        ("fifo", Entry::fifo("etc/passwd"), &[("", Some("0")), ("7", Some("7")), ("robot", None)]),
        ("device", Entry::character("etc/passwd", 1, 5), &[("", Some("0")), ("robot", None)]),
        ("folder", Entry::directory("etc/passwd"), &[("", Some("0")), ("robot", None)]),
        ("host", Entry::symlink("etc/passwd", "/../../etc/passwd"), &[("", Some("0")), ("daemon", None)]),
        ("magic", Entry::symlink("etc/passwd", "/proc/self/fd/0"), &[("", Some("0")), ("robot", None)]),
        ("huge", Entry::file("etc/passwd", huge), &[("robot", Some("1000")), ("late", None)]),
        ("cut", Entry::file("etc/passwd", cut), &[("", Some("0")), ("cut", None)]),
    ];
    for (name, entry, users) in cases {
        pull_image(&place, name, &[Entry::directory("etc"), entry], &json!({}));
        for (user, want) in users {
            let before = Instant::now();
            let flag = if user.is_empty() { String::new() } else { format!("-u {user}") };
            let done =
                place.run(&format!("run --rm --network none {flag} {name} grep Uid: /proc/self/status"));
            match want {
                Some(id) => assert_eq!(done.out.split('\t').nth(1), Some(*id), "{name} {user}: {done:?}"),
                None => {
                    assert!(done.code == 125 && done.err.contains("unable to find user"), "{name}: {done:?}");
                }
            }
            assert!(before.elapsed() < Duration::from_secs(10), "{name} {user}");
        }
    }
    // exec looks the user up in the running container, whose files may have changed since.
    let id = place.sleeper("");
    place
        .run(&format!(
            "exec {id} sh -c rm${{IFS}}/etc/passwd;ln${{IFS}}-s${{IFS}}/proc/1/environ${{IFS}}/etc/passwd"
        ))
        .ok();
    let done = place.run(&format!("exec -u robot {id} id"));
    assert!(done.code != 0 && done.err.contains("unable to find user"), "{done:?}");
    assert_eq!(place.run(&format!("exec -u 1 {id} id -u")).ok(), "1", "crun CVE-2026-30892");
}

/// CVE-2024-21626: a working directory behind a descriptor that leaked.
#[test]
fn privileged_a_working_directory_is_inside() {
    let place = place_or_return!("workdir");
    let outside = place.directory.join("outside");
    fs::create_dir(&outside).unwrap();
    pull_image(&place, "linked", &[Entry::symlink("wd", "/proc/self/fd/7")], &json!({"WorkingDir": "/wd"}));
    pull_image(
        &place,
        "away",
        &[Entry::symlink("wd", &outside.display().to_string())],
        &json!({"WorkingDir": "/wd/sub"}),
    );
    let id = place.sleeper("");
    let mut lines = vec!["run --rm --network none linked pwd".to_owned()];
    for fd in 3..14 {
        lines.push(format!("run --rm --network none -w /proc/self/fd/{fd} busybox pwd"));
        lines.push(format!("run --rm --network none -w /proc/self/fd/{fd}/../../.. busybox pwd"));
        lines.push(format!("exec -w /proc/self/fd/{fd} {id} pwd"));
    }
    for line in lines {
        let done = place.run(&line);
        // What a path with `..` means is decided before there is anything to leak.
        let lexical = line.contains("..") && done.out == "/proc\n";
        assert!(lexical || (done.code != 0 && done.out.is_empty()), "{line}: {done:?}");
    }
    let done = place.run("run --rm --network none away pwd");
    assert!(done.code != 0 || done.out.ends_with("/sub\n"), "{done:?}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

/// CVE-2019-5736: the program's own file, as the entrypoint or as a script's interpreter, with the
/// libraries to run it, while somebody inside tries to write to it.
#[test]
fn privileged_nobody_inside_writes_to_the_programs_file() {
    let place = place_or_return!("exe");
    let program = env!("CARGO_BIN_EXE_robot-env");
    let before = fs::metadata(program).unwrap();
    let script = Entry::file("bin/script", "#!/proc/self/exe\n").mode(0o755);
    pull_image(&place, "self", &[script], &json!({}));
    let libraries: Vec<String> = ["/lib", "/lib64", "/usr/lib"]
        .iter()
        .filter(|path| fs::metadata(path).is_ok())
        .map(|path| format!("-v {path}:{path}:ro"))
        .collect();
    let libraries = libraries.join(" ");
    // Whoever is found running something of the engine's is written to.
    let attack = "touch /out; while :; do for p in /proc/[0-9]*; do \
        case $(readlink $p/exe) in /bin/busybox|'') ;; *) (: >> $p/exe) 2>/dev/null && echo written >> /out || echo refused >> /out;; \
        esac; done; done";
    for flags in ["", "--privileged", "--init --privileged", "--pid host --privileged"] {
        let line = format!("run -d --name attacker --network none {libraries} {flags} self sh -c");
        let mut words: Vec<&str> = line.split_whitespace().collect();
        words.push(if flags.contains("pid host") {
            "while :; do for p in /proc/[0-9]*; do case $(readlink $p/exe) in */robot-env) (: >> $p/exe) 2>/dev/null && echo written >> /out || echo refused >> /out;; esac; done; done"
        } else {
            attack
        });
        place.command(&words).run().ok();
        for word in ["/proc/self/exe", "/bin/script"] {
            for _ in 0..3 {
                place.run(&format!("exec attacker {word} version"));
            }
            place.run(&format!("run --rm --network none {libraries} {flags} self {word} version"));
        }
        let found = place.run("exec attacker cat /out");
        if !flags.contains("pid host") {
            // The host's monitors run from the program's own file there; what is privileged and sees
            // the host's processes is root of the host.
            assert!(!found.out.contains("written"), "{flags}: {found:?}");
        }
        if flags.contains("--privileged") {
            assert!(found.out.contains("refused"), "{flags}: the attack has found its target: {found:?}");
        }
        place.run("rm -f attacker").ok();
    }
    let after = fs::metadata(program).unwrap();
    let key = |m: &fs::Metadata| (m.ino(), m.len(), m.mtime(), m.mtime_nsec());
    assert_eq!(key(&before), key(&after));
}

/// Rule 13: an image's words are shown, and drive nothing.
#[test]
fn privileged_control_characters_of_an_image_are_escaped() {
    let place = place_or_return!("control");
    let config = json!({"Labels": {"evil": "a\u{1b}[2Jb\nc"}, "Env": ["PATH=/bin", "EVIL=\u{1b}]0;x\u{7}"],
        "Cmd": ["sleep", "1\u{1b}[31m"]});
    pull_image(&place, "control", &[Entry::directory("etc")], &config);
    place.run("create --name ctl --network none --label own=\u{1b}[5m control").ok();
    let mut shown = String::new();
    for line in [
        "ps -a --no-trunc",
        "ps -a --format {{.Labels}}",
        "ps -a --format {{.Command}}",
        "images",
        "history --no-trunc control",
        "inspect ctl",
        "image inspect control",
        "run --rm no\u{1b}such/Image true",
        "inspect no\u{1b}[1msuch",
        "run --rm --network none control prog\u{1b}[1mram",
        "events --since 1h --until 0s",
        "container ls -a --filter label=own",
    ] {
        let done = place.run(line);
        for (stream, text) in [("out", done.out), ("err", done.err)] {
            let raw = text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t'));
            if raw {
                shown.push_str(&format!("{line}: {stream}: {text:?}\n"));
            }
        }
    }
    assert!(shown.is_empty(), "{shown}");
}
