//! INIT, the configuration space, interrupts, and what the guest may cache.

use fuse_backend_rs::abi::fuse_abi::{
    EntryOut, FsOptions, InitIn, KERNEL_VERSION, Opcode, OpenIn, OpenOptions, OpenOut, OutHeader, ROOT_ID,
};
use vm_memory::ByteValued;

use super::super::{Fs, FsConfig, FsError};
use super::guest::{Guest, REPLY, REQUEST, REQUESTS, name_bytes, object};
use crate::VirtioDevice;

#[test]
fn init_agrees_to_large_writes_and_parallel_lookups_but_not_to_remote_locks() {
    let mut guest = Guest::mounted();
    let out = guest.init(u32::MAX >> 2);
    let flags = FsOptions::from_bits_truncate(out.flags.into());
    assert_eq!((out.max_write, out.max_pages), (1 << 20, 256));
    assert!(flags.contains(
        FsOptions::ASYNC_READ
            | FsOptions::PARALLEL_DIROPS
            | FsOptions::BIG_WRITES
            | FsOptions::MAX_PAGES
            | FsOptions::ATOMIC_O_TRUNC
            | FsOptions::ASYNC_DIO
            | FsOptions::CACHE_SYMLINKS
            | FsOptions::HANDLE_KILLPRIV_V2
            | FsOptions::DO_READDIRPLUS
            | FsOptions::READDIRPLUS_AUTO
    ));
    assert!(!flags.intersects(
        FsOptions::POSIX_LOCKS
            | FsOptions::FLOCK_LOCKS
            | FsOptions::POSIX_ACL
            | FsOptions::SUBMOUNTS
            | FsOptions::WRITEBACK_CACHE
            | FsOptions::EXPORT_SUPPORT
    ));
}

#[test]
fn init_gives_nothing_that_was_not_offered() {
    let mut guest = Guest::mounted();
    let out = guest.init(FsOptions::ASYNC_READ.bits() as u32);
    assert_eq!(u64::from(out.flags), FsOptions::ASYNC_READ.bits());
    let old = InitIn { major: KERNEL_VERSION - 1, ..Default::default() };
    assert_eq!(guest.call(Opcode::Init, 0, old.as_slice()), Err(libc::EPROTO));
}

#[test]
fn the_configuration_space_is_the_tag_and_one_request_queue() {
    let guest = Guest::mounted();
    let mut space = [0xff; 44];
    guest.device.read_config(0, &mut space);
    assert_eq!(&space[..4], b"crx\0");
    assert_eq!(space[4..36], [0; 32]);
    assert_eq!(space[36..44], [1, 0, 0, 0, 0, 0, 0, 0]);
    guest.device.read_config(u64::MAX - 1, &mut space);
    assert_eq!(space[0], 0);
}

#[test]
fn a_share_must_have_a_tag_that_fits_and_a_directory() {
    let share = tempfile::tempdir().unwrap();
    let new =
        |tag: &str, root: &std::path::Path| Fs::new(FsConfig { tag: tag.to_owned(), root: root.to_owned() });
    for tag in ["", "a\0b", &"x".repeat(37)] {
        assert!(matches!(new(tag, share.path()), Err(FsError::Tag(_))));
    }
    assert!(new(&"x".repeat(36), share.path()).is_ok());
    assert!(matches!(new("crx", &share.path().join("gone")), Err(FsError::Root { .. })));
    std::fs::write(share.path().join("file"), "").unwrap();
    assert!(matches!(new("crx", &share.path().join("file")), Err(FsError::Root { .. })));
}

#[test]
fn requests_that_are_there_together_share_one_interrupt() {
    let mut guest = Guest::mounted();
    guest.interrupts();
    let message = guest.message(Opcode::Getattr as u32, ROOT_ID, &[0; 16]);
    vm_memory::Bytes::write_slice(&guest.memory, &message, vm_memory::GuestAddress(REQUEST)).unwrap();
    for head in [0, 2, 4] {
        guest.add(REQUESTS, head, &[(REQUEST, message.len() as u32, false), (REPLY, 4096, true)]);
    }
    guest.kick(REQUESTS);
    for _ in 0..3 {
        assert_eq!(guest.used(REQUESTS), Some(size_of::<OutHeader>() as u32 + 104));
    }
    // A stopped worker has sent what it had to send.
    guest.device.stop();
    assert_eq!(guest.interrupts(), 1);
}

#[test]
fn a_reset_forgets_nodes_and_handles_and_the_device_starts_again() {
    let mut guest = Guest::mounted();
    let rootfs = guest.walk("1/rootfs");
    let (file, _) = guest.create(rootfs, "a", libc::O_RDWR, 0o644).unwrap();
    guest.activate();
    assert_eq!((guest.files.nodes.len(), guest.files.files.len()), (0, 0));
    guest.init(0);
    assert_eq!(guest.attributes(file.nodeid, None).err(), Some(libc::EBADF));
    let again = guest.walk("1/rootfs");
    assert!(again > file.nodeid, "a number was used twice");
}

