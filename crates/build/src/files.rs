//! `COPY` and `ADD` of files of the context, stages and images.

use std::fs::File;
use std::os::fd::AsFd;

use robot_env_diag::{Error, Result, Within};
use robot_env_dockerfile::ignore::Ignore;
use robot_env_dockerfile::{Add, Copy, Instruction, Placement, Source};
use robot_env_layer::{ExtractOptions, ExtractOwner, Ownership, extract};
use robot_env_transfer::ownership;
use rustix::fs::OFlags;

use crate::archive::{decompressed, is_archive};
use crate::copying::CopyOptions;
use crate::failure::Trouble;
use crate::history::created_by;
use crate::missing::missing;
use crate::permissions::Permissions;
use crate::room::Opened;
use crate::solve::Build;
use crate::state::State;
use crate::step::{Mounted, Shown};
use crate::tree::{Match, Tree, clean};

/// Everything that decides where files go and how.
pub(crate) struct Plan {
    pub(crate) destination: String,
    pub(crate) directory: bool,
    pub(crate) permissions: Option<Permissions>,
    /// As it is written.
    pub(crate) chmod: Option<String>,
    pub(crate) chown: Option<String>,
    pub(crate) excludes: Option<Ignore>,
    parents: bool,
    /// Whether the layer depends on nothing below it.
    pub(crate) link: bool,
}

impl Plan {
    pub(crate) fn of(state: &State, placement: &Placement, name: &str, parents: bool) -> Result<Plan> {
        let text = &placement.destination.text;
        let directory = text.ends_with('/') || matches!(text.rsplit('/').next(), Some("." | ".."));
        let count = placement.sources.len() + placement.documents.len();
        if count > 1 && !directory {
            return Err(several(name));
        }
        let chmod = placement.chmod.as_ref().map(|word| word.text.clone());
        let excludes: Vec<&str> = placement.excludes.iter().map(|word| word.text.as_str()).collect();
        Ok(Plan {
            destination: format!("/{}", clean(&state.absolute(text))),
            directory,
            permissions: chmod.as_deref().map(Permissions::parse).transpose()?,
            chmod,
            chown: placement.chown.as_ref().map(|word| word.text.clone()),
            excludes: if excludes.is_empty() { None } else { Some(Ignore::new(excludes)?) },
            parents,
            link: placement.link,
        })
    }

    /// How files are copied.
    pub(crate) fn options(&self, owner: Option<(u32, u32)>) -> CopyOptions<'_> {
        CopyOptions {
            owner,
            permissions: self.permissions.as_ref(),
            excludes: self.excludes.as_ref(),
            ..CopyOptions::default()
        }
    }

    /// The permissions of a file that would have `mode`.
    pub(crate) fn mode(&self, mode: u32) -> u32 {
        self.permissions.as_ref().map_or(mode, |permissions| permissions.apply(mode, false))
    }

    /// Where a match goes, by what is there already.
    fn place(&self, target: &Mounted<'_>, found: &Match) -> Vec<u8> {
        let base = self.destination.trim_end_matches('/').as_bytes();
        if self.parents {
            return [base, b"/", found.below_pivot()].concat();
        }
        if found.is_directory {
            return base.to_vec();
        }
        self.file(target, found.name())
    }

    pub(crate) fn file(&self, target: &Mounted<'_>, name: &[u8]) -> Vec<u8> {
        let base = self.destination.trim_end_matches('/').as_bytes();
        if self.directory || base.is_empty() || target.target.is_directory(base) {
            [base, b"/", name].concat()
        } else {
            base.to_vec()
        }
    }
}

fn several(name: &str) -> Error {
    Error::invalid(format!(
        "when using {name} with more than one source file, the destination must be a directory and end with a /"
    ))
}

