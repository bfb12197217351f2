//! The ids of a container that has a user namespace of its own.

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxIdMappingBuilder};
use serde::{Deserialize, Serialize};

/// A range of ids: `inside` in the container is `outside` in the engine's user namespace, for `count`
/// ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// First id in the container.
    pub inside: u32,
    /// First id in the engine's user namespace.
    pub outside: u32,
    /// Number of ids.
    pub count: u32,
}

/// Which of the engine's ids a container's are. No id has two others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserMap {
    /// Users.
    pub users: Vec<IdMapping>,
    /// Groups.
    pub groups: Vec<IdMapping>,
}

impl UserMap {
    /// That of a plan; `None` where it has no user namespace of its own.
    pub(crate) fn of(linux: &Linux) -> Option<UserMap> {
        let list = |lines: &Option<Vec<LinuxIdMapping>>| {
            lines.as_ref().map(|lines| {
                lines
                    .iter()
                    .map(|m| IdMapping { inside: m.container_id(), outside: m.host_id(), count: m.size() })
                    .collect()
            })
        };
        Some(UserMap { users: list(linux.uid_mappings())?, groups: list(linux.gid_mappings())? })
    }

    /// The engine's ids of the container's user and group; `None` for one that is not mapped.
    pub fn outside(&self, uid: u32, gid: u32) -> (Option<u32>, Option<u32>) {
        (translate(&self.users, uid), translate(&self.groups, gid))
    }

    /// The other way round: what is outside becomes what is inside.
    #[must_use]
    pub fn inverse(&self) -> UserMap {
        let turned = |list: &[IdMapping]| {
            list.iter().map(|m| IdMapping { inside: m.outside, outside: m.inside, count: m.count }).collect()
        };
        UserMap { users: turned(&self.users), groups: turned(&self.groups) }
    }

    /// Whether every id is the same on both sides.
    pub fn is_identity(&self) -> bool {
        self.users.iter().chain(&self.groups).all(|m| m.inside == m.outside)
    }

    /// Whether the container has a root.
    pub fn has_root(&self) -> bool {
        self.outside(0, 0).0.is_some()
    }
}

fn translate(list: &[IdMapping], id: u32) -> Option<u32> {
    let found = list.iter().find(|m| id.checked_sub(m.inside).is_some_and(|n| n < m.count))?;
    Some(found.outside + (id - found.inside))
}

pub(crate) fn lines(list: &[IdMapping]) -> Vec<LinuxIdMapping> {
    list.iter()
        .map(|m| {
            let line = LinuxIdMappingBuilder::default();
            let line = line.container_id(m.inside).host_id(m.outside).size(m.count);
            line.build().unwrap_or_else(|_| unreachable!("all three are set"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UsernsMode;

    #[test]
    fn ids_go_both_ways() {
        let list = vec![
            IdMapping { inside: 0, outside: 1, count: 1000 },
            IdMapping { inside: 1000, outside: 0, count: 1 },
            IdMapping { inside: 1001, outside: 1001, count: 10 },
        ];
        let map = UserMap { users: list.clone(), groups: list };
        for (inside, outside) in
            [(0, Some(1)), (999, Some(1000)), (1000, Some(0)), (1001, Some(1001)), (1011, None)]
        {
            assert_eq!(map.outside(inside, inside), (outside, outside));
            if let Some(outside) = outside {
                assert_eq!(map.inverse().outside(outside, outside), (Some(inside), Some(inside)));
            }
        }
        assert!(map.has_root());
    }

    #[test]
    fn modes_are_read_as_they_are_written() {
        for (text, mode) in [
            ("", UsernsMode::Engine),
            ("host", UsernsMode::Host),
            ("keep-id", UsernsMode::KeepId { uid: None, gid: None }),
            ("keep-id:uid=5,gid=6", UsernsMode::KeepId { uid: Some(5), gid: Some(6) }),
            ("keep-id:gid=6", UsernsMode::KeepId { uid: None, gid: Some(6) }),
            ("auto", UsernsMode::Auto { size: None }),
            ("auto:size=70000", UsernsMode::Auto { size: Some(70000) }),
            ("nomap", UsernsMode::NoMap),
        ] {
            assert_eq!(text.parse::<UsernsMode>().unwrap(), mode);
            assert_eq!(mode.to_string(), text);
        }
        for bad in
            ["x", "keep-id:size=5", "keep-id:uid=x", "keep-id:uid=4294967295", "auto:size=0", "nomap:uid=1"]
        {
            assert!(bad.parse::<UsernsMode>().is_err(), "{bad}");
        }
    }
}
