//! A container's life in PID 1: it is started, its streams are relayed, signals and sizes passed on, until its
//! first process has ended, all its processes are gone and its output is with the host; then its exit is reported
//! and the host ends the pod. One poll(2) waits for everything, and an idle pod sleeps in it.

use std::os::fd::{AsFd, OwnedFd};

use crx_proto::{ExitStatus, GuestMessage, HostMessage, Plan, Stage, StartError};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::WaitStatus;

use crate::agent::{Host, Received};
use crate::container::{self, Container, Prepared, Streams, is_populated};
use crate::failure::failed;
use crate::mounts::{Pod, SHARE};
use crate::net;
use crate::reap::Reaper;
use crate::stdio::{self, Connections, Relay};
use crate::terminal::TerminalRelay;

/// Signal number of SIGKILL, with which the kernel ends a process for lack of memory.
const SIGKILL: u8 = libc::SIGKILL as u8;

/// The host's side of the container's streams.
enum Relays {
    Pipes(Vec<Relay>),
    Terminal(Box<TerminalRelay>),
}

/// How far the container's end has come.
enum Phase {
    Running,
    /// The first process has ended with this status; others may be left, which this file tells.
    Ending(WaitStatus, Option<OwnedFd>),
    /// The host knows; it will end the pod.
    Reported,
}

struct Session<'a> {
    host: &'a mut Host,
    container: Container,
    reaper: Reaper,
    relays: Relays,
    phase: Phase,
}

/// Runs the plan's container until the host wants the pod to end, or is gone.
pub(crate) fn run(host: &mut Host, mut pod: Pod, plan: &Plan) {
    match start(host, &mut pod, plan) {
        Ok((container, relays, reaper)) => {
            host.stage(Stage::Executed);
            host.send(&GuestMessage::Started { pid: container.pid });
            pod.compile_bpf();
            Session { host, container, reaper, relays, phase: Phase::Running }.run();
        }
        Err(error) => {
            host.send(&GuestMessage::StartFailed(error));
            wait_for_end(host);
        }
    }
}

/// Waits for the host's word, after a start that failed.
fn wait_for_end(host: &mut Host) {
    loop {
        let mut fds = [PollFd::new(&*host, PollFlags::IN)];
        let _ = poll(&mut fds, None);
        if matches!(host.try_receive(), Received::Message(HostMessage::PowerOff) | Received::Gone) {
            return;
        }
    }
}

/// Starts the container.
fn start(host: &mut Host, pod: &mut Pod, plan: &Plan) -> Result<(Container, Relays, Reaper), StartError> {
    // The connections are on their way while the share is mounted.
    let connections = Connections::begin(plan.process.terminal.is_some())?;
    net::prepare(plan)?;
    pod.mount_share()?;
    let mut sockets = connections.finish()?;
    host.stage(Stage::Shared);
    let prepared = Prepared::new(plan, pod)?;
    host.stage(Stage::Cgroup);
    let (container, relays) = if plan.process.terminal.is_some() {
        let (ours, theirs) = container::terminal_sockets()?;
        let container = prepared.start(pod, SHARE, Streams::Terminal(theirs))?;
        let fail = |error| failed("process.terminal", "receive the terminal", error);
        let master = container::receive_descriptor(ours.as_fd()).map_err(fail)?;
        stdio::set_nonblocking(master.as_fd()).map_err(fail)?;
        let socket = sockets.pop().ok_or_else(|| fail(rustix::io::Errno::BADF))?;
        (container, Relays::Terminal(Box::new(TerminalRelay::new(master, socket))))
    } else {
        let (streams, relays) = stdio::pipes(sockets)?;
        (prepared.start(pod, SHARE, streams)?, Relays::Pipes(relays))
    };
    host.stage_at(Stage::Cloned, container.cloned_ns);
    let reaper = Reaper::new().map_err(|error| failed("process", "listen for its end", error))?;
    Ok((container, relays, reaper))
}

