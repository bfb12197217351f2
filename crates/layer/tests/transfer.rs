//! Plain tars out of a tree and into one in use.

mod support;

use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};

use robot_env_diag::Kind;
use robot_env_layer::{ApplyOptions, ExportOptions, ExtractOptions, ExtractOwner, export, extract};
use support::*;

fn names(tar: &[u8]) -> Vec<String> {
    tar::Archive::new(tar)
        .entries()
        .unwrap()
        .map(|entry| String::from_utf8_lossy(&entry.unwrap().path_bytes()).into_owned())
        .collect()
}

fn own() -> ExtractOptions {
    ExtractOptions { owner: ExtractOwner::Caller, ..ExtractOptions::default() }
}

#[test]
fn exports_under_the_name_that_is_asked_for() {
    let scratch = Scratch::new();
    let (root, fd) = scratch.dir("root");
    write(&root.join("d/f"), "1");
    write(&root.join("d/.wh.kept"), "2");
    symlink("/etc", root.join("link")).unwrap();
    for (entry, prefix, expected) in [
        (None, "", &["d/", "d/.wh.kept", "d/f", "link"][..]),
        (None, "new", &["new/", "new/d/", "new/d/.wh.kept", "new/d/f", "new/link"]),
        (Some("d"), "", &["d/", "d/.wh.kept", "d/f"]),
        (Some("d"), "e", &["e/", "e/.wh.kept", "e/f"]),
        (Some("link"), "", &["link"]),
    ] {
        let options = ExportOptions {
            entry: entry.map(|e: &str| e.as_bytes().to_vec()),
            prefix: prefix.as_bytes().to_vec(),
        };
        let mut tar = Vec::new();
        let exported = export(fd.as_fd(), &mut tar, &options).unwrap();
        assert_eq!(names(&tar), expected);
        assert_eq!((exported.tar_size, exported.entries), (tar.len() as u64, expected.len() as u64));
        let (into, into_fd) = scratch.dir(&format!("into-{entry:?}-{prefix}"));
        extract(&tar[..], into_fd.as_fd(), &own()).unwrap();
        let mut seen: Vec<String> = tree(&into).into_keys().collect();
        let mut wanted: Vec<String> =
            expected.iter().map(|name| name.trim_end_matches('/').to_owned()).collect();
        seen.sort();
        wanted.sort();
        assert_eq!(seen, wanted);
    }
    let missing = ExportOptions { entry: Some(b"missing".to_vec()), prefix: Vec::new() };
    assert_eq!(export(fd.as_fd(), &mut Vec::new(), &missing).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn extracts_over_what_is_there() {
    let scratch = Scratch::new();
    let (root, fd) = scratch.dir("root");
    write(&root.join("d/kept"), "kept");
    write(&root.join("d/f"), "old");
    std::fs::hard_link(root.join("d/f"), root.join("other")).unwrap();
    symlink("d", root.join("inside")).unwrap();
    let tar = Tar::default()
        .dir("d/")
        .file("d/f", b"new")
        .file("inside/g", b"through a link that stays inside")
        .file("missing/parents/h", b"h")
        .hardlink("d/link", "d/f")
        .end();
    let extracted = extract(&tar[..], fd.as_fd(), &own()).unwrap();
    assert_eq!((extracted.entries, extracted.content_size), (5, 36));
    let seen = tree(&root);
    assert_eq!(seen["d/f"], "file 644 new");
    assert_eq!(seen["d/kept"], "file 644 kept");
    assert_eq!(seen["other"], "file 644 old", "never written through");
    assert_eq!(seen["missing/parents/h"], "file 644 h");
    assert!(seen["d/g"].ends_with("inside"));
    assert_eq!(root.join("d/link").metadata().unwrap().nlink(), 2);
    assert_eq!(root.join("d").metadata().unwrap().mtime(), 1_700_000_000);
}

#[test]
fn a_directory_replaces_something_else_only_when_told() {
    for (index, tar) in
        [Tar::default().file("d", b"x"), Tar::default().dir("f/"), Tar::default().symlink("d", "f")]
            .into_iter()
            .enumerate()
    {
        let scratch = Scratch::new();
        let (root, fd) = scratch.dir("root");
        write(&root.join("d/inner"), "1");
        write(&root.join("f"), "1");
        let before = tree(&root);
        let tar = tar.end();
        let error = extract(&tar[..], fd.as_fd(), &own()).unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict, "{index}");
        assert_eq!(tree(&root), before);
        extract(&tar[..], fd.as_fd(), &ExtractOptions { overwrite_dir_non_dir: true, ..own() }).unwrap();
        assert_ne!(tree(&root), before);
    }
}

#[test]
fn nothing_leads_out_of_the_destination() {
    let scratch = Scratch::new();
    let (outside, _) = scratch.dir("outside");
    write(&outside.join("victim"), "untouched");
    let absolute = outside.to_str().unwrap().to_owned();
    for (index, tar) in [
        Tar::default().file("../outside/victim", b"evil"),
        Tar::default().file("abs/victim", b"evil"),
        Tar::default().file("rel/victim", b"evil"),
        Tar::default().dir("rel/new/"),
        Tar::default().file("rel/a/b", b"evil"),
        Tar::default().symlink("s", "../outside").file("s/victim", b"evil"),
        Tar::default().hardlink("h", "rel/victim").file("h", b"evil"),
        Tar::default().hardlink("h", "../outside/victim"),
        Tar::default().device("w", b'3', 0, 0),
    ]
    .into_iter()
    .enumerate()
    {
        let (root, fd) = scratch.dir(&format!("root{index}"));
        symlink(&absolute, root.join("abs")).unwrap();
        symlink("../outside", root.join("rel")).unwrap();
        let error = extract(&tar.end()[..], fd.as_fd(), &own()).unwrap_err();
        assert!(matches!(error.kind(), Kind::Denied | Kind::Corrupt), "{index}: {error:?}");
    }
    // A directory entry over a link to a directory elsewhere changes nothing there.
    let (root, fd) = scratch.dir("root-dir");
    symlink("../outside", root.join("rel")).unwrap();
    let tar = Tar::default().raw(b"rel", b'5', b"", b"", |b| b[100..107].copy_from_slice(b"0000000")).end();
    extract(&tar[..], fd.as_fd(), &ExtractOptions { overwrite_dir_non_dir: true, ..own() }).unwrap();
    assert!(!root.join("rel").symlink_metadata().unwrap().is_symlink());
    assert_eq!(lines(&tree(&outside)), ["victim: file 644 untouched"]);
    assert_ne!(outside.metadata().unwrap().mode() & 0o777, 0);
}

#[test]
fn privileged_owners_are_kept_or_given() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let tar = Tar::default()
        .raw(b"f", b'0', b"", b"x", |b| b[108..115].copy_from_slice(b"0001750"))
        .raw(b"d", b'5', b"", b"", |b| b[108..115].copy_from_slice(b"0001750"))
        .file("d/p/g", b"")
        .end();
    for (name, owner, uid, implied) in [
        ("keep", ExtractOwner::Keep, 1000, 0),
        ("fixed", ExtractOwner::Fixed(7, 8), 7, 7),
        ("own", ExtractOwner::Caller, 0, 0),
    ] {
        let (root, fd) = scratch.dir(name);
        extract(&tar[..], fd.as_fd(), &ExtractOptions { owner, ..ExtractOptions::default() }).unwrap();
        assert_eq!(root.join("f").metadata().unwrap().uid(), uid, "{name}");
        assert_eq!(root.join("d").metadata().unwrap().uid(), uid, "{name}");
        assert_eq!(root.join("d/p").metadata().unwrap().uid(), implied, "{name}");
    }
}

