//! Layers on top of others: inheriting, writing, comparing.

mod support;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use robot_env_layer::{
    ApplyOptions, ChangeKind, Overlay, WriteOptions, changes, inherit_directories, usage, write_layer,
};
use support::*;

const OPAQUE: &str = "trusted.overlay.opaque";

fn open(paths: &[PathBuf]) -> Vec<File> {
    paths.iter().map(|path| File::open(path).unwrap()).collect()
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn privileged_implied_directories_get_the_lower_layers_attributes() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let lowers = [scratch.dir("top").0, scratch.dir("bottom").0];
    for dir in ["var/spool/mail", "opaque/inner", "hidden/inner", "file/inner"] {
        std::fs::create_dir_all(lowers[1].join(dir)).unwrap();
        mode(&lowers[1].join(dir), 0o700);
    }
    mode(&lowers[1].join("var/spool"), 0o1777);
    set_xattr(&lowers[1].join("var/spool"), "user.note", b"lower");
    std::os::unix::fs::chown(lowers[1].join("var/spool"), Some(8), Some(9)).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 5);
    File::open(lowers[1].join("var/spool")).unwrap().set_modified(time).unwrap();
    // The upper of the two hides some of it.
    std::fs::create_dir_all(lowers[0].join("var")).unwrap();
    mode(&lowers[0].join("var"), 0o711);
    std::fs::create_dir(lowers[0].join("opaque")).unwrap();
    set_xattr(&lowers[0].join("opaque"), OPAQUE, b"y");
    whiteout(&lowers[0].join("hidden"));
    write(&lowers[0].join("file"), "");
    mode(&lowers[0], 0o750);

    let tar = Tar::default()
        .file("var/spool/mail/box", b"")
        .file("opaque/inner/f", b"")
        .file("hidden/inner/f", b"")
        .file("file/inner/f", b"")
        .file("new/f", b"")
        .end();
    let (root, applied, recipe) = unpack(&scratch, "root", &tar);
    let fds = open(&lowers);
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let options = ApplyOptions::default();
    inherit_directories(File::open(&root).unwrap().as_fd(), &fds, &applied.unwrap().implied, &options)
        .unwrap();
    for (path, expected) in [
        ("", 0o750),
        ("var", 0o711),
        ("var/spool", 0o1777),
        ("var/spool/mail", 0o700),
        ("opaque", 0o755),
        ("opaque/inner", 0o755),
        ("hidden", 0o755),
        ("hidden/inner", 0o755),
        ("file", 0o755),
        ("file/inner", 0o755),
        ("new", 0o755),
    ] {
        assert_eq!(root.join(path).metadata().unwrap().mode() & 0o7777, expected, "{path}");
    }
    let spool = root.join("var/spool").metadata().unwrap();
    assert_eq!((spool.uid(), spool.gid(), spool.mtime(), spool.mtime_nsec()), (8, 9, 1_000_000_000, 5));
    assert_eq!(get_xattr(&root.join("var/spool"), "user.note").unwrap(), b"lower");
    assert!(assembled(&recipe, &root) == tar);
}

#[test]
fn privileged_an_implied_directory_over_a_symlink_moves_to_its_target() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let lowers = [scratch.dir("lower").0];
    std::fs::create_dir_all(lowers[0].join("usr/bin")).unwrap();
    mode(&lowers[0].join("usr/bin"), 0o711);
    std::fs::create_dir_all(lowers[0].join("outside")).unwrap();
    for (link, target) in [
        ("bin", "usr/bin"),
        ("sbin", "/alias"),
        ("alias", "usr/../usr/bin/"),
        ("loop", "loop2"),
        ("loop2", "loop"),
        ("self", "self/x"),
        ("dangling", "nowhere"),
        ("escape", "../../../../outside"),
        ("kept", "usr/bin"),
    ] {
        symlink(target, lowers[0].join(link)).unwrap();
    }
    let tar = Tar::default()
        .file("bin/ls", b"ls")
        .file("bin/sub/x", b"x")
        .file("usr/bin/cat", b"cat")
        .file("bin/cat", b"cat")
        .file("sbin/init", b"init")
        .file("loop/f", b"1")
        .file("self/f", b"2")
        .file("dangling/f", b"3")
        .file("escape/f", b"4")
        .dir("kept/")
        .file("kept/f", b"5")
        .end();
    let (root, applied, recipe) = unpack(&scratch, "root", &tar);
    let fds = open(&lowers);
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let options = ApplyOptions::default();
    inherit_directories(File::open(&root).unwrap().as_fd(), &fds, &applied.unwrap().implied, &options)
        .unwrap();
    assert_eq!(
        lines(&tree(&root)),
        [
            "alias: -> usr/../usr/bin/",
            "bin: -> usr/bin",
            "dangling: dir 755",
            "dangling/f: file 644 3",
            "escape: -> ../../../../outside",
            "kept: dir 755",
            "kept/f: file 644 5",
            "loop: dir 755",
            "loop/f: file 644 1",
            "outside: dir 755",
            "outside/f: file 644 4",
            "sbin: -> /alias",
            "self: dir 755",
            "self/f: file 644 2",
            "usr: dir 755",
            "usr/bin: dir 711",
            "usr/bin/cat: file 644 cat",
            "usr/bin/init: file 644 init",
            "usr/bin/ls: file 644 ls",
            "usr/bin/sub: dir 755",
            "usr/bin/sub/x: file 644 x",
        ]
    );
    assert!(assembled(&recipe, &root) == tar, "the recipe finds the files where they went");
}

