//! A guest that owns its kernel: requests that no driver sends.

use std::fs;
use std::sync::atomic::Ordering;

use fuse_backend_rs::abi::fuse_abi::{
    InHeader, Opcode, OutHeader, ROOT_ID, ReadIn, Rename2In, SetattrIn, SetattrValid, WriteIn,
};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::guest::{
    F_NEXT, F_WRITE, Guest, HIPRIO, MEMORY_BYTES, REPLY, REQUEST, REQUESTS, name_bytes, object,
};

/// Numbers that look random and are the same every time (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

const BAD_NAMES: [&str; 7] = ["", ".", "..", "/", "../secret", "a/b", "/etc/passwd"];

#[test]
fn no_operation_takes_a_name_that_leads_out_of_its_directory() {
    let mut guest = Guest::mounted();
    fs::write(guest.host("secret"), "secret").unwrap();
    fs::write(guest.host("1/rootfs/file"), "").unwrap();
    let (rootfs, file) = (guest.walk("1/rootfs"), guest.walk("1/rootfs/file"));
    for bad in BAD_NAMES.map(name_bytes) {
        let good = name_bytes("good");
        let mut refused = |opcode: Opcode, body: &[&[u8]]| {
            assert_eq!(guest.call(opcode, rootfs, &body.concat()), Err(libc::EINVAL), "{opcode:?} {bad:?}");
        };
        refused(Opcode::Lookup, &[&bad]);
        refused(Opcode::Unlink, &[&bad]);
        refused(Opcode::Rmdir, &[&bad]);
        refused(Opcode::Mkdir, &[&[0; 8], &bad]);
        refused(Opcode::Mknod, &[&(libc::S_IFREG).to_le_bytes(), &[0; 12], &bad]);
        refused(Opcode::Create, &[&[0; 16], &bad]);
        refused(Opcode::Link, &[&file.to_le_bytes(), &bad]);
        refused(Opcode::Symlink, &[&bad, &good]);
        refused(Opcode::Rename, &[&rootfs.to_le_bytes(), &bad, &good]);
        refused(Opcode::Rename, &[&rootfs.to_le_bytes(), &name_bytes("file"), &bad]);
        let rename = Rename2In { newdir: rootfs, ..Default::default() };
        refused(Opcode::Rename2, &[rename.as_slice(), &bad, &good]);
    }
    assert_eq!(fs::read(guest.host("secret")).unwrap(), b"secret");
}

#[test]
fn forged_nodes_and_handles_are_refused() {
    let mut guest = Guest::mounted();
    let rootfs = guest.walk("1/rootfs");
    let (file, fh) = guest.create(rootfs, "a", libc::O_RDWR, 0o600).unwrap();
    let (other, other_fh) = guest.create(rootfs, "b", libc::O_RDWR, 0o600).unwrap();
    for node in [0, 99, u64::MAX, file.nodeid | 1 << 40] {
        assert_eq!(guest.attributes(node, None).err(), Some(libc::EBADF));
        assert_eq!(guest.lookup(node, "a").err(), Some(libc::EBADF));
        assert_eq!(guest.open(node, libc::O_RDONLY).err(), Some(libc::EBADF));
        let body = [node.to_le_bytes().as_slice(), &name_bytes("l")].concat();
        assert_eq!(guest.call(Opcode::Link, rootfs, &body), Err(libc::EBADF));
    }
    for handle in [0, 99, u64::MAX, other_fh] {
        assert_eq!(guest.read(file.nodeid, handle, 0, 1), Err(libc::EBADF));
        assert_eq!(guest.write(file.nodeid, handle, 0, b"x"), Err(libc::EBADF));
        assert_eq!(guest.release(file.nodeid, handle), Err(libc::EBADF));
        assert_eq!(guest.attributes(file.nodeid, Some(handle)).err(), Some(libc::EBADF));
        let size = SetattrIn { valid: SetattrValid::SIZE.bits() | 0x40, fh: handle, ..Default::default() };
        assert_eq!(guest.set(file.nodeid, size).err(), Some(libc::EBADF));
    }
    assert_eq!(guest.write(other.nodeid, other_fh, 0, b"x"), Ok(1));
    // A directory is no file, and a file no directory.
    let directory = guest.opendir(rootfs).unwrap().fh;
    assert_eq!(guest.read(rootfs, directory, 0, 1), Err(libc::EISDIR));
    let read = ReadIn { fh, size: 4096, ..Default::default() };
    assert_eq!(guest.call(Opcode::Readdir, file.nodeid, read.as_slice()), Err(libc::ENOTDIR));
    assert_eq!(guest.open(rootfs, libc::O_RDONLY).err(), Some(libc::EISDIR));
    assert_eq!(guest.lookup(file.nodeid, "x").err(), Some(libc::ENOTDIR));
    assert_eq!(guest.create(file.nodeid, "x", 0, 0).err(), Some(libc::ENOTDIR));
}

