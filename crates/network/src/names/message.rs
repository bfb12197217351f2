//! The few parts of DNS messages (RFC 1035) that a resolver of names of containers needs: one
//! question in, a short answer out. What it forwards passes as it is but for its id.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const HEADER: usize = 12;
const MAX_NAME: usize = 255;
const RESPONSE: u8 = 0x80;
const AUTHORITATIVE: u8 = 0x04;
const TRUNCATED: u8 = 0x02;
const RECURSION_AVAILABLE: u8 = 0x80;
const CLASS_IN: u16 = 1;
/// Seconds that an answer may be kept: containers come and go.
const TTL: u32 = 5;
/// What fits where a client does not say that it takes more.
const PLAIN_SIZE: usize = 512;

/// What a question asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An IPv4 address.
    V4,
    /// An IPv6 address.
    V6,
    /// A name of an address.
    Name,
    /// Every kind.
    Any,
    /// Something that containers' names don't have.
    Other,
}

/// How a question is answered where there is no record to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// There is the name (perhaps without what was asked for).
    NoError = 0,
    /// The message is malformed.
    FormatError = 1,
    /// Nobody could be asked.
    ServerFailure = 2,
    /// There is no such name.
    NoSuchName = 3,
    /// Another operation than a query.
    NotImplemented = 4,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name in lower case, without a dot at its end.
    pub name: String,
    /// What is asked.
    pub kind: Kind,
    /// Where the question ends in the message.
    end: usize,
    /// The largest datagram that the client takes.
    size: usize,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The id of a message.
pub fn id(message: &[u8]) -> Option<u16> {
    u16_at(message, 0)
}

/// The same message with another id.
pub fn with_id(message: &[u8], id: u16) -> Vec<u8> {
    let mut out = message.to_vec();
    if let Some(first) = out.get_mut(..2) {
        first.copy_from_slice(&id.to_be_bytes());
    }
    out
}

/// Does `answer` answer `query`: a response with its question?
pub fn answers(query: &[u8], answer: &[u8]) -> bool {
    let Ok(question) = parse(query) else { return false };
    let asked = &query[HEADER..question.end];
    id(query) == id(answer)
        && answer.get(2).is_some_and(|flags| flags & RESPONSE != 0)
        && answer.get(HEADER..question.end).is_some_and(|said| said.eq_ignore_ascii_case(asked))
}

/// Reads a query. The error is what to answer; `None` for what deserves none.
pub fn parse(message: &[u8]) -> Result<Question, Option<Code>> {
    let flags = *message.get(2).ok_or(None)?;
    if message.len() < HEADER || flags & RESPONSE != 0 {
        return Err(None);
    }
    if flags >> 3 & 0xf != 0 {
        return Err(Some(Code::NotImplemented));
    }
    let malformed = || Some(Code::FormatError);
    if u16_at(message, 4) != Some(1) {
        return Err(malformed());
    }
    let (name, at) = name(message).ok_or_else(malformed)?;
    let kind = u16_at(message, at).ok_or_else(malformed)?;
    let class = u16_at(message, at + 2).ok_or_else(malformed)?;
    let kind = match (class, kind) {
        (CLASS_IN, 1) => Kind::V4,
        (CLASS_IN, 28) => Kind::V6,
        (CLASS_IN, 12) => Kind::Name,
        (CLASS_IN, 255) => Kind::Any,
        _ => Kind::Other,
    };
    let end = at + 4;
    Ok(Question { name, kind, end, size: size_of_answer(message, end) })
}

/// The name at the beginning of the question, and where it ends. A question has no pointers.
fn name(message: &[u8]) -> Option<(String, usize)> {
    let mut at = HEADER;
    let mut name = String::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((name, at));
        }
        if length > 63 || name.len() + length > MAX_NAME {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        for byte in message.get(at..at + length)? {
            // What no name of ours has is as good as any other.
            let shown = if byte.is_ascii_graphic() && *byte != b'.' { *byte as char } else { '\u{fffd}' };
            name.push(shown.to_ascii_lowercase());
        }
        at += length;
    }
}

/// What the client's OPT record says, which is the only one behind the question of a plain query.
fn size_of_answer(message: &[u8], end: usize) -> usize {
    let opt = u16_at(message, 10) == Some(1)
        && message.get(end) == Some(&0)
        && u16_at(message, end + 1) == Some(41);
    let said = if opt { u16_at(message, end + 3).map_or(0, usize::from) } else { 0 };
    said.clamp(PLAIN_SIZE, 4096)
}

/// What was found for a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Addresses; those of the kind that was asked for are given.
    Addresses(Vec<IpAddr>),
    /// A name.
    Name(String),
}

/// The answer to a query with what was found. `stream`: it need not fit into a datagram.
pub fn reply(query: &[u8], question: &Question, found: &Found, stream: bool) -> Vec<u8> {
    let mut out = header(query, question.end, Code::NoError);
    let limit = if stream { usize::from(u16::MAX) } else { question.size };
    let mut count = 0u16;
    let mut add = |kind: u16, data: &[u8]| {
        // A pointer to the question's name.
        let mut record = vec![0xc0, HEADER as u8];
        record.extend(kind.to_be_bytes());
        record.extend(CLASS_IN.to_be_bytes());
        record.extend(TTL.to_be_bytes());
        record.extend((data.len() as u16).to_be_bytes());
        record.extend(data);
        if out.len() + record.len() > limit {
            out[2] |= TRUNCATED;
            return;
        }
        out.extend(record);
        count += 1;
    };
    match found {
        Found::Addresses(addresses) => {
            for address in addresses {
                match (address, question.kind) {
                    (IpAddr::V4(v4), Kind::V4 | Kind::Any) => add(1, &v4.octets()),
                    (IpAddr::V6(v6), Kind::V6 | Kind::Any) => add(28, &v6.octets()),
                    _ => {}
                }
            }
        }
        Found::Name(name) => {
            if let (Some(data), Kind::Name | Kind::Any) = (encoded(name), question.kind) {
                add(12, &data);
            }
        }
    }
    out[6..8].copy_from_slice(&count.to_be_bytes());
    out
}

