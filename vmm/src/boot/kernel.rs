//! The guest kernel: an uncompressed ELF `vmlinux`, entered at its 64-bit entry point. The headers are parsed
//! once, without I/O, into an [`Image`] that fits the guest; then each segment is mapped from the file into guest
//! memory, which is zero already where the file has nothing.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crx_virtio::GuestMem;

use super::file::{self, place};
use crate::layout;

/// The ELF header and the program headers are at the beginning of any vmlinux; Linux has 5 of them.
const HEADER_BYTES: usize = 4096;

/// Sizes and constants of ELF-64 (System V ABI, chapters 4 and 5).
const EHDR_BYTES: usize = 64;
const PHDR_BYTES: usize = 56;
const ELFCLASS64: u8 = 2;
const ELFDATA2LSB: u8 = 1;
const EM_X86_64: u16 = 62;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const PT_LOAD: u32 = 1;
const PF_W: u32 = 2;
/// Where the kernel's half of the address space begins (Documentation/arch/x86/x86_64/mm.rst): a kernel is linked to
/// run there, a program below.
const KERNEL_HALF: u64 = 1 << 63;

/// A kernel that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The file system says no.
    #[error("cannot read kernel {0}")]
    Read(PathBuf, #[source] io::Error),
    /// It is not what it should be.
    #[error("kernel {0}: {1}")]
    Elf(PathBuf, ElfFault),
    /// It became shorter while it was read.
    #[error("cannot load kernel {0}")]
    Load(PathBuf, #[source] vm_memory::GuestMemoryError),
}

/// What is wrong with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfFault {
    /// Something else, perhaps a compressed bzImage.
    #[error("is not an ELF image (an uncompressed vmlinux is needed)")]
    NotElf,
    /// Another machine, 32 bits, or an object that is not to be executed.
    #[error("is not an executable for x86-64")]
    NotX86_64,
    /// A program or a library.
    #[error("is a program, not a kernel (an uncompressed vmlinux is needed)")]
    NotAKernel,
    /// Shorter than its headers say.
    #[error("is truncated")]
    Truncated,
    /// Headers that contradict themselves.
    #[error("has bad program headers")]
    BadHeaders,
    /// Outside of the memory that the guest has.
    #[error("needs memory from {start:#x} to {end:#x}, but the guest has {from:#x} to {memory_end:#x}", from = layout::HIGH_MEMORY)]
    OutsideMemory {
        /// Start of the segment.
        start: u64,
        /// Its end.
        end: u64,
        /// End of the guest's low memory.
        memory_end: u64,
    },
    /// An entry point that is no kernel code.
    #[error("has its entry point {0:#x} outside of its segments")]
    Entry(u64),
}

/// A part of the file and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    offset: u64,
    file_bytes: u64,
    start: u64,
    /// Its end in memory, zero-filled part included.
    end: u64,
    /// The kernel writes to it.
    writable: bool,
}

/// A kernel that fits the guest.
#[derive(Debug, PartialEq, Eq)]
struct Image {
    entry: u64,
    segments: Vec<Segment>,
}

/// Where a loaded kernel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LoadedKernel {
    /// Address of the first instruction.
    pub(crate) entry: u64,
    /// End of its memory.
    pub(crate) end: u64,
}

/// Loads the file.
pub(crate) fn load(
    memory: &GuestMem,
    memory_bytes: u64,
    file: &mut File,
    path: &Path,
) -> Result<LoadedKernel, KernelError> {
    let read = |source| KernelError::Read(path.into(), source);
    let file_bytes = file.metadata().map_err(read)?.len();
    let mut header = Vec::with_capacity(HEADER_BYTES);
    file.by_ref().take(HEADER_BYTES as u64).read_to_end(&mut header).map_err(read)?;
    let image = parse(&header, file_bytes, memory_bytes.min(layout::LOW_MEMORY_END))
        .map_err(|fault| KernelError::Elf(path.into(), fault))?;
    for segment in image.segments.iter().filter(|segment| segment.file_bytes > 0) {
        place(memory, file, segment.offset, segment.start, segment.file_bytes)
            .map_err(|source| KernelError::Load(path.into(), source))?;
        if segment.writable {
            // The boot writes to nearly every page of it: one call is cheaper than two faults for each.
            file::populate(memory, segment.start, segment.end);
        }
    }
    let end = image.segments.iter().map(|segment| segment.end).max().unwrap_or(layout::HIGH_MEMORY);
    Ok(LoadedKernel { entry: image.entry, end })
}

