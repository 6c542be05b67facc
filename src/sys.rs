//! The only unsafe code of this crate: system calls that no safe wrapper offers.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes a file descriptor that the parent process left open for this one.
///
/// # Errors
/// Nothing is open under that number.
pub(crate) fn inherited_fd(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD takes no pointer and changes nothing. There is no safe way to ask for a number.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, as just seen, and only the parent's agreement says that it is ours: this is called
    // once, at the start of the child, before anything else could have opened or taken the number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Ignores a signal in this process.
pub(crate) fn ignore_signal(signal: i32) {
    // SAFETY: SIG_IGN runs no code of ours. An invalid number changes nothing.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Gives this process a mount namespace of its own, and a user namespace if `user` is set.
///
/// # Errors
/// Those of unshare(2).
pub(crate) fn unshare_mounts(user: bool) -> io::Result<()> {
    let flags = libc::CLONE_NEWNS | if user { libc::CLONE_NEWUSER } else { 0 };
    // SAFETY: neither flag touches the memory or the file descriptors of this process.
    if unsafe { libc::unshare(flags) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
