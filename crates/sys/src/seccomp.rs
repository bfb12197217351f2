//! Installing compiled seccomp filters.

use rustix::io::Errno;

use crate::{CallError, CallResult};

/// One instruction of a classic BPF program (`struct sock_filter`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if true.
    pub jt: u8,
    /// Instructions to skip if false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// The most instructions that the kernel takes (BPF_MAXINSNS).
pub const LIMIT: usize = 4096;

#[repr(C)]
struct Program {
    length: libc::c_ushort,
    filter: *const Instruction,
}

/// Installs a filter for the calling thread and whatever it executes. Needs CAP_SYS_ADMIN in the
/// user namespace or no_new_privs.
pub fn install(program: &[Instruction], flags: u32) -> CallResult<()> {
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    if program.is_empty() || program.len() > LIMIT {
        return Err(CallError::new(format!("seccomp({} instructions)", program.len()), Errno::INVAL));
    }
    let header = Program { length: program.len() as libc::c_ushort, filter: program.as_ptr() };
    // SAFETY: `header` describes `program`, which outlives the call; the kernel checks the program.
    let rc = unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const header) };
    if rc < 0 {
        let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
        return Err(CallError::new(
            format!("seccomp(SET_MODE_FILTER, {} instructions)", program.len()),
            errno,
        ));
    }
    Ok(())
}
