//! Manifests: formats, verification, bounds, platforms.

mod setup;

use robot_env_diag::Kind;
use robot_env_oci::{Digest, media_type};
use robot_env_registry::Document;
use robot_env_testkit::image::{Entry, Format, ImageBuilder, small};
use robot_env_testkit::registry::{Effect, Fault, TestRegistry};
use setup::*;

#[test]
fn an_image_is_found_by_tag_and_by_digest_in_both_formats() {
    for format in [Format::Oci, Format::Docker] {
        let (registry, client) = (TestRegistry::start(), client());
        let built = ImageBuilder::new().format(format).layer(&[Entry::file("a", "b")]).build();
        let wanted = registry.put_image("lab/a", "1", &built);
        for name in ["lab/a:1".to_owned(), format!("lab/a@{}", wanted.digest)] {
            let image = client.image(&reference(&registry, &name), None).unwrap();
            assert_eq!(image.manifest.bytes(), built.manifest);
            assert_eq!(image.config.digest(), &built.id());
            assert_eq!(
                (image.media_type.as_str(), image.host.as_str()),
                (built.media_type.as_str(), registry.host().as_str())
            );
            assert_eq!(image.chosen_for, None);
            let resolved = client.resolve(&reference(&registry, &name)).unwrap();
            assert_eq!(resolved.value, wanted);
        }
        let accept = registry
            .log()
            .iter()
            .find(|l| l.path.contains("/manifests/"))
            .unwrap()
            .header("accept")
            .unwrap()
            .to_owned();
        for kind in [
            media_type::OCI_INDEX,
            media_type::OCI_MANIFEST,
            media_type::DOCKER_INDEX,
            media_type::DOCKER_MANIFEST,
        ] {
            assert!(accept.contains(kind));
        }
    }
}

#[test]
fn a_name_without_tag_means_latest() {
    let registry = TestRegistry::start();
    registry.put_image("a", "latest", &small());
    assert_eq!(client().manifest(&reference(&registry, "a")).unwrap().value.digest(), &small().digest());
}

#[test]
fn an_index_is_searched_for_the_platform() {
    let (registry, client) = (TestRegistry::start(), client());
    let image = |platform: &str| {
        ImageBuilder::new().platform(platform.parse().unwrap()).layer(&[Entry::file("p", platform)]).build()
    };
    let (amd64, arm64) = (image("linux/amd64"), image("linux/arm64"));
    let digest = registry.put_index("a", "1", &[&amd64, &arm64]);
    let name = reference(&registry, "a:1");
    for (platform, want) in [("linux/amd64", &amd64), ("linux/arm64/v8", &arm64)] {
        let got = client.image(&name, Some(&platform.parse().unwrap())).unwrap();
        assert_eq!(got.manifest.digest(), &want.digest());
        assert_eq!(got.top.digest(), &digest);
        assert!(matches!(got.top, Document::Index(..)));
        assert_eq!(got.chosen_for.unwrap().to_string(), platform);
    }
    let error = client.image(&name, Some(&"linux/riscv64".parse().unwrap())).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(text(&error).contains("linux/amd64, linux/arm64"), "{}", text(&error));
}

