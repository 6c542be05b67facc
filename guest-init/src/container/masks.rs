//! Masked and read-only paths. What is not there needs no mask.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use crx_proto::StartError;
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::fchdir;

use super::rootfs::{Root, attach_over, clone_tree, clone_tree_at};
use crate::failure::failed;
use crate::sys;

/// An empty file of the pod.
const EMPTY_FILE: &str = "/dev/null";

/// Covers each path with an empty file or an empty directory, but for those that are `done`.
pub(crate) fn mask(root: &Root, paths: &[String], done: impl Fn(&str) -> bool) -> Result<(), StartError> {
    for (index, path) in paths.iter().enumerate().filter(|(_, path)| !done(path)) {
        let fail = |error: std::io::Error| {
            failed(format_args!("linux.maskedPaths[{index}] ({path})"), "mask", error)
        };
        if let Some(target) = existing(root, path).map_err(|error| fail(error.into()))? {
            cover(&target).map_err(|error| fail(error.into()))?;
        }
    }
    Ok(())
}

/// Makes each path read-only, but for those that are `done`.
pub(crate) fn make_read_only(
    root: &Root,
    paths: &[String],
    done: impl Fn(&str) -> bool,
) -> Result<(), StartError> {
    for (index, path) in paths.iter().enumerate().filter(|(_, path)| !done(path)) {
        let fail = |error: std::io::Error| {
            failed(format_args!("linux.readonlyPaths[{index}] ({path})"), "make it read-only", error)
        };
        if let Some(target) = existing(root, path).map_err(|error| fail(error.into()))? {
            bind_read_only(&target).map_err(fail)?;
        }
    }
    Ok(())
}

/// The path, if it is there.
fn existing(root: &Root, path: &str) -> rustix::io::Result<Option<OwnedFd>> {
    match root.find(path) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

fn cover(target: &OwnedFd) -> rustix::io::Result<()> {
    if FileType::from_raw_mode(fstat(target)?.st_mode).is_dir() {
        fchdir(target)?;
        return mount("tmpfs", ".", "tmpfs", MountFlags::RDONLY, None::<&CStr>);
    }
    attach_over(&clone_tree(EMPTY_FILE, false)?, target)
}

fn bind_read_only(target: &OwnedFd) -> std::io::Result<()> {
    let tree = clone_tree_at(target, true)?;
    sys::mount_setattr(tree.as_fd(), false, libc::MOUNT_ATTR_RDONLY, 0, 0)?;
    Ok(attach_over(&tree, target)?)
}
