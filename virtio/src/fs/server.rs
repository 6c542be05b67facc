//! The file server behind the device: every FUSE operation on the host's files. The library's `Server` decoded the
//! message and encodes the reply; `request.rs` checks what the guest said, `nodes.rs` and `files.rs` find what it
//! means, and here the host is asked. Operations that only look or transfer are here, those that change the tree
//! are in `changes.rs`, extended attributes in `xattr.rs`.
//!
//! Not implemented on purpose (the driver then stays local): FLUSH, locks, ACCESS, POLL, IOCTL, BMAP.

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{CreateIn, Dirent, EntryOut, FsOptions, OpenOptions, SetattrValid};
use fuse_backend_rs::abi::fuse_abi::{stat64, statvfs64};
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, GetxattrReply, ListxattrReply, ZeroCopyReader, ZeroCopyWriter,
};
use rustix::fs::{FileType, OFlags, SeekFrom, Statx, openat};
use rustix::io::Errno;

use super::attributes::InodeNumbers;
use super::files::{Files, Open};
use super::nodes::{Node, Nodes, Writers, stat};
use super::request::{self, RawEntry};
use super::sys::{self, Io};

/// How long the guest may keep names and attributes of what only it changes.
const GUEST_ONLY: Duration = Duration::from_secs(24 * 3600);
/// The same for what the host changes too.
const SHARED: Duration = Duration::from_secs(1);

/// Flag of WRITE: FUSE_WRITE_KILL_SUIDGID of linux/fuse.h.
const WRITE_KILL_SUIDGID: u32 = 4;

/// What INIT agrees to.
///
/// Left out: POSIX_LOCKS and FLOCK_LOCKS (a lock that waits would stop the queue; the guest's kernel keeps them),
/// POSIX_ACL, SUBMOUNTS (each would be a file system of its own to the guest), WRITEBACK_CACHE (host and guest
/// would disagree about sizes and times), EXPLICIT_INVAL_DATA (a file that the host makes longer would show zeros)
/// and AUTO_INVAL_DATA (it drops the pages that the guest has just written itself).
const INIT: FsOptions = FsOptions::ASYNC_READ
    .union(FsOptions::BIG_WRITES)
    .union(FsOptions::MAX_PAGES)
    .union(FsOptions::ATOMIC_O_TRUNC)
    .union(FsOptions::PARALLEL_DIROPS)
    .union(FsOptions::ASYNC_DIO)
    .union(FsOptions::CACHE_SYMLINKS)
    .union(FsOptions::DO_READDIRPLUS)
    .union(FsOptions::READDIRPLUS_AUTO)
    .union(FsOptions::HANDLE_KILLPRIV_V2);

/// The file server of one share.
pub(super) struct CrxFs {
    pub(super) nodes: Nodes,
    pub(super) files: Files,
    numbers: InodeNumbers,
}

impl CrxFs {
    /// Serves `root`; `descriptors` is the procfs directory of this process's descriptors. Nodes hold at most
    /// `node_descriptors` of them where there is another way, and at most `open_files` files are open.
    pub(super) fn new(
        root: OwnedFd,
        descriptors: OwnedFd,
        node_descriptors: usize,
        open_files: usize,
    ) -> io::Result<Self> {
        Ok(Self {
            numbers: InodeNumbers::new(),
            nodes: Nodes::new(root, descriptors, node_descriptors)?,
            files: Files::new(open_files),
        })
    }

    /// Forgets everything that a driver had: it is gone, or begins anew.
    pub(super) fn clear(&self) {
        self.files.clear();
        self.nodes.clear();
    }

    /// A node that is a directory.
    pub(super) fn directory(&self, id: u64) -> io::Result<Arc<Node>> {
        self.nodes.get(id)?.directory()
    }

    /// What the guest learns of a node.
    pub(super) fn entry(&self, node: &Node, stat: &Statx) -> Entry {
        let timeout = timeout(node.writers);
        if node.is_root_of_container() {
            self.numbers.keep(node.device());
        }
        Entry {
            inode: node.id,
            // A number is never used for two inodes.
            generation: 0,
            attr: self.numbers.attributes(stat),
            attr_flags: 0,
            attr_timeout: timeout,
            entry_timeout: timeout,
        }
    }

    /// LOOKUP of a checked name.
    pub(super) fn find(&self, parent: &Node, name: &CStr) -> io::Result<Entry> {
        let (node, stat) = self.nodes.find(parent, name)?;
        Ok(self.entry(&node, &stat))
    }

    /// An open file, and whether that is what a request with this node may use.
    pub(super) fn open_file(&self, handle: u64, node: u64) -> io::Result<Arc<Open>> {
        self.files.get(handle, node)
    }

