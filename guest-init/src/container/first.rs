//! A container's first process, from its clone: it makes the container around itself and enters it, then goes the
//! way of every process ([`Becoming`]).

use crx_proto::{Plan, StartError};

use super::cgroup::Cgroup;
use super::namespaces::Namespaces;
use super::process::{Becoming, set_privileged};
use super::rootfs::Root;
use super::staged::Staged;
use super::user::{self, UserNamespace};
use super::{devices, masks, mounts, parameters};
use crate::net;

/// Everything the process needs to become the container's.
pub(crate) struct First<'a> {
    pub(crate) plan: &'a Plan,
    /// It is of the pod's first container, which owns the pod's namespaces: those are set up already.
    pub(crate) owns_pod: bool,
    /// The container's directory of the share.
    pub(crate) share: &'a str,
    pub(crate) namespaces: &'a Namespaces,
    pub(crate) cgroup: &'a Cgroup,
    /// Its user namespace, if it has one.
    pub(crate) user: Option<&'a UserNamespace<'a>>,
    /// File systems that were made before; then its own namespaces are entered already, too.
    pub(crate) staged: Option<&'a Staged>,
    pub(crate) becoming: Becoming<'a>,
}

impl First<'_> {
    /// Becomes the container's process. Returns only why that was not possible.
    pub(crate) fn run(&self) -> StartError {
        match self.become_container() {
            Ok(()) => self.becoming.finish(true),
            Err(error) => error,
        }
    }

    /// Makes the container around this process and enters it.
    fn become_container(&self) -> Result<(), StartError> {
        let plan = self.plan;
        self.becoming.begin()?;
        if self.staged.is_none() {
            self.namespaces.enter()?;
        }
        self.set_up_namespaces()?;
        if self.user.is_some() {
            user::become_root()?;
        }
        let root = Root::open_in(self.share, self.namespaces.has_mount)?;
        let cgroup = (!self.namespaces.own_cgroup).then_some(self.cgroup.path());
        let fitting = self.staged.map(|staged| staged.fitting(plan));
        let fitting = fitting.as_ref();
        let context = mounts::Context { root: &root, share: self.share, cgroup, fitting };
        let read_only_later = mounts::make_all(&context, plan)?;
        if !fitting.is_some_and(|fitting| fitting.has_devices(plan)) {
            devices::make_all(&root, plan, self.user.map(UserNamespace::nodes))?;
        }
        self.becoming.connect_streams(&root, true)?;
        mounts::finish(&root, &read_only_later)?;
        masks::make_read_only(&root, &plan.readonly_paths, |path| {
            fitting.is_some_and(|fitting| fitting.is_read_only(path))
        })?;
        masks::mask(&root, &plan.masked_paths, |path| {
            fitting.is_some_and(|fitting| fitting.is_masked(path))
        })?;
        if self.user.is_none() {
            self.cgroup.restrict_devices()?;
            set_privileged(&plan.process, None)?;
        }
        root.enter(plan, self.namespaces.own_mount)
    }

    /// Sets the container's own network, names and kernel parameters, from inside its namespaces. Those of the pod
    /// are set already.
    fn set_up_namespaces(&self) -> Result<(), StartError> {
        if self.namespaces.own_network {
            net::set_loopback_up()?;
        }
        if !self.owns_pod {
            net::set_names(self.plan)?;
        }
        if !self.owns_pod || self.user.is_some() {
            parameters::set(self.plan)?;
        }
        Ok(())
    }
}