#[test]
fn privileged_a_layer_that_is_opaque_as_a_whole_hides_everything() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let lowers = [scratch.dir("lower").0];
    write(&lowers[0].join("etc/old"), "");
    write(&lowers[0].join("usr/old"), "");
    let tar = Tar::default().file(".wh..wh..opq", b"").file("etc/new", b"").end();
    let (root, applied, _) = unpack(&scratch, "root", &tar);
    let fds = open(&lowers);
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let fd = File::open(&root).unwrap();
    inherit_directories(fd.as_fd(), &fds, &applied.unwrap().implied, &ApplyOptions::default()).unwrap();
    assert_eq!(lines(&tree(&root)), ["etc: dir 755", "etc/new: file 644 ", "usr: node 20000 0"]);
    assert!(get_xattr(&root.join("etc"), OPAQUE).is_some());
}

/// A lower layer, and an upper directory with every kind of change.
fn upper_over_lower(scratch: &Scratch) -> (PathBuf, PathBuf) {
    let (lower, _) = scratch.dir("lower");
    for file in [
        "etc/same",
        "etc/edited",
        "etc/removed",
        "replaced/a",
        "replaced/b",
        "gone/x",
        "untouched/x",
        "was-file",
    ] {
        write(&lower.join(file), "lower");
    }
    std::fs::create_dir_all(lower.join("touched/inner")).unwrap();
    let (upper, _) = scratch.dir("upper");
    write(&upper.join("etc/edited"), "upper");
    write(&upper.join("etc/new"), "upper");
    whiteout(&upper.join("etc/removed"));
    whiteout(&upper.join("gone"));
    whiteout(&upper.join("never-was"));
    write(&upper.join("replaced/a"), "upper");
    write(&upper.join("replaced/c"), "upper");
    set_xattr(&upper.join("replaced"), OPAQUE, b"y");
    write(&upper.join("fresh/x"), "upper");
    // overlay marks new directories too.
    set_xattr(&upper.join("fresh"), OPAQUE, b"y");
    set_xattr(&upper.join("fresh/x"), "trusted.overlay.origin", b"internal");
    set_xattr(&upper.join("fresh/x"), "user.note", b"mine");
    std::fs::create_dir(upper.join("was-file")).unwrap();
    symlink("x", upper.join("fresh/link")).unwrap();
    std::fs::hard_link(upper.join("fresh/x"), upper.join("fresh/y")).unwrap();
    std::fs::create_dir_all(upper.join("touched/inner")).unwrap();
    for dir in ["touched", "touched/inner"] {
        let time = lower.join(dir).metadata().unwrap().modified().unwrap();
        File::open(upper.join(dir)).unwrap().set_modified(time).unwrap();
    }
    write(&upper.join(".wh.odd"), "");
    drop(std::os::unix::net::UnixListener::bind(upper.join("socket")).unwrap());
    (lower, upper)
}

