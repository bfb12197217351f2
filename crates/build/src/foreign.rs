//! Images for other machines than this one: their programs need an interpreter, which the kernel
//! knows by `binfmt_misc`.

use std::fs;
use std::path::Path;

use robot_env_diag::{Error, Kind, Result};
use robot_env_oci::{Platform, Reference};
use robot_env_store::ImageRecord;

use crate::solve::Build;

/// Where the kernel lists interpreters.
const REGISTERED: &str = "/proc/sys/fs/binfmt_misc";

/// The machine of an architecture in an ELF header (`e_machine`), as its two bytes.
fn machine(architecture: &str) -> Option<[u8; 2]> {
    Some(match architecture {
        "386" => [3, 0],
        "amd64" => [62, 0],
        "arm" => [40, 0],
        "arm64" => [183, 0],
        "loong64" => [2, 1],
        "mips64le" => [8, 0],
        "ppc64le" => [21, 0],
        "riscv64" => [243, 0],
        "s390x" => [0, 22],
        _ => return None,
    })
}

/// An entry of `binfmt_misc` as the kernel prints it.
struct Interpreter<'a> {
    enabled: bool,
    path: &'a str,
    /// Opened when it was registered, so that it is there inside of containers, too.
    fixed: bool,
    magic: Vec<u8>,
}

impl Interpreter<'_> {
    fn parse(text: &str) -> Option<Interpreter<'_>> {
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix([' ', ':'])).map(str::trim)
        };
        let magic = field("magic")?;
        let byte = |at: usize| u8::from_str_radix(magic.get(at..at + 2)?, 16).ok();
        Some(Interpreter {
            enabled: text.lines().next() == Some("enabled"),
            path: field("interpreter")?,
            fixed: field("flags")?.contains('F'),
            magic: (0..magic.len() / 2).map_while(|at| byte(2 * at)).collect(),
        })
    }

    fn is_for(&self, machine: [u8; 2]) -> bool {
        self.magic.starts_with(b"\x7fELF") && self.magic.get(18..20) == Some(&machine[..])
    }
}

/// Whether programs for `platform` run here, by what is registered; `None`: nobody can know.
///
/// # Errors
/// `Unsupported`, naming what is missing.
fn check(platform: &Platform, host: &Platform, registered: Option<&[String]>) -> Result<()> {
    if !platform.os.is_empty() && platform.os != host.os {
        return Err(Error::new(
            Kind::Unsupported,
            format!("cannot run a command for {platform} on this machine, which is {host}"),
        ));
    }
    let (wanted, here) = (platform.architecture.as_str(), host.architecture.as_str());
    if wanted == here || wanted.is_empty() || matches!((here, wanted), ("amd64", "386") | ("arm64", "arm")) {
        return Ok(());
    }
    let hinted = |why: String, hint: &str| {
        Err(Error::new(
            Kind::Unsupported,
            format!("cannot run a command for {platform} on this machine, which is {host}: {why}"),
        )
        .with_hint(hint))
    };
    let cannot =
        |why: String| hinted(why, "install qemu-user-static: it registers interpreters for containers, too");
    let Some(machine) = machine(wanted) else {
        return cannot(format!("no interpreter for `{wanted}` is known"));
    };
    let Some(registered) = registered else {
        return hinted(
            format!("no interpreter for `{wanted}` can be looked for, as binfmt_misc is not mounted"),
            &format!(
                "install qemu-user-static, and as root `mount -t binfmt_misc binfmt_misc {REGISTERED}`, where nobody did"
            ),
        );
    };
    let all: Vec<Interpreter<'_>> = registered
        .iter()
        .filter_map(|text| Interpreter::parse(text))
        .filter(|one| one.is_for(machine))
        .collect();
    if all.iter().any(|one| one.enabled && one.fixed) {
        return Ok(());
    }
    match all.first() {
        Some(one) if !one.enabled => cannot(format!("its interpreter `{}` is disabled", one.path)),
        Some(one) => cannot(format!(
            "its interpreter `{}` is registered without the flag F, so that containers do not see it",
            one.path
        )),
        None => cannot(format!("no interpreter for `{wanted}` is registered in {REGISTERED}")),
    }
}

/// Whether commands of an image for `platform` run on this machine.
///
/// # Errors
/// `Unsupported`, naming what is missing.
pub(crate) fn check_runs(platform: &Platform) -> Result<()> {
    let host = Platform::host();
    let mounted = Path::new(REGISTERED).join("status").exists();
    let names = fs::read_dir(REGISTERED).into_iter().flatten().flatten();
    let registered: Vec<String> = names.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect();
    check(platform, &host, mounted.then_some(&registered[..]))
}

impl Build<'_> {
    /// The base image for a platform that the image of that name here is not for. It is pulled by its
    /// digest: the name goes on to stand for the image that it has here.
    ///
    /// # Errors
    /// `NotFound` when the registry has none for the platform; those of pulling.
    pub(crate) fn foreign_base(&self, name: &str, platform: &Platform) -> Result<ImageRecord> {
        let reference = name.parse::<Reference>()?.or_latest();
        let client = self
            .fetch()
            .client()
            .ok_or_else(|| Error::not_found(format!("image `{name}` is here, but not for {platform}")))?;
        let image = client.image(&reference, Some(platform))?;
        let own = Reference::with_digest(reference.repository().clone(), image.manifest.digest().clone());
        let text = own.to_string();
        if let Ok(known) = self.store().resolve(&text) {
            return Ok(known);
        }
        self.fetch().fetch(&own, Some(platform), false)?;
        self.store().resolve(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_decide() {
        let entry = |state: &str, flags: &str| {
            format!(
                "{state}\ninterpreter /usr/bin/qemu-aarch64-static\nflags: {flags}\noffset 0\n\
                 magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n"
            )
        };
        let host: Platform = "linux/amd64".parse().unwrap();
        for (wanted, registered, want) in [
            ("linux/amd64", vec![], None),
            ("linux/386", vec![], None),
            ("linux/arm64", vec![entry("enabled", "OCF")], None),
            ("linux/arm64", vec![], Some("no interpreter for `arm64` is registered")),
            ("linux/arm64", vec![entry("disabled", "F")], Some("is disabled")),
            ("linux/arm64", vec![entry("enabled", "")], Some("without the flag F")),
            ("linux/riscv64", vec![entry("enabled", "F")], Some("no interpreter for `riscv64`")),
            ("linux/sparc64", vec![], Some("no interpreter for `sparc64` is known")),
            ("windows/amd64", vec![], Some("for windows/amd64 on this machine, which is linux/amd64")),
        ] {
            let got =
                check(&wanted.parse().unwrap(), &host, Some(&registered)).map_err(|error| error.to_string());
            match want {
                None => assert_eq!(got, Ok(()), "{wanted}"),
                Some(want) => {
                    assert!(got.clone().is_err_and(|error| error.contains(want)), "{wanted}: {got:?}");
                }
            }
        }
        let error = check(&"linux/arm64".parse().unwrap(), &host, None).unwrap_err();
        assert!(error.to_string().contains("binfmt_misc is not mounted"), "{error}");
    }
}
