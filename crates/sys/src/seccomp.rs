//! Installing compiled seccomp filters.
