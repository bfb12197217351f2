//! Where the files of a build come from: a directory, a tar, an address.
//!
//! What is not a directory of the host's is unpacked below `ROOT/build/contexts`, one directory a
//! build, locked while the build lives; whoever makes the next one removes those that nobody locks.

use std::fs::{self, File};
use std::io::{Cursor, ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use robot_env_diag::{Context as _, Error, IoContext, Kind, Result};
use robot_env_engine::Engine;
use robot_env_layer::{ExtractOptions, ExtractOwner, extract};
use rustix::fs::FlockOperation;

use crate::archive::{Decompressed, is_header};
use crate::git::{Access, GitAddress};
use crate::request::Fetch;

/// The largest Dockerfile that is read, in bytes.
const LIMIT: u64 = 16 << 20;
/// The length of a block of a tar, and so of its first header.
const BLOCK: usize = 512;
/// The file of a context that says what is left out; that of one Dockerfile has its name in front.
pub(crate) const IGNORE: &str = ".dockerignore";

/// Where the files of a build are.
pub enum Origin<'o> {
    /// In a directory of the host's.
    Directory(PathBuf),
    /// In a tar, plain or compressed; or else it is the Dockerfile, and there are no files.
    Stream(&'o mut dyn Read),
    /// In a git repository (`ADDRESS#REF:DIRECTORY`), or what [`Origin::Stream`] takes at an http or
    /// https address.
    Address(&'o str),
}

/// Where the Dockerfile is.
#[derive(Clone, Debug, Default)]
pub enum Recipe {
    /// `Dockerfile` among the files, or `dockerfile` where there is only that.
    #[default]
    Default,
    /// At this path: of the host for files in a directory, else among the files. A path of the host
    /// must be absolute or relative to the working directory; `shown` is what messages call it.
    Path {
        /// The path.
        path: PathBuf,
        /// What messages call it.
        shown: String,
    },
    /// It is this text.
    Text(String),
}

/// The files of a build and its Dockerfile, ready to be read: see [`crate::BuildRequest`], whose
/// fields have the same names.
pub struct Files {
    /// The directory with the files.
    pub context: PathBuf,
    /// The Dockerfile's text.
    pub dockerfile: String,
    /// What messages call it.
    pub file_name: String,
    /// What of the files is not to be seen.
    pub ignore: String,
    /// The name of the file that says so; empty where there is none.
    pub ignore_name: String,
    /// A directory of our own, removed at the end.
    _room: Option<ContextRoom>,
}

/// A directory for the files of one build, below the root; removed when this is dropped.
pub struct ContextRoom {
    path: PathBuf,
    index: PathBuf,
    _lock: OwnedFd,
}

impl ContextRoom {
    /// Makes it, and removes those of builds that do not live any more.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make(engine: &Engine) -> Result<ContextRoom> {
        let base = engine.paths().root().join("build/contexts");
        let within = |path: &Path| format!("cannot make `{}`", path.display());
        fs::create_dir_all(&base).io_context(|| within(&base))?;
        sweep(&base);
        let mut bytes = [0u8; 8];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .io_context(|| "getrandom()".into())?;
        let name: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        // Locked before it has its name: nobody sweeps it in between.
        let new = base.join(format!(".{name}"));
        let path = base.join(&name);
        fs::create_dir(&new).io_context(|| within(&new))?;
        let lock: OwnedFd = File::open(&new).io_context(|| within(&new))?.into();
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).io_context(|| within(&new))?;
        fs::rename(&new, &path).io_context(|| within(&path))?;
        let index = crate::index::path_of(engine, &path);
        Ok(ContextRoom { path, index, _lock: lock })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ContextRoom {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
        // Nobody sees a context at this path again.
        let _ = fs::remove_file(&self.index);
    }
}

/// Removes what builds that were killed have left.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let Ok(directory) = File::open(entry.path()) else { continue };
        if rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Files {
    /// Brings the files here. `fetch` brings what is at an address.
    ///
    /// # Errors
    /// `NotFound` when there is no Dockerfile, `InvalidInput` for one that cannot be read, and
    /// those of downloads.
    pub fn gather(
        engine: &Engine,
        fetch: &mut dyn Fetch,
        origin: Origin<'_>,
        recipe: Recipe,
    ) -> Result<Files> {
        let mut room;
        let mut text = None;
        let directory = match origin {
            Origin::Directory(directory) => return Files::of_directory(directory, recipe),
            Origin::Stream(input) => {
                room = ContextRoom::make(engine)?;
                text = unpack(input, &room.path)?;
                room.path.clone()
            }
            Origin::Address(address) => {
                room = ContextRoom::make(engine)?;
                match GitAddress::parse(address)? {
                    Some(git) => {
                        // The user names it, with what the user has.
                        let access = Access { trusted: true, ..Access::default() };
                        let commit = git.resolve(&access, &room.path)?;
                        let keep = git.keep_git_dir.unwrap_or(false);
                        git.checkout(&access, &commit, &room.path, keep)?.0
                    }
                    None => {
                        text = unpack(&mut *fetch.download(address)?, &room.path)?;
                        room.path.clone()
                    }
                }
            }
        };
        room.index = crate::index::path_of(engine, &directory);
        let root = robot_env_sys::fs::open_directory(&directory)?;
        let inside = |path: &str| -> Result<Option<String>> {
            // A link of a stranger's must not lead out.
            let found = robot_env_sys::fs::read_in_root(root.as_fd(), path, LIMIT as usize)?;
            let what = || format!("cannot read `{path}`: it is no UTF-8");
            found.map(|bytes| String::from_utf8(bytes).context(Kind::InvalidInput, what)).transpose()
        };
        let mut own_ignore = None;
        let (dockerfile, file_name) = match (text, recipe) {
            (Some(text), _) => (text, "Dockerfile".to_owned()),
            (None, Recipe::Text(text)) => (text, "-".to_owned()),
            (None, recipe) => {
                let names = match &recipe {
                    Recipe::Path { path, .. } => vec![path.to_string_lossy().into_owned()],
                    _ => vec!["Dockerfile".to_owned(), "dockerfile".to_owned()],
                };
                let mut found = None;
                for name in &names {
                    if let Some(text) = inside(name)? {
                        let own = format!("{name}{IGNORE}");
                        own_ignore = inside(&own)?.map(|ignore| (ignore, own));
                        found = Some((text, name.clone()));
                        break;
                    }
                }
                found.ok_or_else(|| {
                    let name = &names[0];
                    Error::not_found(format!("cannot read Dockerfile `{name}`: there is no such file"))
                })?
            }
        };
        let ignore = match own_ignore {
            Some(own) => Some(own),
            None => inside(IGNORE)?.map(|ignore| (ignore, IGNORE.to_owned())),
        };
        let (ignore, ignore_name) = ignore.unwrap_or_default();
        Ok(Files { context: directory, dockerfile, file_name, ignore, ignore_name, _room: Some(room) })
    }

    fn of_directory(directory: PathBuf, recipe: Recipe) -> Result<Files> {
        let mut own_ignore = None;
        let (dockerfile, file_name) = match recipe {
            Recipe::Text(text) => (text, "-".to_owned()),
            recipe => {
                let (path, shown) = match recipe {
                    Recipe::Path { path, shown } => (path, Some(shown)),
                    _ => (default_file(&directory), None),
                };
                let text = read(&path, shown.is_none())?;
                let file_name = shown.unwrap_or_else(|| name_of(&path));
                let own = PathBuf::from(format!("{}{IGNORE}", path.display()));
                own_ignore = read_ignore(&own)?.map(|ignore| (ignore, format!("{file_name}{IGNORE}")));
                (text, file_name)
            }
        };
        let ignore = match own_ignore {
            Some(own) => Some(own),
            None => read_ignore(&directory.join(IGNORE))?.map(|ignore| (ignore, IGNORE.to_owned())),
        };
        let (ignore, ignore_name) = ignore.unwrap_or_default();
        Ok(Files { context: directory, dockerfile, file_name, ignore, ignore_name, _room: None })
    }
}

/// What a context leaves out, where there is a file that says so.
///
/// # Errors
/// When it cannot be read: a build must not go on with files that were to stay out.
pub(crate) fn read_ignore(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error).io_context(|| format!("cannot read `{}`", path.display())),
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// `Dockerfile`, or `dockerfile` where there is only that.
fn default_file(directory: &Path) -> PathBuf {
    let path = directory.join("Dockerfile");
    let lower = directory.join("dockerfile");
    if !path.exists() && lower.exists() { lower } else { path }
}

fn read(path: &Path, default: bool) -> Result<String> {
    let shown = path.display();
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let out = Error::not_found(format!("cannot read Dockerfile `{shown}`: there is no such file"));
            return Err(if default { out.with_hint("name another one by `-f FILE`") } else { out });
        }
        Err(error) => return Err(error).io_context(|| format!("cannot read Dockerfile `{shown}`")),
    };
    if !found.is_file() {
        return Err(Error::invalid(format!("cannot read Dockerfile `{shown}`: it is no regular file")));
    }
    if found.len() > LIMIT {
        return Err(Error::invalid(format!(
            "cannot read Dockerfile `{shown}`: it has more than {LIMIT} bytes"
        )));
    }
    let bytes = fs::read(path).io_context(|| format!("cannot read Dockerfile `{shown}`"))?;
    String::from_utf8(bytes)
        .context(Kind::InvalidInput, || format!("cannot read Dockerfile `{shown}`: it is no UTF-8"))
}

