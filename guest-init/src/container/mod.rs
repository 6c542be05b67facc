//! A container, from the plan to its running process. PID 1 prepares what it can (namespaces to join, kernel
//! parameters, the cgroup, the program's strings), then clones once; the clone ([`process`]) makes the rest around
//! itself and executes the program.

mod cgroup;
mod copy_up;
mod credentials;
mod device_program;
mod devices;
mod masks;
mod mounts;
mod namespaces;
mod process;
mod program;
mod rootfs;
mod user;

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crx_proto::{BindSource, MountKind, Plan, StartError};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use self::cgroup::Cgroup;
pub(crate) use self::cgroup::is_populated;
use self::namespaces::Namespaces;
use self::process::Setup;
pub(crate) use self::process::Streams;
use self::program::Program;
use self::user::UserNamespace;
use crate::failure::failed;
use crate::mounts::Pod;
use crate::{clock, sys};

/// A container that is made but for its process.
pub(crate) struct Prepared<'p> {
    plan: &'p Plan,
    namespaces: Namespaces,
    cgroup: Cgroup,
    program: Program,
    cgroup_path: String,
    user: Option<UserNamespace<'p>>,
}

/// A running container.
pub(crate) struct Container {
    /// Its first process, in the pod's PID namespace.
    pub(crate) pid: u32,
    pidfd: OwnedFd,
    /// Its cgroup.
    pub(crate) cgroup: Cgroup,
    /// When its first process ends, the kernel ends all others.
    pub(crate) ends_with_first: bool,
    /// When its first process was cloned (CLOCK_MONOTONIC).
    pub(crate) cloned_ns: u64,
}

impl Container {
    /// Sends a signal to the first process. One that is gone needs none.
    pub(crate) fn signal(&self, signal: u8) {
        let _ = sys::send_signal(self.pidfd.as_fd(), signal);
    }
}

impl<'p> Prepared<'p> {
    /// Prepares the container: everything before its first process.
    pub(crate) fn new(plan: &'p Plan, pod: &mut Pod) -> Result<Self, StartError> {
        let program = Program::prepare(&plan.process)?;
        let namespaces = Namespaces::open(plan, pod)?;
        mount_what_is_used(plan, pod)?;
        if plan.user_mappings.is_none() {
            set_kernel_parameters(plan, pod)?;
        }
        if has_programs(plan) {
            pod.interpret_bpf();
        }
        let root =
            pod.cgroup_root().map_err(|error| failed("linux.resources", "open the cgroup tree", error))?;
        let cgroup = Cgroup::create(plan, &root)?;
        let user = plan.user_mappings.as_ref().map(|mappings| UserNamespace::new(plan, mappings, pod));
        let user = user.transpose()?;
        Ok(Self { plan, namespaces, cgroup, program, cgroup_path: pod.cgroup_path(&plan.id), user })
    }

    /// Clones the first process and waits until it has executed the program.
    pub(crate) fn start(self, pod: &mut Pod, share: &str, streams: Streams) -> Result<Container, StartError> {
        let Self { plan, namespaces, cgroup, program, cgroup_path, user } = self;
        let setup = Setup {
            plan,
            share,
            cgroup_path,
            namespaces: &namespaces,
            cgroup: &cgroup,
            program: &program,
            streams: &streams,
            user: user.as_ref(),
        };
        let mut cloned_ns = 0;
        let mut error = None;
        let child = namespaces.clone_with(pod, || {
            if let Some(user) = &user {
                cloned_ns = clock::monotonic_ns();
                return user.spawn(&setup);
            }
            let mut body = || {
                cloned_ns = clock::monotonic_ns();
                error = Some(setup.run());
            };
            sys::spawn(namespaces.clone_flags, Some(cgroup.as_fd()), &mut body)
                .map_err(|error| failed("process", "clone the container's process", error))
        })?;
        if let Some(error) = error {
            return Err(error);
        }
        Ok(Container {
            pid: child.pid,
            pidfd: child.pidfd,
            ends_with_first: namespaces.own_pid,
            cgroup,
            cloned_ns,
        })
    }
}

/// The container has BPF programs of its own, and does not say itself how they are to run.
fn has_programs(plan: &Plan) -> bool {
    let says_how = plan.sysctl.iter().any(|(name, _)| name.ends_with("bpf_jit_enable"));
    !says_how && (!plan.cgroup.devices.is_empty() || plan.seccomp.is_some())
}

/// Mounts the pod's own file systems that the plan refers to.
fn mount_what_is_used(plan: &Plan, pod: &mut Pod) -> Result<(), StartError> {
    for mount in &plan.mounts {
        if let MountKind::Bind { source: BindSource::Guest(path), .. } = &mount.kind {
            pod.need_path(path).map_err(|error| {
                failed(
                    format_args!("mounts[{}] ({})", mount.index, mount.destination),
                    "mount the source",
                    error,
                )
            })?;
        }
    }
    if plan.process.oom_score_adj.is_some_and(|adjustment| adjustment != 0) {
        pod.need_proc().map_err(|error| failed("process.oomScoreAdj", "mount proc", error))?;
    }
    Ok(())
}

/// Sets kernel parameters: those of the pod's namespaces, which are the container's.
fn set_kernel_parameters(plan: &Plan, pod: &mut Pod) -> Result<(), StartError> {
    if !plan.sysctl.is_empty() {
        pod.need_proc().map_err(|error| failed("linux.sysctl", "mount proc", error))?;
    }
    write_kernel_parameters(plan)
}

/// Sets kernel parameters: those of this process's namespaces.
fn write_kernel_parameters(plan: &Plan) -> Result<(), StartError> {
    for (name, value) in &plan.sysctl {
        let path = parameter_path(name);
        std::fs::write(&path, value).map_err(|error| {
            failed(format_args!("linux.sysctl[\"{name}\"]"), format_args!("write {path}"), error)
        })?;
    }
    Ok(())
}

/// The file of a kernel parameter. As sysctl(8) has it, the first separator decides: after a slash, dots belong to
/// names (`net/ipv4/conf/eth0.1/forwarding`); after a dot, slashes do.
fn parameter_path(name: &str) -> String {
    let first = name.find(['.', '/']);
    let swap = first.is_some_and(|at| name.as_bytes()[at] == b'.');
    let name: String = name
        .chars()
        .map(|c| match c {
            '.' if swap => '/',
            '/' if swap => '.',
            c => c,
        })
        .collect();
    format!("/proc/sys/{name}")
}

/// Receives the descriptor that the container's process sent.
pub(crate) fn receive_descriptor(socket: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    recvmsg(socket, &mut [std::io::IoSliceMut::new(&mut byte)], &mut control, flags)?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .ok_or(rustix::io::Errno::BADF)
}

/// A pair of sockets: one for the container's process to send its terminal, one for PID 1 to receive it.
pub(crate) fn terminal_sockets() -> Result<(UnixStream, UnixStream), StartError> {
    UnixStream::pair().map_err(|error| failed("process.terminal", "make a socket", error))
}

#[cfg(test)]
mod tests;
