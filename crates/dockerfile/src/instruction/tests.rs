use std::collections::BTreeMap;

use super::*;
use crate::span::Fault;
use crate::stage::Dockerfile;

/// The steps of a stage with these lines.
fn steps(text: &str) -> Result<Vec<Step>, Fault> {
    Ok(Dockerfile::parse(&format!("FROM x\n{text}"))?.stages.remove(0).steps)
}

fn step(text: &str) -> Instruction {
    steps(text).unwrap_or_else(|fault| panic!("{text}: {}", fault.message)).remove(0).instruction
}

fn texts(words: &[Word]) -> Vec<&str> {
    words.iter().map(|word| word.text.as_str()).collect()
}

#[test]
fn commands_have_two_forms() {
    let shell = |text: &str| CommandLine::Shell(text.into());
    let exec = |words: &[&str]| CommandLine::Exec(words.iter().map(|word| (*word).into()).collect());
    for (text, wanted) in [
        ("a  b 'c'", shell("a  b 'c'")),
        ("[\"a\", \"b c\"]", exec(&["a", "b c"])),
        ("[\"a\\u00e9\\n\"]", exec(&["aé\n"])),
        ("[ 'a' ]", shell("[ 'a' ]")),
        ("[\"a\",]", shell("[\"a\",]")),
        ("[\"a\"] b", shell("[\"a\"] b")),
        ("[]", exec(&[])),
        ("", shell("")),
    ] {
        assert_eq!(step(&format!("CMD {text}")), Instruction::Cmd(wanted.clone()), "{text}");
        assert_eq!(step(&format!("ENTRYPOINT {text}")), Instruction::Entrypoint(wanted.clone()), "{text}");
        if wanted != exec(&[]) {
            let Instruction::Run(run) = step(&format!("RUN {text}")) else { panic!("{text}") };
            assert_eq!(run.command, wanted, "{text}");
        }
    }
    assert_eq!(step("SHELL [\"bash\", \"-c\"]"), Instruction::Shell(vec!["bash".into(), "-c".into()]));
}

#[test]
fn files_are_placed() {
    let text =
        "COPY --from=b --chown=1:2 --chmod=755 --link --parents --exclude=*.o --exclude=t a \"b\" c/ /d/\n";
    let Instruction::Copy(copy) = step(text) else { panic!() };
    assert_eq!(copy.from.as_ref().unwrap().text, "b");
    assert!(copy.parents && copy.placement.link);
    assert_eq!(copy.placement.chown.as_ref().unwrap().text, "1:2");
    assert_eq!(texts(&copy.placement.excludes), ["*.o", "t"]);
    assert_eq!(texts(&copy.placement.sources), ["a", "\"b\"", "c/"]);
    assert_eq!(copy.placement.destination.text, "/d/");
    let text =
        "ADD --keep-git-dir=true --unpack=FALSE --checksum=sha256:x https://h/a.tar <<-'E' /d/\n\t$x\nE\n";
    let Instruction::Add(add) = step(text) else { panic!() };
    assert_eq!((add.keep_git_dir, add.unpack), (Some(true), Some(false)));
    assert_eq!(texts(&add.placement.sources), ["https://h/a.tar"]);
    let document = &add.placement.documents[0];
    assert_eq!((document.name.as_str(), document.content.as_str(), document.expand), ("E", "$x\n", false));
    let Instruction::Copy(copy) = step("COPY [\"a b\", \"c d\"]\n") else { panic!() };
    assert_eq!(
        (texts(&copy.placement.sources), copy.placement.destination.text.as_str()),
        (vec!["a b"], "c d")
    );
}

#[test]
fn heredocs_become_scripts() {
    for (text, wanted) in [
        ("RUN <<E\na\nb\nE\n", Script::Shell("a\nb\n".into())),
        ("RUN <<-E\n\ta\n\tE\n", Script::Shell("a\n".into())),
        (
            "RUN <<E\n#!/usr/bin/python3\nx\nE\n",
            Script::File { name: "E".into(), content: "#!/usr/bin/python3\nx\n".into() },
        ),
        ("RUN cat <<E > /x && ls\na\nE\n", Script::Shell("cat <<E > /x && ls\na\nE".into())),
        ("RUN cat <<-A <<B\n\ta\nA\nb\nB\n", Script::Shell("cat <<-A <<B\n\ta\nA\nb\nB".into())),
        ("RUN <<E sh\na\nE\n", Script::Shell("<<E sh\na\nE".into())),
        ("RUN [\"a\"]\n", Script::Exec(vec!["a".into()])),
        ("RUN echo \"<<E\"\n", Script::Shell("echo \"<<E\"".into())),
        ("RUN echo $((1<<2))\n", Script::Shell("echo $((1<<2))".into())),
    ] {
        let Instruction::Run(run) = step(text) else { panic!() };
        assert_eq!(run.script(), wanted, "{text}");
    }
}

