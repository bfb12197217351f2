//! From the runtime spec's profile to what is answered for each system call.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};
use robot_env_diag::{Error, Kind, Result};

use super::assemble::{Condition, Decision, Operator, Section};
use super::tables::{self, Entry};

/// AUDIT_ARCH_* of linux/audit.h.
const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const AARCH64: u32 = 0xc000_00b7;
const ARM: u32 = 0x4000_0028;

/// Numbers of x32 calls have this bit.
const X32_BIT: u32 = 0x4000_0000;
/// The private calls of 32-bit arm begin here.
const ARM_PRIVATE: u32 = 0xf_0000;

const ENOSYS: u32 = 38;
/// SECCOMP_RET_KILL_PROCESS.
pub(super) const KILL_PROCESS: u32 = 0x8000_0000;
/// SECCOMP_RET_ERRNO.
pub(super) const ERRNO: u32 = 0x0005_0000;

fn native() -> Arch {
    if cfg!(target_arch = "aarch64") { Arch::ScmpArchAarch64 } else { Arch::ScmpArchX86_64 }
}

/// Table and audit number of an architecture whose calls can occur on this machine.
fn table(arch: Arch) -> Option<(u32, &'static [Entry])> {
    let arch = if arch == Arch::ScmpArchNative { native() } else { arch };
    Some(match arch {
        Arch::ScmpArchX86_64 => (X86_64, &tables::X86_64),
        Arch::ScmpArchX86 => (I386, &tables::I386),
        Arch::ScmpArchAarch64 => (AARCH64, &tables::AARCH64),
        Arch::ScmpArchArm => (ARM, &tables::ARM),
        _ => return None,
    })
}

/// The number of a system call.
pub(super) fn number(table: &[Entry], name: &str) -> Option<u32> {
    table.binary_search_by(|(known, _)| (*known).cmp(name)).ok().map(|at| table[at].1)
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32> {
    if action == LinuxSeccompAction::ScmpActNotify {
        return Err(Error::new(Kind::Unsupported, "seccomp action SCMP_ACT_NOTIFY is not supported"));
    }
    if errno.is_some_and(|e| e > 0xffff) {
        return Err(Error::invalid(format!("seccomp errno {} is out of range", errno.unwrap_or(0))));
    }
    Ok(action.as_u32(errno))
}

fn condition(arg: &LinuxSeccompArg) -> Result<Condition> {
    let argument = u32::try_from(arg.index()).ok().filter(|n| *n < 6);
    let argument =
        argument.ok_or_else(|| Error::invalid(format!("a system call has no argument {}", arg.index())))?;
    let value = arg.value();
    let (operator, operand) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => (Operator::NotEqual, value),
        LinuxSeccompOperator::ScmpCmpLt => (Operator::Less, value),
        LinuxSeccompOperator::ScmpCmpLe => (Operator::NotGreater, value),
        LinuxSeccompOperator::ScmpCmpEq => (Operator::Equal, value),
        LinuxSeccompOperator::ScmpCmpGe => (Operator::NotLess, value),
        LinuxSeccompOperator::ScmpCmpGt => (Operator::Greater, value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => (Operator::MaskedEqual(value), arg.value_two().unwrap_or(0)),
    };
    Ok(Condition { argument, operator, operand })
}

/// The rule's alternatives: all of the conditions of one must hold. Two conditions on one argument
/// are alternatives (as libseccomp, which takes one comparison an argument, makes runc see them).
fn alternatives(rule: &LinuxSyscall) -> Result<Vec<Vec<Condition>>> {
    let conditions = rule.args().iter().flatten().map(condition).collect::<Result<Vec<_>>>()?;
    let twice = conditions
        .iter()
        .enumerate()
        .any(|(at, c)| conditions[..at].iter().any(|d| d.argument == c.argument));
    Ok(if twice { conditions.into_iter().map(|c| vec![c]).collect() } else { vec![conditions] })
}

/// What `profile` answers, an architecture each.
///
/// A call's conditional rules come first, in the profile's order; then its unconditional one; then
/// the default. Calls that are newer than any that the profile names get ENOSYS instead of a
/// refusal, so that programs fall back to what they know (as runc has it).
pub(super) fn sections(profile: &LinuxSeccomp) -> Result<Vec<Section>> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let refuses = !matches!(
        profile.default_action(),
        LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog | LinuxSeccompAction::ScmpActTrace
    );
    let mut rules = Vec::new();
    for rule in profile.syscalls().iter().flatten() {
        rules.push((rule, alternatives(rule)?, action(rule.action(), rule.errno_ret())?));
    }
    let mut wanted: Vec<Arch> = vec![native()];
    for arch in profile.architectures().iter().flatten() {
        if !wanted.contains(arch) {
            wanted.push(*arch);
        }
    }
    let mut sections: Vec<Section> = Vec::new();
    for (architecture, table) in wanted.into_iter().filter_map(table) {
        if sections.iter().any(|s| s.architecture == architecture) {
            continue;
        }
        let mut calls: Vec<(u32, Decision)> = Vec::with_capacity(table.len());
        for (rule, alternatives, answer) in &rules {
            for name in rule.names() {
                // A name of another architecture, or of a kernel to come.
                let Some(number) = number(table, name) else { continue };
                let at = match calls.binary_search_by_key(&number, |(n, _)| *n) {
                    Ok(at) => at,
                    Err(at) => {
                        calls.insert(at, (number, Decision::First(Vec::new(), default)));
                        at
                    }
                };
                let Decision::First(conditional, last) = &mut calls[at].1 else { continue };
                for conditions in alternatives {
                    if conditions.is_empty() {
                        *last = *answer;
                    } else {
                        conditional.push((conditions.clone(), *answer));
                    }
                }
            }
        }
        let newest = calls.iter().map(|(n, _)| *n).filter(|n| *n < ARM_PRIVATE).max();
        let mut ranges: Vec<(u32, Decision)> = Vec::new();
        let mut put = |from: u32, decision: Decision| {
            if ranges.last().is_none_or(|(_, last)| *last != decision) {
                ranges.push((from, decision));
            }
        };
        let unknown = |number: u32| {
            let newer = refuses && newest.is_some_and(|newest| number > newest) && number < ARM_PRIVATE;
            Decision::Always(if newer { ERRNO | ENOSYS } else { default })
        };
        let mut next = 0;
        for (number, decision) in calls {
            if number > next {
                put(next, unknown(next));
                if number >= ARM_PRIVATE && next < ARM_PRIVATE {
                    put(ARM_PRIVATE, unknown(ARM_PRIVATE));
                }
            }
            put(
                number,
                match decision {
                    Decision::First(rules, last) if rules.is_empty() => Decision::Always(last),
                    other => other,
                },
            );
            next = number + 1;
        }
        put(next, unknown(next));
        if next < ARM_PRIVATE {
            put(ARM_PRIVATE, unknown(ARM_PRIVATE));
        }
        if architecture == X86_64 {
            // x32 is refused whole: no distribution uses it, and its calls are a second way to
            // what the rules above are about.
            put(X32_BIT, Decision::Always(ERRNO | ENOSYS));
        }
        sections.push(Section { architecture, ranges });
    }
    Ok(sections)
}
