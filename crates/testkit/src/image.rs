//! Small images: layers from lists of entries, as tar, gzip or zstd, with the manifest and config
//! of OCI or of Docker's schema 2.
//!
//! The tar is written by hand, so that anything can be written that a hostile archive may say.

use std::io::Write as _;

use robot_env_oci::{Descriptor, Digest, Platform, media_type};

/// What an entry of a layer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A file with this content.
    File(Vec<u8>),
    /// A directory.
    Directory,
    /// A symbolic link to this.
    Symlink(String),
    /// A hard link to this path of the layer.
    Hardlink(String),
    /// A character device.
    Character(u32, u32),
    /// A block device.
    Block(u32, u32),
    /// A FIFO.
    Fifo,
}

/// An entry of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path, as it stands in the archive; not looked at.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: u64,
    /// Extended attributes, written as `SCHILY.xattr.*`.
    pub xattrs: Vec<(String, Vec<u8>)>,
    /// Other PAX records.
    pub pax: Vec<(String, Vec<u8>)>,
    /// The size that the header says, if it is to lie.
    pub declared_size: Option<u64>,
}

impl Entry {
    fn new(path: &str, kind: EntryKind, mode: u32) -> Self {
        Entry {
            path: path.into(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: 1_700_000_000,
            xattrs: Vec::new(),
            pax: Vec::new(),
            declared_size: None,
        }
    }

    /// A file, mode 0644.
    pub fn file(path: &str, content: impl Into<Vec<u8>>) -> Self {
        Entry::new(path, EntryKind::File(content.into()), 0o644)
    }

    /// A directory, mode 0755.
    pub fn directory(path: &str) -> Self {
        Entry::new(path, EntryKind::Directory, 0o755)
    }

    /// A symbolic link.
    pub fn symlink(path: &str, target: &str) -> Self {
        Entry::new(path, EntryKind::Symlink(target.into()), 0o777)
    }

    /// A hard link.
    pub fn hardlink(path: &str, target: &str) -> Self {
        Entry::new(path, EntryKind::Hardlink(target.into()), 0o644)
    }

    /// A character device, mode 0600.
    pub fn character(path: &str, major: u32, minor: u32) -> Self {
        Entry::new(path, EntryKind::Character(major, minor), 0o600)
    }

    /// A FIFO, mode 0644.
    pub fn fifo(path: &str) -> Self {
        Entry::new(path, EntryKind::Fifo, 0o644)
    }

    /// The whiteout that removes `path`.
    pub fn whiteout(path: &str) -> Self {
        let (directory, name) =
            path.rsplit_once('/').map_or((String::new(), path), |(d, n)| (format!("{d}/"), n));
        Entry::file(&format!("{directory}.wh.{name}"), "")
    }

    /// The mark that hides what lower layers have in `directory`.
    pub fn opaque(directory: &str) -> Self {
        Entry::file(&format!("{directory}/.wh..wh..opq"), "")
    }

    /// The same with other permission bits.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// The same with another owner.
    #[must_use]
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// The same with an extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.xattrs.push((name.into(), value.into()));
        self
    }

    /// The same with a PAX record.
    #[must_use]
    pub fn pax(mut self, key: &str, value: impl Into<Vec<u8>>) -> Self {
        self.pax.push((key.into(), value.into()));
        self
    }

    /// The same with a size in its header that is not its content's.
    #[must_use]
    pub fn declared_size(mut self, size: u64) -> Self {
        self.declared_size = Some(size);
        self
    }

    fn write(&self, out: &mut Vec<u8>) {
        let (kind, link, content, device): (u8, &[u8], &[u8], _) = match &self.kind {
            EntryKind::File(content) => (b'0', b"", content, None),
            EntryKind::Hardlink(target) => (b'1', target.as_bytes(), b"", None),
            EntryKind::Symlink(target) => (b'2', target.as_bytes(), b"", None),
            EntryKind::Character(major, minor) => (b'3', b"", b"", Some((*major, *minor))),
            EntryKind::Block(major, minor) => (b'4', b"", b"", Some((*major, *minor))),
            EntryKind::Directory => (b'5', b"", b"", None),
            EntryKind::Fifo => (b'6', b"", b"", None),
        };
        let mut records: Vec<(String, Vec<u8>)> =
            self.xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.clone())).collect();
        records.extend(self.pax.iter().cloned());
        if self.path.len() > 100 {
            records.push(("path".into(), self.path.clone()));
        }
        if link.len() > 100 {
            records.push(("linkpath".into(), link.to_owned()));
        }
        if !records.is_empty() {
            let body: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
            header(out, b"PaxHeaders/x", b'x', 0o644, (0, 0), 0, body.len() as u64, b"", None);
            padded(out, &body);
        }
        let size = self.declared_size.unwrap_or(content.len() as u64);
        header(out, &self.path, kind, self.mode, (self.uid, self.gid), self.mtime, size, link, device);
        padded(out, content);
    }
}

