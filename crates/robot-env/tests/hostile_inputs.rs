//! The functions that `fuzz/` calls with libFuzzer's inputs, with inputs of our own: nasty ones by
//! name, and ones made of well-formed ones by a fixed sequence of small damages.

#[path = "../../../fuzz/src/lib.rs"]
mod entries;

use robot_env_testkit::hostile;

/// A well-formed or nasty input with the function that takes it.
type Case = (fn(&[u8]), Vec<Vec<u8>>);

/// Numbers that are the same on every run (a linear congruential generator, Knuth's).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit.max(1)
    }
}

/// One to four bytes changed, taken out, put in or doubled.
fn damaged(input: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut out = input.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(out.len() + 1);
        match numbers.below(5) {
            0 if at < out.len() => out[at] ^= 1 << numbers.below(8),
            1 if at < out.len() => drop(out.remove(at)),
            2 => out.insert(at, b"\0\xff/.:@\"{}[]%0\n"[numbers.below(14)]),
            3 => {
                let end = (at + numbers.below(64)).min(out.len());
                let piece = out[at..end].to_vec();
                out.splice(at..at, piece);
            }
            _ => out.truncate(at),
        }
    }
    out
}

fn try_all((take, inputs): Case, rounds: usize) {
    let mut numbers = Numbers(7);
    for input in &inputs {
        take(input);
        for _ in 0..rounds {
            take(&damaged(input, &mut numbers));
        }
    }
    // Longer, with damages of damages, and others each time.
    let Some(seconds) = std::env::var("ROBOT_ENV_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok())
    else {
        return;
    };
    let begun = std::time::Instant::now();
    numbers = Numbers(std::process::id().into());
    let mut known = inputs.clone();
    while begun.elapsed().as_secs() < seconds {
        let input = damaged(&known[numbers.below(known.len())], &mut numbers);
        // What fails is named, however it fails.
        let caught = std::panic::catch_unwind(|| take(&input));
        assert!(caught.is_ok(), "the input was {:?}", String::from_utf8_lossy(&input));
        if known.len() < inputs.len() + 500 {
            known.push(input);
        } else if input.len() < 100_000 {
            let at = inputs.len() + numbers.below(500);
            known[at] = input;
        }
    }
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn references() {
    let long = "a".repeat(300);
    let with_digest = format!("registry.example:5000/team/robot:1@{DIGEST}");
    let mut inputs = texts(&[
        "",
        "alpine",
        "a/b:c",
        "localhost/x",
        "[::1]:5000/x",
        "A/b",
        "-",
        ":",
        "@",
        "a:b:c",
        "linux/arm64/v8",
        "a//b",
        "\u{fc}/x",
        "a__b",
        "a..b",
        "a:-",
        "0123456789ab",
        &with_digest,
        DIGEST,
        &long,
    ]);
    inputs.push(vec![0xff, 0xfe]);
    try_all((entries::references, inputs), 200);
}

#[test]
fn documents() {
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{DIGEST}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{DIGEST}","size":18446744073709551615}}]}}"#
    );
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{DIGEST}","size":2,"platform":{{"architecture":"arm64","os":"linux","variant":"v8"}}}}]}}"#
    );
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["A=b"],"Entrypoint":["/x"],"ExposedPorts":{{"80/tcp":{{}}}},"Healthcheck":{{"Test":["NONE"],"Interval":1}}}},"rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}},"history":[{{"created_by":"x","empty_layer":true}}]}}"#
    );
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deeper = format!(r#"{{"config":{}"#, r#"{"a":"#.repeat(10_000));
    try_all((entries::documents, texts(&["", "null", "{}", "[]", &manifest, &index, &config])), 300);
    try_all((entries::documents, texts(&[&deep, &deeper])), 3);
}

