//! Which ids a new container gets.

use std::os::fd::AsFd;
use std::time::Duration;

use robot_env_diag::{Error, IoContext, Kind, Result};
use robot_env_spec::{
    ContainerSpec, IdMapping, IpcMode, NetworkMode, PidMode, UserMap, UsernsMode, resolve_user,
};
use robot_env_sys::lock;
use rustix::fs::{Mode, OFlags};

use crate::engine::Engine;
use crate::record::ContainerRecord;
use crate::rootfs::read_lines;
use crate::rootless::{Identity, ranges};

/// The ids that systemd and others leave to containers (systemd's UIDS-GIDS.md), for root.
const HOST_POOL: (u32, u32) = (0x0008_0000, 0x6FFF_FFFF);
/// A container gets no fewer.
const LEAST: u32 = 1024;
/// Of an image, this one does not count.
const NOBODY: u32 = 65534;

/// Held while ids are chosen, so that no two containers choose the same.
pub(crate) struct Turn(#[allow(dead_code, reason = "held")] Option<lock::Held>);

impl Engine {
    /// Decides the ids of a new container whose snapshot is made, and, where the mode says so, its
    /// user. What this returns is held until the container's record is there.
    pub(crate) fn choose_ids(&self, record: &mut ContainerRecord) -> Result<Turn> {
        let mode = record.spec.userns;
        if !mode.is_own() {
            return Ok(Turn(None));
        }
        check(&record.spec)?;
        let identity = Identity::current()?;
        let (users, groups) = identity.counts();
        let only_for_users = |word: &str| {
            Error::invalid(format!(
                "invalid user namespace mode `{word}`: it is for an ordinary user's engine"
            ))
        };
        let mut turn = Turn(None);
        let map = match mode {
            UsernsMode::Engine | UsernsMode::Host => return Ok(turn),
            UsernsMode::KeepId { uid, gid } => {
                if !identity.is_rootless() {
                    return Err(only_for_users("keep-id"));
                }
                let (uid, gid) = (uid.unwrap_or(identity.user), gid.unwrap_or(identity.group));
                if record.spec.user.is_none() {
                    record.spec.user = Some(format!("{uid}:{gid}"));
                }
                UserMap { users: around(uid, users), groups: around(gid, groups) }
            }
            UsernsMode::NoMap => {
                if !identity.is_rootless() {
                    return Err(only_for_users("nomap"));
                }
                if users.min(groups) < 2 {
                    return Err(too_few(1, &identity));
                }
                let without = |count: u32| vec![IdMapping { inside: 0, outside: 1, count: count - 1 }];
                UserMap { users: without(users), groups: without(groups) }
            }
            UsernsMode::Auto { size } => {
                turn = self.take_turn()?;
                let size = match size {
                    Some(size) => size,
                    None => self.needed(record)?,
                };
                let mut taken = self.taken_ids()?;
                let (first, end) = if identity.is_rootless() {
                    (1, users.min(groups))
                } else {
                    taken.extend(of_others());
                    HOST_POOL
                };
                let base = free(first, end, size, &taken).ok_or_else(|| too_few(size, &identity))?;
                let range = vec![IdMapping { inside: 0, outside: base, count: size }];
                UserMap { users: range.clone(), groups: range }
            }
        };
        record.user_map = Some(map);
        Ok(turn)
    }

    fn take_turn(&self) -> Result<Turn> {
        let path = self.paths.run_root().join("userns.lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))
            .io_context(|| format!("cannot open `{}`", path.display()))?;
        if lock::lock_exclusive_within(&file, Duration::from_secs(60))? {
            return Ok(Turn(Some(lock::Held::new(file))));
        }
        Err(Error::new(Kind::Unavailable, format!("another command holds `{}`", path.display())))
    }

    /// The ranges of other containers that chose theirs like this; those that were removed and can come
    /// back count. The caller has claimed, so none comes back meanwhile.
    fn taken_ids(&self) -> Result<Vec<(u32, u32)>> {
        let mut taken = Vec::new();
        // One that is being made has none, or waits for this turn.
        let there = self.records.ids()?.into_iter().filter_map(|id| self.records.load_record(&id).ok());
        for record in there.chain(self.kept_records()) {
            if let (UsernsMode::Auto { .. }, Some(map)) = (record.spec.userns, &record.user_map) {
                taken.extend(map.users.iter().map(|m| (m.outside, m.count)));
            }
        }
        Ok(taken)
    }

    /// As many ids as the image's users have, and the one that the container runs as.
    fn needed(&self, record: &ContainerRecord) -> Result<u32> {
        let tree = self.read_only_overlay(record)?;
        let files = [read_lines(tree.as_fd(), "/etc/passwd")?, read_lines(tree.as_fd(), "/etc/group")?];
        let wanted = record.spec.user.as_ref().unwrap_or(&record.image_config.user);
        let user = resolve_user(Some(wanted), &record.spec.group_add, &files[0], &files[1])?;
        let own = user.additional_gids.iter().copied().chain([user.uid, user.gid]);
        Ok(greatest(&files).into_iter().chain(own).max().map_or(LEAST, |id| (id + 1).max(LEAST)))
    }
}

/// What a namespace of its own cannot be combined with.
fn check(spec: &ContainerSpec) -> Result<()> {
    let shared = match (&spec.network, &spec.ipc, &spec.pid) {
        (NetworkMode::Container(_), _, _) => "network",
        (_, IpcMode::Container(_), _) => "IPC namespace",
        (_, _, PidMode::Container(_)) => "pid namespace",
        _ => {
            let own = spec.runtime.as_deref().is_none_or(crate::monitor::is_own_runtime);
            return if own {
                Ok(())
            } else {
                Err(Error::new(
                    Kind::Unsupported,
                    format!("--userns {} does not work with another runtime", spec.userns),
                ))
            };
        }
    };
    Err(Error::new(
        Kind::Unsupported,
        format!(
            "--userns {} cannot be combined with another container's {shared}: that belongs to another \
             user namespace",
            spec.userns
        ),
    ))
}

/// All ids of the engine, with its 0 (the user outside) at `own`.
fn around(own: u32, count: u32) -> Vec<IdMapping> {
    let below = own.min(count - 1);
    let mut map = vec![
        IdMapping { inside: 0, outside: 1, count: below },
        IdMapping { inside: own, outside: 0, count: 1 },
        IdMapping { inside: own + 1, outside: below + 1, count: count - 1 - below },
    ];
    map.retain(|range| range.count > 0);
    map
}

/// The first `size` ids from `first` up to `end` that none of `taken` has.
fn free(first: u32, end: u32, size: u32, taken: &[(u32, u32)]) -> Option<u32> {
    let mut taken: Vec<_> = taken.to_vec();
    taken.sort_unstable();
    let mut base = first;
    for (start, count) in taken {
        if base.checked_add(size)? <= start {
            break;
        }
        base = base.max(start.saturating_add(count));
    }
    (base.checked_add(size)? <= end).then_some(base)
}

/// Ranges that are given to users of this machine.
fn of_others() -> Vec<(u32, u32)> {
    let texts = ["/etc/subuid", "/etc/subgid"].map(ranges::read);
    texts.iter().flat_map(|text| ranges::all(text)).map(|(_, first, count)| (first, count)).collect()
}

fn greatest(files: &[Vec<u8>]) -> Option<u32> {
    let numbers = files.iter().flat_map(|text| {
        text.split(|byte| *byte == b'\n').filter_map(|line| {
            let field = line.split(|byte| *byte == b':').nth(2)?;
            std::str::from_utf8(field).ok()?.parse::<u32>().ok()
        })
    });
    numbers.filter(|id| *id != NOBODY && i32::try_from(*id).is_ok()).max()
}

fn too_few(size: u32, identity: &Identity) -> Error {
    let reason = format!("there are no {size} ids for a container's own user namespace");
    if !identity.is_rootless() {
        return Error::new(Kind::Unavailable, reason);
    }
    match &identity.single_id_because {
        Some(because) => Error::new(Kind::Unsupported, format!("{reason}: {because}")),
        None => Error::new(Kind::Unavailable, reason),
    }
    .with_hint(crate::rootless::more_ids(identity.user))
}

/// Whether the container's user has an id: checked at each start, as the files may have changed.
pub(crate) fn check_user(record: &ContainerRecord, uid: u32, gid: u32) -> Result<()> {
    match record.user_map.as_ref().map(|map| map.outside(uid, gid)) {
        None | Some((Some(_), Some(_))) => Ok(()),
        Some(_) => Err(Error::new(
            Kind::Unsupported,
            format!("cannot run as user {uid}:{gid}: it has no id in the container's user namespace"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_id_is_moved_and_no_other_is_lost() {
        for (own, count) in [(1000, 65537), (0, 65537), (65536, 65537), (1_000_000, 65537), (1000, 1), (1, 2)]
        {
            let list = around(own, count);
            let map = UserMap { users: list.clone(), groups: list };
            assert_eq!(map.outside(own, own), (Some(0), Some(0)));
            let all: u32 = map.users.iter().map(|m| m.count).sum();
            assert_eq!(all, count, "{own} of {count}");
            let back = map.inverse();
            for outside in [0, 1, own.min(count - 1), count - 1].into_iter().filter(|id| *id < count) {
                let inside = back.outside(outside, 0).0.unwrap();
                assert_eq!(map.outside(inside, 0).0, Some(outside));
            }
        }
    }

    #[test]
    fn ranges_do_not_overlap() {
        for (taken, size, want) in [
            (&[][..], 10, Some(1)),
            (&[(1, 10)], 10, Some(11)),
            (&[(20, 10), (1, 10)], 9, Some(11)),
            (&[(20, 10), (1, 10)], 10, Some(30)),
            (&[(1, 95)], 10, None),
            (&[], 100, None),
            (&[], u32::MAX, None),
        ] {
            assert_eq!(free(1, 100, size, taken), want, "{taken:?} {size}");
        }
    }

    #[test]
    fn an_images_greatest_id_counts_but_nobodys() {
        let passwd = b"root:x:0:0::/:\nrobot:x:2000:1::/:\nnobody:x:65534:65534::/:\nbad\n".to_vec();
        assert_eq!(greatest(&[passwd, b"g:x:3000:\n".to_vec()]), Some(3000));
        assert_eq!(greatest(&[Vec::new(), Vec::new()]), None);
    }
}
