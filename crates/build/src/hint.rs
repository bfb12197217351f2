//! What probably helps a command that failed, by how it ended and what it printed last. Nothing where
//! neither says why.

use robot_env_diag::Error;
use robot_env_spec::NetworkMode;

/// A command of `RUN` that failed.
pub(crate) struct Ended<'e> {
    /// The Dockerfile's words.
    pub(crate) command: &'e str,
    /// Whether a shell reads them.
    pub(crate) shell: bool,
    pub(crate) code: i32,
    /// The end of what it printed.
    pub(crate) output: &'e str,
    /// Whom it ran as; empty for root.
    pub(crate) user: &'e str,
    pub(crate) network: &'e NetworkMode,
    /// Whether its memory was limited.
    pub(crate) limited: bool,
}

/// The exit code of a command that was not found.
const NOT_FOUND: i32 = 127;
/// That of one that cannot be run.
const NOT_RUN: i32 = 126;
/// That of one that was killed by SIGKILL.
const KILLED: i32 = 128 + 9;

const NOT_EXECUTABLE: &str = "the file is not executable: `COPY --chmod=755`, or `chmod +x` before";
const ANOTHER_MACHINE: &str =
    "the file is a program for another kind of machine, or a script whose first line is not `#!INTERPRETER`";

/// What a resolver says that reaches no server, or none that knows the name.
const UNRESOLVED: &[&str] = &[
    "Temporary failure resolving",
    "Temporary failure in name resolution",
    "Could not resolve host",
    "Could not resolve hostname",
    "unable to resolve host address",
    "Name or service not known",
    "getaddrinfo EAI_AGAIN",
    "bad address '",
    "DNS lookup failed",
    "temporary error (try again later)",
];
/// What is said where there is no way out.
const UNREACHABLE: &[&str] = &["Network is unreachable", "Network unreachable", "No route to host"];

/// Commands whose package of Debian has another name.
const PACKAGES: &[(&str, &str)] = &[
    ("pip", "python3-pip"),
    ("pip3", "python3-pip"),
    ("python", "python3 (and python-is-python3)"),
    ("g++", "g++ or build-essential"),
    ("make", "make or build-essential"),
    ("ssh", "openssh-client"),
    ("add-apt-repository", "software-properties-common"),
    ("lsb_release", "lsb-release"),
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("gpg", "gnupg"),
    ("colcon", "python3-colcon-common-extensions"),
    ("rosdep", "python3-rosdep"),
    ("vcs", "python3-vcstool"),
    ("xz", "xz-utils"),
];

/// See the module.
pub(crate) fn of_command(ended: &Ended<'_>) -> Option<String> {
    let says = |text: &str| ended.output.contains(text);
    let any = |texts: &[&str]| texts.iter().any(|text| says(text));
    if says("No space left on device") {
        return Some(
            "make room: `system df` shows what is kept, `builder prune` and `image prune` remove some".into(),
        );
    }
    if let Some(hint) = network(ended, any(UNRESOLVED), any(UNREACHABLE)) {
        return Some(hint);
    }
    if says("Exec format error") || says("exec format error") {
        return Some(ANOTHER_MACHINE.into());
    }
    if let Some(hint) = apt(ended) {
        return Some(hint);
    }
    if says("externally-managed-environment") {
        return Some(
            "pip leaves the distribution's Python alone: use `python3 -m venv`, or `pip install --break-system-packages`"
                .into(),
        );
    }
    if says("unable to get local issuer certificate") || says("No system certificates available") {
        return Some("install the package ca-certificates before".into());
    }
    if let Some(hint) = shell(ended) {
        return Some(hint);
    }
    if ended.code == NOT_FOUND {
        return not_found(ended);
    }
    denied(ended)
}

/// The error of a command that could not be started: its container has a name that nobody gave it, so the
/// error does without.
pub(crate) fn of_start(words: &[String], error: Error) -> Error {
    if !error.message().starts_with("cannot start container") {
        return error;
    }
    let mut report = error.to_report();
    let program = words.first().map(String::as_str).unwrap_or_default();
    report.message = format!("cannot run the command `{program}`");
    let says = |text: &str| report.causes.iter().any(|cause| cause.contains(text));
    if report.hint.is_none() {
        report.hint = if program.contains(' ') && says("not found in $PATH") {
            Some("the exec form has no shell: give each word a string of its own".into())
        } else if says("not found in $PATH") {
            Some(not_in_image(program))
        } else if says("exec: ") && says("permission denied") {
            Some(NOT_EXECUTABLE.into())
        } else if says("exec format error") {
            Some(ANOTHER_MACHINE.into())
        } else {
            None
        };
    }
    report.into()
}

