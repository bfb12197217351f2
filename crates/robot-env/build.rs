//! Links GNU's libgcc into the program instead of loading it at each start.
//!
//! The standard library asks for `libgcc_s`, of which this program uses next to nothing, and the
//! dynamic loader takes 0.2 ms for it, twice a `run`. A linker script of that name, found first,
//! stands for the static libraries that the same C compiler brings.

use std::env;
use std::fs;
use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let of = |name: &str| env::var(name).unwrap_or_default();
    if of("CARGO_CFG_TARGET_OS") != "linux" || of("CARGO_CFG_TARGET_ENV") != "gnu" || of("HOST") != of("TARGET") {
        return;
    }
    let directory = PathBuf::from(of("OUT_DIR"));
    let script = directory.join("libgcc_s.so");
    if fs::write(&script, "GROUP ( libgcc_eh.a libgcc.a )\n").is_ok() {
        println!("cargo::rustc-link-arg-bins=-L{}", directory.display());
    }
}
