//! Dockerfiles: text to a syntax tree with spans, to instructions, to stages; variables, checks, and
//! `.dockerignore`.
//!
//! Pure: no file, no clock, no environment. What a build knows besides the text (build arguments,
//! platforms, the environment of a base image) comes in as data. The measure is BuildKit's
//! Dockerfile frontend.
//!
//! ```
//! use robot_env_dockerfile::{Dockerfile, Parameters, Source};
//! let text = "FROM debian AS base\nRUN echo hi\nFROM base\nCOPY --from=base /a /b\n";
//! let file = Dockerfile::parse(text).unwrap();
//! assert_eq!(file.target(Some("BASE")).unwrap(), 0);
//! let globals = file.globals(&Parameters::default()).unwrap();
//! let stages = file.resolve(&globals).unwrap();
//! assert_eq!(stages[1].base, Source::Stage(0));
//! ```

pub mod ignore;
mod instruction;
pub mod lex;
pub mod lint;
mod scope;
mod span;
mod stage;
mod syntax;

pub use instruction::{
    Add, Argument, CommandLine, Copy, Device, Document, Expansion, Instruction, Mount, MountKind, Placement,
    Port, Run, RunNetwork, Script, Sharing, Step, Trigger,
};
pub use scope::{Globals, Parameters, Scope};
pub use span::{Fault, Position, Span, Word, nearest};
pub use stage::{Dockerfile, Resolved, Source, Stage};
pub use syntax::{Directive, Heredoc, Node, Pair, Tree, find_directive};
