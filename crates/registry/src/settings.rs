//! What the configuration says of registries. What cannot be understood becomes a warning with its
//! place and is left out; the rest counts.

use std::path::Path;

use robot_env_config::{Configuration, Finding, Said};
use robot_env_diag::{Context as _, Error, Kind, Result};

use crate::address::{Origin, Scheme};
use crate::mirror::Mirror;
use crate::options::{ClientOptions, Network};

/// Like [`robot_env_config::read_bytes`], for a text.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<Option<String>> {
    let what = || format!("cannot read file `{}`", path.display());
    robot_env_config::read_bytes(path, limit)?
        .map(|bytes| String::from_utf8(bytes).context(Kind::InvalidInput, what))
        .transpose()
}

fn is_authority(text: &str) -> bool {
    !text.contains('/') && Origin::new(Scheme::Https, text).is_some()
}

/// Takes what the configuration says of mirrors, insecure registries and proxies.
pub(crate) fn apply(configuration: &Configuration, options: &mut ClientOptions, warnings: &mut Vec<Error>) {
    let mut warn = |said: &Said, message: String| {
        warnings.push(Finding::warning(&said.file, said.at, message).to_error());
    };
    for section in configuration.registries() {
        if !is_authority(&section.name) {
            if let Some(said) = &section.said {
                warn(said, format!("`{}` is not a registry's `host` or `host:port`", section.name));
            }
            continue;
        }
        let settings = options.registries.entry(section.name).or_default();
        if let Some(mirrors) = section.mirrors {
            settings.mirrors.clear();
            for (text, said) in mirrors {
                if Mirror::parse(&text).is_some() {
                    settings.mirrors.push(text);
                } else {
                    warn(&said, format!("`{text}` is not a mirror's `host[:port]` or URL"));
                }
            }
        }
        settings.insecure = section.insecure.unwrap_or(settings.insecure);
    }
    for (text, said) in configuration.texts("insecure-registries") {
        let authority =
            text.trim_start_matches("http://").trim_start_matches("https://").trim_end_matches('/');
        if let Ok(network) = text.parse::<Network>() {
            options.insecure_networks.push(network);
        } else if is_authority(authority) {
            options.registries.entry(authority.to_owned()).or_default().insecure = true;
        } else {
            warn(&said, format!("`{text}` is neither a host nor a network"));
        }
    }
    let proxy = |name: &str| configuration.proxy(name).map(str::to_owned);
    // As with Docker, the file counts before the environment.
    options.proxies.http = proxy("http-proxy").or(options.proxies.http.take());
    options.proxies.https = proxy("https-proxy").or(options.proxies.https.take());
    options.proxies.none = proxy("no-proxy").unwrap_or_else(|| std::mem::take(&mut options.proxies.none));
}

#[cfg(test)]
mod tests {
    use super::*;
    use robot_env_config::Source;

    fn read(name: &str, text: &str) -> (ClientOptions, Vec<String>) {
        let source = Source { path: Path::new("/x").join(name), own: false };
        let (mut options, mut warnings) = (ClientOptions::default(), Vec::new());
        apply(&Configuration::of_text(&source, text), &mut options, &mut warnings);
        (options, warnings.iter().map(|warning| warning.message().to_owned()).collect())
    }

    #[test]
    fn registries_of_config_toml() {
        let (options, warnings) = read(
            "config.toml",
            "registry-mirrors = ['https://old']\n[registry.\"docker.io\"]\nmirrors = [\"https://m.example\", \"10.0.0.2:5000\"]\n[registry.\"10.0.0.2:5000\"]\ninsecure = true\n",
        );
        assert_eq!(warnings, [""; 0]);
        assert_eq!(options.registries["docker.io"].mirrors, ["https://m.example", "10.0.0.2:5000"]);
        assert!(options.is_insecure("10.0.0.2:5000"));
    }

    #[test]
    fn what_is_no_registry_is_a_warning_with_its_place() {
        let (options, warnings) = read(
            "config.toml",
            "[registry.\"a\"]\nmirrors = [\"ftp://x\", \"good\"]\n[registry.\"b/c\"]\ninsecure = true\n",
        );
        assert_eq!(
            warnings,
            [
                "/x/config.toml:2:12: `ftp://x` is not a mirror's `host[:port]` or URL",
                "/x/config.toml:3:11: `b/c` is not a registry's `host` or `host:port`"
            ]
        );
        assert_eq!(options.registries["a"].mirrors, ["good"]);
    }

    #[test]
    fn daemon_json() {
        let (options, warnings) = read(
            "daemon.json",
            r#"{"registry-mirrors":["https://m.example/", "not a url"],"insecure-registries":["lab:5000","10.0.0.0/8","http://x"],
                "proxies": {"https-proxy": "http://p:3128"}}"#,
        );
        assert_eq!(options.registries["docker.io"].mirrors, ["https://m.example/"]);
        assert!(
            options.is_insecure("lab:5000")
                && options.is_insecure("10.1.1.1:5000")
                && options.is_insecure("x")
        );
        assert_eq!(options.proxies.https.as_deref(), Some("http://p:3128"));
        assert_eq!(warnings, ["/x/daemon.json:1:44: `not a url` is not a mirror's `host[:port]` or URL"]);
    }
}