#[test]
fn blobs() {
    let text: Vec<u8> = (0..3000u32).map(|n| ((n * n) >> 5) as u8).collect();
    let frame = |bytes: &[u8], sized: bool| {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.include_checksum(sized).unwrap();
        encoder.set_pledged_src_size(sized.then_some(bytes.len() as u64)).unwrap();
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    };
    let skipped = b"\x50\x2a\x4d\x18\x05\x00\x00\x00abcde".to_vec();
    let frames = [frame(&text, true), skipped.clone(), frame(b"", false), frame(&text, false)];
    let gzip = robot_env_testkit::image::Compression::Gzip.compress(&text);
    let inputs = [frames.to_vec(), vec![frames.concat(), skipped, gzip.repeat(2), gzip, text]].concat();
    try_all((entries::blob, inputs), 300);
}

/// The first byte asks for right checksums and an end.
fn tars() -> Vec<Vec<u8>> {
    let layers = hostile::malicious("/nonexistent/outside");
    layers.into_iter().map(|layer| [&[0], layer.tar.as_slice()].concat()).collect()
}

#[test]
fn layers() {
    try_all((entries::layer, tars()), 30);
}

#[test]
fn archives_of_images() {
    try_all((entries::members, tars()), 100);
}

#[test]
fn recipes() {
    let verbatim = [&[0, 10][..], b"bytes", &[0]].concat();
    let payload = [&[0, 3][..], b"a", &[0, 7, 0]].concat();
    let nested = [&[0, 7][..], b"d/b", &[0, 0xe8, 0x07, 0]].concat();
    let outside = [&[0, 11][..], b"../x", &[0, 1, 0]].concat();
    let endless = [&[0][..], &[0xff; 20]].concat();
    // The payload's second half stands under "replaced".
    let replaced = [&[128, 3][..], b"a", &[0, 7, 0, 1], b"a", &[1, 7, 0], b"another", &[0, 0]].concat();
    try_all((entries::recipe, vec![vec![], verbatim, payload, nested, outside, endless, replaced]), 100);
}

#[test]
fn credentials() {
    let inputs = texts(&[
        "",
        "null",
        "{}",
        "{\"auths\":null}",
        r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"registry.example":{"auth":"!"},"localhost:5000":{"identitytoken":"t"}}}"#,
        r#"{"auths":{"registry.example":{"auth":"dQ=="}},"credsStore":"../../bin/sh","credHelpers":{"registry.example":"x/y"}}"#,
    ]);
    try_all((entries::credentials, inputs), 40);
}

#[test]
fn configuration() {
    let inputs = texts(&[
        "",
        "[registry",
        "[registry.\"localhost:5000\"]\ninsecure = true\nmirrors = [\"http://[::1]:1/x\", \"\"]\n",
        "a = 1e999",
        "\u{feff}{\"log-opts\": {\"max-size\": \"1e999g\"}, \"default-ulimits\": {\"core\": {\"Soft\": 99999999999999999999}}}",
        "default-shm-size = '999999999999t'\nundo = '99999999999999999d'\n[runtimes.x]\nruntimeArgs = [[]]\n",
        "/* \u{0} */ {\"proxies\": {\"no-proxy\": \"\\ud800\"}, \"dns\": [\"::1%x\"],}",
    ]);
    try_all((entries::configuration, inputs), 40);
}

#[test]
fn plans() {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/tests/golden");
    let mut inputs: Vec<Vec<u8>> = std::fs::read_dir(golden)
        .unwrap()
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    assert!(inputs.len() > 10);
    inputs.push(b"{\"spec\":{\"image\":\"x\",\"memory\":-9223372036854775808}}".to_vec());
    try_all((entries::plan_of, inputs), 20);
}

#[test]
fn users() {
    let inputs = texts(&[
        "",
        "root",
        "1000:1000\0root:x:0:0::/:/bin/sh\n\0root:x:0:\n",
        "robot:video\0robot:x:7:8::/home:\n\0video:x:44:robot,x\n",
        "4294967295",
        "4294967296",
        "-1",
        ":",
        "a:b:c\0:::::\n\0:::\n",
        "x\0x:x:99999999999999999999:0:\n",
    ]);
    try_all((entries::users, inputs), 200);
}

