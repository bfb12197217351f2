//! Opening and making a store; the `format` file.

use std::os::fd::OwnedFd;
use std::sync::Mutex;

use robot_env_diag::{Error, Kind, Result};
use robot_env_sys::CallError;
use robot_env_sys::fs::{self, Durability};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::{OverlayXattr, Store, StoreOptions};

/// The format that this version reads and writes.
const FORMAT: u32 = 1;
const PREFIX: &str = "robot-env store ";

/// The directories of a store; `spread` ones get their sub-directories spread over the disk.
const DIRECTORIES: &[(&str, bool)] = &[
    ("content/sha256", false),
    ("content/sha512", false),
    ("content/partial", false),
    ("images", false),
    ("names", false),
    ("kept", false),
    ("layers", true),
    ("staging", true),
    ("snapshots", true),
    ("leases", false),
    ("trash", false),
    ("damaged", false),
    ("containers", false),
    ("volumes", true),
];

/// See [`Store::open`].
pub(crate) fn open(options: &StoreOptions) -> Result<Store> {
    let shown = options.root.display();
    let wrap =
        |verb: &str, error: CallError| Error::from(error).within(format!("cannot {verb} store `{shown}`"));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = match rustix::fs::openat(CWD, &options.root, flags, Mode::empty()) {
        Ok(root) => root,
        Err(Errno::NOENT) if options.create => make_root(options)?,
        Err(Errno::NOENT) => {
            return Err(Error::not_found(format!("cannot open store `{shown}`: it does not exist")));
        }
        Err(errno) => return Err(wrap("open", CallError::new(format!("open({shown})"), errno))),
    };
    let text = match fs::read_bounded(&root, "format", 4096) {
        Ok(text) => text,
        Err(error) if error.errno() == Errno::NOENT && options.create => {
            make(options, &root)?;
            fs::read_bounded(&root, "format", 4096).map_err(|error| wrap("open", error))?
        }
        Err(error) if error.errno() == Errno::NOENT => {
            return Err(Error::not_found(format!(
                "cannot open store `{shown}`: the directory holds no store"
            )));
        }
        Err(error) => return Err(wrap("open", error)),
    };
    let overlay_xattr = check(options, &String::from_utf8_lossy(&text))?;
    Ok(Store { root, path: options.root.clone(), overlay_xattr, leases: Mutex::new(Vec::new()) })
}

fn check(options: &StoreOptions, text: &str) -> Result<OverlayXattr> {
    let shown = options.root.display();
    let corrupt =
        || Error::new(Kind::Corrupt, format!("cannot open store `{shown}`: its file `format` is damaged"));
    let mut words = text.strip_prefix(PREFIX).ok_or_else(corrupt)?.split_whitespace();
    let version: u32 = words.next().and_then(|word| word.parse().ok()).ok_or_else(corrupt)?;
    if version > FORMAT {
        return Err(Error::new(
            Kind::Unsupported,
            format!("cannot open store `{shown}`: it has format {version}, and this version knows formats up to {FORMAT}"),
        )
        .with_hint("use the newer robot-env that made it, or another store with `--root`"));
    }
    let overlay = words.find_map(|word| word.strip_prefix("overlay=")).ok_or_else(corrupt)?;
    let found = [OverlayXattr::Trusted, OverlayXattr::User]
        .into_iter()
        .find(|x| x.word() == overlay)
        .ok_or_else(corrupt)?;
    if found != options.overlay_xattr {
        let (made_by, hint) = match found {
            OverlayXattr::Trusted => ("root", "run the command as root, or use another store with `--root`"),
            OverlayXattr::User => {
                ("a user without root", "run the command as that user, or use another store with `--root`")
            }
        };
        return Err(Error::new(
            Kind::Conflict,
            format!("cannot open store `{shown}`: it was made by {made_by}"),
        )
        .with_hint(hint));
    }
    Ok(found)
}

fn make_root(options: &StoreOptions) -> Result<OwnedFd> {
    let shown = options.root.display();
    // The store's own directory is closed to others (set-user-id programs of images lie in it);
    // those above it are made as everyone makes directories.
    let failed = |error: CallError| Error::from(error).within(format!("cannot make store `{shown}`"));
    if let Some(parent) = options.root.parent() {
        std::fs::create_dir_all(if parent.as_os_str().is_empty() { ".".as_ref() } else { parent }).map_err(
            |e| {
                Error::new(Kind::of_io(&e), format!("cannot make store `{shown}`"))
                    .because(Error::new(Kind::of_io(&e), format!("mkdir({}): {e}", parent.display())))
            },
        )?;
    }
    match rustix::fs::mkdirat(CWD, &options.root, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed(CallError::new(format!("mkdir({shown})"), errno))),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, &options.root, flags, Mode::empty())
        .map_err(|errno| failed(CallError::new(format!("open({shown})"), errno)))
}

/// Makes the tree; `format` comes last. Any number of processes may do it at once, and a killed one
/// is taken over from.
fn make(options: &StoreOptions, root: &OwnedFd) -> Result<()> {
    let shown = options.root.display();
    let failed = |error: CallError| Error::from(error).within(format!("cannot make store `{shown}`"));
    let ours = |name: &String| {
        name == "lock"
            || name == "lock.images"
            || name == "format"
            || name == "lost+found"
            || name.starts_with(".tmp-")
            || DIRECTORIES.iter().any(|(path, _)| path.split('/').next() == Some(name))
    };
    if let Some(foreign) = fs::names(root).map_err(failed)?.iter().find(|name| !ours(name)) {
        return Err(Error::new(
            Kind::Conflict,
            format!("cannot make store `{shown}`: the directory holds something else, such as `{foreign}`"),
        ));
    }
    for (path, spread) in DIRECTORIES {
        let dir = fs::mkdir_all_at(root, path, 0o700).map_err(failed)?;
        if *spread {
            fs::spread_directories_at(dir);
        }
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for name in ["lock", "lock.images"] {
        rustix::fs::openat(root, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| failed(CallError::new(format!("create({shown}/{name})"), errno)))?;
    }
    let text = format!("{PREFIX}{FORMAT} overlay={}\n", options.overlay_xattr.word());
    fs::write_atomic(root, root, "format", text.as_bytes(), 0o600, Durability::Sync).map_err(failed)
}
