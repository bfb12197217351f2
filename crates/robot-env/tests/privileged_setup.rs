//! `setup` on directories of its own: what it does, that once more changes nothing, that an existing
//! Docker stays, and that everything can be taken back.

mod place;

use std::process::Command;

use place::{Call, Done, Place};

/// Runs a script as root of a machine whose `/etc`, `/usr/bin`, `/usr/sbin`, `/usr/local` and
/// `/usr/share` may be changed, and on which there is no Docker.
fn on_a_machine(place: &Place, script: &str) -> Done {
    let before = format!(
        "set -e
        at={}
        for d in etc usr/bin usr/sbin usr/local usr/share; do
            [ ! -L /$d ] || continue
            mkdir -p $at/up/$d $at/work/$d
            mount -t overlay overlay -o lowerdir=/$d,upperdir=$at/up/$d,workdir=$at/work/$d /$d
        done
        mount -t tmpfs tmpfs /run
        for d in usr/bin usr/sbin usr/local/bin; do rm -f /$d/docker /$d/dockerd; done
        echo ada:x:4444:4444::/home/ada:/bin/sh >> /etc/passwd
        echo ada:x:4444: >> /etc/group
        look() {{ tar -C / --exclude='*-' --exclude=.pwd.lock --exclude=etc/robot-env --mtime=@0 --sort=name -cf - \
            etc usr/bin usr/local usr/share/bash-completion usr/share/fish 2>/dev/null | sha256sum; }}
        parts=subuid,udev,completion,docker-link
        {script}",
        place.directory.path().display()
    );
    let mut call = Call(Command::new("unshare"));
    call.0.args(["--mount", "--propagation", "private", "sh", "-c", &before]);
    call.env("RE", env!("CARGO_BIN_EXE_robot-env")).run()
}

#[test]
fn privileged_a_setup_is_done_once_and_can_be_taken_back() {
    let Some(place) = Place::new("setup") else { return };
    let done = on_a_machine(
        &place,
        "mkdir -p /usr/share/bash-completion/completions /usr/share/fish/vendor_completions.d
        mkdir -p /usr/local/share/zsh/site-functions /etc/udev/rules.d /etc/robot-env
        before=$(look)
        $RE setup --user ada --only $parts > /etc/robot-env/first
        grep -q 'links /usr/local/bin/docker' /etc/robot-env/first
        grep '^ada:' /etc/subuid
        grep -q uaccess /etc/udev/rules.d/70-robot-env.rules
        bash -n /usr/share/bash-completion/completions/robot-env
        docker version -f '{{.Client.Version}}' | grep -q .
        $RE setup --user ada --only $parts > /etc/robot-env/second
        ! grep -E '^  (writes|links|runs)' /etc/robot-env/second
        grep 'is this program' /etc/robot-env/second
        $RE setup --undo --dry-run | grep -q 'removes /usr/local/bin/docker'
        [ -L /usr/local/bin/docker ]
        $RE setup --undo
        [ \"$(look)\" = \"$before\" ]
        $RE setup --undo 2>&1 | grep 'nothing to undo'",
    );
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.out.contains("ada:") && done.out.contains("usermod --del-subuids"), "{done:?}");
}

#[test]
fn privileged_an_existing_docker_and_changed_files_stay() {
    let Some(place) = Place::new("setup-docker") else { return };
    let done = on_a_machine(
        &place,
        "printf '#!/bin/sh\\necho real\\n' > /usr/bin/docker; chmod 755 /usr/bin/docker
        mkdir -p /etc/udev/rules.d
        $RE setup --user ada --only $parts | grep -A1 docker-link
        [ \"$(/usr/bin/docker)\" = real ] && [ ! -e /usr/local/bin/docker ]
        echo '# robot-env, mine' > /etc/udev/rules.d/70-robot-env.rules
        $RE setup --undo 2>&1 | grep 'has changed since'
        grep mine /etc/udev/rules.d/70-robot-env.rules
        [ \"$(/usr/bin/docker)\" = real ]",
    );
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.out.contains("the name `docker` is left to it"), "{done:?}");
}

#[test]
fn privileged_docker_gets_a_name_and_a_socket_once() {
    let Some(place) = Place::new("setup-socket") else { return };
    let done = on_a_machine(
        &place,
        "mkdir -p /etc/robot-env
        before=$(look)
        $RE setup --docker --dry-run > /etc/robot-env/dry
        grep -q 'writes /etc/systemd/system/robot-env.socket' /etc/robot-env/dry
        ! grep -q subuid /etc/robot-env/dry
        [ \"$(look)\" = \"$before\" ]
        $RE setup --docker > /etc/robot-env/first
        [ \"$(readlink /usr/local/bin/docker)\" = \"$RE\" ]
        grep -qx \"ExecStart=$RE serve --idle-exit 10m\" /etc/systemd/system/robot-env.service
        grep -qx Symlinks=/run/docker.sock /etc/systemd/system/robot-env.socket
        # Here systemd does not run.
        grep -A3 'systemd does not run' /etc/robot-env/first | grep -qx \"    $RE serve\"
        [ ! -e /etc/systemd/system/sockets.target.wants/robot-env.socket ]
        if command -v systemd-analyze >/dev/null; then
            systemd-analyze verify --man=no --recursive-errors=no /etc/systemd/system/robot-env.socket > /etc/robot-env/verify 2>&1 || true
            ! grep robot-env. /etc/robot-env/verify
        fi
        $RE setup --docker > /etc/robot-env/second
        ! grep -E '^  (writes|links|runs)' /etc/robot-env/second
        $RE setup --undo
        rmdir -p --ignore-fail-on-non-empty /etc/systemd/system
        [ \"$(look)\" = \"$before\" ]
        printf '#!/bin/sh\\n' > /usr/bin/dockerd; chmod 755 /usr/bin/dockerd
        touch /run/docker.sock
        $RE setup --docker
        ! grep Symlinks /etc/systemd/system/robot-env.socket
        [ ! -e /usr/local/bin/docker ]",
    );
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.out.contains("Docker daemon listens on this machine: its name is left to it"), "{done:?}");
    assert!(done.out.contains("Docker is there and keeps its socket"), "{done:?}");
    assert!(done.out.contains("export DOCKER_HOST=unix:///run/robot-env/docker.sock"), "{done:?}");
}

#[test]
fn privileged_wrong_words_of_setup_are_refused() {
    let Some(place) = Place::new("setup-words") else { return };
    for (line, want) in [
        ("setup --only nothing", "there is no part `nothing` of the setup"),
        ("setup --undo --only udev", "cannot be used with"),
        ("setup --undo --docker", "cannot be used with"),
        ("setup --docker", "cannot set up a socket with --root"),
    ] {
        let done = place.run(line);
        assert!(done.code != 0 && done.err.contains(want), "{line}: {done:?}");
    }
}
