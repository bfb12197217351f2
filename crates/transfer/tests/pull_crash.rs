//! Pulls that are killed at every step of the store, and pulls by an ordinary user: the test
//! program runs itself again as another process.
#![allow(clippy::print_stderr)] // a test that is skipped says why

mod setup;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use robot_env_diag::Kind;
use robot_env_layer::Ownership;
use robot_env_oci::Reference;
use robot_env_registry::Client;
use robot_env_store::{CollectOptions, FAILPOINTS, FsckOptions, OverlayXattr, Store, StoreOptions};
use robot_env_testkit::image::{Entry, ImageBuilder, small};
use robot_env_testkit::registry::TestRegistry;
use robot_env_testkit::temporary::TemporaryDirectory;
use robot_env_transfer::{PullOptions, ownership, pull};
use setup::*;

const ROOT: &str = "RE_TRANSFER_ROOT";
const NAME: &str = "RE_TRANSFER_NAME";

fn open_as(root: &Path, overlay_xattr: OverlayXattr) -> Store {
    Store::open(&StoreOptions { root: root.to_owned(), overlay_xattr, create: true }).unwrap()
}

/// In a user namespace its own attributes, else what the other tests have.
fn overlay_here() -> OverlayXattr {
    if is_root() && ownership() == Ownership::Keep { OverlayXattr::Trusted } else { OverlayXattr::User }
}

/// Not a test of its own: what the other process does.
#[test]
fn other_process() {
    let (Some(root), Ok(name)) = (std::env::var_os(ROOT), std::env::var(NAME)) else { return };
    let store = open_as(&PathBuf::from(root), overlay_here());
    let options = PullOptions { platform: None, ownership: ownership() };
    pull(&store, &Client::new(setup::options()), &name.parse().unwrap(), &options, &()).unwrap();
}

fn pull_elsewhere(root: &Path, name: &str, failpoint: Option<&str>) -> ExitStatus {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "other_process", "--nocapture"]);
    command.env(ROOT, root).env(NAME, name).env_remove("REFAIL");
    if let Some(failpoint) = failpoint {
        command.env("REFAIL", failpoint);
    }
    let output = command.output().unwrap();
    if failpoint.is_none() && !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    }
    output.status
}

#[test]
fn a_pull_that_is_killed_leaves_the_old_or_the_new() {
    let registry = TestRegistry::start();
    let base = ImageBuilder::new().layer(&[Entry::file("base", "b"), Entry::file("other", "o")]);
    let (old, new) = (base.clone().build(), base.layer(&[Entry::file("new", "n")]).build());
    let name = registry.name("robot:1");
    let reference: Reference = name.parse().unwrap();
    let mut died = 0;
    let on_the_way = ["store.record", "store.stage", "store.commit", "store.image", "store.tag"];
    for failpoint in FAILPOINTS.iter().filter(|name| on_the_way.iter().any(|part| name.starts_with(part))) {
        let directory = TemporaryDirectory::new("pull-crash");
        let root = directory.join("store");
        registry.put_image("robot", "1", &old);
        assert!(pull_elsewhere(&root, &name, None).success());
        registry.put_image("robot", "1", &new);
        let status = pull_elsewhere(&root, &name, Some(failpoint));
        died += usize::from(!status.success());

        let store = open(&root);
        let shown = store.name(&reference).unwrap().unwrap().image;
        assert!(*shown.digest() == old.id() || *shown.digest() == new.id(), "{failpoint}");
        let whole = |store: &Store| {
            let damage = store.fsck(FsckOptions::default()).unwrap();
            assert!(damage.is_empty(), "{failpoint}: {damage:?}");
            for chain in store.config(&shown).unwrap().value().chain().links() {
                assert!(store.layer(&chain.1).unwrap().is_some(), "{failpoint}");
            }
        };
        whole(&store);
        store.collect(&CollectOptions::default()).unwrap();
        whole(&store);
        for left in ["staging", "leases"] {
            assert_eq!(std::fs::read_dir(root.join(left)).unwrap().count(), 0, "{failpoint}: {left}");
        }
        drop(store);
        assert!(pull_elsewhere(&root, &name, None).success(), "{failpoint}");
        let store = open(&root);
        assert_eq!(*store.name(&reference).unwrap().unwrap().image.digest(), new.id(), "{failpoint}");
    }
    assert_eq!(died, 11, "all places were come to");
}

