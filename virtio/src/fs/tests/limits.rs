//! Descriptors: more nodes than descriptors, open files without end, several file systems in one share.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use fuse_backend_rs::abi::fuse_abi::{Opcode, SetattrIn, SetattrValid};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};

use super::guest::{Guest, name_bytes};

/// A mount of the test, gone with it.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn tmpfs(path: PathBuf) -> Mounted {
    fs::create_dir_all(&path).unwrap();
    mount("crx-test", &path, "tmpfs", MountFlags::empty(), None).unwrap();
    Mounted(path)
}

/// In a process of its own, because the limit is the process's.
#[test]
fn twenty_thousand_nodes_live_under_ten_thousand_descriptors() {
    if !super::root() || !super::alone() {
        return;
    }
    let limit = rustix::process::Rlimit { current: Some(10_000), maximum: Some(10_000) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let mut guest = Guest::with_descriptors(7_000, 2_000);
    for index in 0..20_000 {
        fs::write(guest.host(format!("1/rootfs/{index}")), index.to_string()).unwrap();
    }
    let rootfs = guest.walk("1/rootfs");
    let nodes: Vec<u64> =
        (0..20_000).map(|index| guest.lookup(rootfs, &index.to_string()).unwrap().nodeid).collect();
    assert!(guest.files.nodes.len() > 20_000);
    let held = fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(held < 7_100, "{held} descriptors");
    for (index, node) in nodes.iter().enumerate().step_by(777) {
        let fh = guest.open(*node, libc::O_RDONLY).unwrap().fh;
        assert_eq!(guest.read(*node, fh, 0, 100).unwrap(), index.to_string().as_bytes());
        guest.release(*node, fh).unwrap();
        assert_eq!(guest.lookup(rootfs, &index.to_string()).unwrap().nodeid, *node);
        guest.forget(*node, 1);
    }
    for node in nodes {
        guest.forget(node, 1);
    }
    assert_eq!(guest.files.nodes.len(), 2, "1 and its rootfs");
    assert!(fs::read_dir("/proc/self/fd").unwrap().count() < 100);
}

/// A guest whose nodes have no descriptors but the first two.
fn by_handles() -> Guest {
    let mut guest = Guest::with_descriptors(2, 100);
    guest.walk("1/rootfs");
    guest.walk("1/volumes");
    guest
}

#[test]
fn a_node_without_a_descriptor_can_do_what_others_can() {
    if !super::root() {
        return;
    }
    let mut guest = by_handles();
    let rootfs = guest.walk("1/rootfs");
    let (file, fh) = guest.create(rootfs, "a", libc::O_RDWR, 0o600).unwrap();
    assert!(!guest.files.nodes.get(file.nodeid).unwrap().holds_descriptor());
    guest.write(file.nodeid, fh, 0, b"text").unwrap();
    guest.caller = (5, 5);
    let body = [[0o700_u32.to_le_bytes(), [0; 4]].concat(), name_bytes("d")].concat();
    guest.call(Opcode::Mkdir, rootfs, &body).unwrap();
    let directory = guest.walk("1/rootfs/d");
    guest.create(directory, "inner", libc::O_RDWR, 0o600).unwrap();
    let body = [file.nodeid.to_le_bytes().as_slice(), &name_bytes("b")].concat();
    guest.call(Opcode::Link, directory, &body).unwrap();
    let body = [name_bytes("l"), name_bytes("target")].concat();
    guest.call(Opcode::Symlink, directory, &body).unwrap();
    let link = guest.walk("1/rootfs/d/l");
    assert_eq!(guest.call(Opcode::Readlink, link, &[]).unwrap(), b"target");
    let set = [5_u32.to_le_bytes(), [0; 4]].concat();
    let body = [set, name_bytes("user.a"), b"value".to_vec()].concat();
    guest.call(Opcode::Setxattr, file.nodeid, &body).unwrap();
    let change = SetattrIn {
        valid: (SetattrValid::MODE | SetattrValid::SIZE | SetattrValid::MTIME).bits(),
        mode: 0o640,
        size: 2,
        mtime: 9,
        ..Default::default()
    };
    let attr = guest.set(file.nodeid, change).unwrap().attr;
    assert_eq!((attr.mode & 0o777, attr.size, attr.mtime, attr.nlink), (0o640, 2, 9, 2));
    // Without a name it lives while it is open.
    guest.call(Opcode::Unlink, rootfs, &name_bytes("a")).unwrap();
    guest.call(Opcode::Unlink, directory, &name_bytes("b")).unwrap();
    assert_eq!(guest.attributes(file.nodeid, Some(fh)).unwrap().nlink, 0);
    assert_eq!(guest.read(file.nodeid, fh, 0, 9).unwrap(), b"te");
}

#[test]
fn a_new_file_is_never_taken_for_a_removed_one() {
    if !super::root() {
        return;
    }
    let mut guest = by_handles();
    let rootfs = guest.walk("1/rootfs");
    let mut seen = std::collections::HashSet::new();
    let mut reused = false;
    let mut inodes = std::collections::HashSet::new();
    for _ in 0..200 {
        fs::write(guest.host("1/rootfs/a"), "").unwrap();
        reused |= !inodes.insert(fs::metadata(guest.host("1/rootfs/a")).unwrap().ino());
        let node = guest.lookup(rootfs, "a").unwrap().nodeid;
        assert!(seen.insert(node), "node {node} is two files");
        fs::remove_file(guest.host("1/rootfs/a")).unwrap();
    }
    if !reused {
        eprintln!("this file system did not reuse an inode number");
    }
    let stale = *seen.iter().min().unwrap();
    assert_eq!(guest.attributes(stale, None).err(), Some(libc::ESTALE));
}

#[test]
fn a_guest_cannot_open_files_without_end() {
    let mut guest = Guest::with_descriptors(100, 5);
    let rootfs = guest.walk("1/rootfs");
    for index in 0..5 {
        guest.create(rootfs, &index.to_string(), libc::O_RDWR, 0o600).unwrap();
    }
    assert_eq!(guest.create(rootfs, "5", libc::O_RDWR, 0o600).err(), Some(libc::ENFILE));
    assert!(!guest.host("1/rootfs/5").exists());
    assert_eq!(guest.opendir(rootfs).err(), Some(libc::ENFILE));
    let node = guest.walk("1/rootfs/0");
    assert_eq!(guest.open(node, libc::O_RDONLY).err(), Some(libc::ENFILE));
}

#[test]
fn inodes_of_several_file_systems_do_not_meet() {
    if !super::root() {
        return;
    }
    let mut guest = Guest::mounted();
    let _first = tmpfs(guest.host("1/volumes/1"));
    let _second = tmpfs(guest.host("1/volumes/2"));
    let _root = tmpfs(guest.host("1/rootfs"));
    for volume in ["1/volumes/1", "1/volumes/2"] {
        fs::write(guest.host(format!("{volume}/a")), volume).unwrap();
    }
    let host = ["1/volumes/1/a", "1/volumes/2/a"].map(|path| fs::metadata(guest.host(path)).unwrap().ino());
    let nodes = ["1/volumes/1/a", "1/volumes/2/a"].map(|path| guest.walk(path));
    assert_eq!(host[0], host[1], "two fresh tmpfs number alike");
    assert_ne!(nodes[0], nodes[1]);
    let inodes = nodes.map(|node| guest.attributes(node, None).unwrap().ino);
    assert_ne!(inodes[0], inodes[1]);
    let rootfs = guest.walk("1/rootfs");
    assert_eq!(
        guest.attributes(rootfs, None).unwrap().ino,
        fs::metadata(guest.host("1/rootfs")).unwrap().ino()
    );
}

#[test]
fn a_directory_bound_twice_keeps_the_rights_of_each_mount() {
    if !super::root() {
        return;
    }
    let mut guest = Guest::mounted();
    fs::create_dir(guest.host("1/volumes/1")).unwrap();
    fs::write(guest.host("1/volumes/0/a"), "text").unwrap();
    mount_bind(guest.host("1/volumes/0"), guest.host("1/volumes/1")).unwrap();
    let mounted = Mounted(guest.host("1/volumes/1"));
    mount_remount(&mounted.0, MountFlags::BIND | MountFlags::RDONLY, "").unwrap();
    let (writable, read_only) = (guest.walk("1/volumes/0"), guest.walk("1/volumes/1"));
    assert_ne!(writable, read_only);
    let file = guest.walk("1/volumes/0/a");
    assert!(guest.open(file, libc::O_RDWR).is_ok());
    let file = guest.walk("1/volumes/1/a");
    assert_eq!(guest.open(file, libc::O_RDWR).err(), Some(libc::EROFS));
    assert!(guest.open(file, libc::O_RDONLY).is_ok());
    assert_eq!(guest.create(read_only, "b", libc::O_RDWR, 0o600).err(), Some(libc::EROFS));
    assert!(guest.create(writable, "b", libc::O_RDWR, 0o600).is_ok());
    let body = [file.to_le_bytes().as_slice(), &name_bytes("c")].concat();
    assert_eq!(guest.call(Opcode::Link, writable, &body), Err(libc::EXDEV));
}

/// A directory of the host as the root of a container.
fn root_of(guest: &Guest, number: u32, directory: &std::path::Path) -> Mounted {
    let path = guest.host(format!("{number}/rootfs"));
    fs::create_dir_all(&path).unwrap();
    mount_bind(directory, &path).unwrap();
    Mounted(path)
}

/// Takes a container out of the share.
fn remove(root: Mounted) {
    let path = root.0.clone();
    drop(root);
    fs::remove_dir(&path).unwrap();
}

#[test]
fn containers_with_the_same_root_have_the_same_nodes() {
    if !super::root() {
        return;
    }
    // With descriptors, and without any.
    for for_nodes in [1000, 0] {
        let mut guest = Guest::with_descriptors(for_nodes, 1000);
        let image = tempfile::tempdir().unwrap();
        fs::write(image.path().join("a"), "text").unwrap();
        let (second, third) = (root_of(&guest, 2, image.path()), root_of(&guest, 3, image.path()));
        assert_ne!(guest.walk("1/rootfs"), guest.walk("2/rootfs"));
        assert_eq!(guest.walk("2/rootfs"), guest.walk("3/rootfs"), "cached for a day under one name only");
        let file = guest.walk("2/rootfs/a");
        assert_eq!(guest.walk("3/rootfs/a"), file);
        // It stays the same while any of them is there.
        remove(second);
        let fourth = root_of(&guest, 4, image.path());
        assert_eq!(guest.walk("4/rootfs/a"), file);
        let fh = guest.open(file, libc::O_RDONLY).unwrap().fh;
        assert_eq!(guest.read(file, fh, 0, 9).unwrap(), b"text");
        remove(third);
        assert_eq!(guest.walk("4/rootfs/a"), file);
        // Later the host may have changed it.
        remove(fourth);
        let _fifth = root_of(&guest, 5, image.path());
        assert_ne!(guest.walk("5/rootfs/a"), file);
    }
}
