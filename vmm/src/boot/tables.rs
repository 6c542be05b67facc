//! The MP table (Intel MultiProcessor Specification 1.4): processors, the IOAPIC, and which of its inputs
//! something is connected to. Inputs without a device are left out, so that the kernel sets none of them up.

use crate::layout;

/// Revision 1.4 in the floating pointer and in the table's header.
const SPEC_REVISION: u8 = 4;
/// Versions that KVM's APICs report (APIC_VERSION, IOAPIC_VERSION_ID in arch/x86/kvm).
const LOCAL_APIC_VERSION: u8 = 0x14;
const IOAPIC_VERSION: u8 = 0x11;
/// Processor flags: usable; the one that boots (MP 1.4, 4.3.1).
const ENABLED: u8 = 1;
const BOOT_PROCESSOR: u8 = 2;
/// Interrupt types (MP 1.4, table 4-11).
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;
/// Interrupt flags: active high, edge-triggered (MP 1.4, table 4-10). An irqfd is a pulse.
const EDGE_HIGH: u16 = 0b0101;
/// The only bus.
const ISA_BUS: u8 = 0;
/// All local APICs, as a destination.
const ALL_APICS: u8 = 0xff;

/// The floating pointer with the table behind it, for [`layout::MP_TABLE`].
pub(crate) fn mp_table(vcpus: u8, gsis: &[u32]) -> Vec<u8> {
    let pointer = floating_pointer();
    let mut bytes = pointer.to_vec();
    bytes.extend(configuration(vcpus, gsis));
    bytes
}

/// MP 1.4, 4.1.
fn floating_pointer() -> [u8; 16] {
    let mut pointer = [0; 16];
    pointer[..4].copy_from_slice(b"_MP_");
    // Below 1 MiB.
    let table = layout::MP_TABLE as u32 + pointer.len() as u32;
    pointer[4..8].copy_from_slice(&table.to_le_bytes());
    pointer[8] = 1;
    pointer[9] = SPEC_REVISION;
    pointer[10] = checksum(&pointer);
    pointer
}

/// MP 1.4, 4.2 and 4.3.
fn configuration(vcpus: u8, gsis: &[u32]) -> Vec<u8> {
    // APIC IDs are the vCPUs' numbers; the IOAPIC has the next one.
    let ioapic = vcpus;
    let mut entries: Vec<u8> = Vec::new();
    for id in 0..vcpus {
        let flags = if id == 0 { ENABLED | BOOT_PROCESSOR } else { ENABLED };
        entries.extend([0, id, LOCAL_APIC_VERSION, flags]);
        // Signature, feature flags, reserved: CPUID says it all.
        entries.extend([0; 16]);
    }
    entries.extend([1, ISA_BUS]);
    entries.extend(*b"ISA   ");
    entries.extend([2, ioapic, IOAPIC_VERSION, ENABLED]);
    entries.extend(layout::IOAPIC.to_le_bytes());
    let [flags_low, flags_high] = EDGE_HIGH.to_le_bytes();
    for gsi in gsis {
        // Input n carries ISA interrupt n; both are below IOAPIC_PINS.
        let line = *gsi as u8;
        entries.extend([3, INT, flags_low, flags_high, ISA_BUS, line, ioapic, line]);
    }
    entries.extend([4, EXT_INT, 0, 0, ISA_BUS, 0, 0, 0]);
    entries.extend([4, NMI, 0, 0, ISA_BUS, 0, ALL_APICS, 1]);

    let count = u16::from(vcpus) + 2 + gsis.len() as u16 + 2;
    let mut table = Vec::from(*b"PCMP");
    let length = HEADER_BYTES + entries.len() as u16;
    table.extend(length.to_le_bytes());
    table.extend([SPEC_REVISION, 0]);
    table.extend(*b"CRX     microVM     ");
    // No OEM table.
    table.extend([0; 6]);
    table.extend(count.to_le_bytes());
    table.extend(layout::LOCAL_APIC.to_le_bytes());
    // No extended table.
    table.extend([0; 4]);
    table.extend(entries);
    table[CHECKSUM] = checksum(&table);
    table
}

/// Size of the table's header, and where its checksum is (MP 1.4, 4.2).
const HEADER_BYTES: u16 = 44;
const CHECKSUM: usize = 7;

/// What makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits the entries as Linux does: by type.
    fn entries(table: &[u8]) -> Vec<&[u8]> {
        let mut entries = Vec::new();
        let mut rest = &table[usize::from(HEADER_BYTES)..];
        while let Some(kind) = rest.first() {
            let (entry, next) = rest.split_at(if *kind == 0 { 20 } else { 8 });
            entries.push(entry);
            rest = next;
        }
        entries
    }

    #[test]
    fn checksums_lengths_and_counts_agree() {
        for vcpus in [1, 2, 63, 64] {
            for gsis in [&[][..], &[4, 5, 6], &[5; 19]] {
                let bytes = mp_table(vcpus, gsis);
                let (pointer, table) = bytes.split_at(16);
                assert_eq!(checksum(pointer), 0);
                assert_eq!(pointer[4..8], 0x9_fc10u32.to_le_bytes());
                assert_eq!(checksum(table), 0);
                assert_eq!(usize::from(u16::from_le_bytes([table[4], table[5]])), table.len());
                let count = u16::from_le_bytes([table[34], table[35]]);
                assert_eq!(usize::from(count), entries(table).len());
                assert!(layout::MP_TABLE + bytes.len() as u64 <= layout::HIGH_MEMORY);
            }
        }
    }

    #[test]
    fn one_processor_boots_and_all_ids_differ() {
        let bytes = mp_table(64, &[5, 6]);
        let all = entries(&bytes[16..]);
        let processors: Vec<_> = all.iter().filter(|entry| entry[0] == 0).collect();
        assert_eq!(processors.len(), 64);
        assert!(processors.iter().enumerate().all(|(id, entry)| usize::from(entry[1]) == id));
        assert_eq!(processors.iter().filter(|entry| entry[3] & BOOT_PROCESSOR != 0).count(), 1);
        let ioapic = all.iter().find(|entry| entry[0] == 2).map(|entry| entry[1]);
        assert_eq!(ioapic, Some(64));
    }

    #[test]
    fn device_lines_are_edge_triggered_isa_interrupts() {
        let bytes = mp_table(1, &[4, 7]);
        let lines: Vec<_> = entries(&bytes[16..]).into_iter().filter(|entry| entry[0] == 3).collect();
        assert_eq!(lines, [[3, 0, 5, 0, 0, 4, 1, 4], [3, 0, 5, 0, 0, 7, 1, 7]]);
    }
}
