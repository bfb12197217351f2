//! Containers with a user namespace of their own, for a real account of this machine and for root.

mod account;
mod place;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::time::{Duration, Instant};

use account::{Account, cover, root};

/// The user's file server processes.
fn views(user: &Account) -> usize {
    user.processes().iter().filter(|(_, name)| name == "robot-env-view").count()
}

#[test]
fn privileged_keep_id_keeps_the_users_id() {
    let Some(user) = Account::new() else { return };
    let (uid, gid) = (user.uid, user.gid);
    let shared = user.home.join("shared");
    fs::create_dir(&shared).unwrap();
    chown(&shared, Some(uid), Some(gid)).unwrap();
    let flags = format!("--userns keep-id -v {}:/work", shared.display());
    // The image's owners are the image's, and nothing of it was copied.
    let script = "id -u; id -g; stat -c %u:%g / /bin/busybox /home/robot /shared/of-7 /etc/passwd; \
        echo mine > /work/file; stat -c %u:%g /work /work/file; cat /etc/passwd | grep -c robot";
    let out = user.script(&flags, script).ok();
    assert_eq!(out, format!("{uid}\n{gid}\n0:0\n0:0\n1000:1000\n7:7\n0:0\n{uid}:{gid}\n{uid}:{gid}\n1"));
    let written = fs::metadata(shared.join("file")).unwrap();
    assert_eq!((written.uid(), written.gid()), (uid, gid));
    // Other ids that are asked for; root inside is no root of the user's files.
    let flags = format!("--userns keep-id:uid=1000,gid=1000 -v {}:/work", shared.display());
    let out = user.script(&flags, "id -u; stat -c %u:%g /work/file; touch /work/again").ok();
    assert_eq!(out, "1000\n1000:1000");
    assert_eq!(fs::metadata(shared.join("again")).unwrap().uid(), uid);
    let script = "id -u; stat -c %u:%g /work/file; touch /root/x && chown 1000:7 /root/x && stat -c %u:%g /root/x; \
        rm /shared/of-7; ls /shared; echo changed >> /etc/group; stat -c %u:%g /etc/group; cat /etc/group | grep -c .";
    let out = user.script(&format!("--user 0 {flags}"), script).ok();
    assert_eq!(out, "0\n1000:1000\n1000:7\n0:0\n3");
    user.await_nobody();
}

#[test]
fn privileged_a_container_of_other_ids_is_committed_copied_and_exported_as_it_sees_itself() {
    let Some(user) = Account::new() else { return };
    let uid = user.uid;
    let script =
        "echo own > /home/own; chown 5:6 /home/own; rm /shared/of-7; echo more >> /etc/group; sleep 10000";
    let id = user.start("--userns keep-id --user 0 --name other", script);
    account::eventually(Duration::from_secs(20), || {
        let done = user.run(&["exec", &id, "stat", "-c", "%u:%g %n", "/home/own", "/etc/group"]);
        if done.out == "5:6 /home/own\n0:0 /etc/group\n" { Ok(()) } else { Err(format!("{done:?}")) }
    });
    assert_eq!(user.run(&["exec", "--user", &uid.to_string(), &id, "id", "-u"]).ok(), uid.to_string());
    assert_eq!(user.run(&["inspect", "-f", "{{.HostConfig.UsernsMode}}", &id]).ok(), "keep-id");
    let look = "stat -c %u:%g%n /home/own /etc/group /home/robot /; ls /shared";
    let owners = "5:6/home/own\n0:0/etc/group\n1000:1000/home/robot\n0:0/";
    for state in ["running", "stopped"] {
        user.run(&["commit", &id, "kept"]).ok();
        let seen = user.run(&["run", "--rm", "--network", "none", "kept", "sh", "-c", look]).ok();
        assert_eq!(seen, owners, "{state}");
        let changes = user.run(&["diff", &id]).ok();
        assert_eq!(
            changes, "C /etc\nC /etc/group\nC /home\nA /home/own\nC /shared\nD /shared/of-7",
            "{state}"
        );
        let tar = user.home.join("tree.tar");
        user.run(&["export", "-o", tar.to_str().unwrap(), &id]).ok();
        let listed =
            std::process::Command::new("tar").arg("--numeric-owner").arg("-tvf").arg(&tar).output().unwrap();
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(
            listed.lines().any(|line| line.contains("5/6") && line.ends_with("home/own")),
            "{state}: {listed}"
        );
        assert!(
            listed.lines().any(|line| line.contains("1000/1000") && line.contains("home/robot")),
            "{state}"
        );
        fs::remove_file(tar).unwrap();
        if state == "running" {
            user.run(&["stop", "-t", "1", &id]).ok();
        }
    }
    // What the user copies in is root's there, as without a namespace of its own.
    let file = user.home.join("copied");
    fs::write(&file, "text").unwrap();
    chown(&file, Some(uid), Some(user.gid)).unwrap();
    user.run(&["cp", file.to_str().unwrap(), "other:/home/robot/copied"]).ok();
    user.run(&["start", "other"]).ok();
    let owner = user.run(&["exec", &id, "stat", "-c", "%u", "/home/robot/copied"]).ok();
    assert_eq!(owner, "0");
    let out = user.run(&["cp", "other:/home/own", "-"]).ok();
    assert!(out.contains("0000005\x000000006\x00"), "{out:?}");
    user.run(&["rm", "-f", &id]).ok();
    user.await_nobody();
}

