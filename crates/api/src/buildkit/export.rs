//! What a client gets of its build: archives and directories, by `moby.filesync.v1.FileSend/DiffCopy`.
//!
//! An archive is a stream of bytes; a directory goes as files go the other way (see
//! [`super::files`]): they are described, and the client asks for the content of those it wants.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use robot_env_build::Output;
use robot_env_diag::{Error, IoContext, Kind, Result};
use robot_env_sys::ErrnoContext;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::grpc::{Replies, Sink};
use super::messages::control::Exporter;
use super::messages::session::{Bytes, FileStat, Packet, PacketKind};
use super::session::Session;
use super::tree::go;

const SEND: &str = "/moby.filesync.v1.FileSend/DiffCopy";
/// The metadata that says which of the client's outputs is meant.
const ID: &str = "buildkit-attachable-exporter-id";
/// The bytes of one message.
const PIECE: usize = 32 * 1024;

/// The outputs of a build that go to its client.
pub(super) struct Exports {
    handle: Handle,
    session: Arc<Session>,
    /// Directories that are filled, by the number of their output.
    directories: Vec<(usize, PathBuf)>,
    archives: Vec<JoinHandle<Result<()>>>,
}

impl Exports {
    /// What the builder has to put out for what a client asks. Directories are made in `room`.
    pub(super) fn prepare(
        handle: &Handle,
        session: &Arc<Session>,
        exporters: &[Exporter],
        room: &Path,
    ) -> Result<(Vec<Output>, Exports)> {
        let mut exports = Exports {
            handle: handle.clone(),
            session: session.clone(),
            directories: Vec::new(),
            archives: Vec::new(),
        };
        let mut outputs = Vec::new();
        for (number, exporter) in exporters.iter().enumerate() {
            let mut attributes: BTreeMap<String, String> =
                exporter.attributes.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
            let kind = match exporter.kind.as_str() {
                // The image of the engine itself.
                "moby" | "image" => {
                    // Whatever is built is loaded.
                    attributes.remove("load");
                    "image"
                }
                "local" => {
                    if attributes.remove("mode").is_some_and(|mode| mode != "copy") {
                        return Err(unsupported("the output `local` cannot remove what else is there"));
                    }
                    let directory = room.join(format!("output-{number}"));
                    let shown = || format!("cannot make `{}`", directory.display());
                    std::fs::create_dir_all(&directory).io_context(shown)?;
                    attributes.insert("dest".to_owned(), directory.to_string_lossy().into_owned());
                    exports.directories.push((number, directory));
                    "local"
                }
                kind @ ("tar" | "oci" | "docker") => {
                    if matches!(attributes.get("tar").map(String::as_str), Some("false" | "0")) {
                        return Err(unsupported("layouts that are no archives cannot be sent to a client"));
                    }
                    attributes.insert("dest".to_owned(), "-".to_owned());
                    kind
                }
                other => return Err(unsupported(&format!("the output `{other}` is not supported"))),
            };
            let mut archive = || exports.archive(number);
            outputs.push(Output::read(kind, &attributes, room, &mut archive)?);
        }
        if outputs.is_empty() {
            outputs.push(Output::Cache);
        }
        Ok((outputs, exports))
    }

    /// The end of a pipe whose bytes go to the client, as that output of its.
    fn archive(&mut self, number: usize) -> Result<File> {
        let (reader, writer) = robot_env_sys::poll::pipe()?;
        let (handle, session) = (self.handle.clone(), self.session.clone());
        self.archives.push(
            self.handle.spawn_blocking(move || send_archive(&handle, &session, number, File::from(reader))),
        );
        Ok(File::from(writer))
    }

    /// Waits until the client has everything. All outputs must have been dropped.
    pub(super) fn finish(self, built: bool) -> Result<()> {
        let mut done = Ok(());
        for archive in self.archives {
            let sent = self.handle.block_on(archive);
            done = done.and(sent.unwrap_or_else(|_| Err(Error::new(Kind::Internal, "an output has failed"))));
        }
        if built {
            done?;
            for (number, directory) in &self.directories {
                send_directory(&self.handle, &self.session, *number, directory)?;
            }
        }
        Ok(())
    }
}

fn unsupported(text: &str) -> Error {
    Error::new(Kind::Unsupported, text.to_owned())
}

fn begin(handle: &Handle, session: &Session, number: usize) -> Result<(Sink, Replies)> {
    if !session.answers(SEND) {
        return Err(Error::invalid("the client takes no outputs"));
    }
    handle
        .block_on(session.channel.call(SEND, &[(ID, number.to_string())]))
        .map_err(|status| status.error("cannot send an output to the client"))
}

fn send_archive(handle: &Handle, session: &Session, number: usize, mut from: File) -> Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut call = None;
    loop {
        let count = from.read(&mut buffer).io_context(|| "cannot read an output".into())?;
        if count == 0 {
            break;
        }
        // The client makes its file when it is called: not before there is something for it.
        if call.is_none() {
            call = Some(begin(handle, session, number)?);
        }
        let Some((sink, replies)) = &mut call else { continue };
        if handle.block_on(sink.send(&Bytes { data: buffer[..count].to_vec() })).is_err() {
            // Why is what the client says.
            let said = handle.block_on(replies.next::<Bytes>());
            let said = said.map_or_else(|status| status.message, |_| "it has ended".to_owned());
            return Err(Error::new(
                Kind::Unavailable,
                format!("the client takes no more of an output: {said}"),
            ));
        }
    }
    let Some((mut sink, mut replies)) = call else { return Ok(()) };
    let doing = "cannot send an output to the client";
    sink.close().map_err(|status| status.error(doing))?;
    while handle.block_on(replies.next::<Bytes>()).map_err(|status| status.error(doing))?.is_some() {}
    Ok(())
}

