//! Images and registries that would fill the memory or the disk: what pulls them stays below 256 MiB,
//! ends, and gives everything back.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use robot_env_oci::Digest;
use robot_env_testkit::image::{Entry, small, tar};
use robot_env_testkit::registry::{Auth, Effect, Fault, RegistryOptions, TestRegistry};

use crate::disk::{inside, inside_memory};
use crate::place::{Done, Place};
use crate::place_or_return;

/// The most resident memory of a process that pulls, in bytes.
const MEMORY: u64 = 256 << 20;
const MIB: usize = 1 << 20;

/// Pulls, and gives what came of it and the most memory that the process had resident.
fn pull(place: &Place, name: &str) -> (Done, u64) {
    let mut call = place.command(&["pull", "-q", name]);
    let error = place.directory.join("stderr");
    let file = fs::File::create(&error).unwrap();
    let mut child = call.0.stdout(Stdio::null()).stderr(file).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let code = loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes: u64 = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0);
        peak = peak.max(kilobytes * 1024);
        if let Some(status) = child.try_wait().unwrap() {
            break status.code().unwrap_or(-1);
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    (Done { code, out: String::new(), err: fs::read_to_string(error).unwrap() }, peak)
}

/// An image of these blobs, which are zstd where `zstd` says so. Its diff ids are wrong: a layer that
/// is unpacked to its end is refused then.
fn put(registry: &TestRegistry, repository: &str, zstd: bool, blobs: &[Vec<u8>]) -> String {
    let diff_ids: Vec<String> =
        (0..blobs.len()).map(|n| Digest::of(format!("{repository} {n}").as_bytes()).to_string()).collect();
    let config = serde_json::json!({
        "architecture": robot_env_oci::Platform::host().architecture, "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = serde_json::to_vec(&config).unwrap();
    let media_type = format!("application/vnd.oci.image.layer.v1.tar+{}", if zstd { "zstd" } else { "gzip" });
    let layers: Vec<_> = blobs
        .iter()
        .map(|blob| {
            let digest = registry.put_blob(repository, blob).to_string();
            serde_json::json!({"mediaType": media_type, "digest": digest, "size": blob.len()})
        })
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": registry.put_blob(repository, &config).to_string(), "size": config.len(),
        },
        "layers": layers,
    });
    let manifest = serde_json::to_vec(&manifest).unwrap();
    registry.put_manifest(repository, Some("1"), "application/vnd.oci.image.manifest.v1+json", &manifest);
    registry.name(&format!("{repository}:1"))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    robot_env_testkit::image::Compression::Gzip.compress(bytes)
}