impl Session<'_> {
    /// The loop.
    fn run(&mut self) {
        // What ended before the reaper listened sends no signal any more.
        self.reap();
        loop {
            self.try_report();
            let (host_ready, child_ended) = self.wait();
            if child_ended {
                self.reaper.acknowledge();
                self.reap();
            }
            if host_ready && self.obey() {
                return;
            }
        }
    }

    /// Sleeps until something happens, moves what the streams have, and says whether the host spoke and whether a
    /// child ended.
    fn wait(&mut self) -> (bool, bool) {
        let mut fds = Vec::with_capacity(6);
        fds.push(PollFd::new(&*self.host, PollFlags::IN));
        fds.push(PollFd::new(&self.reaper, PollFlags::IN));
        if let Phase::Ending(_, Some(events)) = &self.phase {
            fds.push(PollFd::new(events, PollFlags::PRI));
        }
        let first_stream = fds.len();
        match &self.relays {
            Relays::Pipes(relays) => {
                for (fd, flags) in relays.iter().filter_map(Relay::interest) {
                    fds.push(PollFd::from_borrowed_fd(fd, flags));
                }
            }
            Relays::Terminal(relay) => relay.interests(&mut fds),
        }
        if poll(&mut fds, None).is_err() {
            return (false, false);
        }
        let ready = |at: usize| !fds[at].revents().is_empty();
        let (host_ready, child_ended) = (ready(0), ready(1));
        let streams: Vec<bool> = (first_stream..fds.len()).map(ready).collect();
        drop(fds);
        match &mut self.relays {
            Relays::Pipes(relays) => {
                let open = relays.iter_mut().filter(|relay| !relay.is_finished());
                open.zip(streams).filter(|(_, ready)| *ready).for_each(|(relay, _)| relay.pump());
            }
            Relays::Terminal(relay) if streams.contains(&true) => relay.pump(),
            Relays::Terminal(_) => {}
        }
        (host_ready, child_ended)
    }

    /// Does what the host says. `true`: the pod is to end.
    fn obey(&mut self) -> bool {
        loop {
            match self.host.try_receive() {
                Received::Message(HostMessage::PowerOff) | Received::Gone => return true,
                Received::Message(HostMessage::Signal(signal)) if matches!(self.phase, Phase::Running) => {
                    self.container.signal(signal);
                }
                Received::Message(HostMessage::Resize { rows, columns }) => {
                    if let Relays::Terminal(relay) = &self.relays {
                        relay.resize(rows, columns);
                    }
                }
                Received::Message(HostMessage::SetClock { realtime_ns }) => self.host.set_clock(realtime_ns),
                Received::Message(HostMessage::Start(_)) => {
                    let text = "a second container was not started: this pod runs one".to_owned();
                    self.host.send(&GuestMessage::Log(text));
                }
                Received::Message(HostMessage::Signal(_)) => {}
                Received::Nothing => return false,
            }
        }
    }

    /// Reaps; if the container's first process is among the dead, its end begins.
    fn reap(&mut self) {
        let Some(status) = self.reaper.reap(self.container.pid) else { return };
        self.host.stage(Stage::Ended);
        let mut events = None;
        if !self.container.ends_with_first {
            // What is left of the container ends too; with a PID namespace the kernel has seen to it.
            events = self.container.cgroup.open_events().ok();
            let _ = self.container.cgroup.kill();
        }
        if let Relays::Pipes(relays) = &mut self.relays {
            relays.iter_mut().for_each(Relay::stop_reading);
        }
        self.phase = Phase::Ending(status, events);
    }

    /// Reports the end, once no process is left and every byte of output is with the host.
    fn try_report(&mut self) {
        let Phase::Ending(status, events) = &mut self.phase else { return };
        if let Some(file) = events {
            if is_populated(file) {
                return;
            }
            *events = None;
        }
        let drained = match &self.relays {
            Relays::Pipes(relays) => relays.iter().all(Relay::is_finished),
            Relays::Terminal(relay) => relay.is_finished(),
        };
        if !drained {
            return;
        }
        let status = exit_status(*status, || self.container.cgroup.ran_out_of_memory());
        sync_share();
        self.host.send(&GuestMessage::Exited(status));
        self.phase = Phase::Reported;
    }
}

/// Writes what is still in memory to the host: changes of mapped files. The pod may be off before the kernel would.
fn sync_share() {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let Ok(share) = openat(CWD, SHARE, flags, Mode::empty()) {
        let _ = rustix::fs::syncfs(&share);
    }
}

/// The status as the host gets it. Whether memory ran out is only asked when a SIGKILL may mean that.
fn exit_status(status: WaitStatus, ran_out_of_memory: impl FnOnce() -> bool) -> ExitStatus {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitStatus::Exited { code: code as u8 },
        (None, signal) => {
            let signal = signal.unwrap_or_default() as u8;
            ExitStatus::Signaled { signal, out_of_memory: signal == SIGKILL && ran_out_of_memory() }
        }
    }
}
