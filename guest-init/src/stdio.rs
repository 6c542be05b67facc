//! The standard streams of a process: pipes on the container's side (a program may open /dev/stdout again, which a socket
//! refuses), a vsock connection each on the host's, and PID 1 between them. Bytes move by splice(2), pipe pages
//! to socket and back, without a copy here. Each stream waits for its own ends only.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crx_proto::{StartError, StreamPorts};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

use crate::container::Streams;
use crate::failure::failed;
use crate::terminal::TerminalRelay;

/// Most bytes moved by one splice.
const SPLICE_BYTES: usize = 64 << 10;
/// Most splices of one stream before the others have their turn.
const MAX_SPLICES: usize = 16;

/// Begins a connection to a port of the host; it is there when the socket, which does not block, polls writable.
pub(crate) type Connect<'a> = &'a dyn Fn(u32) -> std::io::Result<OwnedFd>;

/// Connections of the streams, opened but perhaps not there yet.
pub(crate) struct Connections {
    sockets: Vec<OwnedFd>,
}

impl Connections {
    /// Begins to connect the three streams, or the one of a terminal. `connect` begins one connection.
    pub(crate) fn begin(ports: &StreamPorts, connect: Connect<'_>) -> Result<Self, StartError> {
        let ports = match *ports {
            StreamPorts::Pipes { stdin, stdout, stderr } => vec![stdin, stdout, stderr],
            StreamPorts::Terminal(port) => vec![port],
        };
        let sockets = ports.into_iter().map(connect).collect::<Result<Vec<_>, _>>();
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
    fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let (source, sink) = self.ends.as_ref()?;
        Some(match self.waiting {
            Waiting::Source => (source.as_fd(), PollFlags::IN),
            Waiting::Sink => (sink.as_fd(), PollFlags::OUT),
        })
    }

    /// The stream has ended, or there is nothing in it.
    fn is_drained(&self) -> bool {
        let Some((source, _)) = &self.ends else { return true };
        self.waiting == Waiting::Source && !is_readable(source)
    }

    /// Output waits for the host to read.
    fn is_stuck(&self) -> bool {
        self.direction == Direction::ToHost && self.ends.is_some() && self.waiting == Waiting::Sink
    }

    /// Ends the stream, if it is one from the host: there is no reader any more.
    fn stop_reading(&mut self) {
        if self.direction == Direction::FromHost {
            self.ends = None;
        }
    }

    /// Moves what there is to move. Called when the poll said so.
    fn pump(&mut self) {
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

/// The host's side of the standard streams of a process.
pub(crate) enum Relays {
    /// One for each stream.
    Pipes(Vec<Relay>),
    /// This connection waits for the process to send its terminal.
    Awaited(OwnedFd),
    /// The terminal.
    Terminal(Box<TerminalRelay>),
    /// There is none any more.
    Closed,
}

impl Relays {
    /// What to poll: each stream by a number of its own.
    pub(crate) fn interests<'a>(&'a self, mut add: impl FnMut(usize, PollFd<'a>)) {
        match self {
            Self::Pipes(relays) => {
                for (number, relay) in relays.iter().enumerate() {
                    if let Some((fd, flags)) = relay.interest() {
                        add(number, PollFd::from_borrowed_fd(fd, flags));
                    }
                }
            }
            Self::Terminal(relay) => {
                let mut fds = Vec::with_capacity(2);
                relay.interests(&mut fds);
                fds.into_iter().for_each(|fd| add(0, fd));
            }
            Self::Awaited(_) | Self::Closed => {}
        }
    }

    /// Moves what there is to move of one stream. Called when the poll said so.
    pub(crate) fn pump(&mut self, number: usize) {
        match self {
            Self::Pipes(relays) => relays.get_mut(number).map_or((), Relay::pump),
            Self::Terminal(relay) => relay.pump(),
            Self::Awaited(_) | Self::Closed => {}
        }
    }

    /// The process has opened its terminal.
    pub(crate) fn connect_terminal(&mut self, master: OwnedFd) -> rustix::io::Result<()> {
        if let Self::Awaited(_) = self {
            set_nonblocking(master.as_fd())?;
            if let Self::Awaited(socket) = std::mem::replace(self, Self::Closed) {
                *self = Self::Terminal(Box::new(TerminalRelay::new(master, socket)));
            }
        }
        Ok(())
    }

    /// Changes the size of the terminal, if there is one.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        if let Self::Terminal(relay) = self {
            relay.resize(rows, columns);
        }
    }

    /// The process has ended: nothing is read any more.
    pub(crate) fn stop_reading(&mut self) {
        if let Self::Pipes(relays) = self {
            relays.iter_mut().for_each(Relay::stop_reading);
        }
    }

    /// Everything that a process which has ended wrote is with the host. What others, which hold the same pipe or
    /// terminal, may still write has no part in that.
    pub(crate) fn is_drained(&self) -> bool {
        match self {
            Self::Pipes(relays) => relays.iter().all(Relay::is_drained),
            Self::Terminal(relay) => relay.is_drained(),
            Self::Awaited(_) | Self::Closed => true,
        }
    }

    /// Output waits for the host to read, which it may never do.
    pub(crate) fn is_stuck(&self) -> bool {
        match self {
            Self::Pipes(relays) => relays.iter().any(Relay::is_stuck),
            Self::Terminal(relay) => relay.is_stuck(),
            Self::Awaited(_) | Self::Closed => false,
        }
    }
}

/// Something can be read from it now, or its end.
pub(crate) fn is_readable(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Makes the streams of a process, and the relays between them and the connections to the host.
pub(crate) fn streams(terminal: bool, sockets: Vec<OwnedFd>) -> Result<(Streams, Relays), StartError> {
    let fail = |error| failed("process", "make the pipes of the standard streams", error);
    if terminal {
        let [socket] = <[OwnedFd; 1]>::try_from(sockets).map_err(|_| fail(Errno::BADF))?;
        return Ok((Streams::Terminal, Relays::Awaited(socket)));
    }
    let [stdin_socket, stdout_socket, stderr_socket] =
        <[OwnedFd; 3]>::try_from(sockets).map_err(|_| fail(Errno::BADF))?;
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(fail);
    let ((stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr)) = (pipe()?, pipe()?, pipe()?);
    let relays = vec![
        Relay::new(stdin_socket, to_stdin, Direction::FromHost),
        Relay::new(from_stdout, stdout_socket, Direction::ToHost),
        Relay::new(from_stderr, stderr_socket, Direction::ToHost),
    ];
    Ok((Streams::Pipes { stdin, stdout, stderr }, Relays::Pipes(relays)))
}

/// Makes a descriptor non-blocking.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    fcntl_setfl(fd, OFlags::RDWR | OFlags::NONBLOCK)
}

#[cfg(test)]
mod tests;
