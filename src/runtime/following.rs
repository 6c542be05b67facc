//! A launch under way, as the command that stays with it sees it: what its process reports becomes lines for people and an
//! exit code, and the caller's signals go to it. Before: [`super::launch`].

use std::io::{self, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, bail};
use crx_proto::{ExitStatus, FrameError};
use signal_hook::consts::signal;

use super::channel::{Command, Failure, Report};
use super::host_process::{Event, FORWARDED, HostProcess};
use super::launch::Follow;
use super::terminal::{self, RawTerminal};
use super::timeline::{Span, Track};
use super::{exit, log};

/// How long a launch may be silent on a terminal.
const PATIENCE: Duration = Duration::from_secs(2);

/// A launch under way, as its caller sees it.
pub(super) struct Following<'a> {
    /// What is launched, for messages.
    pub(super) what: String,
    pub(super) follow: Follow,
    pub(super) process: HostProcess,
    /// It has a terminal.
    pub(super) terminal: bool,
    /// What everybody did so far.
    pub(super) timeline: Track,
    /// What is to be done once the process is there.
    pub(super) on_created: &'a dyn Fn(&[Span]) -> anyhow::Result<()>,
    /// And once it has executed its program.
    pub(super) on_started: &'a dyn Fn(&[Span]),
    pub(super) progress: Progress,
}

/// How far it has come.
#[derive(Default)]
pub(super) struct Progress {
    started: bool,
    ended: Option<ExitStatus>,
    /// The caller's terminal, while the process has it.
    raw: Option<RawTerminal>,
    told_to_wait: bool,
}

impl Following<'_> {
    /// Follows the reports to the exit code; then the terminal is the caller's again.
    pub(super) fn follow(&mut self, events: &Receiver<Event>) -> anyhow::Result<u8> {
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
