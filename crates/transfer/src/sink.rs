//! Where the files of an image's archive go: into a tar, or into a directory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use robot_env_diag::{Error, IoContext, Kind, Result};
use robot_env_layer::MembersWriter;

/// Files, one after another, each of a length that is known when it begins.
pub(crate) enum Sink<W: Write> {
    /// The members of a tar.
    Archive(Box<MembersWriter<W>>),
    /// Files below a directory, which need not exist. Each appears when it is whole.
    Directory {
        /// The directory.
        root: PathBuf,
        /// What is being written.
        current: Option<Growing>,
    },
}

/// A file that is not whole yet; dropped before it is, it goes.
pub(crate) struct Growing {
    file: File,
    /// Its name until it is whole.
    path: Option<PathBuf>,
    whole: PathBuf,
}

impl Drop for Growing {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

impl<W: Write> Sink<W> {
    pub(crate) fn directory(root: PathBuf) -> Self {
        Sink::Directory { root, current: None }
    }

    /// Begins the file `path`, of `size` bytes.
    pub(crate) fn begin(&mut self, path: &str, size: u64) -> Result<()> {
        self.end()?;
        match self {
            Sink::Archive(archive) => archive.begin(path, size),
            Sink::Directory { root, current } => {
                let whole = root.join(path);
                let within = || format!("cannot write `{}`", whole.display());
                if let Some(parent) = whole.parent() {
                    fs::create_dir_all(parent).io_context(within)?;
                }
                let growing = whole.with_extension(format!("new-{}", std::process::id()));
                let file = File::create(&growing).io_context(within)?;
                *current = Some(Growing { file, path: Some(growing), whole });
                Ok(())
            }
        }
    }

    /// Writes a whole file.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.begin(path, content.len() as u64)?;
        self.write_all(content)
            .map_err(|error| Error::new(Kind::of_io(&error), format!("cannot write `{path}`")).because(error))
    }

    /// Ends the last file; gives the tar's output back.
    pub(crate) fn finish(mut self) -> Result<Option<W>> {
        self.end()?;
        match self {
            Sink::Archive(archive) => archive.finish().map(Some),
            Sink::Directory { .. } => Ok(None),
        }
    }

    fn end(&mut self) -> Result<()> {
        let Sink::Directory { current, .. } = self else { return Ok(()) };
        let Some(mut grown) = current.take() else { return Ok(()) };
        if let Some(path) = &grown.path {
            fs::rename(path, &grown.whole)
                .io_context(|| format!("cannot write `{}`", grown.whole.display()))?;
        }
        grown.path = None;
        Ok(())
    }
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sink::Archive(archive) => archive.write(bytes),
            Sink::Directory { current: Some(growing), .. } => growing.file.write(bytes),
            Sink::Directory { current: None, .. } => Err(io::Error::other("no file was begun")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
