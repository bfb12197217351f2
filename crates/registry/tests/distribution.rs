//! The same against the distribution project's own registry (Debian's `docker-registry`), with a
//! password file; skipped with a word where the program is not installed.

mod setup;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use robot_env_diag::Kind;
use robot_env_registry::{Client, Expected, VerifyingReader};
use robot_env_testkit::image::{Entry, Format, ImageBuilder};
use robot_env_testkit::temporary::TemporaryDirectory;
use setup::*;

/// `rob:secret`, as `htpasswd -B` writes it.
const PASSWORDS: &str = "rob:$2b$05$GAePQpdZWYBZJND.yqEgkukZ1uhpmPqaIboUVb90IWWMQ7nCMWrhW\n";

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(directory: &TemporaryDirectory) -> Option<(Running, String)> {
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let host = format!("127.0.0.1:{port}");
    let (data, passwords, config) =
        (directory.join("data"), directory.join("htpasswd"), directory.join("config.yml"));
    std::fs::write(&passwords, PASSWORDS).unwrap();
    let text = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\nauth:\n  htpasswd:\n    realm: test\n    path: {}\n",
        data.display(),
        passwords.display()
    );
    std::fs::write(&config, text).unwrap();
    let child = Command::new("docker-registry")
        .arg("serve")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let child = match child {
        Ok(child) => Running(child),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
        Err(e) => panic!("cannot start docker-registry: {e}"),
    };
    let end = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(&host).is_err() {
        assert!(Instant::now() < end, "docker-registry does not listen");
        std::thread::sleep(Duration::from_millis(50));
    }
    Some((child, host))
}

#[test]
#[allow(clippy::print_stderr)] // a skip says why
fn images_go_to_the_distribution_registry_and_come_back() {
    let directory = TemporaryDirectory::new("distribution");
    let Some((_running, host)) = start(&directory) else {
        eprintln!("skipped: no program `docker-registry` is installed");
        return;
    };
    let options = options_in(&directory);
    let client = Client::new(options.clone());
    let here: robot_env_oci::Repository = format!("{host}/lab/a").parse().unwrap();

    assert_eq!(client.tags(&here).unwrap_err().kind(), Kind::Unauthorized);
    assert_eq!(client.login(&host, "rob", "wrong").unwrap_err().kind(), Kind::Unauthorized);
    client.login(&host, "rob", "secret").unwrap();
    // A new client reads what login has stored.
    let client = Client::new(options);
    for (tag, format) in [("oci", Format::Oci), ("docker", Format::Docker)] {
        let image = ImageBuilder::new()
            .format(format)
            .layer(&[Entry::file("big", content(3_000_000))])
            .layer(&[Entry::file("x", tag)])
            .build();
        for (n, bytes) in image.layers.iter().map(|l| &l.blob).chain([&image.config]).enumerate() {
            // Known and unknown sizes: one body with a length, one in chunks.
            let expected = if n == 0 {
                Expected { size: Some(bytes.len() as u64), digest: None }
            } else {
                Expected::default()
            };
            client.push_blob(&here, &expected, &mut || Ok(Box::new(&bytes[..])), &mut |_| {}).unwrap();
        }
        let name: robot_env_oci::Reference = format!("{host}/lab/a:{tag}").parse().unwrap();
        assert_eq!(client.push_manifest(&name, &image.media_type, &image.manifest).unwrap(), image.digest());
        assert_eq!(client.resolve(&name).unwrap().value.digest, image.digest());
        let pulled = client.image(&name, None).unwrap();
        assert_eq!(
            (pulled.manifest.bytes(), pulled.config.bytes()),
            (&image.manifest[..], &image.config[..])
        );
        let layer = &pulled.manifest.value().layers[0];
        let mut reader = VerifyingReader::new(client.blob(&here, layer, 0).unwrap(), layer.digest.clone());
        assert_eq!(std::io::copy(&mut reader, &mut std::io::sink()).unwrap(), layer.size);
        assert_eq!(
            read(client.blob(&here, layer, 1_000_000).unwrap()).unwrap(),
            image.layers[0].blob[1_000_000..]
        );
        let other: robot_env_oci::Repository = format!("{host}/lab/{tag}").parse().unwrap();
        assert!(client.mount_blob(&other, &layer.digest, &here).unwrap());
        assert!(client.blob_exists(&other, &layer.digest).unwrap());
    }
    // It lists them in the order of its directory.
    let mut tags = client.tags(&here).unwrap();
    tags.sort();
    assert_eq!(tags, ["docker", "oci"]);
    assert!(client.logout(&host).unwrap());
}
