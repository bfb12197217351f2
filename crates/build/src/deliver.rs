//! A build's result goes where its outputs say.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use robot_env_diag::{Error, IoContext, Kind, Result};
use robot_env_engine::Engine;
use robot_env_layer::{ExportTree, Ownership, export_trees};
use robot_env_oci::{ImageConfig, ImageId, Platform, Reference, Verified};
use robot_env_registry::Client;
use robot_env_store::ImageRecord;
use robot_env_sys::fs::open_directory;
use robot_env_transfer::{LayoutOptions, LayoutTarget, PushOptions, WholeFile, write_layout};

use crate::copying::{CopyOptions, Target};
use crate::output::{Destination, Output};
use crate::relayer::Relayer;
use crate::request::{BuildRequest, Built, Observer};
use crate::room::Room;
use crate::solve::Solved;
use crate::tree::Tree;

/// What goes out, and what has gone.
pub(crate) struct Delivery<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) request: &'a BuildRequest,
    pub(crate) room: &'a Room,
    pub(crate) client: Option<&'a Client>,
    /// The images, one a platform.
    pub(crate) solved: Vec<Solved>,
    /// Those with times set back, once one was wanted.
    pub(crate) rewritten: Option<Vec<Verified<ImageConfig>>>,
    pub(crate) built: Built,
}

/// What can be said before anything is built.
///
/// # Errors
/// `InvalidInput` for outputs that do not go together with the request.
pub(crate) fn check(request: &BuildRequest, client: bool) -> Result<()> {
    let several = request.platforms.len() > 1;
    let stores = request.outputs.is_empty()
        || request.outputs.iter().any(|output| matches!(output, Output::Image { push: false, .. }));
    if several && stores {
        return Err(Error::invalid("an image for several platforms cannot be kept here under one name")
            .with_hint(
                "add `--push`, or `--output type=oci,dest=FILE`, `--output type=local,dest=DIRECTORY`",
            ));
    }
    for output in &request.outputs {
        match output {
            Output::Layout { docker: true, .. } if several => {
                return Err(Error::invalid("the output `docker` holds one platform")
                    .with_hint("`--output type=oci` holds several"));
            }
            Output::Image { push: true, names, .. } if names.is_empty() && request.names.is_empty() => {
                return Err(
                    Error::invalid("cannot push an image without a name").with_hint("name it with `-t`")
                );
            }
            Output::Image { push: true, .. } if !client => {
                return Err(Error::new(Kind::Unsupported, "nothing can be pushed from here"));
            }
            _ => {}
        }
        let rewrites = match output {
            Output::Image { rewrite_timestamp, .. } | Output::Layout { rewrite_timestamp, .. } => {
                *rewrite_timestamp
            }
            _ => false,
        };
        if rewrites && request.epoch.is_none() {
            return Err(Error::invalid("rewrite-timestamp needs a SOURCE_DATE_EPOCH")
                .with_hint("set it in the environment, or by `--build-arg SOURCE_DATE_EPOCH=SECONDS`"));
        }
    }
    Ok(())
}

