use std::fmt;
use std::str::FromStr;

use robot_env_diag::{Error, Result};
use serde::{Deserialize, Serialize};

/// What an image runs on, in Go's names (`linux/arm64/v8`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, `arm`, ...
    #[serde(default)]
    pub architecture: String,
    /// `linux`; anything else cannot run here.
    #[serde(default)]
    pub os: String,
    /// `v7`, `v8`, ...; empty when there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Windows only; kept so that documents survive.
    #[serde(rename = "os.version", default, skip_serializing_if = "String::is_empty")]
    pub os_version: String,
}

/// The architectures that images can be for: those of Go.
const ARCHITECTURES: &[&str] = &[
    "386", "amd64", "arm", "arm64", "armbe", "arm64be", "loong64", "mips", "mips64", "mips64le", "mipsle",
    "ppc", "ppc64", "ppc64le", "riscv", "riscv64", "s390", "s390x", "sparc", "sparc64", "wasm",
];
/// The same for operating systems.
const SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "illumos",
    "ios",
    "js",
    "linux",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasip1",
    "windows",
];

impl Platform {
    /// The platform that this program was built for.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "x86" => ("386", ""),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        Platform {
            architecture: architecture.into(),
            os: "linux".into(),
            variant: variant.into(),
            os_version: String::new(),
        }
    }

    /// Whether an image for `self` satisfies a wish for `wanted`. A missing variant of arm64 means
    /// v8 and one of arm means v7; an arm machine also runs lower variants.
    pub fn satisfies(&self, wanted: &Platform) -> bool {
        let variant = |p: &Platform| match (p.architecture.as_str(), p.variant.trim_start_matches('v')) {
            ("arm64", "") => 8,
            ("arm", "") => 7,
            (_, v) => v.split('.').next().unwrap_or_default().parse::<u32>().unwrap_or(0),
        };
        self.os == wanted.os
            && self.architecture == wanted.architecture
            && (variant(self) == variant(wanted)
                || (self.architecture == "arm" && variant(self) < variant(wanted)))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// Reads `os/arch[/variant]`, an architecture or `linux` alone; `x86_64` and `aarch64` are understood.
    ///
    /// Errors: `InvalidInput` for another form, and for a system or architecture that Go does not know.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(format!("invalid platform `{text}`"))
                .with_hint("write it like `linux/amd64` or `linux/arm64/v8`")
        };
        let lower = text.to_ascii_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        let fine = |s: &&str| {
            !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        if !parts.iter().all(fine) {
            return Err(bad());
        }
        let (os, arch, variant) = match parts[..] {
            [arch] if arch != "linux" => ("linux", arch, ""),
            ["linux"] => return Ok(Platform::host()),
            [os, arch] => (os, arch, ""),
            [os, arch, variant] => (os, arch, variant),
            _ => return Err(bad()),
        };
        let (arch, variant) = match (arch, variant) {
            ("x86_64" | "x86-64", v) => ("amd64", v),
            ("aarch64", v) => ("arm64", v),
            ("armhf", "") => ("arm", "v7"),
            ("armel", "") => ("arm", "v6"),
            other => other,
        };
        let unknown = |what: &str, name: &str| {
            Err(Error::invalid(format!("invalid platform `{text}`: there is no {what} `{name}`"))
                .with_hint("write it like `linux/amd64` or `linux/arm64/v8`"))
        };
        if !SYSTEMS.contains(&os) {
            return unknown("operating system", os);
        }
        if !ARCHITECTURES.contains(&arch) {
            return unknown("architecture", arch);
        }
        Ok(Platform {
            os: os.to_owned(),
            architecture: arch.to_owned(),
            variant: variant.to_owned(),
            os_version: String::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_forms_that_users_write() {
        for (text, want) in [
            ("linux/amd64", "linux/amd64"),
            ("arm64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64/v8"),
            ("x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("Linux/X86_64", "linux/amd64"),
            ("Armhf", "linux/arm/v7"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), want);
        }
        for bad in
            ["", "/", "linux/", "a/b/c/d", "linux/am d64", "bogus", "windows", "linux/z80", "minix/386"]
        {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
        let error = "linux/z80".parse::<Platform>().unwrap_err();
        assert_eq!(error.to_string(), "invalid platform `linux/z80`: there is no architecture `z80`");
    }

    #[test]
    fn variants_default_as_the_architectures_do() {
        let p = |t: &str| t.parse::<Platform>().unwrap();
        assert!(p("linux/arm64").satisfies(&p("linux/arm64/v8")));
        assert!(p("linux/arm/v6").satisfies(&p("linux/arm/v7")));
        assert!(!p("linux/arm/v7").satisfies(&p("linux/arm/v6")));
        assert!(!p("linux/amd64").satisfies(&p("linux/arm64")));
    }
}
