//! Namespaces: which are made with the container's process, which it joins, which it shares with the pod.
//!
//! The pod's own network, IPC and UTS namespace are the guest's first ones. The pod's first container, when it asks
//! for new ones, gets these, unless it has a user namespace, which has to own them. For every other container they
//! are really made, as the other kinds are for all.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crx_proto::{Namespace, NamespaceKind, Plan, StartError, TimeOffsetClock};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
};

use crate::failure::{failed, refused};
use crate::mounts::Pod;
use crate::sys;

/// The namespaces of a container that is being made.
pub(crate) struct Namespaces {
    /// CLONE_NEW* for its first process.
    pub(crate) clone_flags: u64,
    /// Its root is a mount of its own: it has a mount namespace, new or by path.
    pub(crate) has_mount: bool,
    /// It has a new mount namespace: the pod's mounts are to go.
    pub(crate) own_mount: bool,
    /// It has a PID namespace of its own: all its processes end with the first.
    pub(crate) own_pid: bool,
    /// It has a cgroup namespace of its own.
    pub(crate) own_cgroup: bool,
    /// It has a new network namespace, not the pod's.
    pub(crate) own_network: bool,
    /// Those in which it is not with the pod: what a process executed in it later joins.
    pub(crate) apart: ThreadNameSpaceType,
    /// It has a time namespace of its own.
    own_time: bool,
    /// Lines of its /proc/self/timens_offsets.
    time_offsets: String,
    /// Namespaces to join from inside.
    join: Vec<Joined>,
    /// Namespaces to be cloned into.
    join_before: Vec<Joined>,
}

/// A namespace by path.
struct Joined {
    index: usize,
    path: String,
    kind: LinkNameSpaceType,
    fd: OwnedFd,
}

impl Joined {
    /// Its name in /proc/PID/ns.
    fn name(&self) -> &'static str {
        match self.kind {
            LinkNameSpaceType::ProcessID => "pid",
            LinkNameSpaceType::Network => "net",
            LinkNameSpaceType::InterProcessCommunication => "ipc",
            LinkNameSpaceType::HostNameAndNISDomainName => "uts",
            LinkNameSpaceType::ControlGroup => "cgroup",
            LinkNameSpaceType::Time => "time",
            _ => "mnt",
        }
    }

    fn enter(&self) -> Result<(), StartError> {
        move_into_link_name_space(self.fd.as_fd(), Some(self.kind)).map_err(|error| {
            failed(
                format_args!("linux.namespaces[{}] ({})", self.index, self.path),
                "join the namespace",
                error,
            )
        })
    }
}

impl Namespaces {
    /// Sorts the plan's namespaces and opens those given by path. `owns_pod`: the container is the pod's first.
    pub(crate) fn open(plan: &Plan, owns_pod: bool, pod: &mut Pod) -> Result<Self, StartError> {
        let mut namespaces = Self {
            clone_flags: 0,
            has_mount: false,
            own_mount: false,
            own_pid: false,
            own_cgroup: false,
            own_network: false,
            apart: ThreadNameSpaceType::empty(),
            own_time: false,
            time_offsets: time_offsets(plan),
            join: Vec::new(),
            join_before: Vec::new(),
        };
        let own_user = plan.user_mappings.is_some();
        for (index, namespace) in plan.namespaces.iter().enumerate() {
            if owns_pod && !own_user && namespace.path.is_none() && is_of_pod(namespace.kind) {
                continue;
            }
            namespaces.apart |= flag(namespace.kind);
            match &namespace.path {
                None => namespaces.make(namespace.kind),
                Some(path) => namespaces.open_one(index, namespace, path, own_user, pod)?,
            }
        }
        if !namespaces.time_offsets.is_empty() || !namespaces.join_before.is_empty() {
            pod.need_proc().map_err(|error| failed("linux.namespaces", "mount proc", error))?;
        }
        Ok(namespaces)
    }

    /// A new one.
    fn make(&mut self, kind: NamespaceKind) {
        let (flag, own) = match kind {
            NamespaceKind::Pid => (libc::CLONE_NEWPID, Some(&mut self.own_pid)),
            NamespaceKind::Mount => {
                self.has_mount = true;
                (libc::CLONE_NEWNS, Some(&mut self.own_mount))
            }
            // These two are made by the container's process: the one once it is in its cgroup, so that this is the
            // namespace's root; the other because the kernel clones no process that shares memory into it.
            NamespaceKind::Cgroup => (0, Some(&mut self.own_cgroup)),
            NamespaceKind::Time => (0, Some(&mut self.own_time)),
            NamespaceKind::User => (libc::CLONE_NEWUSER, None),
            NamespaceKind::Network => (libc::CLONE_NEWNET, Some(&mut self.own_network)),
            NamespaceKind::Ipc => (libc::CLONE_NEWIPC, None),
            NamespaceKind::Uts => (libc::CLONE_NEWUTS, None),
        };
        self.clone_flags |= flag as u64;
        if let Some(own) = own {
            *own = true;
        }
    }

