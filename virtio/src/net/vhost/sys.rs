//! The ioctls of /dev/vhost-net (linux/vhost.h, linux/vhost_types.h), for which there are no safe wrappers.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use vm_memory::{GuestMemory, GuestMemoryRegion};

use crate::GuestMem;

const GET_FEATURES: libc::Ioctl = 0x8008_af00;
const SET_FEATURES: libc::Ioctl = 0x4008_af00;
const SET_OWNER: libc::Ioctl = 0xaf01;
const SET_MEM_TABLE: libc::Ioctl = 0x4008_af03;
const SET_VRING_NUM: libc::Ioctl = 0x4008_af10;
const SET_VRING_ADDR: libc::Ioctl = 0x4028_af11;
const SET_VRING_BASE: libc::Ioctl = 0x4008_af12;
const GET_VRING_BASE: libc::Ioctl = 0xc008_af12;
const SET_VRING_KICK: libc::Ioctl = 0x4008_af20;
const SET_VRING_CALL: libc::Ioctl = 0x4008_af21;
const SET_VRING_ERR: libc::Ioctl = 0x4008_af22;
const NET_SET_BACKEND: libc::Ioctl = 0x4008_af30;

/// Most regions of a table here; the kernel allows 64 (vhost.c, max_mem_regions).
const MAX_REGIONS: usize = 16;

/// struct vhost_memory_region.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    guest_address: u64,
    bytes: u64,
    /// Where it is mapped in this process.
    address: u64,
    no_flags: u64,
}

/// struct vhost_memory with its array.
#[repr(C)]
struct Memory {
    count: u32,
    padding: u32,
    regions: [Region; MAX_REGIONS],
}

/// struct vhost_vring_addr: where the parts of a ring are mapped in this process.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RingAddress {
    pub(super) index: u32,
    pub(super) no_flags: u32,
    pub(super) descriptors: u64,
    pub(super) used: u64,
    pub(super) available: u64,
    pub(super) no_log: u64,
}

/// struct vhost_vring_state and struct vhost_vring_file: a ring and a number or a descriptor.
#[repr(C)]
struct OfRing {
    index: u32,
    value: u32,
}

/// A descriptor that a ring is given.
#[derive(Clone, Copy)]
pub(super) enum RingFile {
    Kick,
    Call,
    Error,
    Backend,
}

/// The features that it knows.
pub(super) fn features(vhost: impl AsFd) -> io::Result<u64> {
    let mut features = 0u64;
    // SAFETY: needed because there is no safe ioctl. The kernel writes a u64.
    check(unsafe { libc::ioctl(raw(&vhost), GET_FEATURES, &raw mut features) })?;
    Ok(features)
}

pub(super) fn set_features(vhost: impl AsFd, features: u64) -> io::Result<()> {
    // SAFETY: needed because there is no safe ioctl. The kernel reads a u64.
    check(unsafe { libc::ioctl(raw(&vhost), SET_FEATURES, &raw const features) })
}

/// Makes this process the owner, whose memory is meant by addresses: once for each descriptor.
pub(super) fn set_owner(vhost: impl AsFd) -> io::Result<()> {
    // SAFETY: needed because there is no safe ioctl. It takes no argument.
    check(unsafe { libc::ioctl(raw(&vhost), SET_OWNER) })
}

/// Shows it guest memory. The caller keeps it mapped as long as a ring of this descriptor has a backend.
pub(super) fn set_memory(vhost: impl AsFd, memory: &GuestMem) -> io::Result<()> {
    let mut table = Memory { count: 0, padding: 0, regions: [Region::default(); MAX_REGIONS] };
    for region in memory.iter() {
        let place = table.regions.get_mut(table.count as usize).ok_or(io::ErrorKind::InvalidInput)?;
        *place = Region {
            guest_address: region.start_addr().0,
            bytes: region.len(),
            address: region.as_ptr() as u64,
            no_flags: 0,
        };
        table.count += 1;
    }
    // SAFETY: needed because there is no safe ioctl. The kernel reads a struct vhost_memory with as many regions as it says.
    // Later it writes to them on the guest's behalf: they are guest memory, to which there are no Rust references, and
    // `Carried`, the only caller, has a share of it, which keeps it mapped.
    check(unsafe { libc::ioctl(raw(&vhost), SET_MEM_TABLE, &raw const table) })
}

/// Says where a ring is. The kernel takes only what is in the memory that it was shown.
pub(super) fn set_ring_address(vhost: impl AsFd, ring: RingAddress) -> io::Result<()> {
    // SAFETY: needed because there is no safe ioctl. The kernel reads a struct vhost_vring_addr.
    check(unsafe { libc::ioctl(raw(&vhost), SET_VRING_ADDR, &raw const ring) })
}

pub(super) fn set_ring_size(vhost: impl AsFd, index: u32, size: u16) -> io::Result<()> {
    let size = OfRing { index, value: size.into() };
    // SAFETY: needed because there is no safe ioctl. The kernel reads a struct vhost_vring_state.
    check(unsafe { libc::ioctl(raw(&vhost), SET_VRING_NUM, &raw const size) })
}

/// Says which entry of the available ring is next.
pub(super) fn set_ring_base(vhost: impl AsFd, index: u32, next: u16) -> io::Result<()> {
    let base = OfRing { index, value: next.into() };
    // SAFETY: needed because there is no safe ioctl. The kernel reads a struct vhost_vring_state.
    check(unsafe { libc::ioctl(raw(&vhost), SET_VRING_BASE, &raw const base) })
}

/// Which entry of the available ring is next.
pub(super) fn ring_base(vhost: impl AsFd, index: u32) -> io::Result<u16> {
    let mut base = OfRing { index, value: 0 };
    // SAFETY: needed because there is no safe ioctl. The kernel reads and writes a struct vhost_vring_state.
    check(unsafe { libc::ioctl(raw(&vhost), GET_VRING_BASE, &raw mut base) })?;
    // A split ring: the upper half is of packed ones.
    Ok(base.value as u16)
}

/// Gives a ring a descriptor, or takes it away.
pub(super) fn set_ring_file(
    vhost: impl AsFd,
    index: u32,
    kind: RingFile,
    file: Option<RawFd>,
) -> io::Result<()> {
    let request = match kind {
        RingFile::Kick => SET_VRING_KICK,
        RingFile::Call => SET_VRING_CALL,
        RingFile::Error => SET_VRING_ERR,
        RingFile::Backend => NET_SET_BACKEND,
    };
    // Without a descriptor: VHOST_FILE_UNBIND and VHOST_NET_DISABLE, -1 both.
    let file = OfRing { index, value: file.unwrap_or(-1).cast_unsigned() };
    // SAFETY: needed because there is no safe ioctl. The kernel reads a struct vhost_vring_file and holds the file itself.
    check(unsafe { libc::ioctl(raw(&vhost), request, &raw const file) })
}

fn raw(vhost: &impl AsFd) -> RawFd {
    vhost.as_fd().as_raw_fd()
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
