//! Looking through an archive: a file by its headers alone, a stream as it comes.
//!
//! What stands behind what, nobody knows in a stream: Docker writes `manifest.json` behind the
//! layers. But a layer can be unpacked before anybody knows where it belongs, so nothing has to wait
//! beside the stream: what looks like a layer is staged at once, and dropped if no image wants it.
//! Where the documents came first, only what is wanted is staged.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt;

use robot_env_diag::{Error, IoContext, Kind, Result};
use robot_env_layer::{Compression, Decoder, Member, MemberKind, Members};
use robot_env_oci::{Descriptor, MANIFEST_LIMIT};

use super::catalogue::{Catalogue, Content, digest_of_path};
use super::counted::Counted;
use super::{corrupt, name};
use crate::unpack::Waiting;
use crate::{Known, Observer, Unpacker};

/// The most bytes of documents that a stream may have.
const DOCUMENTS: u64 = 64 * 1024 * 1024;
/// What is shorter than this is read through and not jumped over.
const JUMP: u64 = 1024 * 1024;
/// A block of a tar.
const BLOCK: usize = 512;

/// Where an archive comes from.
pub(crate) enum Input<'a> {
    /// A file whose parts can be read in any order, from its current position on.
    File(&'a File),
    /// Anything else.
    Stream(&'a mut (dyn Read + Send)),
}

/// What looking through it needs.
pub(crate) struct Scan<'a, 's> {
    /// Stages layers.
    pub(crate) unpacker: &'a Unpacker<'s>,
    /// Hears of them.
    pub(crate) observer: &'a dyn Observer,
    /// The names that are wanted, as far as the documents are known; nothing when they aren't yet.
    pub(crate) wanted: &'a dyn Fn(&Catalogue<'_>) -> Option<BTreeSet<String>>,
}

impl<'s> Scan<'_, 's> {
    /// Looks through `input`. A compressed file, and one that is no regular file, is a stream.
    pub(crate) fn run(&self, input: Input<'s>) -> Result<Catalogue<'s>> {
        match input {
            Input::Stream(stream) => self.stream(stream),
            Input::File(mut file) => {
                let is_file = file.metadata().io_context(|| "cannot look at the archive".into())?.is_file();
                if !is_file {
                    return self.stream(&mut file);
                }
                let start = io::Seek::stream_position(&mut file)
                    .io_context(|| "cannot look at the archive".into())?;
                let mut head = Vec::new();
                Section::new(file, start, 6).read_to_end(&mut head).io_context(read_failed)?;
                if Compression::sniff(&head) != Compression::None || head.starts_with(b"\xfd7zXZ") {
                    return self.stream(&mut file);
                }
                headers(file, start)
            }
        }
    }

    fn stream(&self, stream: &mut (dyn Read + Send)) -> Result<Catalogue<'s>> {
        let mut catalogue = Catalogue::default();
        let mut wanted: Option<BTreeSet<String>> = None;
        let mut news = false;
        let mut documents = 0;
        let waiting = Waiting::default();
        let decoder = Decoder::new(stream).map_err(|error| match error.kind() {
            Kind::Unsupported => Error::new(
                Kind::Unsupported,
                "the archive is compressed in a way that is not supported: only gzip and zstd are",
            ),
            _ => error.within(read_failed()),
        })?;
        let mut members = Members::new(decoder);
        while let Some(member) = members.next()? {
            let name = name::normalise(&member.path)?;
            let Some(content) = plain(&name, &member)? else { continue };
            if let Content::Link(_) = content {
                catalogue.insert(name, content)?;
                continue;
            }
            let mut head = Vec::with_capacity(BLOCK);
            (&mut members).take(BLOCK as u64).read_to_end(&mut head).map_err(broken)?;
            let content = if is_document(&head, member.size) {
                documents += member.size;
                if documents > DOCUMENTS {
                    return Err(corrupt(format!("the archive has more than {DOCUMENTS} bytes of documents")));
                }
                members.read_to_end(&mut head).map_err(broken)?;
                news = true;
                Content::Document(head)
            } else {
                if std::mem::take(&mut news) {
                    wanted = (self.wanted)(&catalogue);
                }
                if wanted.as_ref().is_some_and(|wanted| !wanted.contains(&name)) {
                    Content::Passed
                } else {
                    let content = self.layer(&name, &member, head, &mut members)?;
                    if let Content::Layer(Some(layer)) = &content {
                        waiting.add(layer)?;
                    }
                    content
                }
            };
            catalogue.insert(name, content)?;
        }
        Ok(catalogue)
    }

    /// Stages what may be a layer.
    fn layer(
        &self,
        name: &str,
        member: &Member,
        head: Vec<u8>,
        rest: &mut (impl Read + Send),
    ) -> Result<Content<'s>> {
        if !is_layer(&head) {
            return Ok(Content::Passed);
        }
        let item = digest_of_path(name).map_or_else(|| shown(name), |digest| digest.short().to_owned());
        let media_type = Compression::sniff(&head).media_type();
        let blob = digest_of_path(name).map(|digest| Descriptor::new(media_type, digest, member.size));
        let source = Counted::new(Cursor::new(head).chain(rest), self.observer, &item, member.size);
        match self.unpacker.unpack(source, Known { blob: blob.as_ref(), diff_id: None }) {
            Ok(layer) => {
                self.observer.step(&item, "Unpacked", None);
                Ok(Content::Layer(Some(Box::new(layer))))
            }
            // It may be none at all. If the stream itself is broken, that is found at once.
            Err(failure) if matches!(failure.error.kind(), Kind::Corrupt | Kind::Unsupported) => {
                Ok(Content::Broken(failure.error))
            }
            Err(failure) => Err(failure.error),
        }
    }
}

