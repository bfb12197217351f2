//! Names inside an archive: never a path of this machine.

use robot_env_diag::{Error, Kind, Result};

/// The longest name, in bytes.
const LIMIT: usize = 4096;

/// `a/b` for `./a//b`; an error for what leads out or is no name.
pub(super) fn normalise(name: &[u8]) -> Result<String> {
    let text = checked(name)?;
    if text.starts_with('/') {
        return Err(bad(text, "it is absolute"));
    }
    if text.split('/').any(|part| part == "..") {
        return Err(bad(text, "it has `..` in it"));
    }
    walk(text, "", text)
}

/// Where a symbolic link `from` (a normal name) with this target leads.
pub(super) fn follow(from: &str, target: &[u8]) -> Result<String> {
    let text = checked(target)?;
    if text.starts_with('/') {
        return Err(bad(text, "it leads out of the archive"));
    }
    walk(text, from.rsplit_once('/').map_or("", |(directory, _)| directory), text)
}

fn walk(shown: &str, start: &str, path: &str) -> Result<String> {
    let mut parts: Vec<&str> = start.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                if parts.pop().is_none() {
                    return Err(bad(shown, "it leads out of the archive"));
                }
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

fn checked(name: &[u8]) -> Result<&str> {
    if name.len() > LIMIT {
        return Err(Error::new(Kind::Corrupt, format!("a name in the archive has {} bytes", name.len())));
    }
    std::str::from_utf8(name)
        .ok()
        .filter(|text| !text.contains('\0'))
        .ok_or_else(|| bad(&String::from_utf8_lossy(name), "it is not valid UTF-8"))
}

fn bad(name: &str, why: &str) -> Error {
    Error::new(Kind::Corrupt, format!("the name `{name}` in the archive is refused: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, want) in [
            ("manifest.json", Some("manifest.json")),
            ("./a//b/./c", Some("a/b/c")),
            ("a/", Some("a")),
            ("./", Some("")),
            ("/etc/passwd", None),
            ("../a", None),
            ("a/../b", None),
            ("a/..", None),
        ] {
            assert_eq!(normalise(name.as_bytes()).ok().as_deref(), want, "{name}");
        }
        assert!(normalise(b"\xff").is_err() && normalise(&[b'a'; 5000]).is_err());
    }

    #[test]
    fn links_stay_inside() {
        for (from, target, want) in [
            ("a/layer.tar", "../b/layer.tar", Some("b/layer.tar")),
            ("a/b", "c", Some("a/c")),
            ("layer.tar", "x.tar", Some("x.tar")),
            ("a/layer.tar", "../../b", None),
            ("a/layer.tar", "/etc/passwd", None),
            ("a/layer.tar", "x/../../../b", None),
        ] {
            assert_eq!(follow(from, target.as_bytes()).ok().as_deref(), want, "{from} -> {target}");
        }
    }
}