#[test]
fn privileged_changes_are_listed_as_docker_does() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let (lower, upper) = upper_over_lower(&scratch);
    std::fs::remove_file(upper.join("socket")).unwrap();
    std::fs::remove_file(upper.join(".wh.odd")).unwrap();
    let (lower, upper) = (File::open(lower).unwrap(), File::open(upper).unwrap());
    let list = changes(upper.as_fd(), &[lower.as_fd()], Overlay::Trusted).unwrap();
    let text: Vec<String> = list
        .iter()
        .map(|change| {
            let kind = match change.kind {
                ChangeKind::Added => 'A',
                ChangeKind::Changed => 'C',
                ChangeKind::Deleted => 'D',
            };
            format!("{kind} {}", String::from_utf8_lossy(&change.path))
        })
        .collect();
    assert_eq!(
        text,
        [
            "C /etc",
            "C /etc/edited",
            "A /etc/new",
            "D /etc/removed",
            "A /fresh",
            "A /fresh/link",
            "A /fresh/x",
            "A /fresh/y",
            "D /gone",
            "C /replaced",
            "C /replaced/a",
            "D /replaced/b",
            "A /replaced/c",
            "C /was-file",
        ]
    );
}

#[test]
fn privileged_an_upper_directory_becomes_a_layer_and_back() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let (lower, upper) = upper_over_lower(&scratch);
    std::os::unix::fs::chown(upper.join("fresh/x"), Some(3_000_000), Some(4)).unwrap();
    let sparse = File::create(upper.join("fresh/sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    let (lower_fd, upper_fd) = (File::open(&lower).unwrap(), File::open(&upper).unwrap());
    let (mut tar, mut recipe, mut second) = (Vec::new(), Vec::new(), Vec::new());
    let options = WriteOptions::default();
    let written =
        write_layer(upper_fd.as_fd(), &[lower_fd.as_fd()], &mut tar, Some(&mut recipe), &options).unwrap();
    write_layer(upper_fd.as_fd(), &[lower_fd.as_fd()], &mut second, None, &options).unwrap();
    assert!(tar == second, "the same tree gives the same bytes");
    assert!(tar.len() < 100_000, "the hole was not written");
    assert_eq!(written.tar_size, tar.len() as u64);
    assert_eq!(*written.diff_id.digest(), robot_env_oci::Digest::of(&tar));
    assert_eq!(written.skipped.names, 2, "a socket and a name that would be a whiteout");
    assert!(assembled(&recipe, &upper) == tar);
    let names: Vec<String> = tar::Archive::new(&tar[..])
        .entries()
        .unwrap()
        .map(|entry| String::from_utf8_lossy(&entry.unwrap().path_bytes()).into_owned())
        .collect();
    assert_eq!(
        names,
        [
            "etc/",
            "etc/edited",
            "etc/new",
            "etc/.wh.removed",
            "fresh/",
            "fresh/link",
            "GNUSparseFile.0/sparse",
            "fresh/x",
            "fresh/y",
            ".wh.gone",
            "replaced/",
            "replaced/.wh..wh..opq",
            "replaced/a",
            "replaced/c",
            "touched/",
            "touched/inner/",
            "was-file/",
        ]
    );
    assert_eq!(written.entries, names.len() as u64);

    // Unpacked again it is the same upper directory, less what has no meaning.
    let (again, _) = exact(&scratch, "again", &tar);
    std::fs::remove_file(upper.join("socket")).unwrap();
    std::fs::remove_file(upper.join(".wh.odd")).unwrap();
    std::fs::remove_file(upper.join("never-was")).unwrap();
    std::fs::remove_file(upper.join("fresh/sparse")).unwrap();
    assert_eq!(again.join("fresh/sparse").metadata().unwrap().len(), 1 << 30);
    std::fs::remove_file(again.join("fresh/sparse")).unwrap();
    assert_eq!(tree(&again), tree(&upper));
    let x = again.join("fresh/x").metadata().unwrap();
    assert_eq!((x.uid(), x.gid(), x.nlink()), (3_000_000, 4, 2));
    let original = upper.join("fresh/x").metadata().unwrap();
    assert_eq!((x.mtime(), x.mtime_nsec()), (original.mtime(), original.mtime_nsec()));
    assert_eq!(get_xattr(&again.join("fresh/x"), "user.note").unwrap(), b"mine");
    assert_eq!(get_xattr(&again.join("fresh/x"), "trusted.overlay.origin"), None);
    assert_eq!(get_xattr(&again.join("replaced"), OPAQUE).as_deref(), Some(&b"y"[..]));
    assert_eq!(get_xattr(&again.join("fresh"), OPAQUE), None, "it hides nothing");
}

#[test]
fn hardlinks_count_once() {
    let scratch = Scratch::new();
    let (root, fd) = scratch.dir("root");
    write(&root.join("a"), &"x".repeat(1000));
    std::fs::hard_link(root.join("a"), root.join("b")).unwrap();
    write(&root.join("d/c"), "12345");
    let usage = usage(fd.as_fd()).unwrap();
    assert_eq!((usage.bytes, usage.files), (1005, 3));
    assert!(usage.allocated >= 2 * 4096);
}

#[test]
fn deep_trees_need_few_descriptors() {
    let scratch = Scratch::new();
    let (root, fd) = scratch.dir("root");
    let deep = "d/".repeat(1200);
    std::fs::create_dir_all(root.join(&deep)).unwrap();
    write(&root.join(&deep).join("f"), "1");
    let before = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut tar = Vec::new();
    write_layer(fd.as_fd(), &[], &mut tar, None, &WriteOptions::default()).unwrap();
    assert_eq!(usage(fd.as_fd()).unwrap().files, 1201);
    let (again, _) = exact(&scratch, "again", &tar);
    assert_eq!(std::fs::read(again.join(&deep).join("f")).unwrap(), b"1");
    assert!(std::fs::read_dir("/proc/self/fd").unwrap().count() <= before + 70);
}

/// An overlay that is mounted nowhere: it goes away with its descriptor.
fn overlay(lowers: &[&Path], upper: Option<(&Path, &Path)>) -> std::os::fd::OwnedFd {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    let lowers: Vec<&str> = lowers.iter().map(|path| path.to_str().unwrap()).collect();
    rustix::mount::fsconfig_set_string(&fs, "lowerdir", lowers.join(":")).unwrap();
    if let Some((upper, work)) = upper {
        rustix::mount::fsconfig_set_string(&fs, "upperdir", upper).unwrap();
        rustix::mount::fsconfig_set_string(&fs, "workdir", work).unwrap();
        rustix::mount::fsconfig_set_flag(&fs, "volatile").unwrap();
    }
    rustix::mount::fsconfig_create(&fs).unwrap();
    rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap()
}

fn path_of(fd: &impl std::os::fd::AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}/.", fd.as_raw_fd()).into()
}