/// `LENGTH key=value\n`, where the length counts itself.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

fn padded(out: &mut Vec<u8>, content: &[u8]) {
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
}

#[allow(clippy::too_many_arguments)] // the fields of a header
pub(crate) fn header(
    out: &mut Vec<u8>,
    path: &[u8],
    kind: u8,
    mode: u32,
    owner: (u32, u32),
    mtime: u64,
    size: u64,
    link: &[u8],
    device: Option<(u32, u32)>,
) {
    let mut block = [0_u8; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &path[..path.len().min(100)]);
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, format!("{:07o}\0", owner.0.min(0o7_777_777)).as_bytes());
    put(116, format!("{:07o}\0", owner.1.min(0o7_777_777)).as_bytes());
    if size < 0o77_777_777_777 {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        // The binary form of GNU tar.
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    put(136, format!("{mtime:011o}\0").as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(157, &link[..link.len().min(100)]);
    put(257, b"ustar\x0000");
    if let Some((major, minor)) = device {
        put(329, format!("{major:07o}\0").as_bytes());
        put(337, format!("{minor:07o}\0").as_bytes());
    }
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&block);
}

/// The tar of these entries, with its two empty blocks at the end.
pub fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        entry.write(&mut out);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    #[default]
    Gzip,
    /// zstd.
    Zstd,
}

impl Compression {
    /// Compresses.
    ///
    /// # Panics
    /// If a compressor fails.
    pub fn compress(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Compression::None => bytes.to_vec(),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(bytes).expect("gzip");
                encoder.finish().expect("gzip")
            }
            Compression::Zstd => zstd::encode_all(bytes, 1).expect("zstd"),
        }
    }
}

/// Whose formats an image has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// OCI image-spec.
    #[default]
    Oci,
    /// Docker schema 2.
    Docker,
}

/// A layer of a [`BuiltImage`].
#[derive(Clone, Debug)]
pub struct BuiltLayer {
    /// The uncompressed tar.
    pub tar: Vec<u8>,
    /// What a registry holds.
    pub blob: Vec<u8>,
    /// The descriptor of the blob.
    pub descriptor: Descriptor,
    /// The digest of the tar.
    pub diff_id: Digest,
}

/// An image, ready to be put into a registry or a directory.
#[derive(Clone, Debug)]
pub struct BuiltImage {
    /// The layers, lowest first.
    pub layers: Vec<BuiltLayer>,
    /// The config's bytes.
    pub config: Vec<u8>,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// The manifest's media type.
    pub media_type: String,
    /// What it is for.
    pub platform: Platform,
}

impl BuiltImage {
    /// The image's id: the digest of its config.
    pub fn id(&self) -> Digest {
        Digest::of(&self.config)
    }

    /// The digest of its manifest.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }
}

/// Builds an image.
#[derive(Clone, Debug)]
pub struct ImageBuilder {
    layers: Vec<(Vec<u8>, Compression)>,
    format: Format,
    platform: Platform,
    config: serde_json::Value,
}

impl Default for ImageBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ImageBuilder {
    /// An OCI image without layers for the machine it runs on.
    pub fn new() -> Self {
        ImageBuilder {
            layers: Vec::new(),
            format: Format::Oci,
            platform: Platform::host(),
            config: serde_json::json!({}),
        }
    }

    /// Adds a layer of these entries, compressed by gzip.
    #[must_use]
    pub fn layer(self, entries: &[Entry]) -> Self {
        self.layer_with(entries, Compression::Gzip)
    }

    /// Adds a layer of these entries.
    #[must_use]
    pub fn layer_with(self, entries: &[Entry], compression: Compression) -> Self {
        self.raw_layer(tar(entries), compression)
    }

    /// Adds a layer of these bytes, tar or not.
    #[must_use]
    pub fn raw_layer(mut self, tar: Vec<u8>, compression: Compression) -> Self {
        self.layers.push((tar, compression));
        self
    }

    /// Whose formats it has.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// What it is for.
    #[must_use]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// The `config` object, e.g. `{"Cmd": ["sh"]}`.
    #[must_use]
    pub fn config(mut self, config: serde_json::Value) -> Self {
        self.config = config;
        self
    }

