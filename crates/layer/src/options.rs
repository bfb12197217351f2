use robot_env_oci::DiffId;

/// Who owns the files of an unpacked layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ownership {
    /// The users and groups that the tar names.
    #[default]
    Keep,
    /// The one user that unpacks: nothing is chowned (a user namespace with a single id).
    SingleId,
}

/// Which extended attributes the overlay file system uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlay {
    /// `trusted.overlay.*`: real root.
    #[default]
    Trusted,
    /// `user.overlay.*`: a mount with `userxattr`, in a user namespace.
    User,
}

impl Overlay {
    /// The attribute that marks a directory as opaque.
    pub(crate) fn opaque(self) -> &'static [u8] {
        match self {
            Overlay::Trusted => b"trusted.overlay.opaque",
            Overlay::User => b"user.overlay.opaque",
        }
    }
}

/// How a layer is unpacked.
#[derive(Clone, Copy, Debug)]
pub struct ApplyOptions {
    /// Who owns the files.
    pub ownership: Ownership,
    /// Which attributes overlay uses.
    pub xattr_namespace: Overlay,
    /// The most bytes that the (uncompressed) tar may have; an error beyond.
    pub size_limit: Option<u64>,
    /// Accepts a tar that ends at an entry's end but has no end mark (two zero blocks). Some
    /// builders leave it out. Set it where the digest is checked afterwards, which finds a
    /// truncated tar too.
    pub missing_end_ok: bool,
    /// Whether the tar is hashed: not where whoever reads it does so already.
    pub hash: bool,
}

impl Default for ApplyOptions {
    fn default() -> Self {
        ApplyOptions {
            ownership: Ownership::default(),
            xattr_namespace: Overlay::default(),
            size_limit: None,
            missing_end_ok: false,
            hash: true,
        }
    }
}

/// What was left out because the kernel or the file system does not allow it, or because it has no
/// meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Device nodes (in a user namespace).
    pub devices: u64,
    /// Extended attributes (in a user namespace, or on a file system without them).
    pub xattrs: u64,
    /// Entries with names that are reserved for whiteouts (`.wh..wh.plnk` of aufs), sockets.
    pub names: u64,
    /// Files without their set-user-ID or set-group-ID bits or their capabilities
    /// ([`ExtractOptions::plain`](crate::ExtractOptions::plain)).
    pub rights: u64,
}

/// A layer that was unpacked.
#[derive(Clone, Debug)]
pub struct Applied {
    /// SHA-256 of the tar, unless it was not wanted ([`ApplyOptions::hash`]).
    pub diff_id: Option<DiffId>,
    /// Length of the tar in bytes.
    pub tar_size: u64,
    /// Sum of the lengths of all files in bytes, holes included, hardlinks once.
    pub content_size: u64,
    /// Entries in the tar.
    pub entries: u64,
    /// Directories (relative paths, sorted, "" is the root) that the tar implies but does not
    /// contain: [`crate::inherit_directories`] gives them the attributes of the lower layers'.
    pub implied: Vec<Vec<u8>>,
    /// What was left out.
    pub skipped: Skipped,
}
