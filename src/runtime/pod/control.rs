//! The pod's life: one loop over everything that happens, from the first client's word to the end of the pod's first
//! container. What clients want is checked here and handed to PID 1; what PID 1 says goes to whom it concerns.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

use anyhow::{Context, bail};
use crx_proto::{
    Answer, CONTROL_PORT, ExecPlan, ExitStatus, FrameError, GuestMessage, HostMessage, ProcessId, Question,
    StartError, StreamPorts, frame,
};
use crx_vmm::End;
use rustix::rand::{GetRandomFlags, getrandom};

use super::hear::{self, ClientId, Event, Events, LAUNCHER};
use super::namespaces;
use super::nics::Nics;
use super::processes::{Container, FIRST, Kind, Phase, Process, Processes};
use super::questions::{Asked, Questions};
use super::timelines::Timelines;
use crate::runtime::channel::{self, Command, Failure, NewContainer, Report, Status, Stream};
use crate::runtime::share::Share;
use crate::runtime::timeline::Track;
use crate::runtime::{exit, log, relay, terminal};

/// A pod whose VM runs.
pub(super) struct Pod {
    share: Share,
    nics: Nics,
    events: Events,
    clients: BTreeMap<ClientId, UnixStream>,
    /// The launcher let the pod go, or has not yet.
    released: Arc<AtomicBool>,
    /// This process's terminal is the first container's console.
    console: bool,
    control: Option<UnixStream>,
    /// What PID 1 is told as soon as it is there; `None` once it is.
    early: Option<Vec<HostMessage>>,
    processes: Processes,
    /// Ports that PID 1 was told to connect to, and what for.
    expected: BTreeMap<u32, (ProcessId, Stream)>,
    /// Processes that have ended before all of their streams came, on another thread.
    ended_early: BTreeMap<ProcessId, ExitStatus>,
    questions: Questions,
    timelines: Timelines,
}

impl Pod {
    pub(super) fn new(
        share: Share,
        nics: Nics,
        launcher: UnixStream,
        released: Arc<AtomicBool>,
        console: bool,
        timeline: Track,
        events: Events,
    ) -> Self {
        Self {
            share,
            nics,
            events,
            clients: BTreeMap::from([(LAUNCHER, launcher)]),
            released,
            console,
            control: None,
            early: Some(Vec::new()),
            processes: Processes::default(),
            expected: BTreeMap::new(),
            ended_early: BTreeMap::new(),
            questions: Questions::default(),
            timelines: Timelines::new(timeline),
        }
    }

    /// Runs until the first container's output is written, or the pod failed. The result is the exit code.
    pub(super) fn run(mut self, events: &Receiver<Event>) -> anyhow::Result<u8> {
        loop {
            let event = events.recv().context("every thread of the pod ended")?;
            let code = match self.handle(event) {
                Ok(None) => self.finished(),
                Ok(code) => code,
                Err(error) => Some(self.fail(&failure(format!("{error:#}")))),
            };
            if let Some(code) = code {
                return Ok(code);
            }
        }
    }

    /// The exit code, once the first container has ended and its output is written.
    fn finished(&mut self) -> Option<u8> {
        let Process { phase: Phase::Ended(status), outputs: 0, .. } = *self.processes.get(FIRST)? else {
            return None;
        };
        let mut timeline = Track::new("vmm");
        timeline.reached("output drained");
        self.timelines.add(FIRST, timeline);
        // The pod goes, and what else runs in it.
        let others: Vec<ClientId> = self.alive().map(|process| process.owner).collect();
        let killed = ExitStatus::Signaled { signal: libc::SIGKILL as u8, out_of_memory: false };
        for owner in others {
            self.report(owner, &Report::Ended(killed), &[]);
        }
        let report = Report::Drained(self.timelines.take(FIRST));
        self.report(LAUNCHER, &report, &[]);
        Some(status.code())
    }

    /// Processes that have not ended.
    fn alive(&self) -> impl Iterator<Item = &Process> {
        self.processes
            .iter()
            .map(|(_, process)| process)
            .filter(|process| !matches!(process.phase, Phase::Ended(_)))
    }

    /// The pod is lost: tells everybody, and gives the exit code.
    fn fail(&mut self, failure: &Failure) -> u8 {
        if self.released.load(Ordering::SeqCst) {
            // Nobody listens any more but whoever reads the container's stderr.
            failure.console.iter().for_each(|line| log::detail(line));
            log::error(&failure.message);
        }
        let clients: Vec<ClientId> = self.clients.keys().copied().collect();
        for client in clients {
            self.report(client, &Report::Failed(failure.clone()), &[]);
        }
        failure.exit_code
    }

