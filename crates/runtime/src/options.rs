//! Mount options: words to attributes, propagation and what the file system itself is told.

use oci_spec::runtime::Mount;
use robot_env_diag::{Error, Kind, Result};
use robot_env_sys::mount::{Attributes, PropagationFlags};

/// Mount options in the forms that the calls want.
#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    /// Attributes of the mount itself.
    pub(crate) set: Attributes,
    pub(crate) clear: Attributes,
    /// Attributes of it and of everything below it.
    pub(crate) recursive_set: Attributes,
    pub(crate) recursive_clear: Attributes,
    pub(crate) bind: bool,
    /// Whether what is mounted below the source comes along.
    pub(crate) recursive: bool,
    pub(crate) propagation: Option<PropagationFlags>,
    /// Whether a tmpfs begins with what the image has there.
    pub(crate) copy_up: bool,
    /// Whether an existing mount is changed.
    pub(crate) remount: bool,
    pub(crate) data: Vec<String>,
}

/// The attribute that a word sets, or clears.
fn attribute(word: &str) -> Option<(Attributes, bool)> {
    Some(match word {
        "ro" => (Attributes::MOUNT_ATTR_RDONLY, true),
        "rw" => (Attributes::MOUNT_ATTR_RDONLY, false),
        "nosuid" => (Attributes::MOUNT_ATTR_NOSUID, true),
        "suid" => (Attributes::MOUNT_ATTR_NOSUID, false),
        "nodev" => (Attributes::MOUNT_ATTR_NODEV, true),
        "dev" => (Attributes::MOUNT_ATTR_NODEV, false),
        "noexec" => (Attributes::MOUNT_ATTR_NOEXEC, true),
        "exec" => (Attributes::MOUNT_ATTR_NOEXEC, false),
        "noatime" => (Attributes::MOUNT_ATTR_NOATIME, true),
        "strictatime" => (Attributes::MOUNT_ATTR_STRICTATIME, true),
        "nodiratime" => (Attributes::MOUNT_ATTR_NODIRATIME, true),
        "diratime" => (Attributes::MOUNT_ATTR_NODIRATIME, false),
        "nosymfollow" => (Attributes::MOUNT_ATTR_NOSYMFOLLOW, true),
        "symfollow" => (Attributes::MOUNT_ATTR_NOSYMFOLLOW, false),
        _ => return None,
    })
}

/// The propagation that a word stands for: `rslave`, `private`, ...
pub(crate) fn propagation(word: &str) -> Option<PropagationFlags> {
    Some(match word {
        "private" => PropagationFlags::PRIVATE,
        "rprivate" => PropagationFlags::PRIVATE | PropagationFlags::REC,
        "shared" => PropagationFlags::SHARED,
        "rshared" => PropagationFlags::SHARED | PropagationFlags::REC,
        "slave" => PropagationFlags::DOWNSTREAM,
        "rslave" => PropagationFlags::DOWNSTREAM | PropagationFlags::REC,
        "unbindable" => PropagationFlags::UNBINDABLE,
        "runbindable" => PropagationFlags::UNBINDABLE | PropagationFlags::REC,
        _ => return None,
    })
}

pub(crate) fn parse(mount: &Mount) -> Result<Options> {
    let none = Attributes::empty();
    let mut out = Options {
        set: none,
        clear: none,
        recursive_set: none,
        recursive_clear: none,
        bind: false,
        recursive: false,
        propagation: None,
        copy_up: false,
        remount: false,
        data: Vec::new(),
    };
    for word in mount.options().iter().flatten().map(String::as_str) {
        match word {
            "bind" => out.bind = true,
            "rbind" => {
                out.bind = true;
                out.recursive = true;
            }
            "remount" => out.remount = true,
            "tmpcopyup" => out.copy_up = true,
            // The kernel's own defaults.
            "defaults" | "async" | "atime" | "relatime" | "norelatime" | "nostrictatime" | "loud"
            | "nomand" | "noiversion" | "nolazytime" | "nofail" | "" => {}
            "idmap" | "ridmap" => {
                return Err(Error::new(
                    Kind::Unsupported,
                    "mounts with id maps of their own are not supported",
                ));
            }
            _ => {
                if let Some(flags) = propagation(word) {
                    out.propagation = Some(flags);
                } else if let Some((attribute, set)) = attribute(word) {
                    // The last word counts.
                    out.set.set(attribute, set);
                    out.clear.set(attribute, !set);
                } else if let Some((attribute, set)) = word.strip_prefix('r').and_then(attribute) {
                    out.recursive_set.set(attribute, set);
                    out.recursive_clear.set(attribute, !set);
                } else {
                    out.data.push(word.to_owned());
                }
            }
        }
    }
    if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
        return Err(Error::new(Kind::Unsupported, "mounts with id maps of their own are not supported"));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::MountBuilder;

    #[test]
    fn words_become_attributes() {
        let parse = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
            parse(&MountBuilder::default().destination("/x").options(words).build().unwrap()).unwrap()
        };
        let options = parse(&["rbind", "ro", "nosuid", "rslave"]);
        assert!(options.bind && options.recursive);
        assert_eq!(options.set, Attributes::MOUNT_ATTR_RDONLY | Attributes::MOUNT_ATTR_NOSUID);
        assert_eq!(options.propagation, Some(PropagationFlags::DOWNSTREAM | PropagationFlags::REC));
        let options = parse(&["ro", "rw", "size=64k", "mode=1777", "relatime"]);
        assert_eq!((options.set, options.clear), (Attributes::empty(), Attributes::MOUNT_ATTR_RDONLY));
        assert_eq!(options.data, ["size=64k", "mode=1777"]);
        let options = parse(&["rro", "rnoexec"]);
        assert_eq!(options.recursive_set, Attributes::MOUNT_ATTR_RDONLY | Attributes::MOUNT_ATTR_NOEXEC);
        assert!(options.data.is_empty());
    }
}
