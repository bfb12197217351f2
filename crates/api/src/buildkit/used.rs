//! What a Dockerfile uses of what a client has: paths of the context, secrets, agents.

use std::collections::BTreeSet;

use robot_env_build::BuildRequest;
use robot_env_dockerfile::lex::NoVariables;
use robot_env_dockerfile::{Dockerfile, Instruction, MountKind, Parameters, Source};
use robot_env_oci::Platform;
use robot_env_store::Store;

/// The ids of secrets and of agents that commands ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) secrets: BTreeSet<String>,
    pub(super) agents: BTreeSet<String>,
}

/// Those of a Dockerfile.
pub(super) fn ids(file: &Dockerfile) -> Ids {
    let mut ids = Ids::default();
    for step in file.stages.iter().flat_map(|stage| &stage.steps) {
        let Instruction::Run(run) = &step.instruction else { continue };
        // A mistake in there is the builder's to tell.
        let Ok((mounts, _)) = run.mounts(file.escape, &NoVariables) else { continue };
        for mount in mounts {
            match mount.kind {
                MountKind::Secret => {
                    let last = mount.target.rsplit('/').next().unwrap_or_default();
                    let id = [mount.id.as_str(), mount.source.as_str(), last].into_iter();
                    ids.secrets.extend(id.into_iter().find(|id| !id.is_empty()).map(str::to_owned));
                }
                MountKind::Ssh if mount.id.is_empty() => drop(ids.agents.insert("default".to_owned())),
                MountKind::Ssh => drop(ids.agents.insert(mount.id)),
                _ => {}
            }
        }
    }
    ids
}

/// The paths of the context that the target is made of, patterns among them; `None`: that cannot be
/// told, or it is all.
pub(super) fn paths(file: &Dockerfile, request: &BuildRequest, store: &Store) -> Option<Vec<String>> {
    let parameters = Parameters {
        build_args: request.arguments.clone(),
        target: request.platform.clone().unwrap_or_else(Platform::host),
        builder: Platform::host(),
        stage: request.target.clone().unwrap_or_default(),
    };
    let globals = file.globals(&parameters).ok()?;
    let stages = file.resolve(&globals).ok()?;
    let target = file.target(request.target.as_deref()).ok()?;
    let mut paths = BTreeSet::new();
    for number in file.needed(&stages, target).ok()? {
        if let Source::Image(name) = &stages[number].base {
            // What an image triggers is known only when it is here.
            if request.pull || request.contexts.contains_key(name) {
                return None;
            }
            let image = store.resolve(name).ok()?;
            if !store.config(&image.id).ok()?.value().config.on_build.is_empty() {
                return None;
            }
        }
        for step in &file.stages[number].steps {
            match &step.instruction {
                Instruction::Copy(copy) if copy.from.is_none() => {
                    for source in &copy.placement.sources {
                        paths.insert(plain(&source.text)?);
                    }
                }
                Instruction::Add(add) => {
                    for source in &add.placement.sources {
                        if !source.text.contains("://") && !source.text.starts_with("git@") {
                            paths.insert(plain(&source.text)?);
                        }
                    }
                }
                Instruction::Run(run) => {
                    for mount in run.mounts(file.escape, &NoVariables).ok()?.0 {
                        if mount.kind == MountKind::Bind && mount.from.is_none() {
                            paths.insert(plain(&mount.source)?);
                        }
                    }
                    if run.mount_flags.iter().any(|flag| flag.text.contains('$')) {
                        return None;
                    }
                }
                _ => {}
            }
        }
    }
    Some(paths.into_iter().collect())
}

/// A path that the client understands as we do.
fn plain(text: &str) -> Option<String> {
    let path = text.trim_start_matches('/').trim_start_matches("./").trim_end_matches('/');
    let odd = path.contains(['$', '"', '\'', '\\', '\0', '\n'])
        || path.contains("**")
        || path.split('/').any(|part| matches!(part, "" | "." | ".."));
    (!odd).then(|| path.to_owned())
}

/// The patterns of a `.dockerignore`, as clients take them.
pub(super) fn patterns(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().filter(|line| !line.starts_with('#')).map(str::trim);
    let pattern = |line: &str| {
        let (mark, path) = line.strip_prefix('!').map_or(("", line), |path| ("!", path.trim()));
        let path = if path.len() > 1 { path.trim_start_matches('/') } else { path };
        format!("{mark}{path}")
    };
    lines.filter(|line| !line.is_empty()).map(pattern).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_agents() {
        let text = "FROM scratch\nRUN --mount=type=secret,id=a --mount=type=secret,target=/x/b true\n\
                    RUN --mount=type=ssh true\nRUN --mount=type=ssh,id=deploy true\nRUN --mount=type=cache,target=/c true\n";
        let ids = ids(&Dockerfile::parse(text).unwrap());
        assert_eq!(ids.secrets, ["a".to_owned(), "b".to_owned()].into());
        assert_eq!(ids.agents, ["default".to_owned(), "deploy".to_owned()].into());
    }

    #[test]
    fn paths_that_clients_understand() {
        for (text, want) in [
            ("src", Some("src")),
            ("/src/", Some("src")),
            ("./a/b", Some("a/b")),
            ("*.txt", Some("*.txt")),
            (".", None),
            ("./", None),
            ("/", None),
            ("$X", None),
            ("a/../b", None),
            ("a/./b", None),
            ("**/x", None),
            ("\"a b\"", None),
        ] {
            assert_eq!(plain(text).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn ignored_patterns() {
        let text = "\u{feff}# no\n\n /a \n!  /b\n*/c\n/\n";
        assert_eq!(patterns(text), ["a", "!b", "*/c", "/"]);
    }
}
