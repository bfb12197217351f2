//! NVIDIA Jetson: JetPack lists in CSV files what a container gets.

use robot_env_diag::{Error, Result};

use super::nvidia::real_source;
use crate::edits::{Library, SpecEdits, bind};
use crate::elf::Elf;
use crate::root::HostRoot;

const LISTS: &str = "/etc/nvidia-container-runtime/host-files-for-container.d";

/// Whether this is one, with its lists.
pub(super) fn is_present(root: &HostRoot) -> bool {
    let tegra = root.exists("/etc/nv_tegra_release")
        || root.text("/proc/device-tree/compatible").is_some_and(|text| text.contains("nvidia,tegra"))
        || root.text("/sys/devices/soc0/family").is_some_and(|text| text.trim() == "Tegra");
    tegra && root.names(LISTS).iter().any(|name| name.ends_with(".csv"))
}

/// Lines of all lists, as (kind, path).
fn lines(root: &HostRoot) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for name in root.names(LISTS).into_iter().filter(|name| name.ends_with(".csv")) {
        let text = root.text(&format!("{LISTS}/{name}")).unwrap_or_default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some((kind, path)) = line.split_once(',') {
                out.push((kind.trim().to_owned(), path.trim().to_owned()));
            }
        }
    }
    out
}

/// The device nodes of the lists that exist.
pub(super) fn nodes(root: &HostRoot) -> Vec<String> {
    let lines = lines(root).into_iter().filter(|(kind, _)| kind == "dev");
    lines.flat_map(|(_, path)| expand(root, &path)).filter(|path| root.device(path).is_some()).collect()
}

/// What the lists ask for; what is missing is left out, as JetPack's own tools do.
pub(super) fn edits(root: &HostRoot) -> Result<SpecEdits> {
    let mut out = SpecEdits::default();
    for (kind, pattern) in lines(root) {
        if !pattern.starts_with('/') || pattern.split('/').any(|part| part == "..") {
            return Err(Error::invalid(format!("invalid path `{pattern}` in a list of {LISTS}")));
        }
        for path in expand(root, &pattern) {
            match kind.as_str() {
                "dev" => root.device(&path).into_iter().for_each(|device| out.add_device(device)),
                "dir" => {
                    if root.is_directory(&path) {
                        out.mounts.push(bind(real_source(root, &path), &path, true));
                    }
                }
                "lib" => {
                    if root.exists(&path) {
                        add_library(root, path, &mut out);
                    }
                }
                "sym" => {
                    if let Some(target) = root.link(&path) {
                        out.add_link(path, target);
                    }
                }
                other => return Err(Error::invalid(format!("invalid kind `{other}` in a list of {LISTS}"))),
            }
        }
    }
    let mounted: Vec<String> = out.mounts.iter().map(|mount| mount.target.clone()).collect();
    out.links.retain(|link| !mounted.contains(&link.path));
    Ok(out)
}

fn add_library(root: &HostRoot, path: String, out: &mut SpecEdits) {
    out.mounts.push(bind(real_source(root, &path), &path, true));
    let Some(real) = root.resolve(&path) else { return };
    let Some(elf) = Elf::read(&root.real(&real)) else { return };
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", &path));
    if !name.starts_with("lib") {
        return;
    }
    if let (Some(flags), Some(soname)) = (elf.cache_flags(), &elf.soname) {
        if soname != name {
            out.add_link(format!("{directory}/{soname}"), name);
        }
        out.libraries.push(Library { path: format!("{directory}/{soname}"), soname: soname.clone(), flags });
    }
}

/// The paths that a pattern with `*`, `?` and `[...]` stands for; itself where it has none.
fn expand(root: &HostRoot, pattern: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        let mut next = Vec::new();
        for base in found {
            if part.contains(['*', '?', '[']) {
                let names = root.names(if base.is_empty() { "/" } else { &base });
                next.extend(
                    names.iter().filter(|name| matches(part, name)).map(|name| format!("{base}/{name}")),
                );
            } else {
                next.push(format!("{base}/{part}"));
            }
        }
        found = next;
    }
    found
}

/// Whether a name fits a shell pattern.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    fits(&pattern, &name)
}

fn fits(pattern: &[char], name: &[char]) -> bool {
    match (pattern.first(), name.first()) {
        (None, None) => true,
        (Some('*'), _) => fits(&pattern[1..], name) || (!name.is_empty() && fits(pattern, &name[1..])),
        (Some('?'), Some(_)) => fits(&pattern[1..], &name[1..]),
        (Some('['), Some(&letter)) => {
            let Some(end) = pattern.iter().skip(2).position(|c| *c == ']').map(|at| at + 2) else {
                return letter == '[' && fits(&pattern[1..], &name[1..]);
            };
            let (negated, set) = match pattern[1] {
                '!' | '^' => (true, &pattern[2..end]),
                _ => (false, &pattern[1..end]),
            };
            let mut inside = false;
            let mut at = 0;
            while at < set.len() {
                if at + 2 < set.len() && set[at + 1] == '-' {
                    inside |= (set[at]..=set[at + 2]).contains(&letter);
                    at += 3;
                } else {
                    inside |= set[at] == letter;
                    at += 1;
                }
            }
            inside != negated && fits(&pattern[end + 1..], &name[1..])
        }
        (Some(want), Some(have)) if want == have => fits(&pattern[1..], &name[1..]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn shell_patterns() {
        for (pattern, name, want) in [
            ("nvhost-*", "nvhost-ctrl", true),
            ("nvhost-*", "nvmap", false),
            ("nvidia[0-9]", "nvidia3", true),
            ("nvidia[!0-9]", "nvidia3", false),
            ("lib?.so*", "liba.so.1", true),
            ("*", "", true),
            ("[", "[", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }
}
