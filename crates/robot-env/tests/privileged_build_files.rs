//! Files of builds: what `COPY` and `ADD` keep of them, and where they come from.

mod place;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use place::{Place, build, context, prints, shell};

#[test]
fn privileged_copies_keep_what_files_are() {
    let Some(place) = Place::new("build-files") else { return };
    let text = "\
FROM busybox
COPY tree /tree
COPY --parents x/./y/z.txt x/y/./w/*.txt /parents/
COPY --exclude=*.md --exclude=sub/*.o docs other.md /chosen/
COPY --chmod=u=rwX,go=rX tree/d /symbolic
COPY --chmod=a-w,o= tree/d/f /plain
ADD archive.tar.xz archive.tar.bz2 /unpacked/
ADD --unpack=false archive.tar.xz /kept/
";
    let files = [
        ("x/y/z.txt", "z"),
        ("x/y/w/one.txt", "1"),
        ("x/y/w/two.md", "2"),
        ("docs/a.txt", "a"),
        ("docs/a.md", "m"),
        ("docs/sub/b.o", "o"),
        ("docs/sub/b.c", "c"),
        ("other.md", "m"),
        ("tree/d/f", "text"),
    ];
    let directory = context(&place, "ctx", text, &files);
    let tree = directory.join("tree");
    fs::write(tree.join(std::ffi::OsStr::from_bytes(b"not-\xff-utf8")), "bytes").unwrap();
    fs::hard_link(tree.join("d/f"), tree.join("same")).unwrap();
    let sparse = fs::File::create(tree.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 50_000_000).unwrap();
    fs::set_permissions(tree.join("d/f"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(directory.join("x/y"), fs::Permissions::from_mode(0o710)).unwrap();
    shell(
        &directory,
        "touch -h -d @1000000001.5 tree/d/f; touch -d @1000000002 tree/d; touch -d @1000000003 tree;
         mkdir a; echo in-xz > a/in-xz; tar -cJf archive.tar.xz -C a in-xz;
         echo in-bz2 > a/in-bz2; tar -cjf archive.tar.bz2 -C a in-bz2",
    );
    let capable = Command::new("setcap").args(["cap_net_raw+ep"]).arg(tree.join("sparse")).status();
    let done = build(&place, &directory, &["-t", "t"]);
    assert_eq!(done.code, 0, "{}", done.err);
    // A second time all is known.
    assert_eq!(build(&place, &directory, &["-t", "t"]).err.matches("CACHED").count(), 7);
    let list = prints(
        &place,
        "t",
        "cd /tree; stat -c '%n %a %h %Y' d d/f same; ls | grep -c not-; cat not-*; echo
         stat -c '%s %b' sparse | while read s b; do [ $((b * 512)) -lt 100000 ] && echo sparse $s; done
         cd /; find /parents /chosen /unpacked /kept | sort
         stat -c '%a' /parents/y /symbolic/f /plain",
    );
    assert_eq!(
        list,
        "d 755 2 1000000002\nd/f 4751 2 1000000001\nsame 4751 2 1000000001\n1\nbytes\nsparse 50000003\n\
         /chosen\n/chosen/a.txt\n/chosen/sub\n/chosen/sub/b.c\n\
         /kept\n/kept/archive.tar.xz\n\
         /parents\n/parents/w\n/parents/w/one.txt\n/parents/y\n/parents/y/z.txt\n\
         /unpacked\n/unpacked/in-bz2\n/unpacked/in-xz\n710\n755\n4550"
    );
    if capable.is_ok_and(|status| status.success()) {
        let layers = place.directory.join("root/layers");
        let found = shell(&layers, "find . -name sparse -exec getcap {} +");
        assert!(found.contains("cap_net_raw=ep"), "{found}");
    }
}

#[test]
fn privileged_linked_layers_outlive_their_base() {
    let Some(place) = Place::new("build-link") else { return };
    let text = "\
FROM busybox
RUN echo one > /one; ln -s /data /place
COPY --link --chown=robot file /place/file
";
    let directory = context(&place, "ctx", text, &[("file", "text")]);
    assert_eq!(build(&place, &directory, &["-t", "t"]).code, 0);
    // No link of the base is followed; names of users are those of the base.
    let look = "stat -c '%F' /place; stat -c %u:%g /place/file; cat /one";
    assert_eq!(prints(&place, "t", look), "directory\n1000:1000\none");
    let other = text.replace("echo one", "echo two");
    fs::write(directory.join("Dockerfile"), other).unwrap();
    let done = build(&place, &directory, &["-t", "t"]);
    assert_eq!(done.err.matches("CACHED").count(), 1, "{}", done.err);
    assert_eq!(prints(&place, "t", look), "directory\n1000:1000\ntwo");
    // Its content decides.
    fs::write(directory.join("file"), "other").unwrap();
    let done = build(&place, &directory, &["-t", "t"]);
    assert_eq!(done.err.matches("CACHED").count(), 1, "{}", done.err);
    assert_eq!(prints(&place, "t", "cat /place/file"), "other");
}

#[test]
fn privileged_what_is_mounted_to_be_written_is_nobodys() {
    let Some(place) = Place::new("build-rw") else { return };
    let text = "\
FROM busybox AS other
RUN mkdir /o; echo a > /o/f; chown 5:6 /o/f
FROM busybox
RUN --mount=type=bind,from=other,source=/o,target=/m,rw echo b >> /m/f; stat -c %u:%g /m/f > /own; cat /m/f > /seen
RUN --mount=type=bind,from=other,source=/o,target=/m cat /m/f >> /seen
RUN --mount=type=bind,target=/ctx,rw echo mine > /ctx/file; cat /ctx/file >> /seen
RUN --mount=type=bind,source=file,target=/one cat /one >> /seen; test ! -w /one/x
";
    let directory = context(&place, "ctx", text, &[("file", "theirs\n")]);
    let done = build(&place, &directory, &["-t", "t"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(
        prints(&place, "t", "cat /own /seen; ls -d /m /ctx /one 2>/dev/null | wc -l"),
        "5:6\na\nb\na\nmine\ntheirs\n0"
    );
    assert_eq!(fs::read_to_string(directory.join("file")).unwrap(), "theirs\n");
    assert_eq!(fs::read_dir(place.directory.join("root/snapshots")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(place.directory.join("run/builds")).unwrap().count(), 0);
}

/// Serves these files by http on a port of loopback, and tells how often each was asked for.
fn serve(files: Vec<(&'static str, Vec<u8>)>) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut request, mut byte) = (Vec::new(), [0u8]);
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                request.push(byte[0]);
            }
            let text = String::from_utf8_lossy(&request).into_owned();
            let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
            let answer = match files.iter().find(|(name, _)| *name == path) {
                Some((_, content)) => [
                    format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nLast-Modified: Sun, 09 Sep 2001 01:46:40 GMT\r\n\
                         Connection: close\r\n\r\n",
                        content.len()
                    )
                    .into_bytes(),
                    content.clone(),
                ]
                .concat(),
                None => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
            };
            log.lock().unwrap().push(path);
            let _ = stream.write_all(&answer);
        }
    });
    (port, asked)
}

#[test]
fn privileged_downloads_are_added_and_checked() {
    let Some(place) = Place::new("build-http") else { return };
    let archive = shell(&place.directory.join("."), "echo inside > in; tar -cJf a.tar.xz in; echo done");
    assert_eq!(archive, "done");
    let bytes = fs::read(place.directory.join("a.tar.xz")).unwrap();
    let (port, asked) = serve(vec![("/file.txt", b"text\n".to_vec()), ("/d/a.tar.xz", bytes)]);
    let address = format!("http://127.0.0.1:{port}");
    let digest = shell(&place.directory.join("."), "printf 'text\\n' | sha256sum | cut -d' ' -f1");
    let text = format!(
        "FROM busybox\n\
         ADD --checksum=sha256:{digest} --chmod=a+r {address}/file.txt /one/\n\
         ADD {address}/file.txt /two\n\
         ADD --unpack=true {address}/d/a.tar.xz /three\n\
         ADD {address}/d/a.tar.xz /four/\n"
    );
    let directory = context(&place, "ctx", &text, &[]);
    let done = build(&place, &directory, &["-t", "t"]);
    assert_eq!(done.code, 0, "{}", done.err);
    let look = "cat /one/file.txt /two /three/in; stat -c '%a %Y' /one/file.txt /two; ls /four";
    let want = "text\ntext\ninside\n644 1000000000\n600 1000000000\na.tar.xz";
    assert_eq!(prints(&place, "t", look), want);
    // What must have a digest is not asked for again; the rest is, and found to be the same.
    let before = asked.lock().unwrap().len();
    let done = build(&place, &directory, &["-t", "t"]);
    assert_eq!(done.err.matches("CACHED").count(), 4, "{}", done.err);
    assert_eq!(asked.lock().unwrap().len(), before + 3);
    for (line, want) in [
        (format!("ADD --checksum=sha256:{} {address}/file.txt /x", "0".repeat(64)), "has the digest sha256:"),
        (format!("ADD {address}/nothing /x"), "404"),
        (format!("ADD {address}/ /x/"), "cannot tell a file name"),
        (format!("ADD --keep-git-dir=true {address}/file.txt /x"), "--keep-git-dir is for git repositories"),
    ] {
        fs::write(directory.join("Dockerfile"), format!("FROM busybox\n{line}\n")).unwrap();
        let done = build(&place, &directory, &["-t", "t"]);
        assert!(done.code != 0 && done.err.contains(want), "{line}: {}", done.err);
    }
}

/// A server of the repositories below a directory, on a port of loopback.
struct Server(std::process::Child, u16);

impl Server {
    fn start(base: &Path) -> Option<Server> {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("git")
            .args(["daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", base.display()))
            .arg(base)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut server = Server(child, port);
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if server.0.try_wait().unwrap().is_some() {
                return None;
            }
            assert!(Instant::now() < deadline, "git daemon does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // `git daemon` is a child of `git`.
        let children = format!("/proc/{0}/task/{0}/children", self.0.id());
        for pid in fs::read_to_string(children).unwrap_or_default().split_whitespace() {
            if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[allow(clippy::print_stdout)] // why a test is skipped
fn privileged_repositories_are_added() {
    let Some(place) = Place::new("build-git") else { return };
    let base = place.directory.join("served");
    fs::create_dir_all(base.join("repo")).unwrap();
    let git = "export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b \
               GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b GIT_COMMITTER_DATE='1000000000 +0000'; ";
    let make = "git init -q -b main; mkdir -p src; echo one > src/file; echo '#!/bin/sh' > run; chmod 755 run; \
                git add .; git commit -qm 1; git tag -a -m v1 v1; echo two > src/file; git commit -qam 2; \
                git rev-parse v1^{commit} HEAD";
    let ids = shell(&base.join("repo"), &format!("{git}{make}"));
    let (first, second) = ids.split_once('\n').unwrap();
    let Some(server) = Server::start(&base) else {
        println!("skipped: git daemon is not installed");
        return;
    };
    let address = format!("git://127.0.0.1:{}/repo", server.1);
    let text = format!(
        "FROM busybox\n\
         ADD {address} /head\n\
         ADD --keep-git-dir=true {address}#v1 /kept\n\
         ADD --checksum={first} --chown=7:8 {address}#v1:src /part\n\
         ADD {address}?ref=main&subdir=src /query\n\
         ADD --exclude=src {address}#{first} /without\n"
    );
    let directory = context(&place, "ctx", &text, &[]);
    let done = build(&place, &directory, &["-t", "t"]);
    assert_eq!(done.code, 0, "{}", done.err);
    let list = prints(
        &place,
        "t",
        "cat /head/src/file /kept/src/file /part/file /query/file; stat -c '%a %u %Y' /head/run;
         stat -c %u:%g /part/file; ls -a /head /without; ls -d /kept/.git; cat /kept/.git/HEAD",
    );
    assert_eq!(
        list,
        format!(
            "two\none\none\ntwo\n755 0 1000000000\n7:8\n/head:\n.\n..\nrun\nsrc\n\n/without:\n.\n..\nrun\n\
             /kept/.git\n{first}"
        )
    );
    let again = build(&place, &directory, &["-t", "t"]);
    assert_eq!(again.err.matches("CACHED").count(), 5, "{}", again.err);
    for (line, want) in [
        (format!("ADD --checksum={second} {address}#v1 /x"), "is at the commit"),
        (format!("ADD {address}#nope /x"), "has no branch or tag `nope`"),
        (format!("ADD {address}#main:nope /x"), "has no directory `nope`"),
        (format!("ADD {address}?what=1 /x"), "`what` is not understood"),
        (format!("ADD file://{}/repo /x", base.display()), "cannot add a repository of this machine"),
    ] {
        fs::write(directory.join("Dockerfile"), format!("FROM busybox\n{line}\n")).unwrap();
        let done = build(&place, &directory, &["-t", "t"]);
        assert!(done.code != 0 && done.err.contains(want), "{line}: {}", done.err);
    }
    assert!(fs::metadata(place.directory.join("root")).unwrap().is_dir());
    assert_eq!(fs::metadata(base.join("repo/run")).unwrap().uid(), 0);
}
