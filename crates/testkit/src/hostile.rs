//! Layers that a hostile registry could serve.

use crate::image::{Entry, header, tar};

/// A layer that means harm.
#[derive(Clone, Debug)]
pub struct Malicious {
    /// What it tries.
    pub name: &'static str,
    /// The uncompressed archive.
    pub tar: Vec<u8>,
    /// Whether it must be refused as a whole. Otherwise it may also be unpacked, as long as nothing
    /// outside the tree is touched.
    pub refused: bool,
}

/// Layers that mean harm. `outside` is an absolute path that none of them may create or change.
pub fn malicious(outside: &str) -> Vec<Malicious> {
    let whole = |name, entries: &[Entry]| Malicious { name, tar: tar(entries), refused: false };
    let refused = |name, tar| Malicious { name, tar, refused: true };
    let up = format!("{}{}", "../".repeat(30), outside.trim_start_matches('/'));
    let directory = outside
        .rsplit_once('/')
        .map_or("/", |(directory, _)| if directory.is_empty() { "/" } else { directory });
    let file = outside.rsplit('/').next().unwrap_or_default();
    let mut truncated = tar(&[Entry::file("big", vec![7; 4096])]);
    truncated.truncate(2000);
    let mut bad_checksum = tar(&[Entry::file("a", "a")]);
    bad_checksum[148] ^= 1;
    vec![
        whole("a path with ..", &[Entry::file(&up, "x")]),
        whole("an absolute path", &[Entry::file(outside, "x")]),
        whole(
            "a path through an absolute link",
            &[Entry::symlink("a", directory), Entry::file(&format!("a/{file}"), "x")],
        ),
        whole(
            "a path through a relative link",
            &[
                Entry::symlink("a", &format!("{}{}", "../".repeat(30), directory.trim_start_matches('/'))),
                Entry::file(&format!("a/{file}"), "x"),
            ],
        ),
        whole(
            "a file through a link of its own name",
            &[Entry::symlink("a", outside), Entry::file("a", "x")],
        ),
        whole("a hard link to the outside", &[Entry::hardlink("a", outside), Entry::file("a", "x")]),
        whole("a hard link with ..", &[Entry::hardlink("a", &up)]),
        whole(
            "a hard link through a link",
            &[Entry::symlink("d", directory), Entry::hardlink("a", &format!("d/{file}"))],
        ),
        whole(
            "a directory over a link",
            &[Entry::symlink("d", directory), Entry::directory("d"), Entry::file(&format!("d/{file}"), "x")],
        ),
        whole(
            "a whiteout with ..",
            &[Entry::file(&format!("{}/.wh.{file}", up.rsplit_once('/').map_or("", |(d, _)| d)), "")],
        ),
        whole(
            "a whiteout through a link",
            &[Entry::symlink("d", directory), Entry::file(&format!("d/.wh.{file}"), "")],
        ),
        whole(
            "an opaque mark through a link",
            &[Entry::symlink("d", directory), Entry::file("d/.wh..wh..opq", "")],
        ),
        whole("a whiteout of ..", &[Entry::file(".wh...", "")]),
        whole("a whiteout of nothing", &[Entry::file(".wh.", "")]),
        whole("a whiteout device", &[Entry::character("w", 0, 0)]),
        whole(
            "overlay's own attributes",
            &[Entry::directory("d")
                .xattr("trusted.overlay.opaque", "y")
                .xattr("user.overlay.opaque", "y")
                .xattr("trusted.overlay.redirect", "/etc")],
        ),
        whole("a PAX path with ..", &[Entry::file("innocent", "x").pax("path", up.clone())]),
        whole(
            "a mode change through a link",
            &[Entry::symlink("a", outside), Entry::directory("a").mode(0o777)],
        ),
        refused("a size beyond the archive", tar(&[Entry::file("huge", "x").declared_size(1 << 60)])),
        refused("a truncated archive", truncated),
        refused("a bad checksum", bad_checksum),
        refused("no archive at all", vec![0x42; 4096]),
        refused("an extended header beyond the archive", {
            let mut out = Vec::new();
            header(&mut out, b"x", b'x', 0o644, (0, 0), 0, 1 << 40, b"", None);
            out
        }),
    ]
}
