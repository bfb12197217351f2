//! `--env`, `--env-file`, `--label`, `--label-file`.

use std::collections::BTreeMap;
use std::path::Path;

use robot_env_diag::{Error, IoContext, Result};

use crate::ambient::Ambient;

/// Variables of the files, then those of `--env`; a bare name takes the host's value.
pub(crate) fn environment(files: &[String], given: &[String], ambient: &Ambient) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for file in files {
        for line in lines(file, ambient)? {
            match line.split_once('=') {
                Some(_) => out.push(line),
                // Like Docker: a name that the host does not have is not set at all.
                None => out.extend(ambient.variable(&line).map(|value| format!("{line}={value}"))),
            }
        }
    }
    for word in given {
        let (name, value) =
            word.split_once('=').map_or((word.as_str(), None), |(name, value)| (name, Some(value)));
        if name.is_empty() {
            return Err(Error::invalid(format!("invalid environment variable: `{word}` has no name")));
        }
        match (value, ambient.variable(name)) {
            (None, Some(value)) => out.push(format!("{name}={value}")),
            // With no value anywhere the name alone removes a variable of the image.
            _ => out.push(word.clone()),
        }
    }
    Ok(out)
}

/// Labels of the files, then those of `--label`.
pub(crate) fn labels(
    files: &[String],
    given: &[String],
    ambient: &Ambient,
) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for file in files {
        for line in lines(file, ambient)? {
            insert(&mut out, &line, "label")?;
        }
    }
    for word in given {
        insert(&mut out, word, "label")?;
    }
    Ok(out)
}

/// `KEY=VALUE` words; a key alone has an empty value.
pub(crate) fn map(given: &[String], noun: &str) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for word in given {
        insert(&mut out, word, noun)?;
    }
    Ok(out)
}

fn insert(map: &mut BTreeMap<String, String>, word: &str, noun: &str) -> Result<()> {
    let (key, value) = word.split_once('=').unwrap_or((word, ""));
    if key.is_empty() {
        return Err(Error::invalid(format!("invalid {noun} `{word}`: it has no name")));
    }
    map.insert(key.to_owned(), value.to_owned());
    Ok(())
}

/// The lines of an environment or label file that say something. A value is taken as it stands,
/// quotes and trailing spaces included.
fn lines(file: &str, ambient: &Ambient) -> Result<Vec<String>> {
    let path = ambient.directory.join(Path::new(file));
    let bytes = std::fs::read(&path).io_context(|| format!("cannot read file `{file}`"))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let mut out = Vec::new();
    for (number, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let bad =
            |why: &str| Error::invalid(format!("cannot read file `{file}`: line {}: {why}", number + 1));
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = std::str::from_utf8(line).map_err(|_| bad("it is not valid UTF-8"))?.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split_once('=').map_or(line, |(name, _)| name);
        if name.is_empty() {
            return Err(bad("there is no variable name"));
        }
        if name.contains(char::is_whitespace) {
            return Err(bad(&format!("variable `{name}` contains white space")));
        }
        out.push(line.to_owned());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ambient() -> Ambient {
        Ambient {
            environment: vec![("HOSTVAR".into(), "h".into())],
            directory: std::env::temp_dir(),
            ..Ambient::default()
        }
    }

    #[test]
    fn variables_come_from_files_flags_and_the_host() {
        let path = std::env::temp_dir().join(format!("robot-env-env-file-{}", std::process::id()));
        std::fs::write(&path, "\u{feff}# comment\n\n  A=1 # kept \nB=\"q\"\r\nHOSTVAR\nNOWHERE\nC=\n")
            .unwrap();
        let file = path.to_str().unwrap().to_owned();
        let given = ["HOSTVAR", "NOWHERE", "X=a=b", "Y="].map(str::to_owned);
        let got = environment(std::slice::from_ref(&file), &given, &ambient()).unwrap();
        assert_eq!(got, ["A=1 # kept ", "B=\"q\"", "HOSTVAR=h", "C=", "HOSTVAR=h", "NOWHERE", "X=a=b", "Y="]);
        for bad in ["A B=1\n", "=1\n", "\u{e9} x\n"] {
            std::fs::write(&path, bad).unwrap();
            assert!(environment(std::slice::from_ref(&file), &[], &ambient()).is_err(), "{bad:?}");
        }
        std::fs::write(&path, b"A=\xff\n").unwrap();
        assert!(environment(std::slice::from_ref(&file), &[], &ambient()).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(environment(&[file], &[], &ambient()).unwrap_err().message().contains("cannot read file"));
        assert!(environment(&[], &["=x".to_owned()], &ambient()).is_err());
    }

    #[test]
    fn labels_may_have_no_value() {
        let got = labels(&[], &["a=b=c".to_owned(), "d".to_owned()], &ambient()).unwrap();
        assert_eq!(
            got,
            BTreeMap::from([("a".to_owned(), "b=c".to_owned()), ("d".to_owned(), String::new())])
        );
        assert!(labels(&[], &["=b".to_owned()], &ambient()).is_err());
    }
}
