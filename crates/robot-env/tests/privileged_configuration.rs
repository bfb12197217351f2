//! The configuration as the command line meets it: what it says is in force, and nothing in it can
//! stop the engine.

mod place;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use place::{Call, Place};

/// A place whose commands have a configuration directory of their own.
struct Configured {
    place: Place,
}

impl Configured {
    fn new(name: &str) -> Option<Configured> {
        Some(Configured { place: Place::new(name)? })
    }

    fn write(&self, text: &str) {
        let directory = self.place.directory.join("config/robot-env");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("config.toml"), text).unwrap();
    }

    fn call(&self, args: &[&str]) -> Call {
        let config = self.place.directory.join("config");
        self.place.command(args).env("XDG_CONFIG_HOME", config.to_str().unwrap())
    }
}

#[test]
fn privileged_containers_get_what_the_configuration_says() {
    let Some(it) = Configured::new("configuration-defaults") else { return };
    let program = it.place.directory.join("fake-runtime");
    fs::write(&program, "#!/bin/sh\necho \"$*\" >> \"$0.calls\"\nexit 1\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    it.write(&format!(
        "dns = ['10.9.8.7']\ndns-search = ['lab.example']\ndefault-shm-size = '32M'\nlog-driver = 'local'\n\
         no-new-privileges = true\n[default-ulimits.core]\nSoft = 0\nHard = 0\n[log-opts]\nmax-size = '1m'\n\
         [runtimes.fake]\npath = '{}'\nruntimeArgs = ['--loud']\n",
        program.display()
    ));
    let script =
        "cat /etc/resolv.conf; ulimit -c; grep NoNewPrivs /proc/self/status; stat -f -c %b:%S /dev/shm";
    let out = it.call(&["run", "--rm", "--network", "none", "busybox", "sh", "-c", script]).run().ok();
    for want in ["nameserver 10.9.8.7", "search lab.example", "NoNewPrivs:\t1", "8192:4096"] {
        assert!(out.contains(want), "{want}: {out}");
    }
    assert!(out.lines().any(|line| line == "0"), "{out}");
    let id = it.call(&["create", "--network", "none", "--dns", "10.1.1.1", "busybox"]).run().ok();
    let inspect = |template: &str| it.call(&["inspect", "-f", template, &id]).run().ok();
    assert_eq!(inspect("{{.HostConfig.LogConfig.Type}}"), "local");
    assert_eq!(inspect("{{json .HostConfig.Dns}}"), r#"["10.1.1.1"]"#);
    let done = it.call(&["run", "--rm", "--network", "none", "--runtime", "fake", "busybox", "true"]).run();
    assert_ne!(done.code, 0);
    let calls = fs::read_to_string(it.place.directory.join("fake-runtime.calls")).unwrap();
    assert!(calls.contains("--loud") && calls.contains(" create "), "{calls}");
    assert!(it.call(&["info", "-f", "{{.LoggingDriver}}"]).run().ok().contains("local"));
}

#[test]
fn privileged_a_typo_is_a_warning_and_never_stops_anything() {
    let Some(it) = Configured::new("configuration-typo") else { return };
    for (text, want) in [
        ("init = true\nregistry-mirors = []\n", "config.toml:2:1: unknown key `registry-mirors`"),
        ("dns = [\n", "config.toml:"),
        ("log-driver = 'syslog'\n", "config.toml:1:14: `log-driver` must be one of"),
    ] {
        it.write(text);
        let done = it.call(&["run", "--rm", "--network", "none", "busybox", "echo", "fine"]).run();
        assert_eq!((done.code, done.out.as_str()), (0, "fine\n"), "{text}: {done:?}");
        assert_eq!(done.err.matches("WARNING").count(), 1, "{done:?}");
        assert!(done.err.contains(want), "{done:?}");
        assert_eq!(it.call(&["ps"]).run().code, 0);
    }
}

#[test]
fn privileged_config_show_says_from_where() {
    let Some(it) = Configured::new("configuration-show") else { return };
    it.write("dns = ['10.9.8.7']\nlive-restore = true\ndata-root = '/elsewhere'\n");
    let shown = it.call(&["config", "show"]).run().ok();
    let line = shown.lines().find(|line| line.starts_with("dns ")).unwrap();
    assert!(line.contains(r#"["10.9.8.7"]"#) && line.ends_with("config.toml:1:1"), "{line}");
    assert!(shown.contains("`live-restore` has no effect"), "{shown}");
    // --root counts before the file.
    let root = shown.lines().find(|line| line.starts_with("data-root ")).unwrap();
    assert!(root.contains("/root\"") && root.ends_with("--root"), "{root}");
    let json: serde_json::Value =
        serde_json::from_str(&it.call(&["config", "show", "--format", "json"]).run().ok()).unwrap();
    let dns = json["settings"].as_array().unwrap().iter().find(|row| row["key"] == "dns").unwrap();
    assert_eq!((&dns["value"][0], &dns["line"]), (&"10.9.8.7".into(), &1.into()));
    let file = it.place.directory.join("daemon.json");
    fs::write(&file, "{\n  \"registry-mirrors\": [\"https://m\",]\n}\n").unwrap();
    let done = it.call(&["config", "check", "daemon.json"]).directory(it.place.directory.path()).run();
    assert_eq!((done.code, done.out.as_str()), (1, "daemon.json:2:36: a value is expected here, not `]`\n"));
    fs::write(&file, "{}").unwrap();
    assert_eq!(it.call(&["config", "check", file.to_str().unwrap()]).run().code, 0);
}

#[test]
fn privileged_the_data_root_may_be_named() {
    let Some(it) = Configured::new("configuration-root") else { return };
    let data = it.place.directory.join("big-disk");
    it.write(&format!("data-root = '{}'\n", data.display()));
    let mut call = Call(std::process::Command::new(env!("CARGO_BIN_EXE_robot-env")));
    call.0.arg("--run-root").arg(it.place.directory.join("run")).args(["info", "-f", "{{.DockerRootDir}}"]);
    let config = it.place.directory.join("config");
    assert_eq!(call.env("XDG_CONFIG_HOME", config.to_str().unwrap()).run().ok(), data.to_str().unwrap());
}