#[test]
fn privileged_a_full_disk_is_reported_with_the_path() {
    if !is_root() {
        return;
    }
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
    // A tmpfs that is mounted nowhere goes away with its descriptor.
    let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    rustix::mount::fsconfig_set_string(&fs, "size", "1m").unwrap();
    rustix::mount::fsconfig_set_string(&fs, "nr_inodes", "40").unwrap();
    rustix::mount::fsconfig_create(&fs).unwrap();
    let root = rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap();
    let scratch = Scratch::new();
    let large = Tar::default().file("a/large", &vec![1; 2 << 20]).end();
    let error = robot_env_layer::apply(&large[..], root.as_fd(), &mut Vec::new(), &ApplyOptions::default())
        .unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace);
    let text = format!("{error:?}");
    assert!(text.contains("`a/large`") && text.contains("2097152 bytes"), "{text}");
    let mut many = Tar::default();
    for n in 0..100 {
        many = many.file(&format!("b/{n}"), b"");
    }
    let error =
        robot_env_layer::apply(&many.end()[..], root.as_fd(), &mut Vec::new(), &ApplyOptions::default())
            .unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace);
    assert!(format!("{error:?}").contains("inodes"), "{error:?}");
    drop(scratch);
}

#[test]
fn privileged_a_plain_extraction_gives_no_rights() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let mode = |text: &'static [u8; 7]| move |b: &mut [u8; 512]| b[100..107].copy_from_slice(text);
    let tar = Tar::default()
        .raw(b"d", b'5', b"", b"", mode(b"0002755"))
        .raw(b"d/setuid", b'0', b"", b"x", mode(b"0004755"))
        .raw(b"d/setgid", b'0', b"", b"x", mode(b"0002711"))
        .raw(b"d/sticky", b'0', b"", b"x", mode(b"0001644"))
        .device("d/null", b'3', 1, 3)
        .hardlink("d/zero", "d/null")
        .file("d/f", b"f")
        .end();
    for (name, plain, modes) in
        [("plain", true, [0o755, 0o755, 0o711, 0o1644]), ("whole", false, [0o2755, 0o4755, 0o2711, 0o1644])]
    {
        let (root, fd) = scratch.dir(name);
        let extracted = extract(&tar[..], fd.as_fd(), &ExtractOptions { plain, ..own() }).unwrap();
        let got = ["d", "d/setuid", "d/setgid", "d/sticky"]
            .map(|name| root.join(name).metadata().unwrap().mode() & 0o7777);
        assert_eq!(got, modes, "{name}");
        assert_eq!(root.join("d/null").exists(), !plain);
        assert_eq!(root.join("d/zero").exists(), !plain);
        assert!(root.join("d/f").exists());
        let skipped = (extracted.skipped.devices, extracted.skipped.rights);
        assert_eq!(skipped, if plain { (2, 2) } else { (0, 0) });
    }
}
