//! The robot workstation's day: what is wrong with this machine ([`doctor`]), what it lacks
//! ([`setup`]), and what a project wants of its container ([`project`]).
//!
//! Findings and plans are pure over a [`HostRoot`](robot_env_device::HostRoot), a directory that stands
//! for the machine, and over the few live values in [`Live`]; whoever calls runs what is planned. A
//! project's file becomes the words of `create`: there is one grammar of containers.
//!
//! This crate deliberately knows no engine, no store and no terminal. It writes nothing, starts no
//! program and takes no lock.

pub mod doctor;
mod live;
mod os;
pub mod project;
pub mod setup;

pub use live::{Live, Mirror};
pub use os::{Family, Os};
