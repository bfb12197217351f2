//! What a setup has done, so that it can be undone.

use serde::{Deserialize, Serialize};

use super::socket::{DOCKERS, SYSTEM};
use super::{Action, Step};

/// Something that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "did")]
pub enum Done {
    /// Wrote a file.
    Wrote {
        /// Where.
        path: String,
        /// What.
        text: String,
        /// What was there before.
        before: Option<String>,
    },
    /// Made a symbolic link where nothing was.
    Linked {
        /// Where.
        path: String,
        /// What it leads to.
        target: String,
    },
    /// Ran a line of a shell.
    Ran {
        /// The line.
        line: String,
        /// The lines that take it back, in their order; none where nothing does.
        back: Vec<String>,
    },
}

/// All that setups have done on this machine, for one user or for all, the first first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// It.
    pub done: Vec<Done>,
}

impl Journal {
    /// What is about to be done for a step. `now` gives what a file has now.
    pub fn of(step: &Step, now: impl Fn(&str) -> Option<String>) -> Vec<Done> {
        match &step.action {
            Action::Write { path, text } => {
                vec![Done::Wrote { path: path.clone(), text: text.clone(), before: now(path) }]
            }
            Action::Link { path, target } => {
                vec![Done::Linked { path: path.clone(), target: target.clone() }]
            }
            Action::Run(lines) => {
                lines.iter().map(|line| Done::Ran { line: line.clone(), back: back(line, &now) }).collect()
            }
            Action::Show(_) | Action::Nothing => Vec::new(),
        }
    }
}

/// The lines that take back what a line of a [`Step`] does.
fn back(line: &str, now: &impl Fn(&str) -> Option<String>) -> Vec<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["sudo", "usermod", "-aG", groups, user] => {
            groups.split(',').map(|group| format!("sudo gpasswd -d {user} {group}")).collect()
        }
        ["sudo", "usermod", ..] if line.contains("--add-sub") => {
            vec![line.replace("--add-subuids", "--del-subuids").replace("--add-subgids", "--del-subgids")]
        }
        ["sudo", "sysctl", "-w", setting] => {
            let Some((key, _)) = setting.split_once('=') else { return Vec::new() };
            let path = format!("/proc/sys/{}", key.replace('.', "/"));
            let before = now(&path).map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
            before.map(|value| format!("sudo sysctl -w '{key}={value}'")).into_iter().collect()
        }
        ["sudo", "apparmor_parser", "-r", path] => vec![format!("sudo apparmor_parser -R {path}")],
        _ if line.contains("systemctl") && line.contains(" enable robot-env.socket") => {
            if !line.starts_with("sudo ") {
                return vec!["systemctl --user disable --now robot-env.socket".to_owned()];
            }
            // systemd does not take the link back, and leaves alone what is not ours.
            let link = format!("if [ \"$(readlink {DOCKERS})\" = {SYSTEM} ]; then sudo rm -f {DOCKERS}; fi");
            vec!["sudo systemctl disable --now robot-env.socket".to_owned(), link]
        }
        // Files of our own alone.
        [.., "sudo", "tee", path] | [.., "sudo", "tee", "-a", path]
            if path.contains("robot-env") && now(path).is_none() =>
        {
            vec![format!("sudo rm -f {path}")]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_what_takes_them_back() {
        let now = |path: &str| match path {
            "/proc/sys/net/core/rmem_max" => Some("212992\n".to_owned()),
            "/proc/sys/net/ipv4/ipfrag_time" => Some("30\n".to_owned()),
            "/etc/modules-load.d/robot-env.conf" => Some("mine\n".to_owned()),
            _ => None,
        };
        for (line, want) in [
            (
                "sudo usermod -aG dialout,video ada",
                &["sudo gpasswd -d ada dialout", "sudo gpasswd -d ada video"][..],
            ),
            (
                "sudo usermod --add-subuids 165536-231071 --add-subgids 165536-231071 ada",
                &["sudo usermod --del-subuids 165536-231071 --del-subgids 165536-231071 ada"],
            ),
            ("sudo sysctl -w net.core.rmem_max=2147483647", &["sudo sysctl -w 'net.core.rmem_max=212992'"]),
            ("sudo sysctl -w no.such.key=1", &[]),
            (
                "echo 'net.core.rmem_max=1' | sudo tee -a /etc/sysctl.d/99-robot-env.conf",
                &["sudo rm -f /etc/sysctl.d/99-robot-env.conf"],
            ),
            ("echo overlay | sudo tee /etc/modules-load.d/robot-env.conf", &[]),
            ("echo x | sudo tee /etc/hosts", &[]),
            (
                "sudo apparmor_parser -r /etc/apparmor.d/robot-env",
                &["sudo apparmor_parser -R /etc/apparmor.d/robot-env"],
            ),
            ("sudo touch /etc/subuid /etc/subgid", &[]),
            (
                "sudo systemctl daemon-reload && sudo systemctl enable robot-env.socket",
                &[
                    "sudo systemctl disable --now robot-env.socket",
                    "if [ \"$(readlink /run/docker.sock)\" = /run/robot-env/docker.sock ]; then sudo rm -f /run/docker.sock; fi",
                ],
            ),
            (
                "systemctl --user daemon-reload && systemctl --user enable robot-env.socket",
                &["systemctl --user disable --now robot-env.socket"],
            ),
        ] {
            assert_eq!(back(line, &now), want, "{line}");
        }
    }

    #[test]
    fn a_step_is_noted_with_what_was_there() {
        let step = |action| Step { part: "udev", title: String::new(), action };
        let now = |_: &str| Some("old".to_owned());
        let write = step(Action::Write { path: "/etc/x".into(), text: "new".into() });
        assert_eq!(
            Journal::of(&write, now),
            [Done::Wrote { path: "/etc/x".into(), text: "new".into(), before: Some("old".into()) }]
        );
        assert_eq!(Journal::of(&step(Action::Nothing), now), []);
        let journal = Journal { done: Journal::of(&write, now) };
        let text = serde_json::to_string(&journal).unwrap();
        assert_eq!(serde_json::from_str::<Journal>(&text).unwrap(), journal);
    }
}