/// Checks everything that the headers say against the file and the guest's memory.
fn parse(header: &[u8], file_bytes: u64, memory_end: u64) -> Result<Image, ElfFault> {
    if !header.starts_with(b"\x7fELF") {
        return Err(ElfFault::NotElf);
    }
    let ehdr = header.get(..EHDR_BYTES).ok_or(ElfFault::Truncated)?;
    let kind = u16_at(ehdr, 16);
    if ehdr[4] != ELFCLASS64
        || ehdr[5] != ELFDATA2LSB
        || u16_at(ehdr, 18) != EM_X86_64
        || !matches!(kind, ET_EXEC | ET_DYN)
    {
        return Err(ElfFault::NotX86_64);
    }
    if kind == ET_DYN {
        return Err(ElfFault::NotAKernel);
    }
    let (offset, size, count) = (u64_at(ehdr, 32), u16_at(ehdr, 54), u16_at(ehdr, 56));
    if usize::from(size) != PHDR_BYTES || count == 0 {
        return Err(ElfFault::BadHeaders);
    }
    let start = usize::try_from(offset).map_err(|_| ElfFault::BadHeaders)?;
    let end = start.checked_add(usize::from(count) * PHDR_BYTES).ok_or(ElfFault::BadHeaders)?;
    if end > HEADER_BYTES {
        return Err(ElfFault::BadHeaders);
    }
    let table = header.get(start..end).ok_or(ElfFault::Truncated)?;
    let loaded = || table.chunks_exact(PHDR_BYTES).filter(|phdr| u32_at(phdr, 0) == PT_LOAD);
    // The addresses that it is linked to; where it is loaded is in another field.
    if loaded().next().is_some() && loaded().all(|phdr| u64_at(phdr, 16) < KERNEL_HALF) {
        return Err(ElfFault::NotAKernel);
    }
    let segments =
        loaded().map(|phdr| segment(phdr, file_bytes, memory_end)).collect::<Result<Vec<_>, _>>()?;
    let entry = u64_at(ehdr, 24);
    let inside = |segment: &Segment| (segment.start..segment.start + segment.file_bytes).contains(&entry);
    if !segments.iter().any(inside) {
        return Err(ElfFault::Entry(entry));
    }
    Ok(Image { entry, segments })
}

fn segment(phdr: &[u8], file_bytes: u64, memory_end: u64) -> Result<Segment, ElfFault> {
    let (offset, start) = (u64_at(phdr, 8), u64_at(phdr, 24));
    let (size, memory) = (u64_at(phdr, 32), u64_at(phdr, 40));
    if size > memory {
        return Err(ElfFault::BadHeaders);
    }
    if offset.checked_add(size).ok_or(ElfFault::BadHeaders)? > file_bytes {
        return Err(ElfFault::Truncated);
    }
    let end = start.checked_add(memory).ok_or(ElfFault::BadHeaders)?;
    if start < layout::HIGH_MEMORY || end > memory_end {
        return Err(ElfFault::OutsideMemory { start, end, memory_end });
    }
    Ok(Segment { offset, file_bytes: size, start, end, writable: u32_at(phdr, 4) & PF_W != 0 })
}

