//! Device nodes, the links that every container's /dev has, and the console.

use std::os::fd::{AsFd, OwnedFd};

use crx_proto::{Device, DeviceKind, IdMapping, MountKind, Plan, StartError, UserMappings};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chmod, chownat, makedev, mknodat, statat, symlinkat,
    unlinkat,
};
use rustix::io::{self, Errno};
use rustix::process::ioctl_tiocsctty;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::rootfs::{Root, attach_over, clone_tree, clone_tree_at};
use crate::failure::failed;

/// Links of /dev and their targets ("Default Devices" and "/dev symbolic links" of the runtime specification).
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Makes the nodes and links, unless /dev is a bind mount: then it is somebody else's and stays as it is. With `nodes`
/// (mounts of nodes, one for each device) these are bound, as nobody in a user namespace may make any.
pub(crate) fn make_all(root: &Root, plan: &Plan, nodes: Option<&[OwnedFd]>) -> Result<(), StartError> {
    let is_bound = plan
        .mounts
        .iter()
        .any(|mount| mount.destination == "/dev" && matches!(mount.kind, MountKind::Bind { .. }));
    if is_bound {
        return Ok(());
    }
    let mut parent: Option<(&str, OwnedFd)> = None;
    for (index, device) in plan.devices.iter().enumerate() {
        let made = match nodes {
            None => make(root, device, &mut parent),
            Some(nodes) => root.file(&device.path).and_then(|file| attach_over(&nodes[index], &file)),
        };
        made.map_err(|error| {
            failed(format_args!("linux.devices[{index}] ({})", device.path), "make it", error)
        })?;
    }
    make_links(root).map_err(|error| failed("linux.devices (/dev)", "make the default links", error))
}

/// Makes each node in `directory` of the pod, owned as it is in the container, and returns a mount of it that can be
/// attached in any mount namespace.
pub(crate) fn make_nodes(
    plan: &Plan,
    directory: &str,
    mappings: &UserMappings,
) -> Result<Vec<OwnedFd>, StartError> {
    let make = |(index, device): (usize, &Device)| {
        let path = format!("{directory}/{index}");
        let owner = |ids: &[IdMapping], id| IdMapping::find(ids, id).ok_or(Errno::INVAL);
        let make = || {
            make_node(CWD, &path, device)?;
            // Again, whatever this process's umask is.
            chmod(&path, Mode::from_raw_mode(device.mode & 0o7777))?;
            let (uid, gid) = (owner(&mappings.uids, device.uid)?, owner(&mappings.gids, device.gid)?);
            chownat(
                CWD,
                &path,
                Some(Uid::from_raw(uid)),
                Some(Gid::from_raw(gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
            clone_tree(&path, false)
        };
        make().map_err(|error| {
            failed(format_args!("linux.devices[{index}] ({})", device.path), "make it", error)
        })
    };
    plan.devices.iter().enumerate().map(make).collect()
}

fn make_node(at: impl AsFd, name: &str, device: &Device) -> io::Result<()> {
    let kind = match device.kind {
        DeviceKind::Char => FileType::CharacterDevice,
        DeviceKind::Block => FileType::BlockDevice,
        DeviceKind::Fifo => FileType::Fifo,
    };
    let mode = Mode::from_raw_mode(device.mode & 0o7777);
    mknodat(at, name, kind, mode, makedev(device.major, device.minor))
}

/// Makes one node. `parent` is the directory of the one before, usually the same.
fn make<'p>(root: &Root, device: &'p Device, parent: &mut Option<(&'p str, OwnedFd)>) -> io::Result<()> {
    let (directory, name) = device.path.rsplit_once('/').ok_or(Errno::INVAL)?;
    let directory = if directory.is_empty() { "/" } else { directory };
    let at = match parent {
        Some((path, fd)) if *path == directory => fd,
        _ => &mut parent.insert((directory, root.directory(directory)?)).1,
    };
    match make_node(&*at, name, device) {
        // What the image or a mount brought stays.
        Err(Errno::EXIST) => return Ok(()),
        result => result?,
    }
    if device.uid != 0 || device.gid != 0 {
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        chownat(&*at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn make_links(root: &Root) -> io::Result<()> {
    let dev = match root.open("/dev", OFlags::PATH | OFlags::DIRECTORY) {
        // An image without /dev and a plan without a mount there has no use for links either.
        Err(Errno::NOENT) => return Ok(()),
        result => result?,
    };
    for (name, target) in LINKS {
        link(&dev, name, target)?;
    }
    if root.find("/proc/kcore").is_ok() {
        link(&dev, "core", "/proc/kcore")?;
    }
    match statat(&dev, "pts", AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => {
            if link_target(&dev, "ptmx").as_deref() != Some("pts/ptmx") {
                match unlinkat(&dev, "ptmx", AtFlags::empty()) {
                    Err(Errno::NOENT) => {}
                    result => result?,
                }
                link(&dev, "ptmx", "pts/ptmx")?;
            }
            Ok(())
        }
        Err(_) => Ok(()),
    }
}

fn link(dev: &OwnedFd, name: &str, target: &str) -> io::Result<()> {
    match symlinkat(target, dev, name) {
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}

fn link_target(dev: &OwnedFd, name: &str) -> Option<String> {
    rustix::fs::readlinkat(dev, name, Vec::new()).ok()?.into_string().ok()
}

/// A terminal: its two ends.
pub(crate) struct Terminal {
    /// The end that PID 1 relays.
    pub(crate) master: OwnedFd,
    /// The end that is the container's standard streams.
    pub(crate) slave: OwnedFd,
}

/// Opens a terminal of the container's devpts and makes it the session's.
pub(crate) fn open_terminal(root: &Root, rows: u16, columns: u16) -> Result<Terminal, StartError> {
    let fail = |action| move |error: Errno| failed("process.terminal", action, error);
    let master =
        root.open("/dev/pts/ptmx", OFlags::RDWR | OFlags::NOCTTY).map_err(fail("open /dev/pts/ptmx"))?;
    unlockpt(&master).map_err(fail("unlock the terminal"))?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags).map_err(fail("open the terminal"))?;
    if rows != 0 && columns != 0 {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).map_err(fail("set the size"))?;
    }
    ioctl_tiocsctty(&slave).map_err(fail("make it the controlling terminal"))?;
    Ok(Terminal { master, slave })
}

/// Binds the terminal to /dev/console.
pub(crate) fn bind_console(root: &Root, terminal: &Terminal) -> Result<(), StartError> {
    let bind = || {
        let console = root.file("/dev/console")?;
        attach_over(&clone_tree_at(&terminal.slave, false)?, &console)
    };
    bind().map_err(|error| failed("process.terminal", "bind /dev/console", error))
}
