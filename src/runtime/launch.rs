//! The caller's side of a launch: claim the ID, start the process that is to be the container's on the host, have it
//! make the container, and follow it as far as the caller wants.
//!
//! That process is a VMM process with a pod of its own ([`super::pod`]), or, for what joins a pod, a stand-in
//! ([`super::stand_in`]). Both are told and both report alike ([`super::channel`]).
//!
//! Before: `cli::run`, `cli::create`, `cli::exec`.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::time::SystemTime;

use anyhow::{Context, bail};
use crx_oci::Planned;
use crx_proto::{ExecPlan, Namespace, NamespaceKind, Network, Plan};

use super::attended::Attended;
use super::channel::{Command, MAX_DESCRIPTORS, NewContainer, NewPod, Report, Role, Status};
use super::following::{Following, Progress};
use super::host_process::{Event, HostProcess, Streams, hear_signals};
use super::state::{Container, Record, StateDir};
use super::template::{self, Store, Template};
use super::timeline::{self, Span, Track};
use super::{cgroup, exit, hooks, interfaces, log, network, pod, share, state, terminal};

/// How far a launch is followed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow {
    /// To the end; the process ends with the caller.
    ToEnd,
    /// Until it is started.
    UntilStarted,
    /// Until it waits to be started.
    UntilCreated,
}

/// What the callers of every launch may want.
pub(crate) struct Caller {
    /// How far they follow it.
    pub(crate) follow: Follow,
    /// File to write the process ID to.
    pub(crate) pid_file: Option<PathBuf>,
    /// What it has as its standard streams.
    pub(crate) streams: Streams,
}

impl Caller {
    /// Checks that there is a terminal for a process that has one, and nothing for one that has none.
    fn check_terminal(&self, terminal: bool) -> anyhow::Result<()> {
        let attached = self.follow == Follow::ToEnd;
        match (terminal, attached, &self.streams) {
            (true, false, Streams::Own) => {
                bail!(
                    "process.terminal: a detached container's terminal goes to a --console-socket; name one"
                )
            }
            (true, true, Streams::Console(_)) | (false, _, Streams::Console(_)) => {
                bail!("--console-socket: only for a detached container with process.terminal")
            }
            (true, true, Streams::Own) if !terminal::on_stdin() => {
                bail!(
                    "config.json: process.terminal: stdin is not a terminal; set it to false or run crx on one"
                )
            }
            _ => Ok(()),
        }
    }
}

/// A container to be launched.
pub(crate) struct Request {
    /// Its ID.
    pub(crate) id: String,
    /// Where the state of containers is kept.
    pub(crate) root: PathBuf,
    /// Its bundle.
    pub(crate) bundle: PathBuf,
    /// How its cgroups of the host are made.
    pub(crate) cgroups: cgroup::Manner,
    /// The bundle's configuration, for later commands.
    pub(crate) config_json: Vec<u8>,
    /// What it is.
    pub(crate) planned: Planned,
    /// The first container of the pod that it joins; none for a pod of its own.
    pub(crate) joins: Option<state::Container>,
    /// Where its pod's interfaces come from; none for loopback alone.
    pub(crate) network: Option<network::Source>,
    /// Where its pod's template is; none for a pod that boots.
    pub(crate) templates: Option<Store>,
    /// The pod, if it is one of its own; its state directory is filled in here.
    pub(crate) pod: NewPod,
    /// What its caller wants.
    pub(crate) caller: Caller,
    /// It stays when it has stopped, until it is deleted.
    pub(crate) keep: bool,
    /// Print the timeline at the end.
    pub(crate) timing: bool,
    /// What crx did so far.
    pub(crate) timeline: Track,
}

/// A container whose process has been told to make it.
struct Begun {
    state: StateDir,
    record: Record,
    process: HostProcess,
    timeline: Track,
    /// Why its pod boots although there could be a template.
    without_template: Option<String>,
}

