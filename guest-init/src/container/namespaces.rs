//! Namespaces: which are made with the container's process, which it joins, which it shares with the pod.
//!
//! A pod has one network, IPC and UTS namespace: its own, the guest's first ones. A container that asks for new
//! ones gets these. PID, mount and cgroup namespaces are really made.

use std::os::fd::{AsFd, OwnedFd};

use crx_proto::{Namespace, NamespaceKind, Plan, StartError};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::failure::{failed, refused};
use crate::mounts::Pod;
use crate::sys;

/// The namespaces of a container that is being made.
pub(crate) struct Namespaces {
    /// CLONE_NEW* for its first process.
    pub(crate) clone_flags: u64,
    /// It has a mount namespace of its own.
    pub(crate) own_mount: bool,
    /// It has a PID namespace of its own: all its processes end with the first.
    pub(crate) own_pid: bool,
    /// It has a cgroup namespace of its own.
    pub(crate) own_cgroup: bool,
    /// Namespaces to join from inside.
    join: Vec<Joined>,
    /// The PID namespace to be cloned into.
    join_pid: Option<Joined>,
}

/// A namespace by path.
struct Joined {
    index: usize,
    path: String,
    kind: LinkNameSpaceType,
    fd: OwnedFd,
}

impl Joined {
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
    /// Sorts the plan's namespaces and opens those given by path.
    pub(crate) fn open(plan: &Plan, pod: &mut Pod) -> Result<Self, StartError> {
        let mut namespaces = Self {
            clone_flags: 0,
            own_mount: false,
            own_pid: false,
            own_cgroup: false,
            join: Vec::new(),
            join_pid: None,
        };
        for (index, namespace) in plan.namespaces.iter().enumerate() {
            namespaces.add(index, namespace, pod)?;
        }
        Ok(namespaces)
    }

    fn add(&mut self, index: usize, namespace: &Namespace, pod: &mut Pod) -> Result<(), StartError> {
        let kind = match (namespace.kind, &namespace.path) {
            (NamespaceKind::Pid, None) => return self.make(libc::CLONE_NEWPID, |new| &mut new.own_pid),
            (NamespaceKind::Mount, None) => return self.make(libc::CLONE_NEWNS, |new| &mut new.own_mount),
            // Made by the container's process once it is in its cgroup, so that this is the namespace's root.
            (NamespaceKind::Cgroup, None) => return self.make(0, |new| &mut new.own_cgroup),
            (NamespaceKind::Network | NamespaceKind::Ipc | NamespaceKind::Uts, None) => return Ok(()),
            (NamespaceKind::User, _) => return Err(cannot(index, "a user namespace")),
            (NamespaceKind::Time, _) => return Err(cannot(index, "a time namespace")),
            (NamespaceKind::Mount, Some(_)) => return Err(cannot(index, "the mount namespace of another")),
            (NamespaceKind::Pid, Some(_)) => LinkNameSpaceType::ProcessID,
            (NamespaceKind::Network, Some(_)) => LinkNameSpaceType::Network,
            (NamespaceKind::Ipc, Some(_)) => LinkNameSpaceType::InterProcessCommunication,
            (NamespaceKind::Uts, Some(_)) => LinkNameSpaceType::HostNameAndNISDomainName,
            (NamespaceKind::Cgroup, Some(_)) => LinkNameSpaceType::ControlGroup,
        };
        let path = namespace.path.clone().unwrap_or_default();
        let fd = pod
            .need_path(&path)
            .and_then(|()| openat(CWD, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()))
            .map_err(|error| failed(format_args!("linux.namespaces[{index}] ({path})"), "open", error))?;
        let joined = Joined { index, path, kind, fd };
        if namespace.kind == NamespaceKind::Pid {
            self.join_pid = Some(joined);
        } else {
            self.join.push(joined);
        }
        Ok(())
    }

    fn make(&mut self, flag: i32, own: impl Fn(&mut Self) -> &mut bool) -> Result<(), StartError> {
        self.clone_flags |= flag as u64;
        *own(self) = true;
        Ok(())
    }

    /// Runs `clone` so that what it clones is in the PID namespace to join, if there is one.
    pub(crate) fn clone_with<T>(
        &self,
        pod: &mut Pod,
        clone: impl FnOnce() -> Result<T, StartError>,
    ) -> Result<T, StartError> {
        let Some(joined) = &self.join_pid else { return clone() };
        let own = pod
            .need_proc()
            .and_then(|()| openat(CWD, "/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()))
            .map_err(|error| failed("linux.namespaces", "open the pod's PID namespace", error))?;
        joined.enter()?;
        let cloned = clone();
        move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID))
            .map_err(|error| failed("linux.namespaces", "return to the pod's PID namespace", error))?;
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
        Ok(())
    }
}

fn cannot(index: usize, what: &str) -> StartError {
    refused(
        format_args!("linux.namespaces[{index}]"),
        format_args!("a container of a pod cannot have {what}"),
    )
}
