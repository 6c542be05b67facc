//! The system calls that no safe wrapper offers: credentials and capabilities of one thread, file handles, raw
//! directory reading, and I/O straight between files and guest memory. `files.rs` and `nodes.rs` build on it.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use fuse_backend_rs::file_buf::FileVolatileSlice;
use fuse_backend_rs::file_traits::FileReadWriteVolatile;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets, UnshareFlags};

thread_local! {
    /// Capabilities of this thread if it has the one that keeps set-user-ID bits through a write.
    static WITH_FSETID: Cell<Option<CapabilitySets>> = const { Cell::new(None) };
    /// User and group that this thread makes files as when no guest's user is meant.
    static OWN_IDS: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
}

/// Gives this thread what serving files needs: its own umask (none: the guest applies its own) and working
/// directory (`descriptors`, a directory whose entries are the process's descriptors), and capabilities that stay
/// when it takes a guest's user for a moment.
pub(super) fn prepare_thread(descriptors: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: CLONE_FS only makes umask, root and working directory this thread's own; no memory or descriptor is
    // touched, and no code of this thread has relied on sharing them.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }?;
    rustix::process::umask(Mode::empty());
    rustix::process::fchdir(descriptors)?;
    OWN_IDS.set((rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
    if let Ok(bits) = rustix::thread::capabilities_secure_bits() {
        // Refused without CAP_SETPCAP: then taking a user costs the file capabilities until it is given back.
        let _ = rustix::thread::set_capabilities_secure_bits(bits | CapabilitiesSecureBits::NO_SETUID_FIXUP);
    }
    let sets = rustix::thread::capabilities(None).ok();
    WITH_FSETID.set(sets.filter(|sets| sets.effective.contains(CapabilitySet::FSETID)));
    Ok(())
}

/// While it lives, this thread makes files as a guest's user.
pub(super) struct Caller {
    given_back: bool,
}

impl Caller {
    /// Takes `uid` and `gid`. Without the privilege to do so files are the process's own, as everything else is.
    pub(super) fn assume(uid: u32, gid: u32) -> io::Result<Self> {
        // -1 is "no change" to the system calls and no user to anybody.
        if uid == u32::MAX || gid == u32::MAX {
            return Err(Errno::INVAL.into());
        }
        let own = OWN_IDS.get();
        let given_back = (uid, gid) == own;
        if !given_back {
            set_file_ids(uid, gid);
        }
        Ok(Self { given_back })
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if !self.given_back {
            let (uid, gid) = OWN_IDS.get();
            set_file_ids(uid, gid);
        }
    }
}

fn set_file_ids(uid: u32, gid: u32) {
    // SAFETY: both only change the identity of this thread towards file systems, and take plain numbers.
    unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
    }
}

/// Does `work` without CAP_FSETID, so that the host's kernel clears set-user-ID bits as for any other writer.
pub(super) fn without_fsetid<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let Some(sets) = WITH_FSETID.get() else { return work() };
    let mut fewer = sets;
    fewer.effective.remove(CapabilitySet::FSETID);
    rustix::thread::set_capabilities(None, fewer)?;
    let result = work();
    rustix::thread::set_capabilities(None, sets)?;
    result
}

