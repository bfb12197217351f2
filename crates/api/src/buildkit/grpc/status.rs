//! How a call ended.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::{HeaderMap, HeaderValue};
use prost::Message;
use robot_env_diag::{Error, Kind};

use crate::failure::text_of;

/// The longest message that goes into a header field.
const LONGEST: usize = 6 * 1024;

/// The code of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) i32);

impl Code {
    pub(crate) const OK: Code = Code(0);
    pub(crate) const CANCELLED: Code = Code(1);
    pub(crate) const UNKNOWN: Code = Code(2);
    pub(crate) const INVALID_ARGUMENT: Code = Code(3);
    pub(crate) const NOT_FOUND: Code = Code(5);
    pub(crate) const ALREADY_EXISTS: Code = Code(6);
    pub(crate) const PERMISSION_DENIED: Code = Code(7);
    pub(crate) const RESOURCE_EXHAUSTED: Code = Code(8);
    pub(crate) const UNIMPLEMENTED: Code = Code(12);
    pub(crate) const INTERNAL: Code = Code(13);
    pub(crate) const UNAVAILABLE: Code = Code(14);
    pub(crate) const DATA_LOSS: Code = Code(15);
    pub(crate) const UNAUTHENTICATED: Code = Code(16);
}

/// How a call ended; also the error of one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Status {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) details: Vec<Detail>,
}

/// What a status says beside its text: `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Detail {
    #[prost(string, tag = "1")]
    pub(crate) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) value: Vec<u8>,
}

/// `google.rpc.Status`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StatusMessage {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(crate) details: Vec<Detail>,
}

impl Status {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Status {
        Status { code, message: message.into(), details: Vec::new() }
    }

    /// There is no such method, or not in this form.
    pub(crate) fn unimplemented(what: &str) -> Status {
        Status::new(Code::UNIMPLEMENTED, what)
    }

    /// As an error of the engine's, with what was done.
    pub(crate) fn error(self, doing: impl Into<String>) -> Error {
        let kind = match self.code {
            Code::INVALID_ARGUMENT => Kind::InvalidInput,
            Code::NOT_FOUND => Kind::NotFound,
            Code::ALREADY_EXISTS => Kind::Conflict,
            Code::PERMISSION_DENIED => Kind::Denied,
            Code::UNAUTHENTICATED => Kind::Unauthorized,
            Code::UNIMPLEMENTED => Kind::Unsupported,
            Code::RESOURCE_EXHAUSTED | Code::DATA_LOSS => Kind::Corrupt,
            _ => Kind::Unavailable,
        };
        Error::new(kind, doing).because(self)
    }

    /// What the trailers say of it.
    pub(crate) fn trailers(&self) -> HeaderMap {
        let mut fields = HeaderMap::new();
        fields.insert("grpc-status", HeaderValue::from(self.code.0));
        if !self.message.is_empty()
            && let Ok(text) = HeaderValue::from_str(&encode(&self.message))
        {
            fields.insert("grpc-message", text);
        }
        if !self.details.is_empty() {
            let whole = StatusMessage {
                code: self.code.0,
                message: self.message.clone(),
                details: self.details.clone(),
            };
            if let Ok(text) = HeaderValue::from_str(&STANDARD_NO_PAD.encode(whole.encode_to_vec())) {
                fields.insert("grpc-status-details-bin", text);
            }
        }
        fields
    }

    /// What trailers say; `None` where they say nothing of a status.
    pub(crate) fn of(fields: &HeaderMap) -> Option<Result<(), Status>> {
        let code = fields.get("grpc-status")?.to_str().ok()?.parse().unwrap_or(Code::UNKNOWN.0);
        if code == Code::OK.0 {
            return Some(Ok(()));
        }
        let message = fields.get("grpc-message").map_or_else(String::new, |text| decode(text.as_bytes()));
        let details = fields
            .get("grpc-status-details-bin")
            .and_then(|text| STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).ok())
            .and_then(|bytes| StatusMessage::decode(&*bytes).ok())
            .map_or_else(Vec::new, |whole| whole.details);
        Some(Err(Status { code: Code(code), message, details }))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            write!(f, "the other side answered with code {}", self.code.0)
        } else {
            f.write_str(&self.message)
        }
    }
}

impl std::error::Error for Status {}

impl From<h2::Error> for Status {
    fn from(error: h2::Error) -> Status {
        if error.is_reset() {
            return Status::new(Code::CANCELLED, "the other side gave the call up");
        }
        Status::new(Code::UNAVAILABLE, format!("the connection failed: {error}"))
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        // As BuildKit does: clients put the name of every other code in front of the text.
        let code = match error.kind() {
            Kind::Interrupted => Code::CANCELLED,
            _ => Code::UNKNOWN,
        };
        Status::new(code, text_of(&error))
    }
}

/// A message as it stands in a header field: what is no printable ASCII, and `%`, in hexadecimal.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if out.len() >= LONGEST {
            break;
        }
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn decode(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let pair = tail.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) if *first == b'%' => {
                out.push(byte);
                rest = &tail[2..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_goes_through_trailers() {
        let detail = Detail { type_url: "a/b".into(), value: vec![1, 2, 3] };
        for (message, details) in [("", vec![]), ("50 % of “x”\nfailed", vec![]), ("bad", vec![detail])] {
            let status = Status { code: Code::NOT_FOUND, message: message.to_owned(), details };
            assert_eq!(Status::of(&status.trailers()), Some(Err(status)));
        }
        assert_eq!(Status::of(&Status::new(Code::OK, "").trailers()), Some(Ok(())));
        assert_eq!(Status::of(&HeaderMap::new()), None);
        let long = Status::new(Code::UNKNOWN, "ä".repeat(100_000)).trailers();
        assert!(long["grpc-message"].len() < 2 * LONGEST);
        assert_eq!(decode(b"%4"), "%4");
        assert_eq!(decode(b"%zz%41%"), "%zzA%");
    }
}
