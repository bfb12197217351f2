//! Content by digest: manifests, configs, and blobs that are kept whole.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use robot_env_diag::{Error, IoContext, Kind, Result, Within};
use robot_env_oci::{Digest, Hasher, MANIFEST_LIMIT};
use robot_env_sys::fs::{self, Durability};
use robot_env_sys::lock;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::{Store, failpoint};

fn path_of(digest: &Digest) -> String {
    format!("content/{}/{}", digest.algorithm().as_str(), digest.hex())
}

fn partial_of(digest: &Digest) -> String {
    format!("content/partial/{}-{}", digest.algorithm().as_str(), digest.hex())
}

fn digest_of(algorithm: robot_env_oci::Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

impl Store {
    /// Keeps `bytes`, a document of at most 4 MiB, under their digest. It is on the disk when an
    /// image that refers to it was put; leases of this process pin it. Damaged content in its place
    /// is replaced.
    ///
    /// Errors: `Corrupt` when the bytes do not have that digest, `InvalidInput` when they are too
    /// many, `NoSpace`.
    pub fn put_content(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        if bytes.len() as u64 > MANIFEST_LIMIT {
            return Err(Error::invalid(format!(
                "cannot store content `{digest}`: it has more than {MANIFEST_LIMIT} bytes"
            )));
        }
        let actual = digest_of(digest.algorithm(), bytes);
        if actual != *digest {
            return Err(Error::new(
                Kind::Corrupt,
                format!("cannot store content `{digest}`: its bytes have the digest {actual}"),
            ));
        }
        let _lock = self.lock_shared()?;
        self.pin_content(digest)?;
        if matches!(self.content(digest), Ok(Some(_))) {
            return Ok(());
        }
        self.write_file(&format!("content `{digest}`"), &path_of(digest), bytes, Durability::NoSync)
    }

    /// The document with that digest, checked; `None` when it is not here.
    ///
    /// Errors: `Corrupt` when it does not match its digest: put it again to mend it.
    pub fn content(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        let bytes = match fs::read_bounded(&self.root, path_of(digest), MANIFEST_LIMIT) {
            Ok(bytes) => bytes,
            Err(error) if error.errno() == Errno::NOENT => return Ok(None),
            Err(error) => return Err(Error::from(error).within(format!("cannot read content `{digest}`"))),
        };
        if digest_of(digest.algorithm(), &bytes) != *digest {
            return Err(self.damaged_content(digest));
        }
        Ok(Some(bytes))
    }

    fn damaged_content(&self, digest: &Digest) -> Error {
        Error::new(Kind::Corrupt, format!("cannot read content `{digest}`: it is damaged")).because(
            Error::new(Kind::Corrupt, format!("{} does not match its digest", self.shown(&path_of(digest)))),
        )
    }

    /// Whether content with that digest is here; documents of up to 4 MiB are checked, so that
    /// damaged ones count as missing and are fetched again.
    pub fn has_content(&self, digest: &Digest) -> Result<bool> {
        match self.content(digest) {
            Ok(found) => Ok(found.is_some()),
            Err(error) if error.kind() == Kind::Corrupt => Ok(false),
            // Larger than a document: a blob, checked when it was committed.
            Err(_) => Ok(self.open_blob(digest)?.is_some()),
        }
    }

    /// Opens the blob with that digest. It was checked when it arrived; whoever reads it hashes it.
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<File>> {
        let path = path_of(digest);
        self.open_file(&path).within(|| format!("cannot read content `{digest}`"))
    }

    /// Begins or resumes the arrival of a blob: what came before a killed or failed transfer is
    /// there already, see [`Ingest::offset`].
    ///
    /// Errors: `Conflict` when another process receives the same blob now.
    pub fn ingest(&self, digest: &Digest) -> Result<Ingest<'_>> {
        let _lock = self.lock_shared()?;
        self.pin_content(digest)?;
        let path = partial_of(digest);
        let failed = |call: &str, errno: Errno| {
            Error::from(robot_env_sys::CallError::new(format!("{call}({})", self.shown(&path)), errno))
                .within(format!("cannot receive blob `{digest}`"))
        };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd: OwnedFd = rustix::fs::openat(&self.root, &path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| failed("create", errno))?;
        if !lock::try_lock_exclusive(&fd)? {
            return Err(Error::new(
                Kind::Conflict,
                format!("cannot receive blob `{digest}`: another process receives it"),
            ));
        }
        // The one who held the lock before may have finished or given up: is it still this file?
        let here = rustix::fs::statat(&self.root, &path, AtFlags::SYMLINK_NOFOLLOW).map(|s| s.st_ino);
        if here != rustix::fs::fstat(&fd).map(|s| s.st_ino) {
            return Err(Error::new(
                Kind::Conflict,
                format!("cannot receive blob `{digest}`: another process has just received it"),
            ));
        }
        let mut file = File::from(fd);
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = vec![0; 256 * 1024];
        let mut offset = 0;
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    hasher.update(&buffer[..n]);
                    offset += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read", Errno::from_io_error(&error).unwrap_or(Errno::IO))),
            }
        }
        Ok(Ingest { store: self, digest: digest.clone(), file, hasher, offset })
    }

    /// Makes sure that content which an image refers to is on the disk.
    pub(crate) fn sync_content(&self, digest: &Digest) -> Result<()> {
        if let Some(file) = self.open_blob(digest)? {
            file.sync_all().io_context(|| format!("cannot sync content `{digest}`"))?;
            fs::sync_directory(self.dir(&format!("content/{}", digest.algorithm().as_str()))?)?;
        }
        Ok(())
    }
}

