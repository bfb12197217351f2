//! The socket: made here, or handed over by systemd.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use robot_env_diag::{Error, IoContext, Kind, Result};
use rustix::fs::{Gid, Mode};

/// A socket that is listened on. The file goes when this is dropped, if it was made here.
pub(crate) struct Socket {
    pub(crate) listener: tokio::net::UnixListener,
    made: Option<(PathBuf, u64)>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        use std::os::unix::fs::MetadataExt;
        if let Some((path, inode)) = &self.made
            // Another server may have replaced it.
            && fs::symlink_metadata(path).is_ok_and(|found| found.ino() == *inode)
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// Listens at `path`: for the user alone, or for a group, too. A socket that nobody listens on any
/// more is replaced.
///
/// # Errors
/// `Conflict` when somebody listens there, or something else is there.
pub(crate) fn bind(path: &Path, group: Option<&str>) -> Result<Socket> {
    use std::os::unix::fs::MetadataExt;
    let failed = || format!("cannot listen on `{}`", path.display());
    let gid = group.map(group_id).transpose()?;
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(Error::new(Kind::Conflict, format!("{}: it exists and is no socket", failed())));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(Error::new(Kind::Conflict, format!("{}: another server listens there", failed()))
                .with_hint("choose another socket with --socket PATH"));
        }
        Ok(_) => fs::remove_file(path).io_context(failed)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).io_context(failed),
    }
    // Nobody else can connect before the mode is set.
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = bound.io_context(failed)?;
    if let Some(gid) = gid {
        rustix::fs::chown(path, None, Some(Gid::from_raw(gid)))
            .map_err(std::io::Error::from)
            .io_context(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).io_context(failed)?;
    }
    let inode = fs::symlink_metadata(path).map_or(0, |found| found.ino());
    Ok(Socket { listener: into_async(listener)?, made: Some((path.to_owned(), inode)) })
}

/// A socket that systemd listens on.
///
/// # Errors
/// `InvalidInput` for a descriptor that is no such socket.
pub(crate) fn handed_over(fd: OwnedFd) -> Result<Socket> {
    let domain = rustix::net::sockopt::socket_domain(&fd);
    let listens = rustix::net::sockopt::socket_acceptconn(&fd);
    if domain != Ok(rustix::net::AddressFamily::UNIX) || listens != Ok(true) {
        return Err(Error::invalid("cannot serve on a socket of systemd: it is no listening unix socket")
            .with_hint("TCP is not served: ListenStream= names the path of a socket"));
    }
    Ok(Socket { listener: into_async(UnixListener::from(fd))?, made: None })
}

fn into_async(listener: UnixListener) -> Result<tokio::net::UnixListener> {
    listener.set_nonblocking(true).io_context(|| "cannot listen".into())?;
    tokio::net::UnixListener::from_std(listener).io_context(|| "cannot listen".into())
}

/// The number of a group by its name or number.
fn group_id(group: &str) -> Result<u32> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let number = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?
    });
    number.ok_or_else(|| {
        Error::not_found(format!("cannot give the socket to group `{group}`: there is no such group"))
    })
}
