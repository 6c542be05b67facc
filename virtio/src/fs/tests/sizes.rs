//! Contents: reading, writing, appending, holes, sizes, and files without a name.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use fuse_backend_rs::abi::fuse_abi::{
    FallocateIn, FsyncIn, Kstatfs, LseekIn, LseekOut, Opcode, ROOT_ID, SetattrIn, SetattrValid, WriteIn,
};
use vm_memory::ByteValued;

use super::guest::{Guest, name_bytes, object};

#[test]
fn what_is_written_is_read_in_pieces_of_a_mebibyte() {
    let mut guest = Guest::mounted();
    let rootfs = guest.walk("1/rootfs");
    let (file, fh) = guest.create(rootfs, "a", libc::O_RDWR, 0o640).unwrap();
    let data: Vec<u8> = (0..1 << 20_u32).map(|at| (at % 251) as u8).collect();
    assert_eq!(guest.write(file.nodeid, fh, 5, &data), Ok(1 << 20));
    assert_eq!(fs::metadata(guest.host("1/rootfs/a")).unwrap().len(), 5 + (1 << 20));
    assert_eq!(guest.read(file.nodeid, fh, 5, 1 << 20).unwrap(), data);
    assert_eq!(guest.read(file.nodeid, fh, 1 << 20, 4096).unwrap(), data[(1 << 20) - 5..]);
    assert_eq!(guest.read(file.nodeid, fh, 1 << 30, 4096).unwrap(), b"");
    assert_eq!(guest.release(file.nodeid, fh), Ok(()));
    assert_eq!(guest.read(file.nodeid, fh, 0, 1), Err(libc::EBADF));
}

#[test]
fn access_modes_are_those_of_the_open() {
    let mut guest = Guest::mounted();
    fs::write(guest.host("1/rootfs/a"), "text").unwrap();
    let node = guest.walk("1/rootfs/a");
    let reader = guest.open(node, libc::O_RDONLY).unwrap().fh;
    let writer = guest.open(node, libc::O_WRONLY).unwrap().fh;
    assert_eq!(guest.write(node, reader, 0, b"x"), Err(libc::EBADF));
    assert_eq!(guest.read(node, writer, 0, 4), Err(libc::EBADF));
    let truncating = guest.open(node, libc::O_WRONLY | libc::O_TRUNC).unwrap().fh;
    assert_eq!(guest.read(node, reader, 0, 4).unwrap(), b"");
    assert_eq!(guest.release(node, truncating), Ok(()));
}

#[test]
fn an_append_goes_to_the_end_that_the_host_sees() {
    let mut guest = Guest::mounted();
    fs::write(guest.host("1/volumes/0/log"), "one ").unwrap();
    let node = guest.walk("1/volumes/0/log");
    let fh = guest.open(node, libc::O_WRONLY | libc::O_APPEND).unwrap().fh;
    fs::write(guest.host("1/volumes/0/log"), "one two ").unwrap();
    let append = WriteIn { fh, offset: 4, flags: libc::O_APPEND as u32, ..Default::default() };
    assert_eq!(guest.write_with(node, append, b"three"), Ok(5));
    assert_eq!(fs::read(guest.host("1/volumes/0/log")).unwrap(), b"one two three");
    // fcntl(F_SETFL) took the flag away.
    assert_eq!(guest.write(node, fh, 0, b"ONE"), Ok(3));
    assert_eq!(fs::read(guest.host("1/volumes/0/log")).unwrap(), b"ONE two three");
}

#[test]
fn a_file_without_a_name_lives_until_it_is_released() {
    let mut guest = Guest::mounted();
    let rootfs = guest.walk("1/rootfs");
    let (file, fh) = guest.create(rootfs, "a", libc::O_RDWR, 0o600).unwrap();
    guest.call(Opcode::Unlink, rootfs, &name_bytes("a")).unwrap();
    assert_eq!(guest.write(file.nodeid, fh, 0, b"still here"), Ok(10));
    assert_eq!(guest.attributes(file.nodeid, Some(fh)).unwrap().nlink, 0);
    assert_eq!(guest.attributes(file.nodeid, None).unwrap().size, 10);
    let shorter = SetattrIn { valid: SetattrValid::SIZE.bits() | 0x40, fh, size: 5, ..Default::default() };
    assert_eq!(guest.set(file.nodeid, shorter).unwrap().attr.size, 5);
    assert_eq!(guest.read(file.nodeid, fh, 0, 100).unwrap(), b"still");
    // /proc/self/fd of a process in the guest opens it again.
    let again = guest.open(file.nodeid, libc::O_RDONLY).unwrap().fh;
    assert_eq!(guest.read(file.nodeid, again, 0, 100).unwrap(), b"still");
}

#[test]
fn renaming_over_an_open_file_leaves_it_to_its_users() {
    let mut guest = Guest::mounted();
    fs::write(guest.host("1/rootfs/old"), "old").unwrap();
    fs::write(guest.host("1/rootfs/new"), "new").unwrap();
    let rootfs = guest.walk("1/rootfs");
    let old = guest.walk("1/rootfs/old");
    let fh = guest.open(old, libc::O_RDONLY).unwrap().fh;
    let body = [rootfs.to_le_bytes().as_slice(), &name_bytes("new"), &name_bytes("old")].concat();
    guest.call(Opcode::Rename, rootfs, &body).unwrap();
    assert_eq!(guest.read(old, fh, 0, 10).unwrap(), b"old");
    assert_eq!(fs::read(guest.host("1/rootfs/old")).unwrap(), b"new");
    assert_ne!(guest.walk("1/rootfs/old"), old);
}

