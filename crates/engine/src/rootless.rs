//! Root without being root: the user namespace in which an ordinary user's engine works.
//!
//! [`enter`] is called once, early, while the process has one thread and before the store is
//! opened: every descriptor of a mount must come from the new mount namespace. Afterwards the
//! process is uid 0 in a user namespace of the user's, with all capabilities over it, in a mount
//! namespace of its own that receives the host's mounts and sends none back; the working directory
//! stays. Root gets its [`Identity`] back and nothing happens.
//!
//! **Maps.** Inside, 0 is the user outside; 1 and up are the ranges of `/etc/subuid` and
//! `/etc/subgid`, written by `newuidmap` and `newgidmap` (the one place where the engine starts a
//! program). Where there are no ranges, no such programs, or they fail, 0 is the only id, and
//! setgroups is denied: [`Identity::single_id`] and [`Identity::single_id_because`].
//! The maps are written from outside: a child is cloned into the new namespace, maps are written
//! for it, and the engine joins what the child is in. A failure leaves the engine where it was.
//!
//! **One user namespace for a user and run root.** Containers share the engine's; whoever execs
//! into one, or copies into its mounts, needs CAP_SYS_ADMIN in that namespace, and there is no way
//! from one user namespace into its sibling. So the second command joins the namespace of the
//! first as long as any process lives in it. There is no pause process: the monitors and the
//! containers themselves keep the namespace.
//!
//! ```text
//! RUN/rootless.json    which namespace it is (device and inode of /proc/PID/ns/user), its maps,
//!                      and some processes in it; replaced as a whole, not synced
//! RUN/rootless.lock    held while a namespace is made or the record is changed
//! ```
//!
//! A command looks at the record's processes first (a few tens of microseconds, no lock). When none
//! of them is left it takes the lock, looks again, then through all of `/proc`, and only makes a new
//! namespace when no process is in the old one: two first commands end in the same one, and a
//! container whose monitor was killed is still found. [`hold`] adds the calling process to the
//! record; that only makes the search short.
//!
//! A process is taken only if its namespace has the record's inode *and* the record's maps, and the
//! kernel lets nobody but the namespace's owner in. An inode number that was used again is thus
//! either refused or belongs to a namespace of the same user with the same maps, which will do.
//! Where the record cannot be written (no space) the namespace is used and not recorded; the next
//! command then makes another one. Ranges that are added to `/etc/subuid`
//! count from the next namespace on: when no container runs.
//!
//! **The mount namespace is not shared**: each command makes one from the host's as it is now. The
//! engine's mounts are descriptors and the containers have mount namespaces of their own, so there
//! is nothing that commands would have to see of each other; joining would lose the working
//! directory.
//!
//! **Supplementary groups** are kept because nobody calls setgroups here.
//!
//! What it does not do: cgroups (`robot_env_sys::cgroup::detect` finds what is delegated to the user
//! from `/proc/self/cgroup`), networks, and id ranges that only a name service knows.

pub(crate) mod helper;
pub(crate) mod linger;
pub(crate) mod network;
pub(crate) mod once;
pub(crate) mod ranges;
mod record;
mod refusal;
mod roots;
pub(crate) mod seed;

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use robot_env_diag::{Error, Kind as ErrorKind, Result, Within};
use robot_env_sys::namespace::{self, IdRange};
use robot_env_sys::{lock, mount, process};
use rustix::fs::{Mode, OFlags};

use self::record::{NamespaceId, Record};
pub use self::roots::{Roots, roots};

/// What leads out of an ordinary user's container networks: `pasta` or `slirp4netns`.
///
/// # Errors
/// Why nothing does, with the command that mends it as its hint.
pub fn way_out() -> Result<&'static str> {
    helper::choose().map(|program| program.helper.name())
}

/// How long a command waits for another one that makes the namespace: `newuidmap` may ask a slow
/// name service.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the engine is root of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is.
    Rootful,
    /// It is root of a user namespace only: one of [`enter`]'s, or that of a container around it.
    Rootless,
}

