//! What `run` and `create` share: their options, and the way from a bundle to a launch. Next: `runtime::launch`.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use crx_oci::Planned;
use crx_proto::{Namespace, NamespaceKind};

use crate::runtime::channel::NewPod;
use crate::runtime::guest_files::GuestFiles;
use crate::runtime::host_process::Streams;
use crate::runtime::launch::{self, Caller, Follow, Request};
use crate::runtime::network::Source;
use crate::runtime::network::publish::{self, Port};
use crate::runtime::network::rates::Rates;
use crate::runtime::settings::Settings;
use crate::runtime::state::Container;
use crate::runtime::timeline::Track;
use crate::runtime::{log, sizing, terminal};
use crate::sys;

/// Annotation that names the first container of the pod that a container joins, as `--pod` does.
pub const POD_ANNOTATION: &str = "dev.crx.pod";

/// Annotations that say of a container which sandbox it belongs to: the one with its kind, the one with the sandbox.
pub const SANDBOX_ANNOTATIONS: [(&str, &str); 2] = [
    ("io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"),
    ("io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"),
];

#[derive(clap::Args, Default)]
// Its options stand among the verb's own.
#[group(skip)]
pub(crate) struct Arguments {
    /// Name of the container, unique on this host
    #[arg(value_name = "ID")]
    pub(super) id: String,
    /// Directory with config.json and the root file system
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Socket to send the container's terminal to
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// File to write the process ID to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Join the pod of this container, instead of having one of its own
    #[arg(long, value_name = "ID")]
    pod: Option<String>,
    /// Show the pod's kernel console on stderr
    #[arg(long)]
    debug_console: bool,
    /// Virtual processors of the pod [default: 1, or what linux.resources.cpu can use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    vcpus: Option<u8>,
    /// Memory of the pod in MiB [default: 256, or what linux.resources.memory.limit needs]
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
    /// Network of the pod: none, nat (behind the host's address), passt (the same without root's rights, by the program
    /// pasta), or ns:PATH (the interfaces of a network namespace of the host) [default: what linux.namespaces names, or none]
    #[arg(long, value_name = "NETWORK", value_parser = parse_network)]
    net: Option<Network>,
    /// A port of the host (only at HOSTIP) that is a port of the pod, or a range FIRST-LAST of them; for --net nat and passt. Again
    /// for more
    #[arg(long, value_name = "[HOSTIP:]HOST:POD[/tcp|/udp]", value_parser = parse_ports)]
    publish: Vec<Ports>,
    /// Boot the pod's kernel instead of starting from a template
    #[arg(long)]
    no_template: bool,
    /// For compatibility: the root file system of a pod needs no pivot_root
    #[arg(long)]
    no_pivot: bool,
    /// For compatibility: a pod's kernel has keyrings of its own
    #[arg(long)]
    no_new_keyring: bool,
    /// Only 0 is possible: descriptors of the host mean nothing in a pod
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
}

impl Arguments {
    /// Those of a bundle with every option left out.
    pub(crate) fn of_bundle(id: &str, bundle: &Path) -> Self {
        Self { id: id.to_owned(), bundle: bundle.to_path_buf(), ..Self::default() }
    }
}

/// A network, as the command line has it.
#[derive(Clone, Debug)]
enum Network {
    /// Loopback alone.
    None,
    /// Behind the host's address.
    Nat,
    /// By passt.
    Passt,
    /// The interfaces of a network namespace.
    Namespace(PathBuf),
}

/// The ports of one --publish.
#[derive(Clone, Debug)]
struct Ports(Vec<Port>);

fn parse_ports(text: &str) -> Result<Ports, String> {
    publish::parse(text).map(Ports)
}

/// Why ports cannot be published.
const NOT_PUBLISHED: &str =
    "--publish: only with --net nat or passt; with another network, whoever made it publishes ports";

impl Network {
    /// Where the interfaces come from; none for loopback alone. Ports are taken here, before anything is made.
    fn source(&self, ports: Vec<Port>) -> anyhow::Result<Option<Source>> {
        Ok(match self {
            Self::Nat => {
                let reserved = publish::reserve(&ports)?;
                Some(Source::Nat { ports, reserved })
            }
            Self::Passt => {
                // pasta takes them itself, later; here they are only looked at.
                drop(publish::reserve(&ports)?);
                Some(Source::Passt { ports })
            }
            _ if !ports.is_empty() => bail!(NOT_PUBLISHED),
            Self::None => None,
            Self::Namespace(path) => Some(Source::Namespace(path.clone())),
        })
    }
}

