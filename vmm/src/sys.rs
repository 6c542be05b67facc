//! The only unsafe code of this crate: what KVM's interface shares with user space without Rust's rules.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crx_virtio::GuestMem;
use kvm_bindings::{KVM_EXIT_INTERNAL_ERROR, kvm_run, kvm_userspace_memory_region, kvm_xsave};
use kvm_ioctls::{VcpuFd, VmFd};
use vm_memory::{GuestAddress, GuestMemory, GuestRegionMmap, MmapRegion};

/// Shows a region to KVM.
pub(crate) fn set_memory_region(
    vm: &VmFd,
    slot: kvm_userspace_memory_region,
    _region: &GuestRegionMmap<()>,
) -> Result<(), kvm_ioctls::Error> {
    // SAFETY: needed because KVM will access the range on the guest's behalf. The range is the mapping of
    // `_region`, which belongs to the guest memory that the VM owns as long as its vCPUs can run; Rust code
    // accesses it only through vm-memory's volatile accessors.
    unsafe { vm.set_user_memory_region(slot) }
}

/// Gives files a reference that the kernel drops on a worker of its own, not in the process that ends: taking a VM apart
/// sleeps through several grace periods of RCU (40 ms on Linux 6.1), for which nobody has to wait.
///
/// Such a reference is that of an io_uring's table of files, when the ring is closed. Nothing is ever submitted to the
/// ring. `None` where the host has no io_uring or does not allow it: then the process takes the VM apart as it ends.
pub(crate) fn released_later(files: &[RawFd]) -> Option<OwnedFd> {
    /// include/uapi/linux/io_uring.h: sizeof(struct io_uring_params), IORING_REGISTER_FILES.
    const PARAMETERS_BYTES: usize = 120;
    const REGISTER_FILES: libc::c_uint = 2;
    let mut parameters = [0_u64; PARAMETERS_BYTES / 8];
    // SAFETY: needed because there is no safe wrapper. The kernel reads and writes a structure of plain integers of just
    // that size; zeroes ask for nothing special.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
    let ring = RawFd::try_from(ring).ok().filter(|ring| *ring >= 0)?;
    // SAFETY: the kernel has just made it for us; it is closed on exec.
    let ring = unsafe { OwnedFd::from_raw_fd(ring) };
    let count = libc::c_uint::try_from(files.len()).ok()?;
    // SAFETY: needed for the same reason. The kernel reads `count` file descriptors.
    let done = unsafe {
        libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), REGISTER_FILES, files.as_ptr(), count)
    };
    (done == 0).then_some(ring)
}

/// Size of a huge page, and the alignment at which the host can use them for the guest.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Maps `bytes` of anonymous memory, aligned so that guest and host addresses agree within huge pages.
pub(crate) fn map_anonymous(bytes: usize) -> io::Result<Mapping> {
    let reserved = bytes.checked_add(HUGE_PAGE_BYTES).ok_or(io::ErrorKind::OutOfMemory)?;
    // SAFETY: a new mapping at an address that the kernel chooses touches nobody's memory.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            reserved,
            PROTECTION,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // The few unaligned pages around it stay reserved and are never touched: cheaper than giving them back.
    let aligned = start.addr().next_multiple_of(HUGE_PAGE_BYTES) - start.addr();
    Ok(Mapping { start: start.cast(), reserved, aligned, bytes })
}

/// Readable and writable.
const PROTECTION: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;

/// A mapping that is removed when nothing refers to it any more.
pub(crate) struct Mapping {
    start: *mut u8,
    reserved: usize,
    /// Offset and size of the part that is used.
    aligned: usize,
    bytes: usize,
}

// SAFETY: needed because of the pointer, which is only used to make the region and to unmap it.
unsafe impl Send for Mapping {}

/// Guest memory that owns its mapping.
pub(crate) struct OwnedRegion {
    region: Arc<GuestRegionMmap<()>>,
    mapping: Mapping,
}

impl OwnedRegion {
    /// Makes a mapping guest memory at `address`; `None` if it would end behind the last address.
    pub(crate) fn new(mapping: Mapping, address: GuestAddress) -> Option<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let start = mapping.start.wrapping_add(mapping.aligned);
        // SAFETY: needed because vm-memory cannot choose an alignment. The range is the mapping's own, and
        // the mapping outlives the region: see `drop`.
        let region = unsafe { MmapRegion::build_raw(start, mapping.bytes, PROTECTION, flags) }.ok()?;
        let region = Arc::new(GuestRegionMmap::new(region, address)?);
        Some(Self { region, mapping })
    }

    /// The region, for the guest's memory.
    pub(crate) fn region(&self) -> Arc<GuestRegionMmap<()>> {
        self.region.clone()
    }
}

