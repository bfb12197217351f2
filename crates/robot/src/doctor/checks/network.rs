//! Networks, DDS settings, registry mirrors.

use super::super::Finding;
use super::super::host::Host;

pub(super) fn networks(host: &Host<'_>) -> Vec<Finding> {
    const CHECK: &str = "networks";
    if host.live.is_user() {
        let mut out = Vec::new();
        if !host.has_program("pasta") && !host.has_program("slirp4netns") {
            let finding = Finding::warning(CHECK, "neither pasta nor slirp4netns is installed").because(
                "an ordinary user's containers reach each other, and do not reach the outside without one of them",
            );
            out.push(match host.os.install("passt", "passt", "passt") {
                Some(command) => finding.mended_by([command]).safely(),
                None => finding,
            });
        }
        if !host.root.exists("/dev/net/tun") {
            out.push(
                Finding::warning(CHECK, "/dev/net/tun does not exist")
                    .because("pasta and slirp4netns need it")
                    .mended_by(["sudo modprobe tun"])
                    .safely(),
            );
        }
        let used = [
            ("/dev/net/tun", "pasta and slirp4netns need it: containers do not reach the outside"),
            ("/dev/fuse", "--userns keep-id, nomap and auto need it"),
        ];
        for (device, why) in used.into_iter().filter(|(device, _)| host.live.closed.contains(device)) {
            out.push(
                Finding::warning(CHECK, format!("{device} is closed to {}", host.user()))
                    .because(why)
                    .mended_by([format!("sudo chmod 0666 {device}")]),
            );
        }
        if out.is_empty() {
            out.push(Finding::good(CHECK, "an ordinary user's containers can have a network"));
        }
        return out;
    }
    if !host.lists_modules() {
        return vec![Finding::good(
            CHECK,
            "the kernel does not tell its modules: networks show at first use",
        )];
    }
    let missing: Vec<&str> =
        ["bridge", "veth", "nf_tables"].into_iter().filter(|m| !host.has_module(m)).collect();
    if !missing.is_empty() {
        return vec![
            Finding::warning(CHECK, format!("the kernel shows no {}", missing.join(", ")))
                .because("bridges need them; --network host works")
                .mended_by([format!("sudo modprobe -a {}", missing.join(" "))])
                .safely(),
        ];
    }
    vec![Finding::good(CHECK, "bridges, veth and nf_tables are there")]
}

/// What ROS 2's documentation says on tuning DDS.
pub(super) fn dds(host: &Host<'_>) -> Vec<Finding> {
    const CHECK: &str = "dds";
    const WANTED: [(&str, &str, i64, bool, &str); 3] = [
        (
            "net.core.rmem_max",
            "/proc/sys/net/core/rmem_max",
            26_214_400,
            true,
            "large messages such as images and point clouds are lost",
        ),
        (
            "net.ipv4.ipfrag_time",
            "/proc/sys/net/ipv4/ipfrag_time",
            3,
            false,
            "a lost fragment blocks the buffer for so many seconds",
        ),
        (
            "net.ipv4.ipfrag_high_thresh",
            "/proc/sys/net/ipv4/ipfrag_high_thresh",
            134_217_728,
            true,
            "fragments of large messages are dropped",
        ),
    ];
    let mut out: Vec<Finding> = WANTED
        .iter()
        .filter_map(|(name, path, wanted, at_least, cause)| {
            let now = host.number(path)?;
            let fine = if *at_least { now >= *wanted } else { now <= *wanted };
            (!fine).then(|| {
                let line = format!("{name}={wanted}");
                Finding::note(CHECK, format!("{name} is {now}; ROS 2 recommends {wanted}"))
                    .because(*cause)
                    .mended_by([
                        format!("sudo sysctl -w {line}"),
                        format!("echo '{line}' | sudo tee -a /etc/sysctl.d/99-robot-env.conf"),
                    ])
                    .safely()
            })
        })
        .collect();
    if let Some(text) = host.live.variable("ROS_DOMAIN_ID")
        && !text.parse::<u32>().is_ok_and(|id| id <= 101)
    {
        out.push(
            Finding::warning(CHECK, format!("ROS_DOMAIN_ID is `{text}`"))
                .because("Linux has ports for the domains 0 to 101")
                .mended_by(["export ROS_DOMAIN_ID=42"]),
        );
    }
    if let Some(file) = host
        .live
        .variable("FASTRTPS_DEFAULT_PROFILES_FILE")
        .or_else(|| host.live.variable("FASTDDS_DEFAULT_PROFILES_FILE"))
        && !host.root.exists(file)
    {
        out.push(
            Finding::warning(CHECK, format!("the Fast DDS profile `{file}` does not exist"))
                .because("a variable of the environment names it: Fast DDS starts with its defaults"),
        );
    }
    if out.is_empty() {
        out.push(Finding::good(CHECK, "buffers are large enough"));
    }
    out
}

pub(super) fn mirrors(host: &Host<'_>) -> Vec<Finding> {
    host.live
        .mirrors
        .iter()
        .map(|mirror| match &mirror.answer {
            Ok(milliseconds) => Finding::good(
                "mirrors",
                format!("{} for {} answers after {milliseconds} ms", mirror.name, mirror.registry),
            ),
            Err(why) => Finding::warning(
                "mirrors",
                format!("{} for {} does not answer", mirror.name, mirror.registry),
            )
            .because(why.clone())
            .mended_by(["robot-env config show"]),
        })
        .collect()
}
