//! Kernel, namespaces, ids, control groups, file systems, disk, configuration.

use robot_env_config::Severity;

use super::super::Finding;
use super::super::host::Host;

/// The oldest kernel with everything: overlay in user namespaces is 5.11.
pub(super) fn kernel(host: &Host<'_>) -> Vec<Finding> {
    let Some((major, minor, release)) = host.kernel() else {
        return vec![Finding::warning("kernel", "the kernel's release cannot be read")];
    };
    let fact = format!("Linux {release}");
    let finding = match (major, minor) {
        (0..=4, _) | (5, 0..=3) => Finding::problem("kernel", fact)
            .because("containers need Linux 5.4 or newer: clone3, pidfds and the new mount calls are missing"),
        (5, 4..=10) if host.live.is_user() => Finding::warning("kernel", fact).because(
            "an ordinary user's overlay needs Linux 5.11 (an Ubuntu kernel has it earlier): images may be refused",
        ),
        (5, 4..=11) => Finding::note("kernel", fact).because("volumes cannot be mapped to other users: that is Linux 5.12"),
        _ => Finding::good("kernel", fact),
    };
    vec![finding]
}

pub(super) fn namespaces(host: &Host<'_>) -> Vec<Finding> {
    const CHECK: &str = "namespaces";
    let missing: Vec<&str> =
        ["mnt", "pid", "net", "ipc", "uts"].into_iter().filter(|name| !host.has_namespace(name)).collect();
    if !missing.is_empty() {
        return vec![
            Finding::problem(CHECK, format!("the kernel has no {} namespaces", missing.join(", ")))
                .because("it was built without them"),
        ];
    }
    if !host.live.is_user() {
        return vec![Finding::good(CHECK, "all kinds are there")];
    }
    if !host.has_namespace("user") {
        return vec![
            Finding::problem(CHECK, "the kernel has no user namespaces")
                .because("an ordinary user's containers live in one; root's do not need it"),
        ];
    }
    let keep = |line: &str| {
        vec![
            format!("sudo sysctl -w {line}"),
            format!("echo '{line}' | sudo tee -a /etc/sysctl.d/99-robot-env.conf"),
        ]
    };
    if host.number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        return vec![
            Finding::problem(CHECK, "the kernel gives user namespaces to root alone")
                .because("kernel.unprivileged_userns_clone is 0")
                .mended_by(keep("kernel.unprivileged_userns_clone=1")),
        ];
    }
    if host.number("/proc/sys/user/max_user_namespaces") == Some(0) {
        return vec![
            Finding::problem(CHECK, "the kernel allows no user namespaces")
                .because("user.max_user_namespaces is 0")
                .mended_by(keep("user.max_user_namespaces=28633")),
        ];
    }
    let restricted = host.number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1);
    if restricted && !host.root.exists("/etc/apparmor.d/robot-env") {
        return vec![
            Finding::problem(CHECK, "AppArmor gives user namespaces only to programs with a profile")
                .because("kernel.apparmor_restrict_unprivileged_userns is 1, and /etc/apparmor.d/robot-env does not exist")
                .mended_by([format!("sudo {} setup --only apparmor", host.live.program.display())]),
        ];
    }
    vec![Finding::good(CHECK, "all kinds are there, user namespaces for ordinary users too")]
}

pub(super) fn subordinate_ids(host: &Host<'_>) -> Vec<Finding> {
    const CHECK: &str = "subuid";
    if !host.live.is_user() {
        return Vec::new();
    }
    let mut out = Vec::new();
    if !host.has_program("newuidmap") || !host.has_program("newgidmap") {
        let finding = Finding::warning(CHECK, "newuidmap and newgidmap are not installed")
            .because("without them a container has a single user id: apt and sudo inside fail");
        out.push(match host.os.install("uidmap", "shadow-utils", "shadow") {
            Some(command) => finding.mended_by([command]).safely(),
            None => finding,
        });
    }
    let missing: Vec<(&str, &str)> = [("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")]
        .into_iter()
        .filter(|(file, _)| !host.has_range(file))
        .collect();
    if !missing.is_empty() {
        let files: Vec<&str> = missing.iter().map(|(file, _)| *file).collect();
        let start = free_range(host);
        let flags: Vec<String> =
            missing.iter().map(|(_, flag)| format!("{flag} {start}-{}", start + 65535)).collect();
        out.push(
            Finding::warning(
                CHECK,
                format!("{} has no range of 65536 ids for {}", files.join(" and "), host.user()),
            )
            .because("a container has a single user id then: apt and sudo inside fail")
            .mended_by([format!("sudo usermod {} {}", flags.join(" "), host.user())])
            .safely(),
        );
    }
    if out.is_empty() {
        out.push(Finding::good(CHECK, format!("{} has subordinate ids", host.user())));
    }
    out
}

