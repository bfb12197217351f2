//! What the files say together.

use std::path::{Path, PathBuf};

use crate::finding::{Finding, nearest};
use crate::key::{KEYS, Key, Meaning, Shape};
use crate::ranges;
use crate::source::{Format, Source, Sources, read_text};
use crate::value::{Data, Entry, Position, Value};

/// Where something was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The file.
    pub file: PathBuf,
    /// The place in it.
    pub at: Position,
}

/// A value of a key, and where it was said.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The key and, in a section whose entries count one by one, the entry's: `runtimes` `nvidia`.
    pub path: Vec<String>,
    /// What was said.
    pub value: Value,
    /// Where.
    pub said: Said,
    /// Whether the file is the user's own.
    pub own: bool,
    /// Whether the file is Docker's.
    pub docker: bool,
}

/// A runtime of `runtimes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// The program, by path or by name.
    pub path: String,
    /// Its arguments before the command.
    pub arguments: Vec<String>,
}

/// What is said of a registry.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RegistrySection {
    /// `host[:port]`.
    pub name: String,
    /// Where the name stands.
    pub said: Option<Said>,
    /// The mirrors, each with its place; `None` where nothing is said.
    pub mirrors: Option<Vec<(String, Said)>>,
    /// Whether it is insecure.
    pub insecure: Option<bool>,
}

/// What the files say together: for each key the last file that says something right.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Configuration {
    settings: Vec<Setting>,
    /// What was left out, and why, in the files' order.
    pub findings: Vec<Finding>,
    /// The files that were read.
    pub files: Vec<PathBuf>,
}

/// The sections whose entries count one by one.
fn is_open(shape: Shape) -> bool {
    matches!(shape, Shape::Runtimes | Shape::Limits | Shape::Proxies | Shape::Registries)
}

impl Configuration {
    /// Reads the files that are there. Nothing stops it: what is wrong is in
    /// [`Configuration::findings`].
    pub fn read(sources: &Sources) -> Configuration {
        let mut configuration = Configuration::default();
        for source in &sources.files {
            match read_text(&source.path) {
                Ok(Some(text)) => {
                    configuration.files.push(source.path.clone());
                    configuration.add(source, &text, sources.rootless);
                }
                Ok(None) => {}
                Err(error) => {
                    let why = error.causes().into_iter().next().unwrap_or_else(|| error.to_string());
                    let finding = Finding::of_file(&source.path, format!("cannot read it: {why}"));
                    configuration.findings.push(finding);
                }
            }
        }
        configuration
    }

    /// What one text says.
    pub fn of_text(source: &Source, text: &str) -> Configuration {
        let mut configuration = Configuration { files: vec![source.path.clone()], ..Self::default() };
        configuration.add(source, text, false);
        configuration
    }

    fn add(&mut self, source: &Source, text: &str, rootless: bool) {
        let file = &source.path;
        let format = Format::of(file);
        // Docker takes an empty file for an empty object.
        if text.trim().is_empty() {
            return;
        }
        let document = match format.parse(file, text) {
            Ok(document) => document,
            Err(findings) => return self.findings.extend(findings),
        };
        let Some(entries) = document.entries() else {
            let message = format!("the file must be an object, not {}", document.kind());
            return self.findings.push(Finding::warning(file, document.at, message));
        };
        for entry in entries {
            self.add_entry(source, format, entry, rootless);
        }
    }

    fn add_entry(&mut self, source: &Source, format: Format, entry: &Entry, rootless: bool) {
        let file = &source.path;
        let docker = format == Format::Json;
        let known = Key::find(&entry.key).filter(|key| !(docker && key.meaning == Meaning::OurOwn));
        let Some(key) = known else {
            let names = KEYS.iter().filter(|key| !(docker && key.meaning == Meaning::OurOwn));
            let mut finding = Finding::warning(file, entry.at, format!("unknown key `{}`", entry.key));
            if let Some(near) = nearest(&entry.key, names.map(|key| key.name)) {
                finding = finding.with_hint(format!("did you mean `{near}`?"));
            }
            return self.findings.push(finding);
        };
        if let Meaning::None(why) = key.meaning {
            let message = format!("`{}` has no effect: {why}", entry.key);
            return self.findings.push(Finding::warning(file, entry.at, message).as_note());
        }
        // Docker leaves out what is null.
        if entry.value.data == Data::Null {
            return;
        }
        // Where root's engine keeps its data, an ordinary user's cannot write.
        if rootless && !source.own && matches!(key.name, "data-root" | "cgroup-parent") {
            return;
        }
        let setting = |path: Vec<String>, at: Position, value: &Value| Setting {
            path,
            value: value.clone(),
            said: Said { file: file.clone(), at },
            own: source.own,
            docker,
        };
        if let (true, Some(parts)) = (is_open(key.shape), entry.value.entries()) {
            for part in parts {
                let one = Value { at: entry.value.at, data: Data::Table(vec![part.clone()]) };
                if self.refuse(file, key, &entry.key, &one) {
                    continue;
                }
                let path = vec![entry.key.clone(), part.key.clone()];
                self.set(setting(path, part.at, &part.value));
            }
        } else if !self.refuse(file, key, &entry.key, &entry.value) {
            self.set(setting(vec![entry.key.clone()], entry.at, &entry.value));
        }
    }

