//! load, save, import, rmi and image prune by the command line.

mod place;

use std::fs::{self, File};
use std::process::Stdio;

use place::{Call, Done, Place};
use robot_env_testkit::registry::{Effect, Fault, TestRegistry};

/// Runs `call` with `path` as its standard input.
fn with_input(mut call: Call, path: &std::path::Path) -> Done {
    call.0.stdin(Stdio::from(File::open(path).unwrap()));
    call.run()
}

fn images(place: &Place) -> Vec<String> {
    let list = place.command(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).run().ok();
    let mut names: Vec<String> = list.lines().map(str::to_owned).collect();
    names.retain(|name| name.starts_with("busybox") || name.contains("none"));
    names.sort();
    names
}

/// An image with the one name `busybox:latest`; its id.
fn only_name(place: &Place) -> String {
    let other = place.command(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).run().ok();
    for name in other.lines().filter(|name| !name.starts_with("busybox")) {
        place.command(&["rmi", name]).run().ok();
    }
    place.command(&["image", "inspect", "-f", "{{.Id}}", "busybox"]).run().ok()
}

#[test]
fn privileged_save_and_load_by_file_and_pipe() {
    let Some(place) = Place::new("images") else { return };
    let id = only_name(&place);
    place.run("tag busybox busybox:two").ok();
    let file = place.directory.join("saved.tar");
    let path = file.to_str().unwrap();
    assert_eq!(place.command(&["save", "-o", path, "busybox"]).run().ok(), "");
    let streamed = place.directory.join("streamed.tar");
    let mut call = place.command(&["image", "save", "busybox:latest", "busybox:two"]);
    call.0.stdout(Stdio::from(File::create(&streamed).unwrap()));
    call.run().ok();
    assert!(fs::read(&file).unwrap() == fs::read(&streamed).unwrap());

    let first = place.run("rmi busybox").ok();
    assert_eq!(first, "Untagged: busybox:latest");
    let second = place.run("rmi busybox:two").ok();
    let lines: Vec<&str> = second.lines().collect();
    assert_eq!(lines[..2], ["Untagged: busybox:two", &format!("Deleted: {id}")]);
    assert!(
        lines.len() > 2 && lines[2..].iter().all(|line| line.starts_with("Deleted: sha256:")),
        "{lines:?}"
    );
    assert!(images(&place).is_empty());

    for load in [
        place.command(&["load", "-i", path]).run(),
        with_input(place.command(&["load"]), &file),
        with_input(place.command(&["image", "load", "-q"]), &file),
    ] {
        assert_eq!(load.ok(), "Loaded image: busybox:latest\nLoaded image: busybox:two");
    }
    assert_eq!(images(&place), ["busybox:latest", "busybox:two"]);
    assert_eq!(place.command(&["image", "inspect", "-f", "{{.Id}}", "busybox:two"]).run().ok(), id);
    assert_eq!(place.script("", "echo works").ok(), "works");

    // A name that moves is told of, and one that is missing stops everything.
    place.run("rmi busybox:two").ok();
    place.run("import - busybox:latest").err_is("cannot read the tar entry");
    place.run("save -o x nothing").err_is("No such image: nothing:latest");
    assert!(!place.directory.join("x").exists());
    place.command(&["load", "-i", "/no/such/file"]).run().err_is("cannot open archive `/no/such/file`");
    place.command(&["load", "-i", "/bin/busybox"]).run().err_is("cannot load the archive");
}