#[test]
fn forgets_that_were_not_owed_harm_nobody() {
    let mut guest = Guest::mounted();
    let node = guest.walk("1/rootfs");
    guest.forget(ROOT_ID, u64::MAX);
    guest.forget(99, 1);
    guest.forget(node, u64::MAX);
    guest.forget(node, 1);
    assert_eq!(guest.attributes(node, None).err(), Some(libc::EBADF));
    assert!(guest.walk("1/rootfs") > node);
}

#[test]
fn a_directory_that_the_host_moved_away_has_no_way_up() {
    let mut guest = Guest::mounted();
    let outside = tempfile::tempdir_in(guest.share.path().parent().unwrap()).unwrap();
    fs::write(outside.path().join("secret"), "").unwrap();
    fs::create_dir(guest.host("1/rootfs/d")).unwrap();
    let node = guest.walk("1/rootfs/d");
    fs::rename(guest.host("1/rootfs/d"), outside.path().join("d")).unwrap();
    for name in ["..", "../secret", "secret"] {
        assert!(guest.lookup(node, name).is_err());
    }
}

#[test]
fn sizes_beyond_the_buffers_are_refused_or_cut() {
    let mut guest = Guest::mounted();
    let rootfs = guest.walk("1/rootfs");
    let (file, fh) = guest.create(rootfs, "a", libc::O_RDWR, 0o600).unwrap();
    guest.write(file.nodeid, fh, 0, &[7; 10_000]).unwrap();
    let read = ReadIn { fh, size: u32::MAX, ..Default::default() };
    let got = guest.call_with_room(Opcode::Read, file.nodeid, read.as_slice(), 4096).unwrap();
    assert_eq!(got, [7; 4096]);
    assert_eq!(guest.call_with_room(Opcode::Read, file.nodeid, read.as_slice(), 0).unwrap(), b"");
    let huge = WriteIn { fh, size: u32::MAX, ..Default::default() };
    assert_eq!(guest.call(Opcode::Write, file.nodeid, huge.as_slice()), Err(libc::EINVAL));
    // More than the message holds: what is there is written.
    let lie = WriteIn { fh, size: 5000, offset: 10_000, ..Default::default() };
    let body = [lie.as_slice(), b"end"].concat();
    assert_eq!(guest.call(Opcode::Write, file.nodeid, &body).map(|out| out[0]), Ok(3));
    assert_eq!(guest.attributes(file.nodeid, None).unwrap().size, 10_003);
    for offset in [u64::MAX, 1 << 63, (1 << 63) - 1] {
        assert!(guest.write(file.nodeid, fh, offset, b"x").is_err());
    }
    assert_eq!(guest.read(file.nodeid, fh, u64::MAX, 1), Err(libc::EINVAL));
    // A reply that does not fit is an error, not half a reply.
    let request = guest.message(Opcode::Getattr as u32, rootfs, &[0; 16]);
    let reply: OutHeader = object(&guest.raw(REQUESTS, &request, 40).unwrap());
    assert_eq!((reply.len, reply.error), (16, -libc::EINVAL));
    assert_eq!(guest.raw(REQUESTS, &request, 15).unwrap(), b"");
    assert_eq!(guest.raw(REQUESTS, &request, 0).unwrap(), b"");
}

