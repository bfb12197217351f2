use clap::Args;
use robot_env_diag::{Error, Escaped, Kind, Result};
use robot_env_engine::{Engine, RemoveContainerOptions};
use robot_env_oci::Reference;

use crate::app::App;
use crate::format::human;
use crate::verb::{Exit, Verb};

/// From so many bytes on, `rm` says how much a container had written.
const WORTH_A_LINE: u64 = 1_000_000;

/// Remove containers
#[derive(Args)]
pub(crate) struct Rm {
    /// Kill a running container first
    #[arg(short, long)]
    force: bool,
    /// Save what the container has written as an image of this name first
    #[arg(long, value_name = "IMAGE")]
    keep: Option<String>,
    /// Remove a link (there are none)
    #[arg(short, long, hide = true)]
    link: bool,
    /// Remove anonymous volumes too
    #[arg(short, long)]
    volumes: bool,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

impl Verb for Rm {
    const SPELLINGS: &'static [&'static str] = &["rm", "container rm", "container remove"];

    fn run(self, app: &App) -> Result<Exit> {
        if self.link {
            return Err(Error::new(Kind::Unsupported, "--link is not supported: there are no links"));
        }
        let keep = self.keep.as_deref().map(str::parse::<Reference>).transpose()?;
        if keep.is_some() && self.containers.len() > 1 {
            return Err(Error::invalid("--keep names one image, so it takes one container"));
        }
        let engine = app.engine()?;
        let options = RemoveContainerOptions { force: self.force, volumes: self.volumes };
        let exit = app.each(&self.containers, |text| {
            let loss = loss(&engine, text);
            let id = engine.container(text).ok().map(|container| container.record.id);
            if let Some(keep) = &keep {
                save(app, &engine, text, keep, self.force)?;
            }
            match engine.remove(text, options) {
                // With --force, what is not there need not be removed.
                Err(error) if self.force && error.kind() == Kind::NotFound => {
                    app.show(&error);
                    return Ok(());
                }
                removed => removed?,
            };
            if let Some(loss) = loss.filter(|_| keep.is_none()) {
                let is_kept = id.is_some_and(|id| engine.is_kept(&id));
                say_loss(app, &engine, text, &loss, is_kept, "are gone (`rm --keep IMAGE` saves them)");
            }
            app.print_line(text)
        });
        engine.empty_trash_later();
        exit
    }
}

/// How much a container has written and where most of it is, if it is worth a line.
pub(super) fn loss(engine: &Engine, text: &str) -> Option<String> {
    let written = engine.written(text).ok()?.length;
    if written < WORTH_A_LINE {
        return None;
    }
    Some(size_and_places(written, &engine.largest_written(text, 3).unwrap_or_default()))
}

/// Says whether what a removed container had written can come back; `gone` is said where it cannot.
pub(super) fn say_loss(app: &App, engine: &Engine, name: &str, loss: &str, is_kept: bool, gone: &str) {
    let end = if is_kept {
        let time = robot_env_wire::human_duration(engine.undo_time().as_secs() as i64);
        format!("can come back for {time}: `{} undo {name}`", app.program())
    } else {
        gone.to_owned()
    };
    app.say(&format!("{name}: {loss} that it had written {end}"));
}

/// `1.2GB (/root/ws 1.1GB, /var/log 90MB)`. The places are paths that a container has made: they are
/// escaped.
pub(super) fn size_and_places(bytes: u64, places: &[(String, u64)]) -> String {
    let place = |(path, bytes): &(String, u64)| format!("{} {}", Escaped(path), human::decimal(*bytes));
    let places: Vec<String> = places.iter().map(place).collect();
    let size = human::decimal(bytes);
    if places.is_empty() { size } else { format!("{size} ({})", places.join(", ")) }
}

/// Makes an image of what the container has written; one that runs is killed first, so that nothing
/// comes after.
fn save(app: &App, engine: &Engine, text: &str, keep: &Reference, force: bool) -> Result<()> {
    let container = engine.container(text)?;
    if container.state.state.is_active() {
        if !force {
            return Err(Error::new(
                Kind::Conflict,
                format!("cannot remove container \"/{}\": it is running", container.record.name),
            )
            .with_hint("stop it first, or add --force"));
        }
        if container.record.spec.auto_remove {
            return Err(Error::new(
                Kind::Conflict,
                format!("cannot keep container `{}`: it removes itself when it ends", container.record.name),
            )
            .with_hint("`robot-env commit` saves it while it runs"));
        }
        engine.stop(text, &robot_env_engine::StopOptions { signal: Some("KILL".into()), timeout: None })?;
    }
    let image = engine.keep(text, keep.clone().or_latest())?;
    app.say(&format!("kept as {} ({})", keep.clone().or_latest().familiar(), image.id));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_cannot_drive_the_terminal() {
        let places = [("/w\u{1b}[31mX\nY".to_owned(), 3_000_000)];
        assert_eq!(size_and_places(3_000_000, &places), "3MB (/w\\u{1b}[31mX\\nY 3MB)");
        assert_eq!(size_and_places(3_000_000, &[]), "3MB");
    }
}
