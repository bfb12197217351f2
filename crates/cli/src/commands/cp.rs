use std::io::{self, BufReader, PipeReader, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::Args;
use robot_env_diag::{Error, Kind, Result};
use robot_env_engine::{Access, ContainerFiles};
use robot_env_layer::{
    Decoder, ExportOptions, Exported, ExtractOptions, ExtractOwner, Extracted, Ownership, export, extract,
};
use robot_env_transfer::ownership;
use rustix::fs::FileType;

use super::export::StandardOutput;
use crate::app::App;
use crate::format::human;
use crate::verb::{Exit, Verb};

mod local;
mod rules;

use local::Source;
use rules::{Destination, Side, place};

/// Copy files between a container and the host
///
/// A directory is copied into a destination that is a directory, and becomes one that does not
/// exist; `SRC/.` copies what is in it. `-` reads a tar from standard input, or writes one to
/// standard output. The container need not run; its volumes are there too. Owners are kept by
/// number on the way into a container; files copied out belong to the caller, and have no
/// set-user-ID bits and no capabilities.
#[derive(Args)]
pub(crate) struct Cp {
    /// Keep owners and groups by number (into a container they always are)
    #[arg(short, long)]
    archive: bool,
    /// Follow a symbolic link that the source is
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Do not say what was copied
    #[arg(short, long)]
    quiet: bool,
    /// What is copied: a path, or - for a tar on standard input
    #[arg(value_name = "CONTAINER:SRC_PATH|SRC_PATH|-", required = true)]
    source: String,
    /// Where to: a path, or - for a tar on standard output
    #[arg(value_name = "CONTAINER:DEST_PATH|DEST_PATH|-", required = true)]
    destination: String,
}

impl Verb for Cp {
    const SPELLINGS: &'static [&'static str] = &["cp", "container cp"];

    fn run(self, app: &App) -> Result<Exit> {
        if self.source.is_empty() {
            return Err(Error::invalid("source can not be empty"));
        }
        if self.destination.is_empty() {
            return Err(Error::invalid("destination can not be empty"));
        }
        let (size, place) = match (rules::side(&self.source), rules::side(&self.destination)) {
            (Side::Container(container, path), Side::Host(to)) => {
                match self.copy_out(app, container, path, to)? {
                    Some(done) => done,
                    None => return Ok(Exit::SUCCESS),
                }
            }
            (Side::Host(from), Side::Container(container, path)) => {
                self.copy_in(app, from, container, path)?
            }
            (Side::Container(..), Side::Container(..)) => {
                let program = app.program();
                return Err(Error::new(Kind::Unsupported, "copying between containers is not supported")
                    .with_hint(format!(
                        "copy through a pipe: `{program} cp {} - | {program} cp - {}`",
                        self.source, self.destination
                    )));
            }
            (Side::Host(_), Side::Host(_)) => {
                return Err(Error::invalid("must specify at least one container source"));
            }
        };
        if !self.quiet {
            app.say(&format!("Successfully copied {} to {place}", human::short(size)));
        }
        Ok(Exit::SUCCESS)
    }
}

impl Cp {
    /// The bytes of the tar and the destination; none if standard output was that.
    fn copy_out(&self, app: &App, container: &str, path: &str, to: &str) -> Result<Option<(u64, String)>> {
        let destination = match to {
            "-" if app.ambient().stdout_is_terminal => {
                return Err(Error::invalid("cowardly refusing to write a tar to a terminal")
                    .with_hint("name a directory, or redirect standard output"));
            }
            "-" => None,
            to => Some(local::absolute(&app.ambient().directory, to)),
        };
        let engine = app.engine()?;
        if let Some(path) = &destination {
            local::check_output(path)?;
        }
        let files = engine.files(container, Access::Read)?;
        let mut path = path.to_owned();
        let mut stat = files.stat(&path)?;
        let mut own_name = None;
        if self.follow_link && stat.is_link() {
            own_name = Some(stat.name);
            path = stat.link_target;
            stat = files.stat(&path)?;
        }
        let Some(destination) = destination else {
            let mut out = StandardOutput::new()?;
            let done = files.write_tar(&path, own_name.as_deref(), &mut out);
            out.finish(done)?;
            return Ok(None);
        };
        let is_directory = stat.is_directory();
        let (directory, name) = place(own_name.as_deref(), is_directory, &local::destination(&destination)?)?;
        let directory = local::open_directory(&PathBuf::from(directory))?;
        let owner = if self.archive { ExtractOwner::Keep } else { ExtractOwner::Caller };
        let copied = through_pipe(
            |out| files.write_tar(&path, name.as_deref(), out),
            // What a container made gets no rights on the host.
            |tar| extract(tar, directory.as_fd(), &ExtractOptions { plain: true, ..options(owner) }),
        )?;
        for (count, what) in [
            (copied.skipped.rights, "set-user-ID and set-group-ID bits or capabilities of files"),
            (copied.skipped.devices, "device nodes"),
        ] {
            if count > 0 {
                app.warn(&format!("{count} {what} were left out; a tar has them: `cp {container}:PATH -`"));
            }
        }
        Ok(Some((copied.tar_size, destination)))
    }