    /// Handles an event. A result is the exit code of a pod that is over.
    fn handle(&mut self, event: Event) -> anyhow::Result<Option<u8>> {
        match event {
            Event::Connected(port, stream) => self.connected(port, stream)?,
            Event::Guest(message) => return self.hear(message),
            Event::GuestLost(error) => {
                // The VM's own end tells more, and follows if that is why the connection broke.
                if !matches!(error, FrameError::Closed | FrameError::Io(_)) {
                    bail!("PID 1 of the pod broke the protocol: {error}");
                }
            }
            Event::NewClient(id, client) => drop(self.clients.insert(id, client)),
            Event::Command(client, command, descriptors) => {
                if let Err(error) = self.obey(client, *command, descriptors) {
                    self.report(client, &Report::Failed(failure(format!("{error:#}"))), &[]);
                }
            }
            Event::ClientGone(client) => self.forget(client),
            Event::Relayed(process) => {
                if let Some(process) = self.processes.get_mut(process) {
                    process.outputs = process.outputs.saturating_sub(1);
                }
            }
            Event::Resized => self.tell_size(),
            Event::VmEnded(end) => {
                let console = match &end {
                    End::Panic { log } => log.lines().map(str::to_owned).collect(),
                    _ => Vec::new(),
                };
                let message = format!("the pod ended: {end}");
                return Ok(Some(self.fail(&Failure { exit_code: exit::FAILURE, message, console })));
            }
        }
        Ok(None)
    }

    /// Takes a connection of the guest: the control connection, or a stream that is waited for. Whatever else opens one
    /// is a process of a container, and is hung up on.
    fn connected(&mut self, port: u32, stream: UnixStream) -> anyhow::Result<()> {
        if port == CONTROL_PORT && self.control.is_none() {
            hear::guest(stream.try_clone()?, &self.events)?;
            self.control = Some(stream);
        } else if let Some((process, kind)) = self.expected.remove(&port) {
            match self.processes.get(process).map(|process| process.owner) {
                Some(LAUNCHER) => self.relay(process, kind, stream)?,
                Some(owner) => self.report(owner, &Report::Stream(kind), &[stream.into()]),
                None => {}
            }
            if !self.is_expected(process)
                && let Some(status) = self.ended_early.remove(&process)
            {
                self.exited(process, status);
            }
        }
        Ok(())
    }

    /// Streams of the process have not come yet.
    fn is_expected(&self, process: ProcessId) -> bool {
        self.expected.values().any(|(of, _)| *of == process)
    }

    /// Relays a stream of the first container to this process's own.
    fn relay(&self, process: ProcessId, kind: Stream, stream: UnixStream) -> io::Result<()> {
        let events = self.events.clone();
        relay::standard(kind, stream, move || {
            events.send(Event::Relayed(process));
        })
    }

