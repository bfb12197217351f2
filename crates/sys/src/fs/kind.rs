//! What a file system is for.

use std::os::fd::AsFd;

use crate::{CallResult, ErrnoContext};

/// Magic numbers (`linux/magic.h` and the file systems' sources) of those whose files are the
/// kernel's own: proc, sysfs, cgroup, cgroup2, debugfs, tracefs, securityfs, bpf, pstore, efivarfs,
/// configfs, binfmt_misc, mqueue, devpts, nsfs, fusectl, selinuxfs, smackfs.
const KERNEL: [u64; 18] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xcafe_4a11,
    0x6165_676c,
    0xde5e_81e4,
    0x6265_6570,
    0x4249_4e4d,
    0x1980_0202,
    0x1cd1,
    0x6e73_6673,
    0x6573_5543,
    0xf97c_ff8c,
    0x4341_5d53,
];

/// Whether the file behind `fd` is no file of anybody's but a view of the kernel (procfs, sysfs,
/// cgroups and their kin): its size says nothing, and reading or writing it may do anything.
pub fn is_kernel_file_system(fd: impl AsFd) -> CallResult<bool> {
    let magic = rustix::fs::fstatfs(&fd).call(|| format!("fstatfs({})", super::location(&fd).display()))?;
    // The field is 64 bits wide and some magic numbers have their 32nd bit set.
    Ok(KERNEL.contains(&(magic.f_type as u64 & 0xffff_ffff)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_the_kernels_and_the_working_directory_is_not() {
        for (path, want) in [("/proc", true), ("/sys", true), ("/proc/self/status", true), (".", false)] {
            let Ok(file) = std::fs::File::open(path) else {
                assert_ne!(path, ".");
                continue;
            };
            assert_eq!(is_kernel_file_system(&file).unwrap(), want, "{path}");
        }
    }
}
