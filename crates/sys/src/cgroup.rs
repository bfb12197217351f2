//! Control groups, version 1 and 2: find, make, limit, read, freeze, kill, remove.
