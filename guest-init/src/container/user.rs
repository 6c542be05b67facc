//! A user namespace of the container. It has to own the container's other namespaces, so it is made by the same clone;
//! its IDs are mapped by PID 1, so PID 1 does not sleep meanwhile as it does for other containers: the process has
//! memory of its own, and waits for its mappings before it does anything.
//!
//! Root in it is nobody to the pod. What needs the pod's root is done by PID 1: device nodes are made by it (the
//! container binds them), the device program is attached, limits are raised, the streams get their owner.

use std::os::fd::OwnedFd;

use crx_proto::{IdMapping, MountKind, Plan, Process, StartError, UserMappings};
use rustix::fs::{Mode, Uid, fchown, mkdir};
use rustix::io::Errno;
use rustix::thread::{Gid, set_thread_res_gid, set_thread_res_uid};

use super::cgroup::Cgroup;
use super::devices;
use super::process::{Streams, set_privileged};
use crate::failure::failed;
use crate::mounts::Pod;
use crate::sys;

/// The field of config.json that asks for it.
const FIELD: &str = "linux.namespaces (user)";
/// A user namespace that is to be made with the container's process.
pub(crate) struct UserNamespace<'p> {
    mappings: &'p UserMappings,
    /// A mount of each device node of the plan.
    nodes: Vec<OwnedFd>,
    directory: NodeDirectory,
}

/// The directory of the pod in which a container's device nodes have their names, gone with this. They need them until
/// the container has attached the mounts: the kernel attaches none of a file that has been removed.
pub(crate) struct NodeDirectory(String);

impl NodeDirectory {
    fn make(path: String) -> rustix::io::Result<Self> {
        mkdir(&*path, Mode::from_raw_mode(0o700)).map(|()| Self(path))
    }
}

impl Drop for NodeDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl<'p> UserNamespace<'p> {
    /// Prepares what it needs of the pod.
    pub(crate) fn new(plan: &Plan, mappings: &'p UserMappings, pod: &mut Pod) -> Result<Self, StartError> {
        pod.need_proc().map_err(|error| failed(FIELD, "mount proc", error))?;
        let mounts_sysfs =
            |kind: &MountKind| matches!(kind, MountKind::FileSystem { fstype, .. } if fstype == "sysfs");
        if plan.mounts.iter().any(|mount| mounts_sysfs(&mount.kind)) {
            // The kernel lets a user namespace mount only what can be seen already (mount_too_revealing).
            pod.need_path("/sys").map_err(|error| failed(FIELD, "mount sysfs", error))?;
        }
        let directory = pod.device_nodes();
        match mkdir(directory, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(FIELD, format_args!("make {directory}"), error)),
        }
        let path = format!("{directory}/{}", plan.id);
        let made = NodeDirectory::make(path.clone());
        let directory = made.map_err(|error| failed(FIELD, format_args!("make {path}"), error))?;
        Ok(Self { mappings, nodes: devices::make_nodes(plan, &path, mappings)?, directory })
    }

    /// Keeps only the names of the device nodes.
    pub(crate) fn into_directory(self) -> NodeDirectory {
        self.directory
    }

    /// The mounts of the device nodes, in the order of the plan.
    pub(crate) fn nodes(&self) -> &[OwnedFd] {
        &self.nodes
    }

    /// Does what only the pod's root can do for the container, before its process is there.
    pub(crate) fn prepare(&self, plan: &Plan, cgroup: &Cgroup, streams: &Streams) -> Result<(), StartError> {
        cgroup.restrict_devices()?;
        own_streams(&plan.process, self.mappings, streams)
    }

    /// Maps the IDs of the process and sets what it may not set itself.
    pub(crate) fn admit(&self, child: &sys::Child, plan: &Plan) -> Result<(), StartError> {
        let maps = [
            ("uidMappings", "uid_map", &self.mappings.uids),
            ("gidMappings", "gid_map", &self.mappings.gids),
        ];
        for (field, file, mappings) in maps {
            std::fs::write(format!("/proc/{}/{file}", child.pid), IdMapping::lines(mappings))
                .map_err(|error| failed(format_args!("linux.{field}"), "map", error))?;
        }
        raise_limits(&plan.process, child.pid)?;
        set_privileged(&plan.process, Some(child.pid))
    }
}

/// Gives the streams to the process's user, who may open them again by their names; nobody in the user namespace
/// could.
pub(crate) fn own_streams(
    process: &Process,
    mappings: &UserMappings,
    streams: &Streams,
) -> Result<(), StartError> {
    let uid = IdMapping::find(&mappings.uids, process.uid).map(Uid::from_raw);
    streams
        .descriptors()
        .try_for_each(|stream| fchown(stream, uid, None))
        .map_err(|error| failed("process", "give the standard streams to its user", error))
}

/// Raises the hard limits of a process that may not do so in the user namespace.
pub(crate) fn raise_limits(process: &Process, pid: u32) -> Result<(), StartError> {
    process.rlimits.iter().try_for_each(|limit| {
        sys::raise_hard_limit(pid, limit.resource, limit.hard).map_err(|error| {
            failed("process.rlimits", format_args!("raise limit {} to {limit:?}", limit.resource), error)
        })
    })
}

/// Called by a process in the user namespace. As the pod's user 0 it still owned what is the pod's; now it becomes
/// the container's.
pub(crate) fn become_root() -> Result<(), StartError> {
    let (uid, gid) = (rustix::thread::Uid::ROOT, Gid::ROOT);
    set_thread_res_gid(gid, gid, gid)
        .and_then(|()| set_thread_res_uid(uid, uid, uid))
        .map_err(|error| failed(FIELD, "become its root", error))
}
