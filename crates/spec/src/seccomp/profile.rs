//! A profile with its conditions.

use std::path::PathBuf;

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompFilterFlag, LinuxSyscall,
};
use robot_env_diag::{Error, Kind, Result};
use serde::{Deserialize, Deserializer};

fn null_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A profile in Docker's form.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Profile {
    pub(super) default_action: LinuxSeccompAction,
    #[serde(default)]
    pub(super) default_errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "null_default")]
    pub(super) architectures: Vec<Arch>,
    #[serde(default, deserialize_with = "null_default")]
    pub(super) arch_map: Vec<ArchFamily>,
    #[serde(default, deserialize_with = "null_default")]
    pub(super) flags: Vec<LinuxSeccompFilterFlag>,
    #[serde(default)]
    pub(super) listener_path: Option<PathBuf>,
    #[serde(default)]
    pub(super) listener_metadata: Option<String>,
    #[serde(default, deserialize_with = "null_default")]
    pub(super) syscalls: Vec<Rule>,
}

/// An architecture and those whose programs its kernels run too.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ArchFamily {
    pub(super) architecture: Arch,
    #[serde(default, deserialize_with = "null_default")]
    pub(super) sub_architectures: Vec<Arch>,
}

/// What happens with some system calls, under conditions.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rule {
    /// The old form of a single name.
    #[serde(default, deserialize_with = "null_default")]
    pub(super) name: String,
    #[serde(default, deserialize_with = "null_default")]
    pub(super) names: Vec<String>,
    pub(super) action: LinuxSeccompAction,
    #[serde(default)]
    pub(super) errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "null_default")]
    pub(super) args: Vec<LinuxSeccompArg>,
    #[serde(default, deserialize_with = "null_default")]
    pub(super) includes: Filter,
    #[serde(default, deserialize_with = "null_default")]
    pub(super) excludes: Filter,
}

/// A condition; an empty part says nothing.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Filter {
    #[serde(default, deserialize_with = "null_default")]
    pub(super) caps: Vec<Capability>,
    /// Docker's names of architectures: `amd64`, `arm64`, ...
    #[serde(default, deserialize_with = "null_default")]
    pub(super) arches: Vec<String>,
    /// `MAJOR.MINOR`
    #[serde(default)]
    pub(super) min_kernel: Option<String>,
}

/// seccomp's and Docker's names of the architecture that Rust calls `name`.
fn native(name: &str) -> Result<(Arch, &'static str)> {
    Ok(match name {
        "x86_64" => (Arch::ScmpArchX86_64, "amd64"),
        "x86" => (Arch::ScmpArchX86, "x86"),
        "aarch64" => (Arch::ScmpArchAarch64, "arm64"),
        "arm" => (Arch::ScmpArchArm, "arm"),
        "riscv64" => (Arch::ScmpArchRiscv64, "riscv64"),
        "loongarch64" => (Arch::ScmpArchLoongarch64, "loong64"),
        "powerpc64" => (Arch::ScmpArchPpc64le, "ppc64le"),
        "s390x" => (Arch::ScmpArchS390x, "s390x"),
        "mips64" => (Arch::ScmpArchMips64, "mips64"),
        _ => {
            return Err(Error::new(
                Kind::Unsupported,
                format!("cannot make a system call filter: the architecture `{name}` is unknown"),
            ));
        }
    })
}

fn version(text: &str) -> Result<(u32, u32)> {
    text.split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
        .ok_or_else(|| {
            Error::invalid(format!(
                "invalid kernel version `{text}` in the seccomp profile: it must be like `4.8`"
            ))
        })
}

impl Filter {
    /// Whether a rule with this condition in its `includes` counts.
    fn admits(&self, arch: &str, capabilities: &Capabilities, kernel: (u32, u32)) -> Result<bool> {
        Ok((self.arches.is_empty() || self.arches.iter().any(|other| other == arch))
            && self.caps.iter().all(|capability| capabilities.contains(capability))
            && self.min_kernel.as_deref().map(version).transpose()?.is_none_or(|least| kernel >= least))
    }

    /// Whether a rule with this condition in its `excludes` does not count.
    fn refuses(&self, arch: &str, capabilities: &Capabilities, kernel: (u32, u32)) -> Result<bool> {
        Ok(self.arches.iter().any(|other| other == arch)
            || self.caps.iter().any(|capability| capabilities.contains(capability))
            || self.min_kernel.as_deref().map(version).transpose()?.is_some_and(|least| kernel >= least))
    }
}

impl Profile {
    /// Decides the conditions.
    pub(super) fn resolve(
        self,
        architecture: &str,
        capabilities: &Capabilities,
        kernel: (u32, u32),
    ) -> Result<LinuxSeccomp> {
        let (native, name) = native(architecture)?;
        if !self.architectures.is_empty() && !self.arch_map.is_empty() {
            return Err(Error::invalid("invalid seccomp profile: use either `architectures` or `archMap`"));
        }
        let mut architectures = self.architectures;
        for family in self.arch_map {
            if family.architecture == native {
                architectures.push(family.architecture);
                architectures.extend(family.sub_architectures);
            }
        }
        let mut syscalls = Vec::with_capacity(self.syscalls.len());
        for rule in self.syscalls {
            if rule.excludes.refuses(name, capabilities, kernel)?
                || !rule.includes.admits(name, capabilities, kernel)?
            {
                continue;
            }
            syscalls.push(rule.into_syscall()?);
        }
        let mut out = LinuxSeccomp::default();
        out.set_default_action(self.default_action)
            .set_default_errno_ret(self.default_errno_ret)
            .set_architectures(Some(architectures).filter(|list| !list.is_empty()))
            .set_flags(Some(self.flags).filter(|list| !list.is_empty()))
            .set_listener_path(self.listener_path)
            .set_listener_metadata(self.listener_metadata)
            .set_syscalls(Some(syscalls));
        Ok(out)
    }
}

impl Rule {
    fn into_syscall(self) -> Result<LinuxSyscall> {
        let mut names = self.names;
        match (self.name.is_empty(), names.is_empty()) {
            (false, true) => names.push(self.name),
            (true, false) => {}
            (false, false) => {
                return Err(Error::invalid(format!(
                    "invalid seccomp profile: a rule has both `name` (`{}`) and `names`",
                    self.name
                )));
            }
            (true, true) => {
                return Err(Error::invalid("invalid seccomp profile: a rule names no system call"));
            }
        }
        if let Some(arg) = self.args.iter().find(|arg| arg.index() > 5) {
            return Err(Error::invalid(format!(
                "invalid seccomp profile: `{}` has no argument {}, only 0 to 5",
                names[0],
                arg.index()
            )));
        }
        let mut out = LinuxSyscall::default();
        out.set_names(names)
            .set_action(self.action)
            .set_errno_ret(self.errno_ret)
            .set_args(Some(self.args).filter(|args| !args.is_empty()));
        Ok(out)
    }
}
