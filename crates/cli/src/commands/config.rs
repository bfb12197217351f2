//! `config show` and `config check`.

use std::path::Path;

use clap::Args;
use robot_env_config::{Configuration, Finding, KEYS, Meaning, Setting, Severity, Source, read_text};
use robot_env_diag::{Error, Escaped, Result};
use robot_env_registry::ClientOptions;
use serde_json::{Value, json};

use crate::app::App;
use crate::format::align;
use crate::verb::{Exit, Verb};

/// Show what the configuration says and where it says it
///
/// Files, a later one winning: /etc/docker/daemon.json, an ordinary user's docker/daemon.json,
/// /etc/robot-env/config.toml, and robot-env/config.toml in the user's configuration directory.
#[derive(Args)]
pub(crate) struct ConfigShow {
    /// `json`, or nothing for a table
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

impl Verb for ConfigShow {
    const SPELLINGS: &'static [&'static str] = &["config show"];

    fn run(self, app: &App) -> Result<Exit> {
        let as_json = match self.format.as_deref() {
            None | Some("" | "table") => false,
            Some("json") => true,
            Some(other) => {
                return Err(Error::invalid(format!("cannot print the configuration as `{other}`"))
                    .with_hint("the formats are table and json"));
            }
        };
        let configuration = app.configuration();
        let mut rows = rows(configuration);
        let root = app.roots()?.data;
        for row in rows.iter_mut().filter(|row| row.key == "data-root") {
            // A flag or a directory below Docker's: what counts is where it is in the end.
            row.value = json!(root);
            if app.globals().root.is_some() {
                row.said = None;
                row.flag = Some("--root");
            }
        }
        if as_json {
            let files: Vec<_> = configuration.files.iter().collect();
            let findings: Vec<Value> = configuration.findings.iter().map(finding).collect();
            let rows: Vec<Value> = rows.iter().map(Row::to_json).collect();
            let whole = json!({ "settings": rows, "files": files, "findings": findings });
            app.print_line(&whole.to_string())?;
        } else {
            app.print(&table(&rows))?;
            for note in configuration.findings.iter().filter(|finding| finding.severity == Severity::Note) {
                app.print_line(&Escaped(&note.to_string()).to_string())?;
            }
        }
        Ok(Exit::SUCCESS)
    }
}

/// A key in force.
struct Row<'a> {
    key: String,
    value: Value,
    said: Option<&'a Setting>,
    /// The flag that says it, over every file.
    flag: Option<&'static str>,
}

impl Row<'_> {
    fn from(&self) -> String {
        match self.said {
            Some(setting) => format!("{}:{}", setting.said.file.display(), setting.said.at),
            None => self.flag.unwrap_or("default").into(),
        }
    }

    fn to_json(&self) -> Value {
        let said = self.said.map(|setting| &setting.said);
        json!({
            "key": self.key,
            "value": self.value,
            "default": said.is_none() && self.flag.is_none(),
            "file": said.map(|said| &said.file),
            "line": said.map(|said| said.at.line),
            "column": said.map(|said| said.at.column),
        })
    }
}

/// Every key that is in force, in the order of [`KEYS`]; those that nobody names with their defaults.
fn rows(configuration: &Configuration) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for key in KEYS.iter().filter(|key| !matches!(key.meaning, Meaning::None(_))) {
        let said = configuration.settings().iter().filter(|setting| setting.path[0] == key.name);
        let before = rows.len();
        rows.extend(said.map(|setting| Row {
            key: setting.path.join("."),
            value: setting.value.to_json(),
            said: Some(setting),
            flag: None,
        }));
        if rows.len() == before {
            let value = serde_json::from_str(key.default).unwrap_or(Value::Null);
            rows.push(Row { key: key.name.to_owned(), value, said: None, flag: None });
        }
    }
    rows
}

fn table(rows: &[Row<'_>]) -> String {
    let mut out = String::from("KEY\tVALUE\tFROM\n");
    for row in rows {
        let value = if row.value.is_null() { "-".to_owned() } else { row.value.to_string() };
        let from = row.from();
        out.push_str(&format!("{}\t{}\t{}\n", Escaped(&row.key), Escaped(&value), Escaped(&from)));
    }
    align(&out)
}

fn finding(finding: &Finding) -> Value {
    json!({
        "file": finding.file,
        "line": finding.at.map(|at| at.line),
        "column": finding.at.map(|at| at.column),
        "severity": if finding.severity == Severity::Note { "note" } else { "warning" },
        "message": finding.message,
        "hint": finding.hint,
    })
}

/// Check a configuration file
///
/// A config.toml, or a daemon.json of Docker's. Prints what is wrong with line and column; the exit
/// code is then 1.
#[derive(Args)]
pub(crate) struct ConfigCheck {
    /// The file
    #[arg(value_name = "FILE", required = true)]
    file: String,
}

impl Verb for ConfigCheck {
    const SPELLINGS: &'static [&'static str] = &["config check"];

    fn run(self, app: &App) -> Result<Exit> {
        let path = app.ambient().directory.join(&self.file);
        let text = read_text(&path)?
            .ok_or_else(|| Error::not_found(format!("cannot read file `{}`: there is none", self.file)))?;
        let findings = check(Path::new(&self.file), &text);
        let mut exit = Exit::SUCCESS;
        for (wrong, line) in &findings {
            app.print_line(&Escaped(line).to_string())?;
            if *wrong {
                exit = Exit::FAILURE;
            }
        }
        if exit == Exit::SUCCESS {
            app.print_line(&Escaped(&format!("{}: fine", self.file)).to_string())?;
        }
        Ok(exit)
    }
}

/// What is to be said of a file, and whether it is wrong.
fn check(file: &Path, text: &str) -> Vec<(bool, String)> {
    let configuration = Configuration::of_text(&Source { path: file.into(), own: true }, text);
    let mut lines: Vec<(bool, String)> = configuration
        .findings
        .iter()
        .map(|finding| (finding.severity == Severity::Warning, finding.to_string()))
        .collect();
    let loaded = ClientOptions::from_environment([], None, &configuration);
    lines.extend(loaded.warnings.iter().map(|warning| (true, warning.message().to_owned())));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_checked_as_a_whole() {
        let text = "init = 1\nregistry-mirrors = ['ftp://x']\ndebug = true\nrot = 1\n";
        let lines: Vec<String> =
            check(Path::new("config.toml"), text).into_iter().map(|(w, l)| format!("{w} {l}")).collect();
        assert_eq!(
            lines,
            [
                "true config.toml:1:8: `init` must be true or false",
                "false config.toml:3:1: `debug` has no effect: it is about Docker's daemon, and there is none",
                "true config.toml:4:1: unknown key `rot`",
                "true config.toml:2:21: `ftp://x` is not a mirror's `host[:port]` or URL",
            ]
        );
    }

    #[test]
    fn the_table_says_from_where() {
        let source = Source { path: "/etc/docker/daemon.json".into(), own: false };
        let configuration = Configuration::of_text(&source, "{\n \"init\": true\n}");
        let text = table(&rows(&configuration));
        let line = text.lines().find(|line| line.starts_with("init ")).unwrap();
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>(),
            ["init", "true", "/etc/docker/daemon.json:2:2"]
        );
        assert!(text.lines().any(|line| line.starts_with("dns ") && line.ends_with("default")), "{text}");
    }
}
