//! Operations that change the tree: making, linking, renaming, removing, and attributes. What is made belongs to the
//! user that asked in the guest, so that owners, quotas and set-group-ID directories come out as on a local disk.

use std::ffi::CStr;
use std::io;
use std::sync::Arc;

use fuse_backend_rs::abi::fuse_abi::{CreateIn, OpenOptions, SetattrValid, stat64};
use fuse_backend_rs::api::filesystem::{Context, Entry};
use rustix::fs::{AtFlags, FileType, Gid, OFlags, Statx, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::nodes::{Node, stat};
use super::request;
use super::server::{CrxFs, file_cache, file_offset};
use super::sys::{self, Caller, DescriptorName};

impl CrxFs {
    /// SYMLINK.
    pub(super) fn make_symlink(
        &self,
        ctx: &Context,
        target: &CStr,
        parent: u64,
        name: &CStr,
    ) -> io::Result<Entry> {
        let (target, name) = (request::link_target(target)?, request::entry_name(name)?);
        let parent = self.directory(parent)?;
        {
            let _caller = Caller::assume(ctx.uid, ctx.gid)?;
            rustix::fs::symlinkat(target, parent.path()?, name)?;
        }
        self.find(&parent, name)
    }

    /// MKNOD.
    pub(super) fn make_node(
        &self,
        ctx: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        rdev: u32,
    ) -> io::Result<Entry> {
        let (kind, name) = (request::node_type(mode)?, request::entry_name(name)?);
        let parent = self.directory(parent)?;
        {
            let _caller = Caller::assume(ctx.uid, ctx.gid)?;
            rustix::fs::mknodat(parent.path()?, name, kind, request::mode(mode), rdev.into())?;
        }
        self.find(&parent, name)
    }

    /// MKDIR.
    pub(super) fn make_directory(
        &self,
        ctx: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
    ) -> io::Result<Entry> {
        let name = request::entry_name(name)?;
        let parent = self.directory(parent)?;
        {
            let _caller = Caller::assume(ctx.uid, ctx.gid)?;
            rustix::fs::mkdirat(parent.path()?, name, request::mode(mode))?;
        }
        self.find(&parent, name)
    }

    /// CREATE. Always tried as a new file first: opening what is there, with O_CREAT, could open a FIFO or a device
    /// of the host.
    pub(super) fn create_file(
        &self,
        ctx: &Context,
        parent: u64,
        name: &CStr,
        args: CreateIn,
    ) -> io::Result<(Entry, u64, OpenOptions)> {
        let name = request::entry_name(name)?;
        self.files.check_room()?;
        let parent = self.directory(parent)?;
        let flags = request::open_flags(args.flags)? | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let made = {
            let _caller = Caller::assume(ctx.uid, ctx.gid)?;
            rustix::fs::openat(parent.path()?, name, flags, request::mode(args.mode))
        };
        let (node, stat, fd) = match made {
            Ok(fd) => {
                let path = self.nodes.reopen(&fd, OFlags::PATH | OFlags::CLOEXEC)?;
                let (node, stat) = self.nodes.enter(&parent, name, path)?;
                (node, stat, fd)
            }
            Err(Errno::EXIST) if args.flags & libc::O_EXCL as u32 == 0 => {
                let (node, _) = self.nodes.find(&parent, name)?;
                let opened = self.open_node(&node, args.flags, args.fuse_flags);
                // O_TRUNC may just have changed the size.
                match opened.and_then(|fd| Ok((stat(&fd)?, fd))) {
                    Ok((stat, fd)) => (node, stat, fd),
                    Err(error) => {
                        self.nodes.forget(node.id, 1);
                        return Err(error);
                    }
                }
            }
            Err(error) => return Err(error.into()),
        };
        let cache = file_cache(&node, &fd)?;
        let handle = self.files.add_file(node.id, fd);
        Ok((self.entry(&node, &stat), handle, cache))
    }

    /// UNLINK and RMDIR.
    pub(super) fn remove(&self, parent: u64, name: &CStr, flags: AtFlags) -> io::Result<()> {
        let name = request::entry_name(name)?;
        Ok(rustix::fs::unlinkat(self.directory(parent)?.path()?, name, flags)?)
    }

    /// RENAME and RENAME2.
    pub(super) fn rename_entry(&self, from: (u64, &CStr), to: (u64, &CStr), flags: u32) -> io::Result<()> {
        let (name, new_name) = (request::entry_name(from.1)?, request::entry_name(to.1)?);
        let flags = request::rename_flags(flags)?;
        let (from, to) = (self.directory(from.0)?, self.directory(to.0)?);
        Ok(rustix::fs::renameat_with(from.path()?, name, to.path()?, new_name, flags)?)
    }

    /// LINK. The inode is named by its descriptor, so a name that changes meanwhile does not matter.
    pub(super) fn make_link(&self, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry> {
        let name = request::entry_name(name)?;
        let (node, parent) = (self.nodes.get(inode)?, self.directory(parent)?);
        if node.kind == FileType::Directory {
            return Err(Errno::PERM.into());
        }
        let path = node.path()?;
        rustix::fs::linkat(
            self.nodes.descriptors(),
            DescriptorName::of(&path).as_c_str(),
            parent.path()?,
            name,
            AtFlags::SYMLINK_FOLLOW,
        )?;
        self.find(&parent, name)
    }

    /// SETATTR: mode, owner, size and times, in this order; returns the attributes afterwards.
    pub(super) fn change_attributes(
        &self,
        node: &Arc<Node>,
        attr: &stat64,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<Statx> {
        let path = node.path()?;
        let name = DescriptorName::of(&path);
        // The entries of the directory of descriptors lead to the inodes themselves, symbolic links included.
        let (descriptors, name) = (self.nodes.descriptors(), name.as_c_str());
        if valid.contains(SetattrValid::MODE) {
            if node.kind == FileType::Symlink {
                return Err(Errno::OPNOTSUPP.into());
            }
            rustix::fs::chmodat(descriptors, name, request::mode(attr.st_mode), AtFlags::empty())?;
        }
        if valid.intersects(SetattrValid::UID | SetattrValid::GID) {
            let uid = valid.contains(SetattrValid::UID).then(|| changed_id(attr.st_uid)).transpose()?;
            let gid = valid.contains(SetattrValid::GID).then(|| changed_id(attr.st_gid)).transpose()?;
            let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            rustix::fs::chownat(&path, c"", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if valid.contains(SetattrValid::SIZE) {
            let resize = || self.resize(node, handle, attr.st_size);
            if valid.contains(SetattrValid::KILL_SUIDGID) {
                sys::without_fsetid(resize)?;
            } else {
                resize()?;
            }
        }
        if valid.intersects(SetattrValid::ATIME | SetattrValid::MTIME) {
            rustix::fs::utimensat(descriptors, name, &times(attr, valid), AtFlags::empty())?;
        }
        stat(&path)
    }

    fn resize(&self, node: &Node, handle: Option<u64>, size: i64) -> io::Result<()> {
        let size = file_offset(size as u64)?;
        if let Some(handle) = handle {
            let open = self.open_file(handle, node.id)?;
            return Ok(rustix::fs::ftruncate(open.file()?, size)?);
        }
        let fd = self.open_node(node, libc::O_WRONLY as u32, 0)?;
        Ok(rustix::fs::ftruncate(&fd, size)?)
    }

    /// The path by which calls without a descriptor reach an inode: the thread's working directory is the directory
    /// of descriptors.
    pub(super) fn with_path<T>(
        &self,
        inode: u64,
        work: impl FnOnce(&CStr) -> Result<T, Errno>,
    ) -> io::Result<T> {
        let node = self.nodes.get(inode)?;
        let path = node.path()?;
        Ok(work(DescriptorName::of(&path).as_c_str())?)
    }
}

/// -1 is "no change" to chown(2), and no user.
fn changed_id(id: u32) -> io::Result<u32> {
    if id == u32::MAX { Err(Errno::INVAL.into()) } else { Ok(id) }
}

fn times(attr: &stat64, valid: SetattrValid) -> Timestamps {
    let time = |given: bool, now: bool, seconds: i64, nanoseconds: i64| match (given, now) {
        (false, _) => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        (true, true) => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        // UTIME_NOW and UTIME_OMIT are not nanoseconds that a guest may send.
        (true, false) => Timespec { tv_sec: seconds, tv_nsec: nanoseconds.clamp(0, 999_999_999) },
    };
    Timestamps {
        last_access: time(
            valid.contains(SetattrValid::ATIME),
            valid.contains(SetattrValid::ATIME_NOW),
            attr.st_atime,
            attr.st_atime_nsec,
        ),
        last_modification: time(
            valid.contains(SetattrValid::MTIME),
            valid.contains(SetattrValid::MTIME_NOW),
            attr.st_mtime,
            attr.st_mtime_nsec,
        ),
    }
}
