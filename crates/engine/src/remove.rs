//! Removing containers.

use std::fs;

use robot_env_diag::{Error, Kind, Result};
use robot_env_spec::ContainerId;
use robot_env_sys::poll::{self, Fork};
use robot_env_sys::process;

use crate::control::{container_cgroup, send};
use crate::engine::{Engine, snapshot_key};
use crate::record::{ContainerRecord, State};

/// What [`Engine::remove`] may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoveContainerOptions {
    /// Kill it first if it runs.
    pub force: bool,
    /// Remove its anonymous volumes too.
    pub volumes: bool,
}

impl Engine {
    /// Removes a container. What it wrote goes to the store's trash: see
    /// [`Engine::empty_trash_later`].
    ///
    /// # Errors
    /// `Conflict` while it runs, unless `force` says so.
    pub fn remove(&self, text: &str, options: RemoveContainerOptions) -> Result<ContainerId> {
        let container = match self.container(text) {
            Err(error) if error.kind() == Kind::Corrupt => {
                return self.remove_damaged(text, options, error);
            }
            other => other?,
        };
        let id = container.record.id.clone();
        if container.state.state.is_active() {
            if !options.force {
                let word = container.state.state.word();
                return Err(Error::new(
                    Kind::Conflict,
                    format!(
                        "cannot remove container \"/{}\": container is {word}: stop the container before removing or force remove",
                        container.record.name
                    ),
                ));
            }
            self.end(&id)?;
        }
        let removed = self.records.lock(&id).and_then(|lock| {
            let container = self.reconciled_under(self.records.load(&id)?, &lock)?;
            if container.state.state.is_active() {
                return Err(Error::new(Kind::Conflict, format!("container {id} was started meanwhile")));
            }
            self.clean_after_kill(&id);
            if options.volumes {
                self.discard_anonymous_volumes(&container.record, true);
            }
            if self.keep_container(&container.record) {
                self.records.free_name(&container.record.name, &id);
                let _ = fs::remove_dir_all(self.paths.container_run(&id));
                self.tell(&container.record, "destroy", &[]);
                return Ok(());
            }
            self.take_away(&container.record)
        });
        match removed {
            // It has removed itself.
            Err(error) if error.kind() == Kind::NotFound => Ok(id),
            other => other.map(|()| id),
        }
    }

