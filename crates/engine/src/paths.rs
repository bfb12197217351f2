//! Where the engine keeps things.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use robot_env_diag::{IoContext, Result};
use robot_env_spec::ContainerId;

/// The two roots and everything below them that is the engine's own.
///
/// ```text
/// ROOT/containers/<id>/{container.json, state.json, lock, <id>-json.log}
/// ROOT/containers/by-name/<name>     a symbolic link that says the id (in base64)
/// ROOT/volumes/<name>/{volume.json, _data/}
/// ROOT/networks/<name>.json
/// ROOT/removed/<until>-<id>/           what can come back: see `undo.rs`
/// RUN/containers/<id>/{monitor.lock, attach.sock, config.json, rootfs/,
///                      hosts, hostname, resolv.conf}
/// RUN/networks/{<id>.json, lock, rest.lock, forwarding}
/// RUN/{events.log, claims.lock, names.lock, seccomp/}
/// ```
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
    run: PathBuf,
}

impl Paths {
    /// `root` holds data, `run` holds what a reboot may wipe.
    pub fn new(root: PathBuf, run: PathBuf) -> Self {
        Paths { root, run }
    }

    /// The data root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The run root.
    pub fn run_root(&self) -> &Path {
        &self.run
    }

    /// All containers.
    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// One container's data.
    pub fn container(&self, id: &ContainerId) -> PathBuf {
        self.containers().join(id.as_str())
    }

    /// One container's run state.
    pub fn container_run(&self, id: &ContainerId) -> PathBuf {
        self.run.join("containers").join(id.as_str())
    }

    /// Names of containers.
    pub fn names(&self) -> PathBuf {
        self.containers().join("by-name")
    }

    /// Held, shared, while a container's directory is made and locked; and by whoever takes such a
    /// directory, or a name, away from a container that was never whole.
    pub fn names_lock(&self) -> PathBuf {
        self.run.join("names.lock")
    }

    /// Held shared by whoever makes a container, and exclusively by whoever takes away what is unused.
    pub fn claims(&self) -> PathBuf {
        self.run.join("claims.lock")
    }

    /// All volumes.
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// What was removed and can come back.
    pub fn removed(&self) -> PathBuf {
        self.root.join("removed")
    }

    /// Builds that are at work, each a directory that its process holds locked.
    pub fn builds(&self) -> PathBuf {
        self.run.join("builds")
    }

    /// What networks there are.
    pub fn networks(&self) -> PathBuf {
        self.root.join("networks")
    }

    /// Who is in them now.
    pub fn live_networks(&self) -> PathBuf {
        self.run.join("networks")
    }

    /// Compiled seccomp filters, by what they were compiled from.
    pub fn seccomp(&self) -> PathBuf {
        self.run.join("seccomp")
    }

    /// The log of events.
    pub fn events(&self) -> PathBuf {
        self.run.join("events.log")
    }

    /// A container's log file.
    pub fn log(&self, id: &ContainerId) -> PathBuf {
        self.container(id).join(format!("{id}-json.log"))
    }

    /// Makes both roots and the directories right below them, readable by the owner only where
    /// other users have no business.
    pub fn make(&self) -> Result<()> {
        make_directory(&self.root, 0o711)?;
        make_directory(&self.run, 0o711)?;
        make_directory(&self.containers(), 0o710)?;
        make_directory(&self.names(), 0o710)?;
        make_directory(&self.volumes(), 0o711)?;
        make_directory(&self.run.join("containers"), 0o710)?;
        make_directory(&self.seccomp(), 0o700)
    }
}

/// Makes `path` and the directories above it; an existing one is left as it is.
pub(crate) fn make_directory(path: &Path, mode: u32) -> Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .io_context(|| format!("cannot set permissions of `{}`", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match path.parent() {
            Some(parent) if parent != path => {
                make_directory(parent, 0o755)?;
                make_directory(path, mode)
            }
            _ => Err(error).io_context(|| format!("cannot make directory `{}`", path.display())),
        },
        Err(error) => Err(error).io_context(|| format!("cannot make directory `{}`", path.display())),
    }
}
