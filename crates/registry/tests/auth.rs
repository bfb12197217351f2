//! Passwords, tokens, login and logout; and that credentials stay where they belong.

mod setup;

use std::os::unix::fs::PermissionsExt as _;

use robot_env_diag::Kind;
use robot_env_registry::{Client, Expected, Stored};
use robot_env_testkit::image::small;
use robot_env_testkit::registry::{Auth, Effect, Fault, RegistryOptions, TestRegistry};
use robot_env_testkit::temporary::TemporaryDirectory;
use setup::*;

fn registry_with(auth: Auth) -> TestRegistry {
    let registry = TestRegistry::with(RegistryOptions { auth, ..RegistryOptions::default() });
    registry.put_image("lab/a", "1", &small());
    registry
}

fn basic() -> Auth {
    Auth::Basic { username: "rob".into(), password: "secret".into() }
}

#[test]
fn passwords_and_tokens_open_the_registry() {
    for auth in [basic(), bearer()] {
        let (registry, directory) = (registry_with(auth), TemporaryDirectory::new("auth"));
        let options = options_in(&directory);
        let name = reference(&registry, "lab/a:1");
        let error = Client::new(options.clone()).image(&name, None).unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthorized);
        assert_eq!(error.hint(), Some(format!("log in with `robot-env login {}`", registry.host()).as_str()));
        write_credentials(&options, &registry.host(), password("rob", "secret"));
        assert!(Client::new(options.clone()).image(&name, None).is_ok());
        write_credentials(&options, &registry.host(), password("rob", "wrong"));
        let error = Client::new(options).image(&name, None).unwrap_err();
        assert_eq!((error.kind(), error.hint()), (Kind::Unauthorized, None), "{}", text(&error));
        assert!(!text(&error).contains("wrong"));
    }
}

#[test]
fn a_token_is_asked_for_once_even_by_many_threads() {
    let (registry, directory) = (registry_with(bearer()), TemporaryDirectory::new("auth"));
    let options = options_in(&directory);
    write_credentials(&options, &registry.host(), password("rob", "secret"));
    let client = Client::new(options);
    let blob = descriptor(&registry.put_blob("lab/a", b"x"), 1);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                assert_eq!(
                    read(client.blob(&repository(&registry, "lab/a"), &blob, 0).unwrap()).unwrap(),
                    b"x"
                );
            });
        }
    });
    assert_eq!(registry.count("GET", "/token"), 1);
    let asked = registry.log().into_iter().find(|l| l.path == "/token").unwrap();
    assert!(
        asked.query.contains("service=test") && asked.query.contains("scope=repository%3Alab%2Fa%3Apull"),
        "{}",
        asked.query
    );
    // A revoked token is replaced by a new one.
    registry.revoke_tokens();
    assert!(client.blob(&repository(&registry, "lab/a"), &blob, 0).is_ok());
    assert_eq!(registry.count("GET", "/token"), 2);
}

#[test]
fn a_token_that_ran_out_is_not_sent() {
    let auth = Auth::Bearer {
        username: "rob".into(),
        password: "secret".into(),
        anonymous_pull: true,
        expires_in: 2,
        realm: None,
    };
    let registry = registry_with(auth);
    let client = client();
    client.manifest(&reference(&registry, "lab/a:1")).unwrap();
    client.manifest(&reference(&registry, "lab/a:1")).unwrap();
    assert_eq!(registry.count("GET", "/token"), 1);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    client.manifest(&reference(&registry, "lab/a:1")).unwrap();
    assert_eq!(registry.count("GET", "/token"), 2);
}

#[test]
fn anybody_may_pull_where_the_service_lets_them() {
    let auth = Auth::Bearer {
        username: "rob".into(),
        password: "secret".into(),
        anonymous_pull: true,
        expires_in: 60,
        realm: None,
    };
    let registry = registry_with(auth);
    assert!(client().image(&reference(&registry, "lab/a:1"), None).is_ok());
    let error = client()
        .push_manifest(&reference(&registry, "lab/a:2"), &small().media_type, &small().manifest)
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
}

