//! Older kernels, as far as they can be had on this one: a filter answers "no such call" to what they
//! lack, for the program and everything that it starts.

mod account;
mod place;

use account::Account;
use oci_spec::runtime::LinuxSeccomp;
use place::Place;
use robot_env_runtime::seccomp;

/// What is taken away, and since when Linux has it.
const MISSING: &[(&str, &[&str])] = &[
    ("mount_setattr, 5.12", &["mount_setattr"]),
    ("clone3, 5.3 and in old filters", &["clone3"]),
    ("close_range, 5.9", &["close_range"]),
    ("statx, in old filters", &["statx"]),
    ("faccessat2 and fchmodat2, 5.8 and 6.6", &["faccessat2", "fchmodat2"]),
    ("all of them", &["mount_setattr", "clone3", "close_range", "statx", "faccessat2", "fchmodat2"]),
];

/// From here on the calling thread, and what it starts, has none of these calls.
fn take_away(calls: &[&str]) {
    const ENOSYS: u32 = 38;
    let architecture = if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" };
    let profile: LinuxSeccomp = serde_json::from_value(serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": [architecture],
        "syscalls": [{"names": calls, "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}],
    }))
    .unwrap();
    let filter = seccomp::compile(&profile).unwrap();
    robot_env_sys::seccomp::install(&filter.program, 0).unwrap();
}

/// Each set in a thread of its own: a filter stays.
fn for_each_kernel(test: impl Fn(&str) + Sync) {
    for (name, calls) in MISSING {
        std::thread::scope(|scope| {
            let work = || {
                take_away(calls);
                test(name);
            };
            scope.spawn(work).join().unwrap_or_else(|_| panic!("without {name}"));
        });
    }
}

#[test]
fn privileged_root_does_without_newer_calls() {
    let Some(place) = Place::new("kernels") else { return };
    let shared = place.directory.join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "text").unwrap();
    for_each_kernel(|name| {
        let volume = format!("-v {}:/shared:ro --tmpfs /t", shared.display());
        let done = place.script(
            &volume,
            "busybox cat /shared/file; busybox touch /shared/x || echo ro; busybox touch /t/x",
        );
        assert_eq!(done.out, "textro\n", "{name}: {done:?}");
        let done = place.script("--read-only", "busybox touch /x || echo ro");
        assert_eq!(done.out, "ro\n", "{name}: {done:?}");
        let id = place.sleeper(&volume);
        assert_eq!(
            place.command(&["exec", &id, "busybox", "cat", "/shared/file"]).run().ok(),
            "text",
            "{name}"
        );
        place.command(&["exec", &id, "busybox", "touch", "/made"]).run().ok();
        place.run(&format!("commit {id} kept")).ok();
        assert!(place.command(&["cp", &format!("{id}:/made"), "-"]).run().ok().contains("made"), "{name}");
        place.run(&format!("stop -t 0 {id}")).ok();
        assert!(
            place.command(&["cp", &format!("{id}:/shared/file"), "-"]).run().ok().contains("text"),
            "{name}"
        );
        assert!(place.run(&format!("diff {id}")).ok().contains("A /made"), "{name}");
        place.run(&format!("rm -f {id}")).ok();
        // An image of one layer as a mount.
        let done = place.script(
            "--mount type=image,source=busybox,target=/image",
            "busybox ls /image/bin/busybox; busybox touch /image/x || echo ro",
        );
        assert_eq!(done.out, "/image/bin/busybox\nro\n", "{name}: {done:?}");
        let out = place.script("--userns auto", "id -u; busybox stat -c %u /bin/busybox").ok();
        assert_eq!(out, "0\n0", "{name}");
        place.run("rmi -f kept").ok();
    });
    place.assert_empty();
}

#[test]
fn privileged_a_user_does_without_newer_calls() {
    let Some(user) = Account::new() else { return };
    for_each_kernel(|name| {
        let out = user.script("", "id -u; stat -c %u /home/robot; ip -4 addr show eth0 | grep -c inet").ok();
        assert_eq!(out, "0\n1000\n1", "{name}");
        let out =
            user.script("--network none --userns keep-id", "id -u; stat -c %u /bin/busybox /home/robot").ok();
        assert_eq!(out, format!("{}\n0\n1000", user.uid), "{name}");
        let id = user.start("--network none", "sleep 10000");
        assert_eq!(user.run(&["exec", &id, "id", "-u"]).ok(), "0", "{name}");
        user.run(&["rm", "-f", &id]).ok();
        user.await_nobody();
    });
}
