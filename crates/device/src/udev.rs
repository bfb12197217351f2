//! What udev tells programs about a device (libudev's `udev_monitor`), for containers whose network
//! namespace is their own: udev itself speaks in the host's alone.

use robot_env_spec::ResolvedDevice;

use crate::root::HostRoot;

/// `libudev-monitor.c`: prefix, magic in network order, then sizes in host order and hashes for
/// filters in network order.
const HEADER: usize = 40;
const MAGIC: u32 = 0xfeed_cafe;

/// The message that a device has come (`add`) or gone (`remove`).
pub fn message(action: &str, properties: &[(String, String)]) -> Vec<u8> {
    let value =
        |name: &str| properties.iter().find(|(had, _)| had == name).map_or("", |(_, value)| value.as_str());
    let mut body = Vec::new();
    let action = [("ACTION".to_owned(), action.to_owned())];
    for (name, value) in action.iter().chain(properties) {
        body.extend_from_slice(format!("{name}={value}").as_bytes());
        body.push(0);
    }
    let hash = |text: &str| if text.is_empty() { 0 } else { murmur(text.as_bytes()) };
    let mut out = b"libudev\0".to_vec();
    out.extend(MAGIC.to_be_bytes());
    out.extend((HEADER as u32).to_ne_bytes());
    out.extend((HEADER as u32).to_ne_bytes());
    out.extend((body.len() as u32).to_ne_bytes());
    out.extend(hash(value("SUBSYSTEM")).to_be_bytes());
    out.extend(hash(value("DEVTYPE")).to_be_bytes());
    // No tags.
    out.extend([0; 8]);
    out.extend(body);
    out
}

/// A device's properties as sysfs has them, with its path inside; empty where sysfs has none.
pub fn properties(root: &HostRoot, device: &ResolvedDevice) -> Vec<(String, String)> {
    let kind = if device.kind == 'b' { "block" } else { "char" };
    let Some(place) = root.resolve(&format!("/sys/dev/{kind}/{}:{}", device.major, device.minor)) else {
        return Vec::new();
    };
    let subsystem = root.link(&format!("{place}/subsystem")).unwrap_or_default();
    let mut out = vec![
        ("DEVPATH".to_owned(), place.strip_prefix("/sys").unwrap_or(&place).to_owned()),
        ("SUBSYSTEM".to_owned(), subsystem.rsplit('/').next().unwrap_or_default().to_owned()),
        ("DEVNAME".to_owned(), device.path.clone()),
        ("MAJOR".to_owned(), device.major.to_string()),
        ("MINOR".to_owned(), device.minor.to_string()),
    ];
    let event = root.text(&format!("{place}/uevent")).unwrap_or_default();
    if let Some(kind) = event.lines().find_map(|line| line.strip_prefix("DEVTYPE=")) {
        out.push(("DEVTYPE".to_owned(), kind.to_owned()));
    }
    // libudev shows a device only once udev has been at it.
    out.push(("USEC_INITIALIZED".to_owned(), "1".to_owned()));
    out.push(("SEQNUM".to_owned(), "1".to_owned()));
    out
}

/// MurmurHash2 of 32 bits with seed 0, as libudev has it.
fn murmur(bytes: &[u8]) -> u32 {
    const MULTIPLY: u32 = 0x5bd1_e995;
    let mut hash = bytes.len() as u32;
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(MULTIPLY);
        k ^= k >> 24;
        hash = hash.wrapping_mul(MULTIPLY) ^ k.wrapping_mul(MULTIPLY);
    }
    let rest = words.remainder();
    for (at, byte) in rest.iter().enumerate() {
        hash ^= u32::from(*byte) << (8 * at);
    }
    if !rest.is_empty() {
        hash = hash.wrapping_mul(MULTIPLY);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLY);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_as_libudev_reads_it() {
        let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let out = message("add", &pairs(&[("DEVPATH", "/devices/x"), ("SUBSYSTEM", "tty")]));
        assert_eq!(&out[..12], b"libudev\0\xfe\xed\xca\xfe");
        let word = |at: usize| u32::from_ne_bytes(out[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!((word(12), word(16), word(20)), (HEADER, HEADER, out.len() - HEADER));
        assert_eq!(&out[HEADER..], b"ACTION=add\0DEVPATH=/devices/x\0SUBSYSTEM=tty\0");
        assert_eq!(out[24..28], murmur(b"tty").to_be_bytes());
        assert_eq!(out[28..32], [0; 4], "no kind, no filter");
    }

    #[test]
    fn the_hash_is_murmur_2() {
        // By the reference implementation (MurmurHash2.cpp) with seed 0.
        for (text, want) in [("", 0), ("a", 0x9268_5f5e), ("abcd", 0x2687_3021)] {
            assert_eq!(murmur(text.as_bytes()), want, "{text}");
        }
    }

    #[test]
    fn sysfs_describes_the_null_device() {
        let root = HostRoot::system();
        let Some(node) = root.device("/dev/null") else { return };
        let found = properties(&root, &node);
        if found.is_empty() {
            return;
        }
        assert!(found.contains(&("SUBSYSTEM".into(), "mem".into())), "{found:?}");
        assert!(found.contains(&("DEVPATH".into(), "/devices/virtual/mem/null".into())), "{found:?}");
    }
}