#[test]
fn questions() {
    let query = |name: &[u8], kind: u8| {
        [&[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], name, &[0, kind, 0, 1]].concat()
    };
    let label = |length: u8| [&[length][..], &vec![b'a'; usize::from(length)]].concat();
    let inputs = vec![
        query(b"\x03web\x06robots\0", 1),
        query(b"\x03web\0", 28),
        query(b"\x012\x010\x010\x0210\x07in-addr\x04arpa\0", 12),
        query(b"\0", 255),
        query(b"\xc0\x0c", 1),
        query(b"\x05a.b\0c\0", 1),
        query(&[label(63), label(63), label(63), label(61), vec![0]].concat(), 1),
        query(&[label(63), label(63), label(63), label(63), label(63), vec![0]].concat(), 1),
        [query(b"\x03web\0", 1), b"\0\0\x29\xff\xff\0\0\0\0\0\0".to_vec()].concat(),
    ];
    try_all((entries::question, inputs), 400);
}

#[test]
fn streams() {
    let frame =
        |kind: u8, payload: &[u8]| [&[kind][..], &(payload.len() as u32).to_le_bytes(), payload].concat();
    let hello = frame(1, br#"{"stdin":true,"stdout":true,"stderr":false}"#);
    let talk = [
        hello.clone(),
        frame(2, b"in"),
        frame(3, b""),
        frame(4, &[1, 0, 2, 0]),
        frame(17, b"out"),
        frame(18, b""),
        frame(19, br#"{"code":-1}"#),
    ]
    .concat();
    let inputs = [vec![], vec![1, 0xff, 0xff, 0xff, 0xff], hello, talk];
    let inputs =
        inputs.into_iter().flat_map(|input| [0u8, 6, 255].map(|chunk| [&[chunk], input.as_slice()].concat()));
    try_all((entries::stream, inputs.collect()), 300);
}

#[test]
fn templates() {
    let nested = format!("{}.ID{}", "{{if ".repeat(2_000), "}}{{end}}".repeat(2_000));
    let parentheses = format!("{{{{{}.ID{}}}}}", "(".repeat(5_000), ")".repeat(5_000));
    let inputs = texts(&[
        "",
        "{{.ID}}",
        "{{",
        "}}",
        "{{json .}}",
        "{{range .Names}}{{.}}{{end}}",
        "{{range $i, $x := .Names}}{{$i}}{{end}}",
        "{{if eq .Size 12}}a{{else if .None}}b{{else}}c{{end}}",
        "{{with .State}}{{.Pid}}{{end}}",
        "{{printf \"%v %-9999d\" .ID .Size}}",
        "{{index .Labels \"a.b\"}}",
        "{{index .Names 9}}",
        "{{slice .ID 2 1}}",
        "{{template \"x\"}}",
        "{{define \"x\"}}{{template \"x\"}}{{end}}{{template \"x\"}}",
        "{{split .ID \"\"}}",
        "{{truncate .ID -1}}",
        "{{pad .ID 9223372036854775807 1}}",
        "{{len .Ratio}}",
        "{{.Names.x.y}}",
        "{{/* c */}}",
        "table {{.ID}}\\t{{.Names}}",
    ]);
    try_all((entries::template, inputs), 300);
    try_all((entries::template, texts(&[&nested, &parentheses])), 1);
}

#[test]
fn requests() {
    let inputs = texts(&[
        "GET /v1.41/containers/json?all=1&filters=%7B%22label%22%3A%5B%22a%3Db%22%5D%7D HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /build?t=a&buildargs=%7B%22A%22%3Anull%7D&ulimits=%5B%7B%22Name%22%3A%22x%22%2C%22Soft%22%3A1%7D%5D&memory=8388608&extrahosts=a%3A1.2.3.4 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        "GET http://h/%2e%2e/?%zz=+&a HTTP/1.0\r\n\r\n",
        r#"{"Image":"a","Cmd":"sh","HostConfig":{"Binds":["/a:/b:ro","v:/c"],"PortBindings":{"80/tcp":[{"HostIp":"::","HostPort":"1-2"}]},"Tmpfs":{"/t":"size=1m,mode=755"},"Mounts":[{"Type":"volume","Source":"x","Target":"/y"}],"DeviceRequests":[{"Count":-1,"Capabilities":[["gpu"]]}],"SecurityOpt":["seccomp={}"],"LogConfig":{"Type":"local","Config":{"max-size":"1k"}}},"NetworkingConfig":{"EndpointsConfig":{"n":{"IPAMConfig":{"IPv4Address":"1.2.3.4"}}}}}"#,
    ]);
    try_all((entries::request, inputs), 300);
    let fields = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(20_000));
    let query = format!("GET /?{} HTTP/1.1\r\nHost: x\r\n\r\n", "t=a&".repeat(10_000));
    let deep = format!("{{\"Image\":{}", "[".repeat(100_000));
    try_all((entries::request, texts(&[&fields, &query, &deep])), 1);
}

#[test]
fn dockerfiles() {
    let stages: String =
        (0..2_000).map(|n| format!("FROM s{n} AS s{}\nCOPY --from=s0 a b\n", n + 1)).collect();
    let inputs = texts(&[
        "",
        "FROM a\n",
        "# syntax=x\n# escape=`\n# check=skip=all;error=true\nFROM a AS b\nRUN c `\n # d\n\n e\n",
        "ARG V=1\nARG I=${V:-x}\nFROM --platform=$BUILDPLATFORM $I:${V#1} AS b\nFROM b\nCOPY --from=b a b\n",
        "FROM a\nENV a=1 b='2 3' c=\"$a\" d\\ e=f\nENV g h i\nLABEL x.y=z\nARG k=${a:?no} l\n",
        "FROM a\nRUN --mount=type=cache,target=/a,id=$x,mode=0755 --network=none <<-E cat\n\tx\n\tE\n",
        "FROM a\nCOPY --chown=1:2 --exclude=**/x <<A <<\"B\" c \"d e\" /f/\n$a\nA\n$b\nB\n",
        "FROM a\nADD [\"https://x/y.tar\", \"/z\"]\nONBUILD RUN <<E\nx\nE\nCMD [\"a\"]\nENTRYPOINT b\n",
        "FROM a\nHEALTHCHECK --interval=1m30s --retries=3 CMD [\"a\"]\nEXPOSE 1-65535/udp 80:80\nSHELL [\"b\"]\n",
        "FROM a\nWORKDIR b\nUSER ${a%.*}\nVOLUME [\"/a\", \"b\"] \nSTOPSIGNAL ${a//o/$0}\nMAINTAINER x\n",
        "FROM a AS a\nCOPY --from=a a a\nRUN --mount=from=a,target=/b c\n",
        "**/a\n!b/**\n[a-c]?*\n#x\n\\#y\n../z\n**a**b**\n",
    ]);
    try_all((entries::dockerfile, inputs), 300);
    let deep = format!("FROM a\nENV b={}\n", "${a:-".repeat(20_000));
    let grows = format!("FROM a\nENV x=0123456789\n{}", "ENV x=$x$x$x\n".repeat(2_000));
    let continued = format!("FROM a\nRUN {}b\n", "a \\\n".repeat(50_000));
    let words = format!("FROM a\nVOLUME{}\n", " \\\n/a".repeat(50_000));
    let names = format!("FROM a\nENV{}\n", (0..50_000).map(|n| format!(" a{n}=$a")).collect::<String>());
    let onbuild = format!("FROM a\n{}RUN x\n", "ONBUILD ".repeat(20_000));
    let heredocs = format!("FROM a\nRUN {}\n", (0..20_000).map(|n| format!("<<E{n} ")).collect::<String>());
    let json = format!("FROM a\nCMD {}\n", "[".repeat(100_000));
    let stars = format!("FROM a\nENV b=${{a//{}/x}}\n{}", "*a".repeat(2_000), "**/".repeat(2_000));
    let all = [&stages, &deep, &grows, &continued, &words, &names, &onbuild, &heredocs, &json, &stars];
    try_all((entries::dockerfile, texts(&all.map(String::as_str))), 1);
}
