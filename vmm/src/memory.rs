//! Guest memory: anonymous, committed page by page as the guest touches it, one KVM slot per region.

use crx_virtio::GuestMem;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryRegion};

use crate::error::{KvmContext, VmError};
use crate::{layout, sys};

/// Maps the memory and shows it to KVM.
pub(crate) fn create(vm: &VmFd, memory_mib: u32) -> Result<GuestMem, VmError> {
    let ranges: Vec<_> = layout::memory_regions(u64::from(memory_mib) << 20)
        .into_iter()
        .map(|(start, bytes)| (GuestAddress(start), bytes as usize))
        .collect();
    let memory = GuestMem::from_ranges(&ranges).map_err(|source| VmError::Memory(memory_mib, source))?;
    for (slot, region) in memory.iter().enumerate() {
        let slot = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        sys::set_memory_region(vm, slot, region).kvm("cannot add guest memory")?;
    }
    Ok(memory)
}
