//! Unpacking: what good, odd and hostile layers make.

mod support;

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use robot_env_diag::Kind;
use robot_env_layer::{ApplyOptions, Ownership};
use support::*;

const OPAQUE: &str = "trusted.overlay.opaque";

#[test]
fn privileged_everything_that_a_layer_can_hold() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let tar = Tar::default()
        .raw(b"./", b'5', b"", b"", |b| b[100..107].copy_from_slice(b"0000750"))
        .dir("etc/")
        .raw(b"etc/setuid", b'0', b"", b"x", |b| {
            b[100..107].copy_from_slice(b"0006777");
            b[108..115].copy_from_slice(b"0001750");
        })
        .pax(&[
            ("mtime", b"1600000000.123456789"),
            ("SCHILY.xattr.user.note", b"kept\n"),
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.overlay.opaque", b"y"),
        ])
        .file("etc/caps", b"capable")
        .symlink("etc/link", "../../outside")
        .hardlink("etc/hard", "./etc/caps")
        .device("etc/null", b'3', 1, 3)
        .device("etc/disk", b'4', 8, 1)
        .raw(b"etc/fifo", b'6', b"", b"", |_| ())
        .raw(b"etc/\xff\xfe", b'0', b"", b"raw", |_| ())
        .raw(b"sticky", b'5', b"", b"", |b| b[100..107].copy_from_slice(b"0003777"))
        .raw(b"sticky/under", b'0', b"", b"", |_| ())
        .end();
    let (root, applied) = exact(&scratch, "root", &tar);
    assert!(applied.implied.is_empty());
    assert_eq!(applied.entries, 12);
    assert_eq!(applied.content_size, 11);
    assert_eq!(root.metadata().unwrap().permissions().mode() & 0o7777, 0o750);
    assert_eq!(root.metadata().unwrap().mtime(), 1_700_000_000);
    let setuid = root.join("etc/setuid").metadata().unwrap();
    assert_eq!((setuid.mode() & 0o7777, setuid.uid()), (0o6777, 1000));
    let caps = root.join("etc/caps");
    let meta = caps.metadata().unwrap();
    assert_eq!((meta.mtime(), meta.mtime_nsec(), meta.nlink()), (1_600_000_000, 123_456_789, 2));
    assert_eq!(get_xattr(&caps, "user.note").unwrap(), b"kept\n");
    assert!(get_xattr(&caps, "security.capability").is_some());
    for stripped in ["trusted.overlay.opaque", "user.overlay.opaque", "trusted.overlay.overlay.opaque"] {
        assert_eq!(get_xattr(&caps, stripped), None, "{stripped}");
    }
    assert_eq!(root.join("etc/null").symlink_metadata().unwrap().rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(root.join("etc/disk").symlink_metadata().unwrap().rdev(), rustix::fs::makedev(8, 1));
    assert_eq!(std::fs::read(root.join("etc").join(os(b"\xff\xfe"))).unwrap(), b"raw");
    assert_eq!(std::fs::read_link(root.join("etc/link")).unwrap().to_str(), Some("../../outside"));
    let sticky = root.join("sticky").metadata().unwrap();
    assert_eq!((sticky.mode() & 0o7777, sticky.mtime()), (0o3777, 1_700_000_000));
}