fn parse_network(text: &str) -> Result<Network, String> {
    match (text, text.strip_prefix("ns:")) {
        ("none", _) => Ok(Network::None),
        ("nat", _) => Ok(Network::Nat),
        ("passt", _) => Ok(Network::Passt),
        (_, Some(path)) if !path.is_empty() => Ok(Network::Namespace(PathBuf::from(path))),
        _ => Err("must be none, nat, passt or ns:PATH".to_owned()),
    }
}

/// Refuses descriptors of the host.
pub(super) fn check_preserved(count: u32) -> anyhow::Result<()> {
    if count > 0 {
        bail!(
            "--preserve-fds {count}: descriptors of the host cannot be given to a pod; leave the option out"
        );
    }
    Ok(())
}

/// Launches the container of a bundle.
pub(super) fn launch(
    global: &super::Arguments,
    arguments: &Arguments,
    follow: Follow,
    keep: bool,
    timing: bool,
) -> anyhow::Result<u8> {
    let caller = Caller {
        follow,
        pid_file: arguments.pid_file.clone(),
        streams: Streams::of_command(arguments.console_socket.clone()),
    };
    launch::container(Request { keep, timing, ..request(&global.settings(), arguments, caller)? })
}

/// What a launch is to do, from the container's bundle and what its caller says.
///
/// # Errors
/// The bundle cannot be honoured, or this host has not what it needs.
pub(crate) fn request(settings: &Settings, arguments: &Arguments, caller: Caller) -> anyhow::Result<Request> {
    let mut timeline = Track::new("crx");
    check_preserved(arguments.preserve_fds)?;
    let bundle = crx_oci::Bundle::open(&arguments.bundle)?;
    let mut planned = crx_oci::plan(&bundle, &arguments.id)?;
    for warning in &planned.warnings {
        log::warning(warning);
    }
    if settings.cgroups.systemd && planned.cgroups_path.as_deref().is_none_or(str::is_empty) {
        log::warning("--systemd-cgroup: there is no linux.cgroupsPath; the pod stays in its caller's cgroup");
    }
    if let Some(size) = planned.plan.process.terminal.as_mut().filter(|size| **size == (0, 0)) {
        *size = terminal::size();
    }
    let guest = GuestFiles::find(settings.guest_dir.as_deref())?;
    // The paths of the files that the process still needs do not change with its user namespace.
    sys::become_root_of_own_namespace().context("this user cannot make namespaces (user_namespaces(7))")?;
    let joins = joined_pod(&settings.root, &planned, arguments.pod.as_deref())?;
    let ports: Vec<Port> = arguments.publish.iter().flat_map(|ports| &ports.0).copied().collect();
    let network = match &arguments.net {
        Some(asked) => asked.source(ports)?.map(|source| (source, "--net".to_owned())),
        None if !ports.is_empty() => bail!(NOT_PUBLISHED),
        None => planned_network(&planned),
    };
    let (joins, network) = match (joins, network) {
        (Some(pod), _) if arguments.net.is_some() => {
            bail!("--net: the network is that of pod {:?}; leave the option out", pod.record.id)
        }
        (Some(pod), _) => (Some(pod), None),
        (None, Some((source, named_by))) => match pod_with(&settings.root, &source)? {
            Some(pod) => {
                check_shared(&planned, &pod).context(named_by)?;
                // It is in the pod's own, also if config.json asks for a new one and only the command line names it.
                planned.plan.namespaces.retain(|namespace| namespace.kind != NamespaceKind::Network);
                (Some(pod), None)
            }
            None => {
                source.check(!planned.hooks.create_runtime.is_empty()).context(named_by)?;
                (None, Some(source))
            }
        },
        (None, None) => (None, None),
    };
    timeline.reached("container planned");
    Ok(Request {
        id: arguments.id.clone(),
        root: settings.root.clone(),
        bundle: arguments.bundle.canonicalize().context("cannot find the bundle again")?,
        cgroups: settings.cgroups,
        config_json: bundle.config_json(),
        joins,
        templates: (!arguments.no_template).then(|| settings.templates.clone()),
        pod: NewPod {
            kernel: guest.kernel,
            initramfs: guest.initramfs,
            memory_mib: sizing::memory_mib(
                arguments.memory,
                &planned.annotations,
                planned.memory_limit_bytes,
            )?,
            vcpus: sizing::vcpus(arguments.vcpus, &planned.annotations, planned.cpu)?,
            network: network.is_some(),
            rates: Rates::new(&planned.annotations)?,
            debug_console: arguments.debug_console,
            state_dir: PathBuf::new(),
            detached: false,
            console: false,
            began_ns: 0,
        },
        network,
        planned,
        caller,
        keep: false,
        timing: false,
        timeline,
    })
}

