use std::collections::BTreeMap;

use super::*;
use crate::lex::Variables;
use crate::scope::Scope;

fn parameters(args: &[(&str, &str)]) -> Parameters {
    Parameters {
        build_args: args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        target: "linux/arm64".parse().unwrap(),
        builder: "linux/amd64".parse().unwrap(),
        stage: String::new(),
    }
}

fn resolve(text: &str, args: &[(&str, &str)]) -> Result<Vec<Resolved>, Fault> {
    let file = Dockerfile::parse(text)?;
    let globals = file.globals(&parameters(args))?;
    file.resolve(&globals)
}

#[test]
fn bases_are_stages_or_images() {
    let text = "ARG V=12\nARG I=debian:$V\nFROM --platform=$BUILDPLATFORM $I AS Base\nFROM base\nFROM Base\n\
                FROM scratch AS x\nFROM x AS x\nFROM x\n";
    let all = resolve(text, &[]).unwrap();
    let bases: Vec<_> = all.iter().map(|stage| stage.base.clone()).collect();
    assert_eq!(
        bases,
        [
            Source::Image("debian:12".into()),
            Source::Stage(0),
            Source::Image("Base".into()),
            Source::Scratch,
            Source::Stage(3),
            Source::Stage(4),
        ]
    );
    assert_eq!(all[0].platform.as_deref(), Some("linux/amd64"));
    assert_eq!(all[1].platform, None);
    let all = resolve(text, &[("I", "busybox"), ("BUILDPLATFORM", "linux/arm")]).unwrap();
    assert_eq!(all[0].base, Source::Image("busybox".into()));
    assert_eq!(all[0].platform.as_deref(), Some("linux/arm"));
}

#[test]
fn needs_are_found() {
    let text = "FROM a AS one\nFROM b AS two\nCOPY --from=ONE /x /\nCOPY --from=0 /x /\nCOPY --from=img /x /\n\
                FROM c\nRUN --mount=from=two,target=/m ls\nRUN --mount=from=0,target=/m ls\n\
                FROM d AS last\n";
    let file = Dockerfile::parse(text).unwrap();
    let all = resolve(text, &[]).unwrap();
    let needs = |stage: usize| all[stage].needs.iter().map(|(number, _)| *number).collect::<Vec<_>>();
    assert_eq!((needs(0), needs(1), needs(2), needs(3)), (vec![], vec![0, 0], vec![1], vec![]));
    assert_eq!(file.needed(&all, 2).unwrap(), [0, 1, 2]);
    assert_eq!(file.needed(&all, 3).unwrap(), [3]);
    for (name, wanted) in [(None, 3), (Some("Two"), 1), (Some("2"), 2), (Some("last"), 3)] {
        assert_eq!(file.target(name).unwrap(), wanted);
    }
    let fault = file.target(Some("lats")).unwrap_err();
    assert_eq!(fault.suggestion.as_deref(), Some("last"));
    let from = |text: &str| Word { text: text.into(), span: Span::default() };
    assert_eq!(file.copy_source(&from("img")).unwrap(), Source::Image("img".into()));
    assert_eq!(file.mount_source(&from("scratch")), Source::Scratch);
    assert_eq!(file.mount_source(&from("0")), Source::Image("0".into()));
}

#[test]
fn what_cannot_be_resolved() {
    for (text, why, at) in [
        ("FROM $X\n", "base name ($X) should not be blank", "$X"),
        ("FROM ${X:-}\n", "base name (${X:-}) should not be blank", "${X:-}"),
        ("FROM --platform=$TARGETPLATFROM a\n", "empty platform value", "--platform=$TARGETPLATFROM"),
        ("FROM a\nCOPY --from=7 a b\n", "invalid stage index 7", "--from=7"),
        ("FROM a\nCOPY --from=-1 a b\n", "invalid stage index -1", "--from=-1"),
        ("FROM a AS a\nCOPY --from=a a b\n", "circular dependency detected on stage: a", "COPY --from=a a b"),
        (
            "FROM x AS a\nCOPY --from=b a b\nFROM a AS b\n",
            "circular dependency detected on stage: a",
            "FROM a AS b",
        ),
        (
            "FROM x AS a\nRUN --mount=from=c,target=/a b\nFROM x AS b\nCOPY --from=a a b\nFROM b AS c\n",
            "circular dependency detected on stage: a",
            "COPY --from=a a b",
        ),
        ("ARG a='\nFROM $a\n", "unexpected end of statement while looking for matching single-quote", "a='"),
    ] {
        let fault = resolve(text, &[]).unwrap_err();
        assert!(fault.message.contains(why), "{text}: {}", fault.message);
        assert_eq!(fault.span.of(text), at, "{text}");
    }
    let fault = resolve("FROM --platform=$TARGETPLATFROM a\n", &[]).unwrap_err();
    assert_eq!(fault.suggestion.as_deref(), Some("TARGETPLATFORM"));
    // Only stages that are built matter here.
    let text = "FROM x AS a\nCOPY --from=b a b\nFROM x AS b\nFROM a\n";
    let (file, all) = (Dockerfile::parse(text).unwrap(), resolve(text, &[]).unwrap());
    assert_eq!(file.needed(&all, 1).unwrap(), [1]);
    let fault = file.needed(&all, 2).unwrap_err();
    assert_eq!(
        fault.message,
        "cannot copy from stage \"b\", it needs to be defined before current stage \"a\""
    );
}

