//! A request through a proxy.

mod setup;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use robot_env_registry::{Client, Proxies, RegistrySettings};
use robot_env_testkit::image::small;
use robot_env_testkit::registry::TestRegistry;
use setup::*;

/// A proxy that knows one host: every tunnel ends at `target`. Gives its URL and what it was asked.
fn proxy(target: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://rob:pass@{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (target, log) = (target.clone(), Arc::clone(&log));
            std::thread::spawn(move || {
                let mut reader = BufReader::new(client.try_clone().unwrap());
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|n| n > 0) {}
                log.lock().unwrap().push(head);
                let mut client = client;
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                let mut server = TcpStream::connect(target).unwrap();
                let mut back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut back.0, &mut back.1);
                    let _ = back.1.shutdown(std::net::Shutdown::Both);
                });
                let _ = std::io::copy(&mut reader, &mut server);
                let _ = server.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    (url, asked)
}

#[test]
fn requests_take_the_proxy_but_not_to_loopback() {
    let registry = TestRegistry::start();
    registry.put_image("a", "1", &small());
    let (url, asked) = proxy(registry.host());
    let mut options = options();
    options.registries.insert(
        "lab.invalid:5000".into(),
        RegistrySettings { insecure: true, ..RegistrySettings::default() },
    );
    options.proxies = Proxies { http: Some(url.clone()), https: Some(url), none: String::new() };
    let name: robot_env_oci::Reference = "lab.invalid:5000/a:1".parse().unwrap();
    let served = Client::new(options.clone()).manifest(&name).unwrap();
    assert_eq!(served.value.digest(), &small().digest());
    let heads = asked.lock().unwrap().clone();
    assert!(heads.iter().all(|head| head.starts_with("CONNECT lab.invalid:5000 ")), "{heads:?}");
    assert!(heads.iter().all(|head| head.contains("Proxy-Authorization: Basic cm9iOnBhc3M=")), "{heads:?}");
    // Loopback takes none. (What else is excepted would look names up; see the table beside the code.)
    asked.lock().unwrap().clear();
    Client::new(options).manifest(&reference(&registry, "a:1")).unwrap();
    assert!(asked.lock().unwrap().is_empty());
}
