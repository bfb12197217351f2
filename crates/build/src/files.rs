//! `COPY` and `ADD`.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;

use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_dockerfile::ignore::Ignore;
use robot_env_dockerfile::{Add, Copy, Instruction, Placement, Source};
use robot_env_layer::{Decoder, ExtractOptions, ExtractOwner, Ownership, extract};
use robot_env_oci::Digest;
use robot_env_transfer::ownership;
use rustix::fs::OFlags;

use crate::copying::CopyOptions;
use crate::history::created_by;
use crate::solve::{Build, Mounted, Opened, Shown};
use crate::state::State;
use crate::tree::{Match, Tree, clean};

/// Where an archive's magic stands in a tar, in bytes.
const MAGIC: std::ops::Range<usize> = 257..262;

/// Permissions by `--chmod`.
fn mode_of(text: &str) -> Result<u32> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777).ok_or_else(|| {
        Error::invalid(format!("invalid mode `{text}`: only octal numbers up to 7777 are read"))
    })
}

/// Everything that decides where files go and how.
struct Plan {
    destination: String,
    directory: bool,
    mode: Option<u32>,
    excludes: Option<Ignore>,
    parents: bool,
}

impl Plan {
    fn of(state: &State, placement: &Placement, name: &str, parents: bool) -> Result<Plan> {
        let text = &placement.destination.text;
        let directory = text.ends_with('/') || matches!(text.rsplit('/').next(), Some("." | ".."));
        let count = placement.sources.len() + placement.documents.len();
        if count > 1 && !directory {
            return Err(several(name));
        }
        let mode = placement.chmod.as_ref().map(|word| mode_of(&word.text)).transpose()?;
        let excludes: Vec<&str> = placement.excludes.iter().map(|word| word.text.as_str()).collect();
        Ok(Plan {
            destination: format!("/{}", clean(&state.absolute(text))),
            directory,
            mode,
            excludes: if excludes.is_empty() { None } else { Some(Ignore::new(excludes)?) },
            parents,
        })
    }

    /// Where a match goes, by what is there already.
    fn place(&self, target: &Mounted<'_>, found: &Match) -> String {
        let base = self.destination.trim_end_matches('/');
        if self.parents {
            return format!("{base}/{}", String::from_utf8_lossy(&found.asked));
        }
        if found.is_directory {
            return base.to_owned();
        }
        self.file(target, &String::from_utf8_lossy(found.name()))
    }

