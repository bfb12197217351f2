//! Which device nodes the processes of a cgroup may use: a list in files (version 1), a BPF program
//! that the kernel asks at each access (version 2).

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Cgroup, Version};
use crate::{CallError, CallResult, ErrnoContext};

/// What is allowed or denied; a later rule counts before an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// Allow or deny.
    pub allow: bool,
    /// `c` or `b`; `None`: both, and then all of the rest too.
    pub kind: Option<char>,
    /// `None`: any.
    pub major: Option<u32>,
    /// `None`: any.
    pub minor: Option<u32>,
    /// Whether it is about reading.
    pub read: bool,
    /// Whether it is about writing.
    pub write: bool,
    /// Whether it is about making a node.
    pub make: bool,
}

impl DeviceRule {
    /// A rule about everything.
    pub fn all(allow: bool) -> DeviceRule {
        DeviceRule { allow, kind: None, major: None, minor: None, read: true, write: true, make: true }
    }

    fn text(&self) -> String {
        let Some(kind) = self.kind else { return "a".into() };
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        let letters = [(self.read, 'r'), (self.write, 'w'), (self.make, 'm')];
        let access: String = letters.iter().filter(|(on, _)| *on).map(|(_, letter)| letter).collect();
        format!("{kind} {}:{} {access}", number(self.major), number(self.minor))
    }

    /// `BPF_DEVCG_ACC_*`.
    fn access(&self) -> i32 {
        i32::from(self.make) | i32::from(self.read) << 1 | i32::from(self.write) << 2
    }
}

impl Cgroup {
    /// Applies `rules`; without any that denies, everything stays allowed.
    ///
    /// # Errors
    /// EPERM where the caller may not load a program (version 2 in a user namespace).
    pub fn restrict_devices(&self, rules: &[DeviceRule]) -> CallResult<()> {
        if rules.iter().all(|rule| rule.allow) {
            return Ok(());
        }
        if self.version == Version::V2 {
            let Some(directory) = self.birthplace()? else { return Ok(()) };
            return attach(&program(rules), &directory);
        }
        let Some(directory) = self.directory("devices") else {
            return Err(CallError::new("write(devices.deny): no such controller", Errno::NOENT));
        };
        let open = |name: &str| {
            let path = directory.join(name);
            rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .call(|| format!("open({})", path.display()))
        };
        let (allow, deny) = (open("devices.allow")?, open("devices.deny")?);
        for (index, rule) in rules.iter().enumerate() {
            // What a later rule says again need not be said now.
            if rules[index + 1..].contains(rule) {
                continue;
            }
            let (file, name) = if rule.allow { (&allow, "allow") } else { (&deny, "deny") };
            let text = rule.text();
            rustix::io::write(file, text.as_bytes()).call(|| format!("write(devices.{name}, {text})"))?;
        }
        Ok(())
    }
}

impl Cgroup {
    /// Changes what a living cgroup may use: by `change` alone on version 1, by a new program of
    /// `all` on version 2, which takes the place of the old one.
    ///
    /// # Errors
    /// EPERM where the caller may not load a program.
    pub fn change_devices(&self, change: &DeviceRule, all: &[DeviceRule]) -> CallResult<()> {
        if self.version == Version::V2 {
            let Some(directory) = self.birthplace()? else { return Ok(()) };
            return replace(&program(all), &directory);
        }
        let Some(directory) = self.directory("devices") else { return Ok(()) };
        let path = directory.join(if change.allow { "devices.allow" } else { "devices.deny" });
        let text = change.text();
        let file = rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .call(|| format!("open({})", path.display()))?;
        rustix::io::write(&file, text.as_bytes())
            .map(drop)
            .call(|| format!("write({}, {text})", path.display()))
    }
}

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: to | (from << 4), offset, immediate }
}

/// BPF_LDX | BPF_MEM | BPF_W: load a word of the context.
const LOAD: u8 = 0x61;
/// BPF_ALU | BPF_AND | BPF_K.
const AND: u8 = 0x54;
/// BPF_ALU | BPF_RSH | BPF_K.
const SHIFT: u8 = 0x74;
/// BPF_ALU | BPF_MOV | BPF_X.
const COPY: u8 = 0xbc;
/// BPF_ALU64 | BPF_MOV | BPF_K.
const SET: u8 = 0xb7;
/// BPF_JMP | BPF_JNE | BPF_K.
const JUMP_UNLESS: u8 = 0x55;
/// BPF_JMP | BPF_JNE | BPF_X.
const JUMP_UNLESS_SAME: u8 = 0x5d;
/// BPF_JMP | BPF_JEQ | BPF_K.
const JUMP_IF: u8 = 0x15;
/// BPF_JMP | BPF_EXIT.
const EXIT: u8 = 0x95;

const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const RESULT: u8 = 0;
/// The context is not needed any more once its fields are loaded.
const SCRATCH: u8 = CONTEXT;

