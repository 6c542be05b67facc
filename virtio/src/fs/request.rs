//! What a guest may ask for. Before this the library decoded the FUSE message; here every name, flag and length
//! in it becomes a checked value, without any I/O; after it `server.rs` acts on the host's files.

use std::ffi::CStr;
use std::io;

use rustix::fs::{FallocateFlags, FileType, OFlags, RenameFlags};
use rustix::io::Errno;

/// Longest name of a directory entry: NAME_MAX of linux/limits.h.
const NAME_MAX_BYTES: usize = 255;
/// Longest target of a symbolic link: PATH_MAX of linux/limits.h, its NUL included.
const PATH_MAX_BYTES: usize = 4096;
/// Longest name of an extended attribute: XATTR_NAME_MAX of linux/limits.h.
const XATTR_NAME_MAX_BYTES: usize = 255;
/// Longest value of an extended attribute and longest list of names: XATTR_SIZE_MAX of linux/limits.h.
pub(super) const XATTR_MAX_BYTES: usize = 64 << 10;
/// Most bytes of one READ or WRITE: 256 pages, what INIT answers as max_pages.
pub(super) const IO_MAX_BYTES: usize = 1 << 20;
/// Bits of a mode that a guest may set.
const MODE_BITS: u32 = 0o7777;

/// Flag of OPEN and CREATE: FUSE_OPEN_KILL_SUIDGID of linux/fuse.h.
pub(super) const OPEN_KILL_SUIDGID: u32 = 1;

/// A name in a directory: never a path, never the directory itself or its parent.
pub(super) fn entry_name(name: &CStr) -> io::Result<&CStr> {
    let bytes = name.to_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        return Err(Errno::INVAL.into());
    }
    if bytes.len() > NAME_MAX_BYTES {
        return Err(Errno::NAMETOOLONG.into());
    }
    Ok(name)
}

/// The target of a symbolic link. It may say anything: the host never follows one.
pub(super) fn link_target(target: &CStr) -> io::Result<&CStr> {
    match target.to_bytes().len() {
        0 => Err(Errno::NOENT.into()),
        length if length >= PATH_MAX_BYTES => Err(Errno::NAMETOOLONG.into()),
        _ => Ok(target),
    }
}

/// Permission bits.
pub(super) fn mode(mode: u32) -> rustix::fs::Mode {
    rustix::fs::Mode::from_bits_retain(mode & MODE_BITS)
}

/// The type that MKNOD makes.
pub(super) fn node_type(mode: u32) -> io::Result<FileType> {
    match FileType::from_raw_mode(mode) {
        kind @ (FileType::RegularFile
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice) => Ok(kind),
        _ => Err(Errno::INVAL.into()),
    }
}

/// The flags that a host file is opened with.
///
/// What only means something to the guest's own kernel is dropped: O_APPEND travels with every WRITE, so that
/// fcntl(F_SETFL) of the guest counts; O_DIRECT would only move the alignment rules of the host's disk into the
/// guest. O_NONBLOCK keeps a leased file from stopping the queue.
pub(super) fn open_flags(flags: u32) -> io::Result<OFlags> {
    let wanted = OFlags::from_bits_retain(flags);
    if wanted.bits() & libc::O_ACCMODE as u32 == libc::O_ACCMODE as u32 {
        return Err(Errno::INVAL.into());
    }
    let kept = OFlags::RWMODE | OFlags::TRUNC | OFlags::SYNC | OFlags::DSYNC;
    Ok((wanted & kept) | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY)
}

/// Whether a WRITE appends.
pub(super) fn appends(flags: u32) -> bool {
    OFlags::from_bits_retain(flags).contains(OFlags::APPEND)
}

/// Flags of RENAME2.
pub(super) fn rename_flags(flags: u32) -> io::Result<RenameFlags> {
    RenameFlags::from_bits(flags)
        .filter(|known| {
            (RenameFlags::NOREPLACE | RenameFlags::EXCHANGE | RenameFlags::WHITEOUT).contains(*known)
        })
        .ok_or(Errno::INVAL.into())
}

/// Modes of FALLOCATE that the FUSE driver passes on (fs/fuse/file.c).
pub(super) fn fallocate_mode(mode: u32) -> io::Result<FallocateFlags> {
    FallocateFlags::from_bits(mode)
        .filter(|known| {
            (FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE)
                .contains(*known)
        })
        .ok_or(Errno::OPNOTSUPP.into())
}

/// An extended attribute that a guest may see and set.
///
/// Labels and measurements of the host's security modules are the host's; POSIX ACLs would be stored but not
/// enforced, because the guest's kernel checks permissions and is not told about them.
fn xattr_is_guests(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name.starts_with(b"trusted.") || name == b"security.capability"
}

/// The name of an extended attribute.
pub(super) fn xattr_name(name: &CStr) -> io::Result<&CStr> {
    let bytes = name.to_bytes();
    if bytes.len() > XATTR_NAME_MAX_BYTES {
        return Err(Errno::RANGE.into());
    }
    if xattr_is_guests(bytes) { Ok(name) } else { Err(Errno::OPNOTSUPP.into()) }
}

/// Leaves only the names that the guest may see in a list of NUL-terminated names.
pub(super) fn visible_xattrs(list: &[u8]) -> Vec<u8> {
    let mut visible = Vec::with_capacity(list.len());
    for name in list.split_inclusive(|byte| *byte == 0) {
        if xattr_is_guests(name.strip_suffix(&[0]).unwrap_or(name)) {
            visible.extend_from_slice(name);
        }
    }
    visible
}

/// One record of getdents64(2), found in the buffer that the host's kernel filled.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RawEntry<'a> {
    pub(super) ino: u64,
    /// Where the next entry is.
    pub(super) next: u64,
    pub(super) kind: u8,
    pub(super) name: &'a [u8],
    /// Bytes of the record.
    pub(super) length: usize,
}

/// Bytes of a record before its name: struct linux_dirent64 of linux/dirent.h.
const RAW_HEADER_BYTES: usize = 19;

/// The first record of a buffer; `None` at its end.
pub(super) fn raw_entry(buffer: &[u8]) -> Option<RawEntry<'_>> {
    let field = |at: usize| Some(u64::from_ne_bytes(buffer.get(at..at + 8)?.try_into().ok()?));
    let length = usize::from(u16::from_ne_bytes(buffer.get(16..18)?.try_into().ok()?));
    let rest = buffer.get(RAW_HEADER_BYTES..length)?;
    let name = &rest[..rest.iter().position(|byte| *byte == 0)?];
    Some(RawEntry { ino: field(0)?, next: field(8)?, kind: buffer[18], name, length })
}
