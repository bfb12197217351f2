use clap::Args;
use robot_env_device::HostRoot;
use robot_env_diag::{Escaped, Result};
use robot_env_robot::doctor::{Finding, Level, examine};
use serde_json::json;

use crate::app::App;
use crate::live;
use crate::verb::{Exit, Verb};

/// Look for what is wrong with this machine, and say what mends it
///
/// Kernel, namespaces, subordinate ids, control groups, overlay, networks, GPU and driver, display,
/// groups of devices, real-time limits, DDS settings, disk, registry mirrors, configuration. The exit
/// code is 1 if containers cannot work.
#[derive(Args)]
pub(crate) struct Doctor {
    /// Run the commands that only add what is missing (with sudo, for an ordinary user)
    #[arg(long)]
    fix: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "fix")]
    json: bool,
    /// Do not ask the configured mirrors
    #[arg(long)]
    offline: bool,
    /// Show what is good too
    #[arg(short, long)]
    all: bool,
}

impl Verb for Doctor {
    const SPELLINGS: &'static [&'static str] = &["doctor"];

    fn run(self, app: &App) -> Result<Exit> {
        let root = HostRoot::system();
        let look = || live::look(app, None, !self.offline).map(|live| examine(&root, &live));
        let mut findings = look()?;
        if self.json {
            app.print_line(&json!({ "findings": findings }).to_string())?;
            return Ok(exit(&findings));
        }
        if self.fix {
            let mends = findings.iter().filter_map(|finding| finding.mend.as_ref()).filter(|mend| mend.safe);
            let lines: Vec<&String> = mends.flat_map(|mend| &mend.commands).collect();
            live::check_sudo(app, lines.iter().any(|line| line.contains("sudo ")))?;
            for line in lines {
                app.print_line(&format!("+ {}", Escaped(line)))?;
                if !live::run_line(line)? {
                    app.warn(&format!("`{line}` failed"));
                }
            }
            findings = look()?;
        }
        app.print(&report(&findings, self.all))?;
        Ok(exit(&findings))
    }
}

fn exit(findings: &[Finding]) -> Exit {
    if findings.iter().any(|finding| finding.level == Level::Problem) { Exit::FAILURE } else { Exit::SUCCESS }
}

/// The findings as people read them, and how many there are of each level.
fn report(findings: &[Finding], all: bool) -> String {
    let mut out = String::new();
    for finding in findings.iter().filter(|finding| all || finding.level > Level::Good) {
        let word = finding.level.word();
        out.push_str(&format!("{word:8} {:13} {}\n", finding.check, Escaped(&finding.fact)));
        if let Some(cause) = &finding.cause {
            out.push_str(&format!("{:23}because {}\n", "", Escaped(cause)));
        }
        for (at, line) in finding.mend.iter().flat_map(|mend| &mend.commands).enumerate() {
            let head = if at == 0 { "mend:" } else { "" };
            out.push_str(&format!("{:23}{head:6} {}\n", "", Escaped(line)));
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    out.push_str(&format!(
        "{} good, {} to know, {} warnings, {} problems\n",
        count(Level::Good),
        count(Level::Note),
        count(Level::Warning),
        count(Level::Problem)
    ));
    if findings.iter().any(|finding| finding.mend.as_ref().is_some_and(|mend| mend.safe)) {
        out.push_str("`robot-env doctor --fix` runs those that only add what is missing\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use robot_env_robot::doctor::Mend;

    use super::*;

    #[test]
    fn the_report_has_causes_and_mends() {
        let mut finding = Finding {
            check: "overlay",
            level: Level::Problem,
            fact: "no\u{1b}".into(),
            cause: Some("why".into()),
            mend: Some(Mend { commands: vec!["a".into(), "b".into()], safe: true }),
        };
        let text = report(std::slice::from_ref(&finding), false);
        assert!(text.starts_with("problem  overlay       no\\u{1b}\n"), "{text}");
        assert!(text.contains("because why\n") && text.contains("mend:  a\n") && text.contains("       b\n"));
        assert!(text.contains("0 good, 0 to know, 0 warnings, 1 problems") && text.contains("--fix"));
        assert_eq!(exit(std::slice::from_ref(&finding)), Exit::FAILURE);
        finding.level = Level::Good;
        assert_eq!(report(&[finding], false).lines().count(), 2);
    }
}