#[test]
fn holes_are_made_and_found() {
    let mut guest = Guest::mounted();
    let rootfs = guest.walk("1/rootfs");
    let (file, fh) = guest.create(rootfs, "sparse", libc::O_RDWR, 0o600).unwrap();
    let node = file.nodeid;
    guest.write(node, fh, 0, &[1; 65536]).unwrap();
    guest.write(node, fh, 1 << 20, &[1; 65536]).unwrap();
    let seek = |guest: &mut Guest, offset: u64, whence: i32| {
        let body = LseekIn { fh, offset, whence: whence as u32, padding: 0 };
        guest.call(Opcode::Lseek, node, body.as_slice()).map(|out| object::<LseekOut>(&out).offset)
    };
    assert_eq!(seek(&mut guest, 0, libc::SEEK_HOLE), Ok(65536));
    assert_eq!(seek(&mut guest, 65536, libc::SEEK_DATA), Ok(1 << 20));
    assert_eq!(seek(&mut guest, 2 << 20, libc::SEEK_DATA), Err(libc::ENXIO));
    assert_eq!(seek(&mut guest, 0, libc::SEEK_END), Err(libc::EINVAL));

    let fallocate = |guest: &mut Guest, mode: i32, offset: u64, length: u64| {
        let body = FallocateIn { fh, offset, length, mode: mode as u32, padding: 0 };
        guest.call(Opcode::Fallocate, node, body.as_slice()).map(drop)
    };
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    assert_eq!(fallocate(&mut guest, punch, 0, 32768), Ok(()));
    assert_eq!(seek(&mut guest, 0, libc::SEEK_DATA), Ok(32768));
    assert_eq!(fallocate(&mut guest, 0, 0, 4 << 20), Ok(()));
    let size = fs::metadata(guest.host("1/rootfs/sparse")).unwrap().size();
    assert_eq!(size, 4 << 20);
    assert_eq!(fallocate(&mut guest, libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096), Err(libc::EOPNOTSUPP));
    assert_eq!(fallocate(&mut guest, 0, u64::MAX, 4096), Err(libc::EINVAL));
}

#[test]
fn times_and_sizes_are_set_as_asked() {
    let mut guest = Guest::mounted();
    fs::write(guest.host("1/rootfs/a"), "text").unwrap();
    let node = guest.walk("1/rootfs/a");
    let change = SetattrIn {
        valid: (SetattrValid::MTIME | SetattrValid::SIZE).bits(),
        size: 2,
        mtime: 1_000_000,
        mtimensec: 123_456_789,
        ..Default::default()
    };
    let before = fs::metadata(guest.host("1/rootfs/a")).unwrap();
    let attr = guest.set(node, change).unwrap().attr;
    assert_eq!((attr.size, attr.mtime, attr.mtimensec), (2, 1_000_000, 123_456_789));
    let after = fs::metadata(guest.host("1/rootfs/a")).unwrap();
    assert_eq!((after.atime(), after.atime_nsec()), (before.atime(), before.atime_nsec()));
    let now =
        SetattrIn { valid: (SetattrValid::MTIME | SetattrValid::MTIME_NOW).bits(), ..Default::default() };
    assert!(guest.set(node, now).unwrap().attr.mtime > 1_000_000);
    let huge = SetattrIn { valid: SetattrValid::SIZE.bits(), size: u64::MAX, ..Default::default() };
    assert_eq!(guest.set(node, huge).err(), Some(libc::EINVAL));
}

#[test]
fn statfs_and_fsync_reach_the_host() {
    let mut guest = Guest::mounted();
    let rootfs = guest.walk("1/rootfs");
    let out: Kstatfs = object(&guest.call(Opcode::Statfs, ROOT_ID, &[]).unwrap());
    assert!(out.blocks > 0 && out.namelen == 255 && out.bsize >= 512);
    let (file, fh) = guest.create(rootfs, "a", libc::O_RDWR | libc::O_SYNC, 0o600).unwrap();
    for fsync_flags in [0, 1] {
        let body = FsyncIn { fh, fsync_flags, padding: 0 };
        assert_eq!(guest.call(Opcode::Fsync, file.nodeid, body.as_slice()), Ok(Vec::new()));
    }
    let directory = guest.opendir(rootfs).unwrap().fh;
    let body = FsyncIn { fh: directory, ..Default::default() };
    assert_eq!(guest.call(Opcode::Fsyncdir, rootfs, body.as_slice()), Ok(Vec::new()));
}

#[test]
fn a_host_reads_what_the_guest_wrote_at_once() {
    let mut guest = Guest::mounted();
    let volume = guest.walk("1/volumes/0");
    let (file, fh) = guest.create(volume, "a", libc::O_RDWR, 0o600).unwrap();
    guest.write(file.nodeid, fh, 0, b"from the guest").unwrap();
    let host = fs::File::options().read(true).write(true).open(guest.host("1/volumes/0/a")).unwrap();
    let mut read = [0; 14];
    host.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(&read, b"from the guest");
    host.write_all_at(b"host", 10).unwrap();
    assert_eq!(guest.read(file.nodeid, fh, 0, 100).unwrap(), b"from the ghost");
}