    /// Removes a container whose records cannot be read: with `force` alone, because nobody can tell
    /// what it is. Its volumes stay.
    fn remove_damaged(
        &self,
        text: &str,
        options: RemoveContainerOptions,
        error: Error,
    ) -> Result<ContainerId> {
        let id = self.records.find(text)?;
        if !options.force {
            return Err(error
                .within(format!("cannot remove container `{}`: it is damaged", id.short()))
                .with_hint(format!("`rm -f {}` removes it all the same", id.short())));
        }
        if let Some(monitor) = self.records.monitor_of(&id) {
            // The monitor then ends by itself.
            for child in children(monitor) {
                if let Ok(pidfd) = process::pidfd_open(child) {
                    let _ = process::signal(&pidfd, libc::SIGKILL);
                }
            }
            self.await_monitor(&id);
        }
        let gone = |error: &Error| error.kind() == Kind::NotFound;
        let lock = match self.records.lock(&id) {
            // It wanted to be removed when it ended.
            Err(error) if gone(&error) => return Ok(id),
            other => other?,
        };
        self.clean_after_kill(&id);
        let record = self.paths.container(&id).join("container.json");
        match fs::remove_file(&record) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::new(Kind::of_io(&error), format!("cannot remove `{}`", record.display()))
                    .because(error));
            }
            _ => {}
        }
        for name in self.records.names_of(&id) {
            self.records.free_name(&name, &id);
        }
        self.forget_files(&id);
        drop(lock);
        self.tell_of("container", "destroy", id.as_str(), std::collections::BTreeMap::new());
        Ok(id)
    }

    /// Kills a container that runs, and waits until its monitor has gone.
    fn end(&self, id: &ContainerId) -> Result<()> {
        let gone = |error: &Error| error.kind() == Kind::NotFound;
        match self.note_stop(id) {
            Err(error) if gone(&error) => return Ok(()),
            done => done?,
        }
        for _ in 0..3 {
            let container = match self.container_by_id(id) {
                Ok(container) => container,
                Err(error) if gone(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            match &container.state.state {
                State::Running { process, .. } => {
                    send(process, libc::SIGKILL)?;
                    self.thaw(&container)?;
                    if let Some(cgroup) = container_cgroup(&container) {
                        cgroup.kill();
                    }
                }
                State::Restarting { .. } => self.stop(id.as_str(), &crate::StopOptions::default())?,
                _ => return Ok(()),
            }
            self.await_monitor(id);
        }
        Ok(())
    }

    /// Removes a container that has ended and wanted to be removed then.
    pub(crate) fn remove_dead(&self, record: &ContainerRecord) -> Result<()> {
        self.discard_anonymous_volumes(record, false);
        self.take_away(record)
    }

    /// With `undo`, they are kept like what is removed by hand.
    pub(crate) fn discard_anonymous_volumes(&self, record: &ContainerRecord, undo: bool) {
        let mut anonymous = record.mounts.iter().filter(|mount| mount.anonymous).peekable();
        if anonymous.peek().is_none() {
            return;
        }
        // `--volumes-from` may be giving it to another one just now.
        let Ok(_claim) = self.claim(true) else { return };
        // Where nobody knows whose they are, they stay.
        let Ok(users) = self.volume_users() else { return };
        if self.check_records().is_err() {
            return;
        }
        for name in anonymous.filter_map(|mount| mount.volume.as_deref()) {
            // `--volumes-from` may have given it to another one.
            if users.get(name).is_none_or(|ids| ids.iter().all(|id| id == record.id.as_str())) {
                let _ = self.discard_volume(name, undo);
            }
        }
    }

    /// The record goes first: from then on there is no such container, and what a kill leaves
    /// behind is swept up by [`Engine::sweep`].
    fn take_away(&self, record: &ContainerRecord) -> Result<()> {
        self.unpublish(record)?;
        self.forget_directories(&record.id);
        Ok(())
    }

    /// Makes an end of a container for everybody who looks; its directories are still there.
    pub(crate) fn unpublish(&self, record: &ContainerRecord) -> Result<()> {
        let directory = self.paths.container(&record.id);
        match fs::remove_file(directory.join("container.json")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::new(
                    Kind::of_io(&error),
                    format!("cannot remove container `{}`", record.name),
                )
                .because(error));
            }
            _ => {}
        }
        self.records.free_name(&record.name, &record.id);
        let _ = self.store.remove_snapshot(&snapshot_key(&record.id));
        self.tell(record, "destroy", &[]);
        Ok(())
    }

    /// Takes away everything of a container whose record is gone or was never whole.
    pub(crate) fn forget(&self, record: &ContainerRecord) {
        self.records.free_name(&record.name, &record.id);
        self.forget_files(&record.id);
    }

    fn forget_files(&self, id: &ContainerId) {
        let _ = self.store.remove_snapshot(&snapshot_key(id));
        self.forget_directories(id);
    }

    pub(crate) fn forget_directories(&self, id: &ContainerId) {
        for directory in [self.paths.container(id), self.paths.container_run(id)] {
            // The monitor may be writing how it all ended: what it leaves between the look and the
            // removal makes that fail, once.
            for _ in 0..10 {
                match fs::remove_dir_all(&directory) {
                    Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
                    _ => break,
                }
            }
        }
    }

    /// Removes what killed processes have left of containers that do not exist (snapshots,
    /// directories, names), and of those that do not run (processes, cgroups).
    pub fn sweep(&self) -> Result<()> {
        let swept = self.sweep_containers();
        self.tend_networks(&std::collections::BTreeSet::new());
        swept
    }

    fn sweep_containers(&self) -> Result<()> {
        for id in self.records.ids()? {
            if !self.paths.container(&id).join("container.json").exists() {
                if let Some(_lock) = self.records.lock_leftover(&id) {
                    self.clean_after_kill(&id);
                    self.forget_files(&id);
                }
            } else if self.paths.container_run(&id).join("config.json").exists()
                && !self.records.has_monitor(&id)
                && let Ok(lock) = self.records.lock(&id)
                && let Ok(container) = self.records.load(&id)
                && self.reconciled_under(container, &lock).is_ok_and(|now| !now.state.state.is_active())
            {
                self.clean_after_kill(&id);
            }
        }
        for entry in fs::read_dir(self.paths.run_root().join("containers")).into_iter().flatten().flatten() {
            if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<ContainerId>().ok())
                && !self.paths.container(&id).exists()
                && !self.records.has_monitor(&id)
            {
                self.clean_after_kill(&id);
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        {
            let _claim = self.claim(true)?;
            crate::volume::sweep_volumes(&self.paths.volumes());
        }
        crate::volume::sweep_fillings(&self.paths.volumes(), |id| {
            let directory = self.paths.containers().join(id);
            directory.exists() && !directory.join("container.json").exists()
        });
        {
            // Nobody brings one back meanwhile.
            let _claim = self.claim(true)?;
            for key in self.store.snapshot_keys()? {
                if let Ok(id) = key.as_str().parse::<ContainerId>()
                    && !self.paths.container(&id).exists()
                    && !self.is_kept(&id)
                {
                    let _ = self.store.remove_snapshot(&key);
                }
            }
        }
        for entry in fs::read_dir(self.paths.names()).into_iter().flatten().flatten() {
            if let Ok(name) = entry.file_name().into_string()
                && !name.starts_with('.')
            {
                let _ = self.records.free_stale_name(&name);
            }
        }
        Ok(())
    }

    /// Deletes what was removed, in a process of its own that nobody waits for.
    pub fn empty_trash_later(&self) {
        // What cannot go now goes the next time.
        let _ = self.expire_removed();
        if self.store.trash_is_empty().unwrap_or(true) {
            return;
        }
        // With more threads than one (the API server) fork is refused, and it is done here.
        match poll::fork() {
            Ok(Fork::Child) => {
                let _ = process::new_session();
                if let Ok(null) = fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
                    for target in 0..3 {
                        let _ = poll::replace_stdio(target, &null);
                    }
                }
                process::yield_to_others();
                let _ = self.store.empty_trash(None);
                poll::exit_now(0);
            }
            Ok(Fork::Parent(_)) => {}
            Err(_) => drop(self.store.empty_trash(None)),
        }
    }
}

/// The children of a process that has one thread, as a monitor does.
fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}
