//! The stand-in: the process that callers take for a process of a pod which somebody else's VMM process runs: a
//! container that joined a pod, or one more process in a container. It relays the streams between its own and the
//! pod, and exits as the process does. Killed, it takes the process with it.
//!
//! Between its launcher and the pod it passes on commands and reports as they are.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::{io, thread};

use anyhow::bail;
use signal_hook::consts::signal;
use signal_hook::iterator::Signals;

use super::channel::{self, Command, Failure, Report};
use super::timeline::Track;
use super::{exit, relay, session, terminal};

/// Stands in for a process until its end; returns its exit code.
///
/// # Errors
/// The pod cannot be heard.
pub(crate) fn main(
    launcher: UnixStream,
    pod: UnixStream,
    console: bool,
    mut timeline: Track,
) -> anyhow::Result<u8> {
    let begun = session::begin(true, console).and_then(|console| session::leave_files().map(|()| console));
    let console = match begun {
        Ok(console) => console,
        Err(error) => {
            let failure =
                Failure { exit_code: exit::FAILURE, message: format!("{error:#}"), console: Vec::new() };
            channel::send(&launcher, &Report::Failed(failure), &[])?;
            return Ok(exit::FAILURE);
        }
    };
    timeline.reached("files left");
    let mut own = timeline.into_spans();
    let released = pass_commands(launcher.try_clone()?, pod.try_clone()?)?;
    if console {
        pass_sizes(pod.try_clone()?)?;
    }
    let report = |report: &Report| {
        if !released.load(Ordering::SeqCst) {
            // A launcher that is gone is told by the reader of its commands.
            let _ = channel::send(&launcher, report, &[]);
        }
    };
    let (sender, relayed) = channel::<()>();
    let mut outputs = 0;
    let status = loop {
        let Ok((message, mut descriptors)) = channel::receive::<Report>(&pod) else {
            // Whatever ended the pod, to a process in it that was a kill.
            let exit_code = exit::of_signal(libc::SIGKILL as u8);
            let message = "the pod ended".to_owned();
            report(&Report::Failed(Failure { exit_code, message, console: Vec::new() }));
            return Ok(exit_code);
        };
        match message {
            Report::Stream(stream) => {
                let Some(connection) = descriptors.pop() else { bail!("the pod sent no stream") };
                outputs += relay_stream(stream, connection, sender.clone())?;
            }
            Report::Ended(status) => break status,
            Report::Failed(failure) => {
                let exit_code = failure.exit_code;
                report(&Report::Failed(failure));
                return Ok(exit_code);
            }
            mut other => {
                if let Report::Created(spans) | Report::Started(spans) = &mut other {
                    spans.append(&mut own);
                    if console {
                        // A size that was set before the process had its terminal went past it.
                        tell_size(&pod);
                    }
                }
                report(&other);
            }
        }
    };
    report(&Report::Ended(status));
    // Each relay sends once, when its output is written.
    drop(sender);
    relayed.iter().take(outputs).for_each(drop);
    report(&Report::Drained(Vec::new()));
    Ok(status.code())
}

/// Starts to relay a stream; returns how many outputs it is.
fn relay_stream(stream: channel::Stream, connection: OwnedFd, done: Sender<()>) -> io::Result<usize> {
    relay::standard(stream, connection.into(), move || {
        // The main thread may have left already.
        let _ = done.send(());
    })?;
    Ok(usize::from(stream != channel::Stream::Stdin))
}

/// Passes the launcher's commands on. A launcher that goes before it released this process ends it.
fn pass_commands(launcher: UnixStream, pod: UnixStream) -> io::Result<Arc<AtomicBool>> {
    let released = Arc::new(AtomicBool::new(false));
    let is_released = released.clone();
    let terminal_mode = terminal::mode();
    thread::Builder::new().name("crx-launcher".to_owned()).spawn(move || {
        while let Ok((command, descriptors)) = channel::receive::<Command>(&launcher) {
            if matches!(command, Command::Release) {
                is_released.store(true, Ordering::SeqCst);
                return;
            }
            let descriptors: Vec<_> = descriptors.iter().map(std::os::fd::AsFd::as_fd).collect();
            // A pod that is gone is told by the reader of its reports.
            let _ = channel::send(&pod, &command, &descriptors);
        }
        session::end_with_launcher(terminal_mode.as_ref());
    })?;
    Ok(released)
}

/// Passes the sizes of this process's terminal on.
fn pass_sizes(pod: UnixStream) -> io::Result<()> {
    let mut signals = Signals::new([signal::SIGWINCH])?;
    thread::Builder::new().name("crx-window".to_owned()).spawn(move || {
        signals.forever().for_each(|_| tell_size(&pod));
    })?;
    Ok(())
}

/// Tells the pod the size of this process's terminal.
fn tell_size(pod: &UnixStream) {
    let (rows, columns) = terminal::size();
    if (rows, columns) != (0, 0) {
        // A pod that is gone is told by the reader of its reports.
        let _ = channel::send(pod, &Command::Resize { rows, columns }, &[]);
    }
}
