//! Where the engine keeps things unless it is told otherwise.

use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use robot_env_diag::{Error, IoContext, Kind, Result, Within};

use super::record::{NamespaceId, Record, find_any};
use super::{is_initial, maps_of, to_outside};

/// The two roots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// Data.
    pub data: PathBuf,
    /// Run state, which a reboot may wipe.
    pub run: PathBuf,
}

/// The roots of the calling process, before or after [`super::enter`]:
///
/// | | data | run |
/// | --- | --- | --- |
/// | root | `/var/lib/robot-env` | `/run/robot-env` |
/// | a user | `$XDG_DATA_HOME/robot-env`, else `$HOME/.local/share/robot-env` | `$XDG_RUNTIME_DIR/robot-env`, else `/run/user/UID/robot-env`, else `/tmp/robot-env-UID` |
///
/// A variable counts when it is an absolute path; a run directory that is not the user's own is
/// passed over (after `su`, the variable names another user's), and the one below `/tmp` is made
/// here, mode 0700, and refused unless it is such a directory of the user's. One that is in use (its
/// namespace lives: a container was started by a job without a login session) stays in use, so that
/// a later login finds the container. What `data` and `run`
/// name (`--root`, `--run-root`; relative to `directory`) counts first. `variable` looks a variable
/// of the environment up.
///
/// # Errors
/// Where HOME is not set, or something else stands in the place of the directory below `/tmp`.
pub fn roots(
    data: Option<&Path>,
    run: Option<&Path>,
    directory: &Path,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Roots> {
    let given = Given {
        data: data.map(|path| directory.join(path)),
        run: run.map(|path| directory.join(path)),
        variable: &variable,
    };
    let euid = rustix::process::geteuid();
    let user = if euid.is_root() {
        let (users, _) = maps_of("self")?;
        let outside = to_outside(&users, 0).filter(|_| !is_initial(&users));
        // Root of some user namespace: whose it is says the record of the one who made it.
        outside.filter(|user| {
            let run = given.run.clone().or_else(|| given.run_of(*user, false).ok());
            run.and_then(|run| Record::load(&run)).is_some_and(|r| r.namespace == NamespaceId::own())
        })
    } else {
        Some(euid.as_raw())
    };
    match user {
        Some(user) => Ok(Roots { data: given.data_of_user()?, run: given.run_of(user, true)? }),
        None => Ok(Roots {
            data: given.data.unwrap_or_else(|| "/var/lib/robot-env".into()),
            run: given.run.unwrap_or_else(|| "/run/robot-env".into()),
        }),
    }
}

struct Given<'a> {
    data: Option<PathBuf>,
    run: Option<PathBuf>,
    variable: &'a dyn Fn(&str) -> Option<OsString>,
}

