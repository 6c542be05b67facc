//! The inodes that the guest knows. Before this, a request named a node; this finds the host's inode behind it, or
//! makes a node of an inode that a LOOKUP found; `server.rs` acts on it.
//!
//! A node is found by device, inode and mount: the same directory bound twice, once read-only, is two nodes. Its
//! number is never used twice, so a forged or stale one is noticed. It holds the inode by an O_PATH descriptor
//! while the budget of descriptors lasts, and by a file handle above it, where the file system has handles;
//! elsewhere descriptors go on until the process has none left.
//!
//! The root of a container is the exception: while one that has it is in the share, a second container with the
//! same directory as its root gets the same node, and so the first one's mount, whatever its own may be. Two nodes
//! of it, each cached for a day, would hide from each container what the other writes, and those that the first has
//! learned cannot be called back. Once no container has it in the share, the next one's root is a new node: the host
//! may have written there in between.

use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use fuse_backend_rs::abi::fuse_abi::ROOT_ID;
use rustix::fs::{AtFlags, FileType, OFlags, Statx, StatxFlags, openat, statx};
use rustix::io::Errno;

use super::sys::{DescriptorName, FileHandle};

const PATH_FLAGS: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The root file system in a container's directory of the share (`crx_proto::SHARE_ROOTFS`).
const ROOTFS: &CStr = c"rootfs";

/// Who changes a part of the share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writers {
    /// Only the guest, so it may cache for as long as it likes.
    Guest,
    /// The guest and the host.
    Both,
    /// A container's directory: the host's, but the root file system in it is the guest's.
    Container,
}

/// What makes an inode of the host the same as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    device: (u32, u32),
    ino: u64,
    /// None for the root of a container, which is the same through every mount.
    mount: Option<u64>,
}

impl Key {
    fn of(stat: &Statx) -> Self {
        let mount = Some(stat.stx_mnt_id);
        Self { device: (stat.stx_dev_major, stat.stx_dev_minor), ino: stat.stx_ino, mount }
    }
}

enum Place {
    Descriptor(OwnedFd),
    Handle { mount: Arc<OwnedFd>, handle: FileHandle },
}

/// An inode of the host that the guest knows.
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) kind: FileType,
    pub(super) writers: Writers,
    key: Key,
    /// The mount that it was found through.
    mount: u64,
    place: Place,
    opened: Mutex<Option<Contents>>,
}

/// What tells contents of a file from other contents of it, as long as the host's clock has gone on since.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Contents {
    size: u64,
    modified: (i64, u32),
    changed: (i64, u32),
}

/// After this time a further change has another time stamp: the coarsest that file systems of Linux keep is 2 s.
const SETTLED_SECONDS: i64 = 3;

/// A node's inode, open for the time of a request.
pub(super) enum NodeFd<'a> {
    Held(BorrowedFd<'a>),
    Opened(OwnedFd),
}

impl AsFd for NodeFd<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Held(fd) => *fd,
            Self::Opened(fd) => fd.as_fd(),
        }
    }
}

impl Node {
    /// The inode as an O_PATH descriptor.
    pub(super) fn path(&self) -> io::Result<NodeFd<'_>> {
        match &self.place {
            Place::Descriptor(fd) => Ok(NodeFd::Held(fd.as_fd())),
            Place::Handle { mount, handle } => handle.open(mount.as_fd(), PATH_FLAGS).map(NodeFd::Opened),
        }
    }

    /// The device of the inode.
    pub(super) fn device(&self) -> (u32, u32) {
        self.key.device
    }

    /// It is the root of a container.
    pub(super) fn is_root_of_container(&self) -> bool {
        self.key.mount.is_none()
    }

    /// Whether the contents are those of the last OPEN, so that what the guest has read of them still holds.
    /// `now` is the host's time in seconds.
    pub(super) fn same_contents(&self, stat: &Statx, now: i64) -> bool {
        let contents = Contents {
            size: stat.stx_size,
            modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            changed: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        };
        let settled = now.saturating_sub(contents.changed.0) >= SETTLED_SECONDS;
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let same = *opened == Some(contents);
        *opened = settled.then_some(contents);
        same
    }

    /// Whether this node keeps a descriptor of the process.
    #[cfg(test)]
    pub(super) fn holds_descriptor(&self) -> bool {
        matches!(self.place, Place::Descriptor(_))
    }

    /// The node, if it is a directory.
    pub(super) fn directory(self: Arc<Self>) -> io::Result<Arc<Self>> {
        if self.kind == FileType::Directory { Ok(self) } else { Err(Errno::NOTDIR.into()) }
    }

    /// Who changes an entry of this directory.
    fn writers_of(&self, name: &CStr) -> Writers {
        match self.writers {
            _ if self.id == ROOT_ID => Writers::Container,
            Writers::Container if name == ROOTFS => Writers::Guest,
            Writers::Container => Writers::Both,
            inherited => inherited,
        }
    }

    /// An entry of this directory is the root of a container.
    fn has_root(&self, name: &CStr) -> bool {
        self.writers == Writers::Container && name == ROOTFS
    }
}