#[test]
fn messages_that_end_too_early_or_never_are_answered_with_an_error() {
    let mut guest = Guest::mounted();
    let rootfs = guest.walk("1/rootfs");
    let whole = guest.message(Opcode::Lookup as u32, rootfs, &name_bytes("name"));
    for length in 0..whole.len() {
        let reply = guest.raw(REQUESTS, &whole[..length.max(1)], 4096).unwrap();
        assert_eq!(reply.len(), 16, "{length}");
        assert_eq!(object::<OutHeader>(&reply).error, -libc::EINVAL);
    }
    assert_eq!(guest.call(Opcode::Lookup, rootfs, b"unterminated"), Err(libc::EINVAL));
    assert_eq!(guest.call(Opcode::Symlink, rootfs, b"only one\0"), Err(libc::EINVAL));
    assert_eq!(guest.call(Opcode::Rename, rootfs, &[0; 8]), Err(libc::EINVAL));
    for length in [0, 39, 41, 1 << 20, u32::MAX] {
        let mut lie = whole.clone();
        lie[..4].copy_from_slice(&length.to_le_bytes());
        let reply = guest.raw(REQUESTS, &lie, 4096).unwrap();
        assert!(object::<OutHeader>(&reply).error < 0, "{length}");
    }
    let message = guest.message(0, rootfs, b"");
    for opcode in [0, 7, 19, 50, 51, 4096, u32::MAX] {
        let mut unknown = message.clone();
        unknown[4..8].copy_from_slice(&u32::to_le_bytes(opcode));
        let reply = guest.raw(REQUESTS, &unknown, 4096).unwrap();
        assert_eq!(object::<OutHeader>(&reply).error, -libc::ENOSYS, "{opcode}");
    }
}

#[test]
fn chains_in_any_shape_are_given_back() {
    let mut guest = Guest::mounted();
    let message = guest.message(Opcode::Getattr as u32, ROOT_ID, &[0; 16]);
    guest.memory.write_slice(&message, GuestAddress(REQUEST)).unwrap();
    let length = message.len() as u32;
    let shapes: [&[(u64, u32, bool)]; 6] = [
        &[(REPLY, 4096, true)],
        &[(REQUEST, length, false)],
        &[(REPLY, 4096, true), (REQUEST, length, false)],
        &[(REQUEST, length, false), (REPLY, 4096, true), (REQUEST, length, false), (REPLY, 16, true)],
        &[(REQUEST, 0, false), (REQUEST, length, false), (REPLY, 0, true), (REPLY, 4096, true)],
        &[
            (REQUEST, 10, false),
            (REQUEST + 10, 1, false),
            (REQUEST + 11, length - 11, false),
            (REPLY, 7, true),
            (REPLY + 7, 1, true),
            (REPLY + 8, 200, true),
        ],
    ];
    for queue in [HIPRIO, REQUESTS] {
        for shape in shapes {
            guest.add(queue, 0, shape);
            guest.kick(queue);
            assert!(guest.used(queue).is_some());
        }
    }
    // The last one is a good request in small pieces.
    let reply: OutHeader =
        guest.memory.read_obj::<[u8; 16]>(GuestAddress(REPLY)).map(|raw| object(&raw)).unwrap();
    assert_eq!((reply.error, reply.len), (0, 120));
    // A chain that runs in a circle ends where the ring does.
    guest.descriptor(REQUESTS, 0, REPLY, 4096, F_NEXT | F_WRITE, 0);
    guest.offer(REQUESTS, 0);
    guest.kick(REQUESTS);
    assert!(guest.used(REQUESTS).is_some());
    assert!(guest.attributes(ROOT_ID, None).is_ok());
}