    /// Notes what is wrong with a value; whether anything is.
    fn refuse(&mut self, file: &Path, key: &Key, name: &str, value: &Value) -> bool {
        let wrong = key.shape.check(name, value);
        let any = !wrong.is_empty();
        self.findings.extend(wrong.into_iter().map(|(at, message)| Finding::warning(file, at, message)));
        any
    }

    fn set(&mut self, setting: Setting) {
        match self.settings.iter_mut().find(|known| known.path == setting.path) {
            // Mirrors and insecurity of a registry count one by one.
            Some(known) if setting.path[0] == "registry" => {
                let mut parts = known.value.entries().unwrap_or_default().to_vec();
                let new = setting.value.entries().unwrap_or_default();
                parts.retain(|part| new.iter().all(|other| other.key != part.key));
                parts.extend_from_slice(new);
                *known =
                    Setting { value: Value { at: setting.value.at, data: Data::Table(parts) }, ..setting };
            }
            Some(known) => *known = setting,
            None => self.settings.push(setting),
        }
    }

    /// Everything that was said and is in force, in the order it was first said.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// The setting of a plain key.
    pub fn setting(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.path.len() == 1 && setting.path[0] == key)
    }

    fn section<'a>(&'a self, key: &'a str) -> impl Iterator<Item = (&'a str, &'a Setting)> {
        self.settings.iter().filter_map(move |setting| match setting.path.as_slice() {
            [first, name] if first == key => Some((name.as_str(), setting)),
            _ => None,
        })
    }

    /// A key's text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.setting(key)?.value.text()
    }

    /// A key's truth value.
    pub fn truth(&self, key: &str) -> Option<bool> {
        self.setting(key)?.value.truth()
    }

    /// A key's list of texts, each with its place; empty where nothing is said.
    pub fn texts(&self, key: &str) -> Vec<(&str, Said)> {
        let Some(setting) = self.setting(key) else { return Vec::new() };
        let items = setting.value.items().unwrap_or_default();
        let said = |item: &Value| Said { file: setting.said.file.clone(), at: item.at };
        items.iter().filter_map(|item| Some((item.text()?, said(item)))).collect()
    }

    /// A key's bytes.
    pub fn bytes(&self, key: &str) -> Option<u64> {
        ranges::bytes(&self.setting(key)?.value)
    }

    /// A key's whole number.
    pub fn number(&self, key: &str) -> Option<i64> {
        self.setting(key)?.value.integer()
    }

    /// `default-address-pools`: ranges, and the size of what is cut from each.
    pub fn pools(&self) -> Vec<(String, u8)> {
        let items = self.setting("default-address-pools").and_then(|setting| setting.value.items());
        let read = |item: &Value| {
            let size = item.get("size").and_then(Value::integer)?;
            Some((item.get("base")?.text()?.to_owned(), u8::try_from(size).ok()?))
        };
        items.unwrap_or_default().iter().filter_map(read).collect()
    }

    /// `default-network-opts` of a driver.
    pub fn options_of_networks(&self, driver: &str) -> Vec<(String, String)> {
        let all = self.setting("default-network-opts").and_then(|setting| setting.value.get(driver));
        let entries = all.and_then(Value::entries).unwrap_or_default();
        entries.iter().filter_map(|entry| Some((entry.key.clone(), scalar(&entry.value)?))).collect()
    }

    /// A key's time.
    pub fn time(&self, key: &str) -> Option<std::time::Duration> {
        ranges::duration(&self.setting(key)?.value)
    }

    /// A key's section of texts; numbers and truth values as they were written.
    pub fn map(&self, key: &str) -> Vec<(String, String)> {
        let entries = self.setting(key).and_then(|setting| setting.value.entries()).unwrap_or_default();
        entries.iter().filter_map(|entry| Some((entry.key.clone(), scalar(&entry.value)?))).collect()
    }

    /// `data-root`: what is said in Docker's file means a directory of our own below Docker's. An
    /// ordinary user's engine asks for what the user's own files say.
    pub fn data_root(&self, rootless: bool) -> Option<PathBuf> {
        let setting = self.setting("data-root").filter(|setting| setting.own || !rootless)?;
        let path = PathBuf::from(setting.value.text()?);
        Some(if setting.docker { path.join("robot-env") } else { path })
    }

    /// The runtime of a name.
    pub fn runtime(&self, name: &str) -> Option<Runtime> {
        let (_, setting) = self.section("runtimes").find(|(known, _)| *known == name)?;
        let value = &setting.value;
        let arguments = value.get("runtimeArgs").and_then(Value::items).unwrap_or_default();
        Some(Runtime {
            path: value.get("path").and_then(Value::text).unwrap_or(name).to_owned(),
            arguments: arguments.iter().filter_map(Value::text).map(str::to_owned).collect(),
        })
    }

    /// The names of all runtimes.
    pub fn runtimes(&self) -> Vec<&str> {
        self.section("runtimes").map(|(name, _)| name).collect()
    }

    /// `default-ulimits`: name, soft, hard; -1 is no limit.
    pub fn limits(&self) -> Vec<(&str, i64, i64)> {
        let part = |value: &Value, key: &str| value.get(key).and_then(Value::integer).unwrap_or(-1);
        self.section("default-ulimits")
            .map(|(name, setting)| (name, part(&setting.value, "Soft"), part(&setting.value, "Hard")))
            .collect()
    }

    /// A proxy: `http-proxy`, `https-proxy` or `no-proxy`.
    pub fn proxy(&self, name: &str) -> Option<&str> {
        self.section("proxies").find(|(known, _)| *known == name)?.1.value.text()
    }

    /// What is said of registries, `docker.io` by `registry-mirrors` first.
    pub fn registries(&self) -> Vec<RegistrySection> {
        let mut all = Vec::new();
        if let Some(setting) = self.setting("registry-mirrors") {
            let mirrors = self.texts("registry-mirrors");
            all.push(RegistrySection {
                name: "docker.io".into(),
                said: Some(setting.said.clone()),
                mirrors: Some(mirrors.into_iter().map(|(text, said)| (text.to_owned(), said)).collect()),
                insecure: None,
            });
        }
        for (name, setting) in self.section("registry") {
            let said = |at| Said { file: setting.said.file.clone(), at };
            let list = setting.value.get("mirrors").and_then(Value::items);
            all.push(RegistrySection {
                name: name.to_owned(),
                said: Some(setting.said.clone()),
                mirrors: list.map(|items| {
                    items.iter().filter_map(|item| Some((item.text()?.to_owned(), said(item.at)))).collect()
                }),
                insecure: setting.value.get("insecure").and_then(Value::truth),
            });
        }
        all
    }
}

