//! How a process comes: a container's first one, made at once up to its program or up to the gate before it, and
//! executed ones.

use std::os::fd::AsFd;

use crx_proto::{ExecPlan, GuestMessage, Plan, ProcessId, Stage, StartError, StreamPorts};

use crate::container::{self, Link, Made, Prepared, Said, Standby, Streams};
use crate::failure::{failed, refused};
use crate::net;
use crate::session::Session;
use crate::stdio::{self, Connections, Relays};
use crate::table::{Kind, Phase, Process};

impl Session<'_> {
    /// Makes a container.
    pub(crate) fn create(
        &mut self,
        id: ProcessId,
        owns_pod: bool,
        start: bool,
        plan: &Plan,
        ports: &StreamPorts,
    ) {
        self.host.stage_of(id, Stage::Planned);
        match self.make(id, owns_pod, start, plan, ports) {
            Ok(process) => {
                let running = matches!(process.phase, Phase::Running);
                let pid = process.pid;
                self.table.insert(id, process);
                if running {
                    self.host.queue(&GuestMessage::Created { process: id, pid });
                    self.tell(id, &GuestMessage::Started(id));
                }
            }
            Err(error) => self.not_made(id, error),
        }
    }

    /// Tells the host why a process was not made.
    fn not_made(&mut self, process: ProcessId, error: StartError) {
        self.pod.compile_bpf();
        self.host.send(&GuestMessage::StartFailed { process, error });
    }

    fn make(
        &mut self,
        id: ProcessId,
        owns_pod: bool,
        start: bool,
        plan: &Plan,
        ports: &StreamPorts,
    ) -> Result<Process, StartError> {
        self.refuse_known(id)?;
        // The connections are on their way meanwhile.
        let connections = Connections::begin(ports, self.connect)?;
        if owns_pod {
            net::set_names(plan)?;
        }
        self.pod.is_prepared()?;
        net::apply(&plan.network, &mut self.nics, &mut self.pod)?;
        let terminal = plan.process.terminal.is_some();
        let (streams, mut relays) = stdio::streams(terminal, connections.finish()?)?;
        self.host.stage_of(id, Stage::Shared);
        self.remove_left_over();
        if let Some(standby) = self.standby.take() {
            if owns_pod && standby.fits(plan) {
                return self.make_of(standby, id, start, plan, &streams, relays);
            }
            self.left_over.push(standby.dismiss());
        }
        let at_once = start && container::may_share_memory(plan, owns_pod);
        let link = if at_once && !terminal { None } else { Some(Link::pair()?) };
        let prepared = Prepared::new(plan, owns_pod, &mut self.pod)?;
        self.host.stage_of(id, Stage::Cgroup);
        let share = self.pod.share_of(id);
        let (made, link, phase) = match link {
            Some((ours, theirs)) if !at_once => {
                let (made, error) = prepared.fork(&share, &streams, (&ours, &theirs), !start)?;
                let phase = if start { Phase::Starting { created: false } } else { Phase::Making };
                (made, Some(ours), error.map_or(phase, Phase::Failing))
            }
            link => {
                let theirs = link.as_ref().map(|(_, theirs)| theirs);
                let (made, error) = prepared.start(&share, &streams, theirs)?;
                let terminal = link.map_or(Ok(()), |(ours, _)| take_terminal(&ours, &mut relays));
                (made, None, error.or(terminal.err()).map_or(Phase::Running, Phase::Failing))
            }
        };
        let Made { container, first, cloned_ns } = made;
        self.host.stage_at(Some(id), Stage::Cloned, cloned_ns);
        let process = Process::new(first, Kind::First(Box::new(container)), relays, link, phase);
        if matches!(process.phase, Phase::Failing(_)) {
            process.signal(libc::SIGKILL as u8);
        }
        Ok(process)
    }

    /// Makes the pod's first container of the process that waits for it.
    fn make_of(
        &mut self,
        standby: Standby,
        id: ProcessId,
        start: bool,
        plan: &Plan,
        streams: &Streams,
        relays: Relays,
    ) -> Result<Process, StartError> {
        let share = self.pod.share_of(id);
        let (made, link) = standby.become_first(plan, &share, streams, !start, &mut self.pod)?;
        let Made { container, first, cloned_ns } = made;
        self.host.stage_at(Some(id), Stage::Cloned, cloned_ns);
        let phase = if start { Phase::Starting { created: false } } else { Phase::Making };
        Ok(Process::new(first, Kind::First(Box::new(container)), relays, Some(link), phase))
    }

    /// Lets a container's first process go on to its program.
    pub(crate) fn start(&mut self, id: ProcessId) {
        if let Some(process) = self.table.get_mut(&id)
            && !process.open_gate()
        {
            let text = format!("process {} is not one that waits to be started: {:?}", id.0, process.phase);
            self.host.send(&GuestMessage::Log(text));
        }
    }

    /// Executes a process in a container.
    pub(crate) fn execute(
        &mut self,
        id: ProcessId,
        container: ProcessId,
        plan: &ExecPlan,
        ports: &StreamPorts,
    ) {
        match self.make_executed(id, container, plan, ports) {
            Ok(process) => {
                self.table.insert(id, process);
            }
            Err(error) => self.not_made(id, error),
        }
    }

    fn make_executed(
        &mut self,
        id: ProcessId,
        container: ProcessId,
        plan: &ExecPlan,
        ports: &StreamPorts,
    ) -> Result<Process, StartError> {
        self.refuse_known(id)?;
        let terminal = plan.process.terminal.is_some();
        let first = match self.table.get(&container) {
            Some(Process { phase: Phase::Making, .. }) => {
                return Err(refused("process", "the container is still being made"));
            }
            Some(Process { phase: Phase::Ended(_) | Phase::Failing(_), .. }) | None => {
                return Err(refused("process", "the container has ended"));
            }
            Some(process) => process,
        };
        let Kind::First(made) = &first.kind else {
            return Err(refused("process", format_args!("{} is not a container's first", container.0)));
        };
        if made.paused {
            return Err(refused("process", "the container is paused"));
        }
        let sockets = Connections::begin(ports, self.connect)?.finish()?;
        let (streams, relays) = stdio::streams(terminal, sockets)?;
        let (ours, theirs) = Link::pair()?;
        let lost_before = made.cgroup.lost_processes();
        let first = (first.pid, first.pidfd.as_fd());
        let child = container::execute(plan, made, first, &streams, &theirs, &mut self.pod)?;
        let phase = Phase::Starting { created: false };
        let mut process = Process::new(child, Kind::Executed(container), relays, Some(ours), phase);
        process.lost_before = lost_before;
        Ok(process)
    }

    /// Hears what a process on its way to its program says, and tells the host.
    pub(crate) fn listen(&mut self, id: ProcessId) {
        let Some(process) = self.table.get_mut(&id) else { return };
        for news in process.listen(id) {
            self.tell(id, &news);
        }
    }

    /// Tells the host something of a process that lives. One that has executed its program is watched from now on.
    fn tell(&mut self, id: ProcessId, news: &GuestMessage) {
        let started = matches!(news, GuestMessage::Started(_));
        if let Some(Process { kind: Kind::First(_), phase, .. }) = self.table.get(&id) {
            match (news, phase) {
                (GuestMessage::Created { .. }, Phase::Waiting) => self.host.stage_of(id, Stage::Made),
                (GuestMessage::Started(_), _) => self.host.stage_of(id, Stage::Executed),
                _ => {}
            }
        }
        self.host.send(news);
        if started {
            self.pod.compile_bpf();
            self.report_out_of_memory(id);
        }
    }

    fn refuse_known(&self, id: ProcessId) -> Result<(), StartError> {
        if self.table.contains_key(&id) {
            return Err(refused("process", format_args!("there is a process {} already", id.0)));
        }
        Ok(())
    }
}

/// Takes the terminal that the process has sent on its way.
fn take_terminal(link: &Link, relays: &mut Relays) -> Result<(), StartError> {
    let fail = |error| failed("process.terminal", "receive the terminal", error);
    match link.receive() {
        Said::Terminal(master) => relays.connect_terminal(master).map_err(fail),
        _ => Err(fail(rustix::io::Errno::BADF)),
    }
}
