//! `# syntax=` and the build argument `BUILDKIT_SYNTAX`: who is to read a file. They name an image; here the
//! reader of Dockerfiles is built in.

use std::collections::BTreeMap;

use robot_env_diag::{Error, Kind, Result};
use robot_env_dockerfile::find_directive;
use robot_env_oci::Reference;

/// The images that read Dockerfiles, in whichever registry a mirror has them.
const DOCKERFILE: &[&str] = &["docker/dockerfile", "docker/dockerfile-upstream"];

/// Whether an image that reads files for a build reads Dockerfiles: `docker/dockerfile:1`, ...
pub fn reads_dockerfiles(image: &str) -> bool {
    let Ok(reference) = image.parse::<Reference>() else { return false };
    let path = reference.repository().path();
    let is_one =
        |name: &&str| path.strip_suffix(*name).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'));
    DOCKERFILE.iter().any(is_one)
}

/// Checks that a file is for the reader of Dockerfiles. The argument comes before the line.
///
/// # Errors
/// `Unsupported` for one that another image is to read.
pub fn frontend(text: &str, arguments: &BTreeMap<String, String>) -> Result<()> {
    let argument = arguments.get("BUILDKIT_SYNTAX").filter(|image| !image.is_empty()).cloned();
    let Some(line) = argument.or_else(|| find_directive(text, "syntax")) else { return Ok(()) };
    // Behind the image's name there may be arguments for it.
    let image = line.split_whitespace().next().unwrap_or_default();
    if reads_dockerfiles(image) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Unsupported,
        format!(
            "cannot build by frontend `{image}`: frontends in images are not run, only Dockerfiles are built"
        ),
    )
    .with_hint("for a plain Dockerfile the line is `# syntax=docker/dockerfile:1`, or none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frontends_of_dockerfiles_are_built_in() {
        for (text, want) in [
            ("FROM x", true),
            ("# syntax=docker/dockerfile:1\nFROM x", true),
            ("# syntax = docker.io/docker/dockerfile:1.7-labs\nFROM x", true),
            ("#syntax=docker/dockerfile-upstream:master\nFROM x", true),
            (
                "# syntax=registry.example.com:5000/mirror/docker/dockerfile@sha256:0123456789012345678901234567890123456789012345678901234567890123\nFROM x",
                true,
            ),
            ("# syntax=someone/frontend:3\n", false),
            ("#!/bin/x\n# syntax=someone/dockerfile-plus\n", false),
            ("# syntax=someone/dockerfile\n", false),
            ("# syntax=notdocker/dockerfile\n", false),
            ("# syntax=?\n", false),
            ("FROM x\n# syntax=someone/frontend", true),
        ] {
            assert_eq!(frontend(text, &BTreeMap::new()).is_ok(), want, "{text}");
        }
        for (image, want) in [("docker/dockerfile:1.7", true), ("", false), ("someone/other", false)] {
            let arguments = BTreeMap::from([("BUILDKIT_SYNTAX".to_owned(), image.to_owned())]);
            assert_eq!(frontend("# syntax=someone/frontend", &arguments).is_ok(), want, "{image}");
        }
    }
}
