//! The caller's terminal: raw while a container with a terminal of its own uses it.

use std::io::{stdin, stdout};

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// The terminal on stdin in raw mode; the mode that it had comes back when this is dropped.
pub(crate) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Makes the terminal raw.
    ///
    /// # Errors
    /// stdin is no terminal, or one that cannot be set.
    pub(crate) fn new() -> rustix::io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        set_mode(&self.before);
    }
}

/// The mode of the terminal on stdin, if it is one.
pub(crate) fn mode() -> Option<Termios> {
    tcgetattr(stdin()).ok()
}

/// Sets the mode of the terminal on stdin. It may be gone: then there is nothing to set.
pub(crate) fn set_mode(mode: &Termios) {
    let _ = tcsetattr(stdin(), OptionalActions::Now, mode);
}

/// Whether stdin is a terminal.
pub(crate) fn on_stdin() -> bool {
    isatty(stdin())
}

/// Columns of the terminal on stdout, if that is one and knows.
pub(crate) fn columns_of_stdout() -> Option<usize> {
    let size = tcgetwinsize(stdout()).ok()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
}

/// Rows and columns of the terminal on stdin, zeros if it does not know.
pub(crate) fn size() -> (u16, u16) {
    tcgetwinsize(stdin()).map_or((0, 0), |size| (size.ws_row, size.ws_col))
}