/// Fills `buffer` with the next records of a directory.
pub(super) fn getdents(directory: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer`, which is ours for the call.
    let filled = unsafe {
        libc::syscall(libc::SYS_getdents64, directory.as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
    };
    usize::try_from(filled).map_err(|_| io::Error::last_os_error())
}

/// Gives this thread mounts of its own, for a test that moves its root.
#[cfg(test)]
pub(super) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: only this thread's view of mounts, root and working directory changes; descriptors stay shared.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?)
}

/// statvfs(3) of an open file, in the form that the library turns into a reply.
pub(super) fn file_system(file: BorrowedFd<'_>) -> io::Result<libc::statvfs64> {
    let mut stat = std::mem::MaybeUninit::<libc::statvfs64>::zeroed();
    // SAFETY: the C library fills exactly one structure, of which every bit pattern is valid.
    let result = unsafe { libc::fstatvfs64(file.as_raw_fd(), stat.as_mut_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was zeroed, and filled by the call that succeeded.
    Ok(unsafe { stat.assume_init() })
}

/// Most bytes of a file handle: MAX_HANDLE_SZ of linux/exportfs.h.
const HANDLE_MAX_BYTES: usize = 128;

/// Names an inode of a file system without keeping it open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FileHandle {
    kind: i32,
    bytes: Box<[u8]>,
}

/// struct file_handle with room for the longest one.
#[repr(C)]
struct RawHandle {
    length: u32,
    kind: i32,
    bytes: [u8; HANDLE_MAX_BYTES],
}

impl FileHandle {
    /// The handle of an open file, where its file system has handles.
    pub(super) fn of(file: BorrowedFd<'_>) -> io::Result<Self> {
        let mut raw = RawHandle { length: HANDLE_MAX_BYTES as u32, kind: 0, bytes: [0; HANDLE_MAX_BYTES] };
        let mut mount = 0;
        // SAFETY: `raw` has the layout of struct file_handle with `length` bytes behind it, the path is an empty C
        // string (AT_EMPTY_PATH), and both outlive the call.
        let result = unsafe {
            libc::name_to_handle_at(
                file.as_raw_fd(),
                c"".as_ptr(),
                (&raw mut raw).cast(),
                &raw mut mount,
                libc::AT_EMPTY_PATH,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        let length = (raw.length as usize).min(HANDLE_MAX_BYTES);
        Ok(Self { kind: raw.kind, bytes: raw.bytes[..length].into() })
    }

    /// Opens the inode through `mount`, any open file of its mount.
    pub(super) fn open(&self, mount: BorrowedFd<'_>, flags: rustix::fs::OFlags) -> io::Result<OwnedFd> {
        let mut raw =
            RawHandle { length: self.bytes.len() as u32, kind: self.kind, bytes: [0; HANDLE_MAX_BYTES] };
        raw.bytes[..self.bytes.len()].copy_from_slice(&self.bytes);
        // SAFETY: as in `of`; the kernel only reads `raw`.
        let fd =
            unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut raw).cast(), flags.bits() as i32) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// A file as the library's transport reads and writes it, always at an offset.
pub(super) struct Io<'a> {
    file: BorrowedFd<'a>,
    append: bool,
}

impl<'a> Io<'a> {
    /// `append`: every write goes to the end of the file, wherever that is.
    pub(super) fn new(file: &'a impl AsFd, append: bool) -> Self {
        Self { file: file.as_fd(), append }
    }
}

fn vectors(buffers: &[FileVolatileSlice<'_>]) -> Vec<libc::iovec> {
    buffers
        .iter()
        .map(|buffer| libc::iovec { iov_base: buffer.as_ptr().cast(), iov_len: buffer.len() })
        .collect()
}

impl FileReadWriteVolatile for Io<'_> {
    fn read_volatile(&mut self, _slice: FileVolatileSlice<'_>) -> io::Result<usize> {
        Err(Errno::SPIPE.into())
    }

    fn write_volatile(&mut self, _slice: FileVolatileSlice<'_>) -> io::Result<usize> {
        Err(Errno::SPIPE.into())
    }

    fn read_at_volatile(&mut self, slice: FileVolatileSlice<'_>, offset: u64) -> io::Result<usize> {
        self.read_vectored_at_volatile(&[slice], offset)
    }

    fn write_at_volatile(&mut self, slice: FileVolatileSlice<'_>, offset: u64) -> io::Result<usize> {
        self.write_vectored_at_volatile(&[slice], offset)
    }

    fn read_vectored_at_volatile(
        &mut self,
        buffers: &[FileVolatileSlice<'_>],
        offset: u64,
    ) -> io::Result<usize> {
        let vectors = vectors(buffers);
        // SAFETY: every vector is guest memory that the transport checked and keeps mapped for the call; the guest
        // may write it at the same time, which is its own loss: no Rust reference to it exists.
        let done = unsafe {
            libc::preadv(self.file.as_raw_fd(), vectors.as_ptr(), vectors.len() as i32, offset as i64)
        };
        usize::try_from(done).map_err(|_| io::Error::last_os_error())
    }

    fn write_vectored_at_volatile(
        &mut self,
        buffers: &[FileVolatileSlice<'_>],
        offset: u64,
    ) -> io::Result<usize> {
        let vectors = vectors(buffers);
        let flags = if self.append { libc::RWF_APPEND } else { 0 };
        // SAFETY: as in `read_vectored_at_volatile`; the kernel only reads the guest memory.
        let done = unsafe {
            libc::pwritev2(
                self.file.as_raw_fd(),
                vectors.as_ptr(),
                vectors.len() as i32,
                offset as i64,
                flags,
            )
        };
        usize::try_from(done).map_err(|_| io::Error::last_os_error())
    }
}

/// The decimal name of a descriptor in the directory of descriptors.
pub(super) struct DescriptorName([u8; 12]);

impl DescriptorName {
    /// The name of `fd`.
    pub(super) fn of(fd: impl AsFd) -> Self {
        let mut name = [0; 12];
        let mut rest = fd.as_fd().as_raw_fd().unsigned_abs();
        let digits = rest.checked_ilog10().unwrap_or(0) as usize + 1;
        for at in (0..digits).rev() {
            name[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        Self(name)
    }

    /// The name as the system calls take it.
    pub(super) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }
}
