//! Running from a program file that nobody can write.
//!
//! A container can get hold of the file that the runtime runs from: an entrypoint of
//! `#!/proc/self/exe`, or the `/proc/PID/exe` of an `exec` that has just joined. As root of the
//! host's user namespace it could then overwrite it (CVE-2019-5736). So the program executes itself
//! once more from a read-only overlay over its directory, which exists nowhere but behind one
//! descriptor and has no writable layer; or, where there is no overlay, from a sealed copy in
//! memory. The overlay shares the page cache with the file and costs one execve.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use robot_env_diag::{Error, IoContext, Kind, Result};
use robot_env_sys::mount::{self, OverlayRequest};
use robot_env_sys::{namespace, process};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags};

const OWN: &str = "/proc/self/exe";
const OVERLAYFS_SUPER_MAGIC: u64 = 0x794c_7630;

/// Directories that may be the overlay's second layer, which it must have; nothing is read there.
const SECOND: [&str; 3] = ["/sys/kernel", "/dev/shm", "/run"];

/// Executes the calling program again from a file that nobody can write, with the same arguments,
/// environment and descriptors; comes back at once if it runs from one already. To be called early,
/// by commands that put processes into containers.
///
/// Afterwards `/proc/self/exe` is the way to the program; the path that it shows does not exist.
///
/// # Errors
/// Where neither an overlay nor a sealed copy can be made, or execve fails; the process is as it
/// was.
pub fn enter() -> Result<()> {
    if is_shielded() {
        // execveat has named the process after a descriptor.
        if let Some(name) = std::env::args_os().next().as_deref().map(Path::new).and_then(Path::file_name) {
            let name = CString::new(name.as_bytes()).unwrap_or_default();
            let _ = rustix::thread::set_name(&name);
        }
        return Ok(());
    }
    let program = program()?;
    let text = |text: &OsStr| CString::new(text.as_bytes()).unwrap_or_default();
    let args: Vec<CString> = std::env::args_os().map(|arg| text(&arg)).collect();
    let env: Vec<CString> = std::env::vars_os()
        .map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            CString::new(name.into_vec()).unwrap_or_default()
        })
        .collect();
    let failure = process::execute_fd(program.as_fd(), &args, &env);
    Err(Error::from(failure).within("cannot run from a protected copy of this program"))
}

/// The calling program as a file that nobody can write, close-on-exec: what to give to
/// [`process::execute_fd`] in a child that puts processes into containers, so that the caller need
/// not execute itself again. The caller's own file, opened once more, where it is shielded already.
///
/// Costs one overlay mount (about 0.1 ms), or a copy of the program where overlay is refused (an
/// ordinary user outside a user namespace of their own, or inside one before kernel 5.11).
///
/// # Errors
/// Where neither an overlay nor a sealed copy can be made.
pub fn program() -> Result<OwnedFd> {
    if is_shielded() {
        return open_own();
    }
    by_overlay().or_else(|_| by_copy())
}

/// Whether the program's file cannot be written by anybody.
pub fn is_shielded() -> bool {
    let Ok(own) = open_own() else {
        return false;
    };
    if rustix::fs::fcntl_get_seals(&own).is_ok_and(|seals| seals.contains(SealFlags::WRITE | SealFlags::SEAL))
    {
        return true;
    }
    let overlay = rustix::fs::fstatfs(&own).is_ok_and(|s| s.f_type as u64 == OVERLAYFS_SUPER_MAGIC);
    // A read-only root file system of a container is such an overlay too, but its path exists.
    overlay
        && rustix::fs::fstatvfs(&own).is_ok_and(|s| s.f_flag.contains(StatVfsMountFlags::RDONLY))
        && !at_its_path(&own)
}

