//! `undo`: what `rm`, `rmi`, `prune`, `volume rm` and `down` took away comes back, within its time.

mod place;

use std::fs;
use std::process::Command;

use place::{Call, Done, Place};

/// A place whose engine keeps what is removed for this time.
struct Kept(Place);

impl Kept {
    fn new(name: &str) -> Option<Kept> {
        let kept = Kept(Place::new(name)?);
        kept.time("24h");
        Some(kept)
    }

    fn time(&self, time: &str) {
        let text = format!("undo-time = \"{time}\"\n");
        fs::write(self.0.directory.join("config/robot-env/config.toml"), text).unwrap();
    }

    fn run(&self, line: &str) -> Done {
        self.0.run(line)
    }

    /// A container that has written so many megabytes into /work/map, and a text into its volumes.
    fn writer(&self, name: &str, flags: &str, megabytes: u32) {
        let script = format!(
            "mkdir /work; dd if=/dev/zero of=/work/map bs=1M count={megabytes} 2>/dev/null; for d in /v*; do echo kept >$d/note; done; true"
        );
        let line = format!("run --name {name} --network none {flags} busybox sh -c");
        let mut words: Vec<&str> = line.split_whitespace().collect();
        words.push(&script);
        self.0.command(&words).run().ok();
    }

    fn entries(&self) -> usize {
        fs::read_dir(self.0.directory.join("root/removed")).map_or(0, Iterator::count)
    }
}

#[test]
fn privileged_a_removed_container_comes_back() {
    let Some(kept) = Kept::new("undo") else { return };
    kept.run("volume create named").ok();
    kept.writer("nav", "-v named:/vn -v /va", 3);
    let id = kept.0.field("nav", "{{.Id}}");
    let done = kept.run("rm -v nav");
    assert!(done.err.contains("nav: 3.146MB (/work 3.146MB) that it had written can come back"), "{done:?}");
    assert!(done.err.contains("for 24 hours: `robot-env undo nav`"), "{done:?}");
    for (line, want) in [("ps -aq", ""), ("volume ls -q", "named")] {
        assert_eq!(kept.run(line).ok(), want, "{line}");
    }
    assert_eq!(kept.run("inspect nav").code, 1);
    let listed = kept.run("undo --list").ok();
    assert!(
        listed.lines().any(|l| l.starts_with("nav ") && l.contains("3.146MB (/work 3.146MB)")),
        "{listed}"
    );
    assert_eq!(kept.run("undo -l --format {{.Kind}}").ok().lines().count(), 2, "the anonymous volume, too");
    // Its image may go, and whoever sweeps leaves it alone.
    kept.run("tag busybox other").ok();
    kept.run("system prune -f").ok();
    assert_eq!(kept.run("undo").ok().lines().next(), Some("nav"));
    assert_eq!(kept.0.field("nav", "{{.Id}}"), id);
    assert_eq!(kept.entries(), 0);
    assert_eq!(kept.run("volume ls -q").ok().lines().count(), 2);
    kept.run("start nav").ok();
    kept.0.await_field("nav", "{{.State.Status}}", "exited");
    assert!(kept.run("diff nav").ok().contains("A /work/map"));
    let shown = kept.0.command(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--volumes-from",
        "nav",
        "busybox",
        "sh",
        "-c",
        "cat /v*/note",
    ]);
    assert_eq!(shown.run().ok(), "kept\nkept");

    // A new one has its name.
    kept.run("rm -v nav").ok();
    kept.run("create --name nav --network none busybox").ok();
    let done = kept.run("undo nav");
    assert!(done.err.contains("nav is back as nav-1: its name is taken"), "{done:?}");
    assert_eq!(kept.0.field("nav-1", "{{.Id}}"), id);
    // By id; and one that still has its name.
    kept.run("rm nav-1").ok();
    assert_eq!(kept.run(&format!("undo {}", &id[..8])).ok(), "nav-1");

    // Nothing is kept of what had written nothing, or removes itself.
    kept.run("rm nav").ok();
    kept.run("run -d --rm --name own --network none busybox sh -c >/x;sleep(1000)").out.clear();
    assert_eq!(kept.entries(), 0);
    for (line, want) in [
        ("undo", "there is nothing to bring back"),
        ("undo nope", "nothing of that name is kept"),
        ("undo --list --discard", "cannot be used with"),
        ("undo --list nav", "cannot be used with"),
        ("undo --format json", "--list"),
    ] {
        let done = kept.run(line);
        assert!(done.code != 0 && done.err.contains(want), "{line}: {done:?}");
    }
}

