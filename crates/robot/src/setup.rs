//! What this machine lacks for the robot workstation, as steps that can be read before they are done.
//!
//! Nothing here takes anything away: a file that is there with another text is left alone unless it is
//! ours, and where Docker is installed its name stays Docker's.

mod journal;
mod socket;

use robot_env_device::HostRoot;

use crate::doctor::{self, Mend};
use crate::{Family, Live, Os};

pub use journal::{Done, Journal};

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Writes a file whole; its directories are made.
    Write {
        /// Where.
        path: String,
        /// What.
        text: String,
    },
    /// Makes a symbolic link.
    Link {
        /// Where.
        path: String,
        /// What it leads to.
        target: String,
    },
    /// Runs lines in a shell.
    Run(Vec<String>),
    /// Shows lines that a person is to run: they change drivers or other programs.
    Show(Vec<String>),
    /// Nothing: it is as it should be, or is left alone.
    Nothing,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which of [`PARTS`] it belongs to.
    pub part: &'static str,
    /// What it is for, or why nothing is done.
    pub title: String,
    /// What it does.
    pub action: Action,
}

/// The parts, in the order in which they are done.
pub const PARTS: &[(&str, &str)] = &[
    ("apparmor", "a profile that lets an ordinary user's engine make user namespaces"),
    ("subuid", "subordinate ids"),
    ("groups", "groups that own serial ports, cameras, GPUs"),
    ("realtime", "limits of real-time priorities and locked memory"),
    ("dds", "network buffers for ROS 2"),
    ("udev", "device rules"),
    ("completion", "completion for bash, zsh and fish"),
    ("docker-link", "the name `docker` for this program"),
    ("docker-socket", "the Docker Engine API for clients, by systemd"),
    ("driver", "steps to NVIDIA's driver, to be read and run by a person"),
    ("docker", "steps to Docker beside this program, to be read and run by a person"),
];

/// The parts that are done only when they are asked for.
pub const ASKED_FOR: &[&str] = &["docker-socket"];

/// The parts of `setup --docker`.
pub const DOCKER: &[&str] = &["docker-link", "docker-socket"];

/// Scripts of shell completion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completions {
    /// For bash.
    pub bash: String,
    /// For zsh.
    pub zsh: String,
    /// For fish.
    pub fish: String,
}

/// The steps for this machine. `live` is the user for whom it is set up; `home` is where that user's own
/// files go if `system` is false.
pub fn plan(root: &HostRoot, live: &Live, completions: &Completions, home: Option<&str>) -> Vec<Step> {
    let os = Os::of(root);
    let findings = doctor::examine(root, live);
    let mut steps = apparmor(root, live);
    for part in ["subuid", "groups", "realtime", "dds"] {
        let mends: Vec<&Mend> = findings
            .iter()
            .filter(|finding| finding.check == part)
            .filter_map(|finding| finding.mend.as_ref().filter(|mend| mend.safe))
            .collect();
        let commands: Vec<String> = mends.iter().flat_map(|mend| mend.commands.clone()).collect();
        steps.push(if commands.is_empty() {
            step(part, "nothing is missing", Action::Nothing)
        } else {
            step(part, about(part), Action::Run(commands))
        });
    }
    steps.push(write(root, "udev", "/etc/udev/rules.d/70-robot-env.rules", UDEV));
    steps.extend(
        completion_files(completions, home)
            .into_iter()
            .map(|(path, text)| write(root, "completion", &path, text)),
    );
    steps.push(docker_link(root, live, home));
    steps.extend(socket::steps(root, live, home));
    steps.push(driver(root, &os, &findings));
    steps.push(docker(root, &os));
    steps
}

fn about(part: &str) -> &'static str {
    PARTS.iter().find(|(name, _)| *name == part).map_or("", |(_, about)| about)
}

fn step(part: &'static str, title: impl Into<String>, action: Action) -> Step {
    Step { part, title: title.into(), action }
}

/// The mark of files that are ours to write again.
const MARK: &str = "robot-env";

fn write(root: &HostRoot, part: &'static str, path: &str, text: &str) -> Step {
    match root.text(path) {
        Some(now) if now == text => step(part, format!("{path} is there"), Action::Nothing),
        Some(now) if !now.contains(MARK) => {
            step(part, format!("{path} is somebody else's: it is left alone"), Action::Nothing)
        }
        _ => step(part, about(part), Action::Write { path: path.to_owned(), text: text.to_owned() }),
    }
}

const UDEV: &str = "\
# Written by robot-env setup: whoever sits at the machine may use a robot's devices.
SUBSYSTEM==\"tty\", KERNEL==\"ttyUSB[0-9]*|ttyACM[0-9]*\", TAG+=\"uaccess\"
SUBSYSTEM==\"video4linux\", TAG+=\"uaccess\"
SUBSYSTEM==\"input\", ENV{ID_INPUT_JOYSTICK}==\"1\", TAG+=\"uaccess\"
SUBSYSTEM==\"usb\", ENV{ID_USB_INTERFACES}==\"*:0e*\", TAG+=\"uaccess\"
";

