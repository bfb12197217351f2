//! What cares for a running container.

mod log;
mod supervise;
