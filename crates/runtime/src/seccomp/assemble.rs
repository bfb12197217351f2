//! A classic BPF program as a balanced search tree over system call numbers.
//!
//! Jumps of classic BPF go forward only, and conditional ones by at most 255 instructions, so the
//! program is put together from its end: what a jump leads to always exists already, and where it
//! is too far away an unconditional jump is put in between.

use robot_env_sys::seccomp::Instruction;

/// BPF_LD | BPF_W | BPF_ABS.
pub(super) const LOAD: u16 = 0x20;
/// BPF_ALU | BPF_AND | BPF_K.
pub(super) const AND: u16 = 0x54;
/// BPF_JMP | BPF_JA.
pub(super) const JUMP: u16 = 0x05;
/// BPF_JMP | BPF_JEQ | BPF_K.
pub(super) const JUMP_EQUAL: u16 = 0x15;
/// BPF_JMP | BPF_JGT | BPF_K.
pub(super) const JUMP_GREATER: u16 = 0x25;
/// BPF_JMP | BPF_JGE | BPF_K.
pub(super) const JUMP_NOT_LESS: u16 = 0x35;
/// BPF_RET | BPF_K.
pub(super) const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    NotGreater,
    Greater,
    NotLess,
    /// The argument, masked by this, equals the operand.
    MaskedEqual(u64),
}

/// A condition on one argument of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) argument: u32,
    pub(super) operator: Operator,
    pub(super) operand: u64,
}

/// What a filter answers for a system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Always this.
    Always(u32),
    /// The action of the first rule all of whose conditions hold, else the last one.
    First(Vec<(Vec<Condition>, u32)>, u32),
}

/// What a filter answers for one architecture.
#[derive(Clone, Debug)]
pub(super) struct Section {
    /// AUDIT_ARCH_*.
    pub(super) architecture: u32,
    /// First number of each range and what holds from there on; ascending, the first begins at 0.
    pub(super) ranges: Vec<(u32, Decision)>,
}

/// A place in the program: its distance from the end.
type Label = usize;

#[derive(Default)]
struct Assembler {
    /// Last instruction first.
    reversed: Vec<Instruction>,
}

impl Assembler {
    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.reversed.push(Instruction { code, jt, jf, k });
        self.reversed.len() - 1
    }

    /// How many instructions the next one would have to skip to get to `label`.
    fn distance(&self, label: Label) -> usize {
        self.reversed.len() - label - 1
    }

    fn load(&mut self, offset: u32) -> Label {
        self.push(LOAD, 0, 0, offset)
    }

    fn give(&mut self, action: u32) -> Label {
        // An equal one close by serves too; not farther, so that jumps stay direct.
        let near = self.reversed.len().saturating_sub(200);
        let found = self.reversed[near..].iter().rposition(|i| i.code == RETURN && i.k == action);
        found.map_or_else(|| self.push(RETURN, 0, 0, action), |at| near + at)
    }

    fn branch(&mut self, code: u16, k: u32, mut yes: Label, mut no: Label) -> Label {
        const REACH: usize = u8::MAX as usize;
        while self.distance(yes) > REACH || self.distance(no) > REACH {
            let far = if self.distance(yes) > REACH { &mut yes } else { &mut no };
            let skip = self.reversed.len() - *far - 1;
            self.reversed.push(Instruction { code: JUMP, jt: 0, jf: 0, k: skip as u32 });
            *far = self.reversed.len() - 1;
        }
        let (jt, jf) = (self.distance(yes) as u8, self.distance(no) as u8);
        self.push(code, jt, jf, k)
    }

    fn condition(&mut self, condition: Condition, yes: Label, no: Label) -> Label {
        let low_offset = ARGUMENTS + 8 * condition.argument;
        let (high, low) = ((condition.operand >> 32) as u32, condition.operand as u32);
        match condition.operator {
            Operator::Equal => self.equal(low_offset, u64::MAX, condition.operand, yes, no),
            Operator::NotEqual => self.equal(low_offset, u64::MAX, condition.operand, no, yes),
            Operator::MaskedEqual(mask) => self.equal(low_offset, mask, condition.operand, yes, no),
            Operator::Greater => self.compare(low_offset, JUMP_GREATER, (high, low), yes, no),
            Operator::NotGreater => self.compare(low_offset, JUMP_GREATER, (high, low), no, yes),
            Operator::NotLess => self.compare(low_offset, JUMP_NOT_LESS, (high, low), yes, no),
            Operator::Less => self.compare(low_offset, JUMP_NOT_LESS, (high, low), no, yes),
        }
    }

    fn equal(&mut self, offset: u32, mask: u64, operand: u64, yes: Label, no: Label) -> Label {
        let half = |this: &mut Self, offset: u32, mask: u32, operand: u32, yes: Label| {
            if mask == 0 && operand == 0 {
                return yes;
            }
            this.branch(JUMP_EQUAL, operand, yes, no);
            if mask != u32::MAX {
                this.push(AND, 0, 0, mask);
            }
            this.load(offset)
        };
        let low = half(self, offset, mask as u32, operand as u32, yes);
        half(self, offset + 4, (mask >> 32) as u32, (operand >> 32) as u32, low)
    }

    fn compare(&mut self, offset: u32, code: u16, (high, low): (u32, u32), yes: Label, no: Label) -> Label {
        self.branch(code, low, yes, no);
        let low_half = self.load(offset);
        let same = self.branch(JUMP_EQUAL, high, low_half, no);
        self.branch(JUMP_GREATER, high, yes, same);
        self.load(offset + 4)
    }

    fn decision(&mut self, decision: &Decision) -> Label {
        match decision {
            Decision::Always(action) => self.give(*action),
            Decision::First(rules, otherwise) => {
                let mut next = self.give(*otherwise);
                for (conditions, action) in rules.iter().rev() {
                    let mut here = self.give(*action);
                    for condition in conditions.iter().rev() {
                        here = self.condition(*condition, here, next);
                    }
                    next = here;
                }
                next
            }
        }
    }

    fn tree(&mut self, ranges: &[(u32, Decision)]) -> Label {
        if let [(_, decision)] = ranges {
            return self.decision(decision);
        }
        let middle = ranges.len() / 2;
        let right = self.tree(&ranges[middle..]);
        let left = self.tree(&ranges[..middle]);
        self.branch(JUMP_NOT_LESS, ranges[middle].0, right, left)
    }
}

/// The program for `sections`; a call of any other architecture gets `stranger`.
pub(super) fn assemble(sections: &[Section], stranger: u32) -> Vec<Instruction> {
    let mut out = Assembler::default();
    let mut next = out.give(stranger);
    for section in sections.iter().rev() {
        out.tree(&section.ranges);
        let entry = out.load(NUMBER);
        next = out.branch(JUMP_EQUAL, section.architecture, entry, next);
    }
    // With nothing but strangers there is no comparison to load for.
    if !sections.is_empty() {
        out.load(ARCHITECTURE);
    }
    out.reversed.reverse();
    out.reversed
}
