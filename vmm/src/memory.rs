//! Guest memory: anonymous, committed page by page as the guest touches it, one KVM slot per region. Regions
//! are aligned so that the host's huge pages, if its policy has them, are the guest's too.

use crx_virtio::GuestMem;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryRegion};

use crate::error::{KvmContext, VmError};
use crate::layout;
use crate::sys::{self, OwnedRegion};

/// The memory, and what keeps it mapped.
pub(crate) struct OwnedMemory {
    // First: the regions are unmapped when nobody else has the memory any more.
    pub(crate) memory: GuestMem,
    _regions: Vec<OwnedRegion>,
}

/// Maps the memory of a guest that boots.
pub(crate) fn create(memory_mib: u32) -> Result<OwnedMemory, VmError> {
    map(memory_mib, layout::memory_regions(u64::from(memory_mib) << 20))
}

/// Maps the memory that a guest has had at its boot, all of it below the hole, and what is added to it behind the hole.
pub(crate) fn create_with_hotplug(boot_mib: u32, added_mib: u32) -> Result<OwnedMemory, VmError> {
    let mut regions = layout::memory_regions(u64::from(boot_mib) << 20);
    if added_mib > 0 {
        regions.push((layout::HOLE_END, u64::from(added_mib) << 20));
    }
    map(boot_mib + added_mib, regions)
}

fn map(memory_mib: u32, places: Vec<(u64, u64)>) -> Result<OwnedMemory, VmError> {
    let cannot = |source| VmError::Memory(memory_mib, source);
    let mut regions = Vec::new();
    for (start, bytes) in places {
        let mapping = sys::map_anonymous(bytes as usize).map_err(cannot)?;
        let region = OwnedRegion::new(mapping, GuestAddress(start));
        regions.push(region.ok_or(std::io::ErrorKind::InvalidInput.into()).map_err(cannot)?);
    }
    let memory = GuestMem::from_arc_regions(regions.iter().map(OwnedRegion::region).collect())
        .map_err(|error| cannot(std::io::Error::other(error)))?;
    Ok(OwnedMemory { memory, _regions: regions })
}

/// Shows the memory to KVM.
pub(crate) fn show(memory: &GuestMem, vm: &VmFd) -> Result<(), VmError> {
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
    Ok(())
}
