//! What is wrong with this machine, why, and which command mends it.

mod checks;
mod host;

use robot_env_device::HostRoot;
use serde::Serialize;

use crate::{Live, Os};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Good,
    /// Worth knowing; nothing is lost.
    Note,
    /// Something will not work, or not well.
    Warning,
    /// Containers do not work.
    Problem,
}

impl Level {
    /// The word that people read.
    pub fn word(self) -> &'static str {
        match self {
            Level::Good => "good",
            Level::Note => "note",
            Level::Warning => "warning",
            Level::Problem => "problem",
        }
    }
}

/// What mends a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mend {
    /// Lines for a shell.
    pub commands: Vec<String>,
    /// Whether they may run without a person looking at them: they add what is missing, and take
    /// nothing away.
    pub safe: bool,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: `kernel`, `subuid`.
    pub check: &'static str,
    /// How it is.
    pub level: Level,
    /// The fact, lower case, no full stop.
    pub fact: String,
    /// Why it matters or where it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<Mend>,
}

impl Finding {
    fn new(check: &'static str, level: Level, fact: impl Into<String>) -> Finding {
        Finding { check, level, fact: fact.into(), cause: None, mend: None }
    }

    fn good(check: &'static str, fact: impl Into<String>) -> Finding {
        Finding::new(check, Level::Good, fact)
    }

    fn note(check: &'static str, fact: impl Into<String>) -> Finding {
        Finding::new(check, Level::Note, fact)
    }

    fn warning(check: &'static str, fact: impl Into<String>) -> Finding {
        Finding::new(check, Level::Warning, fact)
    }

    fn problem(check: &'static str, fact: impl Into<String>) -> Finding {
        Finding::new(check, Level::Problem, fact)
    }

    fn because(mut self, cause: impl Into<String>) -> Finding {
        self.cause = Some(cause.into());
        self
    }

    fn mended_by(mut self, commands: impl IntoIterator<Item = impl Into<String>>) -> Finding {
        let commands = commands.into_iter().map(Into::into).collect();
        self.mend = Some(Mend { commands, safe: false });
        self
    }

    fn safely(mut self) -> Finding {
        if let Some(mend) = &mut self.mend {
            mend.safe = true;
        }
        self
    }
}

/// Looks at everything, in the order in which it matters.
pub fn examine(root: &HostRoot, live: &Live) -> Vec<Finding> {
    let host = host::Host { root, live, os: Os::of(root) };
    checks::ALL.iter().flat_map(|check| check(&host)).collect()
}

#[cfg(test)]
mod tests;
