//! Blobs: resuming, bounds, waiting, redirects.

mod setup;

use std::io::Read as _;
use std::time::{Duration, Instant};

use robot_env_diag::Kind;
use robot_env_registry::{Client, ClientOptions, TimeOuts, VerifyingReader, error_of};
use robot_env_testkit::registry::{Effect, Fault, TestRegistry};
use setup::*;

const SIZE: usize = 1_000_000;

fn with_blob() -> (TestRegistry, Vec<u8>, robot_env_oci::Descriptor) {
    let registry = TestRegistry::start();
    let bytes = content(SIZE);
    let digest = registry.put_blob("a", &bytes);
    (registry, bytes, descriptor(&digest, SIZE))
}

#[test]
fn a_blob_is_read_from_any_offset() {
    let (registry, bytes, blob) = with_blob();
    for offset in [0, 1, SIZE - 1, SIZE] {
        let reader = client().blob(&repository(&registry, "a"), &blob, offset as u64).unwrap();
        assert_eq!(read(reader).unwrap(), bytes[offset..], "from {offset}");
    }
    assert_eq!(
        client().blob(&repository(&registry, "a"), &blob, SIZE as u64 + 1).unwrap_err().kind(),
        Kind::InvalidInput
    );
    let mut reader = VerifyingReader::new(
        client().blob(&repository(&registry, "a"), &blob, 0).unwrap(),
        blob.digest.clone(),
    );
    assert_eq!(std::io::copy(&mut reader, &mut std::io::sink()).unwrap(), SIZE as u64);
    assert_eq!(
        (reader.get_ref().served_by(), reader.get_ref().position()),
        (registry.host().as_str(), SIZE as u64)
    );
}

#[test]
fn an_empty_blob_is_empty() {
    let registry = TestRegistry::start();
    let digest = registry.put_blob("a", b"");
    assert_eq!(
        read(client().blob(&repository(&registry, "a"), &descriptor(&digest, 0), 0).unwrap()).unwrap(),
        b""
    );
}

#[test]
fn a_missing_blob_is_an_error_of_the_call() {
    let (registry, _, blob) = with_blob();
    registry.remove_blob("a", &blob.digest);
    let error = client().blob(&repository(&registry, "a"), &blob, 0).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(text(&error).contains("BLOB_UNKNOWN"), "{}", text(&error));
}

#[test]
fn a_cut_transfer_goes_on_where_it_was_cut() {
    let (registry, bytes, blob) = with_blob();
    registry.fault(Fault::times("/blobs/", 3, Effect::CutAfter(200_000)));
    let mut reader = client().blob(&repository(&registry, "a"), &blob, 0).unwrap();
    let mut got = Vec::new();
    reader.read_to_end(&mut got).unwrap();
    assert_eq!(got, bytes);
    assert_eq!(reader.resumed(), 3);
    let ranges: Vec<_> = registry
        .log()
        .iter()
        .filter(|l| l.path.contains("/blobs/"))
        .map(|l| l.header("range").map(str::to_owned))
        .collect();
    assert_eq!(
        ranges,
        [None, Some("bytes=200000-".into()), Some("bytes=400000-".into()), Some("bytes=600000-".into())]
    );
    assert!(registry.bytes_sent() <= SIZE as u64 + 1000);
}