    fn file(&self, target: &Mounted<'_>, name: &str) -> String {
        let base = self.destination.trim_end_matches('/');
        if self.directory || base.is_empty() || target.target.is_directory(base) {
            format!("{base}/{name}")
        } else {
            base.to_owned()
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
    fn find(opened: &Opened, placement: &Placement, name: &str, directory: bool) -> Result<Vec<Match>> {
        let tree = opened.tree();
        let mut all = Vec::new();
        for word in &placement.sources {
            let found =
                tree.find(&word.text).map_err(|error| Self::missing(&tree, opened, &word.text, error))?;
            all.extend(found);
        }
        if all.len() + placement.documents.len() > 1 && !directory {
            return Err(several(name));
        }
        Ok(all)
    }

    fn missing(tree: &Tree<'_>, opened: &Opened, text: &str, error: Error) -> Error {
        if error.kind() != Kind::NotFound {
            return error;
        }
        match opened {
            Opened::Directory(directory) => {
                let out = Error::not_found(format!(
                    "`{text}` is not in the context `{}`",
                    directory.path.display()
                ));
                let all = Tree { ignore: None, root: tree.root, foreign: true };
                if all.find(text).is_ok() {
                    out.with_hint("a line of .dockerignore keeps it out")
                } else {
                    out
                }
            }
            Opened::Layers(_) => Error::not_found(format!("`{text}` is not there")),
        }
    }

    pub(crate) fn copy_step(&mut self, state: &mut State, copy: &Copy, shown: &Shown) -> Result<()> {
        let from = copy.from.as_ref().map(|word| self.file.copy_source(word)).transpose();
        let from = from.map_err(|fault| self.fault(fault))?;
        let history = created_by(&Instruction::Copy(copy.clone()), &[]);
        self.place("COPY", state, &copy.placement, from.as_ref(), copy.parents, history, shown)
            .map_err(|error| self.placed(shown, error))
    }

    /// An error that has no place yet gets that of the instruction.
    fn placed(&self, shown: &Shown, error: Error) -> Error {
        if error.message().starts_with("cannot build from") { error } else { self.at(shown.span, error) }
    }

    #[allow(clippy::too_many_arguments)] // what COPY and ADD have in common
    fn place(
        &mut self,
        name: &str,
        state: &mut State,
        placement: &Placement,
        from: Option<&Source>,
        parents: bool,
        history: String,
        shown: &Shown,
    ) -> Result<()> {
        let plan = Plan::of(state, placement, name, parents)?;
        let opened = self.open(from)?;
        let found = Self::find(&opened, placement, name, plan.directory)?;
        let digest = {
            let index = self.index_of(from)?;
            opened.tree().digest(&found, plan.excludes.as_ref(), index)?
        };
        let documents: Vec<(&str, &str)> = placement
            .documents
            .iter()
            .map(|document| (document.name.as_str(), document.content.as_str()))
            .collect();
        let asked: Vec<String> =
            found.iter().map(|found| String::from_utf8_lossy(&found.asked).into_owned()).collect();
        let chown = placement.chown.as_ref().map(|word| word.text.clone());
        let asked = if plan.parents { asked } else { Vec::new() };
        let what = (
            "copy",
            (&plan.destination, plan.directory, plan.mode, &chown, plan.parents, asked),
            digest.to_string(),
            documents,
        );
        self.layer(state, shown, &what, history, &mut |mounted| {
            let owner = chown.as_deref().map(|text| Build::user(mounted.root, text, true)).transpose()?;
            let options = CopyOptions { owner, mode: plan.mode, excludes: plan.excludes.as_ref() };
            for found in &found {
                let at = plan.place(mounted, found);
                mounted.target.copy(&opened.tree(), found, &at, &options)?;
            }
            for document in &placement.documents {
                let at = plan.file(mounted, &document.name);
                let mut content = document.content.as_bytes();
                mounted.target.write(&at, &mut content, owner, plan.mode.unwrap_or(0o644))?;
            }
            Ok(())
        })
    }

    pub(crate) fn add_step(&mut self, state: &mut State, add: &Add, shown: &Shown) -> Result<()> {
        let history = created_by(&Instruction::Add(add.clone()), &[]);
        let remote = add.placement.sources.iter().any(|word| is_remote(&word.text));
        let made = if remote {
            self.add_remote(state, add, history, shown)
        } else {
            self.add_local(state, add, history, shown)
        };
        made.map_err(|error| self.placed(shown, error))
    }

    /// Files of the context, archives among them unpacked.
    fn add_local(&mut self, state: &mut State, add: &Add, history: String, shown: &Shown) -> Result<()> {
        if add.checksum.is_some() {
            return Err(Error::invalid("--checksum is for what is downloaded"));
        }
        let placement = &add.placement;
        let opened = self.open(None)?;
        let plan = Plan::of(state, placement, "ADD", false)?;
        let found = Self::find(&opened, placement, "ADD", plan.directory)?;
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
        let digest = opened.tree().digest(&found, plan.excludes.as_ref(), &mut self.context.index)?;
        let chown = placement.chown.as_ref().map(|word| word.text.clone());
        let what = ("add", (&plan.destination, plan.directory, plan.mode, &chown), digest.to_string());
        self.layer(state, shown, &what, history, &mut |mounted| {
            let owner = chown.as_deref().map(|text| Build::user(mounted.root, text, true)).transpose()?;
            let options = CopyOptions { owner, mode: plan.mode, excludes: plan.excludes.as_ref() };
            for found in &found {
                if let Some(file) = archive(found)? {
                    let directory = mounted.target.make_directories(&plan.destination, owner)?;
                    let decoder = Decoder::new(file)?;
                    let how = ExtractOptions {
                        owner: owner_of(owner),
                        overwrite_dir_non_dir: true,
                        ..ExtractOptions::default()
                    };
                    extract(decoder, directory.as_fd(), &how)
                        .within(|| format!("cannot unpack `{}`", String::from_utf8_lossy(&found.asked)))?;
                } else {
                    let at = plan.place(mounted, found);
                    mounted.target.copy(&opened.tree(), found, &at, &options)?;
                }
            }
            Ok(())
        })
    }

    /// Files of the web.
    fn add_remote(&mut self, state: &mut State, add: &Add, history: String, shown: &Shown) -> Result<()> {
        let placement = &add.placement;
        let plan = Plan::of(state, placement, "ADD", false)?;
        let [source] = &placement.sources[..] else {
            return Err(Error::new(Kind::Unsupported, "cannot mix an address with other sources in one ADD")
                .with_hint("write one ADD for each"));
        };
        let address = &source.text;
        if is_git(address) {
            return Err(Error::new(Kind::Unsupported, format!("cannot add the git repository `{address}`"))
                .with_hint("clone it in a RUN with `--mount=type=cache`, or copy it from the context"));
        }
        let name =
            address.split(['?', '#']).next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        if name.is_empty() && plan.directory {
            return Err(Error::invalid(format!("cannot tell a file name from `{address}`")));
        }
        let path = self.room.path.join(format!("download-{}", Digest::of(address.as_bytes()).short()));
        let digest = self.download(address, &path)?;
        if let Some(wanted) = &add.checksum
            && wanted.text != digest.to_string()
        {
            return Err(Error::new(
                Kind::Corrupt,
                format!("`{address}` has the digest {digest} instead of {}", wanted.text),
            ));
        }
        let chown = placement.chown.as_ref().map(|word| word.text.clone());
        let what = (
            "add",
            (&plan.destination, plan.directory, plan.mode, &chown),
            digest.to_string(),
            name,
            add.unpack,
        );
        self.layer(state, shown, &what, history, &mut |mounted| {
            let owner = chown.as_deref().map(|text| Build::user(mounted.root, text, true)).transpose()?;
            let mut file = File::open(&path).io_context(|| format!("cannot open `{}`", path.display()))?;
            if add.unpack == Some(true) && is_archive(&mut file)? {
                let directory = mounted.target.make_directories(&plan.destination, owner)?;
                let how = ExtractOptions {
                    owner: owner_of(owner),
                    overwrite_dir_non_dir: true,
                    ..ExtractOptions::default()
                };
                extract(Decoder::new(file)?, directory.as_fd(), &how)?;
                return Ok(());
            }
            let at = plan.file(mounted, name);
            mounted.target.write(&at, &mut file, owner, plan.mode.unwrap_or(0o600))
        })
    }
}

/// Who owns what an archive holds.
fn owner_of(owner: Option<(u32, u32)>) -> ExtractOwner {
    match (ownership(), owner) {
        (Ownership::SingleId, _) => ExtractOwner::Caller,
        (Ownership::Keep, Some((uid, gid))) => ExtractOwner::Fixed(uid, gid),
        (Ownership::Keep, None) => ExtractOwner::Keep,
    }
}

fn is_remote(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://") || is_git(text)
}

fn is_git(text: &str) -> bool {
    let path = text.split('#').next().unwrap_or_default();
    text.starts_with("git@")
        || text.starts_with("git://")
        || text.starts_with("ssh://")
        || (text.starts_with("http")
            && std::path::Path::new(path).extension().is_some_and(|end| end == "git"))
}

fn open_match(tree: &Tree<'_>, found: &Match) -> Result<File> {
    let path = String::from_utf8_lossy(&found.path);
    let file = robot_env_sys::fs::open_in_root(tree.root, &path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    Ok(File::from(file))
}

/// Whether a file is a tar, plain or compressed by gzip or zstd; it is read from its start afterwards.
///
/// # Errors
/// `Unsupported` for xz and bzip2.
fn is_archive(file: &mut File) -> Result<bool> {
    let stat = rustix::fs::fstat(&*file).io_context(|| "fstat()".into())?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Ok(false);
    }
    let mut start = [0u8; 512];
    let mut filled = 0;
    {
        let Ok(mut decoder) = Decoder::new(&mut *file) else {
            file.seek(SeekFrom::Start(0)).io_context(|| "seek()".into())?;
            return Err(Error::new(
                Kind::Unsupported,
                "an archive compressed by xz or bzip2 cannot be unpacked by ADD",
            )
            .with_hint("unpack it in a RUN, or say `--unpack=false`"));
        };
        while filled < start.len() {
            match decoder.read(&mut start[filled..]) {
                Ok(0) | Err(_) => break,
                Ok(n) => filled += n,
            }
        }
    }
    file.seek(SeekFrom::Start(0)).io_context(|| "seek()".into())?;
    Ok(filled == start.len() && (&start[MAGIC] == b"ustar" || old_tar(&start)))
}

/// A header without a magic is known by its checksum.
fn old_tar(header: &[u8; 512]) -> bool {
    let text = std::str::from_utf8(&header[148..156]).unwrap_or_default();
    let Ok(wanted) = u32::from_str_radix(text.trim_matches(['\0', ' ']), 8) else { return false };
    let sum = |range: std::ops::Range<usize>| header[range].iter().map(|byte| u32::from(*byte)).sum::<u32>();
    header[0] != 0 && wanted == sum(0..148) + sum(156..512) + 8 * u32::from(b' ')
}
