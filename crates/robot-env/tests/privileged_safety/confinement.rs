//! What a program in a container can do to the host, and what flags can.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::place_or_return;

/// Docker's list less three; none is inheritable or ambient, and another user has none at all.
#[test]
fn privileged_capabilities_are_dockers_less_three() {
    let place = place_or_return!("caps");
    let id = place.sleeper("");
    let privileged_id = place.sleeper("--privileged");
    let bits: u64 = [0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 31].iter().map(|bit| 1u64 << bit).sum();
    let (default, none) = (format!("{bits:016x}"), "0".repeat(16));
    let script = "grep -E ^Cap /proc/self/status";
    let read = |line: &[&str]| {
        let out = place.command(&[line, &["sh", "-c", script]].concat()).run().ok();
        out.lines().map(|line| line.split('\t').nth(1).unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let run: &[&str] = &["run", "--rm", "--network", "none"];
    let with = |flags: &[&'static str]| [run, flags, &["busybox"]].concat();
    // Inheritable, permitted, effective, bounding, ambient.
    for (line, want) in [
        (with(&[]), [&none, &default, &default, &default, &none]),
        (with(&["-u", "1000"]), [&none, &none, &none, &default, &none]),
        (with(&["-u", "robot", "--cap-add", "CHOWN"]), [&none, &none, &none, &default, &none]),
        (with(&["--cap-drop", "ALL"]), [&none, &none, &none, &none, &none]),
        (vec!["exec", &id], [&none, &default, &default, &default, &none]),
        (vec!["exec", "-u", "1", &id], [&none, &none, &none, &default, &none]),
        (vec!["exec", "-u", "1", &privileged_id], [&none, &none, &none, &"x".into(), &none]),
    ] {
        let found = read(&line);
        for (index, want) in want.into_iter().enumerate().filter(|(_, want)| *want != "x") {
            assert_eq!(&found[index], want, "{line:?}: {found:?}");
        }
    }
}

/// The system calls that the default filter refuses, by their numbers on x86-64, and what they say.
#[cfg(target_arch = "x86_64")]
#[test]
fn privileged_the_default_filter_refuses_what_dockers_does() {
    let place = place_or_return!("filter");
    if !fs::exists("/usr/bin/python3").unwrap() {
        println!("skipped: needs python3");
        return;
    }
    // The host's interpreter, in the container.
    let libraries: String = ["/usr", "/lib", "/lib64"]
        .iter()
        .filter(|path| fs::exists(path).unwrap())
        .map(|path| format!("-v {path}:{path}:ro "))
        .collect();
    let probe = "import ctypes,sys\nlibc=ctypes.CDLL(None,use_errno=True)\n\
        for word in sys.argv[1:]:\n name,number,*args=word.split(',')\n ctypes.set_errno(0)\n \
        r=libc.syscall(int(number),*[ctypes.c_long(int(a)) for a in args])\n print(name,ctypes.get_errno() if r==-1 else 'ok')\n \
        if r==0 and name.startswith('fork'): import os; os._exit(0)\n";
    const EPERM: &str = "1";
    const ENOSYS: &str = "38";
    let calls = [
        ("keyctl,250,0,0,0,0,0", EPERM),
        ("add_key,248,0,0,0,0,0", EPERM),
        ("request_key,249,0,0,0,0", EPERM),
        ("bpf,321,0,0,0", EPERM),
        ("userfaultfd,323,0", EPERM),
        ("io_uring_setup,425,1,0", EPERM),
        ("io_uring_enter,426,0,0,0,0,0,0", EPERM),
        ("mount,165,0,0,0,0,0", EPERM),
        ("umount2,166,0,0", EPERM),
        ("unshare,272,268435456", EPERM),
        ("setns,308,0,0", EPERM),
        ("pivot_root,155,0,0", EPERM),
        ("open_by_handle_at,304,0,0,0", EPERM),
        ("perf_event_open,298,0,0,0,0,0", EPERM),
        ("swapon,167,0,0", EPERM),
        ("reboot,169,0,0,0,0", EPERM),
        ("init_module,175,0,0,0", EPERM),
        ("kexec_load,246,0,0,0,0", EPERM),
        ("acct,163,0", EPERM),
        ("quotactl,179,0,0,0,0", EPERM),
        ("settimeofday,164,0,0", EPERM),
        ("clone_newuser,56,268435473,0,0,0,0", EPERM),
        ("clone3,435,0,0", ENOSYS),
        ("fsopen,430,0,0", EPERM),
        ("move_mount,429,0,0,0,0,0", EPERM),
        ("open_tree,428,0,0,0", EPERM),
        ("mount_setattr,442,0,0,0,0,0", EPERM),
        ("personality,135,4294967295", "ok"),
        ("personality_odd,135,1234", EPERM),
        ("socket_vsock,41,40,1,0", EPERM),
        ("socket_alg,41,38,5,0", EPERM),
        ("getpid,39", "ok"),
        ("syslog,103,10,0,0", EPERM),
        ("vm86old,1000,0", ENOSYS),
    ];
    let mut want = String::new();
    for (call, errno) in calls {
        want.push_str(&format!("{} {errno}\n", call.split(',').next().unwrap()));
    }
    for flags in ["", "--device /dev/null --cap-add NET_ADMIN", "--security-opt no-new-privileges", "-u 1000"]
    {
        let line = format!("run --rm --network none {libraries}{flags} busybox /usr/bin/python3 -c");
        let mut words: Vec<&str> = line.split_whitespace().collect();
        words.push(probe);
        words.extend(calls.iter().map(|(call, _)| *call));
        let done = place.command(&words).run();
        // Without a user namespace and capabilities the kernel itself refuses some, with the same word.
        assert_eq!(done.out, want, "{flags}: {done:?}");
    }
}

/// What is masked, read-only and out of sight; the same for an exec.
#[test]
fn privileged_the_hosts_knobs_are_out_of_reach() {
    let place = place_or_return!("knobs");
    let script = "for f in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts /proc/sched_debug; do \
          [ -e $f ] && echo $f $(head -c 10 $f | wc -c); done; \
        echo $(ls /sys/firmware | wc -l) in firmware; \
        for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/sys/vm/drop_caches \
          /proc/irq/default_smp_affinity /sys/kernel/uevent_helper /sys/fs/cgroup/pids/release_agent /proc/bus/x; do \
          (echo 1 > $f) 2>/dev/null && echo written $f; done; \
        ls /proc/self/fd | wc -l; ls -d /proc/[0-9]* | wc -l; ls /dev; \
        (: < /dev/mem) 2>/dev/null && echo mem; mknod /tmp/sda b 8 0 2>/dev/null && echo node; \
        ps | grep -c robot-env; kill -9 1; echo alive";
    let id = place.sleeper("");
    let mut seen = Vec::new();
    for done in [place.script("--init", script), place.command(&["exec", &id, "sh", "-c", script]).run()] {
        let lines: Vec<&str> = done.out.lines().collect();
        assert!(
            !done.out.contains("written") && !lines.contains(&"mem") && !lines.contains(&"node"),
            "{done:?}"
        );
        for line in lines.iter().filter(|line| line.starts_with("/proc/")) {
            assert!(line.ends_with(" 0"), "{line} is not masked");
        }
        assert!(lines.contains(&"0 in firmware"), "{done:?}");
        seen.push(
            lines
                .iter()
                .skip_while(|line| **line != "0 in firmware")
                .nth(1)
                .copied()
                .unwrap_or("")
                .to_owned(),
        );
        for node in ["kmsg", "mem", "sda", "loop0", "fuse", "kvm"] {
            assert!(!lines.contains(&node), "{node} is in /dev");
        }
    }
    // 0, 1, 2 and ls's own.
    assert_eq!(seen, ["4", "4"]);
    assert_eq!(place.field(&id, "{{.State.Running}}"), "true", "nobody inside ends its first process");
}

#[test]
fn privileged_a_fork_bomb_meets_the_limit() {
    let place = place_or_return!("bomb");
    let begin = Instant::now();
    let done = place.script("--pids-limit 30", "b() { b | b & }; b; sleep 1; ls -d /proc/[0-9]* | wc -l");
    assert!(begin.elapsed() < Duration::from_secs(20), "{done:?}");
    let line = place
        .command(&[
            "run",
            "-d",
            "--network",
            "none",
            "--pids-limit",
            "30",
            "busybox",
            "sh",
            "-c",
            "while :; do sleep 1000 & done 2>/dev/null",
        ])
        .run()
        .ok();
    std::thread::sleep(Duration::from_millis(300));
    let top = place.run(&format!("exec {line} true"));
    assert!(place.run(&format!("top {line}")).out.lines().count() <= 31, "{top:?}");
    place.run(&format!("rm -f {line}")).ok();
    let default = place.script("", "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null");
    assert_eq!(default.out.trim(), "2048", "{default:?}");
}

/// Flags that are wrong or would reach the host: refused with 125 before anything runs.
#[test]
fn privileged_flags_that_mean_harm_are_refused() {
    let place = place_or_return!("flags");
    let file = place.directory.join("file");
    fs::write(&file, "x").unwrap();
    let (file, missing) = (file.display().to_string(), place.directory.join("none").display().to_string());
    let cases: Vec<(Vec<String>, &str)> = [
        (format!("--device {file}"), "not a device node"),
        (format!("--device {missing}"), "device"),
        ("--device /dev/null:/dev/x:q".into(), "device"),
        ("--tmpfs /proc".into(), "/proc"),
        ("--tmpfs /sys/../proc/self".into(), "procfs"),
        (format!("-v {file}:/proc/self/attr/exec"), "procfs"),
        (format!("-v {file}:/proc"), "/proc"),
        ("--name ../x".into(), "invalid container name"),
        ("--name .x".into(), "invalid container name"),
        ("-v x/../../y:/z".into(), ""),
        ("--mount type=volume,source=../x,target=/y".into(), ""),
        ("-u 4294967296".into(), "user"),
        ("-u 2147483648".into(), "user"),
        ("-u -1".into(), "user"),
        ("-u +0".into(), "user"),
        ("-u 0x0".into(), "user"),
        ("-u 1000:4294967295".into(), "group"),
        ("-u robot:nogroup-here".into(), "group"),
        ("--group-add 99999999999".into(), "group"),
        ("--sysctl kernel.core_pattern=x".into(), "sysctl"),
        ("--sysctl net.ipv4./../../kernel/core_pattern=x".into(), "sysctl"),
        ("--sysctl net/../kernel/core_pattern=x".into(), "sysctl"),
        ("--network host --sysctl net.ipv4.ip_forward=0".into(), "sysctl"),
        ("--cgroup-parent ../../x".into(), "cgroup"),
        ("--cgroup-parent /a/../../x".into(), "cgroup"),
        ("--cap-add NOTHING".into(), "capability"),
        (format!("--security-opt seccomp={missing}"), "seccomp"),
        (format!("--security-opt seccomp={file}"), "seccomp"),
        ("--security-opt label=type:x".into(), ""),
        (format!("--env-file {missing}"), ""),
        ("--hostname a/b".into(), ""),
        ("--pid container:nobody-here".into(), "No such container"),
        ("--volumes-from nobody-here".into(), "No such container"),
        ("--ulimit nofile=-2".into(), "ulimit"),
        ("-w relative".into(), "absolute"),
    ]
    .into_iter()
    .map(|(flags, says)| (flags.split_whitespace().map(str::to_owned).collect(), says))
    .collect();
    let mut wrong = String::new();
    for (flags, says) in cases {
        let mut words = vec!["run", "--rm"];
        if !flags.iter().any(|flag| flag == "--network") {
            words.extend(["--network", "none"]);
        }
        words.extend(flags.iter().map(String::as_str));
        words.extend(["busybox", "true"]);
        let done = place.command(&words).run();
        if done.code != 125 || !done.err.contains(says) || done.err.contains("panicked") {
            wrong.push_str(&format!("{flags:?}: {done:?}\n"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    place.assert_empty();
    // What looks odd and is fine.
    let done = place.command(&[
        "run",
        "--rm",
        "--network",
        "none",
        "-e",
        "A=1\n2 \u{1b}x",
        "busybox",
        "sh",
        "-c",
        "echo \"$A\"",
    ]);
    assert_eq!(done.run().out, "1\n2 \u{1b}x\n");
}

/// Links in a volume lead to the volume's own files and nowhere else (CVE-2021-25741 and its kin).
#[test]
fn privileged_a_part_of_a_volume_is_found_inside_it() {
    let place = place_or_return!("subpath");
    let outside = place.directory.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    let at = outside.display();
    let script = format!(
        "mkdir /v/real; echo mine > /v/real/file; ln -s {at} /v/away; ln -s ../../../../../../..{at} /v/up; \
        ln -s /real /v/inside; ln -s /proc/self/root /v/magic"
    );
    assert_eq!(place.script("-v vol:/v", &script).code, 0);
    for (subpath, want) in [
        ("real", "mine"),
        ("inside", "mine"),
        ("away", ""),
        ("up", ""),
        ("magic", ""),
        ("../../..", ""),
        ("none", ""),
    ] {
        let flags = format!("--mount type=volume,source=vol,target=/x,volume-subpath={subpath}");
        let done = place.script(&flags, "cat /x/file /x/secret 2>/dev/null");
        assert_eq!(done.out.trim(), want, "{subpath}: {done:?}");
        assert!(!want.is_empty() || done.code != 0, "{subpath}: {done:?}");
    }
    // While another container has it, the part may become a link at any moment.
    let flip = "while :; do mkdir /v/part 2>/dev/null; mv -T /v/part /v/was; ln -s / /v/part; rm /v/part; mv -T /v/was /v/part; done";
    let id = place
        .command(&["run", "-d", "--network", "none", "-v", "vol:/v", "busybox", "sh", "-c", flip])
        .run()
        .ok();
    for _ in 0..25 {
        let done = place.script("--mount type=volume,source=vol,target=/x,volume-subpath=part", "ls -a /x");
        assert!(!done.out.contains("bin") && !done.out.contains("boot"), "{done:?}");
    }
    place.run(&format!("rm -f {id}")).ok();
}

/// Other users of the machine read nothing of what containers are and have written
/// (CVE-2021-41091 and its kin), whatever modes an image gives its files.
#[test]
fn privileged_other_users_see_nothing() {
    let place = place_or_return!("modes");
    fs::set_permissions(place.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let id = place.sleeper("--name open -e SECRET=1 --health-cmd true --health-interval 100ms -v vol:/data");
    place.run("exec open sh -c echo${IFS}x>/tmp/written;cp${IFS}/bin/busybox${IFS}/tmp/suid;chmod${IFS}4777${IFS}/tmp/suid").ok();
    place.run("run --name ended --network none busybox echo logged").ok();
    let mut list = Command::new("find");
    list.arg(place.directory.join("root")).arg(place.directory.join("run")).args(["-print0"]);
    let all = list.output().unwrap().stdout;
    let mut ask = Command::new("sh");
    ask.args(["-c", "xargs -0 sh -c 'for f; do [ -r \"$f\" -o -x \"$f\" -o -w \"$f\" ] && [ ! -d \"$f\" ] && echo \"$f\"; done' x"]);
    ask.uid(65534).gid(65534);
    let readable = {
        use std::io::Write;
        let mut child =
            ask.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || drop(input.write_all(&all)));
            String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
        })
    };
    let unexpected: Vec<&str> = readable.lines().filter(|path| !path.contains("/volumes/")).collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
    let directory = place.directory.join("root/containers").join(&id);
    for name in ["container.json", "state.json", "lock"] {
        let mode = fs::metadata(directory.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o007, 0, "{name}: {mode:o}");
    }
}