impl Delivery<'_> {
    pub(crate) fn run(&mut self, observer: &mut dyn Observer, steps: &mut usize) -> Result<()> {
        let keep = Output::Image { names: Vec::new(), push: false, rewrite_timestamp: false };
        let outputs = if self.request.outputs.is_empty() { vec![keep] } else { self.request.outputs.clone() };
        for output in &outputs {
            let label = match output {
                Output::Image { push: false, .. } if self.request.outputs.is_empty() => None,
                Output::Image { push: true, .. } => Some("pushing the image"),
                Output::Image { .. } => Some("exporting to image"),
                Output::Local { .. } => Some("exporting to client directory"),
                Output::Tar { .. } => Some("exporting to client tarball"),
                Output::Layout { docker: true, .. } => Some("exporting to docker image format"),
                Output::Layout { .. } => Some("exporting to oci image format"),
                Output::Cache => None,
            };
            let Some(label) = label else {
                self.output(output)?;
                continue;
            };
            *steps += 1;
            observer.begin(*steps, label);
            let begun = Instant::now();
            match self.output(output) {
                Ok(()) => observer.done(*steps, begun.elapsed()),
                Err(error) => {
                    observer.failed(*steps);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn output(&mut self, output: &Output) -> Result<()> {
        match output {
            Output::Image { names, push, rewrite_timestamp } => {
                self.image(self.named(names), *push, *rewrite_timestamp)
            }
            Output::Local { directory, platform_split } => self.local(directory, *platform_split),
            Output::Tar { destination, platform_split } => self.tar(destination, *platform_split),
            Output::Layout { destination, names, docker, compression, rewrite_timestamp } => {
                let options = LayoutOptions {
                    names: self.named(names),
                    docker: *docker,
                    compression: *compression,
                    annotations: BTreeMap::new(),
                };
                self.layout(destination, &options, *rewrite_timestamp)
            }
            Output::Cache => Ok(()),
        }
    }

    fn named(&self, names: &[Reference]) -> Vec<Reference> {
        if names.is_empty() { self.request.names.clone() } else { names.to_vec() }
    }

    /// The images, with their times set back where that is asked for.
    fn configs(&mut self, rewrite: bool) -> Result<Vec<Verified<ImageConfig>>> {
        let Some(epoch) = self.request.epoch.filter(|_| rewrite) else {
            return Ok(self.solved.iter().map(|solved| solved.config.clone()).collect());
        };
        if let Some(known) = &self.rewritten {
            return Ok(known.clone());
        }
        let relayer = Relayer { engine: self.engine, room: self.room };
        let mut all = Vec::with_capacity(self.solved.len());
        for solved in &self.solved {
            all.push(relayer.rewrite(solved.config.value(), solved.base.as_ref(), epoch)?);
        }
        self.rewritten = Some(all.clone());
        Ok(all)
    }

    fn image(&mut self, names: Vec<Reference>, push: bool, rewrite: bool) -> Result<()> {
        let configs = self.configs(rewrite)?;
        let store = self.engine.store();
        let before = store.image_ids()?;
        let given: Vec<_> = match &configs[..] {
            [_] => names.iter().map(|name| (name, None)).collect(),
            _ => Vec::new(),
        };
        let mut images = Vec::with_capacity(configs.len());
        for config in &configs {
            let record = match store.image(&ImageId(config.digest().clone())) {
                Ok(Some(known)) => known,
                _ => record_of(config),
            };
            images.push(store.put_named_image(&record, &given)?);
        }
        let client = self.client.filter(|_| push);
        let ids: Vec<ImageId> = images.iter().map(|image| image.id.clone()).collect();
        if let [image] = &images[..] {
            self.built.image = image.id.clone();
            self.built.names.extend(
                names.iter().filter(|name| !self.built.names.contains(name)).cloned().collect::<Vec<_>>(),
            );
            if let Some(client) = client {
                for name in &names {
                    let options = PushOptions::default();
                    let pushed = robot_env_transfer::push(store, client, name, &options, &())?;
                    self.built.digest = Some(pushed.digest);
                    self.built.pushed.push(pushed.reference);
                }
            }
        } else if let Some(client) = client {
            let push =
                |name| robot_env_transfer::push_index(store, client, name, &images, BTreeMap::new(), &());
            let pushed: Result<Vec<_>> = names.iter().map(push).collect();
            // No name here stands for them, whatever the registry says.
            for image in images.iter().filter(|image| !before.contains(&image.id)) {
                let _ = store.remove_image(&image.id, robot_env_store::RemoveOptions::default());
            }
            for pushed in pushed? {
                self.built.digest = Some(pushed.digest);
                self.built.pushed.push(pushed.reference);
            }
        }
        self.note(ids);
        Ok(())
    }

    fn note(&mut self, ids: Vec<ImageId>) {
        for ((_, known), id) in self.built.images.iter_mut().zip(ids) {
            *known = id;
        }
    }

    fn layout(&mut self, destination: &Destination, options: &LayoutOptions, rewrite: bool) -> Result<()> {
        let configs = self.configs(rewrite)?;
        let store = self.engine.store();
        let images: Vec<ImageRecord> = configs.iter().map(record_of).collect();
        let write = |target: LayoutTarget<'_>| write_layout(store, &images, target, options, &());
        let top = match destination {
            Destination::Directory(path) => write(LayoutTarget::Directory(path))?,
            Destination::File(path) => {
                let whole = WholeFile::new(path)?;
                let mut out = BufWriter::with_capacity(1 << 20, whole.file()?);
                let top = write(LayoutTarget::Archive(&mut out))?;
                let out = out.into_inner().map_err(|error| unwritten(path, error.into_error()))?;
                whole.finish(out)?;
                top
            }
            Destination::Open(file) => {
                let mut out = BufWriter::with_capacity(1 << 20, &**file);
                let top = write(LayoutTarget::Archive(&mut out))?;
                out.flush().io_context(|| "cannot write the archive".into())?;
                top
            }
        };
        self.built.digest = Some(top.digest);
        let ids = images.into_iter().map(|image| image.id).collect();
        self.note(ids);
        Ok(())
    }

    /// The trees of the images, each with the directory that it goes into.
    fn trees(&self, split: Option<bool>) -> Result<Vec<(OwnedFd, String)>> {
        let split = split.unwrap_or(self.solved.len() > 1);
        if !split && self.solved.len() > 1 {
            return Err(Error::invalid("files for several platforms need directories of their own"));
        }
        let mut trees = Vec::with_capacity(self.solved.len());
        for solved in &self.solved {
            let config = solved.config.value();
            let directory = if split { directory_of(&config.platform) } else { String::new() };
            trees.push((self.room.open_layers(self.engine.store(), config.chain().top())?, directory));
        }
        Ok(trees)
    }

    /// Files belong to whoever builds, as Docker's are.
    fn local(&self, directory: &Path, split: Option<bool>) -> Result<()> {
        let options = CopyOptions { time: self.request.epoch, ..CopyOptions::default() };
        for (tree, name) in self.trees(split)? {
            // Joined to nothing, a path ends with a slash.
            let place = if name.is_empty() { directory.to_owned() } else { directory.join(name) };
            let within = || format!("cannot write into `{}`", place.display());
            fs::create_dir_all(&place).io_context(within)?;
            let root = open_directory(&place)?;
            let mut target = Target::new(root.as_fd(), Ownership::SingleId);
            let tree = Tree {
                root: tree.as_fd(),
                ignore: None,
                foreign: true,
                cancel: self.request.cancel.as_ref(),
            };
            for found in tree.find(".")? {
                target.copy(&tree, &found, "", &options).map_err(|error| error.within(within()))?;
            }
        }
        Ok(())
    }

    fn tar(&self, destination: &Destination, split: Option<bool>) -> Result<()> {
        let trees = self.trees(split)?;
        let trees: Vec<ExportTree<'_>> = trees
            .iter()
            .map(|(tree, name)| ExportTree { tree: tree.as_fd(), prefix: name.clone().into_bytes() })
            .collect();
        let write = |out: &mut dyn Write| export_trees(&trees, out, self.request.epoch);
        match destination {
            Destination::File(path) | Destination::Directory(path) => {
                let whole = WholeFile::new(path)?;
                let mut out = BufWriter::with_capacity(1 << 20, whole.file()?);
                write(&mut out)?;
                whole.finish(out.into_inner().map_err(|error| unwritten(path, error.into_error()))?)
            }
            Destination::Open(file) => {
                let mut out = BufWriter::with_capacity(1 << 20, &**file);
                write(&mut out)?;
                out.flush().io_context(|| "cannot write the archive".into())
            }
        }
    }
}

fn unwritten(path: &Path, error: std::io::Error) -> Error {
    Error::new(Kind::of_io(&error), format!("cannot write to `{}`", path.display())).because(error)
}

fn record_of(config: &Verified<ImageConfig>) -> ImageRecord {
    let mut record = ImageRecord::new(config);
    record.origin = "build".into();
    record
}

/// `linux_arm64`, as Docker names it.
fn directory_of(platform: &Platform) -> String {
    platform.to_string().replace('/', "_")
}