#[test]
fn indexes_in_indexes_are_bounded() {
    let (registry, client) = (TestRegistry::start(), client());
    let image = small();
    registry.put_image("a", "0", &image);
    let mut entry = serde_json::json!({"mediaType": image.media_type, "digest": image.digest().to_string(), "size": image.manifest.len()});
    for depth in 1..=6 {
        let index =
            serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [entry]})
                .to_string();
        let digest =
            registry.put_manifest("a", Some(&depth.to_string()), media_type::OCI_INDEX, index.as_bytes());
        entry = serde_json::json!({"mediaType": media_type::OCI_INDEX, "digest": digest.to_string(), "size": index.len()});
    }
    assert!(client.image(&reference(&registry, "a:4"), None).is_ok());
    assert_eq!(client.image(&reference(&registry, "a:5"), None).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn a_missing_tag_is_told_in_the_registrys_words() {
    let registry = TestRegistry::start();
    registry.put_image("a", "1", &small());
    for error in [
        client().resolve(&reference(&registry, "a:2")).unwrap_err(),
        client().manifest(&reference(&registry, "a:2")).unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(
            text(&error).contains("404 Not Found (MANIFEST_UNKNOWN: manifest unknown)"),
            "{}",
            text(&error)
        );
    }
}

#[test]
fn schema_1_is_refused() {
    let registry = TestRegistry::start();
    registry.put_image("a", "1", &small());
    registry.fault(Fault::always(
        "/manifests/",
        Effect::Answer(media_type::DOCKER_SCHEMA1.into(), br#"{"schemaVersion":1,"fsLayers":[]}"#.to_vec()),
    ));
    registry.fault(Fault::always("/manifests/", Effect::NoDigest));
    for error in [
        client().manifest(&reference(&registry, "a:1")).unwrap_err(),
        client().resolve(&reference(&registry, "a:1")).unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(text(&error).contains("schema 1"), "{}", text(&error));
    }
}

#[test]
fn an_oversize_manifest_is_not_read() {
    let registry = TestRegistry::start();
    registry.put_image("a", "1", &small());
    for (effect, sent) in [
        (Effect::Answer(media_type::OCI_MANIFEST.into(), vec![b' '; 5 << 20]), 0),
        (Effect::Endless, 64 << 20),
    ] {
        registry.mend();
        registry.fault(Fault::always("/manifests/", effect).for_method("GET"));
        let before = registry.bytes_sent();
        let error = client().manifest(&reference(&registry, "a:1")).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(text(&error).contains("4194304"), "{}", text(&error));
        assert!(registry.bytes_sent() - before <= sent.max(6 << 20));
    }
}

#[test]
fn a_wrong_or_missing_digest_is_noticed() {
    let registry = TestRegistry::start();
    let wanted = registry.put_image("a", "1", &small());
    let by_digest = format!("a@{}", wanted.digest);
    registry.fault(Fault::always("/manifests/", Effect::WrongDigest));
    assert_eq!(client().manifest(&reference(&registry, "a:1")).unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(client().resolve(&reference(&registry, &by_digest)).unwrap_err().kind(), Kind::Corrupt);
    registry.mend();
    registry.fault(Fault::always("/manifests/", Effect::NoDigest));
    assert_eq!(client().manifest(&reference(&registry, "a:1")).unwrap().value.digest(), &wanted.digest);
    assert_eq!(client().resolve(&reference(&registry, "a:1")).unwrap().value, wanted);
    registry.mend();
    registry.fault(Fault::always("/manifests/", Effect::Corrupt(0)));
    let error = client().manifest(&reference(&registry, &by_digest)).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(text(&error).contains("does not match its digest"), "{}", text(&error));
}

#[test]
fn a_document_of_another_type_than_described_is_refused() {
    let registry = TestRegistry::start();
    let image = small();
    registry.put_image("a", "1", &image);
    let entry = serde_json::json!({"mediaType": media_type::OCI_INDEX, "digest": image.digest().to_string(), "size": image.manifest.len(),
        "platform": {"os": "linux", "architecture": robot_env_oci::Platform::host().architecture}});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    registry.put_manifest("a", Some("i"), media_type::OCI_INDEX, index.as_bytes());
    assert_eq!(client().image(&reference(&registry, "a:i"), None).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn a_config_must_match_its_digest_and_its_bound() {
    let registry = TestRegistry::start();
    let image = small();
    registry.put_image("a", "1", &image);
    registry.fault(Fault::always(&image.id().to_string(), Effect::Corrupt(3)));
    assert_eq!(client().image(&reference(&registry, "a:1"), None).unwrap_err().kind(), Kind::Corrupt);
    let huge = robot_env_oci::Descriptor::new(media_type::OCI_CONFIG, Digest::of(b"x"), 1 << 40);
    assert_eq!(client().config(&repository(&registry, "a"), &huge).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn tags_come_page_by_page() {
    let registry = TestRegistry::with(robot_env_testkit::registry::RegistryOptions {
        tags_a_page: 2,
        ..Default::default()
    });
    let tags = ["a", "b", "c", "d", "e"];
    for tag in tags {
        registry.put_image("x/y", tag, &small());
    }
    assert_eq!(client().tags(&repository(&registry, "x/y")).unwrap(), tags);
    assert_eq!(registry.count("GET", "/tags/list"), 3);
    assert_eq!(client().tags(&repository(&registry, "none")).unwrap_err().kind(), Kind::NotFound);
    for bad in [r#"{"tags":["ok","../x"]}"#, r#"{"tags":["\u001b[2J"]}"#, "7", "{"] {
        registry.mend();
        registry.fault(Fault::always("/tags/list", Effect::Answer("application/json".into(), bad.into())));
        let result = client().tags(&repository(&registry, "x/y"));
        assert_eq!(result.unwrap_err().kind(), Kind::Corrupt, "{bad}");
    }
    registry.mend();
    registry.fault(Fault::always(
        "/tags/list",
        Effect::Answer("application/json".into(), br#"{"name":"x/y","tags":null}"#.to_vec()),
    ));
    assert_eq!(client().tags(&repository(&registry, "x/y")).unwrap(), [""; 0]);
}