struct Known {
    node: Arc<Node>,
    lookups: u64,
    /// The directories of the containers whose root it is.
    homes: HashMap<Key, OwnedFd>,
}

impl Known {
    /// The node is still the root of a container in the share.
    fn is_at_home(&mut self) -> bool {
        let (device, ino) = (self.node.key.device, self.node.key.ino);
        self.homes.retain(|_, home| {
            let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
            statx(home, ROOTFS, flags, StatxFlags::BASIC_STATS)
                .is_ok_and(|stat| ((stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino) == (device, ino))
        });
        !self.homes.is_empty()
    }
}

/// Whether a mount has file handles, and what they are opened through.
enum Handles {
    No,
    Through(Weak<OwnedFd>),
}

#[derive(Default)]
struct Table {
    known: HashMap<u64, Known>,
    by_key: HashMap<Key, u64>,
    mounts: HashMap<u64, Handles>,
    next_id: u64,
    descriptors: usize,
}

/// All nodes.
pub(super) struct Nodes {
    root: Arc<Node>,
    /// The directory of the process's descriptors, from procfs.
    descriptors: OwnedFd,
    budget: usize,
    table: Mutex<Table>,
}

/// Attributes of an open file. One system call.
pub(super) fn stat(file: impl AsFd) -> io::Result<Statx> {
    Ok(statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?)
}

impl Nodes {
    /// A table with the share's root. `budget` is the number of descriptors that nodes hold before file handles
    /// take over.
    pub(super) fn new(root: OwnedFd, descriptors: OwnedFd, budget: usize) -> io::Result<Self> {
        let stat = stat(&root)?;
        let root = Node {
            id: ROOT_ID,
            kind: FileType::from_raw_mode(u32::from(stat.stx_mode)),
            writers: Writers::Both,
            key: Key::of(&stat),
            mount: stat.stx_mnt_id,
            place: Place::Descriptor(root),
            opened: Mutex::default(),
        };
        let nodes = Self { root: Arc::new(root), descriptors, budget, table: Mutex::default() };
        nodes.clear();
        Ok(nodes)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while it holds the table, and a table is sound after every step.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets everything but the root: the guest's driver starts anew.
    pub(super) fn clear(&self) {
        let mut fresh = Table { next_id: self.table().next_id.max(ROOT_ID + 1), ..Table::default() };
        fresh.by_key.insert(self.root.key, ROOT_ID);
        let old = std::mem::replace(&mut *self.table(), fresh);
        drop(old);
    }

    /// The directory of the process's descriptors.
    pub(super) fn descriptors(&self) -> BorrowedFd<'_> {
        self.descriptors.as_fd()
    }

    /// The node of a number that the guest sent.
    pub(super) fn get(&self, id: u64) -> io::Result<Arc<Node>> {
        if id == ROOT_ID {
            return Ok(Arc::clone(&self.root));
        }
        self.table().known.get(&id).map(|known| Arc::clone(&known.node)).ok_or(Errno::BADF.into())
    }

    /// The node of an entry of `parent`; the guest knows it once more.
    pub(super) fn find(&self, parent: &Node, name: &CStr) -> io::Result<(Arc<Node>, Statx)> {
        let directory = parent.path()?;
        let fd = openat(&directory, name, PATH_FLAGS, rustix::fs::Mode::empty())?;
        self.enter(parent, name, fd)
    }

    /// The node of the inode behind `fd`, an O_PATH descriptor of an entry of `parent`.
    pub(super) fn enter(&self, parent: &Node, name: &CStr, fd: OwnedFd) -> io::Result<(Arc<Node>, Statx)> {
        let stat = stat(&fd)?;
        let mut key = Key::of(&stat);
        let mut homes = HashMap::new();
        if parent.has_root(name) {
            key.mount = None;
            homes.insert(parent.key, openat(parent.path()?, c".", PATH_FLAGS, rustix::fs::Mode::empty())?);
        }
        let mut table = self.table();
        if let Some(node) = table.known_again(&self.root, key, &fd, &mut homes) {
            return Ok((node, stat));
        }
        let place = if table.descriptors < self.budget {
            Place::Descriptor(fd)
        } else {
            match table.handle(parent, stat.stx_mnt_id, &fd) {
                Some((mount, handle)) => Place::Handle { mount, handle },
                None => Place::Descriptor(fd),
            }
        };
        table.descriptors += usize::from(matches!(place, Place::Descriptor(_)));
        let id = table.next_id;
        table.next_id += 1;
        let kind = FileType::from_raw_mode(u32::from(stat.stx_mode));
        let node = Arc::new(Node {
            id,
            kind,
            writers: parent.writers_of(name),
            key,
            mount: stat.stx_mnt_id,
            place,
            opened: Mutex::default(),
        });
        table.known.insert(id, Known { node: Arc::clone(&node), lookups: 1, homes });
        table.by_key.insert(key, id);
        Ok((node, stat))
    }

