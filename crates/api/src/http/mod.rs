//! HTTP/1 as Docker's clients speak it, on one connection.
//!
//! Written here because two things that clients do are in no library's server: a request without
//! `Upgrade` whose connection becomes a raw stream in both directions after the reply's head, and
//! answers that must be byte for byte what the clients' parsers expect. What a request may be is
//! strict: one framing of the body, whole lines, bounded sizes; everything else ends the connection.

mod body;
mod connection;
mod head;
mod reply;
pub(crate) mod websocket;

pub(crate) use body::{BlockingBody, Body, Input};
pub(crate) use connection::{Handler, serve_connection};
pub(crate) use head::{Head, Method, parse_head, percent_decode};
pub(crate) use reply::{Feed, Reply, Stream, Upgraded, channel};