fn send_directory(handle: &Handle, session: &Session, number: usize, directory: &Path) -> Result<()> {
    let root = robot_env_sys::fs::open_directory(directory)?;
    let (mut sink, mut replies) = begin(handle, session, number)?;
    let mut paths = Vec::new();
    describe(handle, &mut sink, &root, "", &mut paths)?;
    let lost = |status: super::grpc::Status| status.error("cannot send an output to the client");
    let end = Packet { kind: PacketKind::Stat as i32, ..Packet::default() };
    handle.block_on(sink.send(&end)).map_err(lost)?;
    let mut buffer = vec![0; PIECE];
    loop {
        let packet = handle.block_on(replies.next::<Packet>()).map_err(lost)?;
        let Some(packet) = packet else {
            return Err(Error::new(Kind::Unavailable, "the client does not take all of an output"));
        };
        match PacketKind::try_from(packet.kind) {
            Ok(PacketKind::Request) => {
                let path = paths
                    .get(packet.id as usize)
                    .ok_or_else(|| Error::invalid("the client asks for a file that there is not"))?;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let opened = rustix::fs::openat2(&root, path.as_str(), flags, Mode::empty(), resolve);
                let mut file = File::from(opened.call(|| format!("open({path})"))?);
                loop {
                    let count = file.read(&mut buffer).io_context(|| format!("cannot read `{path}`"))?;
                    let piece = Packet {
                        kind: PacketKind::Data as i32,
                        id: packet.id,
                        data: buffer[..count].to_vec(),
                        ..Packet::default()
                    };
                    // An empty piece is the end.
                    handle.block_on(sink.send(&piece)).map_err(lost)?;
                    if count == 0 {
                        break;
                    }
                }
            }
            Ok(PacketKind::Finish) => {
                let end = Packet { kind: PacketKind::Finish as i32, ..Packet::default() };
                handle.block_on(sink.send(&end)).map_err(lost)?;
                let _ = sink.close();
                // The client's last word says whether it has everything.
                while handle.block_on(replies.next::<Packet>()).map_err(lost)?.is_some() {}
                return Ok(());
            }
            Ok(PacketKind::Error) => {
                let said = String::from_utf8_lossy(&packet.data).into_owned();
                return Err(Error::new(
                    Kind::Unavailable,
                    format!("the client cannot take an output: {said}"),
                ));
            }
            _ => return Err(Error::invalid("the client says something out of turn")),
        }
    }
}

/// Describes what is in a directory, in order; `paths` are those that were described.
fn describe(
    handle: &Handle,
    sink: &mut Sink,
    directory: &OwnedFd,
    prefix: &str,
    paths: &mut Vec<String>,
) -> Result<()> {
    let opened = robot_env_sys::fs::open_readable_dir_at(directory, ".")?;
    let mut names = robot_env_sys::fs::names(&opened)?;
    names.sort_unstable();
    for name in names {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        let stat = rustix::fs::statat(directory, name.as_str(), AtFlags::SYMLINK_NOFOLLOW)
            .call(|| format!("stat({path})"))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let bits = match kind {
            FileType::Directory => go::DIRECTORY,
            FileType::Symlink => go::SYMLINK,
            FileType::Fifo => go::PIPE,
            FileType::CharacterDevice => go::DEVICE | go::CHARACTER,
            FileType::BlockDevice => go::DEVICE,
            FileType::RegularFile => 0,
            // There is nobody behind a socket.
            _ => continue,
        };
        let link = if kind == FileType::Symlink {
            let target = rustix::fs::readlinkat(directory, name.as_str(), Vec::new());
            target.call(|| format!("readlink({path})"))?.to_string_lossy().into_owned()
        } else {
            String::new()
        };
        let special = |of: u32, to: u32| if stat.st_mode & of == 0 { 0 } else { to };
        let described = FileStat {
            path: path.clone(),
            mode: bits
                | stat.st_mode & 0o777
                | special(0o4000, go::SETUID)
                | special(0o2000, go::SETGID)
                | special(0o1000, go::STICKY),
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: if kind == FileType::RegularFile { stat.st_size } else { 0 },
            modified: stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec as i64),
            link,
            major: i64::from(rustix::fs::major(stat.st_rdev)),
            minor: i64::from(rustix::fs::minor(stat.st_rdev)),
            ..FileStat::default()
        };
        let packet = Packet { kind: PacketKind::Stat as i32, stat: Some(described), ..Packet::default() };
        handle
            .block_on(sink.send(&packet))
            .map_err(|status| status.error("cannot send an output to the client"))?;
        paths.push(path.clone());
        if kind == FileType::Directory {
            let below = robot_env_sys::fs::open_dir_at(directory.as_fd(), name.as_str())?;
            describe(handle, sink, &below, &path, paths)?;
        }
    }
    Ok(())
}
