//! The caller's side of a launch: claim the ID, start the process that is to be the container's on the host, have it
//! make the container, and follow it as far as the caller wants.
//!
//! That process is a VMM process with a pod of its own ([`super::pod`]), or, for what joins a pod, a stand-in
//! ([`super::stand_in`]). Both are told and both report alike ([`super::channel`]).
//!
//! Before: `cli::run`, `cli::create`, `cli::exec`.

use std::io::{self, IsTerminal};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use crx_oci::Planned;
use crx_proto::{ExecPlan, ExitStatus, FrameError, Namespace, NamespaceKind, Network, Plan};
use signal_hook::consts::signal;

use super::channel::{Command, Failure, MAX_DESCRIPTORS, NewContainer, NewPod, Report, Role, Status};
use super::host_process::{Event, FORWARDED, HostProcess, hear_signals};
use super::state::{Record, StateDir};
use super::template::{self, Store, Template};
use super::terminal::{self, RawTerminal};
use super::timeline::{self, Span, Track};
use super::{cgroup, exit, hooks, interfaces, log, network, pod, share, state};

/// How long a launch may be silent on a terminal.
const PATIENCE: Duration = Duration::from_secs(2);

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
    /// Socket to send the terminal to.
    pub(crate) console_socket: Option<PathBuf>,
}

