//! What layers add and waste.

mod support;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use robot_env_layer::{Overlay, space};
use support::{Scratch, is_root, set_xattr, whiteout, write};

#[test]
fn privileged_later_layers_waste_what_earlier_ones_brought() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let layers: Vec<_> = ["0", "1", "2"].map(|name| scratch.dir(name)).into();
    let path = |layer: usize, name: &str| layers[layer].0.join(name);
    let sized = |layer, name: &str, size: usize| write(&path(layer, name), &"x".repeat(size));

    sized(0, "usr/lib/big", 1000);
    sized(0, "usr/lib/kept", 10);
    sized(0, "etc/conf", 7);
    sized(0, "srv/a/one", 100);
    sized(0, "srv/ab", 3);
    sized(0, "opt/old", 40);

    sized(1, "var/lib/apt/lists/debian", 500);
    sized(1, "var/lib/apt/lists-not", 1);
    sized(1, "srv/a/two", 20);
    sized(1, "etc/conf", 8); // changed
    std::fs::hard_link(path(1, "srv/a/two"), path(1, "srv/a/twin")).unwrap();
    sized(1, "root/.cache/pip/wheel", 60);

    whiteout(&{
        std::fs::create_dir_all(path(2, "usr/lib")).unwrap();
        path(2, "usr/lib/big")
    });
    std::fs::create_dir_all(path(2, "srv")).unwrap();
    whiteout(&path(2, "srv/a")); // a directory of two layers
    sized(2, "opt/new", 5);
    set_xattr(&path(2, "opt"), "trusted.overlay.opaque", b"y");
    std::fs::create_dir_all(path(2, "root")).unwrap();
    whiteout(&path(2, "root/never-was"));

    let trees: Vec<BorrowedFd<'_>> = layers.iter().map(|(_, tree): &(_, File)| tree.as_fd()).collect();
    let space = space(&trees, Overlay::Trusted, 2).unwrap();
    let sums: Vec<_> = space.iter().map(|layer| (layer.bytes, layer.files, layer.wasted)).collect();
    assert_eq!(sums, [(1160, 6, 1147), (589, 6, 20), (5, 1, 0)]);
    let hidden = |layer: usize| -> Vec<_> {
        let list = space[layer].hidden.iter();
        list.map(|h| (String::from_utf8_lossy(&h.path).into_owned(), h.bytes, h.by, h.replaced)).collect()
    };
    assert_eq!(
        hidden(0),
        [
            ("/usr/lib/big".into(), 1000, 2, false),
            ("/srv/a".into(), 100, 2, false),
            ("/opt".into(), 40, 2, true),
            ("/etc/conf".into(), 7, 1, true),
        ]
    );
    assert_eq!(hidden(1), [("/srv/a".into(), 20, 2, false)]);
    let biggest: Vec<_> = space[0].biggest.iter().map(|(path, size)| (&path[..], *size)).collect();
    assert_eq!(biggest, [(&b"/usr/lib/big"[..], 1000), (b"/srv/a/one", 100)]);
    let caches: Vec<_> = space[1].caches.iter().map(|cache| (cache.directory, cache.bytes)).collect();
    assert_eq!(caches, [("var/lib/apt/lists", 500), ("root/.cache", 60)]);
    assert!(space[0].caches.is_empty());
}
