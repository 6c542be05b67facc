//! Guest memory in a file: a sparse image, each page at its guest-physical address, and a list of where it has any. Pods
//! map those parts privately, so what they do not change is one copy for all of them; the rest of their memory is
//! anonymous, because a hole of a file that is read takes a page of the cache.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crc32fast::Hasher;
use crx_virtio::GuestMem;
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryRegion};

use crate::sys;

/// Size of a page.
const PAGE_BYTES: u64 = 4096;

/// Parts that are less than this apart become one: each is a mapping, which costs every launch.
const MAX_GAP_BYTES: u64 = 64 << 10;

/// Bytes read at once for a checksum.
const CHUNK_BYTES: usize = 1 << 20;

/// A part of the memory that has content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Extent {
    /// Guest-physical address, and offset in the file.
    pub(crate) start: u64,
    /// Size, a multiple of pages.
    pub(crate) bytes: u64,
}

/// Writes the memory to an empty file; where it has content, and the checksum of that.
pub(crate) fn save(memory: &GuestMem, file: &File) -> io::Result<(Vec<Extent>, u32)> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut page = vec![0; PAGE_BYTES as usize];
    for region in memory.iter() {
        let start = region.start_addr().0;
        for address in (start..start + region.len()).step_by(PAGE_BYTES as usize) {
            memory.read_slice(&mut page, GuestAddress(address)).map_err(io::Error::other)?;
            if page.iter().all(|byte| *byte == 0) {
                continue;
            }
            file.write_all_at(&page, address)?;
            match extents.last_mut() {
                Some(last) if address - (last.start + last.bytes) < MAX_GAP_BYTES => {
                    last.bytes = address + PAGE_BYTES - last.start;
                }
                _ => extents.push(Extent { start: address, bytes: PAGE_BYTES }),
            }
        }
    }
    let checksum = checksum(file, &extents)?;
    Ok((extents, checksum))
}

/// CRC-32 of what a file has in these parts.
pub(crate) fn checksum(file: &File, extents: &[Extent]) -> io::Result<u32> {
    let mut hasher = Hasher::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    for Extent { start, bytes } in extents {
        let mut at = *start;
        while at < start + bytes {
            let want = CHUNK_BYTES.min((start + bytes - at) as usize);
            file.read_exact_at(&mut chunk[..want], at)?;
            hasher.update(&chunk[..want]);
            at += want as u64;
        }
    }
    Ok(hasher.finalize())
}

/// Maps the parts of a file over new guest memory.
pub(crate) fn map(memory: &GuestMem, file: &File, extents: &[Extent]) -> io::Result<()> {
    for Extent { start, bytes } in extents {
        if !sys::map_file(memory, file, *start, *start, *bytes as usize) {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use vmm_sys_util::tempfile::TempFile;

    use super::*;

    fn memory() -> GuestMem {
        GuestMem::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
    }

    #[test]
    fn what_is_not_zero_comes_back_and_nothing_else() {
        let saved = memory();
        for address in [0x1000, 0x2ff0, 0x8_0000] {
            saved.write_slice(b"here", GuestAddress(address)).unwrap();
        }
        let file = TempFile::new().unwrap().into_file();
        let (extents, sum) = save(&saved, &file).unwrap();
        assert_eq!(
            extents,
            [Extent { start: 0x1000, bytes: 0x2000 }, Extent { start: 0x8_0000, bytes: 0x1000 }]
        );
        assert_eq!(checksum(&file, &extents).unwrap(), sum);
        let restored = memory();
        map(&restored, &file, &extents).unwrap();
        let all = |memory: &GuestMem| {
            let mut bytes = vec![0; 1 << 20];
            memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
            bytes
        };
        assert_eq!(all(&saved), all(&restored));
        restored.write_slice(b"gone", GuestAddress(0x1000)).unwrap();
        assert_eq!(checksum(&file, &extents).unwrap(), sum, "the file is not written by its mappings");
    }

    #[test]
    fn a_changed_bit_and_a_short_file_are_noticed() {
        let saved = memory();
        saved.write_slice(&[1; 0x3000], GuestAddress(0x4000)).unwrap();
        let file = TempFile::new().unwrap().into_file();
        let (extents, sum) = save(&saved, &file).unwrap();
        file.write_all_at(&[3], 0x5123).unwrap();
        assert_ne!(checksum(&file, &extents).unwrap(), sum);
        file.set_len(0x6000).unwrap();
        assert!(checksum(&file, &extents).is_err());
    }
}
