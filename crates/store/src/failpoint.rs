//! Places at which a test kills the process, to see what the next one finds.
//!
//! In a debug build, `REFAIL=<name>` in the environment makes the process die by SIGKILL when it
//! comes to that place. A release build has no such code.

/// Every failpoint of this crate, in the order of the code.
pub const FAILPOINTS: &[&str] = &[
    "store.record.before",
    "store.record.written",
    "store.ingest.synced",
    "store.ingest.renamed",
    "store.stage.made",
    "store.commit.described",
    "store.layers.synced",
    "store.commit.synced",
    "store.commit.renamed",
    "store.commit.durable",
    "store.image.verified",
    "store.image.recorded",
    "store.tag.digest",
    "store.tag.done",
    "store.untag.removed",
    "store.remove.untagged",
    "store.remove.done",
    "store.keep.recorded",
    "store.restore.named",
    "store.prepare.made",
    "store.prepare.described",
    "store.snapshot.trashed",
    "store.adopt.marked",
    "store.adopt.taken",
    "store.consume.taken",
    "store.adopt.committed",
    "store.adopt.moved",
    "store.collect.layer",
    "store.collect.content",
    "store.trash.entry",
    "store.fsck.aside",
];

/// Dies here when `REFAIL` names this place. Use [`failpoint!`](crate::failpoint).
#[doc(hidden)]
pub fn hit(name: &str) {
    static ARMED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let armed = ARMED.get_or_init(|| std::env::var("REFAIL").ok());
    if armed.as_deref() == Some(name) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        std::process::abort();
    }
}

/// A place at which a test may kill the process; nothing in a release build.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        if cfg!(debug_assertions) {
            $crate::hit($name);
        }
    };
}