#[test]
fn privileged_images_in_use_stay() {
    let Some(place) = Place::new("rmi") else { return };
    let id = only_name(&place);
    let short = &id["sha256:".len()..][..12];
    let container = place.sleeper("--name user");
    let user = &container[..12];
    for (line, want) in [
        (
            "rmi busybox".to_owned(),
            format!(
                "conflict: unable to remove repository reference \"busybox\" (must force) - container {user} is using its referenced image {short}"
            ),
        ),
        (
            format!("rmi -f {short}"),
            format!(
                "conflict: unable to delete {short} (cannot be forced) - image is being used by running container {user}"
            ),
        ),
    ] {
        place.run(&line).err_is(&want);
    }
    assert_eq!(place.run("image prune -af").ok(), "Total reclaimed space: 0B");
    place.run("kill user").ok();
    place.await_field("user", "{{.State.Status}}", "exited");
    place.run(&format!("rmi {short}")).err_is(&format!(
        "conflict: unable to delete {short} (must be forced) - image is being used by stopped container {user}"
    ));
    let forced = place.run(&format!("rmi -f {short}")).ok();
    assert_eq!(forced, format!("Untagged: busybox:latest\nDeleted: {id}"));
    // The container has its layers still.
    place.run("start user").ok();
    assert_eq!(place.command(&["exec", "user", "echo", "alive"]).run().ok(), "alive");
    place.run("rm -f user").ok();
    let pruned = place.run("image prune -f").ok();
    assert!(pruned.starts_with("Total reclaimed space: ") && !pruned.ends_with(" 0B"), "{pruned}");
    assert_eq!(fs::read_dir(place.directory.join("root/layers")).unwrap().count(), 0);
    place.run("rmi nothing").err_is("No such image: nothing:latest");
    assert_eq!(place.run("rmi -f nothing").code, 0);
}

#[test]
fn privileged_a_tree_is_imported_runs_and_is_pruned() {
    let Some(place) = Place::new("import") else { return };
    place.run("create --name source busybox").ok();
    let tree = place.directory.join("tree.tar");
    let path = tree.to_str().unwrap();
    place.command(&["export", "-o", path, "source"]).run().ok();
    let import = ["import", "-c", "ENV A=b", "-c", "CMD [\"sh\", \"-c\", \"echo $A\"]", "-m", "mine"];
    let id = with_input(place.command(&[&import[..], &["-", "tree:1"]].concat()), &tree).ok();
    assert!(id.starts_with("sha256:"), "{id}");
    assert_eq!(place.run("run --rm --network none tree:1").ok(), "b");
    let comment = place.command(&["history", "--format", "{{.Comment}}", "tree:1"]).run().ok();
    assert_eq!(comment, "mine");
    place.command(&["import", "-c", "FROM x", path]).run().err_is("invalid change `FROM x`");
    let registry = TestRegistry::start();
    let digest = registry.put_blob("web", &fs::read(&tree).unwrap());
    let address = registry.url();
    let from_web = ["import", &format!("{address}/v2/web/blobs/{digest}"), "web:1"];
    place.command(&from_web).run().ok();
    assert_eq!(place.run("run --rm --network none web:1 echo hi").ok(), "hi");
    let missing = format!("{address}/nothing");
    place.command(&["import", &missing]).run().err_is(&format!("cannot read `{missing}`"));
    registry.fault(Fault::always("/v2/web", Effect::CutAfter(1000)));
    place.command(&from_web).run().err_is("cannot import the image");

    // The same tree again gets the name; the first image has none, and goes.
    let again = place.command(&["import", path, "tree:1"]).run().ok();
    assert_ne!(id, again);
    let pruned = place.run("image prune -f").ok();
    assert!(pruned.contains(&format!("deleted: {id}")) && !pruned.contains(&again), "{pruned}");
    place.run("rm source").ok();
    let pruned = place.run("image prune -a -f").ok();
    assert!(pruned.contains("untagged: tree:1") && pruned.contains("untagged: busybox:latest"), "{pruned}");
    assert_eq!(place.run("images -q").ok(), "");
}

trait Fails {
    /// It failed, with this in its error.
    fn err_is(self, text: &str);
}

impl Fails for Done {
    #[track_caller]
    fn err_is(self, text: &str) {
        assert!(self.code != 0 && self.err.contains(text), "{self:?} has not {text}");
    }
}