#[test]
fn privileged_whiteouts_and_opaque_directories() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let tar = Tar::default()
        .dir("a/")
        .file("a/.wh.gone", b"")
        .file("a/.wh..wh..opq", b"")
        // In the same layer, in either order, the whiteout only hides what is below.
        .file("a/.wh.file", b"")
        .file("a/file", b"mine")
        .file("a/later", b"mine")
        .file("a/.wh.later", b"")
        .file(".wh.b", b"")
        .dir("b/")
        .dir("c/")
        .file(".wh.c", b"")
        .file(".wh.d", b"")
        .file("d/implied", b"x")
        // aufs keeps its own things.
        .file(".wh..wh.aufs", b"aufs")
        .dir(".wh..wh.plnk/")
        .file(".wh..wh.plnk/1.2", b"aufs")
        .end();
    let (root, applied) = exact(&scratch, "root", &tar);
    assert_eq!(
        lines(&tree(&root)),
        [
            "a: dir 755",
            "a/file: file 644 mine",
            "a/gone: node 20000 0",
            "a/later: file 644 mine",
            "b: dir 755",
            "c: dir 755",
            "d: dir 755",
            "d/implied: file 644 x",
        ]
    );
    for opaque in ["a", "b", "c", "d"] {
        assert_eq!(get_xattr(&root.join(opaque), OPAQUE).as_deref(), Some(&b"y"[..]), "{opaque}");
    }
    assert_eq!(applied.implied, [b"".to_vec()], "d stands over a whiteout and inherits nothing");
    assert_eq!(applied.skipped.names, 3);
}

#[test]
fn the_last_of_several_entries_wins_and_the_tar_still_comes_back() {
    let scratch = Scratch::new();
    let big = vec![7; 700_000];
    let tar = Tar::default()
        .file("f", b"first")
        .file("other", b"between")
        .file("f", &big)
        .file("f", b"third")
        .dir("d/")
        .file("d/x", b"lost")
        .file("d/sub/y", b"lost too")
        .hardlink("d/z", "f")
        .file("d", b"now a file")
        .file("g", b"file first")
        .dir("g/")
        .file("g/inside", b"in")
        .symlink("s", "f")
        .file("s", b"not through the link")
        .hardlink("h", "f")
        .file("h", b"no longer linked")
        .hardlink("f", "./f")
        .end();
    let (root, _) = exact(&scratch, "root", &tar);
    let seen = tree(&root);
    for (path, expected) in [
        ("f", "file 644 third"),
        ("d", "file 644 now a file"),
        ("g", "dir 755"),
        ("g/inside", "file 644 in"),
        ("s", "file 644 not through the link"),
        ("h", "file 644 no longer linked"),
    ] {
        assert_eq!(seen[path], expected, "{path}");
    }
    assert_eq!(seen.len(), 7);
}

#[test]
fn implied_directories_are_listed_and_explicit_ones_later_are_not() {
    let scratch = Scratch::new();
    let tar = Tar::default()
        .file("a/b/c/file", b"")
        .raw(b"a/b/", b'5', b"", b"", |b| b[100..107].copy_from_slice(b"0000700"))
        .end();
    let (root, applied) = exact(&scratch, "root", &tar);
    let implied: Vec<_> = applied.implied.iter().map(|p| String::from_utf8_lossy(p).into_owned()).collect();
    assert_eq!(implied, ["", "a", "a/b/c"]);
    let b = root.join("a/b").metadata().unwrap();
    assert_eq!((b.mode() & 0o777, b.mtime()), (0o700, 1_700_000_000));
}

