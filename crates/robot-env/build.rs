//! Two things that the dynamic loader need not do at each start (docs/design/010): a `run` starts
//! this program twice.
//!
//! - GNU's libgcc is linked in. The standard library asks for `libgcc_s`; a linker script of that
//!   name, found first, stands for the static libraries that the same C compiler brings.
//! - The program has a fixed address, so that its tables need no relocation.

use std::env;
use std::fs;
use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let of = |name: &str| env::var(name).unwrap_or_default();
    if of("CARGO_CFG_TARGET_OS") != "linux"
        || of("CARGO_CFG_TARGET_ENV") != "gnu"
        || of("HOST") != of("TARGET")
    {
        return;
    }
    let directory = PathBuf::from(of("OUT_DIR"));
    let script = directory.join("libgcc_s.so");
    if fs::write(&script, "GROUP ( libgcc_eh.a libgcc.a )\n").is_ok() {
        println!("cargo::rustc-link-arg-bins=-L{}", directory.display());
    }
    println!("cargo::rustc-link-arg-bins=-no-pie");
}
