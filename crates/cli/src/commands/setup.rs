mod undo;

use std::path::Path;

use clap::Args;
use clap_complete::Shell;
use robot_env_device::HostRoot;
use robot_env_diag::{Error, IoContext, Result};
use robot_env_robot::setup::{ASKED_FOR, Action, Completions, DOCKER, PARTS, Step, plan};

use crate::app::App;
use crate::verb::{Exit, Verb};
use crate::{dispatch, live};

/// Set this machine up: subordinate ids, groups, completion, device rules, the name `docker`
///
/// Nothing is taken away, and an existing Docker is left as it is. Drivers are not installed: the
/// steps for this distribution are printed.
#[derive(Args)]
pub(crate) struct Setup {
    /// Show the steps and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do these parts only
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<String>,
    /// Make the name `docker` and the socket of the Docker Engine API, for root or for the user who
    /// calls; a Docker that is there keeps both
    #[arg(long, conflicts_with = "only")]
    docker: bool,
    /// Take back what earlier setups did; what was changed since stays
    #[arg(long, conflicts_with_all = ["only", "user", "docker"])]
    undo: bool,
    /// The user to set it up for; by default who called sudo, else the caller
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

impl Verb for Setup {
    const SPELLINGS: &'static [&'static str] = &["setup"];

    fn run(self, app: &App) -> Result<Exit> {
        if let Some(bad) = self.only.iter().find(|part| !PARTS.iter().any(|(name, _)| name == part)) {
            let names: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
            return Err(Error::invalid(format!("there is no part `{bad}` of the setup"))
                .with_hint(format!("the parts are {}", names.join(", "))));
        }
        let root = rustix::process::geteuid().is_root();
        if self.undo {
            return undo::undo(app, root, self.dry_run);
        }
        let only: Vec<&str> =
            if self.docker { DOCKER.to_vec() } else { self.only.iter().map(String::as_str).collect() };
        let is_wanted = |part: &str| match only[..] {
            [] => !ASKED_FOR.contains(&part),
            _ => only.contains(&part),
        };
        let globals = app.globals();
        if is_wanted("docker-socket") && (globals.root.is_some() || globals.run_root.is_some()) {
            return Err(Error::invalid(
                "cannot set up a socket with --root or --run-root: the server of systemd works in the default directories",
            ));
        }
        let sudo = app.ambient().variable("SUDO_USER").filter(|_| root);
        let live = live::look(app, self.user.as_deref().or(sudo), false)?;
        let home = app.ambient().home().map(|home| home.to_string_lossy().into_owned());
        let home = home.filter(|_| !root);
        let steps = plan(&HostRoot::system(), &live, &completions(), home.as_deref());
        let mut failed = false;
        for step in steps.iter().filter(|step| is_wanted(step.part)) {
            app.print(&describe(step))?;
            if self.dry_run {
                continue;
            }
            let done =
                undo::note(app, root, step).and_then(|note| act(step, root).inspect_err(|_| note.forget()));
            if let Err(error) = done {
                app.show(&error.within(format!("cannot do `{}` of the setup", step.part)));
                failed = true;
            }
        }
        Ok(if failed { Exit::FAILURE } else { Exit::SUCCESS })
    }
}

fn completions() -> Completions {
    let script = |shell: Shell| {
        let mut out = Vec::new();
        clap_complete::generate(shell, &mut dispatch::tree("robot-env"), "robot-env", &mut out);
        String::from_utf8_lossy(&out).into_owned()
    };
    Completions { bash: script(Shell::Bash), zsh: script(Shell::Zsh), fish: script(Shell::Fish) }
}

fn describe(step: &Step) -> String {
    let mut out = format!("{}: {}\n", step.part, step.title);
    match &step.action {
        Action::Nothing => {}
        Action::Write { path, .. } => out.push_str(&format!("  writes {path}\n")),
        Action::Link { path, target } => out.push_str(&format!("  links {path} to {target}\n")),
        Action::Run(lines) => {
            for line in lines {
                out.push_str(&format!("  runs   {line}\n"));
            }
        }
        Action::Show(lines) => {
            out.push_str("  for you to read and run:\n");
            for line in lines {
                out.push_str(&format!("    {line}\n"));
            }
        }
    }
    out
}

fn act(step: &Step, root: bool) -> Result<()> {
    match &step.action {
        Action::Nothing | Action::Show(_) => Ok(()),
        Action::Write { path, text } => {
            let target = Path::new(path);
            let parent = target.parent().unwrap_or(Path::new("/"));
            let written = std::fs::create_dir_all(parent).and_then(|()| replace(target, text));
            match written {
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied && !root => {
                    Err(needs_root(format!("cannot write `{path}`")).because(error))
                }
                done => done.io_context(|| format!("cannot write `{path}`")),
            }
        }
        Action::Link { path, target } => {
            let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
            let made =
                std::fs::create_dir_all(parent).and_then(|()| std::os::unix::fs::symlink(target, path));
            match made {
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied && !root => {
                    Err(needs_root(format!("cannot make link `{path}`")).because(error))
                }
                done => done.io_context(|| format!("cannot make link `{path}`")),
            }
        }
        Action::Run(lines) => {
            for line in lines {
                if !live::run_line(line)? {
                    return Err(Error::new(robot_env_diag::Kind::Internal, format!("`{line}` failed")));
                }
            }
            Ok(())
        }
    }
}

fn needs_root(message: String) -> Error {
    Error::new(robot_env_diag::Kind::Denied, message).with_hint("sudo robot-env setup")
}

/// Writes beside the target and renames, so that a half-written file is never read.
fn replace(target: &Path, text: &str) -> std::io::Result<()> {
    let mut name = target.as_os_str().to_owned();
    name.push(".robot-env-new");
    std::fs::write(&name, text)?;
    std::fs::rename(&name, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_described_and_done() {
        let place = std::env::temp_dir().join(format!("robot-env-setup-{}", std::process::id()));
        let path = place.join("a/b").to_string_lossy().into_owned();
        let step = Step {
            part: "udev",
            title: "device rules".into(),
            action: Action::Write { path: path.clone(), text: "x".into() },
        };
        assert_eq!(describe(&step), format!("udev: device rules\n  writes {path}\n"));
        act(&step, true).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "x");
        let run = |line: &str| {
            act(&Step { part: "dds", title: String::new(), action: Action::Run(vec![line.into()]) }, true)
        };
        run("true").unwrap();
        assert!(run("false").is_err());
        let _ = std::fs::remove_dir_all(place);
    }

    #[test]
    fn completion_knows_the_commands() {
        let scripts = completions();
        for script in [&scripts.bash, &scripts.zsh, &scripts.fish] {
            assert!(script.contains("doctor") && script.contains("robot-env"), "{}", &script[..200]);
        }
    }
}
