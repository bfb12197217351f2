//! Reading that is watched.

use std::io::{self, Read};

use crate::{Amount, Observer};

/// How many bytes are read between two words to the observer.
const STRIDE: u64 = 1024 * 1024;

/// Tells an observer how much of a layer was read.
pub(crate) struct Counted<'o, R> {
    inner: R,
    observer: &'o dyn Observer,
    item: String,
    amount: Amount,
    told: u64,
}

impl<'o, R: Read> Counted<'o, R> {
    /// `total` bytes will come.
    pub(crate) fn new(inner: R, observer: &'o dyn Observer, item: &str, total: u64) -> Self {
        Counted { inner, observer, item: item.to_owned(), amount: Amount { done: 0, total }, told: 0 }
    }
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(out)?;
        self.amount.done += n as u64;
        if self.amount.done - self.told >= STRIDE || (n == 0 && self.told < self.amount.done) {
            self.told = self.amount.done;
            self.observer.step(&self.item, "Loading layer", Some(self.amount));
        }
        Ok(n)
    }
}