    /// Does what a client wants, or says why not.
    fn obey(&mut self, client: ClientId, command: Command, descriptors: Vec<OwnedFd>) -> anyhow::Result<()> {
        match command {
            Command::Create(new) => return self.create(client, new, descriptors),
            Command::Exec { container, plan } => return self.exec(client, &container, plan),
            // Noticed where the launcher is heard.
            Command::Release => {}
            Command::Start(id) => {
                let number = self.find(&id)?;
                let status = self.status(number);
                if status != Status::Created {
                    bail!("cannot start a container that is {status}");
                }
                let Some(container) = self.processes.container_mut(number) else { bail!("not a container") };
                if !container.starters.is_empty() {
                    bail!("cannot start a container that is being started");
                }
                container.starters.push(client);
                self.timelines.told(number);
                self.tell(HostMessage::Start(number));
            }
            Command::Signal(signal) => {
                if let Some(process) = self.own(client) {
                    self.tell(HostMessage::Signal { process, signal, everybody: false });
                }
            }
            Command::Resize { rows, columns } => {
                if let Some(process) = self.own(client) {
                    self.tell(HostMessage::Resize { process, rows, columns });
                }
            }
            Command::Kill { container, signal, everybody } => {
                let process = self.find(&container)?;
                if matches!(self.status(process), Status::Creating | Status::Stopped) {
                    bail!("container not running");
                }
                self.tell(HostMessage::Signal { process, signal, everybody });
                self.report(client, &Report::Answer(Answer::Done), &[]);
            }
            Command::Status(id) => {
                let status = self.find(&id).map_or(Status::Creating, |number| self.status(number));
                self.report(client, &Report::Status(status), &[]);
            }
            Command::Pause(id) => {
                let container = self.find(&id)?;
                if !matches!(self.status(container), Status::Created | Status::Running) {
                    bail!("container not running or created: {}", self.status(container));
                }
                self.ask(client, container, Question::Pause, Some(true));
            }
            Command::Resume(id) => {
                let container = self.find(&id)?;
                if self.status(container) != Status::Paused {
                    bail!("container not paused");
                }
                self.ask(client, container, Question::Resume, Some(false));
            }
            Command::Update { container, limits } => {
                let container = self.find_alive(&container)?;
                self.ask(client, container, Question::Update(limits), None);
            }
            Command::Usage(id) => {
                let container = self.find_alive(&id)?;
                self.ask(client, container, Question::Usage, None);
            }
            Command::Processes(id) => {
                let container = self.find_alive(&id)?;
                self.ask(client, container, Question::Processes, None);
            }
            Command::Network => self.report(client, &Report::Network(self.nics.network()), &[]),
            Command::AddInterfaces { mut network, joints } => {
                let plugged = self.nics.plug(&mut network, &joints, descriptors)?;
                let asked = Asked { client, container: FIRST, paused: None, plugged };
                self.ask_with(asked, Question::AddInterfaces(network));
            }
            Command::Watch(id) => {
                let number = self.find_alive(&id)?;
                if let Some(container) = self.processes.container_mut(number) {
                    container.watchers.push(client);
                }
                self.report(client, &Report::Answer(Answer::Done), &[]);
            }
        }
        Ok(())
    }

    fn create(&mut self, client: ClientId, new: NewContainer, mut trees: Vec<OwnedFd>) -> anyhow::Result<()> {
        let mut timeline = Track::new("vmm");
        let NewContainer { mut plan, start, host_pid, joints } = new;
        if self.processes.number_of(&plan.id).is_some() {
            bail!("the pod has a container of this ID");
        }
        let number = self.processes.next();
        if number != FIRST {
            namespaces::translate(&mut plan.namespaces, &self.processes)?;
        } else {
            namespaces::own_network(&mut plan.namespaces);
        }
        let rest = trees.split_off(trees.len().min(1 + plan.volumes.len()));
        self.share.add(number, &plan, &trees)?;
        self.nics.plug(&mut plan.network, &joints, rest)?;
        let container = Container {
            id: plan.id.clone(),
            host_pid,
            volumes: plan.volumes.len(),
            paused: false,
            watchers: Vec::new(),
            starters: Vec::new(),
        };
        let terminal = plan.process.terminal.is_some();
        let process = self.add(client, Kind::Container(container), terminal);
        let streams = self.expect(process, terminal)?;
        let owns_pod = process == FIRST;
        timeline.reached("files shared");
        self.timelines.add(process, timeline);
        if self.early.is_none() {
            self.timelines.told(process);
        }
        self.tell(HostMessage::Create { process, owns_pod, start, plan, streams });
        Ok(())
    }

    fn exec(&mut self, client: ClientId, container: &str, plan: Box<ExecPlan>) -> anyhow::Result<()> {
        let container = self.find(container)?;
        let status = self.status(container);
        if !matches!(status, Status::Created | Status::Running) {
            bail!("cannot exec in a {status} container");
        }
        let terminal = plan.process.terminal.is_some();
        let process = self.add(client, Kind::Executed, terminal);
        let streams = self.expect(process, terminal)?;
        self.tell(HostMessage::Exec { process, container, plan, streams });
        Ok(())
    }

    fn add(&mut self, owner: ClientId, kind: Kind, terminal: bool) -> ProcessId {
        let outputs = match (owner, terminal) {
            (LAUNCHER, true) => 1,
            (LAUNCHER, false) => 2,
            _ => 0,
        };
        self.processes.add(Process { kind, owner, phase: Phase::Creating, guest_pid: None, outputs })
    }

