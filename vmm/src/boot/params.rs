//! `boot_params` (the "zero page" of Documentation/arch/x86/zero-page.rst) and the page tables that the
//! 64-bit boot protocol asks for.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params as BootParams};

use crate::layout;

/// Usable memory in the memory map (arch/x86/include/asm/e820/types.h).
const E820_RAM: u32 = 1;

/// setup_header.type_of_loader: a loader without a number of its own (Documentation/arch/x86/boot.rst).
const UNDEFINED_LOADER: u8 = 0xff;

/// setup_header.boot_flag, header and version, which tell Linux that the header was filled in.
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;

/// Page table entry: present and writable; a 2 MiB page (AMD64 APM 2, 5.4.1).
const PRESENT_WRITABLE: u64 = 3;
const LARGE_PAGE: u64 = 0x80;
const PAGE_BYTES: usize = 4096;

/// Says where everything is.
pub(crate) fn boot_params(memory_bytes: u64, command_line_bytes: u32, initramfs: (u64, u64)) -> BootParams {
    let mut params = BootParams::default();
    params.hdr.boot_flag = BOOT_FLAG;
    params.hdr.header = HEADER_MAGIC;
    params.hdr.type_of_loader = UNDEFINED_LOADER;
    params.hdr.cmd_line_ptr = layout::COMMAND_LINE as u32;
    params.hdr.cmdline_size = command_line_bytes;
    // Both below LOW_MEMORY_END, so they fit 32 bits.
    params.hdr.ramdisk_image = initramfs.0 as u32;
    params.hdr.ramdisk_size = initramfs.1 as u32;
    let map = memory_map(memory_bytes);
    params.e820_entries = map.len() as u8;
    for (entry, (addr, size)) in params.e820_table.iter_mut().zip(map) {
        *entry = boot_e820_entry { addr, size, type_: E820_RAM };
    }
    params
}

/// Usable memory: without the MP table and the rest of the first MiB.
fn memory_map(memory_bytes: u64) -> Vec<(u64, u64)> {
    let mut map = vec![(0, layout::BASE_MEMORY_END)];
    for (start, bytes) in layout::memory_regions(memory_bytes) {
        let from = start.max(layout::HIGH_MEMORY);
        map.push((from, start + bytes - from));
    }
    map
}

/// The pages of [`layout::PAGE_TABLES`]: the first GiB in 2 MiB pages.
pub(crate) fn page_tables() -> [[u8; PAGE_BYTES]; 3] {
    let [_, pointers, directory] = layout::PAGE_TABLES;
    let mut tables = [[0; PAGE_BYTES]; 3];
    tables[0][..8].copy_from_slice(&(pointers | PRESENT_WRITABLE).to_le_bytes());
    tables[1][..8].copy_from_slice(&(directory | PRESENT_WRITABLE).to_le_bytes());
    for (index, entry) in tables[2].chunks_exact_mut(8).enumerate() {
        entry.copy_from_slice(&((index as u64) << 21 | LARGE_PAGE | PRESENT_WRITABLE).to_le_bytes());
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_memory_map_leaves_out_the_mp_table_and_the_hole() {
        assert_eq!(memory_map(128 * MIB), [(0, 0x9_fc00), (MIB, 127 * MIB)]);
        assert_eq!(
            memory_map(4096 * MIB),
            [
                (0, 0x9_fc00),
                (MIB, layout::LOW_MEMORY_END - MIB),
                (layout::HOLE_END, 4096 * MIB - layout::LOW_MEMORY_END)
            ]
        );
    }

    #[test]
    fn the_zero_page_says_where_everything_is() {
        let params = boot_params(64 * MIB, 100, (60 * MIB, 4096));
        let header = params.hdr;
        assert_eq!({ header.cmd_line_ptr }, 0x2_0000);
        assert_eq!({ header.cmdline_size }, 100);
        assert_eq!(({ header.ramdisk_image }, { header.ramdisk_size }), (60 << 20, 4096));
        assert_eq!(params.e820_entries, 2);
        let last = params.e820_table[1];
        assert_eq!(({ last.addr }, { last.size }, { last.type_ }), (MIB, 63 * MIB, E820_RAM));
    }

    #[test]
    fn the_first_gib_is_mapped_to_itself() {
        let tables = page_tables();
        let entry = |table: usize, index: usize| {
            u64::from_le_bytes(std::array::from_fn(|byte| tables[table][index * 8 + byte]))
        };
        assert_eq!((entry(0, 0), entry(1, 0)), (0xa003, 0xb003));
        assert_eq!((entry(2, 0), entry(2, 1), entry(2, 511)), (0x83, 0x20_0083, 0x3fe0_0083));
        assert_eq!((entry(0, 1), entry(1, 1)), (0, 0));
    }
}
