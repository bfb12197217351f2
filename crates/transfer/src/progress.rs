//! What a transfer tells whoever watches it.

/// How far a step is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Bytes done.
    pub done: u64,
    /// Bytes in all; 0 when unknown.
    pub total: u64,
}

/// Who hears of progress. Called from several threads; never fails: progress is no reason to stop.
pub trait Observer: Sync {
    /// A line of its own (`Pulling from library/x`).
    fn message(&self, text: &str);
    /// `item` (a layer's short digest) is at `step` (`Downloading`, `Pull complete`, ...); `amount`
    /// while bytes move.
    fn step(&self, item: &str, step: &str, amount: Option<Amount>);
}

/// Nobody watches.
impl Observer for () {
    fn message(&self, _text: &str) {}
    fn step(&self, _item: &str, _step: &str, _amount: Option<Amount>) {}
}