#[test]
fn privileged_a_real_overlay_shows_the_committed_layer_as_it_was() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let (lower, lower_fd) = scratch.dir("lower");
    let (empty, _) = scratch.dir("empty");
    let (upper, upper_fd) = scratch.dir("upper");
    let (work, _) = scratch.dir("work");
    for file in ["etc/a", "etc/b", "gone/x", "again/old", "again/both", "moved", "file", "deep/er/x"] {
        write(&lower.join(file), "lower");
    }
    let merged = overlay(&[&lower, &empty], Some((&upper, &work)));
    let at = path_of(&merged);
    std::fs::remove_file(at.join("etc/a")).unwrap();
    std::fs::write(at.join("etc/b"), "edited").unwrap();
    std::fs::remove_dir_all(at.join("gone")).unwrap();
    std::fs::remove_dir_all(at.join("again")).unwrap();
    write(&at.join("again/both"), "new");
    std::fs::rename(at.join("moved"), at.join("renamed")).unwrap();
    std::fs::remove_file(at.join("file")).unwrap();
    write(&at.join("file/now-a-directory"), "x");
    write(&at.join("brand/new"), "x");
    std::fs::hard_link(at.join("brand/new"), at.join("brand/link")).unwrap();
    mode(&at.join("deep/er"), 0o700);
    let expected = tree(&at);
    let list = changes(upper_fd.as_fd(), &[lower_fd.as_fd()], Overlay::Trusted).unwrap();
    drop(merged);

    let mut tar = Vec::new();
    write_layer(upper_fd.as_fd(), &[lower_fd.as_fd()], &mut tar, None, &WriteOptions::default()).unwrap();
    let (layer, applied) = exact(&scratch, "layer", &tar);
    let layer_fd = File::open(&layer).unwrap();
    inherit_directories(layer_fd.as_fd(), &[lower_fd.as_fd()], &applied.implied, &ApplyOptions::default())
        .unwrap();
    let again = overlay(&[&layer, &lower], None);
    assert_eq!(tree(&path_of(&again)), expected);

    let text: Vec<String> = list
        .iter()
        .map(|change| format!("{:?} {}", change.kind, String::from_utf8_lossy(&change.path)))
        .collect();
    assert_eq!(
        text,
        [
            "Changed /again",
            "Changed /again/both",
            "Deleted /again/old",
            "Added /brand",
            "Added /brand/link",
            "Added /brand/new",
            "Changed /deep",
            "Changed /deep/er",
            "Changed /etc",
            "Deleted /etc/a",
            "Changed /etc/b",
            "Changed /file",
            "Added /file/now-a-directory",
            "Deleted /gone",
            "Deleted /moved",
            "Added /renamed",
        ]
    );
}
