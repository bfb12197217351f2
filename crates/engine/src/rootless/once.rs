//! What a user is told once, not at every start.
//!
//! ```text
//! RUN/told/<topic>     the text that was told last
//! ```

use std::path::Path;

/// Whether `text` was not told before on this topic, since the machine booted; it is remembered.
/// Where nothing can be written it is told again.
pub(crate) fn first(run_root: &Path, topic: &str, text: &str) -> bool {
    let directory = run_root.join("told");
    let path = directory.join(topic);
    if std::fs::read_to_string(&path).is_ok_and(|told| told == text) {
        return false;
    }
    let _ = crate::paths::make_directory(&directory, 0o700);
    let _ = std::fs::write(path, text);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_told_once() {
        let run = robot_env_testkit::temporary::TemporaryDirectory::new("told");
        let told = |topic: &str, text: &str| first(run.path(), topic, text);
        assert!(told("a", "x") && !told("a", "x"));
        assert!(told("b", "x"), "another topic");
        assert!(told("a", "y"), "another text");
    }
}
