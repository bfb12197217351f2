//! From an archive of images to the store.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use robot_env_diag::{Error, Kind, Result, Within};
use robot_env_oci::{ChainId, Descriptor, DiffId, ImageId, Platform, Reference};
use robot_env_store::{ImageRecord, LayerSource, Store};

use crate::again::unpack_again;
use crate::archive::{Candidate, Catalogue, Content, Counted, Input, Place, Scan, candidates};
use crate::unpack::{BATCH, MEMORY, Waiting};
use crate::{Known, Observer, Unpacked, Unpacker};

/// How long layers stay without an image; renewed by every step.
const LEASE: Duration = Duration::from_secs(60 * 60);
/// The most layers that are unpacked at once.
const WORKERS: usize = 4;

/// Where an archive comes from.
pub enum ArchiveSource<'a> {
    /// An open file, from its current position on. A regular one is read in any order and several
    /// layers at once; any other, and a compressed one, as a stream.
    File(&'a File),
    /// A stream, read once to the end of the archive.
    Stream(&'a mut (dyn Read + Send)),
}

/// What of an archive is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The platform that the images must have; of an image for several, the one to take. Without,
    /// this machine's is preferred.
    pub platform: Option<Platform>,
}

/// An image that was loaded.
#[derive(Clone, Debug)]
pub struct LoadedImage {
    /// It.
    pub image: ImageRecord,
    /// The names that the archive gave it, in the archive's order.
    pub references: Vec<Reference>,
    /// The images that had those names before, and have them no longer.
    pub renamed: Vec<(Reference, ImageId)>,
}

/// Loads every image of an archive: a docker-archive or an OCI layout, plain or compressed by gzip
/// or zstd.
///
/// All that is read is checked against its digest. Layers that are here already are left alone,
/// damaged ones are replaced. Names come last, when all images are there: an archive that is
/// damaged, hostile or cut short changes nothing that can be seen.
///
/// Errors: `InvalidInput` for what is no archive of images; `Corrupt` naming what does not fit;
/// `Unsupported` for xz and bzip2; `NotFound` when there is nothing for the platform; `NoSpace`.
pub fn load(
    unpacker: &Unpacker<'_>,
    source: ArchiveSource<'_>,
    options: &LoadOptions,
    observer: &dyn Observer,
) -> Result<Vec<LoadedImage>> {
    let input = match source {
        ArchiveSource::File(file) => Input::File(file),
        ArchiveSource::Stream(stream) => Input::Stream(stream),
    };
    Load { unpacker, options, observer, store: unpacker.store() }
        .run(input)
        .within(|| "cannot load the archive".into())
}

struct Load<'a, 's> {
    unpacker: &'a Unpacker<'s>,
    options: &'a LoadOptions,
    observer: &'a dyn Observer,
    store: &'s Store,
}

/// A layer that the store lacks.
#[derive(Clone, Debug)]
struct Missing {
    chain: ChainId,
    diff_id: DiffId,
    parent: Option<ChainId>,
    place: Place,
}

/// What is to be committed.
enum Step<'s> {
    /// This.
    Layer(Unpacked<'s>),
    /// A layer that stands in two chains and was in the stream once: a copy of the other one, which
    /// was committed before.
    Copy(Missing),
}

/// A layer that is to be unpacked, and its place in the order.
struct Job<'f> {
    layer: Missing,
    at: usize,
    source: Box<dyn Read + Send + 'f>,
    size: u64,
}

/// What is unpacked, by its place in the order, and what is to be.
type Sorted<'s> = (BTreeMap<usize, Step<'s>>, Vec<Job<'s>>);

