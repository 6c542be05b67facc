//! Unsafe code of this crate: system calls that no safe wrapper offers. Those of the network are in `runtime/network/sys.rs`.

#![allow(unsafe_code)]

use std::io::{self, Write};
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

/// Closes every inherited descriptor above the standard streams but those in `keep`.
///
/// To be called before anything of this process has opened one.
pub(crate) fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<u32> =
        keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    let mut first = 3;
    for end in keep.into_iter().chain([u32::MAX]) {
        if first < end {
            // SAFETY: closes numbers that no object of this process owns, as the caller has promised; takes no pointer.
            unsafe { libc::syscall(libc::SYS_close_range, first, end - 1, 0) };
        }
        first = end.saturating_add(1);
    }
}

/// Ignores a signal in this process.
pub(crate) fn ignore_signal(signal: i32) {
    // SAFETY: SIG_IGN runs no code of ours. An invalid number changes nothing.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Gives this process a mount namespace of its own.
///
/// # Errors
/// Those of unshare(2).
pub(crate) fn unshare_mounts() -> io::Result<()> {
    unshare(libc::CLONE_NEWNS)
}

/// Gives the calling thread, and what it starts, a network namespace of its own.
///
/// # Errors
/// Those of unshare(2).
pub(crate) fn unshare_network() -> io::Result<()> {
    unshare(libc::CLONE_NEWNET)
}

/// For a user without root's rights: becomes root in a user namespace and a mount namespace of its own, where this
/// user and group are root. For root itself nothing changes. Only a process without threads may do that (unshare(2),
/// CLONE_NEWUSER).
///
/// # Errors
/// Those of unshare(2); the host may forbid it to this user.
pub(crate) fn become_root_of_own_namespace() -> io::Result<()> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    if user.is_root() {
        return Ok(());
    }
    unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS)?;
    let write = |name: &str, text: String| {
        std::fs::OpenOptions::new().write(true).open(name)?.write_all(text.as_bytes())
    };
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("0 {} 1", user.as_raw()))?;
    write("/proc/self/gid_map", format!("0 {} 1", group.as_raw()))
}

fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: neither flag touches the memory or the file descriptors of this process.
    if unsafe { libc::unshare(flags) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
