//! Unix sockets and passing file descriptors.
