//! The network's unsafe code: ioctls for which there is no safe wrapper.

#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// `_IO(0xb7, 3)` of linux/nsfs.h; the libc crate has no name for it.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// True if the descriptor, which is one of a namespace, is one of a network namespace.
///
/// # Errors
/// It is none of a namespace.
pub(super) fn is_network_namespace(namespace: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: takes no argument and changes nothing.
    let kind = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_NSTYPE) };
    if kind < 0 { Err(io::Error::last_os_error()) } else { Ok(kind == libc::CLONE_NEWNET) }
}

/// Opens a queue of the tap `name` in this thread's network namespace, and makes the tap if there is none.
/// `flags` are IFF_* of linux/if_tun.h.
///
/// # Errors
/// Those of TUNSETIFF and of opening /dev/net/tun.
pub(super) fn open_tap(name: &str, flags: i32) -> io::Result<OwnedFd> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all of it may be zero: numbers, and a union of such.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte remains zero.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the kernel reads and writes one `ifreq`, which `request` is.
    if unsafe { libc::ioctl(file.as_fd().as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file.into())
}
