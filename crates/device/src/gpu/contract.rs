//! NVIDIA's contract with images: what the `NVIDIA_*` variables ask for and require.

use std::collections::BTreeSet;

use robot_env_diag::{Error, Kind, Result};

use super::cuda::Version;

/// What a driver can do for a container; a library belongs to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // the contract's words
pub enum Capability {
    Compute,
    Compat32,
    Graphics,
    Utility,
    Video,
    Display,
    Ngx,
}

impl Capability {
    /// All of them.
    pub const ALL: [Capability; 7] = [
        Capability::Compute,
        Capability::Compat32,
        Capability::Graphics,
        Capability::Utility,
        Capability::Video,
        Capability::Display,
        Capability::Ngx,
    ];

    /// The contract's word.
    pub fn word(self) -> &'static str {
        match self {
            Capability::Compute => "compute",
            Capability::Compat32 => "compat32",
            Capability::Graphics => "graphics",
            Capability::Utility => "utility",
            Capability::Video => "video",
            Capability::Display => "display",
            Capability::Ngx => "ngx",
        }
    }

    /// The capability that a word names.
    pub fn parse(word: &str) -> Option<Capability> {
        Capability::ALL.into_iter().find(|capability| capability.word() == word)
    }
}

/// The devices that `NVIDIA_VISIBLE_DEVICES` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Visible {
    /// Nothing at all.
    Void,
    /// The driver without a device.
    None,
    /// Every device.
    All,
    /// By index, UUID, or MIG name.
    Ids(Vec<String>),
}

/// The last value of a variable.
pub fn variable<'a>(env: &'a [String], name: &str) -> Option<&'a str> {
    env.iter()
        .rev()
        .find_map(|entry| entry.split_once('=').filter(|(had, _)| *had == name))
        .map(|(_, value)| value)
}

/// An image from before the contract: it says which CUDA it has but not what it requires.
fn is_legacy(env: &[String]) -> bool {
    variable(env, "CUDA_VERSION").is_some() && variable(env, "NVIDIA_REQUIRE_CUDA").is_none()
}

/// The devices that the variables ask for.
pub fn visible(env: &[String]) -> Visible {
    match variable(env, "NVIDIA_VISIBLE_DEVICES").map(str::trim) {
        None if is_legacy(env) => Visible::All,
        None | Some("" | "void") => Visible::Void,
        Some("none") => Visible::None,
        Some("all") => Visible::All,
        Some(list) => Visible::Ids(words(list)),
    }
}