fn scalar(value: &Value) -> Option<String> {
    match &value.data {
        Data::Text(text) | Data::Number(text) => Some(text.clone()),
        Data::Integer(number) => Some(number.to_string()),
        Data::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use robot_env_testkit::temporary::TemporaryDirectory;

    fn read(files: &[(&str, bool, &str)], rootless: bool) -> Configuration {
        let directory = TemporaryDirectory::new("configuration");
        let mut sources = Sources { files: Vec::new(), rootless };
        for (name, own, text) in files {
            let path = directory.join(name);
            std::fs::write(&path, text).unwrap();
            sources.files.push(Source { path, own: *own });
        }
        sources.files.push(Source { path: directory.join("missing.toml"), own: false });
        Configuration::read(&sources)
    }

    fn shown(configuration: &Configuration) -> Vec<String> {
        let name = |finding: &Finding| {
            let text = finding.to_string();
            text.rsplit_once('/').map_or(text.clone(), |(directory, name)| {
                if directory.contains(": ") { text.clone() } else { name.to_owned() }
            })
        };
        configuration.findings.iter().map(name).collect()
    }

    #[test]
    fn the_seeds_daemon_json() {
        let configuration = read(
            &[(
                "daemon.json",
                false,
                r#"{
                   "registry-mirrors": ["https://mirror.example/"],
                   "runtimes": { "nvidia": { "path": "nvidia-container-runtime", "runtimeArgs": [] } },
                   "data-root": "/data/docker", "log-opts": {"max-size": "10m", "max-file": 3},
                   "default-ulimits": {"memlock": {"Name": "memlock", "Soft": -1, "Hard": -1}},
                   "proxies": {"https-proxy": "http://p:3128"}, "default-shm-size": "8G", "live-restore": true
                }"#,
            )],
            false,
        );
        assert_eq!(configuration.findings.len(), 1, "{:?}", configuration.findings);
        assert_eq!(configuration.findings[0].severity, crate::Severity::Note);
        let registries = configuration.registries();
        assert_eq!(registries[0].name, "docker.io");
        assert_eq!(registries[0].mirrors.as_ref().unwrap()[0].0, "https://mirror.example/");
        assert_eq!(
            configuration.runtime("nvidia"),
            Some(Runtime { path: "nvidia-container-runtime".into(), arguments: Vec::new() })
        );
        assert_eq!(configuration.data_root(false), Some("/data/docker/robot-env".into()));
        assert_eq!(
            configuration.map("log-opts"),
            [("max-size".into(), "10m".into()), ("max-file".into(), "3".into())]
        );
        assert_eq!(configuration.limits(), [("memlock", -1, -1)]);
        assert_eq!(configuration.proxy("https-proxy"), Some("http://p:3128"));
        assert_eq!(configuration.bytes("default-shm-size"), Some(8 << 30));
    }

    #[test]
    fn a_later_file_wins_and_a_faulty_value_does_not_count() {
        let configuration = read(
            &[
                (
                    "daemon.json",
                    false,
                    r#"{"dns": ["10.0.0.1"], "init": true, "runtimes": {"a": {"path": "/a"}, "b": {"path": "/b"}}}"#,
                ),
                (
                    "config.toml",
                    false,
                    "dns = ['10.0.0.2']\ninit = 'x'\n[runtimes.b]\npath = '/c'\n[registry.'lab:5000']\ninsecure = true\n",
                ),
                ("own.toml", true, "[registry.'lab:5000']\nmirrors = ['m']\n"),
            ],
            false,
        );
        assert_eq!(configuration.texts("dns")[0].0, "10.0.0.2");
        assert_eq!(configuration.texts("dns")[0].1.at.to_string(), "1:8");
        assert_eq!(configuration.truth("init"), Some(true));
        assert_eq!(configuration.runtime("a").unwrap().path, "/a");
        assert_eq!(configuration.runtime("b").unwrap().path, "/c");
        let lab = &configuration.registries()[0];
        assert_eq!((lab.insecure, lab.mirrors.as_ref().map(Vec::len)), (Some(true), Some(1)));
        assert_eq!(shown(&configuration), ["config.toml:2:8: `init` must be true or false"]);
    }

    #[test]
    fn typos_are_warnings_with_their_places() {
        let configuration = read(
            &[
                ("a.json", false, "{\n  \"registry-mirrors\": [\"https://m\",]\n}\n"),
                ("b.json", false, "{\n  \"registry-mirors\": [],\n \"registry\": {}, \"init\": null\n}\n"),
                ("c.toml", false, "init = true\n[registry\n"),
                ("d.json", false, "[]"),
                ("e.json", false, " \n"),
            ],
            false,
        );
        assert_eq!(configuration.settings(), []);
        let shown = shown(&configuration);
        assert_eq!(shown[0], "a.json:2:36: a value is expected here, not `]`");
        assert_eq!(shown[1], "b.json:2:3: unknown key `registry-mirors` (did you mean `registry-mirrors`?)");
        assert_eq!(shown[2], "b.json:3:2: unknown key `registry`");
        assert!(shown[3].starts_with("c.toml:2:"), "{shown:?}");
        assert_eq!(shown[4], "d.json:1:1: the file must be an object, not a list");
        assert_eq!(shown.len(), 5);
    }

    #[test]
    fn roots_data_are_not_a_users() {
        let files = [("a.toml", false, "data-root = '/data'\ninit = true\n")];
        assert_eq!(read(&files, false).data_root(false), Some("/data".into()));
        assert_eq!(read(&files, false).data_root(true), None);
        assert_eq!(read(&files, true).data_root(true), None);
        assert_eq!(read(&files, true).truth("init"), Some(true));
        assert_eq!(
            read(&[("a.toml", true, "data-root = '/mine'\n")], true).data_root(true),
            Some("/mine".into())
        );
    }

    #[test]
    fn a_directory_in_a_files_place_is_a_warning() {
        let directory = TemporaryDirectory::new("configuration-directory");
        let files = vec![Source { path: directory.path().into(), own: false }];
        let configuration = Configuration::read(&Sources { files, rootless: false });
        assert_eq!(configuration.findings[0].message, "cannot read it: it is not a regular file");
    }
}
