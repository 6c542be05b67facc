//! The share: the only directory that the VMM process can see, and all that the guest is served from.
//!
//! A tmpfs on the state directory, in the process's own mount namespace, so it vanishes with the process. Each
//! container has a directory in it, named by its number: `1/rootfs`, and the sources of its bind mounts as `1/volumes/0`, ...
//! They come as detached mounts from whoever launches the container and can see the host's files: the process
//! itself cannot any more.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::Context;
use crx_oci::Planned;
use crx_proto::{BindSource, Mount, MountKind, Plan, ProcessId, SHARE_ROOTFS, SHARE_VOLUMES};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, StatVfsMountFlags, fstat, mkdirat, openat, statvfs, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change,
    mount_remount, move_mount, open_tree, unmount,
};

use super::channel::MAX_DESCRIPTORS;
use super::session;

/// Detached mounts of what a container gets from the host: its root file system, then its volumes.
///
/// # Errors
/// The system refuses, or there are too many.
pub(crate) fn detach(planned: &Planned) -> anyhow::Result<Vec<OwnedFd>> {
    if planned.volumes.len() >= MAX_DESCRIPTORS {
        anyhow::bail!("config.json: mounts: at most {} bind mounts are possible", MAX_DESCRIPTORS - 1);
    }
    let mut trees = Vec::with_capacity(1 + planned.volumes.len());
    trees.push(
        detached(&planned.rootfs, true)
            .with_context(|| format!("root.path: cannot share {}", planned.rootfs.display()))?,
    );
    for (number, source) in planned.volumes.iter().enumerate() {
        trees.push(
            detached(source, mounted_as(&planned.plan.mounts, number).recursive)
                .with_context(|| format!("mounts: cannot share the source {}", source.display()))?,
        );
    }
    Ok(trees)
}

fn detached(path: &Path, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, path, if recursive { flags | OpenTreeFlags::AT_RECURSIVE } else { flags })
}

/// How the bind mount wants a volume.
#[derive(Clone, Copy, Default)]
struct MountedAs {
    /// With the mounts below it.
    recursive: bool,
    /// Read-only: a guest's kernel may not keep its own promise.
    read_only: bool,
}

fn mounted_as(mounts: &[Mount], volume: usize) -> MountedAs {
    let of_this = |mount: &Mount| match mount.kind {
        MountKind::Bind { source: BindSource::Volume(number), recursive } if number as usize == volume => {
            Some(MountedAs { recursive, read_only: mount.flags & libc::MS_RDONLY != 0 })
        }
        _ => None,
    };
    mounts.iter().find_map(of_this).unwrap_or_default()
}

/// The share of a pod.
pub(crate) struct Share {
    /// The share as the VMM process may write it; what the guest is served is the same, read-only.
    writable: OwnedFd,
}

impl Share {
    /// Builds the empty share on a directory. The process is in a mount namespace of its own already.
    ///
    /// # Errors
    /// A mount was refused.
    pub(crate) fn build(directory: &Path) -> anyhow::Result<Self> {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).context("cannot separate the pod's mounts from the host's")?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("crx", directory, "tmpfs", flags, Some(c"mode=755,size=4m"))
            .with_context(|| format!("cannot mount the share on {}", directory.display()))?;
        let writable = detached(directory, false).context("cannot open the share")?;
        // The guest may fill its roots and its volumes, not the share that holds them.
        mount_remount(directory, MountFlags::BIND | MountFlags::RDONLY | flags, c"")
            .context("cannot make the share read-only")?;
        Ok(Self { writable })
    }

    /// Makes the share the root of this process: nothing else of the host can be named any more.
    ///
    /// # Errors
    /// A system call was refused.
    pub(crate) fn enter(directory: &Path) -> anyhow::Result<()> {
        session::enter_root(directory).context("cannot confine the VMM to the share")
    }

    /// Adds the files of a container. The share is the process's root already.
    ///
    /// # Errors
    /// They are not those of the plan, or a system call was refused. Nothing of them stays in the share.
    pub(crate) fn add(&self, number: ProcessId, plan: &Plan, trees: &[OwnedFd]) -> anyhow::Result<()> {
        let added = self.try_add(number, plan, trees);
        if added.is_err() {
            self.remove(number, plan.volumes.len());
        }
        added
    }

    fn try_add(&self, number: ProcessId, plan: &Plan, trees: &[OwnedFd]) -> anyhow::Result<()> {
        let Some((rootfs, volumes)) = trees.split_first() else {
            anyhow::bail!("there is no root file system")
        };
        if volumes.len() != plan.volumes.len() {
            anyhow::bail!("{} volumes came for {} bind mounts", volumes.len(), plan.volumes.len());
        }
        let directory = number.0.to_string();
        self.make_directory(&directory)?;
        self.attach(rootfs.as_fd(), &format!("{directory}/{SHARE_ROOTFS}"))
            .context("root.path: cannot share it")?;
        self.make_directory(&format!("{directory}/{SHARE_VOLUMES}"))?;
        for (volume, tree) in volumes.iter().enumerate() {
            let path = format!("{directory}/{SHARE_VOLUMES}/{volume}");
            let attached = self.attach(tree.as_fd(), &path).and_then(|()| {
                if mounted_as(&plan.mounts, volume).read_only {
                    make_read_only(&format!("/{path}"))
                } else {
                    Ok(())
                }
            });
            attached.with_context(|| format!("mounts: cannot share volume {volume}"))?;
        }
        Ok(())
    }

    fn make_directory(&self, path: &str) -> rustix::io::Result<()> {
        mkdirat(&self.writable, path, Mode::from_raw_mode(0o755))
    }

    /// Attaches a detached mount at a new path of the share. Mounts that the host makes below it later arrive; what
    /// is mounted or taken off here never reaches the host.
    fn attach(&self, tree: BorrowedFd<'_>, path: &str) -> rustix::io::Result<()> {
        if FileType::from_raw_mode(fstat(tree)?.st_mode).is_dir() {
            self.make_directory(path)?;
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(&self.writable, path, flags, Mode::from_raw_mode(0o644))?;
        }
        let target = format!("/{path}");
        move_mount(tree, "", CWD, &*target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        mount_change(&*target, MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
    }

    /// Takes a container's files out of the share again.
    pub(crate) fn remove(&self, number: ProcessId, volumes: usize) {
        let directory = number.0.to_string();
        let mut mounted: Vec<String> =
            (0..volumes).map(|volume| format!("{directory}/{SHARE_VOLUMES}/{volume}")).collect();
        mounted.push(format!("{directory}/{SHARE_ROOTFS}"));
        for path in mounted {
            // What is not there, after half an addition, need not be taken off.
            let _ = unmount(format!("/{path}"), UnmountFlags::DETACH);
            if unlinkat(&self.writable, &*path, AtFlags::REMOVEDIR) == Err(Errno::NOTDIR) {
                let _ = unlinkat(&self.writable, &*path, AtFlags::empty());
            }
        }
        for path in [format!("{directory}/{SHARE_VOLUMES}"), directory] {
            let _ = unlinkat(&self.writable, path, AtFlags::REMOVEDIR);
        }
    }
}

fn make_read_only(target: &str) -> rustix::io::Result<()> {
    mount_remount(target, MountFlags::BIND | MountFlags::RDONLY | kept_flags(target)?, c"")
}

/// The restrictions of a mount, which a remount in a user namespace must name again.
fn kept_flags(target: &str) -> rustix::io::Result<MountFlags> {
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