fn words(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The capabilities that the variables ask for.
///
/// # Errors
/// A word that the contract does not have.
pub fn capabilities(env: &[String]) -> Result<BTreeSet<Capability>> {
    let text = variable(env, "NVIDIA_DRIVER_CAPABILITIES").map(str::trim).filter(|text| !text.is_empty());
    match text {
        None if is_legacy(env) => Ok(Capability::ALL.into()),
        None => Ok([Capability::Utility, Capability::Compute].into()),
        Some(list) => parse_capabilities(&words(list)),
    }
}

/// Capabilities by their words; `all` is all.
pub fn parse_capabilities(list: &[String]) -> Result<BTreeSet<Capability>> {
    let mut out = BTreeSet::new();
    for word in list {
        match Capability::parse(word) {
            Some(capability) => drop(out.insert(capability)),
            None if word == "all" => out.extend(Capability::ALL),
            None => {
                return Err(Error::invalid(format!("unsupported capabilities found in '{word}'")).with_hint(
                    "the capabilities are compute, compat32, graphics, utility, video, display, ngx and all",
                ));
            }
        }
    }
    Ok(out)
}

/// What a requirement may be about.
#[derive(Clone, Debug)]
pub struct Properties {
    /// The driver's version.
    pub driver: Version,
    /// The newest CUDA that it was made for.
    pub cuda: Option<Version>,
    /// Names of the GPU's brand; empty: not known.
    pub brands: Vec<&'static str>,
    /// The least compute capability of the GPUs; absent: not known.
    pub arch: Option<Version>,
}

/// Checks every `NVIDIA_REQUIRE_*` variable.
///
/// # Errors
/// `Unsupported` with the requirement that does not hold; `InvalidInput` for one that is malformed.
pub fn check_requirements(env: &[String], properties: &Properties) -> Result<()> {
    let disabled =
        variable(env, "NVIDIA_DISABLE_REQUIRE").or_else(|| variable(env, "NVIDIA_DISABLE_REQUIREMENTS"));
    if disabled.is_some_and(|text| matches!(text.trim(), "1" | "true" | "yes" | "t" | "True" | "TRUE")) {
        return Ok(());
    }
    for entry in env {
        let Some((name, value)) = entry.split_once('=') else { continue };
        // JetPack's version is not the driver's.
        if !name.starts_with("NVIDIA_REQUIRE_") || name.ends_with("_JETPACK") || value.trim().is_empty() {
            continue;
        }
        let mut holds = false;
        for alternative in value.split_whitespace() {
            let mut all = true;
            for constraint in alternative.split(',').filter(|text| !text.is_empty()) {
                all &= satisfied(constraint, properties)
                    .ok_or_else(|| Error::invalid(format!("invalid requirement `{constraint}` in {name}")))?;
            }
            holds |= all;
        }
        if !holds {
            let first = value.split_whitespace().next().unwrap_or(value);
            let cuda =
                properties.cuda.as_ref().map_or_else(|| "no CUDA known".into(), |v| format!("CUDA {v}"));
            let error = Error::new(
                Kind::Unsupported,
                format!("the image requires `{first}`, but driver {} has {cuda}", properties.driver),
            );
            return Err(match wanted_driver(first) {
                Some(driver) => error.with_hint(format!(
                    "install NVIDIA driver {driver} or newer, or an image for an older CUDA"
                )),
                None => error,
            });
        }
    }
    Ok(())
}

fn wanted_driver(requirement: &str) -> Option<Version> {
    let cuda = requirement.split(',').find_map(|part| part.strip_prefix("cuda>="))?;
    super::cuda::driver_for(&Version::parse(cuda)?)
}

/// Whether one constraint holds; `None` where it is malformed. What is not known is not checked.
fn satisfied(constraint: &str, properties: &Properties) -> Option<bool> {
    let (property, operator, value) = ["!=", "<=", ">=", "=", "<", ">"]
        .into_iter()
        .filter_map(|operator| constraint.split_once(operator).map(|(p, v)| (p, operator, v)))
        .min_by_key(|(property, operator, _)| (property.len(), 2 - operator.len()))?;
    let versions = |own: &Version| -> Option<bool> {
        let other = Version::parse(value)?;
        Some(match operator {
            "!=" => *own != other,
            "<=" => *own <= other,
            ">=" => *own >= other,
            "=" => *own == other,
            "<" => *own < other,
            _ => *own > other,
        })
    };
    match property {
        "cuda" => properties.cuda.as_ref().map_or(Some(true), versions),
        "driver" => versions(&properties.driver),
        "brand" if properties.brands.is_empty() => Some(true),
        "brand" => match operator {
            "=" => Some(properties.brands.contains(&value)),
            "!=" => Some(!properties.brands.contains(&value)),
            _ => None,
        },
        "arch" => properties.arch.as_ref().map_or(Some(true), versions),
        _ => Some(true),
    }
}

/// The compute capability of a card by its number on the PCI bus: NVIDIA gives each chip a range of them.
/// Nothing for what is older than Maxwell or newer than this table.
pub fn arch(device: u16) -> Option<Version> {
    const RANGES: [(u16, u16, &str); 19] = [
        (0x1340, 0x13bf, "5.0"),
        (0x13c0, 0x143f, "5.2"),
        (0x15f0, 0x15ff, "6.0"),
        (0x1617, 0x161f, "5.2"),
        (0x1667, 0x1667, "5.2"),
        (0x1725, 0x172f, "6.0"),
        (0x17c2, 0x17fd, "5.2"),
        (0x1b00, 0x1d7f, "6.1"),
        (0x1d80, 0x1dff, "7.0"),
        (0x1e00, 0x1fff, "7.5"),
        (0x2080, 0x20ff, "8.0"),
        (0x2180, 0x21ff, "7.5"),
        (0x2200, 0x22ff, "8.6"),
        (0x2300, 0x23ff, "9.0"),
        (0x2400, 0x25ff, "8.6"),
        (0x2680, 0x28ff, "8.9"),
        (0x2900, 0x29ff, "10.0"),
        (0x2b80, 0x2dff, "12.0"),
        (0x2f00, 0x2fff, "12.0"),
    ];
    let (_, _, text) = RANGES.into_iter().find(|(first, last, _)| (*first..=*last).contains(&device))?;
    Version::parse(text)
}

/// The contract's names for the brand of a model.
pub fn brands(model: &str) -> Vec<&'static str> {
    let has = |word: &str| model.split([' ', '-']).any(|part| part == word);
    if has("GeForce") {
        return if has("RTX") { vec!["geforce", "geforcertx"] } else { vec!["geforce"] };
    }
    if has("Quadro") {
        return if has("RTX") { vec!["quadro", "quadrortx"] } else { vec!["quadro"] };
    }
    if has("TITAN") {
        return if has("RTX") { vec!["titan", "titanrtx"] } else { vec!["titan"] };
    }
    if has("RTX") {
        return vec!["nvidiartx", "quadrortx", "nvidia"];
    }
    let data_center = [
        "Tesla", "H100", "H200", "H800", "H20", "A100", "A800", "V100", "P100", "P40", "T4", "L4", "L40",
        "L40S", "A10", "A16", "A30", "A40", "A2", "B100", "B200", "GB200", "GH200",
    ];
    if data_center.into_iter().any(has) {
        return vec!["tesla", "nvidia"];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|&entry| entry.to_owned()).collect()
    }

    #[test]
    fn devices_by_the_variables() {
        let ids = |list: &[&str]| Visible::Ids(list.iter().map(|&id| id.to_owned()).collect());
        for (entries, want) in [
            (&[][..], Visible::Void),
            (&["NVIDIA_VISIBLE_DEVICES="], Visible::Void),
            (&["NVIDIA_VISIBLE_DEVICES=void"], Visible::Void),
            (&["NVIDIA_VISIBLE_DEVICES=none"], Visible::None),
            (&["NVIDIA_VISIBLE_DEVICES=all"], Visible::All),
            (&["NVIDIA_VISIBLE_DEVICES=0,GPU-a"], ids(&["0", "GPU-a"])),
            (&["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=1"], ids(&["1"])),
            (&["CUDA_VERSION=8.0"], Visible::All),
            (&["CUDA_VERSION=12.2", "NVIDIA_REQUIRE_CUDA=cuda>=12.2"], Visible::Void),
        ] {
            assert_eq!(visible(&env(entries)), want, "{entries:?}");
        }
    }

    #[test]
    fn capabilities_by_the_variables() {
        let words = |entries: &[&str]| {
            capabilities(&env(entries))
                .map(|set| set.iter().map(|c| c.word()).collect::<Vec<_>>().join(","))
                .ok()
        };
        for (entries, want) in [
            (&[][..], Some("compute,utility")),
            (&["NVIDIA_DRIVER_CAPABILITIES=graphics,display"], Some("graphics,display")),
            (
                &["NVIDIA_DRIVER_CAPABILITIES=all"],
                Some("compute,compat32,graphics,utility,video,display,ngx"),
            ),
            (&["NVIDIA_DRIVER_CAPABILITIES=compute,nonsense"], None),
            (&["CUDA_VERSION=8.0"], Some("compute,compat32,graphics,utility,video,display,ngx")),
        ] {
            assert_eq!(words(entries).as_deref(), want, "{entries:?}");
        }
    }

    #[test]
    fn requirements() {
        let of = |driver: &str, brands: Vec<&'static str>| {
            let driver = Version::parse(driver).unwrap();
            let cuda = super::super::cuda::of_driver(&driver);
            Properties { cuda, driver, brands, arch: arch(0x2330) }
        };
        let cuda_image = "NVIDIA_REQUIRE_CUDA=cuda>=12.2 brand=tesla,driver>=470,driver<471 brand=geforce,driver>=470,driver<471";
        for (entries, driver, brands, want) in [
            (&[cuda_image][..], "550.54.15", vec![], true),
            (&[cuda_image], "470.82", vec!["tesla"], true),
            (&[cuda_image], "470.82", vec!["titan"], false),
            (&[cuda_image], "450.80.02", vec!["tesla"], false),
            (&[cuda_image, "NVIDIA_DISABLE_REQUIRE=1"], "450.80.02", vec!["tesla"], true),
            (
                &["NVIDIA_REQUIRE_X=driver>=500", "NVIDIA_REQUIRE_Y=driver!=550.54.15"],
                "550.54.15",
                vec![],
                false,
            ),
            (&["NVIDIA_REQUIRE_JETPACK=csv-mounts=all"], "1", vec![], true),
            (&["NVIDIA_REQUIRE_ARCH=arch>=9.0"], "550", vec![], true),
            (&["NVIDIA_REQUIRE_ARCH=arch<9.0"], "550", vec![], false),
            (&["NVIDIA_REQUIRE_ARCH=arch>=10.0 arch=9.0"], "550", vec![], true),
        ] {
            let result = check_requirements(&env(entries), &of(driver, brands.clone()));
            assert_eq!(result.is_ok(), want, "{entries:?} on {driver} {brands:?}: {result:?}");
        }
        let error = check_requirements(&env(&[cuda_image]), &of("450.80.02", vec![])).unwrap_err();
        assert!(
            error.to_string().contains("cuda>=12.2") && error.to_string().contains("450.80.02"),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("535.54.03"), "{error:?}");
    }

    #[test]
    fn cards_have_a_compute_capability() {
        for (device, want) in [
            (0x1b06, Some("6.1")),
            (0x1db1, Some("7.0")),
            (0x1eb8, Some("7.5")),
            (0x20b5, Some("8.0")),
            (0x2204, Some("8.6")),
            (0x2684, Some("8.9")),
            (0x2335, Some("9.0")),
            (0x2901, Some("10.0")),
            (0x2b85, Some("12.0")),
            (0x0191, None),
            (0xffff, None),
        ] {
            assert_eq!(arch(device).map(|version| version.to_string()).as_deref(), want, "{device:#x}");
        }
    }

    #[test]
    fn models_have_brands() {
        for (model, want) in [
            ("NVIDIA GeForce RTX 3090", &["geforce", "geforcertx"][..]),
            ("NVIDIA H100 80GB HBM3", &["tesla", "nvidia"]),
            ("Tesla V100-SXM2-16GB", &["tesla", "nvidia"]),
            ("NVIDIA RTX A6000", &["nvidiartx", "quadrortx", "nvidia"]),
            ("Something", &[]),
        ] {
            assert_eq!(brands(model), want, "{model}");
        }
    }
}
