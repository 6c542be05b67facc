//! The container's root: its mount, paths below it, and the change into it. Every path is resolved by openat2
//! as if the root were `/` (RESOLVE_IN_ROOT), and never through a magic link: whatever links the image holds, a
//! mount or a device lands inside.

use std::os::fd::{AsFd, OwnedFd};

use crx_proto::{Plan, SHARE_ROOTFS, StartError};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat};
use rustix::io::{self, Errno};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::process::{chdir, chroot, fchdir, pivot_root};

use crate::failure::failed;
use crate::{mounts, sys};

/// Most symbolic links followed in one path (MAXSYMLINKS of linux/namei.h).
const MAX_LINKS: u32 = 40;
/// Mode of directories that are made for a mount or as the working directory.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);
/// Mode of files that are made for a mount.
const FILE_MODE: Mode = Mode::from_raw_mode(0o644);
/// MS_PRIVATE of linux/mount.h: what mounts of the pod are anyway.
const MS_PRIVATE: u64 = 1 << 18;
/// MS_REC of linux/mount.h.
pub(crate) const MS_REC: u64 = 1 << 14;

/// The root directory of a container that is being made.
pub(crate) struct Root {
    fd: OwnedFd,
    /// It is the root of a mount.
    is_mount: bool,
}

impl Root {
    /// Opens the container's root in its directory of the share; where it has a mount namespace, as a mount of its own.
    pub(crate) fn open_in(share: &str, is_mount: bool) -> Result<Self, StartError> {
        let path = format!("{share}/{SHARE_ROOTFS}");
        let fail = |error| failed("root.path", "make it a mount", error);
        let fd = if is_mount {
            let tree = clone_tree(&path, true).map_err(fail)?;
            attach(&tree, CWD, &path).map_err(fail)?;
            tree
        } else {
            openat(CWD, &path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|error| failed("root.path", "open", error))?
        };
        Ok(Self { fd, is_mount })
    }

    /// A root at a path of the pod.
    pub(crate) fn at(path: &str) -> io::Result<Self> {
        let fd = openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { fd, is_mount: false })
    }

    /// The root of this process, which is in its container.
    pub(crate) fn of_this_process() -> io::Result<Self> {
        Self::at("/")
    }

    /// Opens what is at `path`, without any right to use it but to name it.
    pub(crate) fn find(&self, path: &str) -> io::Result<OwnedFd> {
        self.open(path, OFlags::PATH)
    }

    /// Opens the directory at `path`, making it and what is missing above it.
    pub(crate) fn directory(&self, path: &str) -> io::Result<OwnedFd> {
        match self.open(path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => self.make(path, Last::Directory),
            result => result,
        }
    }

    /// Opens the file at `path`, making it and what is missing above it.
    pub(crate) fn file(&self, path: &str) -> io::Result<OwnedFd> {
        match self.find(path) {
            Err(Errno::NOENT) => self.make(path, Last::File),
            result => result,
        }
    }

    /// Opens `path` with `flags`.
    pub(crate) fn open(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.fd, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// Walks `path` from the root, making what is missing. A symbolic link that points to nothing is followed to
    /// the place that it names, as a mount over /etc/resolv.conf expects.
    fn make(&self, path: &str, last: Last) -> io::Result<OwnedFd> {
        let mut rest: Vec<String> = components(path);
        let mut done = String::new();
        let mut at = self.open("/", OFlags::PATH | OFlags::DIRECTORY)?;
        let mut links = 0;
        while let Some(name) = rest.pop() {
            let next = format!("{done}/{name}");
            let is_file = matches!(last, Last::File) && rest.is_empty();
            let kind = if is_file { OFlags::empty() } else { OFlags::DIRECTORY };
            match self.open(&next, OFlags::PATH | kind) {
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
                Ok(found) => {
                    (at, done) = (found, next);
                    continue;
                }
            }
            match make_one(&at, &name, is_file) {
                Ok(()) => {
                    at = openat(
                        &at,
                        &*name,
                        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                        Mode::empty(),
                    )?;
                    done = next;
                }
                Err(Errno::EXIST) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP);
                    }
                    let target = readlinkat(&at, &*name, Vec::new())?;
                    let target = target.to_str().map_err(|_| Errno::ILSEQ)?;
                    rest.extend(components(target));
                    if target.starts_with('/') {
                        done.clear();
                        at = self.open("/", OFlags::PATH | OFlags::DIRECTORY)?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(at)
    }

    /// Makes the container's root this process's root. In a new mount namespace the pod's mounts go; in another's they
    /// are not the container's to take away.
    pub(crate) fn enter(&self, plan: &Plan, new_namespace: bool) -> Result<(), StartError> {
        let fail = |error| failed("root.path", "change the root", error);
        if plan.rootfs_readonly && self.is_mount {
            sys::mount_setattr(self.fd.as_fd(), false, libc::MOUNT_ATTR_RDONLY, 0, 0)
                .map_err(|error| failed("root.readonly", "make the root read-only", error))?;
        }
        fchdir(&self.fd).map_err(fail)?;
        if !new_namespace {
            return chroot(".").and_then(|()| chdir("/")).map_err(fail);
        }
        // The old root ends up on top of the new one, from where it is detached.
        pivot_root(".", ".").and_then(|()| mounts::detach_here()).and_then(|()| chdir("/")).map_err(fail)?;
        let propagation = plan.rootfs_propagation;
        if propagation != 0 && propagation & MS_PRIVATE == 0 {
            sys::mount_setattr(self.fd.as_fd(), propagation & MS_REC != 0, 0, 0, propagation & !MS_REC)
                .map_err(|error| failed("linux.rootfsPropagation", "set", error))?;
        }
        Ok(())
    }
}

/// What the last name of a path is made as.
#[derive(Clone, Copy)]
enum Last {
    Directory,
    File,
}

/// The names of a path, last first.
fn components(path: &str) -> Vec<String> {
    path.rsplit('/').filter(|name| !name.is_empty() && *name != ".").map(str::to_owned).collect()
}

/// Makes a directory or an empty file.
fn make_one(at: &OwnedFd, name: &str, is_file: bool) -> io::Result<()> {
    if is_file {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(at, name, flags, FILE_MODE).map(drop)
    } else {
        mkdirat(at, name, DIRECTORY_MODE)
    }
}

/// A detached copy of the mounts at `path` of the pod.
pub(crate) fn clone_tree(path: &str, recursive: bool) -> io::Result<OwnedFd> {
    open_tree(CWD, path, clone_flags(recursive))
}

/// A detached copy of the mounts at `at`.
pub(crate) fn clone_tree_at(at: &OwnedFd, recursive: bool) -> io::Result<OwnedFd> {
    open_tree(at, "", clone_flags(recursive) | OpenTreeFlags::AT_EMPTY_PATH)
}

fn clone_flags(recursive: bool) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive { flags | OpenTreeFlags::AT_RECURSIVE } else { flags }
}

