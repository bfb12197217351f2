//! `moby.buildkit.v1.frontend` (frontend/gateway/pb/gateway.proto)

use std::collections::HashMap;

use prost::{Message, Oneof};

use super::{Attributes, Definition, Worker};
use crate::buildkit::grpc::StatusMessage;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SolveRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) definition: Option<Definition>,
    #[prost(string, tag = "2")]
    pub(crate) frontend: String,
    #[prost(map = "string, string", tag = "3")]
    pub(crate) attributes: Attributes,
    #[prost(map = "string, message", tag = "13")]
    pub(crate) inputs: HashMap<String, Definition>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SolveResponse {
    #[prost(message, optional, tag = "3")]
    pub(crate) result: Option<Outcome>,
}

/// `Result`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Outcome {
    #[prost(oneof = "References", tags = "1, 3, 4")]
    pub(crate) references: Option<References>,
    #[prost(map = "string, bytes", tag = "10")]
    pub(crate) metadata: HashMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum References {
    /// Its id alone.
    #[prost(string, tag = "1")]
    Id(String),
    #[prost(message, tag = "3")]
    One(Ref),
    #[prost(message, tag = "4")]
    Many(RefMap),
}

/// What was built.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Ref {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) definition: Option<Definition>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RefMap {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) refs: HashMap<String, Ref>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReturnRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) result: Option<Outcome>,
    #[prost(message, optional, tag = "2")]
    pub(crate) error: Option<StatusMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PongResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) frontend: Vec<Capability>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) graph: Vec<Capability>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) workers: Vec<Worker>,
}

/// `moby.buildkit.v1.apicaps.APICap` (util/apicaps/pb/caps.proto)
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Capability {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(bool, tag = "2")]
    pub(crate) enabled: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct InputsResponse {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) definitions: HashMap<String, Definition>,
}