/// One frame with a window of 64 MiB.
fn wide(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(26).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The header of a file whose `size` bytes come in further pieces.
fn head(path: &str, size: u64) -> Vec<u8> {
    let mut bytes = tar(&[Entry::file(path, "").declared_size(size)]);
    bytes.truncate(bytes.len() - 1024);
    bytes
}

/// Nothing of what was pulled is left, and its room is free again.
#[track_caller]
fn given_back(place: &Place, free: u64, what: &str) {
    assert_eq!(place.run("images --format {{.Repository}}").ok().lines().count(), 2, "{what}");
    place.run("image prune -a -f --filter label=none").ok();
    let staging = fs::read_dir(place.directory.join("root/staging")).unwrap().count();
    assert_eq!(staging, 0, "{what}");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let now = room(place);
        if now + (1 << 20) >= free {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {free} bytes were free, and now {now}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn room(place: &Place) -> u64 {
    let stat = rustix::fs::statvfs(place.directory.path()).unwrap();
    stat.f_bavail * stat.f_frsize
}

#[test]
fn privileged_bombs_end_with_the_disk_and_give_it_back() {
    const TEST: &str = "bombs::privileged_bombs_end_with_the_disk_and_give_it_back";
    if !inside(TEST) {
        return;
    }
    let place = place_or_return!("bombs");
    let registry = TestRegistry::start();
    let zeros = vec![0; 16 * MIB];
    let many: Vec<Entry> = (0..20_000).map(|n| Entry::file(&format!("d{}/f{n}", n % 100), "")).collect();
    let bombs = [
        // 8 GiB of zeros in 8 MiB, and in much less.
        ("gzip", false, [gzip(&head("bomb", 8 << 30)), gzip(&zeros).repeat(512)].concat(), "no space"),
        ("zstd", true, [wide(&head("bomb", 8 << 30)), wide(&zeros).repeat(512)].concat(), "no space"),
        ("nested", false, gzip(&gzip(&gzip(&zeros))), "cannot unpack layer"),
        ("entries", false, gzip(&tar(&many)), "no space"),
    ];
    let free = room(&place);
    for (what, zstd, blob, says) in bombs {
        let name = put(&registry, what, zstd, &[blob]);
        let (done, peak) = pull(&place, &name);
        assert_ne!(done.code, 0, "{what}");
        assert!(done.err.contains(says), "{what}: {done:?}");
        assert!(peak > 0 && peak < MEMORY, "{what}: {peak} bytes");
        given_back(&place, free, what);
    }
    assert_eq!(place.script("", "echo fine").ok(), "fine");
}

/// Layers that take memory and no room. `ROBOT_ENV_BOMBS` says how many directories each has.
#[test]
fn privileged_bombs_take_little_memory() {
    const TEST: &str = "bombs::privileged_bombs_take_little_memory";
    if !inside_memory(TEST) {
        return;
    }
    let place = place_or_return!("memory-bombs");
    let registry = TestRegistry::start();
    let count: usize =
        std::env::var("ROBOT_ENV_BOMBS").ok().and_then(|text| text.parse().ok()).unwrap_or(4_000);
    // 80 MiB that are not unpacked, as their name is reserved, fill the window of 64 MiB.
    let filler = |n: usize| {
        let mut bytes = head(&format!(".wh..wh.plnk/{n}"), 80 * MIB as u64);
        bytes.resize(bytes.len() + 80 * MIB, 0);
        wide(&bytes)
    };
    let directories = |n: usize, entries: bool| -> Vec<u8> {
        let long = "x".repeat(50);
        let entry = |m: usize| {
            let name = format!("{long}{n}-{m}");
            if entries { Entry::directory(&name) } else { Entry::file(&format!("{name}/f"), "") }
        };
        wide(&tar(&(0..count).map(entry).collect::<Vec<_>>()))
    };
    let three = |entries| (0..3).map(|n| [filler(n), directories(n, entries)].concat()).collect::<Vec<_>>();
    // Extended headers of a megabyte each, on an entry that is replaced again and again.
    let comment = Entry::file("f", "").pax("comment", vec![b'c'; MIB - 100]);
    let headers = vec![wide(&tar(&vec![comment; 100])); 1];
    let attributes = |number: usize, length: usize| {
        let entry = (0..number).fold(Entry::file("f", ""), |entry, n| {
            entry.xattr(&format!("user.attribute{n}"), vec![b'v'; length])
        });
        vec![wide(&tar(&[entry.clone(), entry]))]
    };
    let long = Entry::file("f", "").pax("path", vec![b'p'; MIB - 100]);
    let pieces: Vec<u8> = (0..600_000u64).flat_map(|n| format!("{}\n1\n", n * 2).into_bytes()).collect();
    let sparse = Entry::file("s", [&b"600000\n"[..], &pieces].concat())
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.name", "s")
        .pax("GNU.sparse.realsize", "9000000");
    let linked: Vec<Entry> = std::iter::once(Entry::file("f", ""))
        .chain((0..5_000).map(|n| Entry::hardlink(&format!("l{n}"), "f")))
        .collect();
    let free = room(&place);
    for (what, blobs) in [
        ("three", three(true)),
        ("implied", three(false)),
        ("headers", headers),
        ("attributes", attributes(4000, 200)),
        ("more attributes", attributes(5000, 10)),
        ("path", vec![wide(&tar(&[long]))]),
        ("sparse", vec![wide(&tar(&[sparse]))]),
        ("links", vec![wide(&tar(&linked))]),
    ] {
        let name = put(&registry, &what.replace(' ', "-"), true, &blobs);
        let begun = Instant::now();
        let (done, peak) = pull(&place, &name);
        println!("{what}: {} MiB, {:?}, {}", peak / MIB as u64, begun.elapsed(), done.err.trim());
        assert_eq!(done.code, 1, "{what}: {done:?}");
        // One layer may have 128 MiB at a time, and two others 16 MiB each.
        assert!(peak > 0 && peak < MEMORY / 4 * 3, "{what}: {peak} bytes");
        given_back(&place, free, what);
    }
    assert_eq!(place.script("", "echo fine").ok(), "fine");
}

/// Answers that never end, or have more than they say.
#[test]
fn privileged_endless_answers_end() {
    let place = place_or_return!("endless");
    let image = small();
    let auth = Auth::Bearer {
        username: "u".into(),
        password: "p".into(),
        anonymous_pull: true,
        expires_in: 60,
        realm: None,
    };
    let options = RegistryOptions { auth, ..RegistryOptions::default() };
    let config = Digest::of(&image.config).to_string();
    let layer = image.layers[0].descriptor.digest.to_string();
    for (what, path, effect) in [
        ("manifest", "/manifests/", Effect::Endless),
        ("token", "/token", Effect::Endless),
        ("config", config.as_str(), Effect::Endless),
        ("layer", layer.as_str(), Effect::Endless),
        ("long manifest", "/manifests/", Effect::Longer(8 << 20, true)),
        ("long token", "/token", Effect::Longer(64 << 20, false)),
        ("long layer", layer.as_str(), Effect::Longer(64 << 20, false)),
    ] {
        let auth = if path == "/token" { options.clone() } else { RegistryOptions::default() };
        let registry = TestRegistry::with(auth);
        registry.put_image("small", "1", &image);
        registry.fault(Fault::always(path, effect));
        let begun = Instant::now();
        let (done, peak) = pull(&place, &registry.name("small:1"));
        assert_eq!(done.code, 1, "{what}: {done:?}");
        assert!(peak > 0 && peak < MEMORY / 4, "{what}: {peak} bytes");
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}: {:?}", begun.elapsed());
        assert!(registry.bytes_sent() < 256 << 20, "{what}: {} bytes", registry.bytes_sent());
        assert_eq!(place.run("images --format {{.Repository}}").ok().lines().count(), 2, "{what}");
    }
}