#[test]
fn hostile_layers_are_refused_and_touch_nothing_outside() {
    let scratch = Scratch::new();
    let outside = scratch.0.join("outside");
    std::fs::create_dir(&outside).unwrap();
    write(&outside.join("victim"), "untouched");
    let absolute = outside.to_str().unwrap().to_owned();
    let long_name = vec![b'n'; 1024 * 1024 + 1];
    let deep = "d/".repeat(2100);
    let cases: Vec<(&str, Tar)> = vec![
        ("dot-dot", Tar::default().file("../outside/victim", b"evil")),
        ("dot-dot inside", Tar::default().file("a/../../outside/victim", b"evil")),
        ("absolute dot-dot", Tar::default().file("/../outside/victim", b"evil")),
        ("through a symlink", Tar::default().symlink("s", &absolute).file("s/victim", b"evil")),
        ("through a relative symlink", Tar::default().symlink("s", "../outside").file("s/victim", b"evil")),
        (
            "through a symlink chain",
            Tar::default().symlink("a", "b").symlink("b", "../outside").file("a/victim", b"e"),
        ),
        ("directory through a symlink", Tar::default().symlink("s", "../outside").dir("s/new")),
        ("opaque through a symlink", Tar::default().symlink("s", "../outside").file("s/.wh..wh..opq", b"")),
        ("whiteout through a symlink", Tar::default().symlink("s", "../outside").file("s/.wh.victim", b"")),
        ("hardlink outside", Tar::default().hardlink("h", "../outside/victim")),
        ("hardlink to an absolute path", Tar::default().hardlink("h", "/etc/passwd")),
        (
            "hardlink through a symlink",
            Tar::default().symlink("s", "../outside").hardlink("h", "s/victim").file("h", b"evil"),
        ),
        ("hardlink to a directory", Tar::default().dir("d").hardlink("h", "d")),
        ("hardlink to nothing", Tar::default().hardlink("h", "missing")),
        ("hardlink to a whiteout", Tar::default().file(".wh.w", b"").hardlink("h", "w")),
        ("overlay whiteout", Tar::default().device("w", b'3', 0, 0)),
        ("whiteout of nothing", Tar::default().file(".wh.", b"")),
        ("whiteout of dot", Tar::default().file("a/.wh..", b"")),
        ("whiteout of dot-dot", Tar::default().file("a/.wh...", b"")),
        ("the root as a file", Tar::default().file("./", b"x").raw(b".", b'0', b"", b"x", |_| ())),
        ("the root as a symlink", Tar::default().symlink(".", "../outside")),
        ("a file as parent", Tar::default().file("f", b"x").file("f/g", b"y")),
        ("long name", Tar::default().raw(b"l", b'L', b"", &long_name, |_| ()).file("x", b"")),
        ("long pax", Tar::default().raw(b"l", b'x', b"", &long_name, |_| ()).file("x", b"")),
        ("deep", Tar::default().pax(&[("path", deep.as_bytes())]).dir("x")),
        ("long component", Tar::default().pax(&[("path", &[b'c'; 300])]).file("x", b"")),
        ("nul in a name", Tar::default().pax(&[("path", b"a\0b")]).file("x", b"")),
        ("unknown type", Tar::default().raw(b"x", b'Q', b"", b"", |_| ())),
        ("multi-volume", Tar::default().raw(b"x", b'M', b"", b"", |_| ())),
        ("negative size", Tar::default().raw(b"x", b'0', b"", b"", |b| b[124..136].fill(0xff))),
        (
            "huge size",
            Tar::default().raw(b"x", b'0', b"", b"", |b| {
                b[124..136].copy_from_slice(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff");
            }),
        ),
        (
            "huge sparse",
            Tar::default()
                .pax(&[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.realsize", b"18446744073709551615"),
                ])
                .file("x", b"1\n18446744073709551615\n0\n"),
        ),
        (
            "sparse map overlaps",
            Tar::default()
                .pax(&[("GNU.sparse.map", b"0,2,1,2"), ("GNU.sparse.size", b"100")])
                .file("x", b"abcd"),
        ),
        (
            "sparse map behind the end",
            Tar::default()
                .pax(&[("GNU.sparse.map", b"99,4"), ("GNU.sparse.size", b"100")])
                .file("x", b"abcd"),
        ),
        (
            "sparse map too short",
            Tar::default().pax(&[("GNU.sparse.map", b"0,2"), ("GNU.sparse.size", b"100")]).file("x", b"abcd"),
        ),
        (
            "sparse bomb",
            Tar::default()
                .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"1")])
                .file("x", &[b"9999999999\n".to_vec(), b"0\n0\n".repeat(1_100_000)].concat()),
        ),
        ("bad checksum", {
            let mut tar = Tar::default().file("x", b"");
            tar.0[0] = b'y';
            tar
        }),
        ("lone zero block", {
            let mut tar = Tar::default();
            tar.0.resize(512, 0);
            tar.file("x", b"")
        }),
        ("long symlink", Tar::default().pax(&[("linkpath", &[b'l'; 5000])]).symlink("x", "y")),
        ("empty symlink", Tar::default().symlink("x", "")),
    ];
    for (index, (name, tar)) in cases.into_iter().enumerate() {
        let (root, applied, _) = unpack(&scratch, &format!("root{index}"), &tar.end());
        let error = applied.err().unwrap_or_else(|| panic!("{name}: accepted, {:?}", tree(&root)));
        assert_ne!(error.kind(), Kind::Internal, "{name}: {error:?}");
        assert!(!error.message().is_empty());
    }
    assert_eq!(lines(&tree(&outside)), ["victim: file 644 untouched"]);
    assert_eq!(get_xattr(&outside, OPAQUE), None);
}

