//! An ordinary user's engine, for real: users are made by `useradd`, this program runs as them, and
//! root looks from outside at what they did. Needs root, `uidmap`, and `busybox-static` for the
//! containers; says why when it skips.
//!
//! `enter` needs a process with one thread, which the standard harness is not, so this file has a
//! harness of its own. Called as `as-user ROLE ...` it plays a role of `roles.rs`.

#![allow(clippy::print_stdout)] // it is a program of its own

mod roles;
mod user;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::panic::catch_unwind;
use std::path::Path;
use std::process::ExitCode;

use self::user::User;

type Test = (&'static str, fn(&User));

macro_rules! tests {
    ($($name:ident),* $(,)?) => { [$((stringify!($name), $name as fn(&User))),*] };
}

const TESTS: &[Test] = &tests![
    privileged_ranges_are_mapped_and_files_are_the_users,
    privileged_without_ranges_or_programs_one_id_is_mapped,
    privileged_groups_are_kept_and_a_foreign_group_is_replaced,
    privileged_an_overlay_is_mounted_in_private,
    privileged_a_monitors_program_is_shared_and_cannot_be_written,
    privileged_containers_run,
    privileged_commands_share_one_namespace,
    privileged_commands_at_once_share_one_namespace,
    privileged_exec_works_from_another_command_also_without_a_monitor,
    privileged_a_program_inside_knows_whose_it_is,
    privileged_a_machine_that_refuses_is_named,
    privileged_root_enters_when_asked,
];

fn privileged_ranges_are_mapped_and_files_are_the_users(user: &User) {
    let place = user.directory("place");
    let first = user.first_subordinate("/etc/subuid");
    let first_group = user.first_subordinate("/etc/subgid");
    let told = user.play(&["maps", &place]);
    assert_eq!(
        told,
        format!(
            "Rootless {} {} false None\nmap 0 {} 1 1 {first} 65536\nmap 0 {} 1 1 {first_group} 65536\n\
             setgroups allow\ncwd {place}\n",
            user.uid, user.gid, user.uid, user.gid
        )
    );
    for (name, owner, group) in [("of-root", user.uid, user.gid), ("of-1000", first + 999, first_group + 999)]
    {
        let stat = fs::metadata(Path::new(&place).join(name)).unwrap();
        assert_eq!((stat.uid(), stat.gid()), (owner, group), "{name}");
    }
    // What belongs to a mapped id the user alone could not remove; a later command can.
    user.play(&["remove", &place]);
    assert!(!Path::new(&place).exists());
}

fn privileged_without_ranges_or_programs_one_id_is_mapped(user: &User) {
    let place = user.directory("place");
    let single = |reason: &str| {
        format!(
            "Rootless {} {} true Some({reason:?})\nmap 0 {} 1\nmap 0 {} 1\nsetgroups deny\ncwd {place}\n",
            user.uid, user.gid, user.uid, user.gid
        )
    };
    for (setup, reason) in [
        (
            "mount --bind /dev/null /usr/bin/newgidmap",
            "there is no program `newgidmap` (package uidmap or shadow-utils)",
        ),
        ("mount --bind /bin/false /usr/bin/newuidmap", "`newuidmap` failed: exit status 1"),
    ] {
        assert_eq!(user.play_after(setup, &["maps", &place]), single(reason));
    }
    // The program itself says no: its own file has no such range.
    let said = user.play_after(
        "cp /etc/subgid /tmp/s && echo USER:7:7 >> /tmp/s && mount --bind /tmp/s /etc/subgid && \
         cp /usr/bin/newgidmap /tmp/n && printf '#!/bin/sh\\necho no, never >&2\\nexit 3\\n' > /tmp/n && \
         mount --bind /tmp/n /usr/bin/newgidmap",
        &["maps", &place],
    );
    assert_eq!(said, single("`newgidmap` failed: no, never"));
    user.drop_ranges();
    let reason = format!("`/etc/subuid` has no range for `{}`", user.name);
    assert_eq!(user.play(&["maps", &place]), single(&reason));
    assert_eq!(fs::metadata(Path::new(&place).join("of-root")).unwrap().uid(), user.uid);
    // Who joins knows the reason too.
    let first = user.stay(&[]);
    assert_eq!(user.play(&["maps", &place]), single(&reason));
    first.end();
}

fn privileged_groups_are_kept_and_a_foreign_group_is_replaced(user: &User) {
    let place = user.directory("place");
    let file = Path::new(&place).join("for-the-group");
    fs::write(&file, "seen").unwrap();
    std::os::unix::fs::chown(&file, Some(0), Some(user.extra)).unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    let first = user.stay(&[]);
    assert_eq!(user.play(&["group", file.to_str().unwrap()]), "0 0 seen");
    assert_eq!(user.play_as_group(user.extra, &["group", file.to_str().unwrap()]), "0 0 seen");
    first.end();
}

fn privileged_an_overlay_is_mounted_in_private(user: &User) {
    let place = user.directory("place");
    user.play(&["overlay", &place]);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&place), "nothing is mounted outside");
    let white = fs::symlink_metadata(Path::new(&place).join("upper/gone")).unwrap();
    assert_eq!((white.rdev(), white.uid()), (0, user.uid), "a whiteout, of the user's");
    user.play(&["remove", &place]);
}

