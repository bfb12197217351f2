//! The Docker Engine API's socket, by units of systemd, for root or for one user.

use std::path::Path;

use robot_env_device::HostRoot;

use super::{Action, Step, step, write};
use crate::Live;

const PART: &str = "docker-socket";
/// Where root's server is found.
pub(super) const SYSTEM: &str = "/run/robot-env/docker.sock";
/// Where Docker's clients look when nobody tells them.
pub(super) const DOCKERS: &str = "/run/docker.sock";

/// Whether somebody else's Docker is what clients find without being told.
pub(super) fn has_docker(root: &HostRoot) -> bool {
    let own = std::fs::read_link(root.real(DOCKERS)).is_ok_and(|target| target == Path::new(SYSTEM));
    let daemons = ["/usr/bin/dockerd", "/usr/sbin/dockerd", "/usr/local/bin/dockerd", "/snap/bin/dockerd"];
    daemons.iter().any(|path| root.exists(path))
        || !own && (root.exists(DOCKERS) || std::fs::symlink_metadata(root.real(DOCKERS)).is_ok())
}

/// The steps to the socket: root's, or of the user whose home is given.
pub(super) fn steps(root: &HostRoot, live: &Live, home: Option<&str>) -> Vec<Step> {
    let Some(program) = word(&live.program.to_string_lossy()) else {
        let title = "the program's path has signs that a unit of systemd cannot have: it gets none";
        return vec![step(PART, title, Action::Nothing)];
    };
    let level = if home.is_some() { "user" } else { "system" };
    let directory = match home {
        None => "/etc/systemd/system".to_owned(),
        Some(home) => {
            let config = live.variable("XDG_CONFIG_HOME").filter(|path| path.starts_with('/'));
            let config = config.map_or_else(|| format!("{home}/.config"), str::to_owned);
            format!("{config}/systemd/user")
        }
    };
    let is_dockers = home.is_none() && !has_docker(root);
    let names = ["robot-env.socket", "robot-env.service"];
    let packaged = names.iter().all(|name| root.exists(&format!("/usr/lib/systemd/{level}/{name}")));
    let mut out = Vec::new();
    if packaged {
        out.push(step(PART, format!("the units are in /usr/lib/systemd/{level}"), Action::Nothing));
    } else {
        let texts = [socket_unit(home.is_some(), is_dockers), service_unit(home.is_some(), &program)];
        for (name, text) in names.iter().zip(texts) {
            out.push(write(root, PART, &format!("{directory}/{name}"), &text));
        }
    }
    out.push(enable(root, live, home.is_some(), &directory, out.iter().all(|s| s.action == Action::Nothing)));
    if packaged || !is_dockers {
        let title = if home.is_none() && has_docker(root) {
            "Docker is there and keeps its socket; clients find this one by a variable"
        } else {
            "clients find it by a variable"
        };
        let path = if home.is_some() { "$XDG_RUNTIME_DIR/robot-env/docker.sock" } else { SYSTEM };
        let line = format!("export DOCKER_HOST=unix://{path}");
        out.push(step(PART, title, Action::Show(vec![line])));
    }
    out
}

/// Has systemd listen. `unchanged`: the units were there as they are.
fn enable(root: &HostRoot, live: &Live, is_user: bool, directory: &str, unchanged: bool) -> Step {
    let (systemctl, runtime) = if is_user {
        ("systemctl --user", live.variable("XDG_RUNTIME_DIR"))
    } else {
        ("sudo systemctl", Some("/run"))
    };
    let lines = format!(
        "{systemctl} daemon-reload && {systemctl} enable robot-env.socket && {systemctl} restart robot-env.socket"
    );
    let runs = root.exists("/run/systemd/system")
        && runtime.is_some_and(|at| !is_user || root.exists(&format!("{at}/systemd/private")));
    if !runs {
        let whose = if is_user { "systemd does not run for this user" } else { "systemd does not run" };
        let title = format!("{whose}: the server is started by hand, or the units when systemd runs");
        let by_hand = format!("{} serve", live.program.display());
        return step(PART, title, Action::Show(vec![by_hand, lines]));
    }
    let enabled = format!("{directory}/sockets.target.wants/robot-env.socket");
    let is_enabled = std::fs::symlink_metadata(root.real(&enabled)).is_ok();
    let listens = runtime.is_some_and(|at| root.exists(&format!("{at}/robot-env/docker.sock")));
    if unchanged && is_enabled && listens {
        return step(PART, "systemd listens on the socket", Action::Nothing);
    }
    step(PART, "systemd listens, and starts the server for a client", Action::Run(vec![lines]))
}

/// A path as a word of a unit; `None` where it cannot be one.
fn word(path: &str) -> Option<String> {
    if path.chars().any(char::is_control) {
        return None;
    }
    let escaped = path.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    let is_plain = !path.contains(|c: char| c.is_whitespace() || "\"'\\;".contains(c));
    Some(if is_plain { escaped } else { format!("\"{escaped}\"") })
}

fn socket_unit(is_user: bool, is_dockers: bool) -> String {
    let (path, mode) = if is_user { ("%t/robot-env/docker.sock", "0700") } else { (SYSTEM, "0711") };
    // systemd leaves alone what is there.
    let link = if is_dockers { format!("Symlinks={DOCKERS}\n") } else { String::new() };
    format!(
        "[Unit]\nDescription=Docker Engine API of robot-env\n\n\
        [Socket]\nListenStream={path}\nSocketMode=0600\nDirectoryMode={mode}\n{link}\n\
        [Install]\nWantedBy=sockets.target\n"
    )
}