#[test]
fn a_truncated_layer_is_always_an_error() {
    let scratch = Scratch::new();
    let tar = Tar::default()
        .dir("a/")
        .pax(&[("path", b"a/long")])
        .file("x", &[1; 1500])
        .raw(b"l", b'L', b"", b"a/gnu\0", |_| ())
        .file("x", b"2")
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"9000"),
            ("GNU.sparse.name", b"sparse"),
        ])
        .file("x", &{
            let mut payload = b"1\n4096\n3\n".to_vec();
            payload.resize(512, 0);
            payload.extend_from_slice(b"abc");
            payload
        })
        .hardlink("h", "a/long")
        .end();
    exact(&scratch, "whole", &tar);
    for (index, end) in (0..tar.len()).step_by(512).chain([1, 100, 511, 513, 700, tar.len() - 1]).enumerate()
    {
        let (_, applied, _) = unpack(&scratch, &format!("cut{index}"), &tar[..end]);
        let error = applied.err().unwrap_or_else(|| panic!("accepted the first {end} bytes"));
        assert_eq!(error.kind(), Kind::Corrupt, "{end}: {error:?}");
    }
    let options = ApplyOptions { missing_end_ok: true, ..ApplyOptions::default() };
    let (_, applied, recipe) = unpack_with(&scratch, "no-end", &tar[..tar.len() - 1024], &options);
    assert_eq!(applied.unwrap().entries, 5);
    assert_eq!(assembled(&recipe, &scratch.0.join("no-end")), tar[..tar.len() - 1024]);
    let (_, applied, _) = unpack_with(&scratch, "no-payload", &tar[..3 * 512], &options);
    assert_eq!(applied.unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn sparse_files_stay_sparse_in_every_format() {
    let scratch = Scratch::new();
    let size: u64 = 64 << 20;
    let text = size.to_string();
    let old = Tar::default().raw(b"old", b'S', b"", b"headtail", |b| {
        b[257..265].copy_from_slice(b"ustar  \0");
        let pairs = [(0_u64, 4_u64), (size - 4, 4)];
        for (index, (offset, length)) in pairs.iter().enumerate() {
            let at = 386 + index * 24;
            b[at..at + 11].copy_from_slice(format!("{offset:011o}").as_bytes());
            b[at + 12..at + 23].copy_from_slice(format!("{length:011o}").as_bytes());
        }
        b[483..494].copy_from_slice(format!("{size:011o}").as_bytes());
    });
    let map = format!("0,4,{},4", size - 4);
    let tail = (size - 4).to_string();
    let all = old
        .pax(&[
            ("GNU.sparse.size", text.as_bytes()),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.offset", b"0"),
            ("GNU.sparse.numbytes", b"4"),
            ("GNU.sparse.offset", tail.as_bytes()),
            ("GNU.sparse.numbytes", b"4"),
        ])
        .file("pax00", b"headtail")
        .pax(&[
            ("GNU.sparse.size", text.as_bytes()),
            ("GNU.sparse.map", map.as_bytes()),
            ("GNU.sparse.name", b"pax01"),
        ])
        .file("x", b"headtail")
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"pax10"),
            ("GNU.sparse.realsize", text.as_bytes()),
        ])
        .file("y", &{
            let mut payload = format!("2\n0\n4\n{}\n4\n", size - 4).into_bytes();
            payload.resize(512, 0);
            payload.extend_from_slice(b"headtail");
            payload
        })
        .end();
    let (root, _) = exact(&scratch, "root", &all);
    for name in ["old", "pax00", "pax01", "pax10"] {
        let path = root.join(name);
        let meta = path.metadata().unwrap();
        assert_eq!(meta.len(), size, "{name}");
        assert!(meta.blocks() * 512 < 1 << 20, "{name} has {} blocks", meta.blocks());
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((&bytes[..4], &bytes[bytes.len() - 4..]), (&b"head"[..], &b"tail"[..]), "{name}");
    }
    // One that is replaced comes back from the recipe, and cheaply.
    let mut again = all[..all.len() - 1024].to_vec();
    again.extend_from_slice(&Tar::default().file("old", b"1").file("pax10", b"2").end());
    let (path, applied, recipe) = unpack(&scratch, "again", &again);
    applied.unwrap();
    assert!(assembled(&recipe, &path) == again);
    assert!(recipe.len() < 100_000, "{}", recipe.len());
}

