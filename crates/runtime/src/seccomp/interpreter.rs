//! The part of classic BPF that filters use, for tests.

use robot_env_sys::seccomp::Instruction;

use super::assemble::{AND, JUMP, JUMP_EQUAL, JUMP_GREATER, JUMP_NOT_LESS, LOAD, RETURN};

/// `struct seccomp_data`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Call {
    pub(super) number: u32,
    pub(super) architecture: u32,
    pub(super) arguments: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.architecture,
            16..=60 if offset.is_multiple_of(4) => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
            }
            _ => panic!("load from {offset}"),
        }
    }
}

/// The answer, and how many instructions it took.
pub(super) fn run(program: &[Instruction], call: &Call) -> (u32, usize) {
    let (mut at, mut accumulator, mut steps) = (0, 0u32, 0);
    loop {
        let i = program[at];
        steps += 1;
        at += 1;
        let branch = |yes: bool| usize::from(if yes { i.jt } else { i.jf });
        match i.code {
            LOAD => accumulator = call.word(i.k),
            AND => accumulator &= i.k,
            JUMP => at += i.k as usize,
            JUMP_EQUAL => at += branch(accumulator == i.k),
            JUMP_GREATER => at += branch(accumulator > i.k),
            JUMP_NOT_LESS => at += branch(accumulator >= i.k),
            RETURN => return (i.k, steps),
            code => panic!("unknown instruction {code:#x}"),
        }
    }
}
