//! The host as a directory: everything that is found is found below one.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use robot_env_spec::ResolvedDevice;

/// The largest file of `/proc`, `/sys` or `/etc` that is read, in bytes.
const LIMIT: u64 = 8 << 20;
/// Symbolic links that a path may lead through.
const LINKS: usize = 40;

/// A directory in which a host's files are looked for. Paths below it are written as the host
/// itself would write them, `/dev/nvidia0`; symbolic links stay inside.
#[derive(Clone, Debug)]
pub struct HostRoot {
    path: PathBuf,
    plain_nodes: bool,
    /// Directories that are known to be no links: hundreds of files are looked for in a few of them.
    plain: RefCell<BTreeSet<String>>,
    /// Names that are known to be missing, above which more is looked for.
    missing: RefCell<BTreeSet<String>>,
}

impl HostRoot {
    /// The machine itself.
    pub fn system() -> HostRoot {
        HostRoot::at("/")
    }

    /// The machine as another directory has it, e.g. `/run/nvidia/driver` of a driver that runs in a
    /// container.
    pub fn at(path: impl Into<PathBuf>) -> HostRoot {
        HostRoot {
            path: path.into(),
            plain_nodes: false,
            plain: RefCell::default(),
            missing: RefCell::default(),
        }
    }

    /// A directory in which a regular file with a text like `c 195:0` stands for a device node. For
    /// tests, which need not be root then.
    pub fn fixture(path: impl Into<PathBuf>) -> HostRoot {
        HostRoot {
            path: path.into(),
            plain_nodes: true,
            plain: RefCell::default(),
            missing: RefCell::default(),
        }
    }

    /// Whether it is the machine's own root.
    pub fn is_system(&self) -> bool {
        self.path == Path::new("/")
    }

    /// Where a path of the host is for the caller. Links are not looked at.
    pub fn real(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }

    /// The path, all symbolic links followed inside; `None` where there is nothing. A directory that
    /// was seen once, or missed, is taken to stay so as long as this lives: a start, or one look at devices.
    pub fn resolve(&self, path: &str) -> Option<String> {
        let mut todo: Vec<String> = split(path);
        let mut done: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == ".." {
                done.pop();
                continue;
            }
            let here = format!("{}/{name}", join(&done));
            if self.plain.borrow().contains(&here) {
                done.push(name);
                continue;
            }
            if self.missing.borrow().contains(&here) {
                return None;
            }
            match fs::read_link(self.real(&here)) {
                Ok(target) => {
                    links += 1;
                    let target = target.to_str()?;
                    if links > LINKS {
                        return None;
                    }
                    if target.starts_with('/') {
                        done.clear();
                    }
                    todo.extend(split(target));
                }
                Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
                    if !todo.is_empty() {
                        self.plain.borrow_mut().insert(here);
                    }
                    done.push(name);
                }
                Err(_) => {
                    if !todo.is_empty() {
                        self.missing.borrow_mut().insert(here);
                    }
                    return None;
                }
            }
        }
        let path = join(&done);
        Some(if path.is_empty() { "/".into() } else { path })
    }

    /// Whether there is something at the path, links followed.
    pub fn exists(&self, path: &str) -> bool {
        self.resolve(path).is_some()
    }

    /// A regular file's bytes, up to 8 MiB.
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        let path = self.real(&self.resolve(path)?);
        if !fs::metadata(&path).ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        fs::File::open(path).ok()?.take(LIMIT).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// A regular file's text; what is not UTF-8 in it is replaced.
    pub fn text(&self, path: &str) -> Option<String> {
        Some(String::from_utf8_lossy(&self.read(path)?).into_owned())
    }

    /// A file of one line, trimmed.
    pub fn line(&self, path: &str) -> Option<String> {
        Some(self.text(path)?.trim().to_owned())
    }

    /// The names in a directory, sorted; none where it cannot be read.
    pub fn names(&self, directory: &str) -> Vec<String> {
        self.names_where(directory, |_| true)
    }

    /// The names in a directory of thousands that `wanted` takes, sorted.
    pub fn names_where(&self, directory: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let Some(path) = self.resolve(directory) else { return Vec::new() };
        let mut names: Vec<String> = fs::read_dir(self.real(&path))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| wanted(name))
            .collect();
        names.sort_unstable();
        names
    }

    /// A symbolic link's target, as it is written.
    pub fn link(&self, path: &str) -> Option<String> {
        fs::read_link(self.real(path)).ok()?.into_os_string().into_string().ok()
    }

    /// Whether the path leads to a directory.
    pub fn is_directory(&self, path: &str) -> bool {
        self.resolve(path).is_some_and(|path| self.real(&path).is_dir())
    }

    /// Whether the path leads to a socket.
    pub fn is_socket(&self, path: &str) -> bool {
        let Some(path) = self.resolve(path) else { return false };
        let is_socket = fs::metadata(self.real(&path)).is_ok_and(|found| found.file_type().is_socket());
        is_socket || (self.plain_nodes && self.text(&path).is_some_and(|text| text == "socket"))
    }

    /// The device node at a path, with all permissions; `None` where there is none.
    pub fn device(&self, path: &str) -> Option<ResolvedDevice> {
        let found = self.resolve(path)?;
        let real = self.real(&found);
        let metadata = fs::metadata(&real).ok()?;
        let (kind, major, minor) = match metadata.file_type() {
            kind if kind.is_char_device() || kind.is_block_device() => {
                let number = metadata.rdev();
                let letter = if kind.is_char_device() { 'c' } else { 'b' };
                (letter, rustix::fs::major(number), rustix::fs::minor(number))
            }
            kind if kind.is_file() && self.plain_nodes => {
                let text = self.text(&found)?;
                let (letter, numbers) = text.trim().split_once(' ')?;
                let (major, minor) = numbers.split_once(':')?;
                (letter.chars().next()?, major.parse().ok()?, minor.parse().ok()?)
            }
            _ => return None,
        };
        Some(ResolvedDevice {
            path: path.to_owned(),
            host_path: real.to_string_lossy().into_owned(),
            kind,
            major: i64::from(major),
            minor: i64::from(minor),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            permissions: "rwm".into(),
        })
    }
}