/// The first id from 100000 on behind every range that somebody has.
fn free_range(host: &Host<'_>) -> u64 {
    let mut start: u64 = 100_000;
    for file in ["/etc/subuid", "/etc/subgid"] {
        for line in host.root.text(file).unwrap_or_default().lines() {
            let mut numbers = line.split(':').skip(1).map(|field| field.parse::<u64>().unwrap_or(0));
            let end = numbers.next().unwrap_or(0).saturating_add(numbers.next().unwrap_or(0));
            // What is out of the kernel's reach leaves nothing behind it.
            if end < 4_000_000_000 {
                start = start.max(end);
            }
        }
    }
    start
}

pub(super) fn cgroups(host: &Host<'_>) -> Vec<Finding> {
    const CHECK: &str = "cgroups";
    let unified = host.root.line("/sys/fs/cgroup/cgroup.controllers");
    let Some(controllers) = unified.filter(|list| !list.is_empty()) else {
        if host.root.names("/sys/fs/cgroup").iter().any(|name| name == "memory" || name == "pids") {
            let finding = Finding::note(CHECK, "control groups of version 1");
            return vec![if host.live.is_user() {
                finding
                    .because("nothing is delegated to ordinary users there: --memory and --cpus are left out")
            } else {
                finding
            }];
        }
        return vec![
            Finding::warning(CHECK, "no control groups are mounted")
                .because("limits like --memory and --cpus cannot be kept"),
        ];
    };
    if !host.live.is_user() {
        return vec![Finding::good(CHECK, format!("version 2 with {controllers}"))];
    }
    let uid = host.live.uid;
    let slice = format!("/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service/cgroup.controllers");
    let delegated = host.root.line(&slice).unwrap_or_default();
    let missing: Vec<&str> = ["cpu", "memory", "pids"]
        .into_iter()
        .filter(|wanted| !delegated.split_whitespace().any(|word| word == *wanted))
        .collect();
    if missing.is_empty() {
        return vec![Finding::good(CHECK, format!("version 2, {delegated} delegated to {}", host.user()))];
    }
    let text = "[Service]\\nDelegate=cpu cpuset io memory pids\\n";
    vec![
        Finding::note(
            CHECK,
            format!("version 2, but not delegated to {}: {}", host.user(), missing.join(", ")),
        )
        .because("limits by these cannot be kept for an ordinary user's containers")
        .mended_by([
            "sudo mkdir -p /etc/systemd/system/user@.service.d".to_owned(),
            format!("printf '{text}' | sudo tee /etc/systemd/system/user@.service.d/delegate.conf"),
            "sudo systemctl daemon-reload".to_owned(),
        ]),
    ]
}

pub(super) fn overlay(host: &Host<'_>) -> Vec<Finding> {
    if host.has_file_system("overlay") {
        return vec![Finding::good("overlay", "the kernel has it")];
    }
    vec![
        Finding::problem("overlay", "the kernel has no overlay file system")
            .because("images are its layers")
            .mended_by([
                "sudo modprobe overlay",
                "echo overlay | sudo tee /etc/modules-load.d/robot-env.conf",
            ])
            .safely(),
    ]
}

/// Below this share or size a pull of a robot's image fails.
pub(super) fn disk(host: &Host<'_>) -> Vec<Finding> {
    const CHECK: &str = "disk";
    const GIB: u64 = 1 << 30;
    let root = host.live.data_root.display();
    let mut out = Vec::new();
    if let Some((free, all)) = host.live.space {
        let fact = format!(
            "{:.1} GiB of {:.1} GiB free below {root}",
            free as f64 / GIB as f64,
            all as f64 / GIB as f64
        );
        let prune = ["robot-env system df", "robot-env system prune"];
        out.push(if free < 2 * GIB {
            Finding::problem(CHECK, fact).because("a pull needs more").mended_by(prune)
        } else if free < 15 * GIB {
            Finding::warning(CHECK, fact)
                .because("an image with CUDA and ROS has 5 to 15 GiB")
                .mended_by(prune)
        } else {
            Finding::good(CHECK, fact)
        });
    }
    if let Some((free, all)) = host.live.inodes.filter(|(_, all)| *all > 0)
        && free < all / 50
    {
        out.push(
            Finding::warning(CHECK, format!("only {free} of {all} inodes are free below {root}"))
                .because("an image with ROS has 200,000 files")
                .mended_by(["robot-env system prune"]),
        );
    }
    out
}

pub(super) fn configuration(host: &Host<'_>) -> Vec<Finding> {
    let wrong: Vec<Finding> = host
        .live
        .configuration
        .iter()
        .filter(|finding| finding.severity == Severity::Warning)
        .map(|finding| {
            Finding::warning("configuration", finding.to_string())
                .because("it is left out; everything else counts")
                .mended_by([format!("robot-env config check {}", finding.file.display())])
        })
        .collect();
    if wrong.is_empty() { vec![Finding::good("configuration", "every file is understood")] } else { wrong }
}
