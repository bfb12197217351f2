//! What the checks look at.

use robot_env_device::HostRoot;

use crate::{Live, Os};

/// The machine.
pub(super) struct Host<'a> {
    pub(super) root: &'a HostRoot,
    pub(super) live: &'a Live,
    pub(super) os: Os,
}

/// A group of `/etc/group`.
pub(super) struct Group {
    pub(super) gid: u32,
}

impl Host<'_> {
    /// A number in a file of one line.
    pub(super) fn number(&self, path: &str) -> Option<i64> {
        self.root.line(path)?.parse().ok()
    }

    /// The kernel's release, major and minor.
    pub(super) fn kernel(&self) -> Option<(u32, u32, String)> {
        let release = self.root.line("/proc/sys/kernel/osrelease")?;
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        Some((major, minor, release))
    }

    /// A group by its name.
    pub(super) fn group(&self, name: &str) -> Option<Group> {
        let text = self.root.text("/etc/group")?;
        text.lines().find_map(|line| {
            let mut fields = line.split(':');
            let gid = (fields.next()? == name).then(|| fields.nth(1))??;
            Some(Group { gid: gid.parse().ok()? })
        })
    }

    /// Whether the kernel has a kind of namespaces. The link leads nowhere in the file system.
    pub(super) fn has_namespace(&self, kind: &str) -> bool {
        self.root.real(&format!("/proc/self/ns/{kind}")).symlink_metadata().is_ok()
    }

    /// Whether anything tells which modules the kernel has, and which are built in.
    pub(super) fn lists_modules(&self) -> bool {
        self.kernel()
            .is_some_and(|(_, _, release)| self.root.exists(&format!("/lib/modules/{release}/modules.dep")))
    }

    /// Whether a program is in one of the usual directories.
    pub(super) fn has_program(&self, name: &str) -> bool {
        ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin"]
            .iter()
            .any(|directory| self.root.exists(&format!("{directory}/{name}")))
    }

    /// Whether a file has a line for the user, by name or by number.
    pub(super) fn has_range(&self, path: &str) -> bool {
        let number = self.live.uid.to_string();
        self.root.text(path).unwrap_or_default().lines().any(|line| {
            let mut fields = line.split(':');
            let who = fields.next().unwrap_or_default();
            let count: u64 = fields.nth(1).and_then(|count| count.parse().ok()).unwrap_or(0);
            (who == self.live.user || who == number) && !who.is_empty() && count >= 65536
        })
    }

    /// Whether the kernel has a file system, built in, loaded or as a module.
    pub(super) fn has_file_system(&self, name: &str) -> bool {
        let known = self.root.text("/proc/filesystems").unwrap_or_default();
        known.lines().any(|line| line.split_whitespace().last() == Some(name)) || self.has_module(name)
    }

    /// Whether the kernel has a module, loaded, built in or to be loaded.
    pub(super) fn has_module(&self, name: &str) -> bool {
        if self.root.exists(&format!("/sys/module/{name}")) {
            return true;
        }
        let Some((_, _, release)) = self.kernel() else { return false };
        ["modules.dep", "modules.builtin"].iter().any(|file| {
            let text = self.root.text(&format!("/lib/modules/{release}/{file}")).unwrap_or_default();
            text.lines().any(|line| {
                let path = line.split(':').next().unwrap_or_default();
                let base = path.rsplit('/').next().unwrap_or_default();
                base.split(".ko").next().unwrap_or_default().replace('-', "_") == name
            })
        })
    }

    /// The user's name, or `$USER` where it is not known.
    pub(super) fn user(&self) -> &str {
        if self.live.user.is_empty() { "$USER" } else { &self.live.user }
    }
}
