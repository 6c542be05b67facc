//! The caller's side of a launch: claim the ID, start the VMM child, forward signals, wait, leave nothing.
//!
//! Before: `cli::run`. Next: [`super::pod`], in the child.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command as Process};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use std::{io, thread};

use anyhow::{Context, bail};
use crx_proto::{ExitStatus, FrameError, frame};
use rustix::io::{FdFlags, fcntl_setfd};
use signal_hook::consts::signal;
use signal_hook::iterator::Signals;

use super::channel::{Command, Launch, Report};
use super::state::StateDir;
use super::terminal::{self, RawTerminal};
use super::timeline::{self, Stamp};
use super::{exit, state};

/// Signals that are passed on to the container, as runc does; before it is started they end the launch.
const FORWARDED: [i32; 9] = [
    signal::SIGHUP,
    signal::SIGINT,
    signal::SIGQUIT,
    signal::SIGTERM,
    signal::SIGUSR1,
    signal::SIGUSR2,
    signal::SIGALRM,
    signal::SIGCONT,
    signal::SIGWINCH,
];

/// How long a launch may be silent on a terminal.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is launched, and what the caller wants of it.
pub(crate) struct Request {
    /// The container's ID.
    pub(crate) id: String,
    /// Where the state of containers is kept.
    pub(crate) root: PathBuf,
    /// The bundle, for `state.json`.
    pub(crate) bundle: PathBuf,
    /// Annotations of config.json, for `state.json`.
    pub(crate) annotations: BTreeMap<String, String>,
    /// File to write the container's process ID to.
    pub(crate) pid_file: Option<PathBuf>,
    /// Print the timeline at the end.
    pub(crate) timing: bool,
    /// Everything that the child needs; its `state_dir` is filled in here.
    pub(crate) launch: Launch,
    /// Clock readings so far.
    pub(crate) stamps: Vec<Stamp>,
}

enum Event {
    Report(Report),
    /// The child closed its end: it is gone, or about to be.
    ChildGone(FrameError),
    Signal(i32),
}

/// Runs a container to its end.
///
/// # Errors
/// It could not be run, or its pod died. Nothing is left behind.
pub(crate) fn run(mut request: Request) -> anyhow::Result<u8> {
    let terminal = request.launch.plan.process.terminal.is_some();
    if terminal && !terminal::on_stdin() {
        bail!("config.json: process.terminal: stdin is not a terminal; set it to false or run crx on one");
    }
    let state = StateDir::claim(&request.root, &request.id)?;
    request.launch.state_dir =
        state.path().canonicalize().context("cannot find the state directory again")?;
    state.write(&describe(&request, None))?;
    let (events, received) = channel();
    hear_signals(events.clone())?;
    let pod = PodProcess::start(&request, &state, events)?;
    request.stamps.push(Stamp::now("crx: VMM process started"));
    let mut caller = Caller {
        request: &mut request,
        state: &state,
        pod,
        started: false,
        ended: None,
        raw: None,
        told_to_wait: false,
    };
    let result = caller.follow(&received);
    drop(caller.raw.take());
    caller.pod.end();
    if let (Ok(_), true) = (&result, request.timing) {
        request.stamps.push(Stamp::now("crx: VMM process gone"));
        timeline::print(request.stamps);
    }
    result
}

/// `state.json`, as the runtime specification has it.
fn describe(request: &Request, pid: Option<u32>) -> serde_json::Value {
    let mut state = serde_json::json!({
        "ociVersion": "1.2.0",
        "id": request.id,
        "status": if pid.is_some() { "running" } else { "creating" },
        "bundle": request.bundle,
        "annotations": request.annotations,
    });
    if let Some(pid) = pid {
        state["pid"] = pid.into();
    }
    state
}

