use super::*;

fn texts(words: &[Word]) -> Vec<&str> {
    words.iter().map(|word| word.text.as_str()).collect()
}

#[test]
fn words_know_where_they_stand() {
    let text = "FROM a AS b\nENV x=1 \\\n  y=\"2 3\"\nARG p q='r s'\nHEALTHCHECK --retries=1 CMD x  y\nCMD [ \"é\", \"b\"]\n";
    let tree = Tree::parse(text).unwrap();
    assert_eq!(tree.nodes[0].arguments[2].span.of(text), "b");
    assert_eq!(tree.nodes[1].pairs[1].span.of(text), "y=\"2 3\"");
    assert_eq!(tree.nodes[2].arguments[1].span.of(text), "q='r s'");
    assert_eq!(tree.nodes[3].arguments[1].span.of(text), "x  y");
    assert_eq!(tree.nodes[4].arguments[0].span.of(text), "[ \"é\", \"b\"]");
}

#[test]
fn lines_join_and_point_back() {
    let text = "# a\nFROM x\nRUN a \\\n  # no\n\n  --b \\  \n  c\nENV a=b\n";
    let tree = Tree::parse(text).unwrap();
    let run = &tree.nodes[1];
    assert_eq!(texts(&run.arguments), ["a   --b   c"]);
    assert_eq!(run.span.lines(text), (3, 7));
    assert_eq!(tree.empty_continuations.len(), 1);
    assert_eq!(tree.nodes[2].pairs[0].key, "a");
    assert_eq!(tree.nodes[0].comments, ["a"]);
}

#[test]
fn directives() {
    for (text, escape, names) in [
        ("# syntax=docker/dockerfile:1\n# escape = `\nFROM a\nRUN b `\n c\n", '`', 2),
        ("# hello\n# escape=`\nFROM a\n", '\\', 0),
        ("#EsCaPe=`\nFROM a\n", '`', 1),
        ("\u{feff}#check=skip=all\nFROM a\n", '\\', 1),
        ("\n# escape=`\nFROM a\n", '\\', 0),
        ("# foo=bar\n# escape=`\nFROM a\n", '\\', 0),
    ] {
        let tree = Tree::parse(text).unwrap();
        assert_eq!((tree.escape, tree.directives.len()), (escape, names), "{text:?}");
    }
    for (text, why) in [
        ("# escape=x\nFROM a", "invalid escape token 'x' does not match ` or \\"),
        ("# escape=`\n# escape=`\nFROM a", "only one escape parser directive can be used"),
        ("# a\n\n", "file with no instructions"),
        ("FROM a\nRUN <<E\nx\n", "unterminated heredoc"),
        ("FROM a\nCMD [1]", "when using JSON array syntax, arrays must be comprised of strings only"),
        ("FROM a\nENV a", "ENV must have two arguments"),
        ("FROM a\nENV a=b c", "Syntax error - can't find = in \"c\". Must be of the form: name=value"),
    ] {
        assert_eq!(Tree::parse(text).unwrap_err().message, why, "{text:?}");
    }
}

#[test]
fn heredocs() {
    let text =
        "FROM a\nCOPY <<A <<-'B C' /x/\n1\nA\n\t2\n\tB C\nRUN cat <<E && echo \"<<F\"\n$x\nE\nUSER u\n";
    let tree = Tree::parse(text).unwrap();
    let copy = &tree.nodes[1];
    let names: Vec<_> = copy.heredocs.iter().map(|h| (h.name.as_str(), h.expand, h.text())).collect();
    assert_eq!(names, [("A", true, "1\n".into()), ("B C", false, "2\n".into())]);
    assert_eq!(tree.nodes[2].heredocs[0].span.of(text), "$x\n");
    assert!(tree.nodes[3].is("user"));
}

#[test]
fn flags_are_apart_from_arguments() {
    let text = "FROM a\nCOPY --chown=\"a b\" \\\n --from=x -- --y /z\n";
    let node = &Tree::parse(text).unwrap().nodes[1];
    let flags: Vec<_> = node.flags.iter().map(|flag| flag.text.as_str()).collect();
    assert_eq!(flags, ["--chown=a b", "--from=x"]);
    assert_eq!(node.flags[1].span.of(text), "--from=x");
    assert_eq!(texts(&node.arguments), ["--y", "/z"]);
    assert_eq!(node.arguments[1].span.of(text), "/z");
}
