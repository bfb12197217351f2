//! The words of an instruction: quotes, variables, pairs, JSON lists.

/// What variables stand for: the config's environment.
pub(super) struct Variables(Vec<(String, String)>);

impl Variables {
    pub(super) fn none() -> Self {
        Variables(Vec::new())
    }

    /// Those of `NAME=value` entries.
    pub(super) fn of(environment: &[String]) -> Self {
        let pair = |entry: &String| {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            (name.to_owned(), value.to_owned())
        };
        Variables(environment.iter().map(pair).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// The instructions of a text: comments dropped, continued lines joined.
pub(super) fn strip_continuations(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut pending = String::new();
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with('#') || (line.is_empty() && pending.is_empty()) {
            continue;
        }
        match line.strip_suffix('\\') {
            Some(front) => {
                pending.push_str(front);
                pending.push(' ');
            }
            None => {
                pending.push_str(line);
                out.push(std::mem::take(&mut pending).trim().to_owned());
            }
        }
    }
    out.push(pending.trim().to_owned());
    out.retain(|line| !line.is_empty());
    out
}

/// A JSON list of strings; `None` for anything else, which is then a shell's line.
pub(super) fn json_list(text: &str) -> Option<Vec<String>> {
    if text.starts_with('[') { serde_json::from_str(text).ok() } else { None }
}

/// Words apart at white space outside of quotes; quotes and backslashes stay in them.
pub(super) fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut signs = text.chars();
    while let Some(sign) = signs.next() {
        match (sign, quote) {
            ('\\', None | Some('"')) => {
                word.push(sign);
                word.extend(signs.next());
                continue;
            }
            ('\'' | '"', None) => quote = Some(sign),
            (_, Some(open)) if open == sign => quote = None,
            (space, None) if space.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            _ => {}
        }
        word.push(sign);
    }
    if let Some(quote) = quote {
        return Err(format!("a quote {quote} is not closed"));
    }
    if !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

/// `a=b c="d e"`, or the old form `name the whole rest`. Names and values are not expanded.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let words = split(text)?;
    if !words.first().is_some_and(|word| word.contains('=')) {
        let (name, value) = text
            .split_once(char::is_whitespace)
            .ok_or_else(|| format!("`{text}` has no value; write NAME=VALUE"))?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err(format!("`{word}` has no name")),
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(format!("`{word}` has no `=`")),
        })
        .collect()
}

/// Takes quotes and backslashes away and puts the values of `$NAME`, `${NAME}`, `${NAME:-word}`
/// and `${NAME:+word}` in.
pub(super) fn expand(text: &str, variables: &Variables) -> Result<String, String> {
    let signs: Vec<char> = text.chars().collect();
    let mut out = String::new();
    let mut at = 0;
    let mut double = false;
    while let Some(sign) = signs.get(at).copied() {
        at += 1;
        match sign {
            '\'' if !double => {
                let close = signs[at..].iter().position(|s| *s == '\'');
                let close = close.ok_or("a quote ' is not closed")?;
                out.extend(&signs[at..at + close]);
                at += close + 1;
            }
            '"' => double = !double,
            '\\' => match signs.get(at).copied() {
                // Between double quotes a backslash is one, but before what it can hide there.
                Some(next) if double && !matches!(next, '"' | '$' | '\\') => out.push('\\'),
                Some(next) => {
                    out.push(next);
                    at += 1;
                }
                None => out.push('\\'),
            },
            '$' => at += variable(&signs[at..], variables, &mut out)?,
            _ => out.push(sign),
        }
    }
    if double { Err("a quote \" is not closed".into()) } else { Ok(out) }
}

/// What stands behind a `$`; gives how many signs that were.
fn variable(signs: &[char], variables: &Variables, out: &mut String) -> Result<usize, String> {
    let is_name = |sign: &char| sign.is_ascii_alphanumeric() || *sign == '_';
    if signs.first() != Some(&'{') {
        let length = signs.iter().position(|sign| !is_name(sign)).unwrap_or(signs.len());
        if length == 0 {
            out.push('$');
            return Ok(0);
        }
        let name: String = signs[..length].iter().collect();
        out.push_str(variables.get(&name).unwrap_or_default());
        return Ok(length);
    }
    let (mut depth, mut end) = (0, None);
    for (at, sign) in signs.iter().enumerate() {
        match sign {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            end = Some(at);
            break;
        }
        if depth > 16 {
            return Err("braces stand in braces too often".into());
        }
    }
    let end = end.ok_or("a brace { is not closed")?;
    let inside = &signs[1..end];
    let length = inside.iter().position(|sign| !is_name(sign)).unwrap_or(inside.len());
    let name: String = inside[..length].iter().collect();
    if name.is_empty() {
        return Err("a variable has no name".into());
    }
    let value = variables.get(&name).filter(|value| !value.is_empty());
    let word = |from: usize| expand(&inside[from..].iter().collect::<String>(), variables);
    match inside[length..] {
        [] => out.push_str(value.unwrap_or_default()),
        [':', '-', ..] => match value {
            Some(value) => out.push_str(value),
            None => out.push_str(&word(length + 2)?),
        },
        [':', '+', ..] => {
            if value.is_some() {
                out.push_str(&word(length + 2)?);
            }
        }
        _ => return Err(format!("`${{{}}}` is no variable", inside.iter().collect::<String>())),
    }
    Ok(end + 1)
}