#[test]
fn the_guest_keeps_its_own_files_long_and_shared_ones_for_a_second() {
    let mut guest = Guest::mounted();
    std::fs::write(guest.host("1/rootfs/own"), "x").unwrap();
    std::fs::write(guest.host("1/volumes/0/shared"), "x").unwrap();
    let (rootfs, volume) = (guest.walk("1/rootfs"), guest.walk("1/volumes/0"));
    let own = guest.lookup(rootfs, "own").unwrap();
    let shared = guest.lookup(volume, "shared").unwrap();
    assert_eq!((own.entry_valid, own.attr_valid), (86400, 86400));
    assert_eq!((shared.entry_valid, shared.attr_valid), (1, 1));

    let keeps = |out: OpenOut| out.open_flags & OpenOptions::KEEP_CACHE.bits() != 0;
    assert!(keeps(guest.open(own.nodeid, libc::O_RDONLY).unwrap()));
    assert!(!keeps(guest.open(shared.nodeid, libc::O_RDONLY).unwrap()));
    assert!(keeps(guest.opendir(rootfs).unwrap()));
    assert!(!keeps(guest.opendir(volume).unwrap()));
}

#[test]
fn only_the_root_in_a_containers_directory_is_the_guests_own() {
    let mut guest = Guest::mounted();
    for path in ["1/rootfs/rootfs", "1/rootfs2", "1/volumes/rootfs", "1/volumes/0/rootfs", "rootfs/rootfs2"] {
        std::fs::create_dir_all(guest.host(path)).unwrap();
    }
    for (path, seconds) in [
        ("1", 1),
        ("1/rootfs", 86400),
        ("1/rootfs/rootfs", 86400),
        ("1/rootfs2", 1),
        ("1/volumes", 1),
        ("1/volumes/0", 1),
        ("1/volumes/rootfs", 1),
        ("1/volumes/0/rootfs", 1),
        ("rootfs", 1),
        ("rootfs/rootfs2", 1),
    ] {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = if parent.is_empty() { ROOT_ID } else { guest.walk(parent) };
        let entry = guest.lookup(parent, name).unwrap();
        assert_eq!((entry.entry_valid, entry.attr_valid), (seconds, seconds), "{path}");
    }
    let directory = guest.walk("1");
    assert_eq!(guest.call(Opcode::Lookup, directory, &name_bytes("no")), Err(libc::ENOENT));
}

#[test]
fn a_missing_name_is_remembered_only_where_the_host_does_not_write() {
    let mut guest = Guest::mounted();
    let (rootfs, volume) = (guest.walk("1/rootfs"), guest.walk("1/volumes/0"));
    let missing: EntryOut = object(&guest.call(Opcode::Lookup, rootfs, &name_bytes("no")).unwrap());
    assert_eq!((missing.nodeid, missing.entry_valid), (0, 86400));
    assert_eq!(guest.call(Opcode::Lookup, volume, &name_bytes("no")), Err(libc::ENOENT));
    assert_eq!(guest.call(Opcode::Lookup, ROOT_ID, &name_bytes("no")), Err(libc::ENOENT));
}

#[test]
fn what_the_guests_kernel_can_do_alone_is_left_to_it() {
    let mut guest = Guest::mounted();
    let node = guest.walk("1/rootfs");
    for opcode in [Opcode::Flush, Opcode::Access, Opcode::Getlk, Opcode::Setlk, Opcode::Setlkw, Opcode::Bmap]
    {
        assert_eq!(guest.call(opcode, node, &[0; 64]), Err(libc::ENOSYS), "{opcode:?}");
    }
    assert_eq!(guest.call(Opcode::Ioctl, node, &[0; 64]), Err(libc::ENOTTY));
    let open = OpenIn::default();
    assert_eq!(guest.call(Opcode::CopyFileRange, node, open.as_slice()), Err(libc::ENOSYS));
}

#[test]
fn pages_of_a_shared_file_are_kept_while_the_host_does_not_touch_it() {
    let mut guest = Guest::mounted();
    let path = guest.host("1/volumes/0/a");
    std::fs::write(&path, "text").unwrap();
    let node = guest.walk("1/volumes/0/a");
    let node = guest.files.nodes.get(node).unwrap();
    let stat =
        |path: &std::path::Path| super::super::nodes::stat(std::fs::File::open(path).unwrap()).unwrap();
    let first = stat(&path);
    let later = first.stx_ctime.tv_sec + 10;
    assert!(!node.same_contents(&first, later), "never opened");
    assert!(node.same_contents(&first, later));
    // Restored time stamps do not hide a change.
    let times = std::fs::metadata(&path).unwrap().modified().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    std::fs::write(&path, "TEXT").unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(times).unwrap();
    let second = stat(&path);
    assert!(!node.same_contents(&second, second.stx_ctime.tv_sec), "changed");
    // Too fresh to tell from the next change within the same tick.
    assert!(!node.same_contents(&second, later));
    assert!(node.same_contents(&second, later));
}
