//! Capability sets of the calling thread.

use rustix::io::Errno;

use crate::{CallError, CallResult};

/// Names by number, as `capabilities(7)` and `linux/capability.h` have them.
pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// A set of capabilities: bit n is capability n.
pub type Bits = u64;

/// The bit of a capability by its name (`CAP_KILL`); `None` for one that this program does not know.
pub fn bit(name: &str) -> Option<Bits> {
    NAMES.iter().position(|known| *known == name).map(|number| 1 << number)
}

fn prctl(option: libc::c_int, a: libc::c_ulong, b: libc::c_ulong) -> Result<i32, Errno> {
    // SAFETY: the capability options of prctl take plain numbers and touch no memory of ours.
    let rc = unsafe { libc::prctl(option, a, b, 0, 0) };
    if rc < 0 {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    } else {
        Ok(rc)
    }
}

/// The names in the bounding set.
pub fn bounding() -> Vec<String> {
    NAMES
        .iter()
        .enumerate()
        .filter(|(number, _)| prctl(libc::PR_CAPBSET_READ, *number as libc::c_ulong, 0) == Ok(1))
        .map(|(_, name)| (*name).to_owned())
        .collect()
}

/// Whether the effective set has `name`.
pub fn has_effective(name: &str) -> bool {
    let wanted = bit(name).unwrap_or(0);
    get().is_ok_and(|(effective, _, _)| effective & wanted != 0)
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;

/// The effective, permitted and inheritable sets.
pub fn get() -> CallResult<(Bits, Bits, Bits)> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: header and data have the layout that version 3 of the call wants.
    let rc = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    if rc < 0 {
        return Err(CallError::new(
            "capget()",
            Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO),
        ));
    }
    let join = |low: u32, high: u32| u64::from(low) | (u64::from(high) << 32);
    Ok((
        join(data[0].effective, data[1].effective),
        join(data[0].permitted, data[1].permitted),
        join(data[0].inheritable, data[1].inheritable),
    ))
}

/// Sets the effective, permitted and inheritable sets.
pub fn set(effective: Bits, permitted: Bits, inheritable: Bits) -> CallResult<()> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let half = |shift: u32| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: header and data have the layout that version 3 of the call wants.
    let rc = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    if rc < 0 {
        return Err(CallError::new(
            format!("capset(effective={effective:#x}, permitted={permitted:#x})"),
            Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO),
        ));
    }
    Ok(())
}

/// Drops everything outside `keep` from the bounding set.
pub fn limit_bounding(keep: Bits) -> CallResult<()> {
    for number in 0..64u64 {
        if keep & (1 << number) != 0 {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, number as libc::c_ulong, 0) {
            Ok(_) => {}
            Err(Errno::INVAL) => break, // beyond the kernel's last capability
            Err(errno) => return Err(CallError::new(format!("prctl(PR_CAPBSET_DROP, {number})"), errno)),
        }
    }
    Ok(())
}

/// Sets the ambient set; each must be permitted and inheritable.
pub fn set_ambient(bits: Bits) -> CallResult<()> {
    const CLEAR_ALL: libc::c_ulong = 4;
    const RAISE: libc::c_ulong = 2;
    // Kernels without ambient capabilities are older than any that is supported.
    prctl(libc::PR_CAP_AMBIENT, CLEAR_ALL, 0)
        .map_err(|e| CallError::new("prctl(PR_CAP_AMBIENT_CLEAR_ALL)", e))?;
    for number in (0..64u64).filter(|n| bits & (1 << n) != 0) {
        prctl(libc::PR_CAP_AMBIENT, RAISE, number as libc::c_ulong)
            .map_err(|e| CallError::new(format!("prctl(PR_CAP_AMBIENT_RAISE, {number})"), e))?;
    }
    Ok(())
}

/// Keeps the permitted set over the next change of the user id.
pub fn keep_over_setuid(keep: bool) -> CallResult<()> {
    prctl(libc::PR_SET_KEEPCAPS, libc::c_ulong::from(keep), 0)
        .map(drop)
        .map_err(|e| CallError::new("prctl(PR_SET_KEEPCAPS)", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_the_kernels_order() {
        assert_eq!(bit("CAP_CHOWN"), Some(1));
        assert_eq!(bit("CAP_SYS_ADMIN"), Some(1 << 21));
        assert_eq!(bit("CAP_CHECKPOINT_RESTORE"), Some(1 << 40));
        assert_eq!(bit("CAP_NOTHING"), None);
    }

    #[test]
    fn the_effective_set_can_be_read() {
        let (effective, permitted, _) = get().unwrap();
        assert_eq!(effective & !permitted, 0);
    }
}
