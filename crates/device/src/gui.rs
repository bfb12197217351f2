//! The user's display and sound inside a container.
//!
//! X servers are reached by their sockets' directory and a cookie of the container's own, in a
//! directory that is mounted: cookies are written anew at every start and exec, and a desktop that
//! renews its own file leaves nothing stale. Nobody calls `xhost`.

use robot_env_diag::{Error, Result};

use crate::edits::{SpecEdits, bind, private_tmpfs};
use crate::root::HostRoot;
use crate::session::Session;
use crate::xauth;

/// Where the container sees the directory of its private files.
pub const PLACE: &str = "/run/robot-env/gui";
const SOCKETS: &str = "/tmp/.X11-unix";
const FONTS: &str = "/usr/share/fonts";
const DRI: &str = "/dev/dri";

/// Whose display is wanted where.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The process's user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Whether the IPC namespace is the host's: only then can X share memory with it.
    pub shares_ipc: bool,
    /// Whether the network is the host's: only then are displays by TCP reached.
    pub shares_network: bool,
    /// The host's name.
    pub hostname: &'a str,
    /// The directory on the host that is mounted at [`PLACE`].
    pub place: &'a str,
    /// Whether this is for a further process: mounts are there already then.
    pub for_exec: bool,
}

/// A file for [`PLACE`], for one user only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateFile {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What a display needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gui {
    /// Changes of the container.
    pub edits: SpecEdits,
    /// Files, owned by the request's user, 0600.
    pub files: Vec<PrivateFile>,
}

/// A display by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Display {
    /// By a socket of this host.
    Local(u32),
    /// By TCP.
    Tcp(u32),
}

fn parse_display(text: &str) -> Result<Display> {
    let bad = || Error::invalid(format!("invalid display `{text}` in DISPLAY: it must be like `:0`"));
    let (host, rest) = text.rsplit_once(':').ok_or_else(bad)?;
    let number: u32 = rest.split('.').next().unwrap_or(rest).parse().map_err(|_| bad())?;
    Ok(if matches!(host, "" | "unix") { Display::Local(number) } else { Display::Tcp(number) })
}

/// What the session's display and sound are for a container, or for a further process in one.
///
/// Where there is no display now the container starts all the same, with a warning: the next exec
/// of somebody who has one shows windows.
///
/// # Errors
/// A `DISPLAY` that is malformed.
pub fn gui(root: &HostRoot, session: &Session, request: &Request<'_>) -> Result<Gui> {
    let mut out = Gui::default();
    let x = add_x11(root, session, request, &mut out)?;
    let wayland = add_sockets(root, session, request, &mut out);
    if request.for_exec {
        return Ok(out);
    }
    let edits = &mut out.edits;
    if !x && !wayland {
        edits.warnings.push(
            "no display: neither DISPLAY nor WAYLAND_DISPLAY leads to one now; windows of later `exec`s from a desktop will show".into(),
        );
    }
    if root.is_directory(SOCKETS) {
        edits.mounts.push(bind(root.real(SOCKETS).to_string_lossy(), SOCKETS, true));
    }
    surround(root, session, request, edits);
    Ok(out)
}

/// An X server that is the container's own, as `:number` of the host, known by its cookie. It shares
/// neither the user's windows nor sound.
pub fn isolated(
    root: &HostRoot,
    session: &Session,
    request: &Request<'_>,
    number: u32,
    cookie: &[u8],
) -> Gui {
    let mut out = Gui::default();
    let name = format!("Xauthority-{}", request.uid);
    out.edits.env.push(format!("DISPLAY=:{number}"));
    out.edits.env.push(format!("XAUTHORITY={PLACE}/{name}"));
    out.files.push(PrivateFile { name, bytes: xauth::write(&[xauth::cookie(cookie)]) });
    if !request.for_exec {
        let socket = format!("{SOCKETS}/X{number}");
        out.edits.mounts.push(bind(root.real(&socket).to_string_lossy(), socket, true));
        surround(root, session, request, &mut out.edits);
    }
    out
}

