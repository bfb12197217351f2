use std::collections::BTreeMap;

use serde::Serialize;

use super::*;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Inspect {
    id: String,
    state: State,
    config: Config,
    args: Vec<String>,
    nothing: Option<u8>,
    ports: BTreeMap<String, Option<Vec<BTreeMap<String, String>>>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    status: String,
    running: bool,
    exit_code: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<u8>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    exposed_ports: BTreeMap<String, String>,
}

fn inspect() -> Value {
    let text = |t: &str| t.to_owned();
    Value::of(&Inspect {
        id: text("abc"),
        state: State { status: text("running"), running: true, exit_code: 3, health: None },
        config: Config {
            labels: BTreeMap::from([(text("com.x"), text("<y>")), (text("b"), text("c"))]),
            exposed_ports: BTreeMap::new(),
        },
        args: vec![text("-c"), text("true")],
        nothing: None,
        ports: BTreeMap::from([
            (text("80/tcp"), Some(vec![BTreeMap::from([(text("HostPort"), text("8080"))])])),
            (text("81/tcp"), None),
        ]),
    })
}

#[test]
fn prints_as_go_does() {
    let value = inspect();
    for (template, want) in [
        ("{{.Id}}", "abc"),
        ("x {{ .State.Running }} {{.State.ExitCode}} y", "x true 3 y"),
        ("{{.Args}} {{.Config.Labels}} {{.Nothing}}", "[-c true] map[b:c com.x:<y>] <nil>"),
        ("{{.State}}", "{running true 3 <nil>}"),
        ("{{.Config.Labels.b}} {{.Config.Labels.nope}}", "c <no value>"),
        (
            "{{index .Config.Labels \"com.x\"}}|{{index .Config.Labels \"nope\"}}|{{index .Args 1}}",
            "<y>||true",
        ),
        (
            "{{json .Config.Labels}} {{json .State}} {{json .Nothing}}",
            "{\"b\":\"c\",\"com.x\":\"<y>\"} {\"Status\":\"running\",\"Running\":true,\"ExitCode\":3} null",
        ),
        (
            "{{json .}}",
            "{\"Id\":\"abc\",\"State\":{\"Status\":\"running\",\"Running\":true,\"ExitCode\":3},\"Config\":{\"Labels\":{\"b\":\"c\",\"com.x\":\"<y>\"}},\"Args\":[\"-c\",\"true\"],\"Nothing\":null,\"Ports\":{\"80/tcp\":[{\"HostPort\":\"8080\"}],\"81/tcp\":null}}",
        ),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{if .State.Health}}{{.State.Health.Status}}{{else if eq .Id \"abc\"}}none{{end}}", "none"),
        (
            "{{if and .State.Running (eq .State.ExitCode 3)}}a{{end}}{{if or .Nothing .Id}}b{{end}}{{if not .Nothing}}c{{end}}",
            "abc",
        ),
        ("{{range .Args}}[{{.}}]{{end}}{{range .Config.ExposedPorts}}x{{else}}none{{end}}", "[-c][true]none"),
        ("{{range $i, $a := .Args}}{{if $i}}, {{end}}{{$a}}{{end}}", "-c, true"),
        (
            "{{range $p, $conf := .Ports}}{{$p}}={{with $conf}}{{(index . 0).HostPort}}{{end}};{{end}}",
            "80/tcp=8080;81/tcp=;",
        ),
        ("{{(index (index .Ports \"80/tcp\") 0).HostPort}}", "8080"),
        ("{{range .Args}}{{if eq . \"true\"}}{{break}}{{end}}{{.}}{{end}}", "-c"),
        ("{{range .Args}}{{if eq . \"-c\"}}{{continue}}{{end}}{{.}}{{end}}", "true"),
        ("{{with .State}}{{.Status}} {{$.Id}}{{end}}", "running abc"),
        ("{{$x := .Id}}{{$x = printf \"%s!\" $x}}{{$x}}", "abc!"),
        ("{{.Id | upper | printf \"%-5s|\"}}", "ABC  |"),
        (
            "{{join .Args \",\"}} {{split \"a:b\" \":\"}} {{title \"ab cd\"}} {{lower \"AB\"}} {{len .Args}} {{len .Id}}",
            "-c,true [a b] Ab Cd ab 2 3",
        ),
        (
            "{{pad \"x\" 1 2}}|{{truncate \"abcdef\" 3}}|{{slice .Id 1 2}}|{{slice .Args 1}}",
            " x  |abc|b|[true]",
        ),
        ("{{println \"a\" 1}}{{print 1 2 \"b\" 3}}", "a 1\n1 2b3"),
        (
            "{{eq 1 2 3 1}} {{ne \"a\" \"b\"}} {{lt 1 2}} {{ge 2.5 2.5}} {{le \"a\" \"b\"}} {{gt 1 2}}",
            "true true true true true false",
        ),
        ("a {{- .Id -}} b", "aabcb"),
        ("{{/* a comment */}}{{- /* another */ -}} x", "x"),
        (
            "{{\"a\\tb\\u00e9\"}} {{`raw\\n`}} {{'a'}} {{0x10}} {{-3}} {{1.5}} {{true}}",
            "a\tb\u{e9} raw\\n 97 16 -3 1.5 true",
        ),
        ("{{html \"<a>\"}} {{urlquery \"a b&\"}}", "&lt;a&gt; a+b%26"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ("no action", "no action"),
    ] {
        let got = Template::parse(template)
            .and_then(|t| t.print(&value))
            .unwrap_or_else(|e| panic!("{template}: {e}"));
        assert_eq!(got, want, "{template}");
    }
}

#[test]
fn refuses_what_go_refuses() {
    for bad in [
        "{{",
        "{{.Id",
        "{{end}}",
        "{{if .Id}}",
        "{{else}}",
        "{{if}}x{{end}}",
        "{{nope .Id}}",
        "{{.Id | }}",
        "{{| upper}}",
        "{{(.Id}}",
        "{{.Id)}}",
        "{{\"a}}",
        "{{`a}}",
        "{{$x := }}",
        "{{.Id \"x\"}}{{",
        "{{1x}}",
        "{{break}}",
        "{{define \"x\"}}{{end}}",
        "{{.Id | \"x\"}}",
        "{{}}",
        "{{/* x}}",
        "{{'ab'}}",
        "{{if .Id}}{{else}}{{else}}{{end}}",
        "{{.Id\"x\"}}",
    ] {
        assert!(Template::parse(bad).is_err(), "{bad} was accepted");
    }
    let value = inspect();
    for bad in [
        "{{.Nope}}",
        "{{.Id.Nope}}",
        "{{.State.Nope}}",
        "{{.State.Health.Status}}",
        "{{$x}}",
        "{{index .Args 7}}",
        "{{index .Args \"a\"}}",
        "{{.Id \"x\"}}",
        "{{range .Id}}{{end}}",
        "{{lt 1 \"a\"}}",
        "{{len 3}}",
        "{{upper 3}}",
        "{{eq 1}}",
        "{{slice .Id 2 1}}",
        "{{index .Nothing 1}}",
        "{{and}}",
    ] {
        assert!(Template::parse(bad).unwrap().print(&value).is_err(), "{bad} was accepted");
    }
    let error = Template::parse("{{.State.Nope}}").unwrap().print(&value).unwrap_err();
    assert_eq!(error.hint(), Some("the fields here are Status, Running, ExitCode, Health"));
}

const COLUMNS: &[Column] = &[("ID", "CONTAINER ID"), ("Names", "NAMES"), ("Label", "")];

fn list() -> List<'static> {
    let row = |id: &str, name: &str| {
        Value::row([
            ("Names", name.into()),
            ("ID", id.into()),
            ("Label", Value::Lookup(BTreeMap::from([("com.x-y".into(), "v".into())]))),
        ])
    };
    List { columns: COLUMNS, rows: vec![row("0123", "web"), row("4567", "db")] }
}