#[test]
fn privileged_a_users_other_modes_and_their_refusals() {
    let Some(user) = Account::new() else { return };
    let secret = user.home.join("secret");
    fs::create_dir(&secret).unwrap();
    chown(&secret, Some(user.uid), Some(user.gid)).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
    // The user outside is nobody inside, even for root there.
    let flags = format!("--userns nomap -v {}:/secret", secret.display());
    let script = "id -u; stat -c %u /bin/busybox /home/robot /secret; ls /secret 2>/dev/null || echo closed";
    assert_eq!(user.script(&flags, script).ok(), "0\n0\n1000\n65534\nclosed");
    // Two at once have no id in common.
    let map = |id: &str| user.run(&["exec", id, "cat", "/proc/self/uid_map"]).ok();
    let ranges: Vec<(u32, u32)> = ["auto", "auto:size=2000"]
        .iter()
        .map(|mode| {
            let id = user.start(&format!("--network none --userns {mode}"), "sleep 10000");
            let line = map(&id);
            let mut numbers = line.split_whitespace().map(|number| number.parse::<u32>().unwrap());
            assert_eq!(numbers.next(), Some(0));
            (numbers.next().unwrap(), numbers.next().unwrap())
        })
        .collect();
    assert_eq!((ranges[0].1, ranges[1].1), (1024, 2000), "{ranges:?}");
    assert!(ranges[0].0 + 1024 <= ranges[1].0 || ranges[1].0 + 2000 <= ranges[0].0, "{ranges:?}");
    assert_eq!(
        user.script("--userns host", "id -u; cat /proc/self/uid_map | grep -c .").out.lines().next(),
        Some("0")
    );
    for (flags, reason) in [
        ("--userns other", "it must be host, keep-id"),
        ("--userns auto:size=100000000", "there are no 100000000 ids"),
        ("--userns auto --user 5000000", "5000001 ids"),
        ("--userns auto:size=1024 --user 2000", "2000:0"),
        ("--userns keep-id --network container:none", "No such container"),
    ] {
        let done = user.script(flags, "true");
        assert!(done.code == 125 && done.err.contains(reason), "{flags}: {done:?}");
    }
    for id in user.run(&["ps", "-q"]).ok().split_whitespace() {
        user.run(&["rm", "-f", id]).ok();
    }
    // A closed FUSE is named with what opens it.
    root("mknod", &["-m", "0600", "/mnt/closed", "c", "10", "229"]);
    cover("/dev/fuse", "/mnt/closed");
    user.await_nobody();
    let done = user.script("--userns keep-id", "true");
    assert!(done.code == 125 && done.err.contains("sudo chmod 0666 /dev/fuse"), "{done:?}");
}

/// The first start of a container of other ids takes no longer than any other start does.
#[test]
fn privileged_keep_id_copies_nothing() {
    let Some(user) = Account::new() else { return };
    // An image with many files.
    let tree = user.home.join("many");
    for directory in 0..40 {
        let directory = tree.join(format!("usr/share/{directory}"));
        fs::create_dir_all(&directory).unwrap();
        for file in 0..100 {
            fs::write(directory.join(file.to_string()), "x").unwrap();
        }
    }
    fs::create_dir_all(tree.join("bin")).unwrap();
    let busybox =
        ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| fs::exists(path).unwrap()).unwrap();
    fs::copy(busybox, tree.join("bin/true")).unwrap();
    let archive = user.home.join("many.tar");
    root("tar", &["-C", tree.to_str().unwrap(), "-cf", archive.to_str().unwrap(), "."]);
    user.run(&["import", archive.to_str().unwrap(), "many"]).ok();
    let time = |flags: &[&str]| {
        let mut args = vec!["run", "--rm", "--network", "none"];
        args.extend(flags);
        args.extend(["many", "/bin/true"]);
        let began = Instant::now();
        user.run(&args).ok();
        began.elapsed()
    };
    let used = || {
        let output =
            std::process::Command::new("du").args(["-s", "--inodes"]).arg(user.home.join("data")).output();
        String::from_utf8_lossy(&output.unwrap().stdout)
            .split_whitespace()
            .next()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    time(&[]);
    let before = used();
    let first = time(&["--userns", "keep-id"]);
    assert!(used() < before + 20, "files were copied: {before} before, {} after", used());
    let plain = (0..5).map(|_| time(&[])).min().unwrap();
    let again = (0..5).map(|_| time(&["--userns", "keep-id"])).min().unwrap();
    println!("first start with keep-id {first:?}, again {again:?}; without {plain:?}");
    assert_eq!(views(&user), 0);
}