#[test]
fn parts_of_a_stage() {
    let text = "# syntax=x\n# base is the first\nfrom a as B\nrun x\nFROM b\nUSER u\n";
    let fault = Dockerfile::parse(&text.replace("B\n", "0\n")).unwrap_err();
    assert_eq!(
        fault.message,
        "invalid name for build stage: \"0\", name can't start with a number or contain symbols"
    );
    let file = Dockerfile::parse(&text.replace("# base", "# b")).unwrap();
    assert_eq!(file.stages[0].name.as_ref().unwrap().text, "b");
    assert_eq!(file.stages[0].description, "is the first");
    assert_eq!(file.stages[0].keyword.text, "from");
    assert_eq!(file.stages[1].steps[0].instruction.name(), "USER");
    for (text, why) in [
        ("RUN a\nFROM b\n", "no build stage in current context"),
        ("ARG a\n", "dockerfile contains no stages to build"),
        ("FROM a b c\n", "FROM requires either one or three arguments"),
        ("FROM a AS\n", "FROM requires either one or three arguments"),
        ("FROM\n", "FROM requires either one or three arguments"),
        ("FROM --plattform=x a\n", "unknown flag: --plattform"),
    ] {
        let fault = Dockerfile::parse(text).unwrap_err();
        assert!(fault.message.contains(why), "{text}: {}", fault.message);
    }
    assert!(Dockerfile::parse(&"FROM a\n".repeat(STAGES + 1)).is_err());
}

/// What a scope is after all `ENV` and `ARG` of a stage.
fn scope(text: &str, args: &[(&str, &str)]) -> Scope {
    let file = Dockerfile::parse(text).unwrap();
    let parameters = parameters(args);
    let globals = file.globals(&parameters).unwrap();
    let mut scope = Scope::new([("PATH", "/bin"), ("BASE", "1")]);
    for step in &file.stages[0].steps {
        match step.instruction.expand(file.escape, &scope).unwrap().instruction {
            Instruction::Env(pairs) => {
                for pair in pairs {
                    scope.set(&pair.key, &pair.value).unwrap();
                }
            }
            Instruction::Arg(all) => {
                for argument in all {
                    scope.declare(&argument, &globals, &parameters.build_args, '\\').unwrap();
                }
            }
            _ => {}
        }
    }
    scope
}

#[test]
fn arguments_and_environment() {
    let text = "ARG g=global\nARG h\nFROM x\nARG a=1 b=$a c\nARG g\nARG h=own\nARG TARGETARCH\nENV a=env e=$g-$a\nENV f=$e\n\
                ARG e=arg\n";
    let all = |scope: &Scope| {
        scope.variables().map(|(n, v)| (n.to_owned(), v.to_owned())).collect::<BTreeMap<_, _>>()
    };
    let plain = all(&scope(text, &[]));
    for (name, value) in [
        ("a", "env"),
        ("b", "1"),
        ("g", "global"),
        ("h", "own"),
        ("TARGETARCH", "arm64"),
        ("e", "arg"),
        ("f", "global-1"),
        ("BASE", "1"),
    ] {
        assert_eq!(plain.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!plain.contains_key("c"));
    let given = scope(text, &[("a", "A"), ("c", "C"), ("g", "G"), ("u", "U")]);
    for (name, value) in
        [("a", Some("env")), ("b", Some("A")), ("c", Some("C")), ("g", Some("G")), ("u", None)]
    {
        assert_eq!(given.get(name), value, "{name}");
    }
    assert_eq!(given.arguments()[..3], [("a", "env"), ("b", "A"), ("c", "C")]);
    assert!(given.declares("TARGETARCH") && !given.declares("BASE"));
}

#[test]
fn variables_do_not_grow_without_end() {
    let mut text = String::from("FROM a\nENV a=0123456789\n");
    text.push_str(&"ENV a=$a$a\n".repeat(40));
    let file = Dockerfile::parse(&text).unwrap();
    let mut scope = Scope::default();
    let mut refused = false;
    for step in &file.stages[0].steps {
        let Ok(all) = step.instruction.expand('\\', &scope) else {
            refused = true;
            break;
        };
        let Instruction::Env(pairs) = all.instruction else { unreachable!() };
        if scope.set(&pairs[0].key, &pairs[0].value).is_err() {
            refused = true;
            break;
        }
    }
    assert!(refused);
}
