//! The live values that `doctor` and `setup` look at.

use std::collections::BTreeMap;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use robot_env_diag::{Error, IoContext, Kind, Result};
use robot_env_robot::{Live, Mirror};

use crate::app::App;

/// How long a mirror may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks at the process and the machine, as `user` where that is another one. With `mirrors` the
/// configured mirrors are asked.
pub(crate) fn look(app: &App, user: Option<&str>, mirrors: bool) -> Result<Live> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let own = rustix::process::geteuid().as_raw();
    let entries = || {
        passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, id) = (fields.next()?, fields.nth(1)?.parse::<u32>().ok()?);
            Some((name, id))
        })
    };
    let (name, uid) = match user {
        Some(name) => entries().find(|(known, _)| *known == name).ok_or_else(|| {
            robot_env_diag::Error::not_found(format!("there is no user `{name}` in /etc/passwd"))
        })?,
        None => entries().find(|(_, id)| *id == own).unwrap_or(("", own)),
    };
    let groups = if user.is_some() {
        groups_of(name)
    } else {
        let mut all: Vec<u32> =
            rustix::process::getgroups().unwrap_or_default().iter().map(|gid| gid.as_raw()).collect();
        all.push(rustix::process::getegid().as_raw());
        all
    };
    let environment = app.ambient().environment.iter();
    let data_root = app.roots()?.data;
    let existing = data_root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(existing).ok();
    Ok(Live {
        uid,
        user: name.to_owned(),
        groups,
        environment: environment
            .filter_map(|(name, value)| Some((name.to_str()?.to_owned(), value.to_str()?.to_owned())))
            .collect(),
        hard_limits: hard_limits(&std::fs::read_to_string("/proc/self/limits").unwrap_or_default()),
        space: stat.as_ref().map(|s| (s.f_bavail * s.f_frsize, s.f_blocks * s.f_frsize)),
        inodes: stat.as_ref().map(|s| (s.f_favail, s.f_files)),
        data_root,
        mirrors: if mirrors { ask_mirrors(app) } else { Vec::new() },
        configuration: app.configuration().findings.clone(),
        closed: ["/dev/net/tun", "/dev/fuse"]
            .into_iter()
            .filter(|path| {
                use rustix::fs::{Access, access};
                let opened = access(*path, Access::READ_OK | Access::WRITE_OK);
                matches!(opened, Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM))
            })
            .collect(),
        program: std::env::current_exe().unwrap_or_else(|_| "/usr/bin/robot-env".into()),
    })
}

fn groups_of(name: &str) -> Vec<u32> {
    let text = std::fs::read_to_string("/etc/group").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            fields.get(3)?.split(',').any(|member| member == name).then(|| fields[2].parse().ok())?
        })
        .collect()
}

fn hard_limits(text: &str) -> BTreeMap<String, u64> {
    let names = [("Max realtime priority", "rtprio"), ("Max locked memory", "memlock")];
    names
        .iter()
        .filter_map(|(label, name)| {
            let rest = text.lines().find_map(|line| line.strip_prefix(label))?;
            Some(((*name).to_owned(), rest.split_whitespace().nth(1)?.parse().ok()?))
        })
        .collect()
}

/// Opens a connection to each mirror of the configuration.
fn ask_mirrors(app: &App) -> Vec<Mirror> {
    let mut out = Vec::new();
    for section in app.configuration().registries() {
        for (name, _) in section.mirrors.unwrap_or_default() {
            let answer = connect(&name);
            out.push(Mirror { name, registry: section.name.clone(), answer });
        }
    }
    out
}

fn connect(mirror: &str) -> std::result::Result<u128, String> {
    let (scheme, rest) = mirror.split_once("://").unwrap_or(("https", mirror));
    let authority = rest.split('/').next().unwrap_or_default();
    let port = if scheme == "http" { 80 } else { 443 };
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port { authority.to_owned() } else { format!("{authority}:{port}") };
    let began = Instant::now();
    let addresses = address.to_socket_addrs().map_err(|error| format!("cannot look up its name: {error}"))?;
    let mut why = "its name has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => return Ok(began.elapsed().as_millis()),
            Err(error) => why = format!("connect({address}): {error}"),
        }
    }
    Err(why)
}

/// Whether an ordinary user can run lines that need root, if there are any.
///
/// # Errors
/// `Denied` where `sudo` is not installed.
pub(crate) fn check_sudo(app: &App, needed: bool) -> Result<()> {
    let path = app.ambient().variable("PATH").unwrap_or_default();
    let mut places = path.split(':').filter(|place| place.starts_with('/'));
    if !needed
        || rustix::process::geteuid().is_root()
        || places.any(|place| Path::new(place).join("sudo").is_file())
    {
        return Ok(());
    }
    Err(Error::new(Kind::Denied, "cannot change this machine: root is needed, and `sudo` is not installed")
        .with_hint("run the same command as root"))
}

/// Runs a line in a shell; root needs no `sudo`. Whether it worked.
pub(crate) fn run_line(line: &str) -> Result<bool> {
    let line = if rustix::process::geteuid().is_root() { line.replace("sudo ", "") } else { line.to_owned() };
    let status = Command::new("/bin/sh").args(["-c", &line]).status();
    Ok(status.io_context(|| "cannot run `/bin/sh`".into())?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max locked memory         8388608              unlimited            bytes\n\
                    Max realtime priority     0                    95                   \n";
        assert_eq!(hard_limits(text), [("rtprio".to_owned(), 95)].into());
    }

    #[test]
    fn mirrors_answer_or_say_why_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(connect(&format!("http://127.0.0.1:{port}/x")).is_ok());
        drop(listener);
        assert!(connect(&format!("127.0.0.1:{port}")).unwrap_err().contains("refused"));
    }
}