#[test]
fn lists() {
    for (format, want) in [
        (None, "CONTAINER ID   NAMES\n0123           web\n4567           db\n"),
        (
            Some("table {{.Names}}\\t{{upper .ID}}"),
            "NAMES     CONTAINER ID\nweb       0123\ndb        4567\n",
        ),
        (Some("table {{.Label \"com.x-y\"}}\\t{{.Nope}}"), ""),
        (Some("{{.ID}}\\t{{.Label \"com.x-y\"}}"), "0123\tv\n4567\tv\n"),
        (Some("json"), "{\"ID\":\"0123\",\"Names\":\"web\"}\n{\"ID\":\"4567\",\"Names\":\"db\"}\n"),
        (Some("{{json .}}"), "{\"Names\":\"web\",\"ID\":\"0123\"}\n{\"Names\":\"db\",\"ID\":\"4567\"}\n"),
    ] {
        let style = Style::parse(format, "{{.ID}}\t{{.Names}}").unwrap();
        match list().print(&style) {
            Ok(text) => assert_eq!(text, want),
            Err(_) => assert!(want.is_empty(), "{format:?}"),
        }
    }
    let style = Style::parse(Some("table {{.Label \"com.x-y\"}}\t{{.ID}}"), "").unwrap();
    assert!(list().print(&style).unwrap().starts_with("x y       CONTAINER ID\n"));
    assert!(style.mentions("ID") && !style.mentions("Size"));
}

proptest::proptest! {
    #[test]
    fn no_template_panics(text in "(\\{\\{|\\}\\}|\\.|Id|State|range|if|end|else|index|printf|\\$|x|:=|\"|'|`|\\(|\\)|\\||,| |-|%|d|[0-9]|\\\\|é|/\\*|\\*/){0,24}") {
        if let Ok(template) = Template::parse(&text) {
            let _ = template.print(&inspect());
        }
    }
}

#[test]
fn nesting_has_a_limit() {
    let blocks = |depth: usize| format!("{}x{}", "{{if 1}}".repeat(depth), "{{end}}".repeat(depth));
    let chain = |depth: usize| format!("{{{{if 1}}}}x{}{{{{end}}}}", "{{else if 1}}y".repeat(depth));
    let parentheses = |depth: usize| format!("{{{{{}1{}}}}}", "(".repeat(depth), ")".repeat(depth));
    for good in [blocks(150), chain(150), parentheses(150)] {
        assert!(Template::parse(&good).unwrap().print(&Value::Nil).is_ok());
    }
    for deep in [blocks(5_000), chain(5_000), parentheses(5_000)] {
        assert!(Template::parse(&deep).is_err());
    }
}