fn privileged_a_monitors_program_is_shared_and_cannot_be_written(user: &User) {
    assert_eq!(user.play(&["shield"]), "overlay, read-only\n");
    user.drop_ranges();
    assert_eq!(user.play(&["shield"]), "overlay, read-only\n");
}

fn privileged_containers_run(user: &User) {
    let Some(bundle) = user.bundle() else { return };
    let first = user.first_subordinate("/etc/subuid");
    for network in ["none", "host"] {
        assert_eq!(user.play(&["container", &bundle, network, "0"]), "0 inside 0\n", "{network}");
        assert_eq!(user.play(&["container", &bundle, network, "1000"]), "1000 inside 0\n", "{network}");
    }
    let owner = |name: &str| fs::metadata(Path::new(&bundle).join("upper/tmp").join(name)).unwrap().uid();
    assert_eq!((owner("by-0"), owner("by-1000")), (user.uid, first + 999));
    user.play(&["remove", &bundle]);
    user.drop_ranges();
    let Some(bundle) = user.bundle() else { return };
    for network in ["none", "host"] {
        assert_eq!(user.play(&["container", &bundle, network, "0"]), "0 inside 0\n", "{network}, one id");
    }
    user.play(&["remove", &bundle]);
}

fn privileged_commands_share_one_namespace(user: &User) {
    let first = user.stay(&[]);
    let second = user.stay(&[]);
    assert_eq!(first.namespace, second.namespace);
    assert_ne!(first.namespace, user::namespace_of("self"));
    let record = fs::read(user.run().join("rootless.json")).unwrap();
    first.end();
    // Only the second one is left, which no record names.
    let third = user.stay(&["hold"]);
    assert_eq!(third.namespace, second.namespace);
    assert_ne!(fs::read(user.run().join("rootless.json")).unwrap(), record);
    second.end();
    let fourth = user.stay(&[]);
    assert_eq!(fourth.namespace, third.namespace, "found by the one that holds it");
    fourth.end();
    let namespace = third.namespace.to_string();
    // A record of a namespace that is gone is no obstacle, nor is one that cannot be read.
    third.end();
    user.play(&["maps", &user.directory("after")]);
    fs::write(user.run().join("rootless.json"), "rubbish").unwrap();
    user.play(&["maps", &user.directory("after-rubbish")]);
    // A namespace that the record does not mean: this one.
    let wrong = String::from_utf8(record).unwrap();
    let wrong = wrong.replace(&namespace, &user::namespace_of("self").to_string());
    let wrong = wrong.replace("\"processes\":[", &format!("\"processes\":[{},", std::process::id()));
    fs::write(user.run().join("rootless.json"), wrong).unwrap();
    user.play(&["maps", &user.directory("after-wrong")]);
}