    fn copy_in(&self, app: &App, from: &str, container: &str, path: &str) -> Result<(u64, String)> {
        let engine = app.engine()?;
        let source = match from {
            "-" => None,
            from => {
                let path = local::absolute(&app.ambient().directory, from);
                Some(Source::open(&path, self.follow_link)?)
            }
        };
        let files = engine.files(container, Access::Write)?;
        let destination = in_container(&files, path)?;
        let said = format!("{container}:{}", destination.path);
        let options = options(ExtractOwner::Keep);
        let Some(source) = source else {
            if !destination.is_directory {
                return Err(Error::invalid(format!(
                    "destination \"{container}:{path}\" must be a directory"
                )));
            }
            let tar = BufReader::with_capacity(BUFFER, io::stdin().lock());
            let copied = files.extract_tar(&destination.path, Decoder::new(tar)?, &options)?;
            return Ok((copied.tar_size, said));
        };
        let (directory, name) = place(Some(&source.name), source.is_directory, &destination)?;
        let name = name.unwrap_or_else(|| source.name.clone());
        let export_options = ExportOptions {
            entry: source.entry.clone(),
            prefix: if name == "/" { b".".into() } else { name.into_bytes() },
        };
        let copied = through_pipe(
            |out| export(source.dir.as_fd(), out, &export_options),
            |tar| files.extract_tar(&directory, tar, &options),
        )?;
        Ok((copied.tar_size, said))
    }
}

const BUFFER: usize = 256 * 1024;

/// What is at the destination in a container; a link there is followed to its end, and there need
/// not be anything.
fn in_container(files: &ContainerFiles<'_>, said: &str) -> Result<Destination> {
    let look = |path: &str| match files.stat(path) {
        Ok(stat) => Ok(Some(stat)),
        // A part of the path is missing, or is no directory: that shows when it is written to.
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::InvalidInput) && !path.is_empty() => {
            Ok(None)
        }
        Err(error) => Err(error),
    };
    let mut path = said.to_owned();
    let mut found = look(&path)?;
    if let Some(stat) = found.as_ref().filter(|stat| stat.is_link()) {
        path.clone_from(&stat.link_target);
        found = look(&path)?;
    }
    let kind = found.as_ref().map(|stat| FileType::from_raw_mode(stat.mode));
    if let Some(FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo | FileType::Socket) = kind
    {
        return Err(Error::invalid(format!("destination \"{said}\" must be a directory or a regular file")));
    }
    Ok(Destination { path, exists: found.is_some(), is_directory: kind == Some(FileType::Directory) })
}

/// How a copy is unpacked. With a single id in the user namespace nothing can be given away.
fn options(owner: ExtractOwner) -> ExtractOptions {
    let owner = if ownership() == Ownership::SingleId { ExtractOwner::Caller } else { owner };
    ExtractOptions { owner, ..ExtractOptions::default() }
}

/// Moves a tar from one to the other, who works at the same time.
fn through_pipe(
    write: impl FnOnce(&mut dyn Write) -> Result<Exported> + Send,
    read: impl FnOnce(BufReader<PipeReader>) -> Result<Extracted>,
) -> Result<Extracted> {
    let (tar, mut out) =
        io::pipe().map_err(|error| Error::new(Kind::of_io(&error), "cannot make a pipe").because(error))?;
    let (written, extracted) = std::thread::scope(|scope| {
        // The writer's end closes with it, and the reader's, so that neither waits for ever.
        let writing = scope.spawn(move || write(&mut out));
        let extracted = read(BufReader::with_capacity(BUFFER, tar));
        (writing.join(), extracted)
    });
    let written = written.unwrap_or_else(|_| Err(Error::new(Kind::Internal, "a thread of cp panicked")));
    match (written, extracted) {
        (Ok(_), extracted) => extracted,
        // A reader that stopped is why the writer failed; a writer that stopped cut the tar short.
        (Err(_), Err(error)) if error.kind() != Kind::Corrupt => Err(error),
        (Err(error), _) => Err(error),
    }
}