/// Claims the ID of a container, starts its process and has it make the container.
fn begin(mut request: Request, events: Sender<Event>) -> anyhow::Result<Begun> {
    // Before there is anything to be undone: it may take as long as a boot.
    let template = match (&request.joins, &request.templates) {
        (None, Some(store)) => {
            let template = template::for_pod(store, &request.pod);
            request.timeline.reached("template looked for");
            template
        }
        _ => Ok(None),
    };
    let without_template = template.as_ref().err().map(|error| format!("{error:#}"));
    let template = template.unwrap_or_default();
    let state = StateDir::claim(&request.root, &request.id)?;
    let mut record = record(&request)?;
    state.write(&record)?;
    state.keep_config(&request.config_json)?;
    let resolv_conf = state::resolv_conf(&request.root, &record.pod);
    if let Some(resolver) = request.network.as_ref().and_then(network::Source::resolver) {
        resolver.write(&resolv_conf)?;
    }
    // Containers that join the pod have the same.
    if resolv_conf.is_file() {
        network::dns::mount(&mut request.planned, resolv_conf);
    }
    let mut timeline = request.timeline;
    timeline.reached("ID claimed");
    request.pod.state_dir = state.path().canonicalize().context("cannot find the state directory again")?;
    request.pod.detached = request.caller.follow != Follow::ToEnd;
    request.pod.console = matches!(request.caller.streams, Streams::Console(_));
    if !matches!(request.caller.streams, Streams::Given(_)) {
        hear_signals(events.clone())?;
    }
    // The signal handler is in place: a signal from here on finds the process that it has to end.
    let socket = request.joins.as_ref().map(state::Container::connect).transpose()?;
    request.pod.began_ns = timeline::monotonic_ns();
    let queue_pairs = pod::queue_pairs(request.pod.vcpus);
    let hooks_make_network = matches!(request.network, Some(network::Source::Hooks));
    let role = match &socket {
        Some(_) => Role::StandIn { console: request.pod.console, began_ns: request.pod.began_ns },
        None => Role::Pod(request.pod),
    };
    let streams = request.caller.streams;
    let process = HostProcess::start(&request.id, &role, Some(&state), streams, hooks_make_network, events)?;
    record.pid = Some(process.pid());
    let namespace = request.network.as_ref().map(|source| source.path(process.pid()));
    record.network = namespace.transpose().context("cannot find the current directory")?.flatten();
    state.write(&record)?;
    // Before it has a role it has no memory worth counting.
    cgroup::enter(&record.cgroups, process.pid(), request.cgroups)?;
    let descriptors = template.map_or_else(|| owned(socket), Template::into_descriptors);
    process.tell(&role, &descriptors)?;
    timeline.reached("process started");
    let planned = &mut request.planned;
    let creating = record.oci_state(Status::Creating);
    hooks::run("createRuntime", &planned.hooks.create_runtime, &with_pid(&creating, &record))?;
    hooks::run("createContainer", &planned.hooks.create_container, &with_pid(&creating, &record))?;
    if !planned.hooks.create_runtime.is_empty() || !planned.hooks.create_container.is_empty() {
        timeline.reached("hooks run");
    }
    if !planned.plan.start_hooks.is_empty() {
        planned.plan.state_json = record.oci_state(Status::Created).to_string();
    }
    let mut descriptors = share::detach(planned)?;
    let mut joints = Vec::new();
    // After the hooks: they may be what makes it.
    if let Some(source) = request.network {
        let joined = source.join(process.pid(), queue_pairs)?;
        timeline.reached("network joined");
        check_user_namespace(&planned.plan, &joined.network)?;
        let taps;
        (planned.plan.network, joints, taps) = joined.into_parts();
        descriptors.extend(taps);
    }
    if let Some(pod) = &request.joins {
        interfaces::rescan(pod);
    }
    if descriptors.len() > MAX_DESCRIPTORS {
        bail!(
            "{} bind mounts, queues of interfaces and published ports are too many: at most {MAX_DESCRIPTORS} together",
            descriptors.len()
        );
    }
    let create = NewContainer {
        plan: Box::new(planned.plan.clone()),
        start: request.caller.follow != Follow::UntilCreated,
        host_pid: process.pid(),
        joints,
    };
    process.tell(&Command::Create(create), &descriptors)?;
    drop(descriptors);
    timeline.reached("files handed over");
    record.made = true;
    Ok(Begun { state, record, process, timeline, without_template })
}