/// An answer without records.
pub fn refusal(query: &[u8], code: Code) -> Vec<u8> {
    let end = parse(query).map_or(HEADER, |question| question.end);
    header(query, end, code)
}

fn header(query: &[u8], end: usize, code: Code) -> Vec<u8> {
    let mut out = query.get(..end).unwrap_or_default().to_vec();
    out.resize(end.max(HEADER), 0);
    out[2] = out[2] & 0x79 | RESPONSE | AUTHORITATIVE;
    out[3] = RECURSION_AVAILABLE | code as u8;
    let questions = u16::from(end > HEADER);
    out[4..6].copy_from_slice(&questions.to_be_bytes());
    out[6..12].fill(0);
    out
}

fn encoded(name: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return None;
        }
        out.push(label.len() as u8);
        out.extend(label.as_bytes());
    }
    out.push(0);
    (out.len() <= MAX_NAME).then_some(out)
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for.
pub fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<u8> = digits.split('.').rev().map(str::parse).collect::<Result<_, _>>().ok()?;
        return <[u8; 4]>::try_from(octets).ok().map(|octets| Ipv4Addr::from(octets).into());
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let mut bits = 0u128;
    let mut count = 0;
    for digit in digits.split('.').rev() {
        let digit = u8::from_str_radix(digit, 16).ok().filter(|d| *d < 16 && digit.len() == 1)?;
        bits = bits << 4 | u128::from(digit);
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from_bits(bits).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut out = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        out.extend(encoded(name).unwrap());
        out.extend(kind.to_be_bytes());
        out.extend([0, 1]);
        out
    }

    #[test]
    fn questions_are_read() {
        let question = parse(&query("Web.Robots", 1)).unwrap();
        assert_eq!((question.name.as_str(), question.kind, question.size), ("web.robots", Kind::V4, 512));
        let mut with_opt = query("web", 28);
        with_opt[11] = 1;
        with_opt.extend([0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
        let question = parse(&with_opt).unwrap();
        assert_eq!((question.kind, question.size), (Kind::V6, 4096));
        let mut update = query("web", 1);
        update[2] = 5 << 3;
        let mut response = query("web", 1);
        response[2] |= RESPONSE;
        let mut none = query("web", 1);
        none[5] = 0;
        let mut pointer = query("web", 1);
        pointer[12] = 0xc0;
        let whole = query("web", 1);
        for (message, want) in [
            (update, Some(Code::NotImplemented)),
            (response, None),
            (none, Some(Code::FormatError)),
            (pointer, Some(Code::FormatError)),
            (whole[..20].to_vec(), Some(Code::FormatError)),
            (whole[..5].to_vec(), None),
            (vec![], None),
        ] {
            assert_eq!(parse(&message).unwrap_err(), want, "{message:?}");
            let _ = refusal(&message, Code::FormatError);
        }
    }

    #[test]
    fn answers_are_written() {
        let asked = query("web", 1);
        let question = parse(&asked).unwrap();
        let found = Found::Addresses(vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()]);
        let answer = reply(&asked, &question, &found, false);
        assert!(answers(&asked, &answer));
        assert_eq!((answer[3], u16_at(&answer, 6)), (0x80, Some(1)));
        assert!(answer.ends_with(&[0, 4, 10, 0, 0, 2]));
        // A name that there is, without an address of that family.
        let six = query("web", 28);
        let four = Found::Addresses(vec!["10.0.0.2".parse().unwrap()]);
        let answer = reply(&six, &parse(&six).unwrap(), &four, false);
        assert_eq!((answer[3] & 15, u16_at(&answer, 6)), (0, Some(0)));
        // Too much for a datagram.
        let many = Found::Addresses((0..100).map(|n| IpAddr::from([10, 0, 0, n])).collect());
        let answer = reply(&asked, &question, &many, false);
        assert!(answer.len() <= 512 && answer[2] & TRUNCATED != 0);
        let answer = reply(&asked, &question, &many, true);
        assert_eq!((u16_at(&answer, 6), answer[2] & TRUNCATED), (Some(100), 0));
        let pointer = query("2.0.0.10.in-addr.arpa", 12);
        let answer = reply(&pointer, &parse(&pointer).unwrap(), &Found::Name("web.robots".into()), false);
        assert!(answer.ends_with(b"\x03web\x06robots\0"));
        assert_eq!(refusal(&asked, Code::NoSuchName)[3] & 15, 3);
        assert!(!answers(&asked, &with_id(&refusal(&asked, Code::NoError), 7)));
    }

    #[test]
    fn names_of_addresses() {
        for (name, want) in [
            ("2.0.0.10.in-addr.arpa", Some("10.0.0.2")),
            ("2.0.0.in-addr.arpa", None),
            ("256.0.0.10.in-addr.arpa", None),
            ("2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", Some("fd00::2")),
            ("2.0.ip6.arpa", None),
            ("web", None),
        ] {
            assert_eq!(reverse(name), want.map(|text| text.parse().unwrap()), "{name}");
        }
    }
}