#[test]
fn a_broken_ring_stops_the_device_until_it_is_reset() {
    type Break = fn(&mut Guest);
    let outside: Break = |guest| guest.add(REQUESTS, 0, &[(MEMORY_BYTES as u64 - 8, 64, false)]);
    let nowhere: Break = |guest| guest.add(REQUESTS, 0, &[(u64::MAX - 8, 64, true)]);
    let no_such_head: Break = |guest| guest.offer(REQUESTS, u16::MAX);
    let too_many: Break = |guest| {
        let index = GuestAddress(0x2_0000 + 0x4000 + 2);
        guest.memory.write_obj(20_000_u16, index).unwrap();
    };
    for break_ring in [outside, nowhere, no_such_head, too_many] {
        let mut guest = Guest::mounted();
        break_ring(&mut guest);
        guest.kick(REQUESTS);
        assert_eq!(guest.used(REQUESTS), None);
        assert_eq!(guest.status.load(Ordering::SeqCst) & 0x40, 0x40);
        guest.status.store(0, Ordering::SeqCst);
        guest.activate();
        guest.init(0);
        assert!(guest.attributes(ROOT_ID, None).is_ok());
    }
}

/// Requests made of plausible and absurd parts, against a share that must stay what it is.
#[test]
fn random_requests_neither_stop_the_device_nor_leave_the_share() {
    for seed in 0..4 {
        let mut numbers = Numbers(seed);
        let mut guest = Guest::with_descriptors(20, 10);
        let outside = guest.share.path().with_extension("outside");
        fs::write(&outside, "untouched").unwrap();
        fs::write(guest.host("1/rootfs/f"), "file").unwrap();
        std::os::unix::fs::symlink(&outside, guest.host("1/rootfs/s")).unwrap();
        std::os::unix::fs::symlink("..", guest.host("1/rootfs/up")).unwrap();
        fs::create_dir(guest.host("1/rootfs/d")).unwrap();
        for path in ["1/rootfs/f", "1/rootfs/s", "1/rootfs/up", "1/rootfs/d"] {
            guest.walk(path);
        }
        for _ in 0..4_000 {
            let message = random_message(&mut numbers, &mut guest);
            let room = numbers.pick(&[0, 15, 16, 40, 120, 200, 4096, 70_000]);
            let queue = numbers.pick(&[HIPRIO, REQUESTS, REQUESTS, REQUESTS]);
            let reply = guest.raw(queue, &message, room).expect("the device gave up");
            if reply.len() >= 16 {
                assert!(object::<OutHeader>(&reply).len as usize <= room as usize);
            }
        }
        assert_eq!(fs::read(&outside).unwrap(), b"untouched");
        assert!(guest.lookup(ROOT_ID, "1").is_ok() || !guest.host("1").exists());
        fs::remove_file(outside).unwrap();
        // Whatever modes the guest gave: the share must go without root as well.
        let path = guest.share.path();
        std::process::Command::new("chmod").args(["-R", "u+rwX"]).arg(path).status().unwrap();
    }
}

fn random_message(numbers: &mut Numbers, guest: &mut Guest) -> Vec<u8> {
    const NAMES: [&str; 12] =
        ["f", "s", "d", "up", "new", "rootfs", "..", ".", "", "a/b", "user.x", "security.capability"];
    let opcode = numbers.below(52);
    let node = numbers.below(12);
    let mut body = Vec::new();
    for _ in 0..numbers.below(9) {
        let word = match numbers.below(4) {
            0 => numbers.next(),
            1 => 0,
            _ => numbers.below(4096),
        };
        body.extend_from_slice(&word.to_le_bytes());
    }
    for _ in 0..numbers.below(3) {
        body.extend_from_slice(&name_bytes(numbers.pick(&NAMES)));
    }
    if numbers.below(8) == 0 {
        body.resize(numbers.below(5000) as usize, numbers.next() as u8);
    }
    let mut message = guest.message(opcode as u32, node, &body);
    if numbers.below(16) == 0 {
        let at = numbers.below(size_of::<InHeader>() as u64) as usize;
        message[at] = numbers.next() as u8;
    }
    if numbers.below(16) == 0 {
        message.truncate(1 + numbers.below(message.len() as u64) as usize);
    }
    message
}
