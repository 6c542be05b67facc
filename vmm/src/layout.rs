//! Every guest-physical address that the VMM chooses, and every interrupt line.
//!
//! ```text
//! 0x0000_0500  global descriptor table         0x0009_fc00  MP table
//! 0x0000_7000  boot_params                     0x0010_0000  kernel segments; initramfs at the top
//! 0x0000_9000  page tables (3 pages)           0xd000_0000  virtio-mmio windows, end of low memory
//! 0x0002_0000  command line                    0xfec0_0000  IOAPIC    0xfee0_0000  local APICs
//!                                            0x1_0000_0000  the rest of the memory
//! ```

use std::ops::Range;

/// Global descriptor table for the 64-bit entry point, above the interrupt vectors and the BIOS data area's
/// start, which nobody reads before Linux takes the page over.
pub(crate) const GDT: u64 = 0x500;

/// `boot_params`, the "zero page" (Documentation/arch/x86/boot.rst, 64-bit boot protocol).
pub(crate) const BOOT_PARAMS: u64 = 0x7000;

/// Top of the stack at entry; Linux sets its own before it calls anything.
pub(crate) const BOOT_STACK: u64 = 0x8ff0;

/// Page map, directory pointers and one directory: the first GiB identity-mapped.
pub(crate) const PAGE_TABLES: [u64; 3] = [0x9000, 0xa000, 0xb000];

/// The kernel's command line.
pub(crate) const COMMAND_LINE: u64 = 0x2_0000;

/// Size of the command line with its NUL: COMMAND_LINE_SIZE in arch/x86/include/asm/setup.h.
pub(crate) const COMMAND_LINE_MAX_BYTES: usize = 2048;

/// Where Linux looks for the MP table: the last KiB of base memory (MP specification 1.4, chapter 4). A table
/// of 64 processors runs past 640 KiB, into memory that the memory map leaves out.
pub(crate) const MP_TABLE: u64 = 0x9_fc00;

/// End of usable base memory.
pub(crate) const BASE_MEMORY_END: u64 = MP_TABLE;

/// Start of extended memory, and the lowest address of a kernel segment.
pub(crate) const HIGH_MEMORY: u64 = 0x10_0000;

/// End of the memory below 4 GiB; what is more goes above 4 GiB.
pub(crate) const LOW_MEMORY_END: u64 = 0xd000_0000;

/// End of the hole.
pub(crate) const HOLE_END: u64 = 0x1_0000_0000;

/// First virtio-mmio window; the others follow directly.
pub(crate) const MMIO_WINDOWS: u64 = 0xd000_0000;

/// Interrupt line of the first window; the others follow. 0 to 4 are the legacy devices'.
pub(crate) const FIRST_DEVICE_GSI: u32 = 5;

/// Inputs of KVM's IOAPIC (KVM_IOAPIC_NUM_PINS).
pub(crate) const IOAPIC_PINS: u32 = 24;

/// Most devices: one input each.
pub(crate) const MAX_DEVICES: usize = (IOAPIC_PINS - FIRST_DEVICE_GSI) as usize;

/// Interrupt line of the first serial port.
pub(crate) const SERIAL_GSI: u32 = 4;

/// First of the eight ports of the first serial port.
pub(crate) const SERIAL_PORT: u16 = 0x3f8;

/// Interrupt controllers, where KVM puts them (IOAPIC_DEFAULT_BASE_ADDRESS, APIC_DEFAULT_PHYS_BASE).
pub(crate) const IOAPIC: u32 = 0xfec0_0000;
/// See [`IOAPIC`].
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;

/// Three pages for KVM on Intel (Documentation/virt/kvm/api.rst, KVM_SET_TSS_ADDR).
pub(crate) const TSS: usize = 0xfffb_d000;

/// Memory is added to a running guest in blocks of this size (memory_block_size_bytes() of arch/x86/mm/init_64.c), from
/// the end of the hole on.
pub(crate) const HOTPLUG_BLOCK_MIB: u32 = 128;

