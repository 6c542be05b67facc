//! One process that containerd knows: a container's first, or one executed in it.

use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use containerd_shim_protos::api::Status;
use crx::service::Control;
use tokio::sync::watch;

use crate::io::Names;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// Its exit code, 128 + n for signal n.
    pub(super) code: u32,
    pub(super) at: SystemTime,
}

/// How far a process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Created,
    Running,
    Paused,
    Ended(End),
}

impl Phase {
    pub(super) fn status(self) -> Status {
        match self {
            Self::Created => Status::CREATED,
            Self::Running => Status::RUNNING,
            Self::Paused => Status::PAUSED,
            Self::Ended(_) => Status::STOPPED,
        }
    }

    pub(super) fn end(self) -> Option<End> {
        match self {
            Self::Ended(end) => Some(end),
            _ => None,
        }
    }
}

/// A process.
pub(super) struct Process {
    /// Its name in its container; empty for the first.
    pub(super) exec_id: String,
    pub(super) names: Names,
    /// What it executes, as containerd says it; empty for the first.
    pub(super) spec: Vec<u8>,
    /// Held while it is started: its end is told after its start.
    pub(super) order: tokio::sync::Mutex<()>,
    phase: watch::Sender<Phase>,
    live: Mutex<Live>,
}

/// What there is of it while it lives.
#[derive(Default)]
struct Live {
    pid: u32,
    control: Option<Control>,
    /// Keeps its standard input open.
    stdin: Option<File>,
    /// It is to be closed, also if that was said before the process was there.
    stdin_closed: bool,
}

impl Process {
    pub(super) fn new(exec_id: String, names: Names, spec: Vec<u8>) -> Self {
        Self {
            exec_id,
            names,
            spec,
            order: tokio::sync::Mutex::default(),
            phase: watch::channel(Phase::Created).0,
            live: Mutex::default(),
        }
    }

    /// It is there.
    pub(super) fn made(&self, pid: u32, control: Control, stdin: Option<File>) {
        let mut live = self.live();
        (live.pid, live.control) = (pid, Some(control));
        live.stdin = stdin.filter(|_| !live.stdin_closed);
    }

    /// Its process ID on the host; 0 before it is there.
    pub(super) fn pid(&self) -> u32 {
        self.live().pid
    }

    pub(super) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// It has come to another phase. From its end there is no way back.
    pub(super) fn reached(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let changes = now.end().is_none();
            if changes {
                *now = phase;
            }
            changes
        });
        if phase.end().is_some() {
            let mut live = self.live();
            (live.control, live.stdin) = (None, None);
        }
    }

    /// Waits for its end.
    pub(super) async fn ended(&self) -> End {
        let mut phases = self.phase.subscribe();
        loop {
            if let Some(end) = phases.borrow_and_update().end() {
                return end;
            }
            // The sender is this process's own.
            if phases.changed().await.is_err() {
                return End { code: 255, at: SystemTime::now() };
            }
        }
    }

    pub(super) fn signal(&self, signal: u8) {
        if let Some(control) = &self.live().control {
            control.signal(signal);
        }
    }

    pub(super) fn resize(&self, rows: u16, columns: u16) {
        if let Some(control) = &self.live().control {
            control.resize(rows, columns);
        }
    }

    /// Its input ends once its client has closed it as well.
    pub(super) fn close_stdin(&self) {
        let mut live = self.live();
        (live.stdin, live.stdin_closed) = (None, true);
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        // It is whole after every statement.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_final() {
        let process = Process::new(String::new(), Names::default(), Vec::new());
        assert_eq!(process.phase().status(), Status::CREATED);
        process.reached(Phase::Running);
        let end = End { code: 3, at: SystemTime::UNIX_EPOCH };
        process.reached(Phase::Ended(end));
        process.reached(Phase::Running);
        assert_eq!((process.phase().end(), process.phase().status()), (Some(end), Status::STOPPED));
    }
}
