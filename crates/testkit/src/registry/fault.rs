//! What a registry may do wrong.

use std::time::Duration;

/// A fault: which requests it meets, how often, and what happens to them.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Only requests with this method; empty: any.
    pub method: String,
    /// Only requests whose path contains this.
    pub path: String,
    /// How many requests are let through before it starts.
    pub skip: u32,
    /// How many requests it meets then.
    pub times: u32,
    /// What happens.
    pub effect: Effect,
}

impl Fault {
    /// A fault of every request whose path contains `path`.
    pub fn always(path: &str, effect: Effect) -> Self {
        Fault { method: String::new(), path: path.to_owned(), skip: 0, times: u32::MAX, effect }
    }

    /// A fault of the next `times` such requests.
    pub fn times(path: &str, times: u32, effect: Effect) -> Self {
        Fault { times, ..Fault::always(path, effect) }
    }

    /// The same for one method only.
    #[must_use]
    pub fn for_method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.method);
        self
    }

    /// The same after `skip` requests went well.
    #[must_use]
    pub fn after(mut self, skip: u32) -> Self {
        self.skip = skip;
        self
    }

    pub(super) fn meets(&mut self, method: &str, path: &str) -> bool {
        if !(self.method.is_empty() || self.method == method) || !path.contains(&self.path) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if self.times == 0 {
            return false;
        }
        self.times = self.times.saturating_sub(u32::from(self.times != u32::MAX));
        true
    }
}

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Effect {
    /// The connection is closed after so many bytes of the body.
    CutAfter(u64),
    /// The connection is closed without an answer.
    Hangup,
    /// `Range` is not looked at.
    IgnoreRange,
    /// Another range than the one that was asked for.
    WrongRange,
    /// This status, with a `Retry-After` of so many seconds or any other text.
    Status(u16, Option<String>),
    /// Nothing happens for so long before the answer.
    Stall(Duration),
    /// Nothing happens for so long after so many bytes of the body.
    StallAfter(u64, Duration),
    /// The byte at this place of the body is another one.
    Corrupt(u64),
    /// The body never ends.
    Endless,
    /// The body has so many bytes more, announced or not.
    Longer(u64, bool),
    /// The registry names another digest than the right one.
    WrongDigest,
    /// The registry names no digest.
    NoDigest,
    /// 307 to this URL; an empty path is replaced by the request's own.
    Redirect(String),
    /// This answer: content type and body.
    Answer(String, Vec<u8>),
    /// `Location` gets this in front of it.
    LocationPrefix(String),
    /// This challenge with 401.
    Challenge(String),
}