#[test]
fn many_cuts_with_progress_are_survived_and_without_are_not() {
    let (registry, bytes, blob) = with_blob();
    registry.fault(Fault::times("/blobs/", 10, Effect::CutAfter(70_000)));
    assert_eq!(read(client().blob(&repository(&registry, "a"), &blob, 0).unwrap()).unwrap(), bytes);
    registry.mend();
    registry.forget_log();
    registry.fault(Fault::always("/blobs/", Effect::CutAfter(10)));
    let error = read(client().blob(&repository(&registry, "a"), &blob, 0).unwrap()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(text(&error).contains(&registry.host()), "{}", text(&error));
    assert_eq!(registry.count("GET", "/blobs/"), 4);
}

#[test]
fn a_server_that_ignores_ranges_is_skipped_through() {
    let (registry, bytes, blob) = with_blob();
    registry.fault(Fault::always("/blobs/", Effect::IgnoreRange));
    registry.fault(Fault::times("/blobs/", 1, Effect::CutAfter(300_000)));
    assert_eq!(read(client().blob(&repository(&registry, "a"), &blob, 0).unwrap()).unwrap(), bytes);
    assert_eq!(
        read(client().blob(&repository(&registry, "a"), &blob, 900_000).unwrap()).unwrap(),
        bytes[900_000..]
    );
}

#[test]
fn another_range_than_asked_for_is_refused() {
    let (registry, _, blob) = with_blob();
    registry.fault(Fault::always("/blobs/", Effect::WrongRange));
    assert_eq!(client().blob(&repository(&registry, "a"), &blob, 500_000).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn more_bytes_than_declared_are_an_error_and_are_not_read() {
    let (registry, _, blob) = with_blob();
    for effect in [Effect::Longer(5, true), Effect::Longer(5, false), Effect::Endless] {
        registry.mend();
        registry.fault(Fault::always("/blobs/", effect.clone()));
        let result = client().blob(&repository(&registry, "a"), &blob, 0).and_then(read);
        let error = result.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{effect:?}: {}", text(&error));
    }
    assert!(registry.bytes_sent() < 40 * SIZE as u64);
}

#[test]
fn a_blob_that_is_shorter_than_declared_is_an_error() {
    let registry = TestRegistry::start();
    let digest = registry.put_blob("a", b"short");
    let error =
        client().blob(&repository(&registry, "a"), &descriptor(&digest, 10), 0).and_then(read).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    let error =
        client().blob(&repository(&registry, "a"), &descriptor(&digest, 10), 7).and_then(read).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
}

#[test]
fn corrupt_bytes_are_found_by_the_verifying_reader() {
    let (registry, _, blob) = with_blob();
    registry.fault(Fault::always("/blobs/", Effect::Corrupt(12_345)));
    let reader = client().blob(&repository(&registry, "a"), &blob, 0).unwrap();
    let error =
        std::io::copy(&mut VerifyingReader::new(reader, blob.digest), &mut std::io::sink()).unwrap_err();
    assert_eq!(error_of(error).kind(), Kind::Corrupt);
}

#[test]
fn waits_as_long_as_the_registry_asks_and_no_longer() {
    for status in [429, 503] {
        let (registry, bytes, blob) = with_blob();
        registry.fault(Fault::times("/blobs/", 2, Effect::Status(status, Some("1".into()))));
        let start = Instant::now();
        assert_eq!(read(client().blob(&repository(&registry, "a"), &blob, 0).unwrap()).unwrap(), bytes);
        assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
        // A date counts from the answer's own date, which the test registry gives as 08:49:37.
        registry.fault(Fault::times(
            "/blobs/",
            1,
            Effect::Status(status, Some("Sun, 06 Nov 1994 08:49:38 GMT".into())),
        ));
        assert_eq!(read(client().blob(&repository(&registry, "a"), &blob, 0).unwrap()).unwrap(), bytes);
        registry.fault(Fault::always("/blobs/", Effect::Status(status, Some("61".into()))));
        let start = Instant::now();
        let error = client().blob(&repository(&registry, "a"), &blob, 0).unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(text(&error).contains(&registry.host()) && text(&error).contains("61 s"), "{}", text(&error));
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}

#[test]
fn the_default_waits_a_minute_in_all() {
    assert_eq!(ClientOptions::default().retry.longest_wait, Duration::from_secs(60));
    assert!(ClientOptions::default().time_outs.idle <= TimeOuts::IDLE_LIMIT);
}

#[test]
fn a_server_that_is_down_for_a_moment_is_asked_again() {
    let (registry, bytes, blob) = with_blob();
    registry.fault(Fault::times("/blobs/", 2, Effect::Status(502, None)));
    registry.fault(Fault::times("/blobs/", 1, Effect::Hangup).after(2));
    assert_eq!(read(client().blob(&repository(&registry, "a"), &blob, 0).unwrap()).unwrap(), bytes);
    registry.fault(Fault::always("/blobs/", Effect::Status(500, None)));
    registry.forget_log();
    assert_eq!(client().blob(&repository(&registry, "a"), &blob, 0).unwrap_err().kind(), Kind::Unavailable);
    // Each try counts once, whoever counts it.
    assert_eq!(registry.count("GET", "/blobs/"), 4);
}

#[test]
fn a_stalled_transfer_is_given_up_and_taken_up_again() {
    let (registry, bytes, blob) = with_blob();
    let mut options = options();
    options.time_outs.idle = Duration::from_millis(300);
    registry.fault(Fault::times("/blobs/", 1, Effect::StallAfter(100_000, Duration::from_secs(60))));
    let start = Instant::now();
    assert_eq!(
        read(Client::new(options.clone()).blob(&repository(&registry, "a"), &blob, 0).unwrap()).unwrap(),
        bytes
    );
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    registry.fault(Fault::always("/blobs/", Effect::Stall(Duration::from_secs(60))));
    // Two idle time-outs in all, whatever the number of attempts.
    options.retry.attempts = 50;
    let start = Instant::now();
    let error = Client::new(options).blob(&repository(&registry, "a"), &blob, 0).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(text(&error).contains("in time"), "{}", text(&error));
}

#[test]
fn a_cancelled_client_lets_go_at_once() {
    let (registry, _, blob) = with_blob();
    registry.fault(Fault::always("/blobs/", Effect::StallAfter(100_000, Duration::from_secs(60))));
    let client = client();
    let reader = client.blob(&repository(&registry, "a"), &blob, 0).unwrap();
    let waiting = std::thread::spawn(move || read(reader));
    std::thread::sleep(Duration::from_millis(200));
    let start = Instant::now();
    client.cancel();
    assert_eq!(waiting.join().unwrap().unwrap_err().kind(), Kind::Interrupted);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(client.blob(&repository(&registry, "a"), &blob, 0).unwrap_err().kind(), Kind::Interrupted);
}

#[test]
fn redirects_are_followed_to_other_hosts_and_bounded() {
    let (registry, bytes, blob) = with_blob();
    let cdn = TestRegistry::start();
    cdn.put_blob("a", &bytes);
    registry.fault(Fault::always("/blobs/", Effect::Redirect(cdn.url())));
    assert_eq!(read(client().blob(&repository(&registry, "a"), &blob, 10).unwrap()).unwrap(), bytes[10..]);
    assert_eq!(cdn.log().last().unwrap().header("range"), Some("bytes=10-"));
    registry.mend();
    registry.forget_log();
    registry.fault(Fault::always("/blobs/", Effect::Redirect(registry.url())));
    let error = client().blob(&repository(&registry, "a"), &blob, 0).unwrap_err();
    assert!(text(&error).contains("redirect"), "{}", text(&error));
    assert_eq!(registry.count("GET", "/blobs/"), 6);
    for target in ["file:///etc/passwd", "ftp://127.0.0.1/x/y", "http://user:pw@127.0.0.1/x/y"] {
        registry.mend();
        registry.fault(Fault::always("/blobs/", Effect::Redirect(target.into())));
        assert_eq!(
            client().blob(&repository(&registry, "a"), &blob, 0).unwrap_err().kind(),
            Kind::Denied,
            "{target}"
        );
    }
}

#[test]
fn several_threads_share_a_client() {
    let registry = TestRegistry::start();
    let client = client();
    std::thread::scope(|scope| {
        for n in 0..8_usize {
            let bytes = content(100_000 + n);
            let digest = registry.put_blob("a", &bytes);
            let (client, registry) = (&client, &registry);
            scope.spawn(move || {
                for _ in 0..5 {
                    let blob = descriptor(&digest, bytes.len());
                    assert_eq!(
                        read(client.blob(&repository(registry, "a"), &blob, 0).unwrap()).unwrap(),
                        bytes
                    );
                }
            });
        }
    });
}

#[test]
fn a_registry_that_is_not_there_is_named() {
    let registry = TestRegistry::start();
    let (name, host) = (repository(&registry, "a"), registry.host());
    drop(registry);
    let error = client().blob(&name, &descriptor(&robot_env_oci::Digest::of(b""), 1), 0).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(text(&error).contains(&host) && text(&error).contains("refused"), "{}", text(&error));
}
