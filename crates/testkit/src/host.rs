//! Programs of this machine as entries of an image.

use std::fs;
use std::process::Command;

use crate::image::Entry;

/// Programs with all that they are linked to, each where it is here; `None` where one is missing or is
/// no program of this machine's.
pub fn programs(paths: &[&str]) -> Option<Vec<Entry>> {
    let mut files: Vec<String> = Vec::new();
    for path in paths {
        let listed = Command::new("ldd").arg(path).output().ok().filter(|out| out.status.success())?;
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let libraries = text.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned);
        for file in std::iter::once((*path).to_owned()).chain(libraries) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    let entry = |file: &String| Some(Entry::file(&file[1..], fs::read(file).ok()?).mode(0o755));
    files.iter().map(entry).collect()
}

/// Busybox in `/bin`, with these of its programs by name; `None` where busybox-static is not installed.
pub fn busybox(names: &[&str]) -> Option<Vec<Entry>> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find_map(|path| fs::read(path).ok())?;
    let mut entries = vec![Entry::file("bin/busybox", busybox).mode(0o755)];
    entries.extend(names.iter().map(|name| Entry::symlink(&format!("bin/{name}"), "busybox")));
    Some(entries)
}