/// Unpacks a tar, plain or compressed, into `room`; what is none is given back as a Dockerfile.
fn unpack(input: &mut dyn Read, room: &Path) -> Result<Option<String>> {
    let within = || "cannot read the context".to_owned();
    let mut decoder = Decompressed::new(input).map_err(|error| error.within("cannot read the context"))?;
    let mut start = vec![0u8; BLOCK];
    let mut filled = 0;
    while filled < start.len() {
        match decoder.read(&mut start[filled..]).io_context(within)? {
            0 => break,
            n => filled += n,
        }
    }
    start.truncate(filled);
    if is_tar(&start) {
        let root = robot_env_sys::fs::open_directory(room)?;
        let how = ExtractOptions {
            owner: ExtractOwner::Caller,
            plain: true,
            missing_end_ok: true,
            ..ExtractOptions::default()
        };
        extract(Cursor::new(start).chain(decoder), root.as_fd(), &how)
            .map_err(|error| error.within("cannot unpack the context"))?;
        return Ok(None);
    }
    decoder.take(LIMIT - filled as u64).read_to_end(&mut start).io_context(within)?;
    String::from_utf8(start)
        .map(Some)
        .context(Kind::InvalidInput, || "the context is neither a tar nor a Dockerfile".into())
}

/// Whether the head of a stream is a tar's. Nothing but zeros is an empty tar's.
fn is_tar(start: &[u8]) -> bool {
    let Ok(block) = <&[u8; BLOCK]>::try_from(start) else { return false };
    block.iter().all(|byte| *byte == 0) || is_header(block)
}

/// Whether this names files by an address, as opposed to a path.
pub fn is_address(source: &str) -> bool {
    !matches!(GitAddress::parse(source), Ok(None))
        || source.starts_with("http://")
        || source.starts_with("https://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_paths() {
        for (text, want) in [
            (".", false),
            ("a.git", false),
            ("git@host:a/b", true),
            ("https://host/a.git#main:dir", true),
            ("https://host/a.tar", true),
            ("github.com/a/b", true),
            ("/a/https:", false),
        ] {
            assert_eq!(is_address(text), want, "{text}");
        }
    }

    #[test]
    fn tars_are_told_from_dockerfiles() {
        let mut block = vec![0u8; BLOCK];
        assert!(is_tar(&block));
        block[..4].copy_from_slice(b"file");
        block[148..156].copy_from_slice(b"0000000\0");
        assert!(!is_tar(&block));
        let sum: u32 = block[..148].iter().chain(&block[156..]).map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        assert!(is_tar(&block));
        assert!(!is_tar(b"FROM scratch\n") && !is_tar(&[b'#'; BLOCK]));
    }
}