/// A blob that is arriving. Dropped without [`Ingest::commit`], what arrived stays for a later
/// [`Store::ingest`], until the collector takes it.
pub struct Ingest<'a> {
    store: &'a Store,
    digest: Digest,
    file: File,
    hasher: Hasher,
    offset: u64,
}

impl std::fmt::Debug for Ingest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingest")
            .field("digest", &self.digest)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl Ingest<'_> {
    /// How many bytes are here.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Throws away what is here, as when a server cannot send from the middle.
    pub fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).io_context(|| format!("cannot receive blob `{}`", self.digest))?;
        io::Seek::rewind(&mut self.file).io_context(|| format!("cannot receive blob `{}`", self.digest))?;
        self.hasher = Hasher::new(self.digest.algorithm());
        self.offset = 0;
        Ok(())
    }

    /// Checks the size (in bytes) and the digest, syncs, and moves the blob to its place. A blob
    /// that does not match is thrown away.
    pub fn commit(self, size: u64) -> Result<()> {
        let digest = &self.digest;
        let partial = partial_of(digest);
        let actual = self.hasher.finish();
        if self.offset != size || actual != *digest {
            let _ = rustix::fs::unlinkat(&self.store.root, &partial, AtFlags::empty());
            let reason = if self.offset == size {
                format!("its bytes have the digest {actual}")
            } else {
                format!("it has {} bytes instead of {size}", self.offset)
            };
            return Err(Error::new(Kind::Corrupt, format!("cannot store blob `{digest}`: {reason}")));
        }
        let what = format!("blob `{digest}`");
        let explain = |error: Error| self.store.explain(error, &what, &partial, size);
        self.file
            .sync_all()
            .io_context(|| format!("fsync({})", self.store.shown(&partial)))
            .map_err(explain)?;
        failpoint!("store.ingest.synced");
        let _lock = self.store.lock_shared()?;
        let path = path_of(digest);
        rustix::fs::renameat(&self.store.root, &partial, &self.store.root, &path)
            .map_err(|errno| {
                robot_env_sys::CallError::new(
                    format!("rename({} -> {})", self.store.shown(&partial), self.store.shown(&path)),
                    errno,
                )
            })
            .map_err(|error| explain(error.into()))?;
        failpoint!("store.ingest.renamed");
        fs::sync_directory(self.store.dir(&format!("content/{}", digest.algorithm().as_str()))?)?;
        Ok(())
    }
}

impl Write for Ingest<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.offset += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