fn privileged_commands_at_once_share_one_namespace(user: &User) {
    for round in 0..3 {
        let all = user.stay_all(6);
        let first = all[0].namespace;
        assert!(all.iter().all(|one| one.namespace == first), "round {round}");
        for one in all {
            one.end();
        }
    }
}

fn privileged_exec_works_from_another_command_also_without_a_monitor(user: &User) {
    let Some(bundle) = user.bundle() else { return };
    let mut monitor = user.start(&["monitor", &bundle]);
    let container = monitor.word();
    assert_eq!(user.play(&["exec", &bundle, &container]), "0 inside from exec\n");
    monitor.kill();
    assert_eq!(user.play(&["exec", &bundle, &container]), "0 inside from exec\n");
    user.play(&["kill", &container]);
    user.play(&["remove", &bundle]);
}

fn privileged_a_program_inside_knows_whose_it_is(user: &User) {
    let xdg = user.directory("xdg");
    let told = user.play_with(&[("XDG_RUNTIME_DIR", &xdg)], &["again"]);
    let roots = format!("{}/.local/share/robot-env {xdg}/robot-env\n", user.home);
    let expected = format!("Rootless {} {}\n{roots}", user.uid, user.gid);
    assert_eq!(told, format!("{roots}{expected}{expected}"));
    // The directory of somebody else is passed over.
    let told = user.play_with(&[("XDG_RUNTIME_DIR", "/root")], &["roots"]);
    assert_eq!(told, format!("{}/.local/share/robot-env /tmp/robot-env-{}\n", user.home, user.uid));
    let made = fs::metadata(format!("/tmp/robot-env-{}", user.uid)).unwrap();
    assert_eq!((made.uid(), made.mode() & 0o7777), (user.uid, 0o700));
    // In use it counts before everything else, and only then.
    let fallback = format!("/tmp/robot-env-{}", user.uid);
    let staying = user.stay_with(&[("RUN", &fallback)]);
    let told = user.play_with(&[("XDG_RUNTIME_DIR", &xdg)], &["roots"]);
    assert_eq!(told, format!("{}/.local/share/robot-env {fallback}\n", user.home));
    staying.end();
    let told = user.play_with(&[("XDG_RUNTIME_DIR", &xdg)], &["roots"]);
    assert_eq!(told, roots);
    fs::remove_dir_all(fallback).unwrap();
}

fn privileged_a_machine_that_refuses_is_named(user: &User) {
    let report = user.play_where_none_may();
    assert_eq!(
        report,
        "error: cannot become root of a user namespace\n  \
         caused by: the kernel allows no user namespaces\n\
         hint: sudo sysctl -w user.max_user_namespaces=28633 (and the same line in \
         /etc/sysctl.d/99-robot-env.conf to keep it)\n"
    );
}

fn privileged_root_enters_when_asked(user: &User) {
    let run = user.run();
    let told = User::play_as_root(&[("RUN", run.to_str().unwrap())], &["even-root"]);
    let single = !fs::read_to_string("/etc/subuid").unwrap().lines().any(|line| line.starts_with("root:"));
    assert_eq!(told, format!("Rootless 0 0 {single}\n"));
}

fn passes((name, test): &Test) -> bool {
    let Some(user) = User::make() else { return true };
    let passed = catch_unwind(|| test(&user)).is_ok();
    drop(user);
    println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
    passed
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, role @ ..] = arguments.as_slice()
        && first == "as-user"
    {
        roles::play(role);
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let chosen = |name: &str| wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str()));
    let chosen: Vec<&Test> = TESTS.iter().filter(|(name, _)| chosen(name)).collect();
    if arguments.iter().any(|a| a == "--list") {
        for (name, _) in chosen {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    let failed = chosen.iter().filter(|test| !passes(test)).count();
    let result = if failed == 0 { "ok" } else { "FAILED" };
    let (passed, out) = (chosen.len() - failed, TESTS.len() - chosen.len());
    println!(
        "\ntest result: {result}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {out} filtered out\n"
    );
    ExitCode::from(u8::from(failed > 0))
}