/// Attaches a detached mount at a path.
fn attach(tree: &OwnedFd, at: impl AsFd, path: &str) -> io::Result<()> {
    move_mount(tree, "", at, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Attaches a detached mount over what `target` names.
pub(crate) fn attach_over(tree: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", target, "", flags)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn root(directory: &Path) -> Root {
        fs::create_dir(directory.join("rootfs")).unwrap();
        Root::open_in(directory.to_str().unwrap(), false).unwrap()
    }

    #[test]
    fn what_is_missing_is_made_below_the_root() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(directory.path());
        root.directory("/a/b/c").unwrap();
        root.file("/a/x/file").unwrap();
        assert!(directory.path().join("rootfs/a/b/c").is_dir());
        assert!(directory.path().join("rootfs/a/x/file").is_file());
        root.directory("/a/b").unwrap();
        assert_eq!(root.directory("/a/x/file").unwrap_err(), Errno::NOTDIR);
        assert_eq!(root.file("/a/x/file/below").unwrap_err(), Errno::NOTDIR);
    }

    #[test]
    fn links_that_point_out_of_the_root_stay_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(directory.path());
        let rootfs = directory.path().join("rootfs");
        symlink("../../../../outside", rootfs.join("relative")).unwrap();
        symlink("/target/file", rootfs.join("absolute")).unwrap();
        root.directory("/relative/a").unwrap();
        root.file("/absolute").unwrap();
        root.directory("/../../up").unwrap();
        assert!(rootfs.join("outside/a").is_dir());
        assert!(rootfs.join("target/file").is_file());
        assert!(rootfs.join("up").is_dir());
        assert!(!directory.path().join("outside").exists());
        assert!(!directory.path().join("up").exists());
    }

    #[test]
    fn a_dangling_link_is_made_where_it_points() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(directory.path());
        let rootfs = directory.path().join("rootfs");
        fs::create_dir(rootfs.join("etc")).unwrap();
        symlink("../run/systemd/resolv.conf", rootfs.join("etc/resolv.conf")).unwrap();
        root.file("/etc/resolv.conf").unwrap();
        assert!(rootfs.join("run/systemd/resolv.conf").is_file());
    }

    #[test]
    fn a_loop_of_links_ends() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(directory.path());
        symlink("b", directory.path().join("rootfs/a")).unwrap();
        symlink("a", directory.path().join("rootfs/b")).unwrap();
        assert_eq!(root.directory("/a/c").unwrap_err(), Errno::LOOP);
    }
}