impl Build<'_> {
    /// What the sources name, in their order.
    fn find(opened: &Opened, placement: &Placement, name: &str, plan: &Plan) -> Result<Vec<Match>> {
        let tree = opened.tree();
        let mut all = Vec::new();
        for word in &placement.sources {
            let mut found = tree.find(&word.text).map_err(|error| missing(opened, &word.text, error))?;
            if plan.parents
                && let Some((above, _)) = word.text.split_once("/./")
            {
                let above = clean(above);
                let pivot = above.split('/').filter(|part| !part.is_empty()).count();
                for found in &mut found {
                    found.pivot = pivot;
                }
            }
            all.extend(found);
        }
        if all.len() + placement.documents.len() > 1 && !plan.directory {
            return Err(several(name));
        }
        Ok(all)
    }

    pub(crate) fn copy_step(&self, state: &mut State, copy: &Copy, shown: &Shown) -> Result<(), Trouble> {
        let from = copy.from.as_ref().map(|word| self.file.copy_source(word)).transpose()?;
        let history = created_by(&Instruction::Copy(copy.clone()), &[]);
        Ok(self.place("COPY", state, &copy.placement, from.as_ref(), copy.parents, history, shown)?)
    }

    #[allow(clippy::too_many_arguments)] // what COPY and ADD have in common
    fn place(
        &self,
        name: &str,
        state: &mut State,
        placement: &Placement,
        from: Option<&Source>,
        parents: bool,
        history: String,
        shown: &Shown,
    ) -> Result<()> {
        let plan = Plan::of(state, placement, name, parents)?;
        let opened = self.open(from, shown.stage)?;
        let found = Self::find(&opened, placement, name, &plan)?;
        let digest = opened.tree().digest(&found, plan.excludes.as_ref(), self.index_of(&opened))?;
        let documents: Vec<(&str, &str)> = placement
            .documents
            .iter()
            .map(|document| (document.name.as_str(), document.content.as_str()))
            .collect();
        let asked: Vec<String> =
            found.iter().map(|found| String::from_utf8_lossy(&found.asked).into_owned()).collect();
        let asked = if plan.parents { asked } else { Vec::new() };
        let pivots: Vec<usize> = found.iter().map(|found| found.pivot).filter(|pivot| *pivot > 0).collect();
        let what = (
            "copy",
            (&plan.destination, plan.directory, &plan.chmod, &plan.chown, plan.parents, asked, pivots),
            digest.to_string(),
            documents,
        );
        let epoch = self.request.epoch;
        self.placed_layer(state, shown, &plan, &what, history, &mut |mounted, owner| {
            let options = plan.options(owner);
            for found in &found {
                let at = plan.place(mounted, found);
                if plan.parents {
                    mounted.target.copy_parents(&opened.tree(), found, &at, &options)?;
                }
                mounted.target.copy(&opened.tree(), found, &at, &options)?;
            }
            for document in &placement.documents {
                let at = plan.file(mounted, document.name.as_bytes());
                let mut content = document.content.as_bytes();
                mounted.target.write(&at, &mut content, owner, plan.mode(0o644), epoch)?;
            }
            Ok(())
        })
    }

    pub(crate) fn add_step(&self, state: &mut State, add: &Add, shown: &Shown) -> Result<()> {
        let history = created_by(&Instruction::Add(add.clone()), &[]);
        let remote = add.placement.sources.iter().any(|word| crate::remote::is_remote(&word.text));
        if remote {
            self.add_remote(state, add, history, shown)
        } else {
            self.add_local(state, add, history, shown)
        }
    }

    /// Files of the context, archives among them unpacked.
    fn add_local(&self, state: &mut State, add: &Add, history: String, shown: &Shown) -> Result<()> {
        if add.checksum.is_some() {
            return Err(Error::invalid("--checksum is for what is downloaded"));
        }
        if add.keep_git_dir.is_some() {
            return Err(Error::invalid("--keep-git-dir is for git repositories"));
        }
        let placement = &add.placement;
        let opened = self.open(None, shown.stage)?;
        let plan = Plan::of(state, placement, "ADD", false)?;
        let found = Self::find(&opened, placement, "ADD", &plan)?;
        let archive = |found: &Match| -> Result<Option<File>> {
            if found.is_directory || add.unpack == Some(false) {
                return Ok(None);
            }
            let mut file = open_match(&opened.tree(), found)?;
            Ok(if is_archive(&mut file)? { Some(file) } else { None })
        };
        let mut archives = 0;
        for found in &found {
            archives += usize::from(archive(found)?.is_some());
        }
        if archives == 0 {
            return self.place("ADD", state, placement, None, false, history, shown);
        }
        let digest = opened.tree().digest(&found, plan.excludes.as_ref(), &self.context.index)?;
        let what = ("add", (&plan.destination, plan.directory, &plan.chmod, &plan.chown), digest.to_string());
        self.placed_layer(state, shown, &plan, &what, history, &mut |mounted, owner| {
            for found in &found {
                if let Some(file) = archive(found)? {
                    unpack(mounted, &plan.destination, file, owner)
                        .within(|| format!("cannot unpack `{}`", String::from_utf8_lossy(&found.asked)))?;
                } else {
                    let at = plan.place(mounted, found);
                    mounted.target.copy(&opened.tree(), found, &at, &plan.options(owner))?;
                }
            }
            Ok(())
        })
    }

    /// A layer of `COPY` or `ADD`: `write` is told the owner of `--chown`.
    pub(crate) fn placed_layer(
        &self,
        state: &mut State,
        shown: &Shown,
        plan: &Plan,
        what: &impl serde::Serialize,
        history: String,
        write: &mut Write<'_>,
    ) -> Result<()> {
        let chown = plan.chown.as_deref();
        if plan.link {
            let owner = match chown {
                Some(text) => {
                    let root = self.room.open_layers(self.store(), state.chain.as_ref())?;
                    Some(Build::user(root.as_fd(), text, true)?)
                }
                None => None,
            };
            return self.linked(state, shown, &(what, owner), history, &mut |mounted| write(mounted, owner));
        }
        self.layer(state, shown, what, history, &mut |mounted| {
            let owner = chown.map(|text| Build::user(mounted.root, text, true)).transpose()?;
            write(mounted, owner)
        })
    }
}

/// Writes what a `COPY` or `ADD` brings, owned by these ids.
pub(crate) type Write<'w> = dyn FnMut(&mut Mounted<'_>, Option<(u32, u32)>) -> Result<()> + 'w;

/// Unpacks an archive into a directory, which is made if it is not there.
pub(crate) fn unpack(
    mounted: &mut Mounted<'_>,
    directory: &str,
    file: File,
    owner: Option<(u32, u32)>,
) -> Result<()> {
    let directory = mounted.target.make_directories(directory, owner)?;
    // `--chown` is for the directory: what an archive holds has owners of its own, as Docker's.
    let owner = match ownership() {
        Ownership::SingleId => ExtractOwner::Caller,
        Ownership::Keep => ExtractOwner::Keep,
    };
    let how = ExtractOptions { owner, overwrite_dir_non_dir: true, ..ExtractOptions::default() };
    extract(decompressed(file)?, directory.as_fd(), &how).map(drop)
}

fn open_match(tree: &Tree<'_>, found: &Match) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let file = robot_env_sys::fs::open_in_root(tree.root, &found.path, flags)?;
    Ok(File::from(file))
}
