//! The share: the only directory that the VMM child can see, and all that the guest is served from.
//!
//! Built in the child's own mount namespace on top of the state directory, so it vanishes with the child:
//! `rootfs/` is the container's root, `volumes/N` the sources of its bind mounts.

use std::fs::{self, File};
use std::path::Path;

use anyhow::Context;
use crx_proto::{BindSource, Mount, MountKind};
use rustix::fs::{CWD, StatVfsMountFlags, statvfs};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};

use super::channel::Launch;
use crate::sys;

/// Leaves the host's mount namespace; without root's rights inside a user namespace that maps the caller to root.
///
/// Only a process without threads may do that (unshare(2), CLONE_NEWUSER).
///
/// # Errors
/// The host does not let this user make namespaces.
pub(crate) fn leave_host() -> anyhow::Result<()> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    if user.is_root() {
        return Ok(sys::unshare_mounts(false)?);
    }
    sys::unshare_mounts(true)?;
    let write = |name: &str, text: String| -> anyhow::Result<()> {
        let file = rustix::fs::openat(CWD, name, rustix::fs::OFlags::WRONLY, rustix::fs::Mode::empty())?;
        rustix::io::write(file, text.as_bytes())?;
        Ok(())
    };
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("0 {} 1", user.as_raw()))?;
    write("/proc/self/gid_map", format!("0 {} 1", group.as_raw()))
}

/// Builds the share on the state directory. The process is in a mount namespace of its own already.
///
/// # Errors
/// A mount was refused.
pub(crate) fn build(launch: &Launch) -> anyhow::Result<()> {
    let share = launch.state_dir.as_path();
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("cannot separate the pod's mounts from the host's")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("crx", share, "tmpfs", flags, Some(c"mode=755,size=1m"))
        .with_context(|| format!("cannot mount the share on {}", share.display()))?;
    let rootfs = share.join(crx_proto::SHARE_ROOTFS);
    fs::create_dir(&rootfs)?;
    mount_bind_recursive(&launch.rootfs, &rootfs)
        .with_context(|| format!("root.path: cannot share {}", launch.rootfs.display()))?;
    let volumes = share.join(crx_proto::SHARE_VOLUMES);
    fs::create_dir(&volumes)?;
    for (number, (source, volume)) in launch.volumes.iter().zip(&launch.plan.volumes).enumerate() {
        let target = volumes.join(number.to_string());
        if volume.is_directory {
            fs::create_dir(&target)?;
        } else {
            File::create_new(&target)?;
        }
        share_volume(&launch.plan.mounts, number, source, &target)
            .with_context(|| format!("mounts: cannot share the source {}", source.display()))?;
    }
    // The guest may fill its root and its volumes, not the share that holds them.
    mount_remount(share, flags | MountFlags::RDONLY, c"").context("cannot make the share read-only")
}

/// Makes the share the root of this process: nothing else of the host can be named any more.
///
/// # Errors
/// A system call was refused.
pub(crate) fn enter(share: &Path) -> anyhow::Result<()> {
    let enter = || -> rustix::io::Result<()> {
        rustix::process::chdir(share)?;
        // The old root is stacked on the new one and taken off at once (pivot_root(2), NOTES).
        rustix::process::pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        rustix::process::chdir("/")
    };
    enter().context("cannot confine the VMM to the share")
}

/// Shares the source of a bind mount, with no more than the mount says: without the mounts below the source
/// unless it is recursive, and read-only if it is, for a guest's kernel may not keep its own promise.
fn share_volume(mounts: &[Mount], number: usize, source: &Path, target: &Path) -> rustix::io::Result<()> {
    let of_this = |mount: &&Mount| matches!(mount.kind, MountKind::Bind { source: BindSource::Volume(n), .. } if n as usize == number);
    let mount = mounts.iter().find(of_this);
    if mount.is_some_and(|mount| matches!(mount.kind, MountKind::Bind { recursive: true, .. })) {
        mount_bind_recursive(source, target)?;
    } else {
        mount_bind(source, target)?;
    }
    if mount.is_some_and(|mount| mount.flags & libc::MS_RDONLY != 0) {
        mount_remount(target, MountFlags::BIND | MountFlags::RDONLY | kept_flags(target)?, c"")?;
    }
    Ok(())
}

/// The restrictions of a mount, which a remount in a user namespace must name again.
fn kept_flags(target: &Path) -> rustix::io::Result<MountFlags> {
    let now = statvfs(target)?.f_flag;
    let pairs = [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ];
    Ok(pairs.iter().filter(|(flag, _)| now.contains(*flag)).map(|(_, flag)| *flag).collect())
}
