//! A part of a file appears in guest memory: whole pages as a private mapping, so that nothing is read or
//! copied which the guest does not touch, and its unchanged pages are one copy for all guests; the rest is read.
//!
//! Like the files of running programs, these must not be written in place while guests run: replace them.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use crx_virtio::GuestMem;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::sys;

/// Mappings are in pages.
pub(super) const PAGE_BYTES: u64 = 4096;

/// Puts `bytes` of `file` from `offset` on at `address`.
pub(super) fn place(
    memory: &GuestMem,
    file: &mut File,
    offset: u64,
    address: u64,
    bytes: u64,
) -> Result<(), GuestMemoryError> {
    let pages = bytes & !(PAGE_BYTES - 1);
    let aligned = offset.is_multiple_of(PAGE_BYTES) && address.is_multiple_of(PAGE_BYTES);
    let mapped = if aligned && pages > 0 && sys::map_file(memory, file, offset, address, pages as usize) {
        pages
    } else {
        0
    };
    if mapped == bytes {
        return Ok(());
    }
    file.seek(SeekFrom::Start(offset + mapped)).map_err(GuestMemoryError::IOError)?;
    memory.read_exact_volatile_from(GuestAddress(address + mapped), file, (bytes - mapped) as usize)
}

/// Has the host allocate the whole pages from `start` to `end` now, because the guest will write to all of them.
pub(super) fn populate(memory: &GuestMem, start: u64, end: u64) {
    let (from, to) = (start.next_multiple_of(PAGE_BYTES), end & !(PAGE_BYTES - 1));
    if from < to {
        sys::populate(memory, from, (to - from) as usize);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;

    use vmm_sys_util::tempfile::TempFile;

    use super::*;

    #[test]
    fn aligned_or_not_the_bytes_are_the_same_and_the_file_stays() {
        let mut file = TempFile::new().unwrap().into_file();
        let content: Vec<u8> = (0..20_000_u32).map(|n| (n * 7 / 5) as u8).collect();
        file.write_all(&content).unwrap();
        for (offset, address, bytes) in
            [(0, 8192, 20_000), (4096, 4096, 8192), (4096, 0, 100), (1, 4096, 9000), (4096, 5000, 9000)]
        {
            let memory = GuestMem::from_ranges(&[(GuestAddress(0), 1 << 16)]).unwrap();
            place(&memory, &mut file, offset, address, bytes).unwrap();
            populate(&memory, address, address + bytes);
            let mut seen = vec![0xff; 1 << 16];
            memory.read_slice(&mut seen, GuestAddress(0)).unwrap();
            let (from, to) = (address as usize, (address + bytes) as usize);
            assert_eq!(seen[from..to], content[offset as usize..(offset + bytes) as usize]);
            assert!(seen[..from].iter().chain(&seen[to..]).all(|byte| *byte == 0), "nothing around it");
            memory.write_slice(&[0xee; 64], GuestAddress(address)).unwrap();
        }
        let mut again = Vec::new();
        file.rewind().unwrap();
        std::io::Read::read_to_end(&mut file, &mut again).unwrap();
        assert_eq!(again, content, "guests write to their own copies");
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let mut file = TempFile::new().unwrap().into_file();
        file.set_len(8192).unwrap();
        let memory = GuestMem::from_ranges(&[(GuestAddress(0), 8192)]).unwrap();
        assert!(place(&memory, &mut file, 0, 4096, 8192).is_err());
        assert!(place(&memory, &mut file, 4096, 0, 8191).is_err(), "a file that became shorter");
    }
}
