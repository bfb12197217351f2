use clap::{Args, Command, FromArgMatches};
use robot_env_spec::{AttachStreams, NetworkMode, RestartPolicy, UsernsMode};

use super::*;
use crate::command_line::{Flags, canonical};

fn parse(line: &str) -> Result<Wanted> {
    let words: Vec<String> = line.split_whitespace().map(|w| w.replace('~', " ")).collect();
    parse_words(&words)
}

fn parse_words(words: &[String]) -> Result<Wanted> {
    let command = ContainerFlags::augment_args(
        Command::new("run").no_binary_name(true).disable_help_flag(true).args_override_self(true),
    );
    let words = canonical(&command, Flags::First, words)?;
    let matches =
        command.try_get_matches_from(words).map_err(|e| robot_env_diag::Error::invalid(e.to_string()))?;
    let flags = ContainerFlags::from_arg_matches(&matches)
        .map_err(|e| robot_env_diag::Error::invalid(e.to_string()))?;
    let ambient = Ambient {
        environment: vec![("DISPLAY".into(), ":1".into())],
        directory: "/home/me".into(),
        ..Ambient::default()
    };
    flags.wanted(&ambient)
}

#[test]
fn the_robotics_workflow() {
    let wanted = parse(
        "-it --env=DISPLAY=:1 --env=QT_X11_NO_MITSHM=1 --volume=/tmp/.X11-unix:/tmp/.X11-unix:rw -e DISPLAY \
         --network host -p 8080:80 --volume=/home:/home registry.example:5000/robot-env/robot-env:cuda10.0 bash -c ls~--~-x",
    )
    .unwrap();
    let spec = wanted.spec;
    assert_eq!(spec.image, "registry.example:5000/robot-env/robot-env:cuda10.0");
    assert_eq!(spec.command.unwrap(), ["bash", "-c", "ls -- -x"]);
    assert!(spec.tty && spec.stdin_open && spec.stdin_once);
    assert_eq!(spec.attach, AttachStreams { stdin: true, stdout: true, stderr: true });
    assert_eq!(spec.env, ["DISPLAY=:1", "QT_X11_NO_MITSHM=1", "DISPLAY=:1"]);
    assert_eq!(spec.network, NetworkMode::Host);
    assert_eq!(spec.mounts.len(), 2);
    assert_eq!(wanted.warnings, ["published ports are discarded when using host network mode"]);
}

#[test]
fn everything_behind_the_image_is_the_programs() {
    let spec = parse("--rm image -- --rm -it --help -h").unwrap().spec;
    assert_eq!(spec.command.unwrap(), ["--", "--rm", "-it", "--help", "-h"]);
    assert!(spec.auto_remove && !spec.tty);
    assert_eq!(parse("image").unwrap().spec.command, None);
    assert_eq!(parse("-h box image").unwrap().spec.hostname.as_deref(), Some("box"));
}

#[test]
fn the_last_value_wins_and_entrypoints_reset() {
    let spec = parse("--user a --user b --entrypoint x image").unwrap().spec;
    assert_eq!((spec.user.as_deref(), spec.entrypoint), (Some("b"), Some(vec!["x".to_owned()])));
    let words = ["--entrypoint", "", "image"].map(str::to_owned);
    assert_eq!(parse_words(&words).unwrap().spec.entrypoint, Some(vec![]));
    assert_eq!(parse("image").unwrap().spec.entrypoint, None);
}

#[test]
fn values_reach_the_spec() {
    let spec = parse(
        "--memory 1g --memory-swap -1 --cpus 1.5 --pids-limit -1 --oom-score-adj -500 --restart on-failure:3 --stop-timeout -1 \
         --ulimit nofile=1024 --sysctl net.x=1 --cap-add sys_admin --device /dev/null --label a=b --userns host --shm-size 1g \
         --health-cmd true --health-interval 30s --tmpfs /run --log-opt max-size=1m --add-host a:1.2.3.4 -w /a/../b image",
    )
    .unwrap()
    .spec;
    assert_eq!(spec.resources.memory, Some(1 << 30));
    assert_eq!(spec.resources.memory_swap, Some(-1));
    assert_eq!(spec.resources.nano_cpus, Some(1_500_000_000));
    assert_eq!(spec.resources.pids_limit, Some(-1));
    assert_eq!(spec.resources.oom_score_adj, Some(-500));
    assert_eq!(spec.restart, RestartPolicy::OnFailure { maximum: 3 });
    assert_eq!(spec.stop_timeout, Some(-1));
    assert_eq!(spec.cap_add, ["CAP_SYS_ADMIN"]);
    assert_eq!(spec.sysctls["net.x"], "1");
    assert_eq!(spec.userns, UsernsMode::Host);
    assert_eq!(spec.shm_size, Some(1 << 30));
    let check = spec.healthcheck.unwrap();
    assert_eq!(
        (check.test, check.interval),
        (vec!["CMD-SHELL".to_owned(), "true".to_owned()], 30_000_000_000)
    );
    assert_eq!(spec.working_dir.as_deref(), Some("/b"));
    assert_eq!(parse("--no-healthcheck image").unwrap().spec.healthcheck.unwrap().test, ["NONE"]);
}

#[test]
fn what_cannot_be_is_refused() {
    for bad in [
        "",
        "--name",
        "--nope image",
        "--gpus nonsense image",
        "--link x image",
        "-p x image",
        "-p 80/sctp image",
        "--ip x image",
        "--network host --ip 1.2.3.4 image",
        "--network a --network b --ip 1.2.3.4 image",
        "--network none --network-alias x image",
        "--link-local-ip 169.254.1.1 image",
        "--rm --restart always image",
        "--uts host -h x image",
        "--pull sometimes image",
        "--name a/b image",
        "--name a image",
        "-w rel image",
        "-h a!b image",
        "--ipc x image",
        "--pid x image",
        "--userns x image",
        "--cgroupns x image",
        "--no-healthcheck --health-cmd x image",
        "--detach-keys ctrl-1 image",
        "-v /a:/x -v /b:/x image",
        "--network container:x -h y image",
        "--network container:x -p 80 image",
        "--dns x image",
        "--oom-score-adj 2000 image",
        "--shm-size 0 image",
        "--sysctl x image",
        "--attach x image",
        "--platform x/y/z/w image",
        "--volume-driver nfs image",
        "--isolation hyperv image",
        "--ipc host --shm-size 1g image",
        "--disable-content-trust=false image",
        "--memory 1x image",
        "--label =x image",
    ] {
        assert!(parse(bad).is_err(), "`{bad}` was accepted");
    }
}

#[test]
fn refusals_name_the_way_out() {
    let error = parse("--link x image").unwrap_err();
    assert!(error.hint().unwrap().contains("`network create NAME`"));
}

#[test]
fn the_clap_command_is_sound() {
    ContainerFlags::augment_args(Command::new("run").disable_help_flag(true)).debug_assert();
}
