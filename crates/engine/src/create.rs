//! Making containers: everything that is decided before the first start.

use std::fs::File;

use jiff::Timestamp;
use robot_env_diag::{Error, Kind, Result};
use robot_env_oci::{ChainId, ImageConfig, ImageId, Platform, RuntimeConfig};
use robot_env_spec::{ContainerId, ContainerSpec, IpcMode, NetworkMode, PidMode, check_name};
use robot_env_store::{Snapshot, SnapshotOptions};
use robot_env_sys::process::parse_signal;

use crate::engine::{Engine, snapshot_key};
use crate::names;
use crate::record::ContainerRecord;
use crate::records::ContainerLock;
use crate::start::Ahead;

/// What [`Engine::create`] makes a container of.
#[derive(Clone, Debug, Default)]
pub struct CreateRequest {
    /// What is wanted. The image must be in the store.
    pub spec: ContainerSpec,
    /// Its name; absent: one is made up.
    pub name: Option<String>,
}

/// A container that was made.
#[derive(Clone, Debug)]
pub struct Created {
    /// Its id.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// What the user should hear, one line each.
    pub warnings: Vec<String>,
}

/// What a container is made on top of.
pub(crate) struct Base {
    /// The image; of a step of a build, the digest of the config so far.
    pub(crate) image: ImageId,
    pub(crate) chain: Option<ChainId>,
    pub(crate) config: RuntimeConfig,
}

/// How a container's snapshot is kept: what goes with it needs no power cut survived.
pub(crate) fn snapshot_options(record: &ContainerRecord) -> SnapshotOptions {
    let passing = record.spec.auto_remove || record.spec.step.is_some();
    SnapshotOptions { volatile: passing, durable: !passing }
}

impl Engine {
    /// Makes a container; it is not started.
    ///
    /// # Errors
    /// `NotFound` without the image (`No such image: x`) or a container that it refers to;
    /// `Conflict` for a name that is taken; `InvalidInput` for what contradicts itself.
    pub fn create(&self, request: CreateRequest) -> Result<Created> {
        Ok(self.make_locked(request, false)?.0)
    }

    /// [`Engine::create`] for somebody who starts the container at once. Its lock is held until then,
    /// so nobody takes it away meanwhile, and a `--rm` container whose maker is killed is removed by
    /// the next command that looks at it.
    pub fn create_for(&self, ahead: &mut Ahead, request: CreateRequest) -> Result<Created> {
        let (created, lock) = self.make_locked(request, true)?;
        ahead.hold(lock);
        Ok(created)
    }

    fn make_locked(&self, request: CreateRequest, starts_at_once: bool) -> Result<(Created, ContainerLock)> {
        let CreateRequest { spec, name } = request;
        spec.check()?;
        if let Some(option) = spec.storage_opt.keys().next() {
            return Err(Error::new(
                Kind::Unsupported,
                format!("cannot apply the storage option `{option}`: a container's layer has no limit here"),
            )
            .with_hint("give large data a place of its own with `-v` or `--tmpfs /path:size=SIZE`"));
        }
        if let Some(name) = &name {
            check_name(name)?;
        }
        // Nothing that it is made of is taken away as unused before its record says that it is used.
        let claim = self.claim(false)?;
        let image = self.store.resolve(&spec.image)?;
        let config = self.store.config(&image.id)?;
        let mut warnings = Vec::new();
        check_platform(&spec, config.value(), &mut warnings)?;
        warnings.extend(crate::network::shared_memory_warning(&spec, &config.value().config));
        let chain = image.chain().cloned();
        let base = Base { image: image.id, chain, config: config.into_value().config };
        let (mut created, lock) = self.create_on(base, spec, name, claim, starts_at_once)?;
        created.warnings.splice(..0, warnings);
        Ok((created, lock))
    }

