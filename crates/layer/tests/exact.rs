//! Tars of many writers come back bit for bit, and their trees are what the writers meant.

mod support;

use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use support::*;

/// A small tree with everything that a writer may trip over.
fn sample(root: &Path) {
    write(&root.join("plain"), "plain");
    write(&root.join("empty"), "");
    write(&root.join("block"), &"b".repeat(512));
    write(&root.join("big"), &"0123456789abcdef".repeat(70_000));
    write(&root.join("dir/inner"), "inner");
    std::fs::create_dir_all(root.join("empty-dir")).unwrap();
    let long = format!("{}/{}", "component-of-a-long-path".repeat(4), "n".repeat(180));
    write(&root.join(&long), "long");
    write(&root.join("ünïcode-\u{1f916}"), "unicode");
    write(&root.join(os(b"not-\xff-utf8")), "bytes");
    std::os::unix::fs::symlink("plain", root.join("link")).unwrap();
    std::os::unix::fs::symlink("t".repeat(300), root.join("long-link")).unwrap();
    std::fs::hard_link(root.join("big"), root.join("hard")).unwrap();
    std::fs::hard_link(root.join(&long), root.join("hard-to-long")).unwrap();
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"data", 1 << 20).unwrap();
    sparse.set_len(3 << 20).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_234_567_890, 987_654_321);
    sparse.set_modified(time).unwrap();
}

/// Runs a program; false (with a reason) if it is not there.
fn run(program: &str, arguments: &[&str]) -> bool {
    match Command::new(program).args(arguments).output() {
        Ok(output) => {
            assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
            true
        }
        Err(error) => {
            #[allow(clippy::print_stderr)]
            {
                eprintln!("skipped: {program}: {error}");
            }
            false
        }
    }
}

