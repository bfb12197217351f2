//! Searching for images, as Docker Hub and registries like it offer it: `GET /v1/search`.

use std::io::Read;

use robot_env_diag::{Error, IoContext, Kind, Result};
use serde::Deserialize;

use crate::Client;

/// Where images are searched for whose name has no registry.
const HUB: &str = "index.docker.io";
/// The most bytes of an answer.
const LIMIT: u64 = 4 << 20;

/// An image that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name, with the registry where it is not Docker Hub.
    pub name: String,
    /// What its owner says of it.
    pub description: String,
    /// How many users like it.
    pub stars: u64,
    /// Whether it is one of the registry's own.
    pub official: bool,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    results: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    star_count: u64,
    #[serde(default)]
    is_official: bool,
}

impl Client {
    /// Images whose names or descriptions have `term`, at most `limit`. A term like `host:5000/name`
    /// asks that registry, any other Docker Hub.
    ///
    /// # Errors
    /// `Unsupported` when the registry does not offer it (few do), and those of [`Client::download`].
    pub fn search(&self, term: &str, limit: usize) -> Result<Vec<Found>> {
        let (registry, words) = split(term);
        let insecure = registry.is_some_and(|registry| self.options().is_insecure(registry));
        let scheme = if insecure { "http" } else { "https" };
        let host = registry.unwrap_or(HUB);
        let words: String = words.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let address = format!("{scheme}://{host}/v1/search?q={words}&n={limit}");
        let answer = match self.download(&address) {
            Err(error) if error.kind() == Kind::NotFound => {
                return Err(Error::new(Kind::Unsupported, format!("registry `{host}` offers no search")));
            }
            answer => answer?,
        };
        let within = || format!("cannot read what `{host}` has found");
        let mut bytes = Vec::new();
        answer.take(LIMIT).read_to_end(&mut bytes).io_context(within)?;
        let answer: Answer = serde_json::from_slice(&bytes)
            .map_err(|error| Error::new(Kind::Unavailable, within()).because(error))?;
        let found = answer.results.into_iter().take(limit).map(|item| Found {
            name: match registry {
                Some(registry) => format!("{registry}/{}", item.name),
                None => item.name,
            },
            description: item.description.unwrap_or_default(),
            stars: item.star_count,
            official: item.is_official,
        });
        Ok(found.collect())
    }
}

/// A term's registry, by the rule of image names, and the rest.
fn split(term: &str) -> (Option<&str>, &str) {
    match term.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => {
            (Some(host).filter(|host| !matches!(*host, "docker.io" | "index.docker.io")), rest)
        }
        _ => (None, term),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;
    use crate::ClientOptions;

    #[test]
    fn terms_may_name_a_registry() {
        for (term, want) in [
            ("ros", (None, "ros")),
            ("lab/ros", (None, "lab/ros")),
            ("docker.io/ros", (None, "ros")),
            ("lab:5000/a/b", (Some("lab:5000"), "a/b")),
            ("localhost/a", (Some("localhost"), "a")),
        ] {
            assert_eq!(split(term), want, "{term}");
        }
    }

    #[test]
    fn a_registry_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let body = r#"{"num_results":2,"results":[{"name":"a/b","description":null,"star_count":3,"is_official":true},{"name":"c"}]}"#;
        let server = std::thread::spawn(move || {
            let mut heads = Vec::new();
            for answer in [
                format!("200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
                "404 Not Found\r\nContent-Length: 0\r\n\r\n".into(),
            ] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    head.push(byte[0]);
                }
                heads.push(String::from_utf8(head).unwrap());
                stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).unwrap();
            }
            heads
        });
        let client = Client::new(ClientOptions { docker_config: None, ..ClientOptions::default() });
        let found = client.search(&format!("{host}/x&y"), 1).unwrap();
        assert_eq!(
            found,
            [Found { name: format!("{host}/a/b"), description: String::new(), stars: 3, official: true }]
        );
        let client = Client::new(ClientOptions { docker_config: None, ..ClientOptions::default() });
        assert_eq!(client.search(&format!("{host}/x"), 5).unwrap_err().kind(), Kind::Unsupported);
        let heads = server.join().unwrap();
        assert!(heads[0].starts_with("GET /v1/search?q=%78%26%79&n=1 HTTP/1.1"), "{}", heads[0]);
    }
}
