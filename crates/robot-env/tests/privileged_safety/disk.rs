//! A disk without room: a clear error, nothing lost, nothing half made, and what removes still works.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use robot_env_testkit::image::{Compression, Entry, ImageBuilder, small};
use robot_env_testkit::registry::TestRegistry;
use robot_env_testkit::temporary::TemporaryDirectory;

use crate::place::Done;
use crate::place_or_return;

const INSIDE: &str = "ROBOT_ENV_TEST_FULL_DISK";
/// Bytes of the file system.
const SIZE: u64 = 64 << 20;

/// Runs the test of that name once more in a mount namespace of its own, whose temporary directory
/// is a small file system; true inside it.
pub(crate) fn inside(test: &str) -> bool {
    inside_of(test, "mount -o loop \"$1\" \"$2\" || exit 77; shift 2; exec \"$@\"")
}

/// The same with a file system in memory, which has room for very many files.
pub(crate) fn inside_memory(test: &str) -> bool {
    let mount = "mount -t tmpfs -o size=6g,nr_inodes=8m none \"$2\" || exit 77; shift 2; exec \"$@\"";
    inside_of(test, mount)
}

#[allow(clippy::print_stdout)] // why a test is skipped
fn inside_of(test: &str, script: &str) -> bool {
    if std::env::var_os(INSIDE).is_some_and(|value| value == test) {
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped {test}: mounting needs root");
        return false;
    }
    let temporary = TemporaryDirectory::new("disk");
    let (image, root) = (temporary.join("image"), temporary.join("mounted"));
    fs::create_dir(&root).unwrap();
    File::create(&image).unwrap().set_len(SIZE).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image).status();
    assert!(made.expect("mkfs.ext4 is needed").success());
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
        .args([&image, &root])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, test)
        .env("TMPDIR", &root)
        .output()
        .expect("unshare, of util-linux, is needed");
    let told = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) {
        println!("skipped {test}: no loop device: {}", told.trim());
        return false;
    }
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{told}");
    println!("{said}");
    false
}

/// Writes until not a byte is left.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for size in [1 << 20, 64 * 1024, 4096, 512, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    let _ = file.sync_all();
}

#[track_caller]
fn no_space(done: &Done, what: &str) {
    assert!(done.code != 0, "{what}: {done:?}");
    let text = done.err.to_lowercase();
    assert!(
        text.contains("no space") || text.contains("enospc") || text.contains("bytes are free"),
        "{what}: {done:?}"
    );
    assert!(!text.contains("panicked"), "{what}: {done:?}");
}