#[test]
fn gnu_tar() {
    let scratch = Scratch::new();
    let (source, _) = scratch.dir("source");
    sample(&source);
    let expected = tree(&source);
    for (index, flags) in [
        &["--format=gnu"][..],
        &["--format=gnu", "--sparse"],
        &["--format=oldgnu", "--sparse"],
        &["--format=pax"],
        &["--format=pax", "--sparse"],
        &["--format=pax", "--sparse", "--sparse-version=0.0"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--xattrs"],
        &["--format=gnu", "-b1"],
    ]
    .iter()
    .enumerate()
    {
        let file = scratch.0.join("tar");
        let mut arguments = flags.to_vec();
        let (file_text, source_text) = (file.to_str().unwrap(), source.to_str().unwrap());
        arguments.extend(["-cf", file_text, "-C", source_text, "."]);
        if !run("tar", &arguments) {
            return;
        }
        let (root, applied) = exact(&scratch, &format!("root{index}"), &std::fs::read(&file).unwrap());
        assert_eq!(tree(&root), expected, "{flags:?}");
        assert!(applied.implied.is_empty());
        if flags.contains(&"--format=pax") {
            use std::os::unix::fs::MetadataExt;
            assert_eq!(root.join("sparse").metadata().unwrap().mtime_nsec(), 987_654_321, "{flags:?}");
        }
    }
}

#[test]
fn python_tarfile() {
    const SCRIPT: &str = "
import sys, tarfile
source, out, form = sys.argv[1:]
form = {'ustar': tarfile.USTAR_FORMAT, 'gnu': tarfile.GNU_FORMAT, 'pax': tarfile.PAX_FORMAT}[form]
with tarfile.open(out, 'w', format=form, errors='surrogateescape') as tar:
    tar.add(source, arcname='.')
";
    let scratch = Scratch::new();
    let (source, _) = scratch.dir("source");
    sample(&source);
    for form in ["gnu", "pax", "ustar"] {
        if form == "ustar" {
            // ustar cannot say it.
            std::fs::remove_file(source.join("long-link")).unwrap();
            let long = format!("{}/{}", "component-of-a-long-path".repeat(4), "n".repeat(180));
            std::fs::remove_file(source.join(long)).unwrap();
            std::fs::remove_file(source.join("hard-to-long")).unwrap();
        }
        let file = scratch.0.join("tar");
        if !run("python3", &["-c", SCRIPT, source.to_str().unwrap(), file.to_str().unwrap(), form]) {
            return;
        }
        let (root, _) = exact(&scratch, form, &std::fs::read(&file).unwrap());
        assert_eq!(tree(&root), tree(&source), "{form}");
    }
}

#[test]
fn tar_crate() {
    let scratch = Scratch::new();
    let (source, _) = scratch.dir("source");
    sample(&source);
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    builder.append_dir_all(".", &source).unwrap();
    let (root, _) = exact(&scratch, "root", &builder.into_inner().unwrap());
    assert_eq!(tree(&root), tree(&source));
}

#[test]
fn trailing_bytes_and_payloads_that_go_nowhere() {
    let scratch = Scratch::new();
    let mut tar = Tar::default()
        .raw(b"label", b'V', b"", b"", |_| ())
        .raw(b"global", b'g', b"", b"20 comment=something\n", |_| ())
        .file(".wh.x", b"a whiteout with a payload")
        .raw(b"old/", 0, b"", b"", |block| block[257..265].fill(0))
        .end();
    tar.extend_from_slice(&[0; 9000]);
    tar.extend_from_slice(b"odd bytes behind the end");
    let (_, applied) = exact(&scratch, "root", &tar);
    assert_eq!(applied.implied, [b"".to_vec()]);
}

/// One entry of a random tar.
#[derive(Clone, Debug)]
enum Piece {
    File(u8, Vec<u8>),
    Directory(u8),
    Symlink(u8, u8),
    Hardlink(u8, u8),
    Whiteout(u8),
    Sparse(u8, u16),
}

fn name(n: u8) -> String {
    // Few names, some of which are parents of others: entries often replace each other.
    ["a", "b", "a/x", "a/y", "b/x", "c", "a/x/deep", "c/d/e"][usize::from(n) % 8].to_owned()
}

fn piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        4 => (any::<u8>(), prop::collection::vec(any::<u8>(), 0..1500)).prop_map(|(n, bytes)| Piece::File(n, bytes)),
        2 => any::<u8>().prop_map(Piece::Directory),
        1 => any::<(u8, u8)>().prop_map(|(n, t)| Piece::Symlink(n, t)),
        2 => any::<(u8, u8)>().prop_map(|(n, t)| Piece::Hardlink(n, t)),
        1 => any::<u8>().prop_map(Piece::Whiteout),
        1 => any::<(u8, u16)>().prop_map(|(n, at)| Piece::Sparse(n, at)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever replaces whatever: a tar that unpacks comes back exactly.
    #[test]
    fn random_layers(pieces in prop::collection::vec(piece(), 1..14)) {
        if !is_root() {
            return Ok(());
        }
        let scratch = Scratch::new();
        let mut tar = Tar::default();
        for piece in pieces {
            tar = match piece {
                Piece::File(n, bytes) => tar.file(&name(n), &bytes),
                Piece::Directory(n) => tar.dir(&name(n)),
                Piece::Symlink(n, t) => tar.symlink(&name(n), &name(t)),
                Piece::Hardlink(n, t) => tar.hardlink(&name(n), &name(t)),
                Piece::Whiteout(n) => {
                    let name = name(n);
                    let (dir, base) = name.rsplit_once('/').map_or(("", &name[..]), |(d, b)| (d, b));
                    tar.file(&format!("{dir}/.wh.{base}"), b"")
                }
                Piece::Sparse(n, at) => {
                    let map = format!("{at},5");
                    tar.pax(&[("GNU.sparse.map", map.as_bytes()), ("GNU.sparse.size", b"100000")]).file(&name(n), b"12345")
                }
            };
        }
        let tar = tar.end();
        let (root, applied, recipe) = unpack(&scratch, "root", &tar);
        if applied.is_ok() {
            prop_assert!(assembled(&recipe, &root) == tar);
            prop_assert!(!tree(&root).keys().any(|path| path.contains(".wh.")));
        }
    }

    /// No bytes make it panic or leave the root.
    #[test]
    fn random_bytes(noise in prop::collection::vec((0_usize..4096, any::<u8>()), 0..12)) {
        let scratch = Scratch::new();
        let mut tar = Tar::default()
            .dir("d/")
            .pax(&[("path", b"d/file"), ("SCHILY.xattr.user.a", b"b"), ("mtime", b"1.5")])
            .file("x", b"payload")
            .pax(&[("GNU.sparse.map", b"0,5"), ("GNU.sparse.size", b"9")])
            .file("s", b"12345")
            .symlink("l", "d")
            .hardlink("h", "d/file")
            .end();
        let length = tar.len();
        for (at, byte) in noise {
            tar[at % length] = byte;
        }
        // Repair the checksums, so that the noise gets further than to them.
        for block in tar.chunks_exact_mut(512) {
            if &block[257..262] == b"ustar" {
                Tar::seal(block.try_into().unwrap());
            }
        }
        let (root, applied, recipe) = unpack(&scratch, "root", &tar);
        if applied.is_ok() {
            prop_assert!(assembled(&recipe, &root) == tar);
        }
        prop_assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 1);
    }
}