/// Looks through a file, jumping over what its members hold.
fn headers(file: &File, start: u64) -> Result<Catalogue<'_>> {
    let end = file.metadata().io_context(|| "cannot look at the archive".into())?.len();
    let mut catalogue = Catalogue::in_file(file);
    let mut at = start;
    'jumped: loop {
        let mut members = Members::new(Section::new(file, at, u64::MAX));
        while let Some(mut member) = members.next()? {
            member.offset += at;
            if member.offset.saturating_add(member.size) > end {
                return Err(corrupt(format!("the archive is truncated after {} bytes", end - start)));
            }
            let name = name::normalise(&member.path)?;
            if let Some(content) = plain(&name, &member)? {
                catalogue.insert(name, content)?;
            }
            if member.size >= JUMP {
                at = member.end();
                continue 'jumped;
            }
        }
        return Ok(catalogue);
    }
}

/// What a member is, before its content is looked at; `None` for directories.
fn plain<'s>(name: &str, member: &Member) -> Result<Option<Content<'s>>> {
    match member.kind {
        MemberKind::Directory => Ok(None),
        _ if name.is_empty() => Err(corrupt("a file of the archive has no name")),
        MemberKind::File => Ok(Some(Content::At(member.offset, member.size))),
        MemberKind::Symlink => Ok(Some(Content::Link(name::follow(name, &member.link)?))),
        MemberKind::Hardlink => Ok(Some(Content::Link(name::normalise(&member.link)?))),
        MemberKind::Other => {
            Err(corrupt(format!("`{name}` in the archive is neither file, directory nor link")))
        }
    }
}

/// JSON, or a short file that is no layer (`VERSION`).
fn is_document(head: &[u8], size: u64) -> bool {
    let first = head.iter().find(|byte| !byte.is_ascii_whitespace());
    (size <= MANIFEST_LIMIT && matches!(first, Some(b'{' | b'['))) || (size < BLOCK as u64 && !is_layer(head))
}

/// A tar, or something compressed.
fn is_layer(head: &[u8]) -> bool {
    let compressed = Compression::sniff(head) != Compression::None
        || head.starts_with(b"\xfd7zXZ\0")
        || head.starts_with(b"BZh");
    let Some(block) = head.get(..BLOCK) else { return compressed };
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) })
        .sum();
    let text: String = block[148..156].iter().map(|byte| char::from(*byte)).collect();
    let written = u64::from_str_radix(text.trim_matches([' ', '\0']), 8).ok();
    compressed || written == Some(sum) || block.iter().all(|byte| *byte == 0)
}

/// The part of a path that tells most: `<id>/layer.tar` is an id's.
fn shown(name: &str) -> String {
    let part = name.strip_suffix("/layer.tar").or(name.strip_suffix(".tar")).unwrap_or(name);
    part.rsplit('/').next().unwrap_or(part).chars().take(12).collect()
}

fn read_failed() -> String {
    "cannot read the archive".into()
}

fn broken(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::new(Kind::of_io(&error), read_failed()).because(error),
    }
}

/// A part of a file, read by position: several may be read at once.
#[derive(Debug)]
pub(crate) struct Section<'f> {
    file: &'f File,
    at: u64,
    left: u64,
}

impl<'f> Section<'f> {
    pub(crate) fn new(file: &'f File, at: u64, size: u64) -> Self {
        Section { file, at, left: size }
    }
}

impl Read for Section<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = out.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.file.read_at(&mut out[..most], self.at)?;
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}