    /// The guest knows a node `count` times less; at zero it is gone.
    pub(super) fn forget(&self, id: u64, count: u64) {
        let mut table = self.table();
        let Some(known) = table.known.get_mut(&id) else { return };
        known.lookups = known.lookups.saturating_sub(count);
        if known.lookups > 0 {
            return;
        }
        let Some(Known { node, .. }) = table.known.remove(&id) else { return };
        if table.by_key.get(&node.key) == Some(&id) {
            table.by_key.remove(&node.key);
        }
        table.descriptors -= usize::from(matches!(node.place, Place::Descriptor(_)));
    }

    /// Opens the inode of a node with the rights that `flags` name.
    pub(super) fn open(&self, node: &Node, flags: OFlags) -> io::Result<OwnedFd> {
        match &node.place {
            Place::Descriptor(fd) => self.reopen(fd, flags),
            Place::Handle { mount, handle } => handle.open(mount.as_fd(), flags),
        }
    }

    /// Opens what is behind a descriptor once more. The entries of the directory of descriptors are not names that
    /// are looked up, they are the open files themselves: nothing that the guest renames can come between.
    pub(super) fn reopen(&self, fd: impl AsFd, flags: OFlags) -> io::Result<OwnedFd> {
        let name = DescriptorName::of(fd);
        Ok(openat(&self.descriptors, name.as_c_str(), flags, rustix::fs::Mode::empty())?)
    }

    /// Nodes that the guest knows, without the root.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table().known.len()
    }
}

impl Table {
    /// The node of `key` if the guest knows it: its lookup count is one more. The root of a container has `homes`:
    /// the node takes them.
    fn known_again(
        &mut self,
        root: &Arc<Node>,
        key: Key,
        fd: &OwnedFd,
        homes: &mut HashMap<Key, OwnedFd>,
    ) -> Option<Arc<Node>> {
        let id = *self.by_key.get(&key)?;
        if id == ROOT_ID {
            return Some(Arc::clone(root));
        }
        let known = self.known.get_mut(&id)?;
        if let Place::Handle { handle, .. } = &known.node.place {
            // Nothing keeps the inode alive: its number may belong to a new file by now.
            if FileHandle::of(fd.as_fd()).ok().as_ref() != Some(handle) {
                return None;
            }
        }
        if !homes.is_empty() {
            if !known.is_at_home() {
                return None;
            }
            known.homes.extend(homes.drain());
        }
        known.lookups = known.lookups.saturating_add(1);
        Some(Arc::clone(&known.node))
    }

    /// A file handle that can be opened again, if the file system behind `fd` has them and we may use them.
    fn handle(&mut self, parent: &Node, number: u64, fd: &OwnedFd) -> Option<(Arc<OwnedFd>, FileHandle)> {
        let mount = match self.mounts.get(&number) {
            Some(Handles::No) => return None,
            Some(Handles::Through(mount)) => mount.upgrade(),
            None => None,
        };
        let handle = FileHandle::of(fd.as_fd());
        let found = handle.ok().and_then(|handle| match mount {
            Some(mount) => Some((mount, handle)),
            None => {
                let mount = Arc::new(mount_of(parent, number, fd)?);
                handle.open(mount.as_fd(), PATH_FLAGS).is_ok().then_some((mount, handle))
            }
        });
        let handles =
            found.as_ref().map_or(Handles::No, |(mount, _)| Handles::Through(Arc::downgrade(mount)));
        self.mounts.insert(number, handles);
        found
    }
}

/// A directory of the mount with this number, which `fd` is on, opened for more than its path, as open_by_handle_at(2) wants it.
fn mount_of(parent: &Node, number: u64, fd: &OwnedFd) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if parent.mount == number {
        let directory = parent.path().ok()?;
        openat(&directory, c".", flags, rustix::fs::Mode::empty()).ok()
    } else {
        openat(fd, c".", flags, rustix::fs::Mode::empty()).ok()
    }
}