/// Launches a container, and follows it as far as its caller wants.
///
/// # Errors
/// It could not be run, or its pod died. Nothing is left behind.
pub(crate) fn container(request: Request) -> anyhow::Result<u8> {
    let terminal = request.planned.plan.process.terminal.is_some();
    request.caller.check_terminal(terminal)?;
    let Request { keep, timing, .. } = request;
    let what = format!("container {:?}", request.id);
    let (follow, pid_file) = (request.caller.follow, request.caller.pid_file.clone());
    let (events, received) = channel();
    let Begun { state, mut record, process, timeline, without_template } = begin(request, events)?;
    let on_created = |spans: &[Span]| {
        if follow == Follow::UntilCreated {
            timeline::begin_record(&state.timeline_path(), spans);
        }
        state.write(&record)?;
        write_pid_file(pid_file.as_deref(), record.pid)
    };
    let on_started = |spans: &[Span]| {
        timeline::begin_record(&state.timeline_path(), spans);
        tell_why_it_booted(without_template.as_deref());
        poststart(&record);
    };
    let mut following = Following {
        what,
        follow,
        process,
        terminal,
        timeline,
        on_created: &on_created,
        on_started: &on_started,
        progress: Progress::default(),
    };
    let result = following.follow(&received);
    let Following { mut process, mut timeline, .. } = following;
    if follow != Follow::ToEnd {
        if result.as_ref().is_ok_and(|code| *code == exit::SUCCESS) {
            record.stays = true;
            state.write(&record)?;
            process.release()?;
            state.leave();
        }
        return result;
    }
    process.end();
    if result.is_ok() && timing {
        timeline.reached("process gone");
        timeline::print(timeline.spans());
    }
    if keep && result.is_ok() {
        record.stays = true;
        state.write(&record)?;
        state.leave();
    } else {
        drop(state);
        poststop(&record);
    }
    result
}

/// Creates a container for a caller that stays with it: when the caller goes, the container ends.
///
/// # Errors
/// It could not be made. Nothing is left behind.
pub(crate) fn attended_container(request: Request) -> anyhow::Result<Attended> {
    let what = format!("container {:?}", request.id);
    let (events, received) = channel();
    let Begun { state, mut record, process, mut timeline, without_template } = begin(request, events)?;
    let attended = Attended::until(what, process, received, |report| matches!(report, Report::Created(_)))?;
    timeline.extend(attended.spans.clone());
    timeline.reached("container awaited");
    timeline::begin_record(&state.timeline_path(), timeline.spans());
    tell_why_it_booted(without_template.as_deref());
    record.stays = true;
    state.write(&record)?;
    state.leave();
    Ok(attended)
}

/// Now that the pod has booted: one that cannot boot either has told why.
fn tell_why_it_booted(without_template: Option<&str>) {
    if let Some(reason) = without_template {
        log::warning(&format!("the pod booted without a template: {reason}"));
    }
}

/// Starts a container that was created.
///
/// # Errors
/// It was not created, or its program cannot be executed.
pub(crate) fn start(container: &Container) -> anyhow::Result<()> {
    let mut timeline = Track::new("crx");
    match container.status() {
        Status::Created => {}
        Status::Stopped => bail!("cannot start a container that has stopped"),
        Status::Running => bail!("cannot start an already running container"),
        status => bail!("cannot start a container in the {status} state"),
    }
    timeline.reached("start checked");
    let id = &container.record.id;
    let Report::Started(spans) = container.ask(&Command::Start(id.clone()))? else {
        bail!("container {id:?}: the pod gave no answer")
    };
    timeline.reached("start awaited");
    timeline.extend(spans);
    timeline::add_to_record(&container.timeline_path(), timeline.spans());
    poststart(&container.record);
    Ok(())
}

/// Has a new process execute a plan in a container.
fn begin_executed(
    container: &Container,
    plan: ExecPlan,
    streams: Streams,
    events: Sender<Event>,
) -> anyhow::Result<HostProcess> {
    if container.status() == Status::Stopped {
        bail!("cannot exec in a stopped container");
    }
    if !matches!(streams, Streams::Given(_)) {
        hear_signals(events.clone())?;
    }
    let id = &container.record.id;
    let began_ns = timeline::monotonic_ns();
    let role = Role::StandIn { console: matches!(streams, Streams::Console(_)), began_ns };
    let pod = container.connect()?;
    let process = HostProcess::start(id, &role, None, streams, false, events)?;
    process.tell(&role, &owned(Some(pod)))?;
    process.tell(&Command::Exec { container: id.clone(), plan: Box::new(plan) }, &[])?;
    Ok(process)
}

