//! What a device changes about a container.

use oci_spec::runtime::{Hook, Hooks, Spec};
use robot_env_spec::{Propagation, ReadOnlyDepth, Resolved, ResolvedDevice, ResolvedMount};

/// When a hook runs, by the runtime spec's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the documentation
pub enum Stage {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

/// A symbolic link inside the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where it is.
    pub path: String,
    /// Where it leads.
    pub target: String,
}

/// A shared library that the loader inside is to find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// Its name as programs ask for it (`libcuda.so.1`).
    pub soname: String,
    /// Its file inside the container.
    pub path: String,
    /// The loader's flags for its machine (see [`crate::ldcache`]).
    pub flags: i32,
}

/// What devices, display and identity change about one start. Made anew at every start, applied,
/// and forgotten.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpecEdits {
    /// `NAME=value`; replaces what the container has.
    pub env: Vec<String>,
    /// `NAME=value` for what the container does not have.
    pub env_defaults: Vec<String>,
    /// Device nodes.
    pub devices: Vec<ResolvedDevice>,
    /// Mounts; one of the user's at the same place wins.
    pub mounts: Vec<ResolvedMount>,
    /// Programs of the host that a CDI file asks for.
    pub hooks: Vec<(Stage, Hook)>,
    /// Further groups of the process, by number.
    pub groups: Vec<u32>,
    /// Symbolic links.
    pub links: Vec<Link>,
    /// Libraries for the loader's cache, those that win first.
    pub libraries: Vec<Library>,
    /// What the user should hear, one line each.
    pub warnings: Vec<String>,
}

impl SpecEdits {
    /// Takes in what another source wants. What both want is there once.
    pub fn merge(&mut self, other: SpecEdits) {
        self.env.extend(other.env);
        self.env_defaults.extend(other.env_defaults);
        for device in other.devices {
            self.devices.retain(|had| had.path != device.path);
            self.devices.push(device);
        }
        for mount in other.mounts {
            if !self.mounts.iter().any(|had| had.target == mount.target) {
                self.mounts.push(mount);
            }
        }
        self.hooks.extend(other.hooks);
        for group in other.groups {
            self.add_group(group);
        }
        for link in other.links {
            if !self.links.iter().any(|had| had.path == link.path) {
                self.links.push(link);
            }
        }
        for library in other.libraries {
            if !self.libraries.contains(&library) {
                self.libraries.push(library);
            }
        }
        self.warnings.extend(other.warnings);
    }

    /// Adds a group once.
    pub fn add_group(&mut self, group: u32) {
        if !self.groups.contains(&group) {
            self.groups.push(group);
        }
    }

    /// Adds a device node, and its group where that alone gives access.
    pub fn add_device(&mut self, device: ResolvedDevice) {
        if device.gid != 0 && device.mode & 0o060 != 0 && device.mode & 0o006 == 0 {
            self.add_group(device.gid);
        }
        self.devices.retain(|had| had.path != device.path);
        self.devices.push(device);
    }

    /// Adds a symbolic link once.
    pub fn add_link(&mut self, path: impl Into<String>, target: impl Into<String>) {
        let link = Link { path: path.into(), target: target.into() };
        self.links.retain(|had| had.path != link.path);
        self.links.push(link);
    }

    /// Puts devices, mounts and groups to what the engine has looked up.
    pub fn resolve_into(&self, resolved: &mut Resolved) {
        resolved.devices.extend(self.devices.iter().cloned());
        for mount in &self.mounts {
            if !resolved.mounts.iter().any(|had| had.target == mount.target) {
                resolved.mounts.push(mount.clone());
            }
        }
        for group in &self.groups {
            if !resolved.user.additional_gids.contains(group) {
                resolved.user.additional_gids.push(*group);
            }
        }
    }

    /// Puts variables and hooks to the runtime spec.
    pub fn finish(&self, spec: &mut Spec) {
        if let Some(process) = spec.process_mut() {
            let env = process.env_mut().get_or_insert_default();
            apply_environment(env, &self.env, &self.env_defaults);
        }
        if self.hooks.is_empty() {
            return;
        }
        let mut hooks = spec.hooks().clone().unwrap_or_default();
        for (stage, hook) in &self.hooks {
            add_hook(&mut hooks, *stage, hook.clone());
        }
        spec.set_hooks(Some(hooks));
    }
}

/// Sets `NAME=value` entries in place, else at the end; defaults only where the name is not there.
pub fn apply_environment(env: &mut Vec<String>, set: &[String], defaults: &[String]) {
    let name = |entry: &str| entry.split_once('=').map_or(entry, |(name, _)| name).to_owned();
    for (entry, replaces) in set.iter().map(|e| (e, true)).chain(defaults.iter().map(|e| (e, false))) {
        match env.iter().position(|had| name(had) == name(entry)) {
            Some(at) if replaces => entry.clone_into(&mut env[at]),
            Some(_) => {}
            None => env.push(entry.clone()),
        }
    }
}

#[allow(deprecated)] // old CDI files use prestart
fn add_hook(hooks: &mut Hooks, stage: Stage, hook: Hook) {
    match stage {
        Stage::Prestart => hooks.prestart_mut(),
        Stage::CreateRuntime => hooks.create_runtime_mut(),
        Stage::CreateContainer => hooks.create_container_mut(),
        Stage::StartContainer => hooks.start_container_mut(),
        Stage::Poststart => hooks.poststart_mut(),
        Stage::Poststop => hooks.poststop_mut(),
    }
    .get_or_insert_default()
    .push(hook);
}

/// A bind of one file or directory of the host with further mount options.
pub fn bind(source: impl Into<String>, target: impl Into<String>, read_only: bool) -> ResolvedMount {
    ResolvedMount {
        target: target.into(),
        kind: "bind".into(),
        source: source.into(),
        read_only,
        read_only_depth: ReadOnlyDepth::default(),
        propagation: Propagation::default(),
        recursive: true,
        options: vec!["nosuid".into(), "nodev".into()],
    }
}

/// A small tmpfs that belongs to `uid`.
pub fn private_tmpfs(target: impl Into<String>, uid: u32, gid: u32) -> ResolvedMount {
    ResolvedMount {
        target: target.into(),
        kind: "tmpfs".into(),
        source: String::new(),
        read_only: false,
        read_only_depth: ReadOnlyDepth::default(),
        propagation: Propagation::default(),
        recursive: false,
        options: vec!["mode=700".into(), format!("uid={uid}"), format!("gid={gid}"), "size=64m".into()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_replace_or_stand_back() {
        let mut env = vec!["A=1".to_owned(), "B=2".to_owned()];
        apply_environment(&mut env, &["B=3".into(), "C=4".into()], &["A=9".into(), "D=5".into()]);
        assert_eq!(env, ["A=1", "B=3", "C=4", "D=5"]);
    }

    #[test]
    fn the_user_s_mount_wins() {
        let edits = SpecEdits { mounts: vec![bind("/host/a", "/a", true)], ..SpecEdits::default() };
        let mut resolved = Resolved { mounts: vec![bind("/mine", "/a", false)], ..Resolved::default() };
        edits.resolve_into(&mut resolved);
        assert_eq!(resolved.mounts.len(), 1);
        assert_eq!(resolved.mounts[0].source, "/mine");
    }
}