    /// One by path. Most are joined by the container's process; the PID namespace is that of its children, the time
    /// namespace cannot be joined while memory is shared, and from inside a new user namespace nothing of the pod's
    /// can: these are joined by PID 1 around the clone.
    fn open_one(
        &mut self,
        index: usize,
        namespace: &Namespace,
        path: &str,
        own_user: bool,
        pod: &mut Pod,
    ) -> Result<(), StartError> {
        let kind = match namespace.kind {
            NamespaceKind::Pid => LinkNameSpaceType::ProcessID,
            NamespaceKind::Network => LinkNameSpaceType::Network,
            NamespaceKind::Ipc => LinkNameSpaceType::InterProcessCommunication,
            NamespaceKind::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
            NamespaceKind::Cgroup => LinkNameSpaceType::ControlGroup,
            NamespaceKind::Time => LinkNameSpaceType::Time,
            NamespaceKind::Mount => LinkNameSpaceType::Mount,
            NamespaceKind::User => return Err(cannot(index, "the user namespace of another")),
        };
        self.has_mount |= namespace.kind == NamespaceKind::Mount;
        let fd = pod
            .need_path(path)
            .and_then(|()| openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()))
            .map_err(|error| failed(format_args!("linux.namespaces[{index}] ({path})"), "open", error))?;
        let joined = Joined { index, path: path.to_owned(), kind, fd };
        let before = own_user || matches!(namespace.kind, NamespaceKind::Pid | NamespaceKind::Time);
        if before {
            self.join_before.push(joined)
        } else {
            self.join.push(joined)
        }
        Ok(())
    }

    /// The descriptors that [`Namespaces::enter`] uses.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.join.iter().map(|joined| joined.fd.as_fd())
    }

    /// Runs `clone` so that what it clones is in the namespaces to be cloned into, if there are any.
    pub(crate) fn clone_with<T>(
        &self,
        clone: impl FnOnce() -> Result<T, StartError>,
    ) -> Result<T, StartError> {
        if self.join_before.is_empty() {
            return clone();
        }
        let own = |joined: &Joined| {
            let path = format!("/proc/self/ns/{}", joined.name());
            openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        };
        let own: Vec<OwnedFd> = self
            .join_before
            .iter()
            .map(own)
            .collect::<Result<_, _>>()
            .map_err(|error| failed("linux.namespaces", "open the pod's own", error))?;
        let mut entered = 0;
        let mut enter = || {
            for joined in &self.join_before {
                joined.enter()?;
                entered += 1;
            }
            Ok(())
        };
        let cloned = enter().and_then(|()| clone());
        for (joined, own) in self.join_before.iter().zip(&own).take(entered) {
            move_into_link_name_space(own.as_fd(), Some(joined.kind))
                .map_err(|error| failed("linux.namespaces", "return to the pod's own", error))?;
        }
        cloned
    }

    /// Called by the container's process: joins and makes what cloning did not.
    pub(crate) fn enter(&self) -> Result<(), StartError> {
        for joined in &self.join {
            joined.enter()?;
        }
        if self.own_cgroup {
            sys::unshare_cgroup()
                .map_err(|error| failed("linux.namespaces", "make a cgroup namespace", error))?;
        }
        if self.own_time {
            sys::unshare_time()
                .map_err(|error| failed("linux.namespaces", "make a time namespace", error))?;
        }
        if !self.time_offsets.is_empty() {
            std::fs::write("/proc/self/timens_offsets", &self.time_offsets)
                .map_err(|error| failed("linux.timeOffsets", "set", error))?;
        }
        Ok(())
    }
}

/// The offsets as /proc/PID/timens_offsets takes them (time_namespaces(7)).
fn time_offsets(plan: &Plan) -> String {
    let line = |offset: &crx_proto::TimeOffset| {
        let clock = match offset.clock {
            TimeOffsetClock::Monotonic => "monotonic",
            TimeOffsetClock::Boottime => "boottime",
        };
        format!("{clock} {} {}\n", offset.seconds, offset.nanoseconds)
    };
    plan.time_offsets.iter().map(line).collect()
}

/// Runs `clone` between `enter`, which gives this process's children another PID namespace, and the return to its
/// own.
pub(crate) fn with_pid_namespace<T>(
    enter: impl FnOnce() -> Result<(), StartError>,
    clone: impl FnOnce() -> Result<T, StartError>,
) -> Result<T, StartError> {
    let fail = |action| move |error| failed("linux.namespaces", action, error);
    let own = pidfd_open(getpid(), PidfdFlags::empty()).map_err(fail("open the pod's PID namespace"))?;
    enter()?;
    let cloned = clone();
    move_into_thread_name_spaces(own.as_fd(), ThreadNameSpaceType::PROCESS_ID)
        .map_err(fail("return to the pod's PID namespace"))?;
    cloned
}

/// The pod has one of this kind to give to its first container.
pub(crate) fn is_of_pod(kind: NamespaceKind) -> bool {
    matches!(kind, NamespaceKind::Network | NamespaceKind::Ipc | NamespaceKind::Uts)
}

/// The kind as setns(2) has it.
fn flag(kind: NamespaceKind) -> ThreadNameSpaceType {
    match kind {
        NamespaceKind::Pid => ThreadNameSpaceType::PROCESS_ID,
        NamespaceKind::Network => ThreadNameSpaceType::NETWORK,
        NamespaceKind::Mount => ThreadNameSpaceType::MOUNT,
        NamespaceKind::Ipc => ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION,
        NamespaceKind::Uts => ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME,
        NamespaceKind::User => ThreadNameSpaceType::USER,
        NamespaceKind::Cgroup => ThreadNameSpaceType::CONTROL_GROUP,
        NamespaceKind::Time => ThreadNameSpaceType::TIME,
    }
}

fn cannot(index: usize, what: &str) -> StartError {
    refused(
        format_args!("linux.namespaces[{index}]"),
        format_args!("a container of a pod cannot have {what}"),
    )
}
