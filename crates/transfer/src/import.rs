//! From the tar of a file system to an image of one layer.

use std::io::Read;
use std::time::Duration;

use jiff::Timestamp;
use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_oci::{HistoryEntry, ImageConfig, Platform, Reference, RootFs, RuntimeConfig, Verified};
use robot_env_store::ImageRecord;

use crate::archive::Counted;
use crate::{Change, Known, Observer, Unpacker, apply_changes};

/// How long the layer stays without an image.
const LEASE: Duration = Duration::from_secs(60 * 60);

/// What an imported image says of itself.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// What it gets beside its files, in this order.
    pub changes: Vec<Change>,
    /// The comment in its history.
    pub message: String,
    /// What it runs on; this machine's platform if absent.
    pub platform: Option<Platform>,
    /// Its name.
    pub reference: Option<Reference>,
    /// When it is made; the time that its config says.
    pub created: Timestamp,
    /// Length of the input in bytes, for progress; 0 when unknown.
    pub size: u64,
}

/// Makes an image of one layer from `tar`, plain or compressed by gzip or zstd. The layer is the tar
/// as it is: whiteouts in it hide nothing and are not files either.
///
/// Errors: `Corrupt` for what is no tar, or cut short; `Unsupported` for xz and bzip2;
/// `InvalidInput` for a change that cannot be applied, before anything is read; `NoSpace`.
pub fn import(
    unpacker: &Unpacker<'_>,
    tar: impl Read + Send,
    options: &ImportOptions,
    observer: &dyn Observer,
) -> Result<ImageRecord> {
    if options.reference.as_ref().is_some_and(|name| name.digest().is_some()) {
        return Err(Error::invalid("cannot import the image: its name must not have a digest"));
    }
    let mut config = RuntimeConfig::default();
    apply_changes(&mut config, &options.changes)?;
    let store = unpacker.store();
    let _lease = store.lease(LEASE)?;
    let tar = Counted::new(tar, observer, "Importing", options.size);
    let layer = unpacker
        .unpack(tar, Known::default())
        .map_err(Error::from)
        .within(|| "cannot import the image".into())?;
    if layer.applied.entries == 0 {
        return Err(Error::new(Kind::InvalidInput, "cannot import the image: the archive is empty"));
    }
    let created = options.created.to_string();
    let config = Verified::make(ImageConfig {
        created: Some(created.clone()),
        platform: options.platform.clone().unwrap_or_else(Platform::host),
        config,
        rootfs: RootFs { diff_ids: vec![layer.diff_id.clone()], ..RootFs::default() },
        history: vec![HistoryEntry {
            created: Some(created),
            comment: options.message.clone(),
            ..HistoryEntry::default()
        }],
        ..ImageConfig::default()
    })?;
    unpacker.commit(vec![layer])?;
    store.put_content(config.digest(), config.bytes())?;
    let mut record = ImageRecord::new(&config);
    record.origin = "import".into();
    let name = options.reference.as_ref().map(|name| (name, None));
    store.put_named_image(&record, name.as_slice())
}
