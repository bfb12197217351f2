//! What is done with bytes that nobody vouches for: each function takes any bytes, must come back,
//! and checks what must hold where they are accepted.
//!
//! The targets of `fuzz_targets` call them with libFuzzer's inputs; the workspace's own tests
//! (`crates/robot-env/tests/hostile_inputs.rs`) call the same functions with a few of their own.

#![allow(unreachable_pub, reason = "tests have it as a module")]

use std::fs::{self, File};
use std::io::{self, BufReader, Cursor, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use robot_env_cli::format::{Template, Value};
use robot_env_config::{Configuration, Format, Source};
use robot_env_dockerfile::ignore::{Ignore, Matches};
use robot_env_dockerfile::lint::{Facts, check};
use robot_env_dockerfile::{Dockerfile, Instruction, Parameters, Scope, Step};
use robot_env_engine::stream::{Decoder, Frame};
use robot_env_engine::{Given, apply_defaults};
use robot_env_layer::{ApplyOptions, Compression, Members, Overlay, Ownership, apply, assemble};
use robot_env_oci::{AnyManifest, DiffId, Digest, ImageConfig, ImageText, Platform, Reference, Repository};
use robot_env_registry::{Client, ClientOptions, Document};
use robot_env_spec::{ContainerSpec, HostFacts, Resolved, check_name, check_volume_name, plan, resolve_user};
use robot_env_testkit::temporary::TemporaryDirectory;
use serde_json::json;

/// Names of images, digests, platforms: what is read is printed as something that is read as the same.
pub fn references(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string().parse::<Reference>().ok().as_ref(), Some(&reference));
        assert_eq!(reference.familiar().parse::<Reference>().ok().as_ref(), Some(&reference));
    }
    if let Ok(repository) = text.parse::<Repository>() {
        assert_eq!(repository.to_string().parse::<Repository>().ok().as_ref(), Some(&repository));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.to_string().parse::<Platform>().ok().as_ref(), Some(&platform));
    }
    let _ = text.parse::<ImageText>();
    let _ = check_name(text);
    let _ = check_volume_name(text);
}

/// What a client of the API sends.
pub fn request(data: &[u8]) {
    robot_env_api::read_request(data);
}

/// What a container asks its resolver: a question's answer is a message that answers it.
pub fn question(data: &[u8]) {
    use robot_env_network::names::message::{Code, Found, answers, parse, refusal, reply, reverse};
    let Ok(question) = parse(data) else {
        let _ = refusal(data, Code::FormatError);
        return;
    };
    let _ = reverse(&question.name);
    let many = (0..200).map(|n| std::net::IpAddr::from([10, 0, 0, n])).collect();
    for found in
        [Found::Addresses(many), Found::Name(question.name.clone()), Found::Name("web.robots".into())]
    {
        for stream in [false, true] {
            let answer = reply(data, &question, &found, stream);
            assert!(answers(data, &answer));
            assert!(stream || answer.len() <= 4096);
        }
    }
    assert!(answers(data, &refusal(data, Code::NoSuchName)));
}

/// Manifests, indexes, image configs.
pub fn documents(data: &[u8]) {
    for declared in [
        None,
        Some("application/vnd.oci.image.manifest.v1+json"),
        Some("application/vnd.oci.image.index.v1+json"),
        Some("application/vnd.docker.distribution.manifest.list.v2+json"),
    ] {
        if let Ok(AnyManifest::Index(index)) = AnyManifest::parse(data, declared) {
            let chosen = index.select(&Platform::host());
            assert!(chosen.is_none_or(|chosen| index.manifests.contains(chosen)));
            let _ = index.platforms();
        }
        let digest = Digest::of(data);
        if let Ok(document) = Document::check(data.to_vec(), declared, &digest) {
            assert_eq!((document.bytes(), document.digest()), (data, &digest));
        }
    }
    if let Ok(config) = serde_json::from_slice::<ImageConfig>(data) {
        assert_eq!(config.chain().links().len(), config.rootfs.diff_ids.len());
        let bytes = serde_json::to_vec(&config).expect("what was read can be written");
        let again: ImageConfig = serde_json::from_slice(&bytes).expect("and read again");
        assert_eq!(again, config);
    }
}

/// The first byte's lowest bit says whether the headers get right checksums, without which hardly
/// any input would be a tar.
fn as_tar(data: &[u8]) -> Vec<u8> {
    let Some((first, rest)) = data.split_first() else { return Vec::new() };
    let mut tar = rest.to_vec();
    if first & 1 == 1 {
        return tar;
    }
    tar.resize(tar.len().next_multiple_of(512), 0);
    let mut at = 0usize;
    while let Some(header) = tar.get_mut(at..at.saturating_add(512)) {
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let digits = header[124..136].iter().take_while(|byte| (b'0'..=b'7').contains(*byte));
        let size =
            digits.fold(0usize, |size, digit| size.wrapping_mul(8).wrapping_add(usize::from(digit - b'0')));
        at = at.saturating_add(512).saturating_add(size.checked_next_multiple_of(512).unwrap_or(size));
    }
    if first & 2 == 0 {
        tar.extend_from_slice(&[0; 1024]);
    }
    tar
}