fn service_unit(is_user: bool, program: &str) -> String {
    let limits = if is_user { "" } else { "TasksMax=infinity\nLimitNOFILE=1048576\n" };
    format!(
        "[Unit]\nDescription=Docker Engine API of robot-env\nRequires=robot-env.socket\nAfter=robot-env.socket\n\n\
        [Service]\nExecStart={program} serve --idle-exit 10m\n\
        # Containers and their monitors are not the server's: they stay when it goes.\n\
        KillMode=process\nDelegate=yes\n{limits}OOMPolicy=continue\n"
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use robot_env_testkit::temporary::TemporaryDirectory;

    fn put(place: &TemporaryDirectory, path: &str, text: &str) {
        let path = place.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn live() -> Live {
        let environment = [("XDG_RUNTIME_DIR".to_owned(), "/run/user/1000".to_owned())].into();
        Live { program: "/usr/bin/robot-env".into(), environment, ..Live::default() }
    }

    fn look(place: &TemporaryDirectory, home: Option<&str>) -> Vec<Step> {
        steps(&HostRoot::fixture(place.path()), &live(), home)
    }

    /// Does what the steps write, and what systemd would do.
    fn act(place: &TemporaryDirectory, steps: &[Step], wants: &str, socket: &str) {
        for step in steps {
            if let Action::Write { path, text } = &step.action {
                put(place, path, text);
            }
        }
        put(place, wants, "");
        put(place, socket, "");
    }

    #[test]
    fn the_units_are_those_of_the_packages() {
        for (is_user, level) in [(false, "system"), (true, "user")] {
            let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/systemd").join(level);
            let read = |name: &str| std::fs::read_to_string(at.join(name)).unwrap();
            assert_eq!(socket_unit(is_user, false), read("robot-env.socket"), "{level}");
            assert_eq!(service_unit(is_user, "/usr/bin/robot-env"), read("robot-env.service"), "{level}");
        }
    }

    #[test]
    fn root_gets_the_socket_where_clients_look_and_once() {
        let place = TemporaryDirectory::new("setup-socket");
        put(&place, "run/systemd/system/x", "");
        let first = look(&place, None);
        let Action::Write { path, text } = &first[0].action else { panic!("{first:?}") };
        assert_eq!(path, "/etc/systemd/system/robot-env.socket");
        assert!(text.contains("\nSymlinks=/run/docker.sock\n"), "{text}");
        let Action::Run(lines) = &first[2].action else { panic!("{first:?}") };
        assert!(lines[0].starts_with("sudo systemctl daemon-reload && "), "{lines:?}");
        assert_eq!(first.len(), 3);
        act(
            &place,
            &first,
            "etc/systemd/system/sockets.target.wants/robot-env.socket",
            "run/robot-env/docker.sock",
        );
        symlink(SYSTEM, place.join("run/docker.sock")).unwrap();
        let second = look(&place, None);
        assert!(second.iter().all(|step| step.action == Action::Nothing), "{second:?}");
        // Another path of the program is another unit.
        let moved = Live { program: "/opt/a b/robot-env".into(), ..live() };
        let third = steps(&HostRoot::fixture(place.path()), &moved, None);
        let Action::Write { text, .. } = &third[1].action else { panic!("{third:?}") };
        assert!(text.contains("\nExecStart=\"/opt/a b/robot-env\" serve "), "{text}");
        assert!(matches!(third[2].action, Action::Run(_)));
    }

    #[test]
    fn a_docker_keeps_its_socket() {
        for path in ["usr/bin/dockerd", "run/docker.sock"] {
            let place = TemporaryDirectory::new("setup-socket-docker");
            put(&place, path, "");
            let steps = look(&place, None);
            let Action::Write { text, .. } = &steps[0].action else { panic!("{steps:?}") };
            assert!(!text.contains("Symlinks"), "{text}");
            let last = steps.last().unwrap();
            assert!(last.title.starts_with("Docker is there and keeps its socket"), "{last:?}");
            let line = "export DOCKER_HOST=unix:///run/robot-env/docker.sock".to_owned();
            assert_eq!(last.action, Action::Show(vec![line]));
        }
    }

    #[test]
    fn a_user_gets_one_of_their_own() {
        let place = TemporaryDirectory::new("setup-socket-user");
        let without = look(&place, Some("/home/ada"));
        let Action::Show(lines) = &without[2].action else { panic!("{without:?}") };
        assert_eq!(lines[0], "/usr/bin/robot-env serve");
        assert!(without[2].title.contains("systemd does not run for this user"), "{without:?}");
        put(&place, "run/systemd/system/x", "");
        put(&place, "run/user/1000/systemd/private", "");
        let first = look(&place, Some("/home/ada"));
        let Action::Write { path, .. } = &first[0].action else { panic!("{first:?}") };
        assert_eq!(path, "/home/ada/.config/systemd/user/robot-env.socket");
        let Action::Run(lines) = &first[2].action else { panic!("{first:?}") };
        assert!(lines[0].starts_with("systemctl --user daemon-reload") && !lines[0].contains("sudo"));
        let wants = "home/ada/.config/systemd/user/sockets.target.wants/robot-env.socket";
        act(&place, &first, wants, "run/user/1000/robot-env/docker.sock");
        let second = look(&place, Some("/home/ada"));
        assert!(second[..3].iter().all(|step| step.action == Action::Nothing), "{second:?}");
    }

    #[test]
    fn paths_are_words_of_units() {
        for (path, want) in [
            ("/usr/bin/robot-env", Some("/usr/bin/robot-env")),
            ("/a b/100%/c", Some("\"/a b/100%%/c\"")),
            ("/a\"b\\c", Some("\"/a\\\"b\\\\c\"")),
            ("/a\nb", None),
        ] {
            assert_eq!(word(path).as_deref(), want, "{path:?}");
        }
    }
}
