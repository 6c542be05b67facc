//! Exit codes of the command.
//!
//! | code  | when                                                                                |
//! |-------|-------------------------------------------------------------------------------------|
//! | 0-255 | the container's own exit code                                                       |
//! | 1     | crx could not do what was asked: bad bundle, no KVM, the pod's kernel panicked, ... |
//! | 126   | the container's program cannot be executed                                          |
//! | 127   | the container's program does not exist                                              |
//! | 128+n | signal n ended the container, or ended crx before the container was started         |

/// Done.
pub(crate) const SUCCESS: u8 = 0;
/// What was asked for could not be done.
pub(crate) const FAILURE: u8 = 1;

/// The code for a signal that ends a process, as a shell gives it.
pub(crate) fn of_signal(signal: u8) -> u8 {
    128_u8.saturating_add(signal)
}

/// An error with an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Coded {
    /// The exit code.
    pub(crate) code: u8,
    /// One line.
    pub(crate) message: String,
}

/// The exit code of an error: its own, or that of failures.
pub(crate) fn of_error(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<Coded>().map_or(FAILURE, |coded| coded.code)
}
