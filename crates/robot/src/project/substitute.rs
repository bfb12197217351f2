//! `${localEnv:NAME}` and its like in `devcontainer.json`.

use std::collections::BTreeMap;

/// Replaces every `${...}` that `values` or the environment knows.
///
/// # Errors
/// The variable that nobody knows.
pub(super) fn substitute(
    text: &str,
    values: &BTreeMap<&str, String>,
    environment: &BTreeMap<String, String>,
) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let Some(length) = rest[start..].find('}') else { break };
        let name = &rest[start + 2..start + length];
        out.push_str(&rest[..start]);
        let local = name.strip_prefix("localEnv:").or_else(|| name.strip_prefix("env:"));
        match (local, values.get(name)) {
            (Some(variable), _) => {
                let (variable, default) = variable.split_once(':').unwrap_or((variable, ""));
                out.push_str(environment.get(variable).map_or(default, String::as_str));
            }
            (None, Some(value)) => out.push_str(value),
            (None, None) => return Err(name.to_owned()),
        }
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
            let got = substitute(text, &values, &environment);
            assert_eq!(got.as_deref().map_err(String::as_str), want, "{text}");
        }
    }
}
