//! Builds of an ordinary user, with many ids and with one.

mod account;

use std::fs;

use account::{Account, cover};

const TEXT: &str = "\
FROM busybox AS tools
RUN id -u > /who; touch /tool
FROM busybox
COPY --chown=1000:1000 a.txt /srv/
COPY --link --chown=7 a.txt /linked/
COPY --from=tools /who /tool /srv/
RUN --mount=type=cache,target=/c,uid=1000,gid=1000 --mount=type=secret,id=s,uid=1000 \\
    --mount=type=bind,target=/context --mount=type=bind,from=tools,target=/t,rw \\
    stat -c '%u %n' /c /run/secrets/s /context/a.txt /srv/a.txt /linked/a.txt > /owners; \\
    cat /run/secrets/s /context/a.txt > /read; echo cached > /c/x; echo written > /t/w
RUN --mount=type=cache,target=/c cat /c/x >> /read
RUN rm -r /home/robot
";

/// Builds [`TEXT`], puts the result into a directory of the user's, and says who owns what.
#[track_caller]
fn assert_builds(user: &Account, owners: &str) {
    for (name, text) in [("Dockerfile", TEXT), ("a.txt", "A"), ("secret", "S")] {
        fs::create_dir_all(user.home.join("context")).unwrap();
        fs::write(user.home.join("context").join(name), text).unwrap();
    }
    let words = ["build", "-q", "--network", "none", "--squash", "--secret", "id=s,src=context/secret"];
    let outputs = ["-o", "type=docker", "-o", "files", "-t", "built", "context"];
    user.run(&[&words[..], &outputs].concat()).ok();
    let look = "cat /owners /read /srv/who; ls -d /home/robot 2>/dev/null; true";
    let said = user.run(&["run", "--rm", "--network", "none", "built", "sh", "-c", look]).ok();
    assert_eq!(said, format!("{owners}SAcached\n0"));
    let read = user.home.join("files/read");
    assert_eq!(fs::read_to_string(&read).unwrap(), "SAcached\n");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(&read).unwrap()), user.uid);
    assert!(!user.home.join("files/home/robot").exists());
    let left: Vec<_> = fs::read_dir(user.home.join("run/builds")).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    user.await_nobody();
}

#[test]
fn privileged_a_users_build_keeps_owners() {
    let Some(user) = Account::new() else { return };
    let owners = "1000 /c\n1000 /run/secrets/s\n0 /context/a.txt\n1000 /srv/a.txt\n7 /linked/a.txt\n";
    assert_builds(&user, owners);
}

#[test]
fn privileged_a_build_with_one_id_owns_everything() {
    let Some(user) = Account::new() else { return };
    cover("/etc/subuid", "/dev/null");
    cover("/etc/subgid", "/dev/null");
    // What was imported has the owners of many ids.
    fs::remove_dir_all(user.home.join("data")).unwrap_or_default();
    fs::remove_dir_all(user.home.join("run")).unwrap_or_default();
    user.run(&["import", "tree.tar", "busybox"]).ok();
    let owners = "0 /c\n0 /run/secrets/s\n0 /context/a.txt\n0 /srv/a.txt\n0 /linked/a.txt\n";
    assert_builds(&user, owners);
}