/// Who the engine is, here and outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Whether it is root of the machine.
    pub kind: Kind,
    /// The user's id outside of the namespace.
    pub user: u32,
    /// The id of the user's group outside of the namespace.
    pub group: u32,
    /// Whether 0 is the only user id or the only group id.
    pub single_id: bool,
    /// Why 0 is the only id, where that is known: for `info` and for a hint where another id is
    /// asked for.
    pub single_id_because: Option<String>,
    users: Vec<IdRange>,
    groups: Vec<IdRange>,
}

impl Identity {
    /// The identity of the calling process as it is; nothing is entered.
    ///
    /// # Errors
    /// Where `/proc/self/uid_map` or `gid_map` cannot be read.
    pub fn current() -> Result<Self> {
        let (users, groups) = maps_of("self")?;
        Ok(Identity::of_maps(users, groups))
    }

    fn of_maps(users: Vec<IdRange>, groups: Vec<IdRange>) -> Self {
        let kind = if is_initial(&users) { Kind::Rootful } else { Kind::Rootless };
        let count = |ranges: &[IdRange]| ranges.iter().map(|r| u64::from(r.count)).sum::<u64>();
        Identity {
            kind,
            user: to_outside(&users, rustix::process::geteuid().as_raw()).unwrap_or(OVERFLOW),
            group: to_outside(&groups, rustix::process::getegid().as_raw()).unwrap_or(OVERFLOW),
            single_id: count(&users) <= 1 || count(&groups) <= 1,
            single_id_because: None,
            users,
            groups,
        }
    }

    /// How many user ids, and how many group ids, there are from 0 on without a gap.
    pub fn counts(&self) -> (u32, u32) {
        (dense(&self.users), dense(&self.groups))
    }

    /// Whether the engine is root of a user namespace only.
    pub fn is_rootless(&self) -> bool {
        self.kind == Kind::Rootless
    }

    /// The id outside of the namespace that `user` is inside.
    pub fn user_outside(&self, user: u32) -> Option<u32> {
        to_outside(&self.users, user)
    }

    /// The id inside of the namespace that `user` is outside.
    pub fn user_inside(&self, user: u32) -> Option<u32> {
        to_inside(&self.users, user)
    }

    /// The id outside of the namespace that `group` is inside.
    pub fn group_outside(&self, group: u32) -> Option<u32> {
        to_outside(&self.groups, group)
    }

    /// The id inside of the namespace that `group` is outside.
    pub fn group_inside(&self, group: u32) -> Option<u32> {
        to_inside(&self.groups, group)
    }
}

fn dense(ranges: &[IdRange]) -> u32 {
    let mut sorted: Vec<_> = ranges.iter().map(|r| (r.inside, r.count)).collect();
    sorted.sort_unstable();
    let step = |end: u32, (first, count): (u32, u32)| {
        if first == end { Some(end.saturating_add(count)) } else { None }
    };
    let mut end = 0;
    for range in sorted {
        match step(end, range) {
            Some(next) => end = next,
            None => break,
        }
    }
    end
}

/// The command that gives a user of this machine ids for containers: the program where it is missing,
/// else the next free ranges.
pub fn more_ids(user: u32) -> String {
    if ["newuidmap", "newgidmap"].iter().any(|program| seed::find(program, None).is_none()) {
        let package = if seed::find("dnf", None).is_some() { "shadow-utils" } else { "uidmap" };
        return format!("sudo {}", helper::install(package));
    }
    let passwd = ranges::read("/etc/passwd");
    let name = ranges::name_of(&passwd, user).map_or_else(|| user.to_string(), str::to_owned);
    let first = ranges::first_free(&ranges::read("/etc/subuid"), &ranges::read("/etc/subgid"));
    let range = format!("{first}-{}", first + 65535);
    format!(
        "sudo usermod --add-subuids {range} --add-subgids {range} {name}, and start anew once no container runs"
    )
}

/// What the kernel shows for an id without a mapping.
const OVERFLOW: u32 = 65534;

fn to_outside(ranges: &[IdRange], id: u32) -> Option<u32> {
    let range = ranges.iter().find(|r| id.checked_sub(r.inside).is_some_and(|n| n < r.count))?;
    Some(range.outside + (id - range.inside))
}

fn to_inside(ranges: &[IdRange], id: u32) -> Option<u32> {
    let range = ranges.iter().find(|r| id.checked_sub(r.outside).is_some_and(|n| n < r.count))?;
    Some(range.inside + (id - range.outside))
}

