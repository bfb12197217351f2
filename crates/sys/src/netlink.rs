//! Route netlink messages of our own.