/// A layer: nothing outside of its directory changes, and what was unpacked makes the same tar.
pub fn layer(data: &[u8]) {
    let tar = as_tar(data);
    let place = TemporaryDirectory::new("fuzz");
    fs::write(place.join("outside"), "untouched").expect("it can be written");
    fs::create_dir(place.join("root")).expect("it can be made");
    let root = File::open(place.join("root")).expect("it can be opened");
    let options = ApplyOptions {
        ownership: Ownership::SingleId,
        xattr_namespace: Overlay::User,
        size_limit: Some(64 << 20),
        missing_end_ok: false,
        ..ApplyOptions::default()
    };
    let mut recipe = Vec::new();
    let applied = apply(tar.as_slice(), root.as_fd(), &mut recipe, &options);
    assert_eq!(fs::read(place.join("outside")).expect("it is still there"), b"untouched");
    let names: Vec<_> =
        fs::read_dir(place.path()).expect("it can be read").flatten().map(|e| e.file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    if let Ok(applied) = applied {
        assert_eq!(applied.diff_id.as_ref().map(DiffId::digest), Some(&Digest::of(&tar)));
        let mut again = Vec::new();
        assemble(Cursor::new(recipe), root.as_fd(), &mut again).expect("its recipe is good");
        assert!(again == tar, "the assembled tar differs");
    }
}

/// An output that takes so many bytes and no more.
struct Bounded(usize);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A damaged recipe: as it is, or (by the first byte) as the content of a good frame.
pub fn recipe(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let place = TemporaryDirectory::new("fuzz");
    fs::create_dir(place.join("d")).expect("it can be made");
    fs::write(place.join("d/b"), [7; 1000]).expect("it can be written");
    fs::write(place.join("a"), "content").expect("it can be written");
    let root = File::open(place.path()).expect("it can be opened");
    let bytes = if first & 1 == 1 {
        rest.to_vec()
    } else {
        let frame = |content: &[u8]| zstd::encode_all(content, 1).expect("zstd works in memory");
        let (main, replaced) = rest.split_at(rest.len() * usize::from(first / 2) / 128);
        let mut bytes = frame(&[b"robot-env recipe 1\n", main].concat());
        let at = if replaced.is_empty() { 0 } else { bytes.len() as u64 };
        if at > 0 {
            bytes.extend(frame(replaced));
        }
        bytes.extend_from_slice(&at.to_le_bytes());
        bytes.extend_from_slice(b"RE-RECIP");
        bytes
    };
    let _ = assemble(Cursor::new(bytes), root.as_fd(), &mut Bounded(16 << 20));
}

/// An archive of images.
pub fn members(data: &[u8]) {
    let tar = as_tar(data);
    let mut members = Members::new(tar.as_slice());
    while let Ok(Some(member)) = members.next() {
        assert!(member.offset <= tar.len() as u64);
        let read = io::copy(&mut members, &mut io::sink());
        assert!(read.is_err() || read.is_ok_and(|length| length == member.size) || member.kind_is_other());
    }
}

/// Whether a member has no content that can be read as it stands.
trait IsOther {
    fn kind_is_other(&self) -> bool;
}

impl IsOther for robot_env_layer::Member {
    fn kind_is_other(&self) -> bool {
        self.kind != robot_env_layer::MemberKind::File
    }
}

/// A compressed blob: frame by frame it is what zstd makes of it all at once.
pub fn blob(data: &[u8]) {
    const MOST: u64 = 4 << 20;
    let read = |source: &mut dyn Read| {
        let mut bytes = Vec::new();
        source.take(MOST).read_to_end(&mut bytes).map(|_| bytes)
    };
    // In pieces, too.
    let pieces = BufReader::with_capacity(3, data);
    let Ok(mut decoder) = robot_env_layer::Decoder::new(pieces) else { return };
    let ours = read(&mut decoder);
    if decoder.compression() == Compression::Zstd {
        let mut theirs = zstd::stream::read::Decoder::new(data).expect("zstd works in memory");
        theirs.window_log_max(26).expect("it is a window");
        let theirs = read(&mut theirs);
        assert_eq!(ours.as_ref().ok(), theirs.as_ref().ok(), "{ours:?} {theirs:?}");
    }
}

/// Docker's `config.json`. No credential helper is found, so none runs.
pub fn credentials(data: &[u8]) {
    let place = TemporaryDirectory::new("fuzz");
    fs::write(place.join("config.json"), data).expect("it can be written");
    let options =
        ClientOptions { docker_config: Some(place.join("config.json")), ..ClientOptions::default() };
    let client = Client::new(options);
    for authority in ["docker.io", "localhost:5000", "registry.example"] {
        let _ = client.stored_username(authority);
        let _ = client.logout(authority);
    }
}

/// `config.toml`, `daemon.json` and JSON with comments.
pub fn configuration(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = Format::JsonWithComments.parse(Path::new("devcontainer.json"), &text);
    for name in ["daemon.json", "config.toml"] {
        let source = Source { path: name.into(), own: true };
        let configuration = Configuration::of_text(&source, &text);
        let mut spec = ContainerSpec { privileged: true, ..ContainerSpec::default() };
        apply_defaults(&mut spec, &configuration, Given::default()).expect("no file is read");
        let loaded = ClientOptions::from_environment([], None, &configuration);
        for authority in ["docker.io", "localhost:5000", "[::1]:5000", "registry.example"] {
            let _ = loaded.options.is_insecure(authority);
        }
    }
}

/// A container's spec with all that is known at its start, in the form of the golden tests.
pub fn plan_of(data: &[u8]) {
    let Ok(case) = serde_json::from_slice::<serde_json::Value>(data) else { return };
    let part = |name: &str| case.get(name).cloned().unwrap_or_else(|| json!({}));
    let Ok(spec) = serde_json::from_value::<ContainerSpec>(part("spec")) else { return };
    let checked = spec.check();
    let (Ok(image), Ok(facts), Ok(resolved)) = (
        serde_json::from_value(part("config")),
        serde_json::from_value::<HostFacts>(part("facts")),
        serde_json::from_value::<Resolved>(part("resolved")),
    ) else {
        return;
    };
    if checked.is_ok()
        && let Ok(planned) = plan(&spec, &image, &facts, &resolved)
    {
        serde_json::to_vec(&planned.spec).expect("a plan can be written");
    }
}

/// `passwd` and `group` of an image, and a user: three texts with NUL between them.
pub fn users(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let user = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let passwd = parts.next().unwrap_or_default();
    let group = parts.next().unwrap_or_default();
    let known = resolve_user(Some(&user), &[], passwd, group);
    if let Ok(resolved) = known {
        assert_eq!(resolved.additional_gids.first(), Some(&resolved.gid), "the group cannot be left");
    }
    let _ = resolve_user(None, &[user], passwd, group);
}

/// A monitor's stream, in pieces: what was understood is said again in the same bytes.
pub fn stream(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
        for piece in pieces {
            decoder.feed(piece);
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(_) => return frames,
                }
            }
        }
        frames
    };
    let frames = read(&mut rest.chunks(usize::from(*first) + 1));
    assert_eq!(frames, read(&mut std::iter::once(rest)), "pieces change nothing");
    let mut bytes = Vec::new();
    for frame in &frames {
        frame.encode(&mut bytes);
    }
    let again: Vec<Frame> = read(&mut std::iter::once(bytes.as_slice()));
    assert_eq!(again, frames);
}

