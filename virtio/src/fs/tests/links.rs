//! Links, renames and special files.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use fuse_backend_rs::abi::fuse_abi::{EntryOut, MknodIn, Opcode, Rename2In};
use vm_memory::ByteValued;

use super::guest::{Guest, Reply, name_bytes, object};

fn link(guest: &mut Guest, node: u64, parent: u64, name: &str) -> Reply<EntryOut> {
    let body = [node.to_le_bytes().as_slice(), &name_bytes(name)].concat();
    guest.call(Opcode::Link, parent, &body).map(|reply| object(&reply))
}

fn symlink(guest: &mut Guest, parent: u64, name: &str, target: &str) -> Reply<EntryOut> {
    let body = [name_bytes(name), name_bytes(target)].concat();
    guest.call(Opcode::Symlink, parent, &body).map(|reply| object(&reply))
}

fn rename(guest: &mut Guest, from: (u64, &str), to: (u64, &str), flags: u32) -> Reply<()> {
    let rename = Rename2In { newdir: to.0, flags, padding: 0 };
    let body = [rename.as_slice(), &name_bytes(from.1), &name_bytes(to.1)].concat();
    guest.call(Opcode::Rename2, from.0, &body).map(drop)
}

#[test]
fn hard_links_are_one_node_with_one_inode() {
    let mut guest = Guest::mounted();
    let rootfs = guest.walk("1/rootfs");
    let (file, _) = guest.create(rootfs, "a", libc::O_RDWR, 0o600).unwrap();
    let second = link(&mut guest, file.nodeid, rootfs, "b").unwrap();
    assert_eq!((second.nodeid, second.attr.nlink), (file.nodeid, 2));
    guest.call(Opcode::Unlink, rootfs, &name_bytes("a")).unwrap();
    assert_eq!(guest.attributes(file.nodeid, None).unwrap().nlink, 1);
    assert_eq!(link(&mut guest, rootfs, rootfs, "c").err(), Some(libc::EPERM));
    assert_eq!(link(&mut guest, file.nodeid, rootfs, "b").err(), Some(libc::EEXIST));
}

#[test]
fn symbolic_links_are_made_read_linked_and_never_followed() {
    let mut guest = Guest::mounted();
    let rootfs = guest.walk("1/rootfs");
    let made = symlink(&mut guest, rootfs, "l", "/etc/passwd").unwrap();
    assert_eq!(made.attr.mode & libc::S_IFMT, libc::S_IFLNK);
    assert_eq!(guest.call(Opcode::Readlink, made.nodeid, &[]).unwrap(), b"/etc/passwd");
    assert_eq!(fs::read_link(guest.host("1/rootfs/l")).unwrap().to_str(), Some("/etc/passwd"));
    assert_eq!(guest.open(made.nodeid, libc::O_RDONLY).err(), Some(libc::ELOOP));
    assert_eq!(guest.opendir(made.nodeid).err(), Some(libc::ENOTDIR));
    assert_eq!(guest.lookup(made.nodeid, "x").err(), Some(libc::ENOTDIR));
    let hard = link(&mut guest, made.nodeid, rootfs, "h").unwrap();
    assert_eq!(hard.nodeid, made.nodeid);
    assert_eq!(guest.call(Opcode::Readlink, rootfs, &[]), Err(libc::ENOENT));
}

#[test]
fn renames_replace_exchange_or_refuse() {
    let mut guest = Guest::mounted();
    fs::write(guest.host("1/rootfs/a"), "a").unwrap();
    fs::write(guest.host("1/rootfs/b"), "b").unwrap();
    fs::create_dir(guest.host("1/rootfs/d")).unwrap();
    let (rootfs, directory) = (guest.walk("1/rootfs"), guest.walk("1/rootfs/d"));
    let a = guest.walk("1/rootfs/a");
    assert_eq!(rename(&mut guest, (rootfs, "a"), (rootfs, "b"), libc::RENAME_NOREPLACE), Err(libc::EEXIST));
    rename(&mut guest, (rootfs, "a"), (rootfs, "b"), libc::RENAME_EXCHANGE).unwrap();
    assert_eq!(guest.walk("1/rootfs/b"), a);
    rename(&mut guest, (rootfs, "b"), (directory, "c"), 0).unwrap();
    assert_eq!(guest.walk("1/rootfs/d/c"), a);
    assert_eq!(fs::read(guest.host("1/rootfs/d/c")).unwrap(), b"a");
    assert_eq!(rename(&mut guest, (rootfs, "d"), (directory, "e"), 0), Err(libc::EINVAL));
    assert_eq!(rename(&mut guest, (rootfs, "gone"), (rootfs, "e"), 0), Err(libc::ENOENT));
}

#[test]
fn special_files_are_made_but_never_opened_on_the_host() {
    let mut guest = Guest::mounted();
    let rootfs = guest.walk("1/rootfs");
    let make = |guest: &mut Guest, name: &str, mode: u32, rdev: u32| {
        let mknod = MknodIn { mode, rdev, umask: 0, padding: 0 };
        let body = [mknod.as_slice(), &name_bytes(name)].concat();
        guest.call(Opcode::Mknod, rootfs, &body).map(|reply| object::<EntryOut>(&reply))
    };
    let fifo = make(&mut guest, "fifo", libc::S_IFIFO | 0o600, 0).unwrap();
    let socket = make(&mut guest, "socket", libc::S_IFSOCK | 0o600, 0).unwrap();
    assert!(fs::metadata(guest.host("1/rootfs/fifo")).unwrap().file_type().is_fifo());
    let regular = make(&mut guest, "regular", libc::S_IFREG | 0o604, 0).unwrap();
    assert_eq!(regular.attr.mode, libc::S_IFREG | 0o604);
    for node in [fifo.nodeid, socket.nodeid] {
        assert_eq!(guest.open(node, libc::O_RDWR).err(), Some(libc::ENXIO));
    }
    // CREATE of a name that is there must not open it either.
    assert_eq!(guest.create(rootfs, "fifo", libc::O_RDWR, 0o600).err(), Some(libc::ENXIO));
    assert_eq!(guest.create(rootfs, "regular", libc::O_RDWR | libc::O_EXCL, 0o600).err(), Some(libc::EEXIST));
    fs::write(guest.host("1/rootfs/regular"), "text").unwrap();
    let (found, _) = guest.create(rootfs, "regular", libc::O_RDWR, 0o600).unwrap();
    assert_eq!((found.nodeid, found.attr.size), (regular.nodeid, 4));
    let (found, _) = guest.create(rootfs, "regular", libc::O_RDWR | libc::O_TRUNC, 0o600).unwrap();
    assert_eq!((found.nodeid, found.attr.size), (regular.nodeid, 0));
    assert_eq!(make(&mut guest, "d", libc::S_IFDIR | 0o600, 0).err(), Some(libc::EINVAL));

    if super::root() {
        let null = make(&mut guest, "null", libc::S_IFCHR | 0o666, 0x103).unwrap();
        assert_eq!(null.attr.rdev, 0x103);
        assert_eq!(fs::metadata(guest.host("1/rootfs/null")).unwrap().rdev(), libc::makedev(1, 3));
        assert_eq!(guest.open(null.nodeid, libc::O_RDWR).err(), Some(libc::ENXIO));
    }
}