/// Most vCPUs: CONFIG_NR_CPUS of the guest kernel.
pub(crate) const MAX_VCPUS: u8 = 64;

/// The memory map: (start, bytes) of each piece of guest memory.
pub(crate) fn memory_regions(memory_bytes: u64) -> Vec<(u64, u64)> {
    let low = memory_bytes.min(LOW_MEMORY_END);
    let high = memory_bytes - low;
    let mut regions = vec![(0, low)];
    if high > 0 {
        regions.push((HOLE_END, high));
    }
    regions
}

/// Size of the host's and the guest's huge pages.
pub(crate) const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// Where Linux puts its page structures (`struct page`, 64 bytes for each 4 KiB): in whole huge pages, as high as there
/// is room. Start and end; empty if there is too little memory to tell.
pub(crate) fn page_structures(memory_bytes: u64, initramfs_start: u64) -> Range<u64> {
    /// A huge page of structures describes so much memory, and a part of it takes a whole one (SECTION_SIZE_BITS).
    const SECTION_BYTES: u64 = 128 << 20;
    let low = memory_bytes.min(LOW_MEMORY_END);
    let high = memory_bytes - low;
    let sections = low.div_ceil(SECTION_BYTES) + high.div_ceil(SECTION_BYTES);
    let bytes = sections * HUGE_PAGE_BYTES;
    let (bottom, top) =
        if high >= 2 * bytes { (HOLE_END, HOLE_END + high) } else { (HIGH_MEMORY, initramfs_start) };
    let end = top & !(HUGE_PAGE_BYTES - 1);
    match end.checked_sub(bytes) {
        Some(start) if start >= bottom => start..end,
        _ => end..end,
    }
}

/// The same for memory that is added: each block begins with the huge page that describes it (rootfs/kernel, patch 0029).
pub(crate) fn added_page_structures(added_bytes: u64) -> impl Iterator<Item = u64> {
    (HOLE_END..HOLE_END + added_bytes).step_by((HOTPLUG_BLOCK_MIB as usize) << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn memory_below_the_hole_is_one_region() {
        assert_eq!(memory_regions(128 * MIB), [(0, 128 * MIB)]);
        assert_eq!(memory_regions(LOW_MEMORY_END), [(0, LOW_MEMORY_END)]);
    }

    #[test]
    fn the_rest_goes_above_4_gib() {
        assert_eq!(memory_regions(LOW_MEMORY_END + MIB), [(0, LOW_MEMORY_END), (0x1_0000_0000, MIB)]);
        let regions = memory_regions(64 << 30);
        assert_eq!(regions.iter().map(|region| region.1).sum::<u64>(), 64 << 30);
    }

    #[test]
    fn page_structures_lie_below_the_initramfs_or_at_the_end_of_high_memory() {
        assert_eq!(page_structures(256 * MIB, 256 * MIB - 4096), 250 * MIB..254 * MIB);
        assert_eq!(page_structures(100 * MIB, 99 * MIB), 96 * MIB..98 * MIB);
        let end = HOLE_END + (8 << 30) - LOW_MEMORY_END;
        assert_eq!(page_structures(8 << 30, LOW_MEMORY_END - MIB), end - 128 * MIB..end);
        assert!(page_structures(2 * MIB, MIB).is_empty());
    }

    #[test]
    fn each_block_that_is_added_begins_with_what_describes_it() {
        assert_eq!(added_page_structures(0).count(), 0);
        let starts: Vec<u64> = added_page_structures(256 * MIB).collect();
        assert_eq!(starts, [HOLE_END, HOLE_END + 128 * MIB]);
    }

    #[test]
    fn the_windows_end_below_the_interrupt_controllers() {
        let end = MMIO_WINDOWS + MAX_DEVICES as u64 * crx_virtio::transport::WINDOW_BYTES;
        assert!(end <= u64::from(IOAPIC) && MMIO_WINDOWS >= LOW_MEMORY_END);
    }
}
