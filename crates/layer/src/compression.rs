use std::io::{self, BufRead, BufReader, Read, Write};

use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use robot_env_diag::{Error, Kind, Result};

use crate::archive::io_error;
use crate::frames::Frames;
use crate::share::Share;

/// How a layer's tar is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip (RFC 1952), one or more members.
    Gzip,
    /// Zstandard (RFC 8878), one or more frames.
    Zstd,
}

const INPUT_BUFFER: usize = 128 * 1024;

impl Compression {
    /// What a layer's media type says; nothing for one that is no layer's.
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        let media_type = media_type.strip_suffix("+encrypted").map_or(media_type, |_| "");
        let known = media_type.starts_with("application/vnd.oci.image.layer.")
            || media_type.starts_with("application/vnd.docker.image.rootfs.");
        if !known {
            return None;
        }
        match media_type.rsplit(['.', '+']).next() {
            Some("tar") => Some(Compression::None),
            Some("gzip") => Some(Compression::Gzip),
            Some("zstd") => Some(Compression::Zstd),
            _ => None,
        }
    }

    /// What the first bytes say (six are enough): anything that is neither gzip nor zstd counts
    /// as a plain tar.
    pub fn sniff(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            _ => Compression::None,
        }
    }

    /// The OCI media type of a layer with this compression.
    pub fn media_type(self) -> &'static str {
        use robot_env_oci::media_type;
        match self {
            Compression::None => media_type::OCI_LAYER,
            Compression::Gzip => media_type::OCI_LAYER_GZIP,
            Compression::Zstd => media_type::OCI_LAYER_ZSTD,
        }
    }
}

/// Decompresses a layer's blob, whose compression its first bytes tell.
pub struct Decoder<'s, R: Read>(Inner<'s, R>);

enum Inner<'s, R: Read> {
    None(Prefixed<R>),
    Gzip(Box<MultiGzDecoder<Prefixed<R>>>),
    Zstd(Box<Frames<'s, Prefixed<R>>>),
}

impl<'s, R: Read> Decoder<'s, R> {
    /// Looks at the first bytes of `blob`. The media type is not asked: the bytes win.
    ///
    /// Fails when the blob cannot be read, and with [`Kind::Unsupported`] for xz and bzip2.
    pub fn new(blob: R) -> Result<Self> {
        Self::of(blob, None)
    }

    /// The same with the memory that it needs taken from the layer's share.
    pub fn within(blob: R, share: &'s Share) -> Result<Self> {
        Self::of(blob, Some(share))
    }

    fn of(blob: R, share: Option<&'s Share>) -> Result<Self> {
        let mut input =
            Prefixed { inner: BufReader::with_capacity(INPUT_BUFFER, blob), start: [0; 6], at: 0, len: 0 };
        input.peek().map_err(|e| io_error(e, "cannot read the layer"))?;
        let start = &input.start[..input.len];
        let other = match start {
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Some("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, _] => Some("bzip2"),
            _ => None,
        };
        if let Some(other) = other {
            return Err(Error::new(
                Kind::Unsupported,
                format!("cannot decompress the layer: {other} is not supported, only gzip and zstd"),
            ));
        }
        Ok(Decoder(match Compression::sniff(start) {
            Compression::None => Inner::None(input),
            Compression::Gzip => Inner::Gzip(Box::new(MultiGzDecoder::new(input))),
            Compression::Zstd => Inner::Zstd(Box::new(
                Frames::new(input, share).map_err(|e| io_error(e, "cannot decompress the layer"))?,
            )),
        }))
    }

    /// What the first bytes said.
    pub fn compression(&self) -> Compression {
        match &self.0 {
            Inner::None(_) => Compression::None,
            Inner::Gzip(_) => Compression::Gzip,
            Inner::Zstd(_) => Compression::Zstd,
        }
    }

    /// Gives the source back, after the end of the layer was read; bytes that were buffered
    /// and not used are lost.
    pub fn into_inner(self) -> R {
        match self.0 {
            Inner::None(input) => input.inner.into_inner(),
            Inner::Gzip(decoder) => decoder.into_inner().inner.into_inner(),
            Inner::Zstd(frames) => frames.into_inner().inner.into_inner(),
        }
    }
}

impl<R: Read> Read for Decoder<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::None(input) => input.read(out),
            Inner::Gzip(decoder) => decoder.read(out),
            Inner::Zstd(frames) => frames.read(out),
        }
    }
}

