//! System call filters: the built-in profile and profiles of the user's.
//!
//! A *profile* says what is allowed depending on the architecture, the capabilities and the
//! kernel; [`resolve`] decides those conditions and gives what the OCI runtime spec has, a list of
//! rules. A profile's JSON is either Docker's form (conditions, `archMap`) or the OCI's own
//! (`linux.seccomp`), which is the same without conditions.
//!
//! The facts of the built-in profile, which calls are allowed under what condition, follow Docker's
//! default (moby/profiles, `seccomp/default.json`, as of 2026); `allowed` arranges them by what they
//! are for, and says where it is stricter.

mod allowed;
mod profile;

use oci_spec::runtime::{Capabilities, LinuxSeccomp};
use robot_env_diag::{Context, Kind, Result};

/// The built-in profile, for a container with `capabilities` as its bounding set.
///
/// `architecture` is Rust's name of it (`x86_64`), `kernel` is (major, minor).
///
/// # Errors
/// `Unsupported` for an architecture that seccomp has no name for.
pub fn default_filter(architecture: &str, capabilities: &Capabilities, kernel: (u32, u32)) -> Result<LinuxSeccomp> {
    allowed::profile().resolve(architecture, capabilities, kernel)
}

/// A profile's JSON, in Docker's or the OCI's form, for a container with `capabilities` as its
/// bounding set.
///
/// # Errors
/// `InvalidInput` for a profile that does not parse or contradicts itself, `Unsupported` for an
/// architecture that seccomp has no name for.
pub fn resolve(json: &str, architecture: &str, capabilities: &Capabilities, kernel: (u32, u32)) -> Result<LinuxSeccomp> {
    let profile: profile::Profile =
        serde_json::from_str(json).context(Kind::InvalidInput, || "cannot read the seccomp profile".into())?;
    profile.resolve(architecture, capabilities, kernel)
}
