//! `ADD` of what is elsewhere: files of the web, git repositories.

use std::fs::{self, File};
use std::path::PathBuf;

use robot_env_diag::{Error, IoContext, Kind, Result};
use robot_env_dockerfile::Add;
use robot_env_oci::Digest;
use robot_env_sys::fs::open_directory;
use std::os::fd::AsFd;

use crate::archive::is_archive;
use crate::copying::CopyOptions;
use crate::files::{Plan, unpack};
use crate::git::{Access, GitAddress};
use crate::permissions::Permissions;
use crate::solve::Build;
use crate::state::State;
use crate::step::Shown;
use crate::tree::Tree;

/// What files of a repository may: what git keeps of it, whatever the umask is.
const GIT_PERMISSIONS: &str = "u=rwX,go=rX";

pub(crate) fn is_remote(text: &str) -> bool {
    text.starts_with("http://")
        || text.starts_with("https://")
        || !matches!(GitAddress::parse(text), Ok(None))
}

impl Build<'_> {
    /// Files of the web, and repositories.
    pub(crate) fn add_remote(
        &self,
        state: &mut State,
        add: &Add,
        history: String,
        shown: &Shown,
    ) -> Result<()> {
        let plan = Plan::of(state, &add.placement, "ADD", false)?;
        let [source] = &add.placement.sources[..] else {
            return Err(Error::new(Kind::Unsupported, "cannot mix an address with other sources in one ADD")
                .with_hint("write one ADD for each"));
        };
        match GitAddress::parse(&source.text)? {
            Some(git) => self.add_repository(state, add, &plan, git, history, shown),
            None => self.add_download(state, add, &plan, &source.text, history, shown),
        }
    }

    fn add_download(
        &self,
        state: &mut State,
        add: &Add,
        plan: &Plan,
        address: &str,
        history: String,
        shown: &Shown,
    ) -> Result<()> {
        if add.keep_git_dir.is_some() {
            return Err(Error::invalid("--keep-git-dir is for git repositories"));
        }
        let name =
            address.split(['?', '#']).next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        if name.is_empty() && plan.directory {
            return Err(Error::invalid(format!("cannot tell a file name from `{address}`")));
        }
        let checksum = match &add.checksum {
            Some(word) => Some(word.text.parse::<Digest>()?),
            None => None,
        };
        let path = self.room.place("download");
        // What it must be decides alone where that is said: it is not downloaded to be found again.
        let (digest, time) = match &checksum {
            Some(digest) => (digest.clone(), None),
            None => self.download(address, &path)?,
        };
        let what = (
            "add",
            (&plan.destination, plan.directory, &plan.chmod, &plan.chown),
            digest.to_string(),
            (name, time),
            add.unpack,
        );
        let wanted = checksum.as_ref();
        let mut fetched = None;
        let known = wanted.is_some() && !plan.link && shown.cache && {
            let key = Self::key(state.chain.as_ref(), &what)?;
            self.session.cached(self.store(), &key)?.is_some()
        };
        if wanted.is_some() && !known {
            fetched = Some(self.download(address, &path)?);
        }
        if let (Some(wanted), Some((digest, _))) = (wanted, &fetched)
            && wanted != digest
        {
            return Err(Error::new(
                Kind::Corrupt,
                format!("`{address}` has the digest {digest} instead of {wanted}"),
            ));
        }
        let time = time.or_else(|| fetched.and_then(|(_, time)| time));
        self.placed_layer(state, shown, plan, &what, history, &mut |mounted, owner| {
            let mut file = File::open(&path).io_context(|| format!("cannot open `{}`", path.display()))?;
            if add.unpack == Some(true) && is_archive(&mut file)? {
                return unpack(mounted, &plan.destination, file, owner);
            }
            let at = plan.file(mounted, name.as_bytes());
            mounted.target.write(&at, &mut file, owner, plan.mode(0o600), Some(time.unwrap_or(0)))
        })
    }

    fn add_repository(
        &self,
        state: &mut State,
        add: &Add,
        plan: &Plan,
        mut git: GitAddress,
        history: String,
        shown: &Shown,
    ) -> Result<()> {
        if git.remote.starts_with("file://") {
            return Err(Error::new(Kind::Denied, "cannot add a repository of this machine by its path")
                .with_hint("copy it from a context: `--build-context NAME=DIRECTORY`"));
        }
        if add.unpack.is_some() {
            return Err(Error::invalid("--unpack is for archives"));
        }
        if let Some(word) = &add.checksum {
            git.checksum = Some(word.text.trim_start_matches("sha1:").to_owned());
        }
        let keep = add.keep_git_dir.or(git.keep_git_dir).unwrap_or(false);
        let access = Access {
            agent: self.request.agents.get("default").cloned(),
            authorization: git.authorization(&self.request.secrets)?,
            trusted: false,
        };
        let place = self.room.place("git");
        let commit = git.resolve(&access, &self.room.path)?;
        let what = (
            "git",
            (&plan.destination, &plan.chmod, &plan.chown),
            (&commit, &git.directory, git.no_submodules),
            keep.then_some(&git.remote),
            add.placement.excludes.iter().map(|word| word.text.as_str()).collect::<Vec<_>>(),
        );
        let permissions = Permissions::parse(GIT_PERMISSIONS)?;
        self.placed_layer(state, shown, plan, &what, history, &mut |mounted, owner| {
            let _gone = Gone(place.clone());
            fs::create_dir_all(&place).io_context(|| format!("cannot make `{}`", place.display()))?;
            let (directory, time) = git.checkout(&access, &commit, &place, keep)?;
            let root = open_directory(&directory)?;
            let tree = Tree { root: root.as_fd(), ignore: None, foreign: true, cancel: Some(&self.cancel) };
            let options = CopyOptions {
                permissions: Some(plan.permissions.as_ref().unwrap_or(&permissions)),
                time: Some(time),
                ..plan.options(owner)
            };
            for found in tree.find(".")? {
                mounted.target.copy(&tree, &found, &plan.destination, &options)?;
            }
            Ok(())
        })
    }
}

/// A directory that goes when it is dropped.
struct Gone(PathBuf);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