#[test]
fn login_checks_stores_and_logout_forgets() {
    for (auth, identity_token) in [(basic(), false), (bearer(), true), (Auth::Open, false)] {
        let (registry, directory) = (registry_with(auth.clone()), TemporaryDirectory::new("auth"));
        let options = options_in(&directory);
        std::fs::write(config_file(&options), r#"{"HttpHeaders":{"X":"y"}}"#).unwrap();
        let client = Client::new(options.clone());
        if !matches!(auth, Auth::Open) {
            let error = client.login(&registry.host(), "rob", "wrong-word").unwrap_err();
            assert_eq!(error.kind(), Kind::Unauthorized, "{}", text(&error));
            assert!(!text(&error).contains("wrong-word"));
            assert!(!std::fs::read_to_string(config_file(&options)).unwrap().contains("auths"));
        }
        let login = client.login(&format!("http://{}/v2/", registry.host()), "rob", "secret").unwrap();
        assert_eq!(login.stored, Stored::Unencrypted(config_file(&options)));
        assert_eq!(login.identity_token, identity_token);
        let text = std::fs::read_to_string(config_file(&options)).unwrap();
        assert!(text.contains("HttpHeaders") && text.contains("auths") && !text.contains("secret"));
        assert_eq!(std::fs::metadata(config_file(&options)).unwrap().permissions().mode() & 0o777, 0o600);
        registry.forget_log();
        assert!(Client::new(options.clone()).image(&reference(&registry, "lab/a:1"), None).is_ok());
        // An identity token is used by the OAuth2 grant, and the password is not known any more.
        assert_eq!(registry.count("POST", "/token") > 0, identity_token);
        assert!(client.logout(&registry.host()).unwrap());
        assert!(!client.logout(&registry.host()).unwrap());
        if !matches!(auth, Auth::Open) {
            assert_eq!(
                Client::new(options).image(&reference(&registry, "lab/a:1"), None).unwrap_err().kind(),
                Kind::Unauthorized
            );
        }
    }
}

#[test]
fn a_refused_identity_token_is_an_error() {
    let (registry, directory) = (registry_with(bearer()), TemporaryDirectory::new("auth"));
    let options = options_in(&directory);
    write_credentials(&options, &registry.host(), serde_json::json!({"identitytoken": "stale"}));
    let error = Client::new(options).image(&reference(&registry, "lab/a:1"), None).unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert!(!text(&error).contains("stale"));
}

#[test]
fn credentials_stay_behind_at_a_redirect_to_another_port() {
    for auth in [basic(), bearer()] {
        let (registry, directory) = (registry_with(auth), TemporaryDirectory::new("auth"));
        let options = options_in(&directory);
        write_credentials(&options, &registry.host(), password("rob", "secret"));
        let bytes = content(1000);
        let blob = descriptor(&registry.put_blob("lab/a", &bytes), 1000);
        let elsewhere = TestRegistry::start();
        elsewhere.put_blob("lab/a", &bytes);
        registry.fault(Fault::always("/blobs/", Effect::Redirect(elsewhere.url())));
        let client = Client::new(options);
        client.manifest(&reference(&registry, "lab/a:1")).unwrap();
        assert_eq!(read(client.blob(&repository(&registry, "lab/a"), &blob, 0).unwrap()).unwrap(), bytes);
        assert!(registry.log().last().unwrap().header("authorization").is_some());
        assert!(!elsewhere.log().is_empty());
        assert!(elsewhere.log().iter().all(|l| l.header("authorization").is_none()));
    }
}

#[test]
fn a_challenge_from_elsewhere_gets_no_credentials() {
    // The blob lies on another host, and that one asks for a password.
    let (registry, directory) = (registry_with(basic()), TemporaryDirectory::new("auth"));
    let options = options_in(&directory);
    write_credentials(&options, &registry.host(), password("rob", "secret"));
    let thief = registry_with(basic());
    let blob = descriptor(&registry.put_blob("lab/a", b"x"), 1);
    registry.fault(Fault::always("/blobs/", Effect::Redirect(thief.url())));
    let error = Client::new(options).blob(&repository(&registry, "lab/a"), &blob, 0).unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert!(thief.log().iter().all(|l| l.header("authorization").is_none()));
}

#[test]
fn an_upload_elsewhere_gets_no_credentials() {
    let (registry, directory) = (registry_with(basic()), TemporaryDirectory::new("auth"));
    let options = options_in(&directory);
    write_credentials(&options, &registry.host(), password("rob", "secret"));
    let elsewhere = TestRegistry::start();
    registry.fault(Fault::always("/uploads/", Effect::LocationPrefix(elsewhere.url())).for_method("POST"));
    let pushed = Client::new(options).push_blob(
        &repository(&registry, "lab/a"),
        &Expected::default(),
        &mut || Ok(Box::new(&b"x"[..])),
        &mut |_| {},
    );
    assert_eq!(pushed.unwrap_err().kind(), Kind::NotFound);
    assert!(elsewhere.log().iter().any(|l| l.method == "PATCH"));
    assert!(elsewhere.log().iter().all(|l| l.header("authorization").is_none()));
}

#[test]
fn a_realm_that_is_no_http_url_is_refused() {
    let (registry, directory) = (registry_with(basic()), TemporaryDirectory::new("auth"));
    let options = options_in(&directory);
    write_credentials(&options, &registry.host(), password("rob", "secret"));
    for realm in
        ["file:///etc/passwd", "ftp://127.0.0.1/", "127.0.0.1/token", "", "http://user:pw@127.0.0.1/"]
    {
        registry.mend();
        registry.fault(Fault::always(
            "/manifests/",
            Effect::Challenge(format!("Bearer realm=\"{realm}\",service=\"x\"")),
        ));
        let error = Client::new(options.clone()).manifest(&reference(&registry, "lab/a:1")).unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthorized, "{realm}");
    }
    for challenge in ["Negotiate", "", "Bearer", "Digest realm=\"x\""] {
        registry.mend();
        registry.fault(Fault::always("/manifests/", Effect::Challenge(challenge.into())));
        assert_eq!(
            Client::new(options.clone()).manifest(&reference(&registry, "lab/a:1")).unwrap_err().kind(),
            Kind::Unauthorized,
            "{challenge}"
        );
    }
}