    /// Makes a container on top of layers; `claim` keeps what it is made of until it is there.
    pub(crate) fn create_on(
        &self,
        base: Base,
        mut spec: ContainerSpec,
        name: Option<String>,
        claim: File,
        starts_at_once: bool,
    ) -> Result<(Created, ContainerLock)> {
        let Base { image, chain, config: runtime } = base;
        check_command(&spec, &runtime)?;
        check_stop_signal(&spec, &runtime)?;
        self.pin_references(&mut spec)?;
        for (key, value) in &runtime.labels {
            spec.labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
        let id = ContainerId::from_random(random()?);
        let mounts = self.mount_points(&spec, &runtime)?;
        let mut record = ContainerRecord {
            id: id.clone(),
            name: String::new(),
            created: Timestamp::now(),
            spec,
            image,
            chain,
            image_config: runtime,
            mounts,
            user_map: None,
            starts_at_once,
        };
        // Held until the container is there: whoever finds its directory without a record, and the
        // lock free, knows that its maker was killed.
        let lock = self.records.begin(&id)?;
        let made = self.name(&mut record, name).and_then(|()| {
            let snapshot = self.make_snapshot(&record)?;
            let _turn = self.choose_ids(&mut record)?;
            Engine::adopt_snapshot(&record, &snapshot)?;
            self.fill_volumes(&record)?;
            self.records.publish(&record)
        });
        if let Err(error) = made {
            self.forget(&record);
            return Err(error);
        }
        drop(claim);
        self.tell(&record, "create", &[]);
        Ok((Created { id, name: record.name, warnings: Vec::new() }, lock))
    }

    /// Takes the name that the user wants, or makes one up.
    fn name(&self, record: &mut ContainerRecord, name: Option<String>) -> Result<()> {
        if let Some(name) = name {
            record.name = name;
            return self.records.take_name(&record.name, &record.id);
        }
        for attempt in 0.. {
            record.name = names::of(random()?, attempt);
            match self.records.take_name(&record.name, &record.id) {
                Err(error) if error.kind() == Kind::Conflict && attempt < 100 => {}
                done => return done,
            }
        }
        unreachable!("the loop ends by itself")
    }

    fn make_snapshot(&self, record: &ContainerRecord) -> Result<Snapshot> {
        self.store.prepare(&snapshot_key(&record.id), record.chain.as_ref(), snapshot_options(record))
    }

    /// Names of other containers become ids: a rename must not lead to another container.
    fn pin_references(&self, spec: &mut ContainerSpec) -> Result<()> {
        let pin = |name: &mut String| -> Result<()> {
            self.records.find(name)?.as_str().clone_into(name);
            Ok(())
        };
        if let NetworkMode::Container(name) = &mut spec.network {
            pin(name)?;
        }
        if let IpcMode::Container(name) = &mut spec.ipc {
            pin(name)?;
        }
        if let PidMode::Container(name) = &mut spec.pid {
            pin(name)?;
        }
        for other in &mut spec.volumes_from {
            pin(&mut other.container)?;
        }
        self.pin_networks(spec)
    }
}

/// Random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0u8; N];
    let mut filled = 0;
    while filled < N {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(robot_env_sys::CallError::new("getrandom()", errno).into()),
        }
    }
    Ok(bytes)
}

fn check_command(spec: &ContainerSpec, image: &RuntimeConfig) -> Result<()> {
    let has = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|words| !words.is_empty());
    let entrypoint = match &spec.entrypoint {
        Some(words) => !words.is_empty(),
        None => has(&image.entrypoint),
    };
    let command = has(&spec.command) || (spec.entrypoint.is_none() && has(&image.cmd));
    if entrypoint || command {
        return Ok(());
    }
    Err(Error::invalid("no command specified")
        .with_hint(format!("name a program, e.g. `run {} sh`", spec.image)))
}

fn check_stop_signal(spec: &ContainerSpec, image: &RuntimeConfig) -> Result<()> {
    let text = spec.stop_signal.as_deref().unwrap_or(&image.stop_signal);
    if text.is_empty() || parse_signal(text).is_some() {
        return Ok(());
    }
    Err(Error::invalid(format!("invalid signal: {text}")))
}

/// The image must run here, and must be what was asked for.
fn check_platform(spec: &ContainerSpec, config: &ImageConfig, warnings: &mut Vec<String>) -> Result<()> {
    let has = &config.platform;
    if !has.os.is_empty() && has.os != "linux" {
        return Err(Error::new(
            Kind::Unsupported,
            format!("cannot run image `{}`: it is for {has}", spec.image),
        ));
    }
    let host = Platform::host();
    if let Some(wanted) = &spec.platform
        && (wanted.architecture != has.architecture)
    {
        return Err(Error::not_found(format!(
            "image with reference {} was found but its platform ({has}) does not match the specified platform ({wanted})",
            spec.image
        )));
    }
    if spec.platform.is_none() && !has.architecture.is_empty() && has.architecture != host.architecture {
        warnings.push(format!(
            "The requested image's platform ({has}) does not match the detected host platform ({host}) and no specific platform was requested"
        ));
    }
    Ok(())
}
