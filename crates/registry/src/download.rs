//! A file of the web that is no registry's: an archive to import, a source of a build.

use std::io::{self, Read};

use robot_env_diag::{Error, Kind, Result};
use ureq::http::{Method, header};

use crate::Client;
use crate::address::Url;
use crate::transport::{Call, Failure};

/// What an address serves, being read. Bytes that end before the declared length are an error.
pub struct Download {
    body: ureq::BodyReader<'static>,
    host: String,
    length: Option<u64>,
    modified: Option<i64>,
}

impl Client {
    /// Asks for what is at `address`, an http or https URL, without credentials; redirects are
    /// followed, but not from https to http.
    ///
    /// # Errors
    /// `InvalidInput` for what is no such URL, `NotFound` for 404 and 410, `Denied` for 401 and 403,
    /// `Unavailable` for any other answer than 2xx and when the host cannot be reached.
    pub fn download(&self, address: &str) -> Result<Download> {
        let url = Url::parse(address)
            .ok_or_else(|| Error::invalid(format!("cannot read `{address}`: it is no http or https URL")))?;
        let answer = self
            .transport()
            .send(self.options(), Call::new(Method::GET, url))
            .map_err(|failure| failure.into_error().within(format!("cannot read `{address}`")))?;
        let status = answer.status;
        if !status.is_success() {
            let kind = match status.as_u16() {
                404 | 410 => Kind::NotFound,
                401 | 403 => Kind::Denied,
                _ => Kind::Unavailable,
            };
            let host = answer.url.origin.authority();
            return Err(Error::new(kind, format!("cannot read `{address}`: host `{host}` answers {status}")));
        }
        let length = answer.length();
        let modified = answer
            .header(header::LAST_MODIFIED)
            .and_then(|text| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok())
            .map(jiff::Timestamp::as_second);
        let host = answer.url.origin.authority();
        Ok(Download { body: answer.body.into_reader(), host, length, modified })
    }
}

impl Download {
    /// Its length in bytes, if the host says it.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// When it was modified, in seconds since the Unix epoch, if the host says it.
    pub fn modified(&self) -> Option<i64> {
        self.modified
    }
}

impl Read for Download {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.body.read(out).map_err(|error| io::Error::other(Failure::of_io(&self.host, error).into_error()))
    }
}
