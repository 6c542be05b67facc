//! Frames between a tap and guest memory, and the settings of taps. The only unsafe of virtio-net: guest memory has no
//! Rust references, because the guest writes to it at any time, and taps have no safe wrappers.
#![allow(unsafe_code)]

use std::io;
use std::mem::{MaybeUninit, needs_drop};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use vm_memory::volatile_memory::{PtrGuard, PtrGuardMut};

use crate::slice::{GuestSlice, mark_dirty};

/// Most parts of a frame, what does not fit counted: IOV_MAX of readv(2) and writev(2).
pub(super) const MAX_VECTORS: usize = 1024;

/// Guards of guest memory need not be kept as long as their pointers: they only would where memory is mapped for them.
const _NO_GUARDS: () = assert!(!needs_drop::<PtrGuard>() && !needs_drop::<PtrGuardMut>());

/// Reads one frame into guest memory, and what does not fit there into `rest`.
///
/// # Errors
/// As readv(2).
///
/// # Panics
/// If there are [`MAX_VECTORS`] slices or more.
pub(super) fn read_frame<'a, 'm: 'a>(
    tap: BorrowedFd<'_>,
    into: impl Iterator<Item = &'a GuestSlice<'m>> + Clone,
    rest: &mut [u8],
) -> io::Result<usize> {
    let guards = into.clone().map(GuestSlice::ptr_guard_mut).map(|guard| (guard.as_ptr(), guard.len()));
    let mut vectors = [const { MaybeUninit::uninit() }; MAX_VECTORS];
    let count = fill(&mut vectors, guards.chain([(rest.as_mut_ptr(), rest.len())]));
    // SAFETY: needed to write where no reference may exist. Every vector but the last is a slice of mapped guest memory,
    // kept mapped by the borrow behind `into` (its guard has nothing to release, see _NO_GUARDS); the last is `rest`,
    // borrowed mutably. The first `count` vectors were filled. Nobody relies on guest memory staying unchanged.
    let count = unsafe { libc::readv(tap.as_raw_fd(), vectors.as_ptr().cast(), count) };
    let bytes = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    mark_dirty(into, bytes);
    Ok(bytes)
}

/// Writes one frame from guest memory.
///
/// # Errors
/// As writev(2).
///
/// # Panics
/// If there are more than [`MAX_VECTORS`] slices.
pub(super) fn write_frame<'a, 'm: 'a>(
    tap: BorrowedFd<'_>,
    from: impl Iterator<Item = &'a GuestSlice<'m>>,
) -> io::Result<usize> {
    let guards = from.map(GuestSlice::ptr_guard).map(|guard| (guard.as_ptr().cast_mut(), guard.len()));
    let mut vectors = [const { MaybeUninit::uninit() }; MAX_VECTORS];
    let count = fill(&mut vectors, guards);
    // SAFETY: needed to read what no reference may point to. As above, and the kernel only reads the memory.
    let count = unsafe { libc::writev(tap.as_raw_fd(), vectors.as_ptr().cast(), count) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Fills vectors, on the stack of each frame so that none allocates; their number.
fn fill(
    vectors: &mut [MaybeUninit<libc::iovec>; MAX_VECTORS],
    parts: impl Iterator<Item = (*mut u8, usize)>,
) -> libc::c_int {
    let mut count = 0;
    for (start, bytes) in parts {
        vectors[count].write(libc::iovec { iov_base: start.cast(), iov_len: bytes });
        count += 1;
    }
    // At most MAX_VECTORS.
    count as libc::c_int
}

/// struct ifreq (linux/if.h) with a union of its full size.
#[repr(C)]
struct Ifreq {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// The IFF_* flags of a tap (TUNGETIFF).
///
/// # Errors
/// As ioctl(2): it is no tap, or has no interface.
pub(super) fn tap_flags(tap: impl AsFd) -> io::Result<libc::c_int> {
    let mut request = Ifreq { name: [0; libc::IFNAMSIZ], flags: 0, rest: [0; 22] };
    // SAFETY: needed because there is no safe ioctl. The kernel fills a struct ifreq, which `request` is.
    check(unsafe { libc::ioctl(tap.as_fd().as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
    // The flags are 16 bits without a sign (tun.c: ifr->ifr_flags = tun_flags(tun)).
    Ok((request.flags as u16).into())
}

/// Sets the size of the header in front of frames (TUNSETVNETHDRSZ).
///
/// # Errors
/// As ioctl(2).
pub(super) fn set_header_bytes(tap: impl AsFd, bytes: usize) -> io::Result<()> {
    let bytes = bytes as libc::c_int;
    // SAFETY: needed because there is no safe ioctl. The kernel reads an int.
    check(unsafe { libc::ioctl(tap.as_fd().as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const bytes) })
}

/// Says what frames the reader takes (TUNSETOFFLOAD, TUN_F_*).
///
/// # Errors
/// As ioctl(2).
pub(super) fn set_offloads(tap: impl AsFd, offloads: libc::c_uint) -> io::Result<()> {
    let offloads = libc::c_ulong::from(offloads);
    // SAFETY: needed because there is no safe ioctl. The argument is a number.
    check(unsafe { libc::ioctl(tap.as_fd().as_raw_fd(), libc::TUNSETOFFLOAD, offloads) })
}

/// Has frames come to this queue of a tap, or not (TUNSETQUEUE).
///
/// # Errors
/// As ioctl(2).
pub(super) fn attach_queue(tap: impl AsFd, attached: bool) -> io::Result<()> {
    let flag = if attached { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
    let request = Ifreq { name: [0; libc::IFNAMSIZ], flags: flag as libc::c_short, rest: [0; 22] };
    // SAFETY: needed because there is no safe ioctl. The kernel reads a struct ifreq, which `request` is.
    check(unsafe { libc::ioctl(tap.as_fd().as_raw_fd(), libc::TUNSETQUEUE, &raw const request) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
