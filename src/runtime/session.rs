//! What a process of crx that outlives its launcher settles first: its session, its terminal, its signals.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::Context;
use rustix::process::{ioctl_tiocsctty, setsid};

use crate::sys;

/// Ignores the signals that a terminal or a person sends to a whole process group: the launcher forwards those that
/// are meant for the container.
pub(crate) fn ignore_signals() {
    for signal in [
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGHUP,
        libc::SIGTERM,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGALRM,
        libc::SIGPIPE,
    ] {
        sys::ignore_signal(signal);
    }
}

/// Leaves the launcher's session, if it is `detached`; with a `console`, which is on stdin then, that becomes the
/// session's terminal, so that the kernel tells of its size. Returns `console`.
///
/// # Errors
/// The system refuses.
pub(crate) fn begin(detached: bool, console: bool) -> anyhow::Result<bool> {
    if detached {
        setsid().context("cannot make a session")?;
    }
    if console {
        ioctl_tiocsctty(std::io::stdin()).context("cannot make the console the session's terminal")?;
    }
    Ok(console)
}

/// A path to a file of an open directory that is short enough for a Unix socket's address (108 bytes), however long
/// the directory's own is.
pub(crate) fn short_path(directory: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}
