//! The pod's processes as the host knows them: the containers' first ones and those executed later.

use std::collections::BTreeMap;

use crx_proto::{ExitStatus, ProcessId};

use super::hear::ClientId;
use crate::runtime::channel::Status;

/// The pod's first container: the pod ends with it.
pub(super) const FIRST: ProcessId = ProcessId(1);

/// What a process is in the pod.
pub(super) enum Kind {
    /// The first process of a container.
    Container(Container),
    /// Executed later in one.
    Executed,
}

/// A container.
pub(super) struct Container {
    pub(super) id: String,
    /// The process of the host that callers take for it.
    pub(super) host_pid: u32,
    /// How many volumes it has in the share.
    pub(super) volumes: usize,
    pub(super) paused: bool,
    /// Clients that want to hear of its end and of its lack of memory.
    pub(super) watchers: Vec<ClientId>,
    /// Clients that wait until it is started.
    pub(super) starters: Vec<ClientId>,
}

/// How far a process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Creating,
    Created,
    Running,
    Ended(ExitStatus),
}

/// A process.
pub(super) struct Process {
    pub(super) kind: Kind,
    pub(super) owner: ClientId,
    pub(super) phase: Phase,
    /// Its process ID in the pod, once it is there.
    pub(super) guest_pid: Option<u32>,
    /// Outputs that the VMM process itself still relays.
    pub(super) outputs: usize,
}

impl Process {
    /// Its status, if it is a container's.
    pub(super) fn status(&self) -> Status {
        match (&self.phase, &self.kind) {
            (Phase::Ended(_), _) => Status::Stopped,
            (_, Kind::Container(Container { paused: true, .. })) => Status::Paused,
            (Phase::Creating, _) => Status::Creating,
            (Phase::Created, _) => Status::Created,
            (Phase::Running, _) => Status::Running,
        }
    }
}

/// The table of them.
#[derive(Default)]
pub(super) struct Processes {
    table: BTreeMap<ProcessId, Process>,
    last: u32,
}

impl Processes {
    /// Adds a process under a number that no other had.
    pub(super) fn add(&mut self, process: Process) -> ProcessId {
        self.last += 1;
        let number = ProcessId(self.last);
        self.table.insert(number, process);
        number
    }

    /// The number that the next process will have.
    pub(super) fn next(&self) -> ProcessId {
        ProcessId(self.last + 1)
    }

    pub(super) fn get_mut(&mut self, number: ProcessId) -> Option<&mut Process> {
        self.table.get_mut(&number)
    }

    pub(super) fn get(&self, number: ProcessId) -> Option<&Process> {
        self.table.get(&number)
    }

    pub(super) fn remove(&mut self, number: ProcessId) -> Option<Process> {
        self.table.remove(&number)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ProcessId, &Process)> {
        self.table.iter().map(|(number, process)| (*number, process))
    }

    /// The first process of the container of this ID.
    pub(super) fn number_of(&self, id: &str) -> Option<ProcessId> {
        let is_it =
            |process: &Process| matches!(&process.kind, Kind::Container(container) if container.id == id);
        self.iter().find(|(_, process)| is_it(process)).map(|(number, _)| number)
    }

    /// The container whose first process this is.
    pub(super) fn container_mut(&mut self, number: ProcessId) -> Option<&mut Container> {
        match self.table.get_mut(&number).map(|process| &mut process.kind) {
            Some(Kind::Container(container)) => Some(container),
            _ => None,
        }
    }

    /// The container that the host knows by this process ID.
    pub(super) fn by_host_pid(&self, pid: u32) -> Option<(ProcessId, &Process)> {
        let is_it = |process: &Process| {
            let Kind::Container(container) = &process.kind else { return false };
            container.host_pid == pid && !matches!(process.phase, Phase::Ended(_))
        };
        self.iter().find(|(_, process)| is_it(process))
    }
}