#[test]
fn privileged_an_image_may_go_before_its_container_comes_back() {
    let Some(kept) = Kept::new("undo-image") else { return };
    kept.writer("nav", "", 1);
    kept.run("rm nav").ok();
    kept.run("system prune -af").ok();
    assert_eq!(kept.run("images -q").ok(), "");
    kept.run("undo nav").ok();
    kept.run("start nav").ok();
    kept.0.await_field("nav", "{{.State.Status}}", "exited");
    assert_eq!(kept.0.field("nav", "{{.State.ExitCode}}"), "0");
    assert_eq!(kept.run("system fsck").code, 0);
}

#[test]
fn privileged_what_was_pruned_comes_back() {
    let Some(kept) = Kept::new("undo-prune") else { return };
    for (name, megabytes) in [("one", 2), ("two", 3)] {
        kept.writer(name, "", megabytes);
    }
    let asked = kept.0.command(&["container", "prune"]).feed(b"n\n");
    assert!(asked.out.contains("  two has written 3.146MB (/work 3.146MB)\n"), "{asked:?}");
    assert_eq!(kept.run("ps -aq").ok().lines().count(), 2);
    let done = kept.run("container prune -f");
    assert!(done.out.contains("Total reclaimed space: 5.243MB"), "{done:?}");
    assert!(done.err.contains("5.243MB of it can come back for 24 hours: `robot-env undo`"), "{done:?}");
    assert_eq!(kept.run("undo").ok().lines().count(), 2);
    assert_eq!(kept.run("ps -aq").ok().lines().count(), 2);
    kept.run("rm one two").ok();

    kept.run("volume create data").ok();
    kept.run("run --rm --network none -v data:/d busybox dd if=/dev/zero of=/d/bag bs=1M count=2").ok();
    let asked = kept.0.command(&["volume", "prune", "-a"]).feed(b"n\n");
    assert!(asked.out.contains("  data has 2.097MB\n"), "{asked:?}");
    for line in ["volume rm data", "volume prune -af"] {
        kept.run(line).ok();
        assert_eq!(kept.run("volume ls -q").ok(), "");
        assert_eq!(kept.run("undo data").ok(), "data");
        kept.run("run --rm --network none -v data:/d busybox ls /d/bag").ok();
    }
    kept.run("volume rm data").ok();
    kept.run("volume create data").ok();
    let done = kept.run("undo data");
    assert!(done.code == 1 && done.err.contains("there is a new one of that name"), "{done:?}");

    // Let go by hand: nothing is left of anything.
    let done = kept.run("undo --discard one");
    assert!(done.err.contains("2.097MB are free now"), "{done:?}");
    kept.run("undo --discard").ok();
    assert_eq!(kept.entries(), 0);
    kept.0.assert_empty();
}

/// The image `busybox` with a file of that name in a layer of its own.
fn image(kept: &Kept, name: &str) -> String {
    let script = format!("dd if=/dev/urandom of=/{name} bs=1M count=2 2>/dev/null");
    kept.0
        .command(&["run", "--name", "maker", "--network", "none", "busybox", "sh", "-c", &script])
        .run()
        .ok();
    let id = kept.run(&format!("commit maker {name}")).ok();
    kept.run("rm maker").ok();
    kept.run("undo --discard maker");
    id
}

