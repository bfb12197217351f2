//! The bytes of the kernel's FUSE protocol (`linux/fuse.h`, version 7), as far as a read-only server
//! needs them. Numbers are in the machine's order.

/// Length of the head of a request.
pub(super) const HEAD: usize = 40;

/// What the kernel asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Lookup,
    Forget,
    GetAttributes,
    ReadLink,
    Open,
    Read,
    FileSystem,
    Release,
    GetXattr,
    ListXattr,
    Init,
    OpenDirectory,
    ReadDirectory,
    ReleaseDirectory,
    Interrupt,
    Destroy,
    ForgetMany,
    /// Something that this server does not do.
    Other,
}

/// A request: its head, and what follows it.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) operation: Operation,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) body: &'a [u8],
}

impl<'a> Request<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Request<'a>> {
        let body = bytes.get(HEAD..)?;
        let operation = match u32_at(bytes, 4)? {
            1 => Operation::Lookup,
            2 => Operation::Forget,
            3 => Operation::GetAttributes,
            5 => Operation::ReadLink,
            14 => Operation::Open,
            15 => Operation::Read,
            17 => Operation::FileSystem,
            18 => Operation::Release,
            22 => Operation::GetXattr,
            23 => Operation::ListXattr,
            26 => Operation::Init,
            27 => Operation::OpenDirectory,
            28 => Operation::ReadDirectory,
            29 => Operation::ReleaseDirectory,
            36 => Operation::Interrupt,
            38 => Operation::Destroy,
            42 => Operation::ForgetMany,
            _ => Operation::Other,
        };
        Some(Request { operation, unique: u64_at(bytes, 8)?, node: u64_at(bytes, 16)?, body })
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        u32_at(self.body, at).unwrap_or(0)
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        u64_at(self.body, at).unwrap_or(0)
    }

    /// The name that begins at `at`.
    pub(super) fn name(&self, at: usize) -> &'a [u8] {
        let bytes = self.body.get(at..).unwrap_or_default();
        bytes.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// The pairs of node and count of a [`Operation::ForgetMany`].
    pub(super) fn forgotten(&self) -> impl Iterator<Item = (u64, u64)> + 'a {
        let pairs = self.body.get(8..).unwrap_or_default();
        pairs.chunks_exact(16).map(|pair| (u64_at(pair, 0).unwrap_or(0), u64_at(pair, 8).unwrap_or(0)))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// An answer in the making.
#[derive(Debug, Default)]
pub(super) struct Answer(pub(super) Vec<u8>);

impl Answer {
    pub(super) fn u16(&mut self, number: u16) -> &mut Self {
        self.0.extend(number.to_ne_bytes());
        self
    }

    pub(super) fn u32(&mut self, number: u32) -> &mut Self {
        self.0.extend(number.to_ne_bytes());
        self
    }

    pub(super) fn u64(&mut self, number: u64) -> &mut Self {
        self.0.extend(number.to_ne_bytes());
        self
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// An entry of a directory, if it fits into `limit` bytes; `next` is where the one after it is.
    pub(super) fn entry(&mut self, limit: usize, inode: u64, next: u64, kind: u32, name: &[u8]) -> bool {
        let length = (24 + name.len()).next_multiple_of(8);
        if self.0.len() + length > limit {
            return false;
        }
        let end = self.0.len() + length;
        self.u64(inode).u64(next).u32(name.len() as u32).u32(kind).bytes(name);
        self.0.resize(end, 0);
        true
    }
}

/// The head of an answer to a request: `error` is 0 or a negative errno.
pub(super) fn answer_head(unique: u64, error: i32, length: usize) -> [u8; 16] {
    let mut head = [0; 16];
    head[..4].copy_from_slice(&(16 + length as u32).to_ne_bytes());
    head[4..8].copy_from_slice(&error.to_ne_bytes());
    head[8..].copy_from_slice(&unique.to_ne_bytes());
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_taken_apart_and_rubbish_is_none() {
        let mut bytes = vec![0; HEAD];
        bytes[4..8].copy_from_slice(&1u32.to_ne_bytes());
        bytes[8..16].copy_from_slice(&7u64.to_ne_bytes());
        bytes[16..24].copy_from_slice(&9u64.to_ne_bytes());
        bytes.extend(b"name\0rest");
        let request = Request::parse(&bytes).unwrap();
        assert_eq!((request.operation, request.unique, request.node), (Operation::Lookup, 7, 9));
        assert_eq!(request.name(0), b"name");
        assert_eq!((request.name(100), request.u64(100), request.u32(8)), (&b""[..], 0, 0));
        assert!(Request::parse(&bytes[..HEAD - 1]).is_none());
    }

    #[test]
    fn entries_are_aligned_and_end_at_the_limit() {
        let mut answer = Answer::default();
        assert!(answer.entry(64, 5, 1, 8, b"abc"));
        assert_eq!(answer.0.len(), 32);
        assert!(answer.entry(64, 6, 2, 8, b"12345678"));
        assert_eq!(answer.0.len(), 64);
        assert!(!answer.entry(64, 7, 3, 8, b"x"));
        assert_eq!(answer.0.len(), 64);
    }
}
