//! How much memory layers that are unpacked at the same time take together.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use robot_env_diag::{Error, Kind, Result};

/// What every layer may take, in bytes: enough for the window of an ordinary zstd frame (8 MiB) and
/// some ten thousand directories.
const SMALL: usize = 16 << 20;
/// What one layer of the process may take at a time; the others that need more than [`SMALL`] wait.
const LARGE: usize = 128 << 20;

/// Whether some layer of this process takes more than [`SMALL`].
static TAKEN: Mutex<bool> = Mutex::new(false);
static FREED: Condvar = Condvar::new();

/// What one layer's unpacking takes of the process's memory: the threads that decompress it and make
/// its files have one share together. Layers that mean harm, and several at once, stay below
/// 256 MiB with it; an honest layer that needs much waits for another one, and for nothing else. So
/// no thread has two shares, and nobody who has one waits for another layer.
#[derive(Debug, Default)]
pub struct Share {
    used: AtomicUsize,
    large: AtomicBool,
}

impl Share {
    /// The share of a layer that is about to be unpacked.
    pub fn new() -> Share {
        Share::default()
    }

    /// Takes `bytes` more, until the share is dropped. Waits while another layer has much.
    ///
    /// # Errors
    /// `Unsupported` when no layer may take so much.
    pub(crate) fn take(&self, bytes: usize) -> Result<()> {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if used > LARGE {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "it takes more than {} MiB of memory to unpack (its zstd window and its directories)",
                    LARGE >> 20
                ),
            ));
        }
        if used > SMALL && !self.large.load(Ordering::Acquire) {
            let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
            // The other thread of this layer may get it meanwhile.
            while *taken && !self.large.load(Ordering::Acquire) {
                taken = FREED.wait(taken).unwrap_or_else(PoisonError::into_inner);
            }
            *taken = true;
            self.large.store(true, Ordering::Release);
            FREED.notify_all();
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.large.load(Ordering::Acquire) {
            *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = false;
            FREED.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_takes_much_and_the_others_wait_for_it() {
        let first = Share::new();
        let small = Share::new();
        first.take(SMALL + 1).unwrap();
        small.take(SMALL).unwrap();
        first.take(LARGE - SMALL - 1).unwrap();
        assert_eq!(first.take(1).unwrap_err().kind(), Kind::Unsupported);
        let (said, hears) = channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let second = Share::new();
                // Both threads of one layer.
                std::thread::scope(|scope| {
                    scope.spawn(|| second.take(SMALL + 1).unwrap());
                    scope.spawn(|| second.take(SMALL + 1).unwrap());
                });
                said.send(()).unwrap();
            });
            assert!(hears.recv_timeout(Duration::from_millis(100)).is_err(), "it waits");
            drop(first);
            hears.recv_timeout(Duration::from_secs(10)).unwrap();
        });
        small.take(1).unwrap();
    }
}
