//! What a client answers on its session: `moby.filesync.v1` (session/filesync/filesync.proto,
//! session/auth/auth.proto), `fsutil.types` (tonistiigi/fsutil, types/wire.proto and stat.proto),
//! `moby.buildkit.secrets.v1`, `moby.sshforward.v1`, `moby.upload.v1`, `grpc.health.v1`.

use std::collections::HashMap;

use prost::{Enumeration, Message};

/// What a packet of a transfer of files is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub(crate) enum PacketKind {
    /// A file; without one, there are no more.
    Stat = 0,
    /// The content of the file with this number is wanted.
    Request = 1,
    /// A piece of it; an empty one is its end.
    Data = 2,
    /// Everything has arrived.
    Finish = 3,
    /// It failed.
    Error = 4,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Packet {
    #[prost(enumeration = "PacketKind", tag = "1")]
    pub(crate) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) stat: Option<FileStat>,
    #[prost(uint32, tag = "3")]
    pub(crate) id: u32,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) data: Vec<u8>,
}

/// What is said of a file.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FileStat {
    /// Relative, with slashes.
    #[prost(string, tag = "1")]
    pub(crate) path: String,
    /// Type and permissions with the bits of Go's `FileMode`.
    #[prost(uint32, tag = "2")]
    pub(crate) mode: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) uid: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) gid: u32,
    #[prost(int64, tag = "5")]
    pub(crate) size: i64,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "6")]
    pub(crate) modified: i64,
    /// Of a symbolic link its target; of a regular file the earlier one that it is.
    #[prost(string, tag = "7")]
    pub(crate) link: String,
    #[prost(int64, tag = "8")]
    pub(crate) major: i64,
    #[prost(int64, tag = "9")]
    pub(crate) minor: i64,
    #[prost(map = "string, bytes", tag = "10")]
    pub(crate) xattrs: HashMap<String, Vec<u8>>,
}

/// `BytesMessage` of several packages.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Bytes {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CredentialsRequest {
    #[prost(string, tag = "1")]
    pub(crate) host: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CredentialsResponse {
    #[prost(string, tag = "1")]
    pub(crate) username: String,
    #[prost(string, tag = "2")]
    pub(crate) secret: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SecretRequest {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AgentRequest {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct HealthResponse {
    /// 1: serving.
    #[prost(int32, tag = "1")]
    pub(crate) status: i32,
}
