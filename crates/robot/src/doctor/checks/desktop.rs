//! GPU, display, groups, real time.

use robot_env_device::gpu;

use super::super::Finding;
use super::super::host::Host;

pub(super) fn gpu(host: &Host<'_>) -> Vec<Finding> {
    const CHECK: &str = "gpu";
    let (found, damage) = gpu::list(host.root);
    let mut out: Vec<Finding> = found
        .iter()
        .map(|gpu| {
            Finding::good(CHECK, format!("{} {}, driver {}", gpu.vendor, gpu.model, or_none(&gpu.driver)))
        })
        .collect();
    for error in &damage {
        let finding = Finding::warning(CHECK, error.message());
        let finding = match error.causes().first() {
            Some(cause) => finding.because(cause.clone()),
            None => finding,
        };
        out.push(match error.hint() {
            Some(hint) => finding.mended_by([hint]),
            None => finding,
        });
    }
    if !out.iter().any(|finding| finding.fact.contains("nvidia"))
        && has_nvidia_card(host)
        && damage.is_empty()
    {
        let nouveau = host.root.exists("/sys/module/nouveau");
        let cause = if nouveau {
            "the driver nouveau has the card, and CUDA does not work with it"
        } else {
            "no driver is loaded"
        };
        out.push(
            Finding::warning(CHECK, "there is an NVIDIA card without NVIDIA's driver")
                .because(cause)
                .mended_by(["robot-env setup --dry-run"]),
        );
    }
    if out.is_empty() {
        out.push(
            Finding::note(CHECK, "no GPU was found").because("--gpus is refused; everything else works"),
        );
    }
    out
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "of the kernel" } else { text }
}

/// Whether the PCI bus has a display controller of NVIDIA's.
fn has_nvidia_card(host: &Host<'_>) -> bool {
    host.root.names("/sys/bus/pci/devices").iter().any(|name| {
        let line =
            |file: &str| host.root.line(&format!("/sys/bus/pci/devices/{name}/{file}")).unwrap_or_default();
        line("vendor") == "0x10de" && line("class").starts_with("0x03")
    })
}

pub(super) fn display(host: &Host<'_>) -> Vec<Finding> {
    const CHECK: &str = "display";
    let live = host.live;
    let mut out = Vec::new();
    if let Some(display) = live.variable("DISPLAY") {
        let number = display.rsplit(':').next().unwrap_or_default().split('.').next().unwrap_or_default();
        let local = display.starts_with(':') || display.starts_with("unix:");
        let socket = format!("/tmp/.X11-unix/X{number}");
        if local && !host.root.exists(&socket) {
            out.push(
                Finding::warning(CHECK, format!("DISPLAY is {display}, and {socket} does not exist"))
                    .because("there is no X server behind it")
                    .mended_by(["ls /tmp/.X11-unix"]),
            );
        } else {
            out.push(Finding::good(CHECK, format!("X11 on {display}")));
        }
        if let Some(file) = live.variable("XAUTHORITY")
            && !host.root.exists(file)
        {
            out.push(Finding::warning(CHECK, format!("XAUTHORITY is {file}, which does not exist")).because(
                "the desktop has made a new one since this shell began: log in anew, or start a new terminal",
            ));
        }
    }
    if let (Some(name), Some(directory)) =
        (live.variable("WAYLAND_DISPLAY"), live.variable("XDG_RUNTIME_DIR"))
    {
        let socket = if name.starts_with('/') { name.to_owned() } else { format!("{directory}/{name}") };
        out.push(if host.root.exists(&socket) {
            Finding::good(CHECK, format!("Wayland on {name}"))
        } else {
            Finding::warning(CHECK, format!("WAYLAND_DISPLAY is {name}, and {socket} does not exist"))
                .because("there is no compositor behind it")
        });
    }
    if out.is_empty() {
        out.push(
            Finding::note(CHECK, "neither DISPLAY nor WAYLAND_DISPLAY is set")
                .because("--gui has no display here; over ssh, `ssh -X` brings one"),
        );
    }
    out
}

