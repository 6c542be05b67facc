//! The VMM pivots into the share after it made the device: nothing may need a path or /proc from then on.

use std::fs;

use fuse_backend_rs::abi::fuse_abi::{Opcode, SetattrIn, SetattrValid};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};

use super::super::sys::unshare_mounts;
use super::super::{Fs, FsConfig};
use super::guest::{Guest, name_bytes};

#[test]
fn a_share_is_served_from_inside_it_without_proc() {
    if !super::root() || !super::alone() {
        return;
    }
    let share = tempfile::tempdir().unwrap();
    let path = share.path().to_owned();
    let outside = path.clone();
    fs::create_dir_all(path.join("1/rootfs")).unwrap();
    let moved = std::thread::spawn(move || {
        // Only this thread, and those that it starts, move.
        unshare_mounts().unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        mount_bind(&path, &path).unwrap();
        let device = Fs::new(FsConfig { tag: "crx".to_owned(), root: path.clone() }).unwrap();
        rustix::process::chdir(&path).unwrap();
        rustix::process::pivot_root(".", ".").unwrap();
        unmount(".", UnmountFlags::DETACH).unwrap();
        assert!(fs::metadata("/proc").is_err() && fs::metadata("/1/rootfs").is_ok());
        let mut guest = Guest::driver(share, device);
        guest.init(u32::MAX >> 2);
        use_all_ways(&mut guest);
    });
    moved.join().unwrap();
    // The other thread could not see it any more.
    fs::remove_dir_all(outside).unwrap();
}

/// One operation of each way to a file: by parent, by descriptor, by the directory of descriptors, by handle.
fn use_all_ways(guest: &mut Guest) {
    let rootfs = guest.walk("1/rootfs");
    let (file, fh) = guest.create(rootfs, "a", libc::O_RDWR, 0o600).unwrap();
    guest.write(file.nodeid, fh, 0, b"text").unwrap();
    let again = guest.open(file.nodeid, libc::O_RDONLY).unwrap().fh;
    assert_eq!(guest.read(file.nodeid, again, 0, 100).unwrap(), b"text");
    let body = [[5_u32.to_le_bytes(), [0; 4]].concat(), name_bytes("user.a"), b"value".to_vec()].concat();
    guest.call(Opcode::Setxattr, file.nodeid, &body).unwrap();
    let mode = SetattrIn { valid: SetattrValid::MODE.bits(), mode: 0o640, ..Default::default() };
    assert_eq!(guest.set(file.nodeid, mode).unwrap().attr.mode & 0o777, 0o640);
    let body = [file.nodeid.to_le_bytes().as_slice(), &name_bytes("b")].concat();
    guest.call(Opcode::Link, rootfs, &body).unwrap();
    assert_eq!(fs::read("/1/rootfs/b").unwrap(), b"text");
    assert!(guest.opendir(rootfs).is_ok());
    for name in ["a", "b"] {
        guest.call(Opcode::Unlink, rootfs, &name_bytes(name)).unwrap();
    }
}
