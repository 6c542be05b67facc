//! The standard streams: pipes on the container's side (a program may open /dev/stdout again, which a socket
//! refuses), a vsock connection each on the host's, and PID 1 between them. Bytes move by splice(2), pipe pages
//! to socket and back, without a copy here. Each stream waits for its own ends only.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crx_proto::{STDERR_PORT, STDIN_PORT, STDOUT_PORT, StartError};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

use crate::container::Streams;
use crate::failure::failed;
use crate::sys;

/// Most bytes moved by one splice.
const SPLICE_BYTES: usize = 64 << 10;
/// Most splices of one stream before the others have their turn.
const MAX_SPLICES: usize = 16;

/// Connections of the streams, opened but perhaps not there yet.
pub(crate) struct Connections {
    sockets: Vec<OwnedFd>,
}

impl Connections {
    /// Begins to connect the three streams, or the one of a terminal.
    pub(crate) fn begin(terminal: bool) -> Result<Self, StartError> {
        let ports: &[u32] = if terminal { &[STDOUT_PORT] } else { &[STDIN_PORT, STDOUT_PORT, STDERR_PORT] };
        let sockets =
            ports.iter().map(|port| sys::vsock_connect(*port, false)).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            sockets: sockets.map_err(|error| failed("process", "connect the standard streams", error))?,
        })
    }

    /// Waits until every connection is there.
    pub(crate) fn finish(self) -> Result<Vec<OwnedFd>, StartError> {
        for socket in &self.sockets {
            wait_connected(socket)
                .map_err(|error| failed("process", "connect the standard streams", error))?;
        }
        Ok(self.sockets)
    }
}

fn wait_connected(socket: &OwnedFd) -> rustix::io::Result<()> {
    loop {
        let mut fds = [PollFd::new(socket, PollFlags::OUT)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
            Ok(_) if fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => {
                return rustix::net::sockopt::socket_error(socket)?.and(Err(Errno::CONNRESET));
            }
            Ok(_) => return Ok(()),
        }
    }
}

/// What a relay waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// Bytes to move.
    Source,
    /// Room for them.
    Sink,
}

/// Which end is the host's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    FromHost,
    ToHost,
}

/// One stream.
pub(crate) struct Relay {
    /// Where bytes come from and where they go; none once the stream has ended.
    ends: Option<(OwnedFd, OwnedFd)>,
    waiting: Waiting,
    direction: Direction,
}

impl Relay {
    fn new(source: OwnedFd, sink: OwnedFd, direction: Direction) -> Self {
        Self { ends: Some((source, sink)), waiting: Waiting::Source, direction }
    }

    /// What to poll, if the stream is still open.
    pub(crate) fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let (source, sink) = self.ends.as_ref()?;
        Some(match self.waiting {
            Waiting::Source => (source.as_fd(), PollFlags::IN),
            Waiting::Sink => (sink.as_fd(), PollFlags::OUT),
        })
    }

    /// The stream has ended and its end was passed on.
    pub(crate) fn is_finished(&self) -> bool {
        self.ends.is_none()
    }

    /// Ends the stream, if it is one from the host: there is no reader any more.
    pub(crate) fn stop_reading(&mut self) {
        if self.direction == Direction::FromHost {
            self.ends = None;
        }
    }

    /// Moves what there is to move. Called when the poll said so.
    pub(crate) fn pump(&mut self) {
        let Some((source, sink)) = &self.ends else { return };
        // There is something to move (the poll said so, or it was there when the sink was full), so a first "would
        // block" is about the sink. A later one may be about either: polling the source then tells.
        let mut blamed = Waiting::Sink;
        for _ in 0..MAX_SPLICES {
            let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
            match splice(source, None, sink, None, SPLICE_BYTES, flags) {
                Ok(0) => return self.end(),
                // Fewer than asked for: most likely there is no more, and asking for it would have the kernel
                // allocate pages for nothing.
                Ok(moved) if moved < SPLICE_BYTES => break,
                Ok(_) => blamed = Waiting::Source,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.waiting = blamed;
                    return;
                }
                // The reader is gone: as with a pipe between two processes, the writer notices at its next write.
                Err(_) => {
                    self.ends = None;
                    return;
                }
            }
        }
        self.waiting = Waiting::Source;
    }

    /// The source has ended: passes that on.
    fn end(&mut self) {
        if let Some((_, sink)) = self.ends.take() {
            // A pipe ends when it is closed; a socket is told.
            let _ =
                if self.direction == Direction::ToHost { shutdown(&sink, Shutdown::Write) } else { Ok(()) };
        }
    }
}

/// Makes the pipes of a container without a terminal, and the relays between them and `sockets`: stdin, stdout,
/// stderr.
pub(crate) fn pipes(sockets: Vec<OwnedFd>) -> Result<(Streams, Vec<Relay>), StartError> {
    let fail = |error| failed("process", "make the pipes of the standard streams", error);
    let Ok([stdin_socket, stdout_socket, stderr_socket]) = <[OwnedFd; 3]>::try_from(sockets) else {
        return Err(fail(Errno::BADF));
    };
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(fail);
    let ((stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr)) = (pipe()?, pipe()?, pipe()?);
    let relays = vec![
        Relay::new(stdin_socket, to_stdin, Direction::FromHost),
        Relay::new(from_stdout, stdout_socket, Direction::ToHost),
        Relay::new(from_stderr, stderr_socket, Direction::ToHost),
    ];
    Ok((Streams::Pipes { stdin, stdout, stderr }, relays))
}

/// Makes a descriptor non-blocking.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    fcntl_setfl(fd, OFlags::RDWR | OFlags::NONBLOCK)
}

#[cfg(test)]
mod tests;
