//! https: trust, `certs.d`, client certificates, insecure registries.

mod setup;

use std::sync::Arc;

use robot_env_diag::Kind;
use robot_env_registry::{Client, ClientOptions, RegistrySettings};
use robot_env_testkit::image::small;
use robot_env_testkit::registry::{Effect, Fault, RegistryOptions, TestRegistry};
use robot_env_testkit::temporary::TemporaryDirectory;
use robot_env_testkit::tls::Authority;
use setup::*;

struct Lab {
    registry: TestRegistry,
    authority: Arc<Authority>,
    directory: TemporaryDirectory,
}

impl Lab {
    fn new(client_certificate: bool) -> Self {
        let authority = Arc::new(Authority::new());
        let registry = TestRegistry::with(RegistryOptions {
            tls: Some(Arc::clone(&authority)),
            client_certificate,
            ..RegistryOptions::default()
        });
        registry.put_image("a", "1", &small());
        Lab { registry, authority, directory: TemporaryDirectory::new("tls") }
    }

    /// Options that look into the directory; a loopback registry is insecure unless `certs.d` has
    /// an authority for it.
    fn options(&self) -> ClientOptions {
        ClientOptions {
            certificate_directories: vec![self.directory.join("certs.d")],
            ca_bundles: Vec::new(),
            ..options()
        }
    }

    fn put(&self, name: &str, pem: &str) {
        let directory = self.directory.join("certs.d").join(self.registry.host());
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(name), pem).unwrap();
    }

    fn pull(&self) -> robot_env_diag::Result<()> {
        Client::new(self.options()).manifest(&reference(&self.registry, "a:1")).map(drop)
    }
}

#[test]
fn a_loopback_registry_speaks_https_with_any_certificate() {
    Lab::new(false).pull().unwrap();
}

#[test]
fn an_authority_in_certs_d_is_trusted_and_another_is_not() {
    let lab = Lab::new(false);
    lab.put("ca.crt", &lab.authority.certificate());
    lab.pull().unwrap();
    lab.put("ca.crt", &Authority::new().certificate());
    let error = lab.pull().unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(text(&error).contains("cannot trust"), "{}", text(&error));
    assert_eq!(
        error.hint(),
        Some(
            format!(
                "put the authority's certificate into `/etc/robot-env/certs.d/{}/ca.crt`",
                lab.registry.host()
            )
            .as_str()
        )
    );
}

#[test]
fn a_client_certificate_is_shown_where_one_is_wanted() {
    let lab = Lab::new(true);
    assert!(lab.pull().is_err());
    let (certificate, key) = lab.authority.client("robot");
    lab.put("ca.crt", &lab.authority.certificate());
    lab.put("client.cert", &certificate);
    lab.put("client.key", &key);
    lab.pull().unwrap();
}

#[test]
fn bad_files_in_certs_d_are_named() {
    for (name, content) in [("ca.crt", "no certificate"), ("client.key", "alone"), ("client.cert", "alone")] {
        let lab = Lab::new(false);
        lab.put(name, content);
        let error = lab.pull().unwrap_err();
        assert!(text(&error).contains(name.split('.').next().unwrap()), "{}", text(&error));
    }
    // A key that is not the certificate's is noticed before the connection.
    let lab = Lab::new(false);
    let (certificate, _) = lab.authority.client("robot");
    let (_, key) = lab.authority.client("robot");
    lab.put("client.cert", &certificate);
    lab.put("client.key", &key);
    let error = lab.pull().unwrap_err();
    assert!(text(&error).contains("client.cert"), "{}", text(&error));
}

#[test]
fn a_redirect_from_https_to_plain_http_is_refused() {
    let lab = Lab::new(false);
    lab.put("ca.crt", &lab.authority.certificate());
    lab.registry.fault(Fault::always("/manifests/", Effect::Redirect("http://registry.example".into())));
    let error = lab.pull().unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(text(&error).contains("plain http"), "{}", text(&error));
}

#[test]
fn a_plain_token_service_of_an_https_registry_gets_nothing() {
    let lab = Lab::new(false);
    lab.registry.fault(Fault::always(
        "/manifests/",
        Effect::Challenge("Bearer realm=\"http://auth.example/token\"".into()),
    ));
    let error = lab.pull().unwrap_err();
    assert!(text(&error).contains("plain http"), "{}", text(&error));
}

#[test]
fn a_mirror_over_https_is_checked() {
    let lab = Lab::new(false);
    let upstream = TestRegistry::start();
    upstream.put_image("a", "1", &small());
    lab.put("ca.crt", &Authority::new().certificate());
    let mut options = lab.options();
    options
        .registries
        .insert(upstream.host(), RegistrySettings { mirrors: vec![lab.registry.url()], insecure: false });
    let served = Client::new(options).manifest(&reference(&upstream, "a:1")).unwrap();
    assert_eq!(served.host, upstream.host());
    lab.put("ca.crt", &lab.authority.certificate());
    let mut options = lab.options();
    options
        .registries
        .insert(upstream.host(), RegistrySettings { mirrors: vec![lab.registry.url()], insecure: false });
    assert_eq!(
        Client::new(options).manifest(&reference(&upstream, "a:1")).unwrap().host,
        lab.registry.host()
    );
}