fn network(ended: &Ended<'_>, unresolved: bool, unreachable: bool) -> Option<String> {
    if !unresolved && !unreachable {
        return None;
    }
    Some(match ended.network {
        NetworkMode::None => "this step has no network (`--network none`)".into(),
        _ if unresolved => {
            "names are not resolved: is the host online, and do the servers in its /etc/resolv.conf answer?"
                .into()
        }
        _ => "is the host online?".into(),
    })
}

fn apt(ended: &Ended<'_>) -> Option<String> {
    let says = |text: &str| ended.output.contains(text);
    let updates =
        ["apt-get update", "apt update", "aptitude update"].iter().any(|text| ended.command.contains(text));
    let unknown = says("E: Unable to locate package") || says("has no installation candidate");
    let gone = says("E: Failed to fetch") && says("404");
    if unknown && updates {
        return Some("is the package's name right, and its repository (universe, ROS, a PPA) set up?".into());
    }
    if unknown || (gone && !updates) {
        return Some("put `apt-get update &&` in front of the install, in the same RUN".into());
    }
    if says("Do you want to continue? [Y/n]") && says("Abort.") {
        return Some("nobody answers: `apt-get install -y`".into());
    }
    let locked = says("Could not open lock file /var/lib/") || says("are you root?");
    (locked && !ended.user.is_empty()).then(|| as_root(ended.user))
}

fn as_root(user: &str) -> String {
    format!("the command ran as `{user}`: put `USER root` in front of it, and `USER {user}` behind it")
}

/// What shells say of lines that are another shell's.
fn shell(ended: &Ended<'_>) -> Option<String> {
    let says = |text: &str| ended.output.contains(text);
    if !ended.shell {
        return None;
    }
    if says("\r: not found") || says("$'\\r'") || says("\r': ") {
        return Some("the script has the line ends of Windows: `dos2unix`, or `sed -i 's/\\r$//'`".into());
    }
    let bash = "`SHELL [\"/bin/bash\", \"-c\"]` makes the following RUNs bash's";
    if says("source: not found") {
        return Some(format!("`source` is bash's: write `.` in its place; {bash}"));
    }
    if says("Illegal option -o pipefail") || says("[[: not found") || says("pushd: not found") {
        return Some(format!("that is bash's; {bash}"));
    }
    None
}

/// The name that a shell says it did not find: `sh: 1: NAME: not found`, `sh: NAME: command not found`.
fn name_not_found(output: &str) -> Option<&str> {
    output.lines().rev().find_map(|line| {
        let line = line.trim_end();
        let front = line.strip_suffix(": not found").or_else(|| line.strip_suffix(": command not found"))?;
        Some(front.rsplit(": ").next().unwrap_or(front))
    })
}

fn not_found(ended: &Ended<'_>) -> Option<String> {
    let name = name_not_found(ended.output)?;
    if name == "sudo" && ended.user.is_empty() {
        return Some("RUN is root's already: leave out `sudo`".into());
    }
    if name.contains('/') {
        return Some(format!(
            "`{name}` is not there, or its interpreter or loader is not: the one in its `#!` line, or glibc's in an image of musl"
        ));
    }
    let plain = |sign: char| sign.is_alphanumeric() || "+-._".contains(sign);
    name.chars().all(plain).then(|| not_in_image(name))
}

fn not_in_image(name: &str) -> String {
    let package = PACKAGES.iter().find(|(command, _)| *command == name).map(|(_, package)| *package);
    let debian = package.map(|package| format!(" (Debian, Ubuntu: {package})")).unwrap_or_default();
    format!(
        "`{name}` is not in the image at this step: install it before{debian}, or add its directory to PATH"
    )
}

