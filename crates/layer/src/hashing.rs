//! Hashing what is written, here or beside.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use robot_env_oci::{Algorithm, Digest, Hasher};

/// How many buffers may wait.
const WAITING: usize = 4;

/// A running SHA-256.
pub(crate) enum Hashing {
    /// In the thread that writes.
    Here(Hasher),
    /// In one of its own: a large layer is read while it is hashed.
    Beside(Beside),
}

/// A thread that hashes, and buffers on their way to it and back.
pub(crate) struct Beside {
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    thread: JoinHandle<Digest>,
}

impl Hashing {
    pub(crate) fn here() -> Self {
        Hashing::Here(Hasher::new(Algorithm::Sha256))
    }

    /// Where no thread can be started, it is done here.
    pub(crate) fn beside() -> Self {
        let (full, arriving): (_, Receiver<Vec<u8>>) = sync_channel(WAITING);
        let (give_back, empty): (Sender<Vec<u8>>, _) = channel();
        let work = move || {
            let mut hasher = Hasher::new(Algorithm::Sha256);
            for mut buffer in arriving {
                hasher.update(&buffer);
                buffer.clear();
                // Nobody wants it back at the end.
                let _ = give_back.send(buffer);
            }
            hasher.finish()
        };
        match std::thread::Builder::new().name("hash".into()).spawn(work) {
            Ok(thread) => Hashing::Beside(Beside { full, empty, thread }),
            Err(_) => Hashing::here(),
        }
    }

    /// Adds what is in `buffer`, and empties it.
    pub(crate) fn take(&mut self, buffer: &mut Vec<u8>) {
        match self {
            Hashing::Here(hasher) => {
                hasher.update(buffer);
                buffer.clear();
            }
            Hashing::Beside(beside) => {
                let next = beside.empty.try_recv().unwrap_or_default();
                // It fails when the thread panicked, which shows at the end.
                let _ = beside.full.send(std::mem::replace(buffer, next));
            }
        }
    }

    /// The digest; `None` when the thread panicked.
    pub(crate) fn finish(self) -> Option<Digest> {
        match self {
            Hashing::Here(hasher) => Some(hasher.finish()),
            Hashing::Beside(Beside { full, thread, .. }) => {
                drop(full);
                thread.join().ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_give_the_same() {
        let mut digests = Vec::new();
        for mut hashing in [Hashing::here(), Hashing::beside()] {
            for n in 0..50_u8 {
                let mut buffer = vec![n; 1000];
                hashing.take(&mut buffer);
                assert!(buffer.is_empty());
            }
            digests.push(hashing.finish().unwrap());
        }
        assert_eq!(digests[0], digests[1]);
        let bytes: Vec<u8> = (0..50_u8).flat_map(|n| [n; 1000]).collect();
        assert_eq!(digests[0], Digest::of(&bytes));
    }
}
