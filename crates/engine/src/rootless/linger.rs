//! Whether a user's service manager stays when the user logs out (loginctl(1), enable-linger).

use std::path::Path;

use super::{Identity, ranges};

/// Whether the calling user's does.
pub(crate) fn is_on() -> bool {
    let Ok(identity) = Identity::current() else { return false };
    let passwd = ranges::read("/etc/passwd");
    ranges::name_of(&passwd, identity.user)
        .is_some_and(|name| Path::new("/var/lib/systemd/linger").join(name).exists())
}