/// Little-endian numbers; the callers have checked the lengths of the headers.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY_END: u64 = 64 << 20;

    /// A header of one segment: 16 bytes of the file at 4096, 32 bytes of memory at 1 MiB, linked to where a kernel is.
    fn header() -> Vec<u8> {
        let mut header = vec![0; HEADER_BYTES];
        header[..6].copy_from_slice(b"\x7fELF\x02\x01");
        for (at, value) in [(16, u64::from(ET_EXEC) | 62 << 16), (24, 0x10_0000), (32, 64)] {
            header[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
        }
        header[54..58].copy_from_slice(&[PHDR_BYTES as u8, 0, 1, 0]);
        let linked_to = 0xffff_ffff_8010_0000;
        for (at, value) in [(0, 1), (8, 4096), (16, linked_to), (24, 0x10_0000), (32, 16), (40, 32)] {
            header[64 + at..64 + at + 8].copy_from_slice(&u64::to_le_bytes(value));
        }
        header
    }

    fn fault(edit: impl FnOnce(&mut Vec<u8>)) -> ElfFault {
        let mut header = header();
        edit(&mut header);
        parse(&header, 4112, MEMORY_END).map_or_else(|fault| fault, |image| panic!("{image:?}"))
    }

    #[test]
    fn a_good_image() {
        let segment =
            Segment { offset: 4096, file_bytes: 16, start: 0x10_0000, end: 0x10_0020, writable: false };
        let image = Image { entry: 0x10_0000, segments: vec![segment] };
        assert_eq!(parse(&header(), 4112, MEMORY_END), Ok(image));
        let mut header = header();
        header[64 + 4] = 6;
        let segments = vec![Segment { writable: true, ..segment }];
        assert_eq!(parse(&header, 4112, MEMORY_END), Ok(Image { entry: 0x10_0000, segments }));
    }

    #[test]
    fn what_is_no_elf() {
        assert_eq!(parse(b"", 0, MEMORY_END), Err(ElfFault::NotElf));
        assert_eq!(parse(b"#!/bin/sh\n", 10, MEMORY_END), Err(ElfFault::NotElf));
        assert_eq!(fault(|header| header[0] = b'M'), ElfFault::NotElf);
    }

    #[test]
    fn what_is_for_another_machine() {
        assert_eq!(fault(|header| header[4] = 1), ElfFault::NotX86_64);
        assert_eq!(fault(|header| header[5] = 2), ElfFault::NotX86_64);
        assert_eq!(fault(|header| header[18] = 183), ElfFault::NotX86_64);
        assert_eq!(fault(|header| header[16] = 1), ElfFault::NotX86_64);
    }

    #[test]
    fn what_is_a_program() {
        let user_half = |header: &mut Vec<u8>| header[64 + 23] = 0;
        assert_eq!(fault(user_half), ElfFault::NotAKernel);
        assert_eq!(fault(|header| header[16] = 3), ElfFault::NotAKernel, "position-independent");
        let elsewhere = |header: &mut Vec<u8>| header[64 + 16..64 + 32].fill(0);
        assert_eq!(fault(elsewhere), ElfFault::NotAKernel, "also where it does not fit");
    }

    #[test]
    fn every_truncation() {
        for length in 4..EHDR_BYTES + PHDR_BYTES {
            let cut = parse(&header()[..length], length as u64, MEMORY_END);
            assert_eq!(cut, Err(ElfFault::Truncated), "{length}");
        }
        assert_eq!(parse(&header(), 4111, MEMORY_END), Err(ElfFault::Truncated));
    }

    #[test]
    fn headers_that_contradict_themselves() {
        let bad: [(usize, u8); 5] = [(54, 64), (56, 0), (33, 0x10), (39, 0xff), (57, 0xff)];
        for (at, value) in bad {
            assert_eq!(fault(|header| header[at] = value), ElfFault::BadHeaders, "byte {at}");
        }
        assert_eq!(fault(|header| header[64 + 32] = 33), ElfFault::BadHeaders, "more file than memory");
        assert_eq!(fault(|header| header[64 + 8..64 + 16].fill(0xff)), ElfFault::BadHeaders);
        assert_eq!(fault(|header| header[64 + 24..64 + 32].fill(0xff)), ElfFault::BadHeaders);
    }

    #[test]
    fn segments_outside_memory() {
        let outside = |start, end| ElfFault::OutsideMemory { start, end, memory_end: MEMORY_END };
        assert_eq!(fault(|header| header[64 + 26] = 0), outside(0, 32));
        assert_eq!(fault(|header| header[64 + 27] = 4), outside(0x410_0000, 0x410_0020));
    }

    #[test]
    fn an_entry_that_is_no_code() {
        assert_eq!(fault(|header| header[24] = 16), ElfFault::Entry(0x10_0010));
        assert_eq!(fault(|header| header[64] = 2), ElfFault::Entry(0x10_0000), "no PT_LOAD at all");
    }
}
