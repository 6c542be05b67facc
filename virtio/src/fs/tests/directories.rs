//! Directories: reading long ones in pieces, from any place, with and without attributes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use fuse_backend_rs::abi::fuse_abi::{Dirent, EntryOut, Opcode, ReadIn, ReleaseIn};
use vm_memory::ByteValued;

use super::guest::{Guest, Reply, name_bytes, object};

struct Listed {
    name: Vec<u8>,
    dirent: Dirent,
    entry: Option<EntryOut>,
}

fn parse(mut reply: &[u8], plus: bool) -> Vec<Listed> {
    let mut listed = Vec::new();
    while !reply.is_empty() {
        let entry = plus.then(|| object::<EntryOut>(reply));
        if plus {
            reply = &reply[size_of::<EntryOut>()..];
        }
        let dirent: Dirent = object(reply);
        let end = size_of::<Dirent>() + dirent.namelen as usize;
        listed.push(Listed { name: reply[size_of::<Dirent>()..end].to_vec(), dirent, entry });
        reply = &reply[end.next_multiple_of(8)..];
    }
    listed
}

fn page(guest: &mut Guest, node: u64, fh: u64, offset: u64, size: u32, plus: bool) -> Reply<Vec<Listed>> {
    let opcode = if plus { Opcode::Readdirplus } else { Opcode::Readdir };
    let read = ReadIn { fh, offset, size, ..Default::default() };
    guest.call_with_room(opcode, node, read.as_slice(), size).map(|reply| parse(&reply, plus))
}

fn all(guest: &mut Guest, node: u64, size: u32, plus: bool) -> Vec<Listed> {
    let fh = guest.opendir(node).unwrap().fh;
    let mut listed: Vec<Listed> = Vec::new();
    loop {
        let offset = listed.last().map_or(0, |last| last.dirent.off);
        let more = page(guest, node, fh, offset, size, plus).unwrap();
        if more.is_empty() {
            break;
        }
        listed.extend(more);
    }
    let release = ReleaseIn { fh, ..Default::default() };
    guest.call(Opcode::Releasedir, node, release.as_slice()).unwrap();
    listed
}

#[test]
fn ten_thousand_entries_are_each_listed_once() {
    let mut guest = Guest::mounted();
    for index in 0..10_000 {
        fs::write(guest.host(format!("1/rootfs/{index}")), "").unwrap();
    }
    let rootfs = guest.walk("1/rootfs");
    let mut names: Vec<_> = all(&mut guest, rootfs, 4096, false).into_iter().map(|one| one.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 10_002);
}

#[test]
fn attributes_come_with_a_listing_and_count_as_lookups() {
    let mut guest = Guest::mounted();
    for index in 0..300 {
        fs::write(guest.host(format!("1/rootfs/{index}")), "x".repeat(index)).unwrap();
    }
    let rootfs = guest.walk("1/rootfs");
    let before = guest.files.nodes.len();
    let listed = all(&mut guest, rootfs, 4096, true);
    assert_eq!(listed.len(), 302);
    for one in &listed {
        let entry = one.entry.unwrap();
        if one.name == b"." || one.name == b".." {
            assert_eq!(entry.nodeid, 0);
            continue;
        }
        let name = String::from_utf8(one.name.clone()).unwrap();
        assert_eq!(entry.attr.size, name.parse::<u64>().unwrap());
        assert_eq!(entry.attr.ino, one.dirent.ino);
        assert_eq!(entry.attr_valid, 86400);
    }
    // Exactly one lookup each: one forget each leaves nothing.
    assert_eq!(guest.files.nodes.len(), before + 300);
    for one in &listed {
        guest.forget(one.entry.unwrap().nodeid, 1);
    }
    assert_eq!(guest.files.nodes.len(), before);
}

#[test]
fn a_listing_goes_on_from_any_place() {
    let mut guest = Guest::mounted();
    for index in 0..2000 {
        fs::write(guest.host(format!("1/rootfs/file-{index}")), "").unwrap();
    }
    let rootfs = guest.walk("1/rootfs");
    let listed = all(&mut guest, rootfs, 65536, false);
    let fh = guest.opendir(rootfs).unwrap().fh;
    for at in [1500, 3, 1999, 700, 701] {
        let next = page(&mut guest, rootfs, fh, listed[at].dirent.off, 4096, false).unwrap();
        assert_eq!(next[0].name, listed[at + 1].name);
    }
    let first = page(&mut guest, rootfs, fh, 0, 4096, false).unwrap();
    assert_eq!(first[0].name, listed[0].name);
    assert_eq!(page(&mut guest, rootfs, fh, u64::MAX, 4096, false).err(), Some(libc::EINVAL));
    assert!(page(&mut guest, rootfs, fh, 0, 10, false).unwrap().is_empty());
}

#[test]
fn names_and_inodes_are_those_of_the_host() {
    let mut guest = Guest::mounted();
    let long = "n".repeat(255);
    fs::write(guest.host("1/rootfs").join(&long), "").unwrap();
    fs::create_dir(guest.host("1/rootfs/\u{1f980} \n")).unwrap();
    let rootfs = guest.walk("1/rootfs");
    let listed: BTreeMap<_, _> =
        all(&mut guest, rootfs, 4096, false).into_iter().map(|one| (one.name.clone(), one)).collect();
    let file = &listed[long.as_bytes()];
    assert_eq!(file.dirent.type_, u32::from(libc::DT_REG));
    assert_eq!(file.dirent.ino, fs::metadata(guest.host("1/rootfs").join(&long)).unwrap().ino());
    assert_eq!(listed["\u{1f980} \n".as_bytes()].dirent.type_, u32::from(libc::DT_DIR));
    assert!(guest.lookup(rootfs, &long).is_ok());
    assert_eq!(guest.lookup(rootfs, &"n".repeat(256)).err(), Some(libc::ENAMETOOLONG));
}

#[test]
fn directories_are_made_and_removed() {
    let mut guest = Guest::mounted();
    let rootfs = guest.walk("1/rootfs");
    let body = [[0o750_u32.to_le_bytes(), [0; 4]].concat(), name_bytes("d")].concat();
    let made: EntryOut = object(&guest.call(Opcode::Mkdir, rootfs, &body).unwrap());
    assert_eq!(made.attr.mode, libc::S_IFDIR | 0o750);
    assert_eq!(guest.call(Opcode::Mkdir, rootfs, &body), Err(libc::EEXIST));
    assert_eq!(guest.call(Opcode::Unlink, rootfs, &name_bytes("d")), Err(libc::EISDIR));
    guest.create(made.nodeid, "f", libc::O_RDWR, 0o600).unwrap();
    assert_eq!(guest.call(Opcode::Rmdir, rootfs, &name_bytes("d")), Err(libc::ENOTEMPTY));
    guest.call(Opcode::Unlink, made.nodeid, &name_bytes("f")).unwrap();
    assert_eq!(guest.call(Opcode::Rmdir, rootfs, &name_bytes("d")), Ok(Vec::new()));
    // The removed directory is still known, and empty.
    assert_eq!(guest.lookup(made.nodeid, "f").err(), Some(libc::ENOENT));
    assert_eq!(guest.create(made.nodeid, "g", libc::O_RDWR, 0o600).err(), Some(libc::ENOENT));
}
