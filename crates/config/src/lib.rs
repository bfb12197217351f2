//! Configuration files as they stand: `config.toml` of the system and of the user, and Docker's
//! `daemon.json`.
//!
//! [`Value`] is a document of JSON (with or without comments) or TOML whose every part knows its line
//! and column; [`Configuration`] is what the files say together. A syntax error or an unknown key is
//! a [`Finding`] with its place and never stops anything: the file, or the key, is left out.
//!
//! This crate deliberately knows no engine, no registry and no environment: it is told where the files
//! are, and gives plain values with the place where each was said. It writes nothing and takes no lock.
//!
//! Files, a later one winning: see [`Sources::of`].

mod configuration;
mod finding;
mod json;
mod key;
mod ranges;
mod source;
mod tables;
mod value;

pub use configuration::{Configuration, RegistrySection, Runtime, Said, Setting};
pub use finding::{Finding, Severity, nearest};
pub use key::{KEYS, Key, LIMITS, Meaning, Shape};
pub use ranges::bytes_of as bytes;
pub use source::{Format, Source, Sources, read_bytes, read_text};
pub use value::{Data, Entry, Position, Value};
