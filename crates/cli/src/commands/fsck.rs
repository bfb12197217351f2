use clap::Args;
use robot_env_diag::Result;
use robot_env_engine::Findings;

use crate::app::App;
use crate::verb::{Exit, Verb};

/// Check that images, layers and containers' layers are whole
///
/// Says what is damaged and which images to pull again; the exit code is then 1.
#[derive(Args)]
pub(crate) struct SystemFsck {
    /// Move what is damaged aside, so that a pull or load brings just that anew
    #[arg(long)]
    repair: bool,
    /// Look at records and documents only, not at each file of each layer
    #[arg(long)]
    quick: bool,
}

impl Verb for SystemFsck {
    const SPELLINGS: &'static [&'static str] = &["system fsck"];

    fn run(self, app: &App) -> Result<Exit> {
        let found = app.engine()?.fsck(!self.quick, self.repair)?;
        app.print(&text(&found, self.repair, app.program()))?;
        Ok(if found.damage.is_empty() { Exit::SUCCESS } else { Exit::FAILURE })
    }
}

fn text(found: &Findings, repair: bool, program: &str) -> String {
    if found.damage.is_empty() {
        return "nothing is damaged\n".into();
    }
    let mut out = String::new();
    for damage in &found.damage {
        let kind = format!("{:?}", damage.what).to_lowercase();
        let done = if damage.repaired { " (set aside)" } else { "" };
        let line = format!("damaged {kind} `{}`: {}{done}", damage.name, damage.reason);
        out.push_str(&format!("{}\n", robot_env_diag::Escaped(&line)));
    }
    let mut closing = |text: String| out.push_str(&format!("{text}\n"));
    if !repair {
        closing(format!("`{program} system fsck --repair` moves what is damaged aside"));
    }
    for name in &found.images {
        closing(format!("then bring the image again: `{program} pull {}`", name.familiar()));
    }
    for id in &found.nameless {
        closing(format!("the image `{id}` has no name to pull it by: load it again, or remove it"));
    }
    out
}

#[cfg(test)]
mod tests {
    use robot_env_store::{Damage, Subject};

    use super::*;

    #[test]
    fn what_to_do_is_said() {
        let damage = |what, name: &str, repaired| Damage {
            what,
            name: name.into(),
            reason: "it is short".into(),
            repaired,
        };
        let mut found = Findings {
            damage: vec![damage(Subject::Layer, "sha256:1", true), damage(Subject::Image, "sha256:2", false)],
            images: vec!["ros:noetic".parse().unwrap()],
            nameless: vec!["sha256:3".into()],
        };
        let said = text(&found, true, "robot-env");
        assert!(
            said.starts_with(
                "damaged layer `sha256:1`: it is short (set aside)\ndamaged image `sha256:2`: it is short\n"
            ),
            "{said}"
        );
        assert!(
            said.contains("`robot-env pull ros:noetic`") && said.contains("`sha256:3` has no name"),
            "{said}"
        );
        assert!(
            !said.contains("--repair")
                && text(&found, false, "docker").contains("`docker system fsck --repair`")
        );
        found.damage.clear();
        assert_eq!(text(&found, false, "docker"), "nothing is damaged\n");
    }
}