fn apparmor(root: &HostRoot, live: &Live) -> Vec<Step> {
    let switch = root.line("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    if switch.as_deref() != Some("1") {
        return vec![step("apparmor", "this kernel does not restrict user namespaces", Action::Nothing)];
    }
    let program = live.program.display();
    let text = format!(
        "# Written by robot-env setup.\nabi <abi/4.0>,\ninclude <tunables/global>\nprofile robot-env \"{program}\" flags=(unconfined) {{\n  userns,\n}}\n"
    );
    let path = "/etc/apparmor.d/robot-env";
    let first = write(root, "apparmor", path, &text);
    if first.action == Action::Nothing {
        return vec![first];
    }
    let load = Action::Run(vec![format!("sudo apparmor_parser -r {path}")]);
    vec![first, step("apparmor", "loads the profile", load)]
}

fn completion_files<'a>(completions: &'a Completions, home: Option<&str>) -> [(String, &'a str); 3] {
    let (bash, zsh, fish) = match home {
        Some(home) => (
            format!("{home}/.local/share/bash-completion/completions/robot-env"),
            format!("{home}/.local/share/zsh/site-functions/_robot-env"),
            format!("{home}/.config/fish/completions/robot-env.fish"),
        ),
        None => (
            "/usr/share/bash-completion/completions/robot-env".into(),
            "/usr/local/share/zsh/site-functions/_robot-env".into(),
            "/usr/share/fish/vendor_completions.d/robot-env.fish".into(),
        ),
    };
    [(bash, &completions.bash), (zsh, &completions.zsh), (fish, &completions.fish)]
}

fn docker_link(root: &HostRoot, live: &Live, home: Option<&str>) -> Step {
    const PART: &str = "docker-link";
    let link = match home {
        Some(home) => format!("{home}/.local/bin/docker"),
        None => "/usr/local/bin/docker".to_owned(),
    };
    let others =
        ["/usr/bin/docker", "/bin/docker", "/usr/sbin/docker", "/snap/bin/docker", "/usr/local/bin/docker"];
    for path in others.into_iter().chain([link.as_str()]) {
        if !root.exists(path) && std::fs::symlink_metadata(root.real(path)).is_err() {
            continue;
        }
        let own = std::fs::read_link(root.real(path)).is_ok_and(|target| target == live.program);
        let title = if own {
            format!("{path} is this program")
        } else {
            format!("{path} is there: the name `docker` is left to it")
        };
        return step(PART, title, Action::Nothing);
    }
    if socket::has_docker(root) {
        return step(
            PART,
            "a Docker daemon listens on this machine: its name is left to it",
            Action::Nothing,
        );
    }
    let target = live.program.display().to_string();
    let directory = link.trim_end_matches("/docker");
    let is_found = live.variable("PATH").is_none_or(|path| path.split(':').any(|one| one == directory));
    let title = if is_found {
        about(PART).to_owned()
    } else {
        format!("{}; {directory} is not in PATH now", about(PART))
    };
    step(PART, title, Action::Link { path: link, target })
}

fn driver(root: &HostRoot, os: &Os, findings: &[doctor::Finding]) -> Step {
    const PART: &str = "driver";
    let missing = findings.iter().any(|f| f.check == "gpu" && f.fact.contains("without NVIDIA's driver"));
    if !missing {
        let works = root.exists("/proc/driver/nvidia/version");
        let title = if works { "NVIDIA's driver is loaded" } else { "there is no NVIDIA card" };
        return step(PART, title, Action::Nothing);
    }
    let lines: Vec<&str> = match (os.family, os.id.as_str(), os.jetson) {
        (_, _, true) => vec!["sudo apt-get update", "sudo apt-get install -y nvidia-jetpack"],
        (Family::Debian, "ubuntu", _) => {
            vec![
                "sudo apt-get update",
                "ubuntu-drivers devices",
                "sudo ubuntu-drivers install",
                "sudo reboot",
            ]
        }
        (Family::Debian, _, _) => vec![
            "sudo apt-get install -y software-properties-common",
            "sudo apt-add-repository -y contrib non-free non-free-firmware",
            "sudo apt-get update",
            "sudo apt-get install -y linux-headers-$(uname -r) nvidia-driver",
            "sudo reboot",
        ],
        (Family::Fedora, _, _) => {
            vec!["sudo dnf install -y akmod-nvidia xorg-x11-drv-nvidia-cuda", "sudo reboot"]
        }
        (Family::Arch, _, _) => vec!["sudo pacman -S --noconfirm nvidia nvidia-utils", "sudo reboot"],
        (Family::Suse, _, _) => vec!["sudo zypper install -y nvidia-driver-G06-kmp-default", "sudo reboot"],
        (Family::Other, _, _) => vec!["# install NVIDIA's driver by this distribution's means, then reboot"],
    };
    step(
        PART,
        "NVIDIA's driver; no toolkit is needed",
        Action::Show(lines.into_iter().map(str::to_owned).collect()),
    )
}

fn docker(root: &HostRoot, os: &Os) -> Step {
    const PART: &str = "docker";
    if root.exists("/usr/bin/dockerd") || root.exists("/usr/bin/docker") {
        return step(
            PART,
            "Docker is installed and is left as it is; both work side by side",
            Action::Nothing,
        );
    }
    let title = "Docker is not needed; who wants it too";
    match os.install("docker.io", "docker", "docker") {
        Some(install) => step(
            PART,
            title,
            Action::Show(vec![
                install,
                "sudo systemctl enable --now docker".into(),
                "sudo usermod -aG docker $USER".into(),
            ]),
        ),
        None => step(PART, "Docker is not installed, and is not needed", Action::Nothing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use robot_env_testkit::temporary::TemporaryDirectory;

    fn place(files: &[(&str, &str)]) -> TemporaryDirectory {
        let place = TemporaryDirectory::new("setup");
        for (path, text) in files {
            let path = place.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        place
    }

    fn live() -> Live {
        Live { uid: 1000, user: "ada".into(), program: "/usr/bin/robot-env".into(), ..Live::default() }
    }

    fn steps(place: &TemporaryDirectory) -> Vec<Step> {
        let scripts = Completions {
            bash: "# robot-env b".into(),
            zsh: "# robot-env z".into(),
            fish: "# robot-env f".into(),
        };
        plan(&HostRoot::fixture(place.path()), &live(), &scripts, None)
    }

    fn of<'a>(steps: &'a [Step], part: &str) -> Vec<&'a Step> {
        steps.iter().filter(|step| step.part == part).collect()
    }

    #[test]
    fn a_bare_ubuntu_gets_everything() {
        let place = place(&[
            ("etc/os-release", "ID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"24.04\"\n"),
            ("proc/sys/kernel/osrelease", "6.8.0-31-generic\n"),
            ("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n"),
            ("etc/subuid", "bob:100000:65536\n"),
            ("etc/group", "dialout:x:20:\n"),
            ("dev/ttyUSB0", "c 188:0"),
            ("sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n"),
            ("sys/bus/pci/devices/0000:01:00.0/class", "0x030000\n"),
        ]);
        let steps = steps(&place);
        let Action::Write { path, text } = &of(&steps, "apparmor")[0].action else { panic!("{steps:?}") };
        assert!(
            path == "/etc/apparmor.d/robot-env"
                && text.contains("\"/usr/bin/robot-env\"")
                && text.contains("userns,")
        );
        let Action::Run(lines) = &of(&steps, "subuid")[0].action else { panic!("{steps:?}") };
        assert_eq!(lines[1], "sudo usermod --add-subuids 165536-231071 --add-subgids 165536-231071 ada");
        assert_eq!(of(&steps, "groups")[0].action, Action::Run(vec!["sudo usermod -aG dialout ada".into()]));
        assert!(
            matches!(&of(&steps, "docker-link")[0].action, Action::Link { path, .. } if path == "/usr/local/bin/docker")
        );
        let Action::Show(lines) = &of(&steps, "driver")[0].action else { panic!("{steps:?}") };
        assert!(lines.contains(&"sudo ubuntu-drivers install".into()));
        assert_eq!(of(&steps, "completion").len(), 3);
        for step in &steps {
            assert!(PARTS.iter().any(|(name, _)| *name == step.part), "{step:?}");
        }
    }

    #[test]
    fn a_user_has_a_link_of_their_own() {
        let place = place(&[("usr/bin/true", "")]);
        let link = |home| docker_link(&HostRoot::fixture(place.path()), &live(), home).action;
        let want = |path: &str| Action::Link { path: path.into(), target: "/usr/bin/robot-env".into() };
        assert_eq!(link(Some("/home/ada")), want("/home/ada/.local/bin/docker"));
        assert_eq!(link(None), want("/usr/local/bin/docker"));
        std::fs::create_dir_all(place.join("home/ada/.local/bin")).unwrap();
        std::fs::write(place.join("home/ada/.local/bin/docker"), "mine").unwrap();
        assert_eq!(link(Some("/home/ada")), Action::Nothing);
    }

    #[test]
    fn docker_and_foreign_files_are_left_alone() {
        let place = place(&[
            ("usr/bin/docker", "docker"),
            ("etc/udev/rules.d/70-robot-env.rules", "# my own\n"),
            ("usr/share/bash-completion/completions/robot-env", "# robot-env b"),
        ]);
        let steps = steps(&place);
        for part in ["docker-link", "docker", "udev", "driver", "apparmor"] {
            assert_eq!(of(&steps, part)[0].action, Action::Nothing, "{part}");
        }
        assert_eq!(of(&steps, "completion")[0].action, Action::Nothing);
        assert!(matches!(of(&steps, "completion")[1].action, Action::Write { .. }));
    }
}
