//! What the tests of this crate share: temporary directories, hand-made tars, looking at trees.
#![allow(dead_code, clippy::print_stderr, unreachable_pub)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Cursor, Write as _};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use robot_env_diag::Result;
use robot_env_layer::{Applied, ApplyOptions, apply, assemble};

/// A directory that goes away with its content.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("robot-env-layer.{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    /// An empty directory in it, and its descriptor.
    pub fn dir(&self, name: &str) -> (PathBuf, File) {
        let path = self.0.join(name);
        std::fs::create_dir(&path).unwrap();
        let fd = File::open(&path).unwrap();
        (path, fd)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether the test runs as root; says why not otherwise.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: not root, so no device nodes, owners and trusted attributes can be made");
    }
    root
}

/// A tar made by hand, with any nonsense in it.
#[derive(Default, Clone)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn header(name: &[u8], kind: u8, size: usize) -> [u8; 512] {
        let mut block = [0; 512];
        let n = name.len().min(100);
        block[..n].copy_from_slice(&name[..n]);
        let mut put = |at: usize, text: String| block[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(100, format!("{:07o}", if kind == b'5' { 0o755 } else { 0o644 }));
        put(108, format!("{:07o}", 0));
        put(116, format!("{:07o}", 0));
        put(124, format!("{size:011o}"));
        put(136, format!("{:011o}", 1_700_000_000));
        put(257, "ustar\x0000".to_owned());
        block[156] = kind;
        Self::seal(&mut block);
        block
    }

    pub fn seal(block: &mut [u8; 512]) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }

    pub fn raw(
        mut self,
        name: &[u8],
        kind: u8,
        link: &[u8],
        payload: &[u8],
        edit: impl FnOnce(&mut [u8; 512]),
    ) -> Self {
        let mut block = Self::header(name, kind, payload.len());
        block[157..157 + link.len()].copy_from_slice(link);
        edit(&mut block);
        Self::seal(&mut block);
        self.0.extend_from_slice(&block);
        self.0.extend_from_slice(payload);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: &str, payload: &[u8]) -> Self {
        self.raw(name.as_bytes(), b'0', b"", payload, |_| ())
    }

    pub fn dir(self, name: &str) -> Self {
        self.raw(name.as_bytes(), b'5', b"", b"", |_| ())
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(name.as_bytes(), b'2', target.as_bytes(), b"", |_| ())
    }

    pub fn hardlink(self, name: &str, target: &str) -> Self {
        self.raw(name.as_bytes(), b'1', target.as_bytes(), b"", |_| ())
    }

    pub fn device(self, name: &str, kind: u8, major: u32, minor: u32) -> Self {
        self.raw(name.as_bytes(), kind, b"", b"", |block| {
            block[329..336].copy_from_slice(format!("{major:07o}").as_bytes());
            block[337..344].copy_from_slice(format!("{minor:07o}").as_bytes());
        })
    }

    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut all = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest + 1..rest + 9).find(|n| n - n.to_string().len() == rest).unwrap();
            all.extend_from_slice(format!("{length} {key}=").as_bytes());
            all.extend_from_slice(value);
            all.push(b'\n');
        }
        self.raw(b"pax", b'x', b"", &all, |_| ())
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// Unpacks into a fresh directory of `scratch`; the recipe too.
pub fn unpack(scratch: &Scratch, name: &str, tar: &[u8]) -> (PathBuf, Result<Applied>, Vec<u8>) {
    unpack_with(scratch, name, tar, &ApplyOptions::default())
}

pub fn unpack_with(
    scratch: &Scratch,
    name: &str,
    tar: &[u8],
    options: &ApplyOptions,
) -> (PathBuf, Result<Applied>, Vec<u8>) {
    let (path, root) = scratch.dir(name);
    let mut recipe = Vec::new();
    let applied = apply(tar, root.as_fd(), &mut recipe, options);
    (path, applied, recipe)
}

/// Unpacks a tar that must be good, checks that the same tar comes out again, and gives the tree.
pub fn exact(scratch: &Scratch, name: &str, tar: &[u8]) -> (PathBuf, Applied) {
    let (path, applied, recipe) = unpack(scratch, name, tar);
    let applied = applied.unwrap_or_else(|e| panic!("{name}: {e:?}"));
    assert_eq!(*applied.diff_id.as_ref().unwrap().digest(), robot_env_oci::Digest::of(tar), "{name}");
    assert_eq!(applied.tar_size, tar.len() as u64, "{name}");
    assert!(assembled(&recipe, &path) == tar, "{name}: the assembled tar differs");
    (path, applied)
}

pub fn assembled(recipe: &[u8], root: &Path) -> Vec<u8> {
    let mut again = Vec::new();
    assemble(Cursor::new(recipe), File::open(root).unwrap().as_fd(), &mut again).unwrap();
    again
}

/// Everything below a directory: path -> what it is, in one line.
pub fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let kind = meta.file_type();
            let text = if kind.is_symlink() {
                format!("-> {}", std::fs::read_link(&path).unwrap().display())
            } else if kind.is_dir() {
                left.push(path);
                format!("dir {:o}", meta.permissions().mode() & 0o7777)
            } else if kind.is_file() {
                format!("file {:o} {}", meta.permissions().mode() & 0o7777, describe(&path))
            } else {
                format!("node {:o} {}", meta.mode() & 0o170_000, meta.rdev())
            };
            out.insert(name, text);
        }
    }
    out
}

fn describe(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap();
    match std::str::from_utf8(&bytes) {
        Ok(text) if text.len() < 64 => text.to_owned(),
        _ => robot_env_oci::Digest::of(&bytes).short().to_owned(),
    }
}

pub fn lines(tree: &BTreeMap<String, String>) -> Vec<String> {
    tree.iter().map(|(path, what)| format!("{path}: {what}")).collect()
}

pub fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

pub fn get_xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 4096];
    let n = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(n);
    Some(value)
}

pub fn whiteout(path: &Path) {
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::empty(),
        0,
    )
    .unwrap();
}

pub fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}

pub fn os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}
