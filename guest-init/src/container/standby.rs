//! The first process of the pod's first container, made before the pod's moment: in a cgroup and in namespaces, with the file
//! systems that most containers have ([`super::staged`]), it waits to be told what it is to become. A container that wants
//! something else, or a pod that has had its first, goes the way of [`super::Prepared`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::cgroup::Cgroup;
use super::first::First;
use super::link::{Link, MAX_ORDERS_BYTES};
use super::namespaces::{Namespaces, is_of_pod};
use super::process::{Becoming, StartHooks, Streams};
use super::program::Program;
use super::staged::Staged;
use super::{Container, Made, parameters, sets_bpf};
use crate::clock;
use crate::failure::{failed, refused};
use crate::mounts::Pod;
use crate::sys::{self, Child, Memory};
use crx_proto::{BindSource, MountKind, Plan, StartError, frame, standard};

/// Name of its cgroup; no container can have it as its ID.
const CGROUP: &str = "@first";

/// A process that waits.
pub(crate) struct Standby {
    process: Child,
    link: Link,
    cgroup: Cgroup,
    namespaces: Namespaces,
    standard: Plan,
}

/// What it is told: the plan, the container's directory of the share, and whether it waits at the gate. Beside it, as
/// descriptors: the streams, if they are pipes, then the device program, if there is one.
type Orders = (Plan, String, bool);

/// Bytes of orders that are not the plan's, at most.
const ORDERS_BESIDE_PLAN_BYTES: usize = 1 << 10;

impl Standby {
    /// Makes the process, and waits until it waits.
    pub(crate) fn begin(pod: &mut Pod) -> Result<Self, StartError> {
        let standard = standard();
        pod.need_proc().map_err(|error| failed("pod", "mount proc", error))?;
        pod.interpret_bpf();
        let namespaces = Namespaces::open(&standard, true, pod)?;
        let cgroup = Cgroup::create(CGROUP, &standard.cgroup, pod)?;
        let (ours, theirs) = Link::pair()?;
        let keep: Vec<BorrowedFd<'_>> = cgroup.descriptors().chain([theirs.as_fd()]).collect();
        let mut body = || {
            let closed = sys::close_others(&keep)
                .map_err(|error| failed("process", "close the descriptors of PID 1", error));
            let staged = closed.and_then(|()| namespaces.enter()).and_then(|()| Staged::make());
            theirs.fail(&staged.map_or_else(|error| error, |staged| wait(&staged, &theirs, &cgroup, pod)));
        };
        let process = sys::spawn(namespaces.clone_flags, cgroup.as_fd(), Memory::Own, &mut body)
            .map_err(|error| failed("process", "clone the container's process", error))?;
        drop(theirs);
        ours.wait_ready()?;
        Ok(Self { process, link: ours, cgroup, namespaces, standard })
    }

    /// It can become this container's process. One that cannot is ended; its cgroup goes with the next container.
    pub(crate) fn fits(&self, plan: &Plan) -> bool {
        let from_pod = plan
            .mounts
            .iter()
            .any(|mount| matches!(mount.kind, MountKind::Bind { source: BindSource::Guest(_), .. }));
        let own = |plan: &Plan| {
            let mut kinds: Vec<_> =
                plan.namespaces.iter().filter(|namespace| !is_of_pod(namespace.kind)).collect();
            kinds.sort_by_key(|namespace| namespace.kind as u8);
            kinds.into_iter().cloned().collect::<Vec<_>>()
        };
        let is_short = |plan| {
            frame::encode(plan).is_ok_and(|plan| plan.len() <= MAX_ORDERS_BYTES - ORDERS_BESIDE_PLAN_BYTES)
        };
        !from_pod
            && is_short(plan)
            && plan.user_mappings.is_none()
            && plan.time_offsets.is_empty()
            && plan.namespaces.iter().all(|namespace| namespace.path.is_none())
            && own(plan) == own(&self.standard)
    }

    /// Ends it; the cgroup is to be removed once it is gone.
    pub(crate) fn dismiss(self) -> Cgroup {
        let _ = sys::send_signal(self.process.pidfd.as_fd(), libc::SIGKILL as u8);
        self.cgroup
    }

    /// Tells it what it is to become, and PID 1's end of the link over which it tells how far it has come.
    pub(crate) fn become_first(
        self,
        plan: &Plan,
        share: &str,
        streams: &Streams,
        gate: bool,
        pod: &mut Pod,
    ) -> Result<(Made, Link), StartError> {
        let Self { process, link, mut cgroup, namespaces, standard } = self;
        parameters::set(plan)?;
        if sets_bpf(plan) {
            pod.leave_bpf();
        }
        cgroup.limit(plan, &standard.cgroup, pod)?;
        let program = cgroup.device_program();
        let orders = frame::encode(&(plan, share, gate))
            .map_err(|error| refused("process", format_args!("cannot tell it: {error}")))?;
        let descriptors: Vec<BorrowedFd<'_>> = streams.descriptors().chain(program).collect();
        link.give_orders(&orders, &descriptors)
            .map_err(|error| failed("process", "tell the waiting process what it is", error))?;
        let container = Container {
            ends_with_first: true,
            own_mount: true,
            apart: namespaces.apart,
            user_mappings: None,
            _nodes: None,
            cgroup,
            owns_pod: true,
            paused: false,
            pausing: None,
        };
        Ok((Made { container, first: process, cloned_ns: clock::monotonic_ns() }, link))
    }
}

/// The process: says that it waits, waits, and becomes what it is told. Returns only why it could not.
fn wait(staged: &Staged, link: &Link, cgroup: &Cgroup, pod: &mut Pod) -> StartError {
    become_told(staged, link, cgroup, pod).map_or_else(|error| error, |never| match never {})
}

fn become_told(
    staged: &Staged,
    link: &Link,
    cgroup: &Cgroup,
    pod: &mut Pod,
) -> Result<std::convert::Infallible, StartError> {
    let fail = |error| failed("process", "hear what it is to become", error);
    link.say_ready().map_err(fail)?;
    let (bytes, descriptors) = link.take_orders().map_err(fail)?;
    let orders = frame::read::<Orders>(&bytes[..]);
    let (plan, share, gate) =
        &orders.map_err(|error| refused("process", format_args!("cannot read what it is told: {error}")))?;
    let mut descriptors = descriptors.into_iter();
    let streams = match plan.process.terminal {
        Some(_) => Streams::Terminal,
        None => pipes(&mut descriptors).ok_or_else(|| refused("process", "it was given no streams"))?,
    };
    let cgroup = cgroup.with_program(descriptors.next()).map_err(fail)?;
    let namespaces = Namespaces::open(plan, true, pod)?;
    let program = Program::prepare(&plan.process)?;
    let becoming = Becoming {
        process: &plan.process,
        seccomp: plan.seccomp.as_ref(),
        program: &program,
        streams: &streams,
        owns_streams: false,
        hooks: StartHooks { hooks: &plan.start_hooks, state_json: &plan.state_json },
        link: Some(link),
        gate: *gate,
    };
    let first = First {
        plan,
        owns_pod: true,
        share,
        namespaces: &namespaces,
        cgroup: &cgroup,
        user: None,
        staged: Some(staged),
        becoming,
    };
    Err(first.run())
}

fn pipes(descriptors: &mut impl Iterator<Item = OwnedFd>) -> Option<Streams> {
    Some(Streams::Pipes {
        stdin: descriptors.next()?,
        stdout: descriptors.next()?,
        stderr: descriptors.next()?,
    })
}