fn denied(ended: &Ended<'_>) -> Option<String> {
    let denied = ["Permission denied", "permission denied", "Operation not permitted"];
    let denied = denied.iter().any(|text| ended.output.contains(text));
    if ended.code == NOT_RUN && denied {
        return Some(NOT_EXECUTABLE.into());
    }
    if ended.code == KILLED && ended.limited {
        return Some(
            "was its memory too little? Give more by `--memory`, or run less at once (`make -j1`)".into(),
        );
    }
    (denied && !ended.user.is_empty()).then(|| as_root(ended.user))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_fails_names_the_command_and_not_the_container() {
        let word = |text: &str| vec![text.to_owned()];
        for (words, cause, want) in [
            (
                word("nope"),
                "exec: \"nope\": executable file not found in $PATH",
                "`nope` is not in the image",
            ),
            (word("make all"), "exec: \"make all\": executable file not found in $PATH", "no shell"),
            (word("/a"), "exec: \"/a\": permission denied", "chmod"),
        ] {
            let error = Error::not_found(cause).within("cannot start container `happy_name`");
            let error = of_start(&words, error);
            assert_eq!(error.message(), format!("cannot run the command `{}`", words[0]));
            assert!(error.hint().is_some_and(|hint| hint.contains(want)), "{error:?}");
        }
        let other = of_start(&word("a"), Error::invalid("network x not found"));
        assert_eq!(other.message(), "network x not found");
    }

    #[test]
    fn what_helps_is_told_by_code_and_output() {
        let none = NetworkMode::None;
        let bridge = NetworkMode::Default;
        let base = Ended {
            command: "",
            shell: true,
            code: 1,
            output: "",
            user: "",
            network: &bridge,
            limited: false,
        };
        for (ended, want) in [
            (Ended { output: "error", ..base }, None),
            (Ended { output: "x: No space left on device", ..base }, Some("`builder prune`")),
            (
                Ended { output: "E: Unable to locate package vim", command: "apt-get install vim", ..base },
                Some("`apt-get update &&`"),
            ),
            (
                Ended {
                    output: "E: Unable to locate package vmi",
                    command: "apt-get update && apt-get install vmi",
                    ..base
                },
                Some("is the package's name right"),
            ),
            (
                Ended {
                    output: "E: Failed to fetch http://x 404  Not Found",
                    command: "apt-get install -y vim",
                    ..base
                },
                Some("`apt-get update &&`"),
            ),
            (Ended { output: "Do you want to continue? [Y/n] Abort.", ..base }, Some("install -y")),
            (
                Ended { output: "E: Could not open lock file /var/lib/dpkg/lock", user: "robot", ..base },
                Some("`USER root`"),
            ),
            (Ended { output: "E: Could not open lock file /var/lib/dpkg/lock", ..base }, None),
            (
                Ended { output: "W: Temporary failure resolving 'deb'", network: &none, code: 100, ..base },
                Some("`--network none`"),
            ),
            (Ended { output: "curl: (6) Could not resolve host: x", ..base }, Some("/etc/resolv.conf")),
            (Ended { output: "connect: Network is unreachable", ..base }, Some("is the host online")),
            (Ended { output: "/bin/sh: 1: pip: not found", code: 127, ..base }, Some("Ubuntu: python3-pip")),
            (
                Ended { output: "sh: pipx: not found\n", code: 127, ..base },
                Some("`pipx` is not in the image"),
            ),
            (
                Ended { output: "bash: line 1: foo: command not found", code: 127, ..base },
                Some("`foo` is not in"),
            ),
            (Ended { output: "sh: pipx: not found\n", ..base }, None),
            (Ended { output: "sh: \u{7f}ELF: not found\n", code: 127, ..base }, None),
            (Ended { output: "sh: 1: sudo: not found", code: 127, ..base }, Some("leave out `sudo`")),
            (Ended { output: "sh: 1: ./run.sh: not found", code: 127, ..base }, Some("`#!`")),
            (Ended { output: "sh: 1: source: not found", code: 127, ..base }, Some("`.` in its place")),
            (Ended { output: "sh: 1: set: Illegal option -o pipefail", code: 2, ..base }, Some("SHELL")),
            (Ended { output: "sh: 1: x\r: not found", code: 127, ..base }, Some("Windows")),
            (Ended { output: "sh: ./x: Permission denied", code: 126, ..base }, Some("--chmod=755")),
            (Ended { output: "touch: /x: Permission denied", user: "robot", ..base }, Some("as `robot`")),
            (Ended { output: "touch: /x: Permission denied", ..base }, None),
            (
                Ended { output: "sh: 1: ./x: Exec format error", code: 126, ..base },
                Some("another kind of machine"),
            ),
            (Ended { output: "error: externally-managed-environment", ..base }, Some("venv")),
            (Ended { code: 137, limited: true, ..base }, Some("--memory")),
            (Ended { code: 137, ..base }, None),
        ] {
            let got = of_command(&ended);
            match want {
                None => assert_eq!(got, None, "{}", ended.output),
                Some(want) => {
                    assert!(got.as_ref().is_some_and(|got| got.contains(want)), "{}: {got:?}", ended.output);
                }
            }
        }
    }
}
