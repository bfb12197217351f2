//! The programs that join a network namespace to the host's network for somebody who is not root:
//! `pasta` (package passt), else `slirp4netns`.

use std::ffi::CString;
use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use robot_env_diag::{Error, Kind, Result};
use robot_env_network::subnet::Subnet;

use super::seed::{find, said_by};

/// The interface that leads out.
pub(crate) const INTERFACE: &str = "tap0";
const TUN: &str = "/dev/net/tun";
/// From this day on a pasta is taken before slirp4netns.
const GOOD_PASTA: u32 = 20_240_101;

/// Which program it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Helper {
    /// It copies between sockets and needs no translation of its own.
    Pasta,
    /// A TCP/IP stack of its own; slower.
    Slirp,
    /// A pasta of 2023: what comes to a client that has closed its half of a connection, it repeats
    /// without end (Debian 12's).
    OldPasta,
}

/// A program that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) helper: Helper,
    pub(crate) path: PathBuf,
}

impl Helper {
    /// The name of its file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Helper::Pasta | Helper::OldPasta => "pasta",
            Helper::Slirp => "slirp4netns",
        }
    }

    /// What it is started with: `namespace` is a path to the network namespace that it joins to its
    /// own, in the range `subnet`, of which the hundredth address is the namespace's and the second
    /// one is the gateway.
    pub(crate) fn arguments(self, namespace: &Path, subnet: Subnet) -> Vec<CString> {
        let at = |offset: u128| {
            subnet.nth(offset).map_or_else(|| Ipv4Addr::UNSPECIFIED.to_string(), |a| a.to_string())
        };
        let text = |text: &str| CString::new(text).unwrap_or_default();
        let path = CString::new(namespace.as_os_str().as_bytes()).unwrap_or_default();
        let words: &[&str] = match self {
            // No port of the host's loopback is reached from inside, and none of inside's is given
            // to the host: published ports are forwarded by us.
            Helper::Pasta | Helper::OldPasta => &[
                "pasta",
                "--quiet",
                "--foreground",
                "--config-net",
                "--no-map-gw",
                "--tcp-ports",
                "none",
                "--udp-ports",
                "none",
                "--tcp-ns",
                "none",
                "--udp-ns",
                "none",
                "--ns-ifname",
                INTERFACE,
                "--address",
                &at(100),
                "--netmask",
                &subnet.prefix().to_string(),
                "--gateway",
                &at(2),
                "--netns-only",
                "--netns",
            ],
            Helper::Slirp => &[
                "slirp4netns",
                "--configure",
                "--mtu=65520",
                "--disable-host-loopback",
                "--netns-type=path",
                "--cidr",
                &subnet.to_string(),
            ],
        };
        let mut all: Vec<CString> = words.iter().map(|word| text(word)).collect();
        all.push(path);
        if self == Helper::Slirp {
            all.push(text(INTERFACE));
        }
        all
    }
}

/// The best program that this machine has.
///
/// # Errors
/// [`Kind::Unsupported`] with a hint where there is none, [`Kind::Denied`] with a hint where
/// `/dev/net/tun` is not for everybody.
pub(crate) fn choose() -> Result<Program> {
    choose_of(|name| find(name, None), |path| said_by(path, "--version"), may_open_tun())
}

/// Whether a pasta is too old, by what it says of its version. Debian 12's says none.
fn is_old(version: &str) -> bool {
    let dates = version.split(|c: char| !c.is_ascii_digit()).filter(|word| word.len() == 8);
    let date = dates.filter(|word| word.starts_with("20")).find_map(|word| word.parse::<u32>().ok());
    date.is_none_or(|date| date < GOOD_PASTA)
}

fn choose_of(
    find: impl Fn(&str) -> Option<PathBuf>,
    version: impl Fn(&Path) -> Option<String>,
    tun: Tun,
) -> Result<Program> {
    let slirp = find("slirp4netns").map(|path| Program { helper: Helper::Slirp, path });
    let found = match find("pasta") {
        Some(path) if is_old(&version(&path).unwrap_or_default()) => {
            slirp.or(Some(Program { helper: Helper::OldPasta, path }))
        }
        Some(path) => Some(Program { helper: Helper::Pasta, path }),
        None => slirp,
    };
    let Some(program) = found else {
        return Err(Error::new(Kind::Unsupported, "neither `pasta` nor `slirp4netns` is installed")
            .with_hint(format!("sudo {}", install("passt"))));
    };
    match tun {
        Tun::Open => Ok(program),
        Tun::Missing => {
            Err(Error::new(Kind::Unsupported, format!("there is no `{TUN}`")).with_hint("sudo modprobe tun"))
        }
        Tun::Closed => Err(Error::new(Kind::Denied, format!("`{TUN}` is open to root alone"))
            .with_hint(format!("sudo chmod 0666 {TUN}"))),
    }
}