#[test]
fn a_layer_longer_than_its_limit_is_refused() {
    let scratch = Scratch::new();
    let tar = Tar::default().file("a", &[0; 5000]).end();
    for (limit, good) in [(tar.len() as u64, true), (tar.len() as u64 - 1, false)] {
        let options = ApplyOptions { size_limit: Some(limit), ..ApplyOptions::default() };
        let (_, applied, _) = unpack_with(&scratch, &format!("limit{limit}"), &tar, &options);
        assert_eq!(applied.is_ok(), good);
    }
    // A stream without an end stops at the limit too.
    let endless = std::io::repeat(0).take(u64::MAX);
    let (_, root) = scratch.dir("endless");
    let options = ApplyOptions { size_limit: Some(1 << 20), ..ApplyOptions::default() };
    let error = robot_env_layer::apply(endless, std::os::fd::AsFd::as_fd(&root), &mut Vec::new(), &options)
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
}

#[test]
fn a_single_id_owns_everything() {
    let scratch = Scratch::new();
    let tar = Tar::default()
        .raw(b"f", b'0', b"", b"x", |b| b[108..115].copy_from_slice(b"0001750"))
        .raw(b"d", b'5', b"", b"", |b| b[108..115].copy_from_slice(b"0001750"))
        .end();
    let options = ApplyOptions { ownership: Ownership::SingleId, ..ApplyOptions::default() };
    let (root, applied, _) = unpack_with(&scratch, "root", &tar, &options);
    applied.unwrap();
    let own = rustix::process::geteuid().as_raw();
    assert_eq!(root.join("f").metadata().unwrap().uid(), own);
    assert_eq!(root.join("d").metadata().unwrap().uid(), own);
}

#[test]
fn a_damaged_recipe_is_an_error() {
    let scratch = Scratch::new();
    let tar = Tar::default().file("a", b"first").file("a", b"second").file("b", b"b").end();
    let (root, applied, recipe) = unpack(&scratch, "root", &tar);
    applied.unwrap();
    let fd = std::fs::File::open(&root).unwrap();
    for end in 0..recipe.len() {
        let result = robot_env_layer::assemble(
            std::io::Cursor::new(&recipe[..end]),
            std::os::fd::AsFd::as_fd(&fd),
            &mut std::io::sink(),
        );
        assert!(result.is_err(), "accepted {end} bytes of a recipe");
    }
    for at in 0..recipe.len() {
        let mut bad = recipe.clone();
        bad[at] ^= 0x55;
        // An error, or other bytes; no panic.
        let _ = robot_env_layer::assemble(
            std::io::Cursor::new(&bad),
            std::os::fd::AsFd::as_fd(&fd),
            &mut std::io::sink(),
        );
    }
    std::fs::remove_file(root.join("b")).unwrap();
    let error = robot_env_layer::assemble(
        std::io::Cursor::new(&recipe),
        std::os::fd::AsFd::as_fd(&fd),
        &mut std::io::sink(),
    );
    assert_eq!(error.unwrap_err().kind(), Kind::Corrupt);
}