    /// Opens a regular file. Devices, FIFOs and sockets are the guest's kernel's own business: opening one here
    /// would reach into the host.
    pub(super) fn open_node(&self, node: &Node, flags: u32, fuse_flags: u32) -> io::Result<OwnedFd> {
        match node.kind {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR.into()),
            FileType::Symlink => return Err(Errno::LOOP.into()),
            _ => return Err(Errno::NXIO.into()),
        }
        let flags = request::open_flags(flags)?;
        if flags.contains(OFlags::TRUNC) && fuse_flags & request::OPEN_KILL_SUIDGID != 0 {
            sys::without_fsetid(|| self.nodes.open(node, flags))
        } else {
            self.nodes.open(node, flags)
        }
    }

    fn list(
        &self,
        inode: u64,
        handle: u64,
        offset: u64,
        mut take: impl FnMut(&Node, DirEntry<'_>, &RawEntry<'_>) -> io::Result<bool>,
    ) -> io::Result<()> {
        let open = self.files.get(handle, inode)?;
        let node = self.directory(inode)?;
        open.directory()?.read(offset, |raw| {
            let entry = DirEntry {
                ino: self.numbers.of(node.device(), raw.ino),
                offset: raw.next,
                type_: raw.kind.into(),
                name: raw.name,
            };
            take(&node, entry, raw)
        })
    }

    /// The entry that READDIRPLUS adds; one without a node says nothing, and the guest will ask.
    fn plus(&self, parent: &Node, name: &[u8]) -> Entry {
        let mut terminated = name.to_vec();
        terminated.push(0);
        CStr::from_bytes_with_nul(&terminated)
            .ok()
            .and_then(|name| request::entry_name(name).ok())
            .and_then(|name| self.find(parent, name).ok())
            .unwrap_or_default()
    }
}

fn timeout(writers: Writers) -> Duration {
    match writers {
        Writers::Guest => GUEST_ONLY,
        Writers::Both | Writers::Container => SHARED,
    }
}

/// What the guest may keep in its page cache from one OPEN to the next.
pub(super) fn file_cache(node: &Node, fd: &OwnedFd) -> io::Result<OpenOptions> {
    let keep = match node.writers {
        Writers::Guest => true,
        Writers::Both | Writers::Container => {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
            node.same_contents(&stat(fd)?, now.tv_sec)
        }
    };
    Ok(if keep { OpenOptions::KEEP_CACHE } else { OpenOptions::empty() })
}

/// An offset that a file can have.
pub(super) fn file_offset(offset: u64) -> io::Result<u64> {
    if i64::try_from(offset).is_ok() { Ok(offset) } else { Err(Errno::INVAL.into()) }
}

