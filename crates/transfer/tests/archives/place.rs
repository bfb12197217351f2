//! A store of its own, and archives in every layout.

use std::io::Write;
use std::path::Path;

use robot_env_diag::Result;
use robot_env_layer::Ownership;
use robot_env_oci::{Descriptor, Digest, ImageId, media_type};
use robot_env_store::{OverlayXattr, Store, StoreOptions};
use robot_env_testkit::image::{BuiltImage, Compression, Entry, tar};
use robot_env_testkit::temporary::TemporaryDirectory;
use robot_env_transfer::{ArchiveSource, LoadOptions, LoadedImage, Unpacker, load};

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A store in a directory that goes away.
pub(crate) struct Place {
    pub(crate) directory: TemporaryDirectory,
    pub(crate) store: Store,
}

impl Place {
    pub(crate) fn new() -> Self {
        let directory = TemporaryDirectory::new("archives");
        let overlay_xattr = if is_root() { OverlayXattr::Trusted } else { OverlayXattr::User };
        let options = StoreOptions { root: directory.join("store"), overlay_xattr, create: true };
        let store = Store::open(&options).unwrap();
        Place { directory, store }
    }

    pub(crate) fn unpacker(&self) -> Unpacker<'_> {
        Unpacker::new(&self.store, if is_root() { Ownership::Keep } else { Ownership::SingleId })
    }

    pub(crate) fn root(&self) -> &Path {
        self.store.path()
    }

    /// Loads from a file or from a pipe.
    pub(crate) fn load_by(
        &self,
        archive: &[u8],
        way: Way,
        options: &LoadOptions,
    ) -> Result<Vec<LoadedImage>> {
        match way {
            Way::File => {
                let path = self.directory.join("archive.tar");
                std::fs::write(&path, archive).unwrap();
                let file = std::fs::File::open(&path).unwrap();
                load(&self.unpacker(), ArchiveSource::File(&file), options, &())
            }
            Way::Stream => {
                let mut stream = archive;
                load(&self.unpacker(), ArchiveSource::Stream(&mut stream), options, &())
            }
            Way::Pipe => {
                let (read, mut write) = std::io::pipe().unwrap();
                std::thread::scope(|scope| {
                    scope.spawn(move || write.write_all(archive));
                    let file = std::fs::File::from(std::os::fd::OwnedFd::from(read));
                    let loaded = load(&self.unpacker(), ArchiveSource::File(&file), options, &());
                    // The writer must not wait for a reader that has given up.
                    drop(file);
                    loaded
                })
            }
        }
    }

    pub(crate) fn load(&self, archive: &[u8]) -> Result<Vec<LoadedImage>> {
        self.load_by(archive, Way::File, &LoadOptions::default())
    }

    /// Whether nothing of an image can be seen, and nothing lies around that is not collected.
    pub(crate) fn assert_nothing(&self, what: &str) {
        assert!(self.store.image_ids().unwrap().is_empty(), "{what}: an image");
        assert!(self.store.names().unwrap().is_empty(), "{what}: a name");
        let staging: Vec<_> = std::fs::read_dir(self.root().join("staging")).unwrap().collect();
        assert!(staging.is_empty(), "{what}: {staging:?}");
    }

    /// The whole content of an image is in the store and whole.
    pub(crate) fn assert_whole(&self, image: &BuiltImage) {
        let record = self.store.image(&ImageId(image.id())).unwrap().expect("the image");
        assert_eq!(record.layers.len(), image.layers.len());
        for (chain, built) in record.layers.iter().zip(&image.layers) {
            let layer = self.store.layer(chain).unwrap().expect("a layer");
            assert_eq!(layer.diff_id.0, built.diff_id);
            assert_eq!(layer.tar_size, built.tar.len() as u64);
            let mut made = Vec::new();
            let mut recipe = self.store.open_recipe(chain).unwrap().expect("a recipe");
            let tree = self.store.layer_dir(chain).unwrap();
            robot_env_layer::assemble(&mut recipe, std::os::fd::AsFd::as_fd(&tree), &mut made).unwrap();
            assert!(made == built.tar, "another tar");
        }
        assert!(self.store.fsck(robot_env_store::FsckOptions::default()).unwrap().is_empty());
    }
}

/// How an archive is read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    File,
    Stream,
    Pipe,
}

pub(crate) const WAYS: [Way; 3] = [Way::File, Way::Stream, Way::Pipe];

/// What an archive looks like.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Layout {
    /// Docker before 25: `<id>/layer.tar`, `<id>/json`, `<id>/VERSION`, `manifest.json` last.
    Old,
    /// Podman and skopeo: `<diff id>.tar`, links under the old names.
    Podman,
    /// Docker from 25 on: both, blobs first.
    Hybrid,
    /// OCI layout, documents last.
    Oci,
    /// OCI layout, documents first.
    OciFirst,
}