/// The first user namespace maps every id to itself.
fn is_initial(users: &[IdRange]) -> bool {
    matches!(users, [IdRange { inside: 0, outside: 0, count: u32::MAX }])
}

/// The maps of a process (`PID` or `self`): users, groups.
fn maps_of(process: &str) -> Result<(Vec<IdRange>, Vec<IdRange>)> {
    use robot_env_diag::IoContext as _;
    let read = |file: &str| {
        let path = format!("/proc/{process}/{file}");
        let text = robot_env_sys::fs::kernel_text(&path).io_context(|| format!("cannot read `{path}`"))?;
        Ok::<_, Error>(parse_map(&text))
    };
    Ok((read("uid_map")?, read("gid_map")?))
}

/// Lines of `inside outside count` (user_namespaces(7)).
fn parse_map(text: &str) -> Vec<IdRange> {
    text.lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse);
            let mut next = || numbers.next()?.ok();
            Some(IdRange { inside: next()?, outside: next()?, count: next()? })
        })
        .collect()
}

/// What [`enter`] is told.
#[derive(Clone, Copy, Debug)]
pub struct Enter<'a> {
    /// The run root; made when it is missing.
    pub run: &'a Path,
    /// The user's name where `/etc/passwd` has none (`$USER`).
    pub login: Option<&'a str>,
    /// Where `newuidmap` and `newgidmap` are looked for first (`$PATH`).
    pub path: Option<&'a OsStr>,
    /// Whether root enters one too.
    pub even_root: bool,
}

/// Makes the calling process root of the user's namespace, unless it is root already.
///
/// # Errors
/// [`ErrorKind::Denied`] or [`ErrorKind::Unsupported`], with a hint that names the switch, where
/// the machine forbids user namespaces to ordinary users; [`ErrorKind::Internal`] when the process
/// has more than one thread; the errors of making the run root. The process may then be in the
/// namespace halfway: it should say the error and end.
pub fn enter(request: &Enter<'_>) -> Result<Identity> {
    if rustix::process::geteuid().is_root() {
        let now = Identity::current()?;
        let inside = Record::load(request.run).filter(|record| record.namespace == NamespaceId::own());
        if let Some(record) = inside.filter(|_| now.is_rootless()) {
            // This program has executed itself, or another one of the engine's, from inside.
            return Ok(Identity { single_id_because: record.single_id_because, ..now });
        }
        if !request.even_root {
            return Ok(now);
        }
    }
    enter_namespace(request).within(|| "cannot become root of a user namespace".into())
}

fn enter_namespace(request: &Enter<'_>) -> Result<Identity> {
    let group = rustix::process::getegid().as_raw();
    let listed = Record::load(request.run).and_then(|r| Some((record::find_listed(&r)?, r)));
    let record = match listed {
        Some((namespace, record)) => {
            join(&namespace)?;
            record
        }
        None => join_or_make(request)?,
    };
    settle(group, record)
}

/// Under the lock: joins the recorded namespace if any process is in it, else makes one.
fn join_or_make(request: &Enter<'_>) -> Result<Record> {
    crate::paths::make_directory(request.run, 0o700)?;
    let _lock = take_lock(request.run)?;
    if let Some(mut found) = Record::load(request.run)
        && let Some((namespace, process)) = record::find_any(&found)
    {
        join(&namespace)?;
        found.processes = vec![process];
        let _ = found.save(request.run);
        return Ok(found);
    }
    let seed::Made { seed, single_id_because } = seed::make(request)?;
    join(&namespace::open(&format!("/proc/{}/ns/user", seed.pid()))?)?;
    drop(seed);
    let (users, groups) = maps_of("self")?;
    let record = Record {
        namespace: NamespaceId::own(),
        users: record::lines(&users),
        groups: record::lines(&groups),
        single_id_because,
        processes: vec![std::process::id()],
    };
    // Without space the command works all the same: `rm` must.
    let _ = record.save(request.run);
    Ok(record)
}

fn take_lock(run: &Path) -> Result<lock::Held> {
    use robot_env_diag::IoContext as _;
    let path = run.join("rootless.lock");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))
        .io_context(|| format!("cannot open `{}`", path.display()))?;
    if lock::lock_exclusive_within(&file, PATIENCE)? {
        return Ok(lock::Held::new(file));
    }
    Err(Error::new(ErrorKind::Unavailable, format!("another command holds `{}`", path.display())))
}