impl Drop for OwnedRegion {
    fn drop(&mut self) {
        // Somebody still has the guest's memory: better it stays mapped for ever than until now.
        if Arc::get_mut(&mut self.region).is_none() {
            return;
        }
        // SAFETY: the mapping is ours, and the region, which is the only one left, is not used again: its
        // own drop does not touch memory that it did not map.
        unsafe { libc::munmap(self.mapping.start.cast(), self.mapping.reserved) };
    }
}

/// Replaces guest memory by a private mapping of a file's pages: nothing is read until the guest does, and
/// what it does not change is shared with all other guests. All three numbers must be multiples of pages.
pub(crate) fn map_file(memory: &GuestMem, file: &File, offset: u64, address: u64, bytes: usize) -> bool {
    let Ok(offset) = libc::off_t::try_from(offset) else { return false };
    // One slice: the range is guest memory, and all in one region.
    let Ok(slice) = memory.get_slice(GuestAddress(address), bytes) else { return false };
    let start = slice.ptr_guard_mut().as_ptr();
    // SAFETY: needed because vm-memory maps regions only as a whole. MAP_FIXED replaces exactly the pages of
    // `slice`, which lie in a mapping of guest memory; they stay readable and writable, and Rust code
    // accesses them only through vm-memory's volatile accessors, so nothing depends on what they held.
    let mapped = unsafe {
        libc::mmap(
            start.cast(),
            bytes,
            PROTECTION,
            libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            offset,
        )
    };
    mapped == start.cast()
}

/// Allows the host to use huge pages for this process as its policy says, or forbids it.
///
/// [`crate::Vm::new`] forbids it: a boot touches little of each huge page, so clearing them would take longer than all the
/// smaller faults, and an idle pod would keep them. When what the VM is for has started, huge pages are a gain again.
pub fn allow_huge_pages(allowed: bool) {
    // SAFETY: needed because there is no safe wrapper; no pointer, and with these arguments it cannot fail.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, libc::c_ulong::from(!allowed), 0_u64, 0_u64, 0_u64) };
}

/// Makes the host allocate a range that the guest will use as a whole, in huge pages if it has some. Best effort.
pub(crate) fn populate_huge(memory: &GuestMem, address: u64, bytes: usize) {
    let Ok(slice) = memory.get_slice(GuestAddress(address), bytes) else { return };
    let start = slice.ptr_guard_mut().as_ptr();
    // SAFETY: needed because there is no safe wrapper. The range is guest memory, as `slice` shows; the advice does not
    // change its content.
    unsafe { libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE) };
    allow_huge_pages(true);
    populate(memory, address, bytes);
    allow_huge_pages(false);
}

/// Makes the host allocate the pages of a range, which would otherwise happen when the guest first writes to each. A
/// kernel that cannot (before 5.14) leaves it at that. Both numbers must be multiples of pages.
pub(crate) fn populate(memory: &GuestMem, address: u64, bytes: usize) {
    let Ok(slice) = memory.get_slice(GuestAddress(address), bytes) else { return };
    let start = slice.ptr_guard_mut().as_ptr();
    // SAFETY: needed because there is no safe wrapper. The range is guest memory, as `slice` shows, and its content stays
    // what it is: the pages are only faulted in.
    unsafe { libc::madvise(start.cast(), bytes, libc::MADV_POPULATE_WRITE) };
}

/// What KVM says about an internal error.
pub(crate) struct InternalError {
    pub(crate) suberror: u32,
    pub(crate) data: Vec<u64>,
    /// The instruction that could not be emulated, when KVM gives it.
    pub(crate) instruction: Vec<u8>,
}

/// Reads the description of the internal error that the last KVM_RUN ended with.
pub(crate) fn internal_error(vcpu: &mut VcpuFd) -> Option<InternalError> {
    /// Documentation/virt/kvm/api.rst: flag of KVM_INTERNAL_ERROR_EMULATION.
    const INSTRUCTION_BYTES: u64 = 1;
    let run = vcpu.get_kvm_run();
    if run.exit_reason != KVM_EXIT_INTERNAL_ERROR {
        return None;
    }
    // SAFETY: a union of plain integers, of which the exit reason names this member.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    // SAFETY: the same bytes, as named when the suberror is an emulation failure; all are plain integers.
    let failure = unsafe { run.__bindgen_anon_1.emulation_failure };
    let emulation = internal.suberror == kvm_bindings::KVM_INTERNAL_ERROR_EMULATION;
    let instruction = if emulation && internal.ndata > 0 && failure.flags & INSTRUCTION_BYTES != 0 {
        // SAFETY: a union with one member.
        let bytes = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
        bytes.insn_bytes[..usize::from(bytes.insn_size).min(bytes.insn_bytes.len())].to_vec()
    } else {
        Vec::new()
    };
    let data = internal.data[..(internal.ndata as usize).min(internal.data.len())].to_vec();
    Some(InternalError { suberror: internal.suberror, data, instruction })
}