#[test]
fn a_token_service_that_fails_is_asked_again_and_named() {
    let (registry, directory) = (registry_with(bearer()), TemporaryDirectory::new("auth"));
    let options = options_in(&directory);
    write_credentials(&options, &registry.host(), password("rob", "secret"));
    registry.fault(Fault::times("/token", 2, Effect::Status(503, None)));
    assert!(Client::new(options.clone()).manifest(&reference(&registry, "lab/a:1")).is_ok());
    for (body, want) in [
        ("{", "malformed"),
        ("{}", "neither"),
        (r#"{"token":7}"#, "malformed"),
        (r#"{"token":"a\nb"}"#, "header"),
    ] {
        registry.mend();
        registry.fault(Fault::always("/token", Effect::Answer("application/json".into(), body.into())));
        let error = Client::new(options.clone()).manifest(&reference(&registry, "lab/a:1")).unwrap_err();
        assert!(text(&error).contains(want), "{}", text(&error));
    }
}

#[test]
fn a_malformed_config_file_is_an_error_that_names_it() {
    let (registry, directory) = (registry_with(basic()), TemporaryDirectory::new("auth"));
    let options = options_in(&directory);
    std::fs::write(config_file(&options), "{").unwrap();
    let error = Client::new(options.clone()).manifest(&reference(&registry, "lab/a:1")).unwrap_err();
    assert!(text(&error).contains(config_file(&options).to_str().unwrap()), "{}", text(&error));
}
