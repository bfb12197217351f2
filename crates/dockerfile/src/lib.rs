//! Dockerfiles: text to a syntax tree with spans; variable expansion; `.dockerignore`.
//!
//! Pure: no file, no clock, no environment. What a build knows besides the text comes in as data. The
//! measure is BuildKit's Dockerfile frontend. Instructions, stages and lints are built on this next.

pub mod ignore;
pub mod lex;
mod span;
mod syntax;

pub use span::{Fault, Position, Span, Word};
pub use syntax::{Directive, Heredoc, Node, Pair, Tree, find_directive};
