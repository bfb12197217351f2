//! The messages of BuildKit's services, as far as they are used, with the numbers of their fields.
//! A field that is not here is skipped by the decoder, as Protobuf has it.

pub(crate) mod control;
pub(crate) mod gateway;
pub(crate) mod session;

use std::collections::HashMap;

/// Attributes by their names.
pub(crate) type Attributes = HashMap<String, String>;

/// A message without fields.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Empty {}

/// `google.protobuf.Timestamp`
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Timestamp {
    #[prost(int64, tag = "1")]
    pub(crate) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(crate) nanos: i32,
}

impl Timestamp {
    /// What it is now.
    pub(crate) fn now() -> Timestamp {
        let now = jiff::Timestamp::now();
        Timestamp { seconds: now.as_second(), nanos: now.subsec_nanosecond() }
    }
}

/// `pb.Platform` (solver/pb/ops.proto)
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Platform {
    #[prost(string, tag = "1")]
    pub(crate) architecture: String,
    #[prost(string, tag = "2")]
    pub(crate) os: String,
    #[prost(string, tag = "3")]
    pub(crate) variant: String,
}

/// `pb.Definition` (solver/pb/ops.proto): a graph of operations, each a `pb.Op`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Definition {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(crate) operations: Vec<Vec<u8>>,
    /// By the digest of an operation. Clients take no graph without.
    #[prost(map = "string, message", tag = "2")]
    pub(crate) metadata: HashMap<String, Empty>,
}

/// `pb.Op` (solver/pb/ops.proto)
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Operation {
    #[prost(message, repeated, tag = "1")]
    pub(crate) inputs: Vec<OperationInput>,
    #[prost(message, optional, tag = "3")]
    pub(crate) source: Option<SourceOperation>,
}

/// `pb.Input` (solver/pb/ops.proto)
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct OperationInput {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
    #[prost(int64, tag = "2")]
    pub(crate) index: i64,
}

/// `pb.SourceOp` (solver/pb/ops.proto)
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SourceOperation {
    #[prost(string, tag = "1")]
    pub(crate) identifier: String,
}

/// `moby.buildkit.v1.types.WorkerRecord` (api/types/worker.proto)
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Worker {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(map = "string, string", tag = "2")]
    pub(crate) labels: Attributes,
    #[prost(message, repeated, tag = "3")]
    pub(crate) platforms: Vec<Platform>,
    #[prost(message, optional, tag = "5")]
    pub(crate) version: Option<Version>,
}

/// `moby.buildkit.v1.types.BuildkitVersion` (api/types/worker.proto)
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Version {
    #[prost(string, tag = "1")]
    pub(crate) package: String,
    #[prost(string, tag = "2")]
    pub(crate) version: String,
}