/// The first container of the pod that a container joins: as the caller says, or its annotations, or the namespaces of a
/// running container that it names.
fn joined_pod(root: &Path, planned: &Planned, asked: Option<&str>) -> anyhow::Result<Option<Container>> {
    let found = |id: &str| Container::find(root, id).and_then(Container::pod);
    if let Some(id) = asked {
        return found(id).context("--pod").map(Some);
    }
    if let Some(id) = planned.annotations.get(POD_ANNOTATION) {
        return found(id).with_context(|| format!("annotations: {POD_ANNOTATION}")).map(Some);
    }
    for (kind, sandbox) in SANDBOX_ANNOTATIONS {
        if planned.annotations.get(kind).map(String::as_str) != Some("container") {
            continue;
        }
        let id =
            planned.annotations.get(sandbox).with_context(|| format!("annotations: {sandbox} is missing"))?;
        return found(id).with_context(|| format!("annotations: {sandbox}")).map(Some);
    }
    let pids: Vec<u32> = planned
        .plan
        .namespaces
        .iter()
        .filter_map(|namespace| named_process(namespace.path.as_deref()?))
        .collect();
    if pids.is_empty() {
        return Ok(None);
    }
    let is_named = |container: &Container| {
        container.record.pid.is_some_and(|pid| pids.contains(&pid)) && container.is_alive()
    };
    Container::all(root)?.into_iter().find(is_named).map(Container::pod).transpose()
}

/// The first container of the running pod whose interfaces are those of the same network namespace: two pods cannot have them,
/// and containers that name one network namespace expect to meet in it.
fn pod_with(root: &Path, source: &Source) -> anyhow::Result<Option<Container>> {
    let Source::Namespace(path) = source else { return Ok(None) };
    let identity = |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    // What cannot be looked at is refused where it is opened.
    let Some(wanted) = identity(path) else { return Ok(None) };
    let has_it = |container: &Container| {
        container.record.network.as_deref().and_then(identity) == Some(wanted) && container.is_alive()
    };
    Ok(Container::all(root)?.into_iter().find(has_it))
}

/// Refuses what cannot be in the pod that has its network namespace: a pod of its own, or namespaces of others.
fn check_shared(planned: &Planned, pod: &Container) -> anyhow::Result<()> {
    let id = &pod.record.id;
    for (kind, _) in SANDBOX_ANNOTATIONS {
        if planned.annotations.get(kind).is_some_and(|kind| kind == "sandbox") {
            bail!(
                "the network namespace is that of pod {id:?}, and this is to be a pod of its own: {kind} is sandbox"
            );
        }
    }
    let is_other =
        |namespace: &&Namespace| namespace.kind != NamespaceKind::Network && namespace.path.is_some();
    match planned.plan.namespaces.iter().find(is_other) {
        Some(other) => bail!(
            "the network namespace is that of pod {id:?}, but the path of another in linux.namespaces is not: {}",
            other.path.as_deref().unwrap_or_default()
        ),
        None => Ok(()),
    }
}

/// The process that a path `/proc/PID/ns/KIND` names.
fn named_process(path: &str) -> Option<u32> {
    path.strip_prefix("/proc/")?.split_once("/ns/")?.0.parse().ok()
}

/// The network namespace that config.json names, or has its hooks prepare: they find it at `/proc/PID/ns/net` of the process that
/// they are told. With the field that says so.
fn planned_network(planned: &Planned) -> Option<(Source, String)> {
    let is_network = |namespace: &Namespace| namespace.kind == NamespaceKind::Network;
    let index = planned.plan.namespaces.iter().position(is_network)?;
    let source = match &planned.plan.namespaces[index].path {
        Some(path) => Source::Namespace(PathBuf::from(path)),
        None if !planned.hooks.create_runtime.is_empty() => Source::Hooks,
        None => return None,
    };
    Some((source, format!("config.json: linux.namespaces[{index}].path")))
}
