//! `${localEnv:NAME}` and its like in `devcontainer.json`.

use std::collections::BTreeMap;

/// The variables of a container, which are known when there is one.
const CONTAINER: &str = "containerEnv:";

/// Replaces every `${...}` that `values` or the environment knows; with `later`, those of the container
/// stay for [`of_container`].
///
/// # Errors
/// The variable that nobody knows.
pub(super) fn substitute(
    text: &str,
    values: &BTreeMap<&str, String>,
    environment: &BTreeMap<String, String>,
    later: bool,
) -> Result<String, String> {
    replace(text, |name| {
        let local = name.strip_prefix("localEnv:").or_else(|| name.strip_prefix("env:"));
        match (local, values.get(name)) {
            (Some(variable), _) => Ok(variable_of(variable, environment)),
            (None, Some(value)) => Ok(value.clone()),
            (None, None) if later && name.starts_with(CONTAINER) => Ok(format!("${{{name}}}")),
            (None, None) => Err(name.to_owned()),
        }
    })
}

/// Replaces every `${containerEnv:NAME}` by the variable of the container.
pub(super) fn of_container(text: &str, container: &BTreeMap<String, String>) -> String {
    let value = |name: &str| match name.strip_prefix(CONTAINER) {
        Some(variable) => Ok(variable_of(variable, container)),
        None => Err(String::new()),
    };
    replace(text, value).unwrap_or_else(|_| text.to_owned())
}

/// `NAME` or `NAME:DEFAULT`.
fn variable_of(text: &str, environment: &BTreeMap<String, String>) -> String {
    let (variable, default) = text.split_once(':').unwrap_or((text, ""));
    environment.get(variable).map_or(default, String::as_str).to_owned()
}

fn replace(text: &str, value: impl Fn(&str) -> Result<String, String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let Some(length) = rest[start..].find('}') else { break };
        out.push_str(&rest[..start]);
        out.push_str(&value(&rest[start + 2..start + length])?);
        rest = &rest[start + length + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced() {
        let values = BTreeMap::from([("localWorkspaceFolder", "/w".to_owned())]);
        let environment = BTreeMap::from([("HOME".to_owned(), "/h".to_owned())]);
        for (text, want) in [
            ("source=${localWorkspaceFolder},x", Ok("source=/w,x")),
            ("${localEnv:HOME}/${localEnv:NOPE:d}${localEnv:NOPE}", Ok("/h/d")),
            ("${env:HOME}", Ok("/h")),
            ("$HOME ${", Ok("$HOME ${")),
            ("${containerEnv:PATH}", Err("containerEnv:PATH")),
        ] {
            let got = substitute(text, &values, &environment, false);
            assert_eq!(got.as_deref().map_err(String::as_str), want, "{text}");
        }
    }

    #[test]
    fn variables_of_the_container_are_replaced_when_there_is_one() {
        let text = "${containerEnv:PATH}:/x:${containerEnv:NOPE:d}";
        let kept = substitute(text, &BTreeMap::new(), &BTreeMap::new(), true).unwrap();
        assert_eq!(kept, text);
        let container = BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]);
        assert_eq!(of_container(text, &container), "/bin:/x:d");
    }
}
