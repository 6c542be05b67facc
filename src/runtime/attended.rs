//! A process of a pod as a long-lived caller has it: the shim, which stays with each of its processes to their end.
//! Nothing here prints, reads the caller's standard streams, or takes its signals. Before: [`super::launch`].
//!
//! The process on the host is never released: when its launcher dies, it ends, and with it its part of the pod.

use std::os::unix::net::UnixStream;
use std::sync::mpsc::Receiver;

use anyhow::bail;
use crx_proto::ExitStatus;

use super::channel::{self, Command, Report};
use super::host_process::{Event, HostProcess};
use super::timeline::Span;
use super::{exit, log};

/// A process that was made.
pub(crate) struct Attended {
    /// What it is, for messages.
    what: String,
    process: HostProcess,
    received: Receiver<Event>,
    /// What it reported of its launch.
    pub(crate) spans: Vec<Span>,
}

/// How to tell a process something while somebody else waits for its end.
pub(crate) struct Remote(UnixStream);

impl Remote {
    /// Sends the process a signal. One that has ended does not hear it.
    pub(crate) fn signal(&self, signal: u8) {
        self.tell(&Command::Signal(signal));
    }

    /// Gives its terminal another size, likewise.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        self.tell(&Command::Resize { rows, columns });
    }

    fn tell(&self, command: &Command) {
        // One that is gone is told by whoever waits for it.
        let _ = channel::send(&self.0, command, &[]);
    }
}

impl Attended {
    /// Waits for the report that says that a process is as far as its caller wants.
    ///
    /// # Errors
    /// It does not come that far; it is gone then.
    pub(super) fn until(
        what: String,
        process: HostProcess,
        received: Receiver<Event>,
        is_it: impl Fn(&Report) -> bool,
    ) -> anyhow::Result<Self> {
        let mut spans = Vec::new();
        loop {
            let report = match received.recv() {
                Ok(Event::Report(report)) => report,
                Ok(Event::Signal(_)) => continue,
                Ok(Event::Gone(error)) => bail!("{what}: its VMM process cannot be heard: {error}"),
                Err(_) => bail!("{what}: its VMM process cannot be heard"),
            };
            let reached = is_it(&report);
            match report {
                Report::Created(new) | Report::Started(new) => spans.extend(new),
                Report::Warning(text) => log::warning(&format!("{what}: {text}")),
                Report::Failed(failure) => {
                    failure.console.iter().for_each(|line| log::detail(line));
                    let message = format!("{what}: {}", failure.message);
                    return Err(exit::Coded { code: failure.exit_code, message }.into());
                }
                Report::Drained(_) => bail!("{what}: it ended before it was started"),
                _ => {}
            }
            if reached {
                return Ok(Self { what, process, received, spans });
            }
        }
    }

    /// Its process ID on the host.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A way to it.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(crate) fn remote(&self) -> anyhow::Result<Remote> {
        Ok(Remote(self.process.socket()?))
    }

    /// Waits until it has ended, its output is written and its process on the host is gone; returns its exit code. Of a
    /// process whose host process dies that is a kill's. `out_of_memory` is called whenever memory runs out in the container.
    pub(crate) fn wait(mut self, mut out_of_memory: impl FnMut()) -> u8 {
        let mut ended = None;
        let code = loop {
            match self.received.recv() {
                Ok(Event::Report(Report::Ended(status))) => ended = Some(status.code()),
                Ok(Event::Report(Report::OutOfMemory)) => out_of_memory(),
                Ok(Event::Report(Report::Warning(text))) => log::warning(&format!("{}: {text}", self.what)),
                Ok(Event::Report(Report::Failed(failure))) => {
                    failure.console.iter().for_each(|line| log::detail(line));
                    log::error(&format!("{}: {}", self.what, failure.message));
                    // Of a pod that died it says nothing.
                    break Some(failure.exit_code).filter(|code| *code != exit::FAILURE);
                }
                Ok(Event::Report(Report::Drained(_))) => break ended,
                Ok(_) => {}
                Err(_) => break ended,
            }
        };
        self.process.end();
        let killed = ExitStatus::Signaled { signal: libc::SIGKILL as u8, out_of_memory: false };
        code.unwrap_or_else(|| killed.code())
    }
}