impl<'s> Load<'_, 's> {
    fn run(&self, input: Input<'s>) -> Result<Vec<LoadedImage>> {
        let _lease = self.store.lease(LEASE)?;
        let platform = self.options.platform.as_ref();
        let wanted = |catalogue: &Catalogue<'_>| -> Option<BTreeSet<String>> {
            // Without it, more images may still be listed.
            if !catalogue.has("manifest.json") {
                return None;
            }
            let images = candidates(catalogue, platform).ok()?;
            Some(self.missing(&images).ok()?.into_iter().map(|layer| layer.place.path).collect())
        };
        let scan = Scan { unpacker: self.unpacker, observer: self.observer, wanted: &wanted };
        let mut catalogue = scan.run(input)?;
        let images = candidates(&catalogue, platform)?;
        let missing = self.missing(&images)?;
        let sorted = Self::sort(&mut catalogue, missing)?;
        drop(catalogue);
        self.bring(sorted)?;
        images.into_iter().map(|image| self.put(image)).collect()
    }

    /// The layers that the images need and the store lacks, each once, those below first.
    fn missing(&self, images: &[Candidate]) -> Result<Vec<Missing>> {
        let mut seen = BTreeSet::new();
        let mut missing = Vec::new();
        for image in images {
            let chain = image.config.value().chain();
            let mut parent: Option<ChainId> = None;
            for ((diff_id, id), place) in chain.links().iter().zip(&image.layers) {
                if seen.insert(id.clone()) {
                    match self.store.layer(id) {
                        Ok(Some(_)) => {}
                        Err(error) if error.kind() != Kind::Corrupt => return Err(error),
                        // A damaged one is replaced.
                        Ok(None) | Err(_) => missing.push(Missing {
                            chain: id.clone(),
                            diff_id: diff_id.clone(),
                            parent: parent.clone(),
                            place: place.clone(),
                        }),
                    }
                }
                parent = Some(id.clone());
            }
        }
        Ok(missing)
    }

    /// What was unpacked as it came by, by its place in the order, and what is still to be unpacked.
    fn sort(catalogue: &mut Catalogue<'s>, missing: Vec<Missing>) -> Result<Sorted<'s>> {
        let mut steps: BTreeMap<usize, Step<'s>> = BTreeMap::new();
        let mut jobs: Vec<Job<'s>> = Vec::new();
        for (at, layer) in missing.into_iter().enumerate() {
            let path = layer.place.path.clone();
            let refused = |why: String| Error::new(Kind::Corrupt, why);
            let (offset, size) = match catalogue.content(&path) {
                Some(Content::At(offset, size)) => (*offset, *size),
                Some(Content::Document(bytes)) => {
                    let (size, source) = (bytes.len() as u64, Box::new(io::Cursor::new(bytes.clone())));
                    jobs.push(Job { layer, at, source, size });
                    continue;
                }
                Some(Content::Layer(slot)) => {
                    let step = match slot.take() {
                        Some(unpacked) => Step::Layer(finished(*unpacked, &layer)?),
                        None => Step::Copy(layer),
                    };
                    steps.insert(at, step);
                    continue;
                }
                Some(Content::Broken(error)) => {
                    let error = Error::from(error.to_report());
                    return Err(error.within(format!("cannot unpack layer `{path}`")));
                }
                Some(Content::Passed) => return Err(refused(format!("`{path}` is no layer"))),
                Some(Content::Link(_)) | None => return Err(refused(format!("layer `{path}` is missing"))),
            };
            let source = Box::new(catalogue.section(offset, size)?);
            jobs.push(Job { layer, at, source, size });
        }
        Ok((steps, jobs))
    }

    /// Unpacks layers, several at once, and commits all of them in their order, in batches: the
    /// disk writes the first ones while the next are unpacked.
    fn bring(&self, (mut steps, jobs): Sorted<'s>) -> Result<()> {
        // Each keeps two threads busy.
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let workers = (processors / 2).clamp(1, WORKERS).min(jobs.len());
        let last = steps.len() + jobs.len();
        let queue = Mutex::new(jobs.into_iter());
        let next = || queue.lock().ok()?.next();
        std::thread::scope(|scope| {
            let (done, results) = channel();
            for _ in 0..workers {
                let done = done.clone();
                let work = move || {
                    while let Some(job) = next() {
                        if done.send(self.unpack_one(job)).is_err() {
                            return;
                        }
                    }
                };
                std::thread::Builder::new().name("load".into()).spawn_scoped(scope, work).map_err(
                    |error| Error::new(Kind::of_io(&error), "cannot start a thread").because(error),
                )?;
            }
            drop(done);
            let mut committed = 0;
            let result = loop {
                if let Err(error) = self.commit(&mut steps, &mut committed, last) {
                    break Err(error);
                }
                if committed == last {
                    break Ok(());
                }
                // The others wait for one that is on its way.
                let waiting = Waiting::default();
                let waits = |step: &Step<'_>| match step {
                    Step::Layer(layer) => waiting.add(layer),
                    Step::Copy(_) => Ok(()),
                };
                if let Err(error) = steps.values().try_for_each(waits) {
                    break Err(error);
                }
                match results.recv() {
                    Ok(Ok((at, unpacked))) => drop(steps.insert(at, Step::Layer(unpacked))),
                    Ok(Err(error)) => break Err(error),
                    Err(_) => break Err(Error::new(Kind::Internal, "a thread of load panicked")),
                }
            };
            // After a failure the others stop when they have done what they are at.
            while next().is_some() {}
            result
        })
    }

    fn unpack_one(&self, job: Job<'_>) -> Result<(usize, Unpacked<'s>)> {
        let Job { layer, at, source, size } = job;
        let item = layer.diff_id.short();
        let known = Known { blob: layer.place.descriptor.as_ref(), diff_id: Some(&layer.diff_id) };
        let unpacked = self
            .unpacker
            .unpack(Counted::new(source, self.observer, item, size), known)
            .map_err(Error::from)
            .within(|| format!("cannot unpack layer `{}`", layer.place.path))?;
        self.observer.step(item, "Unpacked", None);
        Ok((at, finished(unpacked, &layer)?))
    }

    /// Commits what is ready from the first one that is not `committed` on, if that is enough for a
    /// batch or goes up to the `last`.
    fn commit(
        &self,
        steps: &mut BTreeMap<usize, Step<'s>>,
        committed: &mut usize,
        last: usize,
    ) -> Result<()> {
        let (mut end, mut bytes, mut memory) = (*committed, 0, 0);
        while let Some(step) = steps.get(&end) {
            if let Step::Layer(unpacked) = step {
                bytes += unpacked.applied.content_size;
                memory += unpacked.memory();
            }
            end += 1;
        }
        if end < last && bytes < BATCH && memory < MEMORY {
            return Ok(());
        }
        let mut batch = Vec::new();
        for at in std::mem::replace(committed, end)..end {
            match steps.remove(&at) {
                Some(Step::Layer(unpacked)) => batch.push(unpacked),
                Some(Step::Copy(layer)) => {
                    self.unpacker.commit(std::mem::take(&mut batch))?;
                    batch.push(self.copy(&layer)?);
                }
                None => {}
            }
        }
        self.unpacker.commit(batch)
    }

    /// Makes the tar of a layer with that diff id again and unpacks it.
    fn copy(&self, layer: &Missing) -> Result<Unpacked<'s>> {
        for chain in self.store.layers()? {
            if !self.store.layer(&chain).is_ok_and(|known| known.is_some_and(|k| k.diff_id == layer.diff_id))
            {
                continue;
            }
            if let Ok(Some(unpacked)) = unpack_again(self.unpacker, &chain, &layer.diff_id) {
                return finished(unpacked, layer);
            }
        }
        Err(Error::new(Kind::Corrupt, format!("layer `{}` cannot be used a second time", layer.place.path)))
    }

    fn put(&self, image: Candidate) -> Result<LoadedImage> {
        let mut record = ImageRecord::new(&image.config);
        record.origin = "load".into();
        self.store.put_content(image.config.digest(), image.config.bytes())?;
        // What is known of an image that is here already is worth more.
        match self.store.image(&record.id) {
            Ok(Some(known)) => record = known,
            Err(error) if error.kind() != Kind::Corrupt => return Err(error),
            Ok(None) | Err(_) => {}
        }
        let has_manifest = match &record.manifest {
            Some(manifest) => self.store.has_content(&manifest.digest)?,
            None => false,
        };
        if !has_manifest {
            record.manifest = None;
            if let Some((descriptor, bytes)) = &image.manifest {
                self.store.put_content(&descriptor.digest, bytes)?;
                record.manifest = Some(descriptor.clone());
            }
        }
        let references = image.names;
        let mut renamed = Vec::new();
        for name in &references {
            if let Ok(Some(before)) = self.store.name(name)
                && before.image != record.id
            {
                renamed.push((name.clone(), before.image));
            }
        }
        let names: Vec<_> = references.iter().map(|name| (name, None)).collect();
        let image = self.store.put_named_image(&record, &names)?;
        Ok(LoadedImage { image, references, renamed })
    }
}