/// The way to make a vCPU thread leave KVM_RUN from another thread; open while the thread runs its vCPU.
#[derive(Default)]
pub(crate) struct KickSlot(Mutex<Option<Target>>);

struct Target {
    thread: libc::pthread_t,
    /// `kvm_run.immediate_exit` of the vCPU.
    immediate_exit: NonNull<AtomicU8>,
}

// SAFETY: needed because of the pointer, which is only used under the slot's lock and to store a byte
// atomically; `KickSlot::while_open` keeps what is behind it alive.
unsafe impl Send for Target {}

impl KickSlot {
    /// Runs `body` on the calling thread with the slot open for `vcpu`.
    pub(crate) fn while_open<R>(&self, vcpu: &mut VcpuFd, body: impl FnOnce(&mut VcpuFd) -> R) -> R {
        /// Closes the slot also when `body` panics.
        struct Close<'a>(&'a KickSlot);
        impl Drop for Close<'_> {
            fn drop(&mut self) {
                *self.0.lock() = None;
            }
        }
        let run: *mut kvm_run = vcpu.get_kvm_run();
        // SAFETY: the mapping of kvm_run lives as long as `vcpu`, which outlives this call, and the slot is
        // closed before the call returns. immediate_exit is a byte of its own, which the kernel expects
        // other threads to write while the vCPU runs; kvm-ioctls does not touch it unless asked.
        let immediate_exit = unsafe { NonNull::new_unchecked(&raw mut (*run).immediate_exit) }.cast();
        // SAFETY: always allowed.
        let thread = unsafe { libc::pthread_self() };
        let _close = Close(self);
        *self.lock() = Some(Target { thread, immediate_exit });
        body(vcpu)
    }

    /// If the slot is open: a KVM_RUN that runs now returns EINTR, and so do all later ones.
    pub(crate) fn kick(&self) {
        if let Some(target) = &*self.lock() {
            // SAFETY: the slot is open and locked, so the mapping is there.
            unsafe { target.immediate_exit.as_ref() }.store(1, Ordering::SeqCst);
            // SAFETY: the slot is open and locked, so the thread has not ended; the signal has a handler.
            unsafe { libc::pthread_kill(target.thread, kick_signal()) };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Target>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The signal of a kick: the first real-time signal that the C library leaves to programs.
fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

/// Gives the kick signal an empty handler, without which it would end the process.
pub(crate) fn handle_kicks() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: a zeroed sigaction is valid (no flags: KVM_RUN must not be restarted), the handler does
    // nothing and is therefore async-signal-safe, and the signal number is valid, so it cannot fail.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        libc::sigaction(kick_signal(), &raw const action, std::ptr::null_mut());
    }
}

/// Reads a vCPU's extended register state, as bytes of the standard XSAVE format.
pub(crate) fn read_xsave(vcpu: &VcpuFd, state: &mut [u8; 4096]) -> Result<(), kvm_ioctls::Error> {
    let xsave = vcpu.get_xsave()?;
    for (bytes, word) in state.chunks_exact_mut(4).zip(xsave.region) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    Ok(())
}

/// Sets a vCPU's extended register state.
pub(crate) fn write_xsave(vcpu: &VcpuFd, state: &[u8; 4096]) -> Result<(), kvm_ioctls::Error> {
    let mut xsave = kvm_xsave::default();
    for (bytes, word) in state.chunks_exact(4).zip(&mut xsave.region) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    set_xsave(vcpu, &xsave)
}

/// Sets a vCPU's extended register state, as KVM gave it.
pub(crate) fn set_xsave(vcpu: &VcpuFd, xsave: &kvm_xsave) -> Result<(), kvm_ioctls::Error> {
    // SAFETY: unsafe because KVM reads beyond the structure where a process has enabled larger dynamic features
    // (AMX) for its guests with arch_prctl; this process never does.
    unsafe { vcpu.set_xsave(xsave) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{ErrorKind, Read};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_is_released_later_lives_as_long_as_its_keeper_and_then_goes() {
        let (mut ours, released) = UnixStream::pair().unwrap();
        let Some(keeper) = released_later(&[released.as_raw_fd()]) else {
            return; // A host without io_uring.
        };
        drop(released);
        ours.set_nonblocking(true).unwrap();
        assert_eq!(ours.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(keeper);
        ours.set_nonblocking(false).unwrap();
        assert_eq!(ours.read(&mut [0]).unwrap(), 0, "the end, once the kernel has dropped it");
    }

    #[test]
    fn files_that_are_not_there_have_no_keeper() {
        assert!(released_later(&[-2]).is_none());
    }
}
