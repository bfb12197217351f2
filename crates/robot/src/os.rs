//! Which distribution it is.

use robot_env_device::HostRoot;

/// How packages are installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// apt: Debian, Ubuntu, JetPack.
    Debian,
    /// dnf: Fedora, RHEL and its kin.
    Fedora,
    /// pacman: Arch.
    Arch,
    /// zypper: SUSE.
    Suse,
    /// Nothing that is known.
    Other,
}

/// What `os-release` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Os {
    /// `ubuntu`, `debian`.
    pub id: String,
    /// `22.04`.
    pub version: String,
    /// `jammy`.
    pub codename: String,
    /// `Ubuntu 22.04.4 LTS`.
    pub name: String,
    /// How packages are installed.
    pub family: Family,
    /// Whether it is an NVIDIA Jetson.
    pub jetson: bool,
}

impl Os {
    /// Reads it.
    pub fn of(root: &HostRoot) -> Os {
        let text =
            root.text("/etc/os-release").or_else(|| root.text("/usr/lib/os-release")).unwrap_or_default();
        let field = |key: &str| -> String {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
        };
        let (id, like) = (field("ID"), field("ID_LIKE"));
        let is = |names: &[&str]| {
            names.iter().any(|name| id == *name || like.split_whitespace().any(|word| word == *name))
        };
        let family = if is(&["debian", "ubuntu"]) {
            Family::Debian
        } else if is(&["fedora", "rhel", "centos"]) {
            Family::Fedora
        } else if is(&["arch"]) {
            Family::Arch
        } else if is(&["suse", "opensuse"]) {
            Family::Suse
        } else {
            Family::Other
        };
        Os {
            version: field("VERSION_ID"),
            codename: field("VERSION_CODENAME"),
            name: field("PRETTY_NAME"),
            family,
            jetson: root.exists("/etc/nv_tegra_release"),
            id,
        }
    }

    /// The command that installs packages; `None` where nobody knows it.
    pub fn install(&self, debian: &str, fedora: &str, arch: &str) -> Option<String> {
        Some(match self.family {
            Family::Debian => format!("sudo apt-get install -y {debian}"),
            Family::Fedora => format!("sudo dnf install -y {fedora}"),
            Family::Arch => format!("sudo pacman -S --noconfirm {arch}"),
            Family::Suse => format!("sudo zypper install -y {fedora}"),
            Family::Other => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use robot_env_testkit::temporary::TemporaryDirectory;

    #[test]
    fn distributions_are_told_apart() {
        for (text, family, version) in [
            (
                "ID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"22.04\"\nVERSION_CODENAME=jammy\n",
                Family::Debian,
                "22.04",
            ),
            ("ID=debian\nVERSION_ID=\"12\"\n", Family::Debian, "12"),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", Family::Fedora, ""),
            ("ID=nixos\n", Family::Other, ""),
            ("", Family::Other, ""),
        ] {
            let place = TemporaryDirectory::new("os");
            std::fs::create_dir(place.join("etc")).unwrap();
            std::fs::write(place.join("etc/os-release"), text).unwrap();
            let os = Os::of(&HostRoot::fixture(place.path()));
            assert_eq!((os.family, os.version.as_str()), (family, version), "{text}");
        }
    }
}
