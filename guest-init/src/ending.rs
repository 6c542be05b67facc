//! How a process goes: it is reaped, what is left of its container is ended with it, its output is passed on, and
//! the host is told; then it is forgotten.

use std::os::unix::process::ExitStatusExt;

use crx_proto::{ExitStatus, GuestMessage, ProcessId, Stage};

use crate::container::Container;
use crate::reap::Reaper;
use crate::session::Session;
use crate::table::{Kind, Outcome, Phase, Process};

/// Signal number of SIGKILL, with which the kernel ends a process for lack of memory.
const SIGKILL: u8 = libc::SIGKILL as u8;

impl Session<'_> {
    /// Reaps every child that has ended, and begins the end of those that are in the table.
    pub(crate) fn reap(&mut self, reaper: &Reaper) {
        while let Some((pid, status)) = reaper.reap() {
            // The ID of one that has ended may come again.
            let is_it = |process: &Process| process.pid == pid && !matches!(process.phase, Phase::Ended(_));
            let found = self.table.iter().find(|(_, process)| is_it(process));
            if let Some(id) = found.map(|(id, _)| *id) {
                // What it said before it ended comes first.
                self.listen(id);
                self.end(id, status);
            }
        }
    }

    fn end(&mut self, id: ProcessId, status: std::process::ExitStatus) {
        let Some(process) = self.table.get_mut(&id) else { return };
        process.end(status);
        if let Some(container) = process.container() {
            if !container.ends_with_first {
                // What is left of the container ends too; with a PID namespace the kernel has seen to it.
                let _ = container.cgroup.kill();
            }
            self.host.stage_of(id, Stage::Ended);
        }
    }

    /// Reports the ends of which there is nothing left to wait for. Executed processes come before their
    /// container's first, but for those that have ended and whose output nobody reads: the end of the container does
    /// not wait for their readers.
    pub(crate) fn report_ended(&mut self) {
        for executed in [true, false] {
            let ended = self.table.iter().filter(|(_, process)| {
                matches!(process.phase, Phase::Ended(_))
                    && matches!(process.kind, Kind::Executed(_)) == executed
            });
            for id in ended.map(|(id, _)| *id).collect::<Vec<_>>() {
                self.try_report(id);
            }
        }
    }

    fn try_report(&mut self, id: ProcessId) {
        let keeps_waiting = |process: &Process| {
            process.is_executed_in(id)
                && !(matches!(process.phase, Phase::Ended(_)) && process.relays.is_stuck())
        };
        let has_others = self.table.values().any(keeps_waiting);
        let Some(process) = self.table.get_mut(&id) else { return };
        if process.container().is_some_and(is_populated) || has_others {
            return;
        }
        if !process.relays.is_drained() {
            return;
        }
        self.report_out_of_memory(id);
        if let Some(process) = self.table.remove(&id) {
            self.report(id, process);
        }
    }

    /// Reports an end and forgets the process.
    fn report(&mut self, id: ProcessId, process: Process) {
        let Process { pid, kind, lost_before, relays, phase: Phase::Ended(outcome), .. } = process else {
            return;
        };
        // The streams end before the host hears that they have.
        drop(relays);
        match outcome {
            Outcome::Status(status) => {
                let status = exit_status(status, || self.ran_out_of_memory(pid, &kind, lost_before));
                if let Kind::First(_) = &kind {
                    self.pod.sync_share();
                }
                self.host.send(&GuestMessage::Exited { process: id, status });
                self.forget(kind);
            }
            Outcome::Failed(error) => {
                self.pod.compile_bpf();
                self.forget(kind);
                self.remove_left_over();
                self.host.send(&GuestMessage::StartFailed { process: id, error });
            }
        }
    }

    /// Forgets a container, if this was its first process. The cgroup of the pod's own is only removed when the
    /// next container comes: with it, most pods end.
    fn forget(&mut self, kind: Kind) {
        let Kind::First(container) = kind else { return };
        let Container { cgroup, owns_pod, pausing, .. } = *container;
        if let Some(number) = pausing {
            self.host
                .send(&GuestMessage::Answer { number, answer: Err("the container has ended".to_owned()) });
        }
        self.left_over.push(cgroup);
        if !owns_pod {
            self.remove_left_over();
        }
    }

    /// Removes the cgroups of containers that have ended: their IDs may come again.
    pub(crate) fn remove_left_over(&mut self) {
        for cgroup in std::mem::take(&mut self.left_over) {
            if let Err(error) = cgroup.remove() {
                let text = format!("the cgroup {} was not removed: {error}", cgroup.path());
                self.host.send(&GuestMessage::Log(text));
            }
        }
    }

    /// Tells the host if the kernel has ended a process of the container for lack of memory, and watches for more.
    pub(crate) fn report_out_of_memory(&mut self, id: ProcessId) {
        let container = self.table.get_mut(&id).and_then(Process::container);
        if container.is_some_and(|container| container.cgroup.lost_a_process()) {
            self.host.send(&GuestMessage::OutOfMemory(id));
        }
    }

    fn ran_out_of_memory(&mut self, pid: u32, kind: &Kind, before: u64) -> bool {
        match kind {
            Kind::First(container) => container.cgroup.ran_out_of_memory(pid, before),
            Kind::Executed(first) => self
                .table
                .get_mut(first)
                .and_then(Process::container)
                .is_some_and(|container| container.cgroup.ran_out_of_memory(pid, before)),
        }
    }
}

/// Processes are left of a container whose first has ended.
fn is_populated(container: &mut Container) -> bool {
    !container.ends_with_first && container.cgroup.is_populated()
}

/// The status as the host gets it. Whether memory ran out is only asked when a SIGKILL may mean that.
fn exit_status(status: std::process::ExitStatus, ran_out_of_memory: impl FnOnce() -> bool) -> ExitStatus {
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitStatus::Exited { code: code as u8 },
        (None, signal) => {
            let signal = signal.unwrap_or_default() as u8;
            ExitStatus::Signaled { signal, out_of_memory: signal == SIGKILL && ran_out_of_memory() }
        }
    }
}