#[test]
fn privileged_a_full_disk_is_named_and_gives_its_space_back() {
    const TEST: &str = "disk::privileged_a_full_disk_is_named_and_gives_its_space_back";
    if !inside(TEST) {
        return;
    }
    let place = place_or_return!("full");
    // A registry and an archive with something new.
    let registry = TestRegistry::start();
    let filler: Vec<u8> = (0..8u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let large = ImageBuilder::new().layer_with(&[Entry::file("large", filler)], Compression::None).build();
    registry.put_image("large", "1", &large);
    registry.put_image("small", "1", &small());
    let archive = place.directory.join("archive.tar");
    place.command(&["save", "-o", archive.to_str().unwrap(), "busybox"]).run().ok();

    // A container fills its layer: its own program hears of it.
    let web = place.sleeper("--name web -v kept:/data");
    let filled = place.run("run --name filler --network none busybox dd if=/dev/zero of=/fill bs=64k");
    assert!(filled.code != 0 && filled.err.contains("No space left on device"), "{filled:?}");
    let ballast = place.directory.join("ballast");
    fill(&ballast);

    // Everything that needs room says so, and leaves nothing.
    let many: Vec<String> = (0..40).map(|n| format!("vol{n}")).collect();
    let archive = archive.display().to_string();
    let (large_name, small_name) = (registry.name("large:1"), registry.name("small:1"));
    for line in [
        "run --rm --network none busybox true".to_owned(),
        "create --name half --network none busybox true".to_owned(),
        format!("pull -q {large_name}"),
        format!("pull -q {small_name}"),
        "commit filler copy:1".to_owned(),
        format!("volume create {}", "v".repeat(200)),
        "commit web copy:2".to_owned(),
    ] {
        no_space(&place.run(&line), &line);
    }
    for name in &many {
        place.run(&format!("volume create {name}"));
    }
    place.run(&format!("load -q -i {archive}"));
    // What reads works, and what ends is recorded.
    let listed = place.run("ps -a --format {{.Names}}");
    assert_eq!((listed.code, listed.out.as_str()), (0, "filler\nweb\n"), "{listed:?}");
    let images = place.run("images --format {{.Repository}}");
    assert!(
        images.out.contains("busybox") && !images.out.contains("large") && !images.out.contains("copy"),
        "{images:?}"
    );
    assert_eq!(place.field("web", "{{.State.Running}} {{.Id}}"), format!("true {web}"));
    assert_eq!(place.run("exec web cat /data/from-image").ok(), "seed");
    place.run("stop -t 2 web").ok();
    assert_eq!(place.field("web", "{{.State.Status}} {{.State.ExitCode}}"), "exited 143");
    no_space(&place.run("start web"), "start web");

    // What removes works, and then everything else.
    place.run("rm -f filler").ok();
    fs::remove_file(&ballast).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while rustix::fs::statvfs(place.directory.path()).unwrap().f_bavail * 4096 < SIZE / 2 {
        assert!(Instant::now() < deadline, "the space comes back");
        std::thread::sleep(Duration::from_millis(20));
    }
    place.run("start web").ok();
    assert_eq!(place.run("exec web cat /data/from-image").ok(), "seed");
    place.run(&format!("pull -q {large_name}")).ok();
    place.run("commit web copy:2").ok();
    place.run(&format!("load -q -i {archive}")).ok();
    assert_eq!(place.script("--name half", "echo fine").ok(), "fine");
    place.run("system fsck").ok();
    place.run("rm -f web").ok();
    place.run("system prune -f").ok();
    place.assert_empty();
}

/// A container whose log meets a full disk goes on; what could not be written is counted.
#[test]
fn privileged_a_full_log_disk_blocks_nobody() {
    const TEST: &str = "disk::privileged_a_full_log_disk_blocks_nobody";
    if !inside(TEST) {
        return;
    }
    let place = place_or_return!("log");
    let ballast = place.directory.join("ballast");
    let free = rustix::fs::statvfs(place.directory.path()).unwrap();
    File::create(&ballast)
        .unwrap()
        .write_all(&vec![1; (free.f_bavail * free.f_frsize - (6 << 20)) as usize])
        .unwrap();
    let words = [
        "run",
        "-d",
        "--name",
        "talker",
        "--network",
        "none",
        "--log-opt",
        "max-size=50m",
        "busybox",
        "sh",
        "-c",
        "yes 0123456789012345678901234567890123456789 | head -n 200000; sleep 1; echo last; exit 4",
    ];
    place.command(&words).run().ok();
    assert_eq!(place.run("wait talker").ok(), "4", "it came to its end");
    let error = place.field("talker", "{{.State.Error}}");
    let dropped: u64 = error.split(' ').next().unwrap().parse().expect(&error);
    fs::remove_file(&ballast).unwrap();
    // What is there is whole.
    let logs = place.run("logs talker");
    let lines: Vec<&str> = logs.out.lines().collect();
    assert!(lines.iter().all(|line| line.len() == 40 || *line == "last"), "{:?}", logs.err);
    assert_eq!(lines.len() as u64 + dropped, 200_001, "{error}");
    assert!(dropped > 0 && lines.len() > 1000, "{error}");
    place.run("rm talker").ok();
}

/// Without inodes, too.
#[test]
fn privileged_without_inodes_nothing_is_half_made() {
    const TEST: &str = "disk::privileged_without_inodes_nothing_is_half_made";
    if !inside(TEST) {
        return;
    }
    let place = place_or_return!("inodes");
    let web = place.sleeper("--name web");
    let hoard = place.directory.join("hoard");
    fs::create_dir(&hoard).unwrap();
    let mut n = 0;
    while File::create(hoard.join(n.to_string())).is_ok() {
        n += 1;
    }
    for line in [
        "run --rm --network none busybox true",
        "create --name half --network none busybox true",
        "volume create vol",
    ] {
        no_space(&place.run(line), line);
    }
    assert_eq!(place.run("ps -aq --no-trunc").ok(), web);
    assert_eq!(place.run("stop -t 2 web").code, 0);
    assert_eq!(place.field("web", "{{.State.Status}} {{.State.ExitCode}}"), "exited 143");
    assert_eq!(place.run("rm web").code, 0);
    fs::remove_dir_all(&hoard).unwrap();
    assert_eq!(place.script("--name half", "echo fine").ok(), "fine");
    place.run("system prune -f").ok();
    place.assert_empty();
}
