//! The rules, under Docker's names.

/// What may be wrong with a Dockerfile that can be built all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "`Rule::description` says what each is")]
pub enum Rule {
    StageNameCasing,
    FromAsCasing,
    NoEmptyContinuation,
    ConsistentInstructionCasing,
    DuplicateStageName,
    ReservedStageName,
    JsonArgsRecommended,
    MaintainerDeprecated,
    UndefinedArgInFrom,
    WorkdirRelativePath,
    UndefinedVar,
    MultipleInstructionsDisallowed,
    LegacyKeyValueFormat,
    InvalidBaseImagePlatform,
    RedundantTargetPlatform,
    SecretsUsedInArgOrEnv,
    InvalidDefaultArgInFrom,
    FromPlatformFlagConstDisallowed,
    CopyIgnoredFile,
    InvalidDefinitionDescription,
    ExposeProtoCasing,
    ExposeInvalidFormat,
}

/// Each with its name and what it says.
const RULES: [(Rule, &str, &str); 22] = [
    (Rule::StageNameCasing, "StageNameCasing", "Stage names should be lowercase"),
    (Rule::FromAsCasing, "FromAsCasing", "The 'as' keyword should match the case of the 'from' keyword"),
    (
        Rule::NoEmptyContinuation,
        "NoEmptyContinuation",
        "Empty continuation lines will become errors in a future release",
    ),
    (
        Rule::ConsistentInstructionCasing,
        "ConsistentInstructionCasing",
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
    ),
    (Rule::DuplicateStageName, "DuplicateStageName", "Stage names should be unique"),
    (Rule::ReservedStageName, "ReservedStageName", "Reserved words should not be used as stage names"),
    (
        Rule::JsonArgsRecommended,
        "JSONArgsRecommended",
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    ),
    (
        Rule::MaintainerDeprecated,
        "MaintainerDeprecated",
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    ),
    (Rule::UndefinedArgInFrom, "UndefinedArgInFrom", "FROM command must use declared ARGs"),
    (
        Rule::WorkdirRelativePath,
        "WorkdirRelativePath",
        "Relative workdir without an absolute workdir declared within the build can have unexpected results \
         if the base image changes",
    ),
    (Rule::UndefinedVar, "UndefinedVar", "Variables should be defined before their use"),
    (
        Rule::MultipleInstructionsDisallowed,
        "MultipleInstructionsDisallowed",
        "Multiple instructions of the same type should not be used in the same stage",
    ),
    (
        Rule::LegacyKeyValueFormat,
        "LegacyKeyValueFormat",
        "Legacy key/value format with whitespace separator should not be used",
    ),
    (
        Rule::InvalidBaseImagePlatform,
        "InvalidBaseImagePlatform",
        "Base image platform does not match expected target platform",
    ),
    (
        Rule::RedundantTargetPlatform,
        "RedundantTargetPlatform",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    ),
    (
        Rule::SecretsUsedInArgOrEnv,
        "SecretsUsedInArgOrEnv",
        "Sensitive data should not be used in the ARG or ENV commands",
    ),
    (
        Rule::InvalidDefaultArgInFrom,
        "InvalidDefaultArgInFrom",
        "Default value for global ARG results in an empty or invalid base image name",
    ),
    (
        Rule::FromPlatformFlagConstDisallowed,
        "FromPlatformFlagConstDisallowed",
        "FROM --platform flag should not use a constant value",
    ),
    (Rule::CopyIgnoredFile, "CopyIgnoredFile", "Attempting to Copy file that is excluded by .dockerignore"),
    (
        Rule::InvalidDefinitionDescription,
        "InvalidDefinitionDescription",
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`",
    ),
    (Rule::ExposeProtoCasing, "ExposeProtoCasing", "Protocol in EXPOSE instruction should be lowercase"),
    (
        Rule::ExposeInvalidFormat,
        "ExposeInvalidFormat",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an \
         error in a future release",
    ),
];

impl Rule {
    /// All there are.
    pub fn all() -> impl Iterator<Item = Rule> {
        RULES.iter().map(|(rule, ..)| *rule)
    }

    /// Docker's name of it.
    pub fn name(self) -> &'static str {
        RULES[self as usize].1
    }

    /// What it says, in a sentence without its full stop.
    pub fn description(self) -> &'static str {
        RULES[self as usize].2
    }

    /// It is looked at only where `# check=experimental=…` names it.
    pub fn is_experimental(self) -> bool {
        self == Rule::InvalidDefinitionDescription
    }
}

/// What `# check=` says: `skip=A,B;error=true;experimental=C`, each optional, `all` for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    skip_all: bool,
    skipped: Vec<String>,
    experimental_all: bool,
    experimental: Vec<String>,
    /// What is found is an error.
    pub error: bool,
}