/// The command that installs a package, in the words of this machine's distribution.
pub(crate) fn install(package: &str) -> String {
    let has = |name: &str| find(name, None).is_some() || Path::new("/usr/sbin").join(name).exists();
    let command = if has("dnf") {
        "dnf install"
    } else if has("pacman") {
        "pacman -S"
    } else if has("zypper") {
        "zypper install"
    } else {
        "apt-get install"
    };
    format!("{command} {package}")
}

/// The state of `/dev/net/tun`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tun {
    Open,
    Closed,
    Missing,
}

fn may_open_tun() -> Tun {
    use rustix::fs::{Access, access};
    match access(TUN, Access::READ_OK | Access::WRITE_OK) {
        Ok(()) => Tun::Open,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Tun::Missing,
        Err(_) => Tun::Closed,
    }
}

/// A range for the link to the host that none of `occupied` overlaps; slirp4netns' own is the first
/// choice.
pub(crate) fn free_range(occupied: &[Subnet]) -> Option<Subnet> {
    let all = [2u8, 3, 4]
        .map(|third| Ipv4Addr::new(10, 0, third, 0))
        .into_iter()
        .chain((240..=255u8).map(|third| Ipv4Addr::new(10, 255, third, 0)));
    all.filter_map(|address| Subnet::containing(address.into(), 24))
        .find(|range| !occupied.iter().any(|other| other.overlaps(*range)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_program_is_taken_and_what_is_missing_is_named() {
        let with = |there: &'static [&'static str]| {
            move |name: &str| there.contains(&name).then(|| PathBuf::from("/usr/bin").join(name))
        };
        let (new, old) = ("pasta 0.0~git20240220.1e6f92b-1\nCopyright", "pasta unknown version\nCopyright");
        for (there, version, want) in [
            (&["pasta", "slirp4netns"][..], new, Helper::Pasta),
            (&["pasta", "slirp4netns"], "pasta 0^20240906.g6b38f07-1.fc40.x86_64", Helper::Pasta),
            (&["pasta", "slirp4netns"], "pasta 0.0~git20230309.7c7625d-1", Helper::Slirp),
            (&["pasta", "slirp4netns"], old, Helper::Slirp),
            (&["slirp4netns"], "", Helper::Slirp),
            (&["pasta"], new, Helper::Pasta),
            (&["pasta"], old, Helper::OldPasta),
        ] {
            let chosen = choose_of(with(there), |_| Some(version.into()), Tun::Open).unwrap();
            assert_eq!(chosen.helper, want, "{there:?} {version}");
        }
        for (there, tun, kind, hint) in [
            (&[][..], Tun::Open, Kind::Unsupported, " passt"),
            (&["pasta"], Tun::Closed, Kind::Denied, "sudo chmod 0666 /dev/net/tun"),
            (&["pasta"], Tun::Missing, Kind::Unsupported, "sudo modprobe tun"),
        ] {
            let error = choose_of(with(there), |_| None, tun).unwrap_err();
            assert_eq!(error.kind(), kind);
            assert!(error.hint().is_some_and(|text| text.ends_with(hint)), "{error:?}");
        }
    }

    #[test]
    fn the_link_to_the_host_has_a_range_of_its_own() {
        let range = |text: &str| text.parse::<Subnet>().unwrap();
        assert_eq!(free_range(&[]).unwrap().to_string(), "10.0.2.0/24");
        assert_eq!(free_range(&[range("10.0.2.128/25")]).unwrap().to_string(), "10.0.3.0/24");
        assert_eq!(free_range(&[range("10.0.0.0/9")]).unwrap().to_string(), "10.255.240.0/24");
        assert_eq!(free_range(&[range("10.0.0.0/8")]), None);
        let arguments = |helper: Helper| {
            let all = helper.arguments(Path::new("/run/ns"), range("10.0.3.0/24"));
            all.iter().map(|a| a.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert!(
            arguments(Helper::Pasta).ends_with(
                "--address 10.0.3.100 --netmask 24 --gateway 10.0.3.2 --netns-only --netns /run/ns"
            )
        );
        assert!(arguments(Helper::Slirp).ends_with("--cidr 10.0.3.0/24 /run/ns tap0"));
    }
}