/// The program: rules from the last to the first, the first that matches answers.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut out = vec![
        // struct bpf_cgroup_dev_ctx { access_type: access << 16 | type, major, minor }
        instruction(LOAD, KIND, CONTEXT, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(LOAD, ACCESS, CONTEXT, 0, 0),
        instruction(SHIFT, ACCESS, 0, 0, 16),
        instruction(LOAD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD, MINOR, CONTEXT, 8, 0),
    ];
    let answer =
        |allow: bool| [instruction(SET, RESULT, 0, 0, i32::from(allow)), instruction(EXIT, 0, 0, 0, 0)];
    let mut default = true;
    for rule in rules.iter().rev() {
        let Some(kind) = rule.kind else {
            default = rule.allow;
            break;
        };
        let mut test = Vec::new();
        // BPF_DEVCG_DEV_BLOCK 1, _CHAR 2.
        test.push(instruction(JUMP_UNLESS, KIND, 0, 0, if kind == 'b' { 1 } else { 2 }));
        if rule.access() != 7 {
            test.push(instruction(COPY, SCRATCH, ACCESS, 0, 0));
            test.push(instruction(AND, SCRATCH, 0, 0, rule.access()));
            // All of what is wanted must be allowed; any of it may be denied.
            test.push(if rule.allow {
                instruction(JUMP_UNLESS_SAME, SCRATCH, ACCESS, 0, 0)
            } else {
                instruction(JUMP_IF, SCRATCH, 0, 0, 0)
            });
        }
        for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
            if let Some(number) = number {
                test.push(instruction(JUMP_UNLESS, register, 0, 0, number as i32));
            }
        }
        test.extend(answer(rule.allow));
        // Every jump leads behind this rule.
        let length = test.len();
        for (at, instruction) in test.iter_mut().enumerate() {
            if matches!(instruction.code, JUMP_UNLESS | JUMP_UNLESS_SAME | JUMP_IF) {
                instruction.offset = (length - at - 1) as i16;
            }
        }
        out.extend(test);
    }
    out.extend(answer(default));
    out
}

fn bpf(command: libc::c_long, attributes: &mut [u64; 16], call: &str) -> CallResult<libc::c_long> {
    // SAFETY: `attributes` is as large as is said, and what it points to outlives the call.
    let rc =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) };
    if rc < 0 {
        let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
        return Err(CallError::new(call, errno));
    }
    Ok(rc)
}

