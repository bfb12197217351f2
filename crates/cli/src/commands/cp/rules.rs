//! Docker's rules of source and destination (its reference, "docker cp", and moby `archive/copy.go`),
//! without looking at any file.

use robot_env_diag::{Error, Result};

/// What an argument means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side<'a> {
    /// A path of the host, or `-`.
    Host(&'a str),
    /// A container and a path in it.
    Container(&'a str, &'a str),
}

/// Tells containers from files: an absolute path and one that starts with a dot are files, whatever
/// colons they have.
pub(super) fn side(argument: &str) -> Side<'_> {
    match argument.split_once(':') {
        Some((container, path)) if !argument.starts_with(['/', '.']) => Side::Container(container, path),
        _ => Side::Host(argument),
    }
}

/// Where something is copied to, after links there were followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    /// Its path, with the slash or dot at its end that the user wrote.
    pub(super) path: String,
    /// Whether there is something.
    pub(super) exists: bool,
    /// Whether that is a directory.
    pub(super) is_directory: bool,
}

/// The directory to unpack in, and the name that the source gets there; none for its own, which is
/// `source_name` where the caller chose one.
pub(super) fn place(
    source_name: Option<&str>,
    source_is_directory: bool,
    destination: &Destination,
) -> Result<(String, Option<String>)> {
    if destination.exists && destination.is_directory {
        return Ok((destination.path.clone(), source_name.map(str::to_owned)));
    }
    if destination.exists && source_is_directory {
        return Err(Error::invalid("cannot copy directory")
            .because(format!("`{}` is a file, and the source is a directory", destination.path)));
    }
    let says_directory = destination.path.ends_with('/') || destination.path.ends_with("/.");
    if !destination.exists && !source_is_directory && says_directory {
        return Err(
            Error::invalid("no such directory").because(format!("`{}` does not exist", destination.path))
        );
    }
    let (directory, name) = split(&destination.path);
    Ok((directory, Some(name)))
}

/// The last name of a path and what is before it; `.` at the end is a name.
pub(super) fn split(path: &str) -> (String, String) {
    let ends_in_dot = path == "." || path.ends_with("/.");
    let clean = clean(path);
    if ends_in_dot {
        return (clean, ".".into());
    }
    match clean.rsplit_once('/') {
        Some(("", "")) => ("/".into(), "/".into()),
        Some(("", name)) => ("/".into(), name.to_owned()),
        Some((directory, name)) => (directory.to_owned(), name.to_owned()),
        None => ("/".into(), clean),
    }
}

/// An absolute path without `.`, `..`, and slashes that mean nothing.
pub(super) fn clean(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colons_name_containers_but_in_paths() {
        for (argument, want) in [
            ("c:/a", Side::Container("c", "/a")),
            ("c:a:b", Side::Container("c", "a:b")),
            ("c:", Side::Container("c", "")),
            ("/a:b", Side::Host("/a:b")),
            ("./a:b", Side::Host("./a:b")),
            ("../a:b", Side::Host("../a:b")),
            ("a", Side::Host("a")),
            ("-", Side::Host("-")),
        ] {
            assert_eq!(side(argument), want, "{argument}");
        }
    }

    #[test]
    fn paths_are_split_as_docker_splits_them() {
        for (path, want) in [
            ("/a/b", ("/a", "b")),
            ("/a/b/", ("/a", "b")),
            ("/a/b/.", ("/a/b", ".")),
            ("/a", ("/", "a")),
            ("/", ("/", "/")),
            ("/.", ("/", ".")),
            ("a", ("/", "a")),
            ("/a/../b/./c//", ("/b", "c")),
        ] {
            let (directory, name) = split(path);
            assert_eq!((directory.as_str(), name.as_str()), want, "{path}");
        }
    }

    #[test]
    fn the_table_of_dockers_reference() {
        const FILE: bool = false;
        const DIRECTORY: bool = true;
        // What the source is; what the destination says, and is; where it goes, and as what.
        for (source, path, is, want) in [
            (FILE, "/new", None, Some(("/", Some("new")))),
            (FILE, "/new/", None, None),
            (FILE, "/new/.", None, None),
            (FILE, "/d/f", Some(FILE), Some(("/d", Some("f")))),
            (FILE, "/d", Some(DIRECTORY), Some(("/d", None))),
            (FILE, "/d/", Some(DIRECTORY), Some(("/d/", None))),
            (DIRECTORY, "/new", None, Some(("/", Some("new")))),
            (DIRECTORY, "/new/", None, Some(("/", Some("new")))),
            (DIRECTORY, "/no/new", None, Some(("/no", Some("new")))),
            (DIRECTORY, "/f", Some(FILE), None),
            (DIRECTORY, "/d", Some(DIRECTORY), Some(("/d", None))),
        ] {
            let destination =
                Destination { path: path.into(), exists: is.is_some(), is_directory: is == Some(DIRECTORY) };
            let got = place(None, source, &destination).ok();
            let want = want.map(|(directory, name)| (directory.to_owned(), name.map(str::to_owned)));
            assert_eq!(got, want, "{source} {path} {is:?}");
        }
        let there = Destination { path: "/d".into(), exists: true, is_directory: true };
        assert_eq!(place(Some("link"), FILE, &there).unwrap(), ("/d".into(), Some("link".into())));
    }
}
