//! The processes that the host knows, by its numbers: what PID 1 holds of each, and how far its life has come.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use crx_proto::{GuestMessage, ProcessId, StartError};
use rustix::event::{PollFd, PollFlags};

use crate::container::{Container, Link, Said};
use crate::failure::refused;
use crate::stdio::Relays;
use crate::sys::{self, Child};

/// All of them.
pub(crate) type Table = BTreeMap<ProcessId, Process>;

/// One process.
pub(crate) struct Process {
    /// Its ID in the pod's own PID namespace.
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) kind: Kind,
    /// Processes that its container had lost for lack of memory when it came.
    pub(crate) lost_before: u64,
    pub(crate) relays: Relays,
    /// To the process, until it executes its program or ends.
    link: Option<Link>,
    pub(crate) phase: Phase,
}

/// What a process is to its container.
pub(crate) enum Kind {
    /// The first, which stands for the container.
    First(Box<Container>),
    /// One executed later in the container of this first one.
    Executed(ProcessId),
}

/// How far a process's life has come.
#[derive(Debug)]
pub(crate) enum Phase {
    /// It makes everything around itself and will wait at the gate.
    Making,
    /// It waits at the gate.
    Waiting,
    /// It is on its way to its program. `created`: the host knows of it.
    Starting { created: bool },
    /// It has executed its program.
    Running,
    /// It could not, and is about to end.
    Failing(StartError),
    /// It has ended.
    Ended(Outcome),
}

/// What is to be told of a process that has ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// How it ended.
    Status(ExitStatus),
    /// Why it was not started.
    Failed(StartError),
}

/// What the poll says is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The host's connection.
    Host,
    /// Children have ended.
    Children,
    /// A process on its way to its program.
    Link(ProcessId),
    /// One of its streams.
    Stream(ProcessId, usize),
    /// `cgroup.events` of its container.
    Cgroup(ProcessId),
    /// `memory.events` of its container.
    Memory(ProcessId),
}

impl Process {
    /// A process that was cloned.
    pub(crate) fn new(child: Child, kind: Kind, relays: Relays, link: Option<Link>, phase: Phase) -> Self {
        Self { pid: child.pid, pidfd: child.pidfd, kind, lost_before: 0, relays, link, phase }
    }

    /// Its container, if it is the first process of one.
    pub(crate) fn container(&mut self) -> Option<&mut Container> {
        match &mut self.kind {
            Kind::First(container) => Some(container),
            Kind::Executed(_) => None,
        }
    }

    /// It is in the container of this first process.
    pub(crate) fn is_executed_in(&self, first: ProcessId) -> bool {
        matches!(self.kind, Kind::Executed(container) if container == first)
    }

    /// Sends it a signal. One that has ended needs none.
    pub(crate) fn signal(&self, signal: u8) {
        let _ = sys::send_signal(self.pidfd.as_fd(), signal);
    }

    /// Opens the gate. `false`: it does not wait there.
    pub(crate) fn open_gate(&mut self) -> bool {
        match (&self.phase, &self.link) {
            (Phase::Waiting, Some(link)) => {
                link.go_on();
                self.phase = Phase::Starting { created: true };
                true
            }
            _ => false,
        }
    }

    /// Takes everything that it has said over its link; returns what the host is to know.
    pub(crate) fn listen(&mut self, id: ProcessId) -> Vec<GuestMessage> {
        let mut news = Vec::new();
        while let Some(link) = &self.link {
            match link.receive() {
                Said::Nothing => break,
                said => self.hear(id, said, &mut news),
            }
        }
        news
    }

    fn hear(&mut self, id: ProcessId, said: Said, news: &mut Vec<GuestMessage>) {
        let created = GuestMessage::Created { process: id, pid: self.pid };
        match (said, &self.phase) {
            (Said::Terminal(master), _) => {
                if let Err(error) = self.relays.connect_terminal(master) {
                    news.push(GuestMessage::Log(format!("process.terminal: it is not relayed: {error}")));
                }
            }
            (Said::Ready, Phase::Making) => {
                self.phase = Phase::Waiting;
                news.push(created);
            }
            (Said::Failed(error), _) => self.phase = Phase::Failing(error),
            (Said::Gone, phase) => {
                if let Phase::Starting { created: known } = *phase {
                    news.extend((!known).then_some(created));
                    news.push(GuestMessage::Started(id));
                    self.phase = Phase::Running;
                }
                self.link = None;
            }
            (Said::Ready | Said::Nothing, _) => {}
        }
    }

    /// It has ended, and everything that it said was heard.
    pub(crate) fn end(&mut self, status: ExitStatus) {
        let outcome = match std::mem::replace(&mut self.phase, Phase::Running) {
            Phase::Failing(error) => Outcome::Failed(error),
            Phase::Making => Outcome::Failed(refused(
                "process",
                format_args!("it was ended while it was made, {}", how(status)),
            )),
            _ => Outcome::Status(status),
        };
        self.phase = Phase::Ended(outcome);
        self.link = None;
        self.relays.stop_reading();
    }

    /// What to wait for.
    pub(crate) fn interests<'a>(&'a self, id: ProcessId, mut add: impl FnMut(Source, PollFd<'a>)) {
        if let Some(link) = &self.link {
            add(Source::Link(id), PollFd::new(link, PollFlags::IN));
        }
        self.relays.interests(|number, fd| add(Source::Stream(id, number), fd));
        if let Kind::First(container) = &self.kind {
            // Only what somebody then reads: an event that nobody takes would be told again and again.
            let ends = matches!(self.phase, Phase::Ended(_)) && !container.ends_with_first;
            let waits = container.pausing.is_some() || ends;
            if let Some(events) = container.cgroup.events().filter(|_| waits) {
                add(Source::Cgroup(id), PollFd::from_borrowed_fd(events, PollFlags::PRI));
            }
            if let Some(events) = container.cgroup.memory_events() {
                add(Source::Memory(id), PollFd::from_borrowed_fd(events, PollFlags::PRI));
            }
        }
    }
}

/// How a process ended, in words.
fn how(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => format!("by signal {signal}"),
        None => format!("with exit code {}", status.code().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests;