    /// Chooses ports for the streams of a process, which PID 1 will connect to.
    fn expect(&mut self, process: ProcessId, terminal: bool) -> anyhow::Result<StreamPorts> {
        let mut port = |stream| -> anyhow::Result<u32> {
            loop {
                let mut bytes = [0; 4];
                getrandom(&mut bytes, GetRandomFlags::empty()).context("no random numbers")?;
                let port = u32::from_le_bytes(bytes);
                // VMADDR_PORT_ANY is no port; the small ones are for services.
                if port > CONTROL_PORT && port < u32::MAX && !self.expected.contains_key(&port) {
                    self.expected.insert(port, (process, stream));
                    return Ok(port);
                }
            }
        };
        Ok(if terminal {
            StreamPorts::Terminal(port(Stream::Terminal)?)
        } else {
            StreamPorts::Pipes {
                stdin: port(Stream::Stdin)?,
                stdout: port(Stream::Stdout)?,
                stderr: port(Stream::Stderr)?,
            }
        })
    }

    /// The container of this ID.
    fn find(&self, id: &str) -> anyhow::Result<ProcessId> {
        self.processes.number_of(id).with_context(|| format!("the pod has no container {id:?}"))
    }

    /// The same, if it has not ended.
    fn find_alive(&self, id: &str) -> anyhow::Result<ProcessId> {
        let number = self.find(id)?;
        if self.status(number) == Status::Stopped {
            bail!("container not running");
        }
        Ok(number)
    }

    fn status(&self, number: ProcessId) -> Status {
        self.processes.get(number).map_or(Status::Stopped, Process::status)
    }

    /// The process that a client owns.
    fn own(&self, client: ClientId) -> Option<ProcessId> {
        self.processes.iter().find(|(_, process)| process.owner == client).map(|(number, _)| number)
    }

    fn ask(&mut self, client: ClientId, container: ProcessId, question: Question, paused: Option<bool>) {
        self.ask_with(Asked { client, container, paused, plugged: Vec::new() }, question);
    }

    fn ask_with(&mut self, asked: Asked, question: Question) {
        let container = asked.container;
        let number = self.questions.add(asked);
        self.tell(HostMessage::Ask { number, container, question });
    }

    /// A client is gone: what it owned ends.
    fn forget(&mut self, client: ClientId) {
        self.clients.remove(&client);
        self.questions.forget(client);
        let owned: Vec<ProcessId> = self
            .processes
            .iter()
            .filter(|(_, process)| process.owner == client && !matches!(process.phase, Phase::Ended(_)))
            .map(|(number, _)| number)
            .collect();
        for process in owned {
            self.tell(HostMessage::Signal { process, signal: libc::SIGKILL as u8, everybody: true });
        }
    }

    /// Hears PID 1. A result is the exit code of a pod that is over.
    fn hear(&mut self, message: GuestMessage) -> anyhow::Result<Option<u8>> {
        match message {
            GuestMessage::Hello { version } => self.greet(version)?,
            GuestMessage::Stage { process, stage, monotonic_ns } => {
                self.timelines.reached(process, stage, monotonic_ns);
            }
            GuestMessage::Created { process, pid } => {
                if let Some(known) = self.processes.get_mut(process) {
                    (known.phase, known.guest_pid) = (Phase::Created, Some(pid));
                    let owner = known.owner;
                    if process == FIRST && self.console {
                        // A size that was set before the process had its terminal went past it.
                        self.tell_size();
                    }
                    let report = Report::Created(self.timelines.take(process));
                    self.report(owner, &report, &[]);
                }
            }
            GuestMessage::Started(process) => {
                if let Some(known) = self.processes.get_mut(process) {
                    known.phase = Phase::Running;
                    if process == FIRST {
                        crx_vmm::allow_huge_pages(true);
                    }
                    let report = Report::Started(self.timelines.take(process));
                    self.report_start(process, &report);
                }
            }
            GuestMessage::StartFailed { process, error } => return Ok(self.not_started(process, error)),
            GuestMessage::Exited { process, status } if self.is_expected(process) => {
                self.ended_early.insert(process, status);
            }
            GuestMessage::Exited { process, status } => self.exited(process, status),
            GuestMessage::OutOfMemory(process) => {
                let owner = self.processes.get(process).map(|process| process.owner);
                let watchers =
                    self.processes.container_mut(process).map(|container| container.watchers.clone());
                for client in owner.into_iter().chain(watchers.unwrap_or_default()) {
                    self.report(client, &Report::OutOfMemory, &[]);
                }
            }
            GuestMessage::Answer { number, answer } => self.answered(number, answer),
            GuestMessage::Log(text) if self.released.load(Ordering::SeqCst) => {
                log::warning(&text);
            }
            GuestMessage::Log(text) => self.report(LAUNCHER, &Report::Warning(text), &[]),
        }
        Ok(None)
    }