impl Selection {
    /// Reads the value of a `check` directive.
    ///
    /// Errors: the reason.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut selection = Selection::default();
        if text.trim().is_empty() {
            return Ok(selection);
        }
        for part in text.trim().splitn(3, ';') {
            let (key, value) =
                part.split_once('=').ok_or_else(|| format!("invalid check option {part:?}"))?;
            let value = value.trim();
            let names = || value.split(',').map(|name| name.trim().to_owned()).collect();
            match key.trim() {
                "skip" if value == "all" => selection.skip_all = true,
                "skip" => selection.skipped = names(),
                "experimental" if value == "all" => selection.experimental_all = true,
                "experimental" => selection.experimental = names(),
                "error" => {
                    selection.error = match value {
                        "1" | "t" | "T" | "TRUE" | "true" | "True" => true,
                        "0" | "f" | "F" | "FALSE" | "false" | "False" => false,
                        _ => return Err(format!("failed to parse check option {part:?}")),
                    };
                }
                key => return Err(format!("invalid check option {key:?}")),
            }
        }
        Ok(selection)
    }

    /// With what a comment `# check=…` above an instruction says besides.
    #[must_use]
    pub fn with_comments(&self, comments: &[String]) -> Self {
        let mut merged = self.clone();
        let value = comments.iter().find_map(|comment| {
            let (name, value) = comment.split_once('=')?;
            name.trim().eq_ignore_ascii_case("check").then(|| value.trim())
        });
        let word = value.and_then(|value| value.split(' ').next()).unwrap_or_default();
        if let Ok(other) = Selection::parse(word) {
            merged.skip_all |= other.skip_all;
            merged.experimental_all |= other.experimental_all;
            merged.skipped.extend(other.skipped);
            merged.experimental.extend(other.experimental);
        }
        merged
    }

    /// Whether what `rule` finds is reported.
    pub fn takes(&self, rule: Rule) -> bool {
        let among = |names: &[String]| names.iter().any(|name| name == rule.name());
        if rule.is_experimental() {
            self.experimental_all || among(&self.experimental)
        } else {
            !(self.skip_all || among(&self.skipped))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_rules_order() {
        for (number, (rule, name, _)) in RULES.iter().enumerate() {
            assert_eq!(*rule as usize, number, "{name}");
        }
        let page = include_str!("../../../../docs/dockerfile-lints.md");
        for rule in Rule::all() {
            assert!(page.contains(&format!("| `{}` |", rule.name())), "{} has its line", rule.name());
        }
    }

    #[test]
    fn selections() {
        let of = |text: &str| Selection::parse(text).unwrap();
        for (text, rule, wanted) in [
            ("", Rule::UndefinedVar, true),
            ("skip=all", Rule::UndefinedVar, false),
            ("skip=UndefinedVar, StageNameCasing", Rule::StageNameCasing, false),
            ("skip=UndefinedVar", Rule::StageNameCasing, true),
            ("", Rule::InvalidDefinitionDescription, false),
            ("skip=all;experimental=all", Rule::InvalidDefinitionDescription, true),
            ("experimental=InvalidDefinitionDescription", Rule::InvalidDefinitionDescription, true),
        ] {
            assert_eq!(of(text).takes(rule), wanted, "{text}");
        }
        assert!(of("error=true").error && !of("error=0;skip=all").error);
        for bad in ["skip", "error=maybe", "x=y"] {
            assert!(Selection::parse(bad).is_err(), "{bad}");
        }
        let comments = ["hello".to_owned(), "check=skip=UndefinedVar because".to_owned()];
        assert!(!of("").with_comments(&comments).takes(Rule::UndefinedVar));
    }
}
