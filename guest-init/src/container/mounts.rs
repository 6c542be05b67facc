//! The mounts of config.json, in their order, below the container's root: new file systems, the container's own
//! cgroup tree, and binds. Destinations that are missing are made.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use crx_proto::{BindSource, Mount, MountKind, Plan, SHARE_VOLUMES, StartError};
use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::{self, Errno};
use rustix::mount::{MountFlags, mount};
use rustix::process::fchdir;

use super::copy_up;
use super::rootfs::{MS_REC, Root, attach_over, clone_tree};
use super::staged::Fitting;
use crate::failure::failed;
use crate::sys;

/// MS_* of linux/mount.h, as the plan has them.
const MS_RDONLY: u64 = libc::MS_RDONLY;

/// MS_* flags and the mount attribute of each that simply has one.
const ATTRIBUTES: [(u64, u64); 6] = [
    (libc::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
    (libc::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
    (libc::MS_NODEV, libc::MOUNT_ATTR_NODEV),
    (libc::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
    (libc::MS_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
    // MS_NOSYMFOLLOW
    (1 << 8, libc::MOUNT_ATTR_NOSYMFOLLOW),
];

/// What the mounts of a container need to know beside the plan.
pub(crate) struct Context<'a> {
    /// The container's root.
    pub(crate) root: &'a Root,
    /// Where the share is mounted.
    pub(crate) share: &'a str,
    /// The container's cgroup, as a directory of the pod, unless it has a cgroup namespace.
    pub(crate) cgroup: Option<&'a str>,
    /// Trees that were made before.
    pub(crate) fitting: Option<&'a Fitting<'a>>,
}

/// Makes every mount of the plan. Returned are those that become read-only only once the devices are made.
pub(crate) fn make_all<'p>(context: &Context<'_>, plan: &'p Plan) -> Result<Vec<&'p Mount>, StartError> {
    let mut read_only_later = Vec::new();
    for mount in &plan.mounts {
        if let Some(fitting) = context.fitting
            && fitting.attach(context.root, mount)?
        {
            continue;
        }
        let later = is_read_only_later(mount);
        make(context, plan, mount, later).map_err(|(action, error)| failed(name(mount), action, error))?;
        if later {
            read_only_later.push(mount);
        }
    }
    Ok(read_only_later)
}

/// Makes the mounts read-only that [`make_all`] returned.
pub(crate) fn finish(root: &Root, read_only_later: &[&Mount]) -> Result<(), StartError> {
    for mount in read_only_later {
        root.find(&mount.destination)
            .map_err(Into::into)
            .and_then(|fd| sys::mount_setattr(fd.as_fd(), false, libc::MOUNT_ATTR_RDONLY, 0, 0))
            .map_err(|error| failed(name(mount), "make it read-only", error))?;
    }
    Ok(())
}

/// The field of config.json.
fn name(mount: &Mount) -> String {
    format!("mounts[{}] ({})", mount.index, mount.destination)
}

/// A read-only tmpfs gets its content (directories of other mounts, device nodes) first.
fn is_read_only_later(mount: &Mount) -> bool {
    matches!(&mount.kind, MountKind::FileSystem { fstype, .. } if fstype == "tmpfs")
        && mount.flags & MS_RDONLY != 0
}

/// An attempt that failed, in words, and the reason.
type Attempt = (String, std::io::Error);

/// Words for a failed attempt.
fn attempt<E: Into<std::io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> Attempt {
    move |error| (action.into(), error.into())
}

/// Makes one mount.
fn make(context: &Context<'_>, plan: &Plan, mount: &Mount, read_only_later: bool) -> Result<(), Attempt> {
    let flags = if read_only_later { mount.flags & !MS_RDONLY } else { mount.flags };
    match (&mount.kind, context.cgroup) {
        (MountKind::FileSystem { fstype, source, data }, _) => {
            new_file_system(context.root, mount, fstype, source, data, flags)
        }
        (MountKind::Cgroup, None) => new_file_system(context.root, mount, "cgroup2", "cgroup", "", flags),
        (MountKind::Cgroup, Some(directory)) => bind(context.root, mount, directory, false),
        (MountKind::Bind { source: BindSource::Guest(path), recursive }, _) => {
            bind(context.root, mount, path, *recursive)
        }
        (MountKind::Bind { source: BindSource::Volume(number), recursive }, _) => {
            if *number as usize >= plan.volumes.len() {
                return Err(attempt("find the source")(Errno::NOENT));
            }
            bind(context.root, mount, &format!("{}/{SHARE_VOLUMES}/{number}", context.share), *recursive)
        }
    }
}

/// Mounts a new file system.
fn new_file_system(
    root: &Root,
    plan: &Mount,
    fstype: &str,
    source: &str,
    data: &str,
    flags: u64,
) -> Result<(), Attempt> {
    let (target, existed) = match root.open(&plan.destination, OFlags::PATH | OFlags::DIRECTORY) {
        Err(Errno::NOENT) => {
            (root.directory(&plan.destination).map_err(attempt("make the destination"))?, false)
        }
        result => (result.map_err(attempt("open the destination"))?, true),
    };
    let mut data = data.to_owned();
    if fstype == "tmpfs" && existed && !data.split(',').any(|option| option.starts_with("mode=")) {
        let mode = fstat(&target).map_err(attempt("read the mode of the destination"))?.st_mode & 0o7777;
        let separator = if data.is_empty() { "" } else { "," };
        data = format!("mode={mode:o}{separator}{data}");
    }
    let data = CString::new(data).map_err(attempt("read the options"))?;
    let data: Option<&CStr> = if data.is_empty() { None } else { Some(&data) };
    // The target is named by the working directory: no path is looked up again, and no /proc is needed.
    fchdir(&target).map_err(attempt("open the destination"))?;
    mount(source, ".", fstype, MountFlags::from_bits_retain(flags as u32), data)
        .map_err(attempt(format!("mount {fstype}")))?;
    if plan.copy_up || plan.propagation != 0 {
        let mounted = root.find(&plan.destination).map_err(attempt("open the mount"))?;
        if plan.copy_up {
            copy_up::copy(&target, &mounted).map_err(attempt("copy the directory below"))?;
        }
        propagate(&mounted, plan.propagation)?;
    }
    Ok(())
}

/// Binds a path of the pod.
fn bind(root: &Root, plan: &Mount, source: &str, recursive: bool) -> Result<(), Attempt> {
    let tree = clone_tree(source, recursive).map_err(attempt("open the source"))?;
    let set = |recursive, set, clear| {
        let (set, clear) = attributes(set, clear);
        if set == 0 && clear == 0 {
            return Ok(());
        }
        sys::mount_setattr(tree.as_fd(), recursive, set, clear, 0).map_err(attempt("set the options"))
    };
    set(false, plan.flags, plan.clear_flags)?;
    set(true, plan.recursive_flags, plan.recursive_clear_flags)?;
    let target = destination_like(root, &tree, &plan.destination).map_err(attempt("make the destination"))?;
    attach_over(&tree, &target).map_err(attempt("bind"))?;
    propagate(&tree, plan.propagation)
}

/// Opens the destination of a bind, making it as what the source is: a directory, or a file for anything else.
fn destination_like(root: &Root, source: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    let is_directory = FileType::from_raw_mode(fstat(source)?.st_mode).is_dir();
    if is_directory { root.directory(path) } else { root.file(path) }
}

/// Sets a mount's propagation.
fn propagate(mount: &OwnedFd, propagation: u64) -> Result<(), Attempt> {
    if propagation == 0 {
        return Ok(());
    }
    sys::mount_setattr(mount.as_fd(), propagation & MS_REC != 0, 0, 0, propagation & !MS_REC)
        .map_err(attempt("set the propagation"))
}

/// MS_* flags to set and to clear, as mount attributes (mount_setattr(2)) to set and to clear.
fn attributes(set: u64, clear: u64) -> (u64, u64) {
    let (mut to_set, mut to_clear) = (0, 0);
    for (flag, attribute) in ATTRIBUTES {
        if set & flag != 0 {
            to_set |= attribute;
        } else if clear & flag != 0 {
            to_clear |= attribute;
        }
    }
    let atime = if set & libc::MS_NOATIME != 0 {
        Some(libc::MOUNT_ATTR_NOATIME)
    } else if set & libc::MS_STRICTATIME != 0 {
        Some(libc::MOUNT_ATTR_STRICTATIME)
    } else if set & libc::MS_RELATIME != 0 || clear & (libc::MS_NOATIME | libc::MS_STRICTATIME) != 0 {
        Some(libc::MOUNT_ATTR_RELATIME)
    } else {
        None
    };
    if let Some(atime) = atime {
        // The access time is one field with several values: it is cleared as a whole, then set.
        to_set |= atime;
        to_clear |= libc::MOUNT_ATTR__ATIME;
    }
    (to_set, to_clear)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_attributes() {
        let (set, clear) = attributes(libc::MS_RDONLY | libc::MS_NOSUID, libc::MS_NODEV);
        assert_eq!(set, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID);
        assert_eq!(clear, libc::MOUNT_ATTR_NODEV);
        assert_eq!(attributes(0, 0), (0, 0));
    }

    #[test]
    fn what_is_set_is_not_cleared() {
        assert_eq!(attributes(libc::MS_RDONLY, libc::MS_RDONLY), (libc::MOUNT_ATTR_RDONLY, 0));
    }

    #[test]
    fn the_access_time_is_replaced_as_a_whole() {
        let all = libc::MOUNT_ATTR__ATIME;
        assert_eq!(attributes(libc::MS_NOATIME, 0), (libc::MOUNT_ATTR_NOATIME, all));
        assert_eq!(attributes(libc::MS_STRICTATIME, 0), (libc::MOUNT_ATTR_STRICTATIME, all));
        assert_eq!(attributes(0, libc::MS_NOATIME), (libc::MOUNT_ATTR_RELATIME, all));
    }
}
