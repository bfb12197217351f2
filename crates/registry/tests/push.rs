//! Uploads.

mod setup;

use std::cell::Cell;
use std::io::Read;

use robot_env_diag::{Error, Kind};
use robot_env_oci::Digest;
use robot_env_registry::{Client, Expected, Pushed};
use robot_env_testkit::image::small;
use robot_env_testkit::registry::{Effect, Fault, RegistryOptions, TestRegistry};
use robot_env_testkit::temporary::TemporaryDirectory;
use setup::*;

fn push(
    client: &Client,
    registry: &TestRegistry,
    bytes: &[u8],
    expected: &Expected,
) -> robot_env_diag::Result<Pushed> {
    client.push_blob(&repository(registry, "a"), expected, &mut || Ok(Box::new(bytes)), &mut |_| {})
}

#[test]
fn a_blob_is_sent_whatever_is_known_of_it() {
    let bytes = content(700_000);
    let digest = Digest::of(&bytes);
    for expected in [
        Expected::default(),
        Expected { size: Some(bytes.len() as u64), digest: None },
        Expected { size: None, digest: Some(digest.clone()) },
        Expected { size: Some(bytes.len() as u64), digest: Some(digest.clone()) },
    ] {
        let (registry, client) = (TestRegistry::start(), client());
        assert!(!client.blob_exists(&repository(&registry, "a"), &digest).unwrap());
        let last = Cell::new(0);
        let pushed = client
            .push_blob(&repository(&registry, "a"), &expected, &mut || Ok(Box::new(&bytes[..])), &mut |n| {
                last.set(n);
            })
            .unwrap();
        assert_eq!(pushed, Pushed { digest: digest.clone(), size: bytes.len() as u64 });
        assert_eq!(last.get(), bytes.len() as u64);
        assert_eq!(registry.blob("a", &digest).unwrap(), bytes);
        assert!(client.blob_exists(&repository(&registry, "a"), &digest).unwrap());
        let chunked = registry.log().iter().any(|l| l.header("transfer-encoding").is_some());
        assert_eq!(chunked, expected.size.is_none());
    }
    let (registry, client) = (TestRegistry::start(), client());
    assert_eq!(push(&client, &registry, b"", &Expected::default()).unwrap().size, 0);
}

#[test]
fn what_is_known_is_checked() {
    let (registry, client) = (TestRegistry::start(), client());
    for expected in [
        Expected { size: Some(4), digest: None },
        Expected { size: Some(2), digest: None },
        Expected { size: None, digest: Some(Digest::of(b"other")) },
    ] {
        assert_eq!(
            push(&client, &registry, b"abc", &expected).unwrap_err().kind(),
            Kind::Corrupt,
            "{expected:?}"
        );
    }
    assert_eq!(registry.blob("a", &Digest::of(b"abc")), None);
}

#[test]
fn an_upload_that_breaks_starts_over() {
    let bytes = content(900_000);
    for fault in [
        Fault::times("/uploads/", 2, Effect::CutAfter(100_000)).for_method("PATCH"),
        Fault::times("/uploads/", 2, Effect::Status(503, None)).for_method("PATCH"),
        Fault::times("/uploads/", 2, Effect::Hangup).for_method("POST"),
    ] {
        let (registry, client) = (TestRegistry::start(), client());
        registry.fault(fault.clone());
        let opened = Cell::new(0);
        let pushed = client.push_blob(
            &repository(&registry, "a"),
            &Expected::default(),
            &mut || {
                opened.set(opened.get() + 1);
                Ok(Box::new(&bytes[..]))
            },
            &mut |_| {},
        );
        assert_eq!(pushed.unwrap().digest, Digest::of(&bytes));
        assert_eq!(opened.get(), if fault.method == "PATCH" { 3 } else { 1 });
    }
    let (registry, client) = (TestRegistry::start(), client());
    registry.fault(Fault::always("/uploads/", Effect::CutAfter(10)).for_method("PATCH"));
    let error = push(&client, &registry, &bytes, &Expected::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(text(&error).contains(&registry.host()), "{}", text(&error));
    assert_eq!(registry.count("PATCH", "/uploads/"), 4);
}

#[test]
fn a_failing_content_is_not_retried() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other(Error::new(Kind::Corrupt, "the layer is damaged")))
        }
    }
    let (registry, client) = (TestRegistry::start(), client());
    let error = client
        .push_blob(
            &repository(&registry, "a"),
            &Expected::default(),
            &mut || Ok(Box::new(Broken)),
            &mut |_| {},
        )
        .unwrap_err();
    assert_eq!((error.kind(), error.causes().len()), (Kind::Corrupt, 1));
    assert!(text(&error).contains("the layer is damaged"));
    assert_eq!(registry.count("POST", "/uploads/"), 1);
}