/// What every display has beside it: the private files' place, fonts, the GPU's nodes, and what X
/// cannot do across an IPC namespace.
fn surround(root: &HostRoot, session: &Session, request: &Request<'_>, edits: &mut SpecEdits) {
    edits.mounts.push(bind(request.place, PLACE, true));
    if root.is_directory(FONTS) {
        edits.mounts.push(bind(root.real(FONTS).to_string_lossy(), "/usr/local/share/fonts/host", true));
    }
    let mut has_gpu = false;
    for name in root.names(DRI) {
        if let Some(device) = root.device(&format!("{DRI}/{name}")) {
            has_gpu = true;
            edits.add_device(device);
        }
    }
    if !request.shares_ipc {
        for entry in ["QT_X11_NO_MITSHM=1", "_X11_NO_MITSHM=1", "_MITSHM=0"] {
            edits.env_defaults.push(entry.into());
        }
    }
    if let Some(value) = session.get("LIBGL_ALWAYS_SOFTWARE") {
        edits.env_defaults.push(format!("LIBGL_ALWAYS_SOFTWARE={value}"));
    } else if !has_gpu && root.device("/dev/nvidiactl").is_none() {
        edits.env_defaults.push("LIBGL_ALWAYS_SOFTWARE=1".into());
    }
}

/// Whether the session's X display is one of this host's, so that a nested server can show itself in it.
pub fn has_local_display(root: &HostRoot, session: &Session) -> bool {
    session.get("DISPLAY").is_some_and(|text| match parse_display(text) {
        Ok(Display::Local(number)) => root.exists(&format!("{SOCKETS}/X{number}")),
        _ => false,
    })
}

/// X11: variables, and a cookie. Whether there is a display.
fn add_x11(root: &HostRoot, session: &Session, request: &Request<'_>, out: &mut Gui) -> Result<bool> {
    let Some(text) = session.get("DISPLAY") else { return Ok(false) };
    let display = parse_display(text)?;
    let number = match display {
        Display::Local(number) => {
            if !root.exists(&format!("{SOCKETS}/X{number}")) && !request.shares_network {
                out.edits.warnings.push(format!(
                    "DISPLAY is {text}, but there is no X server: {SOCKETS}/X{number} does not exist"
                ));
                return Ok(false);
            }
            number
        }
        Display::Tcp(number) => {
            if !request.shares_network && text.starts_with("localhost:") {
                out.edits.warnings.push(format!(
                    "DISPLAY is {text}, which is on the host's loopback; --network host reaches it"
                ));
            }
            number
        }
    };
    out.edits.env.push(format!("DISPLAY={text}"));
    let home = session.get("HOME").unwrap_or("/root");
    let path = session.get("XAUTHORITY").map_or_else(|| format!("{home}/.Xauthority"), str::to_owned);
    let entries = root.read(&path);
    let entries = xauth::parse(&entries.unwrap_or_default());
    if let Some(cookie) = xauth::for_display(&entries, number, request.hostname) {
        let name = format!("Xauthority-{}", request.uid);
        out.edits.env.push(format!("XAUTHORITY={PLACE}/{name}"));
        out.files.push(PrivateFile { name, bytes: xauth::write(&[cookie]) });
    }
    Ok(true)
}

/// Wayland, PulseAudio and PipeWire: sockets of the user's runtime directory. Whether there is a
/// Wayland display.
fn add_sockets(root: &HostRoot, session: &Session, request: &Request<'_>, out: &mut Gui) -> bool {
    let Some(theirs) = session.get("XDG_RUNTIME_DIR") else { return false };
    let own = format!("/run/user/{}", request.uid);
    let mut found: Vec<(String, String)> = Vec::new();
    let wayland = session.get("WAYLAND_DISPLAY").and_then(|name| {
        let path = if name.starts_with('/') { name.to_owned() } else { format!("{theirs}/{name}") };
        let name = path.rsplit('/').next().unwrap_or(name).to_owned();
        root.is_socket(&path).then_some((path, name))
    });
    let has_wayland = wayland.is_some();
    if let Some((path, name)) = wayland {
        out.edits.env.push(format!("WAYLAND_DISPLAY={name}"));
        if let Some(kind) = session.get("XDG_SESSION_TYPE") {
            out.edits.env_defaults.push(format!("XDG_SESSION_TYPE={kind}"));
        }
        found.push((path, name));
    }
    let pulse = session
        .get("PULSE_SERVER")
        .and_then(|server| server.strip_prefix("unix:"))
        .map_or_else(|| format!("{theirs}/pulse/native"), str::to_owned);
    if root.is_socket(&pulse) {
        out.edits.env.push(format!("PULSE_SERVER=unix:{own}/pulse/native"));
        found.push((pulse, "pulse/native".into()));
        add_pulse_files(root, session, request, out);
    }
    let pipewire = session.get("PIPEWIRE_REMOTE").filter(|name| !name.contains('/')).unwrap_or("pipewire-0");
    if root.is_socket(&format!("{theirs}/{pipewire}")) {
        found.push((format!("{theirs}/{pipewire}"), "pipewire-0".into()));
    }
    if found.is_empty() {
        return false;
    }
    out.edits.env.push(format!("XDG_RUNTIME_DIR={own}"));
    if !request.for_exec {
        out.edits.mounts.push(private_tmpfs(&own, request.uid, request.gid));
        for (path, name) in found {
            out.edits.mounts.push(bind(root.real(&path).to_string_lossy(), format!("{own}/{name}"), false));
        }
    }
    has_wayland
}

