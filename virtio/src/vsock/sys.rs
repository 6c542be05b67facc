//! Socket I/O straight from and to guest memory. The only unsafe of vsock: guest memory has no Rust references, because
//! the guest writes to it at any time, so the safe wrappers over `&mut [u8]` cannot be used.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use vmm_sys_util::eventfd::EventFd;

use crate::slice::{GuestSlice, mark_dirty};

/// Reads what the socket has into guest memory; never blocks.
///
/// # Errors
/// As recvmsg(2); 0 is the end of the stream.
pub(super) fn receive(socket: &UnixStream, into: &[GuestSlice<'_>]) -> io::Result<usize> {
    let guards: Vec<_> = into.iter().map(GuestSlice::ptr_guard_mut).collect();
    let mut vectors: Vec<_> = guards
        .iter()
        .map(|guard| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() })
        .collect();
    let mut message = message(&mut vectors);
    // SAFETY: needed to write where no reference may exist. Every iovec is a slice of mapped guest memory, kept mapped by
    // the borrow in `into` and accessible by its guard; `vectors` outlives the call. Nobody relies on these bytes
    // staying unchanged.
    let count = unsafe {
        libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC)
    };
    let bytes = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    mark_dirty(into, bytes);
    Ok(bytes)
}

/// Writes guest memory to the socket, as much as it takes; never blocks and raises no SIGPIPE.
///
/// # Errors
/// As sendmsg(2).
pub(super) fn send(socket: &UnixStream, from: &[GuestSlice<'_>]) -> io::Result<usize> {
    let guards: Vec<_> = from.iter().map(GuestSlice::ptr_guard).collect();
    let mut vectors: Vec<_> = guards
        .iter()
        .map(|guard| libc::iovec { iov_base: guard.as_ptr().cast_mut().cast(), iov_len: guard.len() })
        .collect();
    let message = message(&mut vectors);
    // SAFETY: needed to read what no reference may point to. As above, and the kernel only reads the memory.
    let count =
        unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

fn message(vectors: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: needed because msghdr has private padding on some targets. It is a C structure for which all zeroes mean
    // "no name, no vectors, no control data".
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vectors.as_mut_ptr();
    message.msg_iovlen = vectors.len() as _;
    message
}

/// The descriptor of an eventfd, whose type has no safe way to lend it.
pub(super) fn event_fd(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: needed because `EventFd` has `AsRawFd` only. It owns the descriptor, and the result cannot outlive it.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
