use std::collections::BTreeMap;

use super::*;

impl Variables for BTreeMap<&str, &str> {
    fn get(&self, name: &str) -> Option<&str> {
        BTreeMap::get(self, name).copied()
    }
}

#[test]
fn words_become_what_buildkit_makes_of_them() {
    let variables =
        BTreeMap::from([("v", "foo.tar.gz"), ("e", ""), ("p", "/usr/local/bin"), ("s", "a b"), ("d", "$0")]);
    for (text, wanted) in [
        ("$v", "foo.tar.gz"),
        ("${v}x", "foo.tar.gzx"),
        ("$vx", ""),
        ("${n:-w}", "w"),
        ("${e:-w}", "w"),
        ("${e-w}", ""),
        ("${n-w}", "w"),
        ("${v:+w}", "w"),
        ("${e:+w}", ""),
        ("${e+w}", "w"),
        ("${n+w}", ""),
        ("${v:?no}", "foo.tar.gz"),
        ("${v#*.}", "tar.gz"),
        ("${v##*.}", "gz"),
        ("${v%.*}", "foo.tar"),
        ("${v%%.*}", "foo"),
        ("${v#bar}", "foo.tar.gz"),
        ("${v/o/0}", "f0o.tar.gz"),
        ("${v//o/0}", "f00.tar.gz"),
        ("${v//./$e-}", "foo-tar-gz"),
        ("${p//\\//_}", "_usr_local_bin"),
        ("${v/*./}", "gz"),
        ("${v//?o/X}", "Xo.tar.gz"),
        ("${v/o/$d}", "f$0o.tar.gz"),
        ("${v//o/$d}", "foo.tar.gz"),
        ("${e//x/y}", ""),
        ("${n:-${v%.gz}}", "foo.tar"),
        ("'$v' \"$v\" \\$v", "$v foo.tar.gz $v"),
        ("\"a\\\"b\\n\"", "a\"b\\n"),
        ("a\\ b", "a b"),
        ("$", "$"),
        ("$1x", "x"),
        ("a\\", "a"),
        ("<<  EOF", "<<  EOF"),
    ] {
        assert_eq!(
            Lexer::new('\\').expand(text, &variables).map(|e| e.text).as_deref(),
            Ok(wanted),
            "{text}"
        );
    }
    for (text, why) in [
        ("'a", "unexpected end of statement while looking for matching single-quote"),
        ("\"a", "unexpected end of statement while looking for matching double-quote"),
        ("${v", "unsupported modifier"),
        ("${v:-a", "syntax error: missing '}'"),
        ("${", "syntax error: missing '}'"),
        ("${}", "syntax error: bad substitution"),
        ("${v:#a}", "unsupported modifier (:#) in substitution"),
        ("${v^a}", "unsupported modifier (^) in substitution"),
        ("${n:?is needed}", "n: is needed"),
        ("${n?}", "n: is not allowed to be unset"),
        ("${e:?}", "e: is not allowed to be empty"),
        ("${v/a}", "syntax error: missing '/' in ${}"),
        ("${v#\\x}", "invalid pattern (\\x) in substitution: invalid escape '\\x'"),
    ] {
        let error = Lexer::new('\\').expand(text, &variables).unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }
    let words = Lexer::new('\\').expand("$s \"$s\" c\\ d ${s}e", &variables).unwrap();
    assert_eq!(words.words, ["a", "b", "a b", "c d", "a", "be"]);
    let found = Lexer::new('`').expand("$n $v `$q", &variables).unwrap();
    assert_eq!((found.text.as_str(), found.unmatched.len(), found.matched.len()), (" foo.tar.gz $q", 1, 1));
}

#[test]
fn nothing_grows_or_nests_without_end() {
    let deep = "${a:-".repeat(5000);
    assert!(Lexer::new('\\').expand(&deep, &NoVariables).is_err());
    let long = "x".repeat(1 << 20);
    let variables = BTreeMap::from([("a", long.as_str())]);
    assert!(Lexer::new('\\').expand(&"$a".repeat(8), &variables).is_err());
}