fn open_own() -> Result<OwnedFd> {
    rustix::fs::open(OWN, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .io_context(|| format!("open({OWN})"))
}

/// Whether the program's path leads to its file.
fn at_its_path(own: &OwnedFd) -> bool {
    let found = rustix::fs::readlink(OWN, Vec::new()).and_then(rustix::fs::stat);
    match (found, rustix::fs::fstat(own)) {
        (Ok(found), Ok(own)) => (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino),
        _ => false,
    }
}

/// The program in a read-only overlay.
fn by_overlay() -> Result<OwnedFd> {
    let path = PathBuf::from(std::ffi::OsString::from_vec(
        rustix::fs::readlink(OWN, Vec::new()).io_context(|| format!("readlink({OWN})"))?.into_bytes(),
    ));
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(Kind::Unsupported, "the program has no directory"));
    };
    let open = |path: &Path| {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .io_context(|| format!("cannot open `{}`", path.display()))
    };
    let lower = open(directory)?;
    let mut last = Error::new(Kind::Unsupported, "there is no second layer");
    // In a user namespace nothing but `userxattr` is allowed; kernels before 5.11 do not know it.
    // What is mounted below `/sys/kernel` is locked there, and such a layer is refused.
    let userxattr = namespace::is_user_namespace();
    let mut seconds = SECOND;
    if userxattr {
        seconds.rotate_left(1);
    }
    for second in seconds {
        let made = open(Path::new(second)).and_then(|second| {
            let lowers = [lower.as_fd(), second.as_fd()];
            Ok(mount::overlay(&OverlayRequest { lowers: &lowers, upper: None, volatile: false, userxattr })?)
        });
        match made {
            Ok(tree) => return same_file(&tree, name),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The file `name` of the overlay, if it is the program's own: the path may have got another one.
fn same_file(tree: &OwnedFd, name: &OsStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::openat(tree, name, flags, Mode::empty()).io_context(|| "open(overlay)".into())?;
    let own =
        rustix::fs::statat(CWD, OWN, rustix::fs::AtFlags::empty()).io_context(|| format!("stat({OWN})"))?;
    let stat = rustix::fs::fstat(&found).io_context(|| "fstat(overlay)".into())?;
    let key = |s: &rustix::fs::Stat| {
        (s.st_ino, s.st_size, s.st_mtime, s.st_mtime_nsec, s.st_ctime, s.st_ctime_nsec)
    };
    if key(&own) == key(&stat) {
        Ok(found)
    } else {
        Err(Error::new(Kind::Conflict, "the program was replaced"))
    }
}

/// A sealed copy of the program in memory.
fn by_copy() -> Result<OwnedFd> {
    let own = open_own()?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Where vm.memfd_noexec is set, only a file that asks for it may be executed; kernels before
    // 6.3 do not know the flag.
    let copy = rustix::fs::memfd_create("robot-env", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("robot-env", flags))
        .io_context(|| "memfd_create()".into())?;
    while rustix::fs::sendfile(&copy, &own, None, 1 << 24).io_context(|| "sendfile()".into())? > 0 {}
    rustix::fs::fchmod(&copy, Mode::from_raw_mode(0o555)).io_context(|| "fchmod(memfd)".into())?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals).io_context(|| "fcntl(F_ADD_SEALS)".into())?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_the_program_and_cannot_be_written() {
        let copy = by_copy().unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&copy));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), std::fs::metadata(OWN).unwrap().len());
        assert!(rustix::io::write(&copy, b"x").is_err());
        assert!(
            std::fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|mut f| std::io::Write::write(&mut f, b"x"))
                .is_err()
        );
    }

    #[test]
    fn privileged_the_overlay_shows_the_program_and_cannot_be_written() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let file = by_overlay().unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(OWN).unwrap());
        let refused = std::fs::OpenOptions::new().write(true).open(&path).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        assert!(!is_shielded(), "the test itself runs from its file");
    }

    const CHILD: &str = "ROBOT_ENV_TEST_SHIELDED";

    /// Runs one test of this file, from `program`.
    fn passes_under(program: &OwnedFd, test: &str) -> bool {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(program));
        let output = std::process::Command::new(path)
            .args(["--exact", &format!("shield::tests::{test}")])
            .env(CHILD, "1")
            .output()
            .unwrap();
        print!("{}", String::from_utf8_lossy(&output.stdout));
        output.status.success() && String::from_utf8_lossy(&output.stdout).contains("1 passed")
    }

    #[test]
    fn what_runs_from_it_knows_that_it_is_shielded() {
        if std::env::var_os(CHILD).is_some() {
            assert!(is_shielded());
            assert!(passes_once_more());
            return;
        }
        for program in [program(), by_copy()] {
            assert!(passes_under(&program.unwrap(), "what_runs_from_it_knows_that_it_is_shielded"));
        }
    }

    /// A shielded program's own file serves as it is.
    fn passes_once_more() -> bool {
        let again = rustix::fs::fstat(program().unwrap()).unwrap();
        let own = rustix::fs::fstat(open_own().unwrap()).unwrap();
        (again.st_dev, again.st_ino) == (own.st_dev, own.st_ino)
    }
}
