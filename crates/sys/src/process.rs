//! Processes: clone3, pidfds, signals, limits, exec hygiene.
