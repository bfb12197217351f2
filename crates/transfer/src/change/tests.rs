use super::*;

fn applied(start: &RuntimeConfig, texts: &[&str]) -> Result<serde_json::Value> {
    let mut config = start.clone();
    apply_changes(&mut config, &Change::parse_all(texts.iter().copied())?)?;
    Ok(serde_json::to_value(&config).unwrap())
}

fn start() -> RuntimeConfig {
    RuntimeConfig {
        env: vec!["PATH=/bin".into(), "EMPTY=".into()],
        cmd: Some(vec!["bash".into()]),
        entrypoint: Some(vec!["/entry".into()]),
        working_dir: "/work".into(),
        ..RuntimeConfig::default()
    }
}

#[test]
fn each_instruction_in_each_form() {
    use serde_json::json;
    let start = start();
    for (texts, key, want) in [
        (&[r#"CMD ["a", "b c"]"#][..], "Cmd", json!(["a", "b c"])),
        (&["cmd echo $HOME"], "Cmd", json!(["/bin/sh", "-c", "echo $HOME"])),
        (&["CMD [broken"], "Cmd", json!(["/bin/sh", "-c", "[broken"])),
        (&["CMD []"], "Cmd", json!(null)),
        (&["ENTRYPOINT [\"x\"]"], "Entrypoint", json!(["x"])),
        (&["ENTRYPOINT [\"x\"]"], "Cmd", json!(null)),
        (&["CMD [\"y\"]", "ENTRYPOINT [\"x\"]"], "Cmd", json!(["y"])),
        (&["ENTRYPOINT [\"x\"]", "CMD [\"y\"]"], "Cmd", json!(["y"])),
        (&["ENTRYPOINT exec top"], "Entrypoint", json!(["/bin/sh", "-c", "exec top"])),
        (&["ENTRYPOINT []"], "Entrypoint", json!(null)),
        (
            &["ENV A=1 B='two words' PATH=$PATH:/x"],
            "Env",
            json!(["PATH=/bin:/x", "EMPTY=", "A=1", "B=two words"]),
        ),
        (&["ENV A the rest of it"], "Env", json!(["PATH=/bin", "EMPTY=", "A=the rest of it"])),
        (&["ENV A=1 B=$A", "ENV C=$A"], "Env", json!(["PATH=/bin", "EMPTY=", "A=1", "B=", "C=1"])),
        (
            &["ENV A=${EMPTY:-x} B=${PATH:+set} C=${NOPE} D='$PATH' E=\"q \\\"$PATH\\\"\" F=\\$PATH G=a\\ b"],
            "Env",
            json!([
                "PATH=/bin",
                "EMPTY=",
                "A=x",
                "B=set",
                "C=",
                "D=$PATH",
                "E=q \"/bin\"",
                "F=$PATH",
                "G=a b"
            ]),
        ),
        (&["LABEL a=b c.d=\"e f\""], "Labels", json!({"a": "b", "c.d": "e f"})),
        (&["LABEL a b c"], "Labels", json!({"a": "b c"})),
        (
            &["EXPOSE 80 53/udp 8000-8001/TCP"],
            "ExposedPorts",
            json!({"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}}),
        ),
        (&["ENV P=81", "EXPOSE $P"], "ExposedPorts", json!({"81/tcp": {}})),
        (&["VOLUME /a /b"], "Volumes", json!({"/a": {}, "/b": {}})),
        (&["VOLUME [\"/a b\"]"], "Volumes", json!({"/a b": {}})),
        (&["USER robot:dialout"], "User", json!("robot:dialout")),
        (&["WORKDIR sub/../x/./y"], "WorkingDir", json!("/work/x/y")),
        (&["WORKDIR /abs", "WORKDIR rel"], "WorkingDir", json!("/abs/rel")),
        (&["STOPSIGNAL SIGINT"], "StopSignal", json!("SIGINT")),
        (&["STOPSIGNAL 9"], "StopSignal", json!("9")),
        (&["ONBUILD RUN make"], "OnBuild", json!(["RUN make"])),
        (&["HEALTHCHECK NONE"], "Healthcheck", json!({"Test": ["NONE"]})),
        (
            &["HEALTHCHECK --interval=1m30s --timeout=500ms --retries=2 CMD curl -f http://localhost"],
            "Healthcheck",
            json!({"Test": ["CMD-SHELL", "curl -f http://localhost"], "Interval": 90_000_000_000_i64, "Timeout": 500_000_000, "Retries": 2}),
        ),
        (&["HEALTHCHECK CMD [\"a\"]"], "Healthcheck", json!({"Test": ["CMD", "a"]})),
        (&["# nothing\nUSER a\n\nENV A=1 \\\n  B=2"], "Env", json!(["PATH=/bin", "EMPTY=", "A=1", "B=2"])),
    ] {
        let found = applied(&start, texts).unwrap_or_else(|error| panic!("{texts:?}: {error:?}"));
        assert_eq!(found.get(key).cloned().unwrap_or_default(), want, "{texts:?}");
    }
}

#[test]
fn what_is_wrong_is_refused_before_anything_changes() {
    let start = start();
    for text in [
        "FROM x",
        "RUN make",
        "COPY a b",
        "CMD",
        "ENV",
        "ENV A",
        "ENV A=1 B",
        "ENV =1",
        "ENV A='open",
        "ENV A=\"open",
        "ENV A=${open",
        "ENV A=${B?}",
        "ENV A=${}",
        "LABEL a",
        "EXPOSE 0",
        "EXPOSE 80/icmp",
        "EXPOSE 70000",
        "EXPOSE 9-8",
        "EXPOSE +80",
        "EXPOSE 127.0.0.1:80:80",
        "VOLUME [\"\"]",
        "STOPSIGNAL SIGNOPE",
        "STOPSIGNAL $EMPTY",
        "ONBUILD ONBUILD RUN x",
        "ONBUILD FROM x",
        "HEALTHCHECK curl x",
        "HEALTHCHECK NONE x",
        "HEALTHCHECK CMD",
        "HEALTHCHECK CMD []",
        "HEALTHCHECK --interval CMD x",
        "HEALTHCHECK --interval=1 CMD x",
        "HEALTHCHECK --interval=1us CMD x",
        "HEALTHCHECK --retries=-1 CMD x",
        "HEALTHCHECK --nope=1 CMD x",
        "nonsense",
    ] {
        let error = applied(&start, &[text]).err().unwrap_or_else(|| panic!("{text} was accepted"));
        assert_eq!(error.kind(), robot_env_diag::Kind::InvalidInput, "{text}");
    }
    let mut config = start.clone();
    let changes = Change::parse("USER x\nSTOPSIGNAL $EMPTY").unwrap();
    assert!(apply_changes(&mut config, &changes).is_err());
    assert_eq!(config, start);
}

#[test]
fn a_shell_of_the_image_runs_shell_forms() {
    let start = RuntimeConfig { shell: vec!["/bin/bash".into(), "-lc".into()], ..RuntimeConfig::default() };
    assert_eq!(applied(&start, &["CMD x"]).unwrap()["Cmd"], serde_json::json!(["/bin/bash", "-lc", "x"]));
}

proptest::proptest! {
    #[test]
    fn no_text_is_too_strange(text in "(CMD|ENV|LABEL|EXPOSE|VOLUME|WORKDIR|HEALTHCHECK|USER) [ -~\\n]{0,60}") {
        if let Ok(changes) = Change::parse(&text) {
            let mut config = RuntimeConfig::default();
            let _ = apply_changes(&mut config, &changes);
        }
    }
}
