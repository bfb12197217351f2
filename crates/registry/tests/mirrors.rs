//! Mirrors: order, falling back, health memory.

mod setup;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use robot_env_diag::Kind;
use robot_env_registry::{Client, ClientOptions, Expected, RegistrySettings};
use robot_env_testkit::image::small;
use robot_env_testkit::registry::{Effect, Fault, RegistryOptions, TestRegistry};
use robot_env_testkit::temporary::TemporaryDirectory;
use setup::*;

fn with_mirrors(upstream: &TestRegistry, mirrors: &[String]) -> ClientOptions {
    let mut options = options();
    options
        .registries
        .insert(upstream.host(), RegistrySettings { mirrors: mirrors.to_vec(), insecure: false });
    options
}

fn registry() -> TestRegistry {
    let registry = TestRegistry::start();
    registry.put_image("lab/a", "1", &small());
    registry
}

/// A port that takes connections and never says anything.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

#[test]
fn the_first_mirror_serves_and_the_rest_is_not_asked() {
    let (upstream, one, two) = (registry(), registry(), registry());
    let client = Client::new(with_mirrors(&upstream, &[one.host(), two.url()]));
    let image = client.image(&reference(&upstream, "lab/a:1"), None).unwrap();
    assert_eq!(image.host, one.host());
    let reader = client.blob(&repository(&upstream, "lab/a"), &image.manifest.value().layers[0], 0).unwrap();
    assert_eq!(reader.served_by(), one.host());
    assert_eq!(read(reader).unwrap(), small().layers[0].blob);
    assert_eq!((upstream.log().len(), two.log().len()), (0, 0));
}

#[test]
fn what_a_mirror_does_not_have_comes_from_the_next() {
    let (upstream, empty) = (registry(), TestRegistry::start());
    let client = Client::new(with_mirrors(&upstream, &[empty.url()]));
    let image = client.image(&reference(&upstream, "lab/a:1"), None).unwrap();
    assert_eq!(image.host, upstream.host());
    for fault in [
        Effect::Status(401, None),
        Effect::Status(403, None),
        Effect::Status(429, Some("600".into())),
        Effect::Status(500, None),
    ] {
        let (upstream, broken) = (registry(), registry());
        broken.fault(Fault::always("/v2/", fault));
        let start = Instant::now();
        let client = Client::new(with_mirrors(&upstream, &[broken.url()]));
        assert_eq!(client.image(&reference(&upstream, "lab/a:1"), None).unwrap().host, upstream.host());
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}

#[test]
fn a_dead_mirror_costs_one_time_out_in_all() {
    let upstream = registry();
    let blob = descriptor(&upstream.put_blob("lab/a", b"x"), 1);
    let (_listener, dead) = silent();
    let client = Client::new(with_mirrors(&upstream, &[dead]));
    let start = Instant::now();
    client.manifest(&reference(&upstream, "lab/a:1")).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                assert_eq!(
                    read(client.blob(&repository(&upstream, "lab/a"), &blob, 0).unwrap()).unwrap(),
                    b"x"
                );
            });
        }
    });
    assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
}