/// Two words of 32 bits as one of 64, the first one first in memory.
fn pair(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// Loads a program and attaches it to a cgroup; the cgroup keeps it.
fn attach(program: &[Instruction], directory: &OwnedFd) -> CallResult<()> {
    const PROG_LOAD: libc::c_long = 5;
    const PROG_ATTACH: libc::c_long = 8;
    const CGROUP_DEVICE_PROGRAM: u32 = 15;
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    let mut attributes = [0u64; 16];
    attributes[0] = pair(CGROUP_DEVICE_PROGRAM, program.len() as u32);
    attributes[1] = program.as_ptr() as u64;
    attributes[2] = c"Apache-2.0".as_ptr() as u64;
    let fd = bpf(PROG_LOAD, &mut attributes, "bpf(PROG_LOAD, CGROUP_DEVICE)")?;
    // SAFETY: the call returned a new descriptor that nothing else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    // attach needs a directory that is open for more than its path.
    let open = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let target = rustix::fs::openat(directory, ".", open, rustix::fs::Mode::empty())
        .map_err(|errno| CallError::new("open(cgroup)", errno))?;
    let mut attributes = [0u64; 16];
    attributes[0] = pair(target.as_fd().as_raw_fd() as u32, fd.as_raw_fd() as u32);
    attributes[1] = pair(CGROUP_DEVICE, ALLOW_MULTI);
    bpf(PROG_ATTACH, &mut attributes, "bpf(PROG_ATTACH, CGROUP_DEVICE)").map(drop)
}

/// Attaches a program beside those of before, of which all must agree, and takes the old ones away:
/// at no moment is more allowed than before or after.
fn replace(program: &[Instruction], directory: &OwnedFd) -> CallResult<()> {
    const PROG_DETACH: libc::c_long = 9;
    const PROG_GET_FD_BY_ID: libc::c_long = 13;
    const PROG_QUERY: libc::c_long = 16;
    const CGROUP_DEVICE: u32 = 6;
    let open = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let target = rustix::fs::openat(directory, ".", open, rustix::fs::Mode::empty())
        .map_err(|errno| CallError::new("open(cgroup)", errno))?;
    let cgroup = target.as_fd().as_raw_fd() as u32;
    let mut ids = [0u32; 64];
    let mut attributes = [0u64; 16];
    attributes[0] = pair(cgroup, CGROUP_DEVICE);
    attributes[2] = ids.as_mut_ptr() as u64;
    attributes[3] = pair(ids.len() as u32, 0);
    bpf(PROG_QUERY, &mut attributes, "bpf(PROG_QUERY, CGROUP_DEVICE)")?;
    let count = (attributes[3] & 0xffff_ffff) as usize;
    attach(program, directory)?;
    for id in ids.iter().take(count) {
        let mut attributes = [0u64; 16];
        attributes[0] = pair(*id, 0);
        let fd = bpf(PROG_GET_FD_BY_ID, &mut attributes, "bpf(PROG_GET_FD_BY_ID)")?;
        // SAFETY: the call returned a new descriptor that nothing else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let mut attributes = [0u64; 16];
        attributes[0] = pair(cgroup, fd.as_raw_fd() as u32);
        attributes[1] = pair(CGROUP_DEVICE, 0);
        bpf(PROG_DETACH, &mut attributes, "bpf(PROG_DETACH, CGROUP_DEVICE)")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: bool, kind: char, major: Option<u32>, minor: Option<u32>, access: &str) -> DeviceRule {
        let has = |c| access.contains(c);
        DeviceRule { allow, kind: Some(kind), major, minor, read: has('r'), write: has('w'), make: has('m') }
    }

    /// The part of eBPF that [`program`] uses.
    fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0u32; 10];
        let mut at = 0;
        loop {
            let i = program[at];
            let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            at += 1;
            let mut jump =
                |yes: bool| at = if yes { at.wrapping_add_signed(isize::from(i.offset)) } else { at };
            match i.code {
                LOAD => registers[to] = context[i.offset as usize / 4],
                AND => registers[to] &= i.immediate as u32,
                SHIFT => registers[to] >>= i.immediate,
                COPY => registers[to] = registers[from],
                SET => registers[to] = i.immediate as u32,
                JUMP_UNLESS => jump(registers[to] != i.immediate as u32),
                JUMP_UNLESS_SAME => jump(registers[to] != registers[from]),
                JUMP_IF => jump(registers[to] == i.immediate as u32),
                EXIT => return registers[0] != 0,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    #[test]
    fn the_program_answers_what_the_rules_say() {
        let rules = [
            DeviceRule::all(false),
            rule(true, 'c', None, None, "m"),
            rule(true, 'c', Some(1), Some(3), "rwm"),
            rule(true, 'c', Some(136), None, "rwm"),
            rule(true, 'b', Some(8), Some(0), "r"),
            rule(false, 'c', Some(136), Some(9), "w"),
        ];
        let program = program(&rules);
        let (make, read, write, block, char) = (1, 2, 4, 1, 2);
        for (kind, access, major, minor, want) in [
            (char, read, 1, 3, true),
            (char, read | write, 1, 3, true),
            (char, make, 200, 1, true),
            (char, read, 200, 1, false),
            (char, make | read, 200, 1, false),
            (block, read, 8, 0, true),
            (block, read | write, 8, 0, false),
            (block, read, 8, 1, false),
            (block, make, 8, 1, false),
            (char, read, 136, 5, true),
            (char, read | write, 136, 9, false),
            (char, read, 136, 9, true),
        ] {
            assert_eq!(run(&program, kind, access, major, minor), want, "{kind} {access} {major}:{minor}");
        }
        assert!(run(&super::program(&[DeviceRule::all(false), DeviceRule::all(true)]), char, read, 9, 9));
    }

    #[test]
    fn rules_in_the_form_of_version_1() {
        assert_eq!(rule(true, 'c', Some(1), None, "rm").text(), "c 1:* rm");
        assert_eq!(DeviceRule::all(false).text(), "a");
    }

    #[test]
    fn privileged_the_kernel_takes_the_program() {
        let unified = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].into_iter().map(std::path::Path::new);
        let Some(root) = unified
            .into_iter()
            .find(|path| path.join("cgroup.procs").exists() && path.join("cgroup.controllers").exists())
        else {
            println!("skipped: no version 2 hierarchy here");
            return;
        };
        let directory = root.join(format!("robot-env-test-{}", std::process::id()));
        if std::fs::create_dir(&directory).is_err() {
            println!("skipped: the version 2 hierarchy cannot be written");
            return;
        }
        let fd = crate::fs::open_directory(&directory).unwrap();
        let rules = [DeviceRule::all(false), rule(true, 'c', Some(1), Some(3), "rwm")];
        // First one that allows less: what counts is what took its place.
        let attached = attach(&program(&rules[..1]), &fd).and_then(|()| replace(&program(&rules), &fd));
        let script = format!(
            "echo 0 > {}/cgroup.procs; cat /dev/null && ! cat /dev/zero < /dev/null",
            directory.display()
        );
        let script = script.replace("! cat /dev/zero < /dev/null", "! head -c1 /dev/zero");
        let status = std::process::Command::new("sh").args(["-c", &script]).output();
        for _ in 0..100 {
            if std::fs::remove_dir(&directory).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        match attached {
            Err(error) if matches!(error.errno(), Errno::PERM | Errno::NOSYS | Errno::INVAL) => {
                println!("skipped: the kernel refuses: {error}");
                return;
            }
            other => other.unwrap(),
        }
        let output = status.unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("not permitted"), "{output:?}");
    }
}