#[test]
fn privileged_a_removed_image_comes_back() {
    let Some(kept) = Kept::new("undo-rmi") else { return };
    let id = image(&kept, "map");
    kept.run("tag map robot:1").ok();
    let layers = || fs::read_dir(kept.0.directory.join("root/layers")).unwrap().count();
    let before = layers();
    let starts = |name: &str| kept.run(&format!("run --rm --network none {name} ls /map")).code == 0;
    // Names one by one; all come back, and it is what it was.
    let done = kept.run("rmi map robot:1");
    assert!(done.err.contains("2.097MB can come back for 24 hours: `robot-env undo`"), "{done:?}");
    let out = done.ok();
    let digits = id.strip_prefix("sha256:").unwrap();
    assert!(out.starts_with("Untagged: map:latest\nUntagged: robot:1\n"), "{out}");
    assert!(out.contains(&format!("Deleted: sha256:{digits}\nDeleted: sha256:")), "{out}");
    assert!(!starts("map") && kept.run(&format!("inspect {id}")).code == 1);
    let listed = kept.run("undo --list").ok();
    assert!(listed.lines().any(|l| l.starts_with("map:latest ") && l.contains("2.097MB")), "{listed}");
    // Whoever sweeps leaves it alone, and it is nothing that `prune` could free.
    kept.run("system prune -f").ok();
    assert!(!kept.run("system df -v").ok().contains("map"));
    assert_eq!(kept.run("undo").ok(), "map:latest");
    assert!(starts("map") && starts("robot:1") && layers() == before);
    assert_eq!(kept.run("image inspect -f {{.Id}} robot:1").ok(), id);
    assert_eq!((kept.entries(), kept.run("system fsck").code), (0, 0));

    // By its other name, and by its id; a name that is taken meanwhile stays taken.
    kept.run("rmi -f map robot:1").ok();
    kept.run("tag busybox map").ok();
    let done = kept.run("undo robot:1");
    assert!(done.err.contains("map:latest is back as robot:1: its name is taken"), "{done:?}");
    assert!(!starts("map") && starts("robot:1"));
    kept.run("rmi robot:1").ok();
    assert_eq!(kept.run(&format!("undo {}", &digits[..12])).ok(), "robot:1");

    // Pruned with others; a container's image and a container come back together.
    kept.writer("nav2", "", 1);
    let done = kept.run("system prune -af");
    assert!(done.out.contains("untagged: robot:1") && done.out.contains("deleted: sha256:"), "{done:?}");
    assert_eq!(kept.run("images -q").ok(), "");
    let back = kept.run("undo").ok();
    assert!(["robot:1", "busybox:latest", "nav2"].iter().all(|name| back.contains(name)), "{back}");
    assert!(starts("robot:1"));
    assert_eq!(kept.run("start nav2").code, 0);
    kept.run("rm -f nav2").ok();

    // Let go, its layer goes at once.
    kept.run("rmi robot:1").ok();
    assert_eq!(layers(), before);
    let done = kept.run("undo --discard robot:1");
    assert!(done.err.contains("2.097MB are free now"), "{done:?}");
    assert_eq!((layers(), kept.run("undo robot:1").code), (before - 1, 1));
}

