//! Owners and modes: who gets what is made, and what a change takes away.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use fuse_backend_rs::abi::fuse_abi::{EntryOut, Opcode, OpenIn, SetattrIn, SetattrValid, WriteIn};
use vm_memory::ByteValued;

use super::guest::{Guest, name_bytes, object};

fn host_mode(guest: &Guest, path: &str) -> u32 {
    fs::metadata(guest.host(path)).unwrap().mode() & 0o7777
}

#[test]
fn what_is_made_belongs_to_the_caller_with_exactly_the_mode_it_sent() {
    let mut guest = Guest::mounted();
    let rootfs = guest.walk("1/rootfs");
    let (file, _) = guest.create(rootfs, "a", libc::O_RDWR, 0o666).unwrap();
    // The guest has applied its umask; the VMM's counts nothing.
    assert_eq!(file.attr.mode & 0o7777, 0o666);
    if !super::root() {
        return;
    }
    guest.caller = (1234, 5678);
    let (file, _) = guest.create(rootfs, "b", libc::O_RDWR, 0o600).unwrap();
    assert_eq!((file.attr.uid, file.attr.gid), (1234, 5678));
    let body = [[0o755_u32.to_le_bytes(), [0; 4]].concat(), name_bytes("d")].concat();
    let made: EntryOut = object(&guest.call(Opcode::Mkdir, rootfs, &body).unwrap());
    assert_eq!((made.attr.uid, made.attr.gid), (1234, 5678));
    let body = [name_bytes("l"), name_bytes("target")].concat();
    let made: EntryOut = object(&guest.call(Opcode::Symlink, rootfs, &body).unwrap());
    assert_eq!((made.attr.uid, made.attr.gid), (1234, 5678));
    // And the next one is root's again.
    guest.caller = (0, 0);
    let (file, _) = guest.create(rootfs, "c", libc::O_RDWR, 0o600).unwrap();
    assert_eq!((file.attr.uid, file.attr.gid), (0, 0));
    guest.caller = (u32::MAX, 0);
    assert_eq!(guest.create(rootfs, "e", libc::O_RDWR, 0o600).err(), Some(libc::EINVAL));
}

#[test]
fn a_caller_with_rights_from_another_group_may_create() {
    if !super::root() {
        return;
    }
    let mut guest = Guest::mounted();
    fs::create_dir(guest.host("1/rootfs/team")).unwrap();
    chown(guest.host("1/rootfs/team"), Some(0), Some(4242)).unwrap();
    fs::set_permissions(guest.host("1/rootfs/team"), fs::Permissions::from_mode(0o2770)).unwrap();
    let team = guest.walk("1/rootfs/team");
    // The guest's kernel has checked that 1000 is in group 4242; the message does not say so.
    guest.caller = (1000, 1000);
    let (file, _) = guest.create(team, "a", libc::O_RDWR, 0o660).unwrap();
    assert_eq!((file.attr.uid, file.attr.gid), (1000, 4242));
    let body = [[0o770_u32.to_le_bytes(), [0; 4]].concat(), name_bytes("d")].concat();
    let made: EntryOut = object(&guest.call(Opcode::Mkdir, team, &body).unwrap());
    assert_eq!((made.attr.gid, made.attr.mode & 0o7777), (4242, 0o2770));
}

#[test]
fn owner_and_mode_change_and_an_owner_change_clears_set_user_id() {
    if !super::root() {
        return;
    }
    let mut guest = Guest::mounted();
    fs::write(guest.host("1/rootfs/a"), "").unwrap();
    let node = guest.walk("1/rootfs/a");
    let mode = SetattrIn { valid: SetattrValid::MODE.bits(), mode: 0o106755, ..Default::default() };
    assert_eq!(guest.set(node, mode).unwrap().attr.mode & 0o7777, 0o6755);
    let owner = SetattrIn {
        valid: (SetattrValid::UID | SetattrValid::GID).bits(),
        uid: 7,
        gid: 8,
        ..Default::default()
    };
    let attr = guest.set(node, owner).unwrap().attr;
    assert_eq!((attr.uid, attr.gid, attr.mode & 0o7777), (7, 8, 0o755));
    let nobody = SetattrIn { valid: SetattrValid::UID.bits(), uid: u32::MAX, ..Default::default() };
    assert_eq!(guest.set(node, nobody).err(), Some(libc::EINVAL));
    let only_group = SetattrIn { valid: SetattrValid::GID.bits(), uid: 99, gid: 9, ..Default::default() };
    let attr = guest.set(node, only_group).unwrap().attr;
    assert_eq!((attr.uid, attr.gid), (7, 9));
}

#[test]
fn the_owner_of_a_symbolic_link_changes_and_not_that_of_its_target() {
    if !super::root() {
        return;
    }
    let mut guest = Guest::mounted();
    fs::write(guest.host("1/rootfs/a"), "").unwrap();
    std::os::unix::fs::symlink("a", guest.host("1/rootfs/l")).unwrap();
    let node = guest.walk("1/rootfs/l");
    let owner = SetattrIn { valid: SetattrValid::UID.bits(), uid: 7, ..Default::default() };
    assert_eq!(guest.set(node, owner).unwrap().attr.uid, 7);
    assert_eq!(fs::metadata(guest.host("1/rootfs/a")).unwrap().uid(), 0);
    let times = SetattrIn { valid: SetattrValid::MTIME.bits(), mtime: 77, ..Default::default() };
    assert_eq!(guest.set(node, times).unwrap().attr.mtime, 77);
    assert_ne!(fs::metadata(guest.host("1/rootfs/a")).unwrap().mtime(), 77);
    let mode = SetattrIn { valid: SetattrValid::MODE.bits(), mode: 0o600, ..Default::default() };
    assert_eq!(guest.set(node, mode).err(), Some(libc::EOPNOTSUPP));
}

#[test]
fn a_write_clears_set_user_id_when_the_guest_says_so_and_only_then() {
    let mut guest = Guest::mounted();
    fs::write(guest.host("1/rootfs/a"), "text").unwrap();
    let node = guest.walk("1/rootfs/a");
    let set = |guest: &Guest| {
        fs::set_permissions(guest.host("1/rootfs/a"), fs::Permissions::from_mode(0o6755)).unwrap();
    };
    let fh = guest.open(node, libc::O_RDWR).unwrap().fh;
    if super::root() {
        set(&guest);
        guest.write(node, fh, 0, b"x").unwrap();
        assert_eq!(host_mode(&guest, "1/rootfs/a"), 0o6755);
    }
    set(&guest);
    let kill = WriteIn { fh, fuse_flags: 4, ..Default::default() };
    guest.write_with(node, kill, b"x").unwrap();
    assert_eq!(host_mode(&guest, "1/rootfs/a"), 0o755);

    set(&guest);
    let shorter = SetattrIn {
        valid: (SetattrValid::SIZE | SetattrValid::KILL_SUIDGID).bits(),
        size: 1,
        ..Default::default()
    };
    guest.set(node, shorter).unwrap();
    assert_eq!(host_mode(&guest, "1/rootfs/a"), 0o755);

    set(&guest);
    let open = OpenIn { flags: (libc::O_WRONLY | libc::O_TRUNC) as u32, fuse_flags: 1 };
    guest.call(Opcode::Open, node, open.as_slice()).unwrap();
    assert_eq!(host_mode(&guest, "1/rootfs/a"), 0o755);
}