    /// Builds it.
    pub fn build(&self) -> BuiltImage {
        let docker = self.format == Format::Docker;
        let layers: Vec<BuiltLayer> = self
            .layers
            .iter()
            .map(|(tar, compression)| {
                let blob = compression.compress(tar);
                let kind = match (docker, compression) {
                    (true, Compression::None) => media_type::DOCKER_LAYER,
                    (true, Compression::Gzip) => media_type::DOCKER_LAYER_GZIP,
                    (false, Compression::None) => media_type::OCI_LAYER,
                    (false, Compression::Gzip) => media_type::OCI_LAYER_GZIP,
                    (_, Compression::Zstd) => media_type::OCI_LAYER_ZSTD,
                };
                let descriptor = Descriptor::new(kind, Digest::of(&blob), blob.len() as u64);
                BuiltLayer { diff_id: Digest::of(tar), tar: tar.clone(), blob, descriptor }
            })
            .collect();
        let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
        let history: Vec<_> = (0..layers.len()).map(|n| serde_json::json!({"created": "2023-11-14T22:13:20Z", "created_by": format!("layer {n}")})).collect();
        let mut config = serde_json::json!({
            "created": "2023-11-14T22:13:20Z", "architecture": self.platform.architecture, "os": self.platform.os,
            "config": self.config, "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history,
        });
        if !self.platform.variant.is_empty() {
            config["variant"] = self.platform.variant.clone().into();
        }
        let config = config.to_string().into_bytes();
        let (kind, config_kind) = if docker {
            (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG)
        } else {
            (media_type::OCI_MANIFEST, media_type::OCI_CONFIG)
        };
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": kind,
            "config": Descriptor::new(config_kind, Digest::of(&config), config.len() as u64),
            "layers": layers.iter().map(|layer| &layer.descriptor).collect::<Vec<_>>(),
        });
        BuiltImage {
            manifest: manifest.to_string().into_bytes(),
            media_type: kind.to_owned(),
            platform: self.platform.clone(),
            layers,
            config,
        }
    }
}

/// A small image that everything works with: two layers, a whiteout, an extended attribute.
pub fn small() -> BuiltImage {
    ImageBuilder::new()
        .layer(&[
            Entry::directory("etc/"),
            Entry::file("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
            Entry::file("etc/gone", "of the lower layer\n"),
            Entry::directory("bin/"),
            Entry::file("bin/tool", "#!/bin/sh\n").mode(0o4755).xattr("user.note", "kept"),
            Entry::hardlink("bin/same", "bin/tool"),
            Entry::symlink("lib", "usr/lib"),
        ])
        .layer(&[Entry::whiteout("etc/gone"), Entry::file("etc/hostname", "robot\n")])
        .config(serde_json::json!({"Cmd": ["/bin/tool"], "Env": ["PATH=/bin"]}))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for (key, value) in [
            ("a", &b"b"[..]),
            ("path", &[b'x'; 89]),
            ("path", &[b'x'; 90]),
            ("path", &[b'x'; 91]),
            ("path", &[b'x'; 990]),
        ] {
            let record = record(key, value);
            let length: usize =
                std::str::from_utf8(&record).unwrap().split(' ').next().unwrap().parse().unwrap();
            assert_eq!(length, record.len());
        }
    }

    #[test]
    fn system_tar_reads_the_archives() {
        use std::process::{Command, Stdio};
        let entries = [
            Entry::directory("d/"),
            Entry::file("d/f", "content"),
            Entry::symlink("l", "d/f"),
            Entry::hardlink("h", "d/f"),
            Entry::file(&"n".repeat(150), "long"),
            Entry::file("x", "y").xattr("user.a", "b"),
        ];
        let mut child = Command::new("tar")
            .args(["-t", "-v", "--numeric-owner"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&tar(&entries)).unwrap();
        let out = child.wait_with_output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success());
        assert_eq!(text.lines().count(), entries.len(), "{text}");
        assert!(
            text.contains("l -> d/f") && text.contains(&"n".repeat(150)) && text.contains("h link to d/f"),
            "{text}"
        );
    }

    #[test]
    fn compressions_are_what_they_say() {
        for (compression, magic) in
            [(Compression::Gzip, &[0x1f, 0x8b][..]), (Compression::Zstd, &[0x28, 0xb5, 0x2f, 0xfd])]
        {
            assert!(compression.compress(b"x").starts_with(magic));
        }
    }

    #[test]
    fn an_image_fits_together() {
        for format in [Format::Oci, Format::Docker] {
            let image =
                ImageBuilder { format, ..ImageBuilder::new() }.layer(&[Entry::file("a", "b")]).build();
            let parsed = robot_env_oci::AnyManifest::parse(&image.manifest, Some(&image.media_type)).unwrap();
            let robot_env_oci::AnyManifest::Manifest(manifest) = parsed else { panic!("not a manifest") };
            assert_eq!(manifest.config.digest, image.id());
            assert_eq!(manifest.layers[0].digest, Digest::of(&image.layers[0].blob));
            let config: robot_env_oci::ImageConfig = serde_json::from_slice(&image.config).unwrap();
            assert_eq!(config.rootfs.diff_ids[0].digest(), &image.layers[0].diff_id);
        }
    }
}