/// A reader whose first six bytes were looked at and are still given out.
struct Prefixed<R> {
    inner: BufReader<R>,
    start: [u8; 6],
    at: usize,
    len: usize,
}

impl<R: Read> Prefixed<R> {
    fn peek(&mut self) -> io::Result<()> {
        while self.len < self.start.len() {
            match self.inner.read(&mut self.start[self.len..]) {
                Ok(0) => break,
                Ok(n) => self.len += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for Prefixed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.len {
            return self.inner.read(out);
        }
        let n = out.len().min(self.len - self.at);
        out[..n].copy_from_slice(&self.start[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

impl<R: Read> BufRead for Prefixed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.len { self.inner.fill_buf() } else { Ok(&self.start[self.at..self.len]) }
    }

    fn consume(&mut self, amount: usize) {
        if self.at == self.len { self.inner.consume(amount) } else { self.at += amount }
    }
}

/// Compresses a layer's tar. The same bytes always give the same blob.
pub struct Encoder<W: Write>(Output<W>);

enum Output<W: Write> {
    None(W),
    Gzip(GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// gzip level 6 with no name and no time in its header; zstd level 3.
    pub fn new(out: W, compression: Compression) -> Result<Self> {
        Ok(Encoder(match compression {
            Compression::None => Output::None(out),
            Compression::Gzip => Output::Gzip(
                flate2::GzBuilder::new()
                    .mtime(0)
                    .operating_system(255)
                    .write(out, flate2::Compression::new(6)),
            ),
            Compression::Zstd => Output::Zstd(
                zstd::stream::write::Encoder::new(out, 3)
                    .map_err(|e| io_error(e, "cannot compress the layer"))?,
            ),
        }))
    }

    /// Writes what is still held and the trailer, and gives the output back.
    pub fn finish(self) -> Result<W> {
        match self.0 {
            Output::None(mut out) => out.flush().map(|()| out),
            Output::Gzip(encoder) => encoder.finish(),
            Output::Zstd(encoder) => encoder.finish(),
        }
        .map_err(|e| io_error(e, "cannot write the compressed layer"))
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Output::None(out) => out.write(bytes),
            Output::Gzip(encoder) => encoder.write(bytes),
            Output::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Output::None(out) => out.flush(),
            Output::Gzip(encoder) => encoder.flush(),
            Output::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types() {
        use robot_env_oci::media_type as m;
        for (text, expected) in [
            (m::OCI_LAYER, Some(Compression::None)),
            (m::OCI_LAYER_GZIP, Some(Compression::Gzip)),
            (m::OCI_LAYER_ZSTD, Some(Compression::Zstd)),
            (m::DOCKER_LAYER, Some(Compression::None)),
            (m::DOCKER_LAYER_GZIP, Some(Compression::Gzip)),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Some(Compression::Gzip)),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", Some(Compression::Zstd)),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", None),
            (m::OCI_CONFIG, None),
            ("application/gzip", None),
        ] {
            assert_eq!(Compression::from_media_type(text), expected, "{text}");
        }
    }

    fn encode(bytes: &[u8], how: Compression) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), how).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn decode(blob: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Decoder::new(blob).map_err(io::Error::other)?.read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn round_trips_one_and_many_members_and_is_deterministic() {
        let text: Vec<u8> = (0..200_000_u32).flat_map(|i| (i % 977).to_le_bytes()).collect();
        for how in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let one = encode(&text, how);
            assert_eq!(one, encode(&text, how));
            assert_eq!(decode(&one).unwrap(), text);
            let two = [one.clone(), encode(b"tail", how)].concat();
            assert_eq!(decode(&two).unwrap(), [&text[..], b"tail"].concat(), "{how:?}");
            assert_eq!(Decoder::new(&one[..]).unwrap().compression(), how);
            if how != Compression::None {
                assert!(decode(&one[..one.len() - 1]).is_err(), "truncated {how:?}");
                let mut bad = one.clone();
                let middle = bad.len() / 2;
                bad[middle] ^= 0xff;
                assert!(decode(&bad).map_or(true, |out| out != text), "corrupt {how:?}");
            }
        }
        assert_eq!(decode(b"").unwrap(), b"");
        assert_eq!(decode(b"abc").unwrap(), b"abc");
    }

    #[test]
    fn refuses_other_compressions_and_huge_windows() {
        let xz = Decoder::new(&b"\xfd7zXZ\0rest"[..]).err().unwrap();
        assert_eq!(xz.kind(), Kind::Unsupported);
        // A frame header that declares a window of 2^31 bytes.
        assert!(decode(&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00]).is_err());
    }
}
