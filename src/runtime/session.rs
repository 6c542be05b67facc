//! What a process of crx that outlives its launcher settles first: its session, its terminal, its signals, its root.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::process::{chdir, ioctl_tiocsctty, pivot_root, setsid};
use rustix::termios::Termios;

use super::{exit, terminal};
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

/// Ends this process, whose launcher has gone before it let go, and gives the terminal on stdin the mode back that it had.
pub(crate) fn end_with_launcher(terminal_mode: Option<&Termios>) -> ! {
    if let Some(mode) = terminal_mode {
        // The launcher made it raw and was killed. A shell may have the terminal back already.
        sys::ignore_signal(libc::SIGTTOU);
        terminal::set_mode(mode);
    }
    std::process::exit(i32::from(exit::FAILURE))
}

/// Leaves the host's files: this process's root becomes an empty directory in a mount namespace of its own. Only a process
/// without threads may do that.
///
/// Clients take the mount namespace of a container's process for the container's: `podman top` reads its /proc, `podman
/// cp` writes into it.
///
/// # Errors
/// The system refuses.
pub(crate) fn leave_files() -> anyhow::Result<()> {
    // A directory that every host has; what is mounted on it is seen by this process alone.
    let target = Path::new("/proc");
    sys::unshare_mounts().context("cannot make a mount namespace")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("cannot separate the mounts from the host's")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    mount("crx", target, "tmpfs", flags, Some(c"mode=555,size=4k"))
        .context("cannot mount an empty directory")?;
    enter_root(target).context("cannot leave the host's files")
}

/// Makes a mount point the root of this process: nothing else of its mount namespace can be named any more.
///
/// # Errors
/// A system call was refused.
pub(crate) fn enter_root(directory: &Path) -> rustix::io::Result<()> {
    chdir(directory)?;
    // The old root is stacked on the new one and taken off at once (pivot_root(2), NOTES).
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")
}

/// A path to a file of an open directory that is short enough for a Unix socket's address (108 bytes), however long
/// the directory's own is.
pub(crate) fn short_path(directory: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}
