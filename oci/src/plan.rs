//! The whole plan: config.json's sections, each read by its own file, put together. Before it: `bundle.rs`. After
//! it: the launch, which gives [`Planned::plan`] to the pod and everything else to the host's side.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crx_proto::{Network, Plan};

use crate::bundle::Bundle;
use crate::error::{SpecError, quote};
use crate::hooks::{self, Hooks};
use crate::json::Field;
use crate::resources::{self, CpuHint};
use crate::{devices, mounts, namespaces, process, seccomp, user, validate};

/// A container that can be launched.
#[derive(Debug)]
pub struct Planned {
    /// What PID 1 of the pod is told.
    pub plan: Plan,
    /// The root file system's directory on the host, absolute and without symbolic links.
    pub rootfs: PathBuf,
    /// `root.readonly`: nothing has to be written there but mount points.
    pub rootfs_readonly: bool,
    /// Host sources of the bind mounts, absolute and without symbolic links, in the order of [`Plan::volumes`].
    pub volumes: Vec<PathBuf>,
    /// The process has a terminal.
    pub terminal: bool,
    /// The container's memory limit, which the pod's memory has to be larger than.
    pub memory_limit_bytes: Option<u64>,
    /// What the CPU limits ask of the pod's processors.
    pub cpu: CpuHint,
    /// `linux.cgroupsPath`, as it is written.
    pub cgroups_path: Option<String>,
    /// `annotations`.
    pub annotations: BTreeMap<String, String>,
    /// Hooks, but for those that the plan has.
    pub hooks: Hooks,
    /// What config.json asks for that does not exist in a pod and can be left out: one line each.
    pub warnings: Vec<String>,
}

/// Plans the container of a bundle.
///
/// # Errors
/// The ID or a field of config.json cannot be honoured.
pub fn plan(bundle: &Bundle, id: &str) -> Result<Planned, SpecError> {
    validate::container_id(id)?;
    let root = Field::root(&bundle.config);
    validate::unsupported(&root)?;
    let linux = root.get("linux")?;
    let linux = linux.as_ref();
    let namespaces = linux.map(|linux| namespaces::namespaces(linux)).transpose()?.unwrap_or_default();
    let user_mappings = linux.map(|linux| user::mappings(linux, &namespaces)).transpose()?.flatten();
    let covered = |name| match linux {
        Some(linux) => validate::covered_paths(linux, name, &namespaces),
        None => Ok(Vec::new()),
    };
    let (masked_paths, readonly_paths) = (covered("maskedPaths")?, covered("readonlyPaths")?);
    let devices = devices::devices(linux)?;
    let mut warnings = Vec::new();
    process::ignored(&root, &mut warnings)?;
    let cgroup = resources::cgroup(linux, &devices, &mut warnings)?;
    let rootfs_readonly = root.require("root")?.flag("readonly")?;
    let process = process::process(&root, &bundle.rootfs)?;
    user::check_ids(user_mappings.as_ref(), &process, &devices)?;
    let mut hooks = hooks::hooks(&root)?;
    let start_hooks = std::mem::take(&mut hooks.start_container);
    let found = mounts::mounts(&root, &bundle.directory)?;
    warnings.extend(found.warnings);
    Ok(Planned {
        rootfs: bundle.rootfs.clone(),
        rootfs_readonly,
        volumes: found.sources,
        terminal: process.terminal.is_some(),
        memory_limit_bytes: cgroup.memory.max.filter(|bytes| *bytes != u64::MAX),
        cpu: resources::cpu_hint(&cgroup.cpu),
        cgroups_path: linux
            .map(|linux| linux.opt_string("cgroupsPath"))
            .transpose()?
            .flatten()
            .map(str::to_owned),
        annotations: annotations(&root)?,
        hooks,
        warnings,
        plan: Plan {
            id: id.to_owned(),
            hostname: validate::uts_name(&root, "hostname", &namespaces)?,
            domainname: validate::uts_name(&root, "domainname", &namespaces)?,
            network: Network::default(),
            time_offsets: linux
                .map(|linux| namespaces::time_offsets(linux, &namespaces))
                .transpose()?
                .unwrap_or_default(),
            sysctl: linux.map(|linux| validate::sysctl(linux, &namespaces)).transpose()?.unwrap_or_default(),
            cgroup,
            rootfs_propagation: rootfs_propagation(linux)?,
            rootfs_readonly,
            volumes: found.volumes,
            mounts: found.mounts,
            devices,
            masked_paths,
            readonly_paths,
            process,
            user_mappings,
            seccomp: linux.map(seccomp::seccomp).transpose()?.flatten(),
            namespaces,
            start_hooks,
            state_json: String::new(),
        },
    })
}

fn rootfs_propagation(linux: Option<&Field<'_>>) -> Result<u64, SpecError> {
    let field = linux.map(|linux| linux.get("rootfsPropagation")).transpose()?.flatten();
    let Some(field) = field.filter(Field::is_filled) else { return Ok(0) };
    let name = field.string()?;
    mounts::propagation(name).ok_or_else(|| field.error(format!("unknown propagation {}", quote(name))))
}

fn annotations(root: &Field<'_>) -> Result<BTreeMap<String, String>, SpecError> {
    let entry = |(name, field): (&str, Field<'_>)| Ok((name.to_owned(), field.string()?.to_owned()));
    root.entries("annotations")?.into_iter().map(entry).collect()
}