/// Groups that own devices, what for, and the nodes that show that they matter on this machine.
const GROUPS: [(&str, &str, &[&str]); 7] = [
    ("dialout", "serial ports", &["ttyUSB", "ttyACM", "ttyS", "ttyTHS"]),
    ("video", "cameras", &["video", "nvhost", "nvmap"]),
    ("render", "GPUs", &["kfd"]),
    ("audio", "sound", &["snd"]),
    ("input", "joysticks", &["input"]),
    ("plugdev", "USB devices", &["bus"]),
    ("gpio", "GPIO pins", &["gpiochip"]),
];

pub(super) fn groups(host: &Host<'_>) -> Vec<Finding> {
    const CHECK: &str = "groups";
    if !host.live.is_user() {
        return Vec::new();
    }
    let nodes = host.root.names("/dev");
    let missing: Vec<(&str, &str)> = GROUPS
        .iter()
        .filter(|(name, _, prefixes)| {
            host.group(name).is_some_and(|group| !host.live.groups.contains(&group.gid))
                && (nodes.iter().any(|node| prefixes.iter().any(|prefix| node.starts_with(prefix)))
                    || (*name == "render"
                        && host.root.names("/dev/dri").iter().any(|n| n.starts_with("renderD"))))
        })
        .map(|(name, what, _)| (*name, *what))
        .collect();
    if missing.is_empty() {
        return vec![Finding::good(CHECK, format!("{} may use the devices that are here", host.user()))];
    }
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    let what: Vec<String> = missing.iter().map(|(name, what)| format!("{name} ({what})")).collect();
    vec![
        Finding::warning(CHECK, format!("{} is not in {}", host.user(), what.join(", ")))
            .because("a container has the rights of its user: these devices cannot be opened; log in anew after a change")
            .mended_by([format!("sudo usermod -aG {} {}", names.join(","), host.user())])
            .safely(),
    ]
}

pub(super) fn realtime(host: &Host<'_>) -> Vec<Finding> {
    const CHECK: &str = "realtime";
    let mut out = Vec::new();
    let limit = |name: &str| host.live.hard_limits.get(name).copied();
    if host.live.is_user() && limit("rtprio").is_some_and(|n| n < 90) {
        let user = host.user();
        out.push(
            Finding::note(CHECK, format!("the limit of real-time priorities is {}", limit("rtprio").unwrap_or(0)))
                .because("--realtime cannot give threads a real-time priority; log in anew after a change")
                .mended_by([format!(
                    "printf '{user} - rtprio 99\\n{user} - memlock unlimited\\n' | sudo tee /etc/security/limits.d/robot-env.conf"
                )])
                .safely(),
        );
    }
    if host.number("/proc/sys/kernel/sched_rt_runtime_us") == Some(0) {
        out.push(
            Finding::warning(CHECK, "kernel.sched_rt_runtime_us is 0")
                .because("the kernel gives no time to real-time threads")
                .mended_by(["sudo sysctl -w kernel.sched_rt_runtime_us=950000"]),
        );
    }
    if host.root.exists("/sys/fs/cgroup/cpu/cpu.rt_runtime_us")
        && host.number("/sys/fs/cgroup/cpu/robot-env/cpu.rt_runtime_us") == Some(0)
    {
        out.push(
            Finding::note(CHECK, "the control group of containers has no real-time budget")
                .because("this kernel was built with RT_GROUP_SCHED: each group needs a share of its own")
                .mended_by([
                    "robot-env run --cpu-rt-runtime 800000 --ulimit rtprio=99 --cap-add SYS_NICE IMAGE",
                ]),
        );
    }
    if out.is_empty() {
        let kernel = if host.root.line("/sys/kernel/realtime").as_deref() == Some("1") {
            ", PREEMPT_RT kernel"
        } else {
            ""
        };
        out.push(Finding::good(CHECK, format!("real-time priorities may be given{kernel}")));
    }
    out
}