#[test]
fn absolute_locations_work_and_a_missing_one_is_told() {
    let (registry, client) = (TestRegistry::start(), client());
    registry.fault(Fault::always("/uploads/", Effect::LocationPrefix(registry.url())));
    assert!(push(&client, &registry, b"abc", &Expected::default()).is_ok());
    registry.mend();
    registry.fault(Fault::always("/uploads/", Effect::LocationPrefix("ftp://".into())));
    assert_eq!(push(&client, &registry, b"abc", &Expected::default()).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn a_registry_that_stores_something_else_is_caught() {
    let (registry, client) = (TestRegistry::start(), client());
    registry.fault(Fault::always("/uploads/", Effect::WrongDigest).for_method("PUT"));
    assert_eq!(push(&client, &registry, b"abc", &Expected::default()).unwrap_err().kind(), Kind::Corrupt);
    registry.mend();
    registry.put_image("a", "1", &small());
    registry.fault(Fault::always("/manifests/", Effect::WrongDigest).for_method("PUT"));
    assert_eq!(
        client
            .push_manifest(&reference(&registry, "a:2"), &small().media_type, &small().manifest)
            .unwrap_err()
            .kind(),
        Kind::Corrupt
    );
}

#[test]
fn a_commit_whose_answer_is_lost_counts_if_the_blob_is_there() {
    let (registry, mut options) = (TestRegistry::start(), options());
    options.time_outs.idle = std::time::Duration::from_millis(300);
    // The answer stalls after the registry has done its work.
    registry.fault(
        Fault::times("/uploads/", 1, Effect::Stall(std::time::Duration::from_secs(1))).for_method("PUT"),
    );
    let client = Client::new(options);
    assert_eq!(push(&client, &registry, b"abc", &Expected::default()).unwrap().digest, Digest::of(b"abc"));
}

#[test]
fn a_blob_is_mounted_where_the_registry_can() {
    let (registry, client) = (TestRegistry::start(), client());
    let digest = registry.put_blob("from", b"abc");
    let (here, from) = (repository(&registry, "a/b"), repository(&registry, "from"));
    assert!(client.mount_blob(&here, &digest, &from).unwrap());
    assert!(client.blob_exists(&here, &digest).unwrap());
    assert!(!client.mount_blob(&here, &Digest::of(b"none"), &from).unwrap());
    // The upload that was begun instead is taken back.
    assert_eq!(registry.count("DELETE", "/uploads/"), 1);
    assert!(!client.mount_blob(&here, &digest, &"other.example/x".parse().unwrap()).unwrap());
    let registry = TestRegistry::with(RegistryOptions { refuse_mount: true, ..RegistryOptions::default() });
    let digest = registry.put_blob("from", b"abc");
    assert!(
        !client.mount_blob(&repository(&registry, "a"), &digest, &repository(&registry, "from")).unwrap()
    );
}

#[test]
fn a_whole_image_is_pushed_with_tokens_and_pulled_again() {
    let registry = TestRegistry::with(RegistryOptions { auth: bearer(), ..RegistryOptions::default() });
    let directory = TemporaryDirectory::new("push");
    let options = options_in(&directory);
    write_credentials(&options, &registry.host(), password("rob", "secret"));
    let client = Client::new(options);
    let (image, here) = (small(), repository(&registry, "lab/a"));
    let early = client
        .push_manifest(&reference(&registry, "lab/a:1"), &image.media_type, &image.manifest)
        .unwrap_err();
    assert!(text(&early).contains("MANIFEST_BLOB_UNKNOWN"), "{}", text(&early));
    for bytes in image.layers.iter().map(|l| &l.blob).chain([&image.config]) {
        client.push_blob(&here, &Expected::default(), &mut || Ok(Box::new(&bytes[..])), &mut |_| {}).unwrap();
    }
    let digest =
        client.push_manifest(&reference(&registry, "lab/a:1"), &image.media_type, &image.manifest).unwrap();
    assert_eq!(digest, image.digest());
    assert_eq!(client.image(&reference(&registry, "lab/a:1"), None).unwrap().manifest.digest(), &digest);
    // Another repository of the same registry takes the layers over.
    let other = repository(&registry, "lab/b");
    assert!(client.mount_blob(&other, &image.layers[0].descriptor.digest, &here).unwrap());
    assert_eq!(client.tags(&here).unwrap(), ["1"]);
    let wrong = robot_env_oci::Reference::with_digest(here, Digest::of(b"x"));
    assert_eq!(
        client.push_manifest(&wrong, &image.media_type, &image.manifest).unwrap_err().kind(),
        Kind::Corrupt
    );
}