#[test]
fn privileged_an_ordinary_user_pulls_too() {
    if !is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let registry = TestRegistry::start();
    let image = ImageBuilder::new()
        .layer(&[
            Entry::directory("etc/").owner(0, 0),
            Entry::file("etc/shadow", "x").owner(0, 42).mode(0o640),
            Entry::file("etc/gone", "x"),
            Entry::directory("home/").mode(0o555),
            Entry::file("home/file", "f").owner(1000, 1000),
        ])
        .layer(&[Entry::whiteout("etc/gone"), Entry::file("home/more", "m")])
        .build();
    registry.put_image("robot", "1", &image);
    let directory = TemporaryDirectory::new("pull-user");
    std::os::unix::fs::chown(directory.path(), Some(12345), Some(12345)).unwrap();
    let root = directory.join("store");
    // As commands of an ordinary user do it: in a user namespace, here with a single id.
    let user = "setpriv --reuid 12345 --regid 12345 --clear-groups -- unshare --user --map-root-user --";
    let user: Vec<&str> = user.split(' ').collect();
    // The test program itself must be in reach of that user.
    let program = directory.join("program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = Command::new(user[0])
        .args(&user[1..])
        .arg(&program)
        .args(["--exact", "other_process", "--nocapture"])
        .env(ROOT, &root)
        .env(NAME, registry.name("robot:1"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let store = open_as(&root, OverlayXattr::User);
    let image = store.resolve(&registry.name("robot:1")).unwrap();
    let shadow = root.join("layers").join(image.layers[0].hex()).join("fs/etc/shadow");
    assert_eq!(std::fs::metadata(shadow).unwrap().uid(), 12345);
    let top = root.join("layers").join(image.layers[1].hex()).join("fs");
    let hidden = std::fs::symlink_metadata(top.join("etc/gone")).unwrap();
    assert_eq!((hidden.rdev(), hidden.mode() & 0o170_000), (0, 0o020_000));
    assert_eq!(std::fs::metadata(top.join("home")).unwrap().mode() & 0o7777, 0o555);
    // Its own tars come back out of it, owners and all.
    for (chain, layer) in image.layers.iter().zip(&image_layers(&registry)) {
        let mut tar = Vec::new();
        let tree = store.layer_dir(chain).unwrap();
        let recipe = store.open_recipe(chain).unwrap().unwrap();
        robot_env_layer::assemble(recipe, std::os::fd::AsFd::as_fd(&tree), &mut tar).unwrap();
        assert_eq!(robot_env_oci::Digest::of(&tar), *layer);
    }
}

/// The diff ids of `robot:1`.
fn image_layers(registry: &TestRegistry) -> Vec<robot_env_oci::Digest> {
    let client = Client::new(setup::options());
    let reference = registry.name("robot:1").parse().unwrap();
    let image = client.image(&reference, None).unwrap();
    image.config.value().rootfs.diff_ids.iter().map(|diff_id| diff_id.digest().clone()).collect()
}

#[test]
fn a_registry_that_is_not_there_is_named() {
    let setup = Setup::new("pull-dead");
    let host = {
        let gone = TestRegistry::start();
        gone.put_image("r", "latest", &small());
        gone.host()
    };
    let reference: Reference = format!("{host}/r").parse().unwrap();
    let error = pull(&setup.store, &setup.client, &reference, &pull_options(), &()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    assert!(text(&error).contains(&host), "{error:?}");
    setup.assert_nothing_visible();
}
