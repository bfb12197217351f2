//! What would have been enough instead of `--privileged`.

use robot_env_device::{HostRoot, selector};
use robot_env_spec::{ContainerSpec, GuiMode, MountSource};

use crate::ambient::Ambient;

/// One line for the user: flags for what this container was given by other means, and for the
/// devices that this host has.
pub(super) fn instead_of_privileged(spec: &ContainerSpec, ambient: &Ambient) -> String {
    let root = HostRoot::system();
    let mut flags: Vec<String> = Vec::new();
    let mut add = |flag: &str| {
        if !flags.iter().any(|had| had == flag) {
            flags.push(flag.to_owned());
        }
    };
    let binds = |wanted: &str| {
        spec.mounts
            .iter()
            .any(|mount| matches!(&mount.source, MountSource::Bind { source, .. } if source == wanted))
    };
    let sets =
        |name: &str| spec.env.iter().any(|entry| entry.split_once('=').is_some_and(|(had, _)| had == name));
    if spec.robot.gui != GuiMode::None
        || sets("DISPLAY")
        || binds("/tmp/.X11-unix")
        || binds("/tmp/.X11-unix/")
    {
        add("--gui");
    }
    let has_gpu = root.device("/dev/nvidiactl").is_some() || root.device("/dev/dxg").is_some();
    if has_gpu
        && (!spec.robot.gpus.is_empty()
            || sets("NVIDIA_VISIBLE_DEVICES")
            || spec.runtime.as_deref() == Some("nvidia"))
    {
        add("--gpus all");
    }
    // Somebody who wants everything of /dev wants what is plugged in.
    for (class, _) in selector::all(&root) {
        if matches!(class, "serial" | "camera" | "input" | "gpio" | "i2c" | "spi" | "sound") {
            add(&format!("--device {class}"));
        }
    }
    if binds("/dev/bus/usb") {
        add("--device usb");
    }
    for device in &spec.devices {
        add(&format!("--device {}", device.host));
    }
    for capability in &spec.cap_add {
        add(&format!("--cap-add {}", capability.trim_start_matches("CAP_")));
    }
    if spec.ulimits.iter().any(|ulimit| ulimit.name == "rtprio") || spec.robot.realtime {
        add("--realtime");
    }
    let program = if ambient.program.is_empty() { "robot-env" } else { &ambient.program };
    if flags.is_empty() {
        return format!(
            "--privileged gives the container everything; nothing that it was given here needs it: try without (`{program} device ls` shows devices for --device)"
        );
    }
    format!("--privileged gives the container everything; this may be enough: {}", flags.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use robot_env_spec::{DeviceSpec, Ulimit};

    #[test]
    fn what_a_container_was_given_says_what_it_needs() {
        let spec = ContainerSpec {
            env: vec!["DISPLAY=:0".into()],
            cap_add: vec!["CAP_SYS_NICE".into()],
            devices: vec![DeviceSpec {
                host: "/dev/fuse".into(),
                container: "/dev/fuse".into(),
                permissions: "rwm".into(),
            }],
            ulimits: vec![Ulimit { name: "rtprio".into(), soft: 99, hard: 99 }],
            ..ContainerSpec::default()
        };
        let text = instead_of_privileged(&spec, &Ambient::default());
        for flag in ["--gui", "--device /dev/fuse", "--cap-add SYS_NICE", "--realtime"] {
            assert!(text.contains(flag), "{flag} in {text}");
        }
        assert!(
            instead_of_privileged(&ContainerSpec::default(), &Ambient::default())
                .contains("--privileged gives")
        );
    }
}