fn add_pulse_files(root: &HostRoot, session: &Session, request: &Request<'_>, out: &mut Gui) {
    let home = session.get("HOME").unwrap_or("/root");
    let config = session.get("XDG_CONFIG_HOME").map_or_else(|| format!("{home}/.config"), str::to_owned);
    let cookie = session.get("PULSE_COOKIE").map_or_else(|| format!("{config}/pulse/cookie"), str::to_owned);
    if let Some(bytes) = root.read(&cookie) {
        let name = format!("pulse-cookie-{}", request.uid);
        out.edits.env.push(format!("PULSE_COOKIE={PLACE}/{name}"));
        out.files.push(PrivateFile { name, bytes });
    }
    // Memory is not shared with the host, and nobody starts a server of his own.
    let name = format!("pulse-{}.conf", request.uid);
    out.edits.env.push(format!("PULSE_CLIENTCONFIG={PLACE}/{name}"));
    out.files.push(PrivateFile { name, bytes: b"enable-shm = no\nautospawn = no\n".to_vec() });
}

#[cfg(test)]
mod tests {
    use super::*;
    use robot_env_testkit::temporary::TemporaryDirectory;
    use std::fs;

    fn place(name: &str) -> TemporaryDirectory {
        let place = TemporaryDirectory::new(name);
        for directory in
            ["tmp/.X11-unix", "home/ann/.config/pulse", "run/user/1000/pulse", "dev/dri", "usr/share/fonts"]
        {
            fs::create_dir_all(place.join(directory)).unwrap();
        }
        for socket in [
            "tmp/.X11-unix/X0",
            "run/user/1000/wayland-0",
            "run/user/1000/pulse/native",
            "run/user/1000/pipewire-0",
        ] {
            fs::write(place.join(socket), "socket").unwrap();
        }
        let cookie = xauth::Entry {
            family: 256,
            address: b"robot".to_vec(),
            number: b"0".to_vec(),
            name: b"MIT-MAGIC-COOKIE-1".to_vec(),
            data: b"0123456789abcdef".to_vec(),
        };
        fs::write(place.join("home/ann/.Xauthority"), xauth::write(&[cookie])).unwrap();
        fs::write(place.join("home/ann/.config/pulse/cookie"), "pulse").unwrap();
        fs::write(place.join("dev/dri/renderD128"), "c 226:128").unwrap();
        place
    }

    fn session(entries: &[(&str, &str)]) -> Session {
        let base = [("HOME", "/home/ann"), ("XDG_RUNTIME_DIR", "/run/user/1000")];
        Session::of(base.iter().chain(entries).copied(), (1000, 1000), Vec::new())
    }