fn join(namespace: &OwnedFd) -> Result<()> {
    namespace::join(namespace.as_fd(), libc::CLONE_NEWUSER).map_err(Error::from)
}

/// In the user namespace: a mount namespace of one's own, and a group that is mapped. `group` is the
/// one that the process had outside: inside, an unmapped one looks like [`OVERFLOW`], which may be
/// mapped.
fn settle(group: u32, record: Record) -> Result<Identity> {
    namespace::unshare(libc::CLONE_NEWNS).map_err(|error| refusal::explain(&error))?;
    // Mounts of the host arrive, ours stay here. A security module that lets one into the namespace
    // and then forbids what one came for does so here.
    mount::set_propagation("/", mount::PropagationFlags::DOWNSTREAM | mount::PropagationFlags::REC)
        .map_err(|error| refusal::explain(&error))?;
    let (users, groups) = (record::ranges(&record.users), record::ranges(&record.groups));
    if to_inside(&groups, group).is_none() {
        // Started with another group than the namespace was made with (newgrp, sg).
        process::set_group(0)?;
        // A change of ids hides /proc/self.
        let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable);
    }
    let identity = Identity::of_maps(users, groups);
    let single_id_because = record.single_id_because.filter(|_| identity.single_id);
    Ok(Identity { single_id_because, ..identity })
}

/// Adds the calling process to those by which the next command finds the namespace: for monitors,
/// which outlive their command. Nothing happens in a process that is not in a namespace of
/// [`enter`]'s. Not needed for correctness, see above.
///
/// # Errors
/// Where the record cannot be written.
pub fn hold(run: &Path) -> Result<()> {
    let own = |record: &Record| record.namespace == NamespaceId::own();
    if !Record::load(run).as_ref().is_some_and(own) {
        return Ok(());
    }
    let _lock = take_lock(run)?;
    match Record::load(run).filter(own) {
        Some(mut record) => {
            record.add(std::process::id());
            record.save(run)
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn range(inside: u32, outside: u32, count: u32) -> IdRange {
        IdRange { inside, outside, count }
    }

    #[test]
    fn ids_are_mapped_both_ways() {
        let ranges = parse_map("         0       1000          1\n         1     100000      65536\n");
        assert_eq!(ranges, [range(0, 1000, 1), range(1, 100_000, 65536)]);
        for (inside, outside) in [(0, 1000), (1, 100_000), (1000, 100_999), (65536, 165_535)] {
            assert_eq!(to_outside(&ranges, inside), Some(outside));
            assert_eq!(to_inside(&ranges, outside), Some(inside));
        }
        for unmapped in [65537, u32::MAX] {
            assert_eq!(to_outside(&ranges, unmapped), None);
        }
        for unmapped in [0, 999, 1001, 99_999, 165_536, u32::MAX] {
            assert_eq!(to_inside(&ranges, unmapped), None);
        }
    }

    #[test]
    fn the_kind_follows_from_the_maps() {
        let all = vec![range(0, 0, u32::MAX)];
        for (users, groups, kind, single) in [
            (all.clone(), all, Kind::Rootful, false),
            (vec![range(0, 1000, 1)], vec![range(0, 1000, 1)], Kind::Rootless, true),
            (
                vec![range(0, 1000, 1), range(1, 9, 9)],
                vec![range(0, 1000, 1), range(1, 9, 9)],
                Kind::Rootless,
                false,
            ),
            (vec![range(0, 1000, 1), range(1, 9, 9)], vec![range(0, 1000, 1)], Kind::Rootless, true),
            (vec![range(0, 0, 1)], vec![range(0, 0, 1)], Kind::Rootless, true),
        ] {
            let identity = Identity::of_maps(users.clone(), groups);
            assert_eq!((identity.kind, identity.single_id), (kind, single), "{users:?}");
        }
    }

    #[test]
    fn lines_that_are_no_map_are_left_out() {
        assert_eq!(parse_map("0 0\nx y z\n\n0 0 4294967295\n"), [range(0, 0, u32::MAX)]);
    }
}
