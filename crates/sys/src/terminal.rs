//! Terminals: raw mode and window sizes.

use std::os::fd::{AsFd, OwnedFd};

use rustix::termios::{
    OptionalActions, Termios, Winsize, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

use crate::{CallResult, ErrnoContext};

/// Rows and columns.
pub type Size = (u16, u16);

/// Whether `fd` is a terminal.
pub fn is_terminal(fd: impl AsFd) -> bool {
    isatty(fd)
}

/// The window size of a terminal: rows and columns; `None` when it has none.
pub fn size(fd: impl AsFd) -> Option<Size> {
    tcgetwinsize(fd).ok().filter(|s| s.ws_row > 0 && s.ws_col > 0).map(|s| (s.ws_row, s.ws_col))
}

/// Sets the window size of a terminal; its foreground process group gets SIGWINCH.
pub fn set_size(fd: impl AsFd, (rows, columns): Size) -> CallResult<()> {
    tcsetwinsize(fd, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })
        .call(|| format!("ioctl(TIOCSWINSZ, {rows}x{columns})"))
}

/// A terminal in raw mode; dropped, it is as it was.
pub struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Puts the terminal `fd` into raw mode.
    pub fn enter(fd: impl AsFd) -> CallResult<Self> {
        let terminal = rustix::io::fcntl_dupfd_cloexec(&fd, 3).call(|| "dup(terminal)".into())?;
        let before = tcgetattr(&terminal).call(|| "tcgetattr()".into())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &raw).call(|| "tcsetattr(raw)".into())?;
        Ok(RawMode { terminal, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}