impl FileSystem for CrxFs {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        self.clear();
        Ok(INIT & capable)
    }

    fn destroy(&self) {
        self.clear();
    }

    fn lookup(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        let name = request::entry_name(name)?;
        let parent = self.directory(parent)?;
        match self.find(&parent, name) {
            // The guest remembers that there is nothing: programs ask for the same missing names all the time.
            Err(error) if is_missing(&error) && parent.writers == Writers::Guest => {
                Ok(Entry { entry_timeout: GUEST_ONLY, ..Entry::default() })
            }
            found => found,
        }
    }

    fn forget(&self, _: &Context, inode: u64, count: u64) {
        self.nodes.forget(inode, count);
    }

    fn getattr(&self, _: &Context, inode: u64, handle: Option<u64>) -> io::Result<(stat64, Duration)> {
        let node = self.nodes.get(inode)?;
        let stat = match handle {
            Some(handle) => self.files.get(handle, inode)?.with_fd(|fd| stat(fd))?,
            None => stat(node.path()?)?,
        };
        Ok((self.numbers.attributes(&stat), timeout(node.writers)))
    }

    fn setattr(
        &self,
        _: &Context,
        inode: u64,
        attr: stat64,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(stat64, Duration)> {
        let node = self.nodes.get(inode)?;
        let stat = self.change_attributes(&node, &attr, handle, valid)?;
        Ok((self.numbers.attributes(&stat), timeout(node.writers)))
    }

    fn readlink(&self, _: &Context, inode: u64) -> io::Result<Vec<u8>> {
        let node = self.nodes.get(inode)?;
        Ok(rustix::fs::readlinkat(node.path()?, c"", Vec::with_capacity(256))?.into_bytes())
    }

    fn symlink(&self, ctx: &Context, target: &CStr, parent: u64, name: &CStr) -> io::Result<Entry> {
        self.make_symlink(ctx, target, parent, name)
    }

    fn mknod(
        &self,
        ctx: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        rdev: u32,
        _: u32,
    ) -> io::Result<Entry> {
        self.make_node(ctx, parent, name, mode, rdev)
    }

    fn mkdir(&self, ctx: &Context, parent: u64, name: &CStr, mode: u32, _: u32) -> io::Result<Entry> {
        self.make_directory(ctx, parent, name, mode)
    }

    fn unlink(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.remove(parent, name, rustix::fs::AtFlags::empty())
    }

    fn rmdir(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.remove(parent, name, rustix::fs::AtFlags::REMOVEDIR)
    }

    fn rename(
        &self,
        _: &Context,
        from: u64,
        name: &CStr,
        to: u64,
        new_name: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        self.rename_entry((from, name), (to, new_name), flags)
    }

    fn link(&self, _: &Context, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry> {
        self.make_link(inode, parent, name)
    }

    fn open(
        &self,
        _: &Context,
        inode: u64,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions, Option<u32>)> {
        self.files.check_room()?;
        let node = self.nodes.get(inode)?;
        let fd = self.open_node(&node, flags, fuse_flags)?;
        let cache = file_cache(&node, &fd)?;
        Ok((Some(self.files.add_file(inode, fd)), cache, None))
    }

    fn create(
        &self,
        ctx: &Context,
        parent: u64,
        name: &CStr,
        args: CreateIn,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions, Option<u32>)> {
        let (entry, handle, options) = self.create_file(ctx, parent, name, args)?;
        Ok((entry, Some(handle), options, None))
    }

    fn read(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        writer: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        _: Option<u64>,
        _: u32,
    ) -> io::Result<usize> {
        let open = self.open_file(handle, inode)?;
        let count = (size as usize).min(request::IO_MAX_BYTES).min(writer.available_bytes());
        writer.write_from(&mut Io::new(open.file()?, false), count, file_offset(offset)?)
    }

    fn write(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        reader: &mut dyn ZeroCopyReader,
        size: u32,
        offset: u64,
        _: Option<u64>,
        _: bool,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<usize> {
        let open = self.open_file(handle, inode)?;
        let mut file = Io::new(open.file()?, request::appends(flags));
        if size as usize > request::IO_MAX_BYTES {
            return Err(Errno::INVAL.into());
        }
        let offset = file_offset(offset)?;
        let mut write = || reader.read_to(&mut file, size as usize, offset);
        if fuse_flags & WRITE_KILL_SUIDGID == 0 { write() } else { sys::without_fsetid(write) }
    }

    fn fsync(&self, _: &Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()> {
        self.files
            .get(handle, inode)?
            .with_fd(|fd| Ok(if datasync { rustix::fs::fdatasync(fd) } else { rustix::fs::fsync(fd) }?))
    }

    fn fallocate(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        let open = self.open_file(handle, inode)?;
        let mode = request::fallocate_mode(mode)?;
        Ok(rustix::fs::fallocate(open.file()?, mode, file_offset(offset)?, file_offset(length)?)?)
    }

    fn release(
        &self,
        _: &Context,
        inode: u64,
        _: u32,
        handle: u64,
        _: bool,
        _: bool,
        _: Option<u64>,
    ) -> io::Result<()> {
        self.files.remove(handle, inode)
    }

    fn statfs(&self, _: &Context, inode: u64) -> io::Result<statvfs64> {
        let node = self.nodes.get(inode)?;
        super::sys::file_system(node.path()?.as_fd())
    }

    fn setxattr(&self, _: &Context, inode: u64, name: &CStr, value: &[u8], flags: u32) -> io::Result<()> {
        self.set_xattr(inode, name, value, flags)
    }

    fn getxattr(&self, _: &Context, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
        self.get_xattr(inode, name, size)
    }

    fn listxattr(&self, _: &Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        self.list_xattrs(inode, size)
    }

    fn removexattr(&self, _: &Context, inode: u64, name: &CStr) -> io::Result<()> {
        self.remove_xattr(inode, name)
    }

    fn opendir(&self, _: &Context, inode: u64, _: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        self.files.check_room()?;
        let node = self.directory(inode)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(node.path()?, c".", flags, rustix::fs::Mode::empty())?;
        let options = match node.writers {
            Writers::Guest => OpenOptions::CACHE_DIR | OpenOptions::KEEP_CACHE,
            Writers::Both | Writers::Container => OpenOptions::empty(),
        };
        Ok((Some(self.files.add_directory(inode, fd)), options))
    }

    fn readdir(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        _: u32,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.list(inode, handle, offset, |_, entry, _| Ok(add(entry)? > 0))
    }

    fn readdirplus(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        let mut room = size as usize;
        self.list(inode, handle, offset, |parent, entry, raw| {
            // Looked at first, so that no inode is looked up for an entry that does not fit.
            let bytes = (size_of::<Dirent>() + raw.name.len()).next_multiple_of(8) + size_of::<EntryOut>();
            if bytes > room {
                return Ok(false);
            }
            room -= bytes;
            let plus = self.plus(parent, raw.name);
            let id = plus.inode;
            let added = add(entry, plus);
            if !matches!(added, Ok(1..)) && id != 0 {
                self.nodes.forget(id, 1);
            }
            Ok(added? > 0)
        })
    }

    fn fsyncdir(&self, ctx: &Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()> {
        self.fsync(ctx, inode, datasync, handle)
    }

    fn releasedir(&self, _: &Context, inode: u64, _: u32, handle: u64) -> io::Result<()> {
        self.files.remove(handle, inode)
    }

    fn lseek(&self, _: &Context, inode: u64, handle: u64, offset: u64, whence: u32) -> io::Result<u64> {
        let open = self.open_file(handle, inode)?;
        let from = match whence as i32 {
            libc::SEEK_DATA => SeekFrom::Data(file_offset(offset)?),
            libc::SEEK_HOLE => SeekFrom::Hole(file_offset(offset)?),
            // The guest's kernel knows all other positions itself.
            _ => return Err(Errno::INVAL.into()),
        };
        Ok(rustix::fs::seek(open.file()?, from)?)
    }
}

fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NOENT.raw_os_error())
}
