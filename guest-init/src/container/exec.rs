//! A process executed in a container that is there: cloned into its cgroup and its PID namespace, it joins the
//! container's other namespaces and its root, then goes the way of every process ([`Becoming`]).
//!
//! It has memory of its own from the start: a process of the container may look at it before its program runs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crx_proto::{ExecPlan, StartError};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{chdir, chroot, fchdir};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::namespaces::with_pid_namespace;
use super::process::{Becoming, StartHooks, Streams, set_privileged};
use super::program::Program;
use super::rootfs::Root;
use super::{Container, Link, user};
use crate::failure::failed;
use crate::mounts::Pod;
use crate::sys::{self, Child, Memory};

/// What the new process joins.
struct Joining<'a> {
    /// Namespaces of the container's first process.
    namespaces: ThreadNameSpaceType,
    first: BorrowedFd<'a>,
    /// The container's root, if it has no mount namespace whose root that is.
    root: Option<OwnedFd>,
}

/// Clones a process that executes the plan's program in the container whose first process is `first`. It tells over
/// `link` what happens to it.
pub(crate) fn execute(
    plan: &ExecPlan,
    container: &Container,
    first: (u32, BorrowedFd<'_>),
    streams: &Streams,
    link: &Link,
    pod: &mut Pod,
) -> Result<Child, StartError> {
    let (pid, pidfd) = first;
    let program = Program::prepare(&plan.process)?;
    pod.need_proc().map_err(|error| failed("process", "mount proc", error))?;
    if plan.seccomp.is_some() {
        pod.interpret_bpf();
    }
    let root = if container.own_mount {
        None
    } else {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, format!("/proc/{pid}/root"), flags, Mode::empty());
        Some(root.map_err(|error| failed("process", "open the container's root", error))?)
    };
    if let Some(mappings) = &container.user_mappings {
        user::own_streams(&plan.process, mappings, streams)?;
    }
    let joining = Joining { namespaces: container.apart, first: pidfd, root };
    let becoming = Becoming {
        process: &plan.process,
        seccomp: plan.seccomp.as_ref(),
        program: &program,
        streams,
        owns_streams: container.user_mappings.is_some(),
        hooks: StartHooks { hooks: &[], state_json: "" },
        link: Some(link),
        gate: false,
    };
    let keep: Vec<BorrowedFd<'_>> = streams
        .descriptors()
        .chain([link.as_fd(), pidfd])
        .chain(joining.root.as_ref().map(AsFd::as_fd))
        .collect();
    let clone_into = |cgroup: BorrowedFd<'_>| {
        let mut body = || {
            let closed = sys::close_others(&keep)
                .map_err(|error| failed("process", "close the descriptors of PID 1", error));
            let joined = closed.and_then(|()| joining.join(&becoming));
            link.fail(&joined.map_or_else(|error| error, |()| becoming.finish(false)));
        };
        sys::spawn(0, cgroup, Memory::Own, &mut body)
    };
    let clone = || {
        let cloned = match clone_into(container.cgroup.below(&plan.cgroup)?.as_fd()) {
            // The container has made cgroups of its own below and moved its processes there.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && plan.cgroup.is_empty() => {
                cgroup_of(pid, pod).and_then(|cgroup| clone_into(cgroup.as_fd()))
            }
            cloned => cloned,
        };
        cloned.map_err(|error| failed("process", "clone the process", error))
    };
    if container.apart.contains(ThreadNameSpaceType::PROCESS_ID) {
        let enter = || {
            move_into_thread_name_spaces(pidfd, ThreadNameSpaceType::PROCESS_ID)
                .map_err(|error| failed("process", "join the container's PID namespace", error))
        };
        with_pid_namespace(enter, clone)
    } else {
        clone()
    }
}

/// The cgroup that a process is in.
fn cgroup_of(pid: u32, pod: &Pod) -> std::io::Result<OwnedFd> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, pod.cgroup_path(path), flags, Mode::empty())?)
}

impl Joining<'_> {
    /// Called by the new process: joins the container, and connects the streams there.
    fn join(&self, becoming: &Becoming<'_>) -> Result<(), StartError> {
        let fail = |action| move |error| failed("process", action, error);
        becoming.begin()?;
        set_privileged(becoming.process, None)?;
        let namespaces = self.namespaces - ThreadNameSpaceType::PROCESS_ID;
        let has_user = namespaces.contains(ThreadNameSpaceType::USER);
        if has_user {
            user::raise_limits(becoming.process, 0)?;
        }
        if !namespaces.is_empty() {
            move_into_thread_name_spaces(self.first, namespaces)
                .map_err(fail("join the container's namespaces"))?;
        }
        if has_user {
            user::become_root()?;
        }
        if let Some(root) = &self.root {
            fchdir(root)
                .and_then(|()| chroot("."))
                .and_then(|()| chdir("/"))
                .map_err(fail("enter the container's root"))?;
        }
        let root = Root::of_this_process().map_err(fail("open the container's root"))?;
        becoming.connect_streams(&root, false)
    }
}
