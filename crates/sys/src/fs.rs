//! Files by descriptor: resolution inside a root, atomic writes, extended attributes, syncing.