/// Launches one more process in a container, and follows it as far as its caller wants.
///
/// # Errors
/// It could not be run, or its pod died.
pub(crate) fn executed(container: &Container, plan: ExecPlan, caller: Caller) -> anyhow::Result<u8> {
    let terminal = plan.process.terminal.is_some();
    caller.check_terminal(terminal)?;
    let Caller { follow, pid_file, streams } = caller;
    let (events, received) = channel();
    let process = begin_executed(container, plan, streams, events)?;
    let pid = process.pid();
    let on_created = |_: &[Span]| write_pid_file(pid_file.as_deref(), Some(pid));
    let mut following = Following {
        what: what_executes(container),
        follow,
        process,
        terminal,
        timeline: Track::new("crx"),
        on_created: &on_created,
        on_started: &|_| {},
        progress: Progress::default(),
    };
    let result = following.follow(&received);
    if result.is_ok() && follow != Follow::ToEnd {
        following.process.release()?;
    }
    result
}

/// Launches one more process in a container for a caller that stays with it: when the caller goes, the process ends.
///
/// # Errors
/// It could not be run.
pub(crate) fn attended_exec(
    container: &Container,
    plan: ExecPlan,
    streams: Streams,
) -> anyhow::Result<Attended> {
    let (events, received) = channel();
    let process = begin_executed(container, plan, streams, events)?;
    Attended::until(what_executes(container), process, received, |report| {
        matches!(report, Report::Started(_))
    })
}

fn what_executes(container: &Container) -> String {
    format!("exec in container {:?}", container.record.id)
}

/// Refuses a first container that would not see its pod's interfaces: what its user namespace does not own is no use to its root, so
/// it gets a network namespace of its own.
fn check_user_namespace(plan: &Plan, network: &Network) -> anyhow::Result<()> {
    let is_network = |namespace: &Namespace| namespace.kind == NamespaceKind::Network;
    match plan.namespaces.iter().position(is_network) {
        Some(index) if plan.user_mappings.is_some() && !network.interfaces.is_empty() => bail!(
            "config.json: linux.namespaces[{index}]: with a user namespace (linux.uidMappings) the pod's first container would not see \
             the pod's interfaces; leave either namespace out, or use --net none"
        ),
        _ => Ok(()),
    }
}

/// What the state directory says of a container that is being made.
fn record(request: &Request) -> anyhow::Result<Record> {
    let planned = &request.planned;
    let cgroups = match &planned.cgroups_path {
        Some(path) if !path.is_empty() => cgroup::directories(path, request.cgroups)?,
        _ => Vec::new(),
    };
    Ok(Record {
        id: request.id.clone(),
        pid: None,
        made: false,
        bundle: request.bundle.clone(),
        rootfs: planned.rootfs.clone(),
        created: humantime::format_rfc3339_nanos(SystemTime::now()).to_string(),
        annotations: planned.annotations.clone(),
        pod: request.joins.as_ref().map_or_else(|| request.id.clone(), |pod| pod.record.id.clone()),
        cgroups,
        network: None,
        stays: false,
        poststart: planned.hooks.poststart.clone(),
        poststop: planned.hooks.poststop.clone(),
    })
}

/// The state for hooks: the process is there although the container is not.
fn with_pid(state: &serde_json::Value, record: &Record) -> serde_json::Value {
    let mut state = state.clone();
    state["pid"] = record.pid.into();
    state
}

/// Runs the poststart hooks. As the specification has it, one that fails is only told.
pub(crate) fn poststart(record: &Record) {
    if let Err(error) = hooks::run("poststart", &record.poststart, &record.oci_state(Status::Running)) {
        log::warning(&format!("{error:#}"));
    }
}

/// Runs the poststop hooks, likewise.
pub(crate) fn poststop(record: &Record) {
    if let Err(error) = hooks::run("poststop", &record.poststop, &record.oci_state(Status::Stopped)) {
        log::warning(&format!("{error:#}"));
    }
}

fn write_pid_file(file: Option<&Path>, pid: Option<u32>) -> anyhow::Result<()> {
    match (file, pid) {
        (Some(file), Some(pid)) => state::write_atomically(file, pid.to_string().as_bytes()),
        _ => Ok(()),
    }
}

/// The socket of a pod, to be handed on.
fn owned(pod: Option<UnixStream>) -> Vec<OwnedFd> {
    pod.into_iter().map(OwnedFd::from).collect()
}