    /// PID 1 is there: tells it everything that it missed.
    fn greet(&mut self, version: u32) -> anyhow::Result<()> {
        let mut timeline = Track::new("vmm");
        if version != crx_proto::VERSION {
            bail!("the initramfs speaks version {version} of the protocol, not {}", crx_proto::VERSION);
        }
        let Some(early) = self.early.take() else { bail!("PID 1 of the pod said hello twice") };
        early.into_iter().for_each(|message| self.tell(message));
        timeline.reached("guest greeted");
        self.timelines.add(FIRST, timeline);
        Ok(())
    }

    /// Tells PID 1 the size of the first container's console.
    fn tell_size(&mut self) {
        let (rows, columns) = terminal::size();
        if (rows, columns) != (0, 0) {
            self.tell(HostMessage::Resize { process: FIRST, rows, columns });
        }
    }

    /// Tells a process's owner, and whoever started it, how that went.
    fn report_start(&mut self, process: ProcessId, report: &Report) {
        let owner = self.processes.get(process).map(|process| process.owner);
        let starters =
            self.processes.container_mut(process).map(|container| std::mem::take(&mut container.starters));
        for client in owner.into_iter().chain(starters.unwrap_or_default()) {
            self.report(client, report, &[]);
        }
    }

    /// A process could not be started; a pod whose first one that was is over.
    fn not_started(&mut self, process: ProcessId, error: StartError) -> Option<u8> {
        let failure = Failure { exit_code: error.exit_code, message: error.message, console: Vec::new() };
        self.report_start(process, &Report::Failed(failure));
        if process == FIRST {
            return Some(error.exit_code);
        }
        self.remove(process);
        None
    }

    fn exited(&mut self, process: ProcessId, status: ExitStatus) {
        let Some(known) = self.processes.get_mut(process) else { return };
        known.phase = Phase::Ended(status);
        let owner = known.owner;
        let watchers =
            self.processes.container_mut(process).map(|container| std::mem::take(&mut container.watchers));
        for client in [owner].into_iter().chain(watchers.unwrap_or_default()) {
            self.report(client, &Report::Ended(status), &[]);
        }
        let starters =
            self.processes.container_mut(process).map(|container| std::mem::take(&mut container.starters));
        for client in starters.unwrap_or_default() {
            self.report(client, &Report::Failed(failure("the container has ended".to_owned())), &[]);
        }
        if process != FIRST {
            self.remove(process);
        }
    }

    /// Forgets a process, and takes a container's files out of the share.
    fn remove(&mut self, process: ProcessId) {
        self.expected.retain(|_, (of, _)| *of != process);
        self.timelines.remove(process);
        if let Some(Process { kind: Kind::Container(container), .. }) = self.processes.remove(process) {
            self.share.remove(process, container.volumes);
        }
    }

    fn answered(&mut self, number: u32, answer: Result<Answer, String>) {
        let Some(Asked { client, container, paused, plugged }) = self.questions.take(number) else { return };
        if answer.is_err() {
            self.nics.unplug(&plugged);
        }
        if let (Ok(_), Some(paused), Some(container)) =
            (&answer, paused, self.processes.container_mut(container))
        {
            container.paused = paused;
        }
        let report = answer.map_or_else(|message| Report::Failed(failure(message)), Report::Answer);
        self.report(client, &report, &[]);
    }

    /// Sends PID 1 a message, now or as soon as it is there. A connection that broke is told by its reader.
    fn tell(&mut self, message: HostMessage) {
        match (&mut self.early, &self.control) {
            (Some(early), _) => early.push(message),
            (None, Some(control)) => {
                if frame::write(control, &message).is_err() {
                    let _ = control.shutdown(std::net::Shutdown::Both);
                }
            }
            (None, None) => {}
        }
    }

    /// Sends a client a report. One that is gone, or does not read, is told by its reader.
    fn report(&self, client: ClientId, report: &Report, descriptors: &[OwnedFd]) {
        if client == LAUNCHER && self.released.load(Ordering::SeqCst) {
            return;
        }
        if let Some(client) = self.clients.get(&client) {
            let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            if channel::send(client, report, &descriptors).is_err() {
                let _ = client.shutdown(std::net::Shutdown::Both);
            }
        }
    }
}

fn failure(message: String) -> Failure {
    Failure { exit_code: exit::FAILURE, message, console: Vec::new() }
}
