//! A user namespace of the container. It has to own the container's other namespaces, so it is made by the same clone;
//! its IDs are mapped by PID 1, so PID 1 does not sleep meanwhile as it does for other containers: the process is
//! forked, waits for its mappings, and tells PID 1 over a socket what went wrong.
//!
//! Root in it is nobody to the pod. What needs the pod's root is done by PID 1: device nodes are made by it (the
//! container binds them), the device program is attached, limits are raised, the streams get their owner.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crx_proto::{IdMapping, MountKind, Plan, StartError, UserMappings};
use rustix::fs::{Mode, Uid, fchown, mkdir};
use rustix::io::Errno;
use rustix::thread::{Gid, set_thread_res_gid, set_thread_res_uid};

use super::process::{Setup, Streams, set_privileged};
use super::{devices, write_kernel_parameters};
use crate::failure::failed;
use crate::mounts::Pod;
use crate::sys;

/// The field of config.json that asks for it.
const FIELD: &str = "linux.namespaces (user)";
/// What PID 1 sends when the process has its mappings.
const GO: [u8; 1] = [1];

/// A user namespace that is to be made with the container's process.
pub(crate) struct UserNamespace<'p> {
    mappings: &'p UserMappings,
    /// A mount of each device node of the plan.
    nodes: Vec<OwnedFd>,
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
        Ok(Self { mappings, nodes: devices::make_nodes(plan, directory, mappings)? })
    }

    /// The mounts of the device nodes, in the order of the plan.
    pub(crate) fn nodes(&self) -> &[OwnedFd] {
        &self.nodes
    }

    /// Clones the container's process and waits until it has executed its program.
    pub(crate) fn spawn(&self, setup: &Setup<'_>) -> Result<sys::Child, StartError> {
        setup.cgroup.restrict_devices()?;
        self.own_streams(setup)?;
        let fail = |action| move |error: std::io::Error| failed(FIELD, action, error);
        let (mut ours, theirs) = UnixStream::pair().map_err(fail("make a socket"))?;
        let mut body = || {
            let mut socket = &theirs;
            let error = match socket.read_exact(&mut [0]) {
                Ok(()) => setup.run(),
                Err(error) => failed(FIELD, "wait for the mappings", error),
            };
            // PID 1 reads until the end, or is gone.
            let _ = socket
                .write_all(&[error.exit_code])
                .and_then(|()| socket.write_all(error.message.as_bytes()));
        };
        let child = sys::fork(setup.namespaces.clone_flags, setup.cgroup.as_fd(), &mut body)
            .map_err(|error| failed("process", "clone the container's process", error))?;
        drop(theirs);
        let told =
            self.admit(&child, setup.plan).and_then(|()| ours.write_all(&GO).map_err(fail("start it")));
        if let Err(error) = told {
            let _ = sys::send_signal(child.pidfd.as_fd(), libc::SIGKILL as u8);
            return Err(error);
        }
        let mut said = Vec::new();
        ours.read_to_end(&mut said).map_err(fail("hear from the container's process"))?;
        match said.split_first() {
            None => Ok(child),
            Some((exit_code, message)) => Err(StartError {
                exit_code: *exit_code,
                message: String::from_utf8_lossy(message).into_owned(),
            }),
        }
    }

    /// Gives the streams to the container's user, who may open them again by their names; nobody in the user
    /// namespace could.
    fn own_streams(&self, setup: &Setup<'_>) -> Result<(), StartError> {
        let Streams::Pipes { stdin, stdout, stderr } = setup.streams else { return Ok(()) };
        let uid = IdMapping::find(&self.mappings.uids, setup.plan.process.uid).map(Uid::from_raw);
        [stdin, stdout, stderr]
            .into_iter()
            .try_for_each(|stream| fchown(stream, uid, None))
            .map_err(|error| failed("process", "give the standard streams to its user", error))
    }

    /// Maps the IDs of the process and sets what it may not set itself.
    fn admit(&self, child: &sys::Child, plan: &Plan) -> Result<(), StartError> {
        let maps = [
            ("uidMappings", "uid_map", &self.mappings.uids),
            ("gidMappings", "gid_map", &self.mappings.gids),
        ];
        for (field, file, mappings) in maps {
            std::fs::write(format!("/proc/{}/{file}", child.pid), IdMapping::lines(mappings))
                .map_err(|error| failed(format_args!("linux.{field}"), "map", error))?;
        }
        for limit in &plan.process.rlimits {
            sys::raise_hard_limit(child.pid, limit.resource, limit.hard).map_err(|error| {
                failed("process.rlimits", format_args!("raise limit {} to {limit:?}", limit.resource), error)
            })?;
        }
        set_privileged(&plan.process, Some(child.pid))
    }

    /// Called by the container's process: as the pod's user 0 it still owns what is the pod's; then it becomes the
    /// container's.
    pub(crate) fn become_root(&self, plan: &Plan, own_network: bool) -> Result<(), StartError> {
        if own_network {
            sys::loopback_up()
                .map_err(|error| failed("linux.namespaces", "set the interface lo up", error))?;
        }
        write_kernel_parameters(plan)?;
        let (uid, gid) = (rustix::thread::Uid::ROOT, Gid::ROOT);
        set_thread_res_gid(gid, gid, gid)
            .and_then(|()| set_thread_res_uid(uid, uid, uid))
            .map_err(|error| failed(FIELD, "become its root", error))
    }
}