impl Given<'_> {
    fn absolute(&self, name: &str) -> Option<PathBuf> {
        (self.variable)(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    fn data_of_user(&self) -> Result<PathBuf> {
        if let Some(data) = &self.data {
            return Ok(data.clone());
        }
        let home = || self.absolute("HOME").map(|home| home.join(".local/share"));
        let base = self.absolute("XDG_DATA_HOME").or_else(home);
        base.map(|base| base.join("robot-env")).ok_or_else(|| {
            Error::invalid("cannot find the data root: HOME is not set")
                .with_hint("name one with --root DIRECTORY")
        })
    }

    fn run_of(&self, user: u32, make: bool) -> Result<PathBuf> {
        if let Some(run) = &self.run {
            return Ok(run.clone());
        }
        let fallback = PathBuf::from(format!("/tmp/robot-env-{user}"));
        if private(&fallback, false).is_ok()
            && Record::load(&fallback).is_some_and(|r| find_any(&r).is_some())
        {
            return Ok(fallback);
        }
        let candidates = [self.absolute("XDG_RUNTIME_DIR"), Some(PathBuf::from(format!("/run/user/{user}")))];
        if let Some(found) = candidates.into_iter().flatten().find(|path| is_own(path)) {
            return Ok(found.join("robot-env"));
        }
        private(&fallback, make).within(|| format!("cannot use run root `{}`", fallback.display()))?;
        Ok(fallback)
    }
}

fn is_own(path: &Path) -> bool {
    let euid = rustix::process::geteuid().as_raw();
    std::fs::metadata(path).is_ok_and(|stat| stat.is_dir() && stat.uid() == euid)
}

/// A directory in a place where anybody may make one: made if `make`, and then looked at.
fn private(path: &Path, make: bool) -> Result<()> {
    if make {
        match std::fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).io_context(|| "cannot make it".into());
            }
            _ => {}
        }
    }
    let stat = std::fs::symlink_metadata(path).io_context(|| "cannot look at it".into())?;
    let wrong = if !stat.is_dir() {
        "it is no directory"
    } else if stat.uid() != rustix::process::geteuid().as_raw() {
        "it belongs to another user"
    } else if stat.mode() & 0o077 != 0 {
        "other users may enter it"
    } else {
        return Ok(());
    };
    Err(Error::new(Kind::Denied, wrong).with_hint("name another one with --run-root DIRECTORY"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use robot_env_testkit::temporary::TemporaryDirectory;

    #[test]
    fn a_directory_in_a_public_place_is_looked_at() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let place = TemporaryDirectory::new("rootless-private");
        let made = place.join("made");
        assert!(private(&made, false).is_err());
        private(&made, true).unwrap();
        private(&made, true).unwrap();
        assert_eq!(std::fs::metadata(&made).unwrap().mode() & 0o7777, 0o700);
        std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o750)).unwrap();
        symlink(place.path(), place.join("link")).unwrap();
        std::fs::write(place.join("file"), "").unwrap();
        let mut bad = vec![("made", "other users may enter it"), ("link", "it is no directory")];
        bad.push(("file", "it is no directory"));
        if rustix::process::geteuid().is_root() {
            private(&place.join("foreign"), true).unwrap();
            std::os::unix::fs::chown(place.join("foreign"), Some(1), None).unwrap();
            bad.push(("foreign", "it belongs to another user"));
        }
        for (name, wrong) in bad {
            assert_eq!(private(&place.join(name), true).unwrap_err().message(), wrong, "{name}");
        }
    }

    #[test]
    fn what_a_user_says_counts_before_the_defaults() {
        let place = TemporaryDirectory::new("rootless-roots");
        let foreign = place.join("none");
        let variable = |name: &str| -> Option<OsString> {
            match name {
                "HOME" => Some("/home/ada".into()),
                "XDG_DATA_HOME" => Some("relative".into()),
                "XDG_RUNTIME_DIR" => Some(place.path().into()),
                _ => None,
            }
        };
        let given = Given { data: None, run: None, variable: &variable };
        assert_eq!(given.data_of_user().unwrap(), Path::new("/home/ada/.local/share/robot-env"));
        assert_eq!(given.run_of(4_000_000_000, false).unwrap(), place.join("robot-env"));
        let set = |name: &str| -> Option<OsString> {
            match name {
                "XDG_DATA_HOME" => Some("/data".into()),
                "XDG_RUNTIME_DIR" => Some(foreign.clone().into()),
                _ => None,
            }
        };
        let given = Given { data: None, run: None, variable: &set };
        assert_eq!(given.data_of_user().unwrap(), Path::new("/data/robot-env"));
        let error = given.run_of(4_000_000_000, false).unwrap_err();
        assert_eq!(error.message(), "cannot use run root `/tmp/robot-env-4000000000`");
        let given = Given { data: None, run: None, variable: &|_: &str| None };
        assert_eq!(given.data_of_user().unwrap_err().kind(), Kind::InvalidInput);
        let told = roots(Some(Path::new("d")), Some(Path::new("/r")), Path::new("/work"), |_| None).unwrap();
        assert_eq!(told, Roots { data: "/work/d".into(), run: "/r".into() });
    }
}