#[test]
fn privileged_roots_container_of_automatic_ids() {
    let Some(place) = place::Place::new("userns") else { return };
    let run = |flags: &str, script: &str| {
        let mut args = vec!["run", "--rm", "--network", "none"];
        args.extend(flags.split_whitespace());
        args.extend(["busybox", "sh", "-c", script]);
        place.command(&args).run()
    };
    let out = run(
        "--userns auto",
        "id -u; busybox cat /proc/self/uid_map; busybox stat -c %u:%g / /bin/busybox; \
        busybox touch /x; busybox stat -c %u /x; busybox stat -c %u /etc/hosts",
    )
    .ok();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((lines[0], lines[2], lines[3], lines[4]), ("0", "0:0", "0:0", "0"), "{out}");
    let base: u32 = lines[1].split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(base >= 0x0008_0000, "{out}");
    // The kernel shifts the owners itself where it can; else a process of root's would.
    let idle = ["run", "-d", "--init", "--network", "none", "--userns", "auto", "busybox", "sleep", "1000"];
    let id = place.command(&idle).run().ok();
    let views: Vec<_> = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok())
        .filter(|status| status.starts_with("Name:\trobot-env-view") && status.contains("\nUid:\t0\t"))
        .collect();
    assert!(views.is_empty(), "{views:?}");
    assert_eq!(place.command(&["exec", &id, "stat", "-c", "%u", "/bin/busybox"]).run().ok(), "0");
    place.command(&["rm", "-f", &id]).run().ok();
    let done = run("--userns keep-id", "true");
    assert!(done.code == 125 && done.err.contains("an ordinary user's engine"), "{done:?}");
    assert_eq!(
        run("--userns host", "busybox cat /proc/self/uid_map").ok().split_whitespace().nth(2),
        Some("4294967295")
    );
}

/// A container that was removed and comes back has the ids that it had, and no other container has them.
#[test]
fn privileged_ids_of_what_can_come_back_are_taken() {
    let Some(place) = place::Place::new("userns-undo") else { return };
    fs::write(place.directory.join("config/robot-env/config.toml"), "undo-time = \"1h\"\n").unwrap();
    let run = |name: &str| {
        let script = "echo x > /written; busybox cat /proc/self/uid_map";
        let line = format!("run --name {name} --network none --userns auto busybox sh -c");
        let mut words: Vec<&str> = line.split_whitespace().collect();
        words.push(script);
        place.command(&words).run().ok()
    };
    let first = run("first");
    place.run("rm first").ok();
    let second = run("second");
    place.run("undo first").ok();
    assert_ne!(first, second);
    assert_eq!(place.run("start -a first").ok(), first);
}

/// What is not kept is said once, with what would change that; `info` and `doctor` say it too.
#[test]
fn privileged_what_a_user_lacks_is_named() {
    let Some(user) = Account::new() else { return };
    let limited = ["run", "--rm", "--network", "none", "--memory", "64m", "busybox", "true"];
    let (first, second) = (user.run(&limited), user.run(&limited));
    let info = user.run(&["info"]);
    assert!(info.out.contains(&format!("Mode: ordinary user {}", user.uid)), "{info:?}");
    assert!(info.out.contains("Ids: 65537 of users"), "{info:?}");
    if info.out.contains("Limits: not kept") {
        assert!(first.code == 0 && first.err.contains("limits of memory"), "{first:?}");
        assert!(
            ["(boot with", "(sudo ", "(systemd-run "].iter().any(|mend| first.err.contains(mend)),
            "{first:?}"
        );
        assert_eq!(second.err, "", "said once");
        assert!(info.err.contains("limits of memory, CPU and processes are not kept"), "{info:?}");
    } else {
        assert_eq!((first.err, second.err), (String::new(), String::new()));
    }
    for (device, number) in [("/dev/net/tun", ["10", "200"]), ("/dev/fuse", ["10", "229"])] {
        let node = format!("/mnt/closed{}", number[1]);
        root("mknod", &["-m", "0600", &node, "c", number[0], number[1]]);
        cover(device, &node);
        let (info, doctor) = (user.run(&["info"]), user.run(&["doctor"]));
        for said in [&info.err, &doctor.out] {
            assert!(said.contains(&format!("sudo chmod 0666 {device}")), "{device}: {said}");
        }
    }
    // Ranges that are gone count from the next namespace on.
    user.await_nobody();
    fs::write("/mnt/none", "").unwrap();
    cover("/etc/subuid", "/mnt/none");
    // A process that has ended and was not reaped is in the old one.
    let info = account::eventually(Duration::from_secs(20), || {
        let info = user.run(&["info"]);
        let told = info.err.contains("sudo usermod --add-subuids ");
        if told { Ok(info) } else { Err(format!("{info:?}")) }
    });
    assert!(info.out.contains("Ids: 1 of users"), "{info:?}");
    let done = user.script("--network none --userns nomap", "true");
    assert!(done.code == 125 && done.err.contains("sudo usermod --add-subuids"), "{done:?}");
    // With one id only, that one can be any.
    let out = user
        .script("--network none --userns keep-id:uid=1000,gid=1000", "id -u; stat -c %u / /bin/busybox")
        .ok();
    assert_eq!(out, "1000\n1000\n1000");
    cover("/usr/bin/newuidmap", "/mnt/none");
    assert!(user.run(&["info"]).err.contains(" uidmap"));
}