#[test]
fn mounts() {
    let variables = BTreeMap::from([("T", "/t"), ("K", "cache")]);
    let read = |text: &str| match step(&format!("RUN {text} true")) {
        Instruction::Run(run) => run.mounts('\\', &variables),
        _ => panic!(),
    };
    let (all, unset) = read(
        "--mount=target=/a --mount=type=$K,id=x,dst=$T,sharing=locked,mode=0755,uid=1,gid=2,from=b,source=/s \
         --mount=type=tmpfs,target=/m,size=1.5k --mount=type=secret,id=s,required,env=S$U \
         --mount=type=ssh,required=true --mount=type=bind,rw,ro=0,'\"target=/a,b\"' --network=none --security=insecure",
    )
    .unwrap();
    assert_eq!(unset.into_iter().collect::<Vec<_>>(), ["U"]);
    assert_eq!((all[0].kind, all[0].read_only, all[0].target.as_str()), (MountKind::Bind, true, "/a"));
    assert_eq!((all[1].kind, all[1].read_only, all[1].sharing), (MountKind::Cache, false, Sharing::Locked));
    assert_eq!((all[1].mode, all[1].uid, all[1].gid), (Some(0o755), Some(1), Some(2)));
    assert_eq!((all[1].target.as_str(), all[1].from.as_deref()), ("/t", Some("b")));
    assert_eq!((all[2].kind, all[2].size, all[2].read_only), (MountKind::Tmpfs, Some(1536), false));
    assert_eq!((all[3].id.as_str(), all[3].required, all[3].env.as_deref()), ("s", true, Some("S")));
    assert_eq!((all[4].kind, all[4].required), (MountKind::Ssh, true));
    assert_eq!((all[5].read_only, all[5].target.as_str()), (false, "/a,b"));
    for (text, why) in [
        ("--mount=type=bond,target=/a", "unsupported mount type \"bond\""),
        ("--mount=target", "invalid field 'target' must be a key=value pair"),
        ("--mount=tarhet=/a", "unexpected key 'tarhet' in 'tarhet=/a'"),
        ("--mount=type=cache,sharing=all,target=/a", "unsupported sharing value \"all\""),
        ("--mount=sharing=locked,target=/a", "invalid cache sharing set for bind mount"),
        ("--mount=type=secret", "invalid secret mount. one of source, target required"),
        ("--mount=type=secret,src=a,id=b", "both source and id can't be set"),
        ("--mount=type=secret,id=b,from=x", "secret mount should not have a from"),
        ("--mount=mode=1,target=/a", "mode not allowed for \"bind\" type mounts"),
        ("--mount=type=tmpfs,target=/a,size=x", "invalid value for size: x"),
        ("--mount=target=/a,size=1", "unexpected key 'size' for mount type 'bind'"),
        ("--mount=target=/a,required", "unexpected key 'required' for mount type 'bind'"),
        ("--mount=type=cache,target=/a,uid=-1", "invalid value -1 for uid"),
        ("--mount=target=/a,ro=maybe", "invalid value for ro: maybe"),
    ] {
        assert_eq!(read(text).unwrap_err().message, why, "{text}");
    }
    let Instruction::Run(run) = step("RUN --device=vendor.com/gpu=all,required --device=name=a/b true")
    else {
        panic!()
    };
    assert_eq!(run.devices[0], Device { name: "vendor.com/gpu=all".into(), required: true });
    assert_eq!(run.devices[1].name, "a/b");
}

#[test]
fn checks_of_health() {
    let Instruction::Healthcheck(check) = step(
        "HEALTHCHECK --interval=1m30s --timeout=1.5s --start-period=0s --start-interval=2ms --retries=3 CMD a b",
    ) else {
        panic!()
    };
    assert_eq!(check.test, ["CMD-SHELL", "a b"]);
    assert_eq!((check.interval, check.timeout), (90_000_000_000, 1_500_000_000));
    assert_eq!((check.start_period, check.start_interval, check.retries), (0, 2_000_000, 3));
    let Instruction::Healthcheck(check) = step("HEALTHCHECK CMD [\"a\", \"b\"]") else { panic!() };
    assert_eq!(check.test, ["CMD", "a", "b"]);
    let Instruction::Healthcheck(check) = step("HEALTHCHECK --nonsense none") else { panic!() };
    assert_eq!(check.test, ["NONE"]);
}