#[test]
fn a_mirror_that_refuses_connections_costs_nothing() {
    let upstream = registry();
    let gone = TestRegistry::start();
    let url = gone.url();
    drop(gone);
    let start = Instant::now();
    let client = Client::new(with_mirrors(&upstream, &[url]));
    assert_eq!(client.manifest(&reference(&upstream, "lab/a:1")).unwrap().host, upstream.host());
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_mirror_is_asked_again_after_its_rest() {
    let (upstream, mirror) = (registry(), registry());
    mirror.fault(Fault::times("/manifests/", 1, Effect::Hangup));
    let mut options = with_mirrors(&upstream, &[mirror.url()]);
    options.time_outs.mirror_rest = Duration::from_millis(300);
    let client = Client::new(options);
    let name = reference(&upstream, "lab/a:1");
    assert_eq!(client.manifest(&name).unwrap().host, upstream.host());
    assert_eq!(client.manifest(&name).unwrap().host, upstream.host());
    std::thread::sleep(Duration::from_millis(350));
    assert_eq!(client.manifest(&name).unwrap().host, mirror.host());
}

#[test]
fn a_transfer_that_breaks_on_a_mirror_goes_on_elsewhere() {
    let (upstream, mirror) = (registry(), registry());
    let bytes = content(500_000);
    let blob = descriptor(&upstream.put_blob("lab/a", &bytes), bytes.len());
    mirror.put_blob("lab/a", &bytes);
    mirror.fault(Fault::always("/blobs/", Effect::CutAfter(200_000)));
    let client = Client::new(with_mirrors(&upstream, &[mirror.url()]));
    assert_eq!(read(client.blob(&repository(&upstream, "lab/a"), &blob, 0).unwrap()).unwrap(), bytes);
    assert_eq!(upstream.log().last().unwrap().header("range"), Some("bytes=200000-"));
}

#[test]
fn a_mirror_with_bad_content_can_be_left_alone() {
    let (upstream, mirror) = (registry(), registry());
    let client = Client::new(with_mirrors(&upstream, &[mirror.url()]));
    let name = reference(&upstream, "lab/a:1");
    assert_eq!(client.manifest(&name).unwrap().host, mirror.host());
    client.distrust(name.repository(), &mirror.host());
    client.distrust(name.repository(), &upstream.host());
    assert_eq!(client.manifest(&name).unwrap().host, upstream.host());
}

#[test]
fn a_mirror_with_a_corrupt_manifest_is_passed_over() {
    let (upstream, mirror) = (registry(), registry());
    mirror.fault(Fault::always("/manifests/", Effect::Corrupt(1)));
    let client = Client::new(with_mirrors(&upstream, &[mirror.url()]));
    assert_eq!(client.manifest(&reference(&upstream, "lab/a:1")).unwrap().host, upstream.host());
}

#[test]
fn a_mirror_never_sees_the_registrys_credentials() {
    let upstream = TestRegistry::with(RegistryOptions { auth: bearer(), ..RegistryOptions::default() });
    upstream.put_image("lab/a", "1", &small());
    let mirror = TestRegistry::with(RegistryOptions { auth: bearer(), ..RegistryOptions::default() });
    let directory = TemporaryDirectory::new("mirrors");
    let mut options = with_mirrors(&upstream, &[mirror.url()]);
    options.docker_config = Some(directory.join("config.json"));
    write_credentials(&options, &upstream.host(), password("rob", "secret"));
    let client = Client::new(options);
    assert_eq!(client.image(&reference(&upstream, "lab/a:1"), None).unwrap().host, upstream.host());
    assert!(!mirror.log().is_empty());
    assert!(mirror.log().iter().all(|l| !l.header("authorization").is_some_and(|a| a.starts_with("Basic"))));
}

#[test]
fn pushes_go_to_the_registry_itself() {
    let (upstream, mirror) = (registry(), registry());
    let client = Client::new(with_mirrors(&upstream, &[mirror.url()]));
    client
        .push_blob(
            &repository(&upstream, "lab/a"),
            &Expected::default(),
            &mut || Ok(Box::new(&b"x"[..])),
            &mut |_| {},
        )
        .unwrap();
    assert_eq!(mirror.log().len(), 0);
}

#[test]
fn when_all_fail_every_host_is_named() {
    let (upstream, mirror) = (registry(), TestRegistry::start());
    let client = Client::new(with_mirrors(&upstream, &[mirror.url()]));
    let error = client.manifest(&reference(&upstream, "lab/a:none")).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(
        text(&error).contains(&upstream.host()) && text(&error).contains(&mirror.host()),
        "{}",
        text(&error)
    );
}

#[test]
fn a_mirror_may_have_a_path() {
    let upstream = registry();
    let mirror = TestRegistry::start();
    let client = Client::new(with_mirrors(&upstream, &[format!("{}/cache/hub/", mirror.url())]));
    client.manifest(&reference(&upstream, "lab/a:1")).unwrap();
    assert_eq!(mirror.log()[0].path, "/cache/hub/v2/lab/a/manifests/1");
}
