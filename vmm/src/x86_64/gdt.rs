//! The descriptors of the 64-bit boot protocol: `__BOOT_CS` 0x10 and `__BOOT_DS` 0x18
//! (Documentation/arch/x86/boot.rst).

use kvm_bindings::kvm_segment;

const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;

/// Execute/read, accessed; read/write, accessed (Intel SDM 3, table 3-1).
const CODE_TYPE: u8 = 11;
const DATA_TYPE: u8 = 3;

/// Flat 64-bit code and flat data, both present, DPL 0 (Intel SDM 3, 3.4.5).
const TABLE: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Offset of the table's last byte.
pub(crate) const LIMIT: u16 = (size_of::<[u64; 4]>() - 1) as u16;

/// The table as it is in memory.
pub(crate) fn bytes() -> Vec<u8> {
    TABLE.iter().flat_map(|descriptor| descriptor.to_le_bytes()).collect()
}

/// The code segment register.
pub(crate) fn code() -> kvm_segment {
    kvm_segment { selector: CODE_SELECTOR, type_: CODE_TYPE, l: 1, ..flat() }
}

/// Every other segment register.
pub(crate) fn data() -> kvm_segment {
    kvm_segment { selector: DATA_SELECTOR, type_: DATA_TYPE, db: 1, ..flat() }
}

fn flat() -> kvm_segment {
    kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, ..Default::default() }
}
