//! The pod's loop: what the host says is done, streams are relayed, children reaped, ends reported, until the host
//! wants the pod to end or is gone. One poll(2) waits for everything, and an idle pod sleeps in it. The parts:
//! [`crate::table`] (what is known of each process), [`crate::launch`] (how one comes), [`crate::ending`] (how it
//! goes), [`crate::questions`] (what the host may ask meanwhile).

use crx_proto::{GuestMessage, HostMessage, ProcessId, StartError};
use rustix::event::{PollFd, PollFlags, poll};

use crate::agent::{Host, Received};
use crate::container::{Cgroup, Standby};
use crate::mounts::Pod;
use crate::net::Nics;
use crate::reap::Reaper;
use crate::stdio::Connect;
use crate::table::{Phase, Source, Table};

/// What the loop works on.
pub(crate) struct Session<'a> {
    pub(crate) host: &'a mut Host,
    pub(crate) pod: Pod,
    /// The pod's network devices, or why they cannot be set up.
    pub(crate) nics: Result<Nics, StartError>,
    /// Waits to become the first container's process.
    pub(crate) standby: Option<Standby>,
    /// Connects to ports of the host.
    pub(crate) connect: Connect<'a>,
    pub(crate) table: Table,
    /// Cgroups of containers that have ended, to be removed.
    pub(crate) left_over: Vec<Cgroup>,
}

/// Serves the host until it wants the pod to end, or is gone.
pub(crate) fn run(
    host: &mut Host,
    pod: Pod,
    nics: Result<Nics, StartError>,
    standby: Option<Standby>,
    connect: Connect<'_>,
) {
    let (table, left_over) = (Table::new(), Vec::new());
    let mut session = Session { host, pod, nics, standby, connect, table, left_over };
    // Until there is a container there is nothing else to wait for.
    loop {
        match session.host.wait() {
            Received::Message(message) => {
                let first = matches!(message, HostMessage::Create { .. });
                if session.obey(message) {
                    return;
                }
                if first {
                    break;
                }
            }
            Received::Gone => return,
            Received::Nothing => {}
        }
    }
    match Reaper::new() {
        Ok(reaper) => session.serve(&reaper),
        Err(error) => {
            let text = format!("the pod ends: its processes cannot be waited for: {error}");
            session.host.send(&GuestMessage::Log(text));
        }
    }
}

impl Session<'_> {
    /// The loop.
    fn serve(&mut self, reaper: &Reaper) {
        // What ended before the reaper listened sends no signal any more.
        self.reap(reaper);
        loop {
            self.report_ended();
            for source in self.wait(reaper) {
                match source {
                    Source::Link(id) => self.listen(id),
                    Source::Stream(id, number) => {
                        if let Some(process) = self.table.get_mut(&id) {
                            process.relays.pump(number);
                        }
                    }
                    Source::Cgroup(id) => self.try_answer_pause(id),
                    Source::Memory(id) => self.report_out_of_memory(id),
                    Source::Children => {
                        reaper.acknowledge();
                        self.reap(reaper);
                    }
                    Source::Host => {
                        if self.obey_all() {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Sleeps until something happens, and says what.
    fn wait(&self, reaper: &Reaper) -> Vec<Source> {
        let (mut sources, mut fds) = (Vec::with_capacity(8), Vec::with_capacity(8));
        let mut add = |source, fd| {
            sources.push(source);
            fds.push(fd);
        };
        for (id, process) in &self.table {
            process.interests(*id, &mut add);
        }
        // Deaths are looked at after everything that the dead have said and written.
        add(Source::Children, PollFd::new(reaper, PollFlags::IN));
        add(Source::Host, PollFd::new(&*self.host, PollFlags::IN));
        if poll(&mut fds, None).is_err() {
            return Vec::new();
        }
        let ready = sources.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        ready.map(|(source, _)| source).collect()
    }

    /// Does everything that the host has said. `true`: the pod is to end.
    fn obey_all(&mut self) -> bool {
        loop {
            match self.host.try_receive() {
                Received::Message(message) => {
                    if self.obey(message) {
                        return true;
                    }
                }
                Received::Gone => return true,
                Received::Nothing => return false,
            }
        }
    }

    /// Does what the host says. `true`: the pod is to end.
    fn obey(&mut self, message: HostMessage) -> bool {
        match message {
            HostMessage::PowerOff => return true,
            HostMessage::Create { process, owns_pod, start, plan, streams } => {
                self.create(process, owns_pod, start, &plan, &streams);
            }
            HostMessage::Start(process) => self.start(process),
            HostMessage::Exec { process, container, plan, streams } => {
                self.execute(process, container, &plan, &streams);
            }
            HostMessage::Signal { process, signal, everybody } => self.signal(process, signal, everybody),
            HostMessage::Resize { process, rows, columns } => {
                if let Some(process) = self.table.get(&process) {
                    process.relays.resize(rows, columns);
                }
            }
            HostMessage::Ask { number, container, question } => self.answer(number, container, &question),
        }
        false
    }

    /// Sends a signal, to one process or to its whole container. What has ended needs none.
    fn signal(&mut self, id: ProcessId, signal: u8, everybody: bool) {
        let Some(process) = self.table.get_mut(&id) else { return };
        if matches!(process.phase, Phase::Ended(_)) {
            return;
        }
        match process.container().filter(|_| everybody) {
            Some(container) => {
                if let Err(error) = container.cgroup.signal(signal) {
                    let text = format!("signal {signal} was not sent to every process: {error}");
                    self.host.send(&GuestMessage::Log(text));
                }
            }
            None => process.signal(signal),
        }
    }
}

#[cfg(test)]
mod tests;
