use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A directory of the test's own, removed behind it.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("re-systemd-{}-{next}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Place(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a service manager does.
#[derive(Clone, Copy)]
enum Conduct {
    /// The job ends well; its signal comes before or after the answer.
    Done { early: bool },
    /// The job ends otherwise.
    Fails,
    /// An error instead of an answer.
    Refuses,
    /// It does not know the user.
    Rejects,
    /// It closes the connection at the call.
    HangsUp,
}

/// A manager at a socket; answers one client and gives back the calls: member, destination, body.
fn manager(path: &Path, route: Route, conduct: Conduct) -> std::thread::JoinHandle<Vec<(String, Vec<u8>)>> {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut end =
            Connection { stream, serial: 0, deadline: Instant::now() + PATIENCE, ended: Vec::new() };
        let mut calls = Vec::new();
        // "1000" in hexadecimal of its digits.
        assert_eq!(end.line().unwrap(), "\0AUTH EXTERNAL 31303030");
        if matches!(conduct, Conduct::Rejects) {
            end.send(b"REJECTED EXTERNAL\r\n").unwrap();
            return calls;
        }
        end.send(b"OK 1234deadbeef\r\n").unwrap();
        assert_eq!(end.line().unwrap(), "BEGIN");
        let wanted: &[&str] = match route {
            Route::Direct => &["StartTransientUnit"],
            Route::Bus => &["Hello", "AddMatch", "Subscribe", "StartTransientUnit"],
        };
        for (index, member) in wanted.iter().enumerate() {
            let call = end.receive().unwrap();
            assert_eq!((call.kind, call.member.as_str()), (1, *member));
            calls.push((call.member, call.body));
            let serial = u32::try_from(index + 1).unwrap();
            if *member != "StartTransientUnit" {
                end.send(&message(2, Some(serial), None, None, "", &[])).unwrap();
                continue;
            }
            let mut job = Writer::default();
            job.string("/org/freedesktop/systemd1/job/7");
            let signal = |result: &str| {
                let mut body = Writer::default();
                body.number(7);
                body.string("/org/freedesktop/systemd1/job/7");
                body.string("x.scope");
                body.string(result);
                message(4, None, Some("JobRemoved"), None, "uoss", &body.0)
            };
            let answer = message(2, Some(serial), None, None, "o", &job.0);
            let other = message(4, None, Some("UnitNew"), None, "", &[]);
            let parts: Vec<Vec<u8>> = match conduct {
                Conduct::Done { early: true } => vec![signal("done"), answer],
                Conduct::Done { early: false } => vec![other, answer, signal("done")],
                Conduct::Fails => vec![answer, signal("timeout")],
                Conduct::Refuses => {
                    let mut text = Writer::default();
                    text.string("not for you");
                    let error = Some("org.freedesktop.DBus.Error.AccessDenied");
                    vec![message(3, Some(serial), None, error, "s", &text.0)]
                }
                Conduct::Rejects | Conduct::HangsUp => Vec::new(),
            };
            for part in parts {
                // Split, as a stream may be.
                let (a, b) = part.split_at(part.len() / 2);
                end.send(a).unwrap();
                end.send(b).unwrap();
            }
        }
        calls
    })
}

fn message(
    kind: u8,
    reply: Option<u32>,
    member: Option<&str>,
    error: Option<&str>,
    sig: &str,
    body: &[u8],
) -> Vec<u8> {
    let mut out = Writer::default();
    out.0.extend_from_slice(&[b'l', kind, 0, 1]);
    out.number(u32::try_from(body.len()).unwrap());
    out.number(99);
    out.array(8, |out| {
        for (code, text) in [(3, member), (4, error), (7, Some(":1.0"))] {
            let Some(text) = text else { continue };
            out.align(8);
            out.0.push(code);
            out.signature("s");
            out.string(text);
        }
        if let Some(reply) = reply {
            out.align(8);
            out.0.push(5);
            out.signature("u");
            out.number(reply);
        }
        out.align(8);
        out.0.push(8);
        out.signature("g");
        out.signature(sig);
    });
    out.align(8);
    out.0.extend_from_slice(body);
    out.0
}

const SCOPE: Scope<'static> =
    Scope { name: "x.scope", slice: Some("app.slice"), description: "robot", pid: 4711 };

#[test]
fn a_scope_is_asked_for_at_the_managers_socket_or_over_a_bus() {
    let place = Place::new();
    for (name, route, early) in
        [("a", Route::Direct, false), ("b", Route::Direct, true), ("c", Route::Bus, false)]
    {
        let path = place.path().join(name);
        let peer = manager(&path, route, Conduct::Done { early });
        let sockets = [(place.path().join("missing"), Route::Direct), (path, route)];
        Manager::User(1000).start_at(&sockets, &SCOPE).unwrap();
        let (_, body) = peer.join().unwrap().pop().unwrap();
        let mut body = Reader::new(&body);
        assert_eq!((body.string().unwrap().as_str(), body.string().unwrap().as_str()), ("x.scope", "fail"));
        let length = body.number().unwrap() as usize;
        body.align(8);
        let end = body.at + length;
        let mut found = Vec::new();
        while body.at < end {
            body.align(8);
            let name = body.string().unwrap();
            let value = match body.signature().unwrap().as_str() {
                "s" => body.string().unwrap(),
                "b" => body.number().unwrap().to_string(),
                "au" => {
                    assert_eq!(body.number().unwrap(), 4, "bytes of one number");
                    body.number().unwrap().to_string()
                }
                other => panic!("{other}"),
            };
            found.push(format!("{name}={value}"));
        }
        assert_eq!(
            found,
            [
                "Description=robot",
                "Slice=app.slice",
                "Delegate=1",
                "CollectMode=inactive-or-failed",
                "PIDs=4711"
            ]
        );
        assert_eq!(body.number().unwrap(), 0, "no further units");
    }
}

#[test]
fn what_the_manager_answers_is_said() {
    let place = Place::new();
    for (name, conduct, kind, text) in [
        ("fails", Conduct::Fails, Kind::Internal, "job: timeout"),
        ("refuses", Conduct::Refuses, Kind::Denied, "AccessDenied: not for you"),
        ("rejects", Conduct::Rejects, Kind::Denied, "REJECTED EXTERNAL"),
        ("hangs", Conduct::HangsUp, Kind::Internal, "hangs up"),
    ] {
        let path = place.path().join(name);
        let peer = manager(&path, Route::Direct, conduct);
        let error = Manager::User(1000).start_at(&[(path, Route::Direct)], &SCOPE).unwrap_err();
        assert!(error.to_string().contains(text), "{name}: {error}");
        assert_eq!(error.kind(), kind, "{name}");
        peer.join().unwrap();
    }
    let none = [(place.path().join("missing"), Route::Direct)];
    let error = Manager::User(1000).start_at(&none, &SCOPE).unwrap_err();
    assert!(error.to_string().contains("cannot connect"), "{error}");
}
