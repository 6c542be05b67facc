//! A container, from the plan to its running process. PID 1 prepares what it can (namespaces to join, kernel
//! parameters, the cgroup, the program's strings), then clones once; the clone ([`first`]) makes the rest around
//! itself and executes the program. [`exec`] adds processes to a container that is there.

mod cgroup;
mod copy_up;
mod credentials;
mod device_program;
mod devices;
mod exec;
mod first;
mod hooks;
mod limits;
mod link;
mod masks;
mod mounts;
mod namespaces;
mod parameters;
mod process;
pub(crate) mod processes;
mod program;
mod rootfs;
mod staged;
mod standby;
pub(crate) mod usage;
mod user;

use std::os::fd::{AsFd, BorrowedFd};

use crx_proto::{BindSource, MountKind, NamespaceKind, Plan, StartError, UserMappings};
use rustix::thread::ThreadNameSpaceType;

pub(crate) use self::cgroup::Cgroup;
pub(crate) use self::exec::execute;
use self::first::First;
pub(crate) use self::link::{Link, Said};
use self::namespaces::Namespaces;
pub(crate) use self::process::Streams;
use self::process::{Becoming, StartHooks};
use self::program::Program;
pub(crate) use self::standby::Standby;
use self::user::{NodeDirectory, UserNamespace};
use crate::failure::failed;
use crate::mounts::Pod;
use crate::sys::{Child, Memory};
use crate::{clock, sys};

/// A container that is made but for its process.
pub(crate) struct Prepared<'p> {
    plan: &'p Plan,
    owns_pod: bool,
    namespaces: Namespaces,
    cgroup: Cgroup,
    program: Program,
    user: Option<UserNamespace<'p>>,
}

/// A container that is there, whatever its first process does.
pub(crate) struct Container {
    /// Its cgroup.
    pub(crate) cgroup: Cgroup,
    /// It is the pod's first, which owns the pod's namespaces.
    pub(crate) owns_pod: bool,
    /// When its first process ends, the kernel ends all others.
    pub(crate) ends_with_first: bool,
    /// Its root is that of a mount namespace of its own.
    own_mount: bool,
    /// Namespaces in which it is not with the pod.
    apart: ThreadNameSpaceType,
    /// IDs of its user namespace, if it has one.
    user_mappings: Option<UserMappings>,
    /// Names of its device nodes in the pod, if it has a user namespace.
    _nodes: Option<NodeDirectory>,
    /// Its processes are stopped, or about to be.
    pub(crate) paused: bool,
    /// Number of the question that waits until they are.
    pub(crate) pausing: Option<u32>,
}

/// What a clone made.
pub(crate) struct Made {
    pub(crate) container: Container,
    /// Its first process.
    pub(crate) first: Child,
    /// When that was cloned (CLOCK_MONOTONIC).
    pub(crate) cloned_ns: u64,
}

impl<'p> Prepared<'p> {
    /// Prepares the container: everything before its first process.
    pub(crate) fn new(plan: &'p Plan, owns_pod: bool, pod: &mut Pod) -> Result<Self, StartError> {
        let program = Program::prepare(&plan.process)?;
        let namespaces = Namespaces::open(plan, owns_pod, pod)?;
        mount_what_is_used(plan, pod)?;
        if owns_pod && plan.user_mappings.is_none() {
            parameters::set(plan)?;
        }
        if !sets_bpf(plan) && (!plan.cgroup.devices.is_empty() || plan.seccomp.is_some()) {
            pod.interpret_bpf();
        }
        let user = plan.user_mappings.as_ref().map(|mappings| UserNamespace::new(plan, mappings, pod));
        let user = user.transpose()?;
        let cgroup = Cgroup::create(&plan.id, &plan.cgroup, pod)?;
        cgroup.delegate(plan)?;
        Ok(Self { plan, owns_pod, namespaces, cgroup, program, user })
    }