#[test]
fn privileged_images_are_kept_for_their_time_and_not_on_a_full_disk() {
    let Some(kept) = Kept::new("undo-rmi-time") else { return };
    let layers = || fs::read_dir(kept.0.directory.join("root/layers")).unwrap().count();
    let before = layers();
    image(&kept, "map");
    kept.time("1s");
    kept.run("rmi map").ok();
    assert_eq!((layers(), kept.entries()), (before + 1, 1));
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert_eq!(kept.run("undo map").code, 1);
    assert_eq!((layers(), kept.entries()), (before, 0));
    kept.time("0");
    image(&kept, "map");
    let done = kept.run("rmi map");
    assert!(!done.err.contains("come back"), "{done:?}");
    assert_eq!((layers(), kept.entries()), (before, 0));

    kept.time("24h");
    let done = small_disk(
        &kept,
        "for image in one:22 two:36; do
            fill maker ${image#*:}; $RE --root $ROOT/r commit maker ${image%:*}:1 >/dev/null
            $RE --root $ROOT/r rm maker >/dev/null; $RE --root $ROOT/r rmi ${image%:*}:1 >/dev/null
        done",
    );
    assert_eq!(done.out, "two:1\nend\ntwo:1\n", "{done:?}");
}

#[test]
fn privileged_a_project_that_is_taken_down_comes_back() {
    let Some(kept) = Kept::new("undo-project") else { return };
    let project = kept.0.directory.join("ws");
    fs::create_dir(&project).unwrap();
    fs::write(project.join("robot-env.toml"), "image = \"busybox\"\nname = \"ws\"\nnetwork = \"none\"\n")
        .unwrap();
    let run = |args: &[&str]| kept.0.command(args).directory(&project).run();
    run(&["up", "-d"]).ok();
    run(&["enter", "dd", "if=/dev/zero", "of=/map", "bs=1M", "count=2"]).ok();
    let done = run(&["down", "--rm"]);
    assert!(done.err.contains("that it had written can come back for 24 hours: `robot-env undo"), "{done:?}");
    run(&["undo"]).ok();
    run(&["up", "-d"]).ok();
    run(&["enter", "ls", "/map"]).ok();
    run(&["down"]).ok();
}

#[test]
fn privileged_time_and_a_full_disk_make_an_end() {
    let Some(kept) = Kept::new("undo-time") else { return };
    kept.time("1s");
    kept.writer("nav", "", 1);
    kept.run("rm nav").ok();
    assert_eq!(kept.entries(), 1);
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert_eq!(kept.run("undo nav").code, 1);
    assert_eq!(kept.entries(), 0);
    kept.0.assert_empty();
    kept.time("0");
    kept.writer("nav", "", 1);
    let done = kept.run("rm nav");
    assert!(done.err.contains("are gone (`rm --keep IMAGE` saves them)"), "{done:?}");
    // Its monitor may have written its last word while it went.
    kept.run("container prune -f").ok();
    kept.0.assert_empty();
    kept.time("soon");
    let done = kept.run("ps");
    assert!(done.err.contains("config.toml:1:13: `undo-time` must be 0 or a time like"), "{done:?}");

    // A file system of 64 MiB: less than a tenth is free when the second one has gone, too.
    kept.time("24h");
    let done =
        small_disk(&kept, "fill one 22; $RE --root $ROOT/r rm one; fill two 36; $RE --root $ROOT/r rm two");
    assert_eq!(done.out, "one\ntwo\ntwo\nend\ntwo\n", "{done:?}");
}

/// Runs a script on a file system of 64 MiB, in which `fill NAME MEGABYTES` makes a container that has
/// written so much; then says what can come back, and lets it go.
fn small_disk(kept: &Kept, script: &str) -> Done {
    let script = format!(
        "mount -t tmpfs -o size=64m tmpfs $ROOT && set -e
        $RE --root $ROOT/r import -c 'ENV PATH=/bin' - busybox <$TAR >/dev/null
        fill() {{ $RE --root $ROOT/r run --name $1 --network none busybox dd if=/dev/zero of=/big bs=1M count=$2 2>/dev/null; }}
        {script}
        $RE --root $ROOT/r undo -l --format {{{{.Name}}}}; echo end
        $RE --root $ROOT/r undo --discard 2>/dev/null"
    );
    let tar = kept.0.directory.join("busybox.tar");
    kept.run("create --name box --network none busybox").ok();
    kept.run(&format!("export -o {} box", tar.display())).ok();
    let root = kept.0.directory.join("small");
    fs::create_dir(&root).unwrap();
    let mut call = Call(Command::new("unshare"));
    call.0.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    let engine = format!(
        "{} --run-root {}",
        env!("CARGO_BIN_EXE_robot-env"),
        kept.0.directory.join("run-small").display()
    );
    let config = kept.0.directory.join("config");
    call.env("RE", &engine)
        .env("ROOT", root.to_str().unwrap())
        .env("TAR", tar.to_str().unwrap())
        .env("XDG_CONFIG_HOME", config.to_str().unwrap())
        .run()
}
