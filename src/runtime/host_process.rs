//! The process that is the container's on the host, as its launcher has it: started, told, heard, ended. Before:
//! [`super::launch`]. Next: `cli::vmm`, in that process.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command as Process, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::sync::{Mutex, PoisonError};
use std::{io, thread};

use anyhow::Context;
use crx_proto::FrameError;
use rustix::io::{FdFlags, fcntl_setfd};
use signal_hook::consts::signal;
use signal_hook::iterator::Signals;

use super::channel::{self, Command, Report, Role};
use super::console;
use super::state::StateDir;
use crate::sys;

/// Signals that are passed on to the container, as runc does; before it is started they end the launch.
pub(super) const FORWARDED: [i32; 9] = [
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

/// What a process has as its standard streams.
pub(crate) enum Streams {
    /// Those of its launcher, a command, whose signals are for the process.
    Own,
    /// A terminal, whose other side goes to whoever listens on this socket.
    Console(PathBuf),
    /// These; the launcher keeps its own and its signals.
    Given(Given),
}

impl Streams {
    /// Those of a command's process: its terminal goes to a socket, if the command line names one.
    pub(crate) fn of_command(console_socket: Option<PathBuf>) -> Self {
        console_socket.map_or(Self::Own, Self::Console)
    }
}

/// Files for the standard streams of a process; `/dev/null` where there is none.
#[derive(Default)]
pub(crate) struct Given {
    /// Standard input.
    pub(crate) stdin: Option<File>,
    /// Standard output.
    pub(crate) stdout: Option<File>,
    /// Standard error.
    pub(crate) stderr: Option<File>,
}

/// Held while a process is started with descriptors that others must not inherit. A caller that starts several at once
/// would give each what is the others'.
pub(super) static STARTING: Mutex<()> = Mutex::new(());

/// What a launcher waits for.
pub(super) enum Event {
    Report(Report),
    /// The process closed its end: it is gone, or about to be.
    Gone(FrameError),
    Signal(i32),
}

/// Turns signals into events, on a thread of its own.
pub(super) fn hear_signals(events: Sender<Event>) -> io::Result<()> {
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

/// The process that is the container's on the host, and the socket to it. Dropped, it is ended.
pub(super) struct HostProcess {
    child: Option<Child>,
    socket: UnixStream,
}

impl HostProcess {
    /// Starts it, in a new network namespace if hooks are to fill one, and it waits to be told its role. It keeps the lock of
    /// the state directory.
    pub(super) fn start(
        id: &str,
        role: &Role,
        state: Option<&StateDir>,
        streams: Streams,
        new_network: bool,
        events: Sender<Event>,
    ) -> anyhow::Result<Self> {
        let (socket, inherited) = UnixStream::pair()?;
        let mut command = Process::new("/proc/self/exe");
        match streams {
            Streams::Own => {}
            Streams::Console(path) => {
                let terminal = console::open_and_send(&path)?;
                command.stdin(terminal.try_clone()?).stdout(terminal);
            }
            Streams::Given(Given { stdin, stdout, stderr }) => {
                let file = |file: Option<File>| file.map_or_else(Stdio::null, Stdio::from);
                command.stdin(file(stdin)).stdout(file(stdout)).stderr(file(stderr));
            }
        }
        let starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        // The child keeps both: the socket, and the lock that says the container is alive.
        fcntl_setfd(&inherited, FdFlags::empty())?;
        if let Some(state) = state {
            fcntl_setfd(state.lock(), FdFlags::empty())?;
        }
        let verb = if matches!(role, Role::Pod(_)) { "vmm" } else { "stand-in" };
        command.arg0("crx").args([verb, id, "--channel", &inherited.as_raw_fd().to_string()]);
        if let Some(state) = state {
            command.args(["--lock", &state.lock().as_raw_fd().to_string()]);
        }
        let child = if new_network {
            // Namespaces are a thread's, and its children's: this one keeps its own.
            let spawned = thread::spawn(move || {
                sys::unshare_network()?;
                command.spawn()
            });
            spawned.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
        } else {
            command.spawn()
        };
        let child = child.with_context(|| format!("cannot start the process of {id:?}"))?;
        if let Some(state) = state {
            fcntl_setfd(state.lock(), FdFlags::CLOEXEC)?;
        }
        drop((inherited, starting));
        let process = Self { child: Some(child), socket };
        hear_reports(process.socket.try_clone()?, events)?;
        Ok(process)
    }

    /// Its ID.
    pub(super) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Its socket, for whoever tells it something while another waits for its end.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(super) fn socket(&self) -> io::Result<UnixStream> {
        self.socket.try_clone()
    }

    /// Sends a message. A process that died already is told by its socket's end.
    pub(super) fn tell<T: serde::Serialize>(
        &self,
        message: &T,
        descriptors: &[OwnedFd],
    ) -> anyhow::Result<()> {
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        match channel::send(&self.socket, message, &descriptors) {
            Err(error @ FrameError::TooLong { .. }) => Err(error).context("config.json is too large"),
            _ => Ok(()),
        }
    }

    /// Lets it live on without its launcher.
    pub(super) fn release(&mut self) -> anyhow::Result<()> {
        self.tell(&Command::Release, &[])?;
        self.child = None;
        Ok(())
    }

    /// Waits for the end of one that closed its socket.
    pub(super) fn wait(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.wait().ok()
    }

    /// Ends it and waits until it is gone, and with it everything that it had.
    pub(super) fn end(&mut self) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        // It may have ended by itself.
        let _ = child.kill();
        child.wait().ok()
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        self.end();
    }
}

/// Turns reports into events, on a thread of its own.
fn hear_reports(socket: UnixStream, events: Sender<Event>) -> io::Result<()> {
    thread::Builder::new().name("crx-reports".to_owned()).spawn(move || {
        loop {
            let event = match channel::receive(&socket) {
                Ok((report, _)) => Event::Report(report),
                Err(error) => Event::Gone(error),
            };
            let last = matches!(event, Event::Gone(_));
            if events.send(event).is_err() || last {
                return;
            }
        }
    })?;
    Ok(())
}
