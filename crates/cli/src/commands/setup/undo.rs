//! The journal of a setup on disk, and taking back what is in it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use robot_env_diag::{Context, Error, IoContext, Kind, Result};
use robot_env_robot::setup::{Done, Journal, Step};

use super::replace;
use crate::app::App;
use crate::live;
use crate::verb::Exit;

/// Where the journal is: root's, or the user's own.
fn place(app: &App, root: bool) -> Result<PathBuf> {
    if root {
        return Ok(PathBuf::from("/etc/robot-env/setup.json"));
    }
    let config = app.ambient().variable("XDG_CONFIG_HOME").filter(|path| path.starts_with('/'));
    let config = config.map(PathBuf::from).or_else(|| app.ambient().home().map(|home| home.join(".config")));
    let config =
        config.ok_or_else(|| Error::not_found("cannot find the configuration directory: HOME is not set"))?;
    Ok(config.join("robot-env/setup.json"))
}

fn read(path: &Path) -> Result<Journal> {
    let what = || format!("cannot read `{}`", path.display());
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).context(Kind::Corrupt, what),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Journal::default()),
        Err(error) => Err(error).io_context(what),
    }
}

fn write(path: &Path, journal: &Journal) -> Result<()> {
    let what = || format!("cannot write `{}`", path.display());
    let text = serde_json::to_string_pretty(journal).context(Kind::Internal, what)?;
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).io_context(what)?;
    replace(path, &text).io_context(what)
}

/// What was noted of a step that is about to be done.
pub(super) struct Note {
    path: PathBuf,
    before: Journal,
    /// Half of several lines may have been done: they stay noted.
    is_whole: bool,
}

impl Note {
    /// The step was not done. That it stays in the journal does no harm.
    pub(super) fn forget(&self) {
        if self.is_whole {
            let _ = write(&self.path, &self.before);
        }
    }
}

/// Notes what is about to be done for a step.
pub(super) fn note(app: &App, root: bool, step: &Step) -> Result<Note> {
    let done = Journal::of(step, |path| fs::read_to_string(path).ok());
    let path = place(app, root)?;
    let before = read(&path)?;
    let is_whole = matches!(done[..], [Done::Wrote { .. } | Done::Linked { .. }]);
    if !done.is_empty() {
        let mut journal = before.clone();
        journal.done.extend(done);
        write(&path, &journal)?;
    }
    Ok(Note { path, before, is_whole })
}

/// Takes everything back, the last first; what somebody has changed since stays as it is.
pub(super) fn undo(app: &App, root: bool, dry_run: bool) -> Result<Exit> {
    let path = place(app, root)?;
    let mut journal = read(&path)?;
    if journal.done.is_empty() {
        app.say("there is nothing to undo");
        return Ok(Exit::SUCCESS);
    }
    let mut left = Vec::new();
    while let Some(done) = journal.done.pop() {
        app.print(&describe(&done))?;
        if dry_run {
            continue;
        }
        if let Err(error) = take_back(app, &done) {
            app.show(&error);
            // A line that cannot be taken back today cannot be tomorrow.
            if !matches!(done, Done::Ran { .. }) {
                left.insert(0, done);
            }
        }
    }
    if dry_run {
        return Ok(Exit::SUCCESS);
    }
    if left.is_empty() {
        fs::remove_file(&path).io_context(|| format!("cannot remove `{}`", path.display()))?;
        return Ok(Exit::SUCCESS);
    }
    write(&path, &Journal { done: left })?;
    Ok(Exit::FAILURE)
}

fn describe(done: &Done) -> String {
    match done {
        Done::Wrote { path, before: None, .. } => format!("removes {path}\n"),
        Done::Wrote { path, before: Some(_), .. } => format!("writes {path} as it was\n"),
        Done::Linked { path, .. } => format!("removes {path}\n"),
        Done::Ran { line, back } if back.is_empty() => format!("leaves what was done by `{line}`\n"),
        Done::Ran { back, .. } => back.iter().map(|line| format!("runs   {line}\n")).collect(),
    }
}

fn take_back(app: &App, done: &Done) -> Result<()> {
    let gone = |path: &str, removed: std::io::Result<()>| match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).io_context(|| format!("cannot remove `{path}`"))
        }
        _ => Ok(()),
    };
    match done {
        Done::Wrote { path, text, before } => match fs::read_to_string(path) {
            Ok(now) if now == *text => match before {
                Some(before) => {
                    replace(Path::new(path), before).io_context(|| format!("cannot write `{path}`"))
                }
                None => gone(path, fs::remove_file(path)),
            },
            Ok(_) => {
                app.say(&format!("{path} has changed since: it is left alone"));
                Ok(())
            }
            Err(_) => Ok(()),
        },
        Done::Linked { path, target } => {
            if fs::read_link(path).is_ok_and(|now| now == Path::new(target)) {
                return gone(path, fs::remove_file(path));
            }
            app.say(&format!("{path} has changed since: it is left alone"));
            Ok(())
        }
        Done::Ran { back, .. } => {
            for line in back {
                if !live::run_line(line)? {
                    return Err(Error::new(Kind::Internal, format!("`{line}` failed")));
                }
            }
            Ok(())
        }
    }
}
