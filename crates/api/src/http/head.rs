//! A request's line and header fields.

use std::fmt;

/// The most bytes of a request's line and header fields together.
pub(crate) const HEAD_LIMIT: usize = 64 * 1024;
/// The most header fields.
const FIELDS: usize = 100;

/// The method of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    /// Nothing here has it.
    Other,
}

/// How a body's end is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// A request without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) method: Method,
    /// The path, percent-decoded, without the query.
    pub(crate) path: String,
    /// The query as it was sent.
    pub(crate) query: String,
    /// Names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) framing: Framing,
    /// Whether another request may follow on the connection.
    pub(crate) keep_alive: bool,
    /// Whether the client knows HTTP/1.1, and so chunks.
    pub(crate) knows_chunks: bool,
}

/// A request that cannot be one: what is wrong with it, for the answer before the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeadError(pub(crate) u16, pub(crate) &'static str);

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }
}

impl Head {
    /// The value of a header field that is there once.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether a field that is a list of words has `word`.
    pub(crate) fn lists(&self, name: &str, word: &str) -> bool {
        let fields = self.fields.iter().filter(|(key, _)| key == name);
        fields.flat_map(|(_, value)| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
    }

    /// What the client wants the connection to become.
    pub(crate) fn upgrade(&self) -> Option<&str> {
        self.field("upgrade").filter(|_| self.lists("connection", "upgrade"))
    }
}

/// Reads a head from the front of `bytes`: it and its length, or `None` when more has to come.
pub(crate) fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, HeadError> {
    let bad = HeadError(400, "malformed request");
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() >= HEAD_LIMIT => {
            return Err(HeadError(431, "request header fields too large"));
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(HeadError(431, "request header fields too large"));
        }
        Err(_) => return Err(bad),
    };
    // A line that ends otherwise than with CR LF is where two parsers begin to disagree.
    let lines = bytes.get(..length).unwrap_or_default();
    if lines.iter().enumerate().any(|(at, b)| *b == b'\n' && (at == 0 || lines[at - 1] != b'\r')) {
        return Err(bad);
    }
    let method = match request.method.unwrap_or_default() {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        _ => Method::Other,
    };
    let target = request.path.unwrap_or_default();
    let target = match target.strip_prefix("http://") {
        // The absolute form, as through a proxy.
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = percent_decode(path).filter(|path| path.starts_with('/')).ok_or(bad)?;
    let modern = request.version == Some(1);
    let mut named = Vec::with_capacity(request.headers.len());
    for field in request.headers.iter() {
        let value = std::str::from_utf8(field.value).map_err(|_| bad)?;
        named.push((field.name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let framing = framing(&named, modern)?;
    if modern && named.iter().filter(|(name, _)| name == "host").count() != 1 {
        return Err(HeadError(400, "missing required Host header"));
    }
    let mut head = Head {
        method,
        path,
        query: query.to_owned(),
        fields: named,
        framing,
        keep_alive: false,
        knows_chunks: modern,
    };
    head.keep_alive =
        if modern { !head.lists("connection", "close") } else { head.lists("connection", "keep-alive") };
    Ok(Some((head, length)))
}

/// How the body ends. Anything that two readers could take differently is refused.
fn framing(fields: &[(String, String)], modern: bool) -> Result<Framing, HeadError> {
    let bad = HeadError(400, "the length of the request's body is not clear");
    let all = |name: &str| {
        let found = fields.iter().filter(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
    };
    let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(Framing::Length(0)),
        ([text], []) => {
            let digits = !text.is_empty() && text.len() <= 18 && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten().map(Framing::Length).ok_or(bad)
        }
        ([], [text]) if modern && text.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        ([], [_]) => Err(HeadError(501, "unsupported transfer encoding")),
        _ => Err(bad),
    }
}

/// `%41` becomes `A`; `None` where that is no text, or has a control character.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
        out.push((high * 16 + low) as u8);
    }
    String::from_utf8(out).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<(Head, usize)>, HeadError> {
        parse_head(text.as_bytes())
    }

    #[test]
    fn a_request_as_docker_sends_it() {
        let text = "POST /v1.41/containers/a%2Fb/attach?stream=1 HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nrest";
        let (head, length) = parse(text).unwrap().unwrap();
        assert_eq!(&text[length..], "rest");
        assert_eq!((head.method, head.path.as_str()), (Method::Post, "/v1.41/containers/a/b/attach"));
        assert_eq!((head.query.as_str(), head.upgrade()), ("stream=1", Some("tcp")));
        assert_eq!(head.framing, Framing::Length(0));
        assert!(head.keep_alive && head.knows_chunks);
        assert_eq!(parse(&text[..40]).unwrap(), None);
        let old = parse("GET / HTTP/1.0\r\n\r\n").unwrap().unwrap().0;
        assert!(!old.keep_alive && !old.knows_chunks);
    }

    #[test]
    fn what_two_readers_could_take_differently_is_refused() {
        let host = "Host: x\r\n";
        for bad in [
            "Content-Length: 3\r\nContent-Length: 3\r\n",
            "Content-Length: 3\r\nContent-Length: 4\r\n",
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Content-Length: +3\r\n",
            "Content-Length: 3, 3\r\n",
            "Content-Length: \r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length : 3\r\n",
            "A: b\r\n c: d\r\n",
            "A: b\nC: d\r\n",
            "Host: y\r\n",
        ] {
            assert!(parse(&format!("POST / HTTP/1.1\r\n{host}{bad}\r\n")).is_err(), "{bad:?}");
        }
        for bad in [
            "GET x HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET /%0 HTTP/1.0\r\n\r\n",
            "GET /%00 HTTP/1.0\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "\u{16}\u{3}\u{1}",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(parse("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        let long = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(HEAD_LIMIT));
        assert_eq!(parse(&long).unwrap_err().0, 431);
    }
}
