//! Extended attributes of files, directories and symbolic links.

use std::fs;

use fuse_backend_rs::abi::fuse_abi::{GetxattrIn, GetxattrOut, Opcode, SetxattrIn};
use vm_memory::ByteValued;

use super::guest::{Guest, Reply, name_bytes, object};

fn set(guest: &mut Guest, node: u64, name: &str, value: &[u8], flags: i32) -> Reply<()> {
    let set = SetxattrIn { size: value.len() as u32, flags: flags as u32 };
    let body = [set.as_slice(), &name_bytes(name), value].concat();
    guest.call(Opcode::Setxattr, node, &body).map(drop)
}

fn get(guest: &mut Guest, node: u64, name: &str, size: u32) -> Reply<Vec<u8>> {
    let body = [GetxattrIn { size, padding: 0 }.as_slice(), &name_bytes(name)].concat();
    guest.call(Opcode::Getxattr, node, &body)
}

fn list(guest: &mut Guest, node: u64, size: u32) -> Reply<Vec<u8>> {
    guest.call(Opcode::Listxattr, node, GetxattrIn { size, padding: 0 }.as_slice())
}

#[test]
fn user_attributes_are_set_read_listed_and_removed() {
    let mut guest = Guest::mounted();
    fs::write(guest.host("1/rootfs/a"), "").unwrap();
    for path in ["1/rootfs/a", "1/rootfs"] {
        let node = guest.walk(path);
        assert_eq!(get(&mut guest, node, "user.a", 100), Err(libc::ENODATA));
        set(&mut guest, node, "user.a", b"value\0with zero", 0).unwrap();
        assert_eq!(get(&mut guest, node, "user.a", 100).unwrap(), b"value\0with zero");
        let length: GetxattrOut = object(&get(&mut guest, node, "user.a", 0).unwrap());
        assert_eq!(length.size, 15);
        assert_eq!(get(&mut guest, node, "user.a", 3), Err(libc::ERANGE));
        assert_eq!(set(&mut guest, node, "user.a", b"", libc::XATTR_CREATE), Err(libc::EEXIST));
        assert_eq!(set(&mut guest, node, "user.b", b"", libc::XATTR_REPLACE), Err(libc::ENODATA));
        assert_eq!(set(&mut guest, node, "user.b", b"", 64), Err(libc::EINVAL));
        assert_eq!(list(&mut guest, node, 100).unwrap(), b"user.a\0");
        let length: GetxattrOut = object(&list(&mut guest, node, 0).unwrap());
        assert_eq!(length.size, 7);
        assert_eq!(list(&mut guest, node, 3), Err(libc::ERANGE));
        guest.call(Opcode::Removexattr, node, &name_bytes("user.a")).unwrap();
        assert_eq!(list(&mut guest, node, 100).unwrap(), b"");
    }
}

#[test]
fn attributes_of_the_hosts_security_stay_the_hosts() {
    let mut guest = Guest::mounted();
    let node = guest.walk("1/rootfs");
    for name in ["security.selinux", "system.posix_acl_access", "system.posix_acl_default", "other.a"] {
        assert_eq!(set(&mut guest, node, name, b"x", 0), Err(libc::EOPNOTSUPP), "{name}");
        assert_eq!(get(&mut guest, node, name, 100), Err(libc::EOPNOTSUPP), "{name}");
        assert_eq!(guest.call(Opcode::Removexattr, node, &name_bytes(name)), Err(libc::EOPNOTSUPP), "{name}");
    }
}

#[test]
fn root_sets_capabilities_and_trusted_attributes_and_a_write_clears_the_former() {
    if !super::root() {
        return;
    }
    let mut guest = Guest::mounted();
    fs::write(guest.host("1/rootfs/a"), "").unwrap();
    std::os::unix::fs::symlink("a", guest.host("1/rootfs/l")).unwrap();
    let (file, link) = (guest.walk("1/rootfs/a"), guest.walk("1/rootfs/l"));
    // VFS_CAP_REVISION_2 with CAP_NET_RAW permitted and effective.
    let mut capability = [0; 20];
    capability[..4].copy_from_slice(&0x0200_0001_u32.to_le_bytes());
    capability[4..8].copy_from_slice(&(1_u32 << 13).to_le_bytes());
    set(&mut guest, file, "security.capability", &capability, 0).unwrap();
    assert_eq!(get(&mut guest, file, "security.capability", 100).unwrap(), capability);
    let fh = guest.open(file, libc::O_RDWR).unwrap().fh;
    guest.write(file, fh, 0, b"x").unwrap();
    assert_eq!(get(&mut guest, file, "security.capability", 100), Err(libc::ENODATA));

    // A symbolic link has attributes of its own, and none of the user namespace.
    set(&mut guest, link, "trusted.a", b"link", 0).unwrap();
    assert_eq!(get(&mut guest, link, "trusted.a", 100).unwrap(), b"link");
    assert_eq!(get(&mut guest, file, "trusted.a", 100), Err(libc::ENODATA));
    assert_eq!(set(&mut guest, link, "user.a", b"", 0), Err(libc::EPERM));
}

#[test]
fn sizes_that_lie_are_refused() {
    let mut guest = Guest::mounted();
    fs::write(guest.host("1/rootfs/a"), "").unwrap();
    let node = guest.walk("1/rootfs/a");
    let lie = [SetxattrIn { size: 1000, flags: 0 }.as_slice(), &name_bytes("user.a"), b"short"].concat();
    assert_eq!(guest.call(Opcode::Setxattr, node, &lie), Err(libc::EINVAL));
    assert_eq!(set(&mut guest, node, "user.a", &vec![0; 100_000], 0), Err(libc::E2BIG));
    set(&mut guest, node, "user.a", b"x", 0).unwrap();
    assert_eq!(get(&mut guest, node, "user.a", u32::MAX).unwrap(), b"x");
    assert_eq!(list(&mut guest, node, u32::MAX).unwrap(), b"user.a\0");
}
