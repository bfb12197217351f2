//! Records that are damaged, newer, or many: one that cannot be read stops nothing else.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::place_or_return;

type Damage = (&'static str, fn(&Path));

/// What may stand in the place of a record.
const DAMAGES: [Damage; 7] = [
    ("empty", |path| fs::write(path, "").unwrap()),
    ("cut", |path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    }),
    ("garbage", |path| fs::write(path, [0xff; 5000]).unwrap()),
    ("deep", |path| fs::write(path, "[".repeat(1 << 20)).unwrap()),
    ("giant", |path| fs::File::create(path).unwrap().set_len(1 << 40).unwrap()),
    ("link", |path| {
        fs::remove_file(path).unwrap();
        symlink("/dev/zero", path).unwrap();
    }),
    ("pipe", |path| {
        fs::remove_file(path).unwrap();
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    }),
];

#[test]
fn privileged_a_damaged_container_stops_no_other() {
    let place = place_or_return!("damaged");
    let program = "sleep 31535998";
    place.sleeper("--name good");
    for (index, (what, damage)) in DAMAGES.into_iter().enumerate() {
        for file in ["container.json", "state.json"] {
            let runs = index % 2 == 0;
            let verb = if runs { "run -d" } else { "create" };
            let id =
                place.run(&format!("{verb} --name bad --network none -v kept:/kept busybox {program}")).ok();
            let path = place.directory.join("root/containers").join(&id).join(file);
            if !runs && file == "state.json" {
                fs::write(&path, "{\"state\":{\"status\":\"created\"}}").unwrap();
            }
            damage(&path);
            let what = format!("{file}: {what}");
            let before = Instant::now();
            let listed = place.run("ps -a --format {{.Names}}");
            assert_eq!((listed.code, listed.out.trim()), (0, "good"), "{what}: {listed:?}");
            let says = format!("cannot read container `{}`", &id[..12]);
            assert!(listed.err.contains(&says) && listed.err.contains("rm -f"), "{what}: {listed:?}");
            assert_eq!(place.script("--name other", "echo fine").ok(), "fine", "{what}");
            assert_eq!(place.run("exec good true").code, 0, "{what}");
            for line in ["inspect bad", "start bad", "stop bad", "rm bad", "logs bad", "exec bad true"] {
                let done = place.run(line);
                assert!(done.code != 0 && done.err.starts_with("error: "), "{what}: {line}: {done:?}");
                assert!(!done.err.contains("panicked"), "{what}: {line}: {done:?}");
            }
            // Nobody knows whose the volume is.
            if file == "container.json" {
                place.run("volume prune -a -f");
                assert_eq!(place.run("volume rm kept").code, 1, "{what}");
            }
            assert_eq!(place.run("volume inspect kept").code, 0, "{what}");
            place.run("system prune -f");
            assert!(path.symlink_metadata().is_ok(), "{what}: it is there until somebody says so");
            let removed = place.run(&format!("rm -f {}", &id[..12]));
            assert_eq!(removed.code, 0, "{what}: {removed:?}");
            assert!(before.elapsed() < Duration::from_secs(20), "{what}");
            assert_eq!(place.run("ps -aq --no-trunc").ok().lines().count(), 1, "{what}");
            place.run("create --name bad --network none busybox true").ok();
            place.run("rm bad").ok();
        }
    }
    let left = Command::new("ps").args(["-eo", "args"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&left.stdout).lines().any(|line| line == program));
    place.run("volume rm kept").ok();
    place.run("rm -f good").ok();
    place.run("system prune -f").ok();
    place.assert_empty();
}

#[test]
fn privileged_a_damaged_volume_stops_no_other() {
    let place = place_or_return!("volume");
    place.run("volume create good").ok();
    for (what, damage) in DAMAGES {
        place.run("volume create bad").ok();
        damage(&place.directory.join("root/volumes/bad/volume.json"));
        let listed = place.run("volume ls -q");
        assert_eq!((listed.code, listed.out.trim()), (0, "good"), "{what}: {listed:?}");
        let says = "cannot read volume `bad`";
        assert!(listed.err.contains(says) && listed.err.contains("volume rm bad"), "{what}: {listed:?}");
        let done = place.script("-v bad:/x", "true");
        assert!(done.code == 125 && done.err.contains("volume.json"), "{what}: {done:?}");
        assert_eq!(place.script("-v good:/x", "true").code, 0, "{what}");
        let removed = place.run("volume rm bad");
        assert_eq!(removed.code, 0, "{what}: {removed:?}");
    }
}

#[test]
fn privileged_a_newer_store_is_left_alone() {
    let place = place_or_return!("newer");
    let format = place.directory.join("root/format");
    let whole = fs::read_to_string(&format).unwrap();
    for (text, hint) in [(whole.replacen(" 1", " 2", 1), "newer robot-env"), ("nonsense\n".to_owned(), "")] {
        fs::write(&format, &text).unwrap();
        for line in ["ps", "images", "run --rm --network none busybox true", "system prune -f"] {
            let done = place.run(line);
            assert!(
                done.code != 0 && done.err.contains("cannot open store") && done.err.contains(hint),
                "{done:?}"
            );
        }
        assert_eq!(fs::read_to_string(&format).unwrap(), text);
    }
    fs::write(&format, whole).unwrap();
    place.run("run --rm --network none busybox true").ok();
}

/// Many containers and few descriptors: all are listed, pruned and removed.
#[test]
fn privileged_few_descriptors_are_enough_for_many_containers() {
    const MANY: usize = 1000;
    let place = place_or_return!("many");
    let web = place.sleeper("--name web");
    std::thread::scope(|scope| {
        for first in 0..4 {
            let place = &place;
            scope.spawn(move || {
                for n in (first..MANY).step_by(4) {
                    let volume = if n % 10 == 0 { "-v /data" } else { "" };
                    place.run(&format!("create --rm --network none {volume} busybox true")).ok();
                }
            });
        }
    });
    let limited = |words: &[&str]| {
        let call = place.command(words);
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -n 64; exec \"$@\"", "sh"])
            .arg(call.0.get_program())
            .args(call.0.get_args());
        command.output().unwrap()
    };
    let list = || {
        let listed = limited(&["ps", "-aq", "--no-trunc"]);
        let told = String::from_utf8_lossy(&listed.stderr).into_owned();
        assert!(listed.status.success() && told.is_empty(), "{told}");
        String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut all = list();
    assert_eq!(all.len(), MANY + 1);
    all.retain(|id| *id != web);
    let mut words = vec!["rm", "-f", "-v"];
    words.extend(all.iter().take(MANY / 2).map(String::as_str));
    let removed = limited(&words);
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    assert_eq!(list().len(), MANY / 2 + 1);
    // Those that were made a moment ago stay.
    std::thread::sleep(Duration::from_secs(2));
    let pruned = limited(&["system", "prune", "-f", "--volumes"]);
    assert!(pruned.status.success(), "{}", String::from_utf8_lossy(&pruned.stderr));
    assert_eq!(list(), [web]);
    assert_eq!(place.run("volume ls -q").ok(), "");
    place.run("rm -f web").ok();
    place.assert_empty();
}