    fn request() -> Request<'static> {
        Request {
            uid: 1000,
            gid: 1000,
            shares_ipc: false,
            shares_network: false,
            hostname: "robot",
            place: "/run/x/gui",
            for_exec: false,
        }
    }

    #[test]
    fn a_whole_desktop() {
        let place = place("gui");
        let root = HostRoot::fixture(place.path());
        let all = session(&[("DISPLAY", ":0"), ("WAYLAND_DISPLAY", "wayland-0")]);
        let made = gui(&root, &all, &request()).unwrap();
        for entry in [
            "DISPLAY=:0",
            "XAUTHORITY=/run/robot-env/gui/Xauthority-1000",
            "WAYLAND_DISPLAY=wayland-0",
            "XDG_RUNTIME_DIR=/run/user/1000",
            "PULSE_SERVER=unix:/run/user/1000/pulse/native",
        ] {
            assert!(made.edits.env.iter().any(|had| had == entry), "{entry} in {:?}", made.edits.env);
        }
        assert!(made.edits.env_defaults.iter().any(|entry| entry == "QT_X11_NO_MITSHM=1"));
        let targets: Vec<&str> = made.edits.mounts.iter().map(|m| m.target.as_str()).collect();
        for target in [
            "/tmp/.X11-unix",
            PLACE,
            "/run/user/1000",
            "/run/user/1000/wayland-0",
            "/run/user/1000/pulse/native",
            "/run/user/1000/pipewire-0",
            "/usr/local/share/fonts/host",
        ] {
            assert!(targets.contains(&target), "{target} in {targets:?}");
        }
        assert_eq!(made.edits.devices[0].path, "/dev/dri/renderD128");
        let cookie = &made.files.iter().find(|file| file.name == "Xauthority-1000").unwrap().bytes;
        let entries = xauth::parse(cookie);
        assert_eq!((entries[0].family, entries[0].data.as_slice()), (0xffff, &b"0123456789abcdef"[..]));
        assert!(made.edits.warnings.is_empty());
        // A further process gets variables and cookies, no mounts.
        let exec = gui(&root, &all, &Request { for_exec: true, uid: 0, ..request() }).unwrap();
        assert!(exec.edits.mounts.is_empty() && exec.edits.devices.is_empty());
        assert!(exec.files.iter().any(|file| file.name == "Xauthority-0"));
    }

    #[test]
    fn a_display_of_its_own_has_nothing_of_the_users() {
        let place = place("isolated-gui");
        let root = HostRoot::fixture(place.path());
        let all = session(&[("DISPLAY", ":0"), ("WAYLAND_DISPLAY", "wayland-0")]);
        assert!(has_local_display(&root, &all));
        assert!(!has_local_display(&root, &session(&[("DISPLAY", ":7")])));
        let made = isolated(&root, &all, &request(), 12, b"fedcba9876543210");
        assert_eq!(made.edits.env, ["DISPLAY=:12", "XAUTHORITY=/run/robot-env/gui/Xauthority-1000"]);
        let targets: Vec<&str> = made.edits.mounts.iter().map(|m| m.target.as_str()).collect();
        assert_eq!(targets, ["/tmp/.X11-unix/X12", PLACE, "/usr/local/share/fonts/host"]);
        assert_eq!(xauth::parse(&made.files[0].bytes)[0].data, b"fedcba9876543210");
        let exec = isolated(&root, &all, &Request { for_exec: true, uid: 0, ..request() }, 12, b"x");
        assert!(exec.edits.mounts.is_empty() && exec.files[0].name == "Xauthority-0");
    }

    #[test]
    fn displays_that_are_not_there() {
        let place = place("no-gui");
        let root = HostRoot::fixture(place.path());
        for (entries, says) in [
            (&[][..], "no display"),
            (&[("DISPLAY", ":7")], "X7 does not exist"),
            (&[("DISPLAY", "localhost:10.0")], "--network host"),
        ] {
            let made = gui(&root, &session(entries), &request()).unwrap();
            assert!(
                made.edits.warnings.iter().any(|w| w.contains(says)),
                "{entries:?}: {:?}",
                made.edits.warnings
            );
        }
        for bad in ["0", ":x", "host"] {
            assert!(gui(&root, &session(&[("DISPLAY", bad)]), &request()).is_err(), "{bad}");
        }
        let shared = Request { shares_ipc: true, ..request() };
        let made = gui(&root, &session(&[("DISPLAY", "unix:0.0")]), &shared).unwrap();
        assert!(!made.edits.env_defaults.iter().any(|entry| entry.contains("MITSHM")));
        assert!(made.edits.env.contains(&"DISPLAY=unix:0.0".to_owned()));
    }
}