/// An unpacked layer in its place, checked against what is known of it.
fn finished<'s>(mut unpacked: Unpacked<'s>, layer: &Missing) -> Result<Unpacked<'s>> {
    let refused = |why: String| {
        let path = &layer.place.path;
        Error::new(Kind::Corrupt, format!("layer `{path}` is not what the archive says"))
            .because(Error::new(Kind::Corrupt, why))
    };
    if unpacked.diff_id != layer.diff_id {
        return Err(refused(format!(
            "its tar has the digest {} instead of {}",
            unpacked.diff_id, layer.diff_id
        )));
    }
    if let Some(wanted) = &layer.place.descriptor {
        let same = unpacked.blob.digest.algorithm() != wanted.digest.algorithm()
            || unpacked.blob.digest == wanted.digest;
        if !same || unpacked.blob.size != wanted.size {
            return Err(refused(format!(
                "its bytes have the digest {} instead of {}",
                unpacked.blob.digest, wanted.digest
            )));
        }
        if wanted.digest != layer.diff_id.0 {
            let descriptor = Descriptor::new(wanted.media_type.clone(), wanted.digest.clone(), wanted.size);
            unpacked.sources.push(LayerSource { descriptor, repository: String::new() });
        }
    }
    unpacked.parent.clone_from(&layer.parent);
    debug_assert_eq!(unpacked.chain_id(), layer.chain);
    Ok(unpacked)
}
