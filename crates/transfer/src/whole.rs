//! Files that appear when they are whole.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use robot_env_diag::{Error, IoContext, Result};

/// A file that appears when it is whole. What is there and is no regular file (a FIFO, a device) is
/// written into as it is.
#[derive(Debug)]
pub struct WholeFile {
    path: PathBuf,
    /// What is written and then renamed; `None`: the path itself.
    temporary: Option<PathBuf>,
    opened: File,
}

impl WholeFile {
    /// Opens what will be `path`, or `path` itself where it is no regular file.
    ///
    /// # Errors
    /// `InvalidInput` for a directory; those of opening a file.
    pub fn new(path: &Path) -> Result<Self> {
        let failed = || format!("cannot write to `{}`", path.display());
        let found = fs::metadata(path);
        if found.as_ref().is_ok_and(fs::Metadata::is_dir) {
            return Err(Error::invalid(failed()).because("it is a directory"));
        }
        if found.is_ok_and(|found| !found.is_file()) {
            let opened = OpenOptions::new().write(true).open(path).io_context(failed)?;
            return Ok(WholeFile { path: path.to_owned(), temporary: None, opened });
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let opened = options.open(&temporary).io_context(failed)?;
        Ok(WholeFile { path: path.to_owned(), temporary: Some(temporary), opened })
    }

    /// What is written into.
    ///
    /// # Errors
    /// Those of duplicating a descriptor.
    pub fn file(&self) -> Result<File> {
        self.opened.try_clone().io_context(|| format!("cannot write to `{}`", self.path.display()))
    }

    /// Puts it in its place.
    ///
    /// # Errors
    /// Those of writing and renaming.
    pub fn finish(mut self, mut file: File) -> Result<()> {
        let failed = || format!("cannot write to `{}`", self.path.display());
        file.flush().io_context(failed)?;
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, &self.path).io_context(failed)?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_file(temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_when_it_is_whole() {
        let directory = std::env::temp_dir().join(format!("re-save-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let path = directory.join("out.tar");
        let output = WholeFile::new(&path).unwrap();
        output.file().unwrap().write_all(b"half").unwrap();
        drop(output);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        let output = WholeFile::new(&path).unwrap();
        let mut file = output.file().unwrap();
        file.write_all(b"whole").unwrap();
        assert!(!path.exists());
        output.finish(file).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert!(WholeFile::new(&directory).is_err() && WholeFile::new(&directory.join("no/such")).is_err());
        let null = WholeFile::new(Path::new("/dev/null")).unwrap();
        let file = null.file().unwrap();
        null.finish(file).unwrap();
        fs::remove_dir_all(&directory).unwrap();
    }
}
