//! What docs/design/011-safety.md promises, by the whole program: what is left when processes of
//! ours are killed, full disks, damaged records, images, programs and flags that mean harm. Needs
//! root and busybox-static; a test that cannot run says so.

#[path = "../place/mod.rs"]
mod place;

mod bombs;
mod clock;
mod confinement;
mod disk;
mod images;
mod kills;
mod lifecycles;
mod power;
mod records;
mod remains;

use place::Place;
use robot_env_testkit::image::{Compression, Entry, ImageBuilder};
use robot_env_testkit::registry::TestRegistry;

/// A place of a test's own, or the end of the test where there cannot be one.
macro_rules! place_or_return {
    ($name:literal) => {
        match crate::place::Place::new($name) {
            Some(place) => place,
            None => return,
        }
    };
}
pub(crate) use place_or_return;

/// Pulls an image of busybox, with `more` in it, under the name `name`.
pub(crate) fn pull_image(place: &Place, name: &str, more: &[Entry], config: &serde_json::Value) {
    let busybox = std::fs::read("/bin/busybox").expect("the place has found it");
    let mut entries = vec![Entry::directory("bin"), Entry::file("bin/busybox", busybox).mode(0o755)];
    for applet in ["sh", "cat", "echo", "id", "ls", "pwd", "readlink", "sleep", "true", "mount", "grep"] {
        entries.push(Entry::symlink(&format!("bin/{applet}"), "busybox"));
    }
    entries.extend(more.iter().cloned());
    let mut whole = serde_json::json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]});
    for (key, value) in config.as_object().expect("an object") {
        whole[key] = value.clone();
    }
    let registry = TestRegistry::start();
    let image = ImageBuilder::new().layer_with(&entries, Compression::None).config(whole).build();
    registry.put_image(name, "latest", &image);
    let from = registry.name(&format!("{name}:latest"));
    place.command(&["pull", "-q", &from]).run().ok();
    place.command(&["tag", &from, name]).run().ok();
}
