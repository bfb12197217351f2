//! A store in a temporary directory, and images to put into it.
#![allow(dead_code, unreachable_pub)] // each test program uses its part

use std::path::{Path, PathBuf};
use std::time::Duration;

use robot_env_diag::Result;
use robot_env_oci::{
    ChainId, Descriptor, DiffId, Digest, ImageConfig, ImageId, Manifest, Reference, RootFs, Verified,
    media_type,
};
use robot_env_store::{ImageRecord, LayerRecord, OverlayXattr, Store, StoreOptions};
use robot_env_sys::fs::{Durability, remove_tree_at, write_atomic};

/// A directory that is removed in the end.
pub struct Temporary(pub PathBuf);

impl Temporary {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("re-store-{name}-{}", std::process::id()));
        remove_tree_at(rustix::fs::CWD, &path, || true).unwrap();
        std::fs::create_dir(&path).unwrap();
        Temporary(path)
    }

    pub fn store(&self) -> Store {
        open(&self.0.join("root"))
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.0.join("root").join(below)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = remove_tree_at(rustix::fs::CWD, &self.0, || true);
    }
}

pub fn options(root: &Path) -> StoreOptions {
    StoreOptions { root: root.to_owned(), overlay_xattr: OverlayXattr::Trusted, create: true }
}

pub fn open(root: &Path) -> Store {
    Store::open(&options(root)).unwrap()
}

/// An image whose layer `n` holds the file `file` with the n-th text.
pub struct Sample {
    pub config: Verified<ImageConfig>,
    pub manifest: Verified<Manifest>,
    pub texts: Vec<String>,
}

impl Sample {
    pub fn new(texts: &[&str]) -> Self {
        let diff_ids: Vec<DiffId> = texts.iter().map(|text| DiffId(Digest::of(text.as_bytes()))).collect();
        let config = Verified::make(ImageConfig {
            created: Some("2024-01-01T00:00:00Z".into()),
            rootfs: RootFs { kind: "layers".into(), diff_ids },
            ..ImageConfig::default()
        })
        .unwrap();
        let layers = texts.iter().map(|text| {
            Descriptor::new(media_type::OCI_LAYER, Digest::of(text.as_bytes()), text.len() as u64)
        });
        let manifest = Verified::make(Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.into()),
            artifact_type: None,
            config: Descriptor::new(
                media_type::OCI_CONFIG,
                config.digest().clone(),
                config.bytes().len() as u64,
            ),
            layers: layers.collect(),
            subject: None,
            annotations: std::collections::BTreeMap::new(),
        })
        .unwrap();
        Sample { config, manifest, texts: texts.iter().map(|text| (*text).to_owned()).collect() }
    }

    pub fn id(&self) -> ImageId {
        ImageId(self.config.digest().clone())
    }

    pub fn chains(&self) -> Vec<ChainId> {
        self.config.value().chain().links().iter().map(|(_, chain)| chain.clone()).collect()
    }

    /// All that a pull does, as a pull does it.
    pub fn pull(&self, store: &Store, name: Option<&str>) -> Result<ImageRecord> {
        let _lease = store.lease(Duration::from_secs(600))?;
        store.put_content(self.manifest.digest(), self.manifest.bytes())?;
        store.put_content(self.config.digest(), self.config.bytes())?;
        let mut staged = Vec::new();
        let mut parent = None;
        for (text, (diff_id, chain)) in self.texts.iter().zip(self.config.value().chain().links()) {
            if !matches!(store.layer(chain), Ok(Some(_))) {
                let layer = store.stage_layer()?;
                write_atomic(layer.fs(), layer.fs(), "file", text.as_bytes(), 0o644, Durability::NoSync)?;
                std::io::Write::write_all(&mut layer.recipe()?, text.as_bytes()).unwrap();
                let mut record = LayerRecord::new(parent.clone(), diff_id.clone());
                record.content_size = text.len() as u64;
                staged.push((layer, record));
            }
            parent = Some(chain.clone());
        }
        store.commit_layers(staged)?;
        let manifest = Descriptor::new(
            media_type::OCI_MANIFEST,
            self.manifest.digest().clone(),
            self.manifest.bytes().len() as u64,
        );
        let record = ImageRecord { manifest: Some(manifest), ..ImageRecord::new(&self.config) };
        match name {
            Some(name) => store.put_named_image(&record, &[(&reference(name), Some(self.manifest.digest()))]),
            None => store.put_image(&record),
        }
    }

    /// Whether the image is whole: documents and the trees of all layers.
    pub fn check(&self, store: &Store) {
        let record = store.image(&self.id()).unwrap().expect("the image's record is missing");
        assert_eq!(record.layers, self.chains());
        store.config(&self.id()).unwrap();
        assert_eq!(store.content(self.manifest.digest()).unwrap().as_deref(), Some(self.manifest.bytes()));
        for (text, chain) in self.texts.iter().zip(self.chains()) {
            store.layer(&chain).unwrap().expect("a layer is missing");
            let tree = store.layer_dir(&chain).unwrap();
            assert_eq!(robot_env_sys::fs::read_bounded(tree, "file", 1 << 20).unwrap(), text.as_bytes());
        }
    }
}

pub fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

/// The layers in the store.
pub fn layers(store: &Store) -> Vec<ChainId> {
    store.layers().unwrap()
}

/// The entries of one of the store's directories.
pub fn entries(store: &Store, dir: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(store.path().join(dir))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
