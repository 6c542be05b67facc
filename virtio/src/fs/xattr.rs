//! Extended attributes. No call for them takes a descriptor that only names its file, so they go through the
//! thread's working directory, where every descriptor of the process has a name (see `sys::prepare_thread`).

use std::ffi::CStr;
use std::io;

use fuse_backend_rs::api::filesystem::{GetxattrReply, ListxattrReply};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::request::{XATTR_MAX_BYTES, visible_xattrs, xattr_name};
use super::server::CrxFs;

impl CrxFs {
    /// SETXATTR.
    pub(super) fn set_xattr(&self, inode: u64, name: &CStr, value: &[u8], flags: u32) -> io::Result<()> {
        let name = xattr_name(name)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        if value.len() > XATTR_MAX_BYTES {
            return Err(Errno::TOOBIG.into());
        }
        self.with_path(inode, |path| rustix::fs::setxattr(path, name, value, flags))
    }

    /// GETXATTR; a size of zero asks for the length.
    pub(super) fn get_xattr(&self, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
        let name = xattr_name(name)?;
        if size == 0 {
            let length = self.with_path(inode, |path| rustix::fs::getxattr_query(path, name))?;
            return Ok(GetxattrReply::Count(length as u32));
        }
        let mut value = vec![0; (size as usize).min(XATTR_MAX_BYTES)];
        let length = self.with_path(inode, |path| rustix::fs::getxattr(path, name, &mut value[..]))?;
        value.truncate(length);
        Ok(GetxattrReply::Value(value))
    }

    /// LISTXATTR; a size of zero asks for the length.
    pub(super) fn list_xattrs(&self, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        // The whole list, however little the guest takes: only what it may see counts.
        let mut list = vec![0; XATTR_MAX_BYTES];
        let length = self.with_path(inode, |path| rustix::fs::listxattr(path, &mut list[..]))?;
        let names = visible_xattrs(&list[..length]);
        match size as usize {
            0 => Ok(ListxattrReply::Count(names.len() as u32)),
            room if room < names.len() => Err(Errno::RANGE.into()),
            _ => Ok(ListxattrReply::Names(names)),
        }
    }

    /// REMOVEXATTR.
    pub(super) fn remove_xattr(&self, inode: u64, name: &CStr) -> io::Result<()> {
        let name = xattr_name(name)?;
        self.with_path(inode, |path| rustix::fs::removexattr(path, name))
    }
}
