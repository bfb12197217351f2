//! Words and variables: quotes, escapes, `$name` and all forms of `${name…}`.
//!
//! Rules: BuildKit's `shell` lexer. It is not a shell: one pass, no word splitting but where asked.

mod pattern;

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

use pattern::Pattern;

/// What variables stand for.
pub trait Variables {
    /// The value of `name`; `None` if it is not set.
    fn get(&self, name: &str) -> Option<&str>;
}

/// No variable is set.
pub struct NoVariables;

impl Variables for NoVariables {
    fn get(&self, _: &str) -> Option<&str> {
        None
    }
}

/// How words are read.
#[derive(Clone, Copy, Debug)]
pub struct Lexer {
    /// What hides the character behind it: `\`, or what the `escape` directive says.
    pub escape: char,
    /// Quotes stay in the result.
    pub raw_quotes: bool,
    /// Escapes stay in the result.
    pub raw_escapes: bool,
    /// Quotes are characters like others (the content of a heredoc).
    pub no_quotes: bool,
    /// A variable that is not set stays as it is written.
    pub keep_unset: bool,
}

/// What became of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The text as one word.
    pub text: String,
    /// The text as words: apart at white space that is neither quoted nor escaped, also at that
    /// which came out of a variable.
    pub words: Vec<String>,
    /// Names of variables that were asked for and are set.
    pub matched: BTreeSet<String>,
    /// Names of variables that were asked for and are not set.
    pub unmatched: BTreeSet<String>,
}

/// How deep `${a:-${b:-…}}` may be.
const DEPTH: usize = 64;
/// Bytes that a text may become: `ENV A=$A$A` doubles.
const LIMIT: usize = 4 << 20;

impl Lexer {
    /// What instructions use.
    pub fn new(escape: char) -> Self {
        Lexer { escape, raw_quotes: false, raw_escapes: false, no_quotes: false, keep_unset: false }
    }

    /// What the content of a heredoc of `COPY` and `ADD` is read with.
    pub fn of_heredocs() -> Self {
        Lexer { no_quotes: true, ..Lexer::new('\\') }
    }

    /// Takes quotes and escapes away and puts the values of variables in.
    ///
    /// Errors: the reason, in BuildKit's words (a quote or brace that is not closed, a modifier that
    /// does not exist, `${x:?…}` of an `x` that is not set).
    pub fn expand(&self, text: &str, variables: &dyn Variables) -> Result<Expanded, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut run = Run {
            lexer: self,
            signs: text.chars().peekable(),
            variables,
            out: Expanded::default(),
            raw_escapes: self.raw_escapes,
            size: 0,
        };
        let (whole, words) =
            run.until(None, 0).map_err(|why| format!("failed to process {text:?}: {why}"))?;
        Ok(Expanded { text: whole, words, ..run.out })
    }
}

struct Run<'a> {
    lexer: &'a Lexer,
    signs: Peekable<Chars<'a>>,
    variables: &'a dyn Variables,
    out: Expanded,
    raw_escapes: bool,
    /// Bytes of all values put in.
    size: usize,
}

#[derive(Default)]
struct Words {
    done: Vec<String>,
    word: String,
    inside: bool,
}

impl Words {
    fn sign(&mut self, sign: char) {
        if !sign.is_whitespace() {
            self.word.push(sign);
            self.inside = true;
        } else if self.inside && !self.word.is_empty() {
            self.done.push(std::mem::take(&mut self.word));
            self.inside = false;
        }
    }

    fn raw(&mut self, text: &str) {
        self.word.push_str(text);
        self.inside = true;
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.done.push(self.word);
        }
        self.done
    }
}

