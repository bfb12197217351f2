//! What `--chmod` says: octal permissions, or clauses as chmod has them.

use robot_env_diag::{Error, Result};

/// Permissions, or a change of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Permissions {
    /// These.
    Octal(u32),
    /// Those that are there, changed in this order.
    Clauses(Vec<Clause>),
}

/// One change: `u+x`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clause {
    /// Whose bits: a mask of 0o7777.
    who: u32,
    action: Action,
    /// The bits, for all classes.
    bits: u32,
    /// `X`: execution for directories, and for what somebody may execute.
    execute_if: bool,
    /// Bits that are taken from a class, as `g=u` has it.
    copy: Option<Class>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Add,
    Remove,
    Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    User,
    Group,
    Other,
}

const USER: u32 = 0o4700;
const GROUP: u32 = 0o2070;
const OTHER: u32 = 0o1007;
const EXECUTE: u32 = 0o111;

impl Permissions {
    /// Reads them.
    ///
    /// # Errors
    /// `InvalidInput` for what are none.
    pub(crate) fn parse(text: &str) -> Result<Permissions> {
        let bad = || {
            Error::invalid(format!(
                "invalid mode `{text}`: it must be an octal number up to 7777, or like u=rwX,go=rX"
            ))
        };
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
            return mode.map(Permissions::Octal).ok_or_else(bad);
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            Clause::parse(part, &mut clauses).ok_or_else(bad)?;
        }
        Ok(Permissions::Clauses(clauses))
    }

    /// The permissions of an entry that had `mode`.
    pub(crate) fn apply(&self, mode: u32, directory: bool) -> u32 {
        match self {
            Permissions::Octal(mode) => *mode,
            Permissions::Clauses(clauses) => {
                clauses.iter().fold(mode, |mode, clause| clause.apply(mode, directory))
            }
        }
    }
}

impl Clause {
    /// Reads `[ugoa…][+-=][rwxXst…]…`, which may be several changes.
    fn parse(text: &str, into: &mut Vec<Clause>) -> Option<()> {
        let split = text.find(['+', '-', '='])?;
        let mut who = 0;
        for class in text[..split].chars() {
            who |= match class {
                'u' => USER,
                'g' => GROUP,
                'o' => OTHER,
                'a' => 0o7777,
                _ => return None,
            };
        }
        // Without a class it is all of them: no mask of a process means anything in a build.
        let who = if split == 0 { 0o7777 } else { who };
        let mut rest = &text[split..];
        while let Some(sign) = rest.chars().next() {
            let action = match sign {
                '+' => Action::Add,
                '-' => Action::Remove,
                '=' => Action::Set,
                _ => return None,
            };
            let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
            let mut clause = Clause { who, action, bits: 0, execute_if: false, copy: None };
            for letter in rest[1..end].chars() {
                match letter {
                    'r' => clause.bits |= 0o444,
                    'w' => clause.bits |= 0o222,
                    'x' => clause.bits |= EXECUTE,
                    'X' => clause.execute_if = true,
                    's' => clause.bits |= 0o6000,
                    't' => clause.bits |= 0o1000,
                    'u' => clause.copy = Some(Class::User),
                    'g' => clause.copy = Some(Class::Group),
                    'o' => clause.copy = Some(Class::Other),
                    _ => return None,
                }
            }
            into.push(clause);
            rest = &rest[end..];
        }
        Some(())
    }

    fn apply(&self, mode: u32, directory: bool) -> u32 {
        let mut bits = self.bits;
        if self.execute_if && (directory || mode & EXECUTE != 0) {
            bits |= EXECUTE;
        }
        if let Some(class) = self.copy {
            let own = match class {
                Class::User => mode >> 6,
                Class::Group => mode >> 3,
                Class::Other => mode,
            } & 7;
            bits |= own << 6 | own << 3 | own;
        }
        let bits = bits & self.who;
        match self.action {
            Action::Add => mode | bits,
            Action::Remove => mode & !bits,
            // As chmod does, the sticky bit and a directory's set-id bits stay unless they are named.
            Action::Set => {
                let keep = if directory { 0o7000 & !self.bits } else { 0o1000 & !self.bits };
                let clear = self.who & !keep;
                mode & !clear | bits
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_changes_of_them() {
        for (text, mode, directory, want) in [
            ("755", 0o600, false, 0o755),
            ("04755", 0o600, false, 0o4755),
            ("+x", 0o644, false, 0o755),
            ("u+x", 0o644, false, 0o744),
            ("a-w", 0o666, false, 0o444),
            ("go=", 0o777, false, 0o700),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("g=u", 0o640, false, 0o660),
            ("u+s", 0o755, false, 0o4755),
            ("o+t", 0o777, true, 0o1777),
            ("u=rw+x-w", 0o000, false, 0o500),
        ] {
            assert_eq!(Permissions::parse(text).unwrap().apply(mode, directory), want, "{text} {mode:o}");
        }
        for bad in ["", "rwx", "888", "77777", "u+y", "u", "z=r", "u+x,"] {
            assert!(Permissions::parse(bad).is_err(), "{bad}");
        }
    }
}
