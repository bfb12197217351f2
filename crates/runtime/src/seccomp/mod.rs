//! System call filters: the runtime spec's profile becomes a classic BPF program.
//!
//! The kernel runs the filter at every system call, so it is a search tree over the call's number
//! (about eight comparisons for Docker's profile, where a list needs hundreds). Programs can be
//! kept in a cache directory of the caller's: a file each, named by the SHA-256 of what it was made
//! from, with its own checksum inside; nobody else may be able to write there.

mod assemble;
mod profile;
mod tables;

#[cfg(test)]
mod interpreter;

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag};
use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_sys::seccomp::{Instruction, LIMIT};
use sha2::{Digest, Sha256};

/// A compiled filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The program.
    pub program: Vec<Instruction>,
    /// SECCOMP_FILTER_FLAG_*.
    pub flags: u32,
}

/// Changes whenever the compiler or the tables do, so that old files are not found any more.
const GENERATION: &[u8] = b"robot-env seccomp 1\n";

/// Compiles `profile`.
///
/// # Errors
/// [`Kind::InvalidInput`] for a rule that means nothing, [`Kind::Unsupported`] for
/// `SCMP_ACT_NOTIFY`, and for a program that is longer than the kernel takes.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter> {
    let compiled = || -> Result<Filter> {
        let program = assemble::assemble(&profile::sections(profile)?, profile::KILL_PROCESS);
        if program.len() > LIMIT {
            let message = format!("its {} instructions are more than the kernel's {LIMIT}", program.len());
            return Err(Error::new(Kind::Unsupported, message));
        }
        Ok(Filter { program, flags: flags(profile)? })
    };
    compiled().within(|| "cannot compile the seccomp profile".into())
}

fn flags(profile: &LinuxSeccomp) -> Result<u32> {
    profile.flags().iter().flatten().try_fold(0, |all, flag| {
        Ok(all
            | match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => 2,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 4,
                // The process has one thread.
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                    return Err(Error::new(Kind::Unsupported, "a seccomp listener is not supported"));
                }
            })
    })
}

type Key = [u8; 32];

/// The last program that this process compiled or read.
static LAST: Mutex<Option<(Key, Arc<Filter>)>> = Mutex::new(None);

/// Like [`compile`], but takes the program from memory or from `directory` if it is there, and puts
/// it there otherwise. A cache that cannot be read or written is as good as none.
pub fn compile_cached(profile: &LinuxSeccomp, directory: Option<&Path>) -> Result<Arc<Filter>> {
    let key = key(profile);
    if let Ok(last) = LAST.lock()
        && let Some((known, filter)) = &*last
        && *known == key
    {
        return Ok(Arc::clone(filter));
    }
    let path = directory.map(|directory| directory.join(hex(&key)));
    let found = path.as_deref().and_then(|path| Some((fs::read(path).ok()?, flags(profile).ok()?)));
    let filter = if let Some(filter) =
        found.and_then(|(bytes, flags)| Some(Filter { program: decode(&bytes)?, flags }))
    {
        Arc::new(filter)
    } else {
        let filter = Arc::new(compile(profile)?);
        if let Some(path) = &path {
            let _ = store(path, &encode(&filter.program));
        }
        filter
    };
    if let Ok(mut last) = LAST.lock() {
        *last = Some((key, Arc::clone(&filter)));
    }
    Ok(filter)
}

fn key(profile: &LinuxSeccomp) -> Key {
    let mut hash = Sha256::new();
    hash.update(GENERATION);
    hash.update(std::env::consts::ARCH);
    hash.update(serde_json::to_vec(profile).unwrap_or_default());
    hash.finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from(b"0123456789abcdef"[usize::from(n & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// The checksum of the rest, then eight bytes an instruction.
fn encode(program: &[Instruction]) -> Vec<u8> {
    let mut body = Vec::with_capacity(program.len() * 8);
    for instruction in program {
        body.extend(instruction.code.to_ne_bytes());
        body.extend([instruction.jt, instruction.jf]);
        body.extend(instruction.k.to_ne_bytes());
    }
    let mut bytes = Sha256::digest(&body).to_vec();
    bytes.extend(body);
    bytes
}

fn decode(bytes: &[u8]) -> Option<Vec<Instruction>> {
    let (sum, body) = bytes.split_at_checked(32)?;
    let whole = !body.is_empty() && body.len() % 8 == 0 && Sha256::digest(body).as_slice() == sum;
    whole.then(|| {
        body.chunks_exact(8)
            .map(|b| Instruction {
                code: u16::from_ne_bytes([b[0], b[1]]),
                jt: b[2],
                jf: b[3],
                k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            })
            .collect()
    })
}

fn store(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension(std::process::id().to_string());
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    std::io::Write::write_all(&mut file, bytes)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests;
