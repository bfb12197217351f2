//! Names from an archive, as paths inside a root.

use robot_env_diag::{Error, Kind, Result};

/// The longest path that Linux can name, in bytes.
const PATH_LIMIT: usize = 4095;

/// Normalises a name lexically into `out`: relative, without empty, `.` and `..` components; ""
/// for the root. A name that leaves the root, or that no process could ever use, is refused.
pub(crate) fn normalise(name: &[u8], out: &mut Vec<u8>) -> Result<()> {
    out.clear();
    for component in name.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                if out.is_empty() {
                    return Err(Error::new(Kind::Corrupt, "its name leads out of the root"));
                }
                let end = out.iter().rposition(|b| *b == b'/').unwrap_or(0);
                out.truncate(end);
            }
            _ => {
                if !out.is_empty() {
                    out.push(b'/');
                }
                out.extend_from_slice(component);
            }
        }
    }
    if out.len() > PATH_LIMIT {
        return Err(Error::new(Kind::Corrupt, format!("its name is longer than {PATH_LIMIT} bytes")));
    }
    Ok(())
}

/// Splits a normalised path into its parent ("" for the root) and its last component.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// `dir/name`; just `name` in the root.
pub(crate) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() {
        return name.to_vec();
    }
    [dir, b"/", name].concat()
}

/// Whether `path` is `dir` or lies below it.
pub(crate) fn is_within(path: &[u8], dir: &[u8]) -> bool {
    match path.strip_prefix(dir) {
        Some(rest) => dir.is_empty() || rest.is_empty() || rest[0] == b'/',
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let long = vec![b'a'; PATH_LIMIT + 1];
        for (name, expected) in [
            (&b"a/b"[..], Some(&b"a/b"[..])),
            (b"./a//b/", Some(b"a/b")),
            (b"/a", Some(b"a")),
            (b"", Some(b"")),
            (b"./", Some(b"")),
            (b"a/../b", Some(b"b")),
            (b"a/b/../../c", Some(b"c")),
            (b"..", None),
            (b"../a", None),
            (b"/../a", None),
            (b"a/../../b", None),
            (b"..a/...", Some(b"..a/...")),
            (b"a\xff/b", Some(b"a\xff/b")),
            (&long, None),
        ] {
            let mut out = b"old".to_vec();
            let result = normalise(name, &mut out);
            assert_eq!(result.is_ok().then_some(&out[..]), expected, "{name:?}");
        }
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"a"), (&b""[..], &b"a"[..]));
        assert_eq!(join(b"", b"a"), b"a");
        assert!(
            is_within(b"a/b", b"a")
                && is_within(b"a", b"a")
                && is_within(b"a", b"")
                && !is_within(b"ab", b"a")
        );
    }
}