/// The names of a path, the first one last.
fn split(path: &str) -> Vec<String> {
    path.split('/').rev().filter(|name| !matches!(*name, "" | ".")).map(str::to_owned).collect()
}

fn join(names: &[String]) -> String {
    names.iter().map(|name| format!("/{name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use robot_env_testkit::temporary::TemporaryDirectory;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_inside() {
        let place = TemporaryDirectory::new("host-root");
        fs::create_dir_all(place.join("usr/lib")).unwrap();
        fs::create_dir_all(place.join("etc/alternatives")).unwrap();
        fs::write(place.join("usr/lib/real"), "here").unwrap();
        symlink("usr/lib", place.join("lib")).unwrap();
        symlink("/usr/lib/real", place.join("etc/alternatives/x")).unwrap();
        symlink("../../../../etc/alternatives/x", place.join("usr/lib/out")).unwrap();
        symlink("loop", place.join("loop")).unwrap();
        let root = HostRoot::fixture(place.path());
        for (path, want) in [
            ("/lib/real", Some("/usr/lib/real")),
            ("/lib/out", Some("/usr/lib/real")),
            ("/lib/../../etc/alternatives/x", Some("/usr/lib/real")),
            ("/loop", None),
            ("/lib/nothing", None),
            ("/", Some("/")),
        ] {
            assert_eq!(root.resolve(path).as_deref(), want, "{path}");
        }
        assert_eq!(root.text("/lib/out").as_deref(), Some("here"));
    }

    #[test]
    fn nodes_of_fixtures() {
        let place = TemporaryDirectory::new("host-nodes");
        fs::create_dir_all(place.join("dev")).unwrap();
        fs::write(place.join("dev/nvidia0"), "c 195:0\n").unwrap();
        let node = HostRoot::fixture(place.path()).device("/dev/nvidia0").unwrap();
        assert_eq!((node.kind, node.major, node.minor), ('c', 195, 0));
        assert!(HostRoot::at(place.path()).device("/dev/nvidia0").is_none(), "a file is no node");
        assert!(HostRoot::system().device("/dev/null").is_some());
    }
}