#[test]
fn triggers_are_kept_and_read_again() {
    let Instruction::Onbuild(trigger) = step("ONBUILD COPY --chown=1 a \\\n  b\n") else { panic!() };
    assert_eq!(trigger.expression, "COPY --chown=1 a   b");
    let text = "ONBUILD RUN <<E\na\nE\n";
    let Instruction::Onbuild(trigger) = step(text) else { panic!() };
    assert_eq!(trigger.expression, "RUN <<E\na\nE");
    let span = Span::new(3, 7);
    let again = Step::of_trigger(&trigger.expression, span).unwrap();
    assert_eq!(again.span, span);
    let Instruction::Run(run) = again.instruction else { panic!() };
    assert_eq!(run.script(), Script::Shell("a\n".into()));
    for bad in ["FROM x", "ONBUILD RUN x", "MAINTAINER x", "RUN a\nRUN b", "NOPE", ""] {
        assert_eq!(Step::of_trigger(bad, span).unwrap_err().span, span, "{bad}");
    }
}

#[test]
fn ports() {
    let names = |text: &str| Port::parse(text).map(|port| port.names().collect::<Vec<_>>());
    for (text, wanted) in [
        ("80", vec!["80/tcp"]),
        ("80/UDP", vec!["80/udp"]),
        ("80-82/sctp", vec!["80/sctp", "81/sctp", "82/sctp"]),
        ("127.0.0.1:1:2", vec!["2/tcp"]),
        ("[::1]:1:2", vec!["2/tcp"]),
        ("1-3:2", vec!["2/tcp"]),
        ("65535", vec!["65535/tcp"]),
    ] {
        assert_eq!(names(text).unwrap(), wanted, "{text}");
    }
    for (text, why) in [
        ("", "no port specified"),
        ("/tcp", "no port specified"),
        ("80/x", "invalid proto: x"),
        ("a", "invalid containerPort: a"),
        ("65536", "invalid containerPort: 65536"),
        ("3-1", "invalid containerPort: 3-1"),
        ("x:1", "invalid hostPort: x"),
        ("1-2:1-3", "invalid ranges"),
        ("a:1:2", "invalid IP address: a"),
    ] {
        let error = names(text).unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn variables_are_put_in_where_docker_does() {
    let variables = BTreeMap::from([("a", "x y"), ("p", "80 81"), ("e", "")]);
    let expand = |text: &str| step(text).expand('\\', &variables).unwrap();
    let Instruction::Copy(copy) = expand(
        "COPY --chown=$a --chmod=$e --exclude=$a \"$a\" $a/z <<E <<'F' /$u\n$a \"q\" \\$a\nE\n$a\nF\n",
    )
    .instruction
    else {
        panic!()
    };
    assert_eq!(texts(&copy.placement.sources), ["x y", "x y/z"]);
    assert_eq!(copy.placement.chown.as_ref().unwrap().text, "x y");
    assert_eq!(copy.placement.chmod, None);
    assert_eq!(texts(&copy.placement.excludes), ["$a"]);
    assert_eq!(copy.placement.destination.text, "/");
    assert_eq!(copy.placement.documents[0].content, "x y \"q\" $a\n");
    assert_eq!(copy.placement.documents[1].content, "$a\n");
    let Instruction::Expose(words) = expand("EXPOSE $p 9").instruction else { panic!() };
    assert_eq!(texts(&words), ["80", "81", "9"]);
    let Instruction::Env(pairs) = expand("ENV k=$a l='$a' m=\"$a b\" n=a\\ b").instruction else { panic!() };
    let values: Vec<_> = pairs.iter().map(|pair| pair.value.as_str()).collect();
    assert_eq!(values, ["x y", "$a", "x y b", "a b"]);
    let Instruction::Env(pairs) = expand("ENV k  $a  'b' ").instruction else { panic!() };
    assert_eq!((pairs[0].value.as_str(), pairs[0].legacy), ("x y  b", true));
    for (text, wanted) in [
        ("USER ${a% *}", Instruction::User(Word { text: "x".into(), span: Span::new(12, 19) })),
        ("WORKDIR /$a", Instruction::Workdir(Word { text: "/x y".into(), span: Span::new(15, 18) })),
        ("CMD echo $a", Instruction::Cmd(CommandLine::Shell("echo $a".into()))),
    ] {
        assert_eq!(expand(text).instruction, wanted, "{text}");
    }
    assert_eq!(expand("LABEL a=$zz b=${yy}").unset.into_iter().collect::<Vec<_>>(), ["yy", "zz"]);
}

#[test]
fn what_is_refused() {
    for (text, why, at, near) in [
        ("COPPY a b", "unknown instruction: COPPY", "COPPY", Some("COPY")),
        ("rnu a", "unknown instruction: rnu", "rnu", Some("RUN")),
        ("COPY a", "COPY requires at least two arguments, but only one", "COPY a", None),
        ("ADD", "ADD requires at least two arguments", "ADD", None),
        ("COPY --form=x a b", "unknown flag: --form", "--form=x", Some("--from")),
        ("COPY --link=x a b", "expecting boolean value for flag --link, not: x", "--link=x", None),
        ("COPY --link= a b", "missing a value on flag: --link", "--link=", None),
        ("COPY --from a b", "missing a value on flag: --from", "--from", None),
        ("COPY --from=a --from=b a b", "duplicate flag specified: --from", "--from=b", None),
        ("COPY --from=$x a b", "variable expansion is not supported for --from", "--from=$x", None),
        ("COPY a <<E\nx\nE", "COPY cannot accept a heredoc as a destination", "<<E", None),
        ("ENV", "ENV requires at least one argument", "ENV", None),
        ("ENV =b", "ENV names can not be blank", "=b", None),
        ("LABEL a=b =c", "LABEL names can not be blank", "=c", None),
        ("ENV a=b c", "can't find = in \"c\"", "c", None),
        ("ARG", "ARG requires at least one argument", "ARG", None),
        ("ARG =a", "ARG names can not be blank", "=a", None),
        ("USER", "USER requires exactly one argument", "USER", None),
        ("WORKDIR", "WORKDIR requires exactly one argument", "WORKDIR", None),
        ("VOLUME", "VOLUME requires at least one argument", "VOLUME", None),
        ("VOLUME [\"\"]", "VOLUME specified can not be an empty string", "[\"\"]", None),
        ("EXPOSE", "EXPOSE requires at least one argument", "EXPOSE", None),
        ("SHELL bash", "SHELL requires the arguments to be in JSON form", "SHELL bash", None),
        ("SHELL []", "SHELL requires at least one argument", "SHELL []", None),
        ("RUN []", "RUN requires a command", "RUN []", None),
        ("RUN --network=hots a", "invalid network mode \"hots\"", "--network=hots", Some("host")),
        ("RUN --security=x a", "security \"x\" is not valid", "--security=x", None),
        (
            "RUN --mount=from=$a,target=/ a",
            "'from' doesn't support variable",
            "--mount=from=$a,target=/",
            None,
        ),
        ("RUN --mont=x a", "unknown flag: --mont", "--mont=x", Some("--mount")),
        ("ONBUILD", "ONBUILD requires at least one argument", "ONBUILD", None),
        ("ONBUILD ONBUILD RUN a", "Chaining ONBUILD", "ONBUILD", None),
        ("ONBUILD FROM a", "FROM isn't allowed as an ONBUILD trigger", "FROM", None),
        ("ONBUILD RNU a", "unknown instruction: RNU", "RNU", Some("RUN")),
        ("HEALTHCHECK", "HEALTHCHECK requires at least one argument", "HEALTHCHECK", None),
        ("HEALTHCHECK NONE a", "HEALTHCHECK NONE takes no arguments", "a", None),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD", "HEALTHCHECK CMD", None),
        ("HEALTHCHECK CMB a", "Unknown type \"CMB\" in HEALTHCHECK (try CMD)", "CMB", Some("CMD")),
        ("HEALTHCHECK --interval=1 CMD a", "invalid duration \"1\"", "--interval=1", None),
        ("HEALTHCHECK --timeout=1us CMD a", "cannot be less than 1ms", "--timeout=1us", None),
        ("HEALTHCHECK --retries=-1 CMD a", "--retries cannot be negative (-1)", "--retries=-1", None),
        ("STOPSIGNAL", "STOPSIGNAL requires exactly one argument", "STOPSIGNAL", None),
        ("MAINTAINER", "MAINTAINER requires exactly one argument", "MAINTAINER", None),
        ("CMD [1]", "arrays must be comprised of strings only", "[1]", None),
    ] {
        let fault = steps(text).expect_err(text);
        assert!(fault.message.contains(why), "{text}: {}", fault.message);
        assert_eq!(fault.span.of(&format!("FROM x\n{text}")), at, "{text}");
        assert_eq!(fault.suggestion.as_deref(), near, "{text}");
    }
}