impl Run<'_> {
    /// Reads up to `stop`, or to the end.
    fn until(&mut self, stop: Option<char>, depth: usize) -> Result<(String, Vec<String>), String> {
        let mut result = String::new();
        let mut words = Words::default();
        while let Some(sign) = self.signs.peek().copied() {
            if Some(sign) == stop {
                self.signs.next();
                return Ok((result, words.finish()));
            }
            match sign {
                '$' => {
                    let value = self.dollar(depth)?;
                    value.chars().for_each(|sign| words.sign(sign));
                    result.push_str(&value);
                }
                '<' => {
                    let text = self.angle();
                    words.raw(&text);
                    result.push_str(&text);
                }
                '\'' | '"' if !self.lexer.no_quotes => {
                    let text = if sign == '\'' { self.single() } else { self.double(depth) }?;
                    words.raw(&text);
                    result.push_str(&text);
                }
                _ => {
                    self.signs.next();
                    let mut sign = sign;
                    if sign == self.lexer.escape {
                        if self.raw_escapes {
                            words.raw(sign.encode_utf8(&mut [0; 4]));
                            result.push(sign);
                        }
                        let Some(next) = self.signs.next() else { break };
                        sign = next;
                        words.raw(sign.encode_utf8(&mut [0; 4]));
                    } else {
                        words.sign(sign);
                    }
                    result.push(sign);
                }
            }
        }
        match stop {
            Some(stop) => Err(format!("unexpected end of statement while looking for matching {stop}")),
            None => Ok((result, words.finish())),
        }
    }

    fn nested(&mut self, stop: char, raw_escapes: bool, depth: usize) -> Result<String, String> {
        if depth >= DEPTH {
            return Err("substitutions are nested too deep".into());
        }
        let before = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        let result = self.until(Some(stop), depth + 1);
        self.raw_escapes = before;
        match result {
            Ok((text, _)) => Ok(text),
            Err(_) if self.signs.peek().is_none() => Err(match stop {
                '/' => "syntax error: missing '/' in ${}".into(),
                _ => "syntax error: missing '}'".into(),
            }),
            Err(why) => Err(why),
        }
    }

    fn single(&mut self) -> Result<String, String> {
        let mut result = String::new();
        self.signs.next();
        if self.lexer.raw_quotes {
            result.push('\'');
        }
        for sign in self.signs.by_ref() {
            if sign == '\'' {
                if self.lexer.raw_quotes {
                    result.push(sign);
                }
                return Ok(result);
            }
            result.push(sign);
        }
        Err("unexpected end of statement while looking for matching single-quote".into())
    }

    fn double(&mut self, depth: usize) -> Result<String, String> {
        let mut result = String::new();
        self.signs.next();
        if self.lexer.raw_quotes {
            result.push('"');
        }
        while let Some(sign) = self.signs.peek().copied() {
            match sign {
                '"' => {
                    self.signs.next();
                    if self.lexer.raw_quotes {
                        result.push(sign);
                    }
                    return Ok(result);
                }
                '$' => result.push_str(&self.dollar(depth)?),
                _ => {
                    self.signs.next();
                    let mut sign = sign;
                    if sign == self.lexer.escape {
                        if self.raw_escapes {
                            result.push(sign);
                        }
                        match self.signs.peek().copied() {
                            None => continue,
                            // Others keep their escape.
                            Some(next) if matches!(next, '"' | '$') || next == self.lexer.escape => {
                                self.signs.next();
                                sign = next;
                            }
                            Some(_) => {}
                        }
                    }
                    result.push(sign);
                }
            }
        }
        Err("unexpected end of statement while looking for matching double-quote".into())
    }

    /// `<<  WORD` is one word: white space behind `<<` does not part it.
    fn angle(&mut self) -> String {
        self.signs.next();
        if self.signs.next_if_eq(&'<').is_none() {
            return "<".into();
        }
        let mut result = String::from("<<");
        while let Some(space) = self.signs.next_if(|sign| matches!(sign, '\t' | '\r' | ' ')) {
            result.push(space);
        }
        result
    }

    fn value(&mut self, name: &str) -> Result<Option<String>, String> {
        let Some(value) = self.variables.get(name) else {
            self.out.unmatched.insert(name.to_owned());
            return Ok(None);
        };
        self.size += value.len();
        if self.size > LIMIT {
            return Err(format!("values of variables come to more than {LIMIT} bytes"));
        }
        self.out.matched.insert(name.to_owned());
        Ok(Some(value.to_owned()))
    }

    fn dollar(&mut self, depth: usize) -> Result<String, String> {
        self.signs.next();
        let keep = self.lexer.keep_unset;
        if self.signs.next_if_eq(&'{').is_none() {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            return Ok(match self.value(&name)? {
                None if keep => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        match self.signs.peek() {
            None => return Err("syntax error: missing '}'".into()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".into()),
            Some(_) => {}
        }
        let name = self.name();
        let Some(mut sign) = self.signs.next() else {
            return Err("unsupported modifier (\u{fffd}) in substitution".into());
        };
        let mut modifier = sign.to_string();
        let null_is_unset = sign == ':';
        match sign {
            '}' => {
                return Ok(match self.value(&name)? {
                    None if keep => format!("${{{name}}}"),
                    value => value.unwrap_or_default(),
                });
            }
            '/' => return self.replace(&name, depth),
            ':' => {
                sign = self.signs.next().unwrap_or('\u{fffd}');
                modifier.push(sign);
            }
            _ => {}
        }
        let trims = matches!(sign, '#' | '%');
        if !matches!(sign, '+' | '-' | '?' | '#' | '%') || (null_is_unset && trims) {
            return Err(format!("unsupported modifier ({modifier}) in substitution"));
        }
        let word = self.nested('}', trims, depth)?;
        let value = self.value(&name)?;
        if keep && value.is_none() {
            return Ok(format!("${{{name}{modifier}{word}}}"));
        }
        let missing = value.as_ref().is_none_or(|value| null_is_unset && value.is_empty());
        match sign {
            '-' => Ok(if missing { word } else { value.unwrap_or_default() }),
            '+' => Ok(if missing { String::new() } else { word }),
            '?' if missing => {
                let why = match (word.is_empty(), value.is_none()) {
                    (false, _) => word.as_str(),
                    (true, true) => "is not allowed to be unset",
                    (true, false) => "is not allowed to be empty",
                };
                Err(format!("{name}: {why}"))
            }
            '?' => Ok(value.unwrap_or_default()),
            _ => {
                let (greedy, text) = match word.strip_prefix(sign) {
                    Some(rest) => (true, rest),
                    None => (false, word.as_str()),
                };
                let value = value.unwrap_or_default();
                let pattern = Pattern::parse(text)
                    .map_err(|why| format!("invalid pattern ({text}) in substitution: {why}"))?;
                Ok(if sign == '#' {
                    pattern.trim_start(&value, greedy)
                } else {
                    pattern.trim_end(&value, greedy)
                })
            }
        }
    }

    /// `${name/pattern/replacement}` and `${name//pattern/replacement}`.
    fn replace(&mut self, name: &str, depth: usize) -> Result<String, String> {
        let all = self.signs.next_if_eq(&'/').is_some();
        let text = self.nested('/', true, depth)?;
        let replacement = self.nested('}', true, depth)?;
        let value = self.value(name)?;
        if self.lexer.keep_unset && value.is_none() {
            return Ok(format!("${{{name}/{text}/{replacement}}}"));
        }
        let value = value.unwrap_or_default();
        let pattern = Pattern::parse(&text)
            .map_err(|why| format!("invalid pattern ({text}) in substitution: {why}"))?;
        let result = if all {
            pattern.replace_all(&value, &replacement)
        } else {
            pattern.replace(&value, &replacement)
        };
        self.size += result.len();
        if self.size > LIMIT {
            return Err(format!("values of variables come to more than {LIMIT} bytes"));
        }
        Ok(result)
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.signs.peek().copied() {
            Some(sign) if sign.is_numeric() => {
                while let Some(sign) = self.signs.next_if(|sign| sign.is_numeric()) {
                    name.push(sign);
                }
            }
            Some(sign @ ('@' | '*' | '#' | '?' | '-' | '$' | '!')) => {
                self.signs.next();
                name.push(sign);
            }
            _ => {
                while let Some(sign) = self.signs.next_if(|sign| sign.is_alphanumeric() || *sign == '_') {
                    name.push(sign);
                }
            }
        }
        name
    }
}

#[cfg(test)]
mod tests;
