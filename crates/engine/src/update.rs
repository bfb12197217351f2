//! Changing containers that exist: names, limits, restart policies.

use robot_env_diag::{Error, Kind, Result};
use robot_env_runtime::settings;
use robot_env_spec::{NamespaceSource, Resolved, Resources, RestartPolicy, check_name, plan};
use robot_env_sys::cgroup;

use crate::control::container_cgroup;
use crate::engine::Engine;

/// What [`Engine::update`] changes; what is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpdateRequest {
    /// Limits.
    pub resources: Resources,
    /// The restart policy.
    pub restart: Option<RestartPolicy>,
}

impl Engine {
    /// Gives a container another name.
    ///
    /// # Errors
    /// `Conflict` for a name that is taken, `InvalidInput` for a bad one or its own.
    pub fn rename(&self, text: &str, name: &str) -> Result<()> {
        let name = name.strip_prefix('/').unwrap_or(name);
        check_name(name)?;
        let id = self.records.find(text)?;
        let _lock = self.records.lock(&id)?;
        let mut record = self.records.load(&id)?.record;
        if record.name == name {
            return Err(Error::invalid("Renaming a container with the same name as its current name"));
        }
        let old = record.name.clone();
        self.records.rename(&mut record, name)?;
        self.rename_in_networks(&record)?;
        self.tell(&record, "rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }

    /// Changes limits, of a running container at once, and the restart policy. Returns what the
    /// user should hear.
    pub fn update(&self, text: &str, request: UpdateRequest) -> Result<Vec<String>> {
        let id = self.records.find(text)?;
        let lock = self.records.lock(&id)?;
        let mut container = self.reconciled_under(self.records.load(&id)?, &lock)?;
        let spec = &mut container.record.spec;
        if let Some(restart) = request.restart {
            if spec.auto_remove && restart != RestartPolicy::No {
                return Err(Error::new(
                    Kind::Conflict,
                    "cannot update the restart policy of a container that removes itself",
                ));
            }
            spec.restart = restart;
        }
        merge(&mut spec.resources, request.resources.clone());
        spec.check()?;
        let mut warnings = Vec::new();
        if request.resources != Resources::default()
            && let Some(cgroup) = container_cgroup(&container)
        {
            let host = self.host_facts();
            let resolved = Resolved {
                id: id.as_str().to_owned(),
                cgroup_path: Some(cgroup.path().to_owned()),
                rootfs: "/".into(),
                network: NamespaceSource::New,
                block_devices: crate::resolve::block_devices(&container.record)?,
                ..Resolved::default()
            };
            let planned = plan(&container.record.spec, &container.record.image_config, &host, &resolved)?;
            warnings = planned.warnings;
            if let Some(resources) =
                planned.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref())
            {
                cgroup.update(&settings(resources, cgroup::detect().version())?)?;
            }
        }
        self.records.save(&container.record)?;
        self.tell(&container.record, "update", &[]);
        Ok(warnings)
    }
}

/// Puts what was given over what is there.
fn merge(into: &mut Resources, from: Resources) {
    macro_rules! take {
        ($($field:ident),*) => { $(if from.$field.is_some() { into.$field = from.$field; })* };
    }
    take!(
        memory,
        memory_reservation,
        memory_swap,
        memory_swappiness,
        kernel_memory,
        nano_cpus,
        cpu_shares,
        cpu_period,
        cpu_quota,
        cpu_realtime_period,
        cpu_realtime_runtime,
        cpuset_cpus,
        cpuset_mems,
        pids_limit,
        blkio_weight,
        oom_kill_disable,
        oom_score_adj
    );
    macro_rules! take_list {
        ($($field:ident),*) => { $(if !from.$field.is_empty() { into.$field = from.$field; })* };
    }
    take_list!(blkio_weight_device, device_read_bps, device_write_bps, device_read_iops, device_write_iops);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_stays() {
        let mut has = Resources { memory: Some(1), cpu_shares: Some(2), ..Default::default() };
        merge(&mut has, Resources { memory: Some(3), pids_limit: Some(4), ..Default::default() });
        let want =
            Resources { memory: Some(3), cpu_shares: Some(2), pids_limit: Some(4), ..Default::default() };
        assert_eq!(has, want);
    }
}