impl Caller {
    /// Checks that there is a terminal for a process that has one, and nothing for one that has none.
    fn check_terminal(&self, terminal: bool) -> anyhow::Result<()> {
        let attached = self.follow == Follow::ToEnd;
        match (terminal, attached, &self.console_socket) {
            (true, false, None) => {
                bail!(
                    "process.terminal: a detached container's terminal goes to a --console-socket; name one"
                )
            }
            (true, true, Some(_)) | (false, _, Some(_)) => {
                bail!("--console-socket: only for a detached container with process.terminal")
            }
            (true, true, None) if !terminal::on_stdin() => {
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

/// Launches a container, and follows it as far as its caller wants.
///
/// # Errors
/// It could not be run, or its pod died. Nothing is left behind.
pub(crate) fn container(mut request: Request) -> anyhow::Result<u8> {
    let terminal = request.planned.plan.process.terminal.is_some();
    request.caller.check_terminal(terminal)?;
    let attached = request.caller.follow == Follow::ToEnd;
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
    request.pod.detached = !attached;
    request.pod.console = request.caller.console_socket.is_some();
    let (events, received) = channel();
    hear_signals(events.clone())?;
    // The signal handler is in place: a signal from here on finds the process that it has to end.
    let socket = request.joins.as_ref().map(state::Container::connect).transpose()?;
    request.pod.began_ns = timeline::monotonic_ns();
    let queue_pairs = pod::queue_pairs(request.pod.vcpus);
    let hooks_make_network = matches!(request.network, Some(network::Source::Hooks));
    let role = match &socket {
        Some(_) => Role::StandIn { console: request.pod.console, began_ns: request.pod.began_ns },
        None => Role::Pod(request.pod),
    };
    let process = HostProcess::start(
        &request.id,
        &role,
        Some(&state),
        &request.caller.console_socket,
        hooks_make_network,
        events,
    )?;
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
    let follow = request.caller.follow;
    let on_created = |spans: &[Span]| {
        if follow == Follow::UntilCreated {
            timeline::begin_record(&state.timeline_path(), spans);
        }
        state.write(&record)?;
        write_pid_file(&request.caller, record.pid)
    };
    let on_started = |spans: &[Span]| {
        timeline::begin_record(&state.timeline_path(), spans);
        // Now that it has booted: one that cannot boot either has told why.
        if let Some(reason) = &without_template {
            log::warning(&format!("the pod booted without a template: {reason}"));
        }
        poststart(&record);
    };
    let mut following = Following {
        what: format!("container {:?}", request.id),
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
    if !attached {
        if result.as_ref().is_ok_and(|code| *code == exit::SUCCESS) {
            record.stays = true;
            state.write(&record)?;
            process.release()?;
            state.leave();
        }
        return result;
    }
    process.end();
    if result.is_ok() && request.timing {
        timeline.reached("process gone");
        timeline::print(timeline.spans());
    }
    if request.keep && result.is_ok() {
        record.stays = true;
        state.write(&record)?;
        state.leave();
    } else {
        drop(state);
        poststop(&record);
    }
    result
}

/// Launches one more process in a container, and follows it as far as its caller wants.
///
/// # Errors
/// It could not be run, or its pod died.
pub(crate) fn executed(container: &state::Container, plan: ExecPlan, caller: &Caller) -> anyhow::Result<u8> {
    let terminal = plan.process.terminal.is_some();
    caller.check_terminal(terminal)?;
    if container.status() == Status::Stopped {
        bail!("cannot exec in a stopped container");
    }
    let (events, received) = channel();
    hear_signals(events.clone())?;
    let id = &container.record.id;
    let began_ns = timeline::monotonic_ns();
    let role = Role::StandIn { console: caller.console_socket.is_some(), began_ns };
    let pod = container.connect()?;
    let process = HostProcess::start(id, &role, None, &caller.console_socket, false, events)?;
    process.tell(&role, &owned(Some(pod)))?;
    let pid = process.pid();
    process.tell(&Command::Exec { container: id.clone(), plan: Box::new(plan) }, &[])?;
    let on_created = |_: &[Span]| write_pid_file(caller, Some(pid));
    let mut following = Following {
        what: format!("exec in container {id:?}"),
        follow: caller.follow,
        process,
        terminal,
        timeline: Track::new("crx"),
        on_created: &on_created,
        on_started: &|_| {},
        progress: Progress::default(),
    };
    let result = following.follow(&received);
    if result.is_ok() && caller.follow != Follow::ToEnd {
        following.process.release()?;
    }
    result
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

fn write_pid_file(caller: &Caller, pid: Option<u32>) -> anyhow::Result<()> {
    match (&caller.pid_file, pid) {
        (Some(file), Some(pid)) => state::write_atomically(file, pid.to_string().as_bytes()),
        _ => Ok(()),
    }
}

/// The socket of a pod, to be handed on.
fn owned(pod: Option<UnixStream>) -> Vec<OwnedFd> {
    pod.into_iter().map(OwnedFd::from).collect()
}

/// A launch under way, as its caller sees it.
struct Following<'a> {
    /// What is launched, for messages.
    what: String,
    follow: Follow,
    process: HostProcess,
    /// It has a terminal.
    terminal: bool,
    /// What everybody did so far.
    timeline: Track,
    /// What is to be done once the process is there.
    on_created: &'a dyn Fn(&[Span]) -> anyhow::Result<()>,
    /// And once it has executed its program.
    on_started: &'a dyn Fn(&[Span]),
    progress: Progress,
}

/// How far it has come.
#[derive(Default)]
struct Progress {
    started: bool,
    ended: Option<ExitStatus>,
    /// The caller's terminal, while the process has it.
    raw: Option<RawTerminal>,
    told_to_wait: bool,
}

impl Following<'_> {
    /// Follows the reports to the exit code; then the terminal is the caller's again.
    fn follow(&mut self, events: &Receiver<Event>) -> anyhow::Result<u8> {
        let result = self.follow_reports(events);
        drop(self.progress.raw.take());
        result
    }

    fn follow_reports(&mut self, events: &Receiver<Event>) -> anyhow::Result<u8> {
        loop {
            let event = match events.recv_timeout(PATIENCE) {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) => {
                    self.show_waiting(true);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => bail!("the VMM process cannot be heard"),
            };
            let code = match event {
                Event::Signal(signal) => self.signal(signal),
                Event::Report(report) => self.hear(report)?,
                Event::Gone(error) => Some(self.gone(&error)?),
            };
            if let Some(code) = code {
                self.show_waiting(false);
                return Ok(code);
            }
        }
    }

    fn hear(&mut self, report: Report) -> anyhow::Result<Option<u8>> {
        match report {
            Report::Created(spans) => {
                self.timeline.extend(spans);
                if self.follow == Follow::UntilCreated {
                    self.timeline.reached("container awaited");
                }
                (self.on_created)(self.timeline.spans())?;
                return Ok((self.follow == Follow::UntilCreated).then_some(exit::SUCCESS));
            }
            Report::Started(spans) => {
                self.show_waiting(false);
                self.timeline.extend(spans);
                self.timeline.reached("container awaited");
                self.progress.started = true;
                (self.on_started)(self.timeline.spans());
                if self.follow == Follow::UntilStarted {
                    return Ok(Some(exit::SUCCESS));
                }
                if self.terminal {
                    // Not before: until the container can take them, Ctrl-C and the like are for crx.
                    self.progress.raw = Some(RawTerminal::new().context("cannot use the terminal")?);
                }
            }
            Report::Warning(text) => self.warn(&text),
            Report::Ended(status) => {
                self.timeline.reached("container ended");
                self.progress.ended = Some(status);
            }
            Report::Drained(spans) => {
                self.timeline.extend(spans);
                let Some(status) = self.progress.ended else {
                    bail!("{}: no exit status was reported", self.what)
                };
                if let ExitStatus::Signaled { out_of_memory: true, .. } = status {
                    self.warn(
                        "out of memory: the kernel killed it; raise linux.resources.memory.limit or give the pod more with --memory",
                    );
                }
                return Ok(Some(status.code()));
            }
            Report::Failed(failure) => return self.failed(&failure).map(Some),
            Report::Template(_)
            | Report::Stream(_)
            | Report::OutOfMemory
            | Report::Status(_)
            | Report::Network(_)
            | Report::Answer(_) => {}
        }
        Ok(None)
    }

    fn failed(&mut self, failure: &Failure) -> anyhow::Result<u8> {
        self.show_waiting(false);
        for line in &failure.console {
            log::detail(line);
        }
        Err(exit::Coded { code: failure.exit_code, message: format!("{}: {}", self.what, failure.message) }
            .into())
    }

    /// Forwards a signal; before the process runs, and after it has ended, a signal ends the launch.
    fn signal(&self, signal: i32) -> Option<u8> {
        let number = u8::try_from(signal).unwrap_or(0);
        let command = match (signal, &self.progress.ended) {
            (signal::SIGWINCH, _) => {
                let (rows, columns) = terminal::size();
                Command::Resize { rows, columns }
            }
            (signal::SIGCONT, _) if !self.progress.started => return None,
            (_, Some(status)) => return Some(status.code()),
            (_, None) if !self.progress.started => return Some(exit::of_signal(number)),
            _ => Command::Signal(number),
        };
        // A process that is gone is told by its socket's end.
        let _ = self.process.tell(&command, &[]);
        None
    }

    /// The process went without a last report. A signal that ends a launch may have reached it before it could ignore
    /// that: a terminal's go to both.
    fn gone(&mut self, error: &FrameError) -> anyhow::Result<u8> {
        self.show_waiting(false);
        let what = &self.what;
        match self.process.wait() {
            Some(status) => match status.signal() {
                Some(signal) if !self.progress.started && FORWARDED.contains(&signal) => {
                    Ok(exit::of_signal(u8::try_from(signal).unwrap_or(0)))
                }
                _ => bail!("{what}: its VMM process ended without a report: {status}"),
            },
            _ => bail!("{what}: its VMM process cannot be heard: {error}"),
        }
    }

    fn warn(&mut self, text: &str) {
        self.show_waiting(false);
        log::warning(&format!("{}: {text}", self.what));
    }

    /// On a terminal, says once that a launch takes its time, and takes that back afterwards.
    fn show_waiting(&mut self, waiting: bool) {
        if self.progress.started
            || self.terminal
            || !io::stderr().is_terminal()
            || waiting == self.progress.told_to_wait
        {
            return;
        }
        self.progress.told_to_wait = waiting;
        if waiting {
            eprint!("crx: the pod is booting ...");
        } else {
            eprint!("\r\x1b[K");
        }
    }
}
