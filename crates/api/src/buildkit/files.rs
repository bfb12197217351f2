//! Files from a client: `moby.filesync.v1.FileSync/DiffCopy`.
//!
//! The client describes its files in order, with numbers; then the content of those that are wanted
//! is asked for, and arrives in pieces, several files at a time.

use std::path::Path;

use robot_env_diag::{Error, Result};
use tokio::runtime::Handle;

use super::grpc::{Replies, Sink};
use super::job::Cancel;
use super::messages::session::{Packet, PacketKind};
use super::session::Session;
use super::tree::Tree;

const DIFF_COPY: &str = "/moby.filesync.v1.FileSync/DiffCopy";
/// How many files are asked for before the first of them has arrived: the questions have to fit
/// into what a client reads ahead, or both sides would wait.
const ASKED: usize = 256;

/// Which of a client's files are wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Wish {
    /// What the client calls the directory.
    pub(super) name: String,
    /// Only these, and what links among them lead to; none: all.
    pub(super) paths: Vec<String>,
    /// But for those (patterns of a `.dockerignore`).
    pub(super) excludes: Vec<String>,
}

/// Hears how much has been transferred.
pub(super) trait Progress {
    /// So many bytes.
    fn transferred(&mut self, bytes: u64);
}

/// Makes the directory `into` like one of the client's.
pub(super) fn receive(
    handle: &Handle,
    session: &Session,
    wish: &Wish,
    into: &Path,
    progress: &mut dyn Progress,
    cancel: &Cancel,
) -> Result<()> {
    let doing = || format!("cannot get `{}` from the client", wish.name);
    let mut metadata = vec![("dir-name", wish.name.clone())];
    metadata.extend(values("followpaths", "followpaths-encoded", &wish.paths));
    metadata.extend(values("exclude-patterns", "exclude-patterns-encoded", &wish.excludes));
    let tree = Tree::open(into)?;
    handle.block_on(async {
        let (mut sink, mut replies) =
            session.channel.call(DIFF_COPY, &metadata).await.map_err(|status| status.error(doing()))?;
        let done = cancel.unless(transfer(&mut sink, &mut replies, tree, progress, &doing)).await;
        if let Err(error) = &done {
            let refusal = Packet {
                kind: PacketKind::Error as i32,
                data: error.message().as_bytes().to_vec(),
                ..Packet::default()
            };
            let _ = sink.send(&refusal).await;
            sink.cancel();
        }
        done
    })
}

async fn transfer(
    sink: &mut Sink,
    replies: &mut Replies,
    mut tree: Tree,
    progress: &mut dyn Progress,
    doing: &impl Fn() -> String,
) -> Result<()> {
    let mut bytes = 0;
    let mut next = async |replies: &mut Replies| -> Result<Packet> {
        let packet = replies.next::<Packet>().await.map_err(|status| status.error(doing()))?;
        let packet = packet.ok_or_else(|| Error::invalid("the client ends in the middle").within(doing()))?;
        if packet.kind == PacketKind::Error as i32 {
            let said = String::from_utf8_lossy(&packet.data).into_owned();
            return Err(Error::invalid(said).within(doing()));
        }
        bytes +=
            16 + packet.data.len() as u64 + packet.stat.as_ref().map_or(0, |stat| stat.path.len() as u64);
        progress.transferred(bytes);
        Ok(packet)
    };
    let unexpected = |packet: &Packet| {
        Error::invalid(format!("the client sends a packet of kind {} out of turn", packet.kind))
    };
    let mut id = 0;
    loop {
        let packet = next(replies).await?;
        if packet.kind != PacketKind::Stat as i32 {
            return Err(unexpected(&packet));
        }
        let Some(stat) = packet.stat else { break };
        tree.describe(id, &stat)?;
        id += 1;
    }
    tree.described()?;
    let wanted = tree.wanted();
    let mut asking = wanted.iter();
    let mut asked = 0;
    loop {
        while asked < ASKED
            && let Some(id) = asking.next()
        {
            let question = Packet { kind: PacketKind::Request as i32, id: *id, ..Packet::default() };
            sink.send(&question).await.map_err(|status| status.error(doing()))?;
            asked += 1;
        }
        if asked == 0 {
            break;
        }
        let packet = next(replies).await?;
        if packet.kind != PacketKind::Data as i32 {
            return Err(unexpected(&packet));
        }
        if tree.write(packet.id, &packet.data)? {
            asked -= 1;
        }
    }
    let over = Packet { kind: PacketKind::Finish as i32, ..Packet::default() };
    sink.send(&over).await.map_err(|status| status.error(doing()))?;
    let packet = next(replies).await?;
    if packet.kind != PacketKind::Finish as i32 {
        return Err(unexpected(&packet));
    }
    // The client may say something else on its way out; that is nobody's business.
    let _ = sink.close();
    Ok(())
}

/// A list as header fields; where a value is no ASCII, all are percent-encoded, and it is said.
fn values<'n>(name: &'n str, marker: &'n str, list: &[String]) -> Vec<(&'n str, String)> {
    let plain = list.iter().all(|text| text.bytes().all(|byte| matches!(byte, b' '..=b'~')));
    if plain {
        return list.iter().map(|text| (name, text.clone())).collect();
    }
    let encode = |text: &String| {
        let mut out = String::new();
        for byte in text.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                out.push(char::from(byte));
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
        (name, out)
    };
    let mut out: Vec<_> = list.iter().map(encode).collect();
    out.push((marker, "1".to_owned()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_as_header_fields() {
        let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(values("a", "e", &list(&["x/*", "!y"])), [("a", "x/*".into()), ("a", "!y".into())]);
        let encoded = values("a", "e", &list(&["ä/b", "c+"]));
        assert_eq!(encoded, [("a", "%C3%A4%2Fb".into()), ("a", "c%2B".into()), ("e", "1".into())]);
        assert!(values("a", "e", &[]).is_empty());
    }
}