    /// Clones the first process and waits until it has executed the program; with the error if it could not. A
    /// terminal is sent over `link`.
    pub(crate) fn start(
        self,
        share: &str,
        streams: &Streams,
        link: Option<&Link>,
    ) -> Result<(Made, Option<StartError>), StartError> {
        let mut error = None;
        let run = |first: &First<'_>, _: &[BorrowedFd<'_>]| error = Some(first.run());
        let cloned = self.clone_first(share, streams, link, Memory::Shared, false, run);
        Ok((self.made(cloned)?, error))
    }

    /// Clones the first process, which goes its way by itself and tells over the link (PID 1's end and its own) how
    /// far it has come. With `gate` it waits for the word to go on to its program. With the error if it cannot even
    /// begin: then it waits to be ended.
    pub(crate) fn fork(
        self,
        share: &str,
        streams: &Streams,
        link: (&Link, &Link),
        gate: bool,
    ) -> Result<(Made, Option<StartError>), StartError> {
        let (ours, theirs) = link;
        let run = |first: &First<'_>, keep: &[BorrowedFd<'_>]| {
            let begin = || {
                sys::close_others(keep)
                    .map_err(|error| failed("process", "close the descriptors of PID 1", error))?;
                match first.user {
                    Some(_) => {
                        theirs.wait().map_err(|error| failed("process", "wait for its ID mappings", error))
                    }
                    None => Ok(()),
                }
            };
            theirs.fail(&begin().map_or_else(|error| error, |()| first.run()));
        };
        let prepare = |user: &UserNamespace<'_>| user.prepare(self.plan, &self.cgroup, streams);
        let cloned = self
            .user
            .as_ref()
            .map_or(Ok(()), prepare)
            .and_then(|()| self.clone_first(share, streams, Some(theirs), Memory::Own, gate, run));
        let mut refused = None;
        if let (Some(user), Ok((first, _))) = (&self.user, &cloned) {
            match user.admit(first, self.plan) {
                Ok(()) => ours.go_on(),
                Err(error) => refused = Some(error),
            }
        }
        Ok((self.made(cloned)?, refused))
    }

    /// Clones the first process to run `run`, which gets the descriptors that it needs; and says when
    /// (CLOCK_MONOTONIC).
    fn clone_first(
        &self,
        share: &str,
        streams: &Streams,
        link: Option<&Link>,
        memory: Memory,
        gate: bool,
        mut run: impl FnMut(&First<'_>, &[BorrowedFd<'_>]),
    ) -> Result<(Child, u64), StartError> {
        let Self { plan, owns_pod, namespaces, cgroup, program, user } = self;
        let becoming = Becoming {
            process: &plan.process,
            seccomp: plan.seccomp.as_ref(),
            program,
            streams,
            owns_streams: user.is_some(),
            hooks: StartHooks { hooks: &plan.start_hooks, state_json: &plan.state_json },
            link,
            gate,
        };
        let user = user.as_ref();
        let first =
            First { plan, owns_pod: *owns_pod, share, namespaces, cgroup, user, staged: None, becoming };
        let nodes = user.into_iter().flat_map(|user| user.nodes().iter().map(AsFd::as_fd));
        let keep: Vec<BorrowedFd<'_>> = streams
            .descriptors()
            .chain(namespaces.descriptors())
            .chain(cgroup.descriptors())
            .chain(link.map(AsFd::as_fd))
            .chain(nodes)
            .collect();
        let mut cloned_ns = None;
        let child = namespaces.clone_with(|| {
            let mut body = || {
                cloned_ns = Some(clock::monotonic_ns());
                run(&first, &keep);
            };
            sys::spawn(namespaces.clone_flags, cgroup.as_fd(), memory, &mut body)
                .map_err(|error| failed("process", "clone the container's process", error))
        })?;
        Ok((child, cloned_ns.unwrap_or_else(clock::monotonic_ns)))
    }

    /// The container, if its first process was cloned; otherwise nothing is left of it.
    fn made(self, cloned: Result<(Child, u64), StartError>) -> Result<Made, StartError> {
        let Self { plan, owns_pod, namespaces, cgroup, user, .. } = self;
        let (first, cloned_ns) = cloned.inspect_err(|_| drop(cgroup.remove()))?;
        let container = Container {
            ends_with_first: namespaces.own_pid,
            own_mount: namespaces.own_mount,
            apart: namespaces.apart,
            user_mappings: plan.user_mappings.clone(),
            _nodes: user.map(UserNamespace::into_directory),
            cgroup,
            owns_pod,
            paused: false,
            pausing: None,
        };
        Ok(Made { container, first, cloned_ns })
    }
}

/// The first process may share PID 1's memory until its program: nothing keeps it waiting on the way, PID 1 has
/// nothing to do for it meanwhile, and no other process of a container sees it: it has a PID namespace of its own, or
/// is the pod's first one, in the pod's.
pub(crate) fn may_share_memory(plan: &Plan, owns_pod: bool) -> bool {
    let mut pid = plan.namespaces.iter().filter(|namespace| namespace.kind == NamespaceKind::Pid);
    let is_unseen = pid.next().map_or(owns_pod, |namespace| namespace.path.is_none());
    plan.start_hooks.is_empty() && plan.user_mappings.is_none() && is_unseen
}

/// The container says itself how BPF programs are to run: it is not helped.
fn sets_bpf(plan: &Plan) -> bool {
    plan.sysctl.iter().any(|(name, _)| name.ends_with("bpf_jit_enable"))
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
    if !plan.sysctl.is_empty() {
        pod.need_proc().map_err(|error| failed("linux.sysctl", "mount proc", error))?;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