/// Turns signals into events, on a thread of its own.
fn hear_signals(events: Sender<Event>) -> io::Result<()> {
    let mut signals = Signals::new(FORWARDED)?;
    thread::Builder::new().name("crx-signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// The VMM child and the socket to it.
struct PodProcess {
    child: Child,
    socket: UnixStream,
}

impl PodProcess {
    fn start(request: &Request, state: &StateDir, events: Sender<Event>) -> anyhow::Result<Self> {
        let (socket, inherited) = UnixStream::pair()?;
        // The child keeps both: the socket, and the lock that says the container is alive.
        fcntl_setfd(&inherited, FdFlags::empty())?;
        fcntl_setfd(state.lock(), FdFlags::empty())?;
        let child = Process::new("/proc/self/exe")
            .arg0("crx")
            .args(["vmm", &request.id, "--channel", &inherited.as_raw_fd().to_string()])
            .spawn()
            .context("cannot start the VMM process")?;
        fcntl_setfd(state.lock(), FdFlags::CLOEXEC)?;
        drop(inherited);
        let pod = Self { child, socket };
        let reports = pod.socket.try_clone()?;
        thread::Builder::new().name("crx-reports".to_owned()).spawn(move || {
            loop {
                let event = match frame::read(&reports) {
                    Ok(report) => Event::Report(report),
                    Err(error) => Event::ChildGone(error),
                };
                let last = matches!(event, Event::ChildGone(_));
                if events.send(event).is_err() || last {
                    return;
                }
            }
        })?;
        // A child that died already is told by its socket's end.
        match frame::write(&pod.socket, &request.launch) {
            Err(error @ FrameError::TooLong { .. }) => Err(error).context("config.json is too large"),
            _ => Ok(pod),
        }
    }

    /// Ends the child and waits until it is gone, and with it everything that the pod had.
    fn end(&mut self) -> Option<std::process::ExitStatus> {
        // It may have ended by itself.
        let _ = self.child.kill();
        self.child.wait().ok()
    }
}

impl Drop for PodProcess {
    fn drop(&mut self) {
        self.end();
    }
}

/// A launch under way, as its caller sees it.
struct Caller<'a> {
    request: &'a mut Request,
    state: &'a StateDir,
    pod: PodProcess,
    started: bool,
    ended: Option<ExitStatus>,
    /// The terminal, while the container has it.
    raw: Option<RawTerminal>,
    told_to_wait: bool,
}

impl Caller<'_> {
    /// Follows the child's reports to the container's exit code.
    fn follow(&mut self, events: &Receiver<Event>) -> anyhow::Result<u8> {
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
                Event::ChildGone(error) => return Err(self.gone(&error)),
            };
            if let Some(code) = code {
                self.show_waiting(false);
                return Ok(code);
            }
        }
    }

    fn hear(&mut self, report: Report) -> anyhow::Result<Option<u8>> {
        match report {
            Report::Started => {
                self.show_waiting(false);
                self.request.stamps.push(Stamp::now("crx: container started"));
                self.started = true;
                if self.request.launch.plan.process.terminal.is_some() {
                    // Not before: until the container can take them, Ctrl-C and the like are for crx.
                    self.raw = Some(RawTerminal::new().context("cannot use the terminal")?);
                }
                let pid = self.pod.child.id();
                self.state.write(&describe(self.request, Some(pid)))?;
                if let Some(pid_file) = &self.request.pid_file {
                    state::write_atomically(pid_file, pid.to_string().as_bytes())?;
                }
            }
            Report::Warning(text) => self.warn(&text),
            Report::Ended(status) => {
                self.request.stamps.push(Stamp::now("crx: container ended"));
                self.ended = Some(status);
            }
            Report::Drained(stamps) => {
                self.request.stamps.extend(stamps);
                let Some(status) = self.ended else { bail!("the VMM process reported no exit status") };
                if let ExitStatus::Signaled { out_of_memory: true, .. } = status {
                    self.warn(
                        "out of memory: the kernel killed it; raise linux.resources.memory.limit or give the pod more with --memory",
                    );
                }
                return Ok(Some(status.code()));
            }
            Report::Failed { exit_code, message, console } => {
                self.show_waiting(false);
                for line in console {
                    eprintln!("  {}", line.escape_debug());
                }
                if exit_code == exit::FAILURE {
                    bail!("container {:?}: {message}", self.request.id);
                }
                eprintln!("crx: container {:?}: {}", self.request.id, message.escape_debug());
                return Ok(Some(exit_code));
            }
        }
        Ok(None)
    }

    /// Forwards a signal; before the container runs, and after it has ended, a signal ends the launch.
    fn signal(&self, signal: i32) -> Option<u8> {
        let number = u8::try_from(signal).unwrap_or(0);
        let command = match (signal, &self.ended) {
            (signal::SIGWINCH, _) => {
                let (rows, columns) = terminal::size();
                Command::Resize { rows, columns }
            }
            (signal::SIGCONT, _) if !self.started => return None,
            (_, Some(status)) => return Some(status.code()),
            (_, None) if !self.started => return Some(exit::of_signal(number)),
            _ => Command::Signal(number),
        };
        // A child that is gone is told by its socket's end.
        let _ = frame::write(&self.pod.socket, &command);
        None
    }

    /// The child went without a last report.
    fn gone(&mut self, error: &FrameError) -> anyhow::Error {
        self.show_waiting(false);
        let id = &self.request.id;
        match self.pod.child.wait() {
            Ok(status) => {
                anyhow::anyhow!("container {id:?}: its VMM process ended without a report: {status}")
            }
            Err(_) => anyhow::anyhow!("container {id:?}: its VMM process cannot be heard: {error}"),
        }
    }

    fn warn(&mut self, text: &str) {
        self.show_waiting(false);
        eprintln!("crx: container {:?}: {}", self.request.id, text.escape_debug());
    }

    /// On a terminal, says once that a launch takes its time, and takes that back afterwards.
    fn show_waiting(&mut self, waiting: bool) {
        let raw = self.request.launch.plan.process.terminal.is_some();
        if self.started || raw || !rustix::termios::isatty(io::stderr()) || waiting == self.told_to_wait {
            return;
        }
        self.told_to_wait = waiting;
        if waiting {
            eprint!("crx: the pod is booting ...");
        } else {
            eprint!("\r\x1b[K");
        }
    }
}