pub(crate) const LAYOUTS: [Layout; 5] =
    [Layout::Old, Layout::Podman, Layout::Hybrid, Layout::Oci, Layout::OciFirst];

pub(crate) fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// An archive of these images, with their names. Layers of layouts that have them uncompressed are
/// their tars.
pub(crate) fn archive(layout: Layout, images: &[(&BuiltImage, &[&str])]) -> Vec<u8> {
    tar(&entries(layout, images))
}

/// Adds an entry that is not there yet.
fn add(entries: &mut Vec<Entry>, entry: Entry) {
    if entries.iter().all(|known| known.path != entry.path) {
        entries.push(entry);
    }
}

pub(crate) fn entries(layout: Layout, images: &[(&BuiltImage, &[&str])]) -> Vec<Entry> {
    let mut documents = Vec::new();
    let mut blobs = Vec::new();
    let mut listed = Vec::new();
    let mut descriptors = Vec::new();
    for (image, names) in images {
        let mut layers = Vec::new();
        for layer in &image.layers {
            let hex = layer.diff_id.hex().to_owned();
            match layout {
                Layout::Old => {
                    add(&mut blobs, Entry::directory(&format!("{hex}/")));
                    add(&mut blobs, Entry::file(&format!("{hex}/VERSION"), "1.0"));
                    add(&mut blobs, Entry::file(&format!("{hex}/json"), "{\"id\":\"x\"}"));
                    add(&mut blobs, Entry::file(&format!("{hex}/layer.tar"), layer.tar.clone()));
                    layers.push(format!("{hex}/layer.tar"));
                }
                Layout::Podman => {
                    add(&mut blobs, Entry::file(&format!("{hex}.tar"), layer.tar.clone()));
                    let old = format!("{}/layer.tar", Digest::of(hex.as_bytes()).hex());
                    add(&mut blobs, Entry::symlink(&old, &format!("../{hex}.tar")));
                    layers.push(old);
                }
                Layout::Hybrid => {
                    add(&mut blobs, Entry::file(&blob(&layer.diff_id), layer.tar.clone()));
                    layers.push(blob(&layer.diff_id));
                }
                Layout::Oci | Layout::OciFirst => {
                    add(&mut blobs, Entry::file(&blob(&layer.descriptor.digest), layer.blob.clone()));
                }
            }
        }
        let id = image.id();
        let config = match layout {
            Layout::Old | Layout::Podman => format!("{}.json", id.hex()),
            _ => blob(&id),
        };
        add(&mut documents, Entry::file(&config, image.config.clone()));
        listed.push(serde_json::json!({"Config": config, "RepoTags": names, "Layers": layers}));
        let manifest = match layout {
            Layout::Old | Layout::Podman => continue,
            Layout::Hybrid => {
                let layers: Vec<Descriptor> = image
                    .layers
                    .iter()
                    .map(|l| Descriptor::new(media_type::OCI_LAYER, l.diff_id.clone(), l.tar.len() as u64))
                    .collect();
                let config = Descriptor::new(media_type::OCI_CONFIG, id, image.config.len() as u64);
                serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": layers})
                    .to_string()
                    .into_bytes()
            }
            Layout::Oci | Layout::OciFirst => image.manifest.clone(),
        };
        let kind =
            if matches!(layout, Layout::Hybrid) { media_type::OCI_MANIFEST } else { &image.media_type };
        let descriptor = Descriptor::new(kind, Digest::of(&manifest), manifest.len() as u64);
        add(&mut documents, Entry::file(&blob(&descriptor.digest), manifest));
        if names.is_empty() {
            descriptors.push(descriptor.clone());
        }
        for name in *names {
            let mut descriptor = descriptor.clone();
            descriptor
                .annotations
                .insert("io.containerd.image.name".into(), format!("docker.io/library/{name}"));
            descriptors.push(descriptor);
        }
    }
    let index =
        serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": descriptors});
    let index = Entry::file("index.json", index.to_string());
    let listed = Entry::file("manifest.json", serde_json::Value::from(listed).to_string());
    let layout_file = Entry::file("oci-layout", r#"{"imageLayoutVersion": "1.0.0"}"#);
    let mut out = Vec::new();
    match layout {
        Layout::Old | Layout::Podman => {
            out.extend(blobs);
            out.extend(documents);
            out.push(listed);
            out.push(Entry::file("repositories", "{}"));
        }
        Layout::Hybrid => {
            out.extend([Entry::directory("blobs/"), Entry::directory("blobs/sha256/")]);
            out.extend(blobs);
            out.extend(documents);
            out.extend([index, listed, layout_file]);
        }
        Layout::Oci => {
            out.extend(blobs);
            out.extend(documents);
            out.extend([index, layout_file]);
        }
        Layout::OciFirst => {
            out.extend([layout_file, index]);
            out.extend(documents);
            out.extend(blobs);
        }
    }
    out
}

pub(crate) const COMPRESSIONS: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd];