/// A template of `--format`, on what most rows have.
pub fn template(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(template) = Template::parse(text) else { return };
    let row = Value::of(&json!({
        "ID": "0123456789ab", "Names": ["a", "b"], "Size": 12, "Ratio": 0.5, "Running": true, "None": null,
        "State": {"Pid": 7, "Health": {"Log": []}}, "Labels": {"a.b": "c"},
    }));
    let _ = template.print(&row);
}

/// A Dockerfile up to what a build would execute, its checks, and the same bytes as `.dockerignore`.
pub fn dockerfile(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(ignore) = Ignore::parse(text) {
        for path in ["a", "a/b.c", "src/a/b/c.o", "é/[x]", "**"] {
            let _ = (ignore.ignores(path), ignore.skips_directory(path));
            let _ = ignore.ignores_entry(path, &Matches::default());
        }
    }
    let file = match Dockerfile::parse(text) {
        Ok(file) => file,
        Err(fault) => {
            let _ = (fault.error("Dockerfile", text), fault.span.excerpt(text));
            return;
        }
    };
    let parameters = Parameters::default();
    let facts = Facts { parameters: &parameters, ignore: None, bases: &|_| None, target: None };
    for warning in check(&file, facts).warnings {
        assert!(text.get(warning.span.start..warning.span.end).is_some(), "{warning:?}");
    }
    let Ok(globals) = file.globals(&parameters) else { return };
    if let Ok(stages) = file.resolve(&globals) {
        let last = stages.len() - 1;
        if let Ok(needed) = file.needed(&stages, last) {
            assert_eq!(needed.last(), Some(&last));
        }
    }
    for stage in &file.stages {
        let mut scope = Scope::new([("PATH", "/bin"), ("a", "foo.tar.gz")]);
        for step in &stage.steps {
            assert!(text.get(step.span.start..step.span.end).is_some(), "{step:?}");
            let Ok(expanded) = step.instruction.expand(file.escape, &scope) else { break };
            match &expanded.instruction {
                Instruction::Env(pairs) => {
                    let fits = pairs.iter().all(|pair| scope.set(&pair.key, &pair.value).is_ok());
                    if !fits {
                        return;
                    }
                }
                Instruction::Arg(arguments) => {
                    for argument in arguments {
                        let _ = scope.declare(argument, &globals, &parameters.build_args, file.escape);
                    }
                }
                Instruction::Run(run) => drop((run.script(), run.mounts(file.escape, &scope))),
                Instruction::Onbuild(trigger) => drop(Step::of_trigger(&trigger.expression, step.span)),
                _ => {}
            }
        }
    }
}
